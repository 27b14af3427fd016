/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/thread.h"
#include "peer.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void test_limits_outside_their_range_are_refused(void **state)
{
    (void)state;
    struct {
        const char *name;
        shoal_rpc_limits limits;
    } cases[9];
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        cases[i].limits = shoal_rpc_limits_default();
    }
    cases[0].name = "message_max";
    cases[0].limits.message_max = 0;
    cases[1].name = "message_max";
    cases[1].limits.message_max = (64 << 20) + 1;
    cases[2].name = "send_high";
    cases[2].limits.send_high = 0;
    cases[3].name = "send_low";
    cases[3].limits.send_low = cases[3].limits.send_high;
    cases[4].name = "calls_max";
    cases[4].limits.calls_max = 0;
    cases[5].name = "keepalive_ms";
    cases[5].limits.keepalive_ms = 99;
    cases[6].name = "keepalive_ms";
    cases[6].limits.keepalive_ms = 3600001;
    cases[7].name = "calls_max";
    cases[7].limits.calls_max = (1 << 20) + 1;
    cases[8].name = "send_high";
    cases[8].limits.send_high = (256 << 20) + 1;
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_rpc *rpc = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_rpc_new(&cases[i].limits, &rpc, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, cases[i].name));
        assert_null(rpc);
    }
}

static void test_statuses_have_names(void **state)
{
    (void)state;
    assert_string_equal(shoal_rpc_status_name(SHOAL_RPC_OK), "ok");
    assert_string_equal(shoal_rpc_status_name(SHOAL_RPC_RESOURCE_EXHAUSTED), "resource_exhausted");
    assert_string_equal(shoal_rpc_status_name(SHOAL_RPC_UNAUTHENTICATED), "unauthenticated");
    assert_string_equal(shoal_rpc_status_name((shoal_rpc_status)17), "unknown");
    assert_string_equal(shoal_rpc_status_name((shoal_rpc_status)-1), "unknown");
}

static void test_runtime_alone_starts_and_ends(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    for (int i = 0; i < 3; i++) {
        shoal_rpc *rpc = NULL;
        assert_int_equal(shoal_rpc_new(&limits, &rpc, NULL), SHOAL_OK);
        shoal_rpc_free(rpc);
    }
    shoal_rpc_free(NULL);
}

static void test_one_request_gets_one_answer(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    assert_int_equal(shoal_rpc_call_send(call, "hello", 5), SHOAL_OK);
    shoal_rpc_call_half_close(call);
    assert_int_equal(shoal_rpc_call_send(call, "more", 4), SHOAL_E_CANCELLED);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    assert_int_equal(s.client.n_messages, 1);
    assert_memory_equal(s.client.last, "hello", 5);
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_OK);
    assert_int_equal(s.host.n_half_closes, 1);
    assert_false(s.host.authenticated);
    assert_string_equal(s.host.identity, "");
    stand_down(&s);
}

/* Empty messages, one byte, a full frame and more than a window, in order and whole. */
static void test_messages_of_every_size_come_back_in_order(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 16384, 65536, 300000, 1048576, 0, 5};
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    uint8_t *bytes = shoal_calloc(1 << 20, 1);
    assert_non_null(bytes);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    size_t total = 0;
    for (size_t i = 0; i < SHOAL_COUNT(sizes); i++) {
        bytes[0] = (uint8_t)(i + 1);
        shoal_status status = shoal_rpc_call_send(call, bytes, sizes[i]);
        assert_true(status == SHOAL_OK || status == SHOAL_BUSY);
        peer_wait(&s.client, &s.client.n_messages, i + 1);
        assert_int_equal(s.client.last_n, sizes[i]);
        assert_true(sizes[i] == 0 || s.client.last[0] == i + 1);
        total += sizes[i];
    }
    assert_int_equal(peer_read(&s.client, &s.client.n_bytes), total);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    shoal_free(bytes);
    stand_down(&s);
}

