/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise work and reductions with AVX-512; what is left at the end goes the same way under a
 * mask. One register is the sixteen virtual lanes of a reduction.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_sums.h"
#include "common/kernels/avx512_math.h"
#include "common/kernels/math.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    LANES = 16
};

static void quantize_q8(size_t k, const float *x, int8_t *q, shoal_act_block *blocks)
{
    const __m512 top = _mm512_set1_ps(127.0F);
    const __m512 bottom = _mm512_set1_ps(-127.0F);
    for (size_t b = 0; b < k / SHOAL_QBLOCK; b++, x += SHOAL_QBLOCK, q += SHOAL_QBLOCK) {
        __m512 v[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + LANES)};
        /* max(a, b) is a > b ? a : b: a NaN in a never wins. */
        __m512 max = _mm512_max_ps(_mm512_abs_ps(v[0]), _mm512_setzero_ps());
        max = _mm512_max_ps(_mm512_abs_ps(v[1]), max);
        float amax = avx512_max16(max);
        if (!(amax < INFINITY)) {
            memset(q, 0, SHOAL_QBLOCK);
            blocks[b] =
                (shoal_act_block){.scale = NAN, .sum = NAN, .sum_low = NAN, .sum_high = NAN};
            continue;
        }
        __m512 inv = _mm512_set1_ps(amax > 0 ? 127.0F / amax : 0.0F);
        for (size_t i = 0; i < 2; i++) {
            __m512 t = _mm512_mul_ps(v[i], inv);
            __m512i codes = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(t, top), bottom));
            _mm_storeu_si128((__m128i *)(void *)(q + LANES * i), _mm512_cvtsepi32_epi8(codes));
        }
        blocks[b].scale = amax / 127.0F;
        avx2_sum_codes(_mm256_loadu_si256((const __m256i *)(const void *)q), &blocks[b]);
    }
}

/* A lane past the end adds 0 * 0 to a sum that is not negative, which leaves it as it is. */
static void rmsnorm(size_t n, const float *x, const float *w, float eps, float *y)
{
    __m512 lanes = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        __m512 v = _mm512_maskz_loadu_ps(avx512_first(n - i), x + i);
        lanes = _mm512_fmadd_ps(v, v, lanes);
    }
    __m512 r = _mm512_set1_ps(1.0F / sqrtf(avx512_tree16(lanes) / (float)n + eps));
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), r);
        scaled = _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, w + i));
        _mm512_mask_storeu_ps(y + i, mask, scaled);
    }
}

/* Eight pairs a register: with x0, x0 and x1, x1 side by side, an even lane is
 * fma(x0, c, -(x1 * s)) and an odd one fma(x0, s, x1 * c). */
static void rope(size_t n_heads, size_t stride, size_t n_rot, const float *cos, const float *sin,
                 float *x)
{
    const __m512i interleave =
        _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512 minus_even = _mm512_castsi512_ps(
        _mm512_setr_epi32(INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0,
                          INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0));
    size_t n_pairs = n_rot / 2;
    for (size_t i = 0; i < n_pairs; i += LANES / 2) {
        size_t left = n_pairs - i < LANES / 2 ? n_pairs - i : LANES / 2;
        __mmask16 some = avx512_first(left);
        __mmask16 pairs = avx512_first(2 * left);
        __m512 c = _mm512_maskz_loadu_ps(some, cos + i);
        __m512 s = _mm512_maskz_loadu_ps(some, sin + i);
        __m512 cs = _mm512_permutex2var_ps(c, interleave, s);
        __m512 sc = _mm512_permutex2var_ps(s, interleave, c);
        for (size_t head = 0; head < n_heads; head++) {
            float *at = x + head * stride + 2 * i;
            __m512 v = _mm512_maskz_loadu_ps(pairs, at);
            __m512 x0 = _mm512_shuffle_ps(v, v, 0xA0);
            __m512 x1 = _mm512_shuffle_ps(v, v, 0xF5);
            __m512 addend = _mm512_xor_ps(_mm512_mul_ps(x1, sc), minus_even);
            _mm512_mask_storeu_ps(at, pairs, _mm512_fmadd_ps(x0, cs, addend));
        }
    }
}

/* Pairs lie half a rotation apart, so sixteen of them are two plain loads. */
static void rope_halves(size_t n_heads, size_t stride, size_t n_rot, const float *cos,
                        const float *sin, float *x)
{
    const __m512 sign = _mm512_set1_ps(-0.0F);
    size_t half = n_rot / 2;
    for (size_t i = 0; i < half; i += LANES) {
        __mmask16 mask = avx512_first(half - i);
        __m512 c = _mm512_maskz_loadu_ps(mask, cos + i);
        __m512 s = _mm512_maskz_loadu_ps(mask, sin + i);
        for (size_t head = 0; head < n_heads; head++) {
            float *low = x + head * stride + i;
            __m512 x0 = _mm512_maskz_loadu_ps(mask, low);
            __m512 x1 = _mm512_maskz_loadu_ps(mask, low + half);
            __m512 minus = _mm512_xor_ps(_mm512_mul_ps(x1, s), sign);
            _mm512_mask_storeu_ps(low, mask, _mm512_fmadd_ps(x0, c, minus));
            _mm512_mask_storeu_ps(low + half, mask, _mm512_fmadd_ps(x0, s, _mm512_mul_ps(x1, c)));
        }
    }
}

