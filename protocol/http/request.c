/* SPDX-License-Identifier: Apache-2.0
 *
 * From a head's bytes to a request, with llhttp; what the strict scan of head.c let through is
 * parsed here in one piece, so a name, a value and the target each come whole.
 */
#include "protocol/http/http_internal.h"

#include "common/base/name.h"
#include "common/base/rng.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    WIRE_PER_BODY = 8, /* one byte in a chunk of its own takes six on the wire */
    WIRE_SLACK = 4096
};

static int refuse(shoal_http_conn *conn, int status, const char *code, const char *text)
{
    (void)shoal_http_error_set(&conn->refusal, status, NULL, code, "%s", text);
    return -1;
}

static int on_url(llhttp_t *parser, const char *at, size_t n)
{
    shoal_http_conn *conn = parser->data;
    conn->url = at;
    conn->n_url = n;
    return 0;
}

static int on_field(llhttp_t *parser, const char *at, size_t n)
{
    shoal_http_conn *conn = parser->data;
    if (conn->head_whole) {
        return refuse(conn, 400, "trailers", "trailers after a chunked body are not accepted");
    }
    if (conn->n_fields >= conn->server->s.n_headers_max) {
        return refuse(conn, 431, "too_many_headers", "the request has too many headers");
    }
    conn->fields[conn->n_fields++] = (shoal_http_field){.name = at, .n_name = n, .value = ""};
    return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
    shoal_http_conn *conn = parser->data;
    shoal_http_field *field = &conn->fields[conn->n_fields - 1];
    while (n > 0 && (at[n - 1] == ' ' || at[n - 1] == '\t')) {
        n--;
    }
    field->value = at;
    field->n_value = n;
    return 0;
}

/* The whole head lies in conn->head, and so does every name and value: what follows each of them
 * there is a colon, a blank or a line end, which may become its NUL. */
static void terminate(shoal_http_conn *conn, const char *at, size_t n)
{
    conn->head.data[(size_t)(at - conn->head.data) + n] = '\0';
}

static const char *text_of(shoal_http_conn *conn, const shoal_http_field *field)
{
    if (field->n_value == 0) {
        return "";
    }
    terminate(conn, field->value, field->n_value);
    return field->value;
}

static const shoal_http_field *find(const shoal_http_conn *conn, const char *name, size_t *ret_n)
{
    const shoal_http_field *found = NULL;
    *ret_n = 0;
    for (size_t i = 0; i < conn->n_fields; i++) {
        const shoal_http_field *f = &conn->fields[i];
        if (strlen(name) == f->n_name && strncasecmp(name, f->name, f->n_name) == 0) {
            found = found ? found : f;
            ++*ret_n;
        }
    }
    return found;
}

static int check_framing(shoal_http_conn *conn)
{
    size_t n = 0;
    const shoal_http_field *te = find(conn, "transfer-encoding", &n);
    if (te) {
        if (conn->x.http_1_0) {
            return refuse(conn, 400, "bad_request", "HTTP/1.0 has no Transfer-Encoding");
        }
        if (n != 1 || te->n_value != 7 || strncasecmp(te->value, "chunked", 7) != 0) {
            return refuse(conn, 501, "transfer_encoding",
                          "the only Transfer-Encoding taken is a single \"chunked\"");
        }
    }
    const shoal_http_field *ce = find(conn, "content-encoding", &n);
    if (ce && !(ce->n_value == 8 && strncasecmp(ce->value, "identity", 8) == 0)) {
        return refuse(conn, 415, "content_encoding",
                      "the body must come as it is, without Content-Encoding");
    }
    const shoal_http_field *expect = find(conn, "expect", &n);
    if (expect && !(expect->n_value == 12 && strncasecmp(expect->value, "100-continue", 12) == 0)) {
        return refuse(conn, 417, "expectation", "the only expectation known is 100-continue");
    }
    return 0;
}