static void test_many_small_messages_come_back(void **state)
{
    (void)state;
    enum {
        N = 5000
    };
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    for (uint32_t i = 0; i < N; i++) {
        shoal_status status = shoal_rpc_call_send(call, &i, sizeof i);
        if (status == SHOAL_BUSY) {
            peer_wait(&s.client, &s.client.n_messages, i / 2);
            status = SHOAL_OK;
        }
        assert_int_equal(status, SHOAL_OK);
    }
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    assert_int_equal(s.client.n_messages, N);
    uint32_t last = 0;
    memcpy(&last, s.client.last, sizeof last);
    assert_int_equal(last, N - 1);
    stand_down(&s);
}

static void test_server_speaks_first(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    assert_int_equal(shoal_rpc_server_n_calls(s.server), 1);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "first", 5), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_FAILED_PRECONDITION, "other model\n");
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "too late");
    assert_int_equal(shoal_rpc_call_send(s.host.call, "x", 1), SHOAL_E_CANCELLED);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_FAILED_PRECONDITION);
    assert_string_equal(s.client.details, "other model?");
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_OK);
    stand_down(&s);
}

/* What was queued before finish arrives before the status. */
static void test_finish_flushes_the_queue(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    for (int i = 0; i < 500; i++) {
        assert_int_equal(shoal_rpc_call_send(s.host.call, "abcd", 4), SHOAL_OK);
    }
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, 500);
    assert_int_equal(s.client.n_bytes, 2000);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    stand_down(&s);
}

/* Says three things and ends the call, at each message. */
static void refuse_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    peer_server_handlers.on_message(call, user, data, n);
    for (uint8_t i = 0; i < 3; i++) {
        shoal_status status = shoal_rpc_call_send(call, &i, 1);
        assert_true(status == SHOAL_OK || status == SHOAL_E_CANCELLED);
    }
    shoal_rpc_call_finish(call, SHOAL_RPC_RESOURCE_EXHAUSTED, "full");
}

/* All that a callback sends arrives, and after its finish nothing more is read. */
static void test_finish_in_a_callback_is_the_last_that_is_heard(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_handlers handlers = peer_server_handlers;
    handlers.on_message = refuse_message;
    const shoal_rpc_method methods[] = {{"/test.T/Refuse", &handlers, &s.host}};
    shoal_rpc_server *server = NULL;
    shoal_rpc_channel *channel = NULL;
    int port = 0;
    char target[64];
    assert_int_equal(
        shoal_rpc_server_new(s.rpc, "127.0.0.1:0", NULL, methods, 1, &server, &port, NULL),
        SHOAL_OK);
    (void)snprintf(target, sizeof target, "127.0.0.1:%d", port);
    assert_int_equal(shoal_rpc_channel_new(s.rpc, target, NULL, NULL, NULL, &channel, NULL),
                     SHOAL_OK);
    for (size_t round = 1; round <= 20; round++) {
        shoal_rpc_call *call = NULL;
        peer client;
        peer_init(&client);
        assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Refuse", &peer_client_handlers,
                                             &client, 0, true, &call),
                         SHOAL_OK);
        for (size_t i = 0; i < 50 && shoal_rpc_call_send(call, "?", 1) == SHOAL_OK; i++) {
        }
        peer_wait(&client, &client.n_closes, 1);
        peer_wait(&s.host, &s.host.n_closes, round);
        assert_int_equal(client.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
        assert_string_equal(client.details, "full");
        assert_int_equal(client.n_messages, 3);
        assert_int_equal(client.last[0], 2);
        assert_int_equal(s.host.n_messages, round);
        assert_false(client.late);
        stand_release(&s);
        shoal_rpc_call_unref(call);
        peer_fini(&client);
    }
    shoal_rpc_channel_free(channel);
    shoal_rpc_server_free(server);
    stand_down(&s);
}

static void test_deadline_ends_both_sides(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 300);
    peer_wait(&s.host, &s.host.n_opened, 1);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_DEADLINE_EXCEEDED);
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_CANCELLED);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "x", 1), SHOAL_E_CANCELLED);
    stand_down(&s);
}

