/* SPDX-License-Identifier: Apache-2.0
 *
 * Base formats made of codes: a matrix as signed codes of few bits with an f16 scale for each group
 * of columns, value = scale * code, all columns kept or two of every four. Each is a tensor type
 * (common/tensor/type.h), so whatever takes a type takes these: building weights, the row codecs of
 * weight.h, packing. Here are the rows from codes that somebody chose, as passes of
 * common/compress do. To write one:
 *
 *   shoal_codes_find(bits, group, mask, &type);
 *   shoal_gguf_put_tensor(writer, "blk.0.attn_q.weight", type, {k, n_rows}, 2, blocks);
 *   for (row ...) shoal_codes_pack(&codes, row, n, blocks, err);
 *
 * A row is k / group blocks, each { f16 scale; group / 32 times `bits` (S4: 3) words of 4 bytes }:
 * a word is the four bytes of a row in a part of a panel (common/kernels/panel.h): `two` for C2,
 * `tri` for C3 and S4, `nib` for C4. Bits of a weight: C2 2, C3 and S4 3, C4 4, and 16 / group
 * for the scale.
 *
 * N3, N4: a code is which of 8 or 16 levels, value = scale * level. Levels are those of a normal
 * distribution (NF4, kernels/panel.h); words are `tri` and `nib`.
 *
 * S8: two of four with eight bits: a word `q` for every four of the sixteen values of 32 columns,
 * then one with their places, two bits each. Bits of a weight: 5.
 *
 * B16, B8: at most 16 or 8 of 32 columns, 4 bits each: a word with a bit for each column, the least
 * first, then two words or one of their values (`b16` and `b8` of panel.h), what is not used 0.
 * Bits of a weight: 3 and 2.
 *
 * C2, C3, C4, S8, B16, B8: codes are two's complement. S4: sixteen values of 32 columns with their
 * places, a value is a sign and three bits, so -7 to 7; the places of every four ascend, what is
 * not kept is 0. Codes of 4 and 8 bits with groups of 32 are Q4_0 and Q8_0.
 *
 * Pure, any thread.
 */
#ifndef SHOAL_WEIGHT_CODES_H
#define SHOAL_WEIGHT_CODES_H

#include "common/base/macros.h"
#include "common/tensor/type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_CODES_GROUP_MAX = 128
};

typedef enum shoal_codes_mask {
    SHOAL_CODES_ALL,      /* every column is kept */
    SHOAL_CODES_TWO_FOUR, /* at most two of every four */
    SHOAL_CODES_LEVELS,   /* every column is kept; a code is which level, from -2^(bits - 1) up */
    SHOAL_CODES_HALF,     /* at most 16 of every 32, wherever they are */
    SHOAL_CODES_QUARTER   /* at most 8 of every 32 */
} shoal_codes_mask;

/* A matrix; borrowed. */
typedef struct shoal_codes {
    size_t n_rows;
    size_t k; /* a multiple of group */
    size_t bits;
    size_t group; /* columns that share a scale */
    shoal_codes_mask mask;
    const int8_t *codes;    /* [n_rows][k], 0 where nothing is kept */
    const uint16_t *scales; /* [n_rows][k / group] f16 */
    const uint8_t *kept;    /* [n_rows][ceil(k / 8)], bit j % 8 of byte j / 8; NULL: all, and where
                             * not all are kept: where codes are not 0 */
} shoal_codes;

/* The type that stores such codes; false when none does. Known are 2, 3 and 4 bits with groups of
 * 32, 64 and 128, 8 bits with 32, two of four with 4 and 8 bits, 16 and 8 of 32 with 4, and levels
 * with 3 and 4. */
bool shoal_codes_find(size_t bits, size_t group, shoal_codes_mask mask, shoal_type *ret_type);
/* Codes that a type of shoal_codes_find holds: -4 to 3 for C3, -7 to 7 for S4. */
void shoal_codes_range(shoal_type type, int *ret_low, int *ret_high);
/* Bytes of a row of k columns. */
size_t shoal_codes_row_bytes(shoal_type type, size_t k);
/* Rows [row, row + n) as blocks. The error, SHOAL_E_INVALID, names row and column of a code out of
 * range, of one that is not kept, of more than are kept in four or 32, or of a scale that is not
 * finite; SHOAL_E_UNSUPPORTED when there is no such type. */
shoal_status shoal_codes_pack(const shoal_codes *codes, size_t row, size_t n, uint8_t *ret_blocks,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* One row back: ret_codes[k], ret_scales[k / group], ret_kept[ceil(k / 8)] (each may be NULL). */
void shoal_codes_unpack(shoal_type type, const uint8_t *blocks, size_t k, int8_t *ret_codes,
                        uint16_t *ret_scales, uint8_t *ret_kept);

#endif
