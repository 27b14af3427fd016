/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenSSL between two memory BIOs. Its queue of errors belongs to the thread and is emptied before
 * each call, so that an old error is never taken for a new one.
 */
#include "protocol/http/tls.h"

#include "common/base/mem.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <time.h>

enum {
    PIECE_BYTES = 8192 /* through a BIO at once: it keeps the memory of the most it ever held */
};

struct shoal_http_tls_keys {
    SSL_CTX *ctx;
    int64_t end_s;
};

struct shoal_http_tls {
    SSL *ssl;
    BIO *in;  /* owned by ssl */
    BIO *out; /* owned by ssl */
    bool closed;
};

/* --- keys ------------------------------------------------------------------------------------- */

/* A key that needs a password is an error, not a question on a terminal. */
static int no_password(char *buf, int size, int rwflag, void *ctx)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)ctx;
    return -1;
}

static int choose_protocol(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_length,
                           const unsigned char *offered, unsigned n_offered, void *ctx)
{
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *chosen = NULL;
    (void)ssl;
    (void)ctx;
    if (SSL_select_next_proto(&chosen, ret_length, ours, sizeof ours - 1, offered, n_offered) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *ret_name = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static shoal_status fail_file(shoal_err *err, const char *key, const char *path)
{
    unsigned long code = ERR_peek_last_error();
    const char *why = ERR_reason_error_string(code);
    if (ERR_GET_LIB(code) == ERR_LIB_SYS || !why) {
        why = "it cannot be read";
    }
    ERR_clear_error();
    return shoal_err_set(err, SHOAL_E_INVALID, "%s: %.300s: %s", key, path, why);
}

static bool set_up(SSL_CTX *ctx)
{
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                       SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1;
}

static int64_t end_of(const SSL_CTX *ctx)
{
    struct tm parts;
    memset(&parts, 0, sizeof parts);
    const X509 *cert = SSL_CTX_get0_certificate(ctx);
    if (!cert || ASN1_TIME_to_tm(X509_get0_notAfter(cert), &parts) != 1) {
        return 0;
    }
    return (int64_t)timegm(&parts);
}

static shoal_status load(shoal_http_tls_keys *keys, const char *cert, const char *key,
                         const char *cert_key, const char *key_key, shoal_err *err)
{
    ERR_clear_error();
    keys->ctx = SSL_CTX_new(TLS_server_method());
    if (!keys->ctx || !set_up(keys->ctx)) {
        ERR_clear_error();
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for TLS");
    }
    if (SSL_CTX_use_certificate_chain_file(keys->ctx, cert) != 1) {
        return fail_file(err, cert_key, cert);
    }
    if (SSL_CTX_use_PrivateKey_file(keys->ctx, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(keys->ctx) != 1) {
        return fail_file(err, key_key, key);
    }
    keys->end_s = end_of(keys->ctx);
    return SHOAL_OK;
}

shoal_status shoal_http_tls_keys_new(const char *cert, const char *key, const char *cert_key,
                                     const char *key_key, shoal_http_tls_keys **ret_keys,
                                     shoal_err *err)
{
    /* OpenSSL takes itself down when the process exits, while other threads may be inside it. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
    shoal_http_tls_keys *keys = shoal_calloc(1, sizeof *keys);
    if (!keys) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for TLS");
    }
    shoal_status status = load(keys, cert, key, cert_key, key_key, err);
    if (status != SHOAL_OK) {
        shoal_http_tls_keys_free(keys);
        return status;
    }
    *ret_keys = keys;
    return SHOAL_OK;
}

int64_t shoal_http_tls_keys_end_s(const shoal_http_tls_keys *keys)
{
    return keys->end_s;
}

void shoal_http_tls_keys_free(shoal_http_tls_keys *keys)
{
    if (keys) {
        SSL_CTX_free(keys->ctx);
        shoal_free(keys);
    }
}

/* --- one connection --------------------------------------------------------------------------- */

shoal_status shoal_http_tls_new(const shoal_http_tls_keys *keys, shoal_http_tls **ret_tls)
{
    shoal_http_tls *tls = shoal_calloc(1, sizeof *tls);
    if (!tls) {
        return SHOAL_E_NOMEM;
    }
    tls->ssl = SSL_new(keys->ctx);
    BIO *in = BIO_new(BIO_s_mem());
    BIO *out = BIO_new(BIO_s_mem());
    if (!tls->ssl || !in || !out) {
        BIO_free(in);
        BIO_free(out);
        shoal_http_tls_free(tls);
        ERR_clear_error();
        return SHOAL_E_NOMEM;
    }
    (void)BIO_set_mem_eof_return(in, -1); /* empty means more may come */
    SSL_set_bio(tls->ssl, in, out);
    SSL_set_accept_state(tls->ssl);
    tls->in = in;
    tls->out = out;
    *ret_tls = tls;
    return SHOAL_OK;
}

void shoal_http_tls_free(shoal_http_tls *tls)
{
    if (tls) {
        SSL_free(tls->ssl);
        shoal_free(tls);
    }
}

static shoal_status take_out(shoal_http_tls *tls, shoal_buf *wire)
{
    char *data = NULL;
    long n = BIO_get_mem_data(tls->out, &data);
    if (n > 0) {
        SHOAL_TRY(shoal_buf_append(wire, data, (size_t)n));
        (void)BIO_reset(tls->out);
    }
    return SHOAL_OK;
}

/* What a call that gave nothing has met. */
static shoal_http_tls_end end_from(const shoal_http_tls *tls, int rc)
{
    int why = SSL_get_error(tls->ssl, rc);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
        return SHOAL_HTTP_TLS_OPEN;
    }
    if (why == SSL_ERROR_ZERO_RETURN) {
        return SHOAL_HTTP_TLS_CLOSED;
    }
    unsigned long code = ERR_peek_error();
    bool http = ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_HTTP_REQUEST;
    return http ? SHOAL_HTTP_TLS_PLAIN : SHOAL_HTTP_TLS_BROKEN;
}

/* Everything that is whole in the BIO. */
static shoal_status read_records(shoal_http_tls *tls, shoal_buf *plain, shoal_http_tls_end *ret_end)
{
    char piece[PIECE_BYTES];
    for (;;) {
        size_t got = 0;
        int rc = SSL_read_ex(tls->ssl, piece, sizeof piece, &got);
        if (rc != 1) {
            *ret_end = end_from(tls, rc);
            ERR_clear_error();
            return SHOAL_OK;
        }
        SHOAL_TRY(shoal_buf_append(plain, piece, got));
    }
}

shoal_status shoal_http_tls_pull(shoal_http_tls *tls, const char *data, size_t n, shoal_buf *plain,
                                 shoal_buf *wire, shoal_http_tls_end *ret_end)
{
    shoal_http_tls_end end = SHOAL_HTTP_TLS_OPEN;
    ERR_clear_error();
    for (size_t at = 0; at < n && end == SHOAL_HTTP_TLS_OPEN;) {
        size_t piece = SHOAL_MIN(n - at, (size_t)PIECE_BYTES);
        if (BIO_write(tls->in, data + at, (int)piece) != (int)piece) {
            ERR_clear_error();
            return SHOAL_E_NOMEM;
        }
        at += piece;
        SHOAL_TRY(read_records(tls, plain, &end));
        SHOAL_TRY(take_out(tls, wire));
    }
    *ret_end = end;
    return SHOAL_OK;
}

bool shoal_http_tls_ready(const shoal_http_tls *tls)
{
    return SSL_is_init_finished(tls->ssl) == 1;
}

shoal_status shoal_http_tls_push(shoal_http_tls *tls, const char *data, size_t n, shoal_buf *wire)
{
    ERR_clear_error();
    for (size_t at = 0; at < n;) {
        size_t piece = SHOAL_MIN(n - at, (size_t)PIECE_BYTES);
        size_t taken = 0;
        if (SSL_write_ex(tls->ssl, data + at, piece, &taken) != 1 || taken != piece) {
            ERR_clear_error();
            return SHOAL_E_IO;
        }
        at += piece;
        SHOAL_TRY(take_out(tls, wire));
    }
    return SHOAL_OK;
}

shoal_status shoal_http_tls_close(shoal_http_tls *tls, shoal_buf *wire)
{
    if (tls->closed) {
        return SHOAL_OK;
    }
    tls->closed = true;
    ERR_clear_error();
    (void)SSL_shutdown(tls->ssl); /* 0: the client's own end is not waited for */
    ERR_clear_error();
    return take_out(tls, wire);
}