static void test_client_cancel_ends_both_sides(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_rpc_call_cancel(call);
    shoal_rpc_call_cancel(call);
    assert_int_equal(shoal_rpc_call_send(call, "x", 1), SHOAL_E_CANCELLED);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_CANCELLED);
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_CANCELLED);
    stand_down(&s);
}

static void test_server_cancel_ends_both_sides(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_rpc_call_cancel(s.host.call);
    stand_close(&s, call);
    assert_int_not_equal(s.client.status, SHOAL_RPC_OK);
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(s.host.status, SHOAL_RPC_CANCELLED);
    stand_down(&s);
}

/* A call may be cancelled before anything of it was sent, and used after its end. */
static void test_cancel_at_once_and_use_after_the_end_are_harmless(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    for (size_t i = 0; i < 50; i++) {
        shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
        shoal_rpc_call_cancel(call);
        peer_wait(&s.client, &s.client.n_closes, i + 1);
        assert_int_equal(shoal_rpc_call_send(call, "x", 1), SHOAL_E_CANCELLED);
        shoal_rpc_call_pause(call);
        shoal_rpc_call_resume(call);
        shoal_rpc_call_half_close(call);
        shoal_rpc_call_cancel(call);
        shoal_rpc_call_unref(call);
        s.client.late = false;
    }
    stand_down(&s);
}

/* The poller waits where it lets go of a lock for the stop_at-th time, until it may go on. */
static atomic_size_t stop_at; /* 0: nowhere */
static atomic_size_t n_let_go;
static atomic_bool poller_stands;

int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

static void wait_a_little(void)
{
    const struct timespec little = {.tv_nsec = 10000};
    (void)nanosleep(&little, NULL);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int rc = __real_pthread_mutex_unlock(mutex);
    size_t at = atomic_load(&stop_at);
    if (at > 0 && shoal_thread_role() == SHOAL_ROLE_RPC &&
        atomic_fetch_add(&n_let_go, 1) + 1 == at) {
        atomic_store(&poller_stands, true);
        while (atomic_load(&stop_at) == at) {
            wait_a_little();
        }
    }
    return rc;
}

/* No lock is taken here: the poller may stand while it holds a peer's. */
static void ignore_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    (void)user;
    (void)data;
    (void)n;
}

static void count_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                        const char *details)
{
    (void)call;
    (void)status;
    (void)details;
    atomic_size_t *n_closed = user;
    atomic_fetch_add(n_closed, 1);
}

static const shoal_rpc_handlers counted = {.on_message = ignore_message, .on_close = count_close};

/* A call is cancelled and let go of between any two steps of the poller: no event may find it gone.
 * Which step comes when is not the same each time, so it is done many times. */
static void test_cancel_between_any_two_steps_is_harmless(void **state)
{
    (void)state;
    enum {
        N_TIMES = 50
    };
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    size_t n_calls = 0;
    atomic_size_t n_closed;
    atomic_init(&n_closed, 0);
    for (size_t i = 0; i < N_TIMES; i++) {
        bool stood = true;
        for (size_t at = 1; stood; at++) {
            atomic_store(&n_let_go, 0);
            atomic_store(&poller_stands, false);
            atomic_store(&stop_at, at);
            shoal_rpc_call *call = NULL;
            assert_int_equal(
                shoal_rpc_call_open(s.channel, "/test.T/Echo", &counted, &n_closed, 0, true, &call),
                SHOAL_OK);
            shoal_rpc_call_half_close(call);
            n_calls++;
            while (!atomic_load(&poller_stands) && atomic_load(&n_closed) < n_calls) {
                wait_a_little();
            }
            stood = atomic_load(&poller_stands);
            shoal_rpc_call_cancel(call);
            shoal_rpc_call_unref(call);
            atomic_store(&stop_at, 0);
            while (atomic_load(&n_closed) < n_calls) {
                wait_a_little();
            }
        }
    }
    assert_true(n_calls > 10 * (size_t)N_TIMES);
    stand_down(&s);
}

