/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of sealed KV blocks, in plain C: kv_block.h in code.
 */
#include "common/kernels/kernels.h"

#include "common/kernels/tiers_internal.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    GROUP = SHOAL_KV_GROUP
};

/* The order of the numbers as an order of integers, -0 below +0; infinities and NaN are outside
 * [-0x7C00, 0x7BFF]. */
static int32_t order_of(uint16_t half)
{
    int32_t magnitude = half & 0x7FFF;
    return half & 0x8000 ? -1 - magnitude : magnitude;
}

static uint16_t half_of_order(int32_t order)
{
    return (uint16_t)(order < 0 ? 0x8000 | (-1 - order) : order);
}

/* Adding and taking away 1.5 * 2^23 leaves the nearest integer, ties to even, for |t| < 2^22. */
static float nearest(float t)
{
    return (t + 0x1.8p+23F) - 0x1.8p+23F;
}

/* One group of codes, into its bytes. */
static void pack(shoal_kv_level level, const uint8_t c[GROUP], uint8_t *bytes)
{
    if (level == SHOAL_KV_LEVEL_Q8) {
        memcpy(bytes, c, GROUP);
    } else if (level == SHOAL_KV_LEVEL_Q4) {
        for (size_t j = 0; j < GROUP / 2; j++) {
            bytes[j] = (uint8_t)(c[j] | c[j + 16] << 4);
        }
    } else {
        uint32_t high = 0;
        for (size_t j = 0; j < GROUP; j++) {
            high |= (uint32_t)(c[j] >> 2) << j;
        }
        for (size_t j = 0; j < 8; j++) {
            bytes[j] = (uint8_t)((c[j] & 3) | (c[j + 8] & 3) << 2 | (c[j + 16] & 3) << 4 |
                                 (c[j + 24] & 3) << 6);
            bytes[8 + j / 2] = (uint8_t)(high >> (j / 2 * 8));
        }
    }
}

static void seal_row(shoal_kv_level level, size_t n, const uint16_t *x, uint16_t *ret_scale,
                     uint16_t *ret_min, uint8_t *codes)
{
    int32_t lo = order_of(x[0]);
    int32_t hi = lo;
    for (size_t i = 1; i < n; i++) {
        int32_t order = order_of(x[i]);
        lo = order < lo ? order : lo;
        hi = order > hi ? order : hi;
    }
    if (lo < -0x7C00 || hi > 0x7BFF) {
        *ret_scale = SHOAL_KV_F16_NAN;
        *ret_min = SHOAL_KV_F16_NAN;
        memset(codes, 0, shoal_kv_row_bytes(level, n));
        return;
    }
    float steps = (float)((1U << shoal_kv_level_bits(level)) - 1);
    float min = shoal_f16_to_f32(half_of_order(lo));
    *ret_min = half_of_order(lo);
    *ret_scale = shoal_f32_to_f16((shoal_f16_to_f32(half_of_order(hi)) - min) / steps);
    float scale = shoal_f16_to_f32(*ret_scale);
    float inv = scale > 0 ? 1.0F / scale : 0;
    for (size_t at = 0; at < n; at += GROUP) {
        uint8_t c[GROUP] = {0};
        for (size_t j = 0; j < GROUP && at + j < n; j++) {
            float t = (shoal_f16_to_f32(x[at + j]) - min) * inv;
            c[j] = (uint8_t)nearest(t < steps ? t : steps);
        }
        pack(level, c, codes);
        codes += shoal_kv_group_bytes(level);
    }
}

static void kv_seal(shoal_kv_level level, size_t n_rows, size_t n, const uint16_t *x, void *block)
{
    size_t head = shoal_kv_head_bytes(n_rows);
    size_t row = shoal_kv_row_bytes(level, n);
    uint16_t *scales = block;
    uint8_t *codes = (uint8_t *)block + head;
    memset(scales + 2 * n_rows, 0, head - 4 * n_rows);
    memset(codes + n_rows * row, 0, shoal_kv_sealed_bytes(level, n_rows, n) - head - n_rows * row);
    for (size_t r = 0; r < n_rows; r++) {
        seal_row(level, n, x + r * n, &scales[r], &scales[n_rows + r], codes + r * row);
    }
}

static void kv_unseal(shoal_kv_level level, size_t n_rows, size_t n, const void *block, uint16_t *x)
{
    const uint16_t *scales = block;
    const uint8_t *codes = (const uint8_t *)block + shoal_kv_head_bytes(n_rows);
    size_t row = shoal_kv_row_bytes(level, n);
    for (size_t r = 0; r < n_rows; r++) {
        float scale = shoal_f16_to_f32(scales[r]);
        float min = shoal_f16_to_f32(scales[n_rows + r]);
        for (size_t i = 0; i < n; i++) {
            const uint8_t *group = codes + r * row + i / GROUP * shoal_kv_group_bytes(level);
            float code = (float)shoal_kv_code(level, group, i % GROUP);
            float value = fmaf(scale, code, min);
            x[r * n + i] = shoal_f32_to_f16(value > 65504.0F ? 65504.0F : value);
        }
    }
}

void shoal_kernels_scalar_seal(shoal_kernels *kernels)
{
    kernels->kv_seal = kv_seal;
    kernels->kv_unseal = kv_unseal;
}
