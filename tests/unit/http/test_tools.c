/* SPDX-License-Identifier: Apache-2.0
 *
 * Tools: what of a request becomes a grammar, which requests are refused and why, and how a text
 * becomes content or a call, in pieces of any size.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "common/base/mem.h"
#include "edge/http/api_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define ASK "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define WEATHER                                                                                    \
    "{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"description\":\"Of a place.\","   \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"place\":{\"type\":\"string\"},"         \
    "\"days\":{\"type\":\"integer\",\"minimum\":1}},\"required\":[\"place\"]}}}"
#define NOW "{\"type\":\"function\",\"function\":{\"name\":\"now\"}}"

static shoal_api_request *parse_in(shoal_mode mode, const char *fields, shoal_http_error *error)
{
    const shoal_api_context context = {.model = api_model,
                                       .model_id = MODEL,
                                       .mode_default = mode,
                                       .n_tokens_default = 16,
                                       .n_room = 4000};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    shoal_api_request *q = NULL;
    *error = (shoal_http_error){0};
    assert_int_equal(shoal_buf_appendf(&body, "{%s}", fields), SHOAL_OK);
    shoal_status status =
        shoal_api_parse(&context, SHOAL_API_CHAT, body.data, body.length, &q, error);
    return status == SHOAL_OK ? q : NULL;
}

static shoal_api_request *parse(const char *fields)
{
    shoal_http_error error;
    shoal_api_request *q = parse_in(SHOAL_MODE_LOCAL, fields, &error);
    if (!q) {
        fail_msg("%s: %s", fields, error.text);
    }
    return q;
}

static bool takes(const shoal_api_request *q, const char *text)
{
    shoal_grammar_state state;
    shoal_grammar_start(q->grammar, &state);
    return shoal_grammar_push(q->grammar, &state, text, strlen(text)) &&
           shoal_grammar_may_end(q->grammar, &state);
}

static void test_tools_become_a_grammar_of_calls(void **state)
{
    (void)state;
    shoal_api_request *q =
        parse(ASK ",\"tools\":[" WEATHER "," NOW "],\"tool_choice\":\"required\"");
    assert_true(q->must_call && q->n_tools == 2);
    assert_true(
        takes(q, "{\"name\": \"weather\", \"arguments\": {\"place\":\"Rome\",\"days\":2}}"));
    assert_true(takes(q, "{\"name\": \"now\", \"arguments\": {}}"));
    assert_false(takes(q, "{\"name\": \"weather\", \"arguments\": {}}"));
    assert_false(takes(q, "{\"name\": \"now\", \"arguments\": {\"place\":\"Rome\"}}"));
    assert_false(takes(q, "{\"name\": \"other\", \"arguments\": {}}"));
    shoal_api_request_free(q);
    q = parse(ASK ",\"tools\":[" WEATHER "," NOW "],\"tool_choice\":{\"type\":\"function\","
                  "\"function\":{\"name\":\"now\"}}");
    assert_true(q->must_call);
    assert_true(takes(q, "{\"name\": \"now\", \"arguments\": {}}"));
    assert_false(takes(q, "{\"name\": \"weather\", \"arguments\": {\"place\":\"Rome\"}}"));
    shoal_api_request_free(q);
    /* A model that may but need not call has free text but behind the opening. */
    q = parse(ASK ",\"tools\":[" NOW "]");
    assert_true(!q->must_call && q->n_tools == 1 && q->grammar);
    size_t n_told = q->n_ids;
    shoal_api_request_free(q);
    /* Who may not call is not told of tools. */
    q = parse(ASK ",\"tools\":[" NOW "],\"tool_choice\":\"none\"");
    assert_true(q->n_tools == 0 && !q->grammar && q->n_ids < n_told);
    shoal_api_request_free(q);
    /* What no grammar holds is left to the model, unless strictness was promised. */
    q = parse(ASK ",\"tool_choice\":\"required\",\"tools\":[{\"type\":\"function\",\"function\":{"
                  "\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{"
                  "\"oneOf\":[]},\"b\":{\"type\":\"string\",\"pattern\":\"x\"}}}}}]");
    assert_true(takes(q, "{\"name\": \"f\", \"arguments\": {\"a\":[1],\"b\":\"y\"}}"));
    assert_false(takes(q, "{\"name\": \"f\", \"arguments\": {\"a\":[1],\"b\":2}}"));
    shoal_api_request_free(q);
}

