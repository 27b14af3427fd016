/* SPDX-License-Identifier: Apache-2.0
 *
 * The small operations: every tier of this machine against sums in double, at widths that fill
 * vectors, leave a rest, or fill none; and on memory that is not aligned.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "common/train/ops.h"

#include <math.h>
#include <string.h>

enum {
    N_MAX = 80
};

static const size_t widths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65};

static float noise(uint64_t *rng)
{
    return (float)(shoal_rng_next(rng) >> 40) * 0x1p-22F - 2.0F;
}

static void fill(uint64_t seed, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = noise(&seed);
    }
}

static void assert_close(const char *what, size_t n, double got, double want)
{
    if (!(fabs(got - want) < 2e-5 * (1 + fabs(want)))) {
        fail_msg("%s at width %zu: %.9g instead of %.9g", what, n, got, want);
    }
}

typedef void check_fn(const shoal_ops *ops, size_t n);

static void each(check_fn *check)
{
    static const uint32_t masks[] = {0, SHOAL_CPU_AVX2, UINT32_MAX};
    for (size_t m = 0; m < SHOAL_COUNT(masks); m++) {
        shoal_ops ops;
        shoal_ops_init(&ops, masks[m]);
        for (size_t i = 0; i < SHOAL_COUNT(widths); i++) {
            check(&ops, widths[i]);
        }
    }
}

static void check_rmsnorm(const shoal_ops *ops, size_t n)
{
    float room[4 * N_MAX + 4];
    float *x = room + 1; /* off the alignment */
    float *w = x + N_MAX;
    float *dy = w + N_MAX;
    float *y = dy + N_MAX;
    float dw[N_MAX] = {0};
    fill(n, (size_t)3 * N_MAX, x);
    double squares = 0;
    double along = 0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
        along += (double)x[i] * (double)w[i] * (double)dy[i];
    }
    double r = 1 / sqrt(squares / (double)n + 1e-5);
    float got = ops->rmsnorm(n, x, w, 1e-5F, y);
    assert_close("rmsnorm", n, (double)got, r);
    for (size_t i = 0; i < n; i++) {
        assert_close("rmsnorm", n, (double)y[i], (double)x[i] * (double)w[i] * r);
    }
    for (int round = 0; round < 2; round++) {
        float dx[N_MAX];
        ops->rmsnorm_back(n, x, w, got, dy, round ? dy : NULL, dx, dw);
        for (size_t i = 0; i < n; i++) {
            double want =
                r * (double)w[i] * (double)dy[i] - (double)x[i] * r * r * r / (double)n * along;
            assert_close("rmsnorm_back", n, (double)dx[i], want + (round ? (double)dy[i] : 0));
            assert_close("rmsnorm_back", n, (double)dw[i],
                         (round + 1) * r * (double)x[i] * (double)dy[i]);
        }
    }
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}

static void check_gate(size_t n, double (*act)(double),
                       void (*back)(size_t, const float *, float *, float *))
{
    float gate[N_MAX];
    float up[N_MAX];
    float dy[N_MAX];
    fill(n + 1, n, gate);
    fill(n + 2, n, up);
    fill(n + 3, n, dy);
    gate[0] = 60; /* where the exponential is clamped */
    gate[n - 1] = n > 1 ? -60 : 60;
    float saved[N_MAX];
    float saved_up[N_MAX];
    memcpy(saved, gate, sizeof gate);
    memcpy(saved_up, up, sizeof up);
    back(n, dy, gate, up);
    for (size_t i = 0; i < n; i++) {
        double g = (double)saved[i];
        double slope = (act(g + 1e-5) - act(g - 1e-5)) / 2e-5;
        assert_close("gate", n, (double)gate[i], (double)dy[i] * (double)saved_up[i] * slope);
        assert_close("up", n, (double)up[i], (double)dy[i] * act(g));
    }
}

static void check_gates(const shoal_ops *ops, size_t n)
{
    check_gate(n, silu, ops->swiglu_back);
    check_gate(n, gelu, ops->geglu_back);
}

