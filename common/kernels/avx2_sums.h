/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the x86 tiers: the sums of 32 codes that a shoal_act_block carries, with no more than
 * AVX2.
 */
#ifndef SHOAL_KERNELS_AVX2_SUMS_H
#define SHOAL_KERNELS_AVX2_SUMS_H

#include "common/kernels/panel.h"

#ifdef SHOAL_SIMD_EMULATED
#    include SHOAL_SIMD_EMULATED
#else
#    include <immintrin.h>
#endif

/* Fills all of block but its scale, which is there already. */
static inline __attribute__((always_inline)) void avx2_sum_codes(__m256i codes,
                                                                 shoal_act_block *block)
{
    /* Pairs of neighbours: 32-bit units of (places 0, 1 | places 2, 3), first half in the low lane.
     */
    __m256i t = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    t = _mm256_add_epi16(t, _mm256_shuffle_epi32(t, 0x4E));
    t = _mm256_add_epi16(t, _mm256_shuffle_epi32(t, 0xB1));
    __m128i low = _mm256_castsi256_si128(t);
    __m128i high = _mm256_extracti128_si256(t, 1);
    __m128i both = _mm_unpacklo_epi32(low, high);
    __m128i halves = _mm_madd_epi16(both, _mm_set1_epi16(1));
    __m128i pairs = _mm_unpacklo_epi32(_mm_add_epi16(low, high), low);
    __m128i rest = _mm_unpacklo_epi32(high, _mm_packs_epi32(halves, halves));
    _mm_storeu_si128((__m128i *)(void *)block->pairs, _mm_unpacklo_epi64(pairs, rest));
    int32_t sum_low = _mm_cvtsi128_si32(halves);
    int32_t sum_high = _mm_cvtsi128_si32(_mm_shuffle_epi32(halves, 0x55));
    block->sum = block->scale * (float)(sum_low + sum_high);
    block->sum_low = block->scale * (float)sum_low;
    block->sum_high = block->scale * (float)sum_high;
}

#endif
