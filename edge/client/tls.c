/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenSSL between two memory BIOs. Its queue of errors is emptied before each call, so that an old
 * error is never taken for a new one.
 */
#include "edge/client/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

struct shoal_client_tls {
    SSL *ssl;
    BIO *in;  /* owned by ssl */
    BIO *out; /* owned by ssl */
    const char *url;
    char host[256];
    size_t n_sent;                  /* of what is in out */
    bool shaken;                    /* OpenSSL forgets after an error */
    bool heard;                     /* at least one byte of the peer */
    bool strange;                   /* and it was not TLS's */
    char why[SHOAL_CLIENT_WHY_MAX]; /* of a certificate that was refused */
};

/* --- a connection's object -------------------------------------------------------------------- */

static int on_certificate(int ok, X509_STORE_CTX *store)
{
    const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    shoal_client_tls *tls = SSL_get_app_data(ssl);
    const X509 *cert = X509_STORE_CTX_get_current_cert(store);
    if (!ok && cert && !tls->why[0]) {
        shoal_client_trust_explain(cert, X509_STORE_CTX_get_error(store), tls->host, tls->why,
                                   sizeof tls->why);
    }
    return ok;
}

/* Names are checked by X509_check_host, addresses by X509_check_ip; only names go into SNI. */
static bool expect_host(SSL *ssl, char *host)
{
    unsigned char bytes[16];
    if (inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1) {
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
    }
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

int shoal_client_tls_new(shoal_client_trust *trust, const char *url, const char *host,
                         shoal_client_tls **ret_tls, shoal_client_error *error)
{
    ERR_clear_error();
    shoal_client_tls *tls = calloc(1, sizeof *tls);
    BIO *in = BIO_new(BIO_s_mem());
    BIO *out = BIO_new(BIO_s_mem());
    if (tls) {
        (void)snprintf(tls->host, sizeof tls->host, "%s", host);
        tls->ssl = SSL_new(trust);
    }
    if (!tls || !tls->ssl || !in || !out || !expect_host(tls->ssl, tls->host)) {
        BIO_free(in);
        BIO_free(out);
        shoal_client_tls_free(tls);
        ERR_clear_error();
        return shoal_client_fail(error, SHOAL_CLIENT_E_NOMEM, "no memory for TLS");
    }
    (void)BIO_set_mem_eof_return(in, -1); /* empty means more may come */
    SSL_set_bio(tls->ssl, in, out);
    SSL_set_connect_state(tls->ssl);
    SSL_set_app_data(tls->ssl, tls);
    SSL_set_verify(tls->ssl, SSL_VERIFY_PEER, on_certificate);
    tls->in = in;
    tls->out = out;
    tls->url = url;
    *ret_tls = tls;
    return SHOAL_CLIENT_OK;
}

void shoal_client_tls_free(shoal_client_tls *tls)
{
    if (tls) {
        SSL_free(tls->ssl);
        free(tls);
    }
}

/* --- the wire --------------------------------------------------------------------------------- */

int shoal_client_tls_feed(shoal_client_tls *tls, const char *data, size_t n,
                          shoal_client_error *error)
{
    ERR_clear_error();
    if (!tls->heard && n > 0) {
        tls->heard = true;
        tls->strange = data[0] != SSL3_RT_HANDSHAKE && data[0] != SSL3_RT_ALERT;
    }
    if (BIO_write(tls->in, data, (int)n) != (int)n) {
        ERR_clear_error();
        return shoal_client_fail(error, SHOAL_CLIENT_E_NOMEM, "no memory for TLS");
    }
    return SHOAL_CLIENT_OK;
}

const char *shoal_client_tls_out(const shoal_client_tls *tls, size_t *ret_n)
{
    char *data = NULL;
    long n = BIO_get_mem_data(tls->out, &data);
    *ret_n = n > 0 ? (size_t)n - tls->n_sent : 0;
    return n > 0 ? data + tls->n_sent : NULL;
}

void shoal_client_tls_sent(shoal_client_tls *tls, size_t n)
{
    size_t left = 0;
    tls->n_sent += n;
    (void)shoal_client_tls_out(tls, &left);
    if (left == 0) {
        (void)BIO_reset(tls->out);
        tls->n_sent = 0;
    }
}

int shoal_client_tls_cut(const shoal_client_tls *tls, shoal_client_error *error)
{
    if (!tls->shaken) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_IO,
                                 "%s: the connection ended in the TLS handshake; is this an edge "
                                 "with api.tls_cert?",
                                 tls->url);
    }
    return shoal_client_fail(error, SHOAL_CLIENT_E_IO,
                             "%s: the connection was cut: TLS did not end before it did", tls->url);
}

