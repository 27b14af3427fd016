/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/batch.h"

#include "cloud/prefix/prefix.h"
#include "cloud/sched/sched.h"
#include "cloud/server/share.h"
#include "common/base/mem.h"
#include "common/obs/log.h"

#include <string.h>
#include <sys/random.h>

static const size_t NO_ENTRY = SIZE_MAX;
/* Weight of a step in what is told of its cost, and for how long a session counts that waits for
 * its edge. */
static const double COST_GAIN = 0.125;
static const uint64_t ANSWER_MS = 500;
/* A step that begins so long after the one before is a cold one, and so is the one behind it: it
 * mostly does what the first did not, a sample after a prompt. */
static const uint64_t COLD_NS = 500000;
static const unsigned COLD_STEPS = 2;
/* Steps of so many rows are timed before there is work, the best of some turns of each, and none is
 * begun when so much time has passed: with 1B parameters there is time for those of 1 and 8 rows.
 */
enum {
    TIMED_ROWS = 3,
    TIMED_TURNS = 3,
    TIMED_ROWS_MAX = 32
};
static const size_t TIMED[TIMED_ROWS] = {1, 8, TIMED_ROWS_MAX};
static const uint64_t TIMED_NS = 100000000;
/* What a prompt that is looked up leaves of those before it in the share that is found. */
static const double KEEP_FOUND = 1.0 - 1.0 / 32;

/* The scheduler knows no engine, so it has a number of its own for what is one thing. */
_Static_assert((int)SHOAL_SCHED_BLOCK == (int)SHOAL_KV_BLOCK, "a page is a page");

typedef struct entry {
    shoal_session *session;
    uint64_t id; /* order of arrival */
    size_t tenant;
    uint64_t added_ms;
    uint64_t last_ms;         /* last message or result */
    uint64_t since_ms;        /* since when its sample, or its prompt, waits */
    uint64_t turn;            /* last step it was in */
    uint64_t due_ms;          /* when a sample of it was due for the last time; 0: never */
    shoal_prefix_owner owner; /* of its blocks in the prefix cache */
    bool owned;
    const shoal_lora *lora; /* that owner and part were made with */
    bool looked;            /* its prompt counts in the share that is found */
    bool waits;             /* for blocks of the store */
    shoal_share_part part;
    bool works; /* had work when the last step was planned */
    bool held;
} entry;

struct shoal_batch {
    shoal_engine *engine;
    shoal_batch_settings settings;
    const shoal_cloud_metrics *metrics;
    shoal_sched *sched;
    shoal_prefix *prefix; /* NULL: off */
    shoal_share *share;   /* NULL: off */
    shoal_sched_cost cost;
    double step_us; /* of a step without its drafts, smoothed; 0: none was run */
    double price;   /* of a draft in tokens, smoothed */
    shoal_msg_cost told;
    entry *entries; /* [n_sessions_max], oldest first */
    size_t n_entries;
    double n_looked;       /* tokens of prompts, fading, */
    double n_found;        /* and those of them that were found */
    bool looked;           /* for texts, since the last step */
    uint64_t stepped_ns;   /* end of the last step, with what followed it */
    unsigned n_cold;       /* steps that are cold still, the one that runs included */
    size_t n_pages_shared; /* when the last step was planned: those of each session but the first */
    uint64_t next_id;
    uint64_t turn;
    shoal_sched_item *items; /* [n_sessions_max], as entries */
    shoal_span *spans;       /* [n_sessions_max], as the plan's picks */
};

/* A cache of at most so many percent of the pool's pages. */
static shoal_status make_prefix(shoal_batch *batch)
{
    shoal_kv_pool *pool = shoal_engine_kv(batch->engine);
    size_t n_blocks = shoal_kv_pool_n_pages(pool) / shoal_kv_pool_shape(pool)->n_layers *
                      batch->settings.prefix_percent / 100;
    if (n_blocks == 0) {
        return SHOAL_OK;
    }
    shoal_prefix_settings settings = {.model = shoal_engine_model(batch->engine)->hash,
                                      .n_blocks_max = n_blocks};
    if (getrandom(&settings.secret, sizeof(settings.secret), 0) !=
        (ssize_t)sizeof(settings.secret)) {
        return SHOAL_E_IO;
    }
    return shoal_prefix_new(pool, &settings, &batch->prefix);
}

