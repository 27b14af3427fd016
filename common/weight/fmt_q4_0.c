/* SPDX-License-Identifier: Apache-2.0
 *
 * Q4_0: blocks of 32 elements, an f16 scale and 16 bytes; byte j holds element j in its low nibble
 * and element j + 16 in its high one; value = d * (nibble - 8). The panel block keeps that pairing
 * and puts groups of four bytes of all 16 rows side by side (kernels.h).
 */
#include "common/weight/format.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_QBLOCK,
    BLOCK = 18,
    PANEL_BLOCK = 288
};

/* Where byte j (elements j and j + 16) of row r lies in a panel block. */
static size_t place(size_t j, size_t r)
{
    return 2 * ROWS + (j / 4 * ROWS + r) * 4 + j % 4;
}

static void pack_row(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)
{
    for (size_t b = 0; b < k / N; b++) {
        const uint8_t *from = blocks + b * BLOCK;
        uint8_t *to = panel + b * PANEL_BLOCK;
        memcpy(to + 2 * r, from, 2);
        for (size_t j = 0; j < N / 2; j += 4) {
            memcpy(to + place(j, r), from + 2 + j, 4);
        }
    }
}

static void restore_row(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)
{
    for (size_t b = 0; b < k / N; b++) {
        const uint8_t *from = panel + b * PANEL_BLOCK;
        uint8_t *to = ret_blocks + b * BLOCK;
        memcpy(to, from + 2 * r, 2);
        for (size_t j = 0; j < N / 2; j += 4) {
            memcpy(to + 2 + j, from + place(j, r), 4);
        }
    }
}

static float value_of(uint8_t byte, bool high, float d)
{
    return d * (float)((high ? byte >> 4 : byte & 15) - 8);
}

static void unpack_row(const uint8_t *panel, size_t k, size_t r, float *ret_row)
{
    for (size_t i = 0; i < k; i++) {
        const uint8_t *block = panel + i / N * PANEL_BLOCK;
        float d = shoal_f16_to_f32(shoal_format_u16(block + 2 * r));
        ret_row[i] = value_of(block[place(i % (N / 2), r)], i % N >= N / 2, d);
    }
}

/* The reference rounding: the scale makes the element of largest magnitude exactly -8. */
static void encode(const float *x, size_t n, uint8_t *ret_blocks)
{
    for (size_t b = 0; b < n / N; b++, x += N, ret_blocks += BLOCK) {
        float amax = 0;
        float extreme = 0;
        for (size_t i = 0; i < N; i++) {
            if (fabsf(x[i]) > amax) {
                amax = fabsf(x[i]);
                extreme = x[i];
            }
        }
        float d = extreme / -8.0F;
        float inv = d != 0 ? 1.0F / d : 0.0F;
        shoal_format_put_u16(ret_blocks, shoal_f32_to_f16(d));
        for (size_t j = 0; j < N / 2; j++) {
            uint32_t low = (uint32_t)fminf(15.0F, fmaxf(0.0F, x[j] * inv + 8.5F));
            uint32_t high = (uint32_t)fminf(15.0F, fmaxf(0.0F, x[j + N / 2] * inv + 8.5F));
            ret_blocks[2 + j] = (uint8_t)(low | high << 4);
        }
    }
}

static void decode(const uint8_t *blocks, size_t n, float *ret_x)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *block = blocks + i / N * BLOCK;
        float d = shoal_f16_to_f32(shoal_format_u16(block));
        ret_x[i] = value_of(block[2 + i % (N / 2)], i % N >= N / 2, d);
    }
}

static bool finite_all(const uint8_t *blocks, size_t n)
{
    for (size_t b = 0; b < n / N; b++) {
        if (!shoal_format_half_finite(shoal_format_u16(blocks + b * BLOCK))) {
            return false;
        }
    }
    return true;
}

const shoal_format shoal_format_q4_0 = {
    .type = SHOAL_TYPE_Q4_0,
    .pack_row = pack_row,
    .restore_row = restore_row,
    .unpack_row = unpack_row,
    .encode = encode,
    .decode = decode,
    .finite = finite_all,
    .panel = SHOAL_PANEL_Q4_0,
};
