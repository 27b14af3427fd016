/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HOST "Host: localhost\r\n"

enum {
    BIG_BYTES = 16 << 20, /* more than the kernel holds for a connection */
    PIECE_BYTES = 256 << 10,
    PACE_MS = 25 /* of a slow reader for a piece */
};

/* A handler with one route of each sort. /hang is answered by nobody; /flood writes until refused.
 */
typedef struct echo {
    http_fixture f;
    atomic_size_t n_requests;
    atomic_size_t n_gone;
    atomic_size_t n_flood_cut;
    atomic_size_t n_drained;
    atomic_size_t n_held;
    atomic_bool released;
    shoal_timer *timer;
    shoal_http_exchange *streaming;
    int n_left;
} echo;

static void on_head(void *ctx, shoal_http_exchange *x, shoal_http_error *error)
{
    (void)ctx;
    if (strcmp(shoal_http_path(x), "/forbidden") == 0) {
        (void)shoal_http_error_set(error, 401, NULL, "no_key", "no");
    }
}

static void stream_more(void *ctx)
{
    echo *e = ctx;
    if (!e->streaming) {
        return;
    }
    if (e->n_left-- == 0) {
        shoal_http_exchange *x = e->streaming;
        e->streaming = NULL;
        shoal_http_stream_end(x, true);
        return;
    }
    if (shoal_http_stream_write(e->streaming, "tick ", 5) != SHOAL_OK) {
        e->streaming = NULL;
        atomic_fetch_add(&e->n_gone, 1);
        return;
    }
    shoal_timer_start(e->timer, 10);
}

static void flood(echo *e, shoal_http_exchange *x)
{
    static char block[65536];
    memset(block, 'f', sizeof block);
    if (shoal_http_stream_begin(x, 200, "text/plain", NULL) != SHOAL_OK) {
        return;
    }
    for (int i = 0; i < 4096; i++) {
        if (shoal_http_stream_write(x, block, sizeof block) != SHOAL_OK) {
            atomic_fetch_add(&e->n_flood_cut, 1);
            return;
        }
    }
    shoal_http_stream_end(x, true);
}

static void big(shoal_http_exchange *x)
{
    char *body = shoal_calloc(1, BIG_BYTES);
    memset(body, 'b', BIG_BYTES);
    shoal_http_respond(x, 200, "text/plain", NULL, body, BIG_BYTES);
    shoal_free(body);
}

static void on_request(void *ctx, shoal_http_exchange *x)
{
    echo *e = ctx;
    atomic_fetch_add(&e->n_requests, 1);
    const char *path = shoal_http_path(x);
    if (strcmp(path, "/stream") == 0) {
        e->streaming = x;
        e->n_left = 5;
        if (shoal_http_stream_begin(x, 200, "text/event-stream", "Cache-Control: no-cache\r\n") !=
            SHOAL_OK) {
            e->streaming = NULL;
            return;
        }
        shoal_timer_start(e->timer, 1);
    } else if (strcmp(path, "/hang") == 0) {
        shoal_http_set_user(x, e);
    } else if (strcmp(path, "/flood") == 0) {
        flood(e, x);
    } else if (strcmp(path, "/big") == 0) {
        big(x);
    } else {
        shoal_buf body = shoal_http_take_body(x);
        if (body.length > 0) {
            shoal_http_respond(x, 200, "text/plain", NULL, body.data, body.length);
        } else {
            shoal_http_respond(x, 200, "text/plain", NULL, path, strlen(path));
        }
        shoal_buf_fini(&body);
    }
}

static void on_gone(void *ctx, shoal_http_exchange *x)
{
    echo *e = ctx;
    if (x == e->streaming) {
        e->streaming = NULL;
    }
    atomic_fetch_add(&e->n_gone, 1);
}

static void on_drained(void *ctx)
{
    echo *e = ctx;
    atomic_fetch_add(&e->n_drained, 1);
}

static void start(echo *e, const shoal_http_settings *settings)
{
    if (!e->f.loop) {
        http_fixture_loop(&e->f);
    }
    assert_int_equal(shoal_timer_new(e->f.loop, stream_more, e, &e->timer), SHOAL_OK);
    const shoal_http_handler handler = {.ctx = e,
                                        .on_head = on_head,
                                        .on_request = on_request,
                                        .on_gone = on_gone,
                                        .on_drained = on_drained};
    http_fixture_start(&e->f, settings, &handler);
}

