/* SPDX-License-Identifier: Apache-2.0
 *
 * The API over real sockets, with a scripted generation service in place of the real one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "common/base/mem.h"
#include "edge/http/api_internal.h"
#include "tests/support/tiny_model.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void wait_for(atomic_size_t *counter, size_t value)
{
    uint64_t until = http_now_ms() + 30000;
    while (atomic_load(counter) < value) {
        assert_true(http_now_ms() < until);
        struct timespec pause = {.tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL);
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

static void test_completion_answers_in_openai_form(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    fake_next.text = "a\"\xc3\xa9\n";
    assert_int_equal(api_post(&a, "/v1/completions",
                              "{\"model\":\"tiny\",\"prompt\":\"hello\",\"max_tokens\":3,"
                              "\"shoal\":{\"tokens\":true}}",
                              &r),
                     200);
    json_t *j = api_body(&r);
    assert_string_equal(api_text_at(j, "object"), "text_completion");
    assert_true(strncmp(api_text_at(j, "id"), "cmpl-", 5) == 0);
    assert_string_equal(api_text_at(j, "model"), MODEL);
    assert_string_equal(api_text_at(j, "choices.0.text"),
                        "a\"\xc3\xa9\na\"\xc3\xa9\na\"\xc3\xa9\n");
    assert_string_equal(api_text_at(j, "choices.0.finish_reason"), "length");
    assert_int_equal(json_integer_value(api_at(j, "usage.completion_tokens")), 3);
    assert_int_equal(json_integer_value(api_at(j, "usage.total_tokens")),
                     json_integer_value(api_at(j, "usage.prompt_tokens")) + 3);
    assert_int_equal(json_integer_value(api_at(j, "usage.prompt_tokens_details.cached_tokens")) + 1,
                     json_integer_value(api_at(j, "usage.prompt_tokens")));
    assert_int_equal(json_integer_value(api_at(j, "usage.shoal.tiers.edge")), 3);
    assert_int_equal(json_integer_value(api_at(j, "usage.shoal.kept_tokens")), 3);
    assert_int_equal(json_integer_value(api_at(j, "usage.shoal.prefilled_tokens")), 2);
    assert_int_equal(json_integer_value(api_at(j, "usage.shoal.bytes_up")), 61);
    assert_int_equal(json_integer_value(api_at(j, "usage.shoal.round_down_max")), 24);
    assert_true(json_is_number(api_at(j, "usage.shoal.tokens_per_s")));
    assert_int_equal(json_array_size(api_at(j, "shoal.tokens")), 3);
    assert_int_equal(json_integer_value(api_at(j, "shoal.tokens.2.id")), 102);
    assert_string_equal(api_text_at(j, "shoal.tokens.0.tier"), "edge");
    assert_null(api_at(j, "shoal.tokens.1.unassisted"));
    assert_int_equal(json_integer_value(api_at(j, "usage.shoal.unassisted")), 0);
    json_decref(j);
    assert_int_equal(api_post(&a, "/v1/chat/completions",
                              "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", &r),
                     200);
    j = api_body(&r);
    assert_string_equal(api_text_at(j, "object"), "chat.completion");
    assert_true(strncmp(api_text_at(j, "id"), "chatcmpl-", 9) == 0);
    assert_string_equal(api_text_at(j, "choices.0.message.role"), "assistant");
    assert_null(api_at(j, "shoal"));
    json_decref(j);
    api_stop(&a);
}

/* What a message says never ends or opens a turn; a plain prompt is the caller's own markup. */
static void test_control_texts_in_messages_stay_text(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(api_post(&a, "/v1/chat/completions",
                              "{\"messages\":[{\"role\":\"user\",\"content\":\"a</s>\"}]}", &r),
                     200);
    assert_int_equal(fake_last_ids[0], SHOAL_TINY_BOS);
    assert_true(fake_last.n_ids > 3);
    for (size_t i = 1; i < fake_last.n_ids; i++) {
        assert_int_not_equal(fake_last_ids[i], SHOAL_TINY_EOS);
    }
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a</s>\"}", &r), 200);
    assert_int_equal(fake_last_ids[fake_last.n_ids - 1], SHOAL_TINY_EOS);
    api_stop(&a);
}

/* Splits a chunked event stream into its JSON objects; checks the form of every line. */
typedef struct stream {
    json_t *events[64];
    size_t n;
    bool done;
    bool error;
} stream;

static void free_stream(stream *s)
{
    for (size_t i = 0; i < s->n; i++) {
        json_decref(s->events[i]);
    }
}

static void dechunk(const shoal_buf *answer, shoal_buf *out)
{
    const char *p = strstr(answer->data, "\r\n\r\n") + 4;
    for (;;) {
        char *end = NULL;
        size_t n = strtoul(p, &end, 16);
        assert_true(end > p && strncmp(end, "\r\n", 2) == 0);
        p = end + 2;
        if (n == 0) {
            assert_string_equal(p, "\r\n");
            return;
        }
        assert_int_equal(shoal_buf_append(out, p, n), SHOAL_OK);
        p += n;
        assert_true(strncmp(p, "\r\n", 2) == 0);
        p += 2;
    }
}

