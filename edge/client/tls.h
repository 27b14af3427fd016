/* SPDX-License-Identifier: Apache-2.0
 *
 * The client's side of TLS 1.2 and 1.3 (RFC 5246, RFC 8446) without I/O: bytes of the wire go in
 * and come out of memory, a connection carries them (conn.c). The server's certificate must end in
 * a trusted authority and bear the host's name or address (RFC 6125; no partial wildcards); we show
 * none. ALPN offers http/1.1; no renegotiation, no resumption, no early data.
 *
 * A trust belongs to a handle and may be used by one thread at a time, as the handle. OpenSSL's
 * queue of errors, which is a thread's, is emptied by every call. Functions answer a
 * shoal_client_code: NOMEM, TLS (a handshake that cannot succeed), IO (a connection that broke).
 */
#ifndef SHOAL_CLIENT_TLS_H
#define SHOAL_CLIENT_TLS_H

#include "edge/client/client_internal.h"

enum {
    SHOAL_CLIENT_WHY_MAX = 400 /* bytes of why a certificate is not believed */
};

typedef struct x509_st shoal_client_x509; /* OpenSSL's X509 */

/* --- trust.c ---------------------------------------------------------------------------------- */

/* ca_file: PEM; NULL: the system's authorities. INVALID, naming the file, or NOMEM. */
int shoal_client_trust_new(const char *ca_file, shoal_client_trust **ret_trust,
                           shoal_client_error *error);
void shoal_client_trust_free(shoal_client_trust *trust); /* NULL is allowed */
/* Why a certificate is refused, and the remedy; problem is one of X509_V_ERR. */
void shoal_client_trust_explain(const shoal_client_x509 *cert, int problem, const char *host,
                                char *ret_why, size_t n);

/* --- tls.c ------------------------------------------------------------------------------------ */

typedef struct shoal_client_tls shoal_client_tls;

/* For a connection to host, a name or an address of at most 255 bytes; url stands in errors, it and
 * trust are borrowed for the object's life. */
int shoal_client_tls_new(shoal_client_trust *trust, const char *url, const char *host,
                         shoal_client_tls **ret_tls, shoal_client_error *error);
void shoal_client_tls_free(shoal_client_tls *tls); /* NULL is allowed */

enum {
    SHOAL_CLIENT_TLS_FEED_MAX = 8192 /* a memory BIO keeps the memory of the most it ever held */
};
/* Bytes of the wire have come, at most SHOAL_CLIENT_TLS_FEED_MAX. Shake or read must then be called
 * until they want more. */
int shoal_client_tls_feed(shoal_client_tls *tls, const char *data, size_t n,
                          shoal_client_error *error);
/* The peer has closed its connection without saying so in TLS: IO, and its text. */
int shoal_client_tls_cut(const shoal_client_tls *tls, shoal_client_error *error);
/* One step of the handshake; with OK and not *ret_done, more bytes of the peer are needed. Also
 * after a failure there may be bytes to send: an alert. */
int shoal_client_tls_shake(shoal_client_tls *tls, bool *ret_done, shoal_client_error *error);
/* After the handshake: what the peer says. *ret_n = 0: more of its bytes are needed, or with
 * *ret_end it has ended its side in order. */
int shoal_client_tls_read(shoal_client_tls *tls, char *data, size_t capacity, size_t *ret_n,
                          bool *ret_end, shoal_client_error *error);
/* After the handshake: read would not want more bytes. */
bool shoal_client_tls_has_news(shoal_client_tls *tls);
/* After the handshake: data[0..n), n at most 16 KiB, as records to be sent. */
int shoal_client_tls_write(shoal_client_tls *tls, const char *data, size_t n,
                           shoal_client_error *error);
/* Our side ends: an alert to be sent. */
void shoal_client_tls_end(shoal_client_tls *tls);
/* What must be sent now, valid until the next call; *ret_n = 0: nothing. */
const char *shoal_client_tls_out(const shoal_client_tls *tls, size_t *ret_n);
/* n of these bytes were sent. */
void shoal_client_tls_sent(shoal_client_tls *tls, size_t n);

#endif
