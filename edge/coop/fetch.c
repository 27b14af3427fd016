/* SPDX-License-Identifier: Apache-2.0
 *
 * A prompt's KV from the cloud, where that is sooner there than computed here (SPEC.md, section
 * 11). The call is seen by the rpc poller, which checks each record of the blob; the engine thread
 * decides, and takes the blob up when all of it was right. What the planner is told was measured
 * here; before that is so, the edge's model computes meanwhile, until what came says that the rest
 * is sooner here than computed, and whichever is first counts.
 *
 * Where the operator allows it (fetch.archive), and it is sooner, the KV comes archived by the
 * basis of both sides: a tenth, its newest tokens a half, and not what would have been computed. In
 * mode EXACT that changes no answer, since the cloud judges what such KV drafts; nobody but this
 * request ever reads it.
 *
 * A call that was cut is opened again and goes on at the first record that is not here, on
 * whichever node is next: all of them make the same records of a text (SPEC.md, section 11).
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    FRESH_MS = 60000,       /* how long a link's speed is believed */
    RATE_BYTES_MIN = 16384, /* of a transfer that says something about it */
    REFUSED_MS = 60000,     /* who ships nothing, or of another model, is left alone for so long */
    AGAIN_MS = 50,          /* first pause before a cut call is opened again, then twice as long */
    AGAIN_MAX = 4           /* calls in a row that brought no record, and no more is tried */
};

/* How many times sooner a fetch must be: it costs the cloud work and the link bytes. */
static const double GAIN = 1.1;
/* How many times longer than planned it may take before the edge computes too. */
static const double PATIENCE = 1.5;

/* One call, shared by the engine thread and the rpc poller; the last reference frees it. */
struct fetch {
    atomic_int refs;
    shoal_coop *coop;
    shoal_rpc_call *call; /* NULL between two */
    size_t n_tokens;      /* asked for: a multiple of 32 */
    bool archived;        /* and may come archived */
    uint64_t sent_ns;
    uint64_t by_ms;        /* all of it, in however many calls */
    bool late;             /* engine-only: the edge's model was first */
    bool weighed;          /* engine-only: its model has waited for the rest */
    double n_bytes_likely; /* engine-only: of the whole blob, as planned */
    /* What the poller lets the engine thread see of a call under way: when its first message came,
     * and the bytes behind that. */
    _Atomic uint64_t began_ns;
    atomic_size_t n_behind;

    /* Engine-only, but for record, which stays as it is during a call. */
    uint32_t record;      /* that this call begins with: all before it are here */
    uint64_t again_at_ms; /* with no call: when the next is opened */
    unsigned n_idle;      /* calls in a row that brought no record */

    /* The poller's until its mail is pushed, the engine thread's from then on. */
    shoal_session_reader *reader;
    shoal_session_copy *copy; /* all of it was right */
    uint64_t first_ns;
    uint64_t last_ns;
    size_t n_bytes;
    size_t n_bytes_first; /* of its first message */
    double decode_us;
    uint32_t n_cached;
    uint32_t token_us;
    bool bad; /* what came is no blob of what was asked for: text says why */
    shoal_rpc_status status;
    char text[SHOAL_WIRE_TEXT_MAX];
};

void shoal_coop_fetch_unref(fetch *f)
{
    if (f && atomic_fetch_sub(&f->refs, 1) == 1) {
        if (f->call) {
            shoal_rpc_call_unref(f->call);
        }
        shoal_session_reader_free(f->reader);
        shoal_session_copy_free(f->copy);
        shoal_free(f);
    }
}

static shoal_status make_reader(const shoal_coop *coop, fetch *f)
{
    shoal_session_identity identity = coop->identity;
    identity.has_secret = false; /* the call's TLS says who it is */
    if (!f->archived) {
        identity.archive = NULL; /* what is fetched is what would have been computed */
    }
    identity.n_tokens_max = (uint32_t)f->n_tokens;
    shoal_session_reader_free(SHOAL_STEAL(f->reader));
    return shoal_session_reader_new(&identity, SIZE_MAX, &f->reader);
}

