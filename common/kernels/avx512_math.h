/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the AVX-512 files: the elementary steps, lane by lane what the scalar code does. One
 * register is sixteen lanes: a panel's rows, half a block's tokens, or the lanes of a reduction.
 * Where the tests build these files for processors without AVX-512, SHOAL_SIMD_EMULATED is the
 * header that offers the same intrinsics on portable code.
 */
#ifndef SHOAL_KERNELS_AVX512_MATH_H
#define SHOAL_KERNELS_AVX512_MATH_H

#ifdef SHOAL_SIMD_EMULATED
#    include SHOAL_SIMD_EMULATED
#else
#    include <immintrin.h>
#endif

#include <stddef.h>
#include <stdint.h>

#define SHOAL_INLINE static inline __attribute__((always_inline))

/* The lowest n lanes; all sixteen for 16 and more. */
SHOAL_INLINE __mmask16 avx512_first(size_t n)
{
    return (__mmask16)(n >= 16 ? 0xFFFFU : (1U << n) - 1U);
}

/* shoal_expf in sixteen lanes. */
SHOAL_INLINE __m512 avx512_exp(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(0x1.8p+23F);
    __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p+0F), magic);
    __m512 n = _mm512_sub_ps(shifted, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.62e400p-1F), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.7f7d1cp-20F), r);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0x1.6850e4p-10F), _mm512_set1_ps(0x1.123bccp-7F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555b98p-5F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.55548ep-3F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fffff8p-2F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
    __m512i exponent =
        _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4B400000));
    __m512i half = _mm512_srai_epi32(exponent, 1);
    __m512i bias = _mm512_set1_epi32(127);
    __m512i rest = _mm512_sub_epi32(exponent, half);
    __m512 a = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
    __m512 b = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23));
    __m512 y = _mm512_mul_ps(_mm512_mul_ps(p, a), b);
    __mmask16 big = _mm512_cmp_ps_mask(x, _mm512_set1_ps(0x1.62e42ep+6F), _CMP_GT_OQ);
    __mmask16 high = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3F), _CMP_GT_OQ);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    y = _mm512_mask_mov_ps(y, big, _mm512_set1_ps(__builtin_inff()));
    y = _mm512_maskz_mov_ps(high, y);
    return _mm512_mask_mov_ps(y, nan, x);
}

/* shoal_tanhf in sixteen lanes. */
SHOAL_INLINE __m512 avx512_tanh(__m512 x)
{
    const __m512 sign = _mm512_set1_ps(-0.0F);
    const __m512 one = _mm512_set1_ps(1.0F);
    __m512 a = _mm512_andnot_ps(sign, x);
    __m512 e = avx512_exp(_mm512_mul_ps(_mm512_set1_ps(-2.0F), a));
    __m512 large = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    __m512 z = _mm512_mul_ps(a, a);
    __m512 p = _mm512_fmadd_ps(z, _mm512_set1_ps(0x1.19414cp-9F), _mm512_set1_ps(-0x1.0c1102p-7F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.639184p-6F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-0x1.b9ef30p-5F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.11106ap-3F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-0x1.555554p-2F));
    __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(a, z), p, a);
    __mmask16 near = _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.625F), _CMP_LT_OQ);
    return _mm512_or_ps(_mm512_mask_mov_ps(large, near, small), _mm512_and_ps(sign, x));
}

/* The tree 16 -> 8 -> 4 -> 2 -> 1. */
SHOAL_INLINE float avx512_tree16(__m512 x)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* The maximum of lanes that hold no NaN. */
SHOAL_INLINE float avx512_max16(__m512 x)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* Sixteen elements, widened exactly. */
SHOAL_INLINE __m512 avx512_load_f32(const void *p)
{
    return _mm512_loadu_ps(p);
}

SHOAL_INLINE __m512 avx512_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

SHOAL_INLINE __m512 avx512_load_bf16(const void *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* The elements of the mask, zero in the other lanes, which are not read. */
SHOAL_INLINE __m512 avx512_load_some_f32(const void *p, __mmask16 mask)
{
    return _mm512_maskz_loadu_ps(mask, p);
}

SHOAL_INLINE __m512 avx512_load_some_f16(const void *p, __mmask16 mask)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
}

#endif