static void stop(echo *e)
{
    http_fixture_stop_loop(&e->f);
    shoal_timer_free(e->timer);
    http_fixture_free(&e->f);
}

static void wait_for(atomic_size_t *counter, size_t value, int ms)
{
    uint64_t until = http_now_ms() + (uint64_t)ms;
    while (atomic_load(counter) < value) {
        assert_true(http_now_ms() < until);
        struct timespec pause = {.tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL);
    }
}

static void test_server_plain_request_is_answered(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    assert_int_equal(http_ask(&e.f,
                              "GET /x?q HTTP/1.1\r\n" HOST "X-Request-Id: abc.1\r\n"
                              "Connection: close\r\n\r\n",
                              &a),
                     200);
    assert_non_null(strstr(a.data, "X-Request-Id: abc.1\r\n"));
    assert_non_null(strstr(a.data, "Content-Length: 2\r\n"));
    assert_non_null(strstr(a.data, "\r\n\r\n/x"));
    assert_int_equal(http_ask(&e.f, "HEAD /x HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", &a),
                     200);
    assert_string_equal(strstr(a.data, "\r\n\r\n"), "\r\n\r\n");
    assert_int_equal(http_ask(&e.f, "GET /old HTTP/1.0\r\n\r\n", &a), 200);
    assert_int_equal(http_ask(&e.f, "GET /stream HTTP/1.0\r\n\r\n", &a), 200);
    assert_null(strstr(a.data, "chunked"));
    assert_non_null(strstr(a.data, "\r\n\r\ntick tick tick tick tick "));
    /* An id that could break a log or a header is replaced. */
    assert_int_equal(http_ask(&e.f,
                              "GET / HTTP/1.1\r\n" HOST "X-Request-Id: a b\r\n"
                              "Connection: close\r\n\r\n",
                              &a),
                     200);
    assert_non_null(strstr(a.data, "X-Request-Id: req-"));
    stop(&e);
}

static void test_server_bytes_one_by_one_are_the_same(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    static const char request[] =
        "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello"
        "POST /echo HTTP/1.1\r\n" HOST
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        "GET /end HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n";
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    int fd = http_connect(&e.f);
    for (size_t i = 0; i < sizeof request - 1; i++) {
        http_send_bytes(fd, request + i, 1);
    }
    http_read_all(fd, &a, 20000);
    (void)close(fd);
    assert_int_equal(http_count(a.data, "HTTP/1.1 200 OK"), 3);
    assert_non_null(strstr(a.data, "\r\n\r\nhelloHTTP/1.1"));
    assert_non_null(strstr(a.data, "\r\n\r\nabcdeHTTP/1.1"));
    assert_non_null(strstr(a.data, "\r\n\r\n/end"));
    stop(&e);
}

static void test_server_pipeline_is_answered_in_order(void **state)
{
    (void)state;
    enum {
        N = 500
    };
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.write_bytes_max = 8192; /* the pipeline must wait for its reader */
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    for (int i = 0; i < N; i++) {
        assert_int_equal(shoal_buf_appendf(&out, "GET /n%d. HTTP/1.1\r\n" HOST "\r\n", i),
                         SHOAL_OK);
    }
    assert_int_equal(shoal_buf_appendf(&out,
                                       "GET /stream HTTP/1.1\r\n" HOST "\r\n"
                                       "GET /last HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"),
                     SHOAL_OK);
    int fd = http_connect(&e.f);
    http_send_bytes(fd, out.data, out.length);
    http_read_all(fd, &a, 10000);
    (void)close(fd);
    const char *p = a.data;
    for (int i = 0; i < N; i++) {
        char want[32];
        (void)snprintf(want, sizeof want, "\r\n\r\n/n%d.", i);
        p = strstr(p, want);
        assert_non_null(p);
    }
    p = strstr(p, "5\r\ntick \r\n0\r\n\r\nHTTP/1.1 200");
    assert_non_null(p);
    assert_non_null(strstr(p, "/last"));
    assert_int_equal(atomic_load(&e.n_requests), N + 2);
    stop(&e);
}

