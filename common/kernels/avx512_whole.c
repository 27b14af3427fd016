/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of whole numbers with AVX-512 VNNI: 32 tokens are two registers, and eight rows share
 * them.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"

#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    ROWS = 8 /* sixteen sums: as many as the multiplier has steps, on two ports */
};

static inline __attribute__((always_inline)) void mul_rows(size_t n_rows, size_t n_pairs,
                                                           const int16_t *w, size_t stride,
                                                           const int16_t *x, int32_t *y)
{
    __m512i a[ROWS];
    __m512i b[ROWS];
    for (size_t r = 0; r < n_rows; r++) {
        a[r] = _mm512_setzero_si512();
        b[r] = _mm512_setzero_si512();
    }
    for (size_t k = 0; k < n_pairs; k++) {
        const int16_t *p = x + k * TOKENS * 2;
        __m512i low = _mm512_loadu_si512(p);
        __m512i high = _mm512_loadu_si512(p + TOKENS);
        for (size_t r = 0; r < n_rows; r++) {
            int32_t pair = 0;
            memcpy(&pair, w + r * stride + 2 * k, sizeof pair);
            __m512i both = _mm512_set1_epi32(pair);
            a[r] = _mm512_dpwssd_epi32(a[r], both, low);
            b[r] = _mm512_dpwssd_epi32(b[r], both, high);
        }
    }
    for (size_t r = 0; r < n_rows; r++) {
        _mm512_storeu_si512(y + r * TOKENS, a[r]);
        _mm512_storeu_si512(y + r * TOKENS + TOKENS / 2, b[r]);
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

void shoal_kernels_avx512_whole(shoal_kernels *kernels)
{
    kernels->mul_whole = mul_whole;
}
