/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of float weights with NEON: a panel's 16 rows are four vectors of four outputs, up to
 * four columns share each widened weight; no sum is ever split.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/neon_math.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    QUADS = ROWS / 4,
    COLS_MAX = 4,
    TILE = SHOAL_FP8_TILE
};

/* The sums of one panel and a few columns. */
typedef struct sums {
    float32x4_t of[COLS_MAX][QUADS];
} sums;

SHOAL_INLINE void clear(sums *s, size_t n_c)
{
    for (size_t j = 0; j < n_c; j++) {
        for (size_t i = 0; i < QUADS; i++) {
            s->of[j][i] = vdupq_n_f32(0.0F);
        }
    }
}

/* Widens the sixteen weights at p. */
typedef void load_fn(const uint8_t *p, float32x4_t w[QUADS]);

SHOAL_INLINE void load_f32(const uint8_t *p, float32x4_t w[QUADS])
{
    for (size_t i = 0; i < QUADS; i++) {
        w[i] = neon_load_f32(p + 16 * i);
    }
}

SHOAL_INLINE void load_f16(const uint8_t *p, float32x4_t w[QUADS])
{
    for (size_t i = 0; i < QUADS; i++) {
        w[i] = neon_load_f16(p + 8 * i);
    }
}

SHOAL_INLINE void load_bf16(const uint8_t *p, float32x4_t w[QUADS])
{
    for (size_t i = 0; i < QUADS; i++) {
        w[i] = neon_load_bf16(p + 8 * i);
    }
}

/* Exponent and mantissa of e4m3 fit those of f16, whose bias is 8 more: the value is 2^8 times the
 * half's, subnormals too. The one pattern that is no number gets the half's largest exponent. */
SHOAL_INLINE void load_e4m3(const uint8_t *p, float32x4_t w[QUADS])
{
    uint8x16_t codes = vld1q_u8(p);
    for (size_t i = 0; i < 2; i++) {
        uint16x8_t wide = vmovl_u8(i == 0 ? vget_low_u8(codes) : vget_high_u8(codes));
        uint16x8_t magnitude = vandq_u16(wide, vdupq_n_u16(0x7F));
        uint16x8_t sign = vshlq_n_u16(vandq_u16(wide, vdupq_n_u16(0x80)), 8);
        uint16x8_t odd = vceqq_u16(magnitude, vdupq_n_u16(0x7F));
        uint16x8_t half = vorrq_u16(sign, vshlq_n_u16(magnitude, 7));
        half = vorrq_u16(half, vandq_u16(odd, vdupq_n_u16(0x7C00)));
        float16x8_t value = vreinterpretq_f16_u16(half);
        const float32x4_t scale = vdupq_n_f32(256.0F);
        w[2 * i] = vmulq_f32(vcvt_f32_f16(vget_low_f16(value)), scale);
        w[2 * i + 1] = vmulq_f32(vcvt_high_f32_f16(value), scale);
    }
}

/* Takes n rows of sixteen weights, `bytes` each, into the sums: n_c columns, a constant after
 * inlining. */
SHOAL_INLINE void accumulate(const uint8_t *weights, size_t bytes, load_fn *load, size_t n,
                             const float *const x[COLS_MAX], size_t n_c, sums *s)
{
    for (size_t k = 0; k < n; k++) {
        float32x4_t w[QUADS];
        load(weights + k * bytes, w);
        for (size_t j = 0; j < n_c; j++) {
            float32x4_t xk = vld1q_dup_f32(x[j] + k);
            for (size_t i = 0; i < QUADS; i++) {
                s->of[j][i] = vfmaq_f32(s->of[j][i], w[i], xk);
            }
        }
    }
}

/* One panel by n_c columns. */
SHOAL_INLINE void float_tile(const shoal_gemm *g, size_t p, size_t c, size_t element, load_fn *load,
                             size_t n_c)
{
    const float *x[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        x[j] = g->x + (c + j) * g->x_stride;
    }
    sums s;
    clear(&s, n_c);
    const uint8_t *panel = (const uint8_t *)g->panels + p * ROWS * g->k * element;
    accumulate(panel, ROWS * element, load, g->k, x, n_c, &s);
    for (size_t j = 0; j < n_c; j++) {
        neon_put(g, p, c + j, s.of[j]);
    }
}

/* The same for fp8: a tile's sum is taken alone, then scaled in. */
SHOAL_INLINE void fp8_tile(const shoal_gemm *g, size_t p, size_t c, size_t n_c)
{
    const size_t block_bytes = ROWS * (sizeof(float) + TILE);
    const uint8_t *block =
        (const uint8_t *)g->panels + p * ((g->k + TILE - 1) / TILE) * block_bytes;
    sums acc;
    clear(&acc, n_c);
    for (size_t at = 0; at < g->k; at += TILE, block += block_bytes) {
        size_t n = g->k - at < TILE ? g->k - at : TILE;
        const float *x[COLS_MAX];
        for (size_t j = 0; j < n_c; j++) {
            x[j] = g->x + (c + j) * g->x_stride + at;
        }
        sums tile;
        clear(&tile, n_c);
        accumulate(block + ROWS * sizeof(float), ROWS, load_e4m3, n, x, n_c, &tile);
        for (size_t i = 0; i < QUADS; i++) {
            float32x4_t scale = neon_load_f32(block + 16 * i);
            for (size_t j = 0; j < n_c; j++) {
                acc.of[j][i] = vfmaq_f32(acc.of[j][i], scale, tile.of[j][i]);
            }
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        neon_put(g, p, c + j, acc.of[j]);
    }
}

/* All columns of a panel before the next: memory is read once, whatever the width. */
SHOAL_INLINE void float_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t element,
                             load_fn *load)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            float_tile(g, p, c, element, load, 4);
        }
        if (c + 2 <= g->n_cols) {
            float_tile(g, p, c, element, load, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            float_tile(g, p, c, element, load, 1);
        }
    }
}

static void gemm_f32(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 4, load_f32);
}

static void gemm_f16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, load_f16);
}

static void gemm_bf16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, load_bf16);
}

static void gemm_fp8(const shoal_gemm *g, size_t p0, size_t p1)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            fp8_tile(g, p, c, 4);
        }
        if (c + 2 <= g->n_cols) {
            fp8_tile(g, p, c, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            fp8_tile(g, p, c, 1);
        }
    }
}

void shoal_kernels_neon_gemm(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_F32] = gemm_f32;
    kernels->gemm[SHOAL_PANEL_F16] = gemm_f16;
    kernels->gemm[SHOAL_PANEL_BF16] = gemm_bf16;
    kernels->gemm[SHOAL_PANEL_FP8] = gemm_fp8;
}
