/* SPDX-License-Identifier: Apache-2.0
 *
 * Q8_0: blocks of 32 elements, an f16 scale and 32 signed bytes; value = d * q. The panel block is
 * 16 scales, then groups of four elements of all 16 rows (kernels.h).
 */
#include "common/weight/format.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_QBLOCK,
    BLOCK = 34,
    PANEL_BLOCK = 544
};

/* Where element i of row r lies in a panel block. */
static size_t place(size_t i, size_t r)
{
    return 2 * ROWS + (i / 4 * ROWS + r) * 4 + i % 4;
}

static void pack_row(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)
{
    for (size_t b = 0; b < k / N; b++) {
        const uint8_t *from = blocks + b * BLOCK;
        uint8_t *to = panel + b * PANEL_BLOCK;
        memcpy(to + 2 * r, from, 2);
        for (size_t i = 0; i < N; i += 4) {
            memcpy(to + place(i, r), from + 2 + i, 4);
        }
    }
}

static void restore_row(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)
{
    for (size_t b = 0; b < k / N; b++) {
        const uint8_t *from = panel + b * PANEL_BLOCK;
        uint8_t *to = ret_blocks + b * BLOCK;
        memcpy(to, from + 2 * r, 2);
        for (size_t i = 0; i < N; i += 4) {
            memcpy(to + 2 + i, from + place(i, r), 4);
        }
    }
}

static void unpack_row(const uint8_t *panel, size_t k, size_t r, float *ret_row)
{
    for (size_t i = 0; i < k; i++) {
        const uint8_t *block = panel + i / N * PANEL_BLOCK;
        float d = shoal_f16_to_f32(shoal_format_u16(block + 2 * r));
        ret_row[i] = d * (float)(int8_t)block[place(i % N, r)];
    }
}

static void encode(const float *x, size_t n, uint8_t *ret_blocks)
{
    for (size_t b = 0; b < n / N; b++, x += N, ret_blocks += BLOCK) {
        float amax = 0;
        for (size_t i = 0; i < N; i++) {
            amax = fmaxf(amax, fabsf(x[i]));
        }
        float d = amax / 127.0F;
        float inv = d > 0 ? 1.0F / d : 0.0F;
        shoal_format_put_u16(ret_blocks, shoal_f32_to_f16(d));
        for (size_t i = 0; i < N; i++) {
            float q = roundf(x[i] * inv);
            ret_blocks[2 + i] = (uint8_t)(int8_t)fminf(127.0F, fmaxf(-127.0F, q));
        }
    }
}

static void decode(const uint8_t *blocks, size_t n, float *ret_x)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *block = blocks + i / N * BLOCK;
        ret_x[i] = shoal_f16_to_f32(shoal_format_u16(block)) * (float)(int8_t)block[2 + i % N];
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

const shoal_format shoal_format_q8_0 = {
    .type = SHOAL_TYPE_Q8_0,
    .pack_row = pack_row,
    .restore_row = restore_row,
    .unpack_row = unpack_row,
    .encode = encode,
    .decode = decode,
    .finite = finite_all,
    .panel = SHOAL_PANEL_Q8_0,
};
