/* SPDX-License-Identifier: Apache-2.0
 *
 * SmoothQuant against plain rounding to 8 bits, with inputs rounded as the engine rounds them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "layers.h"

#include <string.h>

enum {
    ROWS = 40,
    K = 128,
    TOKENS = 160,
    LAYERS = 6
};

static const shoal_form eight = {.bits = 8, .group = 32, .density = 1};
static float w[ROWS * K];
static float x[TOKENS * K];
static float h[K * K];
static float largest[K];

/* Every 40th element of the input is so many times as large as the others. */
static void draw(uint64_t seed, double outlier)
{
    uint64_t rng = seed;
    memset(h, 0, sizeof h);
    memset(largest, 0, sizeof largest);
    for (size_t i = 0; i < SHOAL_COUNT(w); i++) {
        w[i] = (float)(0.05 * test_normal(&rng));
    }
    for (size_t i = 0; i < SHOAL_COUNT(x); i++) {
        size_t j = i % K;
        x[i] = (float)(test_normal(&rng) * (j % 40 == 7 ? outlier : 1));
        largest[j] = fmaxf(largest[j], fabsf(x[i]));
    }
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t i = 0; i < (size_t)K * K; i++) {
            h[i] += x[t * K + i / K] * x[t * K + i % K];
        }
    }
}

static shoal_problem *make(void)
{
    shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(ROWS, K, w, h, &p, NULL), SHOAL_OK);
    assert_int_equal(shoal_problem_set_largest(p, largest, NULL), SHOAL_OK);
    return p;
}

/* The output of a row, from codes of both sides: the engine's law but for the last rounding. */
static double product(const shoal_compressed *c, size_t row, const int8_t *q,
                      const shoal_act_block *blocks)
{
    double sum = 0;
    for (size_t b = 0; b < K / SHOAL_QBLOCK; b++) {
        int dot = 0;
        for (size_t j = b * SHOAL_QBLOCK; j < (b + 1) * SHOAL_QBLOCK; j++) {
            dot += c->codes[row * K + j] * q[j];
        }
        double d = (double)shoal_f16_to_f32(c->scales[row * c->n_groups + b]);
        sum += d * (double)blocks[b].scale * dot;
    }
    return sum;
}

/* Squared error of all outputs, as a share of them, with 8 bits for weights and inputs. */
static double rounded_error(const shoal_compressed *c)
{
    shoal_kernels kernels;
    double error = 0;
    double energy = 0;
    shoal_kernels_init(&kernels, 0);
    for (size_t t = 0; t < TOKENS; t++) {
        float divided[K];
        int8_t q[K];
        shoal_act_block blocks[K / SHOAL_QBLOCK];
        for (size_t j = 0; j < K; j++) {
            float s = c->column_scales ? shoal_f16_to_f32(c->column_scales[j]) : 1;
            divided[j] = x[t * K + j] * (1.0F / s);
        }
        kernels.quantize_q8(K, divided, q, blocks);
        for (size_t row = 0; row < ROWS; row++) {
            double want = 0;
            for (size_t j = 0; j < K; j++) {
                want += (double)w[row * K + j] * (double)x[t * K + j];
            }
            double d = product(c, row, q, blocks) - want;
            error += d * d;
            energy += want * want;
        }
    }
    return error / energy;
}

static double error_of(const shoal_problem *p, shoal_pass pass, bool *ret_scaled)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    assert_int_equal(shoal_compress(p, pass, &eight, &c, NULL), SHOAL_OK);
    *ret_scaled = c->column_scales != NULL;
    return rounded_error(c);
}

static void test_outliers_no_longer_take_the_bits_of_others(void **state)
{
    (void)state;
    static const double outliers[] = {30, 100};
    for (size_t i = 0; i < LAYERS; i++) {
        bool scaled = false;
        draw(i + 1, outliers[i % 2]);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make();
        double plain = error_of(p, SHOAL_PASS_RTN, &scaled);
        assert_false(scaled);
        double smooth = error_of(p, SHOAL_PASS_SMOOTH, &scaled);
        print_message("outliers of %g: plain %.3e, smoothed %.3e\n", outliers[i % 2], plain,
                      smooth);
        assert_true(scaled);
        assert_true(smooth < plain / 2);
    }
}

