/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/service.h"

#include "common/base/buf.h"
#include "common/base/mem.h"

/* What a call is told to wait when all places are taken. */
enum {
    RETRY_AFTER_MS = 1000,
    N_METHODS = 2
};

struct shoal_service {
    shoal_node *node;
    shoal_rpc_server *server;
    shoal_rpc_method methods[N_METHODS]; /* borrowed by the server */
};

static shoal_status send_message(void *ctx, const shoal_cloud_msg *msg)
{
    shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    shoal_status status = shoal_cloud_msg_encode(msg, &buf);
    if (status == SHOAL_OK) {
        status = shoal_rpc_call_send(ctx, buf.data, buf.length);
    }
    shoal_buf_fini(&buf);
    return status;
}

static void finish_call(void *ctx, shoal_rpc_status status, const char *text)
{
    shoal_rpc_call_finish(ctx, status, text);
}

static void cancel_call(void *ctx)
{
    shoal_rpc_call_cancel(ctx);
}

static void pause_call(void *ctx)
{
    shoal_rpc_call_pause(ctx);
}

static void resume_call(void *ctx)
{
    shoal_rpc_call_resume(ctx);
}

static void release_call(void *ctx)
{
    shoal_rpc_call_unref(ctx);
}

/* --- Generate --------------------------------------------------------------------------------- */

static void refuse(shoal_rpc_call *call, const char *text)
{
    shoal_cloud_msg busy = {.kind = SHOAL_CLOUD_BUSY, .body.busy_retry_after_ms = RETRY_AFTER_MS};
    shoal_status status = send_message(call, &busy);
    (void)status; /* the status below says the same */
    shoal_rpc_call_finish(call, SHOAL_RPC_RESOURCE_EXHAUSTED, text);
}

static void generate_open(shoal_rpc_call *call, void *ctx)
{
    shoal_service *service = ctx;
    shoal_peer peer = {.send = send_message,
                       .finish = finish_call,
                       .cancel = cancel_call,
                       .pause = pause_call,
                       .resume = resume_call,
                       .release = release_call,
                       .ctx = call};
    if (!shoal_rpc_call_peer(call, peer.identity, sizeof(peer.identity))) {
        peer.identity[0] = '\0';
    }
    shoal_conn *conn = NULL;
    shoal_rpc_call_ref(call);
    shoal_status status = shoal_node_accept(service->node, &peer, &conn);
    if (status != SHOAL_OK) {
        shoal_rpc_call_unref(call);
        refuse(call, status == SHOAL_BUSY ? "all sessions of this node are taken (sessions.max)"
                                          : "this node is out of memory");
    }
    shoal_rpc_call_set_user(call, conn);
}

static void generate_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    shoal_conn *conn = user;
    if (conn == NULL) {
        return; /* refused at open */
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_edge_msg *msg = NULL;
    shoal_status status = shoal_edge_msg_decode(data, n, shoal_conn_n_vocab(conn), &msg, &err);
    if (status == SHOAL_E_NOMEM) {
        shoal_conn_fail(conn, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    if (status != SHOAL_OK) {
        shoal_conn_fail(conn, SHOAL_RPC_INVALID_ARGUMENT, err.text);
        return;
    }
    status = shoal_conn_push(conn, msg, n);
    if (status != SHOAL_OK) {
        shoal_conn_fail(conn, SHOAL_RPC_RESOURCE_EXHAUSTED,
                        status == SHOAL_E_NOMEM ? "this node is out of memory"
                                                : "more messages than this node queues for a call");
    }
}

static void generate_half_close(shoal_rpc_call *call, void *user)
{
    (void)call;
    if (user != NULL) {
        shoal_conn_half_close(user);
    }
}

static void generate_drain(shoal_rpc_call *call, void *user)
{
    (void)call;
    if (user != NULL) {
        shoal_conn_drained(user);
    }
}

static void generate_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                           const char *details)
{
    (void)call;
    (void)details;
    if (user != NULL) {
        shoal_conn_gone(user, status == SHOAL_RPC_OK);
    }
}

static const shoal_rpc_handlers generate_handlers = {.on_open = generate_open,
                                                     .on_message = generate_message,
                                                     .on_half_close = generate_half_close,
                                                     .on_drain = generate_drain,
                                                     .on_close = generate_close};

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
    shoal_status status = shoal_describe_encode(shoal_node_describe(service->node), &buf);
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

shoal_status shoal_service_new(shoal_rpc *rpc, shoal_node *node,
                               const shoal_service_settings *settings, shoal_service **ret_service,
                               int *ret_port, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_service_freep) shoal_service *service = shoal_calloc(1, sizeof(*service));
    if (service == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the service");
    }
    service->node = node;
    service->methods[0] = (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/Generate", .handlers = &generate_handlers, .ctx = service};
    service->methods[1] = (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/Describe", .handlers = &describe_handlers, .ctx = service};
    const shoal_rpc_tls *tls = &settings->tls;
    bool secured = tls->ca != NULL || tls->cert != NULL || tls->key != NULL;
    SHOAL_TRY(shoal_rpc_server_new(rpc, settings->address, secured ? tls : NULL, service->methods,
                                   N_METHODS, &service->server, ret_port, err));
    *ret_service = SHOAL_STEAL(service);
    return SHOAL_OK;
}

void shoal_service_set_serving(shoal_service *service, bool serving)
{
    shoal_rpc_server_set_serving(service->server, serving);
}

void shoal_service_drain(shoal_service *service, uint64_t grace_ms)
{
    shoal_rpc_server_set_serving(service->server, false);
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
    shoal_free(service);
}