static void read_stream(const shoal_buf *answer, stream *s)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    assert_non_null(strstr(answer->data, "Content-Type: text/event-stream\r\n"));
    *s = (stream){0};
    dechunk(answer, &text);
    for (char *line = text.data; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        char *next = line + n + (line[n] == '\n');
        line[n] = '\0';
        if (n == 0) {
            line = next;
            continue;
        }
        assert_false(s->done);
        if (strcmp(line, "data: [DONE]") == 0) {
            s->done = true;
        } else if (strcmp(line, "event: error") == 0) {
            s->error = true;
        } else if (strncmp(line, "id: ", 4) != 0) {
            assert_true(strncmp(line, "data: {", 7) == 0);
            assert_true(s->n < 64);
            s->events[s->n++] = api_load(line + 6);
        }
        line = next;
    }
}

static void test_chat_stream_has_the_promised_form(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    for (int usage = 0; usage < 2; usage++) {
        assert_int_equal(
            api_post(
                &a, "/v1/chat/completions",
                usage ? "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true,"
                        "\"stream_options\":{\"include_usage\":true}}"
                      : "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true}",
                &r),
            200);
        stream s;
        read_stream(&r, &s);
        assert_true(s.done && !s.error);
        assert_int_equal(s.n, 1 + 5 + 1 + usage);
        size_t n_finished = 0;
        for (size_t i = 0; i < s.n; i++) {
            json_t *e = s.events[i];
            assert_string_equal(api_text_at(e, "id"), api_text_at(s.events[0], "id"));
            assert_string_equal(api_text_at(e, "object"), "chat.completion.chunk");
            n_finished += json_is_string(api_at(e, "choices.0.finish_reason")) ? 1 : 0;
            bool last = i + 1 == s.n;
            assert_true(usage ? last == json_is_object(api_at(e, "usage")) &&
                                    last != json_is_null(api_at(e, "usage"))
                              : api_at(e, "usage") == NULL);
            if (i >= 1 && i <= 5) {
                assert_string_equal(api_text_at(e, "choices.0.delta.content"), "w");
                assert_int_equal(json_array_size(api_at(e, "shoal.tokens")), 1);
                assert_int_equal(json_integer_value(api_at(e, "shoal.tokens.0.id")), 99 + (int)i);
                assert_int_equal(json_integer_value(api_at(e, "shoal.tokens.0.round")), 3);
                assert_true(json_real_value(api_at(e, "shoal.tokens.0.confidence")) > 0.92);
                assert_true(json_number_value(api_at(e, "shoal.tokens.0.ms")) >= 0);
            }
        }
        assert_int_equal(n_finished, 1);
        assert_string_equal(api_text_at(s.events[0], "choices.0.delta.role"), "assistant");
        assert_string_equal(api_text_at(s.events[6], "choices.0.finish_reason"), "length");
        if (usage) {
            assert_int_equal(json_array_size(api_at(s.events[7], "choices")), 0);
            assert_int_equal(json_integer_value(api_at(s.events[7], "usage.completion_tokens")), 5);
        }
        free_stream(&s);
    }
    assert_int_equal(
        api_post(&a, "/v1/completions", "{\"prompt\":\"x\",\"stream\":true,\"max_tokens\":2}", &r),
        200);
    stream s;
    read_stream(&r, &s);
    assert_true(s.done);
    assert_int_equal(s.n, 3);
    assert_string_equal(api_text_at(s.events[0], "object"), "text_completion");
    assert_string_equal(api_text_at(s.events[0], "choices.0.text"), "w");
    free_stream(&s);
    api_stop(&a);
}

static void test_fields_reach_the_engine(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(
        api_post(
            &a, "/v1/completions",
            "{\"prompt\":[5,6,7],\"max_tokens\":9,\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,"
            "\"min_p\":0.05,\"repetition_penalty\":1.1,\"presence_penalty\":-1,"
            "\"frequency_penalty\":2,\"logit_bias\":{\"12\":-100},\"seed\":42,"
            "\"stop\":[\"END\",\"\\n\"],\"user\":\"u\",\"n\":1,\"best_of\":1,\"echo\":false,"
            "\"logprobs\":null,\"suffix\":\"\",\"response_format\":{\"type\":\"text\"},"
            "\"shoal\":{\"mode\":\"exact\",\"degrade\":true,\"session\":\"Pump-7\"}}",
            &r),
        200);
    assert_int_equal(fake_last.n_ids, 3);
    assert_int_equal(fake_last_ids[2], 7);
    assert_int_equal(fake_last.n_tokens_max, 9);
    assert_int_equal(fake_last.mode, SHOAL_MODE_EXACT);
    assert_true(fake_last.degrade);
    assert_string_equal(fake_last_session, "Pump-7");
    assert_true(fake_last.sampling.temperature > 0.49F && fake_last.sampling.temperature < 0.51F);
    assert_int_equal(fake_last.sampling.top_k, 40);
    assert_int_equal(fake_last.sampling.seed, 42);
    assert_int_equal(fake_last_bias.id, 12);
    assert_int_equal(fake_last.n_stops, 2);
    assert_string_equal(fake_last_stops[0], "END");
    /* One string in an array is that string; defaults are OpenAI's. */
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":[\"ab\"],\"stop\":\"x\"}", &r),
                     200);
    assert_int_equal(fake_last.n_tokens_max, 16);
    assert_int_equal(fake_last.mode, SHOAL_MODE_LOCAL);
    size_t n_plain = fake_last.n_ids;
    uint64_t seed = fake_last.sampling.seed;
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"ab\"}", &r), 200);
    assert_int_equal(fake_last.n_ids, n_plain);
    assert_true(fake_last.sampling.seed != seed && fake_last.sampling.seed < UINT64_MAX / 2);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":[[5,6]],\"seed\":-1}", &r), 200);
    assert_int_equal(fake_last.n_ids, 2);
    assert_true(fake_last.n_cloud_max == SIZE_MAX && fake_last.risk <= 0);
    assert_int_equal(api_post(&a, "/v1/completions",
                              "{\"prompt\":\"ab\",\"shoal\":{\"mode\":\"assist\","
                              "\"max_cloud_tokens\":0,\"risk\":0.25}}",
                              &r),
                     200);
    assert_int_equal(fake_last.mode, SHOAL_MODE_ASSIST);
    assert_int_equal(fake_last.n_cloud_max, 0);
    assert_true(fake_last.risk > 0.24 && fake_last.risk < 0.26);
    /* Parts are their texts in a row, developer is system. */
    assert_int_equal(
        api_post(&a, "/v1/chat/completions",
                 "{\"max_completion_tokens\":4,\"max_tokens\":4,\"messages\":[{\"role\":\"system\","
                 "\"content\":\"be\"},{\"role\":\"user\",\"content\":\"hello\"}]}",
                 &r),
        200);
    size_t n_text = fake_last.n_ids;
    int32_t ids[64];
    memcpy(ids, fake_last_ids, sizeof ids);
    assert_int_equal(
        api_post(&a, "/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"developer\",\"content\":\"be\",\"name\":\"x\"},"
                 "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hel\"},"
                 "{\"type\":\"text\",\"text\":\"lo\"}]}],\"tools\":[],\"tool_choice\":\"none\","
                 "\"shoal\":{\"local_only\":true},\"logprobs\":false,\"top_logprobs\":0,"
                 "\"store\":false}",
                 &r),
        200);
    assert_int_equal(fake_last.n_ids, n_text);
    assert_memory_equal(ids, fake_last_ids, n_text * sizeof *ids);
    assert_int_equal(fake_last.n_tokens_max, 512);
    api_stop(&a);
}

