/* SPDX-License-Identifier: Apache-2.0
 *
 * Training an adapter instead of the model (LoRA; Hu et al., 2106.09685): every linear layer W of
 * a frozen base becomes W + scale B A with A (rank, k) and B (n_rows, rank), scale = alpha / rank.
 *
 * The nets know nothing of it: before a step the sums are written into the block they read, after
 * it the gradient of a sum becomes those of its factors. That costs a few products per matrix and
 * step, not per token, and any architecture with a backward pass can be adapted. Stacks of experts
 * are left as they are, because the engine does not adapt them. One thread at a time.
 */
#ifndef SHOAL_TRAIN_LORA_TRAIN_H
#define SHOAL_TRAIN_LORA_TRAIN_H

#include "common/base/pool.h"
#include "common/model/lora.h"
#include "common/train/params.h"

typedef struct shoal_lora_train shoal_lora_train;

/* Freezes everything of params but the adapted matrices, which from now on hold the sums; params is
 * borrowed. B begins at zero, so the model begins as it was; A is a function of the seed. rank in
 * [1, SHOAL_LORA_RANK_MAX], alpha above 0: SHOAL_E_INVALID else. */
shoal_status shoal_lora_train_new(shoal_params *params, size_t rank, float alpha, uint64_t seed,
                                  shoal_lora_train **ret_lora, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_lora_train_free(shoal_lora_train *lora);
SHOAL_DEFINE_CLEANUP(shoal_lora_train, shoal_lora_train_free)

/* The factors: what an optimiser steps. "<matrix>.lora_a" and "<matrix>.lora_b". */
shoal_params *shoal_lora_train_params(shoal_lora_train *lora);
float shoal_lora_train_alpha(const shoal_lora_train *lora);
/* Of the base's numbers: an adapter belongs to them. */
const shoal_hash *shoal_lora_train_base(const shoal_lora_train *lora);

/* Writes W + scale B A into the model's parameters. */
void shoal_lora_train_merge(shoal_lora_train *lora, shoal_pool *pool);
/* Gradients of the sums (a block of the model's layout) to those of the factors (of theirs). */
void shoal_lora_train_project(const shoal_lora_train *lora, const float *sums, float *factors,
                              shoal_pool *pool);

/* An adapter that the engine loads (common/model/lora.h), F32. */
shoal_status shoal_lora_train_write(const shoal_lora_train *lora, const char *path,
                                    shoal_err *err) SHOAL_MUST_CHECK;

#endif