static void test_pages_of_known_origins_may_call(void **state)
{
    (void)state;
    static const struct {
        const char *origins;
        const char *request;
        int status;
        const char *says;
    } rows[] = {
        {"https://app.example, http://localhost:3000",
         "GET /a HTTP/1.1\r\n" HOST "Origin: https://app.example\r\nConnection: close\r\n\r\n", 200,
         "Access-Control-Allow-Origin: https://app.example\r\nVary: Origin\r\n"},
        {"https://app.example, http://localhost:3000",
         "OPTIONS /a HTTP/1.1\r\n" HOST "Origin: http://localhost:3000\r\n"
         "Access-Control-Request-Method: POST\r\n"
         "Access-Control-Request-Headers: authorization,x-stainless-os\r\n"
         "Access-Control-Request-Private-Network: true\r\nConnection: close\r\n\r\n",
         200, "Access-Control-Allow-Headers: authorization,x-stainless-os\r\n"},
        {"*",
         "OPTIONS /forbidden HTTP/1.1\r\n" HOST "Origin: null\r\nConnection: close\r\n"
         "Access-Control-Request-Method: POST\r\n\r\n",
         200, "Access-Control-Allow-Methods: GET, POST"},
        /* A refusal must be readable too, and a preflight is answered only with its own question.
         */
        {"*", "GET /forbidden HTTP/1.1\r\n" HOST "Origin: https://x\r\nConnection: close\r\n\r\n",
         401, "Access-Control-Allow-Origin: https://x\r\n"},
        {"https://app.example",
         "OPTIONS /a HTTP/1.1\r\n" HOST "Origin: https://app.example\r\nConnection: close\r\n\r\n",
         200, "/a"},
        {"https://app.example",
         "GET /a HTTP/1.1\r\n" HOST "Origin: https://app.example.evil\r\n\r\n", 403,
         "api.cors_origins"},
        {"https://app.example", "GET /a HTTP/1.1\r\n" HOST "Origin: http://app.example\r\n\r\n",
         403, "api.cors_origins"},
        {"https://app.example",
         "OPTIONS /a HTTP/1.1\r\n" HOST "Origin: https://evil.example\r\n"
         "Access-Control-Request-Method: POST\r\n\r\n",
         403, "api.cors_origins"},
        {"*", "GET /a HTTP/1.1\r\nHost: evil.example\r\nOrigin: https://x\r\n\r\n", 403,
         "listen.hosts"},
        /* What has no value must not be taken for the line behind it. */
        {"*", "GET /a HTTP/1.1\r\n" HOST "Origin: \r\nX-More: 1\r\n\r\n", 403, "api.cors_origins"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        echo e = {0};
        shoal_http_settings s = http_fixture_settings();
        s.origins = rows[i].origins;
        start(&e, &s);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
        int status = http_ask(&e.f, rows[i].request, &a);
        if (status != rows[i].status || !strstr(a.data, rows[i].says)) {
            fail_msg("row %zu gave %s", i, a.data);
        }
        assert_true(status != 403 || !strstr(a.data, "Access-Control"));
        stop(&e);
    }
}

typedef struct bad_row {
    const char *request;
    int status;
    const char *says;
} bad_row;

static const bad_row bad_rows[] = {
    {"GET / HTTP/1.1\r\n\r\n", 400, "Host"},
    {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, "Host"},
    {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 403, "Host"},
    {"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "listen.hosts"},
    {"GET / HTTP/1.1\r\n" HOST "Origin: http://evil.example\r\n\r\n", 403, "origin"},
    {"GET / HTTP/1.1\r\n" HOST "Origin: null\r\n\r\n", 403, "origin"},
    {"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, "space"},
    {"GET / HTTP/1.1\r\n" HOST " folded: 1\r\n\r\n", 400, "folded"},
    {"GET / HTTP/1.1\n" HOST "\r\n", 400, "CRLF"},
    {"GET / HTTP/1.1\r\nHost: localhost\n\r\n", 400, "LF"},
    {"GET http://localhost/ HTTP/1.1\r\n" HOST "\r\n", 400, "target"},
    {"CONNECT localhost:80 HTTP/1.1\r\n" HOST "\r\n", 400, "target"},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 400, "target"},
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 505, "HTTP/1.1"},
    {"GET / HTTP/9.9\r\n" HOST "\r\n", 505, "HTTP/1.1"},
    {"GET / HTTX/1.1\r\n" HOST "\r\n", 400, "HTTP"},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"},
    {"BREW /pot HTTP/1.1\r\n" HOST "\r\n", 501, "method"},
    /* Smuggling: two framings, or one that two readers could read differently. */
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
     400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\na", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\na", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\na", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0x1\r\n\r\na", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\na", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551615\r\n\r\na", 413, "body"},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n"
     "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 501, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b"
     "chunked\r\n\r\n0\r\n\r\n",
     400, NULL},
    {"POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nz\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\n\r\n", 400,
     "extension"},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n", 400,
     NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", 400,
     "trailers"},
    {"POST / HTTP/1.1\r\n" HOST "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", 415, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Expect: tea\r\nContent-Length: 1\r\n\r\na", 417, NULL},
    {"POST /forbidden HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\n", 401, "no"},
};

