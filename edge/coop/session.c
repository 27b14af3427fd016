/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions: what an answer leaves of its KV is kept under the session's name, and the next request
 * of that name takes up what of it its prompt begins with. Requests under way come first: what is
 * kept has only the pages that nobody was promised. KV that was fetched archived is not exact and
 * is not kept: the next request might be of a mode whose answers it would change. A session that
 * was loaded from an archived blob is what its user asked for; it stays marked as such.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <string.h>

static size_t n_pages_free(const shoal_coop *coop)
{
    return shoal_kv_pool_n_pages(shoal_engine_kv(coop->engine)) - coop->n_pages_promised;
}

/* Drops kept sessions until n_pages are nobody's. */
static void make_room(shoal_coop *coop, size_t n_pages)
{
    while (coop->keep && shoal_keep_n_pages(coop->keep) > n_pages_free(coop) - n_pages &&
           shoal_keep_drop_oldest(coop->keep)) {
    }
}

/* Pages beyond those that a sequence of its length takes by itself: of a ring that has gone round.
 * They only become fewer as it grows. */
static size_t n_pages_more(const shoal_coop *coop, const shoal_kv_seq *seq)
{
    size_t held = shoal_kv_seq_need(seq).n_pages_held;
    size_t alone = shoal_kv_pool_pages_for(shoal_engine_kv(coop->engine), shoal_kv_seq_length(seq));
    return held - SHOAL_MIN(held, alone);
}

/* Its KV as far as its prompt begins with what was kept. The rows behind which something is looked
 * at are computed again. */
static shoal_kv_seq *take_kept(shoal_coop *coop, gen *g)
{
    if (!coop->keep || !g->session[0] || g->score_prompt) {
        return NULL;
    }
    size_t n_again = shoal_assist_prompt_rows(coop, g, g->n_prompt);
    return shoal_keep_take(coop->keep, g->session, g->tokens, g->n_prompt - n_again, g->lora,
                           &g->session_lossy);
}

shoal_status shoal_session_begin(shoal_coop *coop, gen *g, size_t n_pages)
{
    shoal_kv_seq *seq = take_kept(coop, g);
    bool is_kept = seq != NULL;
    seq = seq ? seq : shoal_prefix_fork(coop, g);
    size_t n_more = seq ? n_pages_more(coop, seq) : 0;
    if (n_more > n_pages_free(coop) - n_pages) {
        shoal_kv_seq_free(seq);
        seq = NULL;
        n_more = 0;
        g->session_lossy = false;
    }
    make_room(coop, n_pages + n_more);
    if (!seq) {
        SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(coop->engine), &seq));
    }
    g->seq = seq;
    g->n_pages = n_pages + n_more;
    g->usage.n_kept = shoal_kv_seq_length(seq);
    g->usage.n_archived = g->session_lossy ? g->usage.n_kept : 0;
    coop->n_pages_promised += g->n_pages;
    shoal_metric_add(is_kept ? coop->metrics.kept_tokens : coop->metrics.prefix_tokens,
                     (double)g->usage.n_kept);
    return SHOAL_OK;
}

void shoal_session_end(shoal_coop *coop, gen *g)
{
    coop->n_pages_promised -= g->n_pages;
    g->n_pages = 0;
    if (!coop->keep || !g->session[0] || !g->seq || g->lossy) {
        return;
    }
    /* Tokens that left early lack layers, drafts may be wrong. */
    size_t n = shoal_kv_seq_truncate(g->seq, SHOAL_MIN(shoal_kv_seq_whole(g->seq), g->n_confirmed));
    const shoal_kept_kind kind = {.lora = g->lora, .lossy = g->session_lossy};
    if (n > 0 && shoal_keep_put(coop->keep, g->session, g->tokens, n, kind, g->seq) == SHOAL_OK) {
        g->seq = NULL;
    }
}

/* --- asked from outside ----------------------------------------------------------------------- */

struct session_job {
    shoal_session_act act;
    char name[SHOAL_SESSION_NAME_MAX + 1];
    shoal_session_copy *copy;
    void (*on_done)(void *ctx, shoal_session_done *done);
    void *ctx;
};

void shoal_session_job_free(session_job *job)
{
    if (!job) {
        return;
    }
    shoal_session_copy_free(job->copy);
    shoal_free(job);
}

