/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/service.h"

#include "cloud/server/fetch.h"
#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/obs/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    N_METHODS = 4,   /* the last two need a ship, a fleet */
    OPEN_MS = 10000, /* for the first message of a call */
    SWEEP_AT_ONCE = 64,
    LOG_EVERY_MS = 1000 /* between two lines about refusals */
};

typedef struct generation generation;

struct shoal_service {
    shoal_node *node;
    shoal_rpc_server *server;
    shoal_rpc_method methods[N_METHODS]; /* borrowed by the server */
    shoal_ship *ship;                    /* these two NULL: no FetchKv */
    shoal_fetch *fetch;
    shoal_fleet *fleet; /* NULL: no FetchBundle */
    shoal_clock clock;
    bool secured;
    atomic_bool serving;
    pthread_mutex_t lock; /* everything below */
    shoal_admit *admit;
    generation *unopened; /* calls that have sent nothing, newest first */
    size_t n_generations;
    pthread_cond_t none_left;
    uint64_t logged_ms;
    uint64_t n_unlogged;
};

/* One call. It ends when gRPC has closed it and the node has let it go. */
struct generation {
    atomic_int refs;
    shoal_service *service;
    shoal_rpc_call *call;
    shoal_conn *conn; /* poller-only, NULL before Open */
    bool over;        /* poller-only: nothing more is heard */
    char identity[sizeof(((shoal_peer *)NULL)->identity)];
    uint64_t began_ms;
    /* under the service's lock */
    bool listed;
    generation *next;
    generation *prev;
    shoal_admit_ticket ticket;
};

static uint64_t now_ms(const shoal_service *service)
{
    return shoal_clock_now_ms(&service->clock);
}

static void lock(shoal_service *service)
{
    (void)pthread_mutex_lock(&service->lock);
}

static void unlock(shoal_service *service)
{
    (void)pthread_mutex_unlock(&service->lock);
}

/* Under the lock. False when somebody else took it out. */
static bool unlist(generation *g)
{
    if (!g->listed) {
        return false;
    }
    g->listed = false;
    if (g->prev != NULL) {
        g->prev->next = g->next;
    } else {
        g->service->unopened = g->next;
    }
    if (g->next != NULL) {
        g->next->prev = g->prev;
    }
    return true;
}

static void unref(generation *g)
{
    if (atomic_fetch_sub(&g->refs, 1) > 1) {
        return;
    }
    shoal_service *service = g->service;
    shoal_rpc_call_unref(g->call);
    lock(service);
    shoal_admit_close(service->admit, &g->ticket, now_ms(service));
    if (--service->n_generations == 0) {
        (void)pthread_cond_broadcast(&service->none_left);
    }
    unlock(service); /* the service may be gone from here on */
    shoal_free(g);
}

/* --- answers ---------------------------------------------------------------------------------- */

static shoal_status send_message(shoal_rpc_call *call, const shoal_cloud_msg *msg)
{
    shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    shoal_status status = shoal_cloud_msg_encode(msg, &buf);
    if (status == SHOAL_OK) {
        status = shoal_rpc_call_send(call, buf.data, buf.length);
    }
    shoal_buf_fini(&buf);
    return status;
}

static void charge(generation *g, size_t n_tokens)
{
    shoal_service *service = g->service;
    if (n_tokens > 0) {
        lock(service);
        shoal_admit_charge(service->admit, &g->ticket, n_tokens, now_ms(service));
        unlock(service);
    }
}

/* Gives the admitted place back, before the peer hears of the end: then it may open the next
 * session at once. Again is nothing. */
static void close_ticket(generation *g)
{
    shoal_service *service = g->service;
    lock(service);
    shoal_admit_close(service->admit, &g->ticket, now_ms(service));
    unlock(service);
}

static shoal_status peer_send(void *ctx, const shoal_cloud_msg *msg)
{
    generation *g = ctx;
    if (msg->kind == SHOAL_CLOUD_VERDICT) {
        charge(g, msg->body.verdict.n_ids);
    } else if (msg->kind == SHOAL_CLOUD_TOKENS) {
        charge(g, msg->body.tokens.n_ids);
    } else if (msg->kind == SHOAL_CLOUD_FINISHED || msg->kind == SHOAL_CLOUD_ERROR) {
        close_ticket(g);
    }
    return send_message(g->call, msg);
}

