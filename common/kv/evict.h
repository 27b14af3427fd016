/* SPDX-License-Identifier: Apache-2.0
 *
 * Which token a full KV cache gives up for the next one. One interface for every policy; a policy
 * decides for one KV head of one layer, from positions, from what attention each token has got and
 * from keys, so from the text alone. It moves nothing: that is kv.h. Pure, any thread.
 */
#ifndef SHOAL_KV_EVICT_H
#define SHOAL_KV_EVICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_KV_SINKS = 4,   /* first tokens that "window" never gives up */
    SHOAL_KV_LIGHTEST = 8 /* tokens whose keys "diverse" looks at */
};

/* The tokens that one head holds, in no order. */
typedef struct shoal_kv_held {
    size_t n; /* the budget, at least 32 */
    const uint32_t *positions;
    const float *mass; /* (n) attention that each got, over all rows and query heads since it was
                        * stored, as far as the policy keeps it; NULL for one that does not ask */
    /* Of the tokens with these indices, at most SHOAL_KV_LIGHTEST, the greatest cosine between the
     * key of each and that of another held token: 0..1, 0 where all are less and where a key has
     * no direction. NULL for a policy that does not ask. */
    void (*nearest)(const void *ctx, const size_t *tokens, size_t n_tokens, float *ret_nearest);
    const void *ctx;
} shoal_kv_held;

typedef struct shoal_kv_evict_policy {
    const char *name;
    bool by_mass;
    bool by_keys;
    float kept; /* of a token's mass after each row; 1: all of it */
    /* Index of the token that goes when the one at `position` comes, which is later than all that
     * are held. */
    size_t (*victim)(const shoal_kv_held *held, size_t position);
} shoal_kv_evict_policy;

/* "window": the first SHOAL_KV_SINKS tokens and the newest stay (StreamingLLM, 2309.17453).
 * "h2o": the newest n / 2 tokens stay, the one that comes included, and of the others those with
 * most attention (Heavy-Hitter Oracle, 2306.14048, algorithm 1): the one with least goes, the
 * earliest of several. A mass that is no number counts as none.
 * "diverse": as "h2o", but of the SHOAL_KV_LIGHTEST with least attention the one goes that the
 * others stand for best: with least mass * (1 - nearest). That is the least loss of the facility
 * location function f(S) = sum over i of mass_i * max over j in S of cos+(k_i, k_j), which is
 * monotone and submodular (Nemhauser, Wolsey, Fisher 1978): every other token stands for itself.
 * "a2sf": as "h2o", but what was paid n rows ago counts (31/32)^n times (forgetting factor of A2SF,
 * 2407.20485): a token that came early does not stay for having been seen by more rows.
 * NULL for an unknown name. */
const shoal_kv_evict_policy *shoal_kv_evict_find(const char *name);
/* The policies, for messages: "window, h2o, diverse, a2sf". */
const char *shoal_kv_evict_names(void);

#endif
