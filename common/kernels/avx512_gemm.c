/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with AVX-512 and VNNI: a panel's 16 rows are one register of outputs. Several panels at
 * width 1 and several columns otherwise keep enough independent sums in flight; no sum is ever
 * split.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    COLS_MAX = 8,
    PANELS_MAX = 4,
    SCALES_BYTES = 2 * ROWS /* the f16 scales in front of a panel block */
};

/* Writes 16 outputs of panel p, fewer in the last panel. */
SHOAL_INLINE void put(const shoal_gemm *g, size_t p, size_t c, __m512 acc)
{
    float *y = g->y + c * g->y_stride + p * ROWS;
    _mm512_mask_storeu_ps(y, avx512_first(g->n_rows - p * ROWS), acc);
}

/* --- float weights --------------------------------------------------------------------------- */

typedef __m512 load_fn(const void *p);

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 16. */
SHOAL_INLINE void float_tile(const shoal_gemm *g, size_t p, size_t c, size_t element, load_fn *load,
                             size_t n_p, size_t n_c)
{
    __m512 acc[PANELS_MAX][COLS_MAX];
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            acc[i][j] = _mm512_setzero_ps();
        }
    }
    const uint8_t *panel = (const uint8_t *)g->panels + p * ROWS * g->k * element;
    const float *x = g->x + c * g->x_stride;
    for (size_t k = 0; k < g->k; k++) {
        __m512 w[PANELS_MAX];
        for (size_t i = 0; i < n_p; i++) {
            w[i] = load(panel + (i * g->k + k) * ROWS * element);
        }
        for (size_t j = 0; j < n_c; j++) {
            __m512 xk = _mm512_set1_ps(x[j * g->x_stride + k]);
            for (size_t i = 0; i < n_p; i++) {
                acc[i][j] = _mm512_fmadd_ps(w[i], xk, acc[i][j]);
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            put(g, p + i, c + j, acc[i][j]);
        }
    }
}

/* Every column of n_p panels, which the first tile brings into the cache for the others. */
SHOAL_INLINE void float_panels(const shoal_gemm *g, size_t p, size_t element, load_fn *load,
                               size_t n_p)
{
    size_t c = 0;
    for (; c + 8 <= g->n_cols; c += 8) {
        float_tile(g, p, c, element, load, n_p, 8);
    }
    if (c + 4 <= g->n_cols) {
        float_tile(g, p, c, element, load, n_p, 4);
        c += 4;
    }
    if (c + 2 <= g->n_cols) {
        float_tile(g, p, c, element, load, n_p, 2);
        c += 2;
    }
    if (c < g->n_cols) {
        float_tile(g, p, c, element, load, n_p, 1);
    }
}

SHOAL_INLINE void float_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t element,
                             load_fn *load)
{
    size_t p = p0;
    if (g->n_cols == 1) {
        for (; p + 4 <= p1; p += 4) {
            float_tile(g, p, 0, element, load, 4, 1);
        }
    }
    for (; p + 2 <= p1; p += 2) {
        float_panels(g, p, element, load, 2);
    }
    if (p < p1) {
        float_panels(g, p, element, load, 1);
    }
}

static void gemm_f32(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 4, avx512_load_f32);
}

static void gemm_f16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx512_load_f16);
}

static void gemm_bf16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx512_load_bf16);
}

/* --- quantised weights ----------------------------------------------------------------------- */

