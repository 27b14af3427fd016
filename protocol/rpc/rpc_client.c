/* SPDX-License-Identifier: Apache-2.0
 *
 * The client: a channel that keeps itself connected and tells each change, and calls on it.
 */
#include "common/base/mem.h"
#include "protocol/rpc/rpc_internal.h"

#include <limits.h>
#include <string.h>

enum {
    BACKOFF_MS_FIRST = 100,
    BACKOFF_MS_MOST = 2000,
    /* gRPC calls this the least back-off, but what it bounds is one attempt to connect: with 100 ms
     * no handshake over a slow link would ever finish. */
    CONNECT_MS = 5000,
    /* A name is asked for again when a connection is lost, but no more often than this: a node that
     * comes back under another address is found soon. */
    RESOLVE_MS = 5000,
    /* Of a call's own messages, kept for a second attempt until the server has answered. */
    RETRY_BYTES = 64 << 10
};

/* Every address is tried and kept connected, and calls go round those whose health says SERVING. A
 * call that the server has answered nothing to is tried again elsewhere: so a node refuses that
 * drains, and so one fails that dies. The bucket of tokens keeps retries from adding to an outage.
 * A call that was answered is its owner's to resume. */
static const char service_config[] =
    "{\"loadBalancingConfig\":[{\"round_robin\":{}}],"
    "\"healthCheckConfig\":{\"serviceName\":\"\"},"
    "\"retryThrottling\":{\"maxTokens\":10,\"tokenRatio\":0.1},"
    "\"methodConfig\":[{\"name\":[{}],\"retryPolicy\":{\"maxAttempts\":3,"
    "\"initialBackoff\":\"0.05s\",\"maxBackoff\":\"0.5s\",\"backoffMultiplier\":2,"
    "\"retryableStatusCodes\":[\"UNAVAILABLE\"]}}]}";

static shoal_rpc_link to_link(grpc_connectivity_state state)
{
    switch (state) {
    case GRPC_CHANNEL_IDLE:
        return SHOAL_RPC_LINK_IDLE;
    case GRPC_CHANNEL_CONNECTING:
        return SHOAL_RPC_LINK_CONNECTING;
    case GRPC_CHANNEL_READY:
        return SHOAL_RPC_LINK_READY;
    case GRPC_CHANNEL_TRANSIENT_FAILURE:
    case GRPC_CHANNEL_SHUTDOWN:
        break;
    }
    return SHOAL_RPC_LINK_DOWN;
}

/* Asks for the next change and, because an idle channel stays idle by itself, for a connection.
 * Under rpc->lock; returns the state that holds now. */
static shoal_rpc_link arm_watch(shoal_rpc_conn *conn)
{
    grpc_connectivity_state state = grpc_channel_check_connectivity_state(conn->grpc, 1);
    conn->watching = state != GRPC_CHANNEL_SHUTDOWN;
    if (conn->watching) {
        SHOAL_RPC_RELEASE(&conn->watch_tag);
        grpc_channel_watch_connectivity_state(conn->grpc, state,
                                              gpr_inf_future(GPR_CLOCK_MONOTONIC),
                                              conn->channel->rpc->cq, &conn->watch_tag);
    }
    return to_link(state);
}

static void free_conn(shoal_rpc_conn *conn)
{
    shoal_rpc *rpc = conn->channel->rpc;
    (void)pthread_mutex_lock(&rpc->lock);
    conn->channel->n_conns--;
    (void)pthread_cond_broadcast(&rpc->changed);
    (void)pthread_mutex_unlock(&rpc->lock);
    shoal_free(conn);
}

/* Connections that no calls are opened on any more are not watched further: they would be made
 * again when they are lost. */
static void on_watch(shoal_rpc_tag *tag, bool ok)
{
    (void)ok;
    shoal_rpc_conn *conn = SHOAL_RPC_OWNER(tag, shoal_rpc_conn, watch_tag);
    shoal_rpc_channel *channel = conn->channel;
    shoal_rpc *rpc = channel->rpc;
    (void)pthread_mutex_lock(&rpc->lock);
    bool current = channel->conn == conn;
    shoal_rpc_link link = current ? arm_watch(conn) : SHOAL_RPC_LINK_DOWN;
    bool changed = current && (int)link != atomic_load(&channel->state);
    if (changed) {
        atomic_store(&channel->state, (int)link);
    }
    conn->watching = current && conn->watching;
    bool over = conn->destroyed && !conn->watching;
    (void)pthread_mutex_unlock(&rpc->lock);
    if (changed && channel->watch) {
        channel->watch(channel->watch_ctx, link);
    }
    if (over) {
        free_conn(conn);
    }
}

