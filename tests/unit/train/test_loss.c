/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/train/loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    ROWS = 3,
    VOCAB_MAX = 70
};

static float uniform(uint64_t *rng)
{
    return (float)(shoal_rng_next(rng) >> 40) * 0x1p-23F - 1.0F;
}

static void fill(uint64_t *rng, size_t n, float scale, float *x)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = scale * uniform(rng);
    }
}

/* --- plain second implementations in double -------------------------------------------------- */

static void softmax(size_t n, const float *x, double t, double *p)
{
    double max = -1e300;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        max = fmax(max, (double)x[i]);
    }
    for (size_t i = 0; i < n; i++) {
        p[i] = exp(((double)x[i] - max) / t);
        sum += p[i];
    }
    for (size_t i = 0; i < n; i++) {
        p[i] /= sum;
    }
}

static double reference(size_t n_vocab, const shoal_distil *d, int32_t target, const float *teacher,
                        const float *logits)
{
    double p[VOCAB_MAX];
    double q[VOCAB_MAX];
    double loss = 0;
    double t = (double)d->temperature;
    if (d->alpha > 0) {
        softmax(n_vocab, logits, 1, p);
        loss -= (double)d->alpha * log(p[target]);
    }
    if (d->alpha < 1) {
        double kl = 0;
        softmax(n_vocab, logits, t, p);
        softmax(n_vocab, teacher, t, q);
        for (size_t i = 0; i < n_vocab; i++) {
            kl += d->reverse ? p[i] * log(p[i] / q[i]) : q[i] * log(q[i] / p[i]);
        }
        loss += (1 - (double)d->alpha) * t * t * kl;
    }
    return loss;
}

/* --- values and gradients -------------------------------------------------------------------- */

static void check_against_differences(size_t n_vocab, const shoal_distil *d, uint64_t seed)
{
    float logits[ROWS * VOCAB_MAX];
    float teacher[ROWS * VOCAB_MAX];
    float gradient[ROWS * VOCAB_MAX];
    int32_t targets[ROWS];
    const float weights[ROWS] = {1.0F, 0.0F, 0.25F};
    uint64_t rng = seed;
    fill(&rng, ROWS * n_vocab, 3.0F, logits);
    fill(&rng, ROWS * n_vocab, 3.0F, teacher);
    for (size_t r = 0; r < ROWS; r++) {
        targets[r] = (int32_t)(shoal_rng_next(&rng) % n_vocab);
    }
    memcpy(gradient, logits, sizeof logits);
    double loss = shoal_loss_distil(ROWS, n_vocab, d, targets, teacher, weights, gradient);
    double want = 0;
    for (size_t r = 0; r < ROWS; r++) {
        const float *row = logits + r * n_vocab;
        const float *theirs = teacher + r * n_vocab;
        double w = (double)weights[r];
        want += w * reference(n_vocab, d, targets[r], theirs, row);
        for (size_t i = 0; i < n_vocab; i++) {
            /* A step that is exact in binary32, so that the difference is of the loss alone. */
            const float step = 0x1p-10F;
            float moved[VOCAB_MAX];
            memcpy(moved, row, n_vocab * sizeof *moved);
            moved[i] = row[i] + step;
            double up = (double)moved[i];
            double loss_up = reference(n_vocab, d, targets[r], theirs, moved);
            moved[i] = row[i] - step;
            double down = (double)moved[i];
            double loss_down = reference(n_vocab, d, targets[r], theirs, moved);
            double slope = w * (loss_up - loss_down) / (up - down);
            double got = (double)gradient[r * n_vocab + i];
            if (fabs(slope - got) > 3e-6 * fmax(1.0, fabs(slope))) {
                fail_msg("seed %llu, row %zu, logit %zu of %zu: %.9g, not %.9g",
                         (unsigned long long)seed, r, i, n_vocab, got, slope);
            }
        }
    }
    assert_true(fabs(loss - want) < 2e-5 * fmax(1.0, want));
}

