/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealing KV blocks and opening them with NEON: the range of a row as integers in the order of the
 * numbers, its scale by the scalar rule, then its codes sixteen at a time.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/neon_kv_codes.h"
#include "common/tensor/type.h"

enum {
    GROUP = SHOAL_KV_GROUP
};

/* --- ranges ---------------------------------------------------------------------------------- */

/* Between halves and integers in the order of the numbers, both ways. */
SHOAL_INLINE int16x8_t order8(uint16x8_t x)
{
    int16x8_t bits = vreinterpretq_s16_u16(x);
    return veorq_s16(bits, vandq_s16(vshrq_n_s16(bits, 15), vdupq_n_s16(0x7FFF)));
}

static uint16_t half_of_order(int16_t order)
{
    return (uint16_t)(order < 0 ? order ^ 0x7FFF : order);
}

static void range_row(size_t n, const uint16_t *x, int16_t *ret_lo, int16_t *ret_hi)
{
    uint16_t few[8];
    if (n < 8) { /* elements again where there are no more */
        for (size_t i = 0; i < 8; i++) {
            few[i] = x[i < n ? i : 0];
        }
        x = few;
        n = 8;
    }
    int16x8_t lo = order8(vld1q_u16(x));
    int16x8_t hi = lo;
    for (size_t at = 8; at < n; at += 8) {
        size_t from = at + 8 <= n ? at : n - 8; /* the last eight, some for the second time */
        int16x8_t order = order8(vld1q_u16(x + from));
        lo = vminq_s16(lo, order);
        hi = vmaxq_s16(hi, order);
    }
    *ret_lo = vminvq_s16(lo);
    *ret_hi = vmaxvq_s16(hi);
}

/* --- codes ----------------------------------------------------------------------------------- */

/* Sixteen elements to codes in bytes. */
SHOAL_INLINE uint8x16_t codes16(const uint16_t *x, float min, float inv, float steps)
{
    uint16x4_t narrow[4];
    for (size_t i = 0; i < 4; i++) {
        float32x4_t t = vsubq_f32(neon_load_f16(x + 4 * i), vdupq_n_f32(min));
        t = vminq_f32(vmulq_f32(t, vdupq_n_f32(inv)), vdupq_n_f32(steps));
        narrow[i] = vmovn_u32(vcvtnq_u32_f32(t));
    }
    return vcombine_u8(vmovn_u16(vcombine_u16(narrow[0], narrow[1])),
                       vmovn_u16(vcombine_u16(narrow[2], narrow[3])));
}

SHOAL_INLINE void pack(shoal_kv_level level, uint8x16_t a, uint8x16_t b, uint8_t *group)
{
    static const uint8_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    if (level == SHOAL_KV_LEVEL_Q8) {
        vst1q_u8(group, a);
        vst1q_u8(group + 16, b);
    } else if (level == SHOAL_KV_LEVEL_Q4) {
        vst1q_u8(group, vorrq_u8(a, vshlq_n_u8(b, 4)));
    } else {
        uint8x16_t two = vandq_u8(a, vdupq_n_u8(3));
        two = vorrq_u8(two, vshlq_n_u8(vandq_u8(b, vdupq_n_u8(3)), 4));
        vst1_u8(group, vorr_u8(vget_low_u8(two), vshl_n_u8(vget_high_u8(two), 2)));
        uint8x8_t bits = vld1_u8(bit);
        uint8x16_t all = vcombine_u8(bits, bits);
        uint8x16_t four = vdupq_n_u8(4);
        a = vandq_u8(vtstq_u8(a, four), all);
        b = vandq_u8(vtstq_u8(b, four), all);
        group[8] = vaddv_u8(vget_low_u8(a));
        group[9] = vaddv_u8(vget_high_u8(a));
        group[10] = vaddv_u8(vget_low_u8(b));
        group[11] = vaddv_u8(vget_high_u8(b));
    }
}

