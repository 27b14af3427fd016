/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers: the head line by line, whole bodies, chunked streams.
 */
#include "protocol/http/http_internal.h"

#include "common/base/clock.h"
#include "common/obs/log.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

static shoal_http_conn *conn_of(shoal_http_exchange *x)
{
    return (shoal_http_conn *)x;
}

static const shoal_http_conn *const_conn_of(const shoal_http_exchange *x)
{
    return (const shoal_http_conn *)x;
}

const char *shoal_http_method(const shoal_http_exchange *exchange)
{
    return exchange->method;
}

const char *shoal_http_path(const shoal_http_exchange *exchange)
{
    return exchange->path;
}

const char *shoal_http_header(const shoal_http_exchange *exchange, const char *name)
{
    const shoal_http_conn *conn = const_conn_of(exchange);
    for (size_t i = 0; i < conn->n_fields; i++) {
        if (strcasecmp(conn->fields[i].name, name) == 0) {
            return conn->fields[i].value;
        }
    }
    return NULL;
}

const char *shoal_http_request_id(const shoal_http_exchange *exchange)
{
    return exchange->request_id;
}

bool shoal_http_peer_is_local(const shoal_http_exchange *exchange)
{
    const shoal_http_conn *conn = const_conn_of(exchange);
    struct sockaddr_storage peer;
    memset(&peer, 0, sizeof peer);
    int length = sizeof peer;
    if (conn->local) {
        return true;
    }
    if (uv_tcp_getpeername(&conn->u.tcp, (struct sockaddr *)&peer, &length) != 0) {
        return false;
    }
    if (peer.ss_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, &peer, sizeof v4);
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, &peer, sizeof v6);
    return peer.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

uint64_t shoal_http_started_ns(const shoal_http_exchange *exchange)
{
    return exchange->started_ns;
}

shoal_buf shoal_http_take_body(shoal_http_exchange *exchange)
{
    shoal_http_conn *conn = conn_of(exchange);
    shoal_buf body = conn->body;
    conn->server->body_bytes -= body.length;
    conn->body = (shoal_buf){0};
    return body;
}

void *shoal_http_user(const shoal_http_exchange *exchange)
{
    return exchange->user;
}

void shoal_http_set_user(shoal_http_exchange *exchange, void *user)
{
    exchange->user = user;
}

size_t shoal_http_stream_unsent(const shoal_http_exchange *exchange)
{
    return shoal_http_conn_unsent(const_conn_of(exchange));
}

bool shoal_http_begun(const shoal_http_exchange *exchange)
{
    return exchange->begun;
}

static const char *date_now(shoal_http_server *server)
{
    time_t now = time(NULL);
    if (now != server->date_at) {
        struct tm parts;
        (void)gmtime_r(&now, &parts);
        /* Own names: the locale must not reach the wire. */
        static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                           "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        (void)snprintf(server->date, sizeof server->date, "%s, %02u %s %04u %02u:%02u:%02u GMT",
                       days[(unsigned)parts.tm_wday % 7], (unsigned)parts.tm_mday % 100u,
                       months[(unsigned)parts.tm_mon % 12],
                       (unsigned)(parts.tm_year + 1900) % 10000u, (unsigned)parts.tm_hour % 100u,
                       (unsigned)parts.tm_min % 100u, (unsigned)parts.tm_sec % 100u);
        server->date_at = now;
    }
    return server->date;
}

static bool keeps(const shoal_http_exchange *x)
{
    return x->keep_alive && !const_conn_of(x)->server->draining;
}

/* length: of the body, SIZE_MAX: not known. */
static shoal_status put_head(shoal_http_exchange *x, int status, const char *type,
                             const char *headers, size_t length)
{
    shoal_http_conn *conn = conn_of(x);
    x->status = status;
    SHOAL_TRY(shoal_buf_appendf(&conn->out, "HTTP/1.1 %d %s\r\nDate: %s\r\nX-Request-Id: %s\r\n",
                                status, shoal_http_reason(status), date_now(conn->server),
                                x->request_id));
    SHOAL_TRY(shoal_buf_appendf(&conn->out,
                                "Content-Type: %s\r\nX-Content-Type-Options: nosniff\r\n", type));
    SHOAL_TRY(shoal_http_put_origin(&conn->out, x));
    if (length != SIZE_MAX) {
        SHOAL_TRY(shoal_buf_appendf(&conn->out, "Content-Length: %zu\r\n", length));
    } else if (x->chunked) {
        SHOAL_TRY(shoal_buf_appendf(&conn->out, "Transfer-Encoding: chunked\r\n"));
    }
    return shoal_buf_appendf(&conn->out, "Connection: %s\r\n%s\r\n",
                             keeps(x) ? "keep-alive" : "close", headers ? headers : "");
}

static shoal_status put_answer(shoal_http_exchange *x, int status, const char *type,
                               const char *headers, const void *body, size_t n)
{
    shoal_http_conn *conn = conn_of(x);
    SHOAL_TRY(put_head(x, status, type, headers, n));
    if (!x->is_head && n > 0) {
        SHOAL_TRY(shoal_buf_append(&conn->out, body, n));
        x->n_sent = n;
    }
    return SHOAL_OK;
}