shoal_status shoal_session_open_archive(shoal_coop *coop, shoal_err *err)
{
    const char *path = coop->settings.archive_path;
    const shoal_kv_shape *shape = shoal_kv_pool_shape(shoal_engine_kv(coop->engine));
    bool fetched = coop->settings.fetch_archived != SHOAL_COOP_FETCH_OFF;
    if (!path) {
        return coop->settings.archive_sessions || fetched
                   ? shoal_err_set(err, SHOAL_E_INVALID,
                                   "%s needs a basis: set kv.archive to what shoal-forge "
                                   "kv-calibrate made for this model",
                                   fetched ? "fetch.archive" : "session.level archive")
                   : SHOAL_OK;
    }
    if (shape->type != SHOAL_KV_F16 || shape->evict) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "kv.archive: what is archived is KV in f16 of which all is kept: set "
                             "kv.type f16 and kv.evict none, or leave kv.archive empty");
    }
    SHOAL_TRY(shoal_archive_read(path, &coop->model->hash, shape, &coop->archive, err));
    double encode_us = 0;
    shoal_status status =
        shoal_archive_measure(coop->archive, shoal_engine_kernels(coop->engine), &coop->clock,
                              &encode_us, &coop->figures.restore_us);
    return status == SHOAL_OK ? SHOAL_OK : shoal_err_set(err, status, "no memory for kv.archive");
}

shoal_status shoal_session_identify(shoal_coop *coop)
{
    const shoal_kv_shape *shape = shoal_kv_pool_shape(shoal_engine_kv(coop->engine));
    shoal_session_identity *id = &coop->identity;
    *id = (shoal_session_identity){
        .model = coop->model->hash,
        .tokenizer = *shoal_tokenizer_hash(coop->model->tokenizer),
        .n_layers = (uint32_t)shoal_kv_form_layers(shape),
        .first_bytes = (uint32_t)(shoal_kv_block_bytes(shape, 0) / shoal_kv_form_layers(shape)),
        .layer_bytes = (uint32_t)(shoal_kv_block_bytes(shape, 1) / shoal_kv_form_layers(shape)),
        .n_vocab = (uint32_t)coop->model->hp.n_vocab,
        .n_tokens_max = (uint32_t)shoal_kv_pool_tokens_max(shoal_engine_kv(coop->engine)),
        .archive = coop->archive,
        .kernels = shoal_engine_kernels(coop->engine),
        .archives = coop->settings.archive_sessions,
        .has_secret = coop->settings.has_session_secret,
    };
    shoal_kv_form(shape, id->form);
    if (coop->settings.lora) {
        /* What a sequence computes follows from both. */
        shoal_hash both[2] = {id->model, shoal_lora_hash(coop->settings.lora)};
        SHOAL_TRY(shoal_hash_of(both, sizeof both, &id->model));
    }
    memcpy(id->secret, coop->settings.session_secret, sizeof id->secret);
    return shoal_kvwire_form(id->form, &coop->form);
}

const shoal_session_identity *shoal_coop_session_identity(const shoal_coop *coop)
{
    return &coop->identity;
}

static shoal_session_info info_of(const shoal_coop *coop, const shoal_kept *kept)
{
    const shoal_kv_shape *shape = shoal_kv_pool_shape(shoal_engine_kv(coop->engine));
    shoal_session_info info = {.n_tokens = kept->n_ids,
                               .n_bytes = kept->n_pages * shoal_kv_page_bytes(shape)};
    memcpy(info.name, kept->name, sizeof info.name);
    return info;
}

static void serve_list(shoal_coop *coop, const session_job *job)
{
    size_t n = shoal_keep_n(coop->keep);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_session_info *list = shoal_calloc(n, sizeof *list);
    for (size_t i = 0; list && i < n; i++) {
        list[i] = info_of(coop, shoal_keep_at(coop->keep, i));
    }
    if (!list) {
        (void)shoal_err_set(&err, SHOAL_E_NOMEM, "no memory for a list of %zu sessions", n);
    }
    shoal_session_done done = {.error = &err, .list = list, .n_list = list ? n : 0};
    job->on_done(job->ctx, &done);
    shoal_free(list);
}

/* Blocks in as they come, and the tokens behind the last one through the model: 31 at most. */
static shoal_status fill(shoal_coop *coop, const shoal_session_copy *copy, shoal_kv_seq *seq,
                         shoal_err *err)
{
    SHOAL_TRY(shoal_session_copy_in(copy, seq, err));
    size_t length = shoal_kv_seq_length(seq);
    shoal_span rest = {.seq = seq,
                       .ids = copy->ids + length,
                       .n_ids = copy->n_ids - length,
                       .lora = coop->settings.lora};
    if (rest.n_ids == 0) {
        return SHOAL_OK;
    }
    shoal_status status = shoal_engine_step(coop->engine, &rest, 1);
    return status == SHOAL_OK
               ? status
               : shoal_err_set(err, status, "no room for the last %zu tokens of the session",
                               rest.n_ids);
}

