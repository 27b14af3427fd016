/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealing KV blocks and opening them with AVX2. Three passes over a block, which is in the first
 * cache: the range of every row, as integers in the order of the numbers; scales and minima, eight
 * rows at a time; the codes.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_codes.h"

#include <stdalign.h>
#include <string.h>

enum {
    GROUP = SHOAL_KV_GROUP,
    ROWS_MAX = SHOAL_HEAD_DIM_MAX,
    NEAREST = _MM_FROUND_TO_NEAREST_INT
};

/* What the passes tell each other of every row. */
typedef struct range {
    alignas(32) int16_t lo[ROWS_MAX + 8]; /* in order: the bits of a half, negatives turned over */
    alignas(32) int16_t hi[ROWS_MAX + 8];
    alignas(32) float min[ROWS_MAX + 8];
    alignas(32) float inv[ROWS_MAX + 8]; /* 0: all codes are 0 */
    alignas(32) uint16_t scale_half[ROWS_MAX + 8];
    alignas(32) uint16_t min_half[ROWS_MAX + 8];
} range;

/* --- ranges ---------------------------------------------------------------------------------- */

/* Between halves and integers in the order of the numbers, both ways. */
SHOAL_INLINE __m256i order16(__m256i x)
{
    __m256i turn = _mm256_and_si256(_mm256_srai_epi16(x, 15), _mm256_set1_epi16(0x7FFF));
    return _mm256_xor_si256(x, turn);
}

SHOAL_INLINE __m128i order8(__m128i x)
{
    return _mm_xor_si128(x, _mm_and_si128(_mm_srai_epi16(x, 15), _mm_set1_epi16(0x7FFF)));
}

SHOAL_INLINE void range_row(size_t n, const uint16_t *x, int16_t *ret_lo, int16_t *ret_hi)
{
    uint16_t few[16];
    if (n < 16) { /* elements again where there are no more */
        for (size_t i = 0; i < 16; i++) {
            few[i] = x[i < n ? i : 0];
        }
        x = few;
        n = 16;
    }
    __m256i lo = order16(_mm256_loadu_si256((const __m256i *)(const void *)x));
    __m256i hi = lo;
    for (size_t at = 16; at < n; at += 16) {
        size_t from = at + 16 <= n ? at : n - 16; /* the last sixteen, some for the second time */
        __m256i order = order16(_mm256_loadu_si256((const __m256i *)(const void *)(x + from)));
        lo = _mm256_min_epi16(lo, order);
        hi = _mm256_max_epi16(hi, order);
    }
    /* minpos finds the least of eight unsigned. */
    __m128i lo8 = _mm_min_epi16(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1));
    __m128i hi8 = _mm_max_epi16(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1));
    lo8 = _mm_minpos_epu16(_mm_xor_si128(lo8, _mm_set1_epi16(INT16_MIN)));
    hi8 = _mm_minpos_epu16(_mm_xor_si128(hi8, _mm_set1_epi16(0x7FFF)));
    *ret_lo = (int16_t)(_mm_cvtsi128_si32(lo8) ^ 0x8000);
    *ret_hi = (int16_t)(_mm_cvtsi128_si32(hi8) ^ 0x7FFF);
}

/* --- scales ---------------------------------------------------------------------------------- */

SHOAL_INLINE void scale_rows(size_t n_rows, float steps, range *r)
{
    const __m128i nan = _mm_set1_epi16(SHOAL_KV_F16_NAN);
    for (size_t i = 0; i < n_rows; i += 8) {
        __m128i lo = _mm_load_si128((const __m128i *)(const void *)(r->lo + i));
        __m128i hi = _mm_load_si128((const __m128i *)(const void *)(r->hi + i));
        __m128i bad = _mm_or_si128(_mm_cmplt_epi16(lo, _mm_set1_epi16(-0x7C00)),
                                   _mm_cmpgt_epi16(hi, _mm_set1_epi16(0x7BFF)));
        __m128i min_half = order8(lo);
        __m256 min = _mm256_cvtph_ps(min_half);
        __m256 width = _mm256_sub_ps(_mm256_cvtph_ps(order8(hi)), min);
        __m128i scale_half = _mm256_cvtps_ph(_mm256_div_ps(width, _mm256_set1_ps(steps)), NEAREST);
        scale_half = _mm_blendv_epi8(scale_half, nan, bad);
        __m256 scale = _mm256_cvtph_ps(scale_half);
        __m256 some = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
        __m256 inv = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1), scale), some);
        _mm256_store_ps(r->min + i, min);
        _mm256_store_ps(r->inv + i, inv);
        _mm_store_si128((__m128i *)(void *)(r->scale_half + i), scale_half);
        _mm_store_si128((__m128i *)(void *)(r->min_half + i), _mm_blendv_epi8(min_half, nan, bad));
    }
}

