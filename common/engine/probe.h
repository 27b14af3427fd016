/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model answers when nothing is drawn: the likeliest token after each, the lowest id among
 * equals. The same ids on every machine (R2), so it can be written beside a model and compared
 * where the model has arrived. An engine of its own is made for it, with KV as exact as the model
 * (shoal_engine_settings, kv_type -1). Any thread; blocks while it computes.
 */
#ifndef SHOAL_ENGINE_PROBE_H
#define SHOAL_ENGINE_PROBE_H

#include "common/engine/engine.h"

/* n tokens after ids, at least one each; end tokens are tokens like others. lora: NULL or an
 * adapter of the model. SHOAL_E_INVALID: an id outside the vocabulary, or logits that are no
 * numbers; SHOAL_E_LIMIT: longer than the model's context; SHOAL_E_NOMEM. */
shoal_status shoal_probe_greedy(const shoal_model *model, const shoal_lora *lora, uint32_t cpu_mask,
                                const int32_t *ids, size_t n_ids, int32_t *ret_answer, size_t n,
                                shoal_err *err) SHOAL_MUST_CHECK;

#endif
