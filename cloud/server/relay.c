/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/relay.h"

#include "cloud/sched/sched.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/obs/log.h"

#include <stdio.h>
#include <string.h>

/* What a call that ended leaves of those before it in the time that calls take. */
static const double KEEP_CALLS = 0.9;
/* A token counts as a row with a sample does (sched.h). */
static const uint64_t TOKEN_CHARGE = 2;

typedef struct entry {
    shoal_session *session;
    uint64_t id; /* order of arrival */
    size_t tenant;
    uint64_t added_ms;
    uint64_t since_ms;         /* since when it waits for a call */
    uint64_t turn;             /* when it last got one */
    shoal_upstream_call *call; /* NULL: none under way */
    size_t n_ids;    /* length of the text the call is at: what it was asked with, and what
                      * of it came */
    size_t n_judged; /* drafts asked about, 0: a continuation */
    int32_t drafts[SHOAL_SPEC_SPAN_MAX]; /* [n_judged] */
    size_t n_failures;                   /* in a row */
    uint64_t delay_ms;                   /* before the next call */
    bool waits;
    bool held;
} entry;

typedef struct relay {
    shoal_upstream *upstream;
    shoal_relay_settings settings;
    shoal_hash model;
    const shoal_cloud_metrics *metrics;
    shoal_sched *sched;
    entry **entries; /* [n_sessions_max]: calls keep a pointer to theirs */
    size_t n_entries;
    entry **waiting;         /* [n_sessions_max]: sessions that a call is due for */
    shoal_sched_item *items; /* [n_sessions_max], of waiting */
    uint64_t next_id;
    uint64_t turn;
    size_t n_calls;   /* under way, dropped ones excluded */
    size_t n_waiting; /* after the last step, as is held of then */
    double call_ms;   /* that calls were under way, fading, */
    double n_ended;   /* and how many of them ended */
    uint64_t at_ms;   /* call_ms is of then */
} relay;

/* --- sessions --------------------------------------------------------------------------------- */

static size_t find(const relay *r, const shoal_session *session)
{
    size_t i = 0;
    while (i < r->n_entries && r->entries[i]->session != session) {
        i++;
    }
    return i;
}

static void drop_call(relay *r, entry *e)
{
    if (e->call != NULL) {
        shoal_upstream_drop(SHOAL_STEAL(e->call));
        r->n_calls--;
        r->call_ms *= KEEP_CALLS;
        r->n_ended = (r->n_ended + 1.0) * KEEP_CALLS;
    }
}

static shoal_status relay_add(void *ctx, shoal_session *session, uint64_t now_ms)
{
    relay *r = ctx;
    if (r->n_entries == r->settings.n_sessions_max) {
        return SHOAL_BUSY;
    }
    size_t tenant = 0;
    entry *e = shoal_calloc(1, sizeof(*e));
    if (e == NULL) {
        return SHOAL_E_NOMEM;
    }
    shoal_status status = shoal_sched_join(r->sched, shoal_session_tenant(session), &tenant);
    SHOAL_ASSERT(status == SHOAL_OK); /* as many places as entries */
    *e = (entry){.session = session, .id = r->next_id++, .tenant = tenant, .added_ms = now_ms};
    r->entries[r->n_entries++] = e;
    return SHOAL_OK;
}

static void relay_remove(void *ctx, shoal_session *session)
{
    relay *r = ctx;
    size_t i = find(r, session);
    if (i < r->n_entries) {
        drop_call(r, r->entries[i]);
        shoal_sched_leave(r->sched, r->entries[i]->tenant);
        shoal_free(r->entries[i]);
        r->entries[i] = r->entries[--r->n_entries];
    }
}

static void relay_touch(void *ctx, const shoal_session *session, uint64_t now_ms)
{
    (void)ctx;
    (void)session;
    (void)now_ms;
}

static void relay_hold(void *ctx, const shoal_session *session, bool hold)
{
    relay *r = ctx;
    size_t i = find(r, session);
    if (i < r->n_entries) {
        r->entries[i]->held = hold;
    }
}

/* --- what comes ------------------------------------------------------------------------------- */

