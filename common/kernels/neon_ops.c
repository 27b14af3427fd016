/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise work and reductions with NEON; leftovers are done by the same steps in scalar. The
 * door of the base tier.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/math.h"
#include "common/kernels/neon_math.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    VECTORS = SHOAL_QBLOCK / 4
};

static void zero_block(int8_t *q, shoal_act_block *block)
{
    memset(q, 0, SHOAL_QBLOCK);
    *block = (shoal_act_block){.scale = NAN, .sum = NAN, .sum_low = NAN, .sum_high = NAN};
}

/* Fills all of block but its scale, which is there already. */
static void sum_codes(int8x16_t low, int8x16_t high, shoal_act_block *block)
{
    /* Neighbours by twos: even lanes are of places 0 and 1 of every four, odd ones of 2 and 3. */
    int16x8_t a = vpaddlq_s8(low);
    int16x8_t b = vpaddlq_s8(high);
    int16x8_t four = vpaddq_s16(vuzp1q_s16(a, b), vuzp2q_s16(a, b));
    int16x8_t at = vpaddq_s16(four, four); /* low even, high even, low odd, high odd */
    int16_t even[2] = {vgetq_lane_s16(at, 0), vgetq_lane_s16(at, 1)};
    int16_t odd[2] = {vgetq_lane_s16(at, 2), vgetq_lane_s16(at, 3)};
    int16_t half[2] = {(int16_t)(even[0] + odd[0]), (int16_t)(even[1] + odd[1])};
    const int16_t pairs[8] = {(int16_t)(even[0] + even[1]),
                              (int16_t)(odd[0] + odd[1]),
                              even[0],
                              odd[0],
                              even[1],
                              odd[1],
                              half[0],
                              half[1]};
    memcpy(block->pairs, pairs, sizeof pairs);
    block->sum = block->scale * (float)(half[0] + half[1]);
    block->sum_low = block->scale * (float)half[0];
    block->sum_high = block->scale * (float)half[1];
}

/* The codes of eight values. Comparisons, not min and max: a NaN must become 127. */
static int8x8_t eight_codes(float32x4_t v0, float32x4_t v1, float32x4_t inv)
{
    const float32x4_t top = vdupq_n_f32(127.0F);
    const float32x4_t bottom = vdupq_n_f32(-127.0F);
    float32x4_t t0 = vmulq_f32(v0, inv);
    float32x4_t t1 = vmulq_f32(v1, inv);
    t0 = vbslq_f32(vcltq_f32(t0, top), t0, top);
    t1 = vbslq_f32(vcltq_f32(t1, top), t1, top);
    t0 = vbslq_f32(vcgtq_f32(t0, bottom), t0, bottom);
    t1 = vbslq_f32(vcgtq_f32(t1, bottom), t1, bottom);
    int16x4_t q0 = vmovn_s32(vcvtnq_s32_f32(t0));
    int16x4_t q1 = vmovn_s32(vcvtnq_s32_f32(t1));
    return vmovn_s16(vcombine_s16(q0, q1));
}

static void quantize_q8(size_t k, const float *x, int8_t *q, shoal_act_block *blocks)
{
    for (size_t b = 0; b < k / SHOAL_QBLOCK; b++, x += SHOAL_QBLOCK, q += SHOAL_QBLOCK) {
        float32x4_t v[VECTORS];
        float32x4_t max = vdupq_n_f32(0.0F);
        for (size_t i = 0; i < VECTORS; i++) {
            v[i] = vld1q_f32(x + 4 * i);
            float32x4_t a = vabsq_f32(v[i]);
            max = vbslq_f32(vcgtq_f32(a, max), a, max);
        }
        float amax = vmaxvq_f32(max);
        if (!(amax < INFINITY)) {
            zero_block(q, &blocks[b]);
            continue;
        }
        float32x4_t inv = vdupq_n_f32(amax > 0 ? 127.0F / amax : 0.0F);
        int8x16_t low = vcombine_s8(eight_codes(v[0], v[1], inv), eight_codes(v[2], v[3], inv));
        int8x16_t high = vcombine_s8(eight_codes(v[4], v[5], inv), eight_codes(v[6], v[7], inv));
        vst1q_s8(q, low);
        vst1q_s8(q + 16, high);
        blocks[b].scale = amax / 127.0F;
        sum_codes(low, high, &blocks[b]);
    }
}

