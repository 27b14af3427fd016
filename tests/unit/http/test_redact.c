/* SPDX-License-Identifier: Apache-2.0
 *
 * Redaction through the API: what the engine gets has placeholders where it leaves the device, and
 * what the client gets has the words again, whole, streamed and replayed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "edge/http/api_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define SECRET "ann@b.co"
#define TEXT   "I am " SECRET ", really " SECRET
#define ASK    "\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]"

static shoal_redact_rules *rules;

static int setup(void **state)
{
    const shoal_redact_settings settings = {.kinds = {[SHOAL_REDACT_EMAIL] = true}};
    return shoal_redact_rules_new(&settings, &rules, NULL) == SHOAL_OK ? api_make_model(state) : -1;
}

static int teardown(void **state)
{
    shoal_redact_rules_free(rules);
    return api_free_model(state);
}

static shoal_api_request *parse(shoal_api_kind kind, const char *body, shoal_http_error *error)
{
    const shoal_api_context context = {.model = api_model,
                                       .model_id = MODEL,
                                       .mode_default = SHOAL_MODE_LOCAL,
                                       .redact = rules,
                                       .n_tokens_default = 16,
                                       .n_room = 900};
    shoal_api_request *q = NULL;
    *error = (shoal_http_error){0};
    return shoal_api_parse(&context, kind, body, strlen(body), &q, error) == SHOAL_OK ? q : NULL;
}

static void decode(const shoal_api_request *q, shoal_buf *text)
{
    shoal_detok detok = {0};
    shoal_buf_reset(text);
    for (size_t i = 0; i < q->n_ids; i++) {
        assert_int_equal(shoal_detok_push(api_model->tokenizer, &detok, q->ids[i], text), SHOAL_OK);
    }
}

static void test_private_words_leave_in_no_mode_but_local(void **state)
{
    (void)state;
    static const struct {
        const char *mode;
        bool leaves;
    } rows[] = {{"local", false}, {"assist", true}, {"exact", true}, {"cloud", true}};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_http_error error;
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        for (int kind = SHOAL_API_COMPLETION; kind <= SHOAL_API_CHAT; kind++) {
            char body[400];
            (void)snprintf(body, sizeof body, "{%s,\"shoal\":{\"mode\":\"%s\"}}",
                           kind == SHOAL_API_CHAT ? ASK : "\"prompt\":[\"I am " SECRET "\"]",
                           rows[i].mode);
            shoal_api_request *q = parse((shoal_api_kind)kind, body, &error);
            assert_non_null(q);
            decode(q, &text);
            assert_int_equal(strstr(text.data, SECRET) == NULL, rows[i].leaves);
            assert_int_equal(strstr(text.data, "I am [EMAIL_1]") != NULL, rows[i].leaves);
            assert_int_equal(q->redacted != NULL, rows[i].leaves);
            shoal_api_request_free(q);
        }
    }
    /* Nothing private: nothing to put back. Ids cannot be searched. */
    shoal_api_request *q =
        parse(SHOAL_API_COMPLETION, "{\"prompt\":\"hi\",\"shoal\":{\"mode\":\"exact\"}}", &error);
    assert_true(q && !q->redacted);
    shoal_api_request_free(q);
    assert_null(
        parse(SHOAL_API_COMPLETION, "{\"prompt\":[5],\"shoal\":{\"mode\":\"exact\"}}", &error));
    assert_int_equal(error.status, 400);
    assert_non_null(strstr(error.text, "redact."));
    q = parse(SHOAL_API_COMPLETION, "{\"prompt\":[5]}", &error);
    assert_non_null(q);
    shoal_api_request_free(q);
    /* More than can be held back is refused, not let through. */
    shoal_buf_reset(&text);
    assert_int_equal(shoal_buf_appendf(&text, "{\"shoal\":{\"mode\":\"exact\"},\"prompt\":\""),
                     SHOAL_OK);
    for (size_t i = 0; i <= SHOAL_REDACT_WORDS_MAX; i++) {
        assert_int_equal(shoal_buf_appendf(&text, "u%zu@b.co ", i), SHOAL_OK);
    }
    assert_int_equal(shoal_buf_append(&text, "\"}", 2), SHOAL_OK);
    assert_null(parse(SHOAL_API_COMPLETION, text.data, &error));
    assert_int_equal(error.status, 400);
    assert_string_equal(error.param, "prompt");
    assert_non_null(strstr(error.text, "redact."));
}