/* From 0 to 7 as it is said, and where nothing is said as configured. */
static void test_priority_reaches_the_engine(void **state)
{
    (void)state;
    static const char *const modes[] = {"assist", "exact", "cloud"};
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.priority = 3;
    api_start_with(&a, &s, &h);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    for (size_t i = 0; i < SHOAL_COUNT(modes); i++) {
        char body[128];
        for (unsigned priority = 0; priority <= 7; priority++) {
            (void)snprintf(body, sizeof body,
                           "{\"prompt\":\"a\",\"shoal\":{\"mode\":\"%s\",\"priority\":%u}}",
                           modes[i], priority);
            assert_int_equal(api_post(&a, "/v1/completions", body, &r), 200);
            assert_int_equal(fake_last.priority, priority);
        }
        (void)snprintf(body, sizeof body,
                       "{\"prompt\":\"a\",\"shoal\":{\"mode\":\"%s\",\"priority\":null}}",
                       modes[i]);
        assert_int_equal(api_post(&a, "/v1/completions", body, &r), 200);
        assert_int_equal(fake_last.priority, 3);
    }
    /* The lowest is what happens to a request of mode local anyway. */
    assert_int_equal(
        api_post(&a, "/v1/completions", "{\"prompt\":\"a\",\"shoal\":{\"priority\":0}}", &r), 200);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a\"}", &r), 200);
    assert_int_equal(api_post(&a, "/v1/completions",
                              "{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":9}}",
                              &r),
                     400);
    assert_non_null(strstr(r.data, "shoal.priority must be a whole number from 0 to 7"));
    api_stop(&a);
}

static void check_chat_logprobs(json_t *list, size_t n)
{
    assert_int_equal(json_array_size(list), n);
    for (size_t i = 0; i < n; i++) {
        json_t *one = json_array_get(list, i);
        assert_true(json_number_value(api_at(one, "logprob")) == -0.5);
        assert_int_equal(json_array_size(api_at(one, "top_logprobs")), 3);
        assert_true(json_number_value(api_at(one, "top_logprobs.2.logprob")) == -0.75);
        assert_true(strlen(api_text_at(one, "token")) > 0);
        assert_int_equal(json_array_size(api_at(one, "bytes")), strlen(api_text_at(one, "token")));
    }
}

static void test_logprobs_come_whole_and_streamed(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(api_post(&a, "/v1/chat/completions",
                              "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
                              "\"logprobs\":true,\"top_logprobs\":3}",
                              &r),
                     200);
    json_t *j = api_body(&r);
    assert_false(fake_last.score_prompt);
    check_chat_logprobs(api_at(j, "choices.0.logprobs.content"), 5);
    json_decref(j);
    assert_int_equal(api_post(&a, "/v1/chat/completions",
                              "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
                              "\"logprobs\":true,\"top_logprobs\":3,\"stream\":true}",
                              &r),
                     200);
    stream s;
    read_stream(&r, &s);
    assert_int_equal(s.n, 7);
    for (size_t i = 0; i < 5; i++) {
        check_chat_logprobs(api_at(s.events[i + 1], "choices.0.logprobs.content"), 1);
    }
    free_stream(&s);
    assert_int_equal(api_post(&a, "/v1/completions",
                              "{\"prompt\":\"x\",\"stream\":true,\"logprobs\":2,\"max_tokens\":2}",
                              &r),
                     200);
    read_stream(&r, &s);
    assert_int_equal(s.n, 3);
    json_t *second = api_at(s.events[1], "choices.0.logprobs");
    assert_int_equal(json_object_size(api_at(second, "top_logprobs.0")), 2);
    assert_true(json_number_value(api_at(second, "token_logprobs.0")) == -0.5);
    assert_int_equal(json_integer_value(api_at(second, "text_offset.0")), 1);
    free_stream(&s);
    api_stop(&a);
}

