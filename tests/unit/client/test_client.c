/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "edge/client/shoal.h"
#include "script_server.h"

#define EVENT_STREAM                                                                               \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"                        \
    "Cache-Control: no-cache\r\n"

static const char chat_events[] =
    ": a comment keeps proxies awake\n\n"
    "data: {\"id\":\"chatcmpl-7\",\"model\":\"minnow-edge\",\"choices\":[{\"index\":0,\"delta\":"
    "{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n"
    "data: {\"id\":\"chatcmpl-7\",\"choices\":[{\"delta\":{\"content\":\"E47 \\u20ac\"}}],"
    "\"shoal\":{\"tokens\":[{\"id\":12,\"text\":\"E47\",\"tier\":\"exit\",\"confidence\":0.99,"
    "\"round\":0,\"unassisted\":\"away\","
    "\"ms\":4.1},{\"id\":7,\"text\":\" \\u20ac\",\"tier\":\"edge\",\"confidence\":0.93,\"round\":3,"
    "\"ms\":18.2,\"unassisted\":\"budget\"}]}}\r\n\r\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"!\"},\"finish_reason\":\"stop\"}],\n"
    "data: \"shoal\":{\"tokens\":[{\"id\":3,\"text\":\"!\",\"tier\":\"cloud\",\"confidence\":0.5,"
    "\"round\":4,\"ms\":1}]}}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":3,"
    "\"total_tokens\":14,\"shoal\":{\"tiers\":{\"exit\":1,\"edge\":1,\"cloud\":1},"
    "\"unassisted\":2,\"drafted\":20,"
    "\"accepted\":17,\"rounds\":4,\"bytes_up\":123,\"bytes_down\":99,\"round_up_max\":61,"
    "\"round_down_max\":48,\"first_token_ms\":4.25,\"tokens_per_s\":212.5}}}\n\n"
    "data: [DONE]\n\n";

/* --- helpers --------------------------------------------------------------------------------- */

typedef struct seen {
    char text[256];
    size_t n_events;
    size_t n_tokens;
    shoal_client_token tokens[8]; /* text is not kept */
    size_t stop_at;               /* event after which the callback says stop, 0: never */
    shoal_client *cancel;
} seen;

static int on_event(void *ctx, const shoal_client_event *event)
{
    seen *s = ctx;
    s->n_events++;
    assert_int_equal(strlen(event->text), event->n_text);
    strncat(s->text, event->text, sizeof s->text - strlen(s->text) - 1);
    for (size_t i = 0; i < event->n_tokens && s->n_tokens < 8; i++) {
        s->tokens[s->n_tokens++] = event->tokens[i];
    }
    if (s->cancel) {
        shoal_client_cancel(s->cancel);
    }
    return s->stop_at == s->n_events;
}

static shoal_client *connect_to(const char *url)
{
    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = url;
    shoal_client *client = NULL;
    shoal_client_error error;
    assert_int_equal(shoal_client_new(&options, &client, &error), SHOAL_CLIENT_OK);
    assert_string_equal(shoal_client_url(client), url);
    return client;
}

static const shoal_client_message hello = {.role = "user", .content = "What does \"E47\" mean?\n"};

static shoal_client_request chat_request(void)
{
    shoal_client_request request;
    shoal_client_request_init(&request, sizeof request);
    request.messages = &hello;
    request.n_messages = 1;
    return request;
}

/* One call against one scripted answer. */
static int converse(const script_answer *answer, seen *s, shoal_client_result *result,
                    shoal_client_error *error)
{
    script_server *server = script_server_start(NULL, answer, 1);
    shoal_client *client = connect_to(script_server_url(server));
    shoal_client_request request = chat_request();
    request.timeout_ms = 20000;
    int code = shoal_client_chat(client, &request, on_event, s, result, error);
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
    return code;
}

static char *chunked(const char *head, const char *body, size_t chunk)
{
    size_t n = strlen(body);
    size_t capacity = strlen(head) + n * 8 + 128;
    char *out = calloc(1, capacity);
    assert_non_null(out);
    size_t at = (size_t)snprintf(out, capacity, "%sTransfer-Encoding: chunked\r\n\r\n", head);
    for (size_t i = 0; i < n; i += chunk) {
        size_t want = n - i < chunk ? n - i : chunk;
        at +=
            (size_t)snprintf(out + at, capacity - at, "%zx\r\n%.*s\r\n", want, (int)want, body + i);
    }
    (void)snprintf(out + at, capacity - at, "0\r\n\r\n");
    return out;
}

