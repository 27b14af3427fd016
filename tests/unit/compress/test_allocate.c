/* SPDX-License-Identifier: Apache-2.0
 *
 * The allocator against every choice there is, at its limits, and with many layers.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/compress/allocate.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

enum {
    LAYERS = 5,
    POINTS = 4,
    MANY = 200
};

typedef struct problem {
    shoal_allocate_point points[LAYERS][POINTS];
    shoal_allocate_layer layers[LAYERS];
    size_t n;
} problem;

static void make(problem *p, uint64_t *rng)
{
    p->n = 1 + (size_t)(shoal_rng_next(rng) % LAYERS);
    for (size_t i = 0; i < p->n; i++) {
        for (size_t j = 0; j < POINTS; j++) {
            /* few values, so that there are ties */
            p->points[i][j].bytes = shoal_rng_next(rng) % 20;
            p->points[i][j].error = (double)(shoal_rng_next(rng) % 16) / 4;
        }
        p->layers[i] =
            (shoal_allocate_layer){.points = p->points[i],
                                   .n_points = 1 + (size_t)(shoal_rng_next(rng) % POINTS),
                                   .weight = (double)(shoal_rng_next(rng) % 5)};
    }
}

/* The least sum of errors of all choices that fit; infinity where none does. */
static double brute(const problem *p, size_t i, uint64_t budget)
{
    double best = (double)INFINITY;
    if (i == p->n) {
        return 0;
    }
    for (size_t j = 0; j < p->layers[i].n_points; j++) {
        const shoal_allocate_point *point = &p->points[i][j];
        if (point->bytes <= budget) {
            best = fmin(best, p->layers[i].weight * point->error +
                                  brute(p, i + 1, budget - point->bytes));
        }
    }
    return best;
}

static void test_choice_is_the_best_of_all(void **state)
{
    (void)state;
    uint64_t rng = 5;
    for (size_t round = 0; round < 2000; round++) {
        problem p;
        size_t choices[LAYERS];
        shoal_allocation sum;
        make(&p, &rng);
        uint64_t budget = shoal_rng_next(&rng) % 80;
        double want = brute(&p, 0, budget);
        shoal_status status = shoal_allocate(p.layers, p.n, budget, choices, &sum, NULL);
        if (isinf(want)) {
            assert_int_equal(status, SHOAL_E_LIMIT);
            continue;
        }
        assert_int_equal(status, SHOAL_OK);
        assert_true(sum.exact && sum.bytes <= budget);
        assert_true(fabs(sum.error - want) < 1e-12);
        uint64_t bytes = 0;
        double error = 0;
        for (size_t i = 0; i < p.n; i++) {
            assert_true(choices[i] < p.layers[i].n_points);
            bytes += p.points[i][choices[i]].bytes;
            error += p.layers[i].weight * p.points[i][choices[i]].error;
        }
        assert_int_equal(bytes, sum.bytes);
        assert_true(fabs(error - want) < 1e-12);
    }
}

static void test_budget_at_the_least_and_one_below(void **state)
{
    (void)state;
    const shoal_allocate_point points[] = {{10, 1}, {7, 2}, {20, 0}};
    const shoal_allocate_layer layers[] = {{points, 3, 1}, {points, 3, 2}};
    size_t choices[2];
    shoal_allocation sum;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_allocate(layers, 2, 14, choices, &sum, NULL), SHOAL_OK);
    assert_true(choices[0] == 1 && choices[1] == 1 && sum.bytes == 14);
    assert_int_equal(shoal_allocate(layers, 2, 13, choices, &sum, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "take 14"));
    assert_int_equal(shoal_allocate(layers, 2, 30, choices, &sum, NULL), SHOAL_OK);
    assert_true(choices[0] == 0 && choices[1] == 2); /* the weight decides who gets more */
    assert_int_equal(shoal_allocate(layers, 0, 0, choices, &sum, NULL), SHOAL_OK);
    assert_true(sum.bytes == 0 && sum.exact);
}