static void swiglu(size_t n, const float *gate, const float *up, float *y)
{
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 sign = _mm512_set1_ps(-0.0F);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 e = avx512_exp(_mm512_xor_ps(g, sign));
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
        silu = _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i));
        _mm512_mask_storeu_ps(y + i, mask, silu);
    }
}

static void geglu(size_t n, const float *gate, const float *up, float *y)
{
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 linear = _mm512_set1_ps(SHOAL_GELU_LINEAR);
    const __m512 cubic = _mm512_set1_ps(SHOAL_GELU_CUBIC);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 u = _mm512_mul_ps(g, _mm512_fmadd_ps(_mm512_mul_ps(g, g), cubic, linear));
        __m512 e = avx512_exp(_mm512_mul_ps(_mm512_set1_ps(-2.0F), u));
        __m512 gelu = _mm512_div_ps(g, _mm512_add_ps(one, e));
        gelu = _mm512_mul_ps(gelu, _mm512_maskz_loadu_ps(mask, up + i));
        _mm512_mask_storeu_ps(y + i, mask, gelu);
    }
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 sum = _mm512_maskz_loadu_ps(mask, y + i);
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, x + i));
        _mm512_mask_storeu_ps(y + i, mask, sum);
    }
}

static void add_scaled(size_t n, float s, const float *x, float *y)
{
    const __m512 sv = _mm512_set1_ps(s);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 sum = _mm512_maskz_loadu_ps(mask, y + i);
        sum = _mm512_fmadd_ps(sv, _mm512_maskz_loadu_ps(mask, x + i), sum);
        _mm512_mask_storeu_ps(y + i, mask, sum);
    }
}

static void softcap(size_t n, float cap, float *x)
{
    const __m512 c = _mm512_set1_ps(cap);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 t = avx512_tanh(_mm512_div_ps(_mm512_maskz_loadu_ps(mask, x + i), c));
        _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(c, t));
    }
}

/* Each lane keeps the first of its largest; among the lanes the lowest index wins a tie. */
static size_t argmax(size_t n, const float *x, float *ret_max)
{
    __m512 max = _mm512_set1_ps(-INFINITY);
    __m512i where = _mm512_setzero_si512();
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __mmask16 more = (__mmask16)(_mm512_cmp_ps_mask(v, max, _CMP_GT_OQ) & mask);
        max = _mm512_mask_mov_ps(max, more, v);
        where = _mm512_mask_mov_epi32(where, more, index);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(LANES));
    }
    float values[LANES];
    int32_t places[LANES];
    _mm512_storeu_ps(values, max);
    _mm512_storeu_si512(places, where);
    float best = -INFINITY;
    size_t at = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        bool wins = values[lane] > best ||
                    (values[lane] == best && best > -INFINITY && (size_t)places[lane] < at);
        if (wins) {
            best = values[lane];
            at = (size_t)places[lane];
        }
    }
    if (best == -INFINITY) {
        /* Nothing but negative infinity and NaN: the first that is a number, else the first. */
        for (at = 0; at < n && isnan(x[at]); at++) {
        }
        at = at < n ? at : 0;
        best = x[at];
    }
    *ret_max = best;
    return at;
}

/* A lane past the end adds 0 to a sum that is not negative. */
static float sum_exp(size_t n, const float *x, float max, float inv_t)
{
    __m512 lanes = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = avx512_first(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        v = _mm512_mul_ps(_mm512_sub_ps(v, _mm512_set1_ps(max)), _mm512_set1_ps(inv_t));
        lanes = _mm512_add_ps(lanes, _mm512_maskz_mov_ps(mask, avx512_exp(v)));
    }
    return avx512_tree16(lanes);
}

void shoal_kernels_init_avx512(shoal_kernels *kernels)
{
    shoal_kernels_avx512_gemm(kernels);
    shoal_kernels_avx512_quant(kernels);
    shoal_kernels_avx512_codes(kernels);
    shoal_kernels_avx512_attend(kernels);
    shoal_kernels_avx512_sides(kernels);
    shoal_kernels_avx512_firing(kernels);
    shoal_kernels_avx512_whole(kernels);
    kernels->tier = "avx512";
    kernels->quantize_q8 = quantize_q8;
    kernels->rmsnorm = rmsnorm;
    kernels->rope = rope;
    kernels->rope_halves = rope_halves;
    kernels->swiglu = swiglu;
    kernels->geglu = geglu;
    kernels->add = add;
    kernels->add_scaled = add_scaled;
    kernels->softcap = softcap;
    kernels->argmax = argmax;
    kernels->sum_exp = sum_exp;
}
