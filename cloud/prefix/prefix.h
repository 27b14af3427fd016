/* SPDX-License-Identifier: Apache-2.0
 *
 * The prefix cache: a radix tree over blocks of 32 tokens whose nodes keep the KV pages of a text's
 * block (shoal_kv_block_keep). A sequence begins with the longest chain that is there, and gives
 * its own full blocks as they fill. Automatic prefix caching over paged KV is from Kwon et al.,
 * "Efficient Memory Management for Large Language Model Serving with PagedAttention" (SOSP 2023),
 * the tree with least-recently-used leaves from Zheng et al., "SGLang" (RadixAttention, 2024).
 *
 * Tenants are apart by a salt in every node (R10); what an operator marks as public has none. So
 * are a model's adapters, whose KV is another: what is public is the base's alone. Engine-only.
 */
#ifndef SHOAL_CLOUD_PREFIX_PREFIX_H
#define SHOAL_CLOUD_PREFIX_PREFIX_H

#include "common/base/hash.h"
#include "common/kv/kv.h"

#include <stdbool.h>

enum {
    SHOAL_PREFIX_BLOCK = SHOAL_KV_BLOCK,
    SHOAL_PREFIX_BLOCKS_MAX = 1 << 24
};

typedef struct shoal_prefix_settings {
    shoal_hash model;    /* content hash: part of every salt */
    size_t n_blocks_max; /* 1..SHOAL_PREFIX_BLOCKS_MAX; each keeps a page of every layer */
    uint64_t secret;     /* keys the table, so that nobody can choose collisions */
} shoal_prefix_settings;

typedef struct shoal_prefix shoal_prefix;

/* pool is borrowed for the cache's life. */
shoal_status shoal_prefix_new(shoal_kv_pool *pool, const shoal_prefix_settings *settings,
                              shoal_prefix **ret_prefix) SHOAL_MUST_CHECK;
void shoal_prefix_free(shoal_prefix *prefix);
SHOAL_DEFINE_CLEANUP(shoal_prefix, shoal_prefix_free)

/* Whose blocks, and what they were computed with. */
typedef struct shoal_prefix_owner {
    shoal_hash salt;
    bool adapted; /* with an adapter: nothing public is for it */
} shoal_prefix_owner;

/* adapter: the hash of the one that the model has for this text; NULL: none. */
shoal_status shoal_prefix_owner_of(const shoal_prefix *prefix, const char *tenant,
                                   const shoal_hash *adapter,
                                   shoal_prefix_owner *ret_owner) SHOAL_MUST_CHECK;
/* From now on the full blocks of this text, from its first token on, are everybody's; their places
 * are never given up. SHOAL_BUSY: over n_blocks_max. */
shoal_status shoal_prefix_add_public(shoal_prefix *prefix, const int32_t *ids,
                                     size_t n_ids) SHOAL_MUST_CHECK;

/* Leading blocks of ids[0..n_ids) that are marked so. */
size_t shoal_prefix_n_public(const shoal_prefix *prefix, const int32_t *ids, size_t n_ids);

/* Makes seq, whose tokens are ids[0..length), begin with the longest cached chain of ids[0..n_ids)
 * when that is longer than what it has. Returns the tokens it gained. Takes no page. */
size_t shoal_prefix_take(shoal_prefix *prefix, const shoal_prefix_owner *owner, const int32_t *ids,
                         size_t n_ids, shoal_kv_seq *seq);
/* Keeps the full blocks of seq, whose tokens are ids[0..length) and final, as far as the tree lacks
 * them. When it is full, the longest unused leaves go. */
void shoal_prefix_publish(shoal_prefix *prefix, const shoal_prefix_owner *owner, const int32_t *ids,
                          shoal_kv_seq *seq);
/* Drops one leaf, the longest unused: one whose pages no sequence holds, if there is any. False:
 * nothing is cached. */
bool shoal_prefix_evict(shoal_prefix *prefix);
/* Blocks that are cached. */
size_t shoal_prefix_n_blocks(const shoal_prefix *prefix);

#endif
