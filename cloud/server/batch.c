/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/batch.h"

#include "common/base/mem.h"
#include "common/obs/log.h"

#include <string.h>

/* A session this close behind its last token, or a prefill chunk if that is less, catches up
 * within a decode step. */
enum {
    CATCH_UP_ROWS = 32
};

static const size_t NO_ENTRY = SIZE_MAX;

typedef struct entry {
    shoal_session *session;
    uint64_t last_ms; /* last message or result */
    bool held;
    bool in_step;
} entry;

struct shoal_batch {
    shoal_engine *engine;
    shoal_batch_settings settings;
    const shoal_cloud_metrics *metrics;
    entry *entries; /* [n_sessions_max], oldest first */
    size_t n_entries;
    size_t cursor;     /* entry that is first in turn for the next step's decode rows */
    shoal_span *spans; /* [n_sessions_max] */
    size_t *owners;    /* [n_sessions_max], entry of each span */
    size_t n_spans;
};

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
    batch->spans = shoal_calloc(n, sizeof(*batch->spans));
    batch->owners = shoal_calloc(n, sizeof(*batch->owners));
    if (batch->entries == NULL || batch->spans == NULL || batch->owners == NULL) {
        return SHOAL_E_NOMEM;
    }
    /* Half of a step's rows at most are prompts, so that neither kind of work starves the other. */
    size_t half = SHOAL_MAX(shoal_engine_n_rows_max(engine) / 2, (size_t)1);
    batch->settings.prefill_chunk = SHOAL_MIN(SHOAL_MAX(settings->prefill_chunk, (size_t)1), half);
    *ret_batch = SHOAL_STEAL(batch);
    return SHOAL_OK;
}