static void test_held_call_leaves_with_its_first_message(void **state)
{
    (void)state;
    stand s;
    shoal_rpc_call *held = NULL;
    stand_up(&s, NULL, NULL, NULL);
    assert_int_equal(shoal_rpc_call_open_held(s.channel, "/test.T/Host", &peer_client_handlers,
                                              &s.client, 0, true, &held),
                     SHOAL_OK);
    /* What is begun later is there first. */
    peer other;
    shoal_rpc_call *call = NULL;
    peer_init(&other);
    assert_int_equal(shoal_rpc_call_open(s.channel, "/test.T/Echo", &peer_client_handlers, &other,
                                         0, true, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, "a", 1), SHOAL_OK);
    peer_wait(&other, &other.n_messages, 1);
    assert_int_equal(peer_read(&s.host, &s.host.n_opened), 1); /* the echo's */
    assert_int_equal(shoal_rpc_call_send(held, "b", 1), SHOAL_OK);
    peer_wait(&s.host, &s.host.n_opened, 2);
    peer_wait(&s.host, &s.host.n_messages, 2);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    stand_close(&s, held);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    shoal_rpc_call_half_close(call);
    peer_wait(&other, &other.n_closes, 1);
    shoal_rpc_call_unref(call);
    peer_fini(&other);
    stand_down(&s);
}

static void test_held_call_without_a_message_can_be_cancelled(void **state)
{
    (void)state;
    stand s;
    shoal_rpc_call *held = NULL;
    stand_up(&s, NULL, NULL, NULL);
    assert_int_equal(shoal_rpc_call_open_held(s.channel, "/test.T/Host", &peer_client_handlers,
                                              &s.client, 0, true, &held),
                     SHOAL_OK);
    shoal_rpc_call_cancel(held);
    stand_close(&s, held);
    assert_int_equal(s.client.status, SHOAL_RPC_CANCELLED);
    assert_int_equal(peer_read(&s.host, &s.host.n_opened), 0);
    stand_down(&s);
}

static void test_unknown_method_is_unimplemented(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    /* Held: else the answer may be there before the message. */
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open_held(s.channel, "/test.T/Nothing", &peer_client_handlers,
                                              &s.client, 0, true, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, "hello", 5), SHOAL_OK);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_UNIMPLEMENTED);
    assert_int_equal(s.host.n_opened, 0);
    stand_down(&s);
}

static void test_message_over_our_own_limit_is_not_taken(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    limits.message_max = 1000;
    stand s;
    stand_up(&s, &limits, NULL, NULL);
    uint8_t bytes[1001] = {0};
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    assert_int_equal(shoal_rpc_call_send(call, bytes, 999), SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, bytes, 1000), SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, bytes, 1001), SHOAL_E_LIMIT);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, 2);
    stand_down(&s);
}

/* The server refuses what is over its limit though the client would send it; and the other way. */
static void test_message_over_the_peers_limit_ends_the_call(void **state)
{
    (void)state;
    stand s;
    stand big;
    shoal_rpc_limits small = shoal_rpc_limits_default();
    small.message_max = 1000;
    stand_up(&s, &small, NULL, NULL);
    stand_up(&big, NULL, NULL, NULL);
    uint8_t bytes[1001] = {0};
    shoal_rpc_channel *channel = NULL;
    assert_int_equal(shoal_rpc_channel_new(big.rpc, s.target, NULL, NULL, NULL, &channel, NULL),
                     SHOAL_OK);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Host", &peer_client_handlers,
                                         &big.client, 0, true, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, bytes, 1000), SHOAL_OK);
    peer_wait(&s.host, &s.host.n_messages, 1);
    assert_int_equal(shoal_rpc_call_send(call, bytes, 1001), SHOAL_OK);
    peer_wait(&big.client, &big.client.n_closes, 1);
    assert_int_equal(big.client.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(s.host.n_messages, 1);
    assert_int_equal(s.host.n_half_closes, 0);
    assert_int_equal(s.host.status, SHOAL_RPC_CANCELLED);
    shoal_rpc_call_unref(call);
    shoal_rpc_channel_free(channel);
    stand_down(&s);
    stand_down(&big);
}