/* --- refusals --------------------------------------------------------------------------------- */

typedef struct bad_row {
    const char *body;
    int status;
    const char *param; /* NULL: null */
    const char *code;
} bad_row;

#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static const bad_row bad_completions[] = {
    {"", 400, NULL, "invalid_json"},
    {"{", 400, NULL, "invalid_json"},
    {"nonsense", 400, NULL, "invalid_json"},
    {"[]", 400, NULL, "invalid_json"},
    {"\"text\"", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\"} trailing", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"\\u0000\"}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"\xff\"}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"\\ud800\"}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\",\"temperature\":NaN}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\",\"temperature\":1e999}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\",\"seed\":9223372036854775808}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\",\"max_tokens\":01}", 400, NULL, "invalid_json"},
    {"{}", 400, "prompt", "missing_required_parameter"},
    {"{\"prompt\":null}", 400, "prompt", "missing_required_parameter"},
    {"{\"prompt\":7}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":{}}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[[]]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[\"a\",\"b\"]}", 400, "prompt", "unsupported_value"},
    {"{\"prompt\":[1,-1]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[1,300]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[1,\"a\"]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[1,1.5]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":[1,9223372036854775807]}", 400, "prompt", "invalid_value"},
    {"{\"prompt\":\"a\",\"model\":\"other\"}", 404, "model", "model_not_found"},
    {"{\"prompt\":\"a\",\"model\":\"\"}", 404, "model", "model_not_found"},
    {"{\"prompt\":\"a\",\"model\":3}", 400, "model", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":0}", 400, "max_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":-1}", 400, "max_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":2147483648}", 400, "max_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":9007199254740993}", 400, "max_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":1.5}", 400, "max_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":\"5\"}", 400, "max_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"max_tokens\":1000}", 400, "max_tokens", "context_length_exceeded"},
    {"{\"prompt\":\"a\",\"temperature\":-0.1}", 400, "temperature", "invalid_value"},
    {"{\"prompt\":\"a\",\"temperature\":2.1}", 400, "temperature", "invalid_value"},
    {"{\"prompt\":\"a\",\"temperature\":\"1\"}", 400, "temperature", "invalid_value"},
    {"{\"prompt\":\"a\",\"temperature\":true}", 400, "temperature", "invalid_value"},
    {"{\"prompt\":\"a\",\"top_p\":0}", 400, "top_p", "invalid_value"},
    {"{\"prompt\":\"a\",\"top_p\":1e-60}", 400, "top_p", "invalid_value"},
    {"{\"prompt\":\"a\",\"top_p\":1.1}", 400, "top_p", "invalid_value"},
    {"{\"prompt\":\"a\",\"top_p\":-1}", 400, "top_p", "invalid_value"},
    {"{\"prompt\":\"a\",\"min_p\":1}", 400, "min_p", "invalid_value"},
    {"{\"prompt\":\"a\",\"min_p\":-1e-9}", 400, "min_p", "invalid_value"},
    {"{\"prompt\":\"a\",\"top_k\":-1}", 400, "top_k", "invalid_value"},
    {"{\"prompt\":\"a\",\"top_k\":1.0}", 400, "top_k", "invalid_value"},
    {"{\"prompt\":\"a\",\"repetition_penalty\":0}", 400, "repetition_penalty", "invalid_value"},
    {"{\"prompt\":\"a\",\"presence_penalty\":2.01}", 400, "presence_penalty", "invalid_value"},
    {"{\"prompt\":\"a\",\"frequency_penalty\":-3}", 400, "frequency_penalty", "invalid_value"},
    {"{\"prompt\":\"a\",\"seed\":1.5}", 400, "seed", "invalid_value"},
    {"{\"prompt\":\"a\",\"stop\":{}}", 400, "stop", "invalid_value"},
    {"{\"prompt\":\"a\",\"stop\":\"\"}", 400, "stop", "invalid_value"},
    {"{\"prompt\":\"a\",\"stop\":[1]}", 400, "stop", "invalid_value"},
    {"{\"prompt\":\"a\",\"stop\":[\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\","
     "\"1\","
     "\"1\",\"1\",\"1\",\"1\",\"1\",\"1\"]}",
     400, "stop", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":[]}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"01\":1}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"300\":1}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"99999999999\":1}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"1\"}}", 400, "logit_bias", "invalid_value"},
    {"{\"prompt\":\"a\",\"stream\":1}", 400, "stream", "invalid_value"},
    {"{\"prompt\":\"a\",\"stream_options\":{}}", 400, "stream_options", "invalid_value"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":true}", 400, "stream_options",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"x\":1}}", 400, "stream_options",
     "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", 400,
     "stream_options.include_usage", "invalid_value"},
    {"{\"prompt\":\"a\",\"n\":2}", 400, "n", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"n\":0}", 400, "n", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"best_of\":2}", 400, "best_of", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"echo\":true,\"stream\":true}", 400, "echo", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"echo\":1}", 400, "echo", "invalid_value"},
    {"{\"prompt\":\"a\",\"logprobs\":6}", 400, "logprobs", "invalid_value"},
    {"{\"prompt\":\"a\",\"logprobs\":1,\"shoal\":{\"mode\":\"exact\"}}", 400, "logprobs",
     "unsupported_value"},
    {"{\"prompt\":\"a\",\"logprobs\":-1}", 400, "logprobs", "invalid_value"},
    {"{\"prompt\":\"a\",\"return_tokens_as_token_ids\":1}", 400, "return_tokens_as_token_ids",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"frobnicate\":1}", 400, "frobnicate", "unknown_parameter"},
    {"{\"prompt\":\"a\",\"messages\":[]}", 400, "messages", "unknown_parameter"},
    {"{\"prompt\":\"a\",\"shoal\":1}", 400, "shoal", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"risk\":0.1}}", 400, "shoal.risk",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"local_only\":true,\"max_cloud_tokens\":1}}", 400,
     "shoal.max_cloud_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"assist\",\"max_cloud_tokens\":-1}}", 400,
     "shoal.max_cloud_tokens", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"assist\",\"risk\":0}}", 400, "shoal.risk",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"turbo\"}}", 400, "shoal.mode", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"on_disconnect\":\"stay\"}}", 400, "shoal.on_disconnect",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"deadline_ms\":0}}", 400, "shoal.deadline_ms", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"deadline_ms\":86400001}}", 400, "shoal.deadline_ms",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":-1}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":8}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":4294967296}}", 400,
     "shoal.priority", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":\"7\"}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":1.5}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"priority\":true}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"local\",\"priority\":1}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"priority\":1}}", 400, "shoal.priority", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"local_only\":true,\"priority\":1}}", 400, "shoal.priority",
     "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"exit\":1}}", 400, "shoal.exit", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"session\":\"a/b\"}}", 400, "shoal.session", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"session\":\"\"}}", 400, "shoal.session", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"session\":1}}", 400, "shoal.session", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"session\":\"a\\u0000\"}}", 400, NULL, "invalid_json"},
    {"{\"prompt\":\"a\",\"shoal\":{\"session\":\"a\",\"mode\":\"cloud\"}}", 400, "shoal.session",
     "unsupported_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"exit\":{\"policy\":\"fixed\",\"depth\":1}}}", 400,
     "shoal.exit", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"shoal\":{\"exit\":{\"policy\":\"fixed\",\"threshold\":65}}}", 400,
     "shoal.exit.threshold", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":1}}", 400, "shoal.mode", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"degrade\":1}}", 400, "shoal.degrade", "invalid_value"},
    {"{\"prompt\":\"a\",\"shoal\":{\"x\":1}}", 400, "shoal", "unsupported_parameter"},
    {"{\"prompt\":\"a\",\"shoal\":{\"mode\":\"exact\",\"local_only\":true}}", 400,
     "shoal.local_only", "invalid_value"},
};

