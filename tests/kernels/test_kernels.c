/* SPDX-License-Identifier: Apache-2.0
 *
 * Every slot of every tier against scalar by memcmp: ragged sizes, poisoned padding, zeros,
 * subnormals, huge values. Scalar against a plain float64 computation within a named budget.
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
#include "tests/support/tiers.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    POISON = 0xA5,
    PAD = 16,
    ROWS_MAX = 80,
    COLS_MAX = 33,
    K_MAX = 160
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261124;

static int group_setup(void **state)
{
    (void)state;
    shoal_kernels_init(&scalar, 0);
    n_tiers = test_tiers(tiers);
    for (size_t i = 0; i < n_tiers; i++) {
        print_message("tier under test: %s\n", tiers[i].tier);
    }
    return 0;
}

static float uniform(void)
{
    return (float)((double)(shoal_rng_next(&rng) >> 11) * 0x1p-52 - 1.0);
}

/* Mostly ordinary numbers, some zeros, subnormals and large ones. */
static float awkward(void)
{
    switch (shoal_rng_next(&rng) % 16) {
    case 0:
        return 0.0F;
    case 1:
        return -0.0F;
    case 2:
        return uniform() * 1e-40F;
    case 3:
        return uniform() * 1e4F;
    default:
        return uniform();
    }
}

static void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = awkward();
    }
}

/* --- products -----------------------------------------------------------------------------------
 */

typedef struct product {
    const char *name;
    size_t offset;    /* of the slot */
    size_t k_step;    /* k is a multiple of it */
    size_t row_bytes; /* panel bytes per k_step columns of 16 rows */
    bool quantised;
    double budget; /* relative to the sum of |w x|, against float64 */
} product;

static const product products[] = {
    {"gemm_f32", offsetof(shoal_kernels, gemm_f32), 1, 64, false, 2e-6},
    {"gemm_f16", offsetof(shoal_kernels, gemm_f16), 1, 32, false, 2e-6},
    {"gemm_bf16", offsetof(shoal_kernels, gemm_bf16), 1, 32, false, 2e-6},
    {"gemm_q8_0", offsetof(shoal_kernels, gemm_q8_0), 32, SHOAL_Q8_PANEL_BLOCK, true, 2e-6},
    {"gemm_q4_0", offsetof(shoal_kernels, gemm_q4_0), 32, SHOAL_Q4_PANEL_BLOCK, true, 2e-6},
};

typedef void gemm_fn(const shoal_gemm *g, size_t p0, size_t p1);

static gemm_fn *slot_of(const shoal_kernels *kernels, const product *p)
{
    gemm_fn *fn = NULL;
    memcpy(&fn, (const char *)kernels + p->offset, sizeof fn);
    return fn;
}

/* Panels with every byte pattern that can occur: scales are finite halves, codes are anything. */
static void fill_panels(const product *p, uint8_t *panels, size_t n_panels, size_t k)
{
    size_t n = n_panels * k / p->k_step * p->row_bytes;
    for (size_t i = 0; i < n; i++) {
        panels[i] = (uint8_t)shoal_rng_next(&rng);
    }
    if (p->offset == offsetof(shoal_kernels, gemm_f32)) {
        for (size_t i = 0; i < n / 4; i++) {
            float w = awkward();
            memcpy(panels + 4 * i, &w, sizeof w);
        }
    } else if (!p->quantised) {
        bool bf16 = p->offset == offsetof(shoal_kernels, gemm_bf16);
        for (size_t i = 0; i < n / 2; i++) {
            uint16_t w = bf16 ? shoal_f32_to_bf16(awkward()) : shoal_f32_to_f16(awkward());
            memcpy(panels + 2 * i, &w, sizeof w);
        }
    } else {
        for (size_t b = 0; b < n / p->row_bytes; b++) {
            for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
                uint16_t d = shoal_f32_to_f16(uniform());
                memcpy(panels + b * p->row_bytes + 2 * r, &d, sizeof d);
            }
        }
    }
}