static void finish(shoal_http_conn *conn)
{
    bool keep = keeps(&conn->x);
    shoal_http_server_count(conn->server, &conn->x);
    shoal_http_conn_next(conn, keep);
}

void shoal_http_respond(shoal_http_exchange *exchange, int status, const char *type,
                        const char *headers, const void *body, size_t n)
{
    shoal_http_conn *conn = conn_of(exchange);
    SHOAL_ASSERT(conn->phase == SHOAL_HTTP_HANDLING && !exchange->begun);
    if (put_answer(exchange, status, type, headers, body, n) != SHOAL_OK) {
        shoal_http_conn_close(conn, false);
        return;
    }
    finish(conn);
}

/* The lines an error adds to the head. */
static void error_headers(const shoal_http_error *error, char out[160])
{
    int n = 0;
    out[0] = '\0';
    if (error->retry_after_s > 0) {
        n = snprintf(out, 160, "Retry-After: %u\r\n", error->retry_after_s);
    }
    if (error->allow) {
        n += snprintf(out + n, 160 - (size_t)n, "Allow: %s\r\n", error->allow);
    }
    if (error->status == 401) {
        (void)snprintf(out + n, 160 - (size_t)n, "WWW-Authenticate: Bearer\r\n");
    }
}

void shoal_http_fail(shoal_http_exchange *exchange, const shoal_http_error *error)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    char headers[160];
    error_headers(error, headers);
    if (shoal_http_error_put(error, &body) != SHOAL_OK) {
        shoal_http_conn_close(conn_of(exchange), false);
        return;
    }
    shoal_http_respond(exchange, error->status, "application/json", headers, body.data,
                       body.length);
}

void shoal_http_refuse(shoal_http_conn *conn, const shoal_http_error *error)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    char headers[160];
    error_headers(error, headers);
    shoal_http_exchange *x = &conn->x;
    if (!x->method) {
        x->method = "-";
    }
    if (!x->path) {
        x->path = "-";
    }
    if (!x->request_id[0]) {
        shoal_http_request_make_id(conn);
    }
    x->keep_alive = false;
    if (shoal_http_error_put(error, &body) != SHOAL_OK ||
        put_answer(x, error->status, "application/json", headers, body.data, body.length) !=
            SHOAL_OK) {
        shoal_http_conn_close(conn, false);
        return;
    }
    finish(conn);
}

shoal_status shoal_http_stream_begin(shoal_http_exchange *exchange, int status, const char *type,
                                     const char *headers)
{
    shoal_http_conn *conn = conn_of(exchange);
    SHOAL_ASSERT(conn->phase == SHOAL_HTTP_HANDLING && !exchange->begun);
    exchange->begun = true;
    exchange->chunked = !exchange->http_1_0;
    exchange->keep_alive = exchange->keep_alive && exchange->chunked;
    shoal_status status_put = put_head(exchange, status, type, headers, SIZE_MAX);
    if (status_put != SHOAL_OK) {
        shoal_http_conn_close(conn, false);
        return status_put;
    }
    return SHOAL_OK;
}

static shoal_status put_chunk(shoal_http_exchange *x, const void *data, size_t n)
{
    shoal_http_conn *conn = conn_of(x);
    if (!x->chunked) {
        return shoal_buf_append(&conn->out, data, n);
    }
    SHOAL_TRY(shoal_buf_appendf(&conn->out, "%zx\r\n", n));
    SHOAL_TRY(shoal_buf_append(&conn->out, data, n));
    return shoal_buf_append(&conn->out, "\r\n", 2);
}

shoal_status shoal_http_stream_write(shoal_http_exchange *exchange, const void *data, size_t n)
{
    shoal_http_conn *conn = conn_of(exchange);
    SHOAL_ASSERT(conn->phase == SHOAL_HTTP_HANDLING && exchange->begun);
    if (n == 0 || exchange->is_head) {
        return SHOAL_OK;
    }
    shoal_status status = SHOAL_E_LIMIT;
    size_t unsent = shoal_http_conn_unsent(conn);
    if (unsent < conn->server->s.write_bytes_max && n <= conn->server->s.write_bytes_max - unsent) {
        status = put_chunk(exchange, data, n);
        if (status == SHOAL_OK) {
            exchange->n_sent += n;
            return shoal_http_conn_flush(conn);
        }
    } else {
        shoal_metric_add(conn->server->metrics.stalled, 1);
        shoal_log(SHOAL_LOG_INFO, "reader too slow, stream cut request=%s unsent=%zu",
                  exchange->request_id, unsent);
        conn->reset = true;
    }
    shoal_http_conn_close(conn, false);
    return status;
}

void shoal_http_stream_end(shoal_http_exchange *exchange, bool whole)
{
    shoal_http_conn *conn = conn_of(exchange);
    SHOAL_ASSERT(conn->phase == SHOAL_HTTP_HANDLING && exchange->begun);
    if (!whole) {
        exchange->keep_alive = false; /* without the last chunk the client sees the cut */
    } else if (exchange->chunked && !exchange->is_head &&
               shoal_buf_append(&conn->out, "0\r\n\r\n", 5) != SHOAL_OK) {
        shoal_http_conn_close(conn, false);
        return;
    }
    finish(conn);
}
