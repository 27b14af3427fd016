/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the NEON files: half a group of codes of a sealed KV block (kv_block.h) as floats in
 * four registers. Reads the group's bytes and no others. Empty on other processors, so that it
 * compiles alone everywhere.
 */
#ifndef SHOAL_KERNELS_NEON_KV_CODES_H
#define SHOAL_KERNELS_NEON_KV_CODES_H

#include "common/kernels/kv_block.h"
#include "common/kernels/neon_math.h"

#if defined(__aarch64__)

SHOAL_INLINE void neon_kv_floats(uint8x16_t codes, float32x4_t ret[4])
{
    uint16x8_t low = vmovl_u8(vget_low_u8(codes));
    uint16x8_t high = vmovl_high_u8(codes);
    ret[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    ret[1] = vcvtq_f32_u32(vmovl_high_u16(low));
    ret[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    ret[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}

/* Codes 16 * half to 16 * half + 15. */
SHOAL_INLINE void neon_kv_codes_q8(const uint8_t *group, size_t half, float32x4_t ret[4])
{
    neon_kv_floats(vld1q_u8(group + 16 * half), ret);
}

SHOAL_INLINE void neon_kv_codes_q4(const uint8_t *group, size_t half, float32x4_t ret[4])
{
    uint8x16_t bytes = vld1q_u8(group);
    neon_kv_floats(half ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15)), ret);
}

SHOAL_INLINE void neon_kv_codes_q3(const uint8_t *group, size_t half, float32x4_t ret[4])
{
    static const uint8_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const int8_t shift = (int8_t)(-4 * (int8_t)half);
    uint8x8_t low = vld1_u8(group);
    uint8x8_t first = vshl_u8(low, vdup_n_s8(shift));
    uint8x8_t second = vshl_u8(low, vdup_n_s8((int8_t)(shift - 2)));
    uint8x16_t codes = vandq_u8(vcombine_u8(first, second), vdupq_n_u8(3));
    uint8x16_t third = vcombine_u8(vdup_n_u8(group[8 + 2 * half]), vdup_n_u8(group[9 + 2 * half]));
    third = vtstq_u8(third, vcombine_u8(vld1_u8(bit), vld1_u8(bit)));
    codes = vorrq_u8(codes, vandq_u8(third, vdupq_n_u8(4)));
    neon_kv_floats(codes, ret);
}

#endif

#endif