static void check_chat(const seen *s, const shoal_client_result *r)
{
    assert_string_equal(s->text, "E47 \xE2\x82\xAC!");
    assert_int_equal(s->n_tokens, 3);
    assert_int_equal(s->tokens[0].id, 12);
    assert_int_equal(s->tokens[0].tier, SHOAL_CLIENT_TIER_EXIT);
    assert_int_equal(s->tokens[1].tier, SHOAL_CLIENT_TIER_EDGE);
    assert_int_equal(s->tokens[1].round, 3);
    assert_float_equal(s->tokens[1].confidence, 0.93, 1e-9);
    assert_float_equal(s->tokens[1].ms, 18.2, 1e-9);
    assert_int_equal(s->tokens[2].tier, SHOAL_CLIENT_TIER_CLOUD);
    assert_int_equal(s->tokens[0].unassisted, SHOAL_CLIENT_UNASSISTED_AWAY);
    assert_int_equal(s->tokens[1].unassisted, SHOAL_CLIENT_UNASSISTED_BUDGET);
    assert_int_equal(s->tokens[2].unassisted, SHOAL_CLIENT_UNASSISTED_NOT);
    assert_int_equal(r->n_unassisted, 2);
    assert_string_equal(r->id, "chatcmpl-7");
    assert_string_equal(r->model, "minnow-edge");
    assert_int_equal(r->finish, SHOAL_CLIENT_FINISH_STOP);
    assert_int_equal(r->n_prompt, 11);
    assert_int_equal(r->n_generated, 3);
    assert_int_equal(r->n_by_tier[0] + r->n_by_tier[1] + r->n_by_tier[2], 3);
    assert_int_equal(r->n_drafted, 20);
    assert_int_equal(r->n_accepted, 17);
    assert_int_equal(r->n_rounds, 4);
    assert_int_equal(r->bytes_up, 123);
    assert_int_equal(r->bytes_down, 99);
    assert_int_equal(r->round_up_max, 61);
    assert_int_equal(r->round_down_max, 48);
    assert_float_equal(r->first_token_ms, 4.25, 1e-12);
    assert_float_equal(r->tokens_per_s, 212.5, 1e-12);
}

/* --- answers --------------------------------------------------------------------------------- */

static void test_client_chat_any_chunk_and_piece_gives_the_same(void **state)
{
    (void)state;
    const size_t chunks[] = {1, 7, 4096};
    const size_t pieces[] = {1, 3, 0};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 3; j++) {
            char *bytes = chunked(EVENT_STREAM, chat_events, chunks[i]);
            const script_answer answer = {.bytes = bytes, .piece = pieces[j]};
            seen s = {.n_events = 0};
            shoal_client_result result;
            shoal_client_result_init(&result, sizeof result);
            shoal_client_error error;
            assert_int_equal(converse(&answer, &s, &result, &error), SHOAL_CLIENT_OK);
            assert_int_equal(error.code, SHOAL_CLIENT_OK);
            assert_int_equal(error.http_status, 200);
            check_chat(&s, &result);
            free(bytes);
        }
    }
}

static void test_client_done_ends_without_waiting_for_close(void **state)
{
    (void)state;
    char bytes[4096];
    (void)snprintf(bytes, sizeof bytes, EVENT_STREAM "\r\n%s", chat_events);
    const script_answer answer = {.bytes = bytes, .hang = true};
    seen s = {.n_events = 0};
    shoal_client_result result;
    shoal_client_result_init(&result, sizeof result);
    assert_int_equal(converse(&answer, &s, &result, NULL), SHOAL_CLIENT_OK);
    check_chat(&s, &result);
}

