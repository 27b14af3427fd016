/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/base/thread.h"
#include "peer.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- draining --------------------------------------------------------------------------------- */

typedef struct drain_job {
    shoal_rpc_server *server;
    uint64_t grace_ms;
} drain_job;

static void run_drain(void *ctx)
{
    const drain_job *job = ctx;
    shoal_rpc_server_drain(job->server, job->grace_ms);
}

static int connect_raw(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static void test_drain_of_an_idle_server_returns(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_server_drain(s.server, 60000);
    shoal_rpc_server_drain(s.server, 60000);
    stand_down(&s);
}

static void test_drain_waits_for_a_call_that_ends_in_time(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    drain_job job = {.server = s.server, .grace_ms = 60000};
    shoal_thread *thread = NULL;
    assert_int_equal(shoal_thread_start(SHOAL_ROLE_NONE, "drain", run_drain, &job, &thread),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "last words", 10), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    shoal_thread_join(thread);
    assert_int_equal(s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_OK);
    assert_int_equal(shoal_rpc_server_n_calls(s.server), 0);
    stand_down(&s);
}

static void test_drain_cancels_what_outlives_the_grace(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    /* Answered, so not tried again. */
    assert_int_equal(shoal_rpc_call_send(s.host.call, "word", 4), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    shoal_rpc_call_pause(s.host.call);
    shoal_clock clock = shoal_clock_real();
    uint64_t before = shoal_clock_now_ms(&clock);
    shoal_rpc_server_drain(s.server, 200);
    uint64_t took = shoal_clock_now_ms(&clock) - before;
    print_message("drained after %llu ms\n", (unsigned long long)took);
    assert_in_range(took, 200, 10000);
    assert_int_equal(s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_CANCELLED);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    stand_down(&s);
}

/* gRPC waits for the answer to its ping, and 20 s for one that never comes. */
static void test_drain_does_not_wait_for_a_connection_without_calls(void **state)
{
    (void)state;
    static const uint8_t hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                   "\0\0\0\4\0\0\0\0"; /* settings, none; the last 0 is C's */
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    int fd = connect_raw(s.port);
    uint8_t head[9];
    assert_int_equal(send(fd, hello, sizeof hello, 0), (ssize_t)sizeof hello);
    assert_int_equal(recv(fd, head, sizeof head, MSG_WAITALL), (ssize_t)sizeof head);
    shoal_clock clock = shoal_clock_real();
    uint64_t before = shoal_clock_now_ms(&clock);
    shoal_rpc_server_drain(s.server, 60000);
    uint64_t took = shoal_clock_now_ms(&clock) - before;
    print_message("drained after %llu ms\n", (unsigned long long)took);
    assert_in_range(took, 0, 15000);
    (void)close(fd);
    stand_down(&s);
}

static void test_call_after_a_drain_is_unavailable(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_server_drain(s.server, 0);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(s.channel, "/test.T/Echo", &peer_client_handlers,
                                         &s.client, 10000, false, &call),
                     SHOAL_OK);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    stand_down(&s);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_calls_over_the_limit_are_refused(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    limits.calls_max = 2;
    stand s;
    stand_up(&s, &limits, NULL, NULL);
    peer other;
    peer_init(&other);
    shoal_rpc_call *a = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_rpc_call *b = NULL;
    assert_int_equal(
        shoal_rpc_call_open(s.channel, "/test.T/Host", &peer_client_handlers, &other, 0, true, &b),
        SHOAL_OK);
    peer_wait(&s.host, &s.host.n_opened, 2);
    assert_int_equal(shoal_rpc_server_n_calls(s.server), 2);
    peer third;
    peer_init(&third);
    shoal_rpc_call *c = NULL;
    assert_int_equal(
        shoal_rpc_call_open(s.channel, "/test.T/Host", &peer_client_handlers, &third, 0, true, &c),
        SHOAL_OK);
    peer_wait(&third, &third.n_closes, 1);
    assert_int_equal(third.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(s.host.n_opened, 2);
    shoal_rpc_call_unref(c);
    shoal_rpc_call_cancel(b);
    peer_wait(&s.host, &s.host.n_closes, 1);
    while (shoal_rpc_server_n_calls(s.server) == 2) {
        (void)usleep(1000); /* the count falls just after on_close */
    }
    third.late = false;
    assert_int_equal(
        shoal_rpc_call_open(s.channel, "/test.T/Host", &peer_client_handlers, &third, 0, true, &c),
        SHOAL_OK);
    peer_wait(&s.host, &s.host.n_opened, 3);
    shoal_rpc_call_cancel(a);
    shoal_rpc_call_cancel(c);
    peer_wait(&third, &third.n_closes, 2);
    peer_wait(&other, &other.n_closes, 1);
    stand_close(&s, a);
    shoal_rpc_call_unref(b);
    shoal_rpc_call_unref(c);
    stand_down(&s);
    peer_fini(&other);
    peer_fini(&third);
}

static void expect_echo(stand *s)
{
    s->client.n_closes = 0;
    shoal_rpc_call *call = stand_call(s, "/test.T/Echo", 0);
    shoal_rpc_call_half_close(call);
    stand_close(s, call);
    assert_int_equal(s->client.status, SHOAL_RPC_OK);
}

static void test_server_without_memory_refuses_the_call(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    expect_echo(&s); /* the channel's own health check is behind us */
    s.client.n_closes = 0;
    shoal_mem_fail_at(1); /* 0 is the client's own */
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    stand_close(&s, call);
    shoal_mem_fail_at(UINT64_MAX);
    assert_int_equal(s.client.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(s.host.n_opened, 1);
    expect_echo(&s);
    stand_down(&s);
}

static void expect_no_server(stand *s, const char *address, shoal_status want, const char *word)
{
    shoal_rpc_server *server = NULL;
    int port = 0;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(
        shoal_rpc_server_new(s->rpc, address, NULL, s->methods, 2, &server, &port, &err), want);
    assert_null(server);
    if (!strstr(err.text, word)) {
        fail_msg("wanted '%s' in '%s'", word, err.text);
    }
}

static void test_port_in_use_and_bad_addresses_are_refused(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    expect_no_server(&s, s.target, SHOAL_E_UNAVAILABLE, s.target);
    expect_no_server(&s, "0.0.0.0:0", SHOAL_E_AUTH, "0.0.0.0");
    expect_no_server(&s, "127.0.0.1", SHOAL_E_INVALID, "127.0.0.1");
    s.methods[1].path = "no-slash";
    expect_no_server(&s, "127.0.0.1:0", SHOAL_E_INVALID, "method 1");
    stand_down(&s);
}

static void test_server_with_failing_memory_is_not_made(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_mem_fail_here_at(0);
    expect_no_server(&s, "127.0.0.1:0", SHOAL_E_NOMEM, "memory");
    stand_down(&s);
}

/* Bytes that are no HTTP/2 at all, from many connections: the server answers calls as before. */
static void test_random_bytes_at_the_port_are_survived(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    uint64_t rng = 77;
    for (int i = 0; i < 100; i++) {
        int fd = connect_raw(s.port);
        uint8_t junk[512];
        size_t n = 0;
        if (i % 2 == 0) {
            static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            memcpy(junk, preface, sizeof preface - 1);
            n = sizeof preface - 1;
        }
        for (; n < sizeof junk; n++) {
            junk[n] = (uint8_t)shoal_rng_next(&rng);
        }
        (void)send(fd, junk, sizeof junk, MSG_NOSIGNAL);
        assert_int_equal(close(fd), 0);
    }
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    assert_int_equal(shoal_rpc_call_send(call, "ok", 2), SHOAL_OK);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    stand_down(&s);
}

/* --- connection ------------------------------------------------------------------------------- */

typedef struct link_log {
    peer events;
    size_t n_ready;
    size_t n_down;
} link_log;

static void see_link(void *ctx, shoal_rpc_link state)
{
    link_log *log = ctx;
    pthread_mutex_lock(&log->events.lock);
    log->n_ready += state == SHOAL_RPC_LINK_READY;
    log->n_down += state != SHOAL_RPC_LINK_READY && log->n_ready > 0;
    pthread_cond_broadcast(&log->events.changed);
    pthread_mutex_unlock(&log->events.lock);
}

static void test_channel_is_ready_again_after_the_server_was_gone(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    link_log log = {.n_ready = 0};
    peer_init(&log.events);
    shoal_rpc_channel *channel = NULL;
    assert_int_equal(shoal_rpc_channel_new(s.rpc, s.target, NULL, see_link, &log, &channel, NULL),
                     SHOAL_OK);
    peer_wait(&log.events, &log.n_ready, 1);
    assert_int_equal(shoal_rpc_channel_state(channel), SHOAL_RPC_LINK_READY);
    shoal_clock clock = shoal_clock_real();
    for (size_t round = 1; round <= 2; round++) {
        shoal_rpc_server_free(s.server);
        s.server = NULL;
        peer_wait(&log.events, &log.n_down, round);
        uint64_t before = shoal_clock_now_ms(&clock);
        int port = 0;
        shoal_err err = SHOAL_ERR_INIT;
        if (shoal_rpc_server_new(s.rpc, s.target, NULL, s.methods, 2, &s.server, &port, &err) !=
            SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        peer_wait(&log.events, &log.n_ready, round + 1);
        print_message("ready %llu ms after the server came back\n",
                      (unsigned long long)(shoal_clock_now_ms(&clock) - before));
    }
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers, &s.client,
                                         0, false, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, "x", 1), SHOAL_OK);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    shoal_rpc_channel_free(channel);
    peer_fini(&log.events);
    stand_down(&s);
}

static void test_list_of_addresses_is_shared_and_survives_one(void **state)
{
    (void)state;
    stand s;
    stand other;
    stand_up(&s, NULL, NULL, NULL);
    stand_up(&other, NULL, NULL, NULL);
    char list[160];
    (void)snprintf(list, sizeof list, "%s,%s", s.target, other.target);
    shoal_rpc_channel *channel = NULL;
    assert_int_equal(shoal_rpc_channel_new(s.rpc, list, NULL, NULL, NULL, &channel, NULL),
                     SHOAL_OK);
    size_t n = 0;
    while ((peer_read(&s.host, &s.host.n_opened) == 0 ||
            peer_read(&other.host, &other.host.n_opened) == 0) &&
           n < 1000) {
        shoal_rpc_call *call = NULL;
        assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers,
                                             &s.client, 0, true, &call),
                         SHOAL_OK);
        shoal_rpc_call_half_close(call);
        peer_wait(&s.client, &s.client.n_closes, ++n);
        assert_int_equal(s.client.status, SHOAL_RPC_OK);
        shoal_rpc_call_unref(call);
        s.client.late = false;
    }
    assert_true(peer_read(&other.host, &other.host.n_opened) > 0);
    shoal_rpc_server_drain(other.server, 0);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers, &s.client,
                                         0, true, &call),
                     SHOAL_OK);
    shoal_rpc_call_half_close(call);
    peer_wait(&s.client, &s.client.n_closes, n + 1);
    shoal_rpc_call_unref(call);
    shoal_rpc_channel_free(channel);
    stand_down(&other);
    stand_down(&s);
}

