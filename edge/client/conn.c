/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection's bytes through TLS, where the address asks for it, or as they are. All waiting is
 * net.c's: a cancel or a deadline ends a handshake as it ends everything else.
 */
#include "edge/client/tls.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    RECORD_BYTES = 16384 /* at most this much text in one record (RFC 8446, 5.1) */
};

static const char shaking[] = "the TLS handshake";

/* What can be sent without waiting; a socket that is broken takes everything: reading will tell. */
static void push_out(shoal_client_conn *conn)
{
    size_t n = 0;
    const char *data = shoal_client_tls_out(conn->tls, &n);
    if (n == 0 || conn->mute) {
        return;
    }
    ssize_t sent = send(conn->fd, data, n, MSG_NOSIGNAL);
    bool later = sent < 0 && (errno == EAGAIN || errno == EINTR);
    if (!later) {
        shoal_client_tls_sent(conn->tls, sent > 0 ? (size_t)sent : n);
    }
}

static bool has_out(const shoal_client_conn *conn)
{
    size_t n = 0;
    (void)shoal_client_tls_out(conn->tls, &n);
    return n > 0;
}

static int flush(const shoal_client_call *call, shoal_client_conn *conn, int64_t deadline_ms,
                 const char *phase)
{
    while (has_out(conn)) {
        short events = 0;
        SHOAL_CLIENT_TRY(shoal_client_wait(call, conn->fd, POLLOUT, deadline_ms, phase, &events));
        push_out(conn);
    }
    return SHOAL_CLIENT_OK;
}

/* Waits for bytes of the wire and gives them to TLS. */
static int pull_in(const shoal_client_call *call, shoal_client_conn *conn, int64_t deadline_ms,
                   const char *phase)
{
    char wire[SHOAL_CLIENT_TLS_FEED_MAX];
    size_t n = 0;
    SHOAL_CLIENT_TRY(shoal_client_recv(call, conn->fd, deadline_ms, phase, wire, sizeof wire, &n));
    return n == 0 ? shoal_client_tls_cut(conn->tls, call->error)
                  : shoal_client_tls_feed(conn->tls, wire, n, call->error);
}

static int shake(const shoal_client_call *call, shoal_client_conn *conn, int64_t deadline_ms)
{
    for (;;) {
        bool done = false;
        int code = shoal_client_tls_shake(conn->tls, &done, call->error);
        if (code != SHOAL_CLIENT_OK) {
            push_out(conn); /* why, for the server's log */
            return code;
        }
        SHOAL_CLIENT_TRY(flush(call, conn, deadline_ms, shaking));
        if (done) {
            return SHOAL_CLIENT_OK;
        }
        SHOAL_CLIENT_TRY(pull_in(call, conn, deadline_ms, shaking));
    }
}

int shoal_client_conn_open(const shoal_client_call *call, shoal_client_conn *conn)
{
    const shoal_client *client = call->client;
    int64_t deadline_ms = client->connect_timeout_ms == 0
                              ? INT64_MAX
                              : shoal_client_now_ms() + (int64_t)client->connect_timeout_ms;
    SHOAL_CLIENT_TRY(shoal_client_connect(call, deadline_ms, &conn->fd));
    if (!client->parts.is_tls) {
        return SHOAL_CLIENT_OK;
    }
    SHOAL_CLIENT_TRY(shoal_client_tls_new(client->trust, client->url, client->parts.host,
                                          &conn->tls, call->error));
    return shake(call, conn, deadline_ms);
}

/* One record on its way. While it is, the peer may speak of TLS alone, a ticket, and is heard; an
 * answer or an end before we are done sets *ret_stop. */
static int send_record(const shoal_client_call *call, shoal_client_conn *conn, bool *ret_stop)
{
    int64_t deadline_ms = shoal_client_idle_deadline_ms(call->client);
    while (has_out(conn) && !*ret_stop) {
        short events = 0;
        SHOAL_CLIENT_TRY(shoal_client_wait(call, conn->fd, POLLOUT | POLLIN, deadline_ms,
                                           "sending the request", &events));
        if (events & (POLLIN | POLLHUP | POLLERR)) {
            char wire[SHOAL_CLIENT_TLS_FEED_MAX];
            ssize_t got = recv(conn->fd, wire, sizeof wire, 0);
            if (got > 0) {
                SHOAL_CLIENT_TRY(shoal_client_tls_feed(conn->tls, wire, (size_t)got, call->error));
                *ret_stop = shoal_client_tls_has_news(conn->tls);
            } else {
                *ret_stop = got == 0 || (errno != EAGAIN && errno != EINTR);
            }
        } else {
            push_out(conn);
            deadline_ms = shoal_client_idle_deadline_ms(call->client);
        }
    }
    return SHOAL_CLIENT_OK;
}

int shoal_client_conn_send(const shoal_client_call *call, shoal_client_conn *conn, const char *data,
                           size_t n)
{
    if (!conn->tls) {
        return shoal_client_send(call, conn->fd, data, n);
    }
    bool stop = false;
    for (size_t at = 0; at < n && !stop;) {
        size_t piece = n - at < RECORD_BYTES ? n - at : RECORD_BYTES;
        SHOAL_CLIENT_TRY(shoal_client_tls_write(conn->tls, data + at, piece, call->error));
        SHOAL_CLIENT_TRY(send_record(call, conn, &stop));
        at += piece;
    }
    conn->mute = stop;
    return SHOAL_CLIENT_OK;
}

int shoal_client_conn_recv(const shoal_client_call *call, shoal_client_conn *conn, char *data,
                           size_t capacity, size_t *ret_n)
{
    static const char waiting[] = "waiting for the edge";
    int64_t deadline_ms = shoal_client_idle_deadline_ms(call->client);
    if (!conn->tls) {
        return shoal_client_recv(call, conn->fd, deadline_ms, waiting, data, capacity, ret_n);
    }
    for (;;) {
        bool end = false;
        SHOAL_CLIENT_TRY(
            shoal_client_tls_read(conn->tls, data, capacity, ret_n, &end, call->error));
        if (*ret_n > 0 || end) {
            return SHOAL_CLIENT_OK;
        }
        push_out(conn); /* what TLS says of itself, of a new key for one */
        SHOAL_CLIENT_TRY(pull_in(call, conn, deadline_ms, waiting));
    }
}

void shoal_client_conn_close(shoal_client_conn *conn)
{
    if (conn->fd < 0) {
        return;
    }
    if (conn->tls) {
        shoal_client_tls_end(conn->tls);
        push_out(conn);
        shoal_client_tls_free(conn->tls);
    }
    (void)close(conn->fd);
    *conn = (shoal_client_conn){.fd = -1};
}
