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

#include <math.h>

#include "cloud/sched/cost.h"
#include "common/base/macros.h"
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
        shoal_sched_cost_observe(&cost, 4, 0, 5000);
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
        shoal_sched_cost_observe(&cost, n_rows, 0, 4000 + 250 * n_rows);
    }
    near(cost.fixed_us, 4000.0);
    near(cost.row_us, 250.0);
    /* 3000 equal steps: the rows' share cannot be seen any more, but it is not forgotten. */
    for (size_t i = 0; i < 3000; i++) {
        shoal_sched_cost_observe(&cost, 1, 0, 4250);
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
        shoal_sched_cost_observe(&cost, n_rows, 0, us);
    }
    assert_true(cost.fixed_us > 2900.0 && cost.fixed_us < 3100.0);
    assert_true(cost.row_us > 198.0 && cost.row_us < 202.0);
}

/* Rows of a prompt are cheaper, and there are many of them in a step; what the second row of a span
 * costs is what the short steps after it say. */
static void test_long_prompt_does_not_hide_what_a_draft_costs(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    for (size_t i = 0; i < 60; i++) {
        shoal_sched_cost_observe(&cost, 1 + i % 6, 0, 2000 + 400 * (1 + i % 6));
    }
    near(cost.row_us, 400.0);
    for (size_t i = 0; i < 8; i++) {
        shoal_sched_cost_observe(&cost, 128, 0, 26000);
    }
    double after_us = cost.row_us;
    for (size_t i = 0; i < 60; i++) {
        shoal_sched_cost_observe(&cost, 1 + i % 6, 0, 2000 + 400 * (1 + i % 6));
    }
    assert_true(after_us < 350.0); /* they do say something */
    assert_true(cost.row_us > after_us && cost.row_us > 350.0);
    for (size_t n_rows = 1; n_rows <= 6; n_rows++) {
        double right = 2000.0 + 400.0 * (double)n_rows;
        assert_true(fabs(shoal_sched_cost_us(&cost, n_rows) - right) < 0.05 * right);
    }
}

/* A step that something else on the machine held up says little, at the first time. */
static void test_step_that_was_held_up_counts_in_part(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    for (size_t i = 0; i < 200; i++) {
        shoal_sched_cost_observe(&cost, 1 + i % 6, 0, 2000 + 400 * (1 + i % 6));
    }
    shoal_sched_cost_observe(&cost, 6, 0, 440000);
    assert_true(shoal_sched_cost_us(&cost, 1) < 1.1 * 2400.0);
    assert_true(shoal_sched_cost_us(&cost, 6) < 1.25 * 4400.0);
    /* Where more rows than ever come nothing was predicted, and what is seen is believed. */
    shoal_sched_cost wide = {.fixed_us = 0.0};
    shoal_sched_cost_observe(&wide, 1, 0, 2000);
    shoal_sched_cost_observe(&wide, 128, 0, 26000);
    near(wide.row_us, 24000.0 / 127.0);
    /* What lasts is followed. */
    for (size_t i = 0; i < 400; i++) {
        shoal_sched_cost_observe(&cost, 1 + i % 6, 0, 20 * (2000 + 400 * (1 + i % 6)));
    }
    assert_true(fabs(shoal_sched_cost_us(&cost, 1) - 48000.0) < 0.1 * 48000.0);
}

/* Rows up to seven wait for memory together; an eighth is dear. Of a model of 1B with weights of
 * four bits: microseconds of a step of so many rows. */
static const struct {
    size_t n_rows;
    uint64_t us;
} bent[] = {{1, 14000}, {2, 15600}, {4, 16200}, {6, 19600}, {7, 21000}, {8, 30100}, {16, 48200}};