/* The text of a stream's chunks, and of the tokens they tell. */
static void gather(const char *answer, shoal_buf *text, shoal_buf *tokens)
{
    shoal_buf_reset(text);
    shoal_buf_reset(tokens);
    while ((answer = strstr(answer, "data: {"))) {
        size_t n = strcspn(answer, "\n");
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf line = {0};
        assert_int_equal(shoal_buf_append(&line, answer + 6, n - 6), SHOAL_OK);
        json_t *j = api_load(line.data);
        assert_int_equal(shoal_buf_appendf(text, "%s", api_text_at(j, "choices.0.delta.content")),
                         SHOAL_OK);
        assert_int_equal(shoal_buf_appendf(tokens, "%s", api_text_at(j, "shoal.tokens.0.text")),
                         SHOAL_OK);
        json_decref(j);
        answer += n;
    }
}

static void test_words_come_back_over_tokens_and_events(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.redact = rules;
    s.replay_ms = 600000;
    api_start_with(&a, &s, &h);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf tokens = {0};
    fake_next.text = "IL_1][EMA"; /* each placeholder lies over two tokens */
    fake_next.n_tokens = 3;
    static const char want[] = "IL_1]" SECRET SECRET "[EMA";
    assert_int_equal(api_post(&a, "/v1/chat/completions",
                              "{" ASK ",\"stream\":true,\"shoal\":{\"mode\":\"exact\"}}", &r),
                     200);
    gather(r.data, &text, &tokens);
    assert_string_equal(text.data, want);
    assert_string_equal(tokens.data, "IL_1]" SECRET SECRET); /* what was held is no token's */
    /* Once more from the first event on: the same. */
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    const char *id = strstr(r.data, "id: ") + 4;
    assert_int_equal(shoal_buf_appendf(&q,
                                       "GET /v1/shoal/streams/x HTTP/1.1\r\nHost: localhost\r\n"
                                       "Last-Event-ID: %.*s\r\nConnection: close\r\n\r\n",
                                       (int)strcspn(id, "\n"), id),
                     SHOAL_OK);
    assert_int_equal(http_ask(&a.f, q.data, &r), 200);
    gather(r.data, &text, &tokens);
    assert_string_equal(text.data, want);
    assert_int_equal(api_post(&a, "/v1/chat/completions",
                              "{" ASK ",\"shoal\":{\"mode\":\"exact\",\"tokens\":true}}", &r),
                     200);
    json_t *j = api_body(&r);
    assert_string_equal(api_text_at(j, "choices.0.message.content"), want);
    assert_string_equal(api_text_at(j, "shoal.tokens.1.text"), SECRET);
    json_decref(j);
    /* In mode local there are no placeholders, so none is replaced. */
    assert_int_equal(api_post(&a, "/v1/chat/completions", "{" ASK "}", &r), 200);
    j = api_body(&r);
    assert_string_equal(api_text_at(j, "choices.0.message.content"), "IL_1][EMAIL_1][EMAIL_1][EMA");
    json_decref(j);
    /* The prompt told again has its own words. */
    assert_int_equal(api_post(&a, "/v1/completions",
                              "{\"prompt\":\"I am " SECRET "\",\"echo\":true,\"max_tokens\":1,"
                              "\"shoal\":{\"mode\":\"exact\"}}",
                              &r),
                     200);
    j = api_body(&r);
    assert_non_null(strstr(api_text_at(j, "choices.0.text"), "I am " SECRET "IL_1]"));
    json_decref(j);
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_private_words_leave_in_no_mode_but_local),
        cmocka_unit_test(test_words_come_back_over_tokens_and_events),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