static const bad_row bad_chats[] = {
    {"{}", 400, "messages", "missing_required_parameter"},
    {"{\"messages\":[]}", 400, "messages", "invalid_value"},
    {"{\"messages\":\"hi\"}", 400, "messages", "invalid_value"},
    {"{\"messages\":[1]}", 400, "messages[0]", "invalid_value"},
    {"{\"messages\":[{\"content\":\"hi\"}]}", 400, "messages[0].role", "invalid_value"},
    {"{\"messages\":[{\"role\":\"root\",\"content\":\"hi\"}]}", 400, "messages[0].role",
     "invalid_value"},
    {"{\"messages\":[{\"role\":\"robot\",\"content\":\"hi\"}]}", 400, "messages[0].role",
     "invalid_value"},
    {"{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content", "invalid_value"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", 400, "messages[0].content",
     "invalid_value"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", 400, "messages[0].content",
     "invalid_value"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400,
     "messages[0].content", "invalid_value"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[1]}]}", 400,
     "messages", "invalid_value"},
    {"{" CHAT ",\"prompt\":\"a\"}", 400, "prompt", "unknown_parameter"},
    {"{" CHAT ",\"tools\":[{}]}", 400, "tools[0].type", "invalid_value"},
    {"{" CHAT ",\"tool_choice\":\"required\"}", 400, "tool_choice", "invalid_value"},
    {"{" CHAT ",\"functions\":[{}]}", 400, "functions", "unsupported_parameter"},
    {"{" CHAT ",\"logprobs\":1}", 400, "logprobs", "invalid_value"},
    {"{" CHAT ",\"logprobs\":true,\"top_logprobs\":21}", 400, "top_logprobs", "invalid_value"},
    {"{" CHAT ",\"top_logprobs\":2}", 400, "top_logprobs", "invalid_value"},
    {"{" CHAT ",\"logprobs\":true,\"shoal\":{\"mode\":\"cloud\"}}", 400, "logprobs",
     "unsupported_value"},
    {"{" CHAT ",\"max_tokens\":4,\"max_completion_tokens\":5}", 400, "max_completion_tokens",
     "invalid_value"},
    {"{" CHAT ",\"modalities\":[\"audio\"]}", 400, "modalities", "unsupported_parameter"},
};

static void check_rows(api_fixture *a, const char *path, const bad_row *rows, size_t n)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    for (size_t i = 0; i < n; i++) {
        int status = api_post(a, path, rows[i].body, &r);
        json_t *j = api_body(&r);
        json_t *param = api_at(j, "error.param");
        bool same = rows[i].param ? strcmp(api_text_at(j, "error.param"), rows[i].param) == 0
                                  : json_is_null(param);
        if (status != rows[i].status || !same ||
            strcmp(api_text_at(j, "error.code"), rows[i].code) != 0) {
            fail_msg("row %zu: %s\ngave %s", i, rows[i].body, r.data);
        }
        assert_string_equal(api_text_at(j, "error.type"), "invalid_request_error");
        assert_true(strlen(api_text_at(j, "error.message")) > 10);
        json_decref(j);
    }
}