/* --- handshake and data ----------------------------------------------------------------------- */

/* A call gave nothing: OK where it wants more bytes, *ret_end where the peer has ended. */
static int judge(const shoal_client_tls *tls, int rc, bool *ret_end, shoal_client_error *error)
{
    int what = SSL_get_error(tls->ssl, rc);
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    ERR_clear_error();
    *ret_end = what == SSL_ERROR_ZERO_RETURN;
    if (*ret_end || what == SSL_ERROR_WANT_READ || what == SSL_ERROR_WANT_WRITE) {
        return SHOAL_CLIENT_OK;
    }
    if (ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_NOMEM, "no memory for TLS");
    }
    reason = reason ? reason : "no reason is known";
    if (tls->shaken) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_IO, "%s: TLS broke: %s", tls->url, reason);
    }
    if (tls->why[0]) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_TLS, "%s: %s", tls->url, tls->why);
    }
    if (tls->strange) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_TLS,
                                 "%s: what answers there speaks no TLS; is it http://?", tls->url);
    }
    return shoal_client_fail(error, SHOAL_CLIENT_E_TLS, "%s: the TLS handshake failed: %s",
                             tls->url, reason);
}

int shoal_client_tls_shake(shoal_client_tls *tls, bool *ret_done, shoal_client_error *error)
{
    bool end = false;
    ERR_clear_error();
    int rc = SSL_do_handshake(tls->ssl);
    tls->shaken = rc == 1;
    *ret_done = tls->shaken;
    if (rc == 1) {
        return SHOAL_CLIENT_OK;
    }
    int code = judge(tls, rc, &end, error);
    return code == SHOAL_CLIENT_OK && end ? shoal_client_tls_cut(tls, error) : code;
}

int shoal_client_tls_read(shoal_client_tls *tls, char *data, size_t capacity, size_t *ret_n,
                          bool *ret_end, shoal_client_error *error)
{
    *ret_n = 0;
    *ret_end = false;
    ERR_clear_error();
    int rc = SSL_read_ex(tls->ssl, data, capacity, ret_n);
    return rc == 1 ? SHOAL_CLIENT_OK : judge(tls, rc, ret_end, error);
}

bool shoal_client_tls_has_news(shoal_client_tls *tls)
{
    char one = 0;
    size_t n = 0;
    ERR_clear_error();
    int rc = SSL_peek_ex(tls->ssl, &one, 1, &n);
    bool wants_more = rc != 1 && SSL_get_error(tls->ssl, rc) == SSL_ERROR_WANT_READ;
    ERR_clear_error();
    return !wants_more;
}

int shoal_client_tls_write(shoal_client_tls *tls, const char *data, size_t n,
                           shoal_client_error *error)
{
    bool end = false;
    size_t taken = 0;
    ERR_clear_error();
    int rc = SSL_write_ex(tls->ssl, data, n, &taken);
    if (rc == 1 && taken == n) {
        return SHOAL_CLIENT_OK;
    }
    int code = judge(tls, rc, &end, error);
    return code != SHOAL_CLIENT_OK ? code : shoal_client_tls_cut(tls, error);
}

void shoal_client_tls_end(shoal_client_tls *tls)
{
    ERR_clear_error();
    (void)SSL_shutdown(tls->ssl); /* 0: the peer's own end is not waited for */
    ERR_clear_error();
}