/* --- health ----------------------------------------------------------------------------------- */

/* One Check; the status byte, or 0 when the call failed with want. */
static uint8_t check_on(shoal_rpc_channel *channel, const char *request, size_t n,
                        shoal_rpc_status want)
{
    peer p;
    peer_init(&p);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(channel, "/grpc.health.v1.Health/Check",
                                         &peer_client_handlers, &p, 0, true, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, request, n), SHOAL_OK);
    shoal_rpc_call_half_close(call);
    peer_wait(&p, &p.n_closes, 1);
    shoal_rpc_call_unref(call);
    assert_int_equal(p.status, want);
    uint8_t health = 0;
    if (want == SHOAL_RPC_OK) {
        assert_int_equal(p.n_messages, 1);
        assert_int_equal(p.last_n, 2);
        assert_int_equal(p.last[0], 8);
        health = p.last[1];
    }
    peer_fini(&p);
    return health;
}

static uint8_t check(stand *s, const char *request, size_t n, shoal_rpc_status want)
{
    return check_on(s->channel, request, n, want);
}

static void test_health_check_follows_serving(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    assert_int_equal(check(&s, "", 0, SHOAL_RPC_OK), 1);
    assert_int_equal(check(&s, "\x0a\x00", 2, SHOAL_RPC_OK), 1);
    assert_int_equal(check(&s, "\x0a\x06test.T", 8, SHOAL_RPC_OK), 1);
    /* The channel follows health itself: soon its calls have nowhere to go. */
    shoal_rpc_server_set_serving(s.server, false);
    shoal_rpc_status status = SHOAL_RPC_OK;
    while (status != SHOAL_RPC_UNAVAILABLE) {
        peer p;
        peer_init(&p);
        shoal_rpc_call *call = NULL;
        assert_int_equal(shoal_rpc_call_open(s.channel, "/test.T/Echo", &peer_client_handlers, &p,
                                             0, false, &call),
                         SHOAL_OK);
        shoal_rpc_call_half_close(call);
        peer_wait(&p, &p.n_closes, 1);
        status = p.status;
        assert_true(status == SHOAL_RPC_OK || status == SHOAL_RPC_UNAVAILABLE);
        shoal_rpc_call_unref(call);
        peer_fini(&p);
    }
    shoal_rpc_server_set_serving(s.server, true);
    assert_int_equal(check(&s, "", 0, SHOAL_RPC_OK), 1);
    stand_down(&s);
}

