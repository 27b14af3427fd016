/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the AVX2 files: half a group of codes of a sealed KV block (kv_block.h) as floats in
 * two registers. Reads the group's bytes and no others.
 */
#ifndef SHOAL_KERNELS_AVX2_CODES_H
#define SHOAL_KERNELS_AVX2_CODES_H

#include "common/kernels/avx2_math.h"
#include "common/kernels/kv_block.h"

#include <string.h>

SHOAL_INLINE __m256 avx2_floats(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

/* Codes 16 * half to 16 * half + 15. */
SHOAL_INLINE void avx2_codes_q8(const uint8_t *group, size_t half, __m256 ret[2])
{
    ret[0] = avx2_floats(_mm_loadl_epi64((const __m128i *)(const void *)(group + 16 * half)));
    ret[1] = avx2_floats(_mm_loadl_epi64((const __m128i *)(const void *)(group + 16 * half + 8)));
}

SHOAL_INLINE void avx2_codes_q4(const uint8_t *group, size_t half, __m256 ret[2])
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)group);
    bytes = half ? _mm_srli_epi16(bytes, 4) : bytes;
    bytes = _mm_and_si128(bytes, _mm_set1_epi8(15));
    ret[0] = avx2_floats(bytes);
    ret[1] = avx2_floats(_mm_srli_si128(bytes, 8));
}

SHOAL_INLINE void avx2_codes_q3(const uint8_t *group, size_t half, __m256 ret[2])
{
    int32_t third = 0;
    memcpy(&third, group + 8, sizeof third);
    __m256i low = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)group));
    /* The third bits of the half's sixteen codes come first, and go from bit i to bit 2. */
    __m256i high = _mm256_set1_epi32((int32_t)((uint32_t)third >> (16 * half)));
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int i = 0; i < 2; i++) {
        __m256i bits = _mm256_srlv_epi32(high, _mm256_add_epi32(lanes, _mm256_set1_epi32(8 * i)));
        bits = _mm256_and_si256(_mm256_slli_epi32(bits, 2), _mm256_set1_epi32(4));
        __m256i codes = _mm256_srl_epi32(low, _mm_cvtsi32_si128((int)(4 * half) + 2 * i));
        codes = _mm256_and_si256(codes, _mm256_set1_epi32(3));
        ret[i] = _mm256_cvtepi32_ps(_mm256_or_si256(codes, bits));
    }
}

#endif
