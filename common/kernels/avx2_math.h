/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the AVX2 files: the elementary steps, lane by lane what the scalar code does.
 */
#ifndef SHOAL_KERNELS_AVX2_MATH_H
#define SHOAL_KERNELS_AVX2_MATH_H

#include <immintrin.h>

#define SHOAL_INLINE static inline __attribute__((always_inline))

/* shoal_expf in eight lanes. */
SHOAL_INLINE __m256 avx2_exp(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(0x1.8p+23F);
    __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0F), magic);
    __m256 n = _mm256_sub_ps(shifted, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.62e400p-1F), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.7f7d1cp-20F), r);
    __m256 p = _mm256_fmadd_ps(r, _mm256_set1_ps(0x1.6850e4p-10F), _mm256_set1_ps(0x1.123bccp-7F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.555b98p-5F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.55548ep-3F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.fffff8p-2F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
    __m256i exponent =
        _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4B400000));
    __m256i half = _mm256_srai_epi32(exponent, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(exponent, half);
    __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    __m256 y = _mm256_mul_ps(_mm256_mul_ps(p, a), b);
    __m256 big = _mm256_cmp_ps(x, _mm256_set1_ps(0x1.62e42ep+6F), _CMP_GT_OQ);
    __m256 low = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3F), _CMP_NGT_UQ);
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    y = _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_inff()), big);
    y = _mm256_andnot_ps(low, y);
    return _mm256_blendv_ps(y, x, nan);
}

/* shoal_tanhf in eight lanes. */
SHOAL_INLINE __m256 avx2_tanh(__m256 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    const __m256 one = _mm256_set1_ps(1.0F);
    __m256 a = _mm256_andnot_ps(sign, x);
    __m256 e = avx2_exp(_mm256_mul_ps(_mm256_set1_ps(-2.0F), a));
    __m256 large = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    __m256 z = _mm256_mul_ps(a, a);
    __m256 p = _mm256_fmadd_ps(z, _mm256_set1_ps(0x1.19414cp-9F), _mm256_set1_ps(-0x1.0c1102p-7F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.639184p-6F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-0x1.b9ef30p-5F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.11106ap-3F));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-0x1.555554p-2F));
    __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(a, z), p, a);
    __m256 near = _mm256_cmp_ps(a, _mm256_set1_ps(0.625F), _CMP_LT_OQ);
    return _mm256_or_ps(_mm256_blendv_ps(large, small, near), _mm256_and_ps(sign, x));
}

/* The tree 16 -> 8 -> 4 -> 2 -> 1 of lanes 0..7 in a, 8..15 in b. */
SHOAL_INLINE float avx2_tree16(__m256 a, __m256 b)
{
    __m256 eight = _mm256_add_ps(a, b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

SHOAL_INLINE float avx2_max8(__m256 x)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

SHOAL_INLINE __m256 avx2_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

SHOAL_INLINE __m256 avx2_load_bf16(const void *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

SHOAL_INLINE __m256 avx2_load_f32(const void *p)
{
    return _mm256_loadu_ps((const float *)p);
}

#endif
