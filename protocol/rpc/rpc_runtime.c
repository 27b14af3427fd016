/* SPDX-License-Identifier: Apache-2.0
 *
 * The runtime: one completion queue of kind NEXT and the thread that polls it. The callback kind
 * has no poller on Linux from plain C: each operation would wait for a backup timer of seconds.
 */
#include "common/base/mem.h"
#include "protocol/rpc/rpc_internal.h"

#include <signal.h>

enum {
    MESSAGE_MAX_LIMIT = 64 << 20,
    KEEPALIVE_TIMEOUT_MS = 10000, /* also of what was sent and not acknowledged */
    KEEPALIVE_MS_MIN = 100,
    KEEPALIVE_MS_MAX = 3600 * 1000,
    CALLS_MAX_LIMIT = 1 << 20,
    SEND_HIGH_LIMIT = 256 << 20
};

const char *shoal_rpc_status_name(shoal_rpc_status status)
{
    /* All seventeen, also those that we never send: a peer may. */
    static const char *const names[] = {"ok",
                                        "cancelled",
                                        "unknown",
                                        "invalid_argument",
                                        "deadline_exceeded",
                                        "not_found",
                                        "already_exists",
                                        "permission_denied",
                                        "resource_exhausted",
                                        "failed_precondition",
                                        "aborted",
                                        "out_of_range",
                                        "unimplemented",
                                        "internal",
                                        "unavailable",
                                        "data_loss",
                                        "unauthenticated"};
    return (size_t)status < SHOAL_COUNT(names) ? names[status] : "unknown";
}

shoal_rpc_limits shoal_rpc_limits_default(void)
{
    return (shoal_rpc_limits){
        .message_max = 1 << 20,
        .send_high = 256 << 10,
        .send_low = 64 << 10,
        .calls_max = 1024,
        .keepalive_ms = 10000,
    };
}

shoal_rpc_signals shoal_rpc_signals_block(void)
{
    shoal_rpc_signals signals;
    sigset_t all;
    (void)sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &signals.before);
    SHOAL_ASSERT(rc == 0);
    return signals;
}

void shoal_rpc_signals_restore(const shoal_rpc_signals *signals)
{
    int rc = pthread_sigmask(SIG_SETMASK, &signals->before, NULL);
    SHOAL_ASSERT(rc == 0);
}

grpc_arg shoal_rpc_arg_int(const char *key, int value)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key};
    arg.value.integer = value;
    return arg;
}

grpc_arg shoal_rpc_arg_string(const char *key, const char *value)
{
    grpc_arg arg = {.type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)key};
    arg.value.string = (char *)(uintptr_t)value;
    return arg;
}

size_t shoal_rpc_args_common(const shoal_rpc *rpc, grpc_arg *args)
{
    const shoal_rpc_limits *limits = &rpc->limits;
    size_t n = 0;
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)limits->message_max);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, (int)limits->keepalive_ms);
    args[n++] =
        shoal_rpc_arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                          (int)SHOAL_MIN(limits->keepalive_ms, (uint32_t)KEEPALIVE_TIMEOUT_MS));
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    /* Probing grows the window of a stream to megabytes; with many streams the fixed one below is
     * what bounds memory. */
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, SHOAL_RPC_LOOKAHEAD);
    /* Identity alone: a compressed message could unpack to any size. */
    args[n++] = shoal_rpc_arg_int(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    args[n++] = shoal_rpc_arg_int(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    SHOAL_ASSERT(n <= SHOAL_RPC_ARGS_COMMON);
    return n;
}

static void poll_queue(void *ctx)
{
    shoal_rpc *rpc = ctx;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            return;
        }
        if (event.type == GRPC_OP_COMPLETE) {
            SHOAL_RPC_ACQUIRE(event.tag);
            shoal_rpc_tag *tag = event.tag;
            tag->fn(tag, event.success != 0);
        }
    }
}

static shoal_status check_limit(const char *name, uint64_t x, uint64_t low, uint64_t high,
                                shoal_err *err)
{
    if (x >= low && x <= high) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID, "rpc limit %s is %llu; it must lie in [%llu, %llu]",
                         name, (unsigned long long)x, (unsigned long long)low,
                         (unsigned long long)high);
}