static shoal_status make_share(shoal_batch *batch)
{
    const shoal_batch_settings *s = &batch->settings;
    if (s->store == NULL) {
        return SHOAL_OK;
    }
    const shoal_share_settings settings = {.store = s->store,
                                           .pool = shoal_engine_kv(batch->engine),
                                           .prefix = batch->prefix,
                                           .model = shoal_engine_model(batch->engine)->hash,
                                           .secret = s->store_secret,
                                           .n_fetches_max = s->n_sessions_max,
                                           .wait_ms = s->store_wait_ms,
                                           .always = s->store_always};
    return shoal_share_new(&settings, batch->metrics, &batch->share);
}

/* The shortest time of a step of n_rows, ns; 0: none could be run, or the clock stands. */
static uint64_t time_step(shoal_engine *engine, shoal_kv_seq *seq, size_t n_rows,
                          const shoal_clock *clock, uint64_t end_ns)
{
    static const int32_t ids[TIMED_ROWS_MAX] = {0};
    uint64_t best_ns = UINT64_MAX;
    for (size_t i = 0; i < TIMED_TURNS && shoal_clock_now_ns(clock) < end_ns; i++) {
        size_t n_logits = SHOAL_MIN(n_rows, shoal_engine_n_logits_max(engine));
        shoal_span span = {.seq = seq, .ids = ids, .n_ids = n_rows, .n_logits = n_logits};
        uint64_t start_ns = shoal_clock_now_ns(clock);
        if (shoal_engine_step(engine, &span, 1) != SHOAL_OK) {
            return 0;
        }
        uint64_t took_ns = shoal_clock_now_ns(clock) - start_ns;
        best_ns = SHOAL_MIN(best_ns, took_ns);
        (void)shoal_kv_seq_truncate(seq, 0);
    }
    return best_ns < UINT64_MAX ? best_ns : 0;
}

/* What a row costs, before there is work: from that alone it can be hard to tell. */
static void time_steps(shoal_batch *batch, const shoal_clock *clock)
{
    shoal_sched_cost timed = {.n = 0};
    shoal_kv_seq *seq = NULL;
    if (shoal_kv_seq_new(shoal_engine_kv(batch->engine), &seq) != SHOAL_OK) {
        return;
    }
    uint64_t end_ns = shoal_clock_now_ns(clock) + TIMED_NS;
    size_t n_timed = 0;
    for (size_t i = 0; i < TIMED_ROWS; i++) {
        uint64_t ns = time_step(batch->engine, seq, TIMED[i], clock, end_ns);
        if (ns > 0) {
            shoal_sched_cost_observe(&timed, TIMED[i], 0, SHOAL_MAX(ns / 1000, (uint64_t)1));
            n_timed++;
        }
    }
    shoal_kv_seq_free(seq);
    if (n_timed > 1 && timed.fixed_us > 0.0) {
        shoal_sched_cost_know(&batch->cost, timed.fixed_us, timed.row_us);
        shoal_log(SHOAL_LOG_DEBUG, "steps were timed fixed_us=%.0f row_us=%.1f", timed.fixed_us,
                  timed.row_us);
    }
}

shoal_status shoal_batch_new(shoal_engine *engine, const shoal_batch_settings *settings,
                             const shoal_cloud_metrics *metrics, shoal_batch **ret_batch)
{
    SHOAL_CLEANUP(shoal_batch_freep) shoal_batch *batch = shoal_calloc(1, sizeof(*batch));
    if (batch == NULL) {
        return SHOAL_E_NOMEM;
    }
    size_t n = settings->n_sessions_max;
    batch->engine = engine;
    batch->settings = *settings;
    batch->metrics = metrics;
    batch->entries = shoal_calloc(n, sizeof(*batch->entries));
    batch->items = shoal_calloc(n, sizeof(*batch->items));
    batch->spans = shoal_calloc(n, sizeof(*batch->spans));
    if (batch->entries == NULL || batch->items == NULL || batch->spans == NULL) {
        return SHOAL_E_NOMEM;
    }
    shoal_sched_settings sched = shoal_sched_settings_default();
    sched.n_items_max = n;
    SHOAL_TRY(shoal_sched_new(&sched, &batch->sched));
    SHOAL_TRY(make_prefix(batch));
    SHOAL_TRY(make_share(batch));
    /* Half of a step's rows at most are prompts, so that neither kind of work starves the other. */
    size_t half = SHOAL_MAX(shoal_engine_n_rows_max(engine) / 2, (size_t)1);
    batch->settings.prefill_chunk = SHOAL_MIN(SHOAL_MAX(settings->prefill_chunk, (size_t)1), half);
    batch->settings.timing = NULL;
    if (settings->timing != NULL) {
        time_steps(batch, settings->timing);
    }
    *ret_batch = SHOAL_STEAL(batch);
    return SHOAL_OK;
}