static void test_tools_that_cannot_be_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        const char *param;
    } rows[] = {
        {"\"tools\":{}", "tools"},
        {"\"tools\":[7]", "tools[0].type"},
        {"\"tools\":[{\"type\":\"custom\"}]", "tools[0].type"},
        {"\"tools\":[{\"type\":\"function\"}]", "tools[0].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]",
         "tools[0].function.name"},
        {"\"tools\":[" NOW "," NOW "]", "tools[1].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
         "\"string\"}}}]",
         "tools[0].function.parameters"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,"
         "\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"oneOf\":[]}}}}}]",
         "tools[0].function.parameters"},
        {"\"tool_choice\":\"required\"", "tool_choice"},
        {"\"tools\":[" NOW "],\"tool_choice\":\"always\"", "tool_choice"},
        {"\"tools\":[" NOW
         "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"x\"}}",
         "tool_choice"},
        {"\"tools\":[" NOW "],\"response_format\":{\"type\":\"json_object\"}", "response_format"},
        {"\"functions\":[" NOW "]", "functions"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf fields = {0};
        shoal_http_error error;
        assert_int_equal(shoal_buf_appendf(&fields, ASK ",%s", rows[i].fields), SHOAL_OK);
        assert_null(parse_in(SHOAL_MODE_LOCAL, fields.data, &error));
        assert_int_equal(error.status, 400);
        if (strcmp(error.param, rows[i].param) != 0) {
            fail_msg("%s: %s: %s", rows[i].fields, error.param, error.text);
        }
    }
    shoal_http_error error;
    shoal_api_request *q = parse_in(SHOAL_MODE_EXACT, ASK ",\"tools\":[" NOW "]", &error);
    assert_non_null(q);
    assert_non_null(q->grammar);
    shoal_api_request_free(q);
    q = parse_in(SHOAL_MODE_EXACT, ASK ",\"tools\":[]", &error);
    assert_non_null(q);
    assert_null(q->grammar);
    shoal_api_request_free(q);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf many = {0};
    assert_int_equal(shoal_buf_appendf(&many, ASK ",\"tools\":["), SHOAL_OK);
    for (size_t i = 0; i <= SHOAL_API_TOOLS_MAX; i++) {
        assert_int_equal(shoal_buf_appendf(&many,
                                           "%s{\"type\":\"function\",\"function\":{\"name\":"
                                           "\"f%zu\"}}",
                                           i > 0 ? "," : "", i),
                         SHOAL_OK);
    }
    assert_int_equal(shoal_buf_append(&many, "]", 1), SHOAL_OK);
    assert_null(parse_in(SHOAL_MODE_LOCAL, many.data, &error));
    assert_string_equal(error.param, "tools");
}

static void test_calls_of_before_are_part_of_the_prompt(void **state)
{
    (void)state;
    static const char with[] =
        "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
        "\"content\":null,"
        "\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"now\","
        "\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"noon\"}]";
    static const char as_text[] =
        "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":"
        "\"<tool_call>\\n{\\\"name\\\": \\\"now\\\", \\\"arguments\\\": {}}\\n</tool_call>\"},"
        "{\"role\":\"user\",\"content\":\"<tool_response>\\nnoon\\n</tool_response>\"}]";
    shoal_api_request *a = parse(with);
    shoal_api_request *b = parse(as_text);
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, a->n_ids * sizeof *a->ids);
    shoal_api_request_free(a);
    shoal_api_request_free(b);
    shoal_http_error error;
    assert_null(parse_in(SHOAL_MODE_LOCAL,
                         "\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]", &error));
    assert_int_equal(error.status, 400);
    assert_null(parse_in(SHOAL_MODE_LOCAL,
                         "\"messages\":[{\"role\":\"assistant\",\"tool_calls\":7}]", &error));
    assert_int_equal(error.status, 400);
}

