/* SPDX-License-Identifier: Apache-2.0
 *
 * Every slot but products (test_products.c) and attention (test_attend.c) of every tier against
 * scalar by memcmp: ragged sizes, poisoned padding, zeros, subnormals, huge values.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/tiers.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    POISON = 0xA5,
    PAD = 16
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261124;

static int group_setup(void **state)
{
    (void)state;
    n_tiers = test_tiers(&scalar, tiers);
    return 0;
}

static void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = test_awkward(&rng);
    }
}

/* --- rows ---------------------------------------------------------------------------------------
 */

/* What a record says of its 32 codes, added up from the codes alone. */
static void check_sums(const int8_t *q, const shoal_act_block *blocks, size_t n)
{
    for (size_t b = 0; b < n; b++, q += 32) {
        int want[8] = {0};
        for (size_t i = 0; i < 32; i++) {
            size_t half = i / 16;
            size_t place = i % 4 / 2;
            want[place] += q[i];
            want[2 + 2 * half + place] += q[i];
            want[6 + half] += q[i];
        }
        for (size_t i = 0; i < 8; i++) {
            assert_int_equal(blocks[b].pairs[i], want[i]);
        }
        if (!isnan(blocks[b].scale)) {
            assert_true(blocks[b].sum == blocks[b].scale * (float)(want[6] + want[7]));
            assert_true(blocks[b].sum_low == blocks[b].scale * (float)want[6]);
            assert_true(blocks[b].sum_high == blocks[b].scale * (float)want[7]);
        }
    }
}

static void test_quantize_equals_scalar_with_odd_values(void **state)
{
    (void)state;
    enum {
        K = 320
    };
    float x[K];
    int8_t q[2][K + PAD];
    shoal_act_block blocks[2][K / 32 + 1];
    for (size_t round = 0; round < 400; round++) {
        fill(x, K);
        if (round % 8 == 1) {
            memset(x + 32, 0, 32 * sizeof *x);
        }
        if (round % 8 == 2) {
            x[70] = INFINITY;
        }
        if (round % 8 == 3) {
            x[100] = NAN;
        }
        if (round % 8 == 4) {
            x[40] = round % 16 == 4 ? FLT_MAX : -FLT_MAX;
        }
        for (size_t i = 160; i < 192 && round % 8 == 5; i++) {
            x[i] = test_signed(&rng) * 1e-39F;
        }
        memset(q, POISON, sizeof q);
        memset(blocks, POISON, sizeof blocks);
        scalar.quantize_q8(K, x, q[0], blocks[0]);
        for (size_t t = 0; t < n_tiers; t++) {
            memset(q[1], POISON, sizeof q[1]);
            memset(blocks[1], POISON, sizeof blocks[1]);
            tiers[t].quantize_q8(K, x, q[1], blocks[1]);
            assert_memory_equal(q[0], q[1], sizeof q[0]);
            assert_memory_equal(blocks[0], blocks[1], sizeof blocks[0]);
        }
        for (size_t i = 0; i < K && round % 8 == 0; i++) {
            double back = (double)blocks[0][i / 32].scale * q[0][i];
            assert_true(fabs(back - (double)x[i]) <= 0.5001 * (double)blocks[0][i / 32].scale);
        }
        check_sums(q[0], blocks[0], K / 32);
    }
}

static void test_elementwise_and_reductions_equal_scalar(void **state)
{
    (void)state;
    enum {
        N = 200
    };
    float x[N];
    float w[N];
    float y[2][N + PAD];
    for (size_t n = 1; n <= N; n++) {
        fill(x, n);
        fill(w, n);
        for (size_t t = 0; t < n_tiers; t++) {
            const shoal_kernels *both[2] = {&scalar, &tiers[t]};
            memset(y, POISON, sizeof y);
            for (size_t i = 0; i < 2; i++) {
                both[i]->rmsnorm(n, x, w, 1e-5F, y[i]);
            }
            assert_memory_equal(y[0], y[1], sizeof y[0]);
            for (size_t i = 0; i < 2; i++) {
                both[i]->swiglu(n, x, w, y[i]);
            }
            assert_memory_equal(y[0], y[1], sizeof y[0]);
            for (size_t i = 0; i < 2; i++) {
                both[i]->geglu(n, x, w, y[i]);
            }
            assert_memory_equal(y[0], y[1], sizeof y[0]);
            for (size_t i = 0; i < 2; i++) {
                both[i]->add(n, x, y[i]);
                both[i]->add_scaled(n, w[0], x, y[i]);
                both[i]->softcap(n, 3.0F, y[i]);
            }
            assert_memory_equal(y[0], y[1], sizeof y[0]);
            float max[2];
            assert_int_equal(scalar.argmax(n, x, &max[0]), tiers[t].argmax(n, x, &max[1]));
            assert_memory_equal(&max[0], &max[1], sizeof max[0]);
            float sum[2];
            for (size_t i = 0; i < 2; i++) {
                sum[i] = both[i]->sum_exp(n, x, max[0], 0.7F);
            }
            assert_memory_equal(&sum[0], &sum[1], sizeof sum[0]);
        }
    }
}

