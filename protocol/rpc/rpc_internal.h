/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the wrapper. Three kinds of lock, taken in this order and never the other way:
 *   server->health_lock   the list of health watchers
 *   call->lock            the state machine of one call
 *   rpc->lock             counters of runtime, servers and channels; what waiting threads wait on
 * Callbacks into the user run on the poller thread with none of them held.
 */
#ifndef SHOAL_RPC_RPC_INTERNAL_H
#define SHOAL_RPC_RPC_INTERNAL_H

#include "protocol/rpc/rpc.h"

#include "common/base/buf.h"
#include "common/base/hash.h"
#include "common/base/thread.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

/* ThreadSanitizer cannot see into gRPC, so that what crosses the completion queue looks like a
 * race: release before every batch and acquire after its event draw the edge it misses. */
#if defined(__SANITIZE_THREAD__)
#    define SHOAL_RPC_TSAN 1
#elif defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#        define SHOAL_RPC_TSAN 1
#    endif
#endif
#ifdef SHOAL_RPC_TSAN
#    include <sanitizer/tsan_interface.h>
#    define SHOAL_RPC_RELEASE(p) __tsan_release(p)
#    define SHOAL_RPC_ACQUIRE(p) __tsan_acquire(p)
#else
#    define SHOAL_RPC_RELEASE(p) ((void)(p))
#    define SHOAL_RPC_ACQUIRE(p) ((void)(p))
#endif

/* The structure around a tag. */
#define SHOAL_RPC_OWNER(tag, type, member) ((type *)(void *)((char *)(tag)-offsetof(type, member)))

enum {
    SHOAL_RPC_DETAILS_MAX = 256,    /* bytes of status details with their NUL */
    SHOAL_RPC_IDENTITY_MAX = 256,   /* bytes of a peer's identity with its NUL */
    SHOAL_RPC_TARGET_MAX = 4096,    /* bytes of a target */
    SHOAL_RPC_LOOKAHEAD = 256 << 10 /* flow-control window of one stream */
};

/* What a completion comes back to: embedded in its owner, so that no operation allocates. */
typedef struct shoal_rpc_tag shoal_rpc_tag;
struct shoal_rpc_tag {
    void (*fn)(shoal_rpc_tag *tag, bool ok); /* on the poller, no lock held */
};

struct shoal_rpc {
    shoal_rpc_limits limits;
    grpc_completion_queue *cq;
    shoal_thread *poller;
    pthread_mutex_t lock;
    pthread_cond_t
        changed;    /* on the monotonic clock: any counter below, in a server or a channel */
    size_t n_calls; /* calls whose on_close has not returned, both sides */
};

typedef struct shoal_rpc_out shoal_rpc_out; /* one queued message */
typedef struct shoal_rpc_conn shoal_rpc_conn;

struct shoal_rpc_call {
    atomic_size_t refs; /* the user's, and one of the machine until on_close has returned */
    shoal_rpc *rpc;
    shoal_rpc_server *server; /* NULL on the client */
    shoal_rpc_conn *conn;     /* NULL on the server; not touched once closed */
    const shoal_rpc_handlers *handlers;
    void *user;
    bool counted;        /* server: one of the calls that calls_max bounds */
    bool wait_for_ready; /* client */
    bool held;           /* client: the headers wait for the first message */

    /* At most one batch of each kind is in flight. */
    shoal_rpc_tag send_tag;
    shoal_rpc_tag recv_tag;
    shoal_rpc_tag end_tag;
    shoal_rpc_tag wake_tag; /* an empty batch: brings a thread's wish to the poller */

    pthread_mutex_t lock; /* everything below */
    grpc_call *grpc;      /* NULL once closed */
    bool send_active;
    bool recv_active;
    bool wake_active;
    bool in_callback; /* the poller starts what is due when it is back */

    shoal_rpc_out *head; /* queue of messages not yet given to gRPC */
    shoal_rpc_out *tail;
    size_t queued_bytes; /* of the queue and the message in flight */
    size_t sending_bytes;
    grpc_byte_buffer *sending;
    bool headers_sent;
    bool full;       /* send said BUSY, on_drain is owed */
    bool drain_due;  /* and may now be called */
    bool last_asked; /* half_close or finish was called: nothing can be queued */
    bool last_sent;
    bool send_broken; /* a send failed: the end is on its way */
    shoal_rpc_status finish_status;
    grpc_slice finish_details;

