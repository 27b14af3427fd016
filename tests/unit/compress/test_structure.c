/* SPDX-License-Identifier: Apache-2.0
 *
 * Groups that leave a layer: which ones go, against what is left by trying each, and what a refit
 * makes of the rest, against the conditions of least squares.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "layers.h"

#include "common/compress/structure.h"

#include <string.h>

enum {
    ROWS = 24,
    COLS = 96,
    WIDTH = 4,
    GROUPS = COLS / WIDTH,
    SEEDS = 6
};

static bool gone[COLS];
static float w[ROWS * COLS];

static shoal_problem *make(const test_layer *l)
{
    shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(l->n_rows, l->n_cols, l->w, l->h, &p, NULL), SHOAL_OK);
    return p;
}

static double run(const shoal_problem *p, const shoal_structure *s, const double *importance)
{
    double error = 0;
    assert_int_equal(shoal_structure_remove(p, s, importance, gone, w, NULL), SHOAL_OK);
    assert_int_equal(shoal_problem_error(p, w, &error), SHOAL_OK);
    return error;
}

/* tr(D (H + damp) D^T), what a refit makes least. */
static double damped_loss(const test_layer *l)
{
    double mean = 0;
    double sum = 0;
    for (size_t i = 0; i < COLS; i++) {
        mean += (double)l->h[i * COLS + i] / COLS;
    }
    for (size_t row = 0; row < ROWS; row++) {
        for (size_t i = 0; i < COLS; i++) {
            double d = (double)l->w[row * COLS + i] - (double)w[row * COLS + i];
            sum += d * d * 0.01 * mean;
            for (size_t j = 0; j < COLS; j++) {
                double e = (double)l->w[row * COLS + j] - (double)w[row * COLS + j];
                sum += d * e * (double)l->h[i * COLS + j];
            }
        }
    }
    return sum;
}

static size_t count_gone(size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += gone[i];
    }
    return sum;
}

static void expect_zeros_where_gone(const test_layer *l, size_t width, bool refit)
{
    for (size_t i = 0; i < ROWS * COLS; i++) {
        bool out = gone[i % COLS / width];
        assert_true(!out || (w[i] <= 0 && w[i] >= 0));
        assert_true(out || refit || memcmp(&w[i], &l->w[i], sizeof *w) == 0);
    }
}

/* --- which ------------------------------------------------------------------------------------ */

static void test_a_group_that_is_never_used_goes_first(void **state)
{
    (void)state;
    double importance[GROUPS];
    for (int how = 0; how < 3; how++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, 3);
        for (size_t i = 0; i < COLS * WIDTH; i++) { /* the input of group 7 is always 0 */
            l.h[(7 * WIDTH + i % WIDTH) * COLS + i / WIDTH] = 0;
            l.h[i / WIDTH * COLS + 7 * WIDTH + i % WIDTH] = 0;
        }
        for (size_t i = 0; i < ROWS * WIDTH; i++) { /* and nothing reads group 11 */
            l.w[i / WIDTH * COLS + 11 * WIDTH + i % WIDTH] = 0;
        }
        for (size_t i = 0; i < GROUPS; i++) {
            importance[i] = i == 7 || i == 11 ? 0 : 1 + (double)i;
        }
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        const shoal_structure s = {
            .width = WIDTH, .n_class = GROUPS, .n_gone = 2, .refit = how == 1};
        double error = run(p, &s, how == 2 ? importance : NULL);
        assert_true(gone[7] && gone[11] && count_gone(GROUPS) == 2);
        assert_true(error < 1e-12);
        expect_zeros_where_gone(&l, WIDTH, s.refit);
        test_layer_fini(&l);
    }
}

/* One group alone, whichever it is, by an importance that names it: the choice is the best of them.
 */
static void test_the_cheapest_of_all_groups_goes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        for (int refit = 0; refit < 2; refit++) {
            test_layer l;
            test_layer_init(&l, ROWS, COLS, seed);
            SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
            const shoal_structure s = {
                .width = WIDTH, .n_class = GROUPS, .n_gone = 1, .refit = refit == 1};
            double best = (double)INFINITY;
            size_t best_i = 0;
            for (size_t g = 0; g < GROUPS; g++) {
                double importance[GROUPS];
                for (size_t i = 0; i < GROUPS; i++) {
                    importance[i] = i == g ? -1 : 0;
                }
                double error = run(p, &s, importance);
                double loss = refit ? damped_loss(&l) : error;
                assert_true(gone[g] && count_gone(GROUPS) == 1);
                best_i = loss < best ? g : best_i;
                best = loss < best ? loss : best;
            }
            (void)run(p, &s, NULL);
            assert_true(gone[best_i] && count_gone(GROUPS) == 1);
            test_layer_fini(&l);
        }
    }
}

