/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside a product, with AVX-512: a panel's 16 rows are one register of outputs. At
 * width 1 several panels of L keep enough sums in flight, wider several columns; single elements
 * wait for their gathers, not for each other.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    STEP = 16, /* ranks whose scales are taken together */
    COLS_MAX = 8,
    PANELS_MAX = 4
};

/* d[r] * t[r] of n ranks, at most STEP; the rest is 0. */
SHOAL_INLINE __m512 scaled(const uint8_t *d, const float *t, size_t n)
{
    const __mmask16 mask = avx512_first(n);
    __m512 wide = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, d));
    return _mm512_mul_ps(wide, _mm512_maskz_loadu_ps(mask, t));
}

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 8. */
SHOAL_INLINE void low_tile(const shoal_low *low, size_t p, size_t c, size_t n_p, size_t n_c)
{
    const size_t rank = low->rank;
    const uint8_t *d = low->panels + p * shoal_low_bytes(rank);
    float *y = low->y + c * low->y_stride + p * ROWS;
    __m512 acc[PANELS_MAX][COLS_MAX];
    for (size_t i = 0; i < n_p; i++) {
        const __mmask16 rows = avx512_first(low->n_rows - (p + i) * ROWS);
        for (size_t j = 0; j < n_c; j++) {
            acc[i][j] = _mm512_maskz_loadu_ps(rows, y + j * low->y_stride + i * ROWS);
        }
    }
    for (size_t r0 = 0; r0 < rank; r0 += STEP) {
        size_t n = rank - r0 < STEP ? rank - r0 : STEP;
        float u[PANELS_MAX][COLS_MAX][STEP];
        for (size_t i = 0; i < n_p; i++) {
            for (size_t j = 0; j < n_c; j++) {
                const float *t = low->t + (c + j) * low->t_stride + r0;
                _mm512_storeu_ps(u[i][j], scaled(d + i * shoal_low_bytes(rank) + 2 * r0, t, n));
            }
        }
        for (size_t r = 0; r < n; r++) {
            for (size_t i = 0; i < n_p; i++) {
                const uint8_t *q =
                    d + i * shoal_low_bytes(rank) + 2 * rank + (r0 + r) * (size_t)ROWS;
                __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)q);
                __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
                for (size_t j = 0; j < n_c; j++) {
                    acc[i][j] = _mm512_fmadd_ps(w, _mm512_set1_ps(u[i][j][r]), acc[i][j]);
                }
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        const __mmask16 rows = avx512_first(low->n_rows - (p + i) * ROWS);
        for (size_t j = 0; j < n_c; j++) {
            _mm512_mask_storeu_ps(y + j * low->y_stride + i * ROWS, rows, acc[i][j]);
        }
    }
}

static void add_low(const shoal_low *low, size_t p0, size_t p1)
{
    size_t p = p0;
    for (; low->n_cols == 1 && p + 4 <= p1; p += 4) {
        low_tile(low, p, 0, 4, 1);
    }
    for (; p < p1; p++) {
        size_t c = 0;
        for (; c + 8 <= low->n_cols; c += 8) {
            low_tile(low, p, c, 1, 8);
        }
        for (; c + 4 <= low->n_cols; c += 4) {
            low_tile(low, p, c, 1, 4);
        }
        for (; c < low->n_cols; c++) {
            low_tile(low, p, c, 1, 1);
        }
    }
}

/* --- single elements ------------------------------------------------------------------------- */

/* One panel by n_c columns. */
SHOAL_INLINE void singles_tile(const shoal_singles *s, size_t p, size_t c, size_t n_c)
{
    const __mmask16 rows = avx512_first(s->n_rows - p * ROWS);
    const __m512i n = _mm512_loadu_si512(s->counts + p * ROWS);
    float *y = s->y + c * s->y_stride + p * ROWS;
    __m512 acc[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        acc[j] = _mm512_maskz_loadu_ps(rows, y + j * s->y_stride);
    }
    const uint32_t first = s->begin[p];
    for (uint32_t step = first; step < s->begin[p + 1]; step++) {
        const size_t lane = (size_t)step * ROWS;
        const __mmask16 there = _mm512_cmpgt_epi32_mask(n, _mm512_set1_epi32((int)(step - first)));
        __m256i narrow = _mm256_loadu_si256((const __m256i *)(const void *)(s->cols + lane));
        __m512i cols = _mm512_cvtepu16_epi32(narrow);
        narrow = _mm256_loadu_si256((const __m256i *)(const void *)(s->values + lane));
        __m512 values = _mm512_cvtph_ps(narrow);
        for (size_t j = 0; j < n_c; j++) {
            __m512 x = _mm512_i32gather_ps(cols, s->x + (c + j) * s->x_stride, 4);
            acc[j] = _mm512_mask_mov_ps(acc[j], there, _mm512_fmadd_ps(values, x, acc[j]));
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        _mm512_mask_storeu_ps(y + j * s->y_stride, rows, acc[j]);
    }
}

static void add_singles(const shoal_singles *s, size_t p0, size_t p1)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= s->n_cols; c += 4) {
            singles_tile(s, p, c, 4);
        }
        for (; c < s->n_cols; c++) {
            singles_tile(s, p, c, 1);
        }
    }
}

void shoal_kernels_avx512_sides(shoal_kernels *kernels)
{
    kernels->add_low = add_low;
    kernels->add_singles = add_singles;
}
