/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise work and reductions with AVX2; leftovers are done by the same steps in scalar.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_math.h"
#include "common/kernels/math.h"
#include "common/kernels/avx2_sums.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static void zero_block(int8_t *q, shoal_act_block *block)
{
    memset(q, 0, SHOAL_QBLOCK);
    *block = (shoal_act_block){.scale = NAN, .sum = NAN, .sum_low = NAN, .sum_high = NAN};
}

static void quantize_q8(size_t k, const float *x, int8_t *q, shoal_act_block *blocks)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    const __m256 top = _mm256_set1_ps(127.0F);
    const __m256 bottom = _mm256_set1_ps(-127.0F);
    for (size_t b = 0; b < k / SHOAL_QBLOCK; b++, x += SHOAL_QBLOCK, q += SHOAL_QBLOCK) {
        __m256 v[4];
        __m256 max = _mm256_setzero_ps();
        for (size_t i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            max = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), max);
        }
        float amax = avx2_max8(max);
        if (!(amax < INFINITY)) {
            zero_block(q, &blocks[b]);
            continue;
        }
        __m256 inv = _mm256_set1_ps(amax > 0 ? 127.0F / amax : 0.0F);
        __m256i codes[4];
        for (size_t i = 0; i < 4; i++) {
            __m256 t = _mm256_mul_ps(v[i], inv);
            t = _mm256_max_ps(_mm256_min_ps(t, top), bottom);
            codes[i] = _mm256_cvtps_epi32(t);
        }
        /* The packs interleave 128-bit halves; the permutation puts the bytes back in order. */
        __m256i low = _mm256_packs_epi32(codes[0], codes[1]);
        __m256i high = _mm256_packs_epi32(codes[2], codes[3]);
        __m256i bytes = _mm256_packs_epi16(low, high);
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)q, bytes);
        blocks[b].scale = amax / 127.0F;
        avx2_sum_codes(bytes, &blocks[b]);
    }
}

static void rmsnorm(size_t n, const float *x, const float *w, float eps, float *y)
{
    float lanes[16];
    __m256 a = _mm256_setzero_ps();
    __m256 b = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 x0 = _mm256_loadu_ps(x + i);
        __m256 x1 = _mm256_loadu_ps(x + i + 8);
        a = _mm256_fmadd_ps(x0, x0, a);
        b = _mm256_fmadd_ps(x1, x1, b);
    }
    _mm256_storeu_ps(lanes, a);
    _mm256_storeu_ps(lanes + 8, b);
    for (; i < n; i++) {
        lanes[i % 16] = fmaf(x[i], x[i], lanes[i % 16]);
    }
    float r =
        1.0F /
        sqrtf(avx2_tree16(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + 8)) / (float)n + eps);
    __m256 rv = _mm256_set1_ps(r);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), rv);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(w + i)));
    }
    for (; i < n; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

/* Pairs lie half a rotation apart, so eight of them are two plain loads. */
static void rope_halves(size_t n_heads, size_t stride, size_t n_rot, const float *cos,
                        const float *sin, float *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    size_t half = n_rot / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *low = x + head * stride;
        float *high = low + half;
        size_t i = 0;
        for (; i + 8 <= half; i += 8) {
            __m256 c = _mm256_loadu_ps(cos + i);
            __m256 s = _mm256_loadu_ps(sin + i);
            __m256 x0 = _mm256_loadu_ps(low + i);
            __m256 x1 = _mm256_loadu_ps(high + i);
            __m256 minus = _mm256_xor_ps(_mm256_mul_ps(x1, s), sign);
            _mm256_storeu_ps(low + i, _mm256_fmadd_ps(x0, c, minus));
            _mm256_storeu_ps(high + i, _mm256_fmadd_ps(x0, s, _mm256_mul_ps(x1, c)));
        }
        for (; i < half; i++) {
            float x0 = low[i];
            float x1 = high[i];
            low[i] = fmaf(x0, cos[i], -(x1 * sin[i]));
            high[i] = fmaf(x0, sin[i], x1 * cos[i]);
        }
    }
}

