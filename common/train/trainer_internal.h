/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the trainer: what the loop and the checkpoints share.
 */
#ifndef SHOAL_TRAIN_TRAINER_INTERNAL_H
#define SHOAL_TRAIN_TRAINER_INTERNAL_H

#include "common/train/rollout.h"
#include "common/train/trainer.h"

enum {
    SHOAL_TRAIN_SKIP_WORDS = (SHOAL_MODEL_LAYERS_MAX + 63) / 64
};

/* Of a thread. */
typedef struct shoal_train_worker {
    shoal_net *net;
    shoal_net *teacher;     /* NULL: none */
    shoal_rollout *rollout; /* NULL unless on_policy */
    float *weights;         /* (n_targets_max) of an exit's loss */
} shoal_train_worker;

/* Of a batch of the step. */
typedef struct shoal_train_part {
    float *grads; /* a block */
    double weight;
    double loss[SHOAL_TRAIN_EXITS_MAX + 1]; /* sums, the output's behind the exits' */
    uint64_t n_tokens;
    uint64_t n_targets;
    uint64_t flops;
    shoal_status status;
    shoal_err err;
} shoal_train_part;

struct shoal_trainer {
    shoal_params *params;  /* what the nets read */
    shoal_params *stepped; /* what is trained: params, factors of an adapter, or numbers behind */
    const shoal_params *teacher;
    shoal_trainer_settings settings;
    shoal_optim *optim;
    shoal_pool *pool;
    shoal_train_worker *workers; /* (n_threads) */
    shoal_train_part *parts;     /* (n_parts) */
    float *behind_grads;         /* a block of what is stepped; NULL: that is params */
    /* The step under way. */
    shoal_train_source *source;
    void *source_ctx;
    float scale; /* of the sum of gradients */
};

#endif
