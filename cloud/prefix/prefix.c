/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/prefix/prefix.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    BLOCK = SHOAL_PREFIX_BLOCK
};

static const uint32_t NONE = UINT32_MAX; /* no node; the parent of first blocks */

typedef struct node {
    int32_t ids[BLOCK];
    shoal_hash salt; /* zero: public */
    uint32_t parent;
    uint32_t n_children; /* that are cached */
    uint32_t chain;      /* next node of the bucket, or of the free ones */
    uint32_t newer;      /* in order of use, cached nodes only */
    uint32_t older;
    bool cached; /* its pages are kept; a public node stays without them */
    bool is_public;
} node;

struct shoal_prefix {
    shoal_kv_pool *pool;
    shoal_prefix_settings settings;
    size_t n_entries;   /* of a block's pages */
    size_t n_depth_max; /* blocks of the longest sequence */
    node *nodes;        /* [n_blocks_max] */
    uint32_t *pages;    /* [n_blocks_max][n_entries] */
    uint32_t *buckets;  /* [n_buckets] */
    size_t n_buckets;   /* a power of two */
    uint32_t free;      /* unused nodes */
    uint32_t newest;
    uint32_t oldest;
    size_t n_cached;
    uint32_t *path;       /* [n_depth_max] scratch: nodes of a chain */
    uint32_t *path_pages; /* [n_depth_max][n_entries] scratch */
};

static const shoal_hash no_salt;

/* --- life ------------------------------------------------------------------------------------- */

shoal_status shoal_prefix_new(shoal_kv_pool *pool, const shoal_prefix_settings *settings,
                              shoal_prefix **ret_prefix)
{
    size_t n = settings->n_blocks_max;
    if (n < 1 || n > SHOAL_PREFIX_BLOCKS_MAX) {
        return SHOAL_E_INVALID;
    }
    SHOAL_CLEANUP(shoal_prefix_freep) shoal_prefix *prefix = shoal_calloc(1, sizeof(*prefix));
    if (prefix == NULL) {
        return SHOAL_E_NOMEM;
    }
    prefix->pool = pool;
    prefix->settings = *settings;
    prefix->n_entries = shoal_kv_pool_block_entries(pool);
    prefix->n_depth_max = shoal_kv_pool_tokens_max(pool) / BLOCK + 1;
    prefix->n_buckets = 1;
    while (prefix->n_buckets < n) {
        prefix->n_buckets *= 2;
    }
    prefix->newest = NONE;
    prefix->oldest = NONE;
    prefix->free = NONE;
    prefix->pages = shoal_calloc(n, prefix->n_entries * sizeof(uint32_t));
    prefix->buckets = shoal_calloc(prefix->n_buckets, sizeof(uint32_t));
    prefix->path = shoal_calloc(prefix->n_depth_max, sizeof(uint32_t));
    prefix->path_pages = shoal_calloc(prefix->n_depth_max, prefix->n_entries * sizeof(uint32_t));
    prefix->nodes = shoal_calloc(n, sizeof(*prefix->nodes));
    if (prefix->pages == NULL || prefix->buckets == NULL || prefix->path == NULL ||
        prefix->path_pages == NULL || prefix->nodes == NULL) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < prefix->n_buckets; i++) {
        prefix->buckets[i] = NONE;
    }
    for (size_t i = n; i-- > 0;) {
        prefix->nodes[i].chain = prefix->free;
        prefix->free = (uint32_t)i;
    }
    *ret_prefix = SHOAL_STEAL(prefix);
    return SHOAL_OK;
}

void shoal_prefix_free(shoal_prefix *prefix)
{
    if (prefix == NULL) {
        return;
    }
    for (uint32_t i = prefix->oldest; prefix->nodes != NULL && i != NONE;) {
        shoal_kv_block_drop(prefix->pool, prefix->pages + i * prefix->n_entries);
        i = prefix->nodes[i].newer;
    }
    shoal_free(prefix->nodes);
    shoal_free(prefix->pages);
    shoal_free(prefix->buckets);
    shoal_free(prefix->path);
    shoal_free(prefix->path_pages);
    shoal_free(prefix);
}

size_t shoal_prefix_n_blocks(const shoal_prefix *prefix)
{
    return prefix->n_cached;
}

shoal_status shoal_prefix_owner_of(const shoal_prefix *prefix, const char *tenant,
                                   const shoal_hash *adapter, shoal_prefix_owner *ret_owner)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update_field(hasher, "shoal prefix", strlen("shoal prefix"));
    shoal_hasher_update_field(hasher, &prefix->settings.model, sizeof(prefix->settings.model));
    shoal_hasher_update_field(hasher, tenant, strlen(tenant));
    if (adapter) {
        shoal_hasher_update_field(hasher, adapter, sizeof(*adapter));
    }
    shoal_hasher_finish(hasher, &ret_owner->salt);
    ret_owner->adapted = adapter != NULL;
    return SHOAL_OK;
}