/* --- the poller's side ------------------------------------------------------------------------ */

/* A node that knows of no records begins with the head, and so does the reader. */
static shoal_status check_record(fetch *f, const shoal_msg_kv_part *part, shoal_err *err)
{
    if (part->record == f->record) {
        return SHOAL_OK;
    }
    if (part->record != 0) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "KV from record %u, asked for was %u",
                             part->record, f->record);
    }
    return make_reader(f->coop, f);
}

static void found_bad(fetch *f, const char *text)
{
    f->bad = true;
    (void)snprintf(f->text, sizeof f->text, "%s", text);
}

static void on_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    fetch *f = user;
    if (f->bad) {
        return; /* it is being cancelled */
    }
    const shoal_clock *clock = &f->coop->clock;
    uint64_t start_ns = shoal_clock_now_ns(clock);
    SHOAL_CLEANUP(shoal_msg_kv_part_freep) shoal_msg_kv_part *part = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_msg_kv_part_decode(data, n, &part, &err);
    if (status == SHOAL_OK && f->first_ns == 0) {
        status = check_record(f, part, &err);
    }
    if (status == SHOAL_OK) {
        f->n_cached = f->first_ns == 0 ? part->n_cached : f->n_cached;
        f->token_us = part->token_us > 0 ? part->token_us : f->token_us;
        status = shoal_session_reader_put(f->reader, part->bytes, part->n_bytes, &err);
    }
    f->last_ns = start_ns;
    if (f->first_ns == 0) {
        f->first_ns = start_ns;
        f->n_bytes_first = n + COOP_FRAME_BYTES;
        atomic_store(&f->began_ns, start_ns);
    }
    f->n_bytes += n + COOP_FRAME_BYTES;
    atomic_store(&f->n_behind, f->n_bytes - f->n_bytes_first);
    f->decode_us += (double)(shoal_clock_now_ns(clock) - start_ns) / 1e3;
    if (status != SHOAL_OK) {
        if (status == SHOAL_E_NOMEM) {
            (void)snprintf(f->text, sizeof f->text, "no memory for the KV of a prompt");
        } else {
            found_bad(f, err.text);
        }
        shoal_rpc_call_cancel(call);
    }
}

/* All bytes are there: whether they are the text that was asked for is seen by who asked. */
static void finish_blob(fetch *f)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_session_reader_finish(f->reader, &f->copy, &err);
    if (status != SHOAL_OK) {
        found_bad(f, err.text);
    } else if (f->copy->n_ids != f->n_tokens) {
        found_bad(f, "the KV of another text than was asked for");
    }
}

/* Whether the next node may do better, or this one once it has seen that the call is gone. */
static bool is_cut(shoal_rpc_status status)
{
    return status == SHOAL_RPC_CANCELLED || status == SHOAL_RPC_UNAVAILABLE ||
           status == SHOAL_RPC_ABORTED || status == SHOAL_RPC_INTERNAL ||
           status == SHOAL_RPC_UNKNOWN || status == SHOAL_RPC_RESOURCE_EXHAUSTED;
}

static void on_close(shoal_rpc_call *call, void *user, shoal_rpc_status status, const char *details)
{
    (void)call;
    fetch *f = user;
    shoal_coop *coop = f->coop;
    f->status = is_cut(status) && shoal_session_reader_is_whole(f->reader) ? SHOAL_RPC_OK : status;
    if (f->status == SHOAL_RPC_OK && !f->bad) {
        finish_blob(f);
    } else if (!f->text[0]) {
        (void)snprintf(f->text, sizeof f->text, "%s",
                       details && details[0] ? details : shoal_rpc_status_name(status));
    }
    mail *m = shoal_mail_new(MAIL_FETCHED);
    if (m) {
        m->fetched = f; /* with the reference of the callbacks */
        shoal_mailbox_push(&coop->box, m);
    } else {
        shoal_coop_fetch_unref(f); /* the hold of who waits for it runs out */
    }
    atomic_fetch_sub(&coop->n_calls, 1); /* last: coop may be freed from here on */
}