static void test_distil_gradient_equals_finite_differences(void **state)
{
    (void)state;
    static const shoal_distil all[] = {
        {1.0F, 1.0F, false}, {0.0F, 1.0F, false}, {0.0F, 2.5F, false}, {0.0F, 1.0F, true},
        {0.0F, 0.7F, true},  {0.3F, 1.0F, false}, {0.3F, 2.0F, true},
    };
    static const size_t sizes[] = {1, 2, 15, 16, 17, 32, 70};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        for (size_t k = 0; k < SHOAL_COUNT(sizes); k++) {
            check_against_differences(sizes[k], &all[i], 1 + i * 100 + k);
        }
    }
}

static void test_cross_entropy_of_hand_computed_row(void **state)
{
    (void)state;
    /* Softmax of (0, ln 2, ln 5) is (1, 2, 5) / 8. */
    float x[3] = {0, 0.69314718F, 1.6094379F};
    const int32_t target = 1;
    const float weight = 2.0F;
    double loss = shoal_loss_cross_entropy(1, 3, &target, &weight, x);
    assert_true(fabs(loss - 2 * log(4.0)) < 1e-6);
    assert_true(fabsf(x[0] - 0.25F) < 1e-6F);
    assert_true(fabsf(x[1] + 1.5F) < 1e-6F);
    assert_true(fabsf(x[2] - 1.25F) < 1e-6F);
}

static void test_kl_of_hand_computed_rows(void **state)
{
    (void)state;
    /* Student (1, 3) / 4, teacher (1, 1) / 2. */
    const float teacher[2] = {0, 0};
    const float weight = 1.0F;
    float x[2] = {0, 1.0986123F};
    const shoal_distil d = {.temperature = 1};
    double forward = shoal_loss_distil(1, 2, &d, NULL, teacher, &weight, x);
    assert_true(fabs(forward - 0.5 * log(4.0 / 3.0)) < 1e-6); /* (ln 2 + ln 2/3) / 2 */
    assert_true(fabsf(x[0] + 0.25F) < 1e-6F && fabsf(x[1] - 0.25F) < 1e-6F);
    float y[2] = {0, 1.0986123F};
    double reverse = shoal_loss_reverse_kl(1, 2, teacher, 1, &weight, y);
    double want = 0.25 * log(0.5) + 0.75 * log(1.5);
    assert_true(fabs(reverse - want) < 1e-6);
    assert_true(fabs((double)y[0] - 0.25 * (log(0.5) - want)) < 1e-6);
    assert_true(fabs((double)y[1] - 0.75 * (log(1.5) - want)) < 1e-6);
}

static void test_kl_of_equal_rows_is_zero(void **state)
{
    (void)state;
    float x[VOCAB_MAX];
    float teacher[VOCAB_MAX];
    const float weight = 1.0F;
    for (int reverse = 0; reverse < 2; reverse++) {
        uint64_t rng = 7;
        fill(&rng, VOCAB_MAX, 8.0F, x);
        memcpy(teacher, x, sizeof x);
        const shoal_distil d = {.temperature = 2, .reverse = reverse != 0};
        double loss = shoal_loss_distil(1, VOCAB_MAX, &d, NULL, teacher, &weight, x);
        assert_true(loss == 0);
        for (size_t i = 0; i < VOCAB_MAX; i++) {
            assert_true(x[i] == 0);
        }
    }
}

static void test_weight_zero_gives_nothing_whatever_the_row_holds(void **state)
{
    (void)state;
    float x[4] = {NAN, INFINITY, 1e30F, -INFINITY};
    const float zero[4] = {0};
    const int32_t target = -5; /* not looked at */
    const float weight = 0;
    const shoal_distil d = {0.5F, 1, false};
    assert_true(shoal_loss_distil(1, 4, &d, &target, zero, &weight, x) == 0);
    assert_memory_equal(x, zero, sizeof x);
}

