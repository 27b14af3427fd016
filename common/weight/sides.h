/* SPDX-License-Identifier: Apache-2.0
 *
 * The sides of a weight: what stands beside a matrix "x.weight", the base, so that its product is
 *   y = (base diag(1/s) + X + L R) x
 * any part optional. They are tensors of standard types beside the base, found by name when it is
 * loaded (weight.h) and added by the product itself: no caller tests for them.
 *   x.weight_low_left      Q8_0 [rank][n_rows], row r is column r of L, n_rows rounded up to 32
 *   x.weight_low_right     Q8_0 [rank][k], R; k is a multiple of 32
 *   x.weight_column_scale  F16 [k], s: finite and above 0
 *   x.weight_threshold     F32 [1], z: finite and above 0
 *   x.weight_single_begin  I32 [n_rows + 1], where a row's single elements begin in the next two
 *   x.weight_single_cols   I32 [n], ascending in a row, below k
 *   x.weight_single_values F16 [n], X
 *   x.weight_levels        I8 [8] or [16], of N3 or N4: what its codes stand for, -127 to 127
 * Metadata SHOAL_SIDES_KEY = SHOAL_SIDES_FORMAT says that there are any. L R (SVD-LLM, 2403.07378;
 * OATS, 2409.13652) and X (LLM.int8, 2208.07339; WRP, 2024.acl-long.347) read the input as it is,
 * the base reads it divided by s (AWQ, 2306.00978), and what is smaller than z as 0 (TEAL,
 * 2408.14690): of a Q4_0 base, only the rest of it is then touched (kernels/firing.h).
 *
 * The law (R2). The base's product by the law of its panel (panel.h), of x[j], or of 0 where
 * |x[j]| < z, times (1.0F / f32(s[j])) where there are column scales. What fires is a function of a
 * column's own x alone. t = R x by the law of q8_0. Then L t and X x are added to it by
 * the law of kernels/sides.h: L's codes meet t in floats, so nothing is rounded a second time.
 *
 * One input, several column scales. q, k and v read one input and may each have their own s and z.
 * An input is therefore divided and quantised once for each s and z that differ (weights that have
 * the same share one), beside the plain form for weights without. Folding s into the norm in front
 * was not chosen: it needs all readers to agree, and X, L R and adapters read the plain input.
 *
 * What is not computed, and refused: sides of a stack of matrices (experts), and a row range of a
 * fused tensor with low rank that does not begin at a multiple of 16.
 */
#ifndef SHOAL_WEIGHT_SIDES_H
#define SHOAL_WEIGHT_SIDES_H

#include "common/base/macros.h"
#include "common/tensor/gguf.h"

#include <stdbool.h>

#define SHOAL_SIDES_KEY    "shoal.sides.format"
#define SHOAL_SIDES_FORMAT "1"

enum {
    SHOAL_SIDES_RANK_MAX = 1024,
    SHOAL_SIDES_SINGLES_K_MAX = 65536 /* columns of a matrix with single elements */
};

typedef enum shoal_side {
    SHOAL_SIDE_LOW_LEFT,
    SHOAL_SIDE_LOW_RIGHT,
    SHOAL_SIDE_COLUMN_SCALE,
    SHOAL_SIDE_THRESHOLD,
    SHOAL_SIDE_SINGLE_BEGIN,
    SHOAL_SIDE_SINGLE_COLS,
    SHOAL_SIDE_SINGLE_VALUES,
    SHOAL_SIDE_LEVELS,
    SHOAL_SIDES
} shoal_side;

/* --- reading --------------------------------------------------------------------------------- */

/* The name of a weight's side; false when the weight's does not end in ".weight" or the side's
 * would be too long. */
bool shoal_side_name(shoal_str weight, shoal_side side, char ret_name[SHOAL_GGUF_NAME_MAX + 1]);
/* Whether a tensor's name is that of a side: which, and of which weight. */
bool shoal_side_parse(shoal_str name, shoal_side *ret_side, shoal_str *ret_weight);

typedef struct shoal_side_tensors {
    const shoal_gguf_tensor *of[SHOAL_SIDES]; /* NULL: there is none */
} shoal_side_tensors;

/* The sides of a matrix in gguf, all NULL where it has none. Checked: the metadata, that what
 * belongs together is there, types and shapes; and of all numbers that they are finite, in range
 * and in order. Errors name the tensor, the limit and the remedy. */
shoal_status shoal_sides_find(const shoal_gguf *gguf, const shoal_gguf_tensor *weight,
                              shoal_side_tensors *ret_sides, shoal_err *err) SHOAL_MUST_CHECK;

/* --- making ---------------------------------------------------------------------------------- */

/* Sides in plain arrays, as passes make them (compress/compress.h). What is absent is NULL or 0. */
typedef struct shoal_side_parts {
    size_t n_rows;
    size_t k;
    size_t rank;
    const int8_t *left_codes;      /* [rank][n_rows rounded up to 32] */
    const uint16_t *left_scales;   /* [rank][ceil(n_rows / 32)] f16 */
    const int8_t *right_codes;     /* [rank][k] */
    const uint16_t *right_scales;  /* [rank][k / 32] f16 */
    const uint16_t *column_scales; /* [k] f16 */
    float threshold;               /* of the base's input; 0: none */
    const uint32_t *single_begin;  /* [n_rows + 1]; no tensors where the last is 0 */
    const uint32_t *single_cols;
    const uint16_t *single_values; /* f16 */
    const int8_t *levels;          /* [n_levels] */
    size_t n_levels;               /* 0, 8 or 16 */
} shoal_side_parts;

/* A tensor of the file. */
typedef struct shoal_side_shape {
    shoal_side side;
    shoal_type type;
    uint64_t dims[2];
    uint32_t n_dims;
    size_t n_bytes;
} shoal_side_shape;

/* The tensors that the parts need, in the order of shoal_side; how many. */
size_t shoal_sides_shapes(const shoal_side_parts *parts, shoal_side_shape ret_shapes[SHOAL_SIDES]);
/* The bytes of one of these. */
void shoal_sides_encode(const shoal_side_parts *parts, const shoal_side_shape *shape,
                        uint8_t *ret_bytes);

#endif
