/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/node.h"

#include "cloud/server/native.h"
#include "cloud/server/relay.h"
#include "cloud/server/session.h"
#include "common/base/mem.h"
#include "common/base/queue.h"
#include "common/base/thread.h"
#include "common/obs/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    FIXED_ITEMS = 4,      /* items embedded in a call: opened, half-closed, failed, gone */
    DRAIN_AT_ONCE = 1024, /* inbox items handled between two steps */
    CATCH_UP_ROWS = 32,   /* a sample so close ahead is a step's, not a prompt */
    BUSY_WAIT_MS = 5,     /* pause when pages are held by sessions that are briefly silent */
    IDLE_WAIT_MS = 1000 /* longest sleep, so that a lost wake-up would cost a second, not a hang */
};

typedef enum item_kind {
    ITEM_OPENED,
    ITEM_MESSAGE,
    ITEM_HALF_CLOSED,
    ITEM_FAILED,
    ITEM_GONE,
    ITEM_POKE /* only wakes */
} item_kind;

typedef struct item {
    item_kind kind;
    shoal_conn *conn;
    shoal_edge_msg *msg; /* MESSAGE: owned, as is the item itself */
    size_t n_bytes;
    size_t n_ids; /* MESSAGE: tokens it brings */
} item;

struct shoal_conn {
    shoal_node *node;
    shoal_peer peer;
    shoal_session *session; /* engine-only */
    item opened;            /* embedded: what must not fail cannot need memory */
    item half_closed;
    item failed;
    item gone;
    shoal_rpc_status fail_status; /* written before the failed item is pushed */
    char fail_text[SHOAL_WIRE_TEXT_MAX];
    bool cut; /* written before the gone item is pushed */
    atomic_bool fail_set;
    atomic_size_t n_queued;
    atomic_size_t n_bytes;
    atomic_bool paused;
    atomic_bool blocked; /* the peer does not read */
    /* engine-only */
    bool held;  /* what the batch was told of blocked */
    bool ended; /* it counts no more in n_open */
    bool finished;
    bool cancelled;
    shoal_rpc_status status;
    uint64_t last_ms;
    size_t i; /* in node->conns */
};

struct shoal_node {
    shoal_node_settings settings;
    shoal_backend backend;
    shoal_store *store; /* NULL: none */
    shoal_cloud_metrics metrics;
    shoal_describe describe;
    char node_name[SHOAL_WIRE_TEXT_MAX];
    shoal_queue *inbox;
    item poke;
    atomic_bool poked;
    atomic_bool stopping;
    atomic_size_t n_conns;
    atomic_size_t n_open; /* those of them whose session has not ended */
    shoal_conn **conns;   /* [n_sessions_max + SHOAL_NODE_ENDED_MAX], engine-only */
    size_t n_registered;
    shoal_thread *thread;
    /* Told to any thread. */
    atomic_uint_fast64_t beat_ms;
    atomic_size_t n_ids_inbox;
    pthread_mutex_t told_lock; /* of the two below, held to copy them */
    shoal_admit_load told;
    double found;
};

shoal_node_settings shoal_node_settings_default(void)
{
    return (shoal_node_settings){.engine = shoal_engine_settings_default(),
                                 .model_name = "",
                                 .node_name = "",
                                 .public_files = "",
                                 .n_sessions_max = 256,
                                 .inbox_bytes_max = 256 << 10,
                                 .prefill_chunk = 128,
                                 .step_time_ms = 200,
                                 .prefix_percent = 50,
                                 .idle_ms = 300000,
                                 .kv_hold_ms = 1000,
                                 .store_wait_ms = 250,
                                 .n_retries = 3,
                                 .clock = shoal_clock_real()};
}

/* --- any thread ------------------------------------------------------------------------------- */

/* The inbox has room for every item that can exist, so a push fails only after a close. */
static void push_fixed(shoal_node *node, item *it)
{
    shoal_status status = shoal_queue_push(node->inbox, it);
    (void)status;
}

static void poke(shoal_node *node)
{
    if (!atomic_exchange(&node->poked, true)) {
        push_fixed(node, &node->poke);
    }
}

/* Calls that there are places for. Who has heard the end of one may open the next before the node
 * has heard that it is gone. */
static size_t n_places(const shoal_node *node)
{
    return node->settings.n_sessions_max + SHOAL_NODE_ENDED_MAX;
}

