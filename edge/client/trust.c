/* SPDX-License-Identifier: Apache-2.0
 *
 * Whom a handle believes: authorities of its file, or those of the system, and what a person is
 * told of a certificate that is not believed.
 */
#include "edge/client/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    NAMES_MAX = 160, /* bytes of a certificate's names that are told */
    NAME_MAX_BYTES = 96
};

/* --- authorities ------------------------------------------------------------------------------ */

static int no_memory(shoal_client_error *error)
{
    ERR_clear_error();
    return shoal_client_fail(error, SHOAL_CLIENT_E_NOMEM, "no memory for TLS");
}

static bool set_up(SSL_CTX *ctx)
{
    static const unsigned char protocols[] = "\x08http/1.1";
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1 &&
           SSL_CTX_set_alpn_protos(ctx, protocols, sizeof protocols - 1) == 0;
}

static int load(SSL_CTX *ctx, const char *ca_file, shoal_client_error *error)
{
    if (!ca_file) {
        return SSL_CTX_set_default_verify_paths(ctx) == 1 ? SHOAL_CLIENT_OK : no_memory(error);
    }
    if (SSL_CTX_load_verify_file(ctx, ca_file) == 1) {
        /* A file may hold an edge's own certificate, whoever signed it. */
        (void)X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN);
        return SHOAL_CLIENT_OK;
    }
    unsigned long code = ERR_peek_error();
    const char *why = ERR_reason_error_string(code);
    if (ERR_GET_LIB(code) == ERR_LIB_SYS || !why) {
        why = "it cannot be read";
    }
    int status =
        shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                          "ca_file %.300s: %s; a PEM file of certificates is needed", ca_file, why);
    ERR_clear_error();
    return status;
}

int shoal_client_trust_new(const char *ca_file, shoal_client_trust **ret_trust,
                           shoal_client_error *error)
{
    /* OpenSSL takes itself down when the process exits, while other threads may be inside it. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx || !set_up(ctx)) {
        SSL_CTX_free(ctx);
        return no_memory(error);
    }
    int code = load(ctx, ca_file, error);
    if (code != SHOAL_CLIENT_OK) {
        SSL_CTX_free(ctx);
        return code;
    }
    *ret_trust = ctx;
    return SHOAL_CLIENT_OK;
}

void shoal_client_trust_free(shoal_client_trust *trust)
{
    SSL_CTX_free(trust);
}

/* --- what is wrong with a certificate --------------------------------------------------------- */

static void put_day(const ASN1_TIME *when, char ret_day[16])
{
    struct tm t;
    memset(&t, 0, sizeof t);
    (void)snprintf(ret_day, 16, "another day");
    if (ASN1_TIME_to_tm(when, &t) == 1) {
        (void)strftime(ret_day, 16, "%Y-%m-%d", &t);
    }
}

/* One subject alternative name: a name, or an address of 4 or 16 bytes. False: of another kind. */
static bool put_name(const GENERAL_NAME *name, char ret_text[NAME_MAX_BYTES])
{
    int kind = 0;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &kind);
    if (kind == GEN_DNS) {
        (void)snprintf(ret_text, NAME_MAX_BYTES, "%.*s", ASN1_STRING_length(value),
                       (const char *)ASN1_STRING_get0_data(value));
        return true;
    }
    int n = kind == GEN_IPADD ? ASN1_STRING_length(value) : 0;
    return (n == 4 || n == 16) && inet_ntop(n == 4 ? AF_INET : AF_INET6,
                                            ASN1_STRING_get0_data(value), ret_text, NAME_MAX_BYTES);
}

/* "localhost, 127.0.0.1", cut to fit. */
static void put_names(const X509 *cert, char ret_names[NAMES_MAX])
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    size_t n = 0;
    ret_names[0] = '\0';
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        char text[NAME_MAX_BYTES];
        if (put_name(sk_GENERAL_NAME_value(names, i), text) && n + strlen(text) + 3 < NAMES_MAX) {
            n += (size_t)snprintf(ret_names + n, NAMES_MAX - n, "%s%s", n ? ", " : "", text);
        }
    }
    GENERAL_NAMES_free(names);
    if (n == 0) {
        (void)snprintf(ret_names, NAMES_MAX, "no host at all");
    }
}

static void put_mismatch(const X509 *cert, const char *host, char *ret_why, size_t n)
{
    char names[NAMES_MAX];
    put_names(cert, names);
    (void)snprintf(ret_why, n,
                   "its certificate is not for %.100s but for %s; ask for it by such a name, or "
                   "give it a certificate with this one",
                   host, names);
}

static void put_stranger(const X509 *cert, char *ret_why, size_t n)
{
    char issuer[NAMES_MAX] = "";
    (void)X509_NAME_oneline(X509_get_issuer_name(cert), issuer, sizeof issuer);
    (void)snprintf(ret_why, n,
                   "its certificate was issued by %s, which is not among the trusted "
                   "authorities; if it should be, name its certificate's file (ca_file, "
                   "--ca-file, $SHOAL_CA_FILE)",
                   issuer);
}

void shoal_client_trust_explain(const shoal_client_x509 *cert, int problem, const char *host,
                                char *ret_why, size_t n)
{
    char day[16];
    switch (problem) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        put_mismatch(cert, host, ret_why, n);
        return;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        put_stranger(cert, ret_why, n);
        return;
    case X509_V_ERR_CERT_HAS_EXPIRED:
        put_day(X509_get0_notAfter(cert), day);
        (void)snprintf(ret_why, n,
                       "its certificate ended on %s; the edge needs a new one (api.tls_cert), or "
                       "this machine's clock is wrong",
                       day);
        return;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        put_day(X509_get0_notBefore(cert), day);
        (void)snprintf(ret_why, n,
                       "its certificate begins on %s only; this machine's clock may be wrong", day);
        return;
    default:
        (void)snprintf(ret_why, n, "its certificate is not trusted: %s",
                       X509_verify_cert_error_string(problem));
        return;
    }
}
