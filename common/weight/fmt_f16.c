/* SPDX-License-Identifier: Apache-2.0
 *
 * F16 and BF16: a panel is [k][16] halves, widened exactly by the product.
 */
#include "common/weight/format.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS
};

static void pack_row(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)
{
    for (size_t i = 0; i < k; i++) {
        memcpy(panel + (i * ROWS + r) * 2, blocks + i * 2, 2);
    }
}

static void restore_row(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)
{
    for (size_t i = 0; i < k; i++) {
        memcpy(ret_blocks + i * 2, panel + (i * ROWS + r) * 2, 2);
    }
}

static void unpack_f16(const uint8_t *panel, size_t k, size_t r, float *ret_row)
{
    for (size_t i = 0; i < k; i++) {
        ret_row[i] = shoal_f16_to_f32(shoal_format_u16(panel + (i * ROWS + r) * 2));
    }
}

static void unpack_bf16(const uint8_t *panel, size_t k, size_t r, float *ret_row)
{
    for (size_t i = 0; i < k; i++) {
        ret_row[i] = shoal_bf16_to_f32(shoal_format_u16(panel + (i * ROWS + r) * 2));
    }
}

static void encode_f16(const float *x, size_t n, uint8_t *ret_blocks)
{
    for (size_t i = 0; i < n; i++) {
        shoal_format_put_u16(ret_blocks + 2 * i, shoal_f32_to_f16(x[i]));
    }
}

static void encode_bf16(const float *x, size_t n, uint8_t *ret_blocks)
{
    for (size_t i = 0; i < n; i++) {
        shoal_format_put_u16(ret_blocks + 2 * i, shoal_f32_to_bf16(x[i]));
    }
}

static void decode_f16(const uint8_t *blocks, size_t n, float *ret_x)
{
    for (size_t i = 0; i < n; i++) {
        ret_x[i] = shoal_f16_to_f32(shoal_format_u16(blocks + 2 * i));
    }
}

static void decode_bf16(const uint8_t *blocks, size_t n, float *ret_x)
{
    for (size_t i = 0; i < n; i++) {
        ret_x[i] = shoal_bf16_to_f32(shoal_format_u16(blocks + 2 * i));
    }
}

static bool finite_f16(const uint8_t *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!shoal_format_half_finite(shoal_format_u16(blocks + 2 * i))) {
            return false;
        }
    }
    return true;
}

static bool finite_bf16(const uint8_t *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((shoal_format_u16(blocks + 2 * i) & 0x7F80u) == 0x7F80u) {
            return false;
        }
    }
    return true;
}

const shoal_format shoal_format_f16 = {
    .type = SHOAL_TYPE_F16,
    .pack_row = pack_row,
    .restore_row = restore_row,
    .unpack_row = unpack_f16,
    .encode = encode_f16,
    .decode = decode_f16,
    .finite = finite_f16,
    .panel = SHOAL_PANEL_F16,
};

const shoal_format shoal_format_bf16 = {
    .type = SHOAL_TYPE_BF16,
    .pack_row = pack_row,
    .restore_row = restore_row,
    .unpack_row = unpack_bf16,
    .encode = encode_bf16,
    .decode = decode_bf16,
    .finite = finite_bf16,
    .panel = SHOAL_PANEL_BF16,
};
