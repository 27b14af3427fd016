/* SPDX-License-Identifier: Apache-2.0
 *
 * The client: a channel that keeps itself connected and tells each change, and calls on it.
 */
#include "common/base/mem.h"
#include "protocol/rpc/rpc_internal.h"

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
static grpc_connectivity_state arm_watch(shoal_rpc_channel *channel)
{
    channel->last = grpc_channel_check_connectivity_state(channel->grpc, 1);
    channel->watching = channel->last != GRPC_CHANNEL_SHUTDOWN;
    if (channel->watching) {
        SHOAL_RPC_RELEASE(&channel->watch_tag);
        grpc_channel_watch_connectivity_state(channel->grpc, channel->last,
                                              gpr_inf_future(GPR_CLOCK_MONOTONIC), channel->rpc->cq,
                                              &channel->watch_tag);
    }
    return channel->last;
}

static void on_watch(shoal_rpc_tag *tag, bool ok)
{
    (void)ok;
    shoal_rpc_channel *channel = SHOAL_RPC_OWNER(tag, shoal_rpc_channel, watch_tag);
    shoal_rpc *rpc = channel->rpc;
    (void)pthread_mutex_lock(&rpc->lock);
    bool closing = channel->closing;
    grpc_connectivity_state state = closing ? GRPC_CHANNEL_SHUTDOWN : arm_watch(channel);
    shoal_rpc_link link = to_link(state);
    bool changed = !closing && (int)link != atomic_load(&channel->state);
    if (changed) {
        atomic_store(&channel->state, (int)link);
    }
    (void)pthread_mutex_unlock(&rpc->lock);
    if (changed && channel->watch) {
        channel->watch(channel->watch_ctx, link);
    }
    if (closing) {
        (void)pthread_mutex_lock(&rpc->lock);
        channel->watching = false;
        (void)pthread_cond_broadcast(&rpc->changed);
        (void)pthread_mutex_unlock(&rpc->lock);
    }
}

/* gRPC looks at the name in the certificate: the override when there is one. */
static shoal_status create_channel(shoal_rpc_channel *channel, const char *target,
                                   const shoal_rpc_tls *tls, shoal_err *err)
{
    grpc_arg args[SHOAL_RPC_ARGS_COMMON + 9];
    size_t n = shoal_rpc_args_common(channel->rpc, args);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_MS_FIRST);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MS_MOST);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS);
    args[n++] = shoal_rpc_arg_string(GRPC_ARG_SERVICE_CONFIG, service_config);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, RESOLVE_MS);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, RETRY_BYTES);
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
    channel->grpc = grpc_channel_create(target, creds, &all);
    grpc_channel_credentials_release(creds);
    if (!channel->grpc) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "%s: gRPC cannot make a channel", target);
    }
    return SHOAL_OK;
}

shoal_status shoal_rpc_channel_new(shoal_rpc *rpc, const char *target, const shoal_rpc_tls *tls,
                                   void (*watch)(void *ctx, shoal_rpc_link state), void *watch_ctx,
                                   shoal_rpc_channel **ret_channel, shoal_err *err)
{
    char words[SHOAL_RPC_TARGET_MAX];
    SHOAL_TRY(shoal_rpc_address_target(target, tls, shoal_rpc_tls_absent(tls), words, err));
    shoal_rpc_channel *channel = shoal_calloc(1, sizeof *channel);
    if (!channel) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "rpc channel: out of memory");
    }
    channel->rpc = rpc;
    channel->watch = watch;
    channel->watch_ctx = watch_ctx;
    channel->watch_tag.fn = on_watch;
    atomic_init(&channel->state, (int)SHOAL_RPC_LINK_IDLE);
    shoal_rpc_signals signals = shoal_rpc_signals_block();
    shoal_status status = create_channel(channel, words, tls, err);
    if (status == SHOAL_OK) {
        *ret_channel = channel;
        (void)pthread_mutex_lock(&rpc->lock);
        (void)arm_watch(channel);
        (void)pthread_mutex_unlock(&rpc->lock);
    } else {
        shoal_free(channel);
    }
    shoal_rpc_signals_restore(&signals);
    return status;
}

void shoal_rpc_channel_free(shoal_rpc_channel *channel)
{
    if (!channel) {
        return;
    }
    shoal_rpc *rpc = channel->rpc;
    SHOAL_ASSERT(shoal_thread_role() != SHOAL_ROLE_RPC);
    SHOAL_ASSERT(atomic_load(&channel->n_calls) == 0);
    (void)pthread_mutex_lock(&rpc->lock);
    channel->closing = true;
    (void)pthread_mutex_unlock(&rpc->lock);
    /* Destroying moves the channel to its last state, which brings the watch back. */
    grpc_channel_destroy(channel->grpc);
    (void)pthread_mutex_lock(&rpc->lock);
    while (channel->watching) {
        (void)pthread_cond_wait(&rpc->changed, &rpc->lock);
    }
    (void)pthread_mutex_unlock(&rpc->lock);
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
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *grpc = grpc_channel_create_call(channel->grpc, NULL, GRPC_PROPAGATE_DEFAULTS,
                                               rpc->cq, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    shoal_rpc_call *call = shoal_rpc_call_make(rpc, handlers, user, grpc);
    if (!call) {
        grpc_call_unref(grpc);
        return SHOAL_E_NOMEM;
    }
    call->channel = channel;
    call->wait_for_ready = wait;
    call->held = held;
    atomic_fetch_add(&channel->n_calls, 1);
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
