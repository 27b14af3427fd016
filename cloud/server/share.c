/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/share.h"

#include "common/base/mem.h"
#include "common/kv/kv_move.h"

#include <string.h>

enum {
    BLOCK = SHOAL_BLOCK_TOKENS,
    WINDOW = 16,       /* blocks of one session asked for at once */
    AGAIN_MS_MOST = 20 /* between two questions for a block that another makes */
};

static const uint64_t FORGET_NS = 10000000000u; /* what fetching costs, without a fetch */
static const uint64_t PUT_AGAIN_NS = 50000000u; /* after the store had no place */
static const uint64_t NO_TAG = UINT64_MAX;      /* results that nobody waits for */

_Static_assert((int)BLOCK == (int)SHOAL_PREFIX_BLOCK, "a block is a block");

/* One block of a text. */
typedef struct piece {
    shoal_block_id id;
    shoal_block *block; /* that has come and is not taken over; NULL: none */
    bool leased;        /* it is ours to make */
    uint64_t asked_us;  /* since the fetch began */
} piece;

/* Blocks [from, from + n) of one session's text. It outlives its session by the results that are
 * under way, and its questions by the leases that are not fulfilled. */
typedef struct fetch {
    uint64_t turn; /* 0: free; else which fetch of all */
    piece *pieces; /* [n] */
    size_t n;
    size_t from;          /* index of the first block in the text */
    size_t n_asked;       /* blocks before it were asked for */
    size_t n_taken;       /* blocks before it are in the session's KV */
    size_t end;           /* blocks from it on will not come */
    size_t busy;          /* the first block that another makes; n: none */
    size_t n_outstanding; /* results that are to come */
    bool asking;          /* the session waits */
    bool left;            /* there is no session any more */
    bool waited;          /* for another's lease: its time says nothing */
    uint64_t began_ns;
    uint64_t until_ns;     /* give up what has not come */
    uint64_t lease_ns;     /* give up waiting for what others make */
    uint64_t again_ns;     /* when to ask again for it; 0: not set */
    uint32_t retry_ms;     /* as the store said */
    uint64_t took_us;      /* until the last block came */
    uint64_t took_over_us; /* spent on taking blocks over */
} fetch;

struct shoal_share {
    shoal_share_settings settings;
    const shoal_cloud_metrics *metrics;
    char form[SHOAL_KV_FORM_BYTES];
    shoal_hash open_root;
    const shoal_kv_shape *shape; /* of the pool */
    fetch *fetches;              /* [n_fetches_max] */
    size_t n_asking;
    uint64_t turn;
    shoal_sched_cost cost; /* of fetching, by blocks */
    uint64_t cost_ns;      /* when it was last observed */
    uint64_t put_ns;       /* the store was full: nothing is given before */
};

/* --- life ------------------------------------------------------------------------------------- */

shoal_status shoal_share_new(const shoal_share_settings *settings,
                             const shoal_cloud_metrics *metrics, shoal_share **ret_share)
{
    SHOAL_CLEANUP(shoal_share_freep) shoal_share *share = shoal_calloc(1, sizeof(*share));
    if (share == NULL) {
        return SHOAL_E_NOMEM;
    }
    const shoal_kv_shape *shape = shoal_kv_pool_shape(settings->pool);
    share->settings = *settings;
    share->metrics = metrics;
    share->shape = shape;
    shoal_kv_form(shape, share->form);
    share->fetches = shoal_calloc(settings->n_fetches_max, sizeof(*share->fetches));
    if (share->fetches == NULL) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(shoal_block_root(&settings->model, share->form, NULL, 0, &share->open_root));
    *ret_share = SHOAL_STEAL(share);
    return SHOAL_OK;
}

static void drop_blocks(fetch *f)
{
    for (size_t i = 0; f->pieces != NULL && i < f->n; i++) {
        shoal_block_free(SHOAL_STEAL(f->pieces[i].block));
    }
}