static shoal_status load(shoal_coop *coop, const session_job *job, shoal_err *err)
{
    shoal_kv_pool *pool = shoal_engine_kv(coop->engine);
    size_t n_pages = shoal_kv_pool_pages_for(pool, job->copy->n_ids);
    size_t n_most = shoal_keep_n_pages_max(coop->keep);
    if (n_pages > n_most) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "session %s needs %zu pages of KV and kept sessions may have %zu: "
                             "raise session.kv_percent or kv.max_mib",
                             job->name, n_pages, n_most);
    }
    if (n_pages > n_pages_free(coop)) {
        return shoal_err_set(
            err, SHOAL_BUSY,
            "requests under way hold the KV that session %s needs: try again later", job->name);
    }
    make_room(coop, n_pages);
    shoal_kv_seq *seq = NULL;
    shoal_status status = shoal_kv_seq_new(pool, &seq);
    if (status == SHOAL_OK) {
        status = fill(coop, job->copy, seq, err);
    }
    const shoal_kept_kind kind = {.lora = coop->settings.lora, .lossy = job->copy->n_archived > 0};
    if (status == SHOAL_OK) {
        status = shoal_keep_put(coop->keep, job->name, job->copy->ids, job->copy->n_ids, kind, seq);
    }
    if (status != SHOAL_OK) {
        shoal_kv_seq_free(seq);
        return shoal_err_set(err, status, "no memory for session %s", job->name);
    }
    return SHOAL_OK;
}

/* What was evicted cannot be told, and blocks of 32 tokens in order are what a copy is made of. */
static shoal_status check_copies(const shoal_coop *coop, const session_job *job, shoal_err *err)
{
    const shoal_kv_shape *shape = shoal_kv_pool_shape(shoal_engine_kv(coop->engine));
    if (!shape->evict || (job->act != SHOAL_SESSION_SAVE && job->act != SHOAL_SESSION_LOAD)) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "session %s can be neither saved nor loaded where KV is evicted "
                         "(kv.evict %s): it is kept in memory alone",
                         job->name, shape->evict->name);
}

/* A blob names the model with the adapter of all requests, no other. */
static shoal_status check_adapter(const shoal_coop *coop, const shoal_kept *kept, shoal_err *err)
{
    for (size_t i = 0; i < coop->settings.n_adapters; i++) {
        const shoal_adapter *adapter = &coop->settings.adapters[i];
        if (kept->kind.lora == adapter->lora) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "session %s was computed with the adapter %s and cannot be saved: "
                                 "it is kept in memory alone",
                                 kept->name, adapter->name);
        }
    }
    return SHOAL_OK;
}

static shoal_status find(shoal_coop *coop, const session_job *job, const shoal_kept **ret_kept,
                         shoal_err *err)
{
    *ret_kept = shoal_keep_find(coop->keep, job->name);
    return *ret_kept ? SHOAL_OK
                     : shoal_err_set(err, SHOAL_E_NOTFOUND,
                                     "no session %s is kept here: it was never used, has been "
                                     "dropped for others (session.max, session.kv_percent), or a "
                                     "request has it now",
                                     job->name);
}

void shoal_session_serve(shoal_coop *coop, session_job *job)
{
    const shoal_kept *kept = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_session_done done = {.error = &err};
    shoal_session_info info;
    if (job->act == SHOAL_SESSION_LIST) {
        serve_list(coop, job);
        return;
    }
    shoal_status status = check_copies(coop, job, &err);
    if (status == SHOAL_OK && job->act == SHOAL_SESSION_LOAD) {
        status = load(coop, job, &err);
    }
    if (status == SHOAL_OK) {
        status = find(coop, job, &kept, &err);
    }
    if (status == SHOAL_OK) {
        info = info_of(coop, kept);
        done.list = &info;
        done.n_list = 1;
    }
    if (status == SHOAL_OK && job->act == SHOAL_SESSION_SAVE) {
        status = check_adapter(coop, kept, &err);
    }
    if (status == SHOAL_OK && job->act == SHOAL_SESSION_SAVE) {
        status = shoal_session_copy_out(kept, &done.copy, &err);
    }
    if (status == SHOAL_OK && job->act == SHOAL_SESSION_DROP) {
        (void)shoal_keep_drop(coop->keep, job->name);
    }
    SHOAL_ASSERT((status == SHOAL_OK) == (err.code == SHOAL_OK));
    job->on_done(job->ctx, &done);
    shoal_session_copy_free(done.copy);
}

shoal_status shoal_coop_session(shoal_coop *coop, const shoal_session_order *order, shoal_err *err)
{
    if (atomic_load(&coop->stopping)) {
        return shoal_err_set(err, SHOAL_E_UNAVAILABLE, "the edge is shutting down");
    }
    const char *name = order->act == SHOAL_SESSION_LIST ? "all" : order->name;
    SHOAL_TRY(shoal_coop_check_session(coop, name, SHOAL_MODE_LOCAL, err));
    mail *m = shoal_mail_new(MAIL_SESSION);
    session_job *job = m ? shoal_calloc(1, sizeof *job) : NULL;
    if (!job) {
        shoal_mail_free(m);
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a session's request");
    }
    job->act = order->act;
    memcpy(job->name, name, strlen(name));
    job->copy = order->take_copy;
    job->on_done = order->on_done;
    job->ctx = order->ctx;
    m->session = job;
    shoal_mailbox_push(&coop->box, m);
    return SHOAL_OK;
}