/* The weight at (row, i), by the layout of kernels.h alone. */
static double weight_at(const product *p, const uint8_t *panels, size_t k, size_t row, size_t i)
{
    size_t panel = row / SHOAL_PANEL_ROWS;
    size_t r = row % SHOAL_PANEL_ROWS;
    const uint8_t *base = panels + panel * (k / p->k_step) * p->row_bytes;
    if (!p->quantised) {
        size_t element = p->row_bytes / SHOAL_PANEL_ROWS;
        const uint8_t *at = base + (i * SHOAL_PANEL_ROWS + r) * element;
        if (element == 4) {
            float w = 0;
            memcpy(&w, at, sizeof w);
            return (double)w;
        }
        uint16_t half = 0;
        memcpy(&half, at, sizeof half);
        return (double)(p->offset == offsetof(shoal_kernels, gemm_bf16) ? shoal_bf16_to_f32(half)
                                                                        : shoal_f16_to_f32(half));
    }
    const uint8_t *block = base + i / 32 * p->row_bytes;
    uint16_t half = 0;
    memcpy(&half, block + 2 * r, sizeof half);
    size_t e = i % 32;
    double d = (double)shoal_f16_to_f32(half);
    if (p->row_bytes == SHOAL_Q8_PANEL_BLOCK) {
        int8_t q = 0;
        memcpy(&q, block + 32 + (e / 4 * 16 + r) * 4 + e % 4, 1);
        return d * q;
    }
    uint8_t byte = block[32 + (e % 16 / 4 * 16 + r) * 4 + e % 4];
    return d * ((e < 16 ? byte & 15 : byte >> 4) - 8);
}

typedef struct operands {
    uint8_t *panels;
    float *x;
    int8_t *xq;
    float *xs;
    int32_t *xsum;
    float *y[2];
    size_t y_bytes;
} operands;

static void operands_new(operands *o)
{
    o->panels = shoal_calloc_aligned(ROWS_MAX * K_MAX, 8);
    o->x = shoal_calloc_aligned(COLS_MAX * (K_MAX + 3), sizeof(float));
    o->xq = shoal_calloc_aligned(COLS_MAX * K_MAX, 1);
    o->xs = shoal_calloc_aligned(COLS_MAX * K_MAX, sizeof(float));
    o->xsum = shoal_calloc_aligned(COLS_MAX * K_MAX, sizeof(int32_t));
    o->y_bytes = (COLS_MAX * (ROWS_MAX + 5) + PAD) * sizeof(float);
    o->y[0] = shoal_calloc_aligned(o->y_bytes, 1);
    o->y[1] = shoal_calloc_aligned(o->y_bytes, 1);
}

static void operands_free(operands *o)
{
    shoal_free(o->panels);
    shoal_free(o->x);
    shoal_free(o->xq);
    shoal_free(o->xs);
    shoal_free(o->xsum);
    shoal_free(o->y[0]);
    shoal_free(o->y[1]);
}

static void check_float64(const product *p, const shoal_gemm *g)
{
    for (size_t c = 0; c < g->n_cols; c++) {
        for (size_t row = 0; row < g->n_rows; row++) {
            double sum = 0;
            double size = 1e-30;
            for (size_t i = 0; i < g->k; i++) {
                double x = p->quantised
                               ? (double)g->xs[c * (g->k / 32) + i / 32] * g->xq[c * g->k + i]
                               : (double)g->x[c * g->x_stride + i];
                double term = weight_at(p, g->panels, g->k, row, i) * x;
                sum += term;
                size += fabs(term);
            }
            double got = (double)g->y[c * g->y_stride + row];
            if (fabs(got - sum) > p->budget * size) {
                fail_msg("%s at (%zu, %zu): %g, float64 gives %g", p->name, row, c, got, sum);
            }
        }
    }
}