static void test_client_request_says_what_was_set(void **state)
{
    (void)state;
    char *bytes =
        chunked(EVENT_STREAM, "data: {\"choices\":[{\"text\":\"ok\"}]}\n\ndata: [DONE]\n\n", 9);
    const script_answer answers[] = {{.bytes = bytes}, {.bytes = bytes}};
    const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : P_tmpdir;
    char path[80];
    char socket_path[100];
    (void)snprintf(path, sizeof path, "%s/shoal-client-XXXXXX", base);
    assert_non_null(mkdtemp(path));
    (void)snprintf(socket_path, sizeof socket_path, "%s/s", path);
    script_server *server = script_server_start(socket_path, answers, 2);

    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = script_server_url(server);
    options.api_key = "key-1";
    shoal_client *client = NULL;
    assert_int_equal(shoal_client_new(&options, &client, NULL), SHOAL_CLIENT_OK);
    shoal_client_request request = chat_request();
    const char *stops[] = {"\n\n", "</s>"};
    request.mode = "exact";
    request.session = "pump-7";
    request.max_cloud_tokens = 4;
    request.priority = 0;
    request.model = "m";
    request.max_tokens = 5;
    request.temperature = 0.25;
    request.top_p = 0.5;
    request.top_k = 3;
    request.min_p = 0.0;
    request.seed = INT64_MAX;
    request.stop = stops;
    request.n_stop = 2;
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, NULL), SHOAL_CLIENT_OK);
    shoal_client_request_init(&request, sizeof request);
    request.prompt = "raw";
    request.risk = 0.25;
    request.priority = 7;
    seen s = {.n_events = 0};
    assert_int_equal(shoal_client_complete(client, &request, on_event, &s, NULL, NULL),
                     SHOAL_CLIENT_OK);
    assert_string_equal(s.text, "ok");
    assert_int_equal(s.n_tokens, 0);
    shoal_client_free(client);
    script_server_join(server);
    const char *first = script_server_request(server, 0);
    assert_non_null(strstr(first, "POST /v1/chat/completions HTTP/1.1\r\n"));
    assert_non_null(strstr(first, "\r\nAuthorization: Bearer key-1\r\n"));
    assert_non_null(strstr(first, "\r\nHost: localhost\r\n"));
    assert_non_null(strstr(
        first,
        "\r\n\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"What does \\\"E47\\\" "
        "mean?\\n\"}],\"model\":\"m\",\"shoal\":{\"mode\":\"exact\",\"session\":\"pump-7\","
        "\"max_cloud_tokens\":4,\"priority\":0},"
        "\"max_tokens\":5,\"temperature\":0.25,"
        "\"top_p\":0.5,\"min_p\":0,\"top_k\":3,\"seed\":9223372036854775807,\"stop\":[\"\\n\\n\""
        ",\"</s>\"],\"stream\":true,\"stream_options\":{\"include_usage\":true}}"));
    const char *second = script_server_request(server, 1);
    assert_non_null(strstr(second, "POST /v1/completions HTTP/1.1\r\n"));
    assert_non_null(strstr(second, "\r\n\r\n{\"prompt\":\"raw\",\"shoal\":{\"risk\":0.25,"
                                   "\"priority\":7},\"stream\":true"));
    script_server_free(server);
    (void)unlink(socket_path);
    (void)rmdir(path);
    free(bytes);
}

/* --- errors of the edge ---------------------------------------------------------------------- */

static void test_client_error_answer_is_told_in_its_words(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        int code;
        int status;
        int retry_after_s;
        const char *text;
    } cases[] = {
        {"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 68\r\n\r\n"
         "{\"error\":{\"message\":\"This prompt has 5,210 tokens.\",\"type\":\"x\"}}     ",
         SHOAL_CLIENT_E_REFUSED, 400, -1, "This prompt has 5,210 tokens."},
        {"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 17\r\n\r\n"
         "{\"error\":\"full\"} ",
         SHOAL_CLIENT_E_BUSY, 429, 7, "full"},
        {"HTTP/1.1 503\r\nretry-after: 999999999\r\n\r\nnot json", SHOAL_CLIENT_E_BUSY, 503, 86400,
         "HTTP status 503"},
        {"HTTP/1.0 500 Oops\r\n\r\n", SHOAL_CLIENT_E_REFUSED, 500, -1, "HTTP status 500"},
        {"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", SHOAL_CLIENT_E_REFUSED, 401, -1, "401"},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Nothing\r\n\r\n", SHOAL_CLIENT_E_REFUSED, 204,
         -1, "204"},
        {"HTTP/1.1 400 Bad\r\n\r\n{\"error\":{\"message\":\"a\\u001b[31mb\\u009bc\"}}",
         SHOAL_CLIENT_E_REFUSED, 400, -1, "a?[31mb??c"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t piece = 0; piece < 2; piece++) {
            const script_answer answer = {.bytes = cases[i].bytes, .piece = piece};
            seen s = {.n_events = 0};
            shoal_client_error error;
            assert_int_equal(converse(&answer, &s, NULL, &error), cases[i].code);
            assert_int_equal(error.code, cases[i].code);
            assert_int_equal(error.http_status, cases[i].status);
            assert_int_equal(error.retry_after_s, cases[i].retry_after_s);
            assert_non_null(strstr(error.text, cases[i].text));
        }
    }
}

static void test_client_broken_answers_are_named(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        int code;
        const char *text;
    } cases[] = {
        {"SSH-2.0-OpenSSH_9.2\r\n", SHOAL_CLIENT_E_PROTOCOL, "status line"},
        {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", SHOAL_CLIENT_E_PROTOCOL,
         "text/html"},
        {EVENT_STREAM "\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n",
         SHOAL_CLIENT_E_IO, "before the answer was complete"},
        {EVENT_STREAM "Content-Length: 500\r\n\r\ndata: {\"choices\":[]}\n\n", SHOAL_CLIENT_E_IO,
         "middle of the answer"},
        {EVENT_STREAM "\r\ndata: {\"choices\":\n\n", SHOAL_CLIENT_E_PROTOCOL, "not JSON"},
        {EVENT_STREAM "\r\ndata: 7\n\n", SHOAL_CLIENT_E_PROTOCOL, "not an object"},
        {EVENT_STREAM "\r\ndata: {\"error\":{\"message\":\"cloud went away\"}}\n\n",
         SHOAL_CLIENT_E_REFUSED, "cloud went away"},
        {EVENT_STREAM "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
         SHOAL_CLIENT_E_PROTOCOL, "both"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const script_answer answer = {.bytes = cases[i].bytes, .piece = i % 3};
        seen s = {.n_events = 0};
        shoal_client_error error;
        assert_int_equal(converse(&answer, &s, NULL, &error), cases[i].code);
        assert_non_null(strstr(error.text, cases[i].text));
    }
}