static void empty(fetch *f)
{
    drop_blocks(f);
    shoal_free(f->pieces);
    *f = (fetch){.turn = 0};
}

void shoal_share_free(shoal_share *share)
{
    if (share == NULL) {
        return;
    }
    for (size_t i = 0; share->fetches != NULL && i < share->settings.n_fetches_max; i++) {
        empty(&share->fetches[i]);
    }
    shoal_free(share->fetches);
    shoal_free(share);
}

size_t shoal_share_n_asking(const shoal_share *share)
{
    return share->n_asking;
}

/* The session's own fetch, while there is one. */
static fetch *fetch_of(const shoal_share *share, const shoal_share_part *part)
{
    fetch *f = &share->fetches[part->fetch];
    return part->turn != 0 && f->turn == part->turn ? f : NULL;
}

/* --- names ------------------------------------------------------------------------------------ */

/* SHA-256 twice over the secret, so that no name tells another's. */
static shoal_status salt_of(const shoal_share *share, const char *tenant, const shoal_hash *adapter,
                            shoal_hash *ret_salt)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update_field(hasher, "shoal store", strlen("shoal store"));
    shoal_hasher_update_field(hasher, &share->settings.secret, sizeof(share->settings.secret));
    shoal_hasher_update_field(hasher, tenant, strlen(tenant));
    if (adapter != NULL) {
        shoal_hasher_update_field(hasher, adapter, sizeof(*adapter));
    }
    shoal_hasher_finish(hasher, ret_salt);
    return shoal_hash_of(ret_salt, sizeof(*ret_salt), ret_salt);
}

void shoal_share_join(shoal_share *share, const char *tenant, const shoal_hash *adapter,
                      shoal_share_part *ret_part)
{
    shoal_hash salt;
    *ret_part = (shoal_share_part){.adapted = adapter != NULL};
    ret_part->joined = salt_of(share, tenant, adapter, &salt) == SHOAL_OK &&
                       shoal_block_root(&share->settings.model, share->form, &salt, sizeof(salt),
                                        &ret_part->root) == SHOAL_OK;
}

static shoal_status next_name(const shoal_hash *root, size_t block, const int32_t *ids,
                              shoal_block_id *id)
{
    const shoal_block_id before = *id;
    return block == 0 ? shoal_block_first(root, ids, id)
                      : shoal_block_next(&before, ids + block * BLOCK, id);
}

/* Leading blocks of the first n that are public, where those named so far all are. */
static size_t n_public(const shoal_share *share, const shoal_share_part *part, const int32_t *ids,
                       size_t n)
{
    const shoal_prefix *prefix = share->settings.prefix;
    bool open = prefix != NULL && !part->adapted && part->n_open == part->n_named;
    return open ? shoal_prefix_n_public(prefix, ids, n * BLOCK) : 0;
}

/* Names the next block of the text, whose first n_open_max blocks are public (n_public). */
static shoal_status name_block(const shoal_share *share, shoal_share_part *part, const int32_t *ids,
                               size_t n_open_max, shoal_block_id *ret_id)
{
    size_t b = part->n_named;
    SHOAL_TRY(next_name(&part->root, b, ids, &part->own));
    *ret_id = part->own;
    if (b < n_open_max) {
        SHOAL_TRY(next_name(&share->open_root, b, ids, &part->open));
        part->n_open++;
        *ret_id = part->open;
    }
    part->n_named++;
    return SHOAL_OK;
}

/* --- is it worth it --------------------------------------------------------------------------- */

static double compute_us(const shoal_share_site *site, size_t n_blocks)
{
    size_t n_rows = n_blocks * BLOCK;
    size_t n_steps = (n_rows + site->prefill_chunk - 1) / site->prefill_chunk;
    return site->cost->fixed_us * (double)n_steps + site->cost->row_us * (double)n_rows;
}

