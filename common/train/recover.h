/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantisation-aware training of a compressed model: what a file stores is what is trained. A model
 * whose matrices are codes with scales (weight/codes.h), or of any other type, learns to answer as
 * the full one again.
 *
 * As with an adapter (lora_train.h) the nets know nothing of it: before a step the stored values
 * are written into the block they read, after it the gradients of those become the gradients of the
 * numbers behind them. Rounding is passed straight through (Bengio et al., 1308.3432). Numbers are
 * in units in which one rate of AdamW fits all:
 *   codes     c = clamp(nearest(unit u)), unit an eighth of the range of codes; the value is s c
 *   scales    s = f16(s0 exp(t / 10)), learnt (LSQ, 1902.08153, but free of u: the gradient of t is
 *             exact)
 *   vectors   w0 + r u / 10, r the vector's root of mean square
 *   others    decode(encode(w0 + r u)): types without codes are rounded again
 *
 * The start. Values are those of the compressed file, bit for bit. In each code's cell u lies half
 * as far from the middle as the full model's number, at most half of the way to the edge: at the
 * edge, codes that a pass moved away from the nearest one would all move back in the first step,
 * and undo what it did. Two of four stay where they are.
 *
 * Not trained, and refused: matrices with something beside them (weight/sides.h), and FP8. One
 * thread at a time, but for the pool.
 */
#ifndef SHOAL_TRAIN_RECOVER_H
#define SHOAL_TRAIN_RECOVER_H

#include "common/base/hash.h"
#include "common/base/pool.h"
#include "common/tensor/gguf.h"
#include "common/train/params.h"

typedef struct shoal_recover shoal_recover;

/* params has the layout of the compressed model and holds its stored values from now on; full is
 * the model it was made from, of the same shape, and is read here alone; small is the compressed
 * file. params and small are borrowed. Errors name the tensor. */
shoal_status shoal_recover_new(shoal_params *params, const shoal_params *full,
                               const shoal_gguf *small, shoal_recover **ret_recover,
                               shoal_err *err) SHOAL_MUST_CHECK;
void shoal_recover_free(shoal_recover *recover);
SHOAL_DEFINE_CLEANUP(shoal_recover, shoal_recover_free)

/* The numbers behind: what an optimiser steps. A matrix of codes has two, "<matrix>" and
 * "<matrix>.scale" [n_rows][k / group]. */
shoal_params *shoal_recover_params(shoal_recover *recover);
/* Of where they began: a checkpoint belongs to them. */
const shoal_hash *shoal_recover_begin(const shoal_recover *recover);

/* Writes the stored values into params; numbers that left their range come back to its edge. */
void shoal_recover_round(shoal_recover *recover, shoal_pool *pool);
/* Gradients of the values (a block of params' layout) to those of the numbers (of theirs). Reads
 * the numbers that shoal_recover_round read last. */
void shoal_recover_project(const shoal_recover *recover, const float *values, float *numbers,
                           shoal_pool *pool);

/* The compressed file with what has been learnt: same tensors, types and sizes. Thresholds that
 * were fitted to the old weights (exits, hand-over) are left out. What a model loaded from it holds
 * is what shoal_recover_round writes, bit for bit. */
shoal_status shoal_recover_write(shoal_recover *recover, const char *path,
                                 shoal_err *err) SHOAL_MUST_CHECK;

#endif