static void test_steps_off_the_line_are_known_by_their_rows(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    for (size_t i = 0; i < 40 * SHOAL_COUNT(bent); i++) {
        shoal_sched_cost_observe(&cost, bent[i % SHOAL_COUNT(bent)].n_rows, 0,
                                 bent[i % SHOAL_COUNT(bent)].us);
    }
    for (size_t i = 0; i < SHOAL_COUNT(bent); i++) {
        double off = shoal_sched_cost_us(&cost, bent[i].n_rows) / (double)bent[i].us;
        assert_true(off > 0.93 && off < 1.07);
    }
    /* The line says that the eighth row costs what any other does. */
    assert_true(shoal_sched_cost_more_us(&cost, 7, 1) > 2.5 * cost.row_us);
    assert_true(shoal_sched_cost_more_us(&cost, 2, 2) < cost.row_us);
    double draft_us = shoal_sched_cost_draft_us(&cost, 1);
    assert_true(draft_us > 2000.0 && draft_us < 2600.0);
    /* Between knots, at them and beyond the last the time goes on without a leap. */
    for (size_t n_rows = 8; n_rows < 1500; n_rows++) {
        double more_us = shoal_sched_cost_more_us(&cost, n_rows, 1);
        assert_true(more_us >= 0.0 && more_us < 3.0 * cost.row_us);
    }
    /* What is not seen any more is forgotten: the line again. */
    for (size_t i = 0; i < 2000; i++) {
        shoal_sched_cost_observe(&cost, 1 + i % 4, 0, 14000);
    }
    near(shoal_sched_cost_us(&cost, 8), cost.fixed_us + 8.0 * cost.row_us);
}

/* One session decodes: single tokens follow on one another, and after each pause comes a prompt
 * of 12 rows, or a span of drafts, that finds everything cold. The line goes through what is
 * warm. */
static void test_cold_steps_do_not_make_rows_dear(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    for (size_t i = 0; i < 20; i++) { /* while there are no others they are what is known */
        shoal_sched_cost_observe_cold(&cost, 4 + i % 9, 0, 400 + 15 * (4 + i % 9));
        shoal_sched_cost_observe_after_cold(&cost, 1, 8, 400);
    }
    near(cost.row_us, 15.0);
    near(shoal_sched_cost_us(&cost, 10), 550.0);
    assert_true(cost.answer_us > 300.0);
    for (size_t i = 0; i < 100; i++) {
        shoal_sched_cost_observe_cold(&cost, SHOAL_SCHED_COST_WIDE - 1, 0, 900 + i % 7 * 90);
        for (size_t k = 0; k < 10; k++) {
            shoal_sched_cost_observe(&cost, 1, 0, 75);
            shoal_sched_cost_observe_after(&cost, 1, 1, 12);
        }
        shoal_sched_cost_observe_after_cold(&cost, 1, 8, 400);
    }
    assert_true(fabs(shoal_sched_cost_us(&cost, 1) - 75.0) < 1.0);
    assert_true(cost.row_us < 1.0);
    assert_true(fabs(cost.answer_us + cost.logit_us - 12.0) < 0.5 && cost.logit_us < 1.0);
    shoal_sched_cost_observe(&cost, 4, 0, 300); /* one that was held up: the line hardly moves */
    assert_true(cost.row_us < 7.5);
    /* Warm ones tell, and so do many rows. */
    for (size_t i = 0; i < 300; i++) {
        shoal_sched_cost_observe(&cost, 1 + i % 6, 0, 60 + 15 * (1 + i % 6));
        shoal_sched_cost_observe_after(&cost, 1, 1 + i % 6, 8 + 4 * (1 + i % 6));
    }
    assert_true(cost.row_us > 13.0 && cost.logit_us > 3.5);
    assert_true(shoal_sched_cost_price(&cost, 1) < 0.25);
    for (size_t i = 0; i < 300; i++) {
        shoal_sched_cost_observe_cold(&cost, SHOAL_SCHED_COST_WIDE, 0, 60 + 30 * 32);
        shoal_sched_cost_observe(&cost, 1, 0, 90);
    }
    assert_true(cost.row_us > 28.0);
}