/* As long as one of the two is not known, it is: so it gets known. */
static bool is_worth(shoal_share *share, const shoal_share_site *site, size_t n_blocks,
                     uint64_t now_ns)
{
    if (now_ns - SHOAL_MIN(share->cost_ns, now_ns) >= FORGET_NS) {
        share->cost = (shoal_sched_cost){.n = 0};
    }
    double fetch_us = shoal_sched_cost_us(&share->cost, n_blocks);
    double own_us = compute_us(site, n_blocks);
    return share->settings.always || fetch_us <= 0.0 || own_us <= 0.0 || fetch_us < own_us;
}

static void observe(shoal_share *share, size_t n_blocks, uint64_t us, uint64_t now_ns)
{
    shoal_sched_cost_observe(&share->cost, n_blocks, 0, us);
    share->cost_ns = now_ns;
}

/* --- results ---------------------------------------------------------------------------------- */

/* Frees a fetch that nobody waits for, that nothing is to come for, and whose leases are told. */
static void settle(fetch *f)
{
    bool leases = false;
    for (size_t i = 0; !f->left && i < f->n && !leases; i++) {
        leases = f->pieces[i].leased;
    }
    if (f->n_outstanding == 0 && !f->asking && !leases) {
        empty(f);
    }
}

static void give_back_lease(shoal_share *share, piece *p)
{
    p->leased = false;
    shoal_status status = shoal_store_release(share->settings.store, &p->id, NO_TAG);
    (void)status; /* without a place for the request it ends by itself */
}

static void take_result(shoal_share *share, fetch *f, size_t i, shoal_store_result *result)
{
    piece *p = &f->pieces[i];
    f->n_outstanding--;
    if (result->status == SHOAL_OK) {
        if (f->asking && i >= f->n_taken && i < f->end) {
            p->block = SHOAL_STEAL(result->block);
            f->took_us = SHOAL_MAX(f->took_us, p->asked_us + result->waited_us);
        }
    } else if (result->status == SHOAL_BUSY) {
        f->busy = SHOAL_MIN(f->busy, i);
        f->retry_ms = result->retry_ms;
    } else {
        f->end = SHOAL_MIN(f->end, i);
        p->leased = result->leased;
        if (p->leased && f->left) {
            give_back_lease(share, p);
        }
    }
    settle(f);
}

void shoal_share_poll(shoal_share *share)
{
    shoal_store *store = share->settings.store;
    shoal_store_result *result = NULL;
    while ((result = shoal_store_poll(store)) != NULL) {
        if (result->op == SHOAL_STORE_GET) {
            fetch *f = &share->fetches[result->tag >> 32];
            take_result(share, f, (size_t)(result->tag & UINT32_MAX), result);
        }
        shoal_store_result_free(store, result);
    }
}

/* --- asking ----------------------------------------------------------------------------------- */

/* The next questions, as many as have a place. */
static void ask(shoal_share *share, fetch *f, uint64_t now_ns)
{
    uint64_t slot = (uint64_t)(f - share->fetches);
    while (f->n_asked < f->end && f->n_outstanding < WINDOW) {
        piece *p = &f->pieces[f->n_asked];
        if (p->block == NULL) {
            p->asked_us = (now_ns - f->began_ns) / 1000u;
            size_t n_bytes = shoal_kv_block_bytes(share->shape, p->id.index);
            if (shoal_store_get(share->settings.store, &p->id, n_bytes, true,
                                slot << 32 | f->n_asked) != SHOAL_OK) {
                break;
            }
            f->n_outstanding++;
        }
        f->n_asked++;
    }
}

static fetch *free_fetch(const shoal_share *share)
{
    for (size_t i = 0; i < share->settings.n_fetches_max; i++) {
        if (share->fetches[i].turn == 0) {
            return &share->fetches[i];
        }
    }
    return NULL;
}

/* The fetch of another session for this block of its text; NULL: none. */
static const fetch *same_block(const shoal_share *share, const fetch *mine)
{
    for (size_t i = 0; i < share->settings.n_fetches_max; i++) {
        const fetch *f = &share->fetches[i];
        if (f != mine && f->turn != 0 && !f->left && mine->from >= f->from &&
            mine->from - f->from < f->n &&
            memcmp(&f->pieces[mine->from - f->from].id.name, &mine->pieces[0].id.name,
                   sizeof(shoal_hash)) == 0) {
            return f;
        }
    }
    return NULL;
}