static void compare_product(const product *p, operands *o, size_t n_rows, size_t k, size_t n_cols)
{
    size_t n_panels = (n_rows + 15) / 16;
    fill_panels(p, o->panels, n_panels, k);
    fill(o->x, COLS_MAX * (K_MAX + 3));
    for (size_t c = 0; p->quantised && c < n_cols; c++) {
        scalar.quantize_q8(k, o->x + c * (K_MAX + 3), o->xq + c * k, o->xs + c * (k / 32),
                           o->xsum + c * (k / 32));
    }
    shoal_gemm g = {
        .panels = o->panels,
        .n_rows = n_rows,
        .k = k,
        .n_cols = n_cols,
        .x = o->x,
        .x_stride = K_MAX + 3,
        .xq = o->xq,
        .xs = o->xs,
        .xsum = o->xsum,
        .y = o->y[0],
        .y_stride = n_rows + 5,
    };
    memset(o->y[0], POISON, o->y_bytes);
    slot_of(&scalar, p)(&g, 0, n_panels);
    check_float64(p, &g);
    for (size_t t = 0; t < n_tiers; t++) {
        memset(o->y[1], POISON, o->y_bytes);
        g.y = o->y[1];
        /* In two parts, as the pool would. */
        size_t middle = n_panels / 2;
        slot_of(&tiers[t], p)(&g, middle, n_panels);
        slot_of(&tiers[t], p)(&g, 0, middle);
        if (memcmp(o->y[0], o->y[1], o->y_bytes) != 0) {
            fail_msg("%s of %s differs from scalar: %zu rows, k %zu, %zu columns", p->name,
                     tiers[t].tier, n_rows, k, n_cols);
        }
    }
}

static void test_products_equal_scalar_on_ragged_sizes(void **state)
{
    (void)state;
    operands o;
    operands_new(&o);
    static const size_t cols[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 31, 32, 33};
    for (size_t i = 0; i < sizeof products / sizeof products[0]; i++) {
        for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
            for (size_t round = 0; round < 6; round++) {
                size_t n_rows = 1 + shoal_rng_next(&rng) % ROWS_MAX;
                size_t k =
                    products[i].k_step * (1 + shoal_rng_next(&rng) % (K_MAX / products[i].k_step));
                compare_product(&products[i], &o, n_rows, k, cols[c]);
            }
        }
        for (size_t n_rows = 1; n_rows <= 70; n_rows++) {
            compare_product(&products[i], &o, n_rows, 32, 1 + n_rows % 5);
        }
    }
    operands_free(&o);
}

/* --- rows ---------------------------------------------------------------------------------------
 */

static void test_quantize_equals_scalar_with_odd_values(void **state)
{
    (void)state;
    enum {
        K = 320
    };
    float x[K];
    int8_t q[2][K + PAD];
    float s[2][K / 32 + PAD];
    int32_t sums[2][K / 32 + PAD];
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
            x[i] = uniform() * 1e-39F;
        }
        memset(q, POISON, sizeof q);
        memset(s, POISON, sizeof s);
        memset(sums, POISON, sizeof sums);
        scalar.quantize_q8(K, x, q[0], s[0], sums[0]);
        for (size_t t = 0; t < n_tiers; t++) {
            memset(q[1], POISON, sizeof q[1]);
            memset(s[1], POISON, sizeof s[1]);
            memset(sums[1], POISON, sizeof sums[1]);
            tiers[t].quantize_q8(K, x, q[1], s[1], sums[1]);
            assert_memory_equal(q[0], q[1], sizeof q[0]);
            assert_memory_equal(s[0], s[1], sizeof s[0]);
            assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
        }
        for (size_t i = 0; i < K && round % 8 == 0; i++) {
            double back = (double)s[0][i / 32] * q[0][i];
            assert_true(fabs(back - (double)x[i]) <= 0.5001 * (double)s[0][i / 32]);
        }
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
                both[i]->add(n, x, y[i]);
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
                up[i] = uniform();
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

