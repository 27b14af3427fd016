/* SPDX-License-Identifier: Apache-2.0
 *
 * A hardened HTTP/1.1 server: TCP, in the clear or under TLS, and optionally a Unix socket, one
 * request at a time per connection (pipelined ones wait), everything bounded by settings. It knows
 * no route and no JSON but that of an error. Loop-only, all of it.
 *
 * An exchange is one request with its answer. The handler gets it in on_request and owns the duty
 * to answer it: respond, fail, or stream_begin .. stream_end, at once or later. After the end, or
 * after on_gone, the exchange must not be touched. A client that closes its side, even half of it,
 * is gone: a closed socket is how callers of a streaming API cancel.
 */
#ifndef SHOAL_HTTP_SERVER_H
#define SHOAL_HTTP_SERVER_H

#include "common/base/buf.h"
#include "common/obs/metrics.h"
#include "protocol/http/error.h"
#include "protocol/http/loop.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_HTTP_REQUEST_ID_MAX = 64, /* bytes of x-request-id */
    SHOAL_HTTP_HEADERS_MAX = 256    /* upper bound of n_headers_max */
};

typedef struct shoal_http_settings {
    const char *address;         /* "127.0.0.1:8088", "[::1]:0"; port 0 picks one; "": no TCP */
    const char *address_key;     /* how errors name it; "listen.address" */
    const char *unix_path;       /* socket file, made with mode 0660; "" or NULL: none */
    const char *hosts;           /* more names for the Host header, comma-separated; NULL: none */
    const char *hosts_key;       /* how errors name it; "listen.hosts" */
    const char *origins;         /* other origins whose pages may call, comma-separated; "*": any;
                                  * NULL: none */
    const char *tls_cert;        /* PEM chain for TCP, NULL or "": in the clear; "api.tls_cert" */
    const char *tls_key;         /* PEM key beside it; "api.tls_key" */
    size_t n_connections_max;    /* open at once; default 1024 */
    size_t header_bytes_max;     /* request line and headers; default 16 KiB */
    size_t n_headers_max;        /* default 100 */
    size_t url_bytes_max;        /* default 8 KiB */
    size_t body_bytes_max;       /* one request; default 4 MiB */
    size_t body_bytes_total_max; /* all requests together; default 64 MiB */
    size_t write_bytes_max;      /* unsent bytes of one stream; default 1 MiB */
    /* These three begin again, twice at most for a request, where they end while bytes of the
     * client wait to be read: then the loop was late, not the client. */
    uint32_t header_ms; /* from the first byte to the end of the headers; 10000 */
    uint32_t body_ms;   /* from there to the end of the body; 30000 */
    uint32_t idle_ms;   /* between two requests; 60000 */
    uint32_t stall_ms;  /* a reader that takes nothing; 30000 */
    uint32_t linger_ms; /* what still comes after a last answer is read and dropped; 1000 */
} shoal_http_settings;
shoal_http_settings shoal_http_settings_default(void);
/* A list of origins is well formed: "*", or of scheme://host with an optional port each. */
shoal_status shoal_http_origins_check(const char *origins, shoal_err *err) SHOAL_MUST_CHECK;

typedef struct shoal_http_server shoal_http_server;
typedef struct shoal_http_exchange shoal_http_exchange;

typedef struct shoal_http_handler {
    void *ctx;
    /* The headers are there, the body is not: filling error refuses the request before a byte of
     * body is read. Optional. */
    void (*on_head)(void *ctx, shoal_http_exchange *exchange, shoal_http_error *error);
    /* How many bytes of body this request may have, asked when its headers are there; *ret_key is
     * then the setting that says so. 0, or no such function: body_bytes_max. */
    size_t (*body_max)(void *ctx, const shoal_http_exchange *exchange, const char **ret_key);
    /* The request is complete. */
    void (*on_request)(void *ctx, shoal_http_exchange *exchange);
    /* All of a begun stream that had to wait for its reader has been sent. Optional. */
    void (*on_room)(void *ctx, shoal_http_exchange *exchange);
    /* The client is gone before the answer's end; the last call for this exchange. Not called
     * when the handler learned it from stream_write. */
    void (*on_gone)(void *ctx, shoal_http_exchange *exchange);
    /* While draining: every answer has been sent. May come more than once. Optional. */
    void (*on_drained)(void *ctx);
} shoal_http_handler;