static bool take_one(atomic_size_t *count, size_t most)
{
    if (atomic_fetch_add(count, 1) < most) {
        return true;
    }
    atomic_fetch_sub(count, 1);
    return false;
}

shoal_status shoal_node_accept(shoal_node *node, const shoal_peer *peer, shoal_conn **ret_conn)
{
    if (!take_one(&node->n_open, node->settings.n_sessions_max)) {
        return SHOAL_BUSY;
    }
    bool placed = take_one(&node->n_conns, n_places(node));
    shoal_conn *conn = placed ? shoal_calloc(1, sizeof(*conn)) : NULL;
    if (conn == NULL) {
        atomic_fetch_sub(&node->n_conns, placed);
        atomic_fetch_sub(&node->n_open, 1);
        return placed ? SHOAL_E_NOMEM : SHOAL_BUSY;
    }
    conn->node = node;
    conn->peer = *peer;
    conn->status = SHOAL_RPC_CANCELLED;
    conn->opened = (item){.kind = ITEM_OPENED, .conn = conn};
    conn->half_closed = (item){.kind = ITEM_HALF_CLOSED, .conn = conn};
    conn->failed = (item){.kind = ITEM_FAILED, .conn = conn};
    conn->gone = (item){.kind = ITEM_GONE, .conn = conn};
    *ret_conn = conn;
    push_fixed(node, &conn->opened);
    return SHOAL_OK;
}

static bool below_low(const shoal_conn *conn)
{
    return atomic_load(&conn->n_queued) <= SHOAL_NODE_QUEUED_HIGH / 2 &&
           atomic_load(&conn->n_bytes) <= conn->node->settings.inbox_bytes_max / 2;
}

/* Whoever sees the queue low after paused was set resumes, once. */
static void resume_if_low(shoal_conn *conn)
{
    if (below_low(conn) && atomic_exchange(&conn->paused, false)) {
        conn->peer.resume(conn->peer.ctx);
    }
}

shoal_status shoal_conn_push(shoal_conn *conn, shoal_edge_msg *take_msg, size_t n_bytes)
{
    if (atomic_load(&conn->n_queued) >= SHOAL_NODE_QUEUED_MAX) {
        shoal_edge_msg_free(take_msg);
        return SHOAL_E_EXHAUSTED;
    }
    item *it = shoal_calloc(1, sizeof(*it));
    if (it == NULL) {
        shoal_edge_msg_free(take_msg);
        return SHOAL_E_NOMEM;
    }
    *it = (item){.kind = ITEM_MESSAGE, .conn = conn, .msg = take_msg, .n_bytes = n_bytes};
    it->n_ids = shoal_edge_msg_n_ids(take_msg);
    size_t n_ids = it->n_ids;
    atomic_fetch_add(&conn->node->n_ids_inbox, n_ids);
    size_t n_queued = atomic_fetch_add(&conn->n_queued, 1) + 1;
    size_t n_waiting = atomic_fetch_add(&conn->n_bytes, n_bytes) + n_bytes;
    if (shoal_queue_push(conn->node->inbox, it) != SHOAL_OK) {
        atomic_fetch_sub(&conn->node->n_ids_inbox, n_ids);
        shoal_edge_msg_free(take_msg);
        shoal_free(it);
        return SHOAL_E_CANCELLED;
    }
    if (n_queued >= SHOAL_NODE_QUEUED_HIGH || n_waiting >= conn->node->settings.inbox_bytes_max) {
        conn->peer.pause(conn->peer.ctx);
        atomic_store(&conn->paused, true);
        /* The engine may have drained everything before it could see the flag. */
        resume_if_low(conn);
    }
    return SHOAL_OK;
}

void shoal_conn_half_close(shoal_conn *conn)
{
    push_fixed(conn->node, &conn->half_closed);
}

void shoal_conn_fail(shoal_conn *conn, shoal_rpc_status status, const char *text)
{
    if (!atomic_exchange(&conn->fail_set, true)) {
        conn->fail_status = status;
        snprintf(conn->fail_text, sizeof(conn->fail_text), "%s", text);
        push_fixed(conn->node, &conn->failed);
    }
}

void shoal_conn_drained(shoal_conn *conn)
{
    atomic_store(&conn->blocked, false);
    poke(conn->node);
}