void shoal_batch_free(shoal_batch *batch)
{
    if (batch == NULL) {
        return;
    }
    shoal_sched_free(batch->sched);
    shoal_share_free(batch->share);
    shoal_prefix_free(batch->prefix);
    shoal_free(batch->entries);
    shoal_free(batch->items);
    shoal_free(batch->spans);
    shoal_free(batch);
}

shoal_status shoal_batch_add_public(shoal_batch *batch, const int32_t *ids, size_t n_ids)
{
    return batch->prefix == NULL ? SHOAL_BUSY : shoal_prefix_add_public(batch->prefix, ids, n_ids);
}

static size_t find(const shoal_batch *batch, const shoal_session *session)
{
    for (size_t i = 0; i < batch->n_entries; i++) {
        if (batch->entries[i].session == session) {
            return i;
        }
    }
    return NO_ENTRY;
}

/* Whose its blocks are. Without memory for that the session computes all of its text itself. */
static void name_blocks(shoal_batch *batch, entry *e)
{
    const char *tenant = shoal_session_tenant(e->session);
    e->lora = shoal_session_lora(e->session);
    const shoal_hash hash = e->lora != NULL ? shoal_lora_hash(e->lora) : (shoal_hash){{0}};
    const shoal_hash *adapter = e->lora != NULL ? &hash : NULL;
    e->owned = batch->prefix != NULL &&
               shoal_prefix_owner_of(batch->prefix, tenant, adapter, &e->owner) == SHOAL_OK;
    if (batch->share != NULL) {
        shoal_share_join(batch->share, tenant, adapter, &e->part);
    }
}

shoal_status shoal_batch_add(shoal_batch *batch, shoal_session *session, uint64_t now_ms)
{
    if (batch->n_entries == batch->settings.n_sessions_max) {
        return SHOAL_BUSY;
    }
    size_t tenant_i = 0;
    SHOAL_TRY(shoal_sched_join(batch->sched, shoal_session_tenant(session), &tenant_i));
    entry *e = &batch->entries[batch->n_entries++];
    *e = (entry){.session = session,
                 .id = batch->next_id++,
                 .tenant = tenant_i,
                 .added_ms = now_ms,
                 .last_ms = now_ms};
    shoal_session_set_cost(session, &batch->told);
    name_blocks(batch, e);
    return SHOAL_OK;
}

void shoal_batch_remove(shoal_batch *batch, shoal_session *session)
{
    size_t i = find(batch, session);
    if (i == NO_ENTRY) {
        return;
    }
    const shoal_session_stats *stats = shoal_session_stats_get(session);
    shoal_sched_judged(batch->sched, batch->entries[i].tenant, stats->n_verified,
                       stats->n_accepted);
    shoal_sched_leave(batch->sched, batch->entries[i].tenant);
    shoal_session_set_cost(session, NULL);
    if (batch->share != NULL) {
        shoal_share_leave(batch->share, &batch->entries[i].part);
    }
    batch->n_entries--;
    memmove(batch->entries + i, batch->entries + i + 1,
            (batch->n_entries - i) * sizeof(*batch->entries));
}

void shoal_batch_touch(shoal_batch *batch, const shoal_session *session, uint64_t now_ms)
{
    size_t i = find(batch, session);
    if (i != NO_ENTRY) {
        batch->entries[i].last_ms = now_ms;
    }
}

