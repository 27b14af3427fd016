/* SPDX-License-Identifier: Apache-2.0
 *
 * From what a model's file was fitted to (common/exit/store.h) and what somebody wants, to a rule
 * for each exit. Values only, any thread.
 */
#ifndef SHOAL_ENGINE_RULES_H
#define SHOAL_ENGINE_RULES_H

#include "common/base/hash.h"
#include "common/engine/depth.h"
#include "common/exit/store.h"

/* The fitted policies of every exit of a model. */
typedef struct shoal_exit_fitted {
    size_t n_exits;
    bool calibrated; /* the file says what they were fitted to */
    bool fits;       /* and that is this model */
    shoal_exit_set sets[SHOAL_MODEL_EXITS_MAX];
} shoal_exit_fitted;

/* From the model's own file: metadata alone. A policy that is no policy is refused by key. */
shoal_status shoal_exit_fitted_load(const char *path, const shoal_model *model,
                                    shoal_exit_fitted *ret_fitted, shoal_err *err) SHOAL_MUST_CHECK;

/* Who leaves. name: "off"; a kind, "risk", which means the fitted policy of every exit that has
 * one; or a whole policy, "fixed:threshold=0.9", for every exit. threshold: NaN, or what the
 * policies compare with in place of their own: then fixed and margin and entropy need no fitting.
 * ret_rules is [n_exits]; states are NULL: who wants PERCENTILE gives it one for each exit.
 * SHOAL_E_INVALID: no such policy, or a number out of range; SHOAL_E_UNSUPPORTED: the model has no
 * exits; SHOAL_E_NOTFOUND: no exit has that kind fitted; SHOAL_E_MISMATCH: to other weights. */
shoal_status shoal_exit_rules_choose(const shoal_exit_fitted *fitted, const char *name,
                                     float threshold, shoal_exit_rule *ret_rules,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* Whether any exit is on. */
bool shoal_exit_rules_any(const shoal_exit_rule *rules, size_t n_exits);

#endif
