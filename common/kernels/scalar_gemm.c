/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of quantised activations and of matrix times columns, in plain C. Every output
 * is one accumulator that only its own loop touches.
 */
#include "common/kernels/kernels.h"

#include "common/kernels/tiers_internal.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_QBLOCK,
    HALF = N / 2,
    NIB_BYTES = 256,
    TWO_BYTES = 128,
    HI1_BYTES = 64,
    TRI_BYTES = 192,
    PAIRS_BYTES = 320,      /* sixteen values of eight bits, and their places */
    SCALES_BYTES = 2 * ROWS /* sixteen f16 scales */
};

/* Adding and taking away 1.5 * 2^23 leaves the nearest integer, ties to even, for |t| < 2^22. */
static float nearest(float t)
{
    return (t + 0x1.8p+23F) - 0x1.8p+23F;
}

static void sum_codes(const int8_t *q, shoal_act_block *block)
{
    int16_t at[2][2] = {{0}}; /* half, place in the four */
    for (size_t i = 0; i < N; i++) {
        at[i / HALF][i % 4 / 2] = (int16_t)(at[i / HALF][i % 4 / 2] + q[i]);
    }
    int16_t low = (int16_t)(at[0][0] + at[0][1]);
    int16_t high = (int16_t)(at[1][0] + at[1][1]);
    const int16_t pairs[8] = {(int16_t)(at[0][0] + at[1][0]),
                              (int16_t)(at[0][1] + at[1][1]),
                              at[0][0],
                              at[0][1],
                              at[1][0],
                              at[1][1],
                              low,
                              high};
    memcpy(block->pairs, pairs, sizeof pairs);
    block->sum = block->scale * (float)(low + high);
    block->sum_low = block->scale * (float)low;
    block->sum_high = block->scale * (float)high;
}

static void quantize_block(const float *x, int8_t *q, shoal_act_block *block)
{
    float amax = 0;
    for (size_t i = 0; i < N; i++) {
        float a = fabsf(x[i]);
        amax = a > amax ? a : amax;
    }
    if (amax == INFINITY) {
        memset(q, 0, N);
        *block = (shoal_act_block){.scale = NAN, .sum = NAN, .sum_low = NAN, .sum_high = NAN};
        return;
    }
    block->scale = amax / 127.0F;
    float inv = amax == 0 ? 0 : 127.0F / amax;
    for (size_t i = 0; i < N; i++) {
        float t = x[i] * inv;
        t = t < 127.0F ? t : 127.0F;
        t = t > -127.0F ? t : -127.0F;
        q[i] = (int8_t)nearest(t);
    }
    sum_codes(q, block);
}

static void quantize_q8(size_t k, const float *x, int8_t *q, shoal_act_block *blocks)
{
    for (size_t b = 0; b < k / N; b++) {
        quantize_block(x + b * N, q + b * N, blocks + b);
    }
}

static size_t rows_of(const shoal_gemm *g, size_t panel)
{
    size_t left = g->n_rows - panel * ROWS;
    return left < ROWS ? left : ROWS;
}

/* --- float weights --------------------------------------------------------------------------- */

/* Widens the sixteen weights that start at element i of the matrix. */
typedef void load_fn(const void *panels, size_t i, float w[ROWS]);

static void load_f32(const void *panels, size_t i, float w[ROWS])
{
    memcpy(w, (const float *)panels + i, ROWS * sizeof(float));
}

static void load_f16(const void *panels, size_t i, float w[ROWS])
{
    const uint16_t *half = (const uint16_t *)panels + i;
    for (size_t r = 0; r < ROWS; r++) {
        w[r] = shoal_f16_to_f32(half[r]);
    }
}

static void load_bf16(const void *panels, size_t i, float w[ROWS])
{
    const uint16_t *half = (const uint16_t *)panels + i;
    for (size_t r = 0; r < ROWS; r++) {
        w[r] = shoal_bf16_to_f32(half[r]);
    }
}