static void rmsnorm(size_t n, const float *x, const float *w, float eps, float *y)
{
    float lanes[16];
    float32x4_t v[4];
    for (size_t j = 0; j < 4; j++) {
        v[j] = vdupq_n_f32(0.0F);
    }
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 4; j++) {
            float32x4_t xj = vld1q_f32(x + i + 4 * j);
            v[j] = vfmaq_f32(v[j], xj, xj);
        }
    }
    for (size_t j = 0; j < 4; j++) {
        vst1q_f32(lanes + 4 * j, v[j]);
    }
    for (; i < n; i++) {
        lanes[i % 16] = fmaf(x[i], x[i], lanes[i % 16]);
    }
    for (size_t j = 0; j < 4; j++) {
        v[j] = vld1q_f32(lanes + 4 * j);
    }
    float r = 1.0F / sqrtf(neon_tree16(v) / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4) {
        float32x4_t scaled = vmulq_f32(vld1q_f32(x + i), vdupq_n_f32(r));
        vst1q_f32(y + i, vmulq_f32(scaled, vld1q_f32(w + i)));
    }
    for (; i < n; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

/* Four pairs at a time: the new first and second channels in place of the old. */
SHOAL_INLINE void rotate(float32x4_t *x0, float32x4_t *x1, const float *cos, const float *sin)
{
    float32x4_t c = vld1q_f32(cos);
    float32x4_t s = vld1q_f32(sin);
    float32x4_t first = vfmaq_f32(vnegq_f32(vmulq_f32(*x1, s)), *x0, c);
    *x1 = vfmaq_f32(vmulq_f32(*x1, c), *x0, s);
    *x0 = first;
}

static void rotate_one(float *x0, float *x1, float c, float s)
{
    float first = fmaf(*x0, c, -(*x1 * s));
    *x1 = fmaf(*x0, s, *x1 * c);
    *x0 = first;
}

static void rope(size_t n_heads, size_t stride, size_t n_rot, const float *cos, const float *sin,
                 float *x)
{
    size_t half = n_rot / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *pairs = x + head * stride;
        size_t i = 0;
        for (; i + 4 <= half; i += 4) {
            float32x4x2_t v = vld2q_f32(pairs + 2 * i);
            rotate(&v.val[0], &v.val[1], cos + i, sin + i);
            vst2q_f32(pairs + 2 * i, v);
        }
        for (; i < half; i++) {
            rotate_one(pairs + 2 * i, pairs + 2 * i + 1, cos[i], sin[i]);
        }
    }
}

static void rope_halves(size_t n_heads, size_t stride, size_t n_rot, const float *cos,
                        const float *sin, float *x)
{
    size_t half = n_rot / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *low = x + head * stride;
        float *high = low + half;
        size_t i = 0;
        for (; i + 4 <= half; i += 4) {
            float32x4_t x0 = vld1q_f32(low + i);
            float32x4_t x1 = vld1q_f32(high + i);
            rotate(&x0, &x1, cos + i, sin + i);
            vst1q_f32(low + i, x0);
            vst1q_f32(high + i, x1);
        }
        for (; i < half; i++) {
            rotate_one(low + i, high + i, cos[i], sin[i]);
        }
    }
}

static void swiglu(size_t n, const float *gate, const float *up, float *y)
{
    const float32x4_t one = vdupq_n_f32(1.0F);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t g = vld1q_f32(gate + i);
        float32x4_t silu = vdivq_f32(g, vaddq_f32(one, neon_exp(vnegq_f32(g))));
        vst1q_f32(y + i, vmulq_f32(silu, vld1q_f32(up + i)));
    }
    for (; i < n; i++) {
        y[i] = gate[i] / (1.0F + shoal_expf(-gate[i])) * up[i];
    }
}

