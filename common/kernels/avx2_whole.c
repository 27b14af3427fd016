/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of whole numbers with AVX2: 32 tokens are four registers, and three rows share them.
 */
#include "common/kernels/tiers_internal.h"

#include <immintrin.h>
#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    PARTS = 4,
    ROWS = 3 /* twelve sums and four registers of tokens are all that there are */
};

static inline __attribute__((always_inline)) void mul_rows(size_t n_rows, size_t n_pairs,
                                                           const int16_t *w, size_t stride,
                                                           const int16_t *x, int32_t *y)
{
    __m256i sums[ROWS][PARTS];
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < PARTS; i++) {
            sums[r][i] = _mm256_setzero_si256();
        }
    }
    for (size_t k = 0; k < n_pairs; k++) {
        const __m256i *p = (const __m256i *)(const void *)(x + k * TOKENS * 2);
        for (size_t r = 0; r < n_rows; r++) {
            int32_t pair = 0;
            memcpy(&pair, w + r * stride + 2 * k, sizeof pair);
            __m256i both = _mm256_set1_epi32(pair);
            for (size_t i = 0; i < PARTS; i++) {
                __m256i more = _mm256_madd_epi16(both, _mm256_load_si256(p + i));
                sums[r][i] = _mm256_add_epi32(sums[r][i], more);
            }
        }
    }
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < PARTS; i++) {
            _mm256_storeu_si256((__m256i *)(void *)(y + r * TOKENS) + i, sums[r][i]);
        }
    }
}

static void mul_whole(size_t n_rows, size_t n_pairs, const int16_t *w, size_t stride,
                      const int16_t *x, int32_t *y)
{
    size_t r = 0;
    for (; r + ROWS <= n_rows; r += ROWS) {
        mul_rows(ROWS, n_pairs, w + r * stride, stride, x, y + r * TOKENS);
    }
    for (; r < n_rows; r++) {
        mul_rows(1, n_pairs, w + r * stride, stride, x, y + r * TOKENS);
    }
}

void shoal_kernels_avx2_whole(shoal_kernels *kernels)
{
    kernels->mul_whole = mul_whole;
}