static void gemm_float(const shoal_gemm *g, size_t p0, size_t p1, load_fn *load)
{
    for (size_t p = p0; p < p1; p++) {
        for (size_t c = 0; c < g->n_cols; c++) {
            const float *x = g->x + c * g->x_stride;
            float acc[ROWS] = {0};
            for (size_t i = 0; i < g->k; i++) {
                float w[ROWS];
                load(g->panels, (p * g->k + i) * ROWS, w);
                for (size_t r = 0; r < ROWS; r++) {
                    acc[r] = fmaf(w[r], x[i], acc[r]);
                }
            }
            memcpy(g->y + c * g->y_stride + p * ROWS, acc, rows_of(g, p) * sizeof(float));
        }
    }
}

static void gemm_f32(const shoal_gemm *g, size_t p0, size_t p1)
{
    gemm_float(g, p0, p1, load_f32);
}

static void gemm_f16(const shoal_gemm *g, size_t p0, size_t p1)
{
    gemm_float(g, p0, p1, load_f16);
}

static void gemm_bf16(const shoal_gemm *g, size_t p0, size_t p1)
{
    gemm_float(g, p0, p1, load_bf16);
}

/* One tile of 128 elements of a row of fp8, without its scale. */
static float dot_fp8(const uint8_t *codes, size_t r, const float *x, size_t n)
{
    float t = 0;
    for (size_t i = 0; i < n; i++) {
        t = fmaf(shoal_e4m3_to_f32(codes[i * ROWS + r]), x[i], t);
    }
    return t;
}

static void gemm_fp8(const shoal_gemm *g, size_t p0, size_t p1)
{
    const size_t block_bytes = shoal_panel_find(SHOAL_PANEL_FP8)->block_bytes;
    for (size_t p = p0; p < p1; p++) {
        const uint8_t *panel =
            (const uint8_t *)g->panels + p * shoal_panel_bytes(SHOAL_PANEL_FP8, g->k);
        for (size_t c = 0; c < g->n_cols; c++) {
            const float *x = g->x + c * g->x_stride;
            float acc[ROWS] = {0};
            for (size_t at = 0; at < g->k; at += SHOAL_FP8_TILE) {
                const uint8_t *block = panel + at / SHOAL_FP8_TILE * block_bytes;
                size_t n = g->k - at < SHOAL_FP8_TILE ? g->k - at : SHOAL_FP8_TILE;
                for (size_t r = 0; r < ROWS; r++) {
                    float s = 0;
                    memcpy(&s, block + r * sizeof s, sizeof s);
                    acc[r] = fmaf(s, dot_fp8(block + ROWS * sizeof s, r, x + at, n), acc[r]);
                }
            }
            memcpy(g->y + c * g->y_stride + p * ROWS, acc, rows_of(g, p) * sizeof(float));
        }
    }
}

/* --- quantised weights ----------------------------------------------------------------------- */

static int nib_at(const uint8_t *nib, size_t r, size_t i)
{
    uint8_t both = nib[(i % HALF / 4 * ROWS + r) * 4 + i % 4];
    return i < HALF ? both & 15 : both >> 4;
}

static int hi1_at(const uint8_t *hi1, size_t r, size_t i)
{
    return hi1[r * 4 + i % 4] >> (i / 4) & 1;
}

static int two_at(const uint8_t *two, size_t r, size_t i)
{
    return two[(i / HALF * ROWS + r) * 4 + i % 4] >> (i % HALF / 4 * 2) & 3;
}

static int tri_at(const uint8_t *tri, size_t r, size_t i)
{
    const size_t plane = (size_t)ROWS * 4;
    const uint8_t *at = tri + r * 4 + i % 4;
    size_t p = i % HALF / 4;
    if (p < 3) {
        return at[p * plane] >> (i < HALF ? 0 : 3) & 7;
    }
    int top = at[plane] >> (i < HALF ? 6 : 7) & 1;
    return at[i < HALF ? 0 : 2 * plane] >> 6 | top << 2;
}

/* Sixteen rows of 32 elements as the law sees them: the integer of a row is the sum over halves of
 * scale * (codes of the half * x), its mins are taken off last. */
typedef struct block_view {
    int codes[ROWS][N];
    int scales[2][ROWS];
    float d[ROWS];
    float mins[2][ROWS];
} block_view;

typedef enum mins_kind {
    MINS_NONE,
    MINS_WHOLE, /* one a row, with the sum of all 32 */
    MINS_HALVES /* two a row, each with the sum of its 16 */
} mins_kind;