static const shoal_rpc_handlers fetch_handlers = {
    .on_message = on_message,
    .on_close = on_close,
};

/* --- what is known ---------------------------------------------------------------------------- */

void shoal_coop_fetch_step(shoal_coop *coop, size_t n_rows, double step_us)
{
    if (n_rows >= BLOCK) {
        double us = step_us / (double)n_rows;
        double *known = &coop->figures.here_prefill_us;
        *known = *known > 0 ? *known + (us - *known) / 4 : us;
    }
}

static bool rate_is_known(const shoal_coop *coop, uint64_t now_ms)
{
    const coop_figures *known = &coop->figures;
    return known->down_bytes_s > 0 && now_ms - known->rate_at_ms < FRESH_MS;
}

/* Of a transfer that waited for the peer's computing, the link's speed is at least that. */
static void learn(shoal_coop *coop, const fetch *f, uint64_t now_ms)
{
    coop_figures *known = &coop->figures;
    if (f->token_us > 0) {
        known->peer_prefill_us = f->token_us;
    }
    size_t n_bytes = f->n_bytes - f->n_bytes_first;
    if (f->late && n_bytes < RATE_BYTES_MIN && !rate_is_known(coop, now_ms)) {
        /* It had until now, and nearly nothing came. */
        uint64_t ns = shoal_clock_now_ns(&coop->clock) - f->sent_ns;
        known->down_bytes_s = (double)(f->n_bytes + 1) * 1e9 / (double)SHOAL_MAX(ns, (uint64_t)1);
        known->rate_at_ms = now_ms;
        return;
    }
    if (n_bytes < RATE_BYTES_MIN || f->last_ns <= f->first_ns) {
        return;
    }
    double rate = (double)n_bytes * 1e9 / (double)(f->last_ns - f->first_ns);
    bool fresh = rate_is_known(coop, now_ms);
    bool pure = f->n_cached >= f->n_tokens;
    if (!fresh || (pure && rate > 0)) {
        known->down_bytes_s = fresh ? (known->down_bytes_s + rate) / 2 : rate;
    } else {
        known->down_bytes_s = SHOAL_MAX(known->down_bytes_s, rate);
    }
    known->rate_at_ms = now_ms;
    if (f->copy) {
        size_t n_archived = f->copy->n_archived * BLOCK;
        double us = f->decode_us / (double)(n_archived > 0 ? n_archived : f->n_tokens);
        double *decode_us = n_archived > 0 ? &known->restore_us : &known->decode_us;
        *decode_us = *decode_us > 0 ? *decode_us + (us - *decode_us) / 4 : us;
    }
}

static void note_trouble(shoal_coop *coop, const char *text)
{
    (void)pthread_mutex_lock(&coop->state_mutex);
    (void)snprintf(coop->state.fetch.trouble, sizeof coop->state.fetch.trouble, "%s", text);
    (void)pthread_mutex_unlock(&coop->state_mutex);
}

/* --- whether, and how ------------------------------------------------------------------------- */

