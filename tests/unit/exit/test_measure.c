/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/exit/exit.h"

#include <math.h>
#include <string.h>

enum {
    N_MAX = 4099
};

static shoal_kernels kernels;

static int group_setup(void **state)
{
    (void)state;
    shoal_kernels_init(&kernels, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512);
    return 0;
}

static shoal_exit_features measure(const float *x, size_t n)
{
    shoal_exit_features f;
    shoal_exit_measure(&kernels, x, n, 0.5F, true, &f);
    return f;
}

static void near(double got, double want, double budget)
{
    if (!(fabs(got - want) <= budget)) {
        fail_msg("%.9g instead of %.9g", got, want);
    }
}

static void test_hand_made_rows(void **state)
{
    (void)state;
    /* exp: 4, 2, 1, 1 of 8 */
    const float x[] = {logf(1), logf(4), logf(2), logf(1)};
    shoal_exit_features f = measure(x, 4);
    assert_true(f.sound);
    assert_int_equal(f.id, 1);
    near((double)f.top, 0.5, 1e-6);
    near((double)f.gap, 0.25, 1e-6);
    near((double)f.entropy, 1.75 * log(2), 1e-6);
    assert_true(f.depth == 0.5F);

    const float even[] = {3, 3, 3, 3};
    f = measure(even, 4);
    assert_int_equal(f.id, 0);
    assert_true(f.top == 0.25F && f.gap == 0.0F);
    near((double)f.entropy, log(4), 1e-6);

    const float one[] = {-7};
    f = measure(one, 1);
    assert_true(f.sound && f.top == 1.0F && f.gap == 1.0F && f.entropy == 0.0F);

    const float masked[] = {-INFINITY, 2, -INFINITY, -INFINITY};
    f = measure(masked, 4);
    assert_int_equal(f.id, 1);
    assert_true(f.sound && f.top == 1.0F && f.gap == 1.0F && f.entropy == 0.0F);
}

static void test_rows_with_nan_or_inf_are_not_sound(void **state)
{
    (void)state;
    const float bad[][4] = {{NAN, NAN, NAN, NAN},
                            {1, NAN, 0, 0},
                            {NAN, 1, 0, 0},
                            {1, INFINITY, 0, 0},
                            {INFINITY, INFINITY, 0, 0},
                            {-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_exit_features f = measure(bad[i], 4);
        assert_false(f.sound);
        assert_true(f.top == 0.0F && f.gap == 0.0F && isnan(f.entropy));
        assert_true(f.id >= 0 && f.id < 4);
    }
}

static void test_entropy_is_nan_unless_asked_for(void **state)
{
    (void)state;
    const float x[] = {1, 2};
    shoal_exit_features f;
    shoal_exit_measure(&kernels, x, 2, 1, false, &f);
    assert_true(f.sound && isnan(f.entropy));
}

/* Against sums in double, at every place of the best and over ragged lengths. */
static void test_random_rows_follow_double(void **state)
{
    (void)state;
    static float x[N_MAX];
    uint64_t rng = 42;
    const size_t lengths[] = {2, 3, 15, 16, 17, 300, N_MAX};
    for (size_t round = 0; round < 20; round++) {
        for (size_t l = 0; l < SHOAL_COUNT(lengths); l++) {
            size_t n = lengths[l];
            for (size_t i = 0; i < n; i++) {
                x[i] = (float)((double)(shoal_rng_next(&rng) >> 40) / 1e6 - 8);
            }
            size_t best = (size_t)(shoal_rng_next(&rng) % n);
            x[best] = 9.5F + (float)round;
            double sum = 0;
            double second = -HUGE_VAL;
            double weighted = 0;
            for (size_t i = 0; i < n; i++) {
                double e = exp((double)(x[i] - x[best]));
                sum += e;
                weighted += e * (double)(x[i] - x[best]);
                second = i != best && (double)x[i] > second ? (double)x[i] : second;
            }
            shoal_exit_features f = measure(x, n);
            assert_int_equal(f.id, best);
            near((double)f.top, 1 / sum, 2e-6);
            near((double)f.gap, (1 - exp(second - (double)x[best])) / sum, 2e-6);
            near((double)f.entropy, log(sum) - weighted / sum, 1e-4);
        }
    }
}

static void test_tiers_agree_bit_for_bit(void **state)
{
    (void)state;
    static float x[N_MAX];
    uint64_t rng = 7;
    shoal_kernels scalar;
    shoal_kernels_init(&scalar, 0);
    for (size_t n = N_MAX - 20; n <= N_MAX; n++) {
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)((double)(shoal_rng_next(&rng) >> 40) / 1e6);
        }
        shoal_exit_features a;
        shoal_exit_features b;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        shoal_exit_measure(&kernels, x, n, 1, true, &a);
        shoal_exit_measure(&scalar, x, n, 1, true, &b);
        assert_memory_equal(&a.top, &b.top, sizeof a.top);
        assert_memory_equal(&a.gap, &b.gap, sizeof a.gap);
        assert_memory_equal(&a.entropy, &b.entropy, sizeof a.entropy);
        assert_int_equal(a.id, b.id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hand_made_rows),
        cmocka_unit_test(test_rows_with_nan_or_inf_are_not_sound),
        cmocka_unit_test(test_entropy_is_nan_unless_asked_for),
        cmocka_unit_test(test_random_rows_follow_double),
        cmocka_unit_test(test_tiers_agree_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
