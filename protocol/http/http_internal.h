/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to protocol/http: server and connection. A connection's life:
 *   HEAD -> BODY -> HANDLING -> IDLE -> HEAD ...    -> LINGER -> CLOSED
 * A refusal goes straight to the answer and LINGER. Loop-only.
 */
#ifndef SHOAL_HTTP_HTTP_INTERNAL_H
#define SHOAL_HTTP_HTTP_INTERNAL_H

#include "protocol/http/head.h"
#include "protocol/http/loop_internal.h"
#include "protocol/http/server.h"
#include "protocol/http/tls.h"

#include <llhttp.h>
#include <uv.h>

enum {
    SHOAL_HTTP_READ_BYTES = 64 << 10, /* one read, and what waits behind a running request */
    SHOAL_HTTP_NAMES_MAX = 2048,      /* bytes of the list of host names */
    SHOAL_HTTP_CODES = 20             /* statuses counted one by one */
};

typedef struct shoal_http_conn shoal_http_conn;

typedef struct shoal_http_metrics {
    shoal_metric *requests[SHOAL_HTTP_CODES];
    shoal_metric *connections;
    shoal_metric *accepted;
    shoal_metric *refused;
    shoal_metric *body_bytes;
    shoal_metric *gone;
    shoal_metric *stalled;
    shoal_metric *tls_broken;
} shoal_http_metrics;

struct shoal_http_server {
    shoal_loop *loop;
    shoal_http_settings s;
    shoal_http_head_limits head_limits;
    shoal_http_handler handler;
    shoal_http_metrics metrics;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
    uv_timer_t retry; /* for connections that found no memory */
    bool retry_tcp;
    bool retry_pipe;
    bool tcp_open;
    bool pipe_open;
    size_t n_handles; /* uv handles of ours not yet closed, connections' included */
    bool draining;
    bool any_address; /* bound to all addresses: an address as Host is right */
    int port;
    char address[80];
    char names[SHOAL_HTTP_NAMES_MAX];
    shoal_http_tls_keys *tls_keys; /* NULL: TCP in the clear */
    char *read_buffer;             /* shared: uv fills it and hands it over within one callback */
    shoal_http_conn *first;        /* all connections, newest first */
    size_t n_connections;
    size_t body_bytes; /* held for all requests */
    uint64_t next_request;
    uint64_t request_salt;
    uint64_t warned_ms; /* of the last warning about connections */
    time_t date_at;
    char date[32];
};

typedef enum shoal_http_phase {
    SHOAL_HTTP_IDLE,
    SHOAL_HTTP_HEAD,
    SHOAL_HTTP_BODY,
    SHOAL_HTTP_HANDLING,
    SHOAL_HTTP_LINGER,
    SHOAL_HTTP_CLOSED
} shoal_http_phase;

typedef struct shoal_http_field {
    const char *name; /* in head; NUL-terminated once the head is whole */
    const char *value;
    size_t n_name;
    size_t n_value;
} shoal_http_field;

struct shoal_http_exchange {
    void *user;
    uint64_t started_ns;
    const char *method;
    const char *path;
    char request_id[SHOAL_HTTP_REQUEST_ID_MAX + 1];
    const char *origin; /* of another origin's page that may call; NULL: none */
    bool is_head;       /* HEAD: the answer has no body */
    bool http_1_0;      /* no chunked answers */
    bool keep_alive;    /* the client's wish */
    bool begun;         /* stream_begin */
    bool chunked;
    int status;
    size_t n_sent; /* body bytes answered */
};

struct shoal_http_conn {
    shoal_http_exchange x; /* first: an exchange is its connection */
    shoal_http_server *server;
    shoal_http_conn *next;
    shoal_http_conn *prev;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    uv_timer_t phase_timer;
    uv_timer_t stall_timer;
    int n_handles;
    bool local; /* came over the Unix socket */
    shoal_http_phase phase;
    bool busy;         /* in shoal_http_conn_process */
    bool reading;      /* uv_read_start is on */
    bool finishing;    /* linger once all is sent */
    bool eof;          /* the client has closed its side */
    bool reset;        /* close without caring for what is unsent */
    bool writing;      /* write is with uv */
    bool full;         /* to be refused once the client can hear it */
    uint8_t n_unheard; /* times that its phase ended with bytes of it unread */
    size_t stall_left; /* unsent bytes when the stall timer last looked */
    uv_write_t write;
    uv_shutdown_t shutdown;
    shoal_buf in;        /* read, not yet used */
    size_t n_scanned;    /* of in, by the head scan */
    shoal_http_tls *tls; /* NULL: in the clear */
    shoal_buf out;       /* answered, not yet with uv; under TLS not yet sealed */
    shoal_buf wire;      /* under TLS: sealed, not yet with uv */
    shoal_buf flight;    /* with uv */
    shoal_http_head scan;
    shoal_buf head; /* the request line and headers */
    shoal_buf body;
    size_t n_body_wire; /* bytes of body with its chunk framing */
    size_t body_max;    /* of this request, once its headers are whole */
    const char *body_key;
    shoal_http_field *fields;
    size_t n_fields;
    const char *url;
    size_t n_url;
    llhttp_t parser;
    bool head_whole;
    bool message_whole;
    shoal_http_error refusal; /* set within the parser's callbacks */
};

/* conn.c */
void shoal_http_conn_open(shoal_http_server *server, uv_stream_t *listener, bool local);
void shoal_http_conn_process(shoal_http_conn *conn);
/* notify: tell the handler of an open exchange that its client is gone. */
void shoal_http_conn_close(shoal_http_conn *conn, bool notify);
/* The answer is complete in out: next request, or the end of the connection. */
void shoal_http_conn_next(shoal_http_conn *conn, bool keep);
/* Sends what is in out; an error has closed the connection without notice. */
shoal_status shoal_http_conn_flush(shoal_http_conn *conn) SHOAL_MUST_CHECK;
size_t shoal_http_conn_unsent(const shoal_http_conn *conn);
void shoal_http_conn_release(shoal_http_conn *conn);

/* request.c */
/* Parses the whole head in conn->head; fills refusal or the exchange. */
void shoal_http_request_head(shoal_http_conn *conn);
/* Feeds body bytes; returns how many were used; fills refusal or sets message_whole. */
size_t shoal_http_request_body(shoal_http_conn *conn, const char *data, size_t n);
void shoal_http_request_make_id(shoal_http_conn *conn);

/* cors.c */
/* Whether pages of that origin may call. */
bool shoal_http_origin_ok(const shoal_http_server *server, const char *origin);
/* The lines that let such a page read the answer. */
shoal_status shoal_http_put_origin(shoal_buf *buf, const shoal_http_exchange *x) SHOAL_MUST_CHECK;
/* Answers a browser that asks before it sends a request; false: it is none of these. */
bool shoal_http_preflight(shoal_http_conn *conn);

/* respond.c */
/* Answers with an error and ends the connection: what follows cannot be trusted or used. */
void shoal_http_refuse(shoal_http_conn *conn, const shoal_http_error *error);

/* server.c */
void shoal_http_server_check_drained(shoal_http_server *server);
/* A connection that found no memory waits with uv, which listens no further until it is taken:
 * tries again in a moment. */
void shoal_http_server_retry(shoal_http_server *server, bool local);
void shoal_http_server_count(shoal_http_server *server, const shoal_http_exchange *exchange);

#endif