void shoal_batch_hold(shoal_batch *batch, const shoal_session *session, bool hold)
{
    size_t i = find(batch, session);
    if (i != NO_ENTRY) {
        batch->entries[i].held = hold;
    }
}

/* --- planning --------------------------------------------------------------------------------- */

/* What the scheduler has to know of an entry. */
static shoal_sched_item describe(const shoal_batch *batch, entry *e, uint64_t now_ms)
{
    shoal_session_due due = {.n_prefill = 0};
    const shoal_session_stats *stats = shoal_session_stats_get(e->session);
    shoal_kv_need need = shoal_session_kv_need(e->session);
    if (!e->held && !e->waits) {
        due = shoal_session_due_get(e->session);
    }
    bool works = due.sample || due.n_prefill > 0;
    if (works && !e->works) {
        e->since_ms = now_ms;
    }
    e->works = works;
    e->due_ms = due.sample ? now_ms : e->due_ms;
    return (shoal_sched_item){.id = e->id,
                              .tenant = e->tenant,
                              .priority = due.priority,
                              .arrived_ms = e->added_ms,
                              .deadline_ms = shoal_session_deadline_ms(e->session),
                              .since_ms = works ? e->since_ms : e->last_ms,
                              .turn = e->turn,
                              .n_prefill = due.n_prefill,
                              .sample = due.sample,
                              .n_drafts = due.n_drafts,
                              .acceptance = due.guessed > 0.0
                                                ? due.guessed
                                                : shoal_sched_acceptance(batch->sched, e->tenant,
                                                                         stats->n_verified,
                                                                         stats->n_accepted),
                              .odds = due.odds,
                              .n_rows_held = need.n_rows_held,
                              .n_pages_block = need.n_pages_block,
                              .n_pages_copy = need.n_pages_copy,
                              .n_pages_given = need.n_pages_given,
                              .n_pages_held = need.n_pages_held};
}

/* False: nothing is cached. */
static bool evict_prefix(shoal_batch *batch)
{
    bool evicted = batch->prefix != NULL && shoal_prefix_evict(batch->prefix);
    shoal_metric_add(batch->metrics->prefix_evictions, evicted ? 1 : 0);
    return evicted;
}

static bool make_room(void *ctx)
{
    return evict_prefix(ctx);
}

static shoal_share_site site_of(shoal_batch *batch, const entry *e)
{
    return (shoal_share_site){.session = e->session,
                              .prefix = e->owned ? batch->prefix : NULL,
                              .owner = &e->owner,
                              .cost = &batch->cost,
                              .prefill_chunk = batch->settings.prefill_chunk,
                              .make_room = make_room,
                              .ctx = batch};
}

/* n tokens of the entry's text were found in the prefix cache. */
static void note_found(shoal_batch *batch, entry *e, size_t n)
{
    size_t n_ids = 0;
    (void)shoal_session_ids(e->session, &n_ids);
    if (!e->looked && n_ids > 0) {
        e->looked = true;
        batch->n_looked = batch->n_looked * KEEP_FOUND + (double)n_ids;
        batch->n_found *= KEEP_FOUND;
    }
    batch->n_found = SHOAL_MIN(batch->n_found + (double)n, batch->n_looked);
    shoal_metric_add(batch->metrics->prefix_tokens, (double)n);
}

/* Begins each text with what is there of it: in the prefix cache, then in the store. */
static void find_texts(shoal_batch *batch, const shoal_clock *clock)
{
    if (batch->share != NULL) {
        shoal_share_poll(batch->share);
    }
    for (size_t i = 0; i < batch->n_entries; i++) {
        entry *e = &batch->entries[i];
        size_t n = 0;
        if (shoal_session_lora(e->session) != e->lora) {
            name_blocks(batch, e); /* its Open has come, and nothing of its text was looked for */
        }
        if (e->owned && !e->held) {
            n = shoal_session_take_prefix(e->session, batch->prefix, &e->owner);
            note_found(batch, e, n);
        }
        if (batch->share != NULL) {
            const shoal_share_site site = site_of(batch, e);
            shoal_share_found(&e->part, n > 0 ? shoal_session_kv_length(e->session) : 0);
            e->waits = shoal_share_fetch(batch->share, &e->part, &site, clock);
        }
    }
}