/* Every float within 16 ulp of where exp changes its ways, in every lane. */
static void test_exp_borders_equal_scalar(void **state)
{
    (void)state;
    enum {
        N = 33
    };
    static const float borders[] = {-87.3F, 0x1.62e42ep+6F, 0.0F, 0x1.62e43p-2F, 104.0F, 1e30F};
    float x[N];
    float up[N];
    float y[2][N];
    for (size_t b = 0; b < sizeof borders / sizeof borders[0]; b++) {
        x[N / 2] = borders[b];
        for (size_t i = 1; i <= N / 2; i++) {
            x[N / 2 + i] = nextafterf(x[N / 2 + i - 1], INFINITY);
            x[N / 2 - i] = nextafterf(x[N / 2 - i + 1], -INFINITY);
        }
        for (size_t sign = 0; sign < 2; sign++) {
            for (size_t i = 0; i < N; i++) {
                x[i] = -x[i];
                up[i] = test_signed(&rng);
            }
            scalar.swiglu(N, x, up, y[0]);
            float sum = scalar.sum_exp(N, x, 0, 0.5F);
            for (size_t t = 0; t < n_tiers; t++) {
                tiers[t].swiglu(N, x, up, y[1]);
                assert_memory_equal(y[0], y[1], sizeof y[0]);
                float other = tiers[t].sum_exp(N, x, 0, 0.5F);
                assert_memory_equal(&sum, &other, sizeof sum);
            }
        }
    }
}

static void test_argmax_with_ties_and_nan_takes_the_lowest(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 70; n++) {
        float x[70];
        for (size_t i = 0; i < n; i++) {
            uint64_t pick = shoal_rng_next(&rng) % 6;
            x[i] = pick == 0 ? NAN : pick == 1 ? -INFINITY : (float)pick;
        }
        size_t want = 0;
        for (size_t i = 1; i < n; i++) {
            if (x[i] > x[want] || (isnan(x[want]) && !isnan(x[i]))) {
                want = i;
            }
        }
        float max = 0;
        assert_int_equal(scalar.argmax(n, x, &max), want);
        for (size_t t = 0; t < n_tiers; t++) {
            assert_int_equal(tiers[t].argmax(n, x, &max), want);
        }
    }
}

/* Both kinds of pairs, whole and partial rotations, heads further apart than they are wide. */
static void check_rope(const shoal_kernels *tier, size_t n_rot, size_t gap, bool halves)
{
    enum {
        HEADS = 3,
        N = HEADS * 80
    };
    float c[33];
    float s[33];
    float start[N];
    float x[2][N];
    for (size_t i = 0; i < n_rot / 2; i++) {
        double angle = (double)test_signed(&rng) * 100;
        c[i] = (float)cos(angle);
        s[i] = (float)sin(angle);
    }
    fill(start, N);
    memcpy(x[0], start, sizeof start);
    memcpy(x[1], start, sizeof start);
    size_t stride = n_rot + gap;
    (halves ? scalar.rope_halves : scalar.rope)(HEADS, stride, n_rot, c, s, x[0]);
    (halves ? tier->rope_halves : tier->rope)(HEADS, stride, n_rot, c, s, x[1]);
    assert_memory_equal(x[0], x[1], sizeof x[0]);
    for (size_t head = 0; head < HEADS; head++) {
        for (size_t i = 0; i < n_rot / 2; i++) {
            size_t a = head * stride + (halves ? i : 2 * i);
            size_t b = halves ? a + n_rot / 2 : a + 1;
            double before = hypot((double)start[a], (double)start[b]);
            double after = hypot((double)x[0][a], (double)x[0][b]);
            assert_true(fabs(before - after) <= 1e-6 * (1 + before));
        }
        for (size_t i = head * stride + n_rot; i < (head + 1) * stride; i++) {
            assert_memory_equal(&start[i], &x[0][i], sizeof start[i]);
        }
    }
}

static void test_rope_equals_scalar_and_keeps_length(void **state)
{
    (void)state;
    for (size_t n_rot = 2; n_rot <= 66; n_rot += 2) {
        for (size_t t = 0; t < n_tiers; t++) {
            check_rope(&tiers[t], n_rot, 0, false);
            check_rope(&tiers[t], n_rot, n_rot % 14, false);
            check_rope(&tiers[t], n_rot, 0, true);
            check_rope(&tiers[t], n_rot, n_rot % 14, true);
        }
    }
}