static void test_large_logits_stay_finite_and_nan_is_not_hidden(void **state)
{
    (void)state;
    float x[3] = {1e30F, 0, -1e30F};
    const int32_t target = 0;
    const float weight = 1;
    assert_true(shoal_loss_cross_entropy(1, 3, &target, &weight, x) < 1e-6);
    for (size_t at = 0; at < 20; at++) {
        float y[20];
        uint64_t rng = at;
        fill(&rng, 20, 1, y);
        y[at] = NAN;
        assert_true(isnan(shoal_loss_cross_entropy(1, 20, &target, &weight, y)));
    }
}

/* --- what the two divergences are for -------------------------------------------------------- */

enum {
    GRID = 151
};

/* Logits of a discretised normal density; mean and log deviation are its parameters. */
static void normal_logits(const double mean_log[2], float *logits)
{
    double deviation = exp(mean_log[1]);
    for (int i = 0; i < GRID; i++) {
        double z = ((double)(i - GRID / 2) * 0.2 - mean_log[0]) / deviation;
        logits[i] = (float)(-0.5 * z * z);
    }
}

/* Fits one hump to two at -3 and 3 by gradient descent through the loss. */
static void fit_hump(bool reverse, double begin, double ret_fit[2])
{
    float teacher[GRID];
    const float weight = 1;
    const shoal_distil d = {0, 1, reverse};
    for (int i = 0; i < GRID; i++) {
        double x = (double)(i - GRID / 2) * 0.2;
        double p = exp(-2 * (x - 3) * (x - 3)) + exp(-2 * (x + 3) * (x + 3));
        teacher[i] = (float)log(p + 1e-9);
    }
    double fit[2] = {begin, reverse ? -0.7 : 0};
    for (int step = 0; step < 4000; step++) {
        float g[GRID];
        normal_logits(fit, g);
        (void)shoal_loss_distil(1, GRID, &d, NULL, teacher, &weight, g);
        double slope[2] = {0, 0};
        double variance = exp(2 * fit[1]);
        for (int i = 0; i < GRID; i++) {
            double off = (double)(i - GRID / 2) * 0.2 - fit[0];
            slope[0] += (double)g[i] * off / variance;
            slope[1] += (double)g[i] * off * off / variance;
        }
        fit[0] -= 0.05 * slope[0];
        fit[1] -= 0.05 * slope[1];
    }
    ret_fit[0] = fit[0];
    ret_fit[1] = exp(fit[1]);
}

static void test_forward_kl_covers_both_modes(void **state)
{
    (void)state;
    double fit[2];
    fit_hump(false, 0.7, fit);
    print_message("forward: mean %.3f, deviation %.3f\n", fit[0], fit[1]);
    assert_true(fabs(fit[0]) < 0.05);          /* between them, */
    assert_true(fit[1] > 2.8 && fit[1] < 3.6); /* as wide as both */
}

static void test_reverse_kl_picks_one_mode(void **state)
{
    (void)state;
    for (int side = -1; side <= 1; side += 2) {
        double fit[2];
        fit_hump(true, 1.5 * side, fit);
        print_message("reverse: mean %.3f, deviation %.3f\n", fit[0], fit[1]);
        assert_true(fabs(fit[0] - 3.0 * side) < 0.1);
        assert_true(fit[1] > 0.4 && fit[1] < 0.6); /* each is 0.5 wide */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distil_gradient_equals_finite_differences),
        cmocka_unit_test(test_cross_entropy_of_hand_computed_row),
        cmocka_unit_test(test_kl_of_hand_computed_rows),
        cmocka_unit_test(test_kl_of_equal_rows_is_zero),
        cmocka_unit_test(test_weight_zero_gives_nothing_whatever_the_row_holds),
        cmocka_unit_test(test_large_logits_stay_finite_and_nan_is_not_hidden),
        cmocka_unit_test(test_forward_kl_covers_both_modes),
        cmocka_unit_test(test_reverse_kl_picks_one_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
