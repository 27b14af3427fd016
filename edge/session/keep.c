/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/session/keep.h"

#include "common/base/mem.h"
#include "common/base/name.h"

#include <string.h>

struct shoal_keep {
    size_t n_max;
    size_t n_pages_max;
    size_t n;
    size_t n_pages;
    shoal_kept *kept; /* (n_max), the last used first */
};

bool shoal_session_name_ok(const char *name, size_t n)
{
    return shoal_name_ok(name, n, SHOAL_SESSION_NAME_MAX);
}

shoal_status shoal_keep_new(size_t n_max, size_t n_pages_max, shoal_keep **ret_keep)
{
    if (n_max < 1 || n_max > SHOAL_SESSIONS_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_CLEANUP(shoal_keep_freep) shoal_keep *keep = shoal_calloc(1, sizeof *keep);
    if (!keep) {
        return SHOAL_E_NOMEM;
    }
    keep->kept = shoal_calloc(n_max, sizeof *keep->kept);
    if (!keep->kept) {
        return SHOAL_E_NOMEM;
    }
    keep->n_max = n_max;
    keep->n_pages_max = n_pages_max;
    *ret_keep = SHOAL_STEAL(keep);
    return SHOAL_OK;
}

void shoal_keep_free(shoal_keep *keep)
{
    if (!keep) {
        return;
    }
    while (shoal_keep_drop_oldest(keep)) {
    }
    shoal_free(keep->kept);
    shoal_free(keep);
}

/* keep->n: none has the name. */
static size_t index_of(const shoal_keep *keep, const char *name)
{
    size_t i = 0;
    while (i < keep->n && strcmp(keep->kept[i].name, name) != 0) {
        i++;
    }
    return i;
}

/* Out of the table; what it owns is the caller's. */
static shoal_kept remove_at(shoal_keep *keep, size_t i)
{
    shoal_kept kept = keep->kept[i];
    keep->n--;
    keep->n_pages -= kept.n_pages;
    memmove(keep->kept + i, keep->kept + i + 1, (keep->n - i) * sizeof *keep->kept);
    return kept;
}

static void insert_first(shoal_keep *keep, const shoal_kept *kept)
{
    memmove(keep->kept + 1, keep->kept, keep->n * sizeof *keep->kept);
    keep->kept[0] = *kept;
    keep->n++;
    keep->n_pages += kept->n_pages;
}

static void drop_at(shoal_keep *keep, size_t i)
{
    shoal_kept kept = remove_at(keep, i);
    shoal_kv_seq_free(kept.seq);
    shoal_free(kept.ids);
}

shoal_status shoal_keep_put(shoal_keep *keep, const char *name, const int32_t *ids, size_t n_ids,
                            shoal_kept_kind kind, shoal_kv_seq *take_seq)
{
    size_t n_name = strlen(name);
    if (!shoal_session_name_ok(name, n_name) || n_ids == 0) {
        return SHOAL_E_INVALID;
    }
    SHOAL_ASSERT(shoal_kv_seq_length(take_seq) == n_ids && shoal_kv_seq_whole(take_seq) == n_ids);
    shoal_kept kept = {.n_ids = n_ids,
                       .seq = take_seq,
                       .n_pages = shoal_kv_seq_need(take_seq).n_pages_held,
                       .kind = kind};
    memcpy(kept.name, name, n_name);
    if (kept.n_pages > keep->n_pages_max) {
        return SHOAL_E_LIMIT;
    }
    kept.ids = shoal_calloc(n_ids, sizeof *kept.ids);
    if (!kept.ids) {
        return SHOAL_E_NOMEM;
    }
    memcpy(kept.ids, ids, n_ids * sizeof *ids);
    (void)shoal_keep_drop(keep, name);
    while (keep->n == keep->n_max || kept.n_pages > keep->n_pages_max - keep->n_pages) {
        drop_at(keep, keep->n - 1);
    }
    insert_first(keep, &kept);
    return SHOAL_OK;
}

shoal_kv_seq *shoal_keep_take(shoal_keep *keep, const char *name, const int32_t *ids, size_t n_ids,
                              const struct shoal_lora *lora, bool *ret_lossy)
{
    size_t i = index_of(keep, name);
    if (i == keep->n) {
        return NULL;
    }
    shoal_kept kept = remove_at(keep, i);
    size_t n_most = kept.kind.lora == lora ? SHOAL_MIN(kept.n_ids, n_ids) : 0;
    size_t n = 0;
    while (n < n_most && kept.ids[n] == ids[n]) {
        n++;
    }
    shoal_free(kept.ids);
    if (shoal_kv_seq_truncate(kept.seq, n) == 0) {
        shoal_kv_seq_free(kept.seq);
        return NULL;
    }
    *ret_lossy = kept.kind.lossy;
    return kept.seq;
}

const shoal_kept *shoal_keep_find(shoal_keep *keep, const char *name)
{
    size_t i = index_of(keep, name);
    if (i == keep->n) {
        return NULL;
    }
    shoal_kept kept = remove_at(keep, i);
    insert_first(keep, &kept);
    return &keep->kept[0];
}

bool shoal_keep_drop(shoal_keep *keep, const char *name)
{
    size_t i = index_of(keep, name);
    if (i == keep->n) {
        return false;
    }
    drop_at(keep, i);
    return true;
}

bool shoal_keep_drop_oldest(shoal_keep *keep)
{
    if (keep->n == 0) {
        return false;
    }
    drop_at(keep, keep->n - 1);
    return true;
}

size_t shoal_keep_n(const shoal_keep *keep)
{
    return keep->n;
}

size_t shoal_keep_n_pages(const shoal_keep *keep)
{
    return keep->n_pages;
}

size_t shoal_keep_n_pages_max(const shoal_keep *keep)
{
    return keep->n_pages_max;
}

const shoal_kept *shoal_keep_at(const shoal_keep *keep, size_t i)
{
    SHOAL_ASSERT(i < keep->n);
    return &keep->kept[i];
}
