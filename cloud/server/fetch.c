/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/fetch.h"

#include "common/base/buf.h"
#include "common/base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    ASK_MS = 10000, /* for the first message of a call */
    SWEEP_AT_ONCE = 64
};

typedef struct call call;

struct shoal_fetch {
    shoal_ship *ship;
    shoal_clock clock;
    atomic_bool serving;
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t none_left;
    call *silent; /* calls that have sent nothing, newest first */
    size_t n_calls;
};

/* It ends when gRPC has closed it and the ship has let it go. */
struct call {
    atomic_int refs;
    shoal_fetch *fetch;
    shoal_rpc_call *rpc;
    shoal_shipment *shipment; /* poller-only, NULL before it asked */
    char identity[sizeof(((shoal_ship_peer *)NULL)->tenant)];
    uint64_t began_ms;
    /* under the fetch's lock */
    bool listed;
    call *next;
    call *prev;
};

static void lock(shoal_fetch *fetch)
{
    (void)pthread_mutex_lock(&fetch->lock);
}

static void unlock(shoal_fetch *fetch)
{
    (void)pthread_mutex_unlock(&fetch->lock);
}

/* Under the lock. False when somebody else took it out. */
static bool unlist(call *c)
{
    if (!c->listed) {
        return false;
    }
    c->listed = false;
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        c->fetch->silent = c->next;
    }
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    return true;
}

static void unref(call *c)
{
    if (atomic_fetch_sub(&c->refs, 1) > 1) {
        return;
    }
    shoal_fetch *fetch = c->fetch;
    shoal_rpc_call_unref(c->rpc);
    lock(fetch);
    if (--fetch->n_calls == 0) {
        (void)pthread_cond_broadcast(&fetch->none_left);
    }
    unlock(fetch); /* it may be gone from here on */
    shoal_free(c);
}

/* --- the ship's side -------------------------------------------------------------------------- */

static shoal_status peer_send(void *ctx, const shoal_msg_kv_part *part)
{
    const call *c = ctx;
    shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    shoal_status status = shoal_msg_kv_part_encode(part, &buf);
    if (status == SHOAL_OK) {
        status = shoal_rpc_call_send(c->rpc, buf.data, buf.length);
    }
    shoal_buf_fini(&buf);
    return status;
}

static void peer_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    shoal_rpc_call_finish(((call *)ctx)->rpc, status, text);
}

static void peer_release(void *ctx)
{
    unref(ctx);
}

/* --- the poller's side ------------------------------------------------------------------------ */