void shoal_conn_gone(shoal_conn *conn, bool delivered)
{
    conn->cut = !delivered; /* read after the item was popped */
    push_fixed(conn->node, &conn->gone);
}

const shoal_describe *shoal_node_describe(const shoal_node *node)
{
    return &node->describe;
}

size_t shoal_node_n_conns(const shoal_node *node)
{
    return atomic_load(&node->n_conns);
}

/* --- the engine thread: a call's life --------------------------------------------------------- */

/* Its place is free: before the peer hears of the end, for then it may open the next session. */
static void end_session(shoal_conn *conn)
{
    if (!conn->ended) {
        conn->ended = true;
        atomic_fetch_sub(&conn->node->n_open, 1);
    }
}

static bool is_last(const shoal_cloud_msg *msg)
{
    return msg->kind == SHOAL_CLOUD_FINISHED || msg->kind == SHOAL_CLOUD_ERROR;
}

static void on_emit(void *ctx, const shoal_cloud_msg *msg)
{
    shoal_conn *conn = ctx;
    if (conn->cancelled) {
        return;
    }
    if (is_last(msg)) {
        end_session(conn);
    }
    /* An answer is a sign of life too: silence counts from the end of the work. */
    conn->last_ms = shoal_clock_now_ms(&conn->node->settings.clock);
    /* Set first: drained may come from another thread before send has returned. */
    atomic_store(&conn->blocked, true);
    shoal_status status = conn->peer.send(conn->peer.ctx, msg);
    if (status == SHOAL_BUSY) {
        return;
    }
    atomic_store(&conn->blocked, false);
    if (status != SHOAL_OK) {
        /* A stream with a hole in it must not go on. */
        conn->cancelled = true;
        conn->peer.cancel(conn->peer.ctx);
    }
}

static void on_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    shoal_conn *conn = ctx;
    conn->finished = true;
    conn->status = status;
    end_session(conn);
    conn->peer.finish(conn->peer.ctx, status, text);
}

static void count_end(shoal_node *node, const shoal_conn *conn)
{
    const shoal_cloud_metrics *m = &node->metrics;
    shoal_metric *by_status = m->requests_other;
    switch (conn->status) {
    case SHOAL_RPC_OK:
        by_status = m->requests_ok;
        break;
    case SHOAL_RPC_INVALID_ARGUMENT:
        by_status = m->requests_invalid;
        break;
    case SHOAL_RPC_FAILED_PRECONDITION:
        by_status = m->requests_mismatch;
        break;
    case SHOAL_RPC_RESOURCE_EXHAUSTED:
        by_status = m->requests_exhausted;
        break;
    case SHOAL_RPC_DEADLINE_EXCEEDED:
        by_status = m->requests_deadline;
        break;
    case SHOAL_RPC_CANCELLED:
        by_status = m->requests_cancelled;
        break;
    case SHOAL_RPC_UNKNOWN:
    case SHOAL_RPC_NOT_FOUND:
    case SHOAL_RPC_PERMISSION_DENIED:
    case SHOAL_RPC_ABORTED:
    case SHOAL_RPC_UNIMPLEMENTED:
    case SHOAL_RPC_INTERNAL:
    case SHOAL_RPC_UNAVAILABLE:
    case SHOAL_RPC_UNAUTHENTICATED:
    default:
        break;
    }
    shoal_metric_add(by_status, 1);
    if (conn->session == NULL) {
        return;
    }
    const shoal_session_stats *stats = shoal_session_stats_get(conn->session);
    shoal_metric_add(m->tokens_prompt, stats->n_prompt);
    shoal_metric_add(m->tokens_generated, stats->n_generated);
    shoal_metric_add(m->tokens_verified, stats->n_verified);
    shoal_metric_add(m->tokens_accepted, stats->n_accepted);
    shoal_metric_add(m->tokens_cached, stats->n_cached);
    if (stats->first_token_ms != 0) {
        shoal_metric_observe(m->first_token,
                             (double)(stats->first_token_ms - stats->opened_ms) / 1e3);
    }
    if (stats->n_next > 0) {
        double ms = (double)(stats->last_token_ms - stats->first_token_ms);
        shoal_metric_observe(m->next_token, ms / 1e3 / stats->n_next);
    }
}

