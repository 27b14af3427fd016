/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the AVX2 products: the sixteen outputs of a panel between memory and two registers,
 * fewer in the last panel.
 */
#ifndef SHOAL_KERNELS_AVX2_PANEL_H
#define SHOAL_KERNELS_AVX2_PANEL_H

#include "common/kernels/avx2_math.h"
#include "common/kernels/panel.h"

#include <string.h>

SHOAL_INLINE void avx2_put(const shoal_gemm *g, size_t p, size_t c, __m256 low, __m256 high)
{
    float *y = g->y + c * g->y_stride + p * SHOAL_PANEL_ROWS;
    if ((p + 1) * SHOAL_PANEL_ROWS <= g->n_rows) {
        _mm256_storeu_ps(y, low);
        _mm256_storeu_ps(y + 8, high);
        return;
    }
    float rest[SHOAL_PANEL_ROWS];
    _mm256_storeu_ps(rest, low);
    _mm256_storeu_ps(rest + 8, high);
    memcpy(y, rest, (g->n_rows - p * SHOAL_PANEL_ROWS) * sizeof *y);
}

SHOAL_INLINE void avx2_get(const shoal_gemm *g, size_t p, size_t c, __m256 *ret_low,
                           __m256 *ret_high)
{
    const float *y = g->y + c * g->y_stride + p * SHOAL_PANEL_ROWS;
    float rest[SHOAL_PANEL_ROWS] = {0};
    if ((p + 1) * SHOAL_PANEL_ROWS > g->n_rows) {
        memcpy(rest, y, (g->n_rows - p * SHOAL_PANEL_ROWS) * sizeof *y);
        y = rest;
    }
    *ret_low = _mm256_loadu_ps(y);
    *ret_high = _mm256_loadu_ps(y + 8);
}

#endif
