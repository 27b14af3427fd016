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

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 16. What the inner loop reads
 * of g is copied first: the compiler does not take it out of the loop by itself. */
SHOAL_INLINE void float_tile(const shoal_gemm *g, size_t p, size_t c, size_t element, load_fn *load,
                             size_t n_p, size_t n_c)
{
    const size_t n_k = g->k;
    const float *x[COLS_MAX];
    __m512 acc[PANELS_MAX][COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        x[j] = g->x + (c + j) * g->x_stride;
        for (size_t i = 0; i < n_p; i++) {
            acc[i][j] = _mm512_setzero_ps();
        }
    }
    const uint8_t *panel = (const uint8_t *)g->panels + p * ROWS * n_k * element;
    for (size_t k = 0; k < n_k; k++) {
        __m512 w[PANELS_MAX];
        for (size_t i = 0; i < n_p; i++) {
            w[i] = load(panel + (i * n_k + k) * ROWS * element);
        }
        for (size_t j = 0; j < n_c; j++) {
            __m512 xk = _mm512_set1_ps(x[j][k]);
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

/* One column of activations: its codes, and what is known of each block of them. */
typedef struct column {
    const int8_t *q;
    const shoal_act_block *blocks;
} column;

SHOAL_INLINE int32_t block_sum(const shoal_act_block *block)
{
    return block->pairs[6] + block->pairs[7];
}

/* Adds to dot the products of one panel block's unsigned codes with block b of n_c columns. */
typedef void dots_fn(const uint8_t *codes, const column *columns, size_t b, size_t n_c,
                     __m512i dot[COLS_MAX]);

/* Turning the top bit adds 128. */
SHOAL_INLINE void dots_q8_0(const uint8_t *codes, const column *columns, size_t b, size_t n_c,
                            __m512i dot[COLS_MAX])
{
    const __m512i top = _mm512_set1_epi8(-128);
    for (size_t i = 0; i < 8; i++) {
        __m512i w = _mm512_xor_si512(_mm512_loadu_si512(codes + i * 64), top);
        for (size_t j = 0; j < n_c; j++) {
            __m512i x = broadcast4(columns[j].q + b * SHOAL_QBLOCK + 4 * i);
            dot[j] = _mm512_dpbusd_epi32(dot[j], w, x);
        }
    }
}

SHOAL_INLINE void dots_q4_0(const uint8_t *codes, const column *columns, size_t b, size_t n_c,
                            __m512i dot[COLS_MAX])
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < 4; i++) {
        __m512i both = _mm512_loadu_si512(codes + i * 64);
        __m512i first = _mm512_and_si512(both, low);
        __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        for (size_t j = 0; j < n_c; j++) {
            const int8_t *x = columns[j].q + b * SHOAL_QBLOCK + 4 * i;
            dot[j] = _mm512_dpbusd_epi32(dot[j], first, broadcast4(x));
            dot[j] = _mm512_dpbusd_epi32(dot[j], second, broadcast4(x + 16));
        }
    }
}

/* One panel by n_c columns. vpdpbusd wants one operand unsigned: the weights, moved up by an
 * offset. The sums of a block start at minus that offset times the sum of the column's codes, so
 * they end at the exact signed dots. The largest is 255 * 127 * 32 and as much again, far inside 32
 * bits. */
SHOAL_INLINE void block_tile(const shoal_gemm *g, size_t p, size_t c, size_t block_bytes,
                             int32_t offset, dots_fn *dots, size_t n_c)
{
    const size_t n_blocks = g->k / SHOAL_QBLOCK;
    const uint8_t *panel = (const uint8_t *)g->panels + p * n_blocks * block_bytes;
    column columns[COLS_MAX];
    __m512 acc[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        columns[j] = (column){g->xq + (c + j) * g->k, g->xb + (c + j) * n_blocks};
        acc[j] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = panel + b * block_bytes;
        __m512i dot[COLS_MAX];
        for (size_t j = 0; j < n_c; j++) {
            dot[j] = _mm512_set1_epi32(-offset * block_sum(&columns[j].blocks[b]));
        }
        dots(block + SCALES_BYTES, columns, b, n_c, dot);
        __m512 d = avx512_load_f16(block);
        for (size_t j = 0; j < n_c; j++) {
            __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(columns[j].blocks[b].scale));
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
    block_gemm(g, p0, p1, 544, 128, dots_q8_0);
}

static void gemm_q4_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    block_gemm(g, p0, p1, 288, 8, dots_q4_0);
}

void shoal_kernels_avx512_gemm(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_F32] = gemm_f32;
    kernels->gemm[SHOAL_PANEL_F16] = gemm_f16;
    kernels->gemm[SHOAL_PANEL_BF16] = gemm_bf16;
    kernels->gemm[SHOAL_PANEL_Q8_0] = gemm_q8_0;
    kernels->gemm[SHOAL_PANEL_Q4_0] = gemm_q4_0;
}
