/* SPDX-License-Identifier: Apache-2.0
 *
 * Reverse KL on samples of the student by policy gradient, after MiniLLM (Gu et al., 2306.08543):
 * the divergence of whole answers, KL(q || p) for a student q and a teacher p, whose gradient sees
 * what a token does to the rest of the answer. Its three measures are switches:
 *   single_step     the part of the gradient that lies at the token's own position is computed
 *                   exactly over the vocabulary instead of from the sample (less variance)
 *   teacher_mixed   answers are drawn from a p + (1 - a) q, corrected by the importance weight of
 *                   the position alone, so that what the student avoids is still looked at (less
 *                   reward hacking)
 *   length_norm     what comes after a token counts by its mean, not its sum (less pull towards
 *                   short answers)
 * The model behind the rows is not this file's affair: a caller draws an answer token by token and
 * hands all its rows over at the end. Pure, any thread.
 */
#ifndef SHOAL_TRAIN_MINILLM_H
#define SHOAL_TRAIN_MINILLM_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct shoal_minillm {
    bool single_step;
    bool teacher_mixed;
    bool length_norm;
    float mix; /* a, in [0, 1), of teacher_mixed */
} shoal_minillm;
/* All three, a = 0.2. */
shoal_minillm shoal_minillm_default(void);

/* Draws the next token of an answer from two rows of logits: a pure function of them, the seed and
 * the position. NaN in a row gives id 0. */
int32_t shoal_minillm_sample(const shoal_minillm *settings, size_t n_vocab, const float *student,
                             const float *teacher, uint64_t seed, uint64_t position);

/* One answer of n tokens, ids, whose rows (n, n_vocab) of both are given: the student's become the
 * gradient of the estimated divergence, and log q - log p of the drawn tokens, summed, is returned
 * (divided by n with length_norm). scratch: 2 n numbers. */
double shoal_minillm_loss(const shoal_minillm *settings, size_t n, size_t n_vocab,
                          const int32_t *ids, const float *teacher, float *logits, double *scratch);

#endif
