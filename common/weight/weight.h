/* SPDX-License-Identifier: Apache-2.0
 *
 * A linear layer's weight as an operator, y = W x: how it is stored is one row of formats.inc, and
 * no caller tests it. Weights are repacked into panels of 16 rows when made (kernels.h).
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

/* One input batch, quantised once however many weights read it. Buffers have fixed capacity. */
typedef struct shoal_acts shoal_acts;
/* For at most n_cols_max columns of at most k_max elements. */
shoal_status shoal_acts_new(size_t n_cols_max, size_t k_max,
                            shoal_acts **ret_acts) SHOAL_MUST_CHECK;
void shoal_acts_free(shoal_acts *acts);
/* Points acts at x, [n_cols][stride] of k used elements; borrowed until the next set. Marks the
 * quantised form stale. Allocates nothing. */
void shoal_acts_set(shoal_acts *acts, const float *x, size_t n_cols, size_t k, size_t stride);

/* Builds from a 2-D tensor [n_rows][k] (dims[0] = k); the tensor's bytes are not kept. Errors name
 * the tensor. */
shoal_status shoal_weight_new(const shoal_gguf_tensor *tensor, shoal_weight **ret_weight,
                              shoal_err *err) SHOAL_MUST_CHECK;
void shoal_weight_free(shoal_weight *weight);

size_t shoal_weight_n_rows(const shoal_weight *weight);
size_t shoal_weight_k(const shoal_weight *weight);
shoal_type shoal_weight_type(const shoal_weight *weight);
/* Bytes read by one product (packed size). */
size_t shoal_weight_bytes(const shoal_weight *weight);

/* y[c][y_stride] = W x[c] for every column of acts; rows are split over the pool. */
void shoal_weight_matmul(const shoal_weight *weight, const shoal_kernels *kernels, shoal_pool *pool,
                         shoal_acts *acts, float *y, size_t y_stride);

/* Row r dequantised into ret_row[k]: embedding look-up. */
void shoal_weight_row(const shoal_weight *weight, size_t r, float *ret_row);

/* --- row codecs, for conversion and tests --------------------------------------------------- */

/* n elements (a multiple of the type's block) between floats and the GGUF block layout. Encoding
 * is the published reference rounding of each type. */
shoal_status shoal_weight_encode(shoal_type type, const float *x, size_t n, void *ret_blocks,
                                 shoal_err *err) SHOAL_MUST_CHECK;
void shoal_weight_decode(shoal_type type, const void *blocks, size_t n, float *ret_x);

#endif