SHOAL_INLINE __m512i broadcast4(const int8_t *x)
{
    int32_t four = 0;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

/* vpdpbusd wants one operand unsigned: the weights, moved up by an offset. The sums of a block
 * start at minus that offset times the sum of the codes, so they end at the exact signed dots. The
 * largest is 255 * 127 * 32 plus as much again, far inside 32 bits. */
SHOAL_INLINE __m512i dot_start(const shoal_gemm *g, size_t at, int32_t offset)
{
    return _mm512_set1_epi32(-offset * g->xsum[at]);
}

/* Exact dots of one panel block with one block of codes of each of n_c columns. */
typedef void dots_fn(const uint8_t *block, const int8_t *x, size_t stride, size_t n_c,
                     __m512i dot[COLS_MAX]);

/* Turning the top bit adds 128. */
SHOAL_INLINE void dots_q8_0(const uint8_t *block, const int8_t *x, size_t stride, size_t n_c,
                            __m512i dot[COLS_MAX])
{
    const __m512i top = _mm512_set1_epi8(-128);
    for (size_t i = 0; i < 8; i++) {
        __m512i w = _mm512_xor_si512(_mm512_loadu_si512(block + SCALES_BYTES + i * 64), top);
        for (size_t j = 0; j < n_c; j++) {
            dot[j] = _mm512_dpbusd_epi32(dot[j], w, broadcast4(x + j * stride + 4 * i));
        }
    }
}

SHOAL_INLINE void dots_q4_0(const uint8_t *block, const int8_t *x, size_t stride, size_t n_c,
                            __m512i dot[COLS_MAX])
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < 4; i++) {
        __m512i both = _mm512_loadu_si512(block + SCALES_BYTES + i * 64);
        __m512i first = _mm512_and_si512(both, low);
        __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        for (size_t j = 0; j < n_c; j++) {
            const int8_t *codes = x + j * stride + 4 * i;
            dot[j] = _mm512_dpbusd_epi32(dot[j], first, broadcast4(codes));
            dot[j] = _mm512_dpbusd_epi32(dot[j], second, broadcast4(codes + 16));
        }
    }
}

SHOAL_INLINE void block_tile(const shoal_gemm *g, size_t p, size_t c, size_t block_bytes,
                             int32_t offset, dots_fn *dots, size_t n_c)
{
    size_t n_blocks = g->k / SHOAL_QBLOCK;
    const uint8_t *panel = (const uint8_t *)g->panels + p * n_blocks * block_bytes;
    __m512 acc[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        acc[j] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = panel + b * block_bytes;
        __m512i dot[COLS_MAX];
        for (size_t j = 0; j < n_c; j++) {
            dot[j] = dot_start(g, (c + j) * n_blocks + b, offset);
        }
        dots(block, g->xq + c * g->k + b * SHOAL_QBLOCK, g->k, n_c, dot);
        __m512 d = avx512_load_f16(block);
        for (size_t j = 0; j < n_c; j++) {
            __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(g->xs[(c + j) * n_blocks + b]));
            acc[j] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[j]), acc[j]);
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        put(g, p, c + j, acc[j]);
    }
}

/* Panels outermost: a panel comes from memory once and from the cache for further columns. */
SHOAL_INLINE void block_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t block_bytes,
                             int32_t offset, dots_fn *dots)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 8 <= g->n_cols; c += 8) {
            block_tile(g, p, c, block_bytes, offset, dots, 8);
        }
        if (c + 4 <= g->n_cols) {
            block_tile(g, p, c, block_bytes, offset, dots, 4);
            c += 4;
        }
        if (c + 2 <= g->n_cols) {
            block_tile(g, p, c, block_bytes, offset, dots, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            block_tile(g, p, c, block_bytes, offset, dots, 1);
        }
    }
}

static void gemm_q8_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    block_gemm(g, p0, p1, SHOAL_Q8_PANEL_BLOCK, 128, dots_q8_0);
}

static void gemm_q4_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    block_gemm(g, p0, p1, SHOAL_Q4_PANEL_BLOCK, 8, dots_q4_0);
}

void shoal_kernels_avx512_gemm(shoal_kernels *kernels)
{
    kernels->gemm_f32 = gemm_f32;
    kernels->gemm_f16 = gemm_f16;
    kernels->gemm_bf16 = gemm_bf16;
    kernels->gemm_q8_0 = gemm_q8_0;
    kernels->gemm_q4_0 = gemm_q4_0;
}