static void test_health_check_refuses_bad_requests(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    char name[260] = "\x0a\xfd\x01";
    memset(name + 3, 'n', sizeof name - 3);
    (void)check(&s, "\x0a\x05test.", 7, SHOAL_RPC_NOT_FOUND);
    (void)check(&s, "\x0a\x04Host", 6, SHOAL_RPC_NOT_FOUND);
    (void)check(&s, name, 256, SHOAL_RPC_NOT_FOUND);
    name[1] = (char)0xfe;
    (void)check(&s, name, 257, SHOAL_RPC_INVALID_ARGUMENT);
    (void)check(&s, "\x0a", 1, SHOAL_RPC_INVALID_ARGUMENT);
    (void)check(&s, "\x0a\x80", 2, SHOAL_RPC_INVALID_ARGUMENT);
    (void)check(&s, "\x0a\x07test.T", 8, SHOAL_RPC_INVALID_ARGUMENT);
    (void)check(&s, "\x08\x01", 2, SHOAL_RPC_INVALID_ARGUMENT);
    (void)check(&s, "\x0a\xff\xff\xff\xff", 5, SHOAL_RPC_INVALID_ARGUMENT);
    stand_down(&s);
}

static void test_health_watch_tells_each_change(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/grpc.health.v1.Health/Watch", 0);
    assert_int_equal(shoal_rpc_call_send(call, "\x0a\x06test.T", 8), SHOAL_OK);
    shoal_rpc_call_half_close(call);
    peer_wait(&s.client, &s.client.n_messages, 1);
    assert_int_equal(s.client.last[1], 1);
    shoal_rpc_server_set_serving(s.server, true);
    shoal_rpc_server_set_serving(s.server, false);
    peer_wait(&s.client, &s.client.n_messages, 2);
    assert_int_equal(s.client.last[1], 2);
    shoal_rpc_server_set_serving(s.server, true);
    peer_wait(&s.client, &s.client.n_messages, 3);
    assert_int_equal(s.client.last[1], 1);
    assert_int_equal(shoal_rpc_server_n_calls(s.server), 0);
    shoal_rpc_server_drain(s.server, 60000); /* a watcher does not hold it up */
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, 4);
    assert_int_equal(s.client.last[1], 2);
    assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    stand_down(&s);
}

