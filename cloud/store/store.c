/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests in, io thread, results out.
 */
#include "cloud/store/store.h"

#include "cloud/store/store_internal.h"
#include "common/base/mem.h"
#include "common/base/queue.h"
#include "common/base/thread.h"

#include <string.h>

enum {
    BATCH_BYTES = 16 << 20, /* of blocks given to a back end at once, but for a single one */
    CLOSE_MS = 5000         /* for blocks that wait to be stored at the end; the rest is dropped */
};

struct shoal_store {
    shoal_store_settings settings;
    store_backend *backend;
    shoal_queue *jobs; /* as long as all that may be in flight: a push always finds room */
    shoal_queue *done; /* the same */
    shoal_thread *thread;
    atomic_size_t n_inflight;
    atomic_size_t inflight_bytes;
    atomic_bool closing;
    store_counters counters;
    shoal_metric *get_seconds;
    shoal_metric *quarantined;
    size_t n_bad;         /* the io thread's: bad blocks since the last sound one */
    uint64_t until_ms;    /* the io thread's: nothing is asked before */
    uint64_t close_by_ms; /* the io thread's; 0: it has not seen that the store closes */
};

/* --- settings --------------------------------------------------------------------------------- */

static const char *const kind_names[] = {
    [SHOAL_STORE_MEMORY] = "memory", [SHOAL_STORE_DISK] = "disk", [SHOAL_STORE_REDIS] = "redis"};

int shoal_store_kind_parse(const char *name, shoal_store_kind *ret_kind)
{
    for (size_t i = 0; i < SHOAL_COUNT(kind_names); i++) {
        if (strcmp(name, kind_names[i]) == 0) {
            *ret_kind = (shoal_store_kind)i;
            return 0;
        }
    }
    return -1;
}

shoal_store_settings shoal_store_settings_default(void)
{
    return (shoal_store_settings){
        .kind = SHOAL_STORE_MEMORY,
        .bytes_max = (size_t)256 << 20,
        .n_inflight_max = 1024,
        .inflight_bytes_max = (size_t)64 << 20,
        .lease_ms = 2000,
        .ttl_s = 3600,
        .timeout_ms = 500,
        .clock = shoal_clock_real(),
    };
}

static shoal_status check(const shoal_store_settings *s, shoal_err *err)
{
    if (s->n_inflight_max < 1 || s->n_inflight_max > SHOAL_STORE_INFLIGHT_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV store: %zu requests in flight, possible are 1 to %d",
                             s->n_inflight_max, (int)SHOAL_STORE_INFLIGHT_MAX);
    }
    if (s->lease_ms < 1 || s->lease_ms > SHOAL_STORE_LEASE_MS_MAX || s->timeout_ms < 1 ||
        s->timeout_ms > SHOAL_STORE_TIMEOUT_MS_MAX || s->ttl_s < 1 ||
        s->ttl_s > SHOAL_STORE_TTL_S_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV store: a lease is 1 to %d ms, a timeout 1 to %d ms, a block's "
                             "life 1 to %d s",
                             (int)SHOAL_STORE_LEASE_MS_MAX, (int)SHOAL_STORE_TIMEOUT_MS_MAX,
                             (int)SHOAL_STORE_TTL_S_MAX);
    }
    return SHOAL_OK;
}

/* --- counting --------------------------------------------------------------------------------- */

static const shoal_metric_def counter_defs[STORE_N_COUNTERS] = {
#define X(field, metric, label, text)                                                              \
    [STORE_COUNT_##field] = {                                                                      \
        .name = (metric), .help = (text), .labels = (label), .kind = SHOAL_METRIC_COUNTER},
    SHOAL_STORE_COUNTERS(X)
#undef X
};

static const double get_bounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                    0.025,  0.05,    0.1,    0.25,  0.5,    1.0};

static const shoal_metric_def get_seconds_def = {
    .name = "shoal_store_get_seconds",
    .help = "From asking the KV store for a block to its answer.",
    .labels = "",
    .kind = SHOAL_METRIC_HISTOGRAM,
    .bounds = get_bounds,
    .n_bounds = SHOAL_COUNT(get_bounds)};

static const shoal_metric_def quarantined_def = {
    .name = "shoal_store_quarantined",
    .help = "1 while the KV store is not asked because it gave bad blocks.",
    .labels = "",
    .kind = SHOAL_METRIC_GAUGE};

