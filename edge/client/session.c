/* SPDX-License-Identifier: Apache-2.0
 *
 * Kept sessions of an edge: listed, saved, loaded, dropped. Bytes of a session pass through as they
 * are; the edge judges them.
 */
#include "edge/client/client_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef shoal_client_json_node node;

enum {
    ERROR_BODY_MAX = 65536
};

typedef struct session_answer {
    shoal_client_http http;
    shoal_client_buf body; /* all of it, or that of an error */
    shoal_client_bytes_fn on_bytes;
    void *ctx;
    shoal_client_error *error;
} session_answer;

static int take_body(void *ctx, const char *data, size_t n)
{
    session_answer *a = ctx;
    if (a->http.status == 200 && a->on_bytes) {
        return a->on_bytes(a->ctx, data, n) == 0
                   ? SHOAL_CLIENT_OK
                   : shoal_client_fail(a->error, SHOAL_CLIENT_E_CANCELLED, "cancelled");
    }
    int code = shoal_client_buf_append(&a->body, data, n);
    if (code == SHOAL_CLIENT_E_LIMIT) {
        return a->http.status == 200
                   ? shoal_client_fail(a->error, code, "the answer is longer than %zu bytes",
                                       a->body.limit)
                   : SHOAL_CLIENT_OK; /* an endless error page is still an error */
    }
    return code == SHOAL_CLIENT_OK ? code : shoal_client_fail(a->error, code, "out of memory");
}

/* What an answer other than 200 says. */
static int refusal(session_answer *a)
{
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, a->body.data, a->body.length);
    if (code == SHOAL_CLIENT_E_NOMEM) {
        code = shoal_client_fail(a->error, code, "out of memory");
    } else {
        const node *object = code == SHOAL_CLIENT_OK ? json.nodes : NULL;
        code = shoal_client_refused(&json, object, a->http.status, a->error);
    }
    shoal_client_json_fini(&json);
    return code;
}

static int run(const shoal_client_call *call, const shoal_client_exchange *exchange,
               session_answer *a)
{
    shoal_client_http_init(&a->http, call->error);
    a->http.on_body = take_body;
    a->http.ctx = a;
    a->error = call->error;
    int code = shoal_client_run(call, exchange, &a->http);
    call->error->http_status = a->http.status;
    call->error->retry_after_s = a->http.retry_after_s;
    SHOAL_CLIENT_TRY(code);
    if (shoal_client_buf_append(&a->body, "", 0) != SHOAL_CLIENT_OK) {
        return shoal_client_fail(call->error, SHOAL_CLIENT_E_NOMEM, "out of memory");
    }
    return a->http.status == 200 ? SHOAL_CLIENT_OK : refusal(a);
}

int shoal_client_sessions_read(char *text, size_t n, shoal_client_session_fn on_session, void *ctx,
                               shoal_client_error *error)
{
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, n);
    const node *list =
        code == SHOAL_CLIENT_OK ? shoal_client_json_get(&json, json.nodes, "sessions") : NULL;
    if (code == SHOAL_CLIENT_E_NOMEM) {
        (void)shoal_client_fail(error, code, "out of memory");
    } else if (!list || list->kind != SHOAL_CLIENT_JSON_ARRAY) {
        code = shoal_client_fail(error, SHOAL_CLIENT_E_PROTOCOL,
                                 "the answer is no list of sessions; is this a Shoal edge?");
    }
    for (size_t i = 0; code == SHOAL_CLIENT_OK; i++) {
        const node *one = shoal_client_json_at(&json, list, i);
        shoal_client_session session = {.size = sizeof session};
        if (!one) {
            break;
        }
        shoal_client_copy_name(session.name,
                               shoal_client_json_text(shoal_client_json_get(&json, one, "name")));
        session.n_tokens = shoal_client_json_u64(shoal_client_json_get(&json, one, "tokens"), 0);
        session.kv_bytes = shoal_client_json_u64(shoal_client_json_get(&json, one, "kv_bytes"), 0);
        if (on_session && on_session(ctx, &session) != 0) {
            code = shoal_client_fail(error, SHOAL_CLIENT_E_CANCELLED, "cancelled");
        }
    }
    shoal_client_json_fini(&json);
    return code;
}