static void test_bad_requests_name_the_field(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    check_rows(&a, "/v1/completions", bad_completions, SHOAL_COUNT(bad_completions));
    check_rows(&a, "/v1/chat/completions", bad_chats, SHOAL_COUNT(bad_chats));
    assert_int_equal(atomic_load(&fake_n_submitted), 0);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    /* Too long a prompt names the counts. */
    assert_int_equal(shoal_buf_appendf(&q, "{\"prompt\":[1"), SHOAL_OK);
    for (int i = 0; i < 999; i++) {
        assert_int_equal(shoal_buf_append(&q, ",1", 2), SHOAL_OK);
    }
    assert_int_equal(shoal_buf_appendf(&q, "]}"), SHOAL_OK);
    assert_int_equal(api_post(&a, "/v1/completions", q.data, &r), 400);
    assert_non_null(strstr(r.data, "context_length_exceeded"));
    assert_non_null(strstr(r.data, "1000 tokens"));
    /* Depth and width of JSON are bounded. */
    shoal_buf_reset(&q);
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(shoal_buf_append(&q, "[", 1), SHOAL_OK);
    }
    assert_int_equal(api_post(&a, "/v1/completions", q.data, &r), 400);
    shoal_buf_reset(&q);
    assert_int_equal(shoal_buf_appendf(&q, "{\"prompt\":[0"), SHOAL_OK);
    for (int i = 0; i < 1900000; i++) {
        assert_int_equal(shoal_buf_append(&q, ",0", 2), SHOAL_OK);
    }
    assert_int_equal(shoal_buf_appendf(&q, "]}"), SHOAL_OK);
    assert_int_equal(api_post(&a, "/v1/completions", q.data, &r), 413);
    api_stop(&a);
}

static void test_failures_of_the_engine_have_their_status(void **state)
{
    (void)state;
    static const struct {
        shoal_status code;
        int status;
        const char *name;
        bool retry;
    } rows[] = {
        {SHOAL_BUSY, 429, "rate_limit_exceeded", true},
        {SHOAL_E_LIMIT, 400, "context_length_exceeded", false},
        {SHOAL_E_UNAVAILABLE, 503, "unavailable", true},
        {SHOAL_E_DEADLINE, 504, "deadline_exceeded", false},
        {SHOAL_E_UNSUPPORTED, 400, "unsupported_value", false},
        {SHOAL_E_INVALID, 400, "invalid_value", false},
        {SHOAL_E_MISMATCH, 502, "model_mismatch", false},
        {SHOAL_E_NOMEM, 503, "out_of_memory", true},
        {SHOAL_E_INTERNAL, 500, "internal_error", false},
    };
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        for (int late = 0; late < 3; late++) { /* at submit, before the first token, streamed */
            fake_next.submit_code = late ? SHOAL_OK : rows[i].code;
            fake_next.fail_at = late ? 0 : SIZE_MAX;
            fake_next.fail_code = rows[i].code;
            assert_int_equal(
                api_post(&a, "/v1/completions",
                         late == 2 ? "{\"prompt\":\"a\",\"stream\":true}" : "{\"prompt\":\"a\"}",
                         &r),
                rows[i].status);
            json_t *j = api_body(&r);
            assert_string_equal(api_text_at(j, "error.code"), rows[i].name);
            json_decref(j);
            assert_int_equal(strstr(r.data, "Retry-After: ") != NULL, rows[i].retry);
        }
    }
    /* After the first byte the status is out: an error event, and no [DONE]. */
    fake_next.submit_code = SHOAL_OK;
    fake_next.fail_at = 2;
    fake_next.fail_code = SHOAL_E_UNAVAILABLE;
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a\",\"stream\":true}", &r),
                     200);
    stream s;
    read_stream(&r, &s);
    assert_true(s.error && !s.done);
    assert_int_equal(s.n, 3);
    assert_string_equal(api_text_at(s.events[2], "error.code"), "unavailable");
    free_stream(&s);
    api_stop(&a);
}

/* --- clients that leave, lag or crowd ----------------------------------------------------------
 */

static int open_stream(api_fixture *a, const char *body, shoal_buf *answer)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    int fd = http_connect(&a->f);
    assert_int_equal(shoal_buf_appendf(&q,
                                       "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                       "Content-Length: %zu\r\n\r\n%s",
                                       strlen(body), body),
                     SHOAL_OK);
    http_send(fd, q.data);
    if (answer) {
        assert_true(http_read_until(fd, answer, "data: ", 1, 3000));
    }
    return fd;
}

static void test_gone_clients_cancel_their_generation(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    fake_next.n_tokens = 1000;
    fake_next.pause_us = 2000;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    const char *streamed = "{\"prompt\":\"a\",\"stream\":true,\"max_tokens\":900}";
    const char *plain = "{\"prompt\":\"a\",\"max_tokens\":900}";
    int fd = open_stream(&a, streamed, &r);
    (void)close(fd);
    wait_for(&fake_n_cancelled, 1);
    fd = open_stream(&a, plain, NULL);
    wait_for(&fake_n_submitted, 2);
    (void)close(fd);
    wait_for(&fake_n_cancelled, 2);
    /* Half a close is a close. */
    shoal_buf_reset(&r);
    fd = open_stream(&a, streamed, &r);
    (void)shutdown(fd, SHUT_WR);
    wait_for(&fake_n_cancelled, 3);
    (void)close(fd);
    api_stop(&a);
}

