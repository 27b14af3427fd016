/* SPDX-License-Identifier: Apache-2.0
 *
 * Kept sessions over HTTP: a blob of any length as slowly as its reader takes it, one that comes
 * in, and everything that may go wrong on the way.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "common/base/mem.h"

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    N_SHORT = 70,
    N_LONG = 100000,  /* a blob of 600 KB: several pieces */
    N_HUGE = 1000000, /* of 6 MB: more than sockets hold */
    BODY_MAX = 8 << 20
};

/* --- a gate before each piece of a blob, where a test closes it --------------------------------
 */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool closed;
    size_t n_waiting;
    shoal_status fails; /* of the next pieces; SHOAL_OK: they are made */
} gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

shoal_status __real_shoal_session_writer_read(shoal_session_writer *writer, uint8_t *ret_bytes,
                                              size_t n, size_t *ret_n);
shoal_status __wrap_shoal_session_writer_read(shoal_session_writer *writer, uint8_t *ret_bytes,
                                              size_t n, size_t *ret_n);
shoal_status __wrap_shoal_session_writer_read(shoal_session_writer *writer, uint8_t *ret_bytes,
                                              size_t n, size_t *ret_n)
{
    (void)pthread_mutex_lock(&gate.mutex);
    gate.n_waiting++;
    (void)pthread_cond_broadcast(&gate.changed);
    while (gate.closed) {
        (void)pthread_cond_wait(&gate.changed, &gate.mutex);
    }
    gate.n_waiting--;
    shoal_status fails = gate.fails;
    (void)pthread_mutex_unlock(&gate.mutex);
    return fails != SHOAL_OK ? fails
                             : __real_shoal_session_writer_read(writer, ret_bytes, n, ret_n);
}

static void gate_set(bool closed)
{
    (void)pthread_mutex_lock(&gate.mutex);
    gate.closed = closed;
    (void)pthread_cond_broadcast(&gate.changed);
    (void)pthread_mutex_unlock(&gate.mutex);
}

static void gate_fail(shoal_status status)
{
    (void)pthread_mutex_lock(&gate.mutex);
    gate.fails = status;
    (void)pthread_mutex_unlock(&gate.mutex);
}

static void gate_await_piece(void)
{
    (void)pthread_mutex_lock(&gate.mutex);
    while (gate.n_waiting == 0) {
        (void)pthread_cond_wait(&gate.changed, &gate.mutex);
    }
    (void)pthread_mutex_unlock(&gate.mutex);
}

/* Asks for a session, of which a piece is being made when this returns. */
static int begin_save(api_fixture *a)
{
    int fd = http_connect(&a->f);
    http_send(fd,
              "GET /v1/shoal/sessions/s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    gate_await_piece();
    return fd;
}

static void start(api_fixture *a)
{
    shoal_api_settings settings = api_test_settings();
    shoal_http_settings http = http_fixture_settings();
    settings.session_bytes_max = BODY_MAX;
    http.body_bytes_max = 4096;
    http.body_bytes_total_max = 4 * BODY_MAX;
    api_start_with(a, &settings, &http);
}

/* What fake_copy(n) is as a blob. */
static void blob_of(size_t n_ids, shoal_buf *blob)
{
    shoal_session_writer *writer = NULL;
    uint8_t piece[4096];
    size_t n = sizeof piece;
    assert_int_equal(shoal_session_writer_new(&fake_identity, fake_copy(n_ids), &writer, NULL),
                     SHOAL_OK);
    while (n == sizeof piece) {
        assert_int_equal(shoal_session_writer_read(writer, piece, sizeof piece, &n), SHOAL_OK);
        assert_int_equal(shoal_buf_append(blob, piece, n), SHOAL_OK);
    }
    shoal_session_writer_free(writer);
}

static int ask(api_fixture *a, const char *method, const char *path, const void *body, size_t n,
               shoal_buf *answer)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    assert_int_equal(shoal_buf_appendf(&q,
                                       "%s /v1/shoal/sessions%s HTTP/1.1\r\nHost: localhost\r\n"
                                       "Connection: close\r\nContent-Length: %zu\r\n\r\n",
                                       method, path, n),
                     SHOAL_OK);
    assert_int_equal(shoal_buf_append(&q, body, n), SHOAL_OK);
    shoal_buf_reset(answer);
    int fd = http_connect(&a->f);
    http_send_bytes(fd, q.data, q.length);
    http_read_all(fd, answer, 20000);
    (void)close(fd);
    return http_status(answer->data);
}