static bool hash_same(const shoal_hash *a, const shoal_hash *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* Whether this request's prompt may come from the cloud, and the cloud ships this model's KV. */
static bool may_fetch(const shoal_coop *coop, const gen *g, uint64_t now_ms)
{
    bool told = g->mode == SHOAL_MODE_EXACT || /* the cloud hears the prompt in any case */
                (g->mode == SHOAL_MODE_ASSIST && !g->assist.alone && !coop->breaker.open &&
                 shoal_assist_may_spend(coop, NULL, 0));
    shoal_coop_fetching allowed = coop->settings.fetching;
    bool wanted = allowed == SHOAL_COOP_FETCH_ALL ||
                  (allowed == SHOAL_COOP_FETCH_EXACT && g->mode == SHOAL_MODE_EXACT);
    const shoal_edge_kv *theirs = &coop->cloud.edge_kv;
    size_t n_moved = shoal_transfer_n_moved(g->n_prompt);
    bool evicts = shoal_kv_pool_shape(shoal_engine_kv(coop->engine))->evict != NULL;
    return told && wanted && !g->score_prompt && g->lora == coop->settings.lora &&
           coop->described && !coop->link_is_cut &&
           (!coop->fetches.open || shoal_breaker_due(&coop->fetches, now_ms)) && !evicts &&
           n_moved > shoal_kv_seq_length(g->seq) && theirs->n_tokens >= n_moved &&
           hash_same(&theirs->model, &coop->identity.model) &&
           hash_same(&theirs->form, &coop->form) &&
           hash_same(&coop->cloud.tokenizer, &coop->identity.tokenizer);
}

static size_t n_archived_of(const gen *g)
{
    return shoal_archive_n_blocks(shoal_transfer_n_moved(g->n_prompt)) * BLOCK;
}

/* Whether it may come archived, and the cloud does that by our basis. */
static bool may_archive(shoal_coop *coop, const gen *g)
{
    shoal_coop_fetching allowed = coop->settings.fetch_archived;
    const shoal_edge_kv *theirs = &coop->cloud.edge_kv;
    bool wanted = allowed == SHOAL_COOP_FETCH_ALL ||
                  (allowed == SHOAL_COOP_FETCH_EXACT && g->mode == SHOAL_MODE_EXACT);
    if (!wanted || !theirs->archives || n_archived_of(g) == 0) {
        return false;
    }
    const shoal_hash *ours = shoal_archive_hash(coop->archive);
    if (!hash_same(&theirs->basis, ours)) {
        char our_hex[SHOAL_HASH_HEX];
        char their_hex[SHOAL_HASH_HEX];
        char text[SHOAL_WIRE_TEXT_MAX];
        shoal_hash_hex(ours, our_hex);
        shoal_hash_hex(&theirs->basis, their_hex);
        (void)snprintf(text, sizeof text,
                       "the cloud archives KV by basis %.12s, kv.archive is %.12s: it comes exact",
                       their_hex, our_hex);
        note_trouble(coop, text);
        return false;
    }
    return true;
}

/* The forms in which the KV of this prompt may come: as it is, then archived. */
static size_t levels_of(const shoal_coop *coop, const gen *g, bool archive,
                        shoal_transfer_level ret_levels[2])
{
    const coop_figures *known = &coop->figures;
    ret_levels[0] = (shoal_transfer_level){.bytes_token = (double)coop->identity.layer_bytes *
                                                          coop->identity.n_layers / BLOCK,
                                           .decode_us = known->decode_us};
    if (archive) {
        const shoal_transfer_level archived = {
            .bytes_token = shoal_archive_block_bytes_likely(coop->archive) / BLOCK,
            .encode_us = (double)coop->cloud.edge_kv.archive_us,
            .decode_us = known->restore_us};
        const shoal_transfer_level near = {
            .bytes_token = (double)shoal_archive_block_bytes_near(coop->archive) / BLOCK,
            .decode_us = known->decode_us};
        ret_levels[1] = shoal_transfer_mix(&near, &archived, shoal_transfer_n_moved(g->n_prompt),
                                           n_archived_of(g));
    }
    return archive ? 2 : 1;
}

/* What was planned for a prompt's KV, by figures that were measured (sure) or by a link that is
 * taken for as fast as can be. */
typedef struct fetch_plan {
    bool sure;
    bool archive; /* in: it may; out: it is to come archived */
    double us;
    double local_us;
    double n_bytes; /* of the blob */
} fetch_plan;

/* True: fetching is worth it. */
static bool plan(const shoal_coop *coop, const gen *g, uint64_t now_ms, fetch_plan *inout)
{
    const coop_figures *known = &coop->figures;
    shoal_transfer_level levels[2];
    size_t n_levels = levels_of(coop, g, inout->archive, levels);
    double peer_us =
        known->peer_prefill_us > 0 ? known->peer_prefill_us : (double)coop->cloud.edge_kv.token_us;
    inout->sure = rate_is_known(coop, now_ms) && peer_us > 0;
    double rate = inout->sure ? known->down_bytes_s : 1e12;
    bool least = !inout->sure && inout->archive; /* of a link that may be slow: the fewest bytes */
    if (least) {
        levels[0] = levels[1];
        n_levels = 1;
    }
    const shoal_transfer_figures figures = {.up_bytes_s = rate,
                                            .down_bytes_s = rate,
                                            .round_trip_us = known->round_trip_us,
                                            .here_prefill_us = known->here_prefill_us,
                                            .here_token_us = coop->pace.edge_us,
                                            .peer_prefill_us = peer_us};
    const shoal_transfer_request request = {.n_tokens = g->n_prompt,
                                            .n_here = shoal_kv_seq_length(g->seq),
                                            .n_answer = 1,
                                            .may_local = true,
                                            .levels = levels,
                                            .n_levels = n_levels};
    shoal_transfer_choice choice;
    if (shoal_transfer_choose(&figures, &request, &choice) != SHOAL_OK) {
        return false;
    }
    inout->archive = least || choice.level == 1;
    inout->us = choice.kv_us;
    inout->local_us = choice.local_us;
    inout->n_bytes = shoal_transfer_kv_bytes(&levels[choice.level], g->n_prompt);
    return choice.way == SHOAL_TRANSFER_KV && choice.kv_us * GAIN <= choice.local_us;
}

static shoal_status send_request(shoal_coop *coop, gen *g, fetch *f)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    shoal_msg_kv_request request = {.model = coop->identity.model,
                                    .tokenizer = coop->identity.tokenizer,
                                    .form = coop->form,
                                    .ids = g->tokens,
                                    .n_ids = f->n_tokens,
                                    .record = f->record,
                                    .archived = f->archived};
    if (f->archived) {
        request.basis = *shoal_archive_hash(coop->archive);
    }
    memcpy(request.request_id, g->request_id, sizeof request.request_id);
    SHOAL_TRY(shoal_msg_kv_request_encode(&request, &buf));
    shoal_status status = shoal_rpc_call_send(f->call, buf.data, buf.length);
    if (status == SHOAL_OK || status == SHOAL_BUSY) {
        shoal_rpc_call_half_close(f->call);
        g->usage.bytes_up += buf.length + COOP_FRAME_BYTES;
        return SHOAL_OK;
    }
    return status;
}

