/* SPDX-License-Identifier: Apache-2.0
 *
 * Draft, verify, roll back: a shallower tier proposes ids, a deeper tier's own samples under the
 * same noise judge them by equality (DESIGN sections 2 and 4). Pure; allocates nothing.
 */
#ifndef SHOAL_SPEC_SPEC_H
#define SHOAL_SPEC_SPEC_H

#include "common/sample/sample.h"

enum {
    SHOAL_SPEC_SPAN_MAX = 64
};

typedef struct shoal_verdict {
    size_t n_accepted;  /* leading drafts that equal the verifier's samples */
    shoal_sampled next; /* the verifier's own token after them: correction or bonus */
    float confidences[SHOAL_SPEC_SPAN_MAX]; /* of the accepted drafts, by the verifier */
} shoal_verdict;

/* What keeps the verifier's own tokens to a form. */
typedef struct shoal_spec_guide {
    /* The only tokens that may stand next (as shoal_sampling's, NULL: all); false: there is none.
     */
    bool (*allow)(void *ctx, const uint32_t **ret_allowed);
    void (*follow)(void *ctx, int32_t id); /* a draft stands, and the text goes on behind it */
    void *ctx;
} shoal_spec_guide;

/* history[0..n_history) is confirmed; history[n_history..n_history + n_drafts) holds the drafts.
 * logits[i] is the verifier's row after token n_history - 1 + i, for i in [0, n_drafts]. Each
 * sample is among what guide allows; guide NULL: all. An accepted end token (is_end) ends the span:
 * next is then that token's sample position unused, n_accepted counts it, and next.id is -1.
 * SHOAL_E_UNSUPPORTED: after a draft that stands there is nothing that may follow, never without a
 * guide. */
shoal_status shoal_spec_verify(shoal_sampler *sampler, const shoal_sampling *sampling,
                               const shoal_spec_guide *guide, const float *const *logits,
                               const int32_t *history, size_t n_history, size_t n_drafts,
                               int (*is_end)(const void *ctx, int32_t id), const void *end_ctx,
                               shoal_verdict *ret_verdict) SHOAL_MUST_CHECK;

#endif
