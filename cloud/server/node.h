/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine thread of a cloud node: it owns the engine, the sampler, every session and the batch.
 * Calls reach it through one bounded inbox of owned items, from any thread; answers leave through
 * each call's peer table, on the engine thread. It knows no gRPC, so a test can be the peer.
 */
#ifndef SHOAL_CLOUD_SERVER_NODE_H
#define SHOAL_CLOUD_SERVER_NODE_H

#include "cloud/server/metrics.h"
#include "cloud/server/relay.h"
#include "cloud/store/store.h"
#include "common/base/clock.h"
#include "common/engine/engine.h"
#include "protocol/rpc/rpc.h"
#include "protocol/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_NODE_SESSIONS_MAX = 4096,
    SHOAL_NODE_ENDED_MAX = 64,  /* calls beyond, whose session has ended and that are not gone */
    SHOAL_NODE_QUEUED_MAX = 32, /* messages of one call waiting in the inbox at most */
    SHOAL_NODE_QUEUED_HIGH = 16 /* reading pauses from here on, or from inbox_bytes_max */
};

typedef struct shoal_node_settings {
    shoal_engine_settings engine;
    const shoal_adapters *adapters; /* of a native model, told in Describe; borrowed for the node's
                                     * life; NULL: none */
    const char *model_name;         /* told in Describe; copied; "": the model's own */
    const char *node_name;          /* told in Opened; copied; "": the host's */
    size_t n_sessions_max;          /* 1..SHOAL_NODE_SESSIONS_MAX, default 256 */
    size_t inbox_bytes_max;   /* of one call's waiting messages before reading pauses; 256 KiB */
    size_t prefill_chunk;     /* default 128 */
    unsigned prefix_percent;  /* of the KV that cached prefixes may keep, 0..100, default 50 */
    uint64_t step_time_ms;    /* what an engine step should take at most; 0: no limit; 200 */
    uint64_t idle_ms;         /* a call without messages and without work ends; default 300000 */
    uint64_t kv_hold_ms;      /* see shoal_batch_settings, default 1000 */
    const char *public_files; /* of shoal_public_read; borrowed for shoal_node_new; "" */
    const shoal_store_settings *store; /* borrowed for shoal_node_new; NULL: nothing is shared */
    shoal_hash store_secret;           /* these three as in shoal_share_settings; 250 ms */
    uint64_t store_wait_ms;
    bool store_always;
    shoal_upstream *take_upstream; /* NULL: the back end is native; else taken by shoal_node_new */
    size_t n_retries;              /* these two of shoal_relay_settings; default 3 and 0 */
    size_t n_ctx_trained;
    shoal_clock clock; /* default real */
} shoal_node_settings;
shoal_node_settings shoal_node_settings_default(void);

typedef struct shoal_node shoal_node;
typedef struct shoal_conn shoal_conn; /* one call */

/* How a call is answered. None may block or call the node back, except that pause and resume come
 * from the thread that pushes as well as from the engine thread. */
typedef struct shoal_peer {
    /* SHOAL_OK; SHOAL_BUSY: taken, but send no more until shoal_conn_drained; else not taken. */
    shoal_status (*send)(void *ctx, const shoal_cloud_msg *msg);
    void (*finish)(void *ctx, shoal_rpc_status status, const char *text); /* once */
    void (*cancel)(void *ctx);
    void (*pause)(void *ctx);
    void (*resume)(void *ctx);
    void (*release)(void *ctx); /* last: after it the node never uses ctx */
    void *ctx;
    char identity[128]; /* of the authenticated peer, for the log; "" otherwise */
} shoal_peer;

/* model is borrowed for the node's life, NULL with an upstream. registry may be NULL. Makes engine
 * and tables and starts the engine thread. */
shoal_status shoal_node_new(const shoal_model *model, const shoal_node_settings *settings,
                            shoal_metrics *registry, shoal_node **ret_node,
                            shoal_err *err) SHOAL_MUST_CHECK;
/* Calls that are left end UNAVAILABLE and are released; nobody may push any more. */
void shoal_node_free(shoal_node *node);
SHOAL_DEFINE_CLEANUP(shoal_node, shoal_node_free)

/* What admission must know of this node; immutable. */
typedef struct shoal_node_limits {
    size_t n_sessions_max;
    size_t n_tokens_max;     /* of one session: context and pool */
    uint64_t kv_bytes_token; /* of one token over all layers, 0: unknown */
    size_t n_pages;          /* of the KV pool, 0: there is none */
} shoal_node_limits;
shoal_node_limits shoal_node_limits_get(const shoal_node *node);
/* Pages of the pool that a session of n_tokens takes, at most all; 0 without one. Any thread. */
size_t shoal_node_pages_for(const shoal_node *node, size_t n_tokens);
/* What it is busy with, as of the last step. Any thread. */
shoal_admit_load shoal_node_load(shoal_node *node);
/* When the engine thread last went round, by the node's clock. It does so at least every second,
 * but for a step that takes longer. Any thread. */
uint64_t shoal_node_beat_ms(const shoal_node *node);
/* For who refuses on the node's behalf. */
const shoal_cloud_metrics *shoal_node_metrics(const shoal_node *node);

/* What this node serves; immutable. */
const shoal_describe *shoal_node_describe(const shoal_node *node);
size_t shoal_node_n_conns(const shoal_node *node);

/* A new call, any thread. SHOAL_BUSY while n_sessions_max sessions have not ended, or when
 * SHOAL_NODE_ENDED_MAX more have and are not gone: a place is free before finish says so, for who
 * hears it may come again at once. SHOAL_E_NOMEM; peer is copied. From here on the caller must end
 * with shoal_conn_gone. */
shoal_status shoal_node_accept(shoal_node *node, const shoal_peer *peer,
                               shoal_conn **ret_conn) SHOAL_MUST_CHECK;
/* One thread at a time per call. Takes msg in any case; n_bytes is its size on the wire.
 * SHOAL_E_EXHAUSTED: over SHOAL_NODE_QUEUED_MAX although paused; SHOAL_E_NOMEM. */
shoal_status shoal_conn_push(shoal_conn *conn, shoal_edge_msg *take_msg,
                             size_t n_bytes) SHOAL_MUST_CHECK;
void shoal_conn_half_close(shoal_conn *conn); /* at most once */
/* Ends the call with an Error message: bytes that are no message. The first one counts. */
void shoal_conn_fail(shoal_conn *conn, shoal_rpc_status status, const char *text);
/* The peer reads again after send said SHOAL_BUSY. */
void shoal_conn_drained(shoal_conn *conn);
/* The call is over, once, last: conn must not be used after it. delivered: the peer has got the end
 * that finish asked for; a connection that broke also looks half-closed at first. */
void shoal_conn_gone(shoal_conn *conn, bool delivered);

#endif
