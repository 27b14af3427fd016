/* SPDX-License-Identifier: Apache-2.0
 *
 * The server: a fixed number of outstanding requests for calls, each asked again as soon as it was
 * answered; a path table; a bound on concurrent calls; the drain.
 */
#include "common/base/mem.h"
#include "protocol/rpc/rpc_internal.h"

#include <string.h>
#include <time.h>

enum {
    STREAMS_SPARE = 80,          /* per connection, beyond calls_max: health and refusals */
    HANDSHAKE_MS = 10000,        /* a connection that has not finished TLS by then is closed */
    PING_INTERVAL_MS_MAX = 1000, /* how often a client may ping; more counts as a strike */
    METADATA_MAX = 16 << 10,
    STRAY_MS = 2000 /* a drain waits so long for connections that carry no call of ours */
};

/* --- refusals --------------------------------------------------------------------------------- */

static void ignore_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    (void)user;
    (void)data;
    (void)n;
}

static void ignore_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                         const char *details)
{
    (void)call;
    (void)user;
    (void)status;
    (void)details;
}

static void refuse_unknown(shoal_rpc_call *call, void *ctx)
{
    (void)ctx;
    shoal_rpc_call_pause(call);
    shoal_rpc_call_finish(call, SHOAL_RPC_UNIMPLEMENTED, "no such method on this server");
}

static void refuse_busy(shoal_rpc_call *call, void *ctx)
{
    (void)ctx;
    shoal_rpc_call_pause(call);
    shoal_rpc_call_finish(call, SHOAL_RPC_RESOURCE_EXHAUSTED,
                          "the server holds as many calls as it may; try again later");
}

static void refuse_stranger(shoal_rpc_call *call, void *ctx)
{
    (void)ctx;
    shoal_rpc_call_pause(call);
    shoal_rpc_call_finish(call, SHOAL_RPC_UNAUTHENTICATED,
                          "the authority of your certificate is no longer trusted here: take one "
                          "of an authority that is, and connect anew");
}

static const shoal_rpc_handlers unknown_handlers = {
    .on_open = refuse_unknown, .on_message = ignore_message, .on_close = ignore_close};
static const shoal_rpc_handlers busy_handlers = {
    .on_open = refuse_busy, .on_message = ignore_message, .on_close = ignore_close};
static const shoal_rpc_handlers stranger_handlers = {
    .on_open = refuse_stranger, .on_message = ignore_message, .on_close = ignore_close};

/* --- accepting -------------------------------------------------------------------------------- */

static const shoal_rpc_method *find_method(const shoal_rpc_server *server, grpc_slice path)
{
    for (size_t i = 0; i < server->n_methods; i++) {
        if (grpc_slice_str_cmp(path, server->methods[i].path) == 0) {
            return &server->methods[i];
        }
    }
    return NULL;
}

/* Which handlers answer a call to path, with what ctx, and whether it counts against calls_max. */
static const shoal_rpc_handlers *route(shoal_rpc_server *server, grpc_slice path, void **ret_ctx,
                                       bool *ret_counted)
{
    const shoal_rpc_handlers *health = shoal_rpc_health_find(&path);
    *ret_ctx = server;
    *ret_counted = false;
    if (health) {
        return health;
    }
    const shoal_rpc_method *method = find_method(server, path);
    if (!method) {
        return &unknown_handlers;
    }
    /* Only the poller adds, so that the bound cannot be passed between the look and the step. */
    if (atomic_load(&server->n_calls) >= server->rpc->limits.calls_max) {
        return &busy_handlers;
    }
    *ret_ctx = method->ctx;
    *ret_counted = true;
    return method->handlers;
}

static void accept_call(shoal_rpc_server *server, grpc_call *take_grpc, grpc_slice path)
{
    void *ctx = NULL;
    bool counted = false;
    const shoal_rpc_handlers *handlers = &stranger_handlers;
    if (!server->secured || shoal_rpc_tls_source_trusts(&server->tls, take_grpc)) {
        handlers = route(server, path, &ctx, &counted);
    }
    shoal_rpc_call *call = shoal_rpc_call_make(server->rpc, handlers, NULL, take_grpc);
    if (!call) {
        (void)grpc_call_cancel_with_status(take_grpc, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                           "the server is out of memory", NULL);
        grpc_call_unref(take_grpc);
        return;
    }
    call->server = server;
    call->counted = counted;
    call->peer_known = true;
    call->authenticated = shoal_rpc_tls_identity(take_grpc, call->identity);
    (void)pthread_mutex_lock(&server->rpc->lock);
    server->n_live++;
    (void)pthread_mutex_unlock(&server->rpc->lock);
    if (counted) {
        atomic_fetch_add(&server->n_calls, 1);
    }
    shoal_rpc_call_start(call, ctx);
}

void shoal_rpc_server_forget(shoal_rpc_server *server, bool counted)
{
    shoal_rpc *rpc = server->rpc;
    if (counted) {
        atomic_fetch_sub(&server->n_calls, 1);
    }
    (void)pthread_mutex_lock(&rpc->lock);
    server->n_live--;
    (void)pthread_cond_broadcast(&rpc->changed);
    (void)pthread_mutex_unlock(&rpc->lock);
}