/* Whether the call under way still answers what the session waits for. */
static bool fits(const entry *e, const shoal_session_work *work)
{
    if (e->held || work->n_ids != e->n_ids) {
        return false;
    }
    return e->n_judged <= work->n_drafts &&
           memcmp(e->drafts, work->ids + work->n_ids, e->n_judged * sizeof(*e->drafts)) == 0;
}

static void take_tokens(relay *r, entry *e, const shoal_upstream_event *event, uint64_t now_ms)
{
    e->n_failures = 0;
    for (size_t i = 0; i < event->n_ids; i++) {
        shoal_session_work work;
        if (!shoal_session_work_get(e->session, &work) || !fits(e, &work)) {
            drop_call(r, e);
            return;
        }
        shoal_verdict verdict = {.next = event->tokens[i]};
        shoal_session_take(e->session, &verdict, now_ms);
        shoal_sched_charge(r->sched, e->tenant, TOKEN_CHARGE);
        e->n_ids++;
    }
}

static void take_verdict(relay *r, entry *e, const shoal_upstream_event *event, uint64_t now_ms)
{
    shoal_session_work work;
    e->n_failures = 0;
    if (shoal_session_work_get(e->session, &work) && fits(e, &work)) {
        shoal_session_take(e->session, &event->verdict, now_ms);
    }
    shoal_sched_charge(r->sched, e->tenant, e->n_judged * TOKEN_CHARGE);
    drop_call(r, e);
}

static uint64_t delay_of(const entry *e, uint64_t retry_after_ms)
{
    uint64_t delay = SHOAL_RELAY_RETRY_MS_MIN;
    for (size_t i = 1; i < e->n_failures && delay < SHOAL_RELAY_RETRY_MS_MAX; i++) {
        delay *= 2;
    }
    return SHOAL_MIN(SHOAL_MAX(delay, retry_after_ms), (uint64_t)SHOAL_RELAY_RETRY_MS_MAX);
}

static void take_failure(relay *r, entry *e, const shoal_upstream_event *event)
{
    static const shoal_rpc_status codes[] = {
        [SHOAL_UPSTREAM_FAIL_LINK] = SHOAL_RPC_UNAVAILABLE,
        [SHOAL_UPSTREAM_FAIL_BUSY] = SHOAL_RPC_RESOURCE_EXHAUSTED,
        [SHOAL_UPSTREAM_FAIL_REQUEST] = SHOAL_RPC_INVALID_ARGUMENT,
        [SHOAL_UPSTREAM_FAIL_SETUP] = SHOAL_RPC_UNAVAILABLE,
    };
    drop_call(r, e);
    e->n_failures++;
    bool again =
        event->failure == SHOAL_UPSTREAM_FAIL_LINK || event->failure == SHOAL_UPSTREAM_FAIL_BUSY;
    /* The event's text may quote the engine, and an engine the prompt: it goes to the edge alone.
     */
    shoal_log(SHOAL_LOG_WARN, "upstream failure id=%s kind=%d failures=%zu of=%zu",
              shoal_session_stats_get(e->session)->request_id, (int)event->failure, e->n_failures,
              r->settings.n_retries + 1);
    if (again && e->n_failures <= r->settings.n_retries) {
        e->delay_ms = delay_of(e, event->retry_after_ms);
        return;
    }
    shoal_session_fail(e->session, codes[event->failure], event->text);
}

/* An engine that ends without an end token, again and again, must not be asked for ever. */
static void take_end(relay *r, entry *e)
{
    shoal_session_work work;
    drop_call(r, e);
    if (!shoal_session_work_get(e->session, &work) || ++e->n_failures <= r->settings.n_retries) {
        return;
    }
    shoal_session_fail(e->session, SHOAL_RPC_UNAVAILABLE,
                       "the upstream engine ends its answers with no token in them");
}

