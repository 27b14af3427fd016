/* SPDX-License-Identifier: Apache-2.0
 *
 * A linear layer's weight as an operator, y = W x: how it is stored is one row of formats.inc, and
 * no caller tests it. Weights are repacked into panels of 16 rows when made (kernels.h). What
 * stands beside a compressed matrix, low-rank factors, single elements and column scales, belongs
 * to the operator (sides.h).
 * Immutable after build; matmul is called by the engine thread, which owns the pool.
 */
#ifndef SHOAL_WEIGHT_WEIGHT_H
#define SHOAL_WEIGHT_WEIGHT_H

#include "common/base/macros.h"
#include "common/base/pool.h"
#include "common/kernels/kernels.h"
#include "common/tensor/gguf.h"

#include <stdbool.h>

typedef struct shoal_weight shoal_weight;

/* One input batch, quantised once however many weights read it; where weights have column scales,
 * once for each that differs. Buffers have fixed capacity. */
typedef struct shoal_acts shoal_acts;
/* For at most n_cols_max columns of at most k_max elements, and weights without sides. */
shoal_status shoal_acts_new(size_t n_cols_max, size_t k_max,
                            shoal_acts **ret_acts) SHOAL_MUST_CHECK;
void shoal_acts_free(shoal_acts *acts);

/* What the sides of some weights ask of an input batch; zeros: they have none. */
typedef struct shoal_side_needs {
    size_t rank;     /* the highest */
    size_t k_codes;  /* longest row with column scales, of weights that read codes */
    size_t k_floats; /* the same of weights that read floats */
} shoal_side_needs;

/* Raises needs to those of a weight as well. */
void shoal_weight_raise_needs(const shoal_weight *weight, shoal_side_needs *needs);
/* Room for products with such weights; what was set is forgotten. */
shoal_status shoal_acts_reserve(shoal_acts *acts, const shoal_side_needs *needs) SHOAL_MUST_CHECK;
/* Points acts at x, [n_cols][stride] of k used elements; borrowed until the next set. Marks the
 * quantised form stale. Allocates nothing. */
void shoal_acts_set(shoal_acts *acts, const float *x, size_t n_cols, size_t k, size_t stride);
/* What was set last: column c lies at the result + c * *ret_stride. */
const float *shoal_acts_x(const shoal_acts *acts, size_t *ret_stride);

/* Builds from a 2-D tensor [n_rows][k] (dims[0] = k); the tensor's bytes are not kept. Errors name
 * the tensor. */