static void test_health_watch_of_an_unknown_service_says_so(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/grpc.health.v1.Health/Watch", 0);
    assert_int_equal(shoal_rpc_call_send(call, "\x0a\x01x", 3), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    assert_int_equal(s.client.last[1], 3);
    shoal_rpc_call_cancel(call);
    stand_close(&s, call);
    stand_down(&s);
}

static void test_health_watchers_over_the_limit_count_it_as_healthy(void **state)
{
    (void)state;
    enum {
        N = SHOAL_RPC_WATCHERS_MAX - 1 /* a channel watches for itself */
    };
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    static shoal_rpc_call *calls[N];
    for (size_t i = 0; i < N; i++) {
        calls[i] = stand_call(&s, "/grpc.health.v1.Health/Watch", 0);
        assert_int_equal(shoal_rpc_call_send(calls[i], "", 0), SHOAL_OK);
    }
    peer_wait(&s.client, &s.client.n_messages, N);
    peer last;
    peer_init(&last);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(s.channel, "/grpc.health.v1.Health/Watch",
                                         &peer_client_handlers, &last, 0, true, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, "", 0), SHOAL_OK);
    peer_wait(&last, &last.n_closes, 1);
    assert_int_equal(last.status, SHOAL_RPC_UNIMPLEMENTED);
    shoal_rpc_call_unref(call);
    /* A channel whose own watch is refused serves. */
    shoal_rpc_channel *late = NULL;
    assert_int_equal(shoal_rpc_channel_new(s.rpc, s.target, NULL, NULL, NULL, &late, NULL),
                     SHOAL_OK);
    peer_fini(&last);
    peer_init(&last);
    assert_int_equal(
        shoal_rpc_call_open(late, "/test.T/Echo", &peer_client_handlers, &last, 0, true, &call),
        SHOAL_OK);
    shoal_rpc_call_half_close(call);
    peer_wait(&last, &last.n_closes, 1);
    assert_int_equal(last.status, SHOAL_RPC_OK);
    shoal_rpc_call_unref(call);
    shoal_rpc_server_set_serving(s.server, false);
    assert_int_equal(check_on(late, "\x0a\x06test.T", 8, SHOAL_RPC_OK), 2);
    shoal_rpc_channel_free(late);
    for (size_t i = 0; i < N; i++) {
        shoal_rpc_call_cancel(calls[i]);
    }
    peer_wait(&s.client, &s.client.n_closes, N);
    for (size_t i = 0; i < N; i++) {
        shoal_rpc_call_unref(calls[i]);
    }
    peer_fini(&last);
    s.client.late = false; /* many calls share the peer */
    stand_down(&s);
}