static void test_every_class_loses_as_many(void **state)
{
    (void)state;
    for (size_t n_gone = 1; n_gone < 6; n_gone++) {
        for (int refit = 0; refit < 2; refit++) {
            test_layer l;
            test_layer_init(&l, ROWS, COLS, 5);
            SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
            const shoal_structure s = {
                .width = WIDTH, .n_class = 6, .n_gone = n_gone, .refit = refit == 1};
            (void)run(p, &s, NULL);
            for (size_t c = 0; c < GROUPS / 6; c++) {
                size_t n = 0;
                for (size_t i = 0; i < 6; i++) {
                    n += gone[c * 6 + i];
                }
                assert_int_equal(n, n_gone);
            }
            expect_zeros_where_gone(&l, WIDTH, s.refit);
            test_layer_fini(&l);
        }
    }
}

/* Of equals the first go, and only as many as shall. */
static void test_equals_go_in_order(void **state)
{
    (void)state;
    const double importance[GROUPS] = {0};
    test_layer l;
    test_layer_init(&l, ROWS, COLS, 2);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    const shoal_structure s = {.width = WIDTH, .n_class = GROUPS, .n_gone = GROUPS - 1};
    (void)run(p, &s, importance);
    for (size_t i = 0; i < GROUPS; i++) {
        assert_int_equal(gone[i], i < GROUPS - 1);
    }
    test_layer_fini(&l);
}

/* --- what is left ----------------------------------------------------------------------------- */

/* Columns that see the same input: what one did, the other does when it is alone. */
static void test_a_refit_hands_on_to_what_sees_the_same(void **state)
{
    (void)state;
    test_layer l;
    test_layer_init(&l, ROWS, COLS, 9);
    for (size_t i = 0; i < COLS; i++) {
        l.h[i * COLS + 1] = l.h[i * COLS];
    }
    memcpy(l.h + COLS, l.h, COLS * sizeof *l.h);
    l.h[COLS + 1] = l.h[0];
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    double importance[COLS];
    for (size_t i = 0; i < COLS; i++) {
        importance[i] = i == 1 ? 0 : 1;
    }
    shoal_structure s = {.width = 1, .n_class = COLS, .n_gone = 1};
    double cut = run(p, &s, importance);
    s.refit = true;
    double fitted = run(p, &s, importance);
    assert_true(gone[1] && cut > 1e-5 && fitted < 0.05 * cut);
    test_layer_fini(&l);
}

/* The gradient of the damped loss in every weight that is left is 0, however it was chosen, in one
 * round or in many. */
static void test_a_refit_is_the_least_squares_answer(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, seed);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        const shoal_structure s = {.width = 1, .n_class = COLS, .n_gone = 70, .refit = true};
        (void)run(p, &s, NULL);
        expect_zeros_where_gone(&l, 1, true);
        double mean = 0;
        for (size_t i = 0; i < COLS; i++) {
            mean += (double)l.h[i * COLS + i] / COLS;
        }
        for (size_t row = 0; row < ROWS; row++) {
            for (size_t j = 0; j < COLS; j++) {
                double sum = 0;
                double size = 0;
                for (size_t i = 0; i < COLS; i++) {
                    double d = (double)l.w[row * COLS + i] - (double)w[row * COLS + i];
                    double h = (double)l.h[i * COLS + j] + (i == j ? 0.01 * mean : 0);
                    sum += d * h;
                    size += fabs(d * h);
                }
                assert_true(gone[j] || fabs(sum) <= 1e-5 * size);
            }
        }
        test_layer_fini(&l);
    }
}

static void test_choosing_with_the_refit_in_mind_is_better(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, seed);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        shoal_structure s = {.width = 1, .n_class = COLS, .n_gone = 40};
        double cut = run(p, &s, NULL);
        double importance[COLS];
        for (size_t i = 0; i < COLS; i++) {
            importance[i] = gone[i] ? 0 : 1;
        }
        s.refit = true;
        double after = run(p, &s, importance);
        double with = run(p, &s, NULL);
        print_message("seed %d: cut %.4f, refitted %.4f, chosen so %.4f\n", (int)seed, cut, after,
                      with);
        assert_true(after < 0.5 * cut && with < after);
        test_layer_fini(&l);
    }
}

static void test_memory_that_fails_is_told(void **state)
{
    (void)state;
    test_layer l;
    test_layer_init(&l, ROWS, COLS, 1);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    const shoal_structure s = {.width = WIDTH, .n_class = GROUPS, .n_gone = 9, .refit = true};
    size_t n_failed = 0;
    for (uint64_t at = 0;; at++) {
        shoal_mem_fail_at(at);
        shoal_status status = shoal_structure_remove(p, &s, NULL, gone, w, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        n_failed++;
    }
    assert_int_equal(n_failed, 8);
    test_layer_fini(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_group_that_is_never_used_goes_first),
        cmocka_unit_test(test_the_cheapest_of_all_groups_goes),
        cmocka_unit_test(test_every_class_loses_as_many),
        cmocka_unit_test(test_equals_go_in_order),
        cmocka_unit_test(test_a_refit_hands_on_to_what_sees_the_same),
        cmocka_unit_test(test_a_refit_is_the_least_squares_answer),
        cmocka_unit_test(test_choosing_with_the_refit_in_mind_is_better),
        cmocka_unit_test(test_memory_that_fails_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