/* After a shutdown gRPC answers every request at once with ok false, new ones too. */
static void request_call(shoal_rpc_slot *slot)
{
    grpc_call_details_init(&slot->details);
    grpc_metadata_array_init(&slot->metadata);
    slot->call = NULL;
    grpc_completion_queue *cq = slot->server->rpc->cq;
    SHOAL_RPC_RELEASE(&slot->tag);
    grpc_call_error error = grpc_server_request_call(
        slot->server->grpc, &slot->call, &slot->details, &slot->metadata, cq, cq, &slot->tag);
    SHOAL_ASSERT(error == GRPC_CALL_OK);
}

static void on_request(shoal_rpc_tag *tag, bool ok)
{
    shoal_rpc_slot *slot = SHOAL_RPC_OWNER(tag, shoal_rpc_slot, tag);
    shoal_rpc_server *server = slot->server;
    if (ok) {
        accept_call(server, slot->call, slot->details.method);
    }
    grpc_call_details_destroy(&slot->details);
    grpc_metadata_array_destroy(&slot->metadata);
    if (ok) {
        request_call(slot);
        return;
    }
    (void)pthread_mutex_lock(&server->rpc->lock);
    server->n_slots--;
    (void)pthread_cond_broadcast(&server->rpc->changed);
    (void)pthread_mutex_unlock(&server->rpc->lock);
}

/* --- making ----------------------------------------------------------------------------------- */

static void on_shutdown(shoal_rpc_tag *tag, bool ok)
{
    (void)ok;
    shoal_rpc_server *server = SHOAL_RPC_OWNER(tag, shoal_rpc_server, shutdown_tag);
    (void)pthread_mutex_lock(&server->rpc->lock);
    server->shut_down = true;
    (void)pthread_cond_broadcast(&server->rpc->changed);
    (void)pthread_mutex_unlock(&server->rpc->lock);
}

static void create_server(shoal_rpc_server *server)
{
    const shoal_rpc_limits *limits = &server->rpc->limits;
    grpc_arg args[SHOAL_RPC_ARGS_COMMON + 6];
    size_t n = shoal_rpc_args_common(server->rpc, args);
    /* On by default, and then two servers share one port without a word. */
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_ALLOW_REUSEPORT, 0);
    args[n++] =
        shoal_rpc_arg_int(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)limits->calls_max + STREAMS_SPARE);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MAX_METADATA_SIZE, METADATA_MAX);
    /* Without this a client's keepalive is answered with GOAWAY "too_many_pings". */
    int interval = (int)SHOAL_MIN(limits->keepalive_ms / 2, (uint32_t)PING_INTERVAL_MS_MAX);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, interval);
    const grpc_channel_args all = {.num_args = n, .args = args};
    server->grpc = grpc_server_create(&all, NULL);
    grpc_server_register_completion_queue(server->grpc, server->rpc->cq, NULL);
}

/* Binds; the port that was bound, or an error. */
static shoal_status bind_port(shoal_rpc_server *server, const char *address,
                              const shoal_rpc_tls *tls, int *ret_port, shoal_err *err)
{
    grpc_server_credentials *creds = NULL;
    if (shoal_rpc_tls_absent(tls)) {
        creds = grpc_insecure_server_credentials_create();
    } else {
        SHOAL_TRY(shoal_rpc_tls_server(tls, &server->tls, &creds, err));
        server->secured = true;
    }
    int port = grpc_server_add_http2_port(server->grpc, address, creds);
    grpc_server_credentials_release(creds);
    if (port <= 0) {
        return shoal_err_set(err, SHOAL_E_UNAVAILABLE,
                             "cannot listen on %s: another program holds the port, or the address "
                             "is not of this machine",
                             address);
    }
    *ret_port = port;
    return SHOAL_OK;
}

static void start_server(shoal_rpc_server *server)
{
    grpc_server_start(server->grpc);
    server->n_slots = SHOAL_RPC_SLOTS;
    for (size_t i = 0; i < SHOAL_RPC_SLOTS; i++) {
        server->slots[i].server = server;
        server->slots[i].tag.fn = on_request;
        request_call(&server->slots[i]);
    }
}

