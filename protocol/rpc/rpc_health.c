/* SPDX-License-Identifier: Apache-2.0
 *
 * grpc.health.v1 (github.com/grpc/grpc, doc/health-checking.md). Its two messages have one field
 * each, so that they are read and written here by hand: HealthCheckRequest{string service = 1},
 * HealthCheckResponse{ServingStatus status = 1}.
 */
#include "protocol/rpc/rpc_internal.h"

#include <string.h>

enum {
    HEALTH_SERVING = 1,
    HEALTH_NOT_SERVING = 2,
    HEALTH_SERVICE_UNKNOWN = 3,
    HEALTH_REQUEST_MAX = 256,
    HEALTH_SERVICE_FIELD = 1 << 3 | 2, /* key of field 1, length-delimited */
    HEALTH_STATUS_FIELD = 1 << 3       /* key of field 1, varint */
};

/* The service's name within data, or false. An empty message asks for "". */
static bool parse_request(const uint8_t *data, size_t n, const char **ret_service, size_t *ret_n)
{
    *ret_service = "";
    *ret_n = 0;
    if (n == 0) {
        return true;
    }
    /* The length is one byte below 128 and two up to the limit. */
    if (n > HEALTH_REQUEST_MAX || n < 2 || data[0] != HEALTH_SERVICE_FIELD) {
        return false;
    }
    size_t length = data[1] & 0x7fu;
    size_t head = 2;
    if (data[1] & 0x80u) {
        if (n < 3 || data[2] > 1) {
            return false;
        }
        length |= (size_t)data[2] << 7;
        head = 3;
    }
    if (length != n - head) {
        return false;
    }
    *ret_service = (const char *)data + head;
    *ret_n = length;
    return true;
}

/* "" stands for the whole server; a service is known when one of the methods is its. */
static bool knows_service(const shoal_rpc_server *server, const char *service, size_t n)
{
    if (n == 0) {
        return true;
    }
    for (size_t i = 0; i < server->n_methods; i++) {
        const char *path = server->methods[i].path;
        if (strlen(path) > n + 1 && memcmp(path + 1, service, n) == 0 && path[n + 1] == '/') {
            return true;
        }
    }
    return false;
}

static void send_status(shoal_rpc_call *call, uint8_t health)
{
    const uint8_t reply[2] = {HEALTH_STATUS_FIELD, health};
    /* A watcher that does not read is ended rather than queued for. */
    if (shoal_rpc_call_send(call, reply, sizeof reply) != SHOAL_OK) {
        shoal_rpc_call_cancel(call);
    }
}

static uint8_t current(const shoal_rpc_server *server)
{
    return server->serving ? HEALTH_SERVING : HEALTH_NOT_SERVING;
}

static void on_open(shoal_rpc_call *call, void *ctx)
{
    shoal_rpc_call_set_user(call, ctx);
}

static void on_check(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    shoal_rpc_server *server = user;
    const char *service = NULL;
    size_t n_service = 0;
    if (!parse_request(data, n, &service, &n_service)) {
        shoal_rpc_call_finish(call, SHOAL_RPC_INVALID_ARGUMENT,
                              "HealthCheckRequest is not valid or over 256 bytes");
        return;
    }
    if (!knows_service(server, service, n_service)) {
        shoal_rpc_call_finish(call, SHOAL_RPC_NOT_FOUND, "no such service on this server");
        return;
    }
    (void)pthread_mutex_lock(&server->health_lock);
    uint8_t health = current(server);
    (void)pthread_mutex_unlock(&server->health_lock);
    send_status(call, health);
    shoal_rpc_call_finish(call, SHOAL_RPC_OK, "");
}

static void on_check_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                           const char *details)
{
    (void)call;
    (void)user;
    (void)status;
    (void)details;
}

/* Under health_lock. */
static void add_watcher(shoal_rpc_server *server, shoal_rpc_call *call)
{
    for (size_t i = 0; i < server->n_watchers; i++) {
        if (server->watchers[i] == call) {
            return; /* a second request on one watch */
        }
    }
    if (server->watching_over) {
        shoal_rpc_call_finish(call, SHOAL_RPC_UNAVAILABLE, "the server is draining");
        return;
    }
    if (server->n_watchers == SHOAL_RPC_WATCHERS_MAX) {
        /* The one answer by which a client takes the server for healthy: who is not told of a drain
         * is still refused when it comes, and goes elsewhere. */
        shoal_rpc_call_finish(call, SHOAL_RPC_UNIMPLEMENTED,
                              "the server follows as many health watchers as it may");
        return;
    }
    server->watchers[server->n_watchers++] = call;
    send_status(call, current(server));
}

static void on_watch(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    shoal_rpc_server *server = user;
    const char *service = NULL;
    size_t n_service = 0;
    if (!parse_request(data, n, &service, &n_service)) {
        shoal_rpc_call_finish(call, SHOAL_RPC_INVALID_ARGUMENT,
                              "HealthCheckRequest is not valid or over 256 bytes");
        return;
    }
    if (!knows_service(server, service, n_service)) {
        send_status(call, HEALTH_SERVICE_UNKNOWN);
        return;
    }
    (void)pthread_mutex_lock(&server->health_lock);
    add_watcher(server, call);
    (void)pthread_mutex_unlock(&server->health_lock);
}

static void on_watch_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                           const char *details)
{
    (void)status;
    (void)details;
    shoal_rpc_server *server = user;
    (void)pthread_mutex_lock(&server->health_lock);
    for (size_t i = 0; i < server->n_watchers; i++) {
        if (server->watchers[i] == call) {
            server->watchers[i] = server->watchers[--server->n_watchers];
            break;
        }
    }
    (void)pthread_mutex_unlock(&server->health_lock);
}

static const shoal_rpc_handlers check_handlers = {
    .on_open = on_open, .on_message = on_check, .on_close = on_check_close};
static const shoal_rpc_handlers watch_handlers = {
    .on_open = on_open, .on_message = on_watch, .on_close = on_watch_close};

const shoal_rpc_handlers *shoal_rpc_health_find(const grpc_slice *path)
{
    if (grpc_slice_str_cmp(*path, "/grpc.health.v1.Health/Check") == 0) {
        return &check_handlers;
    }
    if (grpc_slice_str_cmp(*path, "/grpc.health.v1.Health/Watch") == 0) {
        return &watch_handlers;
    }
    return NULL;
}

void shoal_rpc_server_set_serving(shoal_rpc_server *server, bool serving)
{
    (void)pthread_mutex_lock(&server->health_lock);
    bool changed = server->serving != serving;
    server->serving = serving;
    for (size_t i = 0; changed && i < server->n_watchers; i++) {
        send_status(server->watchers[i], current(server));
    }
    (void)pthread_mutex_unlock(&server->health_lock);
}

void shoal_rpc_health_shutdown(shoal_rpc_server *server)
{
    shoal_rpc_server_set_serving(server, false);
    (void)pthread_mutex_lock(&server->health_lock);
    server->watching_over = true;
    for (size_t i = 0; i < server->n_watchers; i++) {
        shoal_rpc_call_finish(server->watchers[i], SHOAL_RPC_UNAVAILABLE, "the server is draining");
    }
    (void)pthread_mutex_unlock(&server->health_lock);
}