int shoal_client_session_list(shoal_client *client, shoal_client_session_fn on_session, void *ctx,
                              shoal_client_error *ret_error)
{
    shoal_client_error error;
    shoal_client_call call;
    int code = shoal_client_call_begin(client, 0, &error, &call);
    if (code != SHOAL_CLIENT_OK) {
        return shoal_client_report(&error, code, ret_error);
    }
    session_answer *a = calloc(1, sizeof *a);
    if (a) {
        const shoal_client_exchange exchange = {
            .method = "GET", .path = "/v1/shoal/sessions", .accept = "application/json"};
        a->body.limit = SHOAL_CLIENT_BODY_MAX;
        code = run(&call, &exchange, a);
        if (code == SHOAL_CLIENT_OK) {
            code =
                shoal_client_sessions_read(a->body.data, a->body.length, on_session, ctx, &error);
        }
        shoal_client_buf_fini(&a->body);
        free(a);
    } else {
        code = shoal_client_fail(&error, SHOAL_CLIENT_E_NOMEM, "out of memory");
    }
    shoal_client_call_end(client);
    return shoal_client_report(&error, code, ret_error);
}

/* --- one session ------------------------------------------------------------------------------ */

static int put_path(const char *name, char path[SHOAL_CLIENT_SESSION_NAME_MAX + 24],
                    shoal_client_error *error)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = name ? strnlen(name, SHOAL_CLIENT_SESSION_NAME_MAX + 1) : 0;
    if (n == 0 || n > SHOAL_CLIENT_SESSION_NAME_MAX || strspn(name, plain) != n) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                 "the name of a session is 1 to %d letters, digits, '.', '_' and "
                                 "'-'",
                                 SHOAL_CLIENT_SESSION_NAME_MAX);
    }
    (void)snprintf(path, SHOAL_CLIENT_SESSION_NAME_MAX + 24, "/v1/shoal/sessions/%s", name);
    return SHOAL_CLIENT_OK;
}

static int ask(shoal_client *client, const char *name, shoal_client_exchange *exchange,
               shoal_client_bytes_fn on_bytes, void *ctx, shoal_client_error *ret_error)
{
    shoal_client_error error;
    shoal_client_call call;
    char path[SHOAL_CLIENT_SESSION_NAME_MAX + 24];
    int code = shoal_client_call_begin(client, 0, &error, &call);
    if (code != SHOAL_CLIENT_OK) {
        return shoal_client_report(&error, code, ret_error);
    }
    code = put_path(name, path, &error);
    session_answer *a = code == SHOAL_CLIENT_OK ? calloc(1, sizeof *a) : NULL;
    if (a) {
        exchange->path = path;
        a->body.limit = ERROR_BODY_MAX;
        a->on_bytes = on_bytes;
        a->ctx = ctx;
        code = run(&call, exchange, a);
        shoal_client_buf_fini(&a->body);
        free(a);
    } else if (code == SHOAL_CLIENT_OK) {
        code = shoal_client_fail(&error, SHOAL_CLIENT_E_NOMEM, "out of memory");
    }
    shoal_client_call_end(client);
    return shoal_client_report(&error, code, ret_error);
}

int shoal_client_session_save(shoal_client *client, const char *name,
                              shoal_client_bytes_fn on_bytes, void *ctx,
                              shoal_client_error *ret_error)
{
    shoal_client_exchange exchange = {.method = "GET", .accept = "application/octet-stream"};
    return ask(client, name, &exchange, on_bytes, ctx, ret_error);
}

int shoal_client_session_load(shoal_client *client, const char *name, const void *bytes, size_t n,
                              shoal_client_error *ret_error)
{
    shoal_client_exchange exchange = {.method = "PUT",
                                      .accept = "application/json",
                                      .type = "application/octet-stream",
                                      .body = n > 0 ? bytes : "",
                                      .n_body = n,
                                      .body_apart = true};
    return ask(client, name, &exchange, NULL, NULL, ret_error);
}

int shoal_client_session_drop(shoal_client *client, const char *name, shoal_client_error *ret_error)
{
    shoal_client_exchange exchange = {.method = "DELETE", .accept = "application/json"};
    return ask(client, name, &exchange, NULL, NULL, ret_error);
}
