/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain GETs: health, readiness, models, anything else the edge serves.
 */
#include "edge/client/client_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct page {
    shoal_client_http http;
    shoal_client_buf body;
} page;

static int take_body(void *ctx, const char *data, size_t n)
{
    page *p = ctx;
    int code = shoal_client_buf_append(&p->body, data, n);
    if (code == SHOAL_CLIENT_E_LIMIT) {
        return shoal_client_fail(p->http.error, code, "the answer is longer than %u bytes",
                                 SHOAL_CLIENT_BODY_MAX);
    }
    return code == SHOAL_CLIENT_OK ? code : shoal_client_fail(p->http.error, code, "out of memory");
}

/* On success p->body.data is set, even when empty. */
static int fetch(const shoal_client_call *call, const char *path, page *p)
{
    const shoal_client_exchange exchange = {.method = "GET", .path = path, .accept = "*/*"};
    shoal_client_http_init(&p->http, call->error);
    p->http.on_body = take_body;
    p->http.ctx = p;
    p->body.length = 0;
    SHOAL_CLIENT_TRY(shoal_client_run(call, &exchange, &p->http));
    int code = shoal_client_buf_append(&p->body, "", 0);
    return code == SHOAL_CLIENT_OK ? code : shoal_client_fail(call->error, code, "out of memory");
}

static page *page_new(shoal_client_error *error)
{
    page *p = calloc(1, sizeof *p);
    if (!p) {
        (void)shoal_client_fail(error, SHOAL_CLIENT_E_NOMEM, "out of memory");
        return NULL;
    }
    p->body.limit = SHOAL_CLIENT_BODY_MAX;
    return p;
}

static void page_free(page *p)
{
    if (p) {
        shoal_client_buf_fini(&p->body);
        free(p);
    }
}

/* --- GET ------------------------------------------------------------------------------------- */

static int check_path(const char *path, shoal_client_error *error)
{
    size_t n = path ? strnlen(path, SHOAL_CLIENT_URL_MAX) : 0;
    bool ok = n > 0 && n < SHOAL_CLIENT_URL_MAX && path[0] == '/';
    for (size_t i = 0; ok && i < n; i++) {
        ok = path[i] > 0x20 && path[i] < 0x7F;
    }
    return ok ? SHOAL_CLIENT_OK
              : shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                  "a path starts with / and has at most %d printable characters",
                                  SHOAL_CLIENT_URL_MAX - 1);
}

int shoal_client_get(shoal_client *client, const char *path, char **ret_body, size_t *ret_length,
                     int *ret_http_status, shoal_client_error *ret_error)
{
    shoal_client_error error;
    shoal_client_call call;
    int code = shoal_client_call_begin(client, 0, &error, &call);
    if (code != SHOAL_CLIENT_OK) {
        return shoal_client_report(&error, code, ret_error);
    }
    page *p = NULL;
    code = check_path(path, &error);
    if (code == SHOAL_CLIENT_OK) {
        p = page_new(&error);
        code = p ? fetch(&call, path, p) : SHOAL_CLIENT_E_NOMEM;
    }
    if (p) {
        error.http_status = p->http.status;
        error.retry_after_s = p->http.retry_after_s;
    }
    if (code == SHOAL_CLIENT_OK) {
        *ret_http_status = p->http.status;
        *ret_body = p->body.data;
        if (ret_length) {
            *ret_length = p->body.length;
        }
        p->body.data = NULL;
    }
    page_free(p);
    shoal_client_call_end(client);
    return shoal_client_report(&error, code, ret_error);
}

/* --- probe ----------------------------------------------------------------------------------- */

void shoal_client_info_init(shoal_client_info *info, size_t size)
{
    memset(info, 0, size);
    memcpy(info, &size, sizeof size);
}

int shoal_client_models_read(char *text, size_t n, shoal_client_info *info,
                             shoal_client_error *error)
{
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, n);
    if (code == SHOAL_CLIENT_OK) {
        const shoal_client_json_node *list = shoal_client_json_get(&json, json.nodes, "data");
        for (size_t i = 0; i < SHOAL_CLIENT_MODELS_MAX; i++) {
            const shoal_client_json_node *model = shoal_client_json_at(&json, list, i);
            if (!model) {
                break;
            }
            shoal_client_copy_name(
                info->models[info->n_models++],
                shoal_client_json_text(shoal_client_json_get(&json, model, "id")));
        }
    }
    shoal_client_json_fini(&json);
    if (code == SHOAL_CLIENT_E_NOMEM) {
        return shoal_client_fail(error, code, "out of memory");
    }
    return SHOAL_CLIENT_OK;
}

int shoal_client_why_read(char *text, size_t n, shoal_client_info *info, shoal_client_error *error)
{
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, n);
    if (code == SHOAL_CLIENT_OK) {
        const shoal_client_json_node *e = shoal_client_json_get(&json, json.nodes, "error");
        const shoal_client_json_node *m = shoal_client_json_get(&json, e, "message");
        const shoal_client_json_node *status = shoal_client_json_get(&json, json.nodes, "status");
        const char *why = shoal_client_json_text(m ? m : e);
        shoal_client_copy_name(info->why, why[0] ? why : shoal_client_json_text(status));
    } else if (code == SHOAL_CLIENT_E_PROTOCOL && shoal_client_utf8_ok(text, n)) {
        text[strcspn(text, "\r\n")] = '\0';
        shoal_client_copy_name(info->why, text);
    }
    shoal_client_json_fini(&json);
    return code == SHOAL_CLIENT_E_NOMEM ? shoal_client_fail(error, code, "out of memory")
                                        : SHOAL_CLIENT_OK;
}

static int probe(const shoal_client_call *call, page *p, shoal_client_info *info)
{
    SHOAL_CLIENT_TRY(fetch(call, "/health", p));
    info->healthy = p->http.status == 200;
    SHOAL_CLIENT_TRY(fetch(call, "/ready", p));
    info->ready = p->http.status == 200;
    if (!info->ready) {
        SHOAL_CLIENT_TRY(shoal_client_why_read(p->body.data, p->body.length, info, call->error));
    }
    SHOAL_CLIENT_TRY(fetch(call, "/v1/models", p));
    return p->http.status == 200
               ? shoal_client_models_read(p->body.data, p->body.length, info, call->error)
               : SHOAL_CLIENT_OK;
}

int shoal_client_probe(shoal_client *client, shoal_client_info *ret_info,
                       shoal_client_error *ret_error)
{
    shoal_client_error error;
    shoal_client_call call;
    int code = shoal_client_call_begin(client, 0, &error, &call);
    if (code != SHOAL_CLIENT_OK) {
        return shoal_client_report(&error, code, ret_error);
    }
    if (!ret_info || ret_info->size < sizeof ret_info->size) {
        code = shoal_client_fail(&error, SHOAL_CLIENT_E_INVALID,
                                 "info has no size; call shoal_client_info_init first");
    }
    page *p = code == SHOAL_CLIENT_OK ? page_new(&error) : NULL;
    if (p) {
        shoal_client_info info;
        shoal_client_info_init(&info, sizeof info);
        code = probe(&call, p, &info);
        error.http_status = p->http.status;
        size_t size = ret_info->size;
        memcpy(ret_info, &info, size < sizeof info ? size : sizeof info);
        ret_info->size = size;
    } else if (code == SHOAL_CLIENT_OK) {
        code = SHOAL_CLIENT_E_NOMEM;
    }
    page_free(p);
    shoal_client_call_end(client);
    return shoal_client_report(&error, code, ret_error);
}
