/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations endpoint over a real socket: what it says, and what it does with bytes nobody
 * should send.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/server/ops.h"
#include "common/base/thread.h"
#include "common/obs/log.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    N_CONNECTIONS = 8,
    ANSWER_BYTES = 8192
};

typedef struct stand {
    shoal_loop *loop;
    shoal_wake *stop;
    shoal_thread *thread;
    shoal_metrics *registry;
    shoal_metric *metric;
    shoal_ops *ops;
    int port;
} stand;

static stand s;
static atomic_bool sick;
static atomic_bool shut;
static atomic_int n_refreshed;

static const char *unhealthy(void *ctx)
{
    (void)ctx;
    return atomic_load(&sick) ? "the engine sleeps" : NULL;
}

static const char *unready(void *ctx)
{
    return atomic_load(&shut) ? "draining" : unhealthy(ctx);
}

static void refresh(void *ctx)
{
    (void)ctx;
    shoal_metric_set(s.metric, atomic_fetch_add(&n_refreshed, 1) + 1);
}

static void stop(void *ctx)
{
    shoal_loop_stop(ctx);
}

static void turn(void *ctx)
{
    shoal_loop_run(ctx);
}

static int set_up(void **state)
{
    (void)state;
    static const shoal_metric_def def = {"shoal_test_refreshed", "Scrapes.", "",
                                         SHOAL_METRIC_GAUGE,     NULL,       0};
    const shoal_ops_view view = {.unhealthy = unhealthy, .unready = unready, .refresh = refresh};
    const shoal_ops_settings settings = {
        .address = "127.0.0.1:0", .hosts = "node-7", .n_connections_max = N_CONNECTIONS};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_log_set_level(SHOAL_LOG_ERROR);
    if (shoal_loop_new(&s.loop, &err) != SHOAL_OK ||
        shoal_wake_new(s.loop, stop, s.loop, &s.stop) != SHOAL_OK ||
        shoal_metrics_new(&s.registry) != SHOAL_OK ||
        shoal_metrics_add(s.registry, &def, &s.metric) != SHOAL_OK ||
        shoal_ops_new(s.loop, &settings, &view, s.registry, &s.ops, &err) != SHOAL_OK) {
        fprintf(stderr, "set_up: %s\n", err.text);
        return -1;
    }
    s.port = (int)strtol(strrchr(shoal_ops_address(s.ops), ':') + 1, NULL, 10);
    return shoal_thread_start(SHOAL_ROLE_LOOP, "test-loop", turn, s.loop, &s.thread);
}

static int tear_down(void **state)
{
    (void)state;
    shoal_wake_send(s.stop);
    shoal_thread_join(s.thread);
    shoal_ops_free(s.ops);
    shoal_wake_free(s.stop);
    shoal_loop_free(s.loop);
    shoal_metrics_free(s.registry);
    return 0;
}

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)s.port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

/* The whole answer to bytes, in pieces of at most n_piece; the status, 0: none came. */
static int say(const char *bytes, size_t n, size_t n_piece, char answer[ANSWER_BYTES])
{
    int fd = dial();
    for (size_t at = 0; at < n; at += n_piece) {
        if (send(fd, bytes + at, SHOAL_MIN(n_piece, n - at), MSG_NOSIGNAL) < 0) {
            break; /* refused already */
        }
    }
    size_t used = 0;
    ssize_t got = 0;
    while (used < ANSWER_BYTES - 1 &&
           (got = recv(fd, answer + used, ANSWER_BYTES - 1 - used, 0)) > 0) {
        used += (size_t)got;
    }
    answer[used] = '\0';
    (void)close(fd);
    return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? (int)strtol(answer + 9, NULL, 10) : 0;
}

static int ask(const char *method, const char *path, char answer[ANSWER_BYTES])
{
    char request[512];
    int n = snprintf(request, sizeof(request),
                     "%s %s HTTP/1.1\r\nHost: node-7\r\n"
                     "Connection: close\r\n\r\n",
                     method, path);
    return say(request, (size_t)n, (size_t)n, answer);
}

static void test_probes_say_what_they_are_told(void **state)
{
    (void)state;
    char answer[ANSWER_BYTES];
    assert_int_equal(ask("GET", "/healthz", answer), 200);
    assert_non_null(strstr(answer, "\r\n\r\nok"));
    assert_int_equal(ask("GET", "/readyz", answer), 200);
    atomic_store(&shut, true);
    assert_int_equal(ask("GET", "/readyz", answer), 503);
    assert_non_null(strstr(answer, "draining"));
    assert_int_equal(ask("GET", "/healthz", answer), 200);
    atomic_store(&shut, false);
    atomic_store(&sick, true);
    assert_int_equal(ask("GET", "/healthz", answer), 503);
    assert_non_null(strstr(answer, "the engine sleeps"));
    assert_int_equal(ask("GET", "/readyz", answer), 503);
    atomic_store(&sick, false);
    assert_int_equal(ask("HEAD", "/readyz", answer), 200);
    assert_null(strstr(answer, "\r\n\r\nok"));
}

