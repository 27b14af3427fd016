/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of libshoal share. Everything here is hidden in the shared library. Functions
 * answer a shoal_client_code unless they say otherwise; parsers never block and own no socket.
 */
#ifndef SHOAL_CLIENT_CLIENT_INTERNAL_H
#define SHOAL_CLIENT_CLIENT_INTERNAL_H

#include "edge/client/shoal.h"

#include <stdatomic.h>
#include <stdbool.h>

#define SHOAL_CLIENT_TRY(expr)                                                                     \
    do {                                                                                           \
        int shoal_client_try_ = (expr);                                                            \
        if (shoal_client_try_ != SHOAL_CLIENT_OK) {                                                \
            return shoal_client_try_;                                                              \
        }                                                                                          \
    } while (0)

/* --- error.c --------------------------------------------------------------------------------- */

/* Records code and text (cut to fit, control characters shown as '?') and returns code. */
int shoal_client_fail(shoal_client_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#ifdef __clang_analyzer__ /* which looks into one file at a time: it is told what comes back */
#define shoal_client_fail(error, code, ...)                                                        \
    ((void)(shoal_client_fail)((error), (code), __VA_ARGS__), (code))
#endif
/* Copies a name, cut to fit at a character's start so that it stays UTF-8. */
void shoal_client_copy_name(char ret_name[SHOAL_CLIENT_NAME_MAX], const char *text);

/* --- buf.c ----------------------------------------------------------------------------------- */

/* Growing bytes with a limit; data[length] is NUL once data is set. Zeroed memory with a limit is
 * an empty buffer. */
typedef struct shoal_client_buf {
    char *data;
    size_t length;
    size_t capacity;
    size_t limit;
} shoal_client_buf;

/* NOMEM or LIMIT; the content is then as before. */
int shoal_client_buf_append(shoal_client_buf *buf, const void *data, size_t n);
int shoal_client_buf_text(shoal_client_buf *buf, const char *text);
void shoal_client_buf_fini(shoal_client_buf *buf);

/* --- json.c, json_write.c -------------------------------------------------------------------- */

enum {
    SHOAL_CLIENT_JSON_DEPTH_MAX = 32,
    SHOAL_CLIENT_JSON_NODES_MAX = 65536
};

typedef enum shoal_client_json_kind {
    SHOAL_CLIENT_JSON_NULL,
    SHOAL_CLIENT_JSON_FALSE,
    SHOAL_CLIENT_JSON_TRUE,
    SHOAL_CLIENT_JSON_NUMBER,
    SHOAL_CLIENT_JSON_STRING,
    SHOAL_CLIENT_JSON_ARRAY,
    SHOAL_CLIENT_JSON_OBJECT
} shoal_client_json_kind;

/* Nodes lie in document order: a container's first child follows it, `next` is the index behind
 * its last descendant. An object's children alternate key and value. */
typedef struct shoal_client_json_node {
    shoal_client_json_kind kind;
    uint32_t next;
    const char *text; /* STRING: decoded, NUL-terminated, inside the parsed text */
    size_t length;
    double number; /* NUMBER */
} shoal_client_json_node;

typedef struct shoal_client_json {
    shoal_client_json_node *nodes;
    size_t n_nodes;
    size_t capacity;
} shoal_client_json;

/* Parses text[0..n) strictly (RFC 8259, valid UTF-8), decoding strings in place; text[n] must be
 * writable. NOMEM, LIMIT (depth, nodes) or PROTOCOL. The nodes are valid until the next parse or
 * until text goes. */
int shoal_client_json_parse(shoal_client_json *json, char *text, size_t n);
void shoal_client_json_fini(shoal_client_json *json);
/* The value of key in object (NULL or not an object: NULL). */
const shoal_client_json_node *shoal_client_json_get(const shoal_client_json *json,
                                                    const shoal_client_json_node *object,
                                                    const char *key);
/* Child number i of an array, or NULL. */
const shoal_client_json_node *shoal_client_json_at(const shoal_client_json *json,
                                                   const shoal_client_json_node *array, size_t i);
/* The node behind this one and all below it. */
const shoal_client_json_node *shoal_client_json_next(const shoal_client_json *json,
                                                     const shoal_client_json_node *node);
/* Numbers with a fallback for what is absent, of another kind or out of range. */
double shoal_client_json_double(const shoal_client_json_node *node, double fallback);
uint64_t shoal_client_json_u64(const shoal_client_json_node *node, uint64_t fallback);
/* The text of a string node, or "" */
const char *shoal_client_json_text(const shoal_client_json_node *node);

/* True when s[0..n) is valid UTF-8 (no surrogates, no overlong forms). */
bool shoal_client_utf8_ok(const char *s, size_t n);
/* Quoted and escaped. INVALID when not UTF-8. */
int shoal_client_json_put_string(shoal_client_buf *buf, const char *text, size_t n);
/* Independent of the locale. */
int shoal_client_json_put_double(shoal_client_buf *buf, double x);
int shoal_client_json_put_int(shoal_client_buf *buf, int64_t x);

/* --- http.c ---------------------------------------------------------------------------------- */

enum {
    SHOAL_CLIENT_LINE_MAX = 8192,
    SHOAL_CLIENT_HEADERS_MAX = 100
};

typedef enum shoal_client_http_state {
    SHOAL_CLIENT_HTTP_STATUS,
    SHOAL_CLIENT_HTTP_HEADER,
    SHOAL_CLIENT_HTTP_LENGTH,
    SHOAL_CLIENT_HTTP_TO_CLOSE,
    SHOAL_CLIENT_HTTP_CHUNK_SIZE,
    SHOAL_CLIENT_HTTP_CHUNK,
    SHOAL_CLIENT_HTTP_CHUNK_END,
    SHOAL_CLIENT_HTTP_TRAILER,
    SHOAL_CLIENT_HTTP_DONE
} shoal_client_http_state;

/* One HTTP/1.1 response, pushed in pieces of any size. */
typedef struct shoal_client_http {
    shoal_client_http_state state;
    int (*on_body)(void *ctx, const char *data, size_t n); /* anything but OK stops */
    void *ctx;
    shoal_client_error *error;
    int status;
    int retry_after_s;     /* -1: none */
    char content_type[64]; /* lower case, without parameters */
    bool chunked;
    bool has_length;
    uint64_t left; /* of the body or the chunk */
    size_t n_head; /* bytes of status line, headers and trailers */
    size_t n_headers;
    size_t n_line;
    char line[SHOAL_CLIENT_LINE_MAX];
} shoal_client_http;

void shoal_client_http_init(shoal_client_http *http, shoal_client_error *error);
/* OK, PROTOCOL, LIMIT, or what on_body answered. Bytes behind the end are ignored. */
int shoal_client_http_push(shoal_client_http *http, const char *data, size_t n);
/* The peer has closed: OK when that is a proper end, else IO. */
int shoal_client_http_eof(shoal_client_http *http);

/* --- sse.c ----------------------------------------------------------------------------------- */

enum {
    SHOAL_CLIENT_EVENT_ID_MAX = 64
};

/* Server-sent events (WHATWG HTML, 9.2.6): lines end in LF, CR or CRLF; the data lines of one
 * event are joined by LF; of the other fields id alone concerns us. */
typedef struct shoal_client_sse {
    int (*on_data)(void *ctx, char *data, size_t n); /* data[n] is NUL; may be changed */
    void *ctx;
    shoal_client_buf line;
    shoal_client_buf data;
    bool has_data;
    bool after_cr;
    bool past_first_line;
    char id_next[SHOAL_CLIENT_EVENT_ID_MAX];
    char id[SHOAL_CLIENT_EVENT_ID_MAX]; /* of the last event given to on_data; "": it had none */
} shoal_client_sse;

void shoal_client_sse_init(shoal_client_sse *sse);
void shoal_client_sse_fini(shoal_client_sse *sse);
/* What came of an event that is not whole is forgotten: another connection begins. */
void shoal_client_sse_restart(shoal_client_sse *sse);
/* OK, NOMEM, LIMIT, or what on_data answered. */
int shoal_client_sse_push(shoal_client_sse *sse, const char *data, size_t n);

/* --- url.c ----------------------------------------------------------------------------------- */

typedef struct shoal_client_url_parts {
    bool is_unix;
    bool is_tls;
    char host[256]; /* without brackets */
    char port[6];
    char path[108];      /* unix socket */
    char prefix[256];    /* before /v1, without a slash at the end */
    char authority[288]; /* for the Host header */
} shoal_client_url_parts;

int shoal_client_url_parse(const char *url, shoal_client_url_parts *ret_parts,
                           shoal_client_error *error);

/* --- net.c, resolve.c, conn.c ---------------------------------------------------------------- */

typedef struct ssl_ctx_st shoal_client_trust; /* OpenSSL's SSL_CTX; see tls.h */

struct shoal_client {
    char url[SHOAL_CLIENT_URL_MAX];
    shoal_client_url_parts parts;
    char api_key[SHOAL_CLIENT_KEY_MAX];
    shoal_client_trust *trust; /* NULL: no https */
    uint32_t connect_timeout_ms;
    uint32_t idle_timeout_ms;
    uint32_t resume_ms;
    int cancel_fd; /* an eventfd: readable means cancel */
    atomic_flag busy;
};

/* One call's clock. Times are monotonic milliseconds; INT64_MAX is never. */
typedef struct shoal_client_call {
    const shoal_client *client;
    int64_t deadline_ms;
    int64_t started_ms;
    shoal_client_error *error;
} shoal_client_call;

/* client.c: takes the handle for one call and forgets cancels that came before it; resets error. */
int shoal_client_call_begin(shoal_client *client, uint32_t timeout_ms, shoal_client_error *error,
                            shoal_client_call *ret_call);
void shoal_client_call_end(shoal_client *client);
/* Copies what happened to the caller's error object, if there is one; returns code. */
int shoal_client_report(const shoal_client_error *error, int code, shoal_client_error *ret_error);

int64_t shoal_client_now_ms(void);
/* Waits for events (poll's bits) on fd until phase_deadline_ms or the call's own. OK with
 * *ret_events, CANCELLED, TIMEOUT (phase is named in the text), IO. */
int shoal_client_wait(const shoal_client_call *call, int fd, short events,
                      int64_t phase_deadline_ms, const char *phase, short *ret_events);
/* A connected, non-blocking socket. */
int shoal_client_connect(const shoal_client_call *call, int64_t phase_deadline_ms, int *ret_fd);
/* When the edge's silence has lasted too long, from now. */
int64_t shoal_client_idle_deadline_ms(const shoal_client *client);
/* Sends everything, or stops early with OK when the peer answers or closes before the end. */
int shoal_client_send(const shoal_client_call *call, int fd, const char *data, size_t n);
/* At least one byte, or *ret_n = 0 at the end of the stream. */
int shoal_client_recv(const shoal_client_call *call, int fd, int64_t phase_deadline_ms,
                      const char *phase, char *data, size_t capacity, size_t *ret_n);

/* A connection to the edge, in the clear or under TLS. Zeroed with fd -1 it is closed. */
typedef struct shoal_client_conn {
    int fd;
    struct shoal_client_tls *tls; /* NULL: in the clear */
    bool mute;                    /* TLS: the peer has answered early, nothing is sent any more */
} shoal_client_conn;

/* Resolves, connects and shakes hands within connect_timeout_ms. */
int shoal_client_conn_open(const shoal_client_call *call, shoal_client_conn *conn);
/* As shoal_client_send and shoal_client_recv, of what lies inside TLS where that is spoken. */
int shoal_client_conn_send(const shoal_client_call *call, shoal_client_conn *conn, const char *data,
                           size_t n);
int shoal_client_conn_recv(const shoal_client_call *call, shoal_client_conn *conn, char *data,
                           size_t capacity, size_t *ret_n);
void shoal_client_conn_close(shoal_client_conn *conn);

struct addrinfo;
/* getaddrinfo that can be left: a name is looked up on a thread of its own, because the look-up
 * can neither be cancelled nor given a timeout. Free with freeaddrinfo. */
int shoal_client_resolve(const shoal_client_call *call, int64_t phase_deadline_ms,
                         struct addrinfo **ret_list);

/* --- request.c, exchange.c -------------------------------------------------------------------- */

/* The JSON body of a streamed request. INVALID, LIMIT or NOMEM, with a text. */
int shoal_client_request_body(const shoal_client_request *request, bool chat,
                              shoal_client_buf *body, shoal_client_error *error);

typedef struct shoal_client_exchange {
    const char *method;
    const char *path;
    const char *accept;
    const char *last_event_id; /* NULL: none */
    const char *body;          /* NULL: none */
    size_t n_body;
    const char *type; /* of the body; NULL: JSON */
    bool body_apart;  /* not copied behind the head: for large ones */
} shoal_client_exchange;

/* Sends a request and pushes the answer through http until it is complete, or until on_body ends
 * it. The connection is closed when this returns. */
int shoal_client_run(const shoal_client_call *call, const shoal_client_exchange *exchange,
                     shoal_client_http *http);

/* --- probe.c, stats.c, session.c: what pages say ---------------------------------------------- */

/* Pages as JSON; text[n] is NUL, and what is parsed is changed. OK, NOMEM, or PROTOCOL where the
 * page is none of an edge's; of models and of why it is not ready, what is not understood is left
 * out. */
int shoal_client_models_read(char *text, size_t n, shoal_client_info *info,
                             shoal_client_error *error);
/* Its error's message, or the first line of what it said. */
int shoal_client_why_read(char *text, size_t n, shoal_client_info *info, shoal_client_error *error);
int shoal_client_stats_read(char *text, size_t n, shoal_client_stats *stats,
                            shoal_client_error *error);
/* Also CANCELLED, by on_session. */
int shoal_client_sessions_read(char *text, size_t n, shoal_client_session_fn on_session, void *ctx,
                               shoal_client_error *error);

/* --- stream.c, resume.c ----------------------------------------------------------------------- */

/* The state of one streamed answer. */
typedef struct shoal_client_stream {
    shoal_client_http http;
    shoal_client_sse sse;
    shoal_client_json json;
    shoal_client_buf body; /* of an answer that is an error */
    shoal_client_error *error;
    shoal_client_event_fn on_event;
    void *ctx;
    shoal_client_token *tokens;
    size_t tokens_capacity;
    shoal_client_result result;
    bool done; /* [DONE] has come */
} shoal_client_stream;

/* resume.c: a streamed call from its request to its end, over as many connections as it takes; a
 * cancelled one is cancelled at the edge too. A shoal_client_code. */
int shoal_client_stream_run(const shoal_client_call *call, const shoal_client_exchange *exchange,
                            shoal_client_stream *stream);

void shoal_client_stream_init(shoal_client_stream *stream, shoal_client_event_fn on_event,
                              void *ctx, shoal_client_error *error);
void shoal_client_stream_fini(shoal_client_stream *stream);
/* An answer that is an error: {"error": {"message": ...}} or {"error": "..."}; object may be
 * NULL. REFUSED or BUSY, with its text. */
int shoal_client_refused(const shoal_client_json *json, const shoal_client_json_node *object,
                         int http_status, shoal_client_error *error);
/* Another connection takes the answer up where this one broke. */
void shoal_client_stream_restart(shoal_client_stream *stream);
/* After shoal_client_run: turns an error answer into an error, a cut one into IO. */
int shoal_client_stream_finish(shoal_client_stream *stream, int run_code);

#endif
