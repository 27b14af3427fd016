/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's side of TLS 1.2 and 1.3 (RFC 5246, RFC 8446) without I/O: bytes of the wire go in
 * and come out of memory, a connection carries them. Clients show no certificate: who may call is
 * decided by the API's key. ALPN (RFC 7301) knows http/1.1 alone; no renegotiation, no compression,
 * no early data; of TLS 1.2 only suites with forward secrecy and AEAD.
 *
 * Loop-only. A keys object is counted: one that is replaced lives on in its connections.
 */
#ifndef SHOAL_HTTP_TLS_H
#define SHOAL_HTTP_TLS_H

#include "common/base/buf.h"
#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct shoal_http_tls_keys shoal_http_tls_keys;
typedef struct shoal_http_tls shoal_http_tls;

/* Reads a PEM chain, the server's own certificate first, and its key, which needs no password.
 * Errors begin with cert_key or key_key (names of settings) and name the file: SHOAL_E_INVALID,
 * SHOAL_E_NOMEM. */
shoal_status shoal_http_tls_keys_new(const char *cert, const char *key, const char *cert_key,
                                     const char *key_key, shoal_http_tls_keys **ret_keys,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* When the certificate ends, in seconds of Unix time. */
int64_t shoal_http_tls_keys_end_s(const shoal_http_tls_keys *keys);
void shoal_http_tls_keys_free(shoal_http_tls_keys *keys); /* NULL is allowed */

shoal_status shoal_http_tls_new(const shoal_http_tls_keys *keys,
                                shoal_http_tls **ret_tls) SHOAL_MUST_CHECK;
void shoal_http_tls_free(shoal_http_tls *tls); /* NULL is allowed */

typedef enum shoal_http_tls_end {
    SHOAL_HTTP_TLS_OPEN,
    SHOAL_HTTP_TLS_CLOSED, /* the client has ended its side in order */
    SHOAL_HTTP_TLS_BROKEN, /* what came is no TLS or not the client's: wire may hold an alert */
    SHOAL_HTTP_TLS_PLAIN   /* the first bytes are those of an HTTP request */
} shoal_http_tls_end;

/* Takes all of data[0..n), up to an end; appends what it says to plain and what must be sent for
 * it to wire. SHOAL_E_NOMEM ends the connection. */
shoal_status shoal_http_tls_pull(shoal_http_tls *tls, const char *data, size_t n, shoal_buf *plain,
                                 shoal_buf *wire, shoal_http_tls_end *ret_end) SHOAL_MUST_CHECK;
/* The handshake is done: bytes can be pushed. */
bool shoal_http_tls_ready(const shoal_http_tls *tls);
/* Appends data[0..n) to wire as records, once ready. SHOAL_E_IO or SHOAL_E_NOMEM ends the
 * connection. */
shoal_status shoal_http_tls_push(shoal_http_tls *tls, const char *data, size_t n,
                                 shoal_buf *wire) SHOAL_MUST_CHECK;
/* Appends the end of our side to wire, once. */
shoal_status shoal_http_tls_close(shoal_http_tls *tls, shoal_buf *wire) SHOAL_MUST_CHECK;

#endif
