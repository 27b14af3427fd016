/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of KV kept outside the pool: in memory, in a folder, or in a Redis or Valkey that several
 * nodes share. A request is taken in short time and done by the store's own io thread; its result
 * is fetched later. Whatever goes wrong there costs misses, never an error: what a store has not
 * got is computed.
 *
 * A lease keeps two from making the same block: a get that asks for it and misses holds the block
 * for lease_ms; others that ask are told to come again, and after that time one of them gets the
 * lease. A put, a release or the end of that time ends it.
 *
 * A store that gives SHOAL_STORE_BAD_MAX bad blocks and no sound one between them is left alone for
 * SHOAL_STORE_QUARANTINE_MS: every get is a miss, every put is dropped. Then it is asked again.
 *
 * Locked by itself: any thread may ask; one thread polls. Checked here, on the io thread: that the
 * bytes are a sound block (block.h) and the one that was asked for; what is not is removed and
 * counted. Not checked: that whoever can write to the store meant well. A folder or a Redis is as
 * trusted as the node's own memory.
 */
#ifndef SHOAL_CLOUD_STORE_STORE_H
#define SHOAL_CLOUD_STORE_STORE_H

#include "cloud/store/block.h"
#include "common/base/clock.h"
#include "common/obs/metrics.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_STORE_INFLIGHT_MAX = 65536,
    SHOAL_STORE_LEASE_MS_MAX = 600000,
    SHOAL_STORE_TTL_S_MAX = 30 * 24 * 3600,
    SHOAL_STORE_TIMEOUT_MS_MAX = 60000,
    SHOAL_STORE_BAD_MAX = 8,
    SHOAL_STORE_QUARANTINE_MS = 10000,
    SHOAL_STORE_LEASES_MAX = 4096 /* of memory and disk; the oldest gives way */
};

typedef enum shoal_store_kind {
    SHOAL_STORE_MEMORY,
    SHOAL_STORE_DISK,
    SHOAL_STORE_REDIS
} shoal_store_kind;

/* "memory", "disk", "redis". Negative for an unknown name. */
int shoal_store_kind_parse(const char *name, shoal_store_kind *ret_kind);

typedef struct shoal_store_settings {
    shoal_store_kind kind;     /* default memory */
    size_t bytes_max;          /* of kept blocks, memory and disk; default 256 MiB */
    size_t n_inflight_max;     /* requests whose results are not fetched; default 1024 */
    size_t inflight_bytes_max; /* blocks of those requests; default 64 MiB */
    uint32_t lease_ms;         /* 1..600000, default 2000 */
    const char *folder;        /* disk: made when missing, of this process alone; copied */
    const char *address;       /* Redis: "host:port" or the path of a Unix socket; copied */
    const char *user;          /* Redis: NULL: none; copied */
    const char *password;      /* Redis: NULL: no AUTH; copied */
    uint32_t ttl_s;            /* Redis: life of a block since it was last read; default 3600 */
    uint32_t timeout_ms;       /* Redis: to connect, and of silence in an answer; default 500 */
    bool plaintext;            /* Redis: allow other than loopback: TLS is not spoken here */
    void (*wake)(void *ctx);   /* after a result was made, on the io thread; NULL: none */
    void *wake_ctx;
    shoal_clock clock; /* of leases and back-off; default real */
} shoal_store_settings;
shoal_store_settings shoal_store_settings_default(void);

typedef struct shoal_store shoal_store;

/* registry may be NULL. A Redis that is not there is no error: it is tried again. */
shoal_status shoal_store_open(const shoal_store_settings *settings, shoal_metrics *registry,
                              shoal_store **ret_store, shoal_err *err) SHOAL_MUST_CHECK;
/* Puts that were taken are done first, gets are dropped; results that were not fetched are lost. */
void shoal_store_close(shoal_store *store);
SHOAL_DEFINE_CLEANUP(shoal_store, shoal_store_close)

typedef enum shoal_store_op {
    SHOAL_STORE_GET,
    SHOAL_STORE_PUT,
    SHOAL_STORE_RELEASE,
    SHOAL_STORE_EVICT
} shoal_store_op;

/* What follows is taken (SHOAL_OK), or not: SHOAL_BUSY at a limit of in-flight, SHOAL_E_NOMEM.
 * What was taken gives one result that carries tag; results of one store come in the order of
 * requests. */

/* A block of n_payload bytes; another size in the store is a broken block. */
shoal_status shoal_store_get(shoal_store *store, const shoal_block_id *id, size_t n_payload,
                             bool lease, uint64_t tag) SHOAL_MUST_CHECK;
/* The block is the store's in any case; its header is written here. */
shoal_status shoal_store_put(shoal_store *store, const shoal_block_id *id, shoal_block *take_block,
                             uint64_t tag) SHOAL_MUST_CHECK;
/* Gives up a lease of ours. */
shoal_status shoal_store_release(shoal_store *store, const shoal_block_id *id,
                                 uint64_t tag) SHOAL_MUST_CHECK;
/* Forgets a block. */
shoal_status shoal_store_evict(shoal_store *store, const shoal_block_id *id,
                               uint64_t tag) SHOAL_MUST_CHECK;

typedef struct shoal_store_result {
    shoal_store_op op;
    uint64_t tag;
    /* get: SHOAL_OK, block is there; SHOAL_EOF: not in the store; SHOAL_BUSY: another makes it, ask
     * again after retry_ms. The rest: SHOAL_OK; SHOAL_EOF: not done, there or not makes no
     * difference. */
    shoal_status status;
    bool leased;        /* of a get's SHOAL_EOF: the lease is ours */
    uint32_t retry_ms;  /* of SHOAL_BUSY: what is left of the other's lease, at least 1 */
    uint64_t waited_us; /* from the request to this result */
    shoal_block *block;
} shoal_store_result;

/* The oldest result, or NULL. */
shoal_store_result *shoal_store_poll(shoal_store *store);
/* Frees its block too, unless it was taken out. */
void shoal_store_result_free(shoal_store *store, shoal_store_result *result);

/* What happened since the store was opened. The names of the metrics are in store.c. */
typedef struct shoal_store_stats {
    uint64_t n_hits;
    uint64_t n_misses;  /* not there, the store's troubles included */
    uint64_t n_waits;   /* another was making it */
    uint64_t n_refused; /* broken or another block: removed, and a miss */
    uint64_t n_puts;    /* kept */
    uint64_t n_dropped; /* puts that were not kept, requests that found no place */
    uint64_t n_evicted; /* forgotten for room */
    uint64_t n_errors;  /* times the disk or Redis could not be used */
    uint64_t bytes_in;  /* blocks read */
    uint64_t bytes_out; /* blocks written */
} shoal_store_stats;
void shoal_store_stats_get(const shoal_store *store, shoal_store_stats *ret_stats);

#endif
