/* SPDX-License-Identifier: Apache-2.0
 *
 * Thresholds of counted magnitudes: the share that lies below one is what was asked for, to the
 * width of a bin; layers that read one input share its counts; zeros, ties and what is no number.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/magnitudes.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

enum {
    K = 64,
    N = 50,
    STRIDE = K + 5
};

static float x[N * STRIDE];

static double share_below(float threshold)
{
    size_t below = 0;
    for (size_t i = 0; i < N * K; i++) {
        below += fabsf(x[i / K * STRIDE + i % K]) < threshold;
    }
    return (double)below / (N * K);
}

static void test_share_below_a_threshold_is_what_was_asked_for(void **state)
{
    (void)state;
    static const double shares[] = {0.01, 0.1, 0.25, 0.5, 0.75, 0.95};
    forge_magnitudes m = {0};
    uint64_t rng = 7;
    for (size_t i = 0; i < N * STRIDE; i++) {
        x[i] = i % STRIDE < K ? test_signed(&rng) * test_unit(&rng) : NAN; /* padding is not read */
    }
    assert_int_equal(shoal_forge_magnitudes_add(&m, "a", false, K, N / 2, x, STRIDE), 0);
    assert_int_equal(shoal_forge_magnitudes_add(&m, "b", true, K, N / 2, x, STRIDE), 0);
    const float *rest = x + N / 2 * STRIDE;
    assert_int_equal(shoal_forge_magnitudes_add(&m, "a", false, K, N - N / 2, rest, STRIDE), 0);
    assert_int_equal(shoal_forge_magnitudes_add(&m, "b", true, K, N - N / 2, rest, STRIDE), 0);
    assert_int_equal(shoal_forge_magnitudes_n(&m), 2);
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        double is[2] = {0};
        float t = shoal_forge_magnitudes_threshold(&m, 0, shares[i], &is[0]);
        assert_true(t > 0 && fabs(is[0] - shares[i]) < 0.02);
        assert_true(is[0] == share_below(t));
        assert_true(t == shoal_forge_magnitudes_threshold(&m, 1, shares[i], &is[1]));
        assert_true(is[0] == is[1]);
    }
    assert_string_equal(shoal_forge_magnitudes_name(&m, 1), "b");
    shoal_forge_magnitudes_fini(&m);
}

/* All of one size: either all lie below or none. Zeros are below anything. */
static void test_ties_and_zeros_are_of_one_side(void **state)
{
    (void)state;
    forge_magnitudes m = {0};
    double is = 0;
    for (size_t i = 0; i < N * STRIDE; i++) {
        x[i] = i % 2 ? 1.5F : -1.5F;
    }
    assert_int_equal(shoal_forge_magnitudes_add(&m, "same", false, K, N, x, STRIDE), 0);
    assert_true(shoal_forge_magnitudes_threshold(&m, 0, 0.4, &is) == 0 && is == 0);
    float t = shoal_forge_magnitudes_threshold(&m, 0, 0.6, &is);
    assert_true(t > 1.5F && t < 1.6F && is == 1);
    memset(x, 0, sizeof x);
    assert_int_equal(shoal_forge_magnitudes_add(&m, "zero", false, K, N, x, STRIDE), 0);
    t = shoal_forge_magnitudes_threshold(&m, 1, 0.6, &is);
    assert_true(t > 0 && t < 1e-37F && is == 1);
    shoal_forge_magnitudes_fini(&m);
}

static void test_what_is_not_finite_is_refused(void **state)
{
    (void)state;
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        forge_magnitudes m = {0};
        memset(x, 0, sizeof x);
        x[(N - 1) * STRIDE + K - 1] = bad[i];
        assert_int_equal(shoal_forge_magnitudes_add(&m, "a", false, K, N, x, STRIDE),
                         SHOAL_E_INVALID);
        shoal_forge_magnitudes_fini(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_share_below_a_threshold_is_what_was_asked_for),
        cmocka_unit_test(test_ties_and_zeros_are_of_one_side),
        cmocka_unit_test(test_what_is_not_finite_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