/* With a reference for the callbacks. */
static shoal_status open_call(shoal_coop *coop, gen *g, fetch *f, uint64_t now_ms)
{
    if (!coop->channel) {
        return SHOAL_E_UNAVAILABLE;
    }
    atomic_fetch_add(&f->refs, 1);
    atomic_fetch_add(&coop->n_calls, 1);
    shoal_status status =
        shoal_rpc_call_open(coop->channel, "/shoal.v1.Cloud/FetchKv", &fetch_handlers, f,
                            SHOAL_MAX(f->by_ms, now_ms + 1) - now_ms, false, &f->call);
    if (status != SHOAL_OK) {
        atomic_fetch_sub(&coop->n_calls, 1);
        atomic_fetch_sub(&f->refs, 1);
        return status;
    }
    return send_request(coop, g, f);
}

static shoal_status start(shoal_coop *coop, gen *g, bool archive, uint64_t now_ms)
{
    fetch *f = shoal_calloc(1, sizeof *f);
    if (!f) {
        return SHOAL_E_NOMEM;
    }
    atomic_init(&f->refs, 1); /* the generation's */
    f->coop = coop;
    f->n_tokens = shoal_transfer_n_moved(g->n_prompt);
    f->archived = archive;
    f->sent_ns = shoal_clock_now_ns(&coop->clock);
    f->by_ms = now_ms + coop->settings.fetch_ms;
    g->fetch = f;
    SHOAL_TRY(make_reader(coop, f));
    return open_call(coop, g, f, now_ms);
}