/* Fills all of a view from sub-block s of a panel block. */
typedef void view_fn(const uint8_t *block, size_t s, block_view *view);

/* The values that indices of levels stand for. */
static void look_up(const int8_t *levels, block_view *view)
{
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = levels[view->codes[r][i]];
        }
    }
}

static void view_scales(const uint8_t *block, block_view *view)
{
    for (size_t r = 0; r < ROWS; r++) {
        uint16_t d = 0;
        memcpy(&d, block + 2 * r, sizeof d);
        view->d[r] = shoal_f16_to_f32(d);
        view->scales[0][r] = 1;
        view->scales[1][r] = 1;
    }
}

/* The second row of sixteen halves: m, or dmin. */
static float second_half_float(const uint8_t *block, size_t r)
{
    uint16_t m = 0;
    memcpy(&m, block + SCALES_BYTES + 2 * r, sizeof m);
    return shoal_f16_to_f32(m);
}

static void view_q8_0(const uint8_t *block, size_t s, block_view *view)
{
    (void)s;
    view_scales(block, view);
    const uint8_t *q = block + SCALES_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = (int8_t)q[(i / 4 * ROWS + r) * 4 + i % 4];
        }
    }
}

static void view_q4_0(const uint8_t *block, size_t s, block_view *view)
{
    (void)s;
    view_scales(block, view);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = nib_at(block + SCALES_BYTES, r, i) - 8;
        }
    }
}

static void view_iq4_nl(const uint8_t *block, size_t s, block_view *view)
{
    (void)s;
    view_scales(block, view);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = shoal_iq4_nl[nib_at(block + SCALES_BYTES, r, i)];
        }
    }
}

static void view_q5_0(const uint8_t *block, size_t s, block_view *view)
{
    (void)s;
    view_scales(block, view);
    const uint8_t *nib = block + SCALES_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = (nib_at(nib, r, i) | hi1_at(nib + NIB_BYTES, r, i) << 4) - 16;
        }
    }
}

static void view_q4_1(const uint8_t *block, size_t s, block_view *view)
{
    (void)s;
    view_scales(block, view);
    for (size_t r = 0; r < ROWS; r++) {
        view->mins[0][r] = second_half_float(block, r);
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = nib_at(block + 2 * (size_t)SCALES_BYTES, r, i);
        }
    }
}

static void view_q5_1(const uint8_t *block, size_t s, block_view *view)
{
    view_q4_1(block, s, view);
    const uint8_t *hi1 = block + 2 * (size_t)SCALES_BYTES + NIB_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] |= hi1_at(hi1, r, i) << 4;
        }
    }
}

static void view_q2_k(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *sub = block + 2 * (size_t)SCALES_BYTES + s * (2 * ROWS + TWO_BYTES);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t h = 0; h < 2; h++) {
            uint8_t both = sub[h * ROWS + r];
            view->scales[h][r] = both & 15;
            view->mins[h][r] = -(second_half_float(block, r) * (float)(both >> 4));
        }
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = two_at(sub + 2 * (size_t)ROWS, r, i);
        }
    }
}

static void view_q3_k(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *sub = block + SCALES_BYTES + s * (2 * ROWS + TWO_BYTES + HI1_BYTES);
    const uint8_t *two = sub + 2 * (size_t)ROWS;
    for (size_t r = 0; r < ROWS; r++) {
        view->scales[0][r] = (int8_t)sub[r];
        view->scales[1][r] = (int8_t)sub[ROWS + r];
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = (two_at(two, r, i) | hi1_at(two + TWO_BYTES, r, i) << 2) - 4;
        }
    }
}

static void view_k_mins(const uint8_t *block, const uint8_t *sub, block_view *view)
{
    view_scales(block, view);
    for (size_t r = 0; r < ROWS; r++) {
        view->scales[0][r] = sub[r];
        view->scales[1][r] = sub[r];
        view->mins[0][r] = -(second_half_float(block, r) * (float)sub[ROWS + r]);
    }
}

static void view_q4_k(const uint8_t *block, size_t s, block_view *view)
{
    const uint8_t *sub = block + 2 * (size_t)SCALES_BYTES + s * (2 * ROWS + NIB_BYTES);
    view_k_mins(block, sub, view);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = nib_at(sub + 2 * (size_t)ROWS, r, i);
        }
    }
}