/* A fetch of n blocks of the text from block from on, not yet asked for. NULL: no place or no
 * memory. */
static fetch *new_fetch(shoal_share *share, const shoal_share_part *part, const int32_t *ids,
                        size_t from, size_t n)
{
    fetch *f = free_fetch(share);
    piece *pieces = f == NULL ? NULL : shoal_calloc(n, sizeof(*pieces));
    if (pieces == NULL) {
        return NULL;
    }
    *f = (fetch){.turn = ++share->turn, .pieces = pieces, .n = n, .from = from};
    f->end = n;
    f->busy = n;
    shoal_share_part names = {.adapted = part->adapted, .root = part->root};
    shoal_block_id skipped;
    size_t n_open = n_public(share, &names, ids, from + n);
    for (size_t b = 0; b < from + n; b++) {
        shoal_block_id *id = b < from ? &skipped : &pieces[b - from].id;
        if (name_block(share, &names, ids, n_open, id) != SHOAL_OK) {
            empty(f);
            return NULL;
        }
    }
    return f;
}

/* Asks for the n blocks from block from on, unless another session does. False: there is nothing
 * to wait for. */
static bool begin(shoal_share *share, shoal_share_part *part, const shoal_share_site *site,
                  size_t from, size_t n, uint64_t now_ns)
{
    size_t n_ids = 0;
    const int32_t *ids = shoal_session_ids(site->session, &n_ids);
    fetch *f = new_fetch(share, part, ids, from, n);
    const fetch *other = f == NULL ? NULL : same_block(share, f);
    if (other != NULL) {
        /* It asks, and the prefix cache has for both what comes. What it has to make itself it
         * makes first, for it came first. */
        part->behind = other->asking ? other->turn : 0;
        part->behind_i = (uint32_t)(other - share->fetches);
        empty(f);
        return part->behind != 0;
    }
    if (f != NULL) {
        double own_ns = compute_us(site, n) * 1e3;
        f->began_ns = now_ns;
        f->until_ns = part->until_ns;
        f->lease_ns = f->until_ns;
        if (own_ns < (double)(f->until_ns - now_ns)) {
            f->lease_ns = now_ns + (uint64_t)own_ns;
        }
        ask(share, f, now_ns);
        if (f->n_outstanding == 0) {
            empty(f);
            f = NULL;
        }
    }
    if (f == NULL) {
        shoal_metric_add(share->metrics->store_full, 1);
        return false;
    }
    f->asking = true;
    share->n_asking++;
    part->fetch = (uint32_t)(f - share->fetches);
    part->turn = f->turn;
    return true;
}

/* --- taking over ------------------------------------------------------------------------------ */

/* SHOAL_OK: the next block is in the session's KV, and gone from here. */
static shoal_status take_block(const shoal_share_site *site, fetch *f)
{
    shoal_block *block = f->pieces[f->n_taken].block;
    shoal_status status = SHOAL_BUSY;
    do {
        if (shoal_session_blocks_missing(site->session) == 0) {
            return SHOAL_E_LIMIT;
        }
        status = shoal_session_import(site->session, shoal_block_payload(block),
                                      shoal_block_n_payload(block));
    } while (status == SHOAL_BUSY && site->make_room(site->ctx));
    if (status == SHOAL_OK) {
        shoal_block_free(SHOAL_STEAL(f->pieces[f->n_taken].block));
        f->n_taken++;
    }
    return status;
}

/* Takes over what has come, in order. False: the KV does not end where it goes, or takes no more.
 */