static void test_rope_equals_scalar_and_keeps_length(void **state)
{
    (void)state;
    for (size_t head_dim = 2; head_dim <= 66; head_dim += 2) {
        enum {
            HEADS = 3
        };
        float c[33];
        float s[33];
        float x[2][HEADS * 66 + PAD];
        for (size_t i = 0; i < head_dim / 2; i++) {
            double angle = (double)uniform() * 100;
            c[i] = (float)cos(angle);
            s[i] = (float)sin(angle);
        }
        memset(x, POISON, sizeof x);
        for (size_t i = 0; i < HEADS * head_dim; i++) {
            x[0][i] = uniform();
        }
        for (size_t t = 0; t < n_tiers; t++) {
            float start[HEADS * 66 + PAD];
            memcpy(start, x[0], sizeof start);
            memcpy(x[1], x[0], sizeof x[0]);
            float expected[HEADS * 66 + PAD];
            memcpy(expected, x[0], sizeof expected);
            scalar.rope(HEADS, head_dim, c, s, expected);
            tiers[t].rope(HEADS, head_dim, c, s, x[1]);
            assert_memory_equal(expected, x[1], sizeof expected);
            for (size_t i = 0; i < HEADS * head_dim; i += 2) {
                double before = hypot((double)start[i], (double)start[i + 1]);
                double after = hypot((double)expected[i], (double)expected[i + 1]);
                assert_true(fabs(before - after) < 1e-6);
            }
        }
    }
}

/* --- attention ----------------------------------------------------------------------------------
 */

enum {
    HEAD_DIM_MAX = 80,
    GROUP_MAX = 5,
    TOKENS_MAX = 100,
    BLOCKS = 4
};

typedef struct attention {
    float q[GROUP_MAX * HEAD_DIM_MAX];
    float keys[TOKENS_MAX][HEAD_DIM_MAX];
    float values[TOKENS_MAX][HEAD_DIM_MAX];
    uint8_t *blocks[2][BLOCKS]; /* K, V */
    const void *k[BLOCKS];
    const void *v[BLOCKS];
    float out[2][GROUP_MAX * HEAD_DIM_MAX + PAD];
} attention;

static void check_attention_float64(const attention *m, const shoal_attend *a, double budget)
{
    for (size_t h = 0; h < a->n_heads; h++) {
        double scores[TOKENS_MAX];
        double max = (double)-INFINITY;
        for (size_t t = 0; t < a->n_tokens; t++) {
            scores[t] = 0;
            for (size_t d = 0; d < a->head_dim; d++) {
                scores[t] += (double)a->q[h * a->head_dim + d] * (double)m->keys[t][d];
            }
            scores[t] *= (double)a->scale;
            max = fmax(max, scores[t]);
        }
        double sum = 0;
        for (size_t t = 0; t < a->n_tokens; t++) {
            scores[t] = exp(scores[t] - max);
            sum += scores[t];
        }
        for (size_t d = 0; d < a->head_dim; d++) {
            double want = 0;
            for (size_t t = 0; t < a->n_tokens; t++) {
                want += scores[t] / sum * (double)m->values[t][d];
            }
            assert_true(fabs(want - (double)a->out[h * a->head_dim + d]) < budget);
        }
    }
}