static bool take_events(relay *r, uint64_t now_ms)
{
    bool any = false;
    for (shoal_upstream_event *event = NULL; (event = shoal_upstream_pop(r->upstream)) != NULL;) {
        entry *e = event->user;
        any = true;
        switch (event->kind) {
        case SHOAL_UPSTREAM_TOKENS:
            take_tokens(r, e, event, now_ms);
            break;
        case SHOAL_UPSTREAM_VERDICT:
            take_verdict(r, e, event, now_ms);
            break;
        case SHOAL_UPSTREAM_END:
            take_end(r, e);
            break;
        case SHOAL_UPSTREAM_FAILED:
        default:
            take_failure(r, e, event);
            break;
        }
        shoal_upstream_event_free(event);
    }
    return any;
}

/* --- what is asked ---------------------------------------------------------------------------- */

static void ask(relay *r, entry *e, const shoal_session_work *work)
{
    /* The engine's own token behind the drafts must fit its context too. */
    size_t room = r->settings.n_ctx - work->n_ids;
    size_t n_drafts = SHOAL_MIN(work->n_drafts, (size_t)SHOAL_SPEC_SPAN_MAX - 1);
    n_drafts = SHOAL_MIN(n_drafts, room - 1);
    shoal_upstream_ask a = {.ids = work->ids,
                            .n_ids = work->n_ids,
                            .n_drafts = n_drafts,
                            .sampling = work->sampling,
                            .delay_ms = e->delay_ms,
                            .user = e};
    if (n_drafts == 0 || !shoal_upstream_can_judge(r->upstream, &a)) {
        /* Drafts that cannot be judged are held against what the engine says by itself. */
        a.n_drafts = 0;
        a.n_max = work->n_drafts > 0 ? SHOAL_MIN(work->n_drafts + 1, room)
                                     : work->decode_to - work->n_ids;
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_upstream_start(r->upstream, &a, &e->call, &err);
    SHOAL_ASSERT(status != SHOAL_BUSY); /* as many are asked as are free */
    if (status != SHOAL_OK) {
        bool memory = status == SHOAL_E_NOMEM;
        shoal_session_fail(e->session,
                           memory ? SHOAL_RPC_RESOURCE_EXHAUSTED : SHOAL_RPC_INVALID_ARGUMENT,
                           err.text);
        return;
    }
    r->n_calls++;
    e->waits = false;
    e->delay_ms = 0;
    e->n_ids = work->n_ids;
    e->n_judged = a.n_drafts;
    memcpy(e->drafts, work->ids + work->n_ids, a.n_drafts * sizeof(*e->drafts));
}

/* Drops calls that no longer fit their sessions, and finds the sessions that a call is due for. */
static void find_waiting(relay *r, uint64_t now_ms)
{
    r->n_waiting = 0;
    for (size_t i = 0; i < r->n_entries; i++) {
        entry *e = r->entries[i];
        shoal_session_work work;
        bool due = shoal_session_work_get(e->session, &work) && !e->held;
        if (e->call != NULL && (!due || !fits(e, &work))) {
            drop_call(r, e);
        }
        bool waits = due && e->call == NULL;
        e->since_ms = waits && !e->waits ? now_ms : e->since_ms;
        e->waits = waits;
        if (!waits) {
            continue;
        }
        r->items[r->n_waiting] =
            (shoal_sched_item){.id = e->id,
                               .tenant = e->tenant,
                               .priority = shoal_session_due_get(e->session).priority,
                               .arrived_ms = e->added_ms,
                               .deadline_ms = shoal_session_deadline_ms(e->session),
                               .since_ms = e->since_ms,
                               .turn = e->turn,
                               .sample = true};
        r->waiting[r->n_waiting++] = e;
    }
}

/* The time that calls are under way goes on. */
static void pass_time(relay *r, uint64_t now_ms)
{
    r->call_ms += (double)r->n_calls * (double)(now_ms - SHOAL_MIN(r->at_ms, now_ms));
    r->at_ms = now_ms;
}

static shoal_status relay_step(void *ctx, const shoal_clock *clock)
{
    relay *r = ctx;
    uint64_t now_ms = shoal_clock_now_ms(clock);
    pass_time(r, now_ms);
    bool any = take_events(r, now_ms);
    find_waiting(r, now_ms);
    size_t n_free = shoal_upstream_n_free(r->upstream); /* the client wakes us when it grows */
    const shoal_sched_pick *picks = NULL;
    size_t n_picks = shoal_sched_turns(r->sched, r->items, r->n_waiting, n_free, now_ms, &picks);
    r->turn++;
    for (size_t k = 0; k < n_picks; k++) {
        entry *e = r->waiting[picks[k].item_i];
        shoal_session_work work;
        bool due = shoal_session_work_get(e->session, &work);
        SHOAL_ASSERT(due);
        e->turn = r->turn;
        ask(r, e, &work);
    }
    r->n_waiting -= n_picks;
    any = any || n_picks > 0;
    shoal_metric_set(r->metrics->waiting, (double)r->n_waiting);
    return any ? SHOAL_OK : SHOAL_EOF;
}

/* Who comes next waits behind those that wait, each for the next call to end: of as many as there
 * may be one does each n_calls_max-th part of the time that one takes. Before any has ended, that
 * is at least as long as they are under way. */
static void relay_load(const void *ctx, shoal_admit_load *io_load)
{
    const relay *r = ctx;
    size_t n_max = shoal_upstream_n_calls_max(r->upstream);
    bool full = r->n_calls + r->n_waiting >= n_max;
    double mean_us = r->call_ms / SHOAL_MAX(r->n_ended, 1.0) * 1000.0;
    *io_load = (shoal_admit_load){.n_rows_waiting = full ? r->n_waiting + 1 : 0,
                                  .n_rows_step = 1,
                                  .fixed_us = mean_us / (double)n_max};
}

/* Prompts are the engine's: none of their tokens is waited for here. */
static double relay_found(const void *ctx)
{
    (void)ctx;
    return 1.0;
}

/* --- life ------------------------------------------------------------------------------------- */

static void relay_free(void *ctx)
{
    relay *r = ctx;
    if (r == NULL) {
        return;
    }
    for (size_t i = 0; i < r->n_entries; i++) {
        drop_call(r, r->entries[i]);
        shoal_free(r->entries[i]);
    }
    shoal_upstream_free(r->upstream);
    shoal_sched_free(r->sched);
    shoal_free(r->entries);
    shoal_free(r->waiting);
    shoal_free(r->items);
    shoal_free(r);
}

/* What weights stand behind a URL nobody can hash: nodes agree on the engine's name for its model
 * and on the vocabulary. */
static shoal_status hash_model(const shoal_upstream *upstream, shoal_hash *ret_hash)
{
    const shoal_upstream_abilities *a = shoal_upstream_abilities_get(upstream);
    char text[SHOAL_REPLY_NAME_MAX + SHOAL_HASH_HEX + 32];
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(shoal_tokenizer_hash(shoal_upstream_tokenizer(upstream)), hex);
    int n = snprintf(text, sizeof(text), "shoal upstream\n%s\n%s", a->model.id, hex);
    return shoal_hash_of(text, (size_t)n, ret_hash);
}

static void relay_describe(const void *ctx, shoal_describe *ret_describe)
{
    const relay *r = ctx;
    const shoal_upstream_abilities *a = shoal_upstream_abilities_get(r->upstream);
    const shoal_tokenizer *tokenizer = shoal_upstream_tokenizer(r->upstream);
    shoal_describe *d = ret_describe;
    (void)snprintf(d->name, sizeof(d->name), "%s", a->model.id);
    (void)snprintf(d->kv_form, sizeof(d->kv_form), "none");
    d->model = r->model;
    d->tokenizer = *shoal_tokenizer_hash(tokenizer);
    d->chat_template = *shoal_tokenizer_template_hash(tokenizer);
    d->n_vocab = (uint32_t)shoal_tokenizer_n_vocab(tokenizer);
    d->n_ctx = (uint32_t)r->settings.n_ctx;
    d->verify = a->scores == SHOAL_SCORES_NONE ? SHOAL_VERIFY_NONE : SHOAL_VERIFY_GREEDY;
}

static const shoal_backend_ops relay_ops = {.name = "upstream",
                                            .describe = relay_describe,
                                            .add = relay_add,
                                            .remove = relay_remove,
                                            .touch = relay_touch,
                                            .hold = relay_hold,
                                            .step = relay_step,
                                            .load = relay_load,
                                            .found = relay_found,
                                            .free = relay_free};

static shoal_status set_up(relay *r, shoal_err *err)
{
    size_t told = (size_t)SHOAL_MIN(shoal_upstream_abilities_get(r->upstream)->model.n_ctx,
                                    (uint64_t)SHOAL_WIRE_POSITION_MAX);
    size_t n_ctx = r->settings.n_ctx > 0 ? r->settings.n_ctx : told;
    n_ctx = n_ctx > 0 ? n_ctx : r->settings.n_ctx_trained;
    if (n_ctx == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "upstream %.80s does not say how long a text it takes, nor does the "
                             "tokenizer's file; set context.max",
                             shoal_upstream_url(r->upstream));
    }
    r->settings.n_ctx = SHOAL_MIN(n_ctx, (size_t)SHOAL_WIRE_POSITION_MAX);
    size_t n = r->settings.n_sessions_max;
    shoal_sched_settings sched = shoal_sched_settings_default();
    sched.n_items_max = n;
    r->entries = shoal_calloc(n, sizeof(entry *));
    r->waiting = shoal_calloc(n, sizeof(entry *));
    r->items = shoal_calloc(n, sizeof(*r->items));
    if (r->entries == NULL || r->waiting == NULL || r->items == NULL ||
        shoal_sched_new(&sched, &r->sched) != SHOAL_OK ||
        hash_model(r->upstream, &r->model) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu sessions",
                             r->settings.n_sessions_max);
    }
    return SHOAL_OK;
}