static void test_falling_line_is_flat_never_negative(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    shoal_sched_cost_observe(&cost, 1, 0, 9000);
    shoal_sched_cost_observe(&cost, 100, 0, 1000);
    near(cost.row_us, 0.0);
    /* The step of one row weighs 10000 times as much. */
    assert_true(cost.fixed_us > 8990.0 && cost.fixed_us < 9000.0);
    cost = (shoal_sched_cost){.fixed_us = 0.0};
    /* Steeper than through the origin: nothing is left for the fixed part. */
    shoal_sched_cost_observe(&cost, 10, 0, 10);
    shoal_sched_cost_observe(&cost, 20, 0, 4000);
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

/* A sample costs its row and what follows it for a row; an answer costs the same with any. */
static void test_samples_cost_what_follows_the_step(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 900.0, .row_us = 100.0};
    near(shoal_sched_cost_draft_us(&cost, 1), 100.0);
    for (size_t i = 0; i < 50; i++) {
        shoal_sched_cost_observe_after(&cost, 2, 2,
                                       400); /* one row each: nothing tells them apart */
    }
    near(shoal_sched_cost_draft_us(&cost, 1), 100.0);
    near(cost.answer_us, 200.0);
    near(shoal_sched_cost_price(&cost, 1), 100.0 / 1200.0);
    for (size_t i = 0; i < 300; i++) {
        shoal_sched_cost_observe_after(&cost, 1 + i % 3, 3 + i % 5,
                                       140 * (1 + i % 3) + 60 * (3 + i % 5));
    }
    assert_true(fabs(cost.answer_us - 140.0) < 1.0 && fabs(cost.logit_us - 60.0) < 1.0);
    near(shoal_sched_cost_us(&cost, 10), 1900.0); /* the step itself is what it was */
    double draft_us = shoal_sched_cost_draft_us(&cost, 1);
    shoal_sched_cost_observe_after(&cost, 1, 6, 100000); /* one that was held up says little */
    assert_true(shoal_sched_cost_draft_us(&cost, 1) < 1.2 * draft_us);
    for (size_t i = 0; i < 3000; i++) {
        shoal_sched_cost_observe_after(&cost, 1, 1, 100); /* it stays known how they differ */
    }
    assert_true(fabs(cost.answer_us + cost.logit_us - 100.0) < 0.1 && cost.logit_us > 20.0);
    /* Nothing is negative: what falls with rows is the answers'. */
    shoal_sched_cost odd = {.fixed_us = 0.0};
    shoal_sched_cost_observe_after(&odd, 1, 6, 100);
    shoal_sched_cost_observe_after(&odd, 1, 1, 300);
    assert_true(odd.logit_us >= 0.0 && odd.answer_us > 0.0);
}

static void test_price_rises_with_the_load(void **state)
{
    (void)state;
    const shoal_sched_cost cost = {.fixed_us = 900.0, .row_us = 100.0};
    near(shoal_sched_cost_price(&cost, 1), 0.1);
    near(shoal_sched_cost_price(&cost, 9), 0.5);
    near(shoal_sched_cost_price(&cost, 900), 100.0 / 101.0);
}

/* --- a line known beforehand ------------------------------------------------------------------ */

/* Takes fixed + row * rows, give or take a third. */
static uint64_t scattered(uint64_t *rng, double fixed_us, double row_us, size_t n_rows)
{
    double off = 1.0 + ((double)(shoal_rng_next(rng) % 2001) / 1000.0 - 1.0) / 3.0;
    return (uint64_t)((fixed_us + row_us * (double)n_rows) * off + 0.5);
}

/* The least and the greatest price for four sessions while their steps have four rows, and now and
 * then five. */