/* --- codes ----------------------------------------------------------------------------------- */

SHOAL_INLINE __m256i codes8(const uint16_t *x, __m256 min, __m256 inv, float steps)
{
    __m256 t = _mm256_mul_ps(_mm256_sub_ps(avx2_load_f16(x), min), inv);
    return _mm256_cvtps_epi32(_mm256_min_ps(t, _mm256_set1_ps(steps)));
}

/* Sixteen lanes of 32 bits, in order, to bytes. */
SHOAL_INLINE __m128i bytes16(__m256i a, __m256i b)
{
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

SHOAL_INLINE void pack(shoal_kv_level level, const __m256i c[4], uint8_t *group)
{
    if (level == SHOAL_KV_LEVEL_Q8) {
        _mm_storeu_si128((__m128i *)(void *)group, bytes16(c[0], c[1]));
        _mm_storeu_si128((__m128i *)(void *)(group + 16), bytes16(c[2], c[3]));
    } else if (level == SHOAL_KV_LEVEL_Q4) {
        __m256i low = _mm256_or_si256(c[0], _mm256_slli_epi32(c[2], 4));
        __m256i high = _mm256_or_si256(c[1], _mm256_slli_epi32(c[3], 4));
        _mm_storeu_si128((__m128i *)(void *)group, bytes16(low, high));
    } else {
        __m256i low = _mm256_setzero_si256();
        uint32_t third = 0;
        for (int i = 0; i < 4; i++) {
            __m256i two = _mm256_and_si256(c[i], _mm256_set1_epi32(3));
            low = _mm256_or_si256(low, _mm256_sll_epi32(two, _mm_cvtsi32_si128(2 * i)));
            __m256 sign = _mm256_castsi256_ps(_mm256_slli_epi32(c[i], 29));
            third |= (uint32_t)_mm256_movemask_ps(sign) << (8 * i);
        }
        _mm_storel_epi64((__m128i *)(void *)group, bytes16(low, low));
        memcpy(group + 8, &third, sizeof third);
    }
}

SHOAL_INLINE void code_row(shoal_kv_level level, size_t n, const uint16_t *x, const range *r,
                           size_t row, uint8_t *codes)
{
    const float steps = (float)((1U << shoal_kv_level_bits(level)) - 1);
    if (r->inv[row] == 0) {
        memset(codes, 0, shoal_kv_row_bytes(level, n));
        return;
    }
    __m256 min = _mm256_broadcast_ss(&r->min[row]);
    __m256 inv = _mm256_broadcast_ss(&r->inv[row]);
    for (size_t at = 0; at < n; at += GROUP) {
        uint16_t rest[GROUP];
        const uint16_t *from = x + at;
        if (n - at < GROUP) { /* minima past the end give codes of 0 */
            for (size_t i = 0; i < GROUP; i++) {
                rest[i] = at + i < n ? from[i] : r->min_half[row];
            }
            from = rest;
        }
        __m256i c[4];
        for (size_t i = 0; i < 4; i++) {
            c[i] = codes8(from + 8 * i, min, inv, steps);
        }
        pack(level, c, codes);
        codes += shoal_kv_group_bytes(level);
    }
}

/* --- blocks ---------------------------------------------------------------------------------- */

SHOAL_INLINE void seal(shoal_kv_level level, size_t n_rows, size_t n, const uint16_t *x,
                       uint8_t *block)
{
    range r;
    size_t head = shoal_kv_head_bytes(n_rows);
    size_t row = shoal_kv_row_bytes(level, n);
    for (size_t i = 0; i < n_rows; i++) {
        range_row(n, x + i * n, &r.lo[i], &r.hi[i]);
    }
    for (size_t i = n_rows; i % 8 != 0; i++) {
        r.lo[i] = 0;
        r.hi[i] = 0;
    }
    scale_rows(n_rows, (float)((1U << shoal_kv_level_bits(level)) - 1), &r);
    memcpy(block, r.scale_half, 2 * n_rows);
    memcpy(block + 2 * n_rows, r.min_half, 2 * n_rows);
    memset(block + 4 * n_rows, 0, head - 4 * n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        code_row(level, n, x + i * n, &r, i, block + head + i * row);
    }
    memset(block + head + n_rows * row, 0,
           shoal_kv_sealed_bytes(level, n_rows, n) - head - n_rows * row);
}

static void kv_seal(shoal_kv_level level, size_t n_rows, size_t n, const uint16_t *x, void *block)
{
    switch (level) {
    case SHOAL_KV_LEVEL_Q8:
        seal(SHOAL_KV_LEVEL_Q8, n_rows, n, x, block);
        break;
    case SHOAL_KV_LEVEL_Q4:
        seal(SHOAL_KV_LEVEL_Q4, n_rows, n, x, block);
        break;
    case SHOAL_KV_LEVEL_Q3:
        seal(SHOAL_KV_LEVEL_Q3, n_rows, n, x, block);
        break;
    }
}

typedef void codes_fn(const uint8_t *group, size_t half, __m256 ret[2]);

SHOAL_INLINE void open_row(codes_fn *load, size_t n, float scale, float min, const uint8_t *codes,
                           size_t group, uint16_t *x)
{
    for (size_t at = 0; at < n; at += 16) {
        __m256 c[2];
        load(codes + at / GROUP * group, at / 16 % 2, c);
        alignas(16) uint16_t halves[16];
        uint16_t *to = n - at < 16 ? halves : x + at;
        for (size_t i = 0; i < 2; i++) {
            c[i] = _mm256_fmadd_ps(_mm256_set1_ps(scale), c[i], _mm256_set1_ps(min));
            c[i] = _mm256_min_ps(_mm256_set1_ps(65504), c[i]); /* NaN stays */
            _mm_storeu_si128((__m128i *)(void *)(to + 8 * i), _mm256_cvtps_ph(c[i], NEAREST));
        }
        if (to == halves) {
            memcpy(x + at, halves, (n - at) * sizeof *x);
        }
    }
}

SHOAL_INLINE void unseal(shoal_kv_level level, codes_fn *load, size_t n_rows, size_t n,
                         const uint8_t *block, uint16_t *x)
{
    const uint16_t *scales = (const uint16_t *)(const void *)block;
    const uint8_t *codes = block + shoal_kv_head_bytes(n_rows);
    size_t row = shoal_kv_row_bytes(level, n);
    for (size_t i = 0; i < n_rows; i++) {
        open_row(load, n, _cvtsh_ss(scales[i]), _cvtsh_ss(scales[n_rows + i]), codes + i * row,
                 shoal_kv_group_bytes(level), x + i * n);
    }
}

static void kv_unseal(shoal_kv_level level, size_t n_rows, size_t n, const void *block, uint16_t *x)
{
    switch (level) {
    case SHOAL_KV_LEVEL_Q8:
        unseal(SHOAL_KV_LEVEL_Q8, avx2_codes_q8, n_rows, n, block, x);
        break;
    case SHOAL_KV_LEVEL_Q4:
        unseal(SHOAL_KV_LEVEL_Q4, avx2_codes_q4, n_rows, n, block, x);
        break;
    case SHOAL_KV_LEVEL_Q3:
        unseal(SHOAL_KV_LEVEL_Q3, avx2_codes_q3, n_rows, n, block, x);
        break;
    }
}

void shoal_kernels_avx2_seal(shoal_kernels *kernels)
{
    kernels->kv_seal = kv_seal;
    kernels->kv_unseal = kv_unseal;
}