static void peer_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    generation *g = ctx;
    close_ticket(g);
    shoal_rpc_call_finish(g->call, status, text);
}

static void peer_cancel(void *ctx)
{
    shoal_rpc_call_cancel(((generation *)ctx)->call);
}

static void peer_pause(void *ctx)
{
    shoal_rpc_call_pause(((generation *)ctx)->call);
}

static void peer_resume(void *ctx)
{
    shoal_rpc_call_resume(((generation *)ctx)->call);
}

static void peer_release(void *ctx)
{
    unref(ctx);
}

/* Ends a call that the node does not know: the Error message, then the status. */
static void end_call(shoal_rpc_call *call, shoal_rpc_status code, const char *text)
{
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_ERROR, .body.error.code = (int32_t)code};
    snprintf(msg.body.error.text, sizeof(msg.body.error.text), "%s", text);
    shoal_status status = send_message(call, &msg);
    (void)status; /* the status below says the same */
    shoal_rpc_call_finish(call, code, msg.body.error.text);
}

/* --- opening ---------------------------------------------------------------------------------- */

static void log_refusal(const generation *g, const shoal_msg_open *open,
                        const shoal_admit_answer *answer, uint64_t n)
{
    char id[4 * sizeof(open->request_id)];
    char tenant[4 * sizeof(g->identity)];
    shoal_log(SHOAL_LOG_INFO,
              "session refused id=%s tenant=%s mode=%s reason=%s retry_after_ms=%llu wait_ms=%llu "
              "since_last_line=%llu",
              shoal_log_escape(open->request_id, id, sizeof(id)),
              shoal_log_escape(g->identity, tenant, sizeof(tenant)), shoal_mode_name(open->mode),
              shoal_admit_reason_name(answer->reason), (unsigned long long)answer->retry_after_ms,
              (unsigned long long)answer->wait_ms, (unsigned long long)n);
}

static void refuse(generation *g, const shoal_msg_open *open, const shoal_admit_answer *answer,
                   uint64_t n_log)
{
    const shoal_cloud_metrics *metrics = shoal_node_metrics(g->service->node);
    shoal_metric_add(metrics->refused[answer->reason], 1);
    shoal_metric_add(metrics->requests_exhausted, 1);
    g->over = true;
    if (answer->retry_after_ms > 0) {
        shoal_cloud_msg busy = {.kind = SHOAL_CLOUD_BUSY,
                                .body.busy_retry_after_ms = (uint32_t)answer->retry_after_ms};
        shoal_status status = send_message(g->call, &busy);
        (void)status;
        /* No Error message besides: both leave in one write, which is what refusals cost. */
        shoal_rpc_call_finish(g->call, SHOAL_RPC_RESOURCE_EXHAUSTED, answer->text);
    } else {
        end_call(g->call, SHOAL_RPC_RESOURCE_EXHAUSTED, answer->text);
    }
    if (n_log > 0) {
        log_refusal(g, open, answer, n_log);
    }
}

/* False: refused, and the peer told. */
static bool admit(generation *g, const shoal_msg_open *open)
{
    shoal_service *service = g->service;
    if (!atomic_load(&service->serving)) {
        g->over = true;
        end_call(g->call, SHOAL_RPC_UNAVAILABLE, "this node is not serving; open on another");
        return false;
    }
    shoal_admit_request request = {.tenant = g->identity,
                                   .n_tokens_max = open->n_tokens_max,
                                   .n_prompt = (uint32_t)open->n_prompt,
                                   .deadline_ms = open->deadline_ms,
                                   .n_pages =
                                       shoal_node_pages_for(service->node, open->n_tokens_max)};
    shoal_admit_load load = shoal_node_load(service->node);
    uint64_t now = now_ms(service);
    uint64_t n_log = 0;
    lock(service);
    shoal_admit_answer answer = shoal_admit_open(service->admit, &request, &load, now, &g->ticket);
    if (answer.reason != SHOAL_ADMIT_OK) {
        service->n_unlogged++;
        if (service->logged_ms == 0 || now - service->logged_ms >= LOG_EVERY_MS) {
            service->logged_ms = now;
            n_log = service->n_unlogged;
            service->n_unlogged = 0;
        }
    }
    unlock(service);
    if (answer.reason != SHOAL_ADMIT_OK) {
        refuse(g, open, &answer, n_log);
    }
    return answer.reason == SHOAL_ADMIT_OK;
}