static void view_q5_k(const uint8_t *block, size_t s, block_view *view)
{
    const uint8_t *sub = block + 2 * (size_t)SCALES_BYTES + s * (2 * ROWS + NIB_BYTES + HI1_BYTES);
    view_k_mins(block, sub, view);
    const uint8_t *nib = sub + 2 * (size_t)ROWS;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = nib_at(nib, r, i) | hi1_at(nib + NIB_BYTES, r, i) << 4;
        }
    }
}

static void view_q6_k(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *sub = block + SCALES_BYTES + s * (2 * ROWS + NIB_BYTES + TWO_BYTES);
    const uint8_t *nib = sub + 2 * (size_t)ROWS;
    for (size_t r = 0; r < ROWS; r++) {
        view->scales[0][r] = (int8_t)sub[r];
        view->scales[1][r] = (int8_t)sub[ROWS + r];
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = (nib_at(nib, r, i) | two_at(nib + NIB_BYTES, r, i) << 4) - 32;
        }
    }
}

static void view_c2(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *two = block + SCALES_BYTES + s * TWO_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = two_at(two, r, i) - 2;
        }
    }
}

static void view_c3(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *tri = block + SCALES_BYTES + s * TRI_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = tri_at(tri, r, i) - 4;
        }
    }
}

static void view_c4(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *nib = block + SCALES_BYTES + s * NIB_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = nib_at(nib, r, i) - 8;
        }
    }
}

static void view_s4(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *tri = block + SCALES_BYTES + s * TRI_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < HALF; i++) {
            int place = tri_at(tri, r, HALF + i);
            int magnitude = tri_at(tri, r, i);
            view->codes[r][i / 2 * 4 + (place & 3)] += place & 4 ? -magnitude : magnitude;
        }
    }
}

static void view_s8(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *q = block + SCALES_BYTES + s * PAIRS_BYTES;
    const uint8_t *at = q + 4 * (size_t)HI1_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < HALF; i++) {
            int place = at[r * 4 + i % 4] >> i / 4 * 2 & 3;
            view->codes[r][i / 2 * 4 + (size_t)place] += (int8_t)q[(i / 4 * ROWS + r) * 4 + i % 4];
        }
    }
}

static void view_bitmap(const uint8_t *sub, size_t n_values, block_view *view)
{
    for (size_t r = 0; r < ROWS; r++) {
        size_t n = 0;
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = 0;
            if (sub[r * 4 + i / 8] >> i % 8 & 1) {
                size_t v = n++ % n_values;
                uint8_t both = sub[HI1_BYTES + (v / 8 * ROWS + r) * 4 + v % 4];
                view->codes[r][i] = (v % 8 < 4 ? both & 15 : both >> 4) - 8;
            }
        }
    }
}

static void view_b16(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    view_bitmap(block + SCALES_BYTES + s * 3 * HI1_BYTES, 16, view);
}

static void view_b8(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    view_bitmap(block + SCALES_BYTES + s * 2 * HI1_BYTES, 8, view);
}

static void view_n3(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *tri = block + SCALES_BYTES + s * TRI_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = tri_at(tri, r, i);
        }
    }
}

static void view_n4(const uint8_t *block, size_t s, block_view *view)
{
    view_scales(block, view);
    const uint8_t *nib = block + SCALES_BYTES + s * NIB_BYTES;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < N; i++) {
            view->codes[r][i] = nib_at(nib, r, i);
        }
    }
}

static int half_dot(const int *codes, const int8_t *x)
{
    int dot = 0;
    for (size_t i = 0; i < HALF; i++) {
        dot += codes[i] * x[i];
    }
    return dot;
}

/* Takes block b of column c into the sums of one panel's rows. */
static void take_block(const block_view *view, mins_kind mins, const int8_t *x,
                       const shoal_act_block *act, float acc[ROWS])
{
    for (size_t r = 0; r < ROWS; r++) {
        int whole = view->scales[0][r] * half_dot(view->codes[r], x) +
                    view->scales[1][r] * half_dot(view->codes[r] + HALF, x + HALF);
        acc[r] = fmaf(view->d[r] * act->scale, (float)whole, acc[r]);
        if (mins == MINS_WHOLE) {
            acc[r] = fmaf(view->mins[0][r], act->sum, acc[r]);
        } else if (mins == MINS_HALVES) {
            acc[r] = fmaf(view->mins[0][r], act->sum_low, acc[r]);
            acc[r] = fmaf(view->mins[1][r], act->sum_high, acc[r]);
        }
    }
}