/* Which limit holds depends on what is asked for. */
static int check_length(shoal_http_conn *conn)
{
    const shoal_http_server *server = conn->server;
    const char *key = NULL;
    size_t own = server->handler.body_max
                     ? server->handler.body_max(server->handler.ctx, &conn->x, &key)
                     : 0;
    conn->body_max = own > 0 ? own : server->s.body_bytes_max;
    conn->body_key = own > 0 ? key : "http.body_max_kib";
    if ((conn->parser.flags & F_CONTENT_LENGTH) && conn->parser.content_length > conn->body_max) {
        (void)shoal_http_error_set(&conn->refusal, 413, NULL, "body_too_large",
                                   "the body has %llu bytes, at most %zu are taken: send less, or "
                                   "raise %s",
                                   (unsigned long long)conn->parser.content_length, conn->body_max,
                                   conn->body_key);
        return -1;
    }
    return 0;
}

/* DNS rebinding: a page from elsewhere reaches us under its own name (Host), and a page from
 * elsewhere that posts to us says where it is from (Origin). */
static int check_host(shoal_http_conn *conn)
{
    const shoal_http_server *server = conn->server;
    size_t n = 0;
    const shoal_http_field *host = find(conn, "host", &n);
    if (n > 1 || (n == 0 && !conn->x.http_1_0)) {
        return refuse(conn, 400, "host",
                      n > 1 ? "the request has more than one Host header"
                            : "the request has no Host header, which HTTP/1.1 requires");
    }
    if (conn->local) {
        return 0;
    }
    if (host) {
        if (!shoal_http_host_ok(text_of(conn, host), server->names, server->any_address)) {
            (void)shoal_http_error_set(&conn->refusal, 403, NULL, "host_not_allowed",
                                       "this server does not answer to that Host: use its address, "
                                       "or add the name to %s",
                                       server->s.hosts_key);
            return -1;
        }
    }
    const shoal_http_field *origin = find(conn, "origin", &n);
    if (origin) {
        const char *text = text_of(conn, origin);
        const char *authority = strstr(text, "://");
        if (text[0] && shoal_http_origin_ok(server, text)) {
            conn->x.origin = text;
        } else if (!authority ||
                   !shoal_http_host_ok(authority + 3, server->names, server->any_address)) {
            return refuse(conn, 403, "origin_not_allowed",
                          "pages from another origin may not call this edge: add it to "
                          "api.cors_origins");
        }
    }
    return 0;
}

static void finish_fields(shoal_http_conn *conn)
{
    for (size_t i = 0; i < conn->n_fields; i++) {
        terminate(conn, conn->fields[i].name, conn->fields[i].n_name);
        conn->fields[i].value = text_of(conn, &conn->fields[i]);
    }
    terminate(conn, conn->url, conn->n_url);
    char *query = conn->head.data + (conn->url - conn->head.data);
    query += strcspn(query, "?#");
    *query = '\0';
    conn->x.path = conn->url;
}

static int on_headers_complete(llhttp_t *parser)
{
    shoal_http_conn *conn = parser->data;
    shoal_http_exchange *x = &conn->x;
    conn->head_whole = true;
    x->method = llhttp_method_name((llhttp_method_t)parser->method);
    x->is_head = parser->method == HTTP_HEAD;
    x->http_1_0 = parser->http_major == 1 && parser->http_minor == 0;
    x->keep_alive = llhttp_should_keep_alive(parser) != 0;
    if (parser->http_major != 1 || parser->http_minor > 1) {
        return refuse(conn, 505, "http_version", "HTTP/1.1 and HTTP/1.0 are spoken here");
    }
    if (parser->method == HTTP_CONNECT || conn->n_url == 0 || conn->url[0] != '/') {
        return refuse(conn, 400, "bad_request", "the request target must begin with \"/\"");
    }
    parser->upgrade = 0; /* an Upgrade we do not take is ignored (RFC 9110 7.8) */
    if (check_framing(conn) != 0 || check_host(conn) != 0) {
        return -1;
    }
    finish_fields(conn);
    shoal_http_request_make_id(conn);
    return check_length(conn);
}

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    shoal_http_conn *conn = parser->data;
    shoal_http_server *server = conn->server;
    if (n > conn->body_max - conn->body.length) {
        (void)shoal_http_error_set(&conn->refusal, 413, NULL, "body_too_large",
                                   "the body has more than %zu bytes: send less, or raise %s",
                                   conn->body_max, conn->body_key);
        return -1;
    }
    if (n > server->s.body_bytes_total_max - server->body_bytes) {
        return refuse(conn, 503, "busy", "too many large requests at once: try again");
    }
    if (shoal_buf_append(&conn->body, at, n) != SHOAL_OK) {
        return refuse(conn, 503, "out_of_memory", "no memory for the body: try again");
    }
    server->body_bytes += n;
    return 0;
}