static void on_open(shoal_rpc_call *rpc, void *ctx)
{
    shoal_fetch *fetch = ctx;
    shoal_rpc_call_set_user(rpc, NULL);
    call *c = shoal_calloc(1, sizeof(*c));
    if (c == NULL) {
        shoal_rpc_call_finish(rpc, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    atomic_init(&c->refs, 1);
    c->fetch = fetch;
    c->rpc = rpc;
    c->began_ms = shoal_clock_now_ms(&fetch->clock);
    shoal_rpc_call_ref(rpc);
    if (!shoal_rpc_call_peer(rpc, c->identity, sizeof(c->identity))) {
        c->identity[0] = '\0';
    }
    lock(fetch);
    c->listed = true;
    c->next = fetch->silent;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    fetch->silent = c;
    fetch->n_calls++;
    unlock(fetch);
    shoal_rpc_call_set_user(rpc, c);
}

/* Hands it to the ship, or says why not. */
static void ask(call *c, shoal_msg_kv_request *take_request)
{
    shoal_ship_peer peer = {
        .send = peer_send, .finish = peer_finish, .release = peer_release, .ctx = c};
    memcpy(peer.tenant, c->identity, sizeof(peer.tenant));
    atomic_fetch_add(&c->refs, 1);
    shoal_status status = shoal_ship_accept(c->fetch->ship, &peer, take_request, &c->shipment);
    if (status != SHOAL_OK) {
        unref(c);
        shoal_msg_kv_request_free(take_request);
        shoal_rpc_call_finish(c->rpc, SHOAL_RPC_RESOURCE_EXHAUSTED,
                              status == SHOAL_BUSY
                                  ? "as many prompts are computed for edges as may be "
                                    "(edge_model.shipments_max); compute it yourself"
                                  : "this node is out of memory");
    }
}

static void on_message(shoal_rpc_call *rpc, void *user, const uint8_t *data, size_t n)
{
    call *c = user;
    if (c == NULL) {
        return;
    }
    lock(c->fetch);
    bool first = unlist(c);
    unlock(c->fetch);
    if (!first) {
        return; /* a second message, or one after the end: what was asked first is answered */
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_msg_kv_request *request = NULL;
    shoal_status status =
        shoal_msg_kv_request_decode(data, n, shoal_ship_n_vocab(c->fetch->ship), &request, &err);
    if (status != SHOAL_OK) {
        shoal_rpc_call_finish(rpc,
                              status == SHOAL_E_NOMEM ? SHOAL_RPC_RESOURCE_EXHAUSTED
                                                      : SHOAL_RPC_INVALID_ARGUMENT,
                              err.text);
        return;
    }
    if (!atomic_load(&c->fetch->serving)) {
        shoal_msg_kv_request_free(request);
        shoal_rpc_call_finish(rpc, SHOAL_RPC_UNAVAILABLE, "this node is not serving; ask another");
        return;
    }
    ask(c, request);
}

static void on_half_close(shoal_rpc_call *rpc, void *user)
{
    call *c = user;
    if (c == NULL) {
        return;
    }
    lock(c->fetch);
    bool silent = unlist(c);
    unlock(c->fetch);
    if (silent) {
        shoal_rpc_call_finish(rpc, SHOAL_RPC_INVALID_ARGUMENT,
                              "FetchKv takes one message, this call sent none");
    }
}

static void on_drain(shoal_rpc_call *rpc, void *user)
{
    (void)rpc;
    call *c = user;
    if (c != NULL && c->shipment != NULL) {
        shoal_shipment_drained(c->shipment);
    }
}

static void on_close(shoal_rpc_call *rpc, void *user, shoal_rpc_status status, const char *details)
{
    (void)rpc;
    (void)status;
    (void)details;
    call *c = user;
    if (c == NULL) {
        return;
    }
    lock(c->fetch);
    (void)unlist(c);
    unlock(c->fetch);
    if (c->shipment != NULL) {
        shoal_shipment_gone(c->shipment);
    }
    unref(c);
}

static const shoal_rpc_handlers fetch_handlers = {.on_open = on_open,
                                                  .on_message = on_message,
                                                  .on_half_close = on_half_close,
                                                  .on_drain = on_drain,
                                                  .on_close = on_close};

shoal_rpc_method shoal_fetch_method(shoal_fetch *fetch)
{
    return (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/FetchKv", .handlers = &fetch_handlers, .ctx = fetch};
}

void shoal_fetch_set_serving(shoal_fetch *fetch, bool serving)
{
    atomic_store(&fetch->serving, serving);
}

void shoal_fetch_sweep(shoal_fetch *fetch)
{
    call *late[SWEEP_AT_ONCE];
    size_t n_late = 0;
    uint64_t now = shoal_clock_now_ms(&fetch->clock);
    lock(fetch);
    call *next = NULL;
    for (call *c = fetch->silent; c != NULL && n_late < SWEEP_AT_ONCE; c = next) {
        next = c->next;
        if (now - SHOAL_MIN(c->began_ms, now) >= ASK_MS && unlist(c)) {
            atomic_fetch_add(&c->refs, 1);
            late[n_late++] = c;
        }
    }
    unlock(fetch);
    for (size_t i = 0; i < n_late; i++) {
        shoal_rpc_call_finish(late[i]->rpc, SHOAL_RPC_DEADLINE_EXCEEDED,
                              "the call has not said what it wants within 10 s");
        unref(late[i]);
    }
}

shoal_status shoal_fetch_new(shoal_ship *ship, const shoal_clock *clock, shoal_fetch **ret_fetch)
{
    shoal_fetch *fetch = shoal_calloc(1, sizeof(*fetch));
    if (fetch == NULL) {
        return SHOAL_E_NOMEM;
    }
    int rc = pthread_mutex_init(&fetch->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    rc = pthread_cond_init(&fetch->none_left, NULL);
    SHOAL_ASSERT(rc == 0);
    fetch->ship = ship;
    fetch->clock = *clock;
    *ret_fetch = fetch;
    return SHOAL_OK;
}

void shoal_fetch_free(shoal_fetch *fetch)
{
    if (fetch == NULL) {
        return;
    }
    lock(fetch);
    while (fetch->n_calls > 0) {
        (void)pthread_cond_wait(&fetch->none_left, &fetch->lock);
    }
    unlock(fetch);
    (void)pthread_cond_destroy(&fetch->none_left);
    (void)pthread_mutex_destroy(&fetch->lock);
    shoal_free(fetch);
}