/* content|name|arguments of a text that comes in pieces of n bytes. */
static void read_text(const shoal_api_request *q, const char *text, size_t n, shoal_buf *told)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf content = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf arguments = {0};
    shoal_api_tool_reader t = {0};
    size_t n_began = 0;
    shoal_api_tools_start(&t, q);
    for (size_t at = 0, length = strlen(text); at <= length; at += n) {
        bool last = at + n > length;
        assert_int_equal(shoal_api_tools_push(&t, q, text + at, last ? length - at : n), SHOAL_OK);
        for (int end = 0; end <= last; end++) {
            if (end) {
                assert_int_equal(shoal_api_tools_end(&t, q), SHOAL_OK);
            }
            n_began += t.began;
            assert_int_equal(
                shoal_buf_appendf(&content, "%s", t.content.length ? t.content.data : ""),
                SHOAL_OK);
            assert_int_equal(
                shoal_buf_appendf(&arguments, "%s", t.arguments.length ? t.arguments.data : ""),
                SHOAL_OK);
        }
        if (last) {
            break;
        }
    }
    shoal_buf_reset(told);
    assert_int_equal(shoal_buf_appendf(told, "%s|%s|%s%s", content.data,
                                       n_began ? q->tools[t.tool_i].name : "", arguments.data,
                                       t.phase == SHOAL_API_CALLED ? "|" : ""),
                     SHOAL_OK);
    assert_true(n_began <= 1);
    shoal_api_tools_fini(&t);
}

static void test_texts_are_content_or_a_call(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *told;
    } rows[] = {
        {"", "||"},
        {"plain text", "plain text||"},
        {"<tool", "<tool||"},
        {"<tools>", "<tools>||"},
        {"<tool_call>", "<tool_call>||"},
        {"<tool_call>\n{\"name\": \"now\", \"argu", "<tool_call>\n{\"name\": \"now\", \"argu||"},
        {"<tool_call>\n{\"name\": \"not\"}", "<tool_call>\n{\"name\": \"not\"}||"},
        {"<tool_call>{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "|now|{}|"},
        {"<tool_call>\n{\"name\": \"weather\", \"arguments\":  {\"place\": "
         "\"}\\\"]\", \"x\": [{}]}}",
         "|weather|{\"place\": \"}\\\"]\", \"x\": [{}]}|"},
        {"<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a", "|now|{\"a"},
        {"a <tool_call>{\"name\": \"now\", \"arguments\": {}}",
         "a <tool_call>{\"name\": \"now\", \"arguments\": {}}||"},
    };
    shoal_api_request *q = parse(ASK ",\"tools\":[" WEATHER "," NOW "]");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf told = {0};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        for (size_t n = 1; n < 40; n++) {
            read_text(q, rows[i].text, n, &told);
            if (strcmp(told.data, rows[i].told) != 0) {
                fail_msg("%s in pieces of %zu: %s, not %s", rows[i].text, n, told.data,
                         rows[i].told);
            }
        }
    }
    shoal_api_request_free(q);
}

static void test_calls_answer_in_openai_form(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    fake_next.text = "{\"name\": \"now\", \"arguments\": {\"a\": 1}}";
    fake_next.n_tokens = 1;
    static const char must[] = "{" ASK ",\"tools\":[" NOW "],\"tool_choice\":\"required\"}";
    assert_int_equal(api_post(&a, "/v1/chat/completions", must, &r), 200);
    assert_null(fake_last.grammar_opening);
    json_t *j = api_body(&r);
    assert_true(json_is_null(api_at(j, "choices.0.message.content")));
    assert_string_equal(api_text_at(j, "choices.0.finish_reason"), "tool_calls");
    assert_string_equal(api_text_at(j, "choices.0.message.tool_calls.0.type"), "function");
    assert_true(strncmp(api_text_at(j, "choices.0.message.tool_calls.0.id"), "call_", 5) == 0);
    assert_string_equal(api_text_at(j, "choices.0.message.tool_calls.0.function.name"), "now");
    assert_string_equal(api_text_at(j, "choices.0.message.tool_calls.0.function.arguments"),
                        "{\"a\": 1}");
    json_decref(j);
    /* A model that only answers. */
    fake_next.text = "noon";
    assert_int_equal(api_post(&a, "/v1/chat/completions", "{" ASK ",\"tools\":[" NOW "]}", &r),
                     200);
    assert_string_equal(fake_last.grammar_opening, SHOAL_API_CALL);
    j = api_body(&r);
    assert_string_equal(api_text_at(j, "choices.0.message.content"), "noon");
    assert_null(api_at(j, "choices.0.message.tool_calls"));
    assert_string_equal(api_text_at(j, "choices.0.finish_reason"), "length");
    json_decref(j);
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tools_become_a_grammar_of_calls),
        cmocka_unit_test(test_tools_that_cannot_be_are_named),
        cmocka_unit_test(test_calls_of_before_are_part_of_the_prompt),
        cmocka_unit_test(test_texts_are_content_or_a_call),
        cmocka_unit_test(test_calls_answer_in_openai_form),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