/* Hands the call to the node. False: it has no place, and the peer is told. */
static bool accept(generation *g)
{
    shoal_peer peer = {.send = peer_send,
                       .finish = peer_finish,
                       .cancel = peer_cancel,
                       .pause = peer_pause,
                       .resume = peer_resume,
                       .release = peer_release,
                       .ctx = g};
    memcpy(peer.identity, g->identity, sizeof(peer.identity));
    atomic_fetch_add(&g->refs, 1);
    shoal_status status = shoal_node_accept(g->service->node, &peer, &g->conn);
    if (status != SHOAL_OK) {
        unref(g);
        g->over = true;
        shoal_rpc_call_finish(g->call, SHOAL_RPC_RESOURCE_EXHAUSTED,
                              status == SHOAL_BUSY
                                  ? "all sessions of this node are taken (sessions.max)"
                                  : "this node is out of memory");
        return false;
    }
    return true;
}

/* The first thing a call says. True when the node has it now. */
static bool begin(generation *g, const shoal_edge_msg *msg)
{
    lock(g->service);
    bool ours = unlist(g);
    unlock(g->service);
    if (!ours) {
        g->over = true; /* it took too long, and was told so */
        return false;
    }
    if (msg != NULL && msg->kind == SHOAL_EDGE_OPEN && !admit(g, &msg->body.open)) {
        return false;
    }
    return accept(g); /* a session says itself what is wrong with any other beginning */
}

/* --- Generate --------------------------------------------------------------------------------- */