shoal_status shoal_relay_new(shoal_upstream *take_upstream, const shoal_relay_settings *settings,
                             const shoal_cloud_metrics *metrics, void (*wake)(void *ctx),
                             void *wake_ctx, shoal_backend *ret_backend, shoal_err *err)
{
    relay *r = shoal_calloc(1, sizeof(*r));
    if (r == NULL) {
        shoal_upstream_free(take_upstream);
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the upstream's sessions");
    }
    r->upstream = take_upstream;
    r->settings = *settings;
    r->metrics = metrics;
    shoal_status status = set_up(r, err);
    if (status != SHOAL_OK) {
        relay_free(r);
        return status;
    }
    shoal_upstream_set_wake(r->upstream, wake, wake_ctx);
    *ret_backend = (shoal_backend){
        .ops = &relay_ops, .ctx = r, .tokenizer = shoal_upstream_tokenizer(r->upstream)};
    return SHOAL_OK;
}

static size_t trained_context(const shoal_gguf *gguf)
{
    shoal_str arch = {0};
    char key[128];
    uint64_t n_ctx = 0;
    if (shoal_gguf_get_str(gguf, "general.architecture", &arch, NULL) != SHOAL_OK ||
        arch.length > 64) {
        return 0;
    }
    (void)snprintf(key, sizeof(key), "%.*s.context_length", (int)arch.length, arch.data);
    return shoal_gguf_get_u64(gguf, key, &n_ctx, NULL) == SHOAL_OK
               ? (size_t)SHOAL_MIN(n_ctx, (uint64_t)SHOAL_WIRE_POSITION_MAX)
               : 0;
}

shoal_status shoal_relay_open_tokenizer(const char *path, shoal_tokenizer **ret_tokenizer,
                                        size_t *ret_n_ctx, shoal_err *err)
{
    shoal_map map = {0};
    shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_map_open(path, &map, err));
    shoal_status status = shoal_gguf_open(map.data, map.size, &gguf, err);
    if (status == SHOAL_OK) {
        status = shoal_tokenizer_new(gguf, ret_tokenizer, err);
    }
    if (status == SHOAL_OK) {
        *ret_n_ctx = trained_context(gguf);
    } else {
        shoal_err_prefix(err, "%.100s", path);
    }
    shoal_gguf_close(gguf);
    shoal_map_close(&map);
    return status;
}