static void wander(shoal_sched_cost *cost, uint64_t seed, double *ret_least, double *ret_most)
{
    *ret_least = 1.0;
    *ret_most = 0.0;
    for (size_t i = 0; i < 2000; i++) {
        size_t n_rows = shoal_rng_next(&seed) % 16 == 0 ? 5 : 4;
        shoal_sched_cost_observe(cost, n_rows, 0, scattered(&seed, 80.0, 30.0, n_rows));
        double price = shoal_sched_cost_price(cost, 4);
        *ret_least = SHOAL_MIN(*ret_least, price);
        *ret_most = SHOAL_MAX(*ret_most, price);
    }
}

/* Of four rows' 200 us a row more takes 30: a price of 0.6. Steps alike say nothing of it. */
static void test_price_does_not_wander_where_a_row_is_known(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        double least = 0.0;
        double most = 0.0;
        shoal_sched_cost blind = {.fixed_us = 0.0};
        wander(&blind, seed, &least, &most);
        assert_true(most - least > 0.5); /* what there is to mend */
        shoal_sched_cost cost = {.fixed_us = 0.0};
        shoal_sched_cost_know(&cost, 40.0, 15.0); /* timed on a machine twice as fast */
        wander(&cost, seed, &least, &most);
        if (least < 0.45 || most > 0.75) {
            fail_msg("seed %u: from %g to %g", (unsigned)seed, least, most);
        }
    }
}

static void test_rows_that_differ_outweigh_what_was_known(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    shoal_sched_cost_know(&cost, 4000.0, 62.5); /* a row is four times as dear */
    uint64_t rng = 3;
    for (size_t i = 0; i < 300; i++) {
        size_t n_rows = 1 + shoal_rng_next(&rng) % 16;
        shoal_sched_cost_observe(&cost, n_rows, 0, scattered(&rng, 4000.0, 250.0, n_rows));
    }
    for (size_t n_rows = 1; n_rows <= 16; n_rows++) {
        double right = 4000.0 + 250.0 * (double)n_rows;
        assert_true(fabs(shoal_sched_cost_us(&cost, n_rows) - right) < 0.12 * right);
    }
    assert_true(cost.row_us > 180.0 && cost.row_us < 320.0);
}

/* Before there was a step, through cold ones, and when the machine becomes another: always the
 * known part of a step, at the speed that was seen last. */
static void test_what_is_known_lasts_and_has_no_speed(void **state)
{
    (void)state;
    shoal_sched_cost cost = {.fixed_us = 0.0};
    shoal_sched_cost_know(&cost, 800.0, 200.0);
    near(shoal_sched_cost_us(&cost, 1), 1000.0);
    near(shoal_sched_cost_price(&cost, 1), 0.2);
    shoal_sched_cost_observe_cold(&cost, 1, 0, 5000);
    near(shoal_sched_cost_us(&cost, 1), 5000.0);
    near(shoal_sched_cost_price(&cost, 1), 0.2);
    shoal_sched_cost_observe(&cost, 1, 0, 500);
    near(shoal_sched_cost_us(&cost, 1), 500.0);
    near(shoal_sched_cost_us(&cost, 11), 1500.0);
    for (size_t i = 0; i < 1000; i++) {
        shoal_sched_cost_observe(&cost, 1, 0, 2000);
    }
    assert_true(fabs(shoal_sched_cost_us(&cost, 1) - 2000.0) < 2.0);
    assert_true(fabs(shoal_sched_cost_price(&cost, 1) - 0.2) < 0.01);
}

/* --- sessions --------------------------------------------------------------------------------- */

/* A step of 1 to 64 sessions with so many rows each, 100 us and 20 a row and 30 a session, give or
 * take a third. */
static void run_step(shoal_sched_cost *cost, uint64_t *rng, size_t n_rows_each)
{
    size_t n_sessions = 1 + shoal_rng_next(rng) % 64;
    size_t n_rows = n_rows_each * n_sessions;
    uint64_t us = scattered(rng, 100.0 + 30.0 * (double)n_sessions, 20.0, n_rows);
    shoal_sched_cost_observe(cost, n_rows, n_sessions, us);
}

