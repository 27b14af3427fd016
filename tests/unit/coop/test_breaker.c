/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "edge/coop/breaker.h"

static void test_failures_in_a_row_lengthen_the_pause_up_to_its_limit(void **state)
{
    (void)state;
    shoal_breaker b;
    shoal_breaker_init(&b, 250, 10000, 7);
    uint64_t now = 1000;
    uint64_t whole = 250;
    assert_false(b.open);
    for (size_t i = 0; i < 40; i++) {
        shoal_breaker_failed(&b, now);
        assert_true(b.open);
        assert_false(shoal_breaker_due(&b, now));
        uint64_t pause = b.until_ms - now;
        assert_in_range(pause, whole / 2, whole);
        assert_false(shoal_breaker_due(&b, b.until_ms - 1));
        now = b.until_ms;
        assert_true(shoal_breaker_due(&b, now));
        whole = whole * 2 > 10000 ? 10000 : whole * 2;
    }
    assert_int_equal(b.n_failures, 40);
}

static void test_many_that_fail_of_one_cause_are_one_failure(void **state)
{
    (void)state;
    shoal_breaker b;
    shoal_breaker_init(&b, 100, 1000, 1);
    for (size_t i = 0; i < 50; i++) {
        shoal_breaker_failed(&b, 5000);
    }
    assert_int_equal(b.n_failures, 1);
    assert_in_range(b.until_ms, 5050, 5100);
}

static void test_trial_keeps_the_failures_and_work_forgets_them(void **state)
{
    (void)state;
    shoal_breaker b;
    shoal_breaker_init(&b, 100, 100000, 1);
    for (uint64_t now = 0; b.n_failures < 5; now = b.until_ms) {
        shoal_breaker_failed(&b, now);
    }
    shoal_breaker_probed(&b);
    assert_false(b.open);
    shoal_breaker_failed(&b, 20000); /* on trial: as the sixth in a row */
    assert_in_range(b.until_ms, 20000 + 1600, 20000 + 3200);
    shoal_breaker_probed(&b);
    shoal_breaker_worked(&b);
    shoal_breaker_failed(&b, 50000);
    assert_in_range(b.until_ms, 50050, 50100);
}

static void test_hold_and_reset_move_the_end_of_the_pause(void **state)
{
    (void)state;
    shoal_breaker b;
    shoal_breaker_init(&b, 100, 1000, 1);
    shoal_breaker_hold(&b, 9000);
    assert_true(b.open);
    assert_false(shoal_breaker_due(&b, 8999));
    assert_true(shoal_breaker_due(&b, 9000));
    shoal_breaker_hold(&b, 4000); /* no earlier than was said before */
    assert_false(shoal_breaker_due(&b, 8999));
    assert_false(shoal_breaker_stale(&b, 9999));
    assert_true(shoal_breaker_stale(&b, 10000));
    shoal_breaker_failed(&b, 9000);
    shoal_breaker_failed(&b, b.until_ms);
    shoal_breaker_reset(&b, 2000);
    assert_true(shoal_breaker_due(&b, 2000));
    shoal_breaker_failed(&b, 2000);
    assert_in_range(b.until_ms, 2050, 2100); /* as if it were the first */
    shoal_breaker_worked(&b);
    shoal_breaker_reset(&b, 3000);
    assert_false(b.open);
    assert_false(shoal_breaker_stale(&b, 1u << 30));
}

static void test_edges_that_lost_it_together_come_back_apart(void **state)
{
    (void)state;
    uint64_t first = 0;
    size_t n_apart = 0;
    for (uint64_t seed = 0; seed < 64; seed++) {
        shoal_breaker b;
        shoal_breaker_init(&b, 8000, 8000, seed);
        shoal_breaker_failed(&b, 0);
        first = seed == 0 ? b.until_ms : first;
        n_apart += b.until_ms > first + 50 || b.until_ms + 50 < first;
    }
    assert_true(n_apart > 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures_in_a_row_lengthen_the_pause_up_to_its_limit),
        cmocka_unit_test(test_many_that_fail_of_one_cause_are_one_failure),
        cmocka_unit_test(test_trial_keeps_the_failures_and_work_forgets_them),
        cmocka_unit_test(test_hold_and_reset_move_the_end_of_the_pause),
        cmocka_unit_test(test_edges_that_lost_it_together_come_back_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