/* handler and loop are borrowed for the server's life; metrics may be NULL. Listens at once. Errors
 * name the address and the reason. */
shoal_status shoal_http_server_new(shoal_loop *loop, const shoal_http_settings *settings,
                                   const shoal_http_handler *handler, shoal_metrics *metrics,
                                   shoal_http_server **ret_server, shoal_err *err) SHOAL_MUST_CHECK;
/* The port bound, 0 without TCP. */
int shoal_http_server_port(const shoal_http_server *server);
/* "127.0.0.1:41234" as bound, "" without TCP. */
const char *shoal_http_server_address(const shoal_http_server *server);
/* Reads certificate and key again, from these files; connections made from then on meet them. On an
 * error everything is as before. SHOAL_E_INVALID also when the server speaks no TLS. */
shoal_status shoal_http_server_set_tls(shoal_http_server *server, const char *cert, const char *key,
                                       shoal_err *err) SHOAL_MUST_CHECK;
/* When the certificate ends, in seconds of Unix time; 0: no TLS. */
int64_t shoal_http_server_tls_end_s(const shoal_http_server *server);
/* The pair of files can serve, or is empty. Errors name the setting and the file. */
shoal_status shoal_http_tls_check(const char *cert, const char *key,
                                  shoal_err *err) SHOAL_MUST_CHECK;
/* Idle connections close now, the others after their answer. New ones are still served, so that
 * probes see the handler say no. */
void shoal_http_server_drain(shoal_http_server *server);
/* Stops listening and closes every connection (on_gone for open exchanges), turning the loop. */
void shoal_http_server_free(shoal_http_server *server);

/* --- the request ------------------------------------------------------------------------------ */

const char *shoal_http_method(const shoal_http_exchange *exchange); /* "GET" */
const char *shoal_http_path(const shoal_http_exchange *exchange);   /* without the query, raw */
/* Value of the first header of that name, case ignored, NULL: absent. */
const char *shoal_http_header(const shoal_http_exchange *exchange, const char *name);
/* Whether it comes from this machine: over the Unix socket or a loopback address. */
bool shoal_http_peer_is_local(const shoal_http_exchange *exchange);
/* The caller's x-request-id when it is [A-Za-z0-9._-]{1,64}, else one of ours. */
const char *shoal_http_request_id(const shoal_http_exchange *exchange);
uint64_t shoal_http_started_ns(const shoal_http_exchange *exchange);
/* Moves the body out; the caller frees it (shoal_buf_fini). */
shoal_buf shoal_http_take_body(shoal_http_exchange *exchange);
void *shoal_http_user(const shoal_http_exchange *exchange);
void shoal_http_set_user(shoal_http_exchange *exchange, void *user);

/* --- the answer ------------------------------------------------------------------------------- */

/* A whole answer. headers: more lines, each "Name: value\r\n", or NULL. Ends the exchange. */
void shoal_http_respond(shoal_http_exchange *exchange, int status, const char *type,
                        const char *headers, const void *body, size_t n);
/* The same from an error. */
void shoal_http_fail(shoal_http_exchange *exchange, const shoal_http_error *error);

/* The parts of a streamed answer. Each gives SHOAL_OK, or an error when the client is gone or does
 * not read (SHOAL_E_LIMIT: write_bytes_max): the exchange has then ended. */
shoal_status shoal_http_stream_begin(shoal_http_exchange *exchange, int status, const char *type,
                                     const char *headers) SHOAL_MUST_CHECK;
shoal_status shoal_http_stream_write(shoal_http_exchange *exchange, const void *data,
                                     size_t n) SHOAL_MUST_CHECK;
/* Ends the exchange; whole: false cuts the connection instead of closing the body properly. */
void shoal_http_stream_end(shoal_http_exchange *exchange, bool whole);
/* Bytes written that the kernel has not taken yet. 0: on_room does not come by itself. */
size_t shoal_http_stream_unsent(const shoal_http_exchange *exchange);
/* True once stream_begin was called. */
bool shoal_http_begun(const shoal_http_exchange *exchange);

#endif