static shoal_status check_methods(const shoal_rpc_method *methods, size_t n, shoal_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const shoal_rpc_method *m = &methods[i];
        if (!m->path || m->path[0] != '/' || !m->handlers || !m->handlers->on_message ||
            !m->handlers->on_close) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "method %zu needs a path that begins with '/', on_message and "
                                 "on_close",
                                 i);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_rpc_server_new(shoal_rpc *rpc, const char *address, const shoal_rpc_tls *tls,
                                  const shoal_rpc_method *methods, size_t n_methods,
                                  shoal_rpc_server **ret_server, int *ret_port, shoal_err *err)
{
    SHOAL_TRY(check_methods(methods, n_methods, err));
    SHOAL_TRY(shoal_rpc_try_threads(err));
    SHOAL_TRY(shoal_rpc_address_listen(address, shoal_rpc_tls_absent(tls), err));
    shoal_rpc_server *server = shoal_calloc(1, sizeof *server);
    if (!server) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "rpc server: out of memory");
    }
    server->rpc = rpc;
    server->methods = methods;
    server->n_methods = n_methods;
    server->shutdown_tag.fn = on_shutdown;
    server->serving = true;
    int rc = pthread_mutex_init(&server->health_lock, NULL);
    SHOAL_ASSERT(rc == 0);
    shoal_rpc_tls_source_init(&server->tls);
    shoal_rpc_signals signals = shoal_rpc_signals_block();
    create_server(server);
    int port = 0;
    shoal_status status = bind_port(server, address, tls, &port, err);
    if (status == SHOAL_OK) {
        start_server(server);
    }
    shoal_rpc_signals_restore(&signals);
    if (status != SHOAL_OK) {
        shoal_rpc_server_free(server);
        return status;
    }
    *ret_server = server;
    *ret_port = port;
    return SHOAL_OK;
}

/* --- draining --------------------------------------------------------------------------------- */

static struct timespec after_ms(uint64_t ms)
{
    struct timespec at;
    int rc = clock_gettime(CLOCK_MONOTONIC, &at);
    SHOAL_ASSERT(rc == 0);
    ms = SHOAL_MIN(ms, UINT64_C(1) << 40);
    at.tv_sec += (time_t)(ms / 1000);
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

static bool is_before(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

/* Waits for the shutdown until the time; under rpc->lock. Once every call that gRPC gave us has
 * ended and every request for one is answered, nothing of ours is left: what the shutdown waits
 * for then are connections. One may carry a call that came while the shutdown began: gRPC (1.51)
 * keeps it for a request that can no more be made, and only the end of the connection tells its
 * client. */
static void wait_shutdown(shoal_rpc_server *server, const struct timespec *until)
{
    shoal_rpc *rpc = server->rpc;
    int rc = 0;
    while (!server->shut_down && rc == 0 && (server->n_live > 0 || server->n_slots > 0)) {
        rc = pthread_cond_timedwait(&rpc->changed, &rpc->lock, until);
    }
    struct timespec stray = after_ms(STRAY_MS);
    const struct timespec *end = is_before(&stray, until) ? &stray : until;
    while (!server->shut_down && rc == 0) {
        rc = pthread_cond_timedwait(&rpc->changed, &rpc->lock, end);
    }
}

void shoal_rpc_server_drain(shoal_rpc_server *server, uint64_t grace_ms)
{
    SHOAL_ASSERT(shoal_thread_role() != SHOAL_ROLE_RPC);
    shoal_rpc *rpc = server->rpc;
    struct timespec until = after_ms(grace_ms);
    (void)pthread_mutex_lock(&rpc->lock);
    bool first = !server->draining;
    server->draining = true;
    while (!first && !server->drained) {
        (void)pthread_cond_wait(&rpc->changed, &rpc->lock);
    }
    (void)pthread_mutex_unlock(&rpc->lock);
    if (!first) {
        return;
    }
    shoal_rpc_signals signals = shoal_rpc_signals_block();
    shoal_rpc_health_shutdown(server);
    SHOAL_RPC_RELEASE(&server->shutdown_tag);
    grpc_server_shutdown_and_notify(server->grpc, rpc->cq, &server->shutdown_tag);
    (void)pthread_mutex_lock(&rpc->lock);
    wait_shutdown(server, &until);
    bool late = !server->shut_down;
    (void)pthread_mutex_unlock(&rpc->lock);
    if (late) {
        grpc_server_cancel_all_calls(server->grpc);
    }
    (void)pthread_mutex_lock(&rpc->lock);
    while (!server->shut_down || server->n_live > 0 || server->n_slots > 0) {
        (void)pthread_cond_wait(&rpc->changed, &rpc->lock);
    }
    server->drained = true;
    (void)pthread_cond_broadcast(&rpc->changed);
    (void)pthread_mutex_unlock(&rpc->lock);
    shoal_rpc_signals_restore(&signals);
}

void shoal_rpc_server_free(shoal_rpc_server *server)
{
    if (!server) {
        return;
    }
    shoal_rpc_server_drain(server, 0);
    grpc_server_destroy(server->grpc);
    shoal_rpc_tls_source_fini(&server->tls);
    (void)pthread_mutex_destroy(&server->health_lock);
    shoal_free(server);
}

shoal_status shoal_rpc_server_set_tls(shoal_rpc_server *server, const shoal_rpc_tls *tls,
                                      shoal_err *err)
{
    if (!server->secured) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the server was started without certificates; they need a restart");
    }
    return shoal_rpc_tls_source_load(&server->tls, tls, err);
}

size_t shoal_rpc_server_n_calls(const shoal_rpc_server *server)
{
    return atomic_load(&server->n_calls);
}