static void generate_open(shoal_rpc_call *call, void *ctx)
{
    shoal_service *service = ctx;
    shoal_rpc_call_set_user(call, NULL);
    generation *g = shoal_calloc(1, sizeof(*g));
    if (g == NULL) {
        shoal_rpc_call_finish(call, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    atomic_init(&g->refs, 1);
    g->service = service;
    g->call = call;
    g->began_ms = now_ms(service);
    shoal_rpc_call_ref(call);
    if (!shoal_rpc_call_peer(call, g->identity, sizeof(g->identity))) {
        g->identity[0] = '\0';
    }
    lock(service);
    g->listed = true;
    g->next = service->unopened;
    if (g->next != NULL) {
        g->next->prev = g;
    }
    service->unopened = g;
    service->n_generations++;
    unlock(service);
    shoal_rpc_call_set_user(call, g);
}

static void generate_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    generation *g = user;
    if (g == NULL || g->over) {
        return;
    }
    size_t n_vocab = shoal_node_describe(g->service->node)->n_vocab;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_edge_msg *msg = NULL;
    shoal_status status = shoal_edge_msg_decode(data, n, n_vocab, &msg, &err);
    if (g->conn == NULL && !begin(g, msg)) {
        shoal_edge_msg_free(msg);
        return;
    }
    if (status == SHOAL_E_NOMEM) {
        shoal_conn_fail(g->conn, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    if (status != SHOAL_OK) {
        shoal_conn_fail(g->conn, SHOAL_RPC_INVALID_ARGUMENT, err.text);
        return;
    }
    charge(g, shoal_edge_msg_n_ids(msg));
    status = shoal_conn_push(g->conn, msg, n);
    if (status != SHOAL_OK) {
        shoal_conn_fail(g->conn, SHOAL_RPC_RESOURCE_EXHAUSTED,
                        status == SHOAL_E_NOMEM ? "this node is out of memory"
                                                : "more messages than this node queues for a call");
    }
}

static void generate_half_close(shoal_rpc_call *call, void *user)
{
    (void)call;
    generation *g = user;
    if (g != NULL && !g->over && (g->conn != NULL || begin(g, NULL))) {
        shoal_conn_half_close(g->conn);
    }
}

static void generate_drain(shoal_rpc_call *call, void *user)
{
    (void)call;
    generation *g = user;
    if (g != NULL && g->conn != NULL) {
        shoal_conn_drained(g->conn);
    }
}

static void generate_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                           const char *details)
{
    (void)call;
    (void)details;
    generation *g = user;
    if (g == NULL) {
        return;
    }
    lock(g->service);
    (void)unlist(g);
    unlock(g->service);
    if (g->conn != NULL) {
        shoal_conn_gone(g->conn, status == SHOAL_RPC_OK);
    }
    unref(g);
}

static const shoal_rpc_handlers generate_handlers = {.on_open = generate_open,
                                                     .on_message = generate_message,
                                                     .on_half_close = generate_half_close,
                                                     .on_drain = generate_drain,
                                                     .on_close = generate_close};

void shoal_service_sweep(shoal_service *service)
{
    generation *late[SWEEP_AT_ONCE];
    size_t n_late = 0;
    uint64_t now = now_ms(service);
    lock(service);
    generation *next = NULL;
    for (generation *g = service->unopened; g != NULL && n_late < SWEEP_AT_ONCE; g = next) {
        next = g->next;
        if (now - SHOAL_MIN(g->began_ms, now) >= OPEN_MS && unlist(g)) {
            atomic_fetch_add(&g->refs, 1);
            late[n_late++] = g;
        }
    }
    shoal_admit_load load = shoal_node_load(service->node);
    uint64_t wait_ms = shoal_admit_wait_all_ms(service->admit, &load, SIZE_MAX, now);
    unlock(service);
    if (service->fetch != NULL) {
        shoal_fetch_sweep(service->fetch);
    }
    shoal_metric_set(shoal_node_metrics(service->node)->wait_seconds, (double)wait_ms / 1e3);
    for (size_t i = 0; i < n_late; i++) {
        end_call(late[i]->call, SHOAL_RPC_DEADLINE_EXCEEDED,
                 "the call has not sent its first message within 10 s");
        unref(late[i]);
    }
}

/* --- Describe --------------------------------------------------------------------------------- */

/* The call's user is the service until the reply, NULL after it. */
static void describe_open(shoal_rpc_call *call, void *ctx)
{
    shoal_rpc_call_set_user(call, ctx);
}

static void describe_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)user;
    (void)data; /* DescribeRequest has no field, unknown ones are ignored */
    (void)n;
    shoal_service *service = shoal_rpc_call_user(call);
    if (service == NULL) {
        return;
    }
    shoal_rpc_call_set_user(call, NULL);
    shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    shoal_describe describe = *shoal_node_describe(service->node);
    if (service->ship != NULL) {
        describe.edge_kv = shoal_ship_describe(service->ship);
    }
    shoal_status status = shoal_describe_encode(&describe, &buf);
    if (status == SHOAL_OK) {
        status = shoal_rpc_call_send(call, buf.data, buf.length);
    }
    shoal_buf_fini(&buf);
    bool sent = status == SHOAL_OK || status == SHOAL_BUSY;
    shoal_rpc_call_finish(call, sent ? SHOAL_RPC_OK : SHOAL_RPC_INTERNAL,
                          sent ? "" : "the reply could not be sent");
}

static void describe_half_close(shoal_rpc_call *call, void *user)
{
    (void)user;
    if (shoal_rpc_call_user(call) != NULL) {
        shoal_rpc_call_set_user(call, NULL);
        shoal_rpc_call_finish(call, SHOAL_RPC_INVALID_ARGUMENT,
                              "Describe takes one message, this call sent none");
    }
}

static void describe_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                           const char *details)
{
    (void)call;
    (void)user;
    (void)status;
    (void)details;
}

static const shoal_rpc_handlers describe_handlers = {.on_open = describe_open,
                                                     .on_message = describe_message,
                                                     .on_half_close = describe_half_close,
                                                     .on_close = describe_close};

/* --- life ------------------------------------------------------------------------------------- */