static void test_client_odd_but_valid_events_are_read(void **state)
{
    (void)state;
    const script_answer answer = {
        .bytes = EVENT_STREAM
        "\r\n"
        "data: {\"choices\":[{\"delta\":{\"content\":null}}],\"shoal\":{\"tokens\":[{\"id\":-4,"
        "\"tier\":\"abyss\",\"text\":7,\"round\":1e99,\"unassisted\":\"moon\"},null,"
        "{\"unassisted\":3}]},\"usage\":null}\n\n"
        "data: {\"choices\":{},\"shoal\":[],\"usage\":{\"prompt_tokens\":-1,"
        "\"shoal\":{\"tiers\":4}}}"
        "\n\ndata: [DONE]\n\ndata: behind the end\n\n"};
    seen s = {.n_events = 0};
    shoal_client_result result;
    shoal_client_result_init(&result, sizeof result);
    assert_int_equal(converse(&answer, &s, &result, NULL), SHOAL_CLIENT_OK);
    assert_int_equal(s.n_tokens, 3);
    assert_int_equal(s.tokens[0].id, -1);
    assert_int_equal(s.tokens[0].tier, SHOAL_CLIENT_TIER_UNKNOWN);
    assert_int_equal(s.tokens[0].round, 0);
    assert_int_equal(s.tokens[0].unassisted, SHOAL_CLIENT_UNASSISTED_OTHER);
    assert_string_equal(shoal_client_unassisted_name(s.tokens[0].unassisted), "other");
    assert_int_equal(s.tokens[2].unassisted, SHOAL_CLIENT_UNASSISTED_NOT);
    assert_true(s.tokens[0].confidence < 0.0);
    assert_int_equal(result.n_prompt, 0);
    assert_true(result.tokens_per_s < 0.0);
}

static void test_client_reset_connection_is_an_io_error(void **state)
{
    (void)state;
    const script_answer answer = {.bytes = EVENT_STREAM "\r\ndata: {", .reset = true};
    seen s = {.n_events = 0};
    shoal_client_error error;
    assert_int_equal(converse(&answer, &s, NULL, &error), SHOAL_CLIENT_E_IO);
}

static void test_client_early_refusal_of_a_long_body_is_read(void **state)
{
    (void)state;
    const script_answer answer = {
        .bytes =
            "HTTP/1.1 413 Too Large\r\nContent-Length: 25\r\n\r\n{\"error\":\"body too long\"}",
        .deaf = true,
        .hang = true};
    script_server *server = script_server_start(NULL, &answer, 1);
    shoal_client *client = connect_to(script_server_url(server));
    size_t n = 8u << 20;
    char *prompt = calloc(1, n + 1);
    assert_non_null(prompt);
    memset(prompt, 'x', n);
    shoal_client_request request;
    shoal_client_request_init(&request, sizeof request);
    request.prompt = prompt;
    shoal_client_error error;
    assert_int_equal(shoal_client_complete(client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_REFUSED);
    assert_string_equal(error.text, "body too long");
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
    free(prompt);
}

/* --- cancel and time ------------------------------------------------------------------------- */

static double now_ms(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

typedef struct canceller {
    shoal_client *client;
    double at_ms;
} canceller;

static void *cancel_soon(void *ctx)
{
    canceller *c = ctx;
    const struct timespec pause = {.tv_nsec = 30 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
    c->at_ms = now_ms();
    shoal_client_cancel(c->client);
    return NULL;
}

static void test_client_cancel_from_another_thread_returns_at_once(void **state)
{
    (void)state;
    /* In the middle of the status line, of the headers, and of the events. */
    const char *answers[] = {"H", EVENT_STREAM, EVENT_STREAM "\r\ndata: {\"choices\":[]}\n\n"};
    for (size_t i = 0; i < 3; i++) {
        const script_answer answer = {.bytes = answers[i], .hang = true};
        script_server *server = script_server_start(NULL, &answer, 1);
        canceller c = {.client = connect_to(script_server_url(server))};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &c), 0);
        shoal_client_request request = chat_request();
        shoal_client_error error;
        assert_int_equal(shoal_client_chat(c.client, &request, NULL, NULL, NULL, &error),
                         SHOAL_CLIENT_E_CANCELLED);
        double returned_ms = now_ms();
        assert_int_equal(pthread_join(thread, NULL), 0);
        /* The promise is 10 ms; a loaded, instrumented machine gets some more. */
        assert_true(returned_ms - c.at_ms < 100.0);
        script_server_join(server); /* the server has seen the close */
        script_server_free(server);
        shoal_client_free(c.client);
    }
}

static void test_client_cancel_before_a_call_does_not_touch_it(void **state)
{
    (void)state;
    char bytes[4096];
    (void)snprintf(bytes, sizeof bytes, EVENT_STREAM "\r\n%s", chat_events);
    const script_answer answers[] = {
        {.bytes = bytes}, {.bytes = bytes, .hang = true}, {.bytes = bytes}};
    script_server *server = script_server_start(NULL, answers, 3);
    shoal_client *client = connect_to(script_server_url(server));
    shoal_client_request request = chat_request();
    shoal_client_cancel(client);
    shoal_client_cancel(client);
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, NULL), SHOAL_CLIENT_OK);
    /* The callback's own no. */
    seen s = {.stop_at = 1};
    shoal_client_error error;
    assert_int_equal(shoal_client_chat(client, &request, on_event, &s, NULL, &error),
                     SHOAL_CLIENT_E_CANCELLED);
    assert_int_equal(s.n_events, 1);
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, NULL), SHOAL_CLIENT_OK);
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
}

