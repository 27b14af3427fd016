/* SPDX-License-Identifier: Apache-2.0
 *
 * Every allocation of the library fails once, one at a time: the call says so, nothing leaks. The
 * linker wraps the allocator (see CMakeLists.txt); only the test's own thread, while armed, counts.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "edge/client/shoal.h"
#include "script_server.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static _Thread_local long fail_in = -1; /* allocations until the one that fails; -1: none will */

static bool fails_now(void)
{
    return fail_in >= 0 && fail_in-- == 0;
}

void *__wrap_malloc(size_t n)
{
    return fails_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails_now() ? NULL : __real_realloc(p, n);
}

enum {
    TRIES_MAX = 16
};

static const char stream[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\n"
    "data: \"shoal\":{\"tokens\":[{\"id\":1,\"text\":\"a\",\"tier\":\"edge\"}]}}\n\n"
    "data: [DONE]\n\n";

static int on_event(void *ctx, const shoal_client_event *event)
{
    (void)event;
    (*(size_t *)ctx)++;
    return 0;
}

static void test_memory_new_survives_every_failure(void **state)
{
    (void)state;
    shoal_client *client = NULL;
    shoal_client_error error;
    fail_in = 0;
    assert_int_equal(shoal_client_new(NULL, &client, &error), SHOAL_CLIENT_E_NOMEM);
    fail_in = -1;
    assert_null(client);
    assert_int_equal(error.code, SHOAL_CLIENT_E_NOMEM);
}

/* One call with the i-th allocation failing; the code it gave. */
static int call_failing(shoal_client *client, long i, shoal_client_error *error)
{
    const shoal_client_message message = {.role = "user", .content = "hello"};
    shoal_client_request request;
    shoal_client_request_init(&request, sizeof request);
    request.messages = &message;
    request.n_messages = 1;
    size_t n_events = 0;
    fail_in = i;
    int code = shoal_client_chat(client, &request, on_event, &n_events, NULL, error);
    fail_in = -1;
    if (code == SHOAL_CLIENT_OK) {
        assert_int_equal(n_events, 1);
    }
    return code;
}

/* TLS with a server that speaks none: the handshake's own memory, OpenSSL's not counted. */
static void test_memory_tls_survives_every_failure(void **state)
{
    (void)state;
    script_answer answers[TRIES_MAX];
    for (size_t i = 0; i < TRIES_MAX; i++) {
        answers[i] = (script_answer){.bytes = "HTTP/1.1 400 No\r\n\r\n", .early = true};
    }
    script_server *server = script_server_start(NULL, answers, TRIES_MAX);
    char url[160];
    (void)snprintf(url, sizeof url, "https%s", script_server_url(server) + 4);
    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = url;
    shoal_client *client = NULL;
    assert_int_equal(shoal_client_new(&options, &client, NULL), SHOAL_CLIENT_OK);
    long n_failed = 0;
    shoal_client_error error;
    while (call_failing(client, n_failed, &error) == SHOAL_CLIENT_E_NOMEM) {
        assert_non_null(strstr(error.text, "memory"));
        n_failed++;
    }
    assert_int_equal(error.code, SHOAL_CLIENT_E_TLS);
    assert_non_null(strstr(error.text, "speaks no TLS"));
    assert_true(n_failed >= 3);
    shoal_client_free(client);
    script_server_stop(server);
    script_server_join(server);
    script_server_free(server);
}

typedef int (*call_fn)(shoal_client *client, shoal_client_error *error);

static int call_get(shoal_client *client, shoal_client_error *error)
{
    char *body = NULL;
    int status = 0;
    int code = shoal_client_get(client, "/x", &body, NULL, &status, error);
    shoal_client_text_free(body);
    return code;
}

static int call_list(shoal_client *client, shoal_client_error *error)
{
    return shoal_client_session_list(client, NULL, NULL, error);
}

static int call_load(shoal_client *client, shoal_client_error *error)
{
    return shoal_client_session_load(client, "s", "abc", 3, error);
}

/* other NULL: a chat. */
static void sweep(const char *answer, call_fn other)
{
    script_answer answers[TRIES_MAX];
    for (size_t i = 0; i < TRIES_MAX; i++) {
        answers[i] = (script_answer){.bytes = answer, .piece = 11};
    }
    script_server *server = script_server_start(NULL, answers, TRIES_MAX);
    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    options.url = script_server_url(server);
    shoal_client *client = NULL;
    assert_int_equal(shoal_client_new(&options, &client, NULL), SHOAL_CLIENT_OK);
    long n_failed = 0;
    for (;; n_failed++) {
        shoal_client_error error;
        fail_in = n_failed;
        int code = other ? other(client, &error) : call_failing(client, n_failed, &error);
        fail_in = -1;
        if (code != SHOAL_CLIENT_E_NOMEM) {
            assert_int_equal(code, SHOAL_CLIENT_OK);
            break;
        }
        assert_non_null(strstr(error.text, "memory"));
    }
    assert_true(n_failed >= 3);
    shoal_client_free(client);
    script_server_stop(server);
    script_server_join(server);
    script_server_free(server);
}

static void test_memory_stream_survives_every_failure(void **state)
{
    (void)state;
    sweep(stream, NULL);
}

static void test_memory_get_survives_every_failure(void **state)
{
    (void)state;
    sweep("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", call_get);
}

static void test_memory_sessions_survive_every_failure(void **state)
{
    (void)state;
    sweep("HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"sessions\":[{\"name\":\"a\"}]}",
          call_list);
    sweep("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", call_load);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_new_survives_every_failure),
        cmocka_unit_test(test_memory_stream_survives_every_failure),
        cmocka_unit_test(test_memory_tls_survives_every_failure),
        cmocka_unit_test(test_memory_get_survives_every_failure),
        cmocka_unit_test(test_memory_sessions_survive_every_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
