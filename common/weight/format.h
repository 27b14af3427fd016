/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: how one tensor type is stored and multiplied. A format is one const
 * struct at the end of its file and one row of formats.inc. Formats are pure.
 */
#ifndef SHOAL_WEIGHT_FORMAT_H
#define SHOAL_WEIGHT_FORMAT_H

#include "common/weight/weight.h"

typedef struct shoal_format {
    shoal_type type;
    shoal_panel panel; /* how its rows lie in memory, and which product reads them */
    /* Puts one row of GGUF blocks into row r (0..15) of a zeroed panel. */
    void (*pack_row)(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel);
    /* Where scales are a tensor of their own, else NULL: puts those of row r's band of tiles. */
    void (*pack_scales)(const uint8_t *scales, size_t k, size_t r, uint8_t *panel);
    /* Undoes pack_row: row r of a panel as GGUF blocks, bit for bit. */
    void (*restore_row)(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks);
    /* Row r of a panel as floats. */
    void (*unpack_row)(const uint8_t *panel, size_t k, size_t r, float *ret_row);
    /* Where codes are indices of levels (kernels/panel.h), how many there are, and unpack_row with
     * others; else 0 and NULL. */
    size_t n_levels;
    void (*unpack_levels)(const uint8_t *panel, size_t k, size_t r, const int8_t *levels,
                          float *ret_row);
    /* n elements between floats and GGUF blocks; encoding rounds as the type's reference does. NULL
     * where scales are apart. */
    void (*encode)(const float *x, size_t n, uint8_t *ret_blocks);
    void (*decode)(const uint8_t *blocks, size_t n, float *ret_x);
    /* Whether every number in n elements' blocks is finite, and places are in their order. */
    bool (*finite)(const uint8_t *blocks, size_t n);
} shoal_format;

#define SHOAL_FORMAT(name) extern const shoal_format shoal_format_##name;
#include "common/weight/formats.inc"
#undef SHOAL_FORMAT

/* Little-endian 16 bits at p. */
static inline uint16_t shoal_format_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline void shoal_format_put_u16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

/* An IEEE half that is neither infinite nor NaN. */
static inline bool shoal_format_half_finite(uint16_t half)
{
    return (half & 0x7C00u) != 0x7C00u;
}

#endif