static void test_an_even_input_loses_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < LAYERS; i++) {
        bool scaled = false;
        draw(i + 1, 1);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make();
        double plain = error_of(p, SHOAL_PASS_RTN, &scaled);
        assert_true(error_of(p, SHOAL_PASS_SMOOTH, &scaled) < 1.05 * plain);
    }
}

/* Equation 4 of 2211.10438, for one of the powers that are tried; scales are known up to a factor,
 * and are f16. */
static double farthest(const shoal_compressed *c, double power)
{
    double most_ratio = 0;
    double least_ratio = (double)INFINITY;
    for (size_t j = 0; j < K; j++) {
        double most = 0;
        for (size_t row = 0; row < ROWS; row++) {
            most = fmax(most, fabs((double)w[row * K + j]));
        }
        double s = pow((double)largest[j], power) / pow(most, 1 - power);
        double ratio = (double)shoal_f16_to_f32(c->column_scales[j]) / s;
        most_ratio = fmax(most_ratio, ratio);
        least_ratio = fmin(least_ratio, ratio);
    }
    return most_ratio / least_ratio - 1;
}

static void test_scales_are_those_of_the_paper(void **state)
{
    (void)state;
    static const double outliers[] = {4, 30, 300, 3000};
    for (size_t n = 0; n < SHOAL_COUNT(outliers); n++) {
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        double best = (double)INFINITY;
        size_t best_i = 0;
        draw(5, outliers[n]);
        /* Columns of different weight, or their power would not show; and largest magnitudes that
         * are told squared, or a half would be best, with which both powers are the same. */
        for (size_t i = 0; i < SHOAL_COUNT(w); i++) {
            w[i] *= 1 + 0.25F * (float)(i % K % 3);
        }
        for (size_t j = 0; j < K; j++) {
            largest[j] *= largest[j];
        }
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make();
        assert_int_equal(shoal_compress(p, SHOAL_PASS_SMOOTH, &eight, &c, NULL), SHOAL_OK);
        assert_non_null(c->column_scales);
        for (size_t i = 0; i <= 10; i++) {
            double off = farthest(c, (double)i / 10);
            best_i = off < best ? i : best_i;
            best = fmin(best, off);
        }
        print_message("outliers of %g: power 0.%zu\n", outliers[n], best_i);
        assert_true(best < 2e-3);
        assert_int_not_equal(best_i, 5);
    }
}

/* Before anything is rounded (x / s) (s w) is x w: what the weights alone lose stays that of 8
 * bits, and without the largest magnitudes their means stand in for them. */
static void test_scales_cancel_out(void **state)
{
    (void)state;
    draw(2, 100);
    for (size_t with = 0; with < 2; with++) {
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
        double error = 1;
        assert_int_equal(shoal_problem_new(ROWS, K, w, h, &p, NULL), SHOAL_OK);
        if (with) {
            assert_int_equal(shoal_problem_set_largest(p, largest, NULL), SHOAL_OK);
        }
        assert_int_equal(shoal_compress(p, SHOAL_PASS_SMOOTH, &eight, &c, NULL), SHOAL_OK);
        assert_int_equal(shoal_compressed_error(p, c, &error), SHOAL_OK);
        assert_non_null(c->column_scales);
        assert_true(error < 1e-4);
    }
}

static void test_magnitudes_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -1};
    draw(1, 1);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make();
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        float kept = largest[K - 1];
        largest[K - 1] = bad[i];
        assert_int_equal(shoal_problem_set_largest(p, largest, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "127"));
        largest[K - 1] = kept;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outliers_no_longer_take_the_bits_of_others),
        cmocka_unit_test(test_an_even_input_loses_nothing),
        cmocka_unit_test(test_scales_are_those_of_the_paper),
        cmocka_unit_test(test_scales_cancel_out),
        cmocka_unit_test(test_magnitudes_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