void shoal_coop_fetch_drop(gen *g)
{
    if (g->fetch) {
        if (g->fetch->call) {
            shoal_rpc_call_cancel(g->fetch->call);
        }
        shoal_coop_fetch_unref(SHOAL_STEAL(g->fetch));
        g->fetch_holds = false;
    }
}

/* Decides once, when the edge's model is to compute and it is known how fast it does. */
static void decide(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    bool always = coop->settings.fetch_always;
    bool known = always || coop->figures.here_prefill_us > 0;
    if (g->fetch_tried || !known || !may_fetch(coop, g, now_ms)) {
        return;
    }
    g->fetch_tried = true;
    fetch_plan planned = {.archive = may_archive(coop, g)};
    if (!always && !plan(coop, g, now_ms, &planned)) {
        return;
    }
    if (start(coop, g, planned.archive, now_ms) != SHOAL_OK) {
        shoal_coop_fetch_drop(g);
        shoal_breaker_failed(&coop->fetches, now_ms);
        return;
    }
    g->fetch->n_bytes_likely = planned.n_bytes;
    if (always) {
        g->fetch_until_ms = now_ms + coop->settings.fetch_ms;
        return;
    }
    g->fetch_until_ms =
        planned.sure ? now_ms + (uint64_t)(fmin(planned.us * PATIENCE, planned.local_us) / 1e3) + 1
                     : now_ms;
}

/* The edge's model computes while KV is under way, and takes the processor that receives it. Once
 * enough has come to say that the rest is sooner here than computed, it waits: once, since what is
 * said by half a transfer may be wrong. */
static void weigh_rest(const shoal_coop *coop, gen *g, uint64_t now_ms)
{
    fetch *f = g->fetch;
    size_t n_bytes = atomic_load(&f->n_behind);
    if (coop->settings.fetch_always || f->weighed || now_ms < g->fetch_until_ms ||
        n_bytes < RATE_BYTES_MIN) {
        return;
    }
    double us = (double)(shoal_clock_now_ns(&coop->clock) - atomic_load(&f->began_ns)) / 1e3;
    double rest_us = shoal_transfer_rest_us((double)n_bytes, f->n_bytes_likely, us);
    double local_us =
        (double)(f->n_tokens - shoal_kv_seq_length(g->seq)) * coop->figures.here_prefill_us;
    if (rest_us * GAIN < local_us) {
        f->weighed = true;
        g->fetch_until_ms = now_ms + (uint64_t)(fmin(rest_us * PATIENCE, local_us) / 1e3) + 1;
    }
}

static void give_up(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    shoal_coop_fetch_drop(g);
    shoal_breaker_failed(&coop->fetches, now_ms);
    shoal_metric_add(coop->metrics.fetch_failed, 1);
}

/* Between two calls: opens the next when it is time. */
static void go_on(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    fetch *f = g->fetch;
    if (f->call || now_ms < f->again_at_ms) {
        return;
    }
    f->first_ns = f->last_ns = 0;
    f->n_bytes = f->n_bytes_first = 0;
    atomic_store(&f->n_behind, 0);
    f->status = SHOAL_RPC_OK;
    f->text[0] = '\0';
    shoal_status status = open_call(coop, g, f, now_ms);
    if (status != SHOAL_OK && !f->call) {
        give_up(coop, g, now_ms);
        return;
    }
    if (status != SHOAL_OK) {
        shoal_rpc_call_cancel(f->call); /* it ends as one that was cut */
    }
    shoal_metric_add(coop->metrics.fetch_resumed, 1);
}