shoal_status shoal_weight_new(const shoal_gguf_tensor *tensor, shoal_weight **ret_weight,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* The same for a tensor whose scales are a tensor of their own (FP8, below); scales is NULL for
 * every other type. */
shoal_status shoal_weight_new_scaled(const shoal_gguf_tensor *tensor,
                                     const shoal_gguf_tensor *scales, shoal_weight **ret_weight,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* From rows [row, row + n_rows) of a tensor of gguf, which is asked for the scales where the type
 * needs them, and for the sides of the matrix (sides.h); a stack of matrices is one run of rows.
 * The work is split over the pool (NULL: none), and pages of a mapped file are let go as they have
 * been read. Whole panels of a packed file (pack.h) are used in place: its bytes must outlive the
 * weight. */
shoal_status shoal_weight_load(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor, size_t row,
                               size_t n_rows, shoal_pool *pool, shoal_weight **ret_weight,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* The same rows as GGUF blocks, from a plain file or a packed one. */
shoal_status shoal_weight_blocks(const shoal_gguf_tensor *tensor, size_t row, size_t n_rows,
                                 uint8_t *ret_blocks, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_weight_free(shoal_weight *weight);
SHOAL_DEFINE_CLEANUP(shoal_weight, shoal_weight_free)

size_t shoal_weight_n_rows(const shoal_weight *weight);
size_t shoal_weight_k(const shoal_weight *weight);
/* Whether the base takes inputs below a threshold as 0 (sides.h): rows alone do not tell it. */
bool shoal_weight_skips(const shoal_weight *weight);
/* Bytes read by one product: panels and sides as they lie in memory, of a base that skips inputs
 * what it would read if all fired. */
size_t shoal_weight_bytes(const shoal_weight *weight);
/* Operations for one column, two for each multiplication with an addition. */
uint64_t shoal_weight_flops(const shoal_weight *weight);
/* The panels of the base, and how many bytes they are; NULL and 0 where it is stored by input. */
const void *shoal_weight_panels(const shoal_weight *weight, size_t *ret_bytes);

/* y[c][y_stride] = W x[c] for every column of acts; rows are split over the pool. */
void shoal_weight_matmul(const shoal_weight *weight, const shoal_kernels *kernels, shoal_pool *pool,
                         shoal_acts *acts, float *y, size_t y_stride);

/* Several weights over one input, as one job: threads wait for each other once. */
enum {
    SHOAL_PRODUCTS_MAX = 4
};
typedef struct shoal_product {
    const shoal_weight *weight;
    float *y; /* [n_cols][y_stride] */
    size_t y_stride;
} shoal_product;
void shoal_weight_matmuls(const shoal_product *products, size_t n, const shoal_kernels *kernels,
                          shoal_pool *pool, shoal_acts *acts);
/* Says that the job after one that begins with weight multiplies next[n], in that order, so that
 * threads that wait fetch what they will read first (shoal_pool_expect). Part of building, like
 * loading: nobody multiplies meanwhile. n in [0, SHOAL_PRODUCTS_MAX], 0: not known; next outlive
 * weight. A wrong guess costs a little time. */
void shoal_weight_set_next(shoal_weight *weight, const shoal_weight *const *next, size_t n);

/* Row r dequantised into ret_row[k], its sides expanded: embedding look-up. */
void shoal_weight_row(const shoal_weight *weight, size_t r, float *ret_row);

/* --- row codecs, for conversion and tests --------------------------------------------------- */

/* n elements (a multiple of the type's block) between floats and the GGUF block layout. Encoding
 * is the published reference rounding of each type. */
shoal_status shoal_weight_encode(shoal_type type, const float *x, size_t n, void *ret_blocks,
                                 shoal_err *err) SHOAL_MUST_CHECK;
void shoal_weight_decode(shoal_type type, const void *blocks, size_t n, float *ret_x);

/* --- FP8 E4M3 -------------------------------------------------------------------------------
 * GGUF has no such type. A matrix "x.weight" [n_rows][k] is a tensor of type I8 and the same shape
 * that holds codes, and "x.weight_scale", F32 [ceil(n_rows / 128)][ceil(k / 128)], one scale for
 * each tile of 128 x 128; metadata SHOAL_FP8_KEY = SHOAL_FP8_FORMAT says so. value = scale * code.
 * Codes 0x7F and 0xFF are NaN and refused. Matrices of more dimensions repeat both. */
#define SHOAL_FP8_KEY    "shoal.fp8.format"
#define SHOAL_FP8_FORMAT "e4m3"

/* Where the scales of an I8 tensor lie; false when the name does not end in ".weight" or the
 * other's would be too long. */
bool shoal_fp8_scale_name(shoal_str name, char ret_name[SHOAL_GGUF_NAME_MAX + 1]);
/* The scales of an I8 tensor, checked: the metadata, their type, shape and finiteness. */
shoal_status shoal_fp8_scales(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                              const shoal_gguf_tensor **ret_scales,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* At most 128 rows of one band of tiles: scales[ceil(k / 128)], each the tile's largest magnitude
 * over 448, and codes rounded to nearest even. SHOAL_E_INVALID for what is not finite. */
shoal_status shoal_fp8_encode(const float *x, size_t n_rows, size_t k, uint8_t *ret_codes,
                              float *ret_scales) SHOAL_MUST_CHECK;
/* One row back, scales those of its band. */
void shoal_fp8_decode(const uint8_t *codes, const float *scales, size_t k, float *ret_x);

#endif