/* --- the table -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static size_t bucket_of(const shoal_prefix *prefix, uint32_t parent, const shoal_hash *salt,
                        const int32_t *ids)
{
    uint64_t salt_word = 0;
    memcpy(&salt_word, salt, sizeof(salt_word));
    uint64_t h = mix(mix(prefix->settings.secret, parent), salt_word);
    for (size_t i = 0; i < BLOCK; i++) {
        h = mix(h, (uint64_t)(uint32_t)ids[i] + (prefix->settings.secret >> 17));
    }
    return (size_t)h & (prefix->n_buckets - 1);
}

static uint32_t find_child(const shoal_prefix *prefix, uint32_t parent, const shoal_hash *salt,
                           const int32_t *ids)
{
    uint32_t i = prefix->buckets[bucket_of(prefix, parent, salt, ids)];
    while (i != NONE) {
        const node *n = &prefix->nodes[i];
        if (n->parent == parent && memcmp(&n->salt, salt, sizeof(*salt)) == 0 &&
            memcmp(n->ids, ids, sizeof(n->ids)) == 0) {
            break;
        }
        i = n->chain;
    }
    return i;
}

/* The public node of these tokens, else the owner's. */
static uint32_t find_block(const shoal_prefix *prefix, uint32_t parent,
                           const shoal_prefix_owner *owner, const int32_t *ids)
{
    uint32_t i = NONE;
    if (!owner->adapted && (parent == NONE || prefix->nodes[parent].is_public)) {
        i = find_child(prefix, parent, &no_salt, ids);
    }
    return i == NONE ? find_child(prefix, parent, &owner->salt, ids) : i;
}

/* A node without pages yet; the caller has seen that there is a free one. */
static uint32_t insert(shoal_prefix *prefix, uint32_t parent, const shoal_hash *salt,
                       const int32_t *ids)
{
    uint32_t i = prefix->free;
    node *n = &prefix->nodes[i];
    uint32_t *bucket = &prefix->buckets[bucket_of(prefix, parent, salt, ids)];
    prefix->free = n->chain;
    *n = (node){.salt = *salt, .parent = parent, .chain = *bucket};
    memcpy(n->ids, ids, sizeof(n->ids));
    *bucket = i;
    return i;
}

static void erase(shoal_prefix *prefix, uint32_t i)
{
    node *n = &prefix->nodes[i];
    uint32_t *at = &prefix->buckets[bucket_of(prefix, n->parent, &n->salt, n->ids)];
    while (*at != i) {
        at = &prefix->nodes[*at].chain;
    }
    *at = n->chain;
    n->chain = prefix->free;
    prefix->free = i;
}

shoal_status shoal_prefix_add_public(shoal_prefix *prefix, const int32_t *ids, size_t n_ids)
{
    uint32_t parent = NONE;
    for (size_t b = 0; b < n_ids / BLOCK; b++) {
        uint32_t i = find_child(prefix, parent, &no_salt, ids + b * BLOCK);
        if (i == NONE && prefix->free == NONE) {
            return SHOAL_BUSY;
        }
        i = i == NONE ? insert(prefix, parent, &no_salt, ids + b * BLOCK) : i;
        prefix->nodes[i].is_public = true;
        parent = i;
    }
    return SHOAL_OK;
}

size_t shoal_prefix_n_public(const shoal_prefix *prefix, const int32_t *ids, size_t n_ids)
{
    size_t n = 0;
    uint32_t i = NONE;
    while (n < n_ids / BLOCK) {
        i = find_child(prefix, i, &no_salt, ids + n * BLOCK);
        if (i == NONE) {
            break;
        }
        n++;
    }
    return n;
}

/* --- order of use ----------------------------------------------------------------------------- */

static void unlink_use(shoal_prefix *prefix, uint32_t i)
{
    const node *n = &prefix->nodes[i];
    *(n->newer == NONE ? &prefix->newest : &prefix->nodes[n->newer].older) = n->older;
    *(n->older == NONE ? &prefix->oldest : &prefix->nodes[n->older].newer) = n->newer;
}

static void link_newest(shoal_prefix *prefix, uint32_t i)
{
    node *n = &prefix->nodes[i];
    n->newer = NONE;
    n->older = prefix->newest;
    *(n->older == NONE ? &prefix->oldest : &prefix->nodes[n->older].newer) = i;
    prefix->newest = i;
}

