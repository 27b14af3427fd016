/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside a product, with NEON: a panel's 16 rows are four vectors of four outputs, up
 * to four columns share each widened code.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/neon_math.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    QUADS = ROWS / 4,
    COLS_MAX = 4
};

/* The outputs as neon_put knows them. */
SHOAL_INLINE shoal_gemm outputs(float *y, size_t y_stride, size_t n_rows)
{
    return (shoal_gemm){.y = y, .y_stride = y_stride, .n_rows = n_rows};
}

/* The sixteen outputs of panel p for column c; zeros past the last row. */
SHOAL_INLINE void get(const shoal_gemm *g, size_t p, size_t c, float32x4_t rows[QUADS])
{
    const float *y = g->y + c * g->y_stride + p * ROWS;
    float rest[ROWS] = {0};
    if ((p + 1) * ROWS > g->n_rows) {
        memcpy(rest, y, (g->n_rows - p * ROWS) * sizeof *y);
        y = rest;
    }
    for (size_t i = 0; i < QUADS; i++) {
        rows[i] = vld1q_f32(y + 4 * i);
    }
}

SHOAL_INLINE void widen(const uint8_t *codes, float32x4_t w[QUADS])
{
    int8x16_t q = vld1q_s8((const int8_t *)codes);
    int16x8_t half[2] = {vmovl_s8(vget_low_s8(q)), vmovl_s8(vget_high_s8(q))};
    for (size_t i = 0; i < QUADS; i++) {
        int16x4_t four = i % 2 ? vget_high_s16(half[i / 2]) : vget_low_s16(half[i / 2]);
        w[i] = vcvtq_f32_s32(vmovl_s16(four));
    }
}

SHOAL_INLINE float half_at(const uint8_t *p)
{
    uint16_t half = 0;
    memcpy(&half, p, sizeof half);
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

/* One panel by n_c columns, a constant after inlining. */
SHOAL_INLINE void low_tile(const shoal_low *low, size_t p, size_t c, size_t n_c)
{
    const shoal_gemm g = outputs(low->y, low->y_stride, low->n_rows);
    const size_t rank = low->rank;
    const uint8_t *d = low->panels + p * shoal_low_bytes(rank);
    float32x4_t acc[COLS_MAX][QUADS];
    for (size_t j = 0; j < n_c; j++) {
        get(&g, p, c + j, acc[j]);
    }
    for (size_t r = 0; r < rank; r++) {
        float32x4_t w[QUADS];
        float scale = half_at(d + 2 * r);
        widen(d + 2 * rank + r * ROWS, w);
        for (size_t j = 0; j < n_c; j++) {
            float32x4_t u = vdupq_n_f32(scale * low->t[(c + j) * low->t_stride + r]);
            for (size_t i = 0; i < QUADS; i++) {
                acc[j][i] = vfmaq_f32(acc[j][i], w[i], u);
            }
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        neon_put(&g, p, c + j, acc[j]);
    }
}

static void add_low(const shoal_low *low, size_t p0, size_t p1)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= low->n_cols; c += 4) {
            low_tile(low, p, c, 4);
        }
        for (; c < low->n_cols; c++) {
            low_tile(low, p, c, 1);
        }
    }
}

/* --- single elements ------------------------------------------------------------------------- */

static void singles_column(const shoal_singles *s, size_t p, size_t c)
{
    const shoal_gemm g = outputs(s->y, s->y_stride, s->n_rows);
    const float *x = s->x + c * s->x_stride;
    const uint32_t first = s->begin[p];
    float32x4_t acc[QUADS];
    get(&g, p, c, acc);
    for (uint32_t step = first; step < s->begin[p + 1]; step++) {
        const uint32x4_t at = vdupq_n_u32(step - first);
        for (size_t i = 0; i < QUADS; i++) {
            const size_t lane = (size_t)step * ROWS + 4 * i;
            const uint16_t *cols = s->cols + lane;
            const float gathered[4] = {x[cols[0]], x[cols[1]], x[cols[2]], x[cols[3]]};
            float32x4_t values = neon_load_f16(s->values + lane);
            float32x4_t sum = vfmaq_f32(acc[i], values, vld1q_f32(gathered));
            uint32x4_t there = vcgtq_u32(vld1q_u32(s->counts + p * ROWS + 4 * i), at);
            acc[i] = vbslq_f32(there, sum, acc[i]);
        }
    }
    neon_put(&g, p, c, acc);
}

static void add_singles(const shoal_singles *s, size_t p0, size_t p1)
{
    for (size_t p = p0; p < p1; p++) {
        for (size_t c = 0; c < s->n_cols; c++) {
            singles_column(s, p, c);
        }
    }
}

void shoal_kernels_neon_sides(shoal_kernels *kernels)
{
    kernels->add_low = add_low;
    kernels->add_singles = add_singles;
}