void shoal_coop_fetch_pump(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    if (g->done || !g->seq) {
        return;
    }
    if (!g->fetch && g->mode != SHOAL_MODE_LOCAL && g->mode != SHOAL_MODE_CLOUD &&
        !g->assist.waits && shoal_kv_seq_length(g->seq) < g->n_prompt) {
        decide(coop, g, now_ms);
    }
    if (g->fetch && coop->link_is_cut) {
        shoal_coop_fetch_drop(g);
        shoal_metric_add(coop->metrics.fetch_failed, 1);
    }
    if (g->fetch && shoal_kv_seq_length(g->seq) >= g->fetch->n_tokens) {
        g->fetch->late = true;
        shoal_coop_fetch_drop(g);
        shoal_metric_add(coop->metrics.fetch_lost, 1);
    }
    if (g->fetch) {
        go_on(coop, g, now_ms);
    }
    if (g->fetch && g->fetch->call) {
        weigh_rest(coop, g, now_ms);
    }
    g->fetch_holds = g->fetch && now_ms < g->fetch_until_ms;
}

uint64_t shoal_coop_fetch_wakes_ms(const gen *g)
{
    uint64_t until = g->fetch_holds ? g->fetch_until_ms : UINT64_MAX;
    return g->fetch && !g->fetch->call ? SHOAL_MIN(until, g->fetch->again_at_ms) : until;
}

/* --- the end of it ---------------------------------------------------------------------------- */

static void quarantine(shoal_coop *coop, const char *text, uint64_t now_ms)
{
    char why[SHOAL_WIRE_TEXT_MAX];
    (void)snprintf(why, sizeof why, "bad KV, nothing is fetched for now: %.180s", text);
    note_trouble(coop, why);
    coop->quarantined_until_ms = now_ms + coop->settings.fetch_quarantine_ms;
    shoal_breaker_hold(&coop->fetches, coop->quarantined_until_ms);
    shoal_metric_add(coop->metrics.fetch_bad, 1);
}

static void failed(shoal_coop *coop, const fetch *f, uint64_t now_ms)
{
    bool refused =
        f->status == SHOAL_RPC_FAILED_PRECONDITION || f->status == SHOAL_RPC_UNIMPLEMENTED ||
        f->status == SHOAL_RPC_INVALID_ARGUMENT || f->status == SHOAL_RPC_PERMISSION_DENIED;
    note_trouble(coop, f->text);
    shoal_breaker_failed(&coop->fetches, now_ms);
    if (refused) {
        shoal_breaker_hold(&coop->fetches, now_ms + REFUSED_MS);
    }
    shoal_metric_add(coop->metrics.fetch_failed, 1);
}

/* The blob is whole and of this text: its blocks go behind those that were computed meanwhile.
 * Nothing of it stays where a number is none. */
