/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "common/base/rng.h"
#include "common/sample/sample_internal.h"

/* Words that sit at the ends and at every power of two, then many random ones. */
static uint32_t word_at(uint32_t i, uint64_t *rng)
{
    if (i < 32) {
        return 1u << i;
    }
    if (i < 64) {
        return ~(1u << (i - 32));
    }
    if (i < 96) {
        return ~((1u << (i - 64)) - 1);
    }
    const uint32_t ends[] = {0, 1, UINT32_MAX, UINT32_MAX - 1, UINT32_MAX - 2};
    return i - 96 < SHOAL_COUNT(ends) ? ends[i - 96] : (uint32_t)shoal_rng_next(rng);
}

static void test_noise_gumbel_equals_libm_closely(void **state)
{
    (void)state;
    uint64_t rng = 1;
    for (uint32_t i = 0; i < 100000; i++) {
        uint32_t word = word_at(i, &rng);
        double u = ((double)word + 0.5) / 4294967296.0;
        double wanted = -log(-log(u));
        /* Two roundings to binary32 near 23, and near 0 the cancellation of log(1). */
        assert_float_equal(shoal_noise_gumbel(word), (float)wanted, 4e-6f);
    }
}

static void test_noise_bound_is_never_below_the_noise(void **state)
{
    (void)state;
    uint64_t rng = 2;
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t word = word_at(i, &rng);
        float g = shoal_noise_gumbel(word);
        assert_true(isfinite(g));
        assert_true(g <= shoal_noise_bound(word));
        assert_true(g <= SHOAL_NOISE_MAX);
    }
}

static void test_noise_counter_layout_is_as_documented(void **state)
{
    (void)state;
    const uint64_t seed = 0x0123456789ABCDEFu;
    const uint64_t position = 0x1122334455667788u;
    for (uint32_t token = 0; token < 9; token++) {
        const uint32_t key[2] = {0x89ABCDEFu, 0x01234567u};
        const uint32_t counter[4] = {0x55667788u, 0x11223344u, token / 4, 0x5348474Eu};
        uint32_t words[4];
        shoal_philox4x32_10(counter, key, words);
        float wanted = shoal_noise_gumbel(words[token % 4]);
        float got = shoal_sample_gumbel(seed, position, (int32_t)token);
        assert_memory_equal(&wanted, &got, sizeof got);
    }
}

static void test_noise_moments_are_gumbel(void **state)
{
    (void)state;
    /* Mean: Euler's constant; variance: pi^2 / 6. 2 * 10^5 draws, tolerance of 5 sigma. */
    double sum = 0.0;
    double squares = 0.0;
    const int n = 200000;
    for (int i = 0; i < n; i++) {
        double g = (double)shoal_sample_gumbel(42, (uint64_t)(i / 100), i % 100);
        sum += g;
        squares += g * g;
    }
    double mean = sum / n;
    assert_true(fabs(mean - 0.5772156649) < 5.0 * 1.2825 / sqrt(n));
    double variance = squares / n - mean * mean;
    assert_true(fabs(variance - 1.6449340668) < 5.0 * 1.6449 * sqrt(4.4 / n));
}

static void test_noise_every_input_matters(void **state)
{
    (void)state;
    float base = shoal_sample_gumbel(1, 1, 1);
    assert_true(base != shoal_sample_gumbel(2, 1, 1));
    assert_true(base != shoal_sample_gumbel(1 + (1ull << 32), 1, 1));
    assert_true(base != shoal_sample_gumbel(1, 2, 1));
    assert_true(base != shoal_sample_gumbel(1, 1 + (1ull << 32), 1));
    assert_true(base != shoal_sample_gumbel(1, 1, 2));
    assert_true(base != shoal_sample_gumbel(1, 1, 5));
    assert_true(base == shoal_sample_gumbel(1, 1, 1));
}

/* Of every kind of processor: the words are those of the blocks, and a group is left out only
 * where no token of it can reach what is asked. */
static void test_noise_groups_hold_every_token_that_counts(void **state)
{
    (void)state;
    const char *tiers[] = {"scalar", "avx2", "avx512", "neon"};
    uint32_t mask = shoal_cpu_detect();
    uint64_t rng = 3;
    size_t n_left_out = 0;
    size_t n_looked_at = 0;
    for (uint32_t round = 0; round < 4000; round++) {
        shoal_noise noise = shoal_noise_at(shoal_rng_next(&rng), shoal_rng_next(&rng));
        uint32_t block = round % 3 == 0 ? UINT32_MAX / 4 - 15 : (uint32_t)shoal_rng_next(&rng) / 8;
        float x[SHOAL_NOISE_GROUP];
        float highest = -INFINITY;
        uint32_t wanted[SHOAL_NOISE_GROUP];
        shoal_draw draw = {.max = 3.0f, .inv_t = 0.5f + (float)(round % 5), .least = -INFINITY};
        for (size_t i = 0; i < SHOAL_NOISE_GROUP; i++) {
            x[i] = round % 7 == 0 ? -INFINITY : (float)(shoal_rng_next(&rng) % 1000) / 500.0f;
            shoal_noise_block(&noise, block + (uint32_t)(i / 4), wanted + i / 4 * 4);
        }
        for (size_t i = 0; i < SHOAL_NOISE_GROUP; i++) {
            float z = (x[i] - draw.max) * draw.inv_t;
            highest = fmaxf(highest, z + shoal_noise_gumbel(wanted[i]));
        }
        draw.least = round % 2 == 0 ? highest : highest + 0.2f;
        for (size_t t = 0; t < SHOAL_COUNT(tiers); t++) {
            if ((t == 1 && !(mask & SHOAL_CPU_AVX2)) || (t == 2 && !(mask & SHOAL_CPU_AVX512))) {
                continue;
            }
            uint32_t words[SHOAL_NOISE_GROUP];
            bool some = shoal_draws_of(tiers[t])->group(&noise, block, x, &draw, words);
            assert_true(some || highest < draw.least);
            n_left_out += !some;
            n_looked_at += some;
            if (some) {
                assert_memory_equal(words, wanted, sizeof words);
            }
        }
    }
    assert_true(n_left_out > 1000 && n_looked_at > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_noise_gumbel_equals_libm_closely),
        cmocka_unit_test(test_noise_bound_is_never_below_the_noise),
        cmocka_unit_test(test_noise_counter_layout_is_as_documented),
        cmocka_unit_test(test_noise_moments_are_gumbel),
        cmocka_unit_test(test_noise_every_input_matters),
        cmocka_unit_test(test_noise_groups_hold_every_token_that_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
