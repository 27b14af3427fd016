/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: how the codes of 32 elements of one row lie in a panel block. Groups of
 * four elements of all 16 rows stand side by side, so that a vector register holds the same four
 * elements of 16 rows. Three parts make up every code of less than eight bits; a part begins at
 * `to` or `from`, r is the row 0..15 (common/kernels/panel.h draws them):
 *   nib  256 bytes: four bits, elements i and i + 16 share a byte
 *   two  128 bytes: two bits, elements 16h + 4t + j for t = 0..3 share a byte
 *   hi1   64 bytes: one bit, elements 4i + j for i = 0..7 share a byte
 */
#ifndef SHOAL_WEIGHT_PANEL_INTERNAL_H
#define SHOAL_WEIGHT_PANEL_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    SHOAL_PART_NIB = 256,
    SHOAL_PART_TWO = 128,
    SHOAL_PART_HI1 = 64
};

static inline void shoal_panel_put_nib(uint8_t *to, size_t r, const uint8_t code[32])
{
    uint8_t pairs[16];
    for (size_t i = 0; i < 16; i++) {
        pairs[i] = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
    }
    for (size_t g = 0; g < 4; g++) {
        memcpy(to + (g * 16 + r) * 4, pairs + 4 * g, 4);
    }
}

static inline void shoal_panel_get_nib(const uint8_t *from, size_t r, uint8_t ret_code[32])
{
    for (size_t i = 0; i < 16; i++) {
        uint8_t pair = from[(i / 4 * 16 + r) * 4 + i % 4];
        ret_code[i] = pair & 15;
        ret_code[i + 16] = pair >> 4;
    }
}

/* Bits `shift` and `shift` + 1 of the codes. */
static inline void shoal_panel_put_two(uint8_t *to, size_t r, const uint8_t code[32],
                                       unsigned shift)
{
    for (size_t i = 0; i < 32; i += 16) {
        for (size_t j = 0; j < 4; j++) {
            unsigned byte = 0;
            for (size_t t = 0; t < 4; t++) {
                byte |= (code[i + 4 * t + j] >> shift & 3u) << 2 * t;
            }
            to[(i / 16 * 16 + r) * 4 + j] = (uint8_t)byte;
        }
    }
}

/* Adds its bits to codes that are there. */
static inline void shoal_panel_get_two(const uint8_t *from, size_t r, uint8_t code[32],
                                       unsigned shift)
{
    for (size_t i = 0; i < 32; i++) {
        unsigned byte = from[(i / 16 * 16 + r) * 4 + i % 4];
        code[i] |= (uint8_t)((byte >> i % 16 / 4 * 2 & 3u) << shift);
    }
}

/* Bit `shift` of the codes. */
static inline void shoal_panel_put_hi1(uint8_t *to, size_t r, const uint8_t code[32],
                                       unsigned shift)
{
    for (size_t j = 0; j < 4; j++) {
        unsigned byte = 0;
        for (size_t i = 0; i < 8; i++) {
            byte |= (code[4 * i + j] >> shift & 1u) << i;
        }
        to[r * 4 + j] = (uint8_t)byte;
    }
}

static inline void shoal_panel_get_hi1(const uint8_t *from, size_t r, uint8_t code[32],
                                       unsigned shift)
{
    for (size_t i = 0; i < 32; i++) {
        code[i] |= (uint8_t)(((unsigned)from[r * 4 + i % 4] >> i / 4 & 1u) << shift);
    }
}

#endif