/* a - b is a + (-b) to the bit: the three spans within a register add what a shuffle brings. */
static __m256 hadamard_8(__m256 v)
{
    const __m256 one = _mm256_setr_ps(0, -0.0F, 0, -0.0F, 0, -0.0F, 0, -0.0F);
    const __m256 two = _mm256_setr_ps(0, 0, -0.0F, -0.0F, 0, 0, -0.0F, -0.0F);
    const __m256 four = _mm256_setr_ps(0, 0, 0, 0, -0.0F, -0.0F, -0.0F, -0.0F);
    v = _mm256_add_ps(_mm256_permute_ps(v, _MM_SHUFFLE(2, 3, 0, 1)), _mm256_xor_ps(v, one));
    v = _mm256_add_ps(_mm256_permute_ps(v, _MM_SHUFFLE(1, 0, 3, 2)), _mm256_xor_ps(v, two));
    return _mm256_add_ps(_mm256_permute2f128_ps(v, v, 1), _mm256_xor_ps(v, four));
}

/* The spans within 64 channels, in eight registers; then times s. */
static void hadamard_64(float s, float *x)
{
    __m256 v[8];
    for (size_t i = 0; i < 8; i++) {
        v[i] = hadamard_8(_mm256_loadu_ps(x + 8 * i));
    }
    for (size_t span = 1; span < 8; span *= 2) {
        for (size_t i = 0; i < 8; i++) {
            if ((i & span) == 0) {
                __m256 a = v[i];
                v[i] = _mm256_add_ps(a, v[i + span]);
                v[i + span] = _mm256_sub_ps(a, v[i + span]);
            }
        }
    }
    for (size_t i = 0; i < 8; i++) {
        _mm256_storeu_ps(x + 8 * i, _mm256_mul_ps(v[i], _mm256_set1_ps(s)));
    }
}

/* One span: pairs of runs, [from, from + span) with the span behind it. */
static void hadamard_span(size_t n, size_t span, float *x)
{
    for (size_t from = 0; from < n; from += 2 * span) {
        float *low = x + from;
        float *high = low + span;
        size_t i = 0;
        for (; i + 8 <= span; i += 8) {
            __m256 a = _mm256_loadu_ps(low + i);
            __m256 b = _mm256_loadu_ps(high + i);
            _mm256_storeu_ps(low + i, _mm256_add_ps(a, b));
            _mm256_storeu_ps(high + i, _mm256_sub_ps(a, b));
        }
        for (; i < span; i++) {
            float a = low[i];
            float b = high[i];
            low[i] = a + b;
            high[i] = a - b;
        }
    }
}

/* The spans that registers hold, then the others, then the factor. */
static void hadamard_head(size_t n, float s, float *x)
{
    size_t i = 0;
    for (; i + 8 <= n && n < 64; i += 8) {
        _mm256_storeu_ps(x + i, hadamard_8(_mm256_loadu_ps(x + i)));
    }
    for (; i + 64 <= n; i += 64) {
        hadamard_64(1, x + i); /* a product with 1 is what it was */
    }
    for (size_t span = n >= 64 ? 64 : i > 0 ? 8 : 1; span < n; span *= 2) {
        hadamard_span(n, span, x);
    }
    for (i = 0; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(s)));
    }
    for (; i < n; i++) {
        x[i] = x[i] * s;
    }
}

static void hadamard(size_t n_heads, size_t n, float *x)
{
    const float s = 1.0F / sqrtf((float)n);
    for (float *end = x + n_heads * n; x < end; x += n) {
        if (n == 64) {
            hadamard_64(s, x);
        } else {
            hadamard_head(n, s, x);
        }
    }
}

static void swiglu(size_t n, const float *gate, const float *up, float *y)
{
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 sign = _mm256_set1_ps(-0.0F);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i);
        __m256 e = avx2_exp(_mm256_xor_ps(g, sign));
        __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, e));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
    }
    for (; i < n; i++) {
        y[i] = gate[i] / (1.0F + shoal_expf(-gate[i])) * up[i];
    }
}

static void geglu(size_t n, const float *gate, const float *up, float *y)
{
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 linear = _mm256_set1_ps(SHOAL_GELU_LINEAR);
    const __m256 cubic = _mm256_set1_ps(SHOAL_GELU_CUBIC);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i);
        __m256 u = _mm256_mul_ps(g, _mm256_fmadd_ps(_mm256_mul_ps(g, g), cubic, linear));
        __m256 e = avx2_exp(_mm256_mul_ps(_mm256_set1_ps(-2.0F), u));
        __m256 gelu = _mm256_div_ps(g, _mm256_add_ps(one, e));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(gelu, _mm256_loadu_ps(up + i)));
    }
    for (; i < n; i++) {
        y[i] = shoal_geluf(gate[i]) * up[i];
    }
}