static void test_call_to_a_dead_port_fails_fast_or_waits(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_channel *channel = NULL;
    assert_int_equal(shoal_rpc_channel_new(s.rpc, "127.0.0.1:1", NULL, NULL, NULL, &channel, NULL),
                     SHOAL_OK);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers, &s.client,
                                         5000, false, &call),
                     SHOAL_OK);
    peer_wait(&s.client, &s.client.n_closes, 1);
    assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    shoal_rpc_call_unref(call);
    assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers, &s.client,
                                         200, true, &call),
                     SHOAL_OK);
    peer_wait(&s.client, &s.client.n_closes, 2);
    assert_int_equal(s.client.status, SHOAL_RPC_DEADLINE_EXCEEDED);
    shoal_rpc_call_unref(call);
    shoal_rpc_channel_free(channel);
    s.client.late = false;
    stand_down(&s);
}

static void test_failing_memory_is_told(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = NULL;
    shoal_mem_fail_here_at(0);
    assert_int_equal(shoal_rpc_call_open(s.channel, "/test.T/Echo", &peer_client_handlers,
                                         &s.client, 0, true, &call),
                     SHOAL_E_NOMEM);
    assert_null(call);
    call = stand_call(&s, "/test.T/Echo", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_mem_fail_here_at(0);
    assert_int_equal(shoal_rpc_call_send(call, "hello", 5), SHOAL_E_NOMEM);
    assert_int_equal(shoal_rpc_call_send(call, "hello", 5), SHOAL_OK);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, 1);
    shoal_rpc_channel *channel = NULL;
    shoal_mem_fail_here_at(0);
    assert_int_equal(shoal_rpc_channel_new(s.rpc, s.target, NULL, NULL, NULL, &channel, NULL),
                     SHOAL_E_NOMEM);
    shoal_rpc *rpc = NULL;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    for (uint64_t i = 0; !rpc; i++) {
        shoal_mem_fail_here_at(i);
        shoal_status status = shoal_rpc_new(&limits, &rpc, NULL);
        shoal_mem_fail_here_at(UINT64_MAX);
        assert_int_equal(status, rpc ? SHOAL_OK : SHOAL_E_NOMEM);
    }
    shoal_rpc_free(rpc);
    stand_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits_outside_their_range_are_refused),
        cmocka_unit_test(test_runtime_alone_starts_and_ends),
        cmocka_unit_test(test_statuses_have_names),
        cmocka_unit_test(test_one_request_gets_one_answer),
        cmocka_unit_test(test_messages_of_every_size_come_back_in_order),
        cmocka_unit_test(test_many_small_messages_come_back),
        cmocka_unit_test(test_server_speaks_first),
        cmocka_unit_test(test_finish_flushes_the_queue),
        cmocka_unit_test(test_finish_in_a_callback_is_the_last_that_is_heard),
        cmocka_unit_test(test_deadline_ends_both_sides),
        cmocka_unit_test(test_client_cancel_ends_both_sides),
        cmocka_unit_test(test_server_cancel_ends_both_sides),
        cmocka_unit_test(test_cancel_at_once_and_use_after_the_end_are_harmless),
        cmocka_unit_test(test_cancel_between_any_two_steps_is_harmless),
        cmocka_unit_test(test_held_call_leaves_with_its_first_message),
        cmocka_unit_test(test_held_call_without_a_message_can_be_cancelled),
        cmocka_unit_test(test_unknown_method_is_unimplemented),
        cmocka_unit_test(test_message_over_our_own_limit_is_not_taken),
        cmocka_unit_test(test_message_over_the_peers_limit_ends_the_call),
        cmocka_unit_test(test_call_to_a_dead_port_fails_fast_or_waits),
        cmocka_unit_test(test_failing_memory_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
