/* SPDX-License-Identifier: Apache-2.0
 *
 * F32: a panel is [k][16] floats.
 */
#include "common/weight/format.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS
};

static void pack_row(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)
{
    for (size_t i = 0; i < k; i++) {
        memcpy(panel + (i * ROWS + r) * sizeof(float), blocks + i * sizeof(float), sizeof(float));
    }
}

static void restore_row(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)
{
    for (size_t i = 0; i < k; i++) {
        memcpy(ret_blocks + i * sizeof(float), panel + (i * ROWS + r) * sizeof(float),
               sizeof(float));
    }
}

static void unpack_row(const uint8_t *panel, size_t k, size_t r, float *ret_row)
{
    for (size_t i = 0; i < k; i++) {
        memcpy(&ret_row[i], panel + (i * ROWS + r) * sizeof(float), sizeof(float));
    }
}

static void encode(const float *x, size_t n, uint8_t *ret_blocks)
{
    memcpy(ret_blocks, x, n * sizeof *x);
}

static void decode(const uint8_t *blocks, size_t n, float *ret_x)
{
    memcpy(ret_x, blocks, n * sizeof *ret_x);
}

static bool finite_all(const uint8_t *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = 0;
        memcpy(&x, blocks + i * sizeof x, sizeof x);
        if (!isfinite(x)) {
            return false;
        }
    }
    return true;
}

const shoal_format shoal_format_f32 = {
    .type = SHOAL_TYPE_F32,
    .pack_row = pack_row,
    .restore_row = restore_row,
    .unpack_row = unpack_row,
    .encode = encode,
    .decode = decode,
    .finite = finite_all,
    .panel = SHOAL_PANEL_F32,
};
