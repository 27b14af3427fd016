/* SPDX-License-Identifier: Apache-2.0 */
#include "common/spec/spec.h"

void shoal_spec_verify(shoal_sampler *sampler, const shoal_sampling *sampling,
                       const float *const *logits, const int32_t *history, size_t n_history,
                       size_t n_drafts, int (*is_end)(const void *ctx, int32_t id),
                       const void *end_ctx, shoal_verdict *ret_verdict)
{
    SHOAL_ASSERT(n_drafts <= SHOAL_SPEC_SPAN_MAX);
    ret_verdict->n_accepted = 0;
    for (size_t i = 0; i <= n_drafts; i++) {
        /* The verifier's own sample at position n_history + i. It stands either as the draft it
         * confirms or as the token that ends the span. */
        shoal_sampled own;
        shoal_sample(sampler, sampling, logits[i], history, n_history + i, &own);
        if (i == n_drafts || own.id != history[n_history + i]) {
            ret_verdict->next = own;
            return;
        }
        ret_verdict->confidences[ret_verdict->n_accepted++] = own.confidence;
        if (is_end(end_ctx, own.id)) {
            ret_verdict->next = (shoal_sampled){.id = -1, .confidence = 0, .top_gap = 0};
            return;
        }
    }
}