static void test_reader_that_lags_is_cut_and_cancelled(void **state)
{
    (void)state;
    static char word[8192];
    memset(word, 'x', sizeof word - 1);
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    h.write_bytes_max = 64 << 10;
    api_start_with(&a, &s, &h);
    fake_next.n_tokens = 990;
    fake_next.pause_us = 100;
    fake_next.text = word;
    int fd = open_stream(&a, "{\"prompt\":\"a\",\"stream\":true,\"max_tokens\":990}", NULL);
    /* The kernel could otherwise take the whole answer for a reader that reads nothing. */
    int small = 32 << 10;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    wait_for(&fake_n_cancelled, 1);
    (void)close(fd);
    api_stop(&a);
}

static void test_loop_that_cannot_keep_up_says_so(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    api_fixture b;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    api_start_with(&b, &s, &h);
    fake_next.inside = true; /* within submit, on the loop itself: nothing is drained meanwhile */
    fake_next.n_tokens = SHOAL_API_TOKENS_QUEUED_MAX + 10;
    b.api->deck->context.n_room = (size_t)SHOAL_API_TOKENS_QUEUED_MAX * 2;
    assert_int_equal(api_post(&b, "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":40000}", &r),
                     503);
    assert_non_null(strstr(r.data, "overloaded"));
    fake_next.n_tokens = 5;
    assert_int_equal(api_post(&b, "/v1/completions", "{\"prompt\":\"a\"}", &r), 200);
    api_stop(&b);
}

static void test_crowds_are_told_to_come_back(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.n_calls_max = 2;
    api_start_with(&a, &s, &h);
    fake_next.n_tokens = 1000;
    fake_next.pause_us = 2000;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    int first = open_stream(&a, "{\"prompt\":\"a\",\"max_tokens\":900}", NULL);
    int second = open_stream(&a, "{\"prompt\":\"a\",\"max_tokens\":900}", NULL);
    wait_for(&fake_n_submitted, 2);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a\"}", &r), 429);
    assert_non_null(strstr(r.data, "Retry-After: "));
    assert_int_equal(api_get(&a, "/ready", &r), 503);
    assert_int_equal(api_get(&a, "/health", &r), 200);
    (void)close(first);
    (void)close(second);
    wait_for(&fake_n_cancelled, 2);
    api_stop(&a);
}

static void test_large_bodies_go_through_the_worker(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.inline_bytes_max = 16; /* everything */
    api_start_with(&a, &s, &h);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a b c d e f\"}", &r), 200);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a b c d e f\",\"n\":9}", &r),
                     400);
    check_rows(&a, "/v1/completions", bad_completions + 20, SHOAL_COUNT(bad_completions) - 20);
    for (int i = 0; i < 20; i++) { /* gone while the worker reads */
        int fd = open_stream(&a, "{\"prompt\":\"a b c d e f g h i j k\",\"max_tokens\":900}", NULL);
        (void)close(fd);
    }
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a b c d e f\"}", &r), 200);
    api_stop(&a);
}

/* --- the other routes --------------------------------------------------------------------------
 */

static void test_routes_answer_and_refuse(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(api_get(&a, "/v1/models", &r), 200);
    json_t *j = api_body(&r);
    assert_string_equal(api_text_at(j, "data.0.id"), MODEL);
    assert_string_equal(api_text_at(j, "data.0.object"), "model");
    json_decref(j);
    assert_int_equal(api_get(&a, "/v1/models/t%69ny", &r), 200);
    assert_int_equal(api_get(&a, "/v1/models/none", &r), 404);
    assert_non_null(strstr(r.data, "model_not_found"));
    assert_int_equal(api_get(&a, "/v1/models/t%6", &r), 404);
    assert_int_equal(api_get(&a, "/v1/models/", &r), 404);
    assert_int_equal(api_get(&a, "/nothing", &r), 404);
    assert_int_equal(api_get(&a, "/v1/completions", &r), 405);
    assert_non_null(strstr(r.data, "Allow: POST\r\n"));
    assert_int_equal(api_post(&a, "/v1/models", "{}", &r), 405);
    assert_int_equal(api_get(&a, "/health?x", &r), 200);
    assert_int_equal(api_get(&a, "/ready", &r), 200);
    assert_int_equal(api_get(&a, "/v1/shoal/status", &r), 200);
    j = api_body(&r);
    assert_string_equal(api_text_at(j, "model.id"), MODEL);
    assert_string_equal(api_text_at(j, "cloud.link"), "ready");
    assert_string_equal(api_text_at(j, "cloud.name"), "big");
    assert_int_equal(json_integer_value(api_at(j, "kv.pages")), 64);
    assert_true(json_is_false(api_at(j, "cloud.cut")));
    assert_true(json_number_value(api_at(j, "cloud.round_trip_ms")) == 41.26);
    assert_string_equal(json_string_value(api_at(j, "speculation.draft")), "auto");
    assert_int_equal(json_integer_value(api_at(j, "speculation.draft_tokens")), 6);
    assert_int_equal(json_integer_value(api_at(j, "speculation.window_tokens")), 18);
    assert_true(json_number_value(api_at(j, "speculation.acceptance")) == 0.813);
    assert_true(json_number_value(api_at(j, "speculation.edge_token_ms")) == 1.235);
    assert_true(json_is_null(api_at(j, "speculation.cloud_step_ms")));
    assert_true(json_number_value(api_at(j, "speculation.price")) == 0.25);
    assert_int_equal(json_integer_value(api_at(j, "totals.tokens.edge")), 9);
    assert_int_equal(json_integer_value(api_at(j, "totals.unassisted")), 2);
    assert_int_equal(json_integer_value(api_at(j, "totals.cloud_steps")), 4);
    json_decref(j);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a\"}", &r), 200);
    assert_int_equal(api_get(&a, "/metrics", &r), 200);
    assert_non_null(strstr(r.data, "shoal_requests_total{code=\"200\"} "));
    assert_non_null(strstr(r.data, "shoal_request_duration_seconds_count 1\n"));
    api_stop(&a);
}