void shoal_batch_look(shoal_batch *batch, const shoal_clock *clock)
{
    find_texts(batch, clock);
    batch->looked = true;
}

double shoal_batch_found(const shoal_batch *batch)
{
    return batch->n_looked > 0.0 ? batch->n_found / batch->n_looked : 0.0;
}

static shoal_status plan_step(shoal_batch *batch, const shoal_clock *clock,
                              shoal_sched_plan *ret_plan)
{
    uint64_t now_ms = shoal_clock_now_ms(clock);
    if (!batch->looked) {
        find_texts(batch, clock);
    }
    batch->looked = false;
    const shoal_kv_pool *pool = shoal_engine_kv(batch->engine);
    const shoal_sched_limits limits = {.n_rows_max = shoal_engine_n_rows_max(batch->engine),
                                       .n_logits_max = shoal_engine_n_logits_max(batch->engine),
                                       .n_prefill_max = batch->settings.prefill_chunk,
                                       .n_drafts_max = SHOAL_SESSION_DRAFTS_MAX,
                                       .time_us = batch->settings.step_time_us,
                                       .n_pages_free = shoal_kv_pool_n_free(pool),
                                       .n_pages_cached = shoal_kv_pool_n_kept(pool),
                                       .hold_ms = batch->settings.idle_hold_ms};
    size_t n_held = 0;
    for (size_t i = 0; i < batch->n_entries; i++) {
        batch->items[i] = describe(batch, &batch->entries[i], now_ms);
        n_held += batch->items[i].n_pages_held;
    }
    size_t n_used = shoal_kv_pool_n_pages(pool) - limits.n_pages_free - limits.n_pages_cached;
    batch->n_pages_shared = n_held - SHOAL_MIN(n_used, n_held);
    return shoal_sched_step(batch->sched, batch->items, batch->n_entries, &limits, &batch->cost,
                            now_ms, ret_plan);
}

static void evict(shoal_batch *batch, size_t i)
{
    entry *e = &batch->entries[i];
    shoal_log(SHOAL_LOG_DEBUG, "kv evict id=%s tokens=%zu",
              shoal_session_stats_get(e->session)->request_id, shoal_session_kv_length(e->session));
    shoal_session_evict(e->session);
    shoal_share_dropped(&e->part);
    shoal_metric_add(batch->metrics->kv_evictions, 1);
}

/* A plan, and the pages it takes. Where it finds none because sessions share them, these give way
 * one by one, and at last the cache forgets what it shares with them. */
static shoal_status plan_room(shoal_batch *batch, const shoal_clock *clock,
                              shoal_sched_plan *ret_plan)
{
    const shoal_kv_pool *pool = shoal_engine_kv(batch->engine);
    shoal_status status = SHOAL_OK;
    size_t n_rounds = 0;
    for (bool again = true; again; n_rounds++) {
        status = plan_step(batch, clock, ret_plan);
        for (size_t k = 0; k < ret_plan->n_preempted; k++) {
            evict(batch, ret_plan->preempted[k]);
        }
        again = status == SHOAL_BUSY && ret_plan->n_preempted > 0;
        /* Who gave way finds its prefix in the cache and holds it again: that ends with the cache.
         */
        bool vain = !again || n_rounds > batch->n_entries;
        if (status == SHOAL_BUSY && vain && batch->prefix != NULL) {
            while (evict_prefix(batch)) {
                again = true;
            }
        }
    }
    bool lacks = status == SHOAL_OK && batch->prefix != NULL;
    while (lacks && shoal_kv_pool_n_free(pool) < ret_plan->n_pages) {
        lacks = evict_prefix(batch);
    }
    return status;
}

/* --- the step --------------------------------------------------------------------------------- */

/* Sessions that are in the middle of an answer, those included whose edge is asked just now. */
static size_t n_answering(const shoal_batch *batch, uint64_t now_ms)
{
    size_t n = 0;
    for (size_t i = 0; i < batch->n_entries; i++) {
        uint64_t due_ms = batch->entries[i].due_ms;
        n += due_ms > 0 && now_ms - SHOAL_MIN(due_ms, now_ms) <= ANSWER_MS;
    }
    return SHOAL_MAX(n, (size_t)1);
}

