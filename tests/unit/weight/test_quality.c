/* SPDX-License-Identifier: Apache-2.0
 *
 * What encoding loses: a budget for every type on normal data, never more than a plain search-free
 * rounding of the same block layout loses, and little more when what was decoded is encoded again.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

enum {
    N = 1 << 14
};

static float x[N];
static float y[N];
static float z[N];
static uint8_t blocks[2 * N];

/* Relative root mean square error on normal data, in thousandths: the most a type may lose. The
 * plain rounding of the same bits is computed below and printed beside what was found. */
typedef struct budget {
    shoal_type type;
    double limit;
    int bits;
    size_t sub; /* elements that share a scale */
    bool floor;
} budget;

static const budget budgets[] = {
    {SHOAL_TYPE_Q4_0, 0.090, 4, 32, false},   {SHOAL_TYPE_Q4_1, 0.082, 4, 32, true},
    {SHOAL_TYPE_Q5_0, 0.045, 5, 32, false},   {SHOAL_TYPE_Q5_1, 0.040, 5, 32, true},
    {SHOAL_TYPE_Q8_0, 0.0060, 8, 32, false},  {SHOAL_TYPE_Q2_K, 0.280, 2, 16, true},
    {SHOAL_TYPE_Q3_K, 0.160, 3, 16, false},   {SHOAL_TYPE_Q4_K, 0.075, 4, 32, true},
    {SHOAL_TYPE_Q5_K, 0.038, 5, 32, true},    {SHOAL_TYPE_Q6_K, 0.019, 6, 16, false},
    {SHOAL_TYPE_IQ4_NL, 0.080, 4, 32, false},
};

static void normal(uint64_t seed, double scale)
{
    uint64_t rng = seed;
    for (size_t i = 0; i < N; i += 2) {
        double r = sqrt(-2 * log(test_open_unit(&rng)));
        double a = 6.283185307179586 * test_open_unit(&rng);
        x[i] = (float)(scale * r * cos(a));
        x[i + 1] = (float)(scale * r * sin(a));
    }
}

static double relative_error(const float *a, const float *b)
{
    double sum = 0;
    double error = 0;
    for (size_t i = 0; i < N; i++) {
        double d = (double)a[i] - (double)b[i];
        error += d * d;
        sum += (double)b[i] * (double)b[i];
    }
    return sqrt(error / sum);
}

static void round_trip(shoal_type type, const float *from, float *to)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_weight_encode(type, from, N, blocks, &err), SHOAL_OK);
    shoal_weight_decode(type, blocks, N, to);
}

/* Each sub-block scaled from its extreme, or from least and most, in real numbers: no search, and
 * no rounding of the scales either. */
static void plain(const budget *b, const float *from, float *to)
{
    int high = (1 << b->bits) - 1;
    int zero = b->floor ? 0 : 1 << (b->bits - 1);
    for (size_t i = 0; i < N; i += b->sub) {
        double least = 0;
        double most = 0;
        for (size_t j = i; j < i + b->sub; j++) {
            least = fmin(least, (double)from[j]);
            most = fmax(most, (double)from[j]);
        }
        double extreme = -least > most ? least : most;
        double s = b->floor ? (most - least) / high : extreme / -zero;
        double m = b->floor ? -least : 0;
        for (size_t j = i; j < i + b->sub; j++) {
            double code = s != 0 ? rint(((double)from[j] + m) / s) : 0;
            code = fmin(fmax(code, -zero), high - zero);
            to[j] = (float)(code * s - m);
        }
    }
}

static void test_error_is_within_the_budget_and_not_above_plain_rounding(void **state)
{
    (void)state;
    for (size_t t = 0; t < SHOAL_COUNT(budgets); t++) {
        const budget *b = &budgets[t];
        normal(t + 1, 0.02);
        round_trip(b->type, x, y);
        double found = relative_error(y, x);
        plain(b, x, z);
        double without = relative_error(z, x);
        print_message("%-6s error %.4f, plain rounding %.4f\n",
                      shoal_type_find((uint32_t)b->type)->name, found, without);
        assert_true(found <= b->limit);
        /* The reference roundings have no search: theirs is the plain one with an f16 scale. */
        bool searched = b->type >= SHOAL_TYPE_Q2_K && b->type <= SHOAL_TYPE_IQ4_NL;
        assert_true(found <= without * (searched ? 1.0 : 1.01));
    }
}

static void test_encoding_again_loses_little_more(void **state)
{
    (void)state;
    for (size_t t = 0; t < SHOAL_COUNT(budgets); t++) {
        shoal_type type = budgets[t].type;
        normal(t + 20, 0.5);
        round_trip(type, x, y);
        round_trip(type, y, z);
        double first = relative_error(y, x);
        double second = relative_error(z, y);
        print_message("%-6s first %.4f, again %.5f\n", shoal_type_find((uint32_t)type)->name, first,
                      second);
        bool searched = type >= SHOAL_TYPE_Q2_K && type <= SHOAL_TYPE_IQ4_NL;
        assert_true(second <= first * (searched ? 0.5 : 0.02));
    }
}

/* Scales over many magnitudes inside one super-block, all of one sign, outliers, constants. */
static void test_odd_data_keeps_its_shape(void **state)
{
    (void)state;
    for (size_t t = 0; t < SHOAL_COUNT(budgets); t++) {
        const budget *b = &budgets[t];
        for (int shape = 0; shape < 4; shape++) {
            normal(t * 10 + (size_t)shape, 1.0);
            for (size_t i = 0; i < N; i++) {
                switch (shape) {
                case 0: /* magnitudes differ from sub-block to sub-block */
                    x[i] = ldexpf(x[i], -(int)(i / 32 % 8));
                    break;
                case 1: /* far from zero */
                    x[i] = 10.0f + x[i];
                    break;
                case 2: /* one outlier in a super-block */
                    x[i] = i % 256 == 77 ? 50.0f : x[i];
                    break;
                default:
                    x[i] = 0.25f;
                }
            }
            round_trip(b->type, x, y);
            double found = relative_error(y, x);
            plain(b, x, z);
            assert_true(found <= relative_error(z, x) * 1.35 + 0.02);
        }
    }
}

/* Zeros, subnormals, the smallest and the largest numbers that fit: no crash, no NaN. */
static void test_extremes_end_in_finite_numbers_or_a_refusal(void **state)
{
    (void)state;
    const float tiny[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 1.2e-38f, 6e-8f, 60000.0f, 3e38f};
    for (size_t t = 0; t < SHOAL_COUNT(budgets); t++) {
        for (size_t a = 0; a < SHOAL_COUNT(tiny); a++) {
            for (size_t i = 0; i < N; i++) {
                x[i] = i % 3 == 0 ? tiny[a] : i % 5 == 0 ? -tiny[a] : 0.0f;
            }
            shoal_status status = shoal_weight_encode(budgets[t].type, x, N, blocks, NULL);
            assert_int_equal(status, tiny[a] == 3e38f ? SHOAL_E_INVALID : SHOAL_OK);
            if (status == SHOAL_OK) {
                shoal_weight_decode(budgets[t].type, blocks, N, y);
                for (size_t i = 0; i < N; i++) {
                    assert_true(isfinite(y[i]) && fabsf(y[i]) <= fabsf(tiny[a]) * 1.6f + 1e-4f);
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_is_within_the_budget_and_not_above_plain_rounding),
        cmocka_unit_test(test_encoding_again_loses_little_more),
        cmocka_unit_test(test_odd_data_keeps_its_shape),
        cmocka_unit_test(test_extremes_end_in_finite_numbers_or_a_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