static bool take_over(shoal_share *share, const shoal_share_site *site, fetch *f)
{
    size_t have = shoal_session_kv_length(site->session) / BLOCK;
    if (shoal_session_blocks_missing(site->session) == 0 || have < f->from + f->n_taken) {
        return false;
    }
    while (f->n_taken < f->n && f->from + f->n_taken < have) {
        /* The prefix cache has got it meanwhile. */
        shoal_block_free(SHOAL_STEAL(f->pieces[f->n_taken].block));
        f->n_taken++;
    }
    size_t n_before = f->n_taken;
    shoal_status status = SHOAL_OK;
    while (status == SHOAL_OK && f->n_taken < f->end && f->pieces[f->n_taken].block != NULL) {
        status = take_block(site, f);
    }
    if (f->n_taken > n_before) {
        shoal_metric_add(share->metrics->store_tokens, (double)((f->n_taken - n_before) * BLOCK));
        if (site->prefix != NULL) {
            shoal_session_publish(site->session, site->prefix, site->owner);
        }
    }
    return status == SHOAL_OK;
}

/* The session waits no longer. */
static void end(shoal_share *share, shoal_share_part *part, fetch *f, bool late, uint64_t now_ns)
{
    const shoal_cloud_metrics *m = share->metrics;
    shoal_metric *outcome = f->n_taken > 0 ? m->store_hit : m->store_miss;
    shoal_metric_add(late ? m->store_late : outcome, 1);
    if (late && now_ns >= f->until_ns && !f->waited) {
        observe(share, f->n_asked, (now_ns - f->began_ns) / 1000u, now_ns);
    } else if (f->took_us > 0 && f->n_taken > 0 && !f->waited) {
        observe(share, f->n_taken, f->took_us + f->took_over_us, now_ns);
    }
    shoal_share_found(part, (f->from + f->n_taken) * BLOCK);
    part->until_ns = 0;
    f->asking = false;
    share->n_asking--;
    drop_blocks(f);
    settle(f);
}

/* Asks on. A block that another makes is asked for again after a while, if only after all that
 * were asked for with it are answered. */
static void ask_on(shoal_share *share, fetch *f, uint64_t now_ns)
{
    if (f->busy >= f->end) {
        ask(share, f, now_ns);
    } else if (f->n_outstanding == 0 && f->again_ns == 0) {
        uint32_t pause_ms = SHOAL_MIN(f->retry_ms, (uint32_t)AGAIN_MS_MOST);
        f->waited = true;
        f->again_ns = now_ns + pause_ms * 1000000u;
    } else if (f->n_outstanding == 0 && now_ns >= f->again_ns) {
        f->again_ns = 0;
        f->n_asked = f->busy;
        f->busy = f->n;
        ask(share, f, now_ns);
    }
}

/* True: the session should still wait. */
static bool go_on(shoal_share *share, shoal_share_part *part, const shoal_share_site *site,
                  fetch *f, const shoal_clock *clock)
{
    uint64_t before_ns = shoal_clock_now_ns(clock);
    bool takes = take_over(share, site, f);
    uint64_t now_ns = shoal_clock_now_ns(clock);
    f->took_over_us += (now_ns - before_ns) / 1000u;
    bool late = now_ns >= f->until_ns || (f->busy < f->end && now_ns >= f->lease_ns);
    if (!takes || f->n_taken >= f->end || late) {
        end(share, part, f, takes && f->n_taken < f->end, now_ns);
        return false;
    }
    ask_on(share, f, now_ns);
    if (f->n_outstanding == 0 && f->again_ns == 0) {
        end(share, part, f, false, now_ns); /* the store has no place for more questions */
        return false;
    }
    return true;
}

/* Whether the fetch of another session goes on that brings our blocks. */
static bool is_behind(const shoal_share *share, const shoal_share_part *part, uint64_t now_ns)
{
    const fetch *other = &share->fetches[part->behind_i];
    return part->behind != 0 && other->turn == part->behind && other->asking &&
           now_ns < part->until_ns;
}

