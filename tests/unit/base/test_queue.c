/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/queue.h"
#include "common/base/thread.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

static int items[64];

static shoal_queue *make(size_t capacity)
{
    shoal_queue *queue = NULL;
    assert_int_equal(shoal_queue_new(capacity, &queue), SHOAL_OK);
    return queue;
}

static void test_capacity_outside_its_range_is_refused(void **state)
{
    (void)state;
    shoal_queue *queue = NULL;
    assert_int_equal(shoal_queue_new(0, &queue), SHOAL_E_INVALID);
    assert_int_equal(shoal_queue_new((1 << 20) + 1, &queue), SHOAL_E_INVALID);
    assert_int_equal(shoal_queue_new(1 << 20, &queue), SHOAL_OK);
    shoal_queue_free(queue);
    shoal_queue_free(NULL);
}

static void test_items_come_out_in_order_and_full_is_busy(void **state)
{
    (void)state;
    for (size_t capacity = 1; capacity < 9; capacity++) {
        shoal_queue *queue = make(capacity);
        /* Rounds start at every offset of the ring. */
        for (size_t round = 0; round < 2 * capacity + 1; round++) {
            for (size_t i = 0; i < capacity; i++) {
                assert_int_equal(shoal_queue_push(queue, &items[i]), SHOAL_OK);
                assert_int_equal(shoal_queue_length(queue), i + 1);
            }
            assert_int_equal(shoal_queue_push(queue, &items[63]), SHOAL_BUSY);
            for (size_t i = 0; i < capacity; i++) {
                assert_ptr_equal(shoal_queue_pop(queue), &items[i]);
            }
            assert_null(shoal_queue_pop(queue));
            assert_int_equal(shoal_queue_push(queue, &items[0]), SHOAL_OK);
            assert_ptr_equal(shoal_queue_pop_wait(queue, 0), &items[0]);
        }
        shoal_queue_free(queue);
    }
}

static void test_closed_queue_refuses_pushes_and_still_drains(void **state)
{
    (void)state;
    shoal_queue *queue = make(4);
    assert_int_equal(shoal_queue_push(queue, &items[1]), SHOAL_OK);
    shoal_queue_close(queue);
    assert_int_equal(shoal_queue_push(queue, &items[2]), SHOAL_BUSY);
    assert_ptr_equal(shoal_queue_pop_wait(queue, UINT64_MAX), &items[1]);
    assert_null(shoal_queue_pop_wait(queue, UINT64_MAX));
    shoal_queue_free(queue);
}

static void test_waiting_ends_at_the_timeout(void **state)
{
    (void)state;
    shoal_queue *queue = make(4);
    const shoal_clock clock = shoal_clock_real();
    uint64_t start_ns = shoal_clock_now_ns(&clock);
    assert_null(shoal_queue_pop_wait(queue, 5));
    assert_true(shoal_clock_now_ns(&clock) - start_ns >= 5000000);
    shoal_queue_free(queue);
}

static void count_wake(void *ctx)
{
    (*(int *)ctx)++;
}

static void test_wake_is_called_for_each_item_taken(void **state)
{
    (void)state;
    shoal_queue *queue = make(2);
    int n_wakes = 0;
    shoal_queue_set_wake(queue, count_wake, &n_wakes);
    assert_int_equal(shoal_queue_push(queue, &items[0]), SHOAL_OK);
    assert_int_equal(shoal_queue_push(queue, &items[1]), SHOAL_OK);
    assert_int_equal(shoal_queue_push(queue, &items[2]), SHOAL_BUSY);
    assert_int_equal(n_wakes, 2);
    shoal_queue_free(queue);
}

/* Several producers and consumers: every item arrives once, and those of one producer in order as
 * seen by one consumer. */
enum {
    N_PRODUCERS = 3,
    N_CONSUMERS = 2,
    N_EACH = 3000
};

typedef struct message {
    int producer;
    int number;
} message;

static message messages[N_PRODUCERS][N_EACH];
static atomic_int n_seen[N_PRODUCERS][N_EACH];
static atomic_bool out_of_order;

typedef struct producer {
    shoal_queue *queue;
    int index;
} producer;

static void produce(void *ctx)
{
    const producer *p = ctx;
    for (int i = 0; i < N_EACH; i++) {
        message *m = &messages[p->index][i];
        *m = (message){.producer = p->index, .number = i};
        while (shoal_queue_push(p->queue, m) == SHOAL_BUSY) {
            struct timespec pause = {.tv_sec = 0, .tv_nsec = 1000};
            (void)nanosleep(&pause, NULL);
        }
    }
}

static void consume(void *ctx)
{
    shoal_queue *queue = ctx;
    int last[N_PRODUCERS] = {-1, -1, -1};
    for (;;) {
        const message *m = shoal_queue_pop_wait(queue, UINT64_MAX);
        if (!m) {
            return;
        }
        atomic_fetch_add(&n_seen[m->producer][m->number], 1);
        if (m->number <= last[m->producer]) {
            atomic_store(&out_of_order, true);
        }
        last[m->producer] = m->number;
    }
}

static void test_many_threads_lose_and_repeat_nothing(void **state)
{
    (void)state;
    shoal_queue *queue = make(7);
    producer producers[N_PRODUCERS];
    shoal_thread *makers[N_PRODUCERS];
    shoal_thread *takers[N_CONSUMERS];
    for (int i = 0; i < N_CONSUMERS; i++) {
        assert_int_equal(shoal_thread_start(SHOAL_ROLE_IO, "taker", consume, queue, &takers[i]),
                         SHOAL_OK);
    }
    for (int i = 0; i < N_PRODUCERS; i++) {
        producers[i] = (producer){.queue = queue, .index = i};
        assert_int_equal(
            shoal_thread_start(SHOAL_ROLE_RPC, "maker", produce, &producers[i], &makers[i]),
            SHOAL_OK);
    }
    for (int i = 0; i < N_PRODUCERS; i++) {
        shoal_thread_join(makers[i]);
    }
    shoal_queue_close(queue);
    for (int i = 0; i < N_CONSUMERS; i++) {
        shoal_thread_join(takers[i]);
    }
    for (int i = 0; i < N_PRODUCERS; i++) {
        for (int j = 0; j < N_EACH; j++) {
            assert_int_equal(atomic_load(&n_seen[i][j]), 1);
        }
    }
    assert_false(atomic_load(&out_of_order));
    assert_int_equal(shoal_queue_length(queue), 0);
    shoal_queue_free(queue);
}

static void test_failing_allocations_give_nomem(void **state)
{
    (void)state;
    shoal_queue *queue = NULL;
    uint64_t i = 0;
    for (;; i++) {
        shoal_mem_fail_at(i);
        shoal_status status = shoal_queue_new(3, &queue);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(queue);
    }
    assert_int_equal(i, 2);
    uint64_t before = shoal_mem_count();
    assert_int_equal(shoal_queue_push(queue, &items[0]), SHOAL_OK);
    assert_ptr_equal(shoal_queue_pop(queue), &items[0]);
    assert_int_equal(shoal_mem_count(), before);
    shoal_queue_free(queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capacity_outside_its_range_is_refused),
        cmocka_unit_test(test_items_come_out_in_order_and_full_is_busy),
        cmocka_unit_test(test_closed_queue_refuses_pushes_and_still_drains),
        cmocka_unit_test(test_waiting_ends_at_the_timeout),
        cmocka_unit_test(test_wake_is_called_for_each_item_taken),
        cmocka_unit_test(test_many_threads_lose_and_repeat_nothing),
        cmocka_unit_test(test_failing_allocations_give_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
