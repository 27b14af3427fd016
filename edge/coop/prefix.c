/* SPDX-License-Identifier: Apache-2.0
 *
 * Prefixes that came with the model: KV of texts that prompts begin with, such as a fleet's system
 * prompt. A prompt that begins alike takes the whole blocks of it, shared, and computes the rest:
 * the same bits as if it had computed all (R2, R4). They are a cache: requests that need their
 * pages, and could not begin otherwise, get them.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK
};

static shoal_status fill(shoal_coop *coop, shoal_session_copy *copy, prefix *p, shoal_err *err)
{
    shoal_kv_pool *pool = shoal_engine_kv(coop->engine);
    size_t n = copy->n_ids / BLOCK * BLOCK;
    size_t n_pages = shoal_kv_pool_pages_for(pool, n);
    if (n == 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "a prefix of %zu tokens has no whole block of %d", copy->n_ids,
                             (int)BLOCK);
    }
    if (n_pages > shoal_kv_pool_n_pages(pool) / 2 -
                      SHOAL_MIN(shoal_kv_pool_n_pages(pool) / 2, coop->n_pages_promised)) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "a prefix of %zu tokens would leave less than half of the KV to "
                             "requests: raise kv.max_mib",
                             n);
    }
    if (shoal_kv_seq_new(pool, &p->seq) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a prefix");
    }
    SHOAL_TRY(shoal_session_copy_in(copy, p->seq, err));
    p->ids = SHOAL_STEAL(copy->ids);
    p->n_ids = n;
    p->n_pages = n_pages;
    coop->n_pages_promised += n_pages;
    coop->n_prefixes++;
    return SHOAL_OK;
}

shoal_status shoal_prefix_load(shoal_coop *coop, const shoal_coop_prefix *blob, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
    shoal_session_identity identity = coop->identity;
    identity.has_secret = false; /* the bundle's signature says whose it is */
    identity.archive = NULL;     /* a prefix is what would have been computed */
    if (coop->n_prefixes == SHOAL_COOP_PREFIXES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "more than %d prefixes",
                             (int)SHOAL_COOP_PREFIXES_MAX);
    }
    if (shoal_kv_pool_shape(shoal_engine_kv(coop->engine))->evict) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "a prefix cannot be taken up where KV is evicted (kv.evict)");
    }
    SHOAL_TRY(shoal_session_read(&identity, blob->bytes, blob->n_bytes, &copy, err));
    prefix *p = &coop->prefixes[coop->n_prefixes];
    shoal_status status = fill(coop, copy, p, err);
    if (status != SHOAL_OK) {
        shoal_kv_seq_free(p->seq);
        *p = (prefix){0};
    }
    return status;
}

/* Whole blocks that both begin with. */
static size_t n_common(const prefix *p, const int32_t *ids, size_t n_ids)
{
    size_t n = 0;
    while (n < p->n_ids && n < n_ids && p->ids[n] == ids[n]) {
        n++;
    }
    return n / BLOCK * BLOCK;
}

shoal_kv_seq *shoal_prefix_fork(shoal_coop *coop, const gen *g)
{
    const prefix *best = NULL;
    size_t n_best = 0;
    if (coop->n_prefixes == 0 || g->score_prompt || g->lora != coop->settings.lora) {
        return NULL;
    }
    /* The rows behind which something is looked at are computed. */
    size_t n_ids = g->n_prompt - shoal_assist_prompt_rows(coop, g, g->n_prompt);
    for (size_t i = 0; i < coop->n_prefixes; i++) {
        size_t n = n_common(&coop->prefixes[i], g->tokens, n_ids);
        if (n > n_best) {
            best = &coop->prefixes[i];
            n_best = n;
        }
    }
    shoal_kv_seq *seq = NULL;
    return best && shoal_kv_seq_fork(best->seq, n_best, &seq) == SHOAL_OK ? seq : NULL;
}

bool shoal_prefix_drop(shoal_coop *coop)
{
    if (coop->n_prefixes == 0) {
        return false;
    }
    prefix *p = &coop->prefixes[--coop->n_prefixes];
    coop->n_pages_promised -= p->n_pages;
    shoal_kv_seq_free(p->seq);
    shoal_free(p->ids);
    *p = (prefix){0};
    return true;
}