/* A view serves all columns, so the sums wait in y between the blocks. */
static void gemm_quantised(const shoal_gemm *g, size_t p0, size_t p1, shoal_panel panel,
                           mins_kind mins, view_fn *view_of)
{
    const shoal_panel_info *info = shoal_panel_find(panel);
    const size_t n_blocks = g->k / N;
    const size_t n_subs = info->step / N;
    for (size_t p = p0; p < p1; p++) {
        const uint8_t *blocks = (const uint8_t *)g->panels + p * shoal_panel_bytes(panel, g->k);
        for (size_t b = 0; b < n_blocks; b++) {
            block_view view = {0};
            view_of(blocks + b / n_subs * info->block_bytes, b % n_subs, &view);
            if (shoal_panel_levels(panel)) {
                look_up(g->levels, &view);
            }
            for (size_t c = 0; c < g->n_cols; c++) {
                float *y = g->y + c * g->y_stride + p * ROWS;
                float acc[ROWS] = {0};
                if (b > 0) {
                    memcpy(acc, y, rows_of(g, p) * sizeof *y);
                }
                take_block(&view, mins, g->xq + c * g->k + b * N, g->xb + c * n_blocks + b, acc);
                memcpy(y, acc, rows_of(g, p) * sizeof *y);
            }
        }
    }
}