/* Scores in [low, high) of a padded row, with a cap and without. */
static void check_softmax(const shoal_ops *ops, size_t n)
{
    size_t end = (n + SHOAL_OPS_PAD - 1) / SHOAL_OPS_PAD * SHOAL_OPS_PAD;
    for (int capped = 0; capped < 2; capped++) {
        for (size_t low = 0; low < n; low += low < 18 ? 6 : 17) {
            float s[N_MAX];
            float again[N_MAX];
            float dp[N_MAX];
            float slopes[N_MAX];
            float cap = capped ? 1.5F : 0;
            double y[N_MAX];
            double sum = 0;
            double dot = 0;
            fill(n + low, end, s);
            fill(n + low + 1, end, dp);
            memcpy(again, s, sizeof s);
            memcpy(slopes, dp, sizeof dp);
            for (size_t i = low; i < n; i++) {
                y[i] = 0.7 * (double)s[i];
                y[i] = capped ? 1.5 * tanh(y[i] / 1.5) : y[i];
                sum += exp(y[i]);
            }
            float log_sum = ops->softmax(low, n, end, 0.7F, cap, s);
            assert_close("log of the sum", n, (double)log_sum, log(sum));
            for (size_t i = low; i < n; i++) {
                dot += exp(y[i]) / sum * (double)slopes[i];
            }
            ops->softmax_back(low, n, end, 0.7F, cap, log_sum, (float)dot, again, dp);
            for (size_t i = 0; i < end; i++) {
                double p = i < low || i >= n ? 0 : exp(y[i]) / sum;
                double t = p > 0 && capped ? y[i] / 1.5 : 0;
                assert_close("softmax", n, (double)s[i], p);
                assert_close("softmax again", n, (double)again[i], p);
                assert_close("softmax_back", n, (double)dp[i],
                             p * ((double)slopes[i] - dot) * (1 - t * t) * 0.7);
            }
        }
    }
}

/* c = a b in both layouts of a, whole and added. */
static void check_product(const shoal_ops *ops, size_t n)
{
    static float a[9 * N_MAX];
    static float b[N_MAX * N_MAX];
    static float c[9 * N_MAX];
    fill(1, SHOAL_COUNT(a), a);
    fill(2, SHOAL_COUNT(b), b);
    for (size_t m = 1; m <= 9; m++) {
        for (size_t k = 0; k <= 13; k += k < 2 ? 1 : 11) {
            for (int turned = 0; turned < 4; turned++) {
                size_t a_row = turned & 1 ? 1 : N_MAX;
                size_t a_col = turned & 1 ? 9 : 1;
                bool more = turned & 2;
                fill(3, SHOAL_COUNT(c), c);
                float kept = c[(m - 1) * N_MAX + n];
                float first[9 * N_MAX];
                memcpy(first, c, sizeof c);
                ops->product(m, n, k, a, a_row, a_col, b, N_MAX, more, c, N_MAX);
                for (size_t i = 0; i < m * n; i++) {
                    size_t row = i / n;
                    size_t col = i % n;
                    double want = more ? (double)first[row * N_MAX + col] : 0;
                    for (size_t l = 0; l < k; l++) {
                        want += (double)a[row * a_row + l * a_col] * (double)b[l * N_MAX + col];
                    }
                    assert_close("product", n, (double)c[row * N_MAX + col], want);
                }
                assert_true(c[(m - 1) * N_MAX + n] == kept);
            }
        }
    }
}

static void check_rows(const shoal_ops *ops, size_t n)
{
    float x[N_MAX];
    float y[N_MAX];
    float z[N_MAX];
    double dot = 0;
    fill(n, n, x);
    fill(n + 1, n, y);
    for (size_t i = 0; i < n; i++) {
        dot += (double)x[i] * (double)y[i];
    }
    assert_close("dot", n, (double)ops->dot(n, x, y), dot);
    memcpy(z, y, sizeof z);
    ops->add(n, x, z);
    ops->add_scaled(n, -0.5F, x, z);
    for (size_t i = 0; i < n; i++) {
        assert_close("add", n, (double)z[i], (double)y[i] + 0.5 * (double)x[i]);
    }
    memcpy(z, x, sizeof z);
    ops->softcap_back(n, 3, y, z);
    for (size_t i = 0; i < n; i++) {
        double t = (double)y[i] / 3;
        assert_close("softcap_back", n, (double)z[i], (double)x[i] * (1 - t * t));
    }
}

