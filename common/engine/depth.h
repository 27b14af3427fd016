/* SPDX-License-Identifier: Apache-2.0
 *
 * Deferred depth: how far into the layers the tokens of one sequence have come. A token may leave
 * at an exit (common/exit says when); its hidden state waits here, and the layers above it are
 * computed with the next token of the sequence that goes deeper, all waiting ones in one batch. So
 * the KV of every layer is the same bits as if no token had ever left. Of two waiting tokens the
 * later one never is the deeper one. Plain memory of one engine thread, beside its sequence.
 */
#ifndef SHOAL_ENGINE_DEPTH_H
#define SHOAL_ENGINE_DEPTH_H

#include "common/exit/exit.h"
#include "common/kv/kv.h"
#include "common/model/model.h"

enum {
    SHOAL_DEPTH_WAITING_MAX = 64
};

/* When a token may leave at an exit. */
typedef struct shoal_exit_rule {
    bool on;                  /* false: nothing leaves here, and its logits are not computed */
    shoal_exit_policy policy; /* checked */
    shoal_exit_state *state;  /* borrowed; NULL for kinds without memory */
} shoal_exit_rule;

typedef struct shoal_depth shoal_depth;

/* For one sequence of this model, which has exits and is borrowed. n_waiting_max tokens wait at
 * most, 1 to SHOAL_DEPTH_WAITING_MAX: a token for which there is no place goes through all layers
 * and takes the others along. SHOAL_E_LIMIT; SHOAL_E_UNSUPPORTED for a model without exits;
 * SHOAL_E_NOMEM. Holds n_waiting_max rows of the model's width. */
shoal_status shoal_depth_new(const shoal_model *model, size_t n_waiting_max,
                             shoal_depth **ret_depth) SHOAL_MUST_CHECK;
void shoal_depth_free(shoal_depth *depth);
SHOAL_DEFINE_CLEANUP(shoal_depth, shoal_depth_free)

/* Tokens of the sequence that some layer lacks. A truncation of the sequence needs no word here. */
size_t shoal_depth_n_waiting(const shoal_kv_seq *seq);
size_t shoal_depth_n_waiting_max(const shoal_depth *depth);

/* --- for the engine ------------------------------------------------------------------------------
 */

/* The sequence may have been cut since the last step. */
void shoal_depth_follow(shoal_depth *depth, const shoal_kv_seq *seq);
/* Positions [0, filled) have gone through the layers below exit exit_i; n_exits: through all. */
size_t shoal_depth_filled(const shoal_depth *depth, size_t exit_i);
/* Positions below end have come through the layers below exit exit_i, and all exits before it. */
void shoal_depth_fill(shoal_depth *depth, size_t exit_i, size_t end);
/* The hidden state of a waiting position, (dim), where it left. */
float *shoal_depth_state(shoal_depth *depth, size_t position);

#endif
