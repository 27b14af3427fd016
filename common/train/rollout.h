/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers of a student to the prompts of a batch, drawn as minillm.h says, and the gradient of
 * their divergence from a teacher. A prompt is what stands in a segment up to its first target; its
 * answer may be as long as the segment's rest, so a rollout fits wherever the batch did.
 *
 * There is no cache of keys and values here: every token is a forward pass over all answers so far.
 * That is dear, but parallel over the answers of a batch, and exact. Scratch memory of one thread;
 * running allocates nothing.
 */
#ifndef SHOAL_TRAIN_ROLLOUT_H
#define SHOAL_TRAIN_ROLLOUT_H

#include "common/train/minillm.h"
#include "common/train/net.h"

typedef struct shoal_rollout shoal_rollout;

/* Nets that read the same batches: the teacher's may be of another shape. */
typedef struct shoal_rollout_models {
    shoal_net *student_net;
    const shoal_params *student;
    shoal_net *teacher_net;
    const shoal_params *teacher;
} shoal_rollout_models;

/* For batches of at most so many tokens; the nets must take as many targets. */
shoal_status shoal_rollout_new(size_t n_tokens_max, shoal_rollout **ret_rollout) SHOAL_MUST_CHECK;
void shoal_rollout_free(shoal_rollout *rollout);
SHOAL_DEFINE_CLEANUP(shoal_rollout, shoal_rollout_free)

/* Draws the answers: a function of models, prompts, seed and number alone. An answer ends behind
 * end_id (-1: none) or at its limit. */
void shoal_rollout_draw(shoal_rollout *rollout, const shoal_minillm *settings,
                        const shoal_rollout_models *models, const shoal_batch *prompts,
                        int32_t end_id, uint64_t seed, uint64_t number);
/* Runs both nets over prompts and answers and turns the output head's logits into gradients, ready
 * for a backward pass over the batch of the rollout. Returns the sum of the answers' estimates. */
double shoal_rollout_loss(shoal_rollout *rollout, const shoal_minillm *settings,
                          const shoal_rollout_models *models);

/* Of the last loss: its batch, whose targets are the answers' tokens; the teacher's logits there,
 * until its net runs again; how many answers. */
const shoal_batch *shoal_rollout_batch(const shoal_rollout *rollout);
const float *shoal_rollout_teacher_logits(const shoal_rollout *rollout);
size_t shoal_rollout_n_answers(const shoal_rollout *rollout);

#endif
