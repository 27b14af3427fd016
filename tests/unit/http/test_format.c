/* SPDX-License-Identifier: Apache-2.0
 *
 * response_format: which schemas become a grammar, what that grammar takes, and which keyword of
 * the others is to blame.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "edge/http/api_internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* NULL: refused, and *error says why. */
static shoal_api_request *parse(const char *format, shoal_http_error *error)
{
    shoal_api_context context = {
        .model = api_model, .model_id = MODEL, .n_tokens_default = 16, .n_room = 500};
    char body[4096];
    shoal_api_request *q = NULL;
    context.mode_default = SHOAL_MODE_LOCAL;
    *error = (shoal_http_error){0};
    int n = snprintf(body, sizeof body, "{\"prompt\":\"a\",\"response_format\":%s}", format);
    assert_true(n > 0 && (size_t)n < sizeof body);
    return shoal_api_parse(&context, SHOAL_API_COMPLETION, body, (size_t)n, &q, error) == SHOAL_OK
               ? q
               : NULL;
}

static bool takes(const char *schema, const char *text)
{
    char format[3000];
    shoal_http_error error;
    (void)snprintf(format, sizeof format,
                   "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":%s}}",
                   schema);
    shoal_api_request *q = parse(format, &error);
    if (!q) {
        fail_msg("%s: %s", schema, error.text);
    }
    shoal_grammar_state state;
    shoal_grammar_start(q->grammar, &state);
    bool ok = shoal_grammar_push(q->grammar, &state, text, strlen(text)) &&
              shoal_grammar_may_end(q->grammar, &state);
    shoal_api_request_free(q);
    return ok;
}

static void test_schemas_take_what_they_describe(void **state)
{
    (void)state;
    static const char fault[] =
        "{\"$schema\":\"x\",\"type\":\"object\",\"additionalProperties\":false,"
        "\"properties\":{\"code\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":3},"
        "\"level\":{\"enum\":[\"low\",\"high\",1,null]},\"parts\":{\"type\":\"array\",\"items\":"
        "{\"$ref\":\"#/$defs/part\"},\"maxItems\":2},\"ok\":{\"type\":[\"boolean\",\"null\"]}},"
        "\"required\":[\"code\",\"ok\"],"
        "\"$defs\":{\"part\":{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\","
        "\"minimum\":-9007199254740991,\"maximum\":9007199254740991}},\"required\":[\"n\"]}}}";
    static const struct {
        const char *schema;
        const char *text;
        bool taken;
    } rows[] = {
        {fault, "{\"code\":\"E47\",\"ok\":true}", true},
        {fault, "{\"code\": \"E47\", \"level\": 1, \"parts\": [{\"n\": 3}], \"ok\": null}", true},
        {fault, "{\"code\":\"E471\",\"ok\":true}", false},
        {fault, "{\"code\":\"E47\"}", false},
        {fault, "{\"code\":\"E47\",\"level\":\"mid\",\"ok\":true}", false},
        {fault, "{\"code\":\"E47\",\"parts\":[{}],\"ok\":true}", false},
        {fault, "{\"code\":\"E47\",\"parts\":[{\"n\":1},{\"n\":2},{\"n\":3}],\"ok\":true}", false},
        {fault, "{\"code\":\"E47\",\"ok\":true,\"more\":1}", false},
        {"{\"const\":\"a\\\"b\"}", "\"a\\\"b\"", true},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}}", "{\"x\":1.5}",
         true},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}}", "{\"x\":\"1\"}",
         false},
        {"{\"type\":\"object\",\"additionalProperties\":false}", "{}", true},
        {"{\"type\":\"object\",\"additionalProperties\":false}", "{\"a\":1}", false},
        {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\"}]}", "[1,{\"a\":[]}]", true},
        {"{\"properties\":{\"a\":true}}", "{\"a\":[{}]}", true},
        {"{}", "17", true},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (takes(rows[i].schema, rows[i].text) != rows[i].taken) {
            fail_msg("%s: %s", rows[i].text, rows[i].taken ? "refused" : "taken");
        }
    }
}

#define SCHEMA(text) "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":" text "}}"

static void test_what_is_not_supported_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        const char *says;
    } rows[] = {
        {"{}", "json_object"},
        {"7", "json_object"},
        {"{\"type\":\"xml\"}", "json_object"},
        {"{\"type\":\"json_schema\"}", "schema is missing"},
        {"{\"type\":\"json_schema\",\"json_schema\":{}}", "schema is missing"},
        {SCHEMA("7"), "must be an object"},
        {SCHEMA("{\"type\":\"text\"}"), "type must be"},
        {SCHEMA("{\"type\":\"string\",\"pattern\":\"a*\"}"), "\"pattern\""},
        {SCHEMA("{\"type\":\"string\",\"format\":\"date\"}"), "\"format\""},
        {SCHEMA("{\"type\":\"integer\",\"minimum\":0}"), "\"minimum\""},
        {SCHEMA("{\"oneOf\":[{\"type\":\"string\"}]}"), "\"oneOf\""},
        {SCHEMA("{\"type\":\"string\",\"maxLength\":-1}"), "whole number"},
        {SCHEMA("{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}"), "contradicts"},
        {SCHEMA("{\"enum\":[]}"), "1 to 64"},
        {SCHEMA("{\"enum\":[{}]}"), "strings, numbers"},
        {SCHEMA("{\"anyOf\":[{\"type\":\"number\"},{\"type\":\"integer\"}]}"), "begin differently"},
        {SCHEMA("{\"anyOf\":[{\"$ref\":\"#/$defs/none\"}]}"), "$defs"},
        {SCHEMA("{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}"), "24"},
        {SCHEMA("{\"type\":\"object\",\"required\":[\"a\"]}"), "required"},
        {SCHEMA("{\"type\":\"object\",\"properties\":[]}"), "properties"},
        {SCHEMA("{\"title\":\"nothing\"}"), "must have a type"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_http_error error;
        assert_null(parse(rows[i].format, &error));
        assert_int_equal(error.status, 400);
        assert_string_equal(error.param, "response_format");
        if (!strstr(error.text, rows[i].says)) {
            fail_msg("%s: %s", rows[i].format, error.text);
        }
    }
}

static void test_format_reaches_the_engine_in_every_mode(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    static const char text[] = "{\"prompt\":\"a\",\"response_format\":{\"type\":\"text\"}}";
    static const char json[] = "{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}";
    assert_int_equal(api_post(&a, "/v1/completions", text, &r), 200);
    assert_int_equal(atomic_load(&fake_n_grammars), 0);
    assert_int_equal(api_post(&a, "/v1/completions", json, &r), 200);
    assert_int_equal(atomic_load(&fake_n_grammars), 1);
    fake_next.submit_code = SHOAL_BUSY; /* not taken: the request keeps and frees it */
    assert_int_equal(api_post(&a, "/v1/completions", json, &r), 429);
    api_stop(&a);
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.mode_default = SHOAL_MODE_EXACT;
    api_start_with(&a, &s, &h);
    assert_int_equal(api_post(&a, "/v1/completions", json, &r), 200);
    assert_int_equal(atomic_load(&fake_n_grammars), 1);
    assert_int_equal(api_get(&a, "/v1/embeddings", &r), 404);
    assert_non_null(strstr(r.data, "embeddings"));
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemas_take_what_they_describe),
        cmocka_unit_test(test_what_is_not_supported_is_named),
        cmocka_unit_test(test_format_reaches_the_engine_in_every_mode),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