static void test_client_cancel_inside_the_callback_ends_the_call(void **state)
{
    (void)state;
    const script_answer answer = {.bytes = EVENT_STREAM
                                  "\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
                                  .hang = true};
    script_server *server = script_server_start(NULL, &answer, 1);
    shoal_client *client = connect_to(script_server_url(server));
    seen s = {.cancel = client};
    shoal_client_request request = chat_request();
    assert_int_equal(shoal_client_chat(client, &request, on_event, &s, NULL, NULL),
                     SHOAL_CLIENT_E_CANCELLED);
    assert_string_equal(s.text, "x");
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
}

static void test_client_timeouts_end_the_call(void **state)
{
    (void)state;
    const script_answer answers[] = {{.bytes = EVENT_STREAM, .hang = true},
                                     {.bytes = EVENT_STREAM, .hang = true}};
    script_server *server = script_server_start(NULL, answers, 2);
    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = script_server_url(server);
    options.idle_timeout_ms = 40;
    shoal_client *client = NULL;
    assert_int_equal(shoal_client_new(&options, &client, NULL), SHOAL_CLIENT_OK);
    shoal_client_request request = chat_request();
    shoal_client_error error;
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_TIMEOUT);
    assert_non_null(strstr(error.text, "waiting for the edge"));
    request.timeout_ms = 20;
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_TIMEOUT);
    assert_non_null(strstr(error.text, "whole call"));
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
}

/* A server that takes the connection and says nothing, or half of it: the handshake has the time of
 * connecting, can be cancelled, and an end in it is told. */
static void test_client_tls_handshake_is_left_in_time(void **state)
{
    (void)state;
    const script_answer answers[] = {
        {.bytes = "", .hang = true},
        {.bytes = "\x16\x03", .early = true, .hang = true},
        {.bytes = "\x16\x03", .early = true},
    };
    script_server *server = script_server_start(NULL, answers, 3);
    char url[160];
    (void)snprintf(url, sizeof url, "https%s", script_server_url(server) + 4);
    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = url;
    options.connect_timeout_ms = 40;
    shoal_client *client = NULL;
    assert_int_equal(shoal_client_new(&options, &client, NULL), SHOAL_CLIENT_OK);
    shoal_client_request request = chat_request();
    shoal_client_error error;
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_TIMEOUT);
    assert_non_null(strstr(error.text, "the TLS handshake"));
    shoal_client_free(client);
    canceller c = {.client = connect_to(url)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &c), 0);
    assert_int_equal(shoal_client_chat(c.client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_CANCELLED);
    double returned_ms = now_ms();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(returned_ms - c.at_ms < 100.0);
    assert_int_equal(shoal_client_chat(c.client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_IO);
    assert_non_null(strstr(error.text, "ended in the TLS handshake"));
    shoal_client_free(c.client);
    script_server_join(server);
    script_server_free(server);
}

/* --- misuse and absence ---------------------------------------------------------------------- */

static void test_client_nobody_there_names_the_address(void **state)
{
    (void)state;
    const char *urls[] = {"http://127.0.0.1:1", "unix:/nonexistent/shoal.sock", "http://[::1]:1"};
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        shoal_client *client = connect_to(urls[i]);
        shoal_client_request request = chat_request();
        shoal_client_error error;
        assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, &error),
                         SHOAL_CLIENT_E_CONNECT);
        assert_non_null(strstr(error.text, urls[i]));
        shoal_client_free(client);
    }
}

