/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection to the cloud: made at the start, let go when nothing has wanted the cloud for
 * long, made again for what does. While it rests nothing of gRPC is left, whose timers wake the
 * processor twice a second even without a connection, and nothing is sent.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"
#include "common/obs/log.h"

#include <stdio.h>

enum {
    RETRY_MS = 1000 /* after one that could not be made */
};

static void watch_link(void *ctx, shoal_rpc_link state)
{
    (void)state;
    shoal_coop *coop = ctx;
    shoal_mailbox_wake(&coop->box);
}

static shoal_rpc_tls tls_of(const shoal_coop *coop)
{
    return (shoal_rpc_tls){
        .ca = coop->tls_paths[0],
        .cert = coop->tls_paths[1],
        .key = coop->tls_paths[2],
        .name_override = coop->tls_paths[3],
    };
}

static shoal_status make(shoal_coop *coop, shoal_err *err)
{
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    limits.keepalive_ms = coop->settings.keepalive_ms;
    const shoal_rpc_tls tls = tls_of(coop);
    shoal_rpc *rpc = NULL;
    shoal_rpc_channel *channel = NULL;
    SHOAL_TRY(shoal_rpc_new(&limits, &rpc, err));
    shoal_status status =
        shoal_rpc_channel_new(rpc, coop->target, &tls, watch_link, coop, &channel, err);
    if (status != SHOAL_OK) {
        shoal_rpc_free(rpc);
        return status;
    }
    (void)pthread_mutex_lock(&coop->channel_mutex);
    coop->rpc = rpc;
    coop->channel = channel;
    coop->channel_failed = false;
    (void)pthread_mutex_unlock(&coop->channel_mutex);
    return SHOAL_OK;
}

/* What threads gRPC has they inherit from the engine's, which may be held to one processor. */
static shoal_status make_unpinned(shoal_coop *coop, shoal_err *err)
{
    cpu_set_t pinned;
    bool known = pthread_getaffinity_np(pthread_self(), sizeof pinned, &pinned) == 0 &&
                 pthread_setaffinity_np(pthread_self(), sizeof coop->cpus, &coop->cpus) == 0;
    shoal_status status = make(coop, err);
    if (known) {
        (void)pthread_setaffinity_np(pthread_self(), sizeof pinned, &pinned);
    }
    return status;
}

static void let_go(shoal_coop *coop)
{
    (void)pthread_mutex_lock(&coop->channel_mutex);
    coop->channel_failed =
        coop->channel && shoal_rpc_channel_state(coop->channel) != SHOAL_RPC_LINK_READY;
    shoal_rpc_channel *channel = SHOAL_STEAL(coop->channel);
    shoal_rpc *rpc = SHOAL_STEAL(coop->rpc);
    (void)pthread_mutex_unlock(&coop->channel_mutex);
    shoal_rpc_channel_free(channel);
    shoal_rpc_free(rpc);
}

shoal_status shoal_channel_init(shoal_coop *coop, shoal_err *err)
{
    const shoal_coop_settings *s = &coop->settings;
    if (!s->cloud_target || !s->cloud_target[0]) {
        return SHOAL_OK;
    }
    const char *given[4] = {s->tls.ca, s->tls.cert, s->tls.key, s->tls.name_override};
    for (size_t i = 0; i < SHOAL_COUNT(given); i++) {
        if (given[i] && given[i][0]) {
            coop->tls_paths[i] = shoal_strdup(given[i]);
            if (!coop->tls_paths[i]) {
                return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the link");
            }
        }
    }
    coop->target = shoal_strdup(s->cloud_target);
    if (!coop->target) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the link");
    }
    coop->channel_wanted_ms = shoal_clock_now_ms(&coop->clock);
    if (pthread_getaffinity_np(pthread_self(), sizeof coop->cpus, &coop->cpus) != 0) {
        CPU_ZERO(&coop->cpus); /* setting it fails then, and nothing is changed */
    }
    return make(coop, err);
}

void shoal_channel_fini(shoal_coop *coop)
{
    let_go(coop);
    shoal_free(coop->target);
    for (size_t i = 0; i < SHOAL_COUNT(coop->tls_paths); i++) {
        shoal_free(coop->tls_paths[i]);
    }
}

static bool is_wanted(const shoal_coop *coop)
{
    bool wanted =
        coop->describe_call != NULL || coop->closing != NULL || atomic_load(&coop->n_calls) > 0;
    for (const gen *g = coop->active; g && !wanted; g = g->next) {
        wanted = g->mode != SHOAL_MODE_LOCAL && !g->done;
    }
    return wanted;
}

void shoal_channel_mind(shoal_coop *coop, uint64_t now_ms)
{
    if (!coop->target) {
        return;
    }
    bool wanted = is_wanted(coop);
    /* Not from the turn that finds the last call closed, but from the next one: what it left in the
     * mailbox still holds it, and a runtime is freed when its calls are. */
    if (wanted || coop->channel_was_wanted) {
        coop->channel_wanted_ms = now_ms;
    }
    coop->channel_was_wanted = wanted;
    if (wanted && !coop->channel && now_ms >= coop->channel_retry_ms) {
        shoal_err err = SHOAL_ERR_INIT;
        if (make_unpinned(coop, &err) != SHOAL_OK) {
            shoal_log(SHOAL_LOG_WARN, "the cloud cannot be connected to: %s", err.text);
            (void)snprintf(coop->channel_trouble, sizeof coop->channel_trouble, "%s", err.text);
            coop->channel_retry_ms = now_ms + RETRY_MS;
            (void)pthread_mutex_lock(&coop->channel_mutex);
            coop->channel_failed = true;
            (void)pthread_mutex_unlock(&coop->channel_mutex);
        }
    } else if (coop->channel && now_ms >= shoal_channel_wakes_ms(coop)) {
        let_go(coop);
    }
}

uint64_t shoal_channel_wakes_ms(const shoal_coop *coop)
{
    return coop->channel && coop->settings.rest_ms > 0 && !coop->channel_was_wanted
               ? coop->channel_wanted_ms + coop->settings.rest_ms
               : UINT64_MAX;
}

shoal_rpc_link shoal_channel_link(shoal_coop *coop, bool *ret_rests)
{
    (void)pthread_mutex_lock(&coop->channel_mutex);
    shoal_rpc_link state = coop->channel          ? shoal_rpc_channel_state(coop->channel)
                           : coop->channel_failed ? SHOAL_RPC_LINK_DOWN
                                                  : SHOAL_RPC_LINK_IDLE;
    *ret_rests = coop->target && !coop->channel && !coop->channel_failed;
    (void)pthread_mutex_unlock(&coop->channel_mutex);
    return state;
}

shoal_status shoal_coop_renew_tls(shoal_coop *coop, shoal_err *err)
{
    const shoal_rpc_tls tls = tls_of(coop);
    if (!coop->target || (!tls.ca && !tls.cert && !tls.key)) {
        return SHOAL_OK;
    }
    (void)pthread_mutex_lock(&coop->channel_mutex);
    shoal_status status = coop->channel ? shoal_rpc_channel_set_tls(coop->channel, &tls, err)
                                        : shoal_rpc_tls_check(&tls, err);
    (void)pthread_mutex_unlock(&coop->channel_mutex);
    return status;
}
