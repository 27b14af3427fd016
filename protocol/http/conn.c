/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection: bytes in, requests out to the handler, answers back, and every wait bounded by a
 * timer. What to do next is decided in one loop (shoal_http_conn_process), never by recursion, so
 * that a thousand pipelined requests take no more stack than one.
 */
#include "protocol/http/http_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/obs/log.h"

#include <poll.h>
#include <string.h>
#include <strings.h>

enum {
    UNHEARD_MAX = 2 /* times that a request's deadline moves: nobody is waited for forever */
};

static void on_phase_timer(uv_timer_t *timer);
static shoal_status send_out(shoal_http_conn *conn);

static uint64_t now_ns(void)
{
    shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ns(&clock);
}

size_t shoal_http_conn_unsent(const shoal_http_conn *conn)
{
    return conn->out.length + conn->wire.length + uv_stream_get_write_queue_size(&conn->u.stream);
}

static void set_timer(shoal_http_conn *conn, uint32_t ms)
{
    int rc = uv_timer_start(&conn->phase_timer, on_phase_timer, ms, 0);
    SHOAL_ASSERT(rc == 0);
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Forgets the request, so that an idle connection holds next to nothing. */
void shoal_http_conn_release(shoal_http_conn *conn)
{
    conn->server->body_bytes -= conn->body.length;
    shoal_buf_fini(&conn->body);
    shoal_buf_fini(&conn->head);
    shoal_free(conn->fields);
    conn->fields = NULL;
    conn->n_fields = 0;
    conn->scan = (shoal_http_head){0};
    conn->refusal.status = 0;
    conn->n_unheard = 0;
    conn->x = (shoal_http_exchange){0};
}

static void on_handle_closed(uv_handle_t *handle)
{
    shoal_http_conn *conn = handle->data;
    conn->server->n_handles--;
    if (--conn->n_handles > 0) {
        return;
    }
    shoal_http_conn_release(conn);
    shoal_buf_fini(&conn->in);
    shoal_buf_fini(&conn->out);
    shoal_buf_fini(&conn->wire);
    shoal_buf_fini(&conn->flight);
    shoal_http_tls_free(conn->tls);
    shoal_free(conn);
}

void shoal_http_conn_close(shoal_http_conn *conn, bool notify)
{
    if (conn->phase == SHOAL_HTTP_CLOSED) {
        return;
    }
    shoal_http_server *server = conn->server;
    bool open = conn->phase == SHOAL_HTTP_HANDLING;
    if (conn->tls && conn->phase == SHOAL_HTTP_IDLE) {
        conn->finishing = true; /* tell it apart from a connection that broke */
        (void)send_out(conn);
    }
    conn->phase = SHOAL_HTTP_CLOSED;
    if (conn->prev) {
        conn->prev->next = conn->next;
    } else {
        server->first = conn->next;
    }
    if (conn->next) {
        conn->next->prev = conn->prev;
    }
    server->n_connections--;
    shoal_metric_set(server->metrics.connections, (double)server->n_connections);
    /* What a stalled reader left in the kernel's buffers is freed by a reset alone. */
    if (!conn->reset || conn->local || uv_tcp_close_reset(&conn->u.tcp, on_handle_closed) != 0) {
        uv_close(&conn->u.handle, on_handle_closed);
    }
    uv_close((uv_handle_t *)&conn->phase_timer, on_handle_closed);
    uv_close((uv_handle_t *)&conn->stall_timer, on_handle_closed);
    if (open) {
        conn->x.status = 499;
        shoal_metric_add(server->metrics.gone, 1);
        shoal_http_server_count(server, &conn->x);
        if (notify) {
            server->handler.on_gone(server->handler.ctx, &conn->x);
        }
    }
    shoal_http_server_check_drained(server);
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    shoal_http_conn *conn = request->data;
    if (status < 0 && status != UV_ECANCELED) {
        shoal_http_conn_close(conn, false);
    }
}

/* All is sent. Closing now could reset the connection under an answer the client has not read,
 * when bytes of a refused body still come: half-close, then drop what comes for a moment. */
static void linger(shoal_http_conn *conn)
{
    conn->finishing = false;
    conn->shutdown.data = conn;
    if (conn->eof || uv_shutdown(&conn->shutdown, &conn->u.stream, on_shutdown) != 0) {
        shoal_http_conn_close(conn, false);
        return;
    }
    set_timer(conn, conn->server->s.linger_ms);
    shoal_http_server_check_drained(conn->server);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void on_written(uv_write_t *request, int status)
{
    shoal_http_conn *conn = request->data;
    conn->writing = false;
    shoal_buf_fini(&conn->flight);
    if (conn->phase == SHOAL_HTTP_CLOSED) {
        return;
    }
    (void)uv_timer_stop(&conn->stall_timer);
    if (status < 0 || send_out(conn) != SHOAL_OK) {
        shoal_http_conn_close(conn, true);
        return;
    }
    if (!conn->writing && conn->finishing) {
        linger(conn);
        return;
    }
    shoal_http_server *server = conn->server;
    if (!conn->writing && conn->phase == SHOAL_HTTP_HANDLING && conn->x.begun &&
        server->handler.on_room) {
        server->handler.on_room(server->handler.ctx, &conn->x);
    }
    shoal_http_conn_process(conn);
    shoal_http_server_check_drained(server);
}

/* Timers come before sockets in a turn of the loop. After a turn that took long, or a process that
 * was stopped, what a client has taken or sent meanwhile shows in the kernel alone. */
static bool kernel_shows(const shoal_http_conn *conn, short event)
{
    struct pollfd p = {.events = event};
    return uv_fileno(&conn->u.handle, &p.fd) == 0 && poll(&p, 1, 0) == 1 &&
           (p.revents & event) != 0;
}

static void on_stall(uv_timer_t *timer)
{
    shoal_http_conn *conn = timer->data;
    size_t left = uv_stream_get_write_queue_size(&conn->u.stream);
    if (left < conn->stall_left || kernel_shows(conn, POLLOUT)) {
        conn->stall_left = left;
        int rc = uv_timer_start(timer, on_stall, conn->server->s.stall_ms, 0);
        SHOAL_ASSERT(rc == 0);
        return;
    }
    shoal_metric_add(conn->server->metrics.stalled, 1);
    shoal_log(SHOAL_LOG_INFO, "reader takes nothing, connection cut unsent=%zu", left);
    conn->reset = true;
    shoal_http_conn_close(conn, true);
}

/* What is answered becomes records, and the last of them says that it is the last. */
static shoal_status seal(shoal_http_conn *conn)
{
    if (!shoal_http_tls_ready(conn->tls)) {
        return SHOAL_OK; /* nothing is answered before */
    }
    if (conn->out.length > 0) {
        SHOAL_TRY(shoal_http_tls_push(conn->tls, conn->out.data, conn->out.length, &conn->wire));
        shoal_buf_fini(&conn->out);
    }
    return conn->finishing ? shoal_http_tls_close(conn->tls, &conn->wire) : SHOAL_OK;
}

static shoal_status send_out(shoal_http_conn *conn)
{
    if (conn->writing) {
        return SHOAL_OK;
    }
    if (conn->tls) {
        SHOAL_TRY(seal(conn));
    }
    shoal_buf *ready = conn->tls ? &conn->wire : &conn->out;
    if (ready->length == 0) {
        return SHOAL_OK;
    }
    uv_buf_t bytes = {.base = ready->data, .len = ready->length};
    int n = uv_try_write(&conn->u.stream, &bytes, 1);
    if (n < 0 && n != UV_EAGAIN) {
        return SHOAL_E_IO;
    }
    if (n > 0) {
        shoal_buf_consume(ready, (size_t)n);
    }
    if (ready->length == 0) {
        return SHOAL_OK;
    }
    conn->flight = *ready;
    *ready = (shoal_buf){0};
    bytes = (uv_buf_t){.base = conn->flight.data, .len = conn->flight.length};
    conn->write.data = conn;
    if (uv_write(&conn->write, &conn->u.stream, &bytes, 1, on_written) != 0) {
        return SHOAL_E_IO;
    }
    conn->writing = true;
    conn->stall_left = conn->flight.length;
    int rc = uv_timer_start(&conn->stall_timer, on_stall, conn->server->s.stall_ms, 0);
    SHOAL_ASSERT(rc == 0);
    return SHOAL_OK;
}

shoal_status shoal_http_conn_flush(shoal_http_conn *conn)
{
    shoal_status status = send_out(conn);
    if (status != SHOAL_OK) {
        shoal_http_conn_close(conn, false);
    }
    return status;
}

/* --- requests --------------------------------------------------------------------------------- */

void shoal_http_conn_next(shoal_http_conn *conn, bool keep)
{
    shoal_http_conn_release(conn);
    conn->phase = keep ? SHOAL_HTTP_IDLE : SHOAL_HTTP_LINGER;
    if (keep) {
        set_timer(conn, conn->server->s.idle_ms);
    } else {
        (void)uv_timer_stop(&conn->phase_timer);
        conn->finishing = true;
    }
    if (shoal_http_conn_flush(conn) != SHOAL_OK) {
        return;
    }
    if (conn->finishing && !conn->writing) {
        linger(conn);
    }
    shoal_http_conn_process(conn);
    shoal_http_server_check_drained(conn->server);
}

static void dispatch(shoal_http_conn *conn)
{
    shoal_http_server *server = conn->server;
    conn->phase = SHOAL_HTTP_HANDLING;
    (void)uv_timer_stop(&conn->phase_timer);
    shoal_metric_add(server->metrics.body_bytes, (double)conn->body.length);
    server->handler.on_request(server->handler.ctx, &conn->x);
}

/* The head is parsed and was accepted. */
static void begin_body(shoal_http_conn *conn)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    shoal_http_server *server = conn->server;
    shoal_http_error error = {0};
    if (conn->message_whole && conn->x.origin && shoal_http_preflight(conn)) {
        return;
    }
    if (server->handler.on_head) {
        server->handler.on_head(server->handler.ctx, &conn->x, &error);
    }
    if (error.status != 0 && conn->message_whole) {
        conn->phase = SHOAL_HTTP_HANDLING; /* nothing of it is unread: the connection can go on */
        shoal_http_fail(&conn->x, &error);
        return;
    }
    if (error.status != 0) {
        shoal_http_refuse(conn, &error);
        return;
    }
    if (conn->message_whole) {
        dispatch(conn);
        return;
    }
    conn->phase = SHOAL_HTTP_BODY;
    set_timer(conn, server->s.body_ms);
    if (!conn->x.http_1_0 && conn->in.length == 0 && shoal_http_header(&conn->x, "expect") &&
        (shoal_buf_append(&conn->out, go_on, sizeof go_on - 1) != SHOAL_OK ||
         send_out(conn) != SHOAL_OK)) {
        shoal_http_conn_close(conn, false);
    }
}

static bool step_head(shoal_http_conn *conn)
{
    shoal_http_server *server = conn->server;
    if (conn->in.length == conn->n_scanned) {
        return false;
    }
    if (conn->scan.n_bytes == 0) {
        conn->x.started_ns = now_ns();
        set_timer(conn, server->s.header_ms);
    }
    size_t used = 0;
    int status = 0;
    const char *text = NULL;
    shoal_http_head_result result =
        shoal_http_head_push(&conn->scan, &server->head_limits, conn->in.data + conn->n_scanned,
                             conn->in.length - conn->n_scanned, &used, &status, &text);
    conn->n_scanned += used;
    if (result == SHOAL_HTTP_HEAD_MORE) {
        return false;
    }
    shoal_http_error error = {0};
    if (result == SHOAL_HTTP_HEAD_REFUSED) {
        (void)shoal_http_error_set(&error, status, NULL, "bad_request", "%s", text);
        shoal_http_refuse(conn, &error);
        return true;
    }
    conn->fields = shoal_calloc(server->s.n_headers_max, sizeof *conn->fields);
    if (!conn->fields ||
        shoal_buf_append(&conn->head, conn->in.data, conn->n_scanned) != SHOAL_OK) {
        shoal_http_conn_close(conn, false);
        return false;
    }
    shoal_buf_consume(&conn->in, conn->n_scanned);
    conn->n_scanned = 0;
    shoal_http_request_head(conn);
    if (conn->refusal.status != 0) {
        error = conn->refusal;
        shoal_http_refuse(conn, &error);
    } else {
        begin_body(conn);
    }
    return true;
}

static bool step_body(shoal_http_conn *conn)
{
    if (conn->in.length == 0) {
        return false;
    }
    size_t used = shoal_http_request_body(conn, conn->in.data, conn->in.length);
    shoal_buf_consume(&conn->in, used);
    if (conn->refusal.status != 0) {
        shoal_http_error error = conn->refusal;
        shoal_http_refuse(conn, &error);
    } else if (conn->message_whole) {
        dispatch(conn);
    }
    return true;
}

/* One step; false: nothing more to do until bytes come, go, or the handler answers. */
static bool step(shoal_http_conn *conn)
{
    switch (conn->phase) {
    case SHOAL_HTTP_IDLE:
        if (conn->in.length == 0) {
            shoal_buf_fini(&conn->in);
            return false;
        }
        if (shoal_http_conn_unsent(conn) > conn->server->s.write_bytes_max / 2) {
            return false; /* a pipeline that is written but not read waits for its reader */
        }
        conn->phase = SHOAL_HTTP_HEAD;
        conn->n_scanned = 0;
        return true;
    case SHOAL_HTTP_HEAD:
        return step_head(conn);
    case SHOAL_HTTP_BODY:
        return step_body(conn);
    case SHOAL_HTTP_LINGER:
        shoal_buf_fini(&conn->in);
        return false;
    case SHOAL_HTTP_HANDLING:
    case SHOAL_HTTP_CLOSED:
        return false;
    }
    return false;
}

static bool wants_input(const shoal_http_conn *conn)
{
    if (conn->eof) {
        return false;
    }
    switch (conn->phase) {
    case SHOAL_HTTP_IDLE:
        return shoal_http_conn_unsent(conn) <= conn->server->s.write_bytes_max / 2;
    case SHOAL_HTTP_HANDLING:
        return conn->in.length < SHOAL_HTTP_READ_BYTES; /* reading on shows a client that leaves */
    case SHOAL_HTTP_HEAD:
    case SHOAL_HTTP_BODY:
    case SHOAL_HTTP_LINGER:
        return true;
    case SHOAL_HTTP_CLOSED:
        return false;
    }
    return false;
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    (void)suggested;
    const shoal_http_conn *conn = handle->data;
    *ret_buf = (uv_buf_t){.base = conn->server->read_buffer, .len = SHOAL_HTTP_READ_BYTES};
}

static void on_end(shoal_http_conn *conn, bool orderly)
{
    conn->eof = true;
    bool answered = conn->phase == SHOAL_HTTP_IDLE || conn->phase == SHOAL_HTTP_LINGER;
    if (orderly && answered && shoal_http_conn_unsent(conn) > 0) {
        conn->phase = SHOAL_HTTP_LINGER; /* a half-closed client still gets its answers */
        conn->finishing = true;
        (void)uv_read_stop(&conn->u.stream);
        conn->reading = false;
        return;
    }
    shoal_http_conn_close(conn, true);
}

static void refuse_full(shoal_http_conn *conn);

/* What came is no TLS, or not this client's. What TLS has to say of it still goes out; to a client
 * that speaks HTTP in the clear we say it in the clear. */
static void end_tls(shoal_http_conn *conn, bool plain)
{
    shoal_metric_add(conn->server->metrics.tls_broken, 1);
    if (conn->phase == SHOAL_HTTP_HANDLING) {
        (void)send_out(conn);
        shoal_http_conn_close(conn, true);
        return;
    }
    shoal_http_tls_free(conn->tls);
    conn->tls = NULL;
    shoal_buf_fini(&conn->in);
    shoal_buf_fini(&conn->out); /* was not sealed */
    conn->out = conn->wire;
    conn->wire = (shoal_buf){0};
    if (!plain) {
        shoal_http_conn_next(conn, false);
        return;
    }
    shoal_buf_fini(&conn->out);
    shoal_http_error error = {0};
    (void)shoal_http_error_set(&error, 400, NULL, "tls_required",
                               "this address speaks TLS: write https instead of http");
    shoal_http_refuse(conn, &error);
}

static void read_tls(shoal_http_conn *conn, const char *data, size_t n)
{
    shoal_http_tls_end end = SHOAL_HTTP_TLS_OPEN;
    if (shoal_http_tls_pull(conn->tls, data, n, &conn->in, &conn->wire, &end) != SHOAL_OK) {
        shoal_http_conn_close(conn, true);
        return;
    }
    if (end == SHOAL_HTTP_TLS_BROKEN || end == SHOAL_HTTP_TLS_PLAIN) {
        end_tls(conn, end == SHOAL_HTTP_TLS_PLAIN);
        return;
    }
    if (conn->writing && conn->wire.length > SHOAL_HTTP_READ_BYTES) {
        conn->reset = true; /* it makes TLS speak and does not listen */
        shoal_http_conn_close(conn, true);
        return;
    }
    if (send_out(conn) != SHOAL_OK) {
        shoal_http_conn_close(conn, true);
        return;
    }
    if (conn->full && shoal_http_tls_ready(conn->tls)) {
        conn->full = false;
        refuse_full(conn);
        return;
    }
    shoal_http_conn_process(conn);
    if (end == SHOAL_HTTP_TLS_CLOSED && conn->phase != SHOAL_HTTP_CLOSED) {
        on_end(conn, true);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    shoal_http_conn *conn = stream->data;
    if (n < 0) {
        on_end(conn, n == UV_EOF);
        return;
    }
    if (n == 0 || conn->phase == SHOAL_HTTP_LINGER) {
        return;
    }
    if (conn->tls) {
        read_tls(conn, buf->base, (size_t)n);
        return;
    }
    if (shoal_buf_append(&conn->in, buf->base, (size_t)n) != SHOAL_OK) {
        shoal_http_conn_close(conn, true);
        return;
    }
    shoal_http_conn_process(conn);
}

void shoal_http_conn_process(shoal_http_conn *conn)
{
    if (conn->busy || conn->phase == SHOAL_HTTP_CLOSED) {
        return;
    }
    conn->busy = true;
    while (step(conn)) {
    }
    conn->busy = false;
    bool wanted = wants_input(conn);
    if (wanted == conn->reading || conn->phase == SHOAL_HTTP_CLOSED) {
        return;
    }
    conn->reading = wanted;
    if (!wanted) {
        (void)uv_read_stop(&conn->u.stream);
    } else if (uv_read_start(&conn->u.stream, on_allocate, on_read) != 0) {
        shoal_http_conn_close(conn, true);
    }
}

/* What was sent in time and not read in time is no fault of the client, nor is what it could not
 * send before it was answered: it has the phase's time again. */
static bool was_unheard(shoal_http_conn *conn)
{
    const shoal_http_settings *s = &conn->server->s;
    if (conn->phase == SHOAL_HTTP_LINGER || conn->n_unheard == UNHEARD_MAX ||
        !kernel_shows(conn, POLLIN)) {
        return false;
    }
    conn->n_unheard++;
    set_timer(conn, conn->phase == SHOAL_HTTP_IDLE   ? s->idle_ms
                    : conn->phase == SHOAL_HTTP_BODY ? s->body_ms
                                                     : s->header_ms);
    return true;
}

static void on_phase_timer(uv_timer_t *timer)
{
    shoal_http_conn *conn = timer->data;
    shoal_http_error error = {0};
    if (was_unheard(conn)) {
        return;
    }
    if (conn->phase == SHOAL_HTTP_HEAD && conn->scan.n_bytes > 0) {
        (void)shoal_http_error_set(&error, 408, NULL, "timeout",
                                   "the headers were not complete after %u ms",
                                   conn->server->s.header_ms);
        shoal_http_refuse(conn, &error);
    } else if (conn->phase == SHOAL_HTTP_BODY) {
        (void)shoal_http_error_set(&error, 408, NULL, "timeout",
                                   "the body was not complete after %u ms",
                                   conn->server->s.body_ms);
        shoal_http_refuse(conn, &error);
    } else {
        shoal_http_conn_close(conn, true);
    }
}

/* --- the beginning ---------------------------------------------------------------------------- */

/* A connection that only waits makes room for one that wants something. */
static bool evict_idle(shoal_http_server *server)
{
    shoal_http_conn *oldest = NULL;
    for (shoal_http_conn *c = server->first; c; c = c->next) {
        if (c->phase == SHOAL_HTTP_IDLE && shoal_http_conn_unsent(c) == 0) {
            oldest = c;
        }
    }
    if (oldest) {
        shoal_http_conn_close(oldest, false);
    }
    return oldest != NULL;
}

static void refuse_full(shoal_http_conn *conn)
{
    shoal_http_error error = {0};
    (void)shoal_http_error_set(&error, 503, NULL, "too_many_connections",
                               "%zu connections are open, which is all that http.connections_max "
                               "allows: try again",
                               conn->server->s.n_connections_max);
    shoal_metric_add(conn->server->metrics.refused, 1);
    shoal_http_refuse(conn, &error);
}

void shoal_http_conn_open(shoal_http_server *server, uv_stream_t *listener, bool local)
{
    enum {
        REFUSING_MAX = 64 /* connections that may wait for the end of their refusal */
    };
    uv_loop_t *uv = &server->loop->uv;
    bool full = server->n_connections >= server->s.n_connections_max && !evict_idle(server);
    shoal_http_conn *conn = shoal_calloc(1, sizeof *conn);
    if (!conn) {
        shoal_http_server_retry(server, local);
        return;
    }
    conn->server = server;
    conn->local = local;
    conn->phase = SHOAL_HTTP_HEAD;
    int rc = local ? uv_pipe_init(uv, &conn->u.pipe, 0) : uv_tcp_init(uv, &conn->u.tcp);
    SHOAL_ASSERT(rc == 0);
    rc = uv_timer_init(uv, &conn->phase_timer);
    SHOAL_ASSERT(rc == 0);
    rc = uv_timer_init(uv, &conn->stall_timer);
    SHOAL_ASSERT(rc == 0);
    conn->u.handle.data = conn;
    conn->phase_timer.data = conn;
    conn->stall_timer.data = conn;
    conn->n_handles = 3;
    server->n_handles += 3;
    conn->next = server->first;
    if (conn->next) {
        conn->next->prev = conn;
    }
    server->first = conn;
    server->n_connections++;
    shoal_metric_add(server->metrics.accepted, 1);
    shoal_metric_set(server->metrics.connections, (double)server->n_connections);
    if (uv_accept(listener, &conn->u.stream) != 0 ||
        server->n_connections > server->s.n_connections_max + REFUSING_MAX) {
        shoal_http_conn_close(conn, false);
        return;
    }
    if (!local) {
        (void)uv_tcp_nodelay(&conn->u.tcp, 1);
        (void)uv_tcp_keepalive(&conn->u.tcp, 1, 60);
    }
    if (!local && server->tls_keys) {
        if (shoal_http_tls_new(server->tls_keys, &conn->tls) != SHOAL_OK) {
            shoal_http_conn_close(conn, false);
            return;
        }
        conn->full = full;
    } else if (full) {
        refuse_full(conn);
        return;
    }
    set_timer(conn, server->s.header_ms); /* the handshake's time too */
    shoal_http_conn_process(conn);
}