void shoal_store_count(store_counters *counters, store_counter which, uint64_t n)
{
    atomic_fetch_add_explicit(&counters->values[which], n, memory_order_relaxed);
    shoal_metric_add(counters->metrics[which], (double)n);
}

static shoal_status register_metrics(shoal_store *store, shoal_metrics *registry)
{
    for (size_t i = 0; registry && i < STORE_N_COUNTERS; i++) {
        SHOAL_TRY(shoal_metrics_add(registry, &counter_defs[i], &store->counters.metrics[i]));
    }
    if (registry) {
        SHOAL_TRY(shoal_metrics_add(registry, &get_seconds_def, &store->get_seconds));
        SHOAL_TRY(shoal_metrics_add(registry, &quarantined_def, &store->quarantined));
    }
    return SHOAL_OK;
}

void shoal_store_stats_get(const shoal_store *store, shoal_store_stats *ret_stats)
{
    uint64_t v[STORE_N_COUNTERS];
    for (size_t i = 0; i < STORE_N_COUNTERS; i++) {
        v[i] = atomic_load_explicit(&store->counters.values[i], memory_order_relaxed);
    }
    *ret_stats = (shoal_store_stats){
        .n_hits = v[STORE_COUNT_hits],
        .n_misses = v[STORE_COUNT_misses],
        .n_waits = v[STORE_COUNT_waits],
        .n_refused = v[STORE_COUNT_refused],
        .n_puts = v[STORE_COUNT_puts],
        .n_dropped = v[STORE_COUNT_dropped],
        .n_evicted = v[STORE_COUNT_evicted],
        .n_errors = v[STORE_COUNT_errors],
        .bytes_in = v[STORE_COUNT_bytes_in],
        .bytes_out = v[STORE_COUNT_bytes_out],
    };
}

/* --- the io thread ---------------------------------------------------------------------------- */

static void free_job(store_job *job)
{
    if (job) {
        shoal_block_free(job->result.block);
        shoal_free(job);
    }
}

/* A block that is broken or another must not be met again. */
static void refuse(shoal_store *store, store_job *job)
{
    store_job gone = {.result = {.op = SHOAL_STORE_EVICT}, .id = job->id};
    store_job *list[] = {&gone};
    store->backend->run(store->backend, list, 1);
    shoal_store_count(&store->counters, STORE_COUNT_refused, 1);
    shoal_block_free(SHOAL_STEAL(job->result.block));
    job->result.status = SHOAL_EOF;
    if (++store->n_bad >= SHOAL_STORE_BAD_MAX) {
        store->n_bad = 0;
        store->until_ms = shoal_clock_now_ms(&store->settings.clock) + SHOAL_STORE_QUARANTINE_MS;
        shoal_metric_set(store->quarantined, 1);
    }
}

/* Whoever gave too many bad blocks is not asked; leases are nobody's then. */
static bool is_left_alone(shoal_store *store)
{
    if (store->until_ms > 0 && shoal_clock_now_ms(&store->settings.clock) >= store->until_ms) {
        store->until_ms = 0;
        shoal_metric_set(store->quarantined, 0);
    }
    return store->until_ms > 0;
}

static void judge_get(shoal_store *store, store_job *job)
{
    shoal_store_result *result = &job->result;
    bool broken = result->status == SHOAL_E_INVALID ||
                  (result->status == SHOAL_OK &&
                   shoal_block_check(result->block, &job->id, NULL) != SHOAL_OK);
    if (broken) {
        refuse(store, job);
    }
    if (result->status == SHOAL_OK) {
        store->n_bad = 0;
        shoal_store_count(&store->counters, STORE_COUNT_hits, 1);
        shoal_store_count(&store->counters, STORE_COUNT_bytes_in, job->n_bytes);
    } else {
        bool waits = result->status == SHOAL_BUSY;
        shoal_store_count(&store->counters, waits ? STORE_COUNT_waits : STORE_COUNT_misses, 1);
        result->retry_ms = waits ? SHOAL_MAX(result->retry_ms, 1u) : 0;
    }
}

static void judge_put(shoal_store *store, store_job *job)
{
    bool kept = job->result.status == SHOAL_OK;
    shoal_store_count(&store->counters, kept ? STORE_COUNT_puts : STORE_COUNT_dropped, 1);
    if (kept) {
        shoal_store_count(&store->counters, STORE_COUNT_bytes_out, job->n_bytes);
    }
    shoal_block_free(SHOAL_STEAL(job->result.block));
}