static void add(size_t n, const float *x, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    }
    for (; i < n; i++) {
        y[i] = y[i] + x[i];
    }
}

static void add_scaled(size_t n, float s, const float *x, float *y)
{
    const __m256 sv = _mm256_set1_ps(s);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 sum = _mm256_fmadd_ps(sv, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i));
        _mm256_storeu_ps(y + i, sum);
    }
    for (; i < n; i++) {
        y[i] = fmaf(s, x[i], y[i]);
    }
}

static void softcap(size_t n, float cap, float *x)
{
    const __m256 c = _mm256_set1_ps(cap);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 t = avx2_tanh(_mm256_div_ps(_mm256_loadu_ps(x + i), c));
        _mm256_storeu_ps(x + i, _mm256_mul_ps(c, t));
    }
    for (; i < n; i++) {
        x[i] = cap * shoal_tanhf(x[i] / cap);
    }
}

static size_t argmax(size_t n, const float *x, float *ret_max)
{
    __m256 max = _mm256_set1_ps(-INFINITY);
    __m256i where = _mm256_setzero_si256();
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        __m256 more = _mm256_cmp_ps(v, max, _CMP_GT_OQ);
        max = _mm256_blendv_ps(max, v, more);
        where = _mm256_blendv_epi8(where, index, _mm256_castps_si256(more));
        index = _mm256_add_epi32(index, _mm256_set1_epi32(8));
    }
    float values[8];
    int32_t places[8];
    _mm256_storeu_ps(values, max);
    _mm256_storeu_si256((__m256i *)(void *)places, where);
    float best = -INFINITY;
    size_t at = 0;
    for (size_t lane = 0; lane < 8; lane++) {
        bool wins = values[lane] > best ||
                    (values[lane] == best && best > -INFINITY && (size_t)places[lane] < at);
        if (wins) {
            best = values[lane];
            at = (size_t)places[lane];
        }
    }
    for (; i < n; i++) {
        if (x[i] > best) {
            best = x[i];
            at = i;
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

static float sum_exp(size_t n, const float *x, float max, float inv_t)
{
    __m256 a = _mm256_setzero_ps();
    __m256 b = _mm256_setzero_ps();
    __m256 m = _mm256_set1_ps(max);
    __m256 t = _mm256_set1_ps(inv_t);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 x0 = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), m), t);
        __m256 x1 = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), m), t);
        a = _mm256_add_ps(a, avx2_exp(x0));
        b = _mm256_add_ps(b, avx2_exp(x1));
    }
    float lanes[16];
    _mm256_storeu_ps(lanes, a);
    _mm256_storeu_ps(lanes + 8, b);
    for (; i < n; i++) {
        lanes[i % 16] = lanes[i % 16] + shoal_expf((x[i] - max) * inv_t);
    }
    return avx2_tree16(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + 8));
}

void shoal_kernels_init_avx2(shoal_kernels *kernels)
{
    shoal_kernels_avx2_gemm(kernels);
    shoal_kernels_avx2_quant_32(kernels);
    shoal_kernels_avx2_quant_k(kernels);
    shoal_kernels_avx2_codes(kernels);
    shoal_kernels_avx2_attend(kernels);
    shoal_kernels_avx2_kv(kernels);
    shoal_kernels_avx2_seal(kernels);
    shoal_kernels_avx2_sides(kernels);
    shoal_kernels_avx2_firing(kernels);
    shoal_kernels_avx2_whole(kernels);
    kernels->tier = "avx2";
    kernels->quantize_q8 = quantize_q8;
    kernels->rmsnorm = rmsnorm;
    kernels->rope_halves = rope_halves;
    kernels->hadamard = hadamard;
    kernels->swiglu = swiglu;
    kernels->geglu = geglu;
    kernels->add = add;
    kernels->add_scaled = add_scaled;
    kernels->softcap = softcap;
    kernels->argmax = argmax;
    kernels->sum_exp = sum_exp;
}
