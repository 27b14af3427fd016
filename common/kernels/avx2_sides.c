/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside a product, with AVX2: a panel's 16 rows are two vectors of eight outputs. At
 * width 1 several panels of L keep enough sums in flight, wider several columns; single elements
 * wait for their gathers, not for each other.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_panel.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    STEP = 8, /* ranks whose scales are taken together */
    COLS_MAX = 4,
    PANELS_MAX = 4
};

/* The outputs as avx2_get and avx2_put know them. */
SHOAL_INLINE shoal_gemm outputs(float *y, size_t y_stride, size_t n_rows)
{
    return (shoal_gemm){.y = y, .y_stride = y_stride, .n_rows = n_rows};
}

/* d[r] * t[r] of n ranks, at most STEP; the rest is anything. */
SHOAL_INLINE __m256 scaled(const uint8_t *d, const float *t, size_t n)
{
    uint16_t halves[STEP] = {0};
    float floats[STEP] = {0};
    if (n < STEP) {
        memcpy(halves, d, n * sizeof *halves);
        memcpy(floats, t, n * sizeof *floats);
        d = (const uint8_t *)halves;
        t = floats;
    }
    return _mm256_mul_ps(avx2_load_f16(d), _mm256_loadu_ps(t));
}

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 4. */
SHOAL_INLINE void low_tile(const shoal_low *low, size_t p, size_t c, size_t n_p, size_t n_c)
{
    const shoal_gemm g = outputs(low->y, low->y_stride, low->n_rows);
    const size_t rank = low->rank;
    const uint8_t *d = low->panels + p * shoal_low_bytes(rank);
    __m256 acc[PANELS_MAX][COLS_MAX][2];
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            avx2_get(&g, p + i, c + j, &acc[i][j][0], &acc[i][j][1]);
        }
    }
    for (size_t r0 = 0; r0 < rank; r0 += STEP) {
        size_t n = rank - r0 < STEP ? rank - r0 : STEP;
        float u[PANELS_MAX][COLS_MAX][STEP];
        for (size_t i = 0; i < n_p; i++) {
            for (size_t j = 0; j < n_c; j++) {
                const float *t = low->t + (c + j) * low->t_stride + r0;
                _mm256_storeu_ps(u[i][j], scaled(d + i * shoal_low_bytes(rank) + 2 * r0, t, n));
            }
        }
        for (size_t r = 0; r < n; r++) {
            for (size_t i = 0; i < n_p; i++) {
                const uint8_t *q =
                    d + i * shoal_low_bytes(rank) + 2 * rank + (r0 + r) * (size_t)ROWS;
                __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)q);
                __m256 a = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
                __m256 b = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)));
                for (size_t j = 0; j < n_c; j++) {
                    __m256 x = _mm256_broadcast_ss(&u[i][j][r]);
                    acc[i][j][0] = _mm256_fmadd_ps(a, x, acc[i][j][0]);
                    acc[i][j][1] = _mm256_fmadd_ps(b, x, acc[i][j][1]);
                }
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            avx2_put(&g, p + i, c + j, acc[i][j][0], acc[i][j][1]);
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
        for (; c + 4 <= low->n_cols; c += 4) {
            low_tile(low, p, c, 1, 4);
        }
        if (c + 2 <= low->n_cols) {
            low_tile(low, p, c, 1, 2);
            c += 2;
        }
        if (c < low->n_cols) {
            low_tile(low, p, c, 1, 1);
        }
    }
}

/* --- single elements ------------------------------------------------------------------------- */

/* One panel by n_c columns. */
SHOAL_INLINE void singles_tile(const shoal_singles *s, size_t p, size_t c, size_t n_c)
{
    const shoal_gemm g = outputs(s->y, s->y_stride, s->n_rows);
    const __m256i *counts = (const __m256i *)(const void *)(s->counts + p * ROWS);
    const __m256i n[2] = {_mm256_loadu_si256(counts), _mm256_loadu_si256(counts + 1)};
    __m256 acc[COLS_MAX][2];
    for (size_t j = 0; j < n_c; j++) {
        avx2_get(&g, p, c + j, &acc[j][0], &acc[j][1]);
    }
    const uint32_t first = s->begin[p];
    for (uint32_t step = first; step < s->begin[p + 1]; step++) {
        const __m256i at = _mm256_set1_epi32((int)(step - first));
        for (size_t h = 0; h < 2; h++) {
            const size_t lane = (size_t)step * ROWS + 8 * h;
            __m128i narrow = _mm_loadu_si128((const __m128i *)(const void *)(s->cols + lane));
            __m256i cols = _mm256_cvtepu16_epi32(narrow);
            __m256 values = avx2_load_f16(s->values + lane);
            __m256 there = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n[h], at));
            for (size_t j = 0; j < n_c; j++) {
                __m256 x = _mm256_i32gather_ps(s->x + (c + j) * s->x_stride, cols, 4);
                __m256 sum = _mm256_fmadd_ps(values, x, acc[j][h]);
                acc[j][h] = _mm256_blendv_ps(acc[j][h], sum, there);
            }
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        avx2_put(&g, p, c + j, acc[j][0], acc[j][1]);
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

void shoal_kernels_avx2_sides(shoal_kernels *kernels)
{
    kernels->add_low = add_low;
    kernels->add_singles = add_singles;
}