static void geglu(size_t n, const float *gate, const float *up, float *y)
{
    const float32x4_t one = vdupq_n_f32(1.0F);
    const float32x4_t linear = vdupq_n_f32(SHOAL_GELU_LINEAR);
    const float32x4_t cubic = vdupq_n_f32(SHOAL_GELU_CUBIC);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t g = vld1q_f32(gate + i);
        float32x4_t u = vmulq_f32(g, vfmaq_f32(linear, vmulq_f32(g, g), cubic));
        float32x4_t e = neon_exp(vmulq_f32(vdupq_n_f32(-2.0F), u));
        vst1q_f32(y + i, vmulq_f32(vdivq_f32(g, vaddq_f32(one, e)), vld1q_f32(up + i)));
    }
    for (; i < n; i++) {
        y[i] = shoal_geluf(gate[i]) * up[i];
    }
}

static void add(size_t n, const float *x, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(y + i, vaddq_f32(vld1q_f32(y + i), vld1q_f32(x + i)));
    }
    for (; i < n; i++) {
        y[i] = y[i] + x[i];
    }
}

static void add_scaled(size_t n, float s, const float *x, float *y)
{
    const float32x4_t sv = vdupq_n_f32(s);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(y + i, vfmaq_f32(vld1q_f32(y + i), sv, vld1q_f32(x + i)));
    }
    for (; i < n; i++) {
        y[i] = fmaf(s, x[i], y[i]);
    }
}

static void softcap(size_t n, float cap, float *x)
{
    const float32x4_t c = vdupq_n_f32(cap);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(x + i, vmulq_f32(c, neon_tanh(vdivq_f32(vld1q_f32(x + i), c))));
    }
    for (; i < n; i++) {
        x[i] = cap * shoal_tanhf(x[i] / cap);
    }
}

static size_t argmax(size_t n, const float *x, float *ret_max)
{
    static const uint32_t first[4] = {0, 1, 2, 3};
    float32x4_t max = vdupq_n_f32(-INFINITY);
    uint32x4_t where = vdupq_n_u32(0);
    uint32x4_t index = vld1q_u32(first);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vld1q_f32(x + i);
        uint32x4_t more = vcgtq_f32(v, max);
        max = vbslq_f32(more, v, max);
        where = vbslq_u32(more, index, where);
        index = vaddq_u32(index, vdupq_n_u32(4));
    }
    float values[4];
    uint32_t places[4];
    vst1q_f32(values, max);
    vst1q_u32(places, where);
    float best = -INFINITY;
    size_t at = 0;
    for (size_t lane = 0; lane < 4; lane++) {
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
    const float32x4_t m = vdupq_n_f32(max);
    const float32x4_t t = vdupq_n_f32(inv_t);
    float lanes[16];
    float32x4_t v[4];
    for (size_t j = 0; j < 4; j++) {
        v[j] = vdupq_n_f32(0.0F);
    }
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 4; j++) {
            float32x4_t xj = vmulq_f32(vsubq_f32(vld1q_f32(x + i + 4 * j), m), t);
            v[j] = vaddq_f32(v[j], neon_exp(xj));
        }
    }
    for (size_t j = 0; j < 4; j++) {
        vst1q_f32(lanes + 4 * j, v[j]);
    }
    for (; i < n; i++) {
        lanes[i % 16] = lanes[i % 16] + shoal_expf((x[i] - max) * inv_t);
    }
    for (size_t j = 0; j < 4; j++) {
        v[j] = vld1q_f32(lanes + 4 * j);
    }
    return neon_tree16(v);
}

void shoal_kernels_init_neon(shoal_kernels *kernels)
{
    shoal_kernels_neon_gemm(kernels);
    shoal_kernels_neon_quant(kernels);
    shoal_kernels_neon_attend(kernels);
    shoal_kernels_neon_seal(kernels);
    shoal_kernels_neon_sides(kernels);
    shoal_kernels_neon_firing(kernels);
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