/* --- balancing -------------------------------------------------------------------------------- */

/* One call that is echoed; true when stand other took it. */
static bool went_to(shoal_rpc_channel *channel, stand *other)
{
    size_t before = peer_read(&other->host, &other->host.n_opened);
    peer p;
    peer_init(&p);
    shoal_rpc_call *call = NULL;
    assert_int_equal(
        shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers, &p, 0, true, &call),
        SHOAL_OK);
    shoal_rpc_call_half_close(call);
    peer_wait(&p, &p.n_closes, 1);
    assert_int_equal(p.status, SHOAL_RPC_OK);
    shoal_rpc_call_unref(call);
    peer_fini(&p);
    return peer_read(&other->host, &other->host.n_opened) > before;
}

static void test_calls_leave_a_server_that_says_it_does_not_serve(void **state)
{
    (void)state;
    stand s;
    stand other;
    stand_up(&s, NULL, NULL, NULL);
    stand_up(&other, NULL, NULL, NULL);
    char list[160];
    (void)snprintf(list, sizeof list, "%s,%s", s.target, other.target);
    shoal_rpc_channel *channel = NULL;
    assert_int_equal(shoal_rpc_channel_new(s.rpc, list, NULL, NULL, NULL, &channel, NULL),
                     SHOAL_OK);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; !went_to(channel, &other); i++) {
            assert_true(i < 100000); /* both take part once both are connected */
        }
        shoal_rpc_server_set_serving(other.server, false);
        int n_in_a_row = 0;
        for (int i = 0; n_in_a_row < 20; i++) {
            assert_true(i < 100000);
            n_in_a_row = went_to(channel, &other) ? 0 : n_in_a_row + 1;
        }
        shoal_rpc_server_set_serving(other.server, true);
    }
    shoal_rpc_channel_free(channel);
    stand_down(&other);
    stand_down(&s);
}

