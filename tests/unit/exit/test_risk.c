/* SPDX-License-Identifier: Apache-2.0
 *
 * Learn-then-Test on made-up traffic whose risk is known in closed form: over many draws of the
 * calibration data the chosen threshold may exceed the risk in a share delta of them. Choosers that
 * skip the correction, or that take the rows of one answer for independent, fail the same test.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/exit/fit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    RESAMPLES = 1000,
    N_ROWS = 2400
};

static shoal_exit_sample rows[N_ROWS];

static double uniform(uint64_t *rng)
{
    return (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
}

/* Answers of `length` rows. Surer rows are wrong less often: with probability WRONG (1 - top), top
 * uniform. All rows of an answer share their luck when `together`. */
#define WRONG 0.3
static shoal_exit_samples draw(uint64_t *rng, size_t n_groups, size_t length, bool together)
{
    for (size_t g = 0; g < n_groups; g++) {
        double top = uniform(rng);
        double luck = uniform(rng);
        for (size_t i = 0; i < length; i++) {
            if (!together) {
                top = uniform(rng);
                luck = uniform(rng);
            }
            rows[g * length + i] =
                (shoal_exit_sample){.features = {.sound = true, .top = (float)top},
                                    .group = (uint32_t)g,
                                    .agrees = luck >= WRONG * (1 - top)};
        }
    }
    return (shoal_exit_samples){rows, n_groups * length, n_groups};
}

/* E[leaves and disagrees] = integral of WRONG (1 - t) over t from the threshold to 1. */
static double true_risk(float threshold)
{
    double rest = 1 - SHOAL_MIN(1, (double)threshold);
    return WRONG * rest * rest / 2;
}

typedef float chooser(const shoal_exit_samples *samples, double alpha, double delta);

/* Broken: takes the lowest threshold that looks good on these samples. */
static float by_looking(const shoal_exit_samples *samples, double alpha, double delta)
{
    (void)delta;
    shoal_exit_policy p = {0};
    const shoal_exit_fit fit = {.risk = alpha, .delta = delta, .rate = -1};
    assert_int_equal(shoal_exit_fit_policy(samples, &fit, SHOAL_EXIT_FIXED, &p, NULL), SHOAL_OK);
    return p.threshold;
}

/* Broken: every row counts as an answer of its own. */
static float by_rows(const shoal_exit_samples *samples, double alpha, double delta)
{
    static shoal_exit_sample apart[N_ROWS];
    memcpy(apart, samples->rows, samples->n * sizeof *apart);
    for (size_t i = 0; i < samples->n; i++) {
        apart[i].group = (uint32_t)i;
    }
    return shoal_exit_fit_risk(&(shoal_exit_samples){apart, samples->n, samples->n}, alpha, delta);
}

typedef struct result {
    double exceeded; /* share of draws whose true risk is above alpha */
    double left;     /* mean share of rows that leaves */
} result;

static result resample(chooser *choose, size_t n_groups, size_t length, bool together, double alpha,
                       double delta, uint64_t seed)
{
    result r = {0, 0};
    for (size_t i = 0; i < RESAMPLES; i++) {
        shoal_exit_samples s = draw(&seed, n_groups, length, together);
        float threshold = choose(&s, alpha, delta);
        r.exceeded += true_risk(threshold) > alpha ? 1 : 0;
        r.left += 1 - SHOAL_MIN(1, (double)threshold);
    }
    r.exceeded /= RESAMPLES;
    r.left /= RESAMPLES;
    return r;
}

/* Three deviations of a share of RESAMPLES draws. */
static double slack(double delta)
{
    return 3 * sqrt(delta * (1 - delta) / RESAMPLES);
}

static const struct {
    double alpha;
    double delta;
    size_t n_groups;
    size_t length;
    bool together;
} cases[] = {{0.05, 0.05, 400, 1, false}, {0.02, 0.1, 1200, 1, false}, {0.01, 0.05, 2000, 1, false},
             {0.02, 0.05, 600, 4, false}, {0.03, 0.05, 300, 8, true},  {0.02, 0.2, 400, 6, true}};

static void test_stated_risk_holds_in_all_but_delta_of_the_draws(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        result r = resample(shoal_exit_fit_risk, cases[i].n_groups, cases[i].length,
                            cases[i].together, cases[i].alpha, cases[i].delta, 100 + i);
        print_message("risk %g, delta %g, %zu answers of %zu: exceeded in %.3f, %.3f leave\n",
                      cases[i].alpha, cases[i].delta, cases[i].n_groups, cases[i].length,
                      r.exceeded, r.left);
        assert_true(r.exceeded <= cases[i].delta + slack(cases[i].delta));
        /* It is of use: at the true limit a share sqrt(2 alpha / WRONG) would leave. */
        assert_true(r.left > 0.4 * sqrt(2 * cases[i].alpha / WRONG));
    }
}