void shoal_rpc_conn_drop(shoal_rpc_conn *conn)
{
    shoal_rpc *rpc = conn->channel->rpc;
    (void)pthread_mutex_lock(&rpc->lock);
    bool last = --conn->n_holds == 0;
    (void)pthread_mutex_unlock(&rpc->lock);
    if (!last) {
        return;
    }
    /* Destroying moves it to its last state, which brings the watch back. */
    grpc_channel_destroy(conn->grpc);
    (void)pthread_mutex_lock(&rpc->lock);
    conn->destroyed = true;
    bool over = !conn->watching;
    (void)pthread_mutex_unlock(&rpc->lock);
    if (over) {
        free_conn(conn);
    }
}

/* gRPC looks at the name in the certificate: the override when there is one. */
static shoal_status create_grpc(const shoal_rpc *rpc, const char *target, const shoal_rpc_tls *tls,
                                grpc_channel **ret_grpc, shoal_err *err)
{
    grpc_arg args[SHOAL_RPC_ARGS_COMMON + 10];
    size_t n = shoal_rpc_args_common(rpc, args);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_MS_FIRST);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MS_MOST);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS);
    args[n++] = shoal_rpc_arg_string(GRPC_ARG_SERVICE_CONFIG, service_config);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, RESOLVE_MS);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, RETRY_BYTES);
    /* After half an hour without a call gRPC would close what the watch then opens again. */
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, INT_MAX);
    /* Where bytes go is said by the configuration, not by a variable of the environment. */
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    grpc_channel_credentials *creds = NULL;
    if (shoal_rpc_tls_absent(tls)) {
        creds = grpc_insecure_credentials_create();
    } else {
        SHOAL_TRY(shoal_rpc_tls_client(tls, &creds, err));
        if (tls->name_override) {
            args[n++] = shoal_rpc_arg_string(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, tls->name_override);
        }
    }
    const grpc_channel_args all = {.num_args = n, .args = args};
    *ret_grpc = grpc_channel_create(target, creds, &all);
    grpc_channel_credentials_release(creds);
    if (!*ret_grpc) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "%s: gRPC cannot make a channel", target);
    }
    return SHOAL_OK;
}

/* Whether the connections that calls are opened on were made with these certificates. */
static bool is_made_with(shoal_rpc_channel *channel, const shoal_hash *tls)
{
    (void)pthread_mutex_lock(&channel->rpc->lock);
    bool same = channel->conn && memcmp(&channel->tls, tls, sizeof *tls) == 0;
    (void)pthread_mutex_unlock(&channel->rpc->lock);
    return same;
}

/* Calls are opened on new connections from now on, unless the old ones are no others. */
static shoal_status connect_with(shoal_rpc_channel *channel, const shoal_rpc_tls *tls,
                                 shoal_err *err)
{
    char words[SHOAL_RPC_TARGET_MAX];
    shoal_rpc *rpc = channel->rpc;
    shoal_hash read = {{0}};
    if (channel->secured) {
        SHOAL_TRY(shoal_rpc_tls_hash(tls, &read, err));
        if (is_made_with(channel, &read)) {
            return SHOAL_OK;
        }
    }
    SHOAL_TRY(shoal_rpc_address_target(channel->target, tls, !channel->secured, words, err));
    shoal_rpc_conn *conn = shoal_calloc(1, sizeof *conn);
    if (!conn) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "rpc channel: out of memory");
    }
    conn->channel = channel;
    conn->watch_tag.fn = on_watch;
    conn->n_holds = 1;
    shoal_rpc_signals signals = shoal_rpc_signals_block();
    shoal_status status = create_grpc(rpc, words, tls, &conn->grpc, err);
    shoal_rpc_conn *before = NULL;
    if (status == SHOAL_OK) {
        (void)pthread_mutex_lock(&rpc->lock);
        before = channel->conn;
        channel->conn = conn;
        channel->tls = read;
        channel->n_conns++;
        atomic_store(&channel->state, (int)arm_watch(conn));
        (void)pthread_mutex_unlock(&rpc->lock);
    } else {
        shoal_free(conn);
    }
    if (before) {
        shoal_rpc_conn_drop(before);
    }
    shoal_rpc_signals_restore(&signals);
    return status;
}