/* One line per call, without any text of it. */
static void log_end(const shoal_conn *conn, uint64_t now_ms)
{
    if (conn->session == NULL) {
        return;
    }
    const shoal_session_stats *s = shoal_session_stats_get(conn->session);
    char id[4 * sizeof(s->request_id)];
    char tenant[4 * sizeof(conn->peer.identity)];
    char ttft[24] = "-";
    if (s->first_token_ms != 0) {
        snprintf(ttft, sizeof(ttft), "%llu",
                 (unsigned long long)(s->first_token_ms - s->opened_ms));
    }
    shoal_log(
        SHOAL_LOG_INFO,
        "session end id=%s tenant=%s mode=%s outcome=%s prompt=%u generated=%u verified=%u "
        "accepted=%u acceptance=%.2f guessed=%u guessed_right=%u rounds=%u cached=%u evictions=%u "
        "compute_ms=%.1f ttft_ms=%s wall_ms=%llu",
        shoal_log_escape(s->request_id, id, sizeof(id)),
        shoal_log_escape(conn->peer.identity, tenant, sizeof(tenant)),
        s->request_id[0] == '\0' && s->n_prompt == 0 ? "-" : shoal_mode_name(s->mode),
        shoal_rpc_status_name(conn->status), s->n_prompt, s->n_generated, s->n_verified,
        s->n_accepted, (double)s->n_accepted / SHOAL_MAX(s->n_verified, 1u), s->n_guessed,
        s->n_guessed_right, s->n_rounds, s->n_cached, s->n_evictions, (double)s->compute_us / 1e3,
        ttft, (unsigned long long)(now_ms - SHOAL_MIN(s->opened_ms, now_ms)));
}