/* Ends the call that the host opened as its n-th. */
static void host_ends(stand *s, size_t n, shoal_rpc_status status)
{
    peer_wait(&s->host, &s->host.n_opened, n);
    shoal_rpc_call_finish(s->host.call, status, "no");
}

static void test_unanswered_call_is_tried_again_and_an_answered_one_is_not(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    assert_int_equal(shoal_rpc_call_send(call, "hello", 5), SHOAL_OK);
    peer_wait(&s.host, &s.host.n_messages, 1); /* a call that ends before is not read to its end */
    host_ends(&s, 1, SHOAL_RPC_UNAVAILABLE);
    peer_wait(&s.host, &s.host.n_opened, 2);
    peer_wait(&s.host, &s.host.n_messages, 2); /* what was sent, sent again */
    assert_memory_equal(s.host.last, "hello", 5);
    host_ends(&s, 2, SHOAL_RPC_OK);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    /* Answered: its owner knows how to go on. */
    s.client.late = false;
    call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 3);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "word", 4), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    host_ends(&s, 3, SHOAL_RPC_UNAVAILABLE);
    peer_wait(&s.client, &s.client.n_closes, 2);
    shoal_rpc_call_unref(call);
    assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    /* Refused for another reason: at once. */
    call = stand_call(&s, "/test.T/Host", 0);
    host_ends(&s, 4, SHOAL_RPC_RESOURCE_EXHAUSTED);
    peer_wait(&s.client, &s.client.n_closes, 3);
    shoal_rpc_call_unref(call);
    assert_int_equal(s.client.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(s.host.n_opened, 4);
    s.client.late = false;
    stand_down(&s);
}

/* With nothing but failures the bucket empties: then a call is one attempt. */
static void test_retries_have_a_budget(void **state)
{
    (void)state;
    enum {
        N_CALLS = 12
    };
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    size_t n_answered = 0;
    for (size_t i = 1; i <= N_CALLS; i++) {
        shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
        while (peer_read(&s.client, &s.client.n_closes) < i) {
            if (peer_read(&s.host, &s.host.n_opened) > n_answered) {
                host_ends(&s, ++n_answered, SHOAL_RPC_UNAVAILABLE);
            }
        }
        shoal_rpc_call_unref(call);
        assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    }
    print_message("%d calls, %zu attempts\n", (int)N_CALLS, n_answered);
    assert_in_range(n_answered, N_CALLS + 1, N_CALLS + 10);
    s.client.late = false;
    stand_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain_of_an_idle_server_returns),
        cmocka_unit_test(test_drain_waits_for_a_call_that_ends_in_time),
        cmocka_unit_test(test_drain_cancels_what_outlives_the_grace),
        cmocka_unit_test(test_drain_does_not_wait_for_a_connection_without_calls),
        cmocka_unit_test(test_call_after_a_drain_is_unavailable),
        cmocka_unit_test(test_calls_over_the_limit_are_refused),
        cmocka_unit_test(test_server_without_memory_refuses_the_call),
        cmocka_unit_test(test_port_in_use_and_bad_addresses_are_refused),
        cmocka_unit_test(test_server_with_failing_memory_is_not_made),
        cmocka_unit_test(test_random_bytes_at_the_port_are_survived),
        cmocka_unit_test(test_channel_is_ready_again_after_the_server_was_gone),
        cmocka_unit_test(test_list_of_addresses_is_shared_and_survives_one),
        cmocka_unit_test(test_health_check_follows_serving),
        cmocka_unit_test(test_health_check_refuses_bad_requests),
        cmocka_unit_test(test_health_watch_tells_each_change),
        cmocka_unit_test(test_health_watch_of_an_unknown_service_says_so),
        cmocka_unit_test(test_health_watchers_over_the_limit_count_it_as_healthy),
        cmocka_unit_test(test_calls_leave_a_server_that_says_it_does_not_serve),
        cmocka_unit_test(test_unanswered_call_is_tried_again_and_an_answered_one_is_not),
        cmocka_unit_test(test_retries_have_a_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
