/* SPDX-License-Identifier: Apache-2.0 */
#include "common/spec/spec.h"

shoal_status shoal_spec_verify(shoal_sampler *sampler, const shoal_sampling *sampling,
                               const shoal_spec_guide *guide, const float *const *logits,
                               const int32_t *history, size_t n_history, size_t n_drafts,
                               int (*is_end)(const void *ctx, int32_t id), const void *end_ctx,
                               shoal_verdict *ret_verdict)
{
    SHOAL_ASSERT(n_drafts <= SHOAL_SPEC_SPAN_MAX);
    shoal_sampling held = *sampling;
    ret_verdict->n_accepted = 0;
    for (size_t i = 0; i <= n_drafts; i++) {
        if (guide && !guide->allow(guide->ctx, &held.allowed)) {
            return SHOAL_E_UNSUPPORTED;
        }
        /* The verifier's own sample at position n_history + i. It stands either as the draft it
         * confirms or as the token that ends the span. */
        shoal_sampled own;
        shoal_sample(sampler, &held, logits[i], history, n_history + i, &own);
        if (i == n_drafts || own.id != history[n_history + i]) {
            ret_verdict->next = own;
            return SHOAL_OK;
        }
        ret_verdict->confidences[ret_verdict->n_accepted++] = own.confidence;
        if (is_end(end_ctx, own.id)) {
            ret_verdict->next = (shoal_sampled){.id = -1, .confidence = 0, .top_gap = 0};
            return SHOAL_OK;
        }
        if (guide) {
            guide->follow(guide->ctx, own.id);
        }
    }
    return SHOAL_OK;
}