bool shoal_share_fetch(shoal_share *share, shoal_share_part *part, const shoal_share_site *site,
                       const shoal_clock *clock)
{
    fetch *f = fetch_of(share, part);
    uint64_t now_ns = shoal_clock_now_ns(clock);
    if (f != NULL && f->asking) {
        return go_on(share, part, site, f, clock);
    }
    size_t n = shoal_session_blocks_missing(site->session);
    size_t from = shoal_session_kv_length(site->session) / BLOCK;
    if (!part->joined || n == 0 || from + n <= part->n_tried || f != NULL) {
        return false;
    }
    if (is_behind(share, part, now_ns)) {
        return true;
    }
    part->behind = 0;
    if (part->until_ns == 0) {
        part->until_ns = now_ns + share->settings.wait_ms * 1000000u;
    }
    bool worth = is_worth(share, site, n, now_ns);
    bool waits = worth && now_ns < part->until_ns && begin(share, part, site, from, n, now_ns);
    shoal_metric_add(share->metrics->store_dear, worth ? 0 : 1);
    if (part->behind == 0) {
        part->n_tried = from + n;
        part->until_ns = waits ? part->until_ns : 0;
    }
    return waits;
}

/* --- giving ----------------------------------------------------------------------------------- */

/* SHOAL_BUSY: the store has no place now. Without memory it is dropped, and counted there. */
static shoal_status put(shoal_share *share, shoal_share_part *part, const shoal_session *session,
                        const shoal_block_id *id)
{
    SHOAL_CLEANUP(shoal_block_freep) shoal_block *block = NULL;
    if (shoal_block_new(shoal_kv_block_bytes(share->shape, id->index), &block) == SHOAL_OK &&
        shoal_session_export(session, id->index, shoal_block_payload(block)) == SHOAL_OK &&
        shoal_store_put(share->settings.store, id, SHOAL_STEAL(block), NO_TAG) == SHOAL_BUSY) {
        return SHOAL_BUSY;
    }
    fetch *f = fetch_of(share, part);
    if (f != NULL && id->index >= f->from && id->index - f->from < f->n) {
        f->pieces[id->index - f->from].leased = false;
        settle(f);
    }
    return SHOAL_OK;
}

void shoal_share_found(shoal_share_part *part, size_t n_tokens)
{
    part->n_known = SHOAL_MAX(part->n_known, n_tokens / BLOCK);
}

void shoal_share_give(shoal_share *share, shoal_share_part *part, const shoal_share_site *site,
                      const shoal_clock *clock)
{
    size_t n = shoal_session_kv_length(site->session) / BLOCK;
    uint64_t now_ns = shoal_clock_now_ns(clock);
    if (!part->joined || n <= part->n_known || now_ns < share->put_ns) {
        return;
    }
    size_t n_ids = 0;
    const int32_t *ids = shoal_session_ids(site->session, &n_ids);
    bool worth = is_worth(share, site, n, now_ns);
    size_t n_open = n_public(share, part, ids, n);
    while (part->n_named < n) {
        shoal_block_id id;
        const shoal_share_part before = *part;
        if (name_block(share, part, ids, n_open, &id) != SHOAL_OK) {
            part->joined = false;
            return;
        }
        if (worth && id.index >= part->n_known &&
            put(share, part, site->session, &id) == SHOAL_BUSY) {
            *part = before; /* the rest is given with a later step */
            part->n_known = id.index;
            share->put_ns = now_ns + PUT_AGAIN_NS;
            return;
        }
    }
    part->n_known = n;
}

void shoal_share_dropped(shoal_share_part *part)
{
    part->n_tried = 0;
    part->until_ns = 0;
}

void shoal_share_leave(shoal_share *share, shoal_share_part *part)
{
    fetch *f = fetch_of(share, part);
    if (f == NULL) {
        return;
    }
    share->n_asking -= f->asking ? 1 : 0;
    f->asking = false;
    f->left = true;
    drop_blocks(f);
    for (size_t i = 0; i < f->n; i++) {
        if (f->pieces[i].leased) {
            give_back_lease(share, &f->pieces[i]);
        }
    }
    settle(f);
}