static void check_attention(attention *m, size_t head_dim, size_t group, size_t n_tokens, bool half)
{
    for (size_t b = 0; b < BLOCKS; b++) {
        /* What was never written must not matter, here and in the outputs: all ones are NaN in both
         * forms. */
        memset(m->blocks[0][b], 0xFF, HEAD_DIM_MAX * 32 * 4);
        memset(m->blocks[1][b], 0xFF, HEAD_DIM_MAX * 32 * 4);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t d = 0; d < head_dim; d++) {
            m->keys[t][d] = uniform();
            m->values[t][d] = uniform();
        }
        (half ? scalar.kv_store_f16 : scalar.kv_store_f32)(
            head_dim, m->keys[t], m->values[t], t % 32, m->blocks[0][t / 32], m->blocks[1][t / 32]);
    }
    for (size_t i = 0; i < group * head_dim; i++) {
        m->q[i] = 3 * uniform();
    }
    shoal_attend a = {
        .n_heads = group,
        .head_dim = head_dim,
        .n_tokens = n_tokens,
        .scale = 1.0F / sqrtf((float)head_dim),
        .q = m->q,
        .k_blocks = m->k,
        .v_blocks = m->v,
        .out = m->out[0],
    };
    memset(m->out, 0xFF, sizeof m->out);
    (half ? scalar.attend_f16 : scalar.attend_f32)(&a);
    check_attention_float64(m, &a, half ? 3e-3 : 2e-6);
    for (size_t t = 0; t < n_tiers; t++) {
        memset(m->out[1], 0xFF, sizeof m->out[1]);
        a.out = m->out[1];
        (half ? tiers[t].attend_f16 : tiers[t].attend_f32)(&a);
        if (memcmp(m->out[0], m->out[1], sizeof m->out[0]) != 0) {
            fail_msg("attend_%s of %s differs: head %zu, group %zu, %zu tokens",
                     half ? "f16" : "f32", tiers[t].tier, head_dim, group, n_tokens);
        }
    }
}

static void test_attend_equals_scalar_around_block_borders(void **state)
{
    (void)state;
    attention *m = shoal_calloc_aligned(1, sizeof *m);
    for (size_t b = 0; b < BLOCKS; b++) {
        m->k[b] = m->blocks[0][b] = shoal_calloc_aligned(HEAD_DIM_MAX * 32, 4);
        m->v[b] = m->blocks[1][b] = shoal_calloc_aligned(HEAD_DIM_MAX * 32, 4);
    }
    static const size_t dims[] = {2, 6, 8, 16, 18, 32, 64, 80};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        for (size_t n = 1; n <= TOKENS_MAX; n += n > 66 ? 7 : 1) {
            check_attention(m, dims[i], 1 + n % GROUP_MAX, n, n % 2);
            check_attention(m, dims[i], 1 + (n + 2) % GROUP_MAX, n, !(n % 2));
        }
    }
    for (size_t b = 0; b < BLOCKS; b++) {
        shoal_free(m->blocks[0][b]);
        shoal_free(m->blocks[1][b]);
    }
    shoal_free(m);
}

static void test_kv_store_equals_scalar(void **state)
{
    (void)state;
    float k[HEAD_DIM_MAX];
    float v[HEAD_DIM_MAX];
    static uint16_t blocks[2][2][HEAD_DIM_MAX * 32 + PAD];
    for (size_t slot = 0; slot < 32; slot++) {
        fill(k, HEAD_DIM_MAX);
        fill(v, HEAD_DIM_MAX);
        for (size_t t = 0; t < n_tiers; t++) {
            memset(blocks, POISON, sizeof blocks);
            scalar.kv_store_f16(66, k, v, slot, blocks[0][0], blocks[0][1]);
            tiers[t].kv_store_f16(66, k, v, slot, blocks[1][0], blocks[1][1]);
            assert_memory_equal(blocks[0], blocks[1], sizeof blocks[0]);
        }
    }
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
    assert_true(shoal_cpu_mask_parse("", &mask) < 0);
    assert_true(shoal_cpu_mask_parse("avx2,", &mask) < 0);
    assert_true(shoal_cpu_mask_parse("sse9", &mask) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_equal_scalar_on_ragged_sizes),
        cmocka_unit_test(test_quantize_equals_scalar_with_odd_values),
        cmocka_unit_test(test_elementwise_and_reductions_equal_scalar),
        cmocka_unit_test(test_exp_borders_equal_scalar),
        cmocka_unit_test(test_argmax_with_ties_and_nan_takes_the_lowest),
        cmocka_unit_test(test_rope_equals_scalar_and_keeps_length),
        cmocka_unit_test(test_attend_equals_scalar_around_block_borders),
        cmocka_unit_test(test_kv_store_equals_scalar),
        cmocka_unit_test(test_cpu_mask_parse_knows_its_words),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