/* What the edges are told of the cost, smoothed over some steps: as if all sessions were decoded
 * plainly in each step. Were those counted that happen to wait, an edge that drafts would not be
 * while it does, and all would take the load for less than it is, and draft on. */
static void tell_cost(shoal_batch *batch, const shoal_sched_plan *plan, uint64_t now_ms)
{
    size_t n = n_answering(batch, now_ms);
    double step_us = shoal_sched_cost_us(&batch->cost, n + plan->n_rows - plan->n_logits) +
                     (shoal_sched_cost_session_us(&batch->cost) + batch->cost.logit_us) * (double)n;
    double price = shoal_sched_cost_price(&batch->cost, n);
    bool first = batch->step_us <= 0.0;
    batch->step_us += (step_us - batch->step_us) * (first ? 1.0 : COST_GAIN);
    batch->price += (price - batch->price) * (first ? 1.0 : COST_GAIN);
    double us_max = SHOAL_WIRE_COST_US_MAX;
    batch->told.step_us = (uint32_t)SHOAL_MIN(batch->step_us, us_max);
    batch->told.row_us = (uint32_t)SHOAL_MIN(shoal_sched_cost_draft_us(&batch->cost, n), us_max);
    batch->told.price = (uint32_t)(batch->price * SHOAL_WIRE_PRICE_ONE);
}

static void distribute(shoal_batch *batch, const shoal_sched_plan *plan, uint64_t elapsed_ns,
                       const shoal_clock *clock)
{
    uint64_t now_ms = shoal_clock_now_ms(clock);
    shoal_metric_add(batch->metrics->steps, 1);
    shoal_metric_observe(batch->metrics->step_seconds, (double)elapsed_ns / 1e9);
    shoal_metric_observe(batch->metrics->step_rows, (double)plan->n_rows);
    uint64_t us = elapsed_ns / 1000;
    (batch->n_cold > 0 ? shoal_sched_cost_observe_cold
                       : shoal_sched_cost_observe)(&batch->cost, plan->n_rows, plan->n_samples, us);
    tell_cost(batch, plan, now_ms);
    batch->turn++;
    for (size_t k = 0; k < plan->n_picks; k++) {
        const shoal_span *span = &batch->spans[k];
        entry *e = &batch->entries[plan->picks[k].item_i];
        e->last_ms = now_ms;
        e->turn = batch->turn;
        if (span->n_logits > 0) {
            e->since_ms = now_ms;
        }
        shoal_session_result(e->session, span, elapsed_ns / 1000 * span->n_ids / plan->n_rows,
                             now_ms);
        if (e->owned) {
            shoal_session_publish(e->session, batch->prefix, &e->owner);
        }
    }
    if (batch->prefix != NULL) {
        shoal_metric_set(batch->metrics->prefix_blocks,
                         (double)shoal_prefix_n_blocks(batch->prefix));
    }
    const shoal_kv_pool *pool = shoal_engine_kv(batch->engine);
    size_t n_unused = shoal_kv_pool_n_free(pool) + shoal_kv_pool_n_kept(pool);
    shoal_metric_set(batch->metrics->kv_usage,
                     1.0 - (double)n_unused / (double)shoal_kv_pool_n_pages(pool));
}

/* Samples and answers, after_us in all, are compute of those whose they are. */
static void charge_after(shoal_batch *batch, const shoal_sched_plan *plan, uint64_t after_us)
{
    (batch->n_cold > 0 ? shoal_sched_cost_observe_after_cold : shoal_sched_cost_observe_after)(
        &batch->cost, plan->n_samples, plan->n_logits, after_us);
    for (size_t k = 0; k < plan->n_picks; k++) {
        entry *e = &batch->entries[plan->picks[k].item_i];
        shoal_session_computed(e->session, after_us * batch->spans[k].n_logits / plan->n_logits);
    }
}