static void test_numbers_outside_their_range_are_refused(void **state)
{
    (void)state;
    static shoal_allocate_point points[SHOAL_ALLOCATE_POINTS_MAX + 1];
    const double bad[] = {-1, (double)NAN, (double)INFINITY};
    size_t choice = 0;
    shoal_allocation sum;
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_allocate_layer l = {points, 1, bad[i]};
        assert_int_equal(shoal_allocate(&l, 1, 1, &choice, &sum, NULL), SHOAL_E_INVALID);
        l.weight = 1;
        points[0].error = bad[i];
        assert_int_equal(shoal_allocate(&l, 1, 1, &choice, &sum, NULL), SHOAL_E_INVALID);
        points[0].error = 0;
    }
    shoal_allocate_layer l = {points, SHOAL_ALLOCATE_POINTS_MAX, 1};
    assert_int_equal(shoal_allocate(&l, 1, 1, &choice, &sum, NULL), SHOAL_OK);
    l.n_points++;
    assert_int_equal(shoal_allocate(&l, 1, 1, &choice, &sum, NULL), SHOAL_E_LIMIT);
    l.n_points = 0;
    assert_int_equal(shoal_allocate(&l, 1, 1, &choice, &sum, NULL), SHOAL_E_LIMIT);
    l.n_points = 1;
    points[0].bytes = UINT64_MAX;
    assert_int_equal(shoal_allocate(&l, 1, UINT64_MAX, &choice, &sum, NULL), SHOAL_E_INVALID);
    points[0].bytes = 0;
    assert_int_equal(shoal_allocate(&l, SHOAL_ALLOCATE_LAYERS_MAX + 1, 1, &choice, &sum, NULL),
                     SHOAL_E_LIMIT);
}

/* Bytes that share no divisor make more sums than are kept: the result fits, says that it may not
 * be the least, and is close to what a bound says of every choice. */
static void test_many_layers_fit_and_come_close(void **state)
{
    (void)state;
    static shoal_allocate_point points[MANY][POINTS];
    static shoal_allocate_layer layers[MANY];
    static size_t choices[MANY];
    shoal_allocation sum;
    uint64_t rng = 11;
    uint64_t budget = 0;
    for (size_t i = 0; i < MANY; i++) {
        double size = exp(6 * (double)test_unit(&rng));
        for (size_t j = 0; j < POINTS; j++) {
            points[i][j].bytes =
                (uint64_t)(1e5 * size * (double)(j + 2)) + shoal_rng_next(&rng) % 97;
            points[i][j].error = size * exp(-1.3 * (double)j) * (0.7 + (double)test_unit(&rng));
        }
        budget += points[i][1].bytes;
        layers[i] = (shoal_allocate_layer){points[i], POINTS, 1};
    }
    assert_int_equal(shoal_allocate(layers, MANY, budget, choices, &sum, NULL), SHOAL_OK);
    assert_true(sum.bytes <= budget && !sum.exact);
    /* Lagrange: for any price of a byte, no choice that fits has less than this. */
    double bound = 0;
    for (double price = 1e-9; price < 1e-3; price *= 1.1) {
        double least = -price * (double)budget;
        for (size_t i = 0; i < MANY; i++) {
            double best = (double)INFINITY;
            for (size_t j = 0; j < POINTS; j++) {
                best = fmin(best, points[i][j].error + price * (double)points[i][j].bytes);
            }
            least += best;
        }
        bound = fmax(bound, least);
    }
    assert_true(bound > 0 && sum.error >= bound - 1e-9 && sum.error < 1.02 * bound);
}

static void test_memory_that_fails_is_told(void **state)
{
    (void)state;
    const shoal_allocate_point points[] = {{10, 1}, {7, 2}};
    const shoal_allocate_layer layers[] = {{points, 2, 1}, {points, 2, 2}};
    size_t choices[2];
    shoal_allocation sum;
    size_t n_failed = 0;
    for (uint64_t at = 0;; at++) {
        shoal_mem_fail_at(at);
        shoal_status status = shoal_allocate(layers, 2, 17, choices, &sum, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        n_failed++;
    }
    assert_int_equal(n_failed, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice_is_the_best_of_all),
        cmocka_unit_test(test_budget_at_the_least_and_one_below),
        cmocka_unit_test(test_numbers_outside_their_range_are_refused),
        cmocka_unit_test(test_many_layers_fit_and_come_close),
        cmocka_unit_test(test_memory_that_fails_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
