/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of float panels with AVX2: a panel's 16 rows are two vectors of eight outputs. Several
 * panels at width 1 and several columns otherwise keep enough independent sums in flight; no sum is
 * ever split.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_math.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    COLS_MAX = 4,
    PANELS_MAX = 4,
    AHEAD = 4096 /* bytes: how far in front a lone stream of weights is fetched */
};

/* Writes 16 outputs of panel p, fewer in the last panel. */
SHOAL_INLINE void put(const shoal_gemm *g, size_t p, size_t c, __m256 low, __m256 high)
{
    float *y = g->y + c * g->y_stride + p * ROWS;
    if ((p + 1) * ROWS <= g->n_rows) {
        _mm256_storeu_ps(y, low);
        _mm256_storeu_ps(y + 8, high);
        return;
    }
    float rest[ROWS];
    _mm256_storeu_ps(rest, low);
    _mm256_storeu_ps(rest + 8, high);
    memcpy(y, rest, (g->n_rows - p * ROWS) * sizeof *y);
}

typedef __m256 load_fn(const void *p);

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 4. What the inner loop reads of
 * g is copied first: the compiler does not take it out of the loop by itself. */
SHOAL_INLINE void float_tile(const shoal_gemm *g, size_t p, size_t c, size_t element, load_fn *load,
                             size_t n_p, size_t n_c)
{
    const size_t n_k = g->k;
    const float *x[COLS_MAX];
    __m256 acc[PANELS_MAX][COLS_MAX][2];
    for (size_t j = 0; j < n_c; j++) {
        x[j] = g->x + (c + j) * g->x_stride;
        for (size_t i = 0; i < n_p; i++) {
            acc[i][j][0] = _mm256_setzero_ps();
            acc[i][j][1] = _mm256_setzero_ps();
        }
    }
    const uint8_t *panel = (const uint8_t *)g->panels + p * ROWS * n_k * element;
    for (size_t k = 0; k < n_k; k++) {
        __m256 xk[COLS_MAX];
        for (size_t j = 0; j < n_c; j++) {
            xk[j] = _mm256_broadcast_ss(x[j] + k);
        }
        for (size_t i = 0; i < n_p; i++) {
            const uint8_t *at = panel + (i * n_k + k) * ROWS * element;
            if (n_p == 1) {
                _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
            }
            __m256 low = load(at);
            __m256 high = load(at + 8 * element);
            for (size_t j = 0; j < n_c; j++) {
                acc[i][j][0] = _mm256_fmadd_ps(low, xk[j], acc[i][j][0]);
                acc[i][j][1] = _mm256_fmadd_ps(high, xk[j], acc[i][j][1]);
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            put(g, p + i, c + j, acc[i][j][0], acc[i][j][1]);
        }
    }
}

/* All columns of some panels before the next: memory is read once, whatever the width. Narrow
 * widths are bound by memory and take several panels, each a stream of its own; at width 2 the
 * converted types do better with four panels and a second pass over them from the cache than with
 * two. */
SHOAL_INLINE void float_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t element,
                             load_fn *load)
{
    size_t p = p0;
    if (g->n_cols == 2 && element == 4) {
        for (; p + 2 <= p1; p += 2) {
            float_tile(g, p, 0, element, load, 2, 2);
        }
    } else if (g->n_cols <= 2) {
        for (; p + 4 <= p1; p += 4) {
            for (size_t c = 0; c < g->n_cols; c++) {
                float_tile(g, p, c, element, load, 4, 1);
            }
        }
    }
    for (; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            float_tile(g, p, c, element, load, 1, 4);
        }
        if (c + 2 <= g->n_cols) {
            float_tile(g, p, c, element, load, 1, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            float_tile(g, p, c, element, load, 1, 1);
        }
    }
}

static void gemm_f32(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 4, avx2_load_f32);
}

static void gemm_f16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx2_load_f16);
}

static void gemm_bf16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx2_load_bf16);
}

void shoal_kernels_avx2_gemm(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_F32] = gemm_f32;
    kernels->gemm[SHOAL_PANEL_F16] = gemm_f16;
    kernels->gemm[SHOAL_PANEL_BF16] = gemm_bf16;
}
