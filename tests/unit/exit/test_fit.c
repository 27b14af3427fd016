/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/exit/fit.h"

#include <math.h>
#include <string.h>

enum {
    N = 4000
};

static shoal_exit_sample rows[N];

static double uniform(uint64_t *rng)
{
    return (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Rows that agree with the probability that the weights give them. */
static shoal_exit_samples draw(uint64_t seed, const double w[4], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float top = (float)uniform(&seed);
        float gap = top * (float)uniform(&seed);
        float depth = i % 2 ? 0.25F : 0.75F;
        double p = sigmoid(w[0] + w[1] * (double)top + w[2] * (double)gap + w[3] * (double)depth);
        rows[i] = (shoal_exit_sample){
            .features = {.sound = true, .top = top, .gap = gap, .entropy = 1 - top, .depth = depth},
            .group = (uint32_t)(i / 4),
            .agrees = uniform(&seed) < p};
    }
    return (shoal_exit_samples){rows, n, (n + 3) / 4};
}

static const double weights[4] = {-2, 4, 3, 1.5};

static void test_logistic_finds_the_weights_again(void **state)
{
    (void)state;
    shoal_exit_samples s = draw(11, weights, N);
    shoal_exit_policy p = {0};
    shoal_exit_fit_logistic(&s, &p);
    assert_true(fabs((double)p.bias - weights[0]) < 0.6);
    assert_true(fabs((double)p.w_top - weights[1]) < 1.2);
    assert_true(fabs((double)p.w_gap - weights[2]) < 1.5);
    assert_true(fabs((double)p.w_depth - weights[3]) < 0.8);

    /* The likelihood is flat at its top: the residuals are orthogonal to every feature. */
    double gradient[4] = {0};
    for (size_t i = 0; i < N; i++) {
        const shoal_exit_features *f = &rows[i].features;
        double x[4] = {1, (double)f->top, (double)f->gap, (double)f->depth};
        double z = (double)p.bias + (double)p.w_top * x[1] + (double)p.w_gap * x[2] +
                   (double)p.w_depth * x[3];
        for (size_t a = 0; a < 4; a++) {
            gradient[a] += (sigmoid(z) - (rows[i].agrees ? 1 : 0)) * x[a];
        }
    }
    for (size_t a = 0; a < 4; a++) {
        assert_true(fabs(gradient[a]) < 0.02); /* the ridge's share, and floats */
    }
}

static void test_logistic_stays_finite_where_rows_are_separable(void **state)
{
    (void)state;
    shoal_exit_samples s = draw(5, weights, N);
    for (size_t i = 0; i < N; i++) {
        rows[i].agrees = rows[i].features.top > 0.5F;
        rows[i].features.depth = 1; /* as much as the bias says */
    }
    shoal_exit_policy p = {.kind = SHOAL_EXIT_LINEAR, .threshold = 0.5F};
    shoal_exit_fit_logistic(&s, &p);
    assert_int_equal(shoal_exit_policy_check(&p, NULL), SHOAL_OK);
    size_t n_wrong = 0;
    for (size_t i = 0; i < N; i++) {
        n_wrong += shoal_exit_decide(&p, NULL, &rows[i].features) != rows[i].agrees ? 1 : 0;
    }
    assert_true(n_wrong < N / 100);

    for (size_t i = 0; i < N; i++) {
        rows[i].agrees = true; /* no row of the other kind */
    }
    shoal_exit_fit_logistic(&s, &p);
    assert_int_equal(shoal_exit_policy_check(&p, NULL), SHOAL_OK);
    rows[0].features.sound = false;
    rows[0].features.top = NAN; /* is not looked at */
    shoal_exit_fit_logistic(&s, &p);
    assert_int_equal(shoal_exit_policy_check(&p, NULL), SHOAL_OK);
}

/* The threshold keeps the risk here, and one row more would not. */
static void test_thresholds_are_met_and_tight(void **state)
{
    (void)state;
    static const shoal_exit_kind kinds[] = {SHOAL_EXIT_FIXED, SHOAL_EXIT_MARGIN, SHOAL_EXIT_ENTROPY,
                                            SHOAL_EXIT_LINEAR};
    static const double risks[] = {0.001, 0.01, 0.05, 0.2};
    shoal_exit_samples s = draw(23, weights, N);
    for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
        double left = -1;
        for (size_t r = 0; r < SHOAL_COUNT(risks); r++) {
            shoal_exit_fit fit = {.risk = risks[r], .delta = 0.05, .rate = -1};
            shoal_exit_policy p = {0};
            assert_int_equal(shoal_exit_fit_policy(&s, &fit, kinds[k], &p, NULL), SHOAL_OK);
            shoal_exit_outcome got = shoal_exit_try(&s, &p);
            assert_true(got.disagreed <= risks[r]);
            assert_true(got.left >= left);
            left = got.left;
            float down = kinds[k] == SHOAL_EXIT_ENTROPY ? 100 : -1;
            float next = down; /* the score of the next row that would go */
            for (size_t i = 0; i < N; i++) {
                float score = shoal_exit_score(&p, &rows[i].features);
                score = kinds[k] == SHOAL_EXIT_ENTROPY ? -score : score;
                bool stays =
                    kinds[k] == SHOAL_EXIT_ENTROPY ? score > p.threshold : score < p.threshold;
                bool nearer = kinds[k] == SHOAL_EXIT_ENTROPY ? score < next : score > next;
                next = stays && nearer ? score : next;
            }
            if (next != down) {
                p.threshold = next;
                assert_true(shoal_exit_try(&s, &p).disagreed > risks[r]);
            }
        }
    }
}