static void finish(shoal_store *store, store_job *job)
{
    if (job->result.op == SHOAL_STORE_GET) {
        judge_get(store, job);
    } else if (job->result.op == SHOAL_STORE_PUT) {
        judge_put(store, job);
    }
    job->result.waited_us = (shoal_clock_now_ns(&store->settings.clock) - job->asked_ns) / 1000u;
    if (job->result.op == SHOAL_STORE_GET) {
        shoal_metric_observe(store->get_seconds, (double)job->result.waited_us / 1e6);
    }
    shoal_status status = shoal_queue_push(store->done, job);
    SHOAL_ASSERT(status == SHOAL_OK); /* as long as all that may be in flight */
    if (store->settings.wake) {
        store->settings.wake(store->settings.wake_ctx);
    }
}

static void run_batch(shoal_store *store, store_job **jobs, size_t n)
{
    bool alone = is_left_alone(store);
    for (size_t i = 0; i < n; i++) {
        jobs[i]->result.status = alone ? SHOAL_EOF : SHOAL_OK;
        if (!alone && jobs[i]->result.op == SHOAL_STORE_PUT) {
            shoal_block_seal(jobs[i]->result.block, &jobs[i]->id);
        }
    }
    if (!alone) {
        store->backend->run(store->backend, jobs, n);
    }
    for (size_t i = 0; i < n; i++) {
        finish(store, jobs[i]);
    }
}

/* At the end what is read is of use to nobody, and what is written only while the disk or the
 * server is quick: a block that is not there is computed again, and a program that does not end is
 * killed. */
static bool is_too_late(shoal_store *store, const store_job *job)
{
    if (!atomic_load(&store->closing)) {
        return false;
    }
    uint64_t now_ms = shoal_clock_now_ms(&store->settings.clock);
    if (store->close_by_ms == 0) {
        store->close_by_ms = now_ms + CLOSE_MS;
    }
    return job->result.op == SHOAL_STORE_GET || now_ms >= store->close_by_ms;
}

/* The next jobs, at least one unless the store is closed and empty. *held is the one that did not
 * fit the batch before. */
static size_t next_batch(shoal_store *store, store_job **jobs, store_job **held)
{
    /* A disk gains nothing by many at once, and one that is slow would be at them for long. */
    size_t most = store->settings.kind == SHOAL_STORE_DISK ? 1 : SHOAL_STORE_BATCH_MAX;
    size_t n = 0;
    size_t bytes = 0;
    store_job *job = *held ? SHOAL_STEAL(*held) : shoal_queue_pop_wait(store->jobs, UINT64_MAX);
    while (job) {
        if (is_too_late(store, job)) {
            free_job(job);
        } else if (n > 0 && bytes + job->n_bytes > BATCH_BYTES) {
            *held = job;
            break;
        } else {
            bytes += job->n_bytes;
            jobs[n++] = job;
        }
        job = n < most ? shoal_queue_pop(store->jobs) : NULL;
    }
    return n;
}