static void test_client_name_is_looked_up_or_refused(void **state)
{
    (void)state;
    shoal_client *client = connect_to("http://no-such-host.invalid:80");
    shoal_client_request request = chat_request();
    request.timeout_ms = 300;
    shoal_client_error error;
    int code = shoal_client_chat(client, &request, NULL, NULL, NULL, &error);
    assert_true(code == SHOAL_CLIENT_E_CONNECT || code == SHOAL_CLIENT_E_TIMEOUT);
    shoal_client_free(client);
}

static int call_again(void *ctx, const shoal_client_event *event)
{
    (void)event;
    shoal_client_request request = chat_request();
    shoal_client_error error;
    assert_int_equal(shoal_client_chat(ctx, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_INVALID);
    assert_non_null(strstr(error.text, "in progress"));
    return 0;
}

static void test_client_second_call_on_a_handle_is_refused(void **state)
{
    (void)state;
    char bytes[4096];
    (void)snprintf(bytes, sizeof bytes, EVENT_STREAM "\r\n%s", chat_events);
    const script_answer answer = {.bytes = bytes};
    script_server *server = script_server_start(NULL, &answer, 1);
    shoal_client *client = connect_to(script_server_url(server));
    shoal_client_request request = chat_request();
    assert_int_equal(shoal_client_chat(client, &request, call_again, client, NULL, NULL),
                     SHOAL_CLIENT_OK);
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
}

static void test_client_bad_arguments_are_refused(void **state)
{
    (void)state;
    shoal_client *client = connect_to("http://127.0.0.1:1");
    shoal_client_error error;
    shoal_client_request request = {.size = 0};
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_INVALID);
    assert_int_equal(shoal_client_chat(client, NULL, NULL, NULL, NULL, NULL),
                     SHOAL_CLIENT_E_INVALID);
    request = chat_request();
    assert_int_equal(shoal_client_chat(NULL, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_INVALID);
    shoal_client_result result = {.size = 0};
    assert_int_equal(shoal_client_chat(client, &request, NULL, NULL, &result, &error),
                     SHOAL_CLIENT_E_INVALID);
    assert_int_equal(shoal_client_complete(client, &request, NULL, NULL, NULL, &error),
                     SHOAL_CLIENT_E_INVALID);
    assert_non_null(strstr(error.text, "prompt"));
    shoal_client_free(client);

    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = "http://127.0.0.1:1";
    options.api_key = "two\r\nX-Evil: 1";
    client = (shoal_client *)(void *)&options;
    assert_int_equal(shoal_client_new(&options, &client, &error), SHOAL_CLIENT_E_INVALID);
    assert_null(client);
    options.api_key = NULL;
    options.ca_file = "/nonexistent/ca.pem"; /* an authority protects nothing in the clear */
    assert_int_equal(shoal_client_new(&options, &client, &error), SHOAL_CLIENT_E_INVALID);
    assert_non_null(strstr(error.text, "is not https"));
    options.url = "https://127.0.0.1:1";
    assert_int_equal(shoal_client_new(&options, &client, &error), SHOAL_CLIENT_E_INVALID);
    assert_non_null(strstr(error.text, "/nonexistent/ca.pem"));
    options.size = 0;
    assert_int_equal(shoal_client_new(&options, &client, &error), SHOAL_CLIENT_E_INVALID);
    /* An application built against an older, shorter struct. */
    options.size = offsetof(shoal_client_options, idle_timeout_ms);
    assert_int_equal(shoal_client_new(&options, &client, &error), SHOAL_CLIENT_OK);
    shoal_client_free(client);
    shoal_client_free(NULL);
}

/* Tokens are handed out as an array: a program linked before walks it by the size it knew. */
static void test_client_token_is_as_large_as_it_was(void **state)
{
    (void)state;
    struct before {
        const char *text;
        size_t n_text;
        int32_t id;
        int tier;
        double confidence;
        uint32_t round;
        double ms;
    };
    assert_int_equal(sizeof(shoal_client_token), sizeof(struct before));
    assert_int_equal(offsetof(shoal_client_token, round), offsetof(struct before, round));
    assert_int_equal(offsetof(shoal_client_token, ms), offsetof(struct before, ms));
    /* And a result without the newest count. */
    shoal_client_result result;
    shoal_client_result_init(&result, sizeof result);
    result.n_unassisted = 77;
    result.size = offsetof(shoal_client_result, n_unassisted);
    char bytes[4096];
    (void)snprintf(bytes, sizeof bytes, EVENT_STREAM "\r\n%s", chat_events);
    const script_answer answer = {.bytes = bytes};
    seen s = {.n_events = 0};
    assert_int_equal(converse(&answer, &s, &result, NULL), SHOAL_CLIENT_OK);
    assert_int_equal(result.n_generated, 3);
    assert_int_equal(result.n_unassisted, 77);
}

/* --- status ---------------------------------------------------------------------------------- */

static void test_client_probe_reads_health_ready_and_models(void **state)
{
    (void)state;
    const script_answer answers[] = {
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", .piece = 1},
        {.bytes = "HTTP/1.1 503 No\r\nContent-Length: 50\r\n\r\n"
                  "{\"error\":{\"message\":\"the model is still loading\"}}"},
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
                  "{\"object\":\"list\",\"data\":[{\"id\":\"minnow-edge\"},{\"id\":\"b\"},{}]}",
         .piece = 1},
    };
    script_server *server = script_server_start(NULL, answers, 3);
    shoal_client *client = connect_to(script_server_url(server));
    shoal_client_info info;
    shoal_client_info_init(&info, sizeof info);
    assert_int_equal(shoal_client_probe(client, &info, NULL), SHOAL_CLIENT_OK);
    assert_true(info.healthy && !info.ready);
    assert_string_equal(info.why, "the model is still loading");
    assert_int_equal(info.n_models, 3);
    assert_string_equal(info.models[0], "minnow-edge");
    assert_string_equal(info.models[2], "");
    shoal_client_free(client);
    script_server_join(server);
    assert_non_null(strstr(script_server_request(server, 0), "GET /health HTTP/1.1\r\n"));
    assert_non_null(strstr(script_server_request(server, 2), "GET /v1/models HTTP/1.1\r\n"));
    script_server_free(server);
}