static void test_linear_beats_one_feature_alone(void **state)
{
    (void)state;
    shoal_exit_samples s = draw(29, (const double[4]){-1, 0.5, 4, 3}, N);
    shoal_exit_fit fit = {.risk = 0.02, .delta = 0.05, .rate = -1};
    shoal_exit_policy fixed = {0};
    shoal_exit_policy linear = {0};
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_FIXED, &fixed, NULL), SHOAL_OK);
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_LINEAR, &linear, NULL), SHOAL_OK);
    assert_true(shoal_exit_try(&s, &linear).left > shoal_exit_try(&s, &fixed).left);
}

static void test_rows_of_one_score_go_together_or_not_at_all(void **state)
{
    (void)state;
    shoal_exit_samples s = draw(31, weights, 100);
    for (size_t i = 0; i < 100; i++) {
        rows[i].features.top = i < 50 ? 1.0F : 0.5F;
        rows[i].agrees = i != 20 && i < 90;
    }
    shoal_exit_policy p = {0};
    shoal_exit_fit fit = {.risk = 0.01, .delta = 0.05, .rate = -1};
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_FIXED, &p, NULL), SHOAL_OK);
    assert_true(p.threshold == 1.0F); /* the one wrong row of 100 */
    fit.risk = 0.0099;
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_FIXED, &p, NULL), SHOAL_OK);
    assert_true(p.threshold == SHOAL_EXIT_NEVER);
    assert_true(shoal_exit_try(&s, &p).left == 0.0);
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_PERCENTILE, &p, NULL), SHOAL_OK);
    assert_true(p.rate == 0.0F);
    fit.risk = 0.11;
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_FIXED, &p, NULL), SHOAL_OK);
    assert_true(p.threshold == 0.5F);
}

static void test_percentile_takes_the_rate_given_or_that_of_fixed(void **state)
{
    (void)state;
    shoal_exit_samples s = draw(37, weights, N);
    shoal_exit_fit fit = {.risk = 0.02, .delta = 0.05, .rate = 0.4};
    shoal_exit_policy p = {0};
    shoal_exit_policy fixed = {0};
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_PERCENTILE, &p, NULL), SHOAL_OK);
    assert_true(p.rate == 0.4F);
    assert_true(fabs(shoal_exit_try(&s, &p).left - 0.4) < 0.02);
    fit.rate = -1;
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_PERCENTILE, &p, NULL), SHOAL_OK);
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_FIXED, &fixed, NULL), SHOAL_OK);
    assert_true(fabs((double)p.rate - shoal_exit_try(&s, &fixed).left) < 1e-6);
}

static void test_try_averages_over_groups(void **state)
{
    (void)state;
    static const struct {
        uint32_t group;
        bool agrees;
    } made[] = {{0, false}, {1, true}, {1, false}, {1, true}, {1, true}};
    shoal_exit_sample s[5];
    memset(s, 0, sizeof s);
    for (size_t i = 0; i < 5; i++) {
        s[i].features = (shoal_exit_features){.sound = true, .top = 0.5F};
        s[i].group = made[i].group;
        s[i].agrees = made[i].agrees;
    }
    const shoal_exit_policy p = {.kind = SHOAL_EXIT_FIXED, .threshold = 0.5F};
    shoal_exit_outcome got = shoal_exit_try(&(shoal_exit_samples){s, 5, 2}, &p);
    assert_true(got.left == 1.0 && got.disagreed == 0.4 && got.risk == (1.0 + 0.25) / 2);
}

static void test_no_rows_and_no_memory_are_refused(void **state)
{
    (void)state;
    shoal_exit_policy p = {0};
    shoal_exit_fit fit = {.risk = 0.02, .delta = 0.05, .rate = -1};
    shoal_exit_samples none = {rows, 0, 0};
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        assert_int_equal(shoal_exit_fit_policy(&none, &fit, (shoal_exit_kind)kind, &p, NULL),
                         SHOAL_E_INVALID);
    }
    shoal_exit_samples s = draw(1, weights, 8);
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_exit_fit_policy(&s, &fit, SHOAL_EXIT_FIXED, &p, NULL), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    for (size_t i = 0; i < 8; i++) {
        rows[i].features.sound = false; /* nothing to learn from: nothing leaves */
    }
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        shoal_exit_policy q = {0};
        assert_int_equal(shoal_exit_fit_policy(&s, &fit, (shoal_exit_kind)kind, &q, NULL),
                         SHOAL_OK);
        assert_true(shoal_exit_try(&s, &q).left == 0.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logistic_finds_the_weights_again),
        cmocka_unit_test(test_logistic_stays_finite_where_rows_are_separable),
        cmocka_unit_test(test_thresholds_are_met_and_tight),
        cmocka_unit_test(test_linear_beats_one_feature_alone),
        cmocka_unit_test(test_rows_of_one_score_go_together_or_not_at_all),
        cmocka_unit_test(test_percentile_takes_the_rate_given_or_that_of_fixed),
        cmocka_unit_test(test_try_averages_over_groups),
        cmocka_unit_test(test_no_rows_and_no_memory_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