/* Apart from distribute, whose time is taken for that of samples. */
static void give_blocks(shoal_batch *batch, const shoal_sched_plan *plan, const shoal_clock *clock)
{
    for (size_t k = 0; batch->share != NULL && k < plan->n_picks; k++) {
        entry *e = &batch->entries[plan->picks[k].item_i];
        const shoal_share_site site = site_of(batch, e);
        shoal_share_give(batch->share, &e->part, &site, clock);
    }
}

shoal_status shoal_batch_step(shoal_batch *batch, const shoal_clock *clock)
{
    shoal_sched_plan plan;
    shoal_status status = plan_room(batch, clock, &plan);
    shoal_metric_set(batch->metrics->waiting, (double)plan.n_waiting);
    if (status != SHOAL_OK) {
        bool asking = batch->share != NULL && shoal_share_n_asking(batch->share) > 0;
        return status == SHOAL_EOF && asking ? SHOAL_BUSY : status;
    }
    uint64_t start_ns = shoal_clock_now_ns(clock);
    for (size_t k = 0; k < plan.n_picks; k++) {
        const shoal_sched_pick *pick = &plan.picks[k];
        bool offered = shoal_session_offer(batch->entries[pick->item_i].session, pick->n_rows,
                                           pick->n_logits, &batch->spans[k]);
        SHOAL_ASSERT(offered && batch->spans[k].n_ids == pick->n_rows &&
                     batch->spans[k].n_logits == pick->n_logits);
    }
    bool late = start_ns - SHOAL_MIN(batch->stepped_ns, start_ns) > COLD_NS;
    batch->n_cold = late ? COLD_STEPS : batch->n_cold - (batch->n_cold > 0);
    status = shoal_engine_step(batch->engine, batch->spans, plan.n_picks);
    uint64_t end_ns = shoal_clock_now_ns(clock);
    if (status == SHOAL_OK) {
        distribute(batch, &plan, end_ns - start_ns, clock);
        if (plan.n_logits > 0) {
            uint64_t after_us = (shoal_clock_now_ns(clock) - end_ns) / 1000u;
            charge_after(batch, &plan, after_us);
        }
        give_blocks(batch, &plan, clock);
        batch->stepped_ns = shoal_clock_now_ns(clock);
        return SHOAL_OK;
    }
    shoal_log(SHOAL_LOG_ERROR, "engine step failed status=\"%s\" sessions=%zu",
              shoal_status_text(status), plan.n_picks);
    for (size_t k = 0; k < plan.n_picks; k++) {
        shoal_session_fail(batch->entries[plan.picks[k].item_i].session, SHOAL_RPC_INTERNAL,
                           "this node's engine failed; open the session elsewhere");
    }
    return SHOAL_OK;
}

const shoal_sched_cost *shoal_batch_cost(const shoal_batch *batch)
{
    return &batch->cost;
}

/* Rows of prompts in a step beside n_samples rows that decode: what sched.h says of rows. */
static size_t prompt_rows(const shoal_batch *batch, size_t n_samples)
{
    size_t chunk = batch->settings.prefill_chunk;
    size_t n_cap = shoal_sched_cost_rows(&batch->cost, batch->settings.step_time_us,
                                         shoal_engine_n_rows_max(batch->engine));
    size_t n_own = SHOAL_MIN(chunk, SHOAL_MAX(n_cap / 2, (size_t)1));
    size_t n_left = n_cap - SHOAL_MIN(n_samples, n_cap);
    return SHOAL_MIN(chunk, SHOAL_MAX(n_own, n_left));
}

void shoal_batch_load(const shoal_batch *batch, shoal_admit_load *io_load)
{
    const shoal_sched_cost *cost = &batch->cost;
    io_load->n_samples_step =
        SHOAL_MIN(shoal_engine_n_logits_max(batch->engine), shoal_engine_n_rows_max(batch->engine));
    size_t n_samples = SHOAL_MIN(io_load->n_decoding, io_load->n_samples_step);
    io_load->n_rows_step = prompt_rows(batch, n_samples);
    io_load->fixed_us = cost->fixed_us;
    io_load->row_us = cost->row_us;
    io_load->sample_us = shoal_sched_cost_session_us(cost) + cost->logit_us;
    io_load->n_pages_shared = batch->n_pages_shared;
}