static void test_server_bad_requests_are_refused_with_json(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    for (size_t i = 0; i < SHOAL_COUNT(bad_rows); i++) {
        int status = http_ask(&e.f, bad_rows[i].request, &a);
        /* A chunk of 4 GiB is refused when its bytes come, not when it is announced. */
        if (bad_rows[i].status == 413 && status == 408) {
            continue;
        }
        if (status != bad_rows[i].status || http_count(a.data, "\r\nDate: ") != 1) {
            fail_msg("row %zu: %s\ngave %s", i, bad_rows[i].request, a.data);
        }
        assert_non_null(strstr(a.data, "Connection: close\r\n"));
        assert_non_null(strstr(a.data, "{\"error\":{\"message\":\""));
        assert_non_null(strstr(a.data, "X-Request-Id: req-"));
        if (bad_rows[i].says) {
            assert_non_null(strstr(strstr(a.data, "\r\n\r\n"), bad_rows[i].says));
        }
    }
    assert_int_equal(atomic_load(&e.n_requests), 0);
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", &a),
                     200);
    stop(&e);
}

static void test_server_limits_hold_at_the_edge(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.body_bytes_max = 1000;
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    for (size_t n = 999; n <= 1001; n++) {
        for (int chunked = 0; chunked < 2; chunked++) {
            shoal_buf_reset(&q);
            assert_int_equal(
                chunked ? shoal_buf_appendf(
                              &q,
                              "POST /e HTTP/1.1\r\n" HOST "Connection: close\r\n"
                              "Transfer-Encoding: chunked\r\n\r\n%zx\r\n%0*d\r\n0\r\n\r\n",
                              n, (int)n, 7)
                        : shoal_buf_appendf(&q,
                                            "POST /e HTTP/1.1\r\n" HOST "Connection: close\r\n"
                                            "Content-Length: %zu\r\n\r\n%0*d",
                                            n, (int)n, 7),
                SHOAL_OK);
            assert_int_equal(http_ask(&e.f, q.data, &a), n > 1000 ? 413 : 200);
        }
    }
    for (int d = -1; d <= 1; d++) {
        shoal_buf_reset(&q);
        assert_int_equal(
            shoal_buf_appendf(&q, "GET /%0*d HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n",
                              8191 + d, 1),
            SHOAL_OK);
        assert_int_equal(http_ask(&e.f, q.data, &a), d > 0 ? 414 : 200);
        shoal_buf_reset(&q);
        size_t fixed = strlen("GET / HTTP/1.1\r\n" HOST "Connection: close\r\nX: \r\n\r\n");
        assert_int_equal(
            shoal_buf_appendf(&q, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\nX: %0*d\r\n\r\n",
                              (int)(16384 - fixed) + d, 1),
            SHOAL_OK);
        assert_int_equal(http_ask(&e.f, q.data, &a), d > 0 ? 431 : 200);
        shoal_buf_reset(&q);
        assert_int_equal(shoal_buf_appendf(&q, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n"),
                         SHOAL_OK);
        for (int i = 0; i < 98 + d; i++) {
            assert_int_equal(shoal_buf_appendf(&q, "X: y\r\n"), SHOAL_OK);
        }
        assert_int_equal(shoal_buf_appendf(&q, "\r\n"), SHOAL_OK);
        assert_int_equal(http_ask(&e.f, q.data, &a), d > 0 ? 431 : 200);
    }
    stop(&e);
}

static void test_server_huge_body_is_refused_early(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    static char block[65536];
    int fd = http_connect(&e.f);
    http_send(fd, "POST /e HTTP/1.1\r\n" HOST "Content-Length: 67108864\r\n\r\n");
    for (int i = 0; i < 64; i++) { /* the client pushes on; the answer must survive that */
        http_send_bytes(fd, block, sizeof block);
    }
    http_read_all(fd, &a, 20000);
    assert_int_equal(http_status(a.data), 413);
    assert_non_null(strstr(a.data, "http.body_max_kib"));
    (void)close(fd);
    /* With 100-continue nothing needs to be sent at all. */
    assert_int_equal(http_ask(&e.f,
                              "POST /e HTTP/1.1\r\n" HOST
                              "Expect: 100-continue\r\nContent-Length: 67108864\r\n\r\n",
                              &a),
                     413);
    assert_null(strstr(a.data, "100 Continue"));
    stop(&e);
}

static void test_server_expect_continue_is_answered(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    int fd = http_connect(&e.f);
    http_send(fd, "POST /e HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n"
                  "Connection: close\r\n\r\n");
    assert_true(http_read_until(fd, &a, "HTTP/1.1 100 Continue\r\n\r\n", 1, 2000));
    http_send(fd, "abc");
    http_read_all(fd, &a, 20000);
    (void)close(fd);
    assert_non_null(strstr(a.data, "HTTP/1.1 200 OK"));
    assert_non_null(strstr(a.data, "\r\n\r\nabc"));
    stop(&e);
}

static void test_server_memory_of_all_bodies_is_bounded(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.body_bytes_max = 1000;
    s.body_bytes_total_max = 1500;
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    char most[900];
    memset(most, 'x', sizeof most);
    int first = http_connect(&e.f);
    http_send(first, "POST /e HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n\r\n");
    http_send_bytes(first, most, sizeof most);
    int second = http_connect(&e.f);
    http_send(second, "POST /e HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n\r\n");
    http_send_bytes(second, most, sizeof most);
    /* Whichever came second is refused; one of both sockets answers now. */
    struct timeval wait = {.tv_usec = 500000};
    (void)setsockopt(first, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    char probe[512] = {0};
    ssize_t n = recv(first, probe, sizeof probe - 1, 0);
    if (n <= 0) {
        http_read_all(second, &a, 3000);
        assert_int_equal(http_status(a.data), 503);
        assert_non_null(strstr(a.data, "Retry-After: "));
        http_send_bytes(first, most, 100);
        shoal_buf_reset(&a);
        assert_true(http_read_until(first, &a, "HTTP/1.1 200", 1, 3000));
    } else {
        assert_int_equal(http_status(probe), 503);
    }
    (void)close(first);
    (void)close(second);
    stop(&e);
}

static void test_server_slow_senders_are_timed_out(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.header_ms = 300;
    s.body_ms = 300;
    s.idle_ms = 300;
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    uint64_t begin = http_now_ms();
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\nHos", &a), 408);
    assert_int_equal(http_ask(&e.f, "POST / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\na", &a),
                     408);
    assert_int_equal(http_ask(&e.f, "", &a), 0);
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\n" HOST "\r\n", &a), 200);
    assert_true(http_now_ms() - begin < 6000);
    /* A byte now and then does not move the deadline. */
    int fd = http_connect(&e.f);
    begin = http_now_ms();
    for (int i = 0; i < 20; i++) {
        http_send(fd, i == 0 ? "G" : i == 1 ? "E" : i == 2 ? "T" : i == 3 ? " " : "/");
        struct timespec pause = {.tv_nsec = 50000000};
        (void)nanosleep(&pause, NULL);
    }
    shoal_buf_reset(&a);
    http_read_all(fd, &a, 3000);
    assert_int_equal(http_status(a.data), 408);
    (void)close(fd);
    stop(&e);
}

static void test_server_half_open_connections_leave_room(void **state)
{
    (void)state;
    enum {
        N = 200
    };
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.header_ms = 10000;
    start(&e, &s);
    int fds[N];
    for (int i = 0; i < N; i++) {
        fds[i] = http_connect(&e.f);
        http_send(fds[i], "POST /v1/completions HTTP/1.1\r\nHost: loc");
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    uint64_t begin = http_now_ms();
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", &a),
                     200);
    assert_true(http_now_ms() - begin < 1000);
    for (int i = 0; i < N; i++) {
        (void)close(fds[i]);
    }
    stop(&e);
}

static void test_server_full_house_evicts_idle_then_refuses(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.n_connections_max = 2;
    s.idle_ms = 10000;
    s.header_ms = 10000;
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    int idle = http_connect(&e.f);
    http_send(idle, "GET /idle HTTP/1.1\r\n" HOST "\r\n");
    assert_true(http_read_until(idle, &a, "/idle", 1, 2000));
    int hang = http_connect(&e.f);
    http_send(hang, "GET /hang HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&e.n_requests, 2, 20000);
    int third = http_connect(&e.f);
    http_send(third, "GET /hang HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&e.n_requests, 3, 20000);
    shoal_buf_reset(&a);
    http_read_all(idle, &a, 2000); /* closed to make room */
    assert_int_equal(a.length, 0);
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\n" HOST "\r\n", &a), 503);
    assert_non_null(strstr(a.data, "Retry-After: "));
    assert_non_null(strstr(a.data, "http.connections_max"));
    (void)close(idle);
    (void)close(hang);
    (void)close(third);
    wait_for(&e.n_gone, 2, 20000);
    stop(&e);
}

static void test_server_gone_client_is_told(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    int fd = http_connect(&e.f);
    http_send(fd, "GET /hang HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&e.n_requests, 1, 20000);
    (void)close(fd);
    wait_for(&e.n_gone, 1, 20000);
    fd = http_connect(&e.f);
    http_send(fd, "GET /stream HTTP/1.1\r\n" HOST "\r\n");
    assert_true(http_read_until(fd, &a, "tick", 1, 2000));
    (void)close(fd);
    wait_for(&e.n_gone, 2, 20000);
    /* Reset instead of an orderly end. */
    fd = http_connect(&e.f);
    http_send(fd, "GET /hang HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&e.n_requests, 3, 20000);
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    (void)close(fd);
    wait_for(&e.n_gone, 3, 20000);
    stop(&e);
}

/* How many connections were cut since nobody read them. */
static double n_stalled(const echo *e)
{
    static const char name[] = "\nshoal_http_readers_stalled_total ";
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    assert_int_equal(shoal_metrics_render(e->f.metrics, &text), SHOAL_OK);
    const char *at = strstr(text.data, name);
    assert_non_null(at);
    return strtod(at + sizeof name - 1, NULL);
}

static void hold_loop(void *ctx)
{
    echo *e = ctx;
    atomic_fetch_add(&e->n_held, 1);
    while (!atomic_load(&e->released)) {
        (void)usleep(1000);
    }
}

static void test_server_readers_that_stall_are_cut(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.stall_ms = 300;
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    int fd = http_connect(&e.f);
    http_send(fd, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&e.n_flood_cut, 1, 20000);
    (void)close(fd);
    /* A whole answer that is never read ends with the stall timer. */
    fd = http_connect(&e.f);
    int small = 4096;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    http_send(fd, "GET /big HTTP/1.1\r\n" HOST "\r\n");
    uint64_t until = http_now_ms() + 20000;
    while (n_stalled(&e) < 2) { /* the flood was the first */
        assert_true(http_now_ms() < until);
        (void)usleep(1000);
    }
    http_read_all(fd, &a, 20000); /* reset, so nothing is owed */
    assert_true(a.length < BIG_BYTES);
    (void)close(fd);
    stop(&e);
}

/* Reads to the end, a piece every PACE_MS; bytes, and how far behind that pace the reader was. */
static size_t read_paced(int fd, uint64_t *ret_late_ms)
{
    static char piece[PIECE_BYTES];
    uint64_t begin = http_now_ms();
    size_t n_read = 0;
    *ret_late_ms = 0;
    for (uint64_t i = 0;; i++) {
        size_t n_piece = 0;
        while (n_piece < PIECE_BYTES) {
            ssize_t n = recv(fd, piece + n_piece, PIECE_BYTES - n_piece, 0);
            if (n <= 0) {
                return n_read + n_piece;
            }
            n_piece += (size_t)n;
        }
        n_read += n_piece;
        (void)usleep(PACE_MS * 1000);
        uint64_t due = begin + (i + 1) * PACE_MS;
        uint64_t now = http_now_ms();
        *ret_late_ms = SHOAL_MAX(*ret_late_ms, now > due ? now - due : 0);
    }
}

/* Neither a reader that takes several stall_ms for an answer, nor one that reads while the loop is
 * held up for longer than that. */
static void test_server_slow_readers_get_all(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    shoal_wake *hold = NULL;
    s.stall_ms = 1000;
    http_fixture_loop(&e.f);
    assert_int_equal(shoal_wake_new(e.f.loop, hold_loop, &e, &hold), SHOAL_OK);
    start(&e, &s);
    size_t n_read = 0;
    for (size_t round = 1; n_read < BIG_BYTES; round++) {
        uint64_t late_ms = 0;
        int fd = http_connect(&e.f);
        atomic_store(&e.released, false);
        http_send(fd, "GET /big HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
        wait_for(&e.n_requests, round, 20000);
        shoal_wake_send(hold);
        wait_for(&e.n_held, round, 20000);
        static char taken[65536];
        for (n_read = 0; n_read < BIG_BYTES / 16;) {
            ssize_t n = recv(fd, taken, sizeof taken, 0);
            assert_true(n > 0);
            n_read += (size_t)n;
        }
        (void)usleep(1000 * (s.stall_ms + 100));
        atomic_store(&e.released, true);
        n_read += read_paced(fd, &late_ms);
        (void)close(fd);
        /* Who was late itself may have been cut rightly: once more. */
        assert_true(n_read > BIG_BYTES || (late_ms > s.stall_ms / 2 && round < 10));
    }
    http_fixture_stop_loop(&e.f);
    shoal_wake_free(hold);
    stop(&e);
}

static void drain_it(void *ctx)
{
    echo *e = ctx;
    shoal_http_server_drain(e->f.server);
}

static void test_server_drain_finishes_streams_and_closes_idle(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.idle_ms = 20000;
    shoal_wake *drain = NULL;
    http_fixture_loop(&e.f);
    assert_int_equal(shoal_wake_new(e.f.loop, drain_it, &e, &drain), SHOAL_OK);
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf b = {0};
    int idle = http_connect(&e.f);
    http_send(idle, "GET /idle HTTP/1.1\r\n" HOST "\r\n");
    assert_true(http_read_until(idle, &a, "/idle", 1, 2000));
    int stream = http_connect(&e.f);
    http_send(stream, "GET /stream HTTP/1.1\r\n" HOST "\r\n");
    assert_true(http_read_until(stream, &b, "tick", 1, 2000));
    shoal_wake_send(drain);
    http_read_all(idle, &a, 20000);
    http_read_all(stream, &b, 20000);
    assert_int_equal(http_count(b.data, "tick "), 5);
    assert_non_null(strstr(b.data, "\r\n0\r\n\r\n"));
    wait_for(&e.n_drained, 1, 20000);
    (void)close(idle);
    (void)close(stream);
    http_fixture_stop_loop(&e.f);
    shoal_wake_free(drain);
    stop(&e);
}

static void test_server_unix_socket_serves_and_guards(void **state)
{
    (void)state;
    char dir[] = "shoal-http-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char path[64];
    (void)snprintf(path, sizeof path, "%s/s", dir);
    for (int round = 0; round < 2; round++) {
        echo e = {0};
        shoal_http_settings s = http_fixture_settings();
        s.address = "";
        s.unix_path = path;
        start(&e, &s);
        struct sockaddr_un u = {.sun_family = AF_UNIX};
        memcpy(u.sun_path, path, strlen(path) + 1);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (const struct sockaddr *)&u, sizeof u), 0);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
        http_send(fd, "GET /u HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n");
        http_read_all(fd, &a, 20000);
        assert_int_equal(http_status(a.data), 200);
        (void)close(fd);
        /* A second server finds the place taken. */
        shoal_http_server *other = NULL;
        shoal_loop *loop = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_loop_new(&loop, &err), SHOAL_OK);
        const shoal_http_handler none = {.on_request = on_request, .on_gone = on_gone};
        assert_int_equal(shoal_http_server_new(loop, &s, &none, NULL, &other, &err), SHOAL_E_IO);
        assert_non_null(strstr(err.text, "another process"));
        shoal_loop_free(loop);
        stop(&e);
        if (round == 0) { /* a file left behind by a crash is cleared */
            fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            assert_int_equal(bind(fd, (const struct sockaddr *)&u, sizeof u), 0);
            (void)close(fd);
        }
    }
    (void)unlink(path);
    (void)rmdir(dir);
}

static void test_server_bad_addresses_are_named(void **state)
{
    (void)state;
    static const char *const bad[] = {"",           "nonsense",      "127.0.0.1",
                                      "127.0.0.1:", "1.2.3.4:99999", "example.com:80",
                                      "[::1:80",    "300.0.0.1:80",  ":80"};
    shoal_loop *loop = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_loop_new(&loop, &err), SHOAL_OK);
    const shoal_http_handler none = {.on_request = on_request, .on_gone = on_gone};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_http_settings s = http_fixture_settings();
        s.address = bad[i];
        shoal_http_server *server = NULL;
        shoal_err_clear(&err);
        assert_int_not_equal(shoal_http_server_new(loop, &s, &none, NULL, &server, &err), SHOAL_OK);
        assert_non_null(strstr(err.text, "listen.address"));
    }
    shoal_loop_free(loop);
}

/* With no descriptor left, accepting must not turn the loop without pause. */
static void test_server_out_of_descriptors_does_not_spin(void **state)
{
    (void)state;
    enum {
        N = 64
    };
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    s.n_connections_max = 16;
    start(&e, &s);
    int fds[N];
    for (int i = 0; i < N; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fds[i] >= 0);
    }
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit tight = {.rlim_cur = (rlim_t)fds[N - 1] + 1, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    struct sockaddr_storage at;
    memset(&at, 0, sizeof at);
    for (int i = 0; i < N; i++) {
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)&at;
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)e.f.port);
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        (void)connect(fds[i], (const struct sockaddr *)&at, sizeof *in);
    }
    struct rusage a;
    struct rusage b;
    struct timespec pause = {.tv_nsec = 50000000};
    (void)nanosleep(&pause, NULL);
    assert_int_equal(getrusage(RUSAGE_SELF, &a), 0);
    pause.tv_nsec = 500000000;
    (void)nanosleep(&pause, NULL);
    assert_int_equal(getrusage(RUSAGE_SELF, &b), 0);
    double cpu =
        (double)(b.ru_utime.tv_sec + b.ru_stime.tv_sec - a.ru_utime.tv_sec - a.ru_stime.tv_sec) +
        1e-6 * (double)(b.ru_utime.tv_usec + b.ru_stime.tv_usec - a.ru_utime.tv_usec -
                        a.ru_stime.tv_usec);
    assert_true(cpu < 0.25);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (int i = 0; i < N; i++) {
        (void)close(fds[i]);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf answer = {0};
    pause.tv_nsec = 100000000;
    (void)nanosleep(&pause, NULL);
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", &answer),
                     200);
    stop(&e);
}