static void register_conn(shoal_node *node, shoal_conn *conn, uint64_t now_ms)
{
    conn->last_ms = now_ms;
    conn->i = node->n_registered;
    node->conns[node->n_registered++] = conn;
    shoal_metric_set(node->metrics.running, (double)node->n_registered);
    const shoal_backend *backend = &node->backend;
    shoal_session_env env = {.engine = backend->engine,
                             .sampler = backend->sampler,
                             .words = backend->words,
                             .adapters = backend->adapters,
                             .tokenizer = backend->tokenizer,
                             .describe = &node->describe,
                             .tenant = conn->peer.identity,
                             .node = node->node_name};
    shoal_session_out out = {.emit = on_emit, .finish = on_finish, .ctx = conn};
    if (shoal_session_new(&env, &out, now_ms, &conn->session) != SHOAL_OK) {
        on_finish(conn, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory; try later");
        return;
    }
    shoal_status status = backend->ops->add(backend->ctx, conn->session, now_ms);
    SHOAL_ASSERT(status == SHOAL_OK); /* as many places as calls */
}

static void unregister_conn(shoal_node *node, shoal_conn *conn, uint64_t now_ms)
{
    if (conn->cut && conn->status == SHOAL_RPC_OK) {
        conn->status = SHOAL_RPC_CANCELLED;
    }
    count_end(node, conn);
    log_end(conn, now_ms);
    if (conn->session != NULL) {
        node->backend.ops->remove(node->backend.ctx, conn->session);
        shoal_session_free(conn->session);
    }
    shoal_conn *last = node->conns[--node->n_registered];
    node->conns[conn->i] = last;
    last->i = conn->i;
    shoal_metric_set(node->metrics.running, (double)node->n_registered);
    conn->peer.release(conn->peer.ctx);
    end_session(conn);
    shoal_free(conn);
    atomic_fetch_sub(&node->n_conns, 1);
}

static void handle_message(shoal_node *node, item *it, uint64_t now_ms)
{
    shoal_conn *conn = it->conn;
    conn->last_ms = now_ms;
    if (!conn->finished) {
        node->backend.ops->touch(node->backend.ctx, conn->session, now_ms);
        shoal_session_push(conn->session, it->msg, now_ms);
    }
    atomic_fetch_sub(&conn->n_queued, 1);
    atomic_fetch_sub(&conn->n_bytes, it->n_bytes);
    atomic_fetch_sub(&node->n_ids_inbox, it->n_ids);
    resume_if_low(conn);
    shoal_edge_msg_free(it->msg);
    shoal_free(it);
}

static void handle(shoal_node *node, item *it, uint64_t now_ms)
{
    shoal_conn *conn = it->conn;
    switch (it->kind) {
    case ITEM_OPENED:
        register_conn(node, conn, now_ms);
        break;
    case ITEM_MESSAGE:
        handle_message(node, it, now_ms);
        break;
    case ITEM_HALF_CLOSED:
        if (!conn->finished) {
            shoal_session_half_close(conn->session);
        }
        break;
    case ITEM_FAILED:
        if (!conn->finished) {
            shoal_session_fail(conn->session, conn->fail_status, conn->fail_text);
        }
        break;
    case ITEM_GONE:
        unregister_conn(node, conn, now_ms);
        break;
    case ITEM_POKE:
        atomic_store(&node->poked, false);
        break;
    default:
        break;
    }
}

/* --- what others are told --------------------------------------------------------------------- */

shoal_node_limits shoal_node_limits_get(const shoal_node *node)
{
    shoal_node_limits limits = {.n_sessions_max = node->settings.n_sessions_max,
                                .n_tokens_max = node->describe.n_ctx};
    if (node->backend.engine != NULL) {
        const shoal_kv_pool *pool = shoal_engine_kv(node->backend.engine);
        limits.n_pages = shoal_kv_pool_n_pages(pool);
        size_t n_pages = shoal_kv_pool_pages_for(pool, 64) - shoal_kv_pool_pages_for(pool, 32);
        limits.kv_bytes_token = n_pages * shoal_kv_page_bytes(shoal_kv_pool_shape(pool)) / 32;
    }
    return limits;
}

size_t shoal_node_pages_for(const shoal_node *node, size_t n_tokens)
{
    if (node->backend.engine == NULL) {
        return 0;
    }
    const shoal_kv_pool *pool = shoal_engine_kv(node->backend.engine);
    size_t n = SHOAL_MIN(n_tokens, (size_t)node->describe.n_ctx);
    return SHOAL_MIN(shoal_kv_pool_pages_for(pool, n), shoal_kv_pool_n_pages(pool));
}

shoal_admit_load shoal_node_load(shoal_node *node)
{
    (void)pthread_mutex_lock(&node->told_lock);
    shoal_admit_load load = node->told;
    double found = node->found;
    (void)pthread_mutex_unlock(&node->told_lock);
    /* Of prompts that nobody has looked at yet as much is taken to be there as of the last ones. */
    load.n_rows_waiting += (uint64_t)((double)atomic_load(&node->n_ids_inbox) * (1.0 - found));
    return load;
}

uint64_t shoal_node_beat_ms(const shoal_node *node)
{
    return atomic_load(&node->beat_ms);
}

const shoal_cloud_metrics *shoal_node_metrics(const shoal_node *node)
{
    return &node->metrics;
}

/* Rows that sessions wait for, and what the back end says of them. */
static void publish(shoal_node *node, uint64_t now_ms)
{
    const shoal_backend *backend = &node->backend;
    shoal_admit_load load = {.n_rows_waiting = 0};
    for (size_t i = 0; i < node->n_registered; i++) {
        const shoal_session *session = node->conns[i]->session;
        if (session == NULL || shoal_session_wants(session, 0) == SHOAL_WANT_NOTHING) {
            continue;
        }
        size_t n_ids = 0;
        (void)shoal_session_ids(session, &n_ids);
        load.n_rows_waiting += n_ids - SHOAL_MIN(shoal_session_kv_length(session), n_ids);
        load.n_decoding += shoal_session_wants(session, CATCH_UP_ROWS) == SHOAL_WANT_TOKENS;
    }
    backend->ops->load(backend->ctx, &load);
    double found = backend->ops->found(backend->ctx);
    (void)pthread_mutex_lock(&node->told_lock);
    node->told = load;
    node->found = found;
    (void)pthread_mutex_unlock(&node->told_lock);
    atomic_store(&node->beat_ms, now_ms);
}

/* --- the engine thread: its loop -------------------------------------------------------------- */

/* Deadlines, silent calls, slow readers. */
static void tick(shoal_node *node, uint64_t now_ms)
{
    for (size_t i = 0; i < node->n_registered; i++) {
        shoal_conn *conn = node->conns[i];
        bool silent = now_ms - SHOAL_MIN(conn->last_ms, now_ms) >= node->settings.idle_ms;
        if (conn->finished) {
            /* The peer neither reads its end nor closes: no courtesy left. */
            if (silent && !conn->cancelled) {
                conn->cancelled = true;
                conn->peer.cancel(conn->peer.ctx);
            }
            continue;
        }
        bool blocked = atomic_load(&conn->blocked);
        if (blocked != conn->held) {
            conn->held = blocked;
            node->backend.ops->hold(node->backend.ctx, conn->session, blocked);
        }
        if (conn->cancelled) {
            shoal_session_fail(conn->session, SHOAL_RPC_CANCELLED, "an answer could not be sent");
            continue;
        }
        shoal_session_tick(conn->session, now_ms);
        if (silent && !conn->finished &&
            (blocked || shoal_session_wants(conn->session, 0) == SHOAL_WANT_NOTHING)) {
            conn->last_ms = now_ms;
            shoal_session_fail(conn->session, SHOAL_RPC_DEADLINE_EXCEEDED,
                               "the session was silent for longer than sessions.idle_ms");
        }
    }
}

/* How long the thread may sleep when no session has work. */
static uint64_t sleep_ms(const shoal_node *node, uint64_t now_ms)
{
    uint64_t wait = IDLE_WAIT_MS;
    for (size_t i = 0; i < node->n_registered; i++) {
        const shoal_conn *conn = node->conns[i];
        if (conn->cancelled) {
            continue; /* nothing is left to do but to hear that it is gone */
        }
        uint64_t due = conn->last_ms + node->settings.idle_ms;
        if (!conn->finished) {
            due = SHOAL_MIN(due, shoal_session_deadline_ms(conn->session));
        }
        wait = SHOAL_MIN(wait, due > now_ms ? due - now_ms : 1);
    }
    return wait;
}

static void engine_main(void *ctx)
{
    shoal_node *node = ctx;
    const shoal_clock *clock = &node->settings.clock;
    while (!atomic_load(&node->stopping)) {
        uint64_t now_ms = shoal_clock_now_ms(clock);
        for (size_t i = 0; i < DRAIN_AT_ONCE; i++) {
            item *it = shoal_queue_pop(node->inbox);
            if (it == NULL) {
                break;
            }
            handle(node, it, now_ms);
        }
        tick(node, now_ms);
        if (node->backend.ops->look != NULL) {
            node->backend.ops->look(node->backend.ctx, clock);
        }
        publish(node, now_ms);
        shoal_status status = node->backend.ops->step(node->backend.ctx, clock);
        if (status == SHOAL_OK) {
            continue;
        }
        if (atomic_load(&node->stopping)) {
            break; /* its poke may have been taken above: this time sleep would not be cut short */
        }
        uint64_t wait_ms = status == SHOAL_BUSY ? BUSY_WAIT_MS : sleep_ms(node, now_ms);
        item *it = shoal_queue_pop_wait(node->inbox, wait_ms);
        if (it != NULL) {
            handle(node, it, shoal_clock_now_ms(clock));
        }
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static void describe(shoal_node *node)
{
    shoal_describe *d = &node->describe;
    const char *name = node->settings.model_name;
    node->backend.ops->describe(node->backend.ctx, d);
    if (name != NULL && name[0] != '\0') {
        snprintf(d->name, sizeof(d->name), "%s", name);
    }
    snprintf(d->backend, sizeof(d->backend), "%s", node->backend.ops->name);
    d->protocol = SHOAL_WIRE_PROTOCOL;
    d->opens_whole = true;
    name = node->settings.node_name;
    if (name != NULL && name[0] != '\0') {
        snprintf(node->node_name, sizeof(node->node_name), "%s", name);
    } else if (gethostname(node->node_name, sizeof(node->node_name) - 1) != 0) {
        snprintf(node->node_name, sizeof(node->node_name), "cloud");
    }
}

static void wake(void *ctx)
{
    poke(ctx);
}

static shoal_status make_backend(shoal_node *node, const shoal_model *model, shoal_err *err)
{
    const shoal_node_settings *settings = &node->settings;
    if (settings->take_upstream != NULL) {
        shoal_relay_settings relay = {.n_sessions_max = n_places(node),
                                      .n_ctx = settings->engine.n_ctx,
                                      .n_ctx_trained = settings->n_ctx_trained,
                                      .n_retries = settings->n_retries};
        return shoal_relay_new(SHOAL_STEAL(node->settings.take_upstream), &relay, &node->metrics,
                               wake, node, &node->backend, err);
    }
    shoal_batch_settings batch = {.n_sessions_max = n_places(node),
                                  .prefill_chunk = settings->prefill_chunk,
                                  .idle_hold_ms = settings->kv_hold_ms,
                                  .prefix_percent = settings->prefix_percent,
                                  .step_time_us = settings->step_time_ms * 1000,
                                  .timing = &node->settings.clock,
                                  .store = node->store,
                                  .store_secret = settings->store_secret,
                                  .store_wait_ms = settings->store_wait_ms,
                                  .store_always = settings->store_always};
    return shoal_native_new(model, settings->adapters, &settings->engine, &batch,
                            settings->public_files, &node->metrics, &node->backend, err);
}

static shoal_status open_store(shoal_node *node, shoal_metrics *registry, shoal_err *err)
{
    if (node->settings.store == NULL || node->settings.take_upstream != NULL) {
        return SHOAL_OK;
    }
    shoal_store_settings settings = *SHOAL_STEAL(node->settings.store);
    settings.wake = wake;
    settings.wake_ctx = node;
    return shoal_store_open(&settings, registry, &node->store, err);
}

static shoal_status build(shoal_node *node, const shoal_model *model, shoal_metrics *registry,
                          shoal_err *err)
{
    const shoal_node_settings *settings = &node->settings;
    if (settings->n_sessions_max < 1 || settings->n_sessions_max > SHOAL_NODE_SESSIONS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "sessions.max is %zu, not in 1..%d",
                             settings->n_sessions_max, (int)SHOAL_NODE_SESSIONS_MAX);
    }
    if (shoal_cloud_metrics_init(registry, &node->metrics) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for metrics");
    }
    SHOAL_TRY(open_store(node, registry, err));
    SHOAL_TRY(make_backend(node, model, err));
    describe(node);
    size_t per_call = SHOAL_NODE_QUEUED_MAX + FIXED_ITEMS;
    node->conns = shoal_calloc(n_places(node), sizeof(shoal_conn *));
    shoal_status status = node->conns == NULL ? SHOAL_E_NOMEM : SHOAL_OK;
    if (status == SHOAL_OK) {
        status = shoal_queue_new(n_places(node) * per_call + 1, &node->inbox);
    }
    if (status == SHOAL_OK) {
        status =
            shoal_thread_start(SHOAL_ROLE_ENGINE, "shoal-engine", engine_main, node, &node->thread);
    }
    return status == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, status,
                               "cannot set up %zu sessions: %s, or of threads; lower sessions.max",
                               settings->n_sessions_max, shoal_status_text(status));
}

shoal_status shoal_node_new(const shoal_model *model, const shoal_node_settings *settings,
                            shoal_metrics *registry, shoal_node **ret_node, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_node_freep) shoal_node *node = shoal_calloc(1, sizeof(*node));
    if (node == NULL) {
        shoal_upstream_free(settings->take_upstream);
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the node");
    }
    int rc = pthread_mutex_init(&node->told_lock, NULL);
    SHOAL_ASSERT(rc == 0);
    node->settings = *settings;
    node->poke = (item){.kind = ITEM_POKE};
    SHOAL_TRY(build(node, model, registry, err));
    *ret_node = SHOAL_STEAL(node);
    return SHOAL_OK;
}

