/* SPDX-License-Identifier: Apache-2.0
 *
 * The training loop without its data: parts of a step on threads, gradient accumulation, exits,
 * a teacher, layer dropout, checkpoints with exact resume.
 *
 * A step has n_parts batches; each has gradients of its own, summed in the order of the parts, so
 * the bits of a run depend on n_parts and never on the number of threads.
 */
#ifndef SHOAL_TRAIN_TRAINER_H
#define SHOAL_TRAIN_TRAINER_H

#include "common/train/lora_train.h"
#include "common/train/loss.h"
#include "common/train/minillm.h"
#include "common/train/net.h"
#include "common/train/optim.h"
#include "common/train/recover.h"

/* A batch with what the loss needs beside it. The memory is the source's until its next call for
 * the same part. */
typedef struct shoal_train_batch {
    shoal_batch batch;
    const int32_t *target_ids; /* (n_targets) the token that follows each */
    const float *weights;      /* (n_targets) */
} shoal_train_batch;

/* The batch of (step, part): a pure function of both, so that a resumed run sees the same data.
 * Called from the part's thread. */
typedef shoal_status shoal_train_source(void *ctx, uint64_t step, size_t part,
                                        shoal_train_batch *ret_batch);

typedef struct shoal_trainer_settings {
    size_t n_threads;
    size_t n_parts;      /* batches of a step, at least 1 */
    size_t n_tokens_max; /* of a batch */
    size_t n_targets_max;
    uint64_t seed;          /* of layer dropout */
    uint64_t source_id;     /* names the data: a checkpoint made with another is refused */
    shoal_lora_train *lora; /* of params, borrowed: its factors are trained; NULL: params are */
    shoal_recover *recover; /* of params, borrowed: the numbers behind what a file stores are
                             * trained; NULL: params are. Not with lora */
    shoal_optim_settings optim;
    shoal_distil distil; /* with teacher NULL: alpha is taken as 1 */
    bool on_policy;      /* the student answers the prompts itself (rollout.h), and the loss is the
                          * divergence of its answers; needs a teacher, alpha is not used, and
                          * n_targets_max is n_tokens_max */
    shoal_minillm minillm;                    /* of on_policy */
    int32_t end_id;                           /* ends an answer of on_policy, -1: none */
    float exit_weight[SHOAL_TRAIN_EXITS_MAX]; /* of each exit's loss beside the output's 1 */
    float layer_dropout; /* probability of the last layer, growing from 0 at the first as
                          * exp(l ln 2 / (L - 1)) - 1 (LayerSkip, 2404.16710, eq. 2); per part */
} shoal_trainer_settings;

typedef struct shoal_trainer shoal_trainer;

shoal_trainer_settings shoal_trainer_settings_default(void);

/* params and teacher are borrowed; params are stepped in place. teacher NULL: none. The teacher may
 * have another shape, but not another vocabulary. */
shoal_status shoal_trainer_new(shoal_params *params, const shoal_params *teacher,
                               const shoal_trainer_settings *settings, shoal_trainer **ret_trainer,
                               shoal_err *err) SHOAL_MUST_CHECK;
void shoal_trainer_free(shoal_trainer *trainer);
SHOAL_DEFINE_CLEANUP(shoal_trainer, shoal_trainer_free)

typedef struct shoal_train_stats {
    uint64_t step;     /* steps done */
    uint64_t n_tokens; /* of this step */
    uint64_t n_targets;
    double loss; /* mean over targets, output head */
    double exit_loss[SHOAL_TRAIN_EXITS_MAX];
    double grad_norm;
    uint64_t flops; /* of products, this step */
} shoal_train_stats;
/* On an error nothing has been stepped: gradients that are not finite, a source that failed, a
 * batch over the limits. */
shoal_status shoal_trainer_step(shoal_trainer *trainer, shoal_train_source *source, void *ctx,
                                shoal_train_stats *ret_stats, shoal_err *err) SHOAL_MUST_CHECK;

/* Steps done, and steps of the whole run. */
uint64_t shoal_trainer_step_i(const shoal_trainer *trainer);
uint64_t shoal_trainer_n_steps(const shoal_trainer *trainer);

/* Parameters, moments, step and settings, written beside path and renamed over it. A run resumed
 * from it equals the unbroken one bit for bit. A checkpoint of another shape, other settings that
 * change results, or a damaged one is refused by name, and nothing
 * is changed. A trainer made with optim.n_steps = 0 takes the length of the run and its warm-up
 * from the checkpoint. */
shoal_status shoal_trainer_save(const shoal_trainer *trainer, const char *path,
                                shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_trainer_load(shoal_trainer *trainer, const char *path,
                                shoal_err *err) SHOAL_MUST_CHECK;

#endif
