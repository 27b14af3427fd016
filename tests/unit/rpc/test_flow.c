/* SPDX-License-Identifier: Apache-2.0
 *
 * Back-pressure: what is queued stays bounded however hard one side pushes, and nothing is lost or
 * stuck when reading goes on.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "peer.h"

#include <string.h>
#include <unistd.h>

enum {
    KIB = 1024,
    BIG = 64 * KIB,
    REFUSALS = 100,
    MANY = 64 << 20 /* bytes no bounded sender gets rid of */
};

static uint8_t bytes[BIG];

/* Sends BIG messages until they are refused for REFUSALS ms on end, so that gRPC has taken what it
 * will take; returns how many bytes went. */
static size_t push_until_refused(shoal_rpc_call *call, size_t *ret_first_busy)
{
    size_t taken = 0;
    size_t refused = 0;
    *ret_first_busy = 0;
    while (taken < MANY) {
        shoal_status status = shoal_rpc_call_send(call, bytes, BIG);
        if (status == SHOAL_E_EXHAUSTED) {
            if (++refused == REFUSALS) {
                return taken;
            }
            (void)usleep(1000);
            continue;
        }
        refused = 0;
        taken += BIG;
        if (status == SHOAL_BUSY && *ret_first_busy == 0) {
            *ret_first_busy = taken;
        } else {
            assert_true(status == SHOAL_OK || status == SHOAL_BUSY);
        }
    }
    fail_msg("%d bytes were taken and none refused", (int)MANY);
    return 0;
}

static void check_bounds(size_t taken, size_t first_busy, const shoal_rpc_limits *limits)
{
    /* The peer's window and gRPC's own buffers come on top of our queue. */
    size_t in_flight = (size_t)2 << 20;
    print_message("BUSY after %zu bytes, refused after %zu\n", first_busy, taken);
    assert_true(first_busy > limits->send_high - BIG);
    assert_true(taken >= 2 * limits->send_high);
    assert_true(taken <= 2 * limits->send_high + limits->message_max + in_flight);
}

static void test_paused_server_bounds_the_client(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_rpc_call_pause(s.host.call);
    size_t first_busy = 0;
    size_t taken = push_until_refused(call, &first_busy);
    check_bounds(taken, first_busy, &limits);
    assert_true(peer_read(&s.host, &s.host.n_messages) <= 1);
    shoal_rpc_call_resume(s.host.call);
    shoal_rpc_call_half_close(call);
    peer_wait(&s.host, &s.host.n_half_closes, 1);
    assert_int_equal(s.host.n_bytes, taken);
    assert_true(peer_read(&s.client, &s.client.n_drains) >= 1);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    stand_down(&s);
}

static void test_paused_client_bounds_the_server(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    shoal_rpc_call_pause(call);
    peer_wait(&s.host, &s.host.n_opened, 1);
    size_t first_busy = 0;
    size_t taken = push_until_refused(s.host.call, &first_busy);
    check_bounds(taken, first_busy, &limits);
    assert_int_equal(peer_read(&s.client, &s.client.n_messages), 0);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    shoal_rpc_call_resume(call);
    stand_close(&s, call);
    assert_int_equal(s.client.n_bytes, taken);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    stand_down(&s);
}

/* Empty messages have a cost too. */
static void test_empty_messages_are_bounded(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    limits.send_high = 4 * KIB;
    limits.send_low = 0;
    stand s;
    stand_up(&s, &limits, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_rpc_call_pause(s.host.call);
    size_t n = 0;
    shoal_status status = SHOAL_OK;
    while (status != SHOAL_E_EXHAUSTED && n < 10000000) {
        status = shoal_rpc_call_send(call, "", 0);
        n += status >= 0;
    }
    assert_int_equal(status, SHOAL_E_EXHAUSTED);
    shoal_rpc_call_resume(s.host.call);
    shoal_rpc_call_half_close(call);
    peer_wait(&s.host, &s.host.n_half_closes, 1);
    assert_int_equal(s.host.n_messages, n);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    stand_close(&s, call);
    stand_down(&s);
}

/* Both sides send much and the echo stops reading while it cannot send: its drain must come all the
 * same, or both would wait for ever. */
static void test_large_echo_does_not_lock_up(void **state)
{
    (void)state;
    enum {
        N = 200
    };
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    for (size_t i = 0; i < N;) {
        size_t drains = peer_read(&s.client, &s.client.n_drains);
        shoal_status status = shoal_rpc_call_send(call, bytes, BIG);
        if (status == SHOAL_E_EXHAUSTED) {
            peer_wait(&s.client, &s.client.n_drains, drains + 1);
            continue;
        }
        assert_true(status >= 0);
        i++;
    }
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, N);
    assert_int_equal(s.client.n_bytes, (size_t)N * BIG);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    stand_down(&s);
}

