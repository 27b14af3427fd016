/* SPDX-License-Identifier: Apache-2.0
 *
 * The cost model: it finds the line that steps lie on, follows it when it moves, and turns a time
 * into rows and a load into a price.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/sched/cost.h"
#include "common/base/rng.h"

static void near(double value, double want)
{
    double slack = want * 1e-6 + 1e-9;
    if (value < want - slack || value > want + slack) {
        fail_msg("%g, not %g", value, want);
    }
}

static void test_nothing_known_limits_nothing(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    near(shoal_sched_cost_us(&cost, 100), 0.0);
    assert_int_equal(shoal_sched_cost_rows(&cost, 1000, 512), 512);
    near(shoal_sched_cost_price(&cost, 1), 0.0);
}

static void test_equal_steps_are_all_fixed(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    for (size_t i = 0; i < 10; i++) {
        shoal_sched_cost_observe(&cost, 4, 5000);
    }
    near(cost.fixed_us, 5000.0);
    near(cost.row_us, 0.0);
    near(shoal_sched_cost_price(&cost, 64), 0.0);
}

static void test_line_is_found_and_kept_through_equal_steps(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    uint64_t rng = 1;
    for (size_t i = 0; i < 200; i++) {
        size_t n_rows = 1 + shoal_rng_next(&rng) % 128;
        shoal_sched_cost_observe(&cost, n_rows, 4000 + 250 * n_rows);
    }
    near(cost.fixed_us, 4000.0);
    near(cost.row_us, 250.0);
    /* 3000 equal steps: the rows' share cannot be seen any more, but it is not forgotten. */
    for (size_t i = 0; i < 3000; i++) {
        shoal_sched_cost_observe(&cost, 1, 4250);
    }
    near(shoal_sched_cost_us(&cost, 1), 4250.0);
    assert_true(cost.row_us > 200.0 && cost.row_us < 300.0);
}

static void test_machine_that_slows_down_is_followed(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    uint64_t rng = 2;
    for (size_t i = 0; i < 2000; i++) {
        size_t n_rows = 1 + shoal_rng_next(&rng) % 64;
        uint64_t us = i < 500 ? 1000 + 100 * n_rows : 3000 + 200 * n_rows;
        shoal_sched_cost_observe(&cost, n_rows, us);
    }
    assert_true(cost.fixed_us > 2900.0 && cost.fixed_us < 3100.0);
    assert_true(cost.row_us > 198.0 && cost.row_us < 202.0);
}

static void test_falling_line_is_flat_never_negative(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    shoal_sched_cost_observe(&cost, 1, 9000);
    shoal_sched_cost_observe(&cost, 100, 1000);
    near(cost.row_us, 0.0);
    assert_true(cost.fixed_us > 4900.0 && cost.fixed_us < 5100.0);
    cost = (shoal_sched_cost){.fixed_us = 0.0};
    /* Steeper than through the origin: nothing is left for the fixed part. */
    shoal_sched_cost_observe(&cost, 10, 10);
    shoal_sched_cost_observe(&cost, 20, 4000);
    near(cost.fixed_us, 0.0);
    assert_true(cost.row_us > 0.0);
}

static void test_rows_of_a_time(void **state)
{
    (void)state;
    const shoal_sched_cost cost = {.fixed_us = 1000.0, .row_us = 100.0};
    assert_int_equal(shoal_sched_cost_rows(&cost, 0, 512), 512);
    assert_int_equal(shoal_sched_cost_rows(&cost, 4999, 512), 39);
    assert_int_equal(shoal_sched_cost_rows(&cost, 5000, 512), 40);
    assert_int_equal(shoal_sched_cost_rows(&cost, 5001, 512), 40);
    assert_int_equal(shoal_sched_cost_rows(&cost, 5000, 39), 39);
    /* Too little time for the fixed part: as many rows as cost that much again. */
    assert_int_equal(shoal_sched_cost_rows(&cost, 1, 512), 10);
    const shoal_sched_cost slow = {.fixed_us = 10.0, .row_us = 100.0};
    assert_int_equal(shoal_sched_cost_rows(&slow, 1, 512), 1);
}

/* A sample costs its row and what follows it, and is as dear as both. */
static void test_samples_cost_what_follows_the_step(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 900.0, .row_us = 100.0};
    near(shoal_sched_cost_draft_us(&cost), 100.0);
    shoal_sched_cost_observe_logits(&cost, 4, 800);
    near(shoal_sched_cost_draft_us(&cost), 300.0);
    near(shoal_sched_cost_price(&cost, 1), 0.25);
    near(shoal_sched_cost_us(&cost, 10), 1900.0);   /* the step itself is what it was */
    shoal_sched_cost_observe_logits(&cost, 1, 232); /* one step says little */
    near(shoal_sched_cost_draft_us(&cost), 301.0);
    for (size_t i = 0; i < 1000; i++) {
        shoal_sched_cost_observe_logits(&cost, 1, 0);
    }
    assert_true(cost.logit_us < 1.0);
}

static void test_price_rises_with_the_load(void **state)
{
    (void)state;
    const shoal_sched_cost cost = {.fixed_us = 900.0, .row_us = 100.0};
    near(shoal_sched_cost_price(&cost, 1), 0.1);
    near(shoal_sched_cost_price(&cost, 9), 0.5);
    near(shoal_sched_cost_price(&cost, 900), 100.0 / 101.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_known_limits_nothing),
        cmocka_unit_test(test_equal_steps_are_all_fixed),
        cmocka_unit_test(test_line_is_found_and_kept_through_equal_steps),
        cmocka_unit_test(test_machine_that_slows_down_is_followed),
        cmocka_unit_test(test_falling_line_is_flat_never_negative),
        cmocka_unit_test(test_rows_of_a_time),
        cmocka_unit_test(test_samples_cost_what_follows_the_step),
        cmocka_unit_test(test_price_rises_with_the_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