static void test_client_get_hands_out_the_body(void **state)
{
    (void)state;
    const script_answer answers[] = {{.bytes = "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\ngone"},
                                     {.bytes = "HTTP/1.1 204 Empty\r\n\r\n"}};
    script_server *server = script_server_start(NULL, answers, 2);
    shoal_client *client = connect_to(script_server_url(server));
    char *body = NULL;
    size_t n = 0;
    int status = 0;
    assert_int_equal(shoal_client_get(client, "/nothing?x=1", &body, &n, &status, NULL),
                     SHOAL_CLIENT_OK);
    assert_int_equal(status, 404);
    assert_int_equal(n, 4);
    assert_string_equal(body, "gone");
    shoal_client_text_free(body);
    assert_int_equal(shoal_client_get(client, "/", &body, NULL, &status, NULL), SHOAL_CLIENT_OK);
    assert_string_equal(body, "");
    shoal_client_text_free(body);
    const char *bad[] = {"", "x", "/a b", "/a\r\nX: y", NULL};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(shoal_client_get(client, bad[i], &body, &n, &status, NULL),
                         SHOAL_CLIENT_E_INVALID);
    }
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
}

/* --- sessions -------------------------------------------------------------------------------- */

typedef struct session_seen {
    size_t n;
    shoal_client_session last;
    char bytes[64];
    size_t n_bytes;
    size_t stop_at; /* calls until the callback has had enough; 0: never */
} session_seen;

static int on_session(void *ctx, const shoal_client_session *session)
{
    session_seen *s = ctx;
    s->last = *session;
    return ++s->n == s->stop_at;
}

static int on_bytes(void *ctx, const void *bytes, size_t n)
{
    session_seen *s = ctx;
    assert_true(n <= sizeof s->bytes - s->n_bytes);
    memcpy(s->bytes + s->n_bytes, bytes, n);
    s->n_bytes += n;
    return ++s->n == s->stop_at;
}

static void test_client_sessions_are_listed_saved_loaded_and_dropped(void **state)
{
    (void)state;
    const script_answer answers[] = {
        {.bytes =
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"sessions\":[{\"name\":"
             "\"a\",\"tokens\":7,\"kv_bytes\":4096},{\"name\":\"b\"}]}",
         .piece = 5},
        {.bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "3\r\na\0b\r\n1\r\nc\r\n0\r\n\r\n",
         .n_bytes = 47 + 8 + 6 + 5,
         .piece = 1},
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"},
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"},
    };
    script_server *server = script_server_start(NULL, answers, 4);
    shoal_client *client = connect_to(script_server_url(server));
    session_seen s = {.n = 0};
    assert_int_equal(shoal_client_session_list(client, on_session, &s, NULL), SHOAL_CLIENT_OK);
    assert_int_equal(s.n, 2);
    assert_string_equal(s.last.name, "b");
    s = (session_seen){.n = 0};
    assert_int_equal(shoal_client_session_save(client, "a", on_bytes, &s, NULL), SHOAL_CLIENT_OK);
    assert_int_equal(s.n_bytes, 4);
    assert_memory_equal(s.bytes, "a\0bc", 4);
    assert_int_equal(shoal_client_session_load(client, "a.b", "12345", 5, NULL), SHOAL_CLIENT_OK);
    assert_int_equal(shoal_client_session_drop(client, "a", NULL), SHOAL_CLIENT_OK);
    shoal_client_free(client);
    script_server_join(server);
    assert_non_null(
        strstr(script_server_request(server, 0), "GET /v1/shoal/sessions HTTP/1.1\r\n"));
    assert_non_null(
        strstr(script_server_request(server, 1), "GET /v1/shoal/sessions/a HTTP/1.1\r\n"));
    const char *load = script_server_request(server, 2);
    assert_non_null(strstr(load, "PUT /v1/shoal/sessions/a.b HTTP/1.1\r\n"));
    assert_non_null(
        strstr(load, "\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\n"));
    assert_non_null(strstr(load, "\r\n\r\n12345"));
    assert_non_null(strstr(script_server_request(server, 3), "DELETE /v1/shoal/sessions/a HTTP"));
    script_server_free(server);
}