static void test_key_is_asked_before_anything_is_parsed(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.api_key = "sesame";
    api_start_with(&a, &s, &h);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(api_post(&a, "/v1/completions", "{", &r), 401);
    assert_non_null(strstr(r.data, "WWW-Authenticate: Bearer"));
    assert_non_null(strstr(r.data, "authentication_error"));
    assert_int_equal(api_get(&a, "/v1/models", &r), 401);
    assert_int_equal(api_get(&a, "/nothing", &r), 401);
    assert_int_equal(api_get(&a, "/health", &r), 200);
    assert_int_equal(api_get(&a, "/ready", &r), 200);
    static const char *const keys[] = {"Bearer sesam",  "Bearer sesamf", "Bearer sesame1",
                                       "Basic sesame",  "sesame",        "Bearer ",
                                       "Bearer sesame", "bearer sesame"};
    for (size_t i = 0; i < SHOAL_COUNT(keys); i++) {
        char q[256];
        (void)snprintf(q, sizeof q,
                       "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n"
                       "Connection: close\r\n\r\n",
                       keys[i]);
        assert_int_equal(http_ask(&a.f, q, &r), i < 6 ? 401 : 200);
    }
    api_stop(&a);
}

static void test_drain_refuses_new_and_finishes_old(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    fake_next.n_tokens = 40;
    fake_next.pause_us = 10000;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf old = {0};
    int fd = open_stream(&a, "{\"prompt\":\"a\",\"stream\":true,\"max_tokens\":40}", &old);
    shoal_wake_send(a.drain);
    uint64_t until = http_now_ms() + 3000;
    while (api_get(&a, "/ready", &r) != 503) {
        assert_true(http_now_ms() < until);
    }
    assert_non_null(strstr(r.data, "draining"));
    assert_int_equal(api_get(&a, "/health", &r), 200);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a\"}", &r), 503);
    assert_non_null(strstr(r.data, "Retry-After"));
    http_read_all(fd, &old, 5000);
    assert_non_null(strstr(old.data, "data: [DONE]"));
    (void)close(fd);
    api_stop(&a);
}

/* --- memory ----------------------------------------------------------------------------------- */

static void test_parse_survives_every_failing_allocation(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"prompt\":\"hello world\",\"stop\":[\"a\",\"b\"],\"logit_bias\":{\"1\":2},\"seed\":1,"
        "\"user\":\"a text that its token must grow for, more than once, before it is whole\","
        "\"temperature\":0.5000000000000000000000000000000000000000000000000000000000000000}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]},"
        "{\"role\":\"assistant\",\"content\":\"yo\"}]}"};
    const shoal_api_context context = {
        .model = api_model, .model_id = MODEL, .n_tokens_default = 16, .n_room = 500};
    shoal_api_json_init();
    for (size_t k = 0; k < 2; k++) {
        bool done = false;
        for (uint64_t i = 0; i < 2000 && !done; i++) {
            shoal_api_request *q = NULL;
            shoal_http_error error = {0};
            shoal_mem_fail_at(i);
            shoal_status status =
                shoal_api_parse(&context, k == 0 ? SHOAL_API_COMPLETION : SHOAL_API_CHAT, bodies[k],
                                strlen(bodies[k]), &q, &error);
            shoal_mem_fail_at(UINT64_MAX);
            if (status == SHOAL_OK) {
                done = true;
                shoal_api_request_free(q);
            } else {
                assert_int_equal(error.status, 503); /* the body is right */
            }
        }
        assert_true(done);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completion_answers_in_openai_form),
        cmocka_unit_test(test_control_texts_in_messages_stay_text),
        cmocka_unit_test(test_chat_stream_has_the_promised_form),
        cmocka_unit_test(test_fields_reach_the_engine),
        cmocka_unit_test(test_priority_reaches_the_engine),
        cmocka_unit_test(test_logprobs_come_whole_and_streamed),
        cmocka_unit_test(test_bad_requests_name_the_field),
        cmocka_unit_test(test_failures_of_the_engine_have_their_status),
        cmocka_unit_test(test_gone_clients_cancel_their_generation),
        cmocka_unit_test(test_reader_that_lags_is_cut_and_cancelled),
        cmocka_unit_test(test_loop_that_cannot_keep_up_says_so),
        cmocka_unit_test(test_crowds_are_told_to_come_back),
        cmocka_unit_test(test_large_bodies_go_through_the_worker),
        cmocka_unit_test(test_routes_answer_and_refuse),
        cmocka_unit_test(test_key_is_asked_before_anything_is_parsed),
        cmocka_unit_test(test_drain_refuses_new_and_finishes_old),
        cmocka_unit_test(test_parse_survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
