/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealed KV blocks: 32 tokens of one head of K or of V in codes of 8, 4 or 3 bits, as attention
 * reads them (KIVI, 2402.02750: keys by channel, values by token, since the outliers of keys stay
 * in their channels). What is sealed is the f16 form of the same block, see kernels.h.
 *
 * A block is rows of elements: of K a row is one channel of the 32 tokens (k_dim rows of 32), of V
 * it is one token (32 rows of v_dim channels). Each row has a scale and a minimum, both f16, so an
 * element is minimum + scale * code:
 *
 *   uint16_t scale[n_rows];
 *   uint16_t min[n_rows];
 *   zeros up to a multiple of 64 bytes
 *   uint8_t codes[n_rows][ceil(n / 32)][group];
 *   zeros up to a multiple of 64 bytes
 *
 * A group is 32 codes c[0..31] (those past the row's end are 0), so it gives the lanes of a vector
 * of 16 in order:
 *
 *   q8  32 bytes: byte j is c[j]
 *   q4  16 bytes: byte j is c[j] | c[j + 16] << 4
 *   q3  12 bytes: byte j < 8 is the low two bits of c[j], c[j + 8], c[j + 16] and c[j + 24] from
 * bit 0 up; then 32 bits, little endian, bit j the third bit of c[j]
 *
 * Sealing a row, from its f16 elements: lo and hi are its least and greatest in the order of the
 * numbers with -0 below +0; min = lo; with steps = 2^bits - 1 the scale is (hi - lo) / steps
 * rounded to f16; inv = 1 / f32(scale), 0 where that is 0; the code is (x - lo) * inv, at most
 * steps, rounded to nearest even. A row with an element that is not finite has scale and minimum
 * NaN (0x7E00) and codes 0. An element is kept to within
 *   scale / 2 + steps * (half an ulp of the scale),
 * which is (hi - lo) / steps * (1/2 + steps * 2^-11) where the scale is a normal f16, and
 * (hi - lo) where it is so small that f16 holds no scale (below 2^-25).
 *
 * Opening it again gives fma(f32(scale), code, f32(min)), at most 65504, rounded to f16.
 */
#ifndef SHOAL_KERNELS_KV_BLOCK_H
#define SHOAL_KERNELS_KV_BLOCK_H

#include <stddef.h>
#include <stdint.h>

typedef enum shoal_kv_level {
    SHOAL_KV_LEVEL_Q8,
    SHOAL_KV_LEVEL_Q4,
    SHOAL_KV_LEVEL_Q3
} shoal_kv_level;

enum {
    SHOAL_KV_LEVELS = 3,
    SHOAL_KV_GROUP = 32,      /* codes of a group */
    SHOAL_KV_F16_NAN = 0x7E00 /* scale and minimum of a row that is not finite */
};

/* Bits of a code: 8, 4, 3. */
static inline size_t shoal_kv_level_bits(shoal_kv_level level)
{
    static const uint8_t bits[SHOAL_KV_LEVELS] = {8, 4, 3};
    return bits[level];
}

/* Bytes of a group: 32, 16, 12. */
static inline size_t shoal_kv_group_bytes(shoal_kv_level level)
{
    return SHOAL_KV_GROUP * shoal_kv_level_bits(level) / 8;
}

/* Bytes in front of the codes. */
static inline size_t shoal_kv_head_bytes(size_t n_rows)
{
    return (n_rows * 4 + 63) / 64 * 64;
}

/* Bytes of one row's codes. */
static inline size_t shoal_kv_row_bytes(shoal_kv_level level, size_t n)
{
    return (n + SHOAL_KV_GROUP - 1) / SHOAL_KV_GROUP * shoal_kv_group_bytes(level);
}

/* Bytes of a block of n_rows rows of n elements, a multiple of 64. */
static inline size_t shoal_kv_sealed_bytes(shoal_kv_level level, size_t n_rows, size_t n)
{
    size_t codes = n_rows * shoal_kv_row_bytes(level, n);
    return shoal_kv_head_bytes(n_rows) + (codes + 63) / 64 * 64;
}

/* Code j of a group. */
static inline uint8_t shoal_kv_code(shoal_kv_level level, const uint8_t *group, size_t j)
{
    if (level == SHOAL_KV_LEVEL_Q8) {
        return group[j];
    }
    if (level == SHOAL_KV_LEVEL_Q4) {
        return (uint8_t)(group[j % 16] >> (j / 16 * 4) & 15);
    }
    unsigned low = (unsigned)group[j % 8] >> (j / 8 * 2) & 3U;
    unsigned high = (unsigned)group[8 + j / 8] >> (j % 8) & 1U;
    return (uint8_t)(low | high << 2);
}

#endif