static void io_main(void *ctx)
{
    shoal_store *store = ctx;
    store_job *jobs[SHOAL_STORE_BATCH_MAX];
    store_job *held = NULL;
    for (;;) {
        size_t n = next_batch(store, jobs, &held);
        if (n > 0) {
            run_batch(store, jobs, n);
        } else if (atomic_load(&store->closing) && !held && shoal_queue_length(store->jobs) == 0) {
            return;
        }
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status open_backend(shoal_store *store, shoal_err *err)
{
    static const store_backend_open open[] = {
        [SHOAL_STORE_MEMORY] = shoal_store_memory_open,
        [SHOAL_STORE_DISK] = shoal_store_disk_open,
        [SHOAL_STORE_REDIS] = shoal_store_redis_open,
    };
    return open[store->settings.kind](&store->settings, &store->counters, &store->backend, err);
}

shoal_status shoal_store_open(const shoal_store_settings *settings, shoal_metrics *registry,
                              shoal_store **ret_store, shoal_err *err)
{
    SHOAL_TRY(check(settings, err));
    SHOAL_CLEANUP(shoal_store_closep) shoal_store *store = shoal_calloc(1, sizeof *store);
    if (!store) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    store->settings = *settings;
    if (register_metrics(store, registry) != SHOAL_OK ||
        shoal_queue_new(settings->n_inflight_max, &store->jobs) != SHOAL_OK ||
        shoal_queue_new(settings->n_inflight_max, &store->done) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    SHOAL_TRY(open_backend(store, err));
    if (shoal_thread_start(SHOAL_ROLE_IO, "shoal-store", io_main, store, &store->thread) !=
        SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: cannot start its thread");
    }
    *ret_store = SHOAL_STEAL(store);
    return SHOAL_OK;
}

void shoal_store_close(shoal_store *store)
{
    if (!store) {
        return;
    }
    atomic_store(&store->closing, true);
    if (store->thread) {
        shoal_queue_close(store->jobs);
        shoal_thread_join(store->thread);
    }
    for (store_job *job = store->done ? shoal_queue_pop(store->done) : NULL; job;
         job = shoal_queue_pop(store->done)) {
        free_job(job);
    }
    if (store->backend) {
        store->backend->close(store->backend);
    }
    shoal_queue_free(store->jobs);
    shoal_queue_free(store->done);
    shoal_free(store);
}

/* --- requests --------------------------------------------------------------------------------- */

static bool reserve(atomic_size_t *used, size_t n, size_t most)
{
    size_t before = atomic_load(used);
    do {
        if (n > most || before > most - n) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(used, &before, before + n));
    return true;
}

static shoal_status submit(shoal_store *store, const store_job *like)
{
    if (!reserve(&store->n_inflight, 1, store->settings.n_inflight_max)) {
        return SHOAL_BUSY;
    }
    if (!reserve(&store->inflight_bytes, like->n_bytes, store->settings.inflight_bytes_max)) {
        atomic_fetch_sub(&store->n_inflight, 1);
        return SHOAL_BUSY;
    }
    store_job *job = shoal_calloc(1, sizeof *job);
    if (!job) {
        atomic_fetch_sub(&store->inflight_bytes, like->n_bytes);
        atomic_fetch_sub(&store->n_inflight, 1);
        return SHOAL_E_NOMEM;
    }
    *job = *like;
    job->asked_ns = shoal_clock_now_ns(&store->settings.clock);
    shoal_status status = shoal_queue_push(store->jobs, job);
    SHOAL_ASSERT(status == SHOAL_OK); /* as long as all that may be in flight */
    return SHOAL_OK;
}

shoal_status shoal_store_get(shoal_store *store, const shoal_block_id *id, size_t n_payload,
                             bool lease, uint64_t tag)
{
    if (n_payload < 1 || n_payload > SHOAL_BLOCK_PAYLOAD_MAX) {
        return SHOAL_E_LIMIT;
    }
    const store_job job = {.result = {.op = SHOAL_STORE_GET, .tag = tag},
                           .id = *id,
                           .n_bytes = SHOAL_BLOCK_HEADER_BYTES + n_payload,
                           .lease = lease};
    return submit(store, &job);
}

shoal_status shoal_store_put(shoal_store *store, const shoal_block_id *id, shoal_block *take_block,
                             uint64_t tag)
{
    const store_job job = {
        .result = {.op = SHOAL_STORE_PUT, .tag = tag, .block = take_block},
        .id = *id,
        .n_bytes = shoal_block_n_bytes(take_block),
    };
    shoal_status status = submit(store, &job);
    if (status != SHOAL_OK) {
        shoal_store_count(&store->counters, STORE_COUNT_dropped, 1);
        shoal_block_free(take_block);
    }
    return status;
}

shoal_status shoal_store_release(shoal_store *store, const shoal_block_id *id, uint64_t tag)
{
    const store_job job = {.result = {.op = SHOAL_STORE_RELEASE, .tag = tag}, .id = *id};
    return submit(store, &job);
}

shoal_status shoal_store_evict(shoal_store *store, const shoal_block_id *id, uint64_t tag)
{
    const store_job job = {.result = {.op = SHOAL_STORE_EVICT, .tag = tag}, .id = *id};
    return submit(store, &job);
}

shoal_store_result *shoal_store_poll(shoal_store *store)
{
    store_job *job = shoal_queue_pop(store->done);
    return job ? &job->result : NULL;
}

void shoal_store_result_free(shoal_store *store, shoal_store_result *result)
{
    if (result) {
        store_job *job = (store_job *)result;
        atomic_fetch_sub(&store->inflight_bytes, job->n_bytes);
        atomic_fetch_sub(&store->n_inflight, 1);
        free_job(job);
    }
}
