/* SPDX-License-Identifier: Apache-2.0
 *
 * Remote calls over the gRPC C core, as bytes: one completion queue with our own poller thread,
 * a per-call state machine under the call's lock, bounded queues both ways. Callbacks run on the
 * poller thread (role rpc), never concurrently for one call, with no lock held; they must not
 * block: they push into a shoal_queue whose wake-up reaches an engine or a uv loop.
 * Nothing here knows protobuf: protocol/wire maps bytes. grpc.health.v1 is built in.
 */
#ifndef SHOAL_RPC_RPC_H
#define SHOAL_RPC_RPC_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

/* gRPC status codes, by their numbers. */
typedef enum shoal_rpc_status {
    SHOAL_RPC_OK = 0,
    SHOAL_RPC_CANCELLED = 1,
    SHOAL_RPC_UNKNOWN = 2,
    SHOAL_RPC_INVALID_ARGUMENT = 3,
    SHOAL_RPC_DEADLINE_EXCEEDED = 4,
    SHOAL_RPC_NOT_FOUND = 5,
    SHOAL_RPC_PERMISSION_DENIED = 7,
    SHOAL_RPC_RESOURCE_EXHAUSTED = 8,
    SHOAL_RPC_FAILED_PRECONDITION = 9,
    SHOAL_RPC_ABORTED = 10,
    SHOAL_RPC_UNIMPLEMENTED = 12,
    SHOAL_RPC_INTERNAL = 13,
    SHOAL_RPC_UNAVAILABLE = 14,
    SHOAL_RPC_UNAUTHENTICATED = 16
} shoal_rpc_status;
/* "ok", "cancelled", ...: as gRPC calls them, in lower case; "unknown" for a number it has not. */
const char *shoal_rpc_status_name(shoal_rpc_status status);

typedef struct shoal_rpc shoal_rpc; /* runtime: queue and poller */
typedef struct shoal_rpc_server shoal_rpc_server;
typedef struct shoal_rpc_channel shoal_rpc_channel;
typedef struct shoal_rpc_call shoal_rpc_call; /* either side, reference-counted */

/* PEM file paths. All NULL: plaintext, allowed on loopback only. */
typedef struct shoal_rpc_tls {
    const char *ca;   /* authority that signs peers */
    const char *cert; /* our chain */
    const char *key;
    const char *name_override; /* client: expected name when the target is an address, or NULL */
} shoal_rpc_tls;

enum {
    SHOAL_RPC_WATCHERS_MAX = 1024, /* clients whose health checks one server follows */
    SHOAL_RPC_ADDRESSES_MAX = 64   /* addresses in one target */
};

typedef struct shoal_rpc_limits {
    size_t message_max; /* bytes of one received message; default 1 MiB */
    size_t send_high;   /* queued bytes per call beyond which send says FULL; default 256 KiB */
    size_t send_low;    /* on_drain when the queue falls to this; default 64 KiB */
    uint32_t calls_max; /* server: concurrent calls; more are refused RESOURCE_EXHAUSTED; 1024 */
    /* Between two pings of a connection that stands; default 10000. One that is not answered ends
     * the connection after as long, at most 10 s. */
    uint32_t keepalive_ms;
} shoal_rpc_limits;
shoal_rpc_limits shoal_rpc_limits_default(void);

/* Whether connections could be made with these files: the errors of shoal_rpc_channel_new. */
shoal_status shoal_rpc_tls_check(const shoal_rpc_tls *tls, shoal_err *err) SHOAL_MUST_CHECK;

/* When the certificate in tls->cert ends, in seconds since 1970 UTC. */
shoal_status shoal_rpc_tls_expiry(const shoal_rpc_tls *tls, int64_t *ret_unix_s,
                                  shoal_err *err) SHOAL_MUST_CHECK;

/* Callbacks of one kind of call. user is what the server's on_open returned through set_user, or
 * what the client gave to open. */