/* Whatever allocation fails, the connection may be lost but nothing else. */
static void test_server_failing_allocations_lose_one_connection(void **state)
{
    (void)state;
    echo e = {0};
    shoal_http_settings s = http_fixture_settings();
    start(&e, &s);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    bool whole = false;
    for (uint64_t i = 0; i < 200 && !whole; i++) {
        int fd = http_connect(&e.f);
        shoal_buf_reset(&a);
        assert_int_equal(shoal_buf_append(&a, "", 0), SHOAL_OK);
        static const char request[] =
            "POST /e HTTP/1.1\r\n" HOST "Content-Length: 3\r\nConnection: close\r\n\r\nabc";
        struct timespec pause = {.tv_nsec = 2000000};
        (void)nanosleep(&pause, NULL);
        shoal_mem_fail_at(i);
        http_send_bytes(fd, request, sizeof request - 1);
        char answer[4096] = {0};
        size_t n = 0;
        for (;;) {
            ssize_t got = recv(fd, answer + n, sizeof answer - 1 - n, 0);
            if (got <= 0) {
                break;
            }
            n += (size_t)got;
        }
        shoal_mem_fail_at(UINT64_MAX);
        (void)close(fd);
        whole = http_status(answer) == 200 && strstr(answer, "\r\n\r\nabc") != NULL;
    }
    assert_true(whole);
    assert_int_equal(http_ask(&e.f, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", &a),
                     200);
    stop(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_server_plain_request_is_answered),
        cmocka_unit_test(test_server_bytes_one_by_one_are_the_same),
        cmocka_unit_test(test_server_pipeline_is_answered_in_order),
        cmocka_unit_test(test_pages_of_known_origins_may_call),
        cmocka_unit_test(test_server_bad_requests_are_refused_with_json),
        cmocka_unit_test(test_server_limits_hold_at_the_edge),
        cmocka_unit_test(test_server_huge_body_is_refused_early),
        cmocka_unit_test(test_server_expect_continue_is_answered),
        cmocka_unit_test(test_server_memory_of_all_bodies_is_bounded),
        cmocka_unit_test(test_server_slow_senders_are_timed_out),
        cmocka_unit_test(test_server_half_open_connections_leave_room),
        cmocka_unit_test(test_server_full_house_evicts_idle_then_refuses),
        cmocka_unit_test(test_server_gone_client_is_told),
        cmocka_unit_test(test_server_readers_that_stall_are_cut),
        cmocka_unit_test(test_server_slow_readers_get_all),
        cmocka_unit_test(test_server_drain_finishes_streams_and_closes_idle),
        cmocka_unit_test(test_server_unix_socket_serves_and_guards),
        cmocka_unit_test(test_server_bad_addresses_are_named),
        cmocka_unit_test(test_server_out_of_descriptors_does_not_spin),
        cmocka_unit_test(test_server_failing_allocations_lose_one_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