    grpc_byte_buffer *receiving; /* written by gRPC while recv_active */
    grpc_byte_buffer *inbox;     /* a message not yet handed out */
    grpc_metadata_array headers;
    bool headers_asked;
    bool recv_ended;
    bool half_close_told;
    bool paused;

    bool cancelled; /* by us */
    bool ended;     /* the end batch came back */
    bool closed;    /* on_close was or is being called */
    grpc_metadata_array trailers;
    grpc_status_code status; /* client */
    grpc_slice details;
    int peer_cancelled; /* server */

    bool peer_known; /* client: the identity was read */
    bool authenticated;
    char identity[SHOAL_RPC_IDENTITY_MAX];
};

/* One outstanding grpc_server_request_call. */
enum {
    SHOAL_RPC_SLOTS = 16
};
typedef struct shoal_rpc_slot {
    shoal_rpc_tag tag;
    shoal_rpc_server *server;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
} shoal_rpc_slot;

/* What became of a peer's certificates when they were held against the authorities of now. */
typedef struct shoal_rpc_verdict {
    bool known;
    bool trusted;
    shoal_hash chain; /* of the certificates */
} shoal_rpc_verdict;

/* Where gRPC fetches a server's certificates, at each new connection; and the authorities, by which
 * those are judged that were connected before. */
enum {
    SHOAL_RPC_VERDICTS = 256 /* peers whose verdicts are kept; another in its place is no harm */
};
typedef struct shoal_rpc_tls_source {
    pthread_mutex_t lock;                     /* everything below */
    grpc_ssl_server_certificate_config *next; /* not fetched yet; NULL: nothing new */
    shoal_buf ca;                             /* the authorities as they were read */
    /* The same, once they are not the first: NULL as long as every connection met them. */
    struct x509_store_st *authorities;
    shoal_rpc_verdict verdicts[SHOAL_RPC_VERDICTS];
} shoal_rpc_tls_source;

struct shoal_rpc_server {
    shoal_rpc *rpc;
    grpc_server *grpc;
    bool secured;
    shoal_rpc_tls_source tls; /* outlives grpc */
    const shoal_rpc_method *methods;
    size_t n_methods;
    shoal_rpc_slot slots[SHOAL_RPC_SLOTS];
    shoal_rpc_tag shutdown_tag;
    atomic_size_t n_calls; /* of the user's methods */

    /* under rpc->lock */
    size_t n_slots; /* requests in flight */
    size_t n_live;  /* calls of any kind whose on_close has not returned */
    bool draining;
    bool shut_down;
    bool drained;

    pthread_mutex_t health_lock;
    bool serving;
    bool watching_over; /* draining: no more watchers */
    shoal_rpc_call *watchers[SHOAL_RPC_WATCHERS_MAX];
    size_t n_watchers;
};

/* The connections made with one set of certificates, and the calls on them. A channel opens calls
 * on its last set; one that was followed by another lives until its last call is closed. */
struct shoal_rpc_conn {
    shoal_rpc_channel *channel;
    grpc_channel *grpc;
    shoal_rpc_tag watch_tag;
    /* under rpc->lock */
    size_t n_holds; /* its calls, and one more while the channel opens calls on it */
    bool watching;
    bool destroyed; /* grpc is gone, and this goes with the watch */
};

struct shoal_rpc_channel {
    shoal_rpc *rpc;
    char *target; /* as it was given */
    bool secured;
    void (*watch)(void *ctx, shoal_rpc_link state);
    void *watch_ctx;
    atomic_int state; /* of conn */
    /* under rpc->lock */
    shoal_rpc_conn *conn; /* NULL: it is being freed */
    shoal_hash tls;       /* shoal_rpc_tls_hash of what conn was made with; zero in plaintext */
    size_t n_conns;
};

/* --- rpc_call.c ------------------------------------------------------------------------------- */

/* A call that holds take_grpc and one reference; counted in the runtime. NULL: out of memory,
 * take_grpc is then the caller's still. */
shoal_rpc_call *shoal_rpc_call_make(shoal_rpc *rpc, const shoal_rpc_handlers *handlers, void *user,
                                    grpc_call *take_grpc);
/* Starts the first batches. The server's on_open runs in between. */
void shoal_rpc_call_start(shoal_rpc_call *call, void *open_ctx);