static void take_up(shoal_coop *coop, gen *g, const fetch *f, uint64_t now_ms)
{
    size_t length = shoal_kv_seq_length(g->seq);
    if (length >= f->n_tokens || shoal_kv_seq_whole(g->seq) < length) {
        shoal_metric_add(coop->metrics.fetch_lost, 1);
        return;
    }
    size_t had = shoal_kv_seq_truncate(g->seq, length / BLOCK * BLOCK);
    if (had % BLOCK != 0) {
        had = shoal_kv_seq_truncate(g->seq, 0);
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_session_copy_in(f->copy, g->seq, &err);
    if (status != SHOAL_OK) {
        (void)shoal_kv_seq_truncate(g->seq, 0);
        g->session_lossy = false;
        g->usage.n_archived = 0;
        if (status == SHOAL_BUSY) { /* our pool's lack is no fault of the cloud's */
            note_trouble(coop, err.text);
            shoal_metric_add(coop->metrics.fetch_lost, 1);
        } else {
            quarantine(coop, err.text, now_ms);
        }
        return;
    }
    size_t n_archived = f->copy->n_archived * BLOCK;
    n_archived -= SHOAL_MIN(n_archived, had);
    g->lossy = n_archived > 0;
    g->session_lossy = g->session_lossy && had > 0;
    g->usage.n_archived = n_archived + (g->session_lossy ? SHOAL_MIN(g->usage.n_kept, had) : 0);
    g->usage.n_fetched = f->n_tokens - had;
    g->usage.fetch_ms = (double)(shoal_clock_now_ns(&coop->clock) - f->sent_ns) / 1e6;
    shoal_breaker_worked(&coop->fetches);
    shoal_metric_add(coop->metrics.fetch_taken, 1);
    shoal_metric_add(coop->metrics.fetched_tokens, (double)g->usage.n_fetched);
    shoal_metric_add(coop->metrics.fetched_archived, (double)n_archived);
}

/* The call was cut and the rest is worth asking for: true, and it waits for go_on. What is whole
 * stays. */
static bool wait_to_go_on(shoal_coop *coop, const gen *g, fetch *f, uint64_t now_ms)
{
    uint64_t record = 0;
    if (f->bad || g->done || !is_cut(f->status) || now_ms >= f->by_ms ||
        shoal_session_reader_resume(f->reader, &record) != SHOAL_OK || record == 0 ||
        record > SHOAL_WIRE_KV_RECORD_MAX) {
        return false;
    }
    f->n_idle = record > f->record ? 0 : f->n_idle + 1;
    if (f->n_idle >= AGAIN_MAX) {
        return false;
    }
    note_trouble(coop, f->text);
    f->record = (uint32_t)record;
    f->again_at_ms = now_ms + ((uint64_t)AGAIN_MS << f->n_idle);
    shoal_rpc_call_unref(SHOAL_STEAL(f->call));
    return true;
}

void shoal_coop_fetch_ended(shoal_coop *coop, fetch *f)
{
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    gen *g = coop->active;
    while (g && g->fetch != f) {
        g = g->next;
    }
    learn(coop, f, now_ms);
    shoal_metric_add(coop->metrics.fetch_bytes, (double)f->n_bytes);
    if (g) {
        g->usage.bytes_down += f->n_bytes;
        if (wait_to_go_on(coop, g, f, now_ms)) {
            return;
        }
    }
    bool other =
        f->copy && g && memcmp(f->copy->ids, g->tokens, f->n_tokens * sizeof(int32_t)) != 0;
    if (f->bad || other) {
        quarantine(coop, f->bad ? f->text : "the KV of another text than was asked for", now_ms);
    } else if (f->status != SHOAL_RPC_OK && f->status != SHOAL_RPC_CANCELLED) {
        failed(coop, f, now_ms);
    } else if (g && f->copy && !g->done) {
        take_up(coop, g, f, now_ms);
    }
    if (g) {
        shoal_coop_fetch_unref(SHOAL_STEAL(g->fetch));
        g->fetch_holds = false;
    }
}

/* Under the state's lock. */
void shoal_coop_fetch_publish(shoal_coop *coop, uint64_t now_ms)
{
    shoal_coop_fetch_state *s = &coop->state.fetch;
    const coop_figures *known = &coop->figures;
    s->down_bytes_s = rate_is_known(coop, now_ms) ? known->down_bytes_s : 0;
    s->prefill_us = known->here_prefill_us;
    s->peer_prefill_us = known->peer_prefill_us;
    s->quarantined = now_ms < coop->quarantined_until_ms;
    shoal_metric_set(coop->metrics.fetch_quarantined, s->quarantined ? 1 : 0);
}