void shoal_batch_free(shoal_batch *batch)
{
    if (batch == NULL) {
        return;
    }
    shoal_free(batch->entries);
    shoal_free(batch->spans);
    shoal_free(batch->owners);
    shoal_free(batch);
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

shoal_status shoal_batch_add(shoal_batch *batch, shoal_session *session, uint64_t now_ms)
{
    if (batch->n_entries == batch->settings.n_sessions_max) {
        return SHOAL_BUSY;
    }
    batch->entries[batch->n_entries++] = (entry){.session = session, .last_ms = now_ms};
    return SHOAL_OK;
}

void shoal_batch_remove(shoal_batch *batch, shoal_session *session)
{
    size_t i = find(batch, session);
    if (i == NO_ENTRY) {
        return;
    }
    batch->n_entries--;
    memmove(batch->entries + i, batch->entries + i + 1,
            (batch->n_entries - i) * sizeof(*batch->entries));
    if (batch->cursor > i) {
        batch->cursor--;
    }
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

static shoal_session_want wants(const shoal_batch *batch, const entry *e)
{
    size_t n_rows = SHOAL_MIN(batch->settings.prefill_chunk, (size_t)CATCH_UP_ROWS);
    return e->held ? SHOAL_WANT_NOTHING : shoal_session_wants(e->session, n_rows);
}

/* --- choosing --------------------------------------------------------------------------------- */

typedef struct budget {
    size_t n_rows;
    size_t n_logits;
} budget;

static bool take(shoal_batch *batch, size_t i, size_t n_rows_max, budget *left)
{
    entry *e = &batch->entries[i];
    shoal_span span;
    if (e->in_step || !shoal_session_offer(e->session, SHOAL_MIN(n_rows_max, left->n_rows),
                                           left->n_logits, &span)) {
        return false;
    }
    left->n_rows -= span.n_ids;
    left->n_logits -= span.n_logits;
    batch->spans[batch->n_spans] = span;
    batch->owners[batch->n_spans] = i;
    batch->n_spans++;
    e->in_step = true;
    return true;
}

/* Samples are due: the oldest first, so that it gets on whatever the others do, then all in turn,
 * beginning where the last step ran out of room. */
static void choose_tokens(shoal_batch *batch, size_t oldest, budget *left)
{
    if (wants(batch, &batch->entries[oldest]) == SHOAL_WANT_TOKENS) {
        take(batch, oldest, left->n_rows, left);
    }
    size_t start = batch->cursor < batch->n_entries ? batch->cursor : 0;
    for (size_t k = 0; k < batch->n_entries; k++) {
        size_t i = (start + k) % batch->n_entries;
        if (batch->entries[i].in_step || wants(batch, &batch->entries[i]) != SHOAL_WANT_TOKENS) {
            continue;
        }
        if (left->n_rows == 0 || left->n_logits == 0) {
            batch->cursor = i;
            return;
        }
        take(batch, i, left->n_rows, left);
    }
    batch->cursor = (start + 1) % batch->n_entries;
}

/* Prompts in order of age: finishing one is better than halving two. */
static void choose_prefill(shoal_batch *batch, budget *left)
{
    size_t chunk = batch->settings.prefill_chunk;
    for (size_t i = 0; i < batch->n_entries && chunk > 0 && left->n_rows > 0; i++) {
        if (wants(batch, &batch->entries[i]) != SHOAL_WANT_PREFILL) {
            continue;
        }
        size_t before = left->n_rows;
        take(batch, i, chunk, left);
        chunk -= before - left->n_rows;
    }
}

/* Number of sessions that have work. */
static size_t choose(shoal_batch *batch)
{
    size_t oldest = NO_ENTRY;
    size_t n_waiting = 0;
    bool prefill = false;
    batch->n_spans = 0;
    for (size_t i = 0; i < batch->n_entries; i++) {
        entry *e = &batch->entries[i];
        shoal_session_want want = wants(batch, e);
        e->in_step = false;
        if (want == SHOAL_WANT_NOTHING) {
            continue;
        }
        prefill = prefill || want == SHOAL_WANT_PREFILL;
        oldest = oldest == NO_ENTRY ? i : oldest;
        n_waiting++;
    }
    if (oldest == NO_ENTRY) {
        return 0;
    }
    size_t reserved = prefill ? batch->settings.prefill_chunk : 0;
    budget left = {.n_rows = shoal_engine_n_rows_max(batch->engine) - reserved,
                   .n_logits = shoal_engine_n_logits_max(batch->engine)};
    choose_tokens(batch, oldest, &left);
    left.n_rows += reserved;
    choose_prefill(batch, &left);
    return n_waiting;
}

/* --- giving way ------------------------------------------------------------------------------- */

static void evict(shoal_batch *batch, size_t i)
{
    entry *e = &batch->entries[i];
    shoal_log(SHOAL_LOG_DEBUG, "kv evict id=%s tokens=%zu",
              shoal_session_stats_get(e->session)->request_id, shoal_session_kv_length(e->session));
    shoal_session_evict(e->session);
    shoal_metric_add(batch->metrics->kv_evictions, 1);
}

static bool holds_pages(const entry *e)
{
    return !e->in_step && shoal_session_kv_length(e->session) > 0;
}

/* The silent session to take pages from: the longest silent one past the hold time, else the
 * youngest one younger than every session in the step. */
static size_t find_idle(const shoal_batch *batch, size_t youngest_in_step, uint64_t now_ms)
{
    size_t stale = NO_ENTRY;
    size_t young = NO_ENTRY;
    for (size_t i = 0; i < batch->n_entries; i++) {
        const entry *e = &batch->entries[i];
        if (!holds_pages(e) || wants(batch, e) != SHOAL_WANT_NOTHING) {
            continue;
        }
        if (now_ms - SHOAL_MIN(e->last_ms, now_ms) >= batch->settings.idle_hold_ms &&
            (stale == NO_ENTRY || e->last_ms < batch->entries[stale].last_ms)) {
            stale = i;
        }
        if (i > youngest_in_step) {
            young = i;
        }
    }
    return stale != NO_ENTRY ? stale : young;
}

static size_t find_waiting(const shoal_batch *batch)
{
    for (size_t i = batch->n_entries; i-- > 0;) {
        if (holds_pages(&batch->entries[i]) &&
            wants(batch, &batch->entries[i]) != SHOAL_WANT_NOTHING) {
            return i;
        }
    }
    return NO_ENTRY;
}

/* Makes the step smaller or the pool emptier. False when only older, briefly silent sessions
 * could give way. */
static bool make_room(shoal_batch *batch, uint64_t now_ms)
{
    size_t last = 0;
    for (size_t s = 1; s < batch->n_spans; s++) {
        if (batch->owners[s] > batch->owners[last]) {
            last = s;
        }
    }
    size_t victim = find_idle(batch, batch->owners[last], now_ms);
    if (victim == NO_ENTRY && batch->n_spans > 1) {
        batch->entries[batch->owners[last]].in_step = false;
        batch->n_spans--;
        batch->spans[last] = batch->spans[batch->n_spans];
        batch->owners[last] = batch->owners[batch->n_spans];
        return true;
    }
    if (victim == NO_ENTRY) {
        victim = find_waiting(batch);
    }
    if (victim == NO_ENTRY) {
        return false;
    }
    evict(batch, victim);
    return true;
}

/* --- the step --------------------------------------------------------------------------------- */

static void distribute(shoal_batch *batch, uint64_t elapsed_ns, uint64_t now_ms)
{
    size_t n_rows = 0;
    for (size_t s = 0; s < batch->n_spans; s++) {
        n_rows += batch->spans[s].n_ids;
    }
    shoal_metric_add(batch->metrics->steps, 1);
    shoal_metric_observe(batch->metrics->step_seconds, (double)elapsed_ns / 1e9);
    shoal_metric_observe(batch->metrics->step_rows, (double)n_rows);
    for (size_t s = 0; s < batch->n_spans; s++) {
        const shoal_span *span = &batch->spans[s];
        entry *e = &batch->entries[batch->owners[s]];
        e->last_ms = now_ms;
        shoal_session_result(e->session, span, elapsed_ns / 1000 * span->n_ids / n_rows, now_ms);
    }
    const shoal_kv_pool *pool = shoal_engine_kv(batch->engine);
    shoal_metric_set(batch->metrics->kv_usage, 1.0 - (double)shoal_kv_pool_n_free(pool) /
                                                         (double)shoal_kv_pool_n_pages(pool));
}

shoal_status shoal_batch_step(shoal_batch *batch, const shoal_clock *clock)
{
    size_t n_working = choose(batch);
    shoal_metric_set(batch->metrics->waiting, (double)(n_working - batch->n_spans));
    if (batch->n_spans == 0) {
        return SHOAL_EOF;
    }
    uint64_t start_ns = shoal_clock_now_ns(clock);
    shoal_status status = SHOAL_OK;
    while ((status = shoal_engine_step(batch->engine, batch->spans, batch->n_spans)) ==
           SHOAL_BUSY) {
        if (!make_room(batch, start_ns / 1000000u)) {
            shoal_metric_set(batch->metrics->waiting, (double)n_working);
            return SHOAL_BUSY;
        }
    }
    uint64_t end_ns = shoal_clock_now_ns(clock);
    if (status == SHOAL_OK) {
        distribute(batch, end_ns - start_ns, end_ns / 1000000u);
        return SHOAL_OK;
    }
    shoal_log(SHOAL_LOG_ERROR, "engine step failed status=\"%s\" sessions=%zu",
              shoal_status_text(status), batch->n_spans);
    for (size_t s = 0; s < batch->n_spans; s++) {
        shoal_session_fail(batch->entries[batch->owners[s]].session, SHOAL_RPC_INTERNAL,
                           "this node's engine failed; open the session elsewhere");
    }
    return SHOAL_OK;
}