/* --- rpc_client.c ----------------------------------------------------------------------------- */

/* Gives up a hold. Any thread, no lock held. */
void shoal_rpc_conn_drop(shoal_rpc_conn *conn);

/* --- rpc_server.c ----------------------------------------------------------------------------- */

/* A call of this server is over, after on_close. The call is not touched afterwards. */
void shoal_rpc_server_forget(shoal_rpc_server *server, bool counted);

/* --- rpc_health.c ----------------------------------------------------------------------------- */

/* The handlers for a path of grpc.health.v1, or NULL. Their on_open takes the server as ctx. */
const shoal_rpc_handlers *shoal_rpc_health_find(const grpc_slice *path);
/* Ends every watcher; later ones are refused. */
void shoal_rpc_health_shutdown(shoal_rpc_server *server);

/* --- rpc_tls.c -------------------------------------------------------------------------------- */

/* Of what the files hold now, and the name that is asked for: the same, and credentials made of
 * them would be. Errors as of shoal_rpc_tls_client. */
shoal_status shoal_rpc_tls_hash(const shoal_rpc_tls *tls, shoal_hash *ret_hash,
                                shoal_err *err) SHOAL_MUST_CHECK;

/* True when tls names no file at all. */
bool shoal_rpc_tls_absent(const shoal_rpc_tls *tls);
shoal_status shoal_rpc_tls_client(const shoal_rpc_tls *tls, grpc_channel_credentials **ret_creds,
                                  shoal_err *err) SHOAL_MUST_CHECK;
/* source, which is borrowed, gets the certificates first. */
shoal_status shoal_rpc_tls_server(const shoal_rpc_tls *tls, shoal_rpc_tls_source *source,
                                  grpc_server_credentials **ret_creds,
                                  shoal_err *err) SHOAL_MUST_CHECK;
void shoal_rpc_tls_source_init(shoal_rpc_tls_source *source);
void shoal_rpc_tls_source_fini(shoal_rpc_tls_source *source);
/* Reads and checks the files and lets gRPC fetch them. */
shoal_status shoal_rpc_tls_source_load(shoal_rpc_tls_source *source, const shoal_rpc_tls *tls,
                                       shoal_err *err) SHOAL_MUST_CHECK;
/* Whether the certificates of a call's peer end in an authority that counts now. gRPC judges them
 * when a connection is made, and a connection may last; dates are left to that judgement. */
bool shoal_rpc_tls_source_trusts(shoal_rpc_tls_source *source, grpc_call *grpc);
/* The peer's identity from a call's auth context; false when it has none. */
bool shoal_rpc_tls_identity(grpc_call *grpc, char ret_identity[SHOAL_RPC_IDENTITY_MAX]);

/* --- rpc_address.c ---------------------------------------------------------------------------- */

/* Checks "host:port" for a server. */
shoal_status shoal_rpc_address_listen(const char *address, bool plaintext,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* Checks "host:port[,host:port...]" and writes the target in gRPC's own words. */
shoal_status shoal_rpc_address_target(const char *target, const shoal_rpc_tls *tls, bool plaintext,
                                      char ret_target[SHOAL_RPC_TARGET_MAX],
                                      shoal_err *err) SHOAL_MUST_CHECK;

/* --- rpc_runtime.c ---------------------------------------------------------------------------- */

/* gRPC starts threads of its own inside some calls, with the caller's signal mask: everything is
 * blocked around them, so that signals reach the thread that handles them. */
typedef struct shoal_rpc_signals {
    sigset_t before;
} shoal_rpc_signals;
shoal_rpc_signals shoal_rpc_signals_block(void);
void shoal_rpc_signals_restore(const shoal_rpc_signals *signals);
/* SHOAL_E_NOMEM where the threads that gRPC may want cannot be made. */
shoal_status shoal_rpc_try_threads(shoal_err *err) SHOAL_MUST_CHECK;

grpc_arg shoal_rpc_arg_int(const char *key, int value);
grpc_arg shoal_rpc_arg_string(const char *key, const char *value);
/* What both sides set; returns how many of at most SHOAL_RPC_ARGS_COMMON were written. */
enum {
    SHOAL_RPC_ARGS_COMMON = 12
};
size_t shoal_rpc_args_common(const shoal_rpc *rpc, grpc_arg *args);

#endif
