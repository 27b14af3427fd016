/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions that are kept: under a name, the tokens of a text and the sequence that has their KV,
 * between one request and the next. What is kept is bounded in number and in pages of the pool;
 * the longest unused goes first. Engine-only; knows no clock: order is the order of calls.
 *
 * Two requests of one name at once: the first takes what is kept, the other computes; whichever
 * ends last is what is kept then.
 */
#ifndef SHOAL_SESSION_KEEP_H
#define SHOAL_SESSION_KEEP_H

#include "common/kv/kv.h"

enum {
    SHOAL_SESSION_NAME_MAX = 64, /* bytes */
    SHOAL_SESSIONS_MAX = 1024
};

/* 1 to SHOAL_SESSION_NAME_MAX letters, digits, '.', '_' and '-' of ASCII. */
bool shoal_session_name_ok(const char *name, size_t n);

/* What a text's KV is, beside its tokens. */
typedef struct shoal_kept_kind {
    const struct shoal_lora
        *lora;  /* of common/model, that it was computed with; compared alone; NULL: none */
    bool lossy; /* some of it came archived, and what follows was computed from that */
} shoal_kept_kind;

typedef struct shoal_kept {
    char name[SHOAL_SESSION_NAME_MAX + 1];
    int32_t *ids; /* (n_ids), whose KV seq has: its whole length */
    size_t n_ids;
    shoal_kv_seq *seq;
    size_t n_pages; /* of the pool, held by seq */
    shoal_kept_kind kind;
} shoal_kept;

typedef struct shoal_keep shoal_keep;

/* At most n_max sessions, 1..SHOAL_SESSIONS_MAX, of n_pages_max pages together. SHOAL_E_LIMIT,
 * SHOAL_E_NOMEM. The pool of what is put must outlive it. */
shoal_status shoal_keep_new(size_t n_max, size_t n_pages_max,
                            shoal_keep **ret_keep) SHOAL_MUST_CHECK;
void shoal_keep_free(shoal_keep *keep);
SHOAL_DEFINE_CLEANUP(shoal_keep, shoal_keep_free)

/* Keeps ids (copied) and the sequence that has exactly them, in place of what had the name; others
 * are dropped until it fits. Nothing is changed and the sequence stays the caller's with
 * SHOAL_E_INVALID: the name, or no token; SHOAL_E_LIMIT: more pages than may be kept;
 * SHOAL_E_NOMEM.
 */
shoal_status shoal_keep_put(shoal_keep *keep, const char *name, const int32_t *ids, size_t n_ids,
                            shoal_kept_kind kind, shoal_kv_seq *take_seq) SHOAL_MUST_CHECK;
/* Takes a session out: its sequence, cut to the tokens that it begins with in common with ids, at
 * most n_ids, and whether it is lossy; the caller owns it. NULL: there is none of that name,
 * nothing is left of it, or it was computed with another adapter. */
shoal_kv_seq *shoal_keep_take(shoal_keep *keep, const char *name, const int32_t *ids, size_t n_ids,
                              const struct shoal_lora *lora, bool *ret_lossy);
/* Borrowed until the next call that changes anything; NULL: none. Counts as a use. */
const shoal_kept *shoal_keep_find(shoal_keep *keep, const char *name);
/* False: there is none. */
bool shoal_keep_drop(shoal_keep *keep, const char *name);
/* Drops the longest unused; false: there is none. */
bool shoal_keep_drop_oldest(shoal_keep *keep);

size_t shoal_keep_n(const shoal_keep *keep);
size_t shoal_keep_n_pages(const shoal_keep *keep);
size_t shoal_keep_n_pages_max(const shoal_keep *keep);
/* The i-th, the last used first; borrowed as above. */
const shoal_kept *shoal_keep_at(const shoal_keep *keep, size_t i);

#endif