/* While each has one row nothing tells the two apart, and a draft is taken for nearly as dear as a
 * token. Spans of another length do, and it is not forgotten when they are over. */
static void test_what_a_session_takes_is_not_its_rows(void **state)
{
    (void)state;
    const double right = 20.0 / (100.0 / 32.0 + 20.0 + 30.0); /* of 32 sessions */
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint64_t rng = seed;
        shoal_sched_cost cost = {.n = 0};
        for (size_t i = 0; i < 1000; i++) {
            run_step(&cost, &rng, 1);
        }
        assert_true(shoal_sched_cost_price(&cost, 32) > 2.0 * right);
        near(cost.beside_us, 0.0);
        for (size_t i = 0; i < 1000; i++) {
            run_step(&cost, &rng, 1 + i % 4);
        }
        double found = shoal_sched_cost_price(&cost, 32);
        double beside_us = cost.beside_us;
        for (size_t i = 0; i < 5000; i++) {
            run_step(&cost, &rng, 1);
        }
        double kept = shoal_sched_cost_price(&cost, 32);
        if (fabs(found - right) > 0.25 * right || fabs(beside_us - 30.0) > 9.0 ||
            fabs(kept - right) > 0.4 * right) {
            fail_msg("seed %u: %g us a session, price %g and later %g, not %g", (unsigned)seed,
                     beside_us, found, kept, right);
        }
        assert_true(fabs(cost.beside_us - beside_us) < 3.0); /* spans fade in what is remembered */
    }
}

/* Rows of prompts, which nobody gets an answer by, tell them apart as well. */
static void test_prompts_tell_what_a_session_takes(void **state)
{
    (void)state;
    uint64_t rng = 9;
    shoal_sched_cost cost = {.n = 0};
    shoal_sched_cost_know(&cost, 50.0,
                          10.0); /* timed when nobody asked, on a machine twice as fast */
    for (size_t i = 0; i < 2000; i++) {
        size_t n_sessions = 1 + shoal_rng_next(&rng) % 32;
        size_t n_rows = n_sessions + (shoal_rng_next(&rng) % 3 == 0 ? 32 : 0);
        uint64_t us = scattered(&rng, 100.0 + 30.0 * (double)n_sessions, 20.0, n_rows);
        shoal_sched_cost_observe(&cost, n_rows, n_sessions, us);
    }
    assert_true(fabs(cost.beside_us - 30.0) < 9.0);
    assert_true(fabs(cost.row_us - 20.0) < 6.0);
    near(shoal_sched_cost_session_us(&cost), cost.beside_us + cost.answer_us);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_known_limits_nothing),
        cmocka_unit_test(test_equal_steps_are_all_fixed),
        cmocka_unit_test(test_line_is_found_and_kept_through_equal_steps),
        cmocka_unit_test(test_machine_that_slows_down_is_followed),
        cmocka_unit_test(test_long_prompt_does_not_hide_what_a_draft_costs),
        cmocka_unit_test(test_step_that_was_held_up_counts_in_part),
        cmocka_unit_test(test_steps_off_the_line_are_known_by_their_rows),
        cmocka_unit_test(test_cold_steps_do_not_make_rows_dear),
        cmocka_unit_test(test_falling_line_is_flat_never_negative),
        cmocka_unit_test(test_rows_of_a_time),
        cmocka_unit_test(test_samples_cost_what_follows_the_step),
        cmocka_unit_test(test_price_rises_with_the_load),
        cmocka_unit_test(test_price_does_not_wander_where_a_row_is_known),
        cmocka_unit_test(test_rows_that_differ_outweigh_what_was_known),
        cmocka_unit_test(test_what_is_known_lasts_and_has_no_speed),
        cmocka_unit_test(test_what_a_session_takes_is_not_its_rows),
        cmocka_unit_test(test_prompts_tell_what_a_session_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