static void test_metrics_are_fresh_at_each_scrape(void **state)
{
    (void)state;
    char answer[ANSWER_BYTES];
    for (int i = 0; i < 2; i++) {
        int before = atomic_load(&n_refreshed);
        char line[64];
        assert_int_equal(ask("GET", "/metrics", answer), 200);
        snprintf(line, sizeof(line), "\nshoal_test_refreshed %d\n", before + 1);
        assert_non_null(strstr(answer, line));
        assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4"));
    }
}

static void test_everything_else_is_refused_by_name(void **state)
{
    (void)state;
    char answer[ANSWER_BYTES];
    assert_int_equal(ask("POST", "/metrics", answer), 405);
    assert_non_null(strstr(answer, "Allow: GET, HEAD"));
    assert_int_equal(ask("GET", "/", answer), 404);
    assert_non_null(strstr(answer, "/healthz, /readyz and /metrics"));
    assert_int_equal(ask("GET", "/metrics/", answer), 404);
    assert_int_equal(ask("GET", "/%6detrics", answer), 404);
    assert_int_equal(ask("GET", "/healthz?x=1", answer), 200);
}

static void test_hostile_bytes_get_a_status_and_cost_nobody(void **state)
{
    (void)state;
    static char flood[24000];
    memset(flood, 'y', sizeof(flood));
    int n = snprintf(flood, sizeof(flood), "GET /metrics HTTP/1.1\r\nHost: node-7\r\nX: ");
    flood[n] = 'y';
    static const struct {
        const char *bytes;
        int status;
    } rows[] = {
        {"GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n", 403},
        {"GET /metrics HTTP/1.1\r\n\r\n", 400},
        {"GET /metrics HTTP/1.1\nHost: node-7\n\n", 400},
        {"GET /metrics HTTP/1.1\r\nHost: node-7\r\nContent-Length: 5000\r\n\r\n", 413},
        {"GET /metrics HTTP/1.1\r\nHost: node-7\r\nContent-Length: 1\r\n"
         "Transfer-Encoding: chunked\r\n\r\n",
         400},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
    };
    char answer[ANSWER_BYTES];
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        size_t length = strlen(rows[i].bytes);
        length = rows[i].bytes[0] == '\x16' ? 11 : length;
        int whole = say(rows[i].bytes, length, length, answer);
        int pieces = say(rows[i].bytes, length, 1, answer);
        if (whole != rows[i].status || pieces != rows[i].status) {
            fail_msg("row %zu: %d and %d, not %d", i, whole, pieces, rows[i].status);
        }
    }
    assert_int_equal(say(rows[0].bytes, strlen(rows[0].bytes), 4096, answer), 403);
    assert_non_null(strstr(answer, "http.hosts")); /* the setting of this program */
    assert_int_equal(say(flood, sizeof(flood), sizeof(flood), answer), 431);
    assert_int_equal(ask("GET", "/healthz", answer), 200);
}

static void test_connections_have_a_limit(void **state)
{
    (void)state;
    int fds[N_CONNECTIONS];
    char answer[ANSWER_BYTES];
    for (size_t i = 0; i < N_CONNECTIONS; i++) {
        fds[i] = dial();
        assert_int_equal(send(fds[i], "GET /m", 6, MSG_NOSIGNAL), 6);
    }
    assert_int_equal(ask("GET", "/healthz", answer), 503);
    assert_non_null(strstr(answer, "http.connections_max"));
    for (size_t i = 0; i < N_CONNECTIONS; i++) {
        (void)close(fds[i]);
    }
    while (ask("GET", "/healthz", answer) != 200) {
    }
}

static void test_address_in_use_names_the_key(void **state)
{
    (void)state;
    const shoal_ops_view view = {.unhealthy = unhealthy, .unready = unready, .refresh = refresh};
    shoal_loop *loop = NULL;
    shoal_ops *ops = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_loop_new(&loop, &err), SHOAL_OK);
    shoal_ops_settings settings = {.address = shoal_ops_address(s.ops), .n_connections_max = 1};
    assert_true(shoal_ops_new(loop, &settings, &view, s.registry, &ops, &err) != SHOAL_OK);
    assert_non_null(strstr(err.text, "http.address"));
    settings.address = "nonsense";
    shoal_err_clear(&err);
    assert_true(shoal_ops_new(loop, &settings, &view, s.registry, &ops, &err) != SHOAL_OK);
    assert_non_null(strstr(err.text, "http.address"));
    shoal_loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probes_say_what_they_are_told),
        cmocka_unit_test(test_metrics_are_fresh_at_each_scrape),
        cmocka_unit_test(test_everything_else_is_refused_by_name),
        cmocka_unit_test(test_hostile_bytes_get_a_status_and_cost_nobody),
        cmocka_unit_test(test_connections_have_a_limit),
        cmocka_unit_test(test_address_in_use_names_the_key),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