/* The body of a chunked answer, in place. */
static size_t unchunk(shoal_buf *answer)
{
    char *to = answer->data;
    char *at = strstr(answer->data, "\r\n\r\n");
    assert_non_null(at);
    assert_non_null(strstr(answer->data, "Transfer-Encoding: chunked"));
    at += 4;
    for (;;) {
        char *end = NULL;
        size_t n = strtoul(at, &end, 16);
        assert_true(strncmp(end, "\r\n", 2) == 0);
        memmove(to, end + 2, n);
        to += n;
        at = end + 2 + n + 2;
        if (n == 0) {
            return (size_t)(to - answer->data);
        }
    }
}

/* Keeps a session of so many ids, whose blob it is. */
static void put_blob(api_fixture *a, size_t n_ids, shoal_buf *blob)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    blob_of(n_ids, blob);
    assert_int_equal(ask(a, "PUT", "/s", blob->data, blob->length, &r), 200);
}

/* The rest of an answer is the rest of that blob. */
static void read_blob(int fd, shoal_buf *answer, const shoal_buf *blob)
{
    http_read_all(fd, answer, 20000);
    (void)close(fd);
    assert_int_equal(unchunk(answer), blob->length);
    assert_memory_equal(answer->data, blob->data, blob->length);
}

static void test_session_goes_in_and_out(void **state)
{
    (void)state;
    static const size_t lengths[] = {N_SHORT, N_LONG};
    for (size_t i = 0; i < SHOAL_COUNT(lengths); i++) {
        api_fixture a;
        start(&a);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
        blob_of(lengths[i], &blob);
        assert_int_equal(ask(&a, "GET", "", "", 0, &r), 200);
        json_t *j = api_body(&r);
        assert_int_equal(json_array_size(api_at(j, "sessions")), 0);
        json_decref(j);
        assert_int_equal(ask(&a, "PUT", "/p-7", blob.data, blob.length, &r), 200);
        j = api_body(&r);
        assert_string_equal(api_text_at(j, "name"), "p-7");
        assert_int_equal(json_integer_value(api_at(j, "tokens")), lengths[i]);
        json_decref(j);
        assert_int_equal(ask(&a, "GET", "", "", 0, &r), 200);
        j = api_body(&r);
        assert_string_equal(api_text_at(j, "sessions.0.name"), "p-7");
        assert_int_equal(json_integer_value(api_at(j, "sessions.0.kv_bytes")), 4096);
        json_decref(j);
        assert_int_equal(ask(&a, "GET", "/p-7", "", 0, &r), 200);
        assert_int_equal(unchunk(&r), blob.length);
        assert_memory_equal(r.data, blob.data, blob.length);
        assert_int_equal(ask(&a, "DELETE", "/p-7", "", 0, &r), 200);
        assert_int_equal(ask(&a, "GET", "/p-7", "", 0, &r), 404);
        api_stop(&a);
    }
}