typedef struct shoal_rpc_handlers {
    /* Server only: a new call; identity through shoal_rpc_call_peer. Optional: without it user is
     * ctx. */
    void (*on_open)(shoal_rpc_call *call, void *ctx);
    /* data is borrowed for the call-back. Required. */
    void (*on_message)(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n);
    /* Server: the client has half-closed, or is gone (on_close then follows). Optional. */
    void (*on_half_close)(shoal_rpc_call *call, void *user);
    /* The send queue fell to send_low after a FULL. Optional. */
    void (*on_drain)(shoal_rpc_call *call, void *user);
    /* Exactly once, last. Client: the server's status. Server: OK when the call ended as finish
     * asked, CANCELLED otherwise. Required. */
    void (*on_close)(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                     const char *details);
} shoal_rpc_handlers;

typedef struct shoal_rpc_method {
    const char *path; /* "/shoal.v1.Cloud/Generate" */
    const shoal_rpc_handlers *handlers;
    void *ctx; /* for on_open */
} shoal_rpc_method;

/* --- runtime ---------------------------------------------------------------------------------- */
shoal_status shoal_rpc_new(const shoal_rpc_limits *limits, shoal_rpc **ret_rpc,
                           shoal_err *err) SHOAL_MUST_CHECK;
/* Waits until every call is gone; servers and channels are freed before. A reference to a call that
 * is kept longer can only be dropped. */
void shoal_rpc_free(shoal_rpc *rpc);

/* --- server ----------------------------------------------------------------------------------- */
/* address "127.0.0.1:7443", port 0 picks one. tls with all paths requires client certificates;
 * without tls only a loopback address is allowed. methods are borrowed for the server's life. */
shoal_status shoal_rpc_server_new(shoal_rpc *rpc, const char *address, const shoal_rpc_tls *tls,
                                  const shoal_rpc_method *methods, size_t n_methods,
                                  shoal_rpc_server **ret_server, int *ret_port,
                                  shoal_err *err) SHOAL_MUST_CHECK;
/* What grpc.health.v1 Check and Watch answer for "" and the service names of methods; true at
 * first, false from a drain on. Any thread. */
void shoal_rpc_server_set_serving(shoal_rpc_server *server, bool serving);
/* No new calls; waits for open ones up to grace_ms, cancels the rest; returns when all are gone.
 * Connections without calls are closed after two seconds at most. */
void shoal_rpc_server_drain(shoal_rpc_server *server, uint64_t grace_ms);
void shoal_rpc_server_free(shoal_rpc_server *server); /* drains with grace 0 if not drained */
/* Reads certificates again, from the same files or others: connections made from now on are met
 * with them, and those that stand live on. Of peers whose certificates end in no authority of the
 * new file, calls under way go on and new ones are refused with SHOAL_RPC_UNAUTHENTICATED. An error
 * leaves everything as it was; a plaintext server refuses with SHOAL_E_INVALID. Any thread. */
shoal_status shoal_rpc_server_set_tls(shoal_rpc_server *server, const shoal_rpc_tls *tls,
                                      shoal_err *err) SHOAL_MUST_CHECK;
size_t shoal_rpc_server_n_calls(const shoal_rpc_server *server);

/* --- client ----------------------------------------------------------------------------------- */
typedef enum shoal_rpc_link {
    SHOAL_RPC_LINK_IDLE,
    SHOAL_RPC_LINK_CONNECTING,
    SHOAL_RPC_LINK_READY,
    SHOAL_RPC_LINK_DOWN
} shoal_rpc_link;

/* target "host:port", where the name may have several addresses, or a comma list of numeric ones.
 * Calls go round those that are connected and that grpc.health.v1 calls SERVING; a server without
 * that service counts as serving. A call that ends UNAVAILABLE before the server has answered
 * anything is tried up to three times, within a budget of the channel's. Reconnects with back-off
 * between 100 ms and 2 s by itself. watch (may be NULL) runs on the poller at each change.
 */