shoal_status shoal_rpc_channel_new(shoal_rpc *rpc, const char *target, const shoal_rpc_tls *tls,
                                   void (*watch)(void *ctx, shoal_rpc_link state), void *watch_ctx,
                                   shoal_rpc_channel **ret_channel, shoal_err *err)
{
    shoal_rpc_channel *channel = shoal_calloc(1, sizeof *channel);
    char *copy = channel ? shoal_strdup(target) : NULL;
    if (!copy) {
        shoal_free(channel);
        return shoal_err_set(err, SHOAL_E_NOMEM, "rpc channel: out of memory");
    }
    channel->rpc = rpc;
    channel->target = copy;
    channel->secured = !shoal_rpc_tls_absent(tls);
    channel->watch = watch;
    channel->watch_ctx = watch_ctx;
    atomic_init(&channel->state, (int)SHOAL_RPC_LINK_IDLE);
    shoal_status status = connect_with(channel, tls, err);
    if (status != SHOAL_OK) {
        shoal_free(channel->target);
        shoal_free(channel);
        return status;
    }
    *ret_channel = channel;
    return SHOAL_OK;
}

shoal_status shoal_rpc_channel_set_tls(shoal_rpc_channel *channel, const shoal_rpc_tls *tls,
                                       shoal_err *err)
{
    SHOAL_ASSERT(shoal_thread_role() != SHOAL_ROLE_RPC);
    if (!channel->secured || shoal_rpc_tls_absent(tls)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "rpc channel: from and to plaintext there is no change under way; "
                             "make another channel");
    }
    return connect_with(channel, tls, err);
}

void shoal_rpc_channel_free(shoal_rpc_channel *channel)
{
    if (!channel) {
        return;
    }
    shoal_rpc *rpc = channel->rpc;
    SHOAL_ASSERT(shoal_thread_role() != SHOAL_ROLE_RPC);
    (void)pthread_mutex_lock(&rpc->lock);
    shoal_rpc_conn *conn = SHOAL_STEAL(channel->conn);
    SHOAL_ASSERT(conn->n_holds == 1);
    (void)pthread_mutex_unlock(&rpc->lock);
    shoal_rpc_conn_drop(conn);
    (void)pthread_mutex_lock(&rpc->lock);
    while (channel->n_conns > 0) {
        (void)pthread_cond_wait(&rpc->changed, &rpc->lock);
    }
    (void)pthread_mutex_unlock(&rpc->lock);
    shoal_free(channel->target);
    shoal_free(channel);
}

shoal_rpc_link shoal_rpc_channel_state(const shoal_rpc_channel *channel)
{
    return (shoal_rpc_link)atomic_load(&channel->state);
}

static shoal_status open_call(shoal_rpc_channel *channel, const char *path,
                              const shoal_rpc_handlers *handlers, void *user, uint64_t deadline_ms,
                              bool wait, bool held, shoal_rpc_call **ret_call)
{
    SHOAL_ASSERT(handlers->on_message && handlers->on_close);
    shoal_rpc *rpc = channel->rpc;
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (deadline_ms > 0 && deadline_ms < INT64_MAX / 2) {
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_millis((int64_t)deadline_ms, GPR_TIMESPAN));
    }
    (void)pthread_mutex_lock(&rpc->lock);
    shoal_rpc_conn *conn = channel->conn;
    conn->n_holds++;
    (void)pthread_mutex_unlock(&rpc->lock);
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *grpc = grpc_channel_create_call(conn->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, rpc->cq,
                                               method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    shoal_rpc_call *call = shoal_rpc_call_make(rpc, handlers, user, grpc);
    if (!call) {
        grpc_call_unref(grpc);
        shoal_rpc_conn_drop(conn);
        return SHOAL_E_NOMEM;
    }
    call->conn = conn;
    call->wait_for_ready = wait;
    call->held = held;
    shoal_rpc_call_ref(call);
    /* Before the first batch: on_close may run on the poller before this returns. */
    *ret_call = call;
    shoal_rpc_call_start(call, NULL);
    return SHOAL_OK;
}

shoal_status shoal_rpc_call_open(shoal_rpc_channel *channel, const char *path,
                                 const shoal_rpc_handlers *handlers, void *user,
                                 uint64_t deadline_ms, bool wait, shoal_rpc_call **ret_call)
{
    return open_call(channel, path, handlers, user, deadline_ms, wait, false, ret_call);
}

shoal_status shoal_rpc_call_open_held(shoal_rpc_channel *channel, const char *path,
                                      const shoal_rpc_handlers *handlers, void *user,
                                      uint64_t deadline_ms, bool wait, shoal_rpc_call **ret_call)
{
    return open_call(channel, path, handlers, user, deadline_ms, wait, true, ret_call);
}