static void test_reader_that_takes_its_time_gets_all(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    put_blob(&a, N_LONG, &blob);
    int fd = http_connect(&a.f);
    http_send(fd,
              "GET /v1/shoal/sessions/s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    shoal_buf_reset(&r);
    assert_true(http_read_until(fd, &r, "SHOALKVW", 1, 5000));
    /* Meanwhile the edge answers others, and holds no more of this one than a piece. */
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf other = {0};
    assert_int_equal(ask(&a, "GET", "", "", 0, &other), 200);
    read_blob(fd, &r, &blob);
    api_stop(&a);
}

static void test_clients_that_leave_free_their_places(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    put_blob(&a, N_LONG, &blob);
    for (int i = 0; i < 20; i++) { /* more than there are places */
        int fd = http_connect(&a.f);
        http_send(fd, "GET /v1/shoal/sessions/s HTTP/1.1\r\nHost: localhost\r\n\r\n");
        shoal_buf_reset(&r);
        assert_true(http_read_until(fd, &r, "SHOALKVW", 1, 5000));
        (void)close(fd);
    }
    int status = 429;
    uint64_t until = http_now_ms() + 5000;
    while (status == 429 && http_now_ms() < until) {
        status = ask(&a, "GET", "/s", "", 0, &r);
    }
    assert_int_equal(status, 200);
    api_stop(&a);
}

/* A test that finds the loop waiting at the gate ends here, by its time-out. */
static void test_loop_answers_while_a_piece_is_made(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf other = {0};
    put_blob(&a, N_LONG, &blob);
    gate_set(true);
    int fd = begin_save(&a);
    assert_int_equal(api_get(&a, "/health", &other), 200);
    assert_int_equal(ask(&a, "GET", "", "", 0, &other), 200);
    gate_set(false);
    shoal_buf_reset(&r);
    read_blob(fd, &r, &blob);
    api_stop(&a);
}

static void test_client_that_leaves_while_a_piece_is_made_frees_its_place(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    put_blob(&a, N_LONG, &blob);
    for (int i = 0; i < 6; i++) { /* more than there are places */
        gate_set(true);
        (void)close(begin_save(&a));
        assert_int_equal(api_get(&a, "/health", &r), 200);
        gate_set(false);
        shoal_buf_reset(&r);
    }
    int status = 429;
    uint64_t until = http_now_ms() + 5000;
    while (status == 429 && http_now_ms() < until) {
        status = ask(&a, "GET", "/s", "", 0, &r);
    }
    assert_int_equal(status, 200);
    /* And the edge may end while one is being made. */
    gate_set(true);
    int fd = begin_save(&a);
    http_fixture_stop_loop(&a.f);
    gate_set(false);
    (void)close(fd);
    api_stop(&a);
}

/* When the worker has as much to do as fits, a piece waits until there is room. */
static void test_piece_waits_for_the_worker(void **state)
{
    (void)state;
    enum {
        N_CALLS = 70 /* more than wait */
    };
    api_fixture a;
    shoal_api_settings settings = api_test_settings();
    shoal_http_settings http = http_fixture_settings();
    settings.session_bytes_max = BODY_MAX;
    settings.inline_bytes_max = 0;
    settings.n_calls_max = 2 * N_CALLS;
    http.n_connections_max = 2 * N_CALLS;
    api_start_with(&a, &settings, &http);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    put_blob(&a, N_LONG, &blob);
    gate_set(true);
    int saves[2] = {begin_save(&a), -1};
    int calls[N_CALLS];
    for (size_t i = 0; i < N_CALLS; i++) {
        calls[i] = http_connect(&a.f);
        http_send(calls[i], "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                            "Connection: close\r\nContent-Length: 3\r\n\r\n{ }");
    }
    shoal_buf_reset(&r);
    assert_true(http_read_until(calls[N_CALLS - 1], &r, "429", 1, 5000)); /* full */
    saves[1] = http_connect(&a.f);
    http_send(saves[1],
              "GET /v1/shoal/sessions/s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    shoal_buf_reset(&r);
    assert_int_equal(ask(&a, "GET", "", "", 0, &r), 200); /* the loop has been there */
    gate_set(false);
    for (size_t i = 0; i < SHOAL_COUNT(saves); i++) {
        shoal_buf_reset(&r);
        read_blob(saves[i], &r, &blob);
    }
    for (size_t i = 0; i < N_CALLS; i++) {
        (void)close(calls[i]);
    }
    api_stop(&a);
}

static void test_blob_that_cannot_be_made_is_an_error(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    put_blob(&a, N_LONG, &blob);
    gate_fail(SHOAL_E_NOMEM);
    int status = ask(&a, "GET", "/s", "", 0, &r);
    gate_fail(SHOAL_OK);
    assert_int_equal(status, 503);
    assert_non_null(strstr(r.data, "cannot be made"));
    assert_int_equal(ask(&a, "GET", "/s", "", 0, &r), 200);
    assert_int_equal(unchunk(&r), blob.length);
    api_stop(&a);
}

static void test_places_are_few(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    put_blob(&a, N_HUGE, &blob); /* so that each stays open */
    int fds[4];
    for (size_t i = 0; i < SHOAL_COUNT(fds); i++) {
        fds[i] = http_connect(&a.f);
        int small = 4096;
        assert_int_equal(setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
        http_send(fds[i], "GET /v1/shoal/sessions/s HTTP/1.1\r\nHost: localhost\r\n\r\n");
        shoal_buf_reset(&r);
        assert_true(http_read_until(fds[i], &r, "SHOALKVW", 1, 5000));
    }
    assert_int_equal(ask(&a, "GET", "", "", 0, &r), 429);
    for (size_t i = 0; i < SHOAL_COUNT(fds); i++) {
        (void)close(fds[i]);
    }
    api_stop(&a);
}

static void test_what_is_wrong_is_said(void **state)
{
    (void)state;
    api_fixture a;
    start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    blob_of(N_SHORT, &blob);
    for (size_t i = 0; i < blob.length; i += 3) {
        blob.data[i] = (char)(blob.data[i] ^ 4);
        int status = ask(&a, "PUT", "/s", blob.data, blob.length, &r);
        assert_true(status == 400 || status == 409);
        json_t *j = api_body(&r);
        assert_true(strncmp(api_text_at(j, "error.code"), "session_", 8) == 0);
        json_decref(j);
        blob.data[i] = (char)(blob.data[i] ^ 4);
    }
    assert_int_equal(ask(&a, "PUT", "/s", "", 0, &r), 400);
    assert_int_equal(ask(&a, "PUT", "/a%2Fb", blob.data, blob.length, &r), 400);
    assert_int_equal(ask(&a, "PUT", "/a/b", blob.data, blob.length, &r), 400);
    assert_int_equal(ask(&a, "POST", "/s", blob.data, blob.length, &r), 405);
    assert_int_equal(ask(&a, "PUT", "", blob.data, blob.length, &r), 405);
    assert_int_equal(ask(&a, "GET", "/s", "", 0, &r), 404);
    assert_int_equal(ask(&a, "DELETE", "/s", "", 0, &r), 404);
    /* Its own limit, at it and above; other bodies keep theirs. */
    char *large = shoal_calloc(BODY_MAX + 1, 1);
    assert_non_null(large);
    assert_int_equal(ask(&a, "PUT", "/s", large, BODY_MAX, &r), 400);
    assert_int_equal(ask(&a, "PUT", "/s", large, BODY_MAX + 1, &r), 413);
    assert_non_null(strstr(r.data, "session.body_max_kib"));
    assert_int_equal(ask(&a, "PUT", "/../completions", large, 5000, &r), 400);
    shoal_buf_reset(&r);
    memset(large, ' ', 5000);
    large[5000] = '\0';
    assert_int_equal(api_post(&a, "/v1/completions", large, &r), 413);
    assert_non_null(strstr(r.data, "http.body_max_kib"));
    shoal_free(large);
    static const struct {
        shoal_status code;
        int status;
    } rows[] = {{SHOAL_E_UNSUPPORTED, 400},
                {SHOAL_BUSY, 429},
                {SHOAL_E_LIMIT, 409},
                {SHOAL_E_NOMEM, 503},
                {SHOAL_E_UNAVAILABLE, 503}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        fake_session_code = rows[i].code;
        assert_int_equal(ask(&a, "GET", "", "", 0, &r), rows[i].status);
        assert_int_equal(ask(&a, "PUT", "/s", blob.data, blob.length, &r), rows[i].status);
    }
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session_goes_in_and_out),
        cmocka_unit_test(test_reader_that_takes_its_time_gets_all),
        cmocka_unit_test(test_clients_that_leave_free_their_places),
        cmocka_unit_test(test_loop_answers_while_a_piece_is_made),
        cmocka_unit_test(test_client_that_leaves_while_a_piece_is_made_frees_its_place),
        cmocka_unit_test(test_piece_waits_for_the_worker),
        cmocka_unit_test(test_blob_that_cannot_be_made_is_an_error),
        cmocka_unit_test(test_places_are_few),
        cmocka_unit_test(test_what_is_wrong_is_said),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