static shoal_status check_limits(const shoal_rpc_limits *limits, shoal_err *err)
{
    SHOAL_TRY(check_limit("message_max", limits->message_max, 1, MESSAGE_MAX_LIMIT, err));
    SHOAL_TRY(check_limit("send_high", limits->send_high, 1, SEND_HIGH_LIMIT, err));
    SHOAL_TRY(check_limit("send_low", limits->send_low, 0, limits->send_high - 1, err));
    SHOAL_TRY(check_limit("calls_max", limits->calls_max, 1, CALLS_MAX_LIMIT, err));
    return check_limit("keepalive_ms", limits->keepalive_ms, KEEPALIVE_MS_MIN, KEEPALIVE_MS_MAX,
                       err);
}

static void init_locks(shoal_rpc *rpc)
{
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    SHOAL_ASSERT(rc == 0);
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    SHOAL_ASSERT(rc == 0);
    rc = pthread_cond_init(&rpc->changed, &attributes);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_destroy(&attributes);
    rc = pthread_mutex_init(&rpc->lock, NULL);
    SHOAL_ASSERT(rc == 0);
}

/* --- threads of the C core ---------------------------------------------------------------------
 */

/* As many as it was seen to have at most with one processor; it makes some when they are wanted. */
enum {
    CORE_THREADS = 6
};

static void pass(void *ctx)
{
    pthread_mutex_t *gate = ctx;
    (void)pthread_mutex_lock(gate);
    (void)pthread_mutex_unlock(gate);
}

/* The C core goes on without a thread that it could not make, and then a shutdown of it never
 * ends. So as many are made for a moment, all at once, and it is not begun where that fails. */
shoal_status shoal_rpc_try_threads(shoal_err *err)
{
    shoal_thread *made[CORE_THREADS] = {NULL};
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    shoal_status status = SHOAL_OK;
    (void)pthread_mutex_lock(&gate);
    for (size_t i = 0; i < CORE_THREADS && status == SHOAL_OK; i++) {
        status = shoal_thread_start(SHOAL_ROLE_RPC, "shoal-try", pass, &gate, &made[i]);
    }
    (void)pthread_mutex_unlock(&gate);
    for (size_t i = 0; i < CORE_THREADS; i++) {
        shoal_thread_join(made[i]);
    }
    (void)pthread_mutex_destroy(&gate);
    return status == SHOAL_OK ? SHOAL_OK
                              : shoal_err_set(err, status,
                                              "rpc: out of memory, or of threads: %d more are "
                                              "needed; raise their limit (TasksMax=, ulimit -u)",
                                              (int)CORE_THREADS);
}

shoal_status shoal_rpc_new(const shoal_rpc_limits *limits, shoal_rpc **ret_rpc, shoal_err *err)
{
    SHOAL_TRY(check_limits(limits, err));
    SHOAL_TRY(shoal_rpc_try_threads(err));
    shoal_rpc *rpc = shoal_calloc(1, sizeof *rpc);
    if (!rpc) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "rpc: out of memory");
    }
    rpc->limits = *limits;
    init_locks(rpc);
    shoal_rpc_signals signals = shoal_rpc_signals_block();
    grpc_init();
    rpc->cq = grpc_completion_queue_create_for_next(NULL);
    shoal_rpc_signals_restore(&signals);
    shoal_status status =
        shoal_thread_start(SHOAL_ROLE_RPC, "shoal-rpc", poll_queue, rpc, &rpc->poller);
    if (status != SHOAL_OK) {
        shoal_rpc_free(rpc);
        return shoal_err_set(err, status, "rpc: cannot start the poller thread");
    }
    *ret_rpc = rpc;
    return SHOAL_OK;
}

void shoal_rpc_free(shoal_rpc *rpc)
{
    if (!rpc) {
        return;
    }
    SHOAL_ASSERT(shoal_thread_role() != SHOAL_ROLE_RPC);
    (void)pthread_mutex_lock(&rpc->lock);
    while (rpc->n_calls > 0) {
        (void)pthread_cond_wait(&rpc->changed, &rpc->lock);
    }
    (void)pthread_mutex_unlock(&rpc->lock);
    grpc_completion_queue_shutdown(rpc->cq);
    if (rpc->poller) {
        shoal_thread_join(rpc->poller);
    } else {
        (void)grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    }
    grpc_completion_queue_destroy(rpc->cq);
    grpc_shutdown();
    (void)pthread_cond_destroy(&rpc->changed);
    (void)pthread_mutex_destroy(&rpc->lock);
    shoal_free(rpc);
}