static int on_extension(llhttp_t *parser, const char *at, size_t n)
{
    (void)at;
    (void)n;
    return refuse(parser->data, 400, "chunk_extension", "chunk extensions are not accepted");
}

static int on_message_complete(llhttp_t *parser)
{
    shoal_http_conn *conn = parser->data;
    conn->message_whole = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t *parser_settings(void)
{
    static const llhttp_settings_t settings = {
        .on_url = on_url,
        .on_header_field = on_field,
        .on_header_value = on_value,
        .on_headers_complete = on_headers_complete,
        .on_body = on_body,
        .on_chunk_extension_name = on_extension,
        .on_chunk_extension_value = on_extension,
        .on_message_complete = on_message_complete,
    };
    return &settings;
}

static void refuse_parse(shoal_http_conn *conn, llhttp_errno_t rc)
{
    if (rc == HPE_INVALID_METHOD) {
        (void)refuse(conn, 501, "method", "the method is not one of HTTP's");
        return;
    }
    if (rc == HPE_INVALID_VERSION || rc == HPE_PAUSED_H2_UPGRADE) {
        (void)refuse(conn, 505, "http_version", "HTTP/1.1 and HTTP/1.0 are spoken here");
        return;
    }
    const char *reason = llhttp_get_error_reason(&conn->parser);
    (void)shoal_http_error_set(&conn->refusal, 400, NULL, "bad_request",
                               "the request is not valid HTTP/1.1: %s",
                               reason ? reason : llhttp_errno_name(rc));
}

void shoal_http_request_head(shoal_http_conn *conn)
{
    llhttp_init(&conn->parser, HTTP_REQUEST, parser_settings());
    conn->parser.data = conn;
    conn->n_fields = 0;
    conn->n_url = 0;
    conn->n_body_wire = 0;
    conn->head_whole = false;
    conn->message_whole = false;
    llhttp_errno_t rc = llhttp_execute(&conn->parser, conn->head.data, conn->head.length);
    if (rc != HPE_OK && !(rc == HPE_PAUSED && conn->message_whole)) {
        refuse_parse(conn, rc); /* keeps the refusal of a callback */
    } else if (!conn->head_whole && conn->parser.method == HTTP_PRI) {
        refuse_parse(conn, HPE_PAUSED_H2_UPGRADE); /* HTTP/2's preface, taken for a head */
    } else if (!conn->head_whole) {
        (void)refuse(conn, 400, "bad_request", "the head of the request is not complete");
    }
}

size_t shoal_http_request_body(shoal_http_conn *conn, const char *data, size_t n)
{
    size_t wire_max = conn->body_max * WIRE_PER_BODY + WIRE_SLACK;
    llhttp_errno_t rc = llhttp_execute(&conn->parser, data, n);
    size_t used = n;
    if (rc == HPE_PAUSED && conn->message_whole) {
        used = (size_t)(llhttp_get_error_pos(&conn->parser) - data);
    } else if (rc != HPE_OK) {
        refuse_parse(conn, rc);
    }
    conn->n_body_wire += used;
    if (conn->n_body_wire > wire_max) {
        (void)refuse(conn, 413, "body_too_large", "the body's chunks are mostly framing");
    }
    return used;
}

void shoal_http_request_make_id(shoal_http_conn *conn)
{
    shoal_http_server *server = conn->server;
    size_t n_given = 0;
    const shoal_http_field *given = find(conn, "x-request-id", &n_given);
    if (given && shoal_name_ok(given->value, given->n_value, SHOAL_HTTP_REQUEST_ID_MAX)) {
        memcpy(conn->x.request_id, given->value, given->n_value);
        conn->x.request_id[given->n_value] = '\0';
        return;
    }
    uint64_t state = server->request_salt + ++server->next_request;
    uint64_t id = shoal_rng_next(&state);
    (void)snprintf(conn->x.request_id, sizeof conn->x.request_id, "req-%016llx",
                   (unsigned long long)id);
}