SHOAL_INLINE void code_row(shoal_kv_level level, size_t n, const uint16_t *x, uint16_t min_half,
                           float inv, uint8_t *codes)
{
    const float steps = (float)((1U << shoal_kv_level_bits(level)) - 1);
    const float min = shoal_f16_to_f32(min_half);
    for (size_t at = 0; at < n; at += GROUP) {
        uint16_t rest[GROUP];
        const uint16_t *from = x + at;
        if (n - at < GROUP) { /* minima past the end give codes of 0 */
            for (size_t i = 0; i < GROUP; i++) {
                rest[i] = at + i < n ? from[i] : min_half;
            }
            from = rest;
        }
        pack(level, codes16(from, min, inv, steps), codes16(from + 16, min, inv, steps), codes);
        codes += shoal_kv_group_bytes(level);
    }
}

/* --- blocks ---------------------------------------------------------------------------------- */

SHOAL_INLINE void seal(shoal_kv_level level, size_t n_rows, size_t n, const uint16_t *x,
                       uint8_t *block)
{
    const float steps = (float)((1U << shoal_kv_level_bits(level)) - 1);
    uint16_t *scales = (uint16_t *)(void *)block;
    size_t head = shoal_kv_head_bytes(n_rows);
    size_t row = shoal_kv_row_bytes(level, n);
    memset(block + 4 * n_rows, 0, head - 4 * n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        int16_t lo = 0;
        int16_t hi = 0;
        uint8_t *codes = block + head + i * row;
        range_row(n, x + i * n, &lo, &hi);
        if (lo < -0x7C00 || hi > 0x7BFF) {
            scales[i] = SHOAL_KV_F16_NAN;
            scales[n_rows + i] = SHOAL_KV_F16_NAN;
            memset(codes, 0, row);
            continue;
        }
        uint16_t min_half = half_of_order(lo);
        float width = shoal_f16_to_f32(half_of_order(hi)) - shoal_f16_to_f32(min_half);
        scales[i] = shoal_f32_to_f16(width / steps);
        scales[n_rows + i] = min_half;
        float scale = shoal_f16_to_f32(scales[i]);
        code_row(level, n, x + i * n, min_half, scale > 0 ? 1.0F / scale : 0, codes);
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

typedef void codes_fn(const uint8_t *group, size_t half, float32x4_t ret[4]);

SHOAL_INLINE void open_row(codes_fn *load, size_t n, float scale, float min, const uint8_t *codes,
                           size_t group, uint16_t *x)
{
    for (size_t at = 0; at < n; at += 16) {
        float32x4_t c[4];
        uint16_t halves[16];
        uint16_t *to = n - at < 16 ? halves : x + at;
        load(codes + at / GROUP * group, at / 16 % 2, c);
        for (size_t i = 0; i < 4; i++) {
            float32x4_t value = vfmaq_f32(vdupq_n_f32(min), vdupq_n_f32(scale), c[i]);
            value = vminq_f32(value, vdupq_n_f32(65504)); /* NaN stays */
            vst1_u16(to + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(value)));
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
        open_row(load, n, shoal_f16_to_f32(scales[i]), shoal_f16_to_f32(scales[n_rows + i]),
                 codes + i * row, shoal_kv_group_bytes(level), x + i * n);
    }
}

static void kv_unseal(shoal_kv_level level, size_t n_rows, size_t n, const void *block, uint16_t *x)
{
    switch (level) {
    case SHOAL_KV_LEVEL_Q8:
        unseal(SHOAL_KV_LEVEL_Q8, neon_kv_codes_q8, n_rows, n, block, x);
        break;
    case SHOAL_KV_LEVEL_Q4:
        unseal(SHOAL_KV_LEVEL_Q4, neon_kv_codes_q4, n_rows, n, block, x);
        break;
    case SHOAL_KV_LEVEL_Q3:
        unseal(SHOAL_KV_LEVEL_Q3, neon_kv_codes_q3, n_rows, n, block, x);
        break;
    }
}

void shoal_kernels_neon_seal(shoal_kernels *kernels)
{
    kernels->kv_seal = kv_seal;
    kernels->kv_unseal = kv_unseal;
}