static void test_message_and_close_wait_for_a_paused_client(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    shoal_rpc_call_pause(call);
    peer_wait(&s.host, &s.host.n_opened, 1);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "one", 3), SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "two", 3), SHOAL_OK);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_ABORTED, "after two");
    peer_wait(&s.host, &s.host.n_closes, 1);
    assert_int_equal(peer_read(&s.client, &s.client.n_messages), 0);
    assert_int_equal(peer_read(&s.client, &s.client.n_closes), 0);
    shoal_rpc_call_resume(call);
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, 2);
    assert_memory_equal(s.client.last, "two", 3);
    assert_int_equal(s.client.status, SHOAL_RPC_ABORTED);
    assert_string_equal(s.client.details, "after two");
    stand_down(&s);
}

static void test_cancel_closes_a_paused_call(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    shoal_rpc_call_pause(call);
    peer_wait(&s.host, &s.host.n_opened, 1);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "one", 3), SHOAL_OK);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    peer_wait(&s.host, &s.host.n_closes, 1);
    shoal_rpc_call_cancel(call);
    stand_close(&s, call);
    assert_int_equal(s.client.n_messages, 0);
    stand_down(&s);
}

static void test_deadline_closes_a_paused_call(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 200);
    shoal_rpc_call_pause(call);
    peer_wait(&s.host, &s.host.n_opened, 1);
    shoal_rpc_call_pause(s.host.call);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "one", 3), SHOAL_OK);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_DEADLINE_EXCEEDED);
    peer_wait(&s.host, &s.host.n_closes, 1);
    stand_down(&s);
}

static void test_lost_connection_closes_a_paused_call(void **state)
{
    (void)state;
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    shoal_rpc_call_pause(call);
    peer_wait(&s.host, &s.host.n_opened, 1);
    assert_int_equal(shoal_rpc_call_send(s.host.call, "one", 3), SHOAL_OK);
    shoal_rpc_server_drain(s.server, 0);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_UNAVAILABLE);
    stand_down(&s);
}

static void test_pause_and_resume_in_turn_lose_nothing(void **state)
{
    (void)state;
    enum {
        N = 2000
    };
    stand s;
    stand_up(&s, NULL, NULL, NULL);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Host", 0);
    peer_wait(&s.host, &s.host.n_opened, 1);
    for (uint32_t i = 0; i < N; i++) {
        shoal_status status = shoal_rpc_call_send(call, &i, sizeof i);
        assert_true(status >= 0);
        if (i % 3 == 0) {
            shoal_rpc_call_pause(s.host.call);
        } else if (i % 3 == 2) {
            shoal_rpc_call_resume(s.host.call);
        }
    }
    shoal_rpc_call_resume(s.host.call);
    peer_wait(&s.host, &s.host.n_messages, N);
    uint32_t last = 0;
    memcpy(&last, s.host.last, sizeof last);
    assert_int_equal(last, N - 1);
    shoal_rpc_call_finish(s.host.call, SHOAL_RPC_OK, "");
    stand_close(&s, call);
    stand_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paused_server_bounds_the_client),
        cmocka_unit_test(test_paused_client_bounds_the_server),
        cmocka_unit_test(test_empty_messages_are_bounded),
        cmocka_unit_test(test_large_echo_does_not_lock_up),
        cmocka_unit_test(test_message_and_close_wait_for_a_paused_client),
        cmocka_unit_test(test_cancel_closes_a_paused_call),
        cmocka_unit_test(test_deadline_closes_a_paused_call),
        cmocka_unit_test(test_lost_connection_closes_a_paused_call),
        cmocka_unit_test(test_pause_and_resume_in_turn_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