/* Rounding errors of log2(n) sums and a product keep within that much of a vector's length. */
static double hadamard_budget(size_t n, const float *x)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
    }
    return (log2((double)n) + 3) * 0x1p-24 * sqrt(squares) + 1e-40;
}

static void check_hadamard_head(size_t n, const float *start, const float *x)
{
    for (size_t i = 0; i < n; i++) {
        double want = 0;
        for (size_t j = 0; j < n; j++) {
            want += (__builtin_popcountll(i & j) % 2 ? -1.0 : 1.0) * (double)start[j];
        }
        want /= sqrt((double)n);
        if (!(fabs((double)x[i] - want) <= hadamard_budget(n, start))) {
            fail_msg("size %zu, channel %zu: %g, wanted %g", n, i, (double)x[i], want);
        }
    }
}

/* Every size against the matrix in float64, and bit for bit in every tier; applied twice it gives
 * back what there was; not a byte behind the heads. */
static void test_hadamard_is_its_matrix_and_its_own_inverse(void **state)
{
    (void)state;
    enum {
        HEADS_MAX = 3,
        N_MAX = 512
    };
    static float start[HEADS_MAX * N_MAX];
    static float x[2][HEADS_MAX * N_MAX + PAD];
    for (size_t i = 0; i < 40; i++) {
        size_t n = (size_t)1 << i / 4;
        size_t heads = i % 4;
        fill(start, heads * n);
        memset(x[0], POISON, sizeof x[0]);
        memcpy(x[0], start, heads * n * sizeof *start);
        scalar.hadamard(heads, n, x[0]);
        for (size_t t = 0; t < n_tiers; t++) {
            memset(x[1], POISON, sizeof x[1]);
            memcpy(x[1], start, heads * n * sizeof *start);
            tiers[t].hadamard(heads, n, x[1]);
            assert_memory_equal(x[0], x[1], sizeof x[0]);
        }
        for (size_t head = 0; head < heads; head++) {
            check_hadamard_head(n, start + head * n, x[0] + head * n);
        }
        scalar.hadamard(heads, n, x[0]);
        for (size_t j = 0; j < heads * n; j++) {
            double error = fabs((double)x[0][j] - (double)start[j]);
            assert_true(error <= 2 * hadamard_budget(n, start + j / n * n));
        }
        memset(x[1], POISON, sizeof x[1]);
        assert_memory_equal(x[0] + heads * n, x[1], PAD * sizeof *x[1]);
    }
}

/* Against the double functions over all sizes, and bit for bit in the tiers where branches meet. */
static void test_tanh_and_gelu_are_close_and_equal_scalar(void **state)
{
    (void)state;
    enum {
        N = 67
    };
    for (size_t round = 0; round < 2000; round++) {
        float x[N];
        float one[N];
        float y[2][N];
        double size = exp(12.0 * (double)test_signed(&rng) - 8.0);
        for (size_t i = 0; i < N; i++) {
            x[i] = round % 4 == 0 ? 0.625F + 1e-6F * test_signed(&rng)
                                  : (float)size * test_signed(&rng);
            one[i] = 1;
        }
        x[0] = round % 3 == 0 ? -0.0F : round % 3 == 1 ? INFINITY : -1e30F;
        memcpy(y[0], x, sizeof x);
        scalar.softcap(N, 1.0F, y[0]);
        for (size_t i = 0; i < N; i++) {
            double want = tanh((double)x[i]);
            assert_true(fabs((double)y[0][i] - want) <= 2.5e-7 * fabs(want));
            assert_int_equal(signbit(y[0][i]) != 0, signbit(x[i]) != 0);
        }
        for (size_t t = 0; t < n_tiers; t++) {
            memcpy(y[1], x, sizeof x);
            tiers[t].softcap(N, 1.0F, y[1]);
            assert_memory_equal(y[0], y[1], sizeof y[0]);
        }
        scalar.geglu(N, x, one, y[0]);
        for (size_t i = 1; i < N; i++) {
            double g = (double)x[i];
            double u = 0.7978845608028654 * (g + 0.044715 * g * g * g);
            double want = g / (1 + exp(-2 * u));
            assert_true(fabs((double)y[0][i] - want) <= 2e-5 * fabs(want) + 1e-37);
        }
        for (size_t t = 0; t < n_tiers; t++) {
            tiers[t].geglu(N, x, one, y[1]);
            assert_memory_equal(y[0], y[1], sizeof y[0]);
        }
    }
}

/* --- products of whole numbers ---------------------------------------------------------------- */

/* Against sums of 64 bits, of which the lower half counts: rows around each tier's step, strides
 * wider than a row, the greatest numbers, and not a byte past y. */