static void test_client_sessions_that_fail_say_why(void **state)
{
    (void)state;
    static const char refused[] = "HTTP/1.1 409 No\r\nContent-Length: 38\r\n\r\n"
                                  "{\"error\":{\"message\":\"another model\"}} ";
    const script_answer answers[] = {
        {.bytes = refused},
        {.bytes = "HTTP/1.1 429 No\r\nRetry-After: 2\r\nContent-Length: 2\r\n\r\nno"},
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"}, /* cut */
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"},
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"},
    };
    script_server *server = script_server_start(NULL, answers, 5);
    shoal_client *client = connect_to(script_server_url(server));
    shoal_client_error error;
    session_seen s = {.n = 0};
    assert_int_equal(shoal_client_session_load(client, "a", "x", 1, &error),
                     SHOAL_CLIENT_E_REFUSED);
    assert_int_equal(error.http_status, 409);
    assert_string_equal(error.text, "another model");
    assert_int_equal(shoal_client_session_drop(client, "a", &error), SHOAL_CLIENT_E_BUSY);
    assert_int_equal(error.retry_after_s, 2);
    assert_int_equal(shoal_client_session_save(client, "a", on_bytes, &s, &error),
                     SHOAL_CLIENT_E_IO);
    assert_int_equal(shoal_client_session_list(client, NULL, NULL, &error),
                     SHOAL_CLIENT_E_PROTOCOL);
    s = (session_seen){.stop_at = 1};
    assert_int_equal(shoal_client_session_save(client, "a", on_bytes, &s, &error),
                     SHOAL_CLIENT_E_CANCELLED);
    static const char *const names[] = {NULL,
                                        "",
                                        "a/b",
                                        "a b",
                                        "\r\n",
                                        "0123456789012345678901234567890123456789012345678901234567"
                                        "8901234"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(shoal_client_session_drop(client, names[i], &error),
                         SHOAL_CLIENT_E_INVALID);
    }
    shoal_client_free(client);
    script_server_join(server);
    script_server_free(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_chat_any_chunk_and_piece_gives_the_same),
        cmocka_unit_test(test_client_done_ends_without_waiting_for_close),
        cmocka_unit_test(test_client_request_says_what_was_set),
        cmocka_unit_test(test_client_error_answer_is_told_in_its_words),
        cmocka_unit_test(test_client_broken_answers_are_named),
        cmocka_unit_test(test_client_odd_but_valid_events_are_read),
        cmocka_unit_test(test_client_reset_connection_is_an_io_error),
        cmocka_unit_test(test_client_early_refusal_of_a_long_body_is_read),
        cmocka_unit_test(test_client_cancel_from_another_thread_returns_at_once),
        cmocka_unit_test(test_client_cancel_before_a_call_does_not_touch_it),
        cmocka_unit_test(test_client_cancel_inside_the_callback_ends_the_call),
        cmocka_unit_test(test_client_timeouts_end_the_call),
        cmocka_unit_test(test_client_nobody_there_names_the_address),
        cmocka_unit_test(test_client_name_is_looked_up_or_refused),
        cmocka_unit_test(test_client_second_call_on_a_handle_is_refused),
        cmocka_unit_test(test_client_tls_handshake_is_left_in_time),
        cmocka_unit_test(test_client_bad_arguments_are_refused),
        cmocka_unit_test(test_client_token_is_as_large_as_it_was),
        cmocka_unit_test(test_client_probe_reads_health_ready_and_models),
        cmocka_unit_test(test_client_get_hands_out_the_body),
        cmocka_unit_test(test_client_sessions_are_listed_saved_loaded_and_dropped),
        cmocka_unit_test(test_client_sessions_that_fail_say_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