#define SHOAL_VIEWED(name, NAME, mins, view)                                                       \
    static void gemm_##name(const shoal_gemm *g, size_t p0, size_t p1)                             \
    {                                                                                              \
        gemm_quantised(g, p0, p1, SHOAL_PANEL_##NAME, mins, view);                                 \
    }
#define SHOAL_QUANTISED(name, NAME, mins) SHOAL_VIEWED(name, NAME, mins, view_##name)

SHOAL_QUANTISED(q8_0, Q8_0, MINS_NONE)
SHOAL_QUANTISED(q4_0, Q4_0, MINS_NONE)
SHOAL_QUANTISED(q4_1, Q4_1, MINS_WHOLE)
SHOAL_QUANTISED(q5_0, Q5_0, MINS_NONE)
SHOAL_QUANTISED(q5_1, Q5_1, MINS_WHOLE)
SHOAL_QUANTISED(iq4_nl, IQ4_NL, MINS_NONE)
SHOAL_QUANTISED(q2_k, Q2_K, MINS_HALVES)
SHOAL_QUANTISED(q3_k, Q3_K, MINS_NONE)
SHOAL_QUANTISED(q4_k, Q4_K, MINS_WHOLE)
SHOAL_QUANTISED(q5_k, Q5_K, MINS_WHOLE)
SHOAL_QUANTISED(q6_k, Q6_K, MINS_NONE)
SHOAL_VIEWED(c2_32, C2_32, MINS_NONE, view_c2)
SHOAL_VIEWED(c2_64, C2_64, MINS_NONE, view_c2)
SHOAL_VIEWED(c2_128, C2_128, MINS_NONE, view_c2)
SHOAL_VIEWED(c3_32, C3_32, MINS_NONE, view_c3)
SHOAL_VIEWED(c3_64, C3_64, MINS_NONE, view_c3)
SHOAL_VIEWED(c3_128, C3_128, MINS_NONE, view_c3)
SHOAL_VIEWED(c4_64, C4_64, MINS_NONE, view_c4)
SHOAL_VIEWED(c4_128, C4_128, MINS_NONE, view_c4)
SHOAL_VIEWED(s4_32, S4_32, MINS_NONE, view_s4)
SHOAL_VIEWED(s4_64, S4_64, MINS_NONE, view_s4)
SHOAL_VIEWED(s4_128, S4_128, MINS_NONE, view_s4)
SHOAL_VIEWED(s8_32, S8_32, MINS_NONE, view_s8)
SHOAL_VIEWED(s8_64, S8_64, MINS_NONE, view_s8)
SHOAL_VIEWED(s8_128, S8_128, MINS_NONE, view_s8)
SHOAL_VIEWED(b16_32, B16_32, MINS_NONE, view_b16)
SHOAL_VIEWED(b16_64, B16_64, MINS_NONE, view_b16)
SHOAL_VIEWED(b16_128, B16_128, MINS_NONE, view_b16)
SHOAL_VIEWED(b8_32, B8_32, MINS_NONE, view_b8)
SHOAL_VIEWED(b8_64, B8_64, MINS_NONE, view_b8)
SHOAL_VIEWED(b8_128, B8_128, MINS_NONE, view_b8)
SHOAL_VIEWED(n3_32, N3_32, MINS_NONE, view_n3)
SHOAL_VIEWED(n3_64, N3_64, MINS_NONE, view_n3)
SHOAL_VIEWED(n3_128, N3_128, MINS_NONE, view_n3)
SHOAL_VIEWED(n4_32, N4_32, MINS_NONE, view_n4)
SHOAL_VIEWED(n4_64, N4_64, MINS_NONE, view_n4)
SHOAL_VIEWED(n4_128, N4_128, MINS_NONE, view_n4)

void shoal_kernels_scalar_gemm(shoal_kernels *kernels)
{
    static shoal_gemm_fn *const products[SHOAL_PANELS] = {
        [SHOAL_PANEL_F32] = gemm_f32,       [SHOAL_PANEL_F16] = gemm_f16,
        [SHOAL_PANEL_BF16] = gemm_bf16,     [SHOAL_PANEL_FP8] = gemm_fp8,
        [SHOAL_PANEL_Q8_0] = gemm_q8_0,     [SHOAL_PANEL_Q4_0] = gemm_q4_0,
        [SHOAL_PANEL_Q4_1] = gemm_q4_1,     [SHOAL_PANEL_Q5_0] = gemm_q5_0,
        [SHOAL_PANEL_Q5_1] = gemm_q5_1,     [SHOAL_PANEL_IQ4_NL] = gemm_iq4_nl,
        [SHOAL_PANEL_Q2_K] = gemm_q2_k,     [SHOAL_PANEL_Q3_K] = gemm_q3_k,
        [SHOAL_PANEL_Q4_K] = gemm_q4_k,     [SHOAL_PANEL_Q5_K] = gemm_q5_k,
        [SHOAL_PANEL_Q6_K] = gemm_q6_k,     [SHOAL_PANEL_C2_32] = gemm_c2_32,
        [SHOAL_PANEL_C2_64] = gemm_c2_64,   [SHOAL_PANEL_C2_128] = gemm_c2_128,
        [SHOAL_PANEL_C3_32] = gemm_c3_32,   [SHOAL_PANEL_C3_64] = gemm_c3_64,
        [SHOAL_PANEL_C3_128] = gemm_c3_128, [SHOAL_PANEL_C4_64] = gemm_c4_64,
        [SHOAL_PANEL_C4_128] = gemm_c4_128, [SHOAL_PANEL_S4_32] = gemm_s4_32,
        [SHOAL_PANEL_S4_64] = gemm_s4_64,   [SHOAL_PANEL_S4_128] = gemm_s4_128,
        [SHOAL_PANEL_N3_32] = gemm_n3_32,   [SHOAL_PANEL_N3_64] = gemm_n3_64,
        [SHOAL_PANEL_N3_128] = gemm_n3_128, [SHOAL_PANEL_N4_32] = gemm_n4_32,
        [SHOAL_PANEL_N4_64] = gemm_n4_64,   [SHOAL_PANEL_N4_128] = gemm_n4_128,
        [SHOAL_PANEL_S8_32] = gemm_s8_32,   [SHOAL_PANEL_S8_64] = gemm_s8_64,
        [SHOAL_PANEL_S8_128] = gemm_s8_128, [SHOAL_PANEL_B16_32] = gemm_b16_32,
        [SHOAL_PANEL_B16_64] = gemm_b16_64, [SHOAL_PANEL_B16_128] = gemm_b16_128,
        [SHOAL_PANEL_B8_32] = gemm_b8_32,   [SHOAL_PANEL_B8_64] = gemm_b8_64,
        [SHOAL_PANEL_B8_128] = gemm_b8_128,
    };
    kernels->quantize_q8 = quantize_q8;
    memcpy(kernels->gemm, products, sizeof products);
}
