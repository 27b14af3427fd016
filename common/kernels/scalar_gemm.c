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
    GROUP = 4,                          /* consecutive elements of a row inside a panel */
    N_GROUPS = SHOAL_QBLOCK / GROUP,    /* groups of a block */
    SCALES_BYTES = SHOAL_PANEL_ROWS * 2 /* the f16 scales in front of a panel block */
};

/* Adding and taking away 1.5 * 2^23 leaves the nearest integer, ties to even, for |t| < 2^22. */
static float nearest(float t)
{
    return (t + 0x1.8p+23F) - 0x1.8p+23F;
}

static void quantize_block(const float *x, int8_t *q, float *ret_scale, int32_t *ret_sum)
{
    float amax = 0;
    for (size_t i = 0; i < SHOAL_QBLOCK; i++) {
        float a = fabsf(x[i]);
        amax = a > amax ? a : amax;
    }
    *ret_sum = 0;
    if (amax == INFINITY) {
        *ret_scale = NAN;
        memset(q, 0, SHOAL_QBLOCK);
        return;
    }
    *ret_scale = amax / 127.0F;
    float inv = amax == 0 ? 0 : 127.0F / amax;
    for (size_t i = 0; i < SHOAL_QBLOCK; i++) {
        float t = x[i] * inv;
        t = t < 127.0F ? t : 127.0F;
        t = t > -127.0F ? t : -127.0F;
        q[i] = (int8_t)nearest(t);
        *ret_sum += q[i];
    }
}

static void quantize_q8(size_t k, const float *x, int8_t *q, float *scales, int32_t *sums)
{
    for (size_t b = 0; b < k / SHOAL_QBLOCK; b++) {
        quantize_block(x + b * SHOAL_QBLOCK, q + b * SHOAL_QBLOCK, scales + b, sums + b);
    }
}

static void store_rows(const shoal_gemm *g, size_t panel, size_t column,
                       const float acc[SHOAL_PANEL_ROWS])
{
    size_t row = panel * SHOAL_PANEL_ROWS;
    size_t n = g->n_rows - row < SHOAL_PANEL_ROWS ? g->n_rows - row : SHOAL_PANEL_ROWS;
    memcpy(g->y + column * g->y_stride + row, acc, n * sizeof(float));
}

/* --- float weights --------------------------------------------------------------------------- */

/* Widens the sixteen weights that start at element i of the matrix. */
typedef void load_fn(const void *panels, size_t i, float w[SHOAL_PANEL_ROWS]);

static void load_f32(const void *panels, size_t i, float w[SHOAL_PANEL_ROWS])
{
    memcpy(w, (const float *)panels + i, SHOAL_PANEL_ROWS * sizeof(float));
}

static void load_f16(const void *panels, size_t i, float w[SHOAL_PANEL_ROWS])
{
    const uint16_t *half = (const uint16_t *)panels + i;
    for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
        w[r] = shoal_f16_to_f32(half[r]);
    }
}

static void load_bf16(const void *panels, size_t i, float w[SHOAL_PANEL_ROWS])
{
    const uint16_t *half = (const uint16_t *)panels + i;
    for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
        w[r] = shoal_bf16_to_f32(half[r]);
    }
}

static void gemm_float(const shoal_gemm *g, size_t p0, size_t p1, load_fn *load)
{
    for (size_t p = p0; p < p1; p++) {
        for (size_t c = 0; c < g->n_cols; c++) {
            const float *x = g->x + c * g->x_stride;
            float acc[SHOAL_PANEL_ROWS] = {0};
            for (size_t i = 0; i < g->k; i++) {
                float w[SHOAL_PANEL_ROWS];
                load(g->panels, (p * g->k + i) * SHOAL_PANEL_ROWS, w);
                for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
                    acc[r] = fmaf(w[r], x[i], acc[r]);
                }
            }
            store_rows(g, p, c, acc);
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

/* --- quantised weights ----------------------------------------------------------------------- */

/* The exact dots of the sixteen rows of one panel block with one block of codes. */
typedef void dot_fn(const uint8_t *block, const int8_t *x, int32_t dots[SHOAL_PANEL_ROWS]);

static void dot_q8_0(const uint8_t *block, const int8_t *x, int32_t dots[SHOAL_PANEL_ROWS])
{
    const uint8_t *q = block + SCALES_BYTES;
    for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
        dots[r] = 0;
        for (size_t i = 0; i < SHOAL_QBLOCK; i++) {
            size_t at = (i / GROUP * SHOAL_PANEL_ROWS + r) * GROUP + i % GROUP;
            dots[r] += (int8_t)q[at] * x[i];
        }
    }
}

static void dot_q4_0(const uint8_t *block, const int8_t *x, int32_t dots[SHOAL_PANEL_ROWS])
{
    const uint8_t *q = block + SCALES_BYTES;
    for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
        dots[r] = 0;
        for (size_t i = 0; i < SHOAL_QBLOCK / 2; i++) {
            uint8_t both = q[(i / GROUP * SHOAL_PANEL_ROWS + r) * GROUP + i % GROUP];
            dots[r] += ((both & 0xF) - 8) * x[i];
            dots[r] += ((both >> 4) - 8) * x[i + SHOAL_QBLOCK / 2];
        }
    }
}

static void gemm_quantised(const shoal_gemm *g, size_t p0, size_t p1, size_t block_bytes,
                           dot_fn *dot)
{
    size_t n_blocks = g->k / SHOAL_QBLOCK;
    for (size_t p = p0; p < p1; p++) {
        const uint8_t *panel = (const uint8_t *)g->panels + p * n_blocks * block_bytes;
        for (size_t c = 0; c < g->n_cols; c++) {
            float acc[SHOAL_PANEL_ROWS] = {0};
            for (size_t b = 0; b < n_blocks; b++) {
                const uint8_t *block = panel + b * block_bytes;
                uint16_t d[SHOAL_PANEL_ROWS];
                int32_t dots[SHOAL_PANEL_ROWS];
                memcpy(d, block, sizeof d);
                dot(block, g->xq + c * g->k + b * SHOAL_QBLOCK, dots);
                for (size_t r = 0; r < SHOAL_PANEL_ROWS; r++) {
                    float scale = shoal_f16_to_f32(d[r]) * g->xs[c * n_blocks + b];
                    acc[r] = fmaf(scale, (float)dots[r], acc[r]);
                }
            }
            store_rows(g, p, c, acc);
        }
    }
}

static void gemm_q8_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    gemm_quantised(g, p0, p1, SHOAL_Q8_PANEL_BLOCK, dot_q8_0);
}

static void gemm_q4_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    gemm_quantised(g, p0, p1, SHOAL_Q4_PANEL_BLOCK, dot_q4_0);
}

void shoal_kernels_scalar_gemm(shoal_kernels *kernels)
{
    _Static_assert(SHOAL_Q8_PANEL_BLOCK == SCALES_BYTES + N_GROUPS * GROUP * SHOAL_PANEL_ROWS,
                   "a q8_0 panel block is sixteen scales and sixteen rows of codes");
    kernels->quantize_q8 = quantize_q8;
    kernels->gemm_f32 = gemm_f32;
    kernels->gemm_f16 = gemm_f16;
    kernels->gemm_bf16 = gemm_bf16;
    kernels->gemm_q8_0 = gemm_q8_0;
    kernels->gemm_q4_0 = gemm_q4_0;
}