/* The node and its ancestors were used, these after it: so a node is never used later than its
 * parent, and the longest unused one is a leaf. */
static void use(shoal_prefix *prefix, uint32_t i)
{
    for (; i != NONE; i = prefix->nodes[i].parent) {
        unlink_use(prefix, i);
        link_newest(prefix, i);
    }
}

static void drop(shoal_prefix *prefix, uint32_t i)
{
    node *n = &prefix->nodes[i];
    SHOAL_ASSERT(n->cached && n->n_children == 0);
    shoal_kv_block_drop(prefix->pool, prefix->pages + i * prefix->n_entries);
    unlink_use(prefix, i);
    n->cached = false;
    prefix->n_cached--;
    if (n->parent != NONE) {
        prefix->nodes[n->parent].n_children--;
    }
    if (!n->is_public) {
        erase(prefix, i);
    }
}

/* The longest unused leaf whose pages no sequence holds, else the longest unused one; never spared,
 * whose child is to come. */
static bool evict_but(shoal_prefix *prefix, uint32_t spared)
{
    uint32_t first = NONE;
    for (uint32_t i = prefix->oldest; i != NONE; i = prefix->nodes[i].newer) {
        const node *n = &prefix->nodes[i];
        if (n->n_children > 0 || i == spared) {
            continue;
        }
        if (shoal_kv_block_idle(prefix->pool, prefix->pages + i * prefix->n_entries)) {
            first = i;
            break;
        }
        first = first == NONE ? i : first;
    }
    if (first != NONE) {
        drop(prefix, first);
    }
    return first != NONE;
}

bool shoal_prefix_evict(shoal_prefix *prefix)
{
    return evict_but(prefix, NONE);
}

/* --- take and publish ------------------------------------------------------------------------- */

size_t shoal_prefix_take(shoal_prefix *prefix, const shoal_prefix_owner *owner, const int32_t *ids,
                         size_t n_ids, shoal_kv_seq *seq)
{
    size_t n_entries = prefix->n_entries;
    size_t n_blocks = SHOAL_MIN(n_ids / BLOCK, prefix->n_depth_max);
    size_t n = 0;
    uint32_t parent = NONE;
    while (n < n_blocks) {
        uint32_t i = find_block(prefix, parent, owner, ids + n * BLOCK);
        if (i == NONE || !prefix->nodes[i].cached) {
            break;
        }
        prefix->path[n++] = i;
        parent = i;
    }
    size_t n_had = shoal_kv_seq_length(seq);
    if (n * BLOCK <= n_had) {
        return 0;
    }
    for (size_t b = 0; b < n; b++) {
        memcpy(prefix->path_pages + b * n_entries, prefix->pages + prefix->path[b] * n_entries,
               n_entries * sizeof(uint32_t));
    }
    (void)shoal_kv_seq_truncate(seq, 0);
    if (shoal_kv_seq_adopt(seq, prefix->path_pages, n) != SHOAL_OK) {
        return 0;
    }
    use(prefix, parent);
    return n * BLOCK - n_had;
}

/* Keeps block b of seq in node i, which has none. */
static bool keep(shoal_prefix *prefix, uint32_t i, shoal_kv_seq *seq, size_t b)
{
    node *n = &prefix->nodes[i];
    if (shoal_kv_block_keep(seq, b, prefix->pages + i * prefix->n_entries) != SHOAL_OK) {
        return false;
    }
    n->cached = true;
    prefix->n_cached++;
    if (n->parent != NONE) {
        prefix->nodes[n->parent].n_children++;
    }
    link_newest(prefix, i);
    return true;
}

void shoal_prefix_publish(shoal_prefix *prefix, const shoal_prefix_owner *owner, const int32_t *ids,
                          shoal_kv_seq *seq)
{
    size_t n_blocks = shoal_kv_seq_length(seq) / BLOCK;
    uint32_t parent = NONE;
    for (size_t b = 0; b < n_blocks; b++) {
        uint32_t i = find_block(prefix, parent, owner, ids + b * BLOCK);
        if (i == NONE) {
            if (prefix->free == NONE && !evict_but(prefix, parent)) {
                return;
            }
            if (prefix->free == NONE) {
                return; /* what went was a public block: its place stays taken */
            }
            i = insert(prefix, parent, &owner->salt, ids + b * BLOCK);
        }
        if (!prefix->nodes[i].cached && !keep(prefix, i, seq, b)) {
            if (!prefix->nodes[i].is_public) {
                erase(prefix, i);
            }
            return;
        }
        use(prefix, i);
        parent = i;
    }
}
