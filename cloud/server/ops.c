/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/ops.h"

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "protocol/http/server.h"

#include <string.h>

enum {
    HEADER_BYTES = 8 << 10,
    URL_BYTES = 1 << 10,
    N_HEADERS = 64,
    BODY_BYTES = 1 << 10, /* of a request: there is no use for one */
    HEADER_MS = 5000,
    STALL_MS = 10000,
    METRICS_BYTES = 4 << 20
};

struct shoal_ops {
    shoal_ops_view view;
    const shoal_metrics *registry;
    shoal_http_handler handler;
    shoal_http_server *server;
};

static void answer_text(shoal_http_exchange *exchange, int status, const char *text)
{
    shoal_http_respond(exchange, status, "text/plain; charset=utf-8", "Cache-Control: no-store\r\n",
                       text, strlen(text));
}

static void answer_state(shoal_http_exchange *exchange, const char *why_not)
{
    answer_text(exchange, why_not == NULL ? 200 : 503, why_not == NULL ? "ok" : why_not);
}

static void answer_healthz(const shoal_ops *ops, shoal_http_exchange *exchange)
{
    answer_state(exchange, ops->view.unhealthy(ops->view.ctx));
}

static void answer_readyz(const shoal_ops *ops, shoal_http_exchange *exchange)
{
    answer_state(exchange, ops->view.unready(ops->view.ctx));
}

static void answer_metrics(const shoal_ops *ops, shoal_http_exchange *exchange)
{
    ops->view.refresh(ops->view.ctx);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {.limit = METRICS_BYTES};
    if (shoal_metrics_render(ops->registry, &body) != SHOAL_OK) {
        answer_text(exchange, 503, "no memory for the metrics");
        return;
    }
    shoal_http_respond(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", NULL,
                       body.data == NULL ? "" : body.data, body.length);
}

static const struct {
    const char *path;
    void (*answer)(const shoal_ops *ops, shoal_http_exchange *exchange);
} routes[] = {
    {"/healthz", answer_healthz},
    {"/readyz", answer_readyz},
    {"/metrics", answer_metrics},
};

static void on_request(void *ctx, shoal_http_exchange *exchange)
{
    const shoal_ops *ops = ctx;
    const char *method = shoal_http_method(exchange);
    const char *path = shoal_http_path(exchange);
    shoal_http_error error = {0};
    for (size_t i = 0; i < SHOAL_COUNT(routes); i++) {
        if (strcmp(path, routes[i].path) != 0) {
            continue;
        }
        if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) {
            routes[i].answer(ops, exchange);
            return;
        }
        (void)shoal_http_error_set(&error, 405, NULL, "method_not_allowed",
                                   "%s takes GET and HEAD alone", routes[i].path);
        error.allow = "GET, HEAD";
        shoal_http_fail(exchange, &error);
        return;
    }
    (void)shoal_http_error_set(&error, 404, NULL, "not_found",
                               "there are /healthz, /readyz and /metrics here");
    shoal_http_fail(exchange, &error);
}

/* Every request is answered at once: there is nothing to end. */
static void on_gone(void *ctx, shoal_http_exchange *exchange)
{
    (void)ctx;
    (void)exchange;
}

shoal_status shoal_ops_new(shoal_loop *loop, const shoal_ops_settings *settings,
                           const shoal_ops_view *view, shoal_metrics *registry, shoal_ops **ret_ops,
                           shoal_err *err)
{
    shoal_ops *ops = shoal_calloc(1, sizeof(*ops));
    if (ops == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the operations endpoint");
    }
    ops->view = *view;
    ops->registry = registry;
    ops->handler = (shoal_http_handler){.ctx = ops, .on_request = on_request, .on_gone = on_gone};
    shoal_http_settings http = shoal_http_settings_default();
    http.address = settings->address;
    http.address_key = "http.address";
    http.hosts = settings->hosts;
    http.hosts_key = "http.hosts";
    http.n_connections_max = settings->n_connections_max;
    http.header_bytes_max = HEADER_BYTES;
    http.n_headers_max = N_HEADERS;
    http.url_bytes_max = URL_BYTES;
    http.body_bytes_max = BODY_BYTES;
    http.body_bytes_total_max = settings->n_connections_max * BODY_BYTES;
    http.write_bytes_max = METRICS_BYTES;
    http.header_ms = HEADER_MS;
    http.body_ms = HEADER_MS;
    http.stall_ms = STALL_MS;
    /* No registry: its counters are named like those of sessions, and these are probes. */
    shoal_status status =
        shoal_http_server_new(loop, &http, &ops->handler, NULL, &ops->server, err);
    if (status != SHOAL_OK) {
        shoal_free(ops);
        return status;
    }
    *ret_ops = ops;
    return SHOAL_OK;
}

const char *shoal_ops_address(const shoal_ops *ops)
{
    return shoal_http_server_address(ops->server);
}

void shoal_ops_free(shoal_ops *ops)
{
    if (ops != NULL) {
        shoal_http_server_free(ops->server);
        shoal_free(ops);
    }
}
