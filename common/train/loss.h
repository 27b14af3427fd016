/* SPDX-License-Identifier: Apache-2.0
 *
 * Losses over rows of logits: each gives its value and turns the logits into its gradient in
 * place. Rows are independent; a row's weight multiplies both, 0 makes both zero. Pure, any thread.
 */
#ifndef SHOAL_TRAIN_LOSS_H
#define SHOAL_TRAIN_LOSS_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* -log softmax(logits)[target], summed over rows times their weights. targets in [0, n_vocab). */
double shoal_loss_cross_entropy(size_t n, size_t n_vocab, const int32_t *targets,
                                const float *weights, float *logits);

/* KL(student || teacher) at temperature t, times t^2: exact over the vocabulary at each position;
 * on the student's own samples this is the single-step part of MiniLLM (Gu et al., 2306.08543). */
double shoal_loss_reverse_kl(size_t n, size_t n_vocab, const float *teacher, float t,
                             const float *weights, float *logits);

/* alpha CE + (1 - alpha) KD, gradients of both in one pass. KD is KL(teacher || student) at the
 * temperature, times its square (Hinton et al., 1503.02531, section 2.1), or the reverse of it. */
typedef struct shoal_distil {
    float alpha;       /* in [0, 1]; 1: cross-entropy alone, the teacher may be NULL */
    float temperature; /* above 0 */
    bool reverse;      /* KL(student || teacher) instead of KL(teacher || student) */
} shoal_distil;
double shoal_loss_distil(size_t n, size_t n_vocab, const shoal_distil *distil,
                         const int32_t *targets, const float *teacher, const float *weights,
                         float *logits);

#endif
