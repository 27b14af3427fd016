/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the NEON files: the elementary steps, lane by lane what the scalar code does. Empty on
 * other processors, so that it compiles alone everywhere.
 */
#ifndef SHOAL_KERNELS_NEON_MATH_H
#define SHOAL_KERNELS_NEON_MATH_H

#include "common/kernels/panel.h"

#if defined(__aarch64__)

#    include <arm_neon.h>
#    include <string.h>

#    define SHOAL_INLINE static inline __attribute__((always_inline))

/* shoal_expf in four lanes. */
SHOAL_INLINE float32x4_t neon_exp(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(0x1.8p+23F);
    const float32x4_t one = vdupq_n_f32(1.0F);
    float32x4_t shifted = vfmaq_f32(magic, x, vdupq_n_f32(0x1.715476p+0F));
    float32x4_t n = vsubq_f32(shifted, magic);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0x1.62e400p-1F));
    r = vfmaq_f32(r, n, vdupq_n_f32(-0x1.7f7d1cp-20F));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(0x1.123bccp-7F), r, vdupq_n_f32(0x1.6850e4p-10F));
    p = vfmaq_f32(vdupq_n_f32(0x1.555b98p-5F), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.55548ep-3F), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.fffff8p-2F), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    int32x4_t exponent = vsubq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(0x4B400000));
    int32x4_t half = vshrq_n_s32(exponent, 1);
    int32x4_t rest = vsubq_s32(exponent, half);
    const int32x4_t bias = vdupq_n_s32(127);
    float32x4_t a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    float32x4_t b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    float32x4_t y = vmulq_f32(vmulq_f32(p, a), b);
    uint32x4_t big = vcgtq_f32(x, vdupq_n_f32(0x1.62e42ep+6F));
    uint32x4_t within = vcgtq_f32(x, vdupq_n_f32(-87.3F));
    y = vbslq_f32(big, vdupq_n_f32(__builtin_inff()), y);
    y = vbslq_f32(within, y, vdupq_n_f32(0.0F));
    return vbslq_f32(vceqq_f32(x, x), y, x);
}

/* shoal_tanhf in four lanes. */
SHOAL_INLINE float32x4_t neon_tanh(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0F);
    float32x4_t a = vabsq_f32(x);
    float32x4_t e = neon_exp(vmulq_f32(vdupq_n_f32(-2.0F), a));
    float32x4_t large = vdivq_f32(vsubq_f32(one, e), vaddq_f32(one, e));
    float32x4_t z = vmulq_f32(a, a);
    float32x4_t p = vfmaq_f32(vdupq_n_f32(-0x1.0c1102p-7F), z, vdupq_n_f32(0x1.19414cp-9F));
    p = vfmaq_f32(vdupq_n_f32(0x1.639184p-6F), p, z);
    p = vfmaq_f32(vdupq_n_f32(-0x1.b9ef30p-5F), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.11106ap-3F), p, z);
    p = vfmaq_f32(vdupq_n_f32(-0x1.555554p-2F), p, z);
    float32x4_t small = vfmaq_f32(a, vmulq_f32(a, z), p);
    float32x4_t size = vbslq_f32(vcltq_f32(a, vdupq_n_f32(0.625F)), small, large);
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, size);
}

/* The tree 16 -> 8 -> 4 -> 2 -> 1 of sixteen lanes in order. */
SHOAL_INLINE float neon_tree16(const float32x4_t lanes[4])
{
    float32x4_t low = vaddq_f32(lanes[0], lanes[2]);
    float32x4_t high = vaddq_f32(lanes[1], lanes[3]);
    float32x4_t four = vaddq_f32(low, high);
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(vpadd_f32(two, two), 0);
}

SHOAL_INLINE float32x4_t neon_load_f32(const void *p)
{
    return vld1q_f32((const float *)p);
}

SHOAL_INLINE float32x4_t neon_load_f16(const void *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)p)));
}

SHOAL_INLINE float32x4_t neon_load_bf16(const void *p)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16((const uint16_t *)p)), 16));
}

/* Writes 16 outputs of panel p for column c, fewer in the last panel. */
SHOAL_INLINE void neon_put(const shoal_gemm *g, size_t p, size_t c, const float32x4_t rows[4])
{
    float *y = g->y + c * g->y_stride + p * SHOAL_PANEL_ROWS;
    if ((p + 1) * SHOAL_PANEL_ROWS <= g->n_rows) {
        for (size_t i = 0; i < 4; i++) {
            vst1q_f32(y + 4 * i, rows[i]);
        }
        return;
    }
    float rest[SHOAL_PANEL_ROWS];
    for (size_t i = 0; i < 4; i++) {
        vst1q_f32(rest + 4 * i, rows[i]);
    }
    memcpy(y, rest, (g->n_rows - p * SHOAL_PANEL_ROWS) * sizeof *y);
}

#endif

#endif