/* Takes *quotas on success. */
static shoal_status make_admission(shoal_service *service, uint64_t wait_max_ms,
                                   shoal_admit_quotas **quotas, shoal_err *err)
{
    shoal_node_limits limits = shoal_node_limits_get(service->node);
    shoal_admit_settings admission = {.n_sessions_max = limits.n_sessions_max,
                                      .n_tokens_max = limits.n_tokens_max,
                                      .kv_bytes_token = limits.kv_bytes_token,
                                      .n_pages = limits.n_pages,
                                      .wait_max_ms = wait_max_ms};
    if (*quotas == NULL) {
        SHOAL_TRY(shoal_admit_quotas_new(&(shoal_admit_quota){0}, "", quotas, err));
    }
    if (shoal_admit_new(&admission, *quotas, &service->admit) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the admission of %zu sessions",
                             limits.n_sessions_max);
    }
    *quotas = NULL;
    return SHOAL_OK;
}

shoal_status shoal_service_new(shoal_rpc *rpc, shoal_node *node,
                               const shoal_service_settings *settings, shoal_service **ret_service,
                               int *ret_port, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *quotas = settings->take_quotas;
    SHOAL_CLEANUP(shoal_service_freep) shoal_service *service = shoal_calloc(1, sizeof(*service));
    if (service == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the service");
    }
    int rc = pthread_mutex_init(&service->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    rc = pthread_cond_init(&service->none_left, NULL);
    SHOAL_ASSERT(rc == 0);
    service->node = node;
    service->clock = settings->clock.now_ns == NULL ? shoal_clock_real() : settings->clock;
    service->methods[0] = (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/Generate", .handlers = &generate_handlers, .ctx = service};
    service->methods[1] = (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/Describe", .handlers = &describe_handlers, .ctx = service};
    size_t n_methods = 2;
    service->ship = settings->ship;
    if (service->ship != NULL) {
        if (shoal_fetch_new(service->ship, &service->clock, &service->fetch) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the service");
        }
        service->methods[n_methods++] = shoal_fetch_method(service->fetch);
    }
    service->fleet = settings->fleet;
    if (service->fleet != NULL) {
        service->methods[n_methods++] = shoal_fleet_method(service->fleet);
    }
    const shoal_rpc_tls *tls = &settings->tls;
    service->secured = tls->ca != NULL || tls->cert != NULL || tls->key != NULL;
    SHOAL_TRY(make_admission(service, settings->wait_max_ms, &quotas, err));
    SHOAL_TRY(shoal_rpc_server_new(rpc, settings->address, service->secured ? tls : NULL,
                                   service->methods, n_methods, &service->server, ret_port, err));
    *ret_service = SHOAL_STEAL(service);
    return SHOAL_OK;
}

shoal_status shoal_service_configure(shoal_service *service, const shoal_rpc_tls *tls,
                                     uint64_t wait_max_ms, shoal_admit_quotas *take_quotas,
                                     shoal_err *err)
{
    if (service->secured || tls->ca != NULL) {
        SHOAL_TRY(shoal_rpc_server_set_tls(service->server, tls, err));
    }
    lock(service);
    shoal_admit_configure(service->admit, wait_max_ms, take_quotas);
    unlock(service);
    return SHOAL_OK;
}

void shoal_service_set_serving(shoal_service *service, bool serving)
{
    atomic_store(&service->serving, serving);
    if (service->fetch != NULL) {
        shoal_fetch_set_serving(service->fetch, serving);
    }
    if (service->fleet != NULL) {
        shoal_fleet_set_serving(service->fleet, serving);
    }
    shoal_rpc_server_set_serving(service->server, serving);
}

void shoal_service_drain(shoal_service *service, uint64_t grace_ms)
{
    shoal_service_set_serving(service, false);
    shoal_rpc_server_drain(service->server, grace_ms);
}

void shoal_service_free(shoal_service *service)
{
    if (service == NULL) {
        return;
    }
    if (service->server != NULL) {
        shoal_rpc_server_free(service->server);
    }
    /* The calls are closed; the node lets them go when its step is over. */
    lock(service);
    while (service->n_generations > 0) {
        (void)pthread_cond_wait(&service->none_left, &service->lock);
    }
    unlock(service);
    shoal_fetch_free(service->fetch);
    shoal_admit_free(service->admit);
    (void)pthread_cond_destroy(&service->none_left);
    (void)pthread_mutex_destroy(&service->lock);
    shoal_free(service);
}