/* After the thread's end: items left in the inbox, then calls that nobody closed. */
static void drain(shoal_node *node)
{
    uint64_t now_ms = shoal_clock_now_ms(&node->settings.clock);
    item *it = NULL;
    while ((it = shoal_queue_pop(node->inbox)) != NULL) {
        handle(node, it, now_ms);
    }
    while (node->n_registered > 0) {
        shoal_conn *conn = node->conns[node->n_registered - 1];
        if (!conn->finished) {
            shoal_session_fail(conn->session, SHOAL_RPC_UNAVAILABLE, "this node is shutting down");
        }
        unregister_conn(node, conn, now_ms);
    }
}

void shoal_node_free(shoal_node *node)
{
    if (node == NULL) {
        return;
    }
    if (node->thread != NULL) {
        atomic_store(&node->stopping, true);
        poke(node);
        shoal_thread_join(node->thread);
        drain(node);
    }
    if (node->backend.ops != NULL) {
        node->backend.ops->free(node->backend.ctx);
    }
    shoal_store_close(node->store);
    shoal_queue_free(node->inbox); /* after all whose threads wake this one */
    shoal_upstream_free(node->settings.take_upstream);
    (void)pthread_mutex_destroy(&node->told_lock);
    shoal_free(node->conns);
    shoal_free(node);
}