/* A rotation and its way back: nothing has happened but by the magnitude's square. */
static void check_rope(const shoal_ops *ops, size_t n)
{
    enum {
        HEADS = 3
    };
    size_t n_rot = n / 2 * 2;
    float x[HEADS * N_MAX];
    float y[HEADS * N_MAX];
    float cosine[N_MAX];
    float sine[N_MAX];
    float back[N_MAX];
    for (size_t i = 0; i < N_MAX; i++) {
        cosine[i] = 1.25F * cosf(0.3F * (float)i);
        sine[i] = 1.25F * sinf(0.3F * (float)i);
        back[i] = -sine[i];
    }
    for (int halves = 0; halves < 2; halves++) {
        fill(n, SHOAL_COUNT(x), x);
        memcpy(y, x, sizeof x);
        (halves ? ops->rope_halves : ops->rope)(HEADS, N_MAX, n_rot, cosine, sine, y);
        size_t other = halves ? n_rot / 2 : 1;
        for (size_t h = 0; n_rot > 0 && h < HEADS; h++) {
            double x0 = (double)x[h * N_MAX];
            double x1 = (double)x[h * N_MAX + other];
            assert_close("rope", n, (double)y[h * N_MAX],
                         x0 * (double)cosine[0] - x1 * (double)sine[0]);
            assert_true(y[h * N_MAX + n_rot] == x[h * N_MAX + n_rot]);
        }
        (halves ? ops->rope_halves : ops->rope)(HEADS, N_MAX, n_rot, cosine, back, y);
        for (size_t i = 0; i < (size_t)HEADS * N_MAX; i++) {
            double scale = i % N_MAX < n_rot ? 1.5625 : 1;
            assert_close("rope back", n, (double)y[i], (double)x[i] * scale);
        }
    }
}

static void check_transpose(const shoal_ops *ops, size_t n)
{
    static float x[N_MAX * N_MAX];
    static float y[N_MAX * N_MAX];
    fill(n, SHOAL_COUNT(x), x);
    for (size_t cols = 1; cols <= 34; cols += 3) {
        size_t padded = (n + SHOAL_OPS_PAD - 1) / SHOAL_OPS_PAD * SHOAL_OPS_PAD;
        memset(y, 0x55, sizeof y);
        ops->transpose(n, cols, x, N_MAX, padded, y, padded);
        for (size_t i = 0; i < cols * padded; i++) {
            size_t row = i % padded;
            assert_true(y[i] == (row < n ? x[row * N_MAX + i / padded] : 0));
        }
    }
}

/* What is not a number stays one: a run that has gone astray must show it. */
static void test_nan_goes_through(void **state)
{
    (void)state;
    shoal_ops ops;
    shoal_ops_init(&ops, UINT32_MAX);
    float s[SHOAL_OPS_PAD] = {0, NAN, 1};
    (void)ops.softmax(0, 3, SHOAL_OPS_PAD, 1, 0, s);
    assert_true(isnan(s[0]) || isnan(s[1]));
    float gate[3] = {NAN, 1, 1};
    float up[3] = {1, 1, NAN};
    ops.swiglu_back(3, (const float[]){1, 1, 1}, gate, up);
    assert_true(isnan(gate[0]) && isnan(gate[2]) && !isnan(gate[1]));
}

#define DEFINE_TEST(name)                                                                          \
    static void test_##name##_in_every_tier(void **state)                                          \
    {                                                                                              \
        (void)state;                                                                               \
        each(check_##name);                                                                        \
    }
DEFINE_TEST(rmsnorm)
DEFINE_TEST(gates)
DEFINE_TEST(softmax)
DEFINE_TEST(product)
DEFINE_TEST(rows)
DEFINE_TEST(rope)
DEFINE_TEST(transpose)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm_in_every_tier),
        cmocka_unit_test(test_gates_in_every_tier),
        cmocka_unit_test(test_softmax_in_every_tier),
        cmocka_unit_test(test_product_in_every_tier),
        cmocka_unit_test(test_rows_in_every_tier),
        cmocka_unit_test(test_rope_in_every_tier),
        cmocka_unit_test(test_transpose_in_every_tier),
        cmocka_unit_test(test_nan_goes_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
