/* SPDX-License-Identifier: Apache-2.0
 *
 * What the io thread and the back ends share. All of it is the io thread's, but for the counters.
 */
#ifndef SHOAL_CLOUD_STORE_STORE_INTERNAL_H
#define SHOAL_CLOUD_STORE_STORE_INTERNAL_H

#include "cloud/store/store.h"
#include "cloud/store/table.h"

#include <stdatomic.h>

enum {
    SHOAL_STORE_BATCH_MAX = 64 /* requests given to a back end at once */
};

typedef struct store_job {
    shoal_store_result result; /* first: a result is freed as its job */
    shoal_block_id id;
    size_t n_bytes; /* of the container, put and get */
    bool lease;
    uint64_t asked_ns;
} store_job;

/* X(name, metric, labels, help) */
#define SHOAL_STORE_COUNTERS(X)                                                                    \
    X(hits, "shoal_store_gets_total", "result=\"hit\"", "Blocks asked of the KV store.")           \
    X(misses, "shoal_store_gets_total", "result=\"miss\"", "Blocks asked of the KV store.")        \
    X(waits, "shoal_store_gets_total", "result=\"wait\"", "Blocks asked of the KV store.")         \
    X(refused, "shoal_store_refused_total", "", "Stored blocks that were broken or another.")      \
    X(puts, "shoal_store_puts_total", "result=\"kept\"", "Blocks given to the KV store.")          \
    X(dropped, "shoal_store_puts_total", "result=\"dropped\"", "Blocks given to the KV store.")    \
    X(evicted, "shoal_store_evictions_total", "", "Stored blocks forgotten for room.")             \
    X(errors, "shoal_store_errors_total", "", "Failures of the KV store's disk or server.")        \
    X(bytes_in, "shoal_store_read_bytes_total", "", "Bytes of blocks read from the KV store.")     \
    X(bytes_out, "shoal_store_written_bytes_total", "", "Bytes of blocks written to the KV store.")

typedef enum store_counter {
#define X(name, metric, labels, help) STORE_COUNT_##name,
    SHOAL_STORE_COUNTERS(X)
#undef X
    STORE_N_COUNTERS
} store_counter;

typedef struct store_counters {
    atomic_uint_fast64_t values[STORE_N_COUNTERS];
    shoal_metric *metrics[STORE_N_COUNTERS];
} store_counters;

void shoal_store_count(store_counters *counters, store_counter which, uint64_t n);

/* One way of keeping blocks. Called on the io thread alone. */
typedef struct store_backend store_backend;
struct store_backend {
    /* Does 1..SHOAL_STORE_BATCH_MAX jobs in order and writes each one's status, leased and
     * retry_ms; a get that finds something gives an unchecked block of exactly n_bytes, and of
     * another size SHOAL_E_INVALID. May block, for bounded time. */
    void (*run)(store_backend *self, store_job *const *jobs, size_t n);
    void (*close)(store_backend *self);
};

typedef shoal_status (*store_backend_open)(const shoal_store_settings *settings,
                                           store_counters *counters, store_backend **ret_backend,
                                           shoal_err *err);
shoal_status shoal_store_memory_open(const shoal_store_settings *settings, store_counters *counters,
                                     store_backend **ret_backend, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_store_disk_open(const shoal_store_settings *settings, store_counters *counters,
                                   store_backend **ret_backend, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_store_redis_open(const shoal_store_settings *settings, store_counters *counters,
                                    store_backend **ret_backend, shoal_err *err) SHOAL_MUST_CHECK;

/* Leases within this process, for the back ends that have no server. */
typedef struct store_leases {
    shoal_store_table table;
    shoal_clock clock;
    uint32_t lease_ms;
} store_leases;
shoal_status shoal_store_leases_init(store_leases *leases,
                                     const shoal_store_settings *settings) SHOAL_MUST_CHECK;
void shoal_store_leases_fini(store_leases *leases);
/* Answers a get whose block is not there. */
void shoal_store_leases_miss(store_leases *leases, store_job *job);
void shoal_store_leases_end(store_leases *leases, const shoal_hash *name);

#endif