shoal_status shoal_rpc_channel_new(shoal_rpc *rpc, const char *target, const shoal_rpc_tls *tls,
                                   void (*watch)(void *ctx, shoal_rpc_link state), void *watch_ctx,
                                   shoal_rpc_channel **ret_channel,
                                   shoal_err *err) SHOAL_MUST_CHECK;
/* Calls on it must be closed first. */
void shoal_rpc_channel_free(shoal_rpc_channel *channel);
/* Reads certificates again, from the same files or others. Where they have changed, calls opened
 * from now on are on connections made with them, and those under way stay on theirs, which end with
 * the last of them. An error leaves everything as it was; SHOAL_E_INVALID also where either side of
 * the change is in plaintext. Any thread but the poller, while nobody frees the channel. */
shoal_status shoal_rpc_channel_set_tls(shoal_rpc_channel *channel, const shoal_rpc_tls *tls,
                                       shoal_err *err) SHOAL_MUST_CHECK;
shoal_rpc_link shoal_rpc_channel_state(const shoal_rpc_channel *channel);

/* The ports of a target's addresses, in order. SHOAL_E_INVALID and SHOAL_E_LIMIT say why not. */
shoal_status shoal_rpc_target_ports(const char *target, uint16_t ret_ports[SHOAL_RPC_ADDRESSES_MAX],
                                    size_t *ret_n, shoal_err *err) SHOAL_MUST_CHECK;

/* Opens a call. deadline_ms from now, 0: none. wait: wait for the connection instead of failing
 * at once. The returned reference is the caller's; callbacks may run before this returns. */
shoal_status shoal_rpc_call_open(shoal_rpc_channel *channel, const char *path,
                                 const shoal_rpc_handlers *handlers, void *user,
                                 uint64_t deadline_ms, bool wait,
                                 shoal_rpc_call **ret_call) SHOAL_MUST_CHECK;

/* The same, but nothing of it leaves before its first message does, in one packet with it. */
shoal_status shoal_rpc_call_open_held(shoal_rpc_channel *channel, const char *path,
                                      const shoal_rpc_handlers *handlers, void *user,
                                      uint64_t deadline_ms, bool wait,
                                      shoal_rpc_call **ret_call) SHOAL_MUST_CHECK;

/* --- calls, both sides ------------------------------------------------------------------------ */
void shoal_rpc_call_set_user(shoal_rpc_call *call, void *user); /* in on_open */
void *shoal_rpc_call_user(const shoal_rpc_call *call);
void shoal_rpc_call_ref(shoal_rpc_call *call);
void shoal_rpc_call_unref(shoal_rpc_call *call);

/* Queues a copy. SHOAL_OK; SHOAL_BUSY: taken, but stop until on_drain; SHOAL_E_CANCELLED: the call
 * is over, not taken; SHOAL_E_LIMIT: n is over message_max, not taken; SHOAL_E_EXHAUSTED: not
 * taken, since the sender went on after BUSY to twice send_high; SHOAL_E_NOMEM. Any thread. */
shoal_status shoal_rpc_call_send(shoal_rpc_call *call, const void *data, size_t n) SHOAL_MUST_CHECK;
void shoal_rpc_call_half_close(shoal_rpc_call *call); /* client, after the queue */
/* Server: ends the call with a status after the queue was sent. Any thread; once. */
void shoal_rpc_call_finish(shoal_rpc_call *call, shoal_rpc_status status, const char *details);
void shoal_rpc_call_cancel(shoal_rpc_call *call); /* any thread */
/* Stops and restarts reading: flow control then holds the peer. At most one message that was
 * already on its way waits for the resume. A client's on_close waits for the resume too, unless the
 * call was cancelled, ran into its deadline or lost its connection. Any thread. */
void shoal_rpc_call_pause(shoal_rpc_call *call);
void shoal_rpc_call_resume(shoal_rpc_call *call);

/* The peer's SPIFFE id from its certificate ("spiffe://site-7/gw-3"), else its common name, else
 * "". False when the peer is not authenticated. */
bool shoal_rpc_call_peer(const shoal_rpc_call *call, char *ret_identity, size_t n);

#endif