static void test_the_same_test_fails_a_choice_without_correction(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        result r = resample(by_looking, cases[i].n_groups, cases[i].length, cases[i].together,
                            cases[i].alpha, cases[i].delta, 200 + i);
        assert_true(r.exceeded > cases[i].delta + slack(cases[i].delta));
        assert_true(r.exceeded > 0.3);
    }
}

static void test_the_same_test_fails_rows_taken_for_answers(void **state)
{
    (void)state;
    result r = resample(by_rows, 300, 8, true, 0.03, 0.05, 300);
    assert_true(r.exceeded > 0.05 + slack(0.05));
}

/* --- the p-value ----------------------------------------------------------------------------- */

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-9 * SHOAL_MAX(1e-3, want))) {
        fail_msg("%.15g instead of %.15g", got, want);
    }
}

static void test_p_value_by_hand(void **state)
{
    (void)state;
    /* No loss: Hoeffding gives (1 - alpha)^n, Bentkus e times as much. */
    near(shoal_exit_risk_p(0, 10, 0.1), pow(0.9, 10));
    near(shoal_exit_risk_p(0, 300, 0.01), pow(0.99, 300));
    /* One loss of ten at alpha 0.5: P(Bin <= 1) = 11 / 1024. */
    double h = exp(-10 * (0.1 * log(0.1 / 0.5) + 0.9 * log(0.9 / 0.5)));
    near(shoal_exit_risk_p(0.1, 10, 0.5), SHOAL_MIN(h, exp(1) * 11 / 1024));
    /* Two and a half losses round up to three: P(Bin(10, 0.5) <= 3) = 176 / 1024. */
    h = exp(-10 * (0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)));
    near(shoal_exit_risk_p(0.25, 10, 0.5), SHOAL_MIN(1, SHOAL_MIN(h, exp(1) * 176 / 1024)));
    assert_true(shoal_exit_risk_p(0.5, 10, 0.5) == 1.0);
    assert_true(shoal_exit_risk_p(0.9, 10, 0.5) == 1.0);
    assert_true(shoal_exit_risk_p((double)NAN, 10, 0.5) == 1.0);
    assert_true(shoal_exit_risk_p(0, 0, 0.5) == 1.0);
}

static void test_p_value_is_a_bound_and_monotonic(void **state)
{
    (void)state;
    static const double alphas[] = {0.001, 0.01, 0.1, 0.4};
    static const size_t ns[] = {1, 7, 100, 5000, 1000000};
    for (size_t a = 0; a < SHOAL_COUNT(alphas); a++) {
        for (size_t k = 0; k < SHOAL_COUNT(ns); k++) {
            double before = 0;
            for (size_t i = 0; i <= 40; i++) {
                double p = shoal_exit_risk_p(alphas[a] * (double)i / 40, ns[k], alphas[a]);
                assert_true(p >= before && p <= 1.0);
                before = p;
            }
            assert_true(before == 1.0);
        }
    }
}

static void test_too_few_answers_let_nothing_leave(void **state)
{
    (void)state;
    /* (1 - 0.01)^n <= 0.05 from n = 299 on. */
    for (size_t n = 298; n <= 300; n++) {
        for (size_t i = 0; i < n; i++) {
            rows[i] = (shoal_exit_sample){
                .features = {.sound = true, .top = 0.9F}, .group = (uint32_t)i, .agrees = true};
        }
        float t = shoal_exit_fit_risk(&(shoal_exit_samples){rows, n, n}, 0.01, 0.05);
        assert_true(n < 299 ? t == SHOAL_EXIT_NEVER : t == 0.0F);
    }
}

static void test_wrong_rows_of_full_confidence_let_nothing_leave(void **state)
{
    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        rows[i] = (shoal_exit_sample){
            .features = {.sound = true, .top = 1.0F}, .group = (uint32_t)i, .agrees = i % 10 != 0};
    }
    shoal_exit_samples s = {rows, 1000, 1000};
    assert_true(shoal_exit_fit_risk(&s, 0.05, 0.05) == SHOAL_EXIT_NEVER);
    for (size_t i = 0; i < 1000; i++) {
        rows[i].features.sound = false; /* they never leave, so they cost nothing */
    }
    assert_true(shoal_exit_fit_risk(&s, 0.05, 0.05) == 0.0F);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stated_risk_holds_in_all_but_delta_of_the_draws),
        cmocka_unit_test(test_the_same_test_fails_a_choice_without_correction),
        cmocka_unit_test(test_the_same_test_fails_rows_taken_for_answers),
        cmocka_unit_test(test_p_value_by_hand),
        cmocka_unit_test(test_p_value_is_a_bound_and_monotonic),
        cmocka_unit_test(test_too_few_answers_let_nothing_leave),
        cmocka_unit_test(test_wrong_rows_of_full_confidence_let_nothing_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