static void check_whole(size_t n_rows, size_t n_pairs, size_t gap, bool greatest)
{
    enum {
        T = SHOAL_KV_BLOCK,
        ROWS_MAX = 19,
        PAIRS_MAX = 40
    };
    static int16_t w[ROWS_MAX * (2 * PAIRS_MAX + 5)];
    static _Alignas(64) int16_t x[PAIRS_MAX * T * 2];
    static int32_t y[ROWS_MAX * T + PAD];
    size_t stride = 2 * n_pairs + gap;
    for (size_t i = 0; i < sizeof w / sizeof w[0]; i++) {
        w[i] = greatest ? INT16_MIN : (int16_t)shoal_rng_next(&rng);
    }
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        x[i] = greatest ? (i % 5 ? INT16_MIN : INT16_MAX) : (int16_t)shoal_rng_next(&rng);
    }
    for (size_t tier = 0; tier <= n_tiers; tier++) {
        const shoal_kernels *k = tier < n_tiers ? &tiers[tier] : &scalar;
        memset(y, POISON, sizeof y);
        k->mul_whole(n_rows, n_pairs, w, stride, x, y);
        for (size_t i = 0; i < n_rows * T; i++) {
            int64_t want = 0;
            for (size_t j = 0; j < 2 * n_pairs; j++) {
                want += (int64_t)w[i / T * stride + j] * x[(j / 2 * T + i % T) * 2 + j % 2];
            }
            if ((uint32_t)y[i] != (uint32_t)want) {
                fail_msg("%s, %zu rows, %zu pairs: %d at %zu, wanted %lld", k->tier, n_rows,
                         n_pairs, y[i], i, (long long)want);
            }
        }
        for (size_t i = n_rows * T; i < n_rows * T + PAD; i++) {
            assert_int_equal((uint32_t)y[i], 0xA5A5A5A5);
        }
    }
}

static void test_whole_products_are_exact(void **state)
{
    (void)state;
    for (size_t n_rows = 0; n_rows <= 19; n_rows++) {
        check_whole(n_rows, 1 + n_rows % 3, n_rows % 6, false);
        check_whole(n_rows, 40, n_rows % 2, n_rows % 4 == 1);
    }
    check_whole(3, 0, 0, false);
}

/* A runner that chose the processor says what must be found on it. */
static void test_best_tier_is_the_one_the_runner_names(void **state)
{
    (void)state;
    const char *want = getenv("SHOAL_TEST_TIER");
    if (!want) {
        skip();
        return;
    }
    shoal_kernels best;
    shoal_kernels_init(&best, shoal_cpu_detect());
    assert_string_equal(best.tier, want);
}

static void test_cpu_mask_parse_knows_its_words(void **state)
{
    (void)state;
    uint32_t mask = 99;
    assert_int_equal(shoal_cpu_mask_parse("scalar", &mask), 0);
    assert_int_equal(mask, 0);
    assert_int_equal(shoal_cpu_mask_parse("avx2", &mask), 0);
    assert_int_equal(mask, SHOAL_CPU_AVX2);
    assert_int_equal(shoal_cpu_mask_parse("scalar,avx512", &mask), 0);
    assert_int_equal(mask, SHOAL_CPU_AVX512);
    assert_int_equal(shoal_cpu_mask_parse("neon,dotprod,i8mm", &mask), 0);
    assert_int_equal(mask, SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD | SHOAL_CPU_I8MM);
    assert_int_equal(shoal_cpu_mask_parse("native", &mask), 0);
    assert_int_equal(mask, shoal_cpu_detect());
    assert_true(shoal_cpu_mask_parse("", &mask) < 0);
    assert_true(shoal_cpu_mask_parse("neo", &mask) < 0);
    assert_true(shoal_cpu_mask_parse("neon2", &mask) < 0);
    assert_true(shoal_cpu_mask_parse("avx2,", &mask) < 0);
    assert_true(shoal_cpu_mask_parse("sse9", &mask) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize_equals_scalar_with_odd_values),
        cmocka_unit_test(test_elementwise_and_reductions_equal_scalar),
        cmocka_unit_test(test_exp_borders_equal_scalar),
        cmocka_unit_test(test_argmax_with_ties_and_nan_takes_the_lowest),
        cmocka_unit_test(test_rope_equals_scalar_and_keeps_length),
        cmocka_unit_test(test_hadamard_is_its_matrix_and_its_own_inverse),
        cmocka_unit_test(test_tanh_and_gelu_are_close_and_equal_scalar),
        cmocka_unit_test(test_whole_products_are_exact),
        cmocka_unit_test(test_best_tier_is_the_one_the_runner_names),
        cmocka_unit_test(test_cpu_mask_parse_knows_its_words),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
