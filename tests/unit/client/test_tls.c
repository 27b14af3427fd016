/* SPDX-License-Identifier: Apache-2.0
 *
 * The client's side of TLS against OpenSSL's server, both between memory BIOs: each test decides
 * which bytes of the wire come, and how many at once.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "edge/client/tls.h"

enum {
    DAY_S = 86400
};

static const char url[] = "https://edge.example:8443";

/* --- an authority and its certificates -------------------------------------------------------- */

static char folder[64];
static EVP_PKEY *ca_key;
static X509 *ca_cert;
static EVP_PKEY *edge_key;

static char *path_of(const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", folder, name);
    return path;
}

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* names NULL: an authority, signed by itself. Days count from now. */
static X509 *make_cert(const char *common, const char *names, long from_days, long to_days,
                       EVP_PKEY *key, EVP_PKEY *signer)
{
    X509 *cert = X509_new();
    assert_non_null(cert);
    X509 *issuer = names && ca_cert ? ca_cert : cert;
    assert_int_equal(X509_set_version(cert, 2), 1);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(cert), names ? 2 : 1), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), from_days * DAY_S));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), to_days * DAY_S));
    X509_NAME *subject = X509_get_subject_name(cert);
    assert_int_equal(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                                (const unsigned char *)common, -1, -1, 0),
                     1);
    assert_int_equal(X509_set_issuer_name(cert, X509_get_subject_name(issuer)), 1);
    assert_int_equal(X509_set_pubkey(cert, key), 1);
    add_extension(cert, issuer, NID_basic_constraints,
                  names ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (names && names[0]) {
        add_extension(cert, issuer, NID_subject_alt_name, names);
    }
    assert_true(X509_sign(cert, signer, EVP_sha256()) > 0);
    return cert;
}

static void write_cert(const char *name, X509 *cert)
{
    char path[128];
    FILE *f = fopen(path_of(name, path), "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, cert), 1);
    assert_int_equal(fclose(f), 0);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-trust-XXXXXX");
    assert_non_null(mkdtemp(folder));
    ca_key = EVP_EC_gen("P-256");
    edge_key = EVP_EC_gen("P-256");
    assert_true(ca_key && edge_key);
    ca_cert = make_cert("Our authority", NULL, -10, 10, ca_key, ca_key);
    write_cert("ca.pem", ca_cert);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char path[128];
    (void)unlink(path_of("ca.pem", path));
    (void)rmdir(folder);
    X509_free(ca_cert);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(edge_key);
    return 0;
}

/* --- the other side --------------------------------------------------------------------------- */

typedef struct server {
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in;
    BIO *out;
} server;

static server server_new(X509 *cert, EVP_PKEY *key, int version)
{
    server s = {.ctx = SSL_CTX_new(TLS_server_method())};
    assert_int_equal(SSL_CTX_use_certificate(s.ctx, cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(s.ctx, key), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(s.ctx, version), 1);
    s.ssl = SSL_new(s.ctx);
    s.in = BIO_new(BIO_s_mem());
    s.out = BIO_new(BIO_s_mem());
    assert_true(s.ssl && s.in && s.out);
    (void)BIO_set_mem_eof_return(s.in, -1);
    SSL_set_bio(s.ssl, s.in, s.out);
    SSL_set_accept_state(s.ssl);
    return s;
}

static void server_free(server *s)
{
    SSL_free(s->ssl);
    SSL_CTX_free(s->ctx);
}

/* What the client wants to send goes to the server; how much it was. */
static size_t to_server(shoal_client_tls *tls, const server *s)
{
    size_t n = 0;
    size_t all = 0;
    for (;;) {
        const char *data = shoal_client_tls_out(tls, &n);
        if (n == 0) {
            return all;
        }
        size_t piece = n > 3 ? n / 2 : n;
        assert_int_equal(BIO_write(s->in, data, (int)piece), piece);
        shoal_client_tls_sent(tls, piece);
        all += piece;
    }
}

typedef struct peer {
    shoal_client_trust *trust;
    shoal_client_tls *tls;
    server s;
    shoal_client_error error;
} peer;

static peer peer_new(X509 *cert, EVP_PKEY *key, const char *ca_file, const char *host, int version)
{
    peer p = {.trust = NULL};
    assert_int_equal(shoal_client_trust_new(ca_file, &p.trust, &p.error), SHOAL_CLIENT_OK);
    assert_int_equal(shoal_client_tls_new(p.trust, url, host, &p.tls, &p.error), SHOAL_CLIENT_OK);
    p.s = server_new(cert, key, version);
    return p;
}

static void peer_free(peer *p)
{
    shoal_client_tls_free(p->tls);
    shoal_client_trust_free(p->trust);
    server_free(&p->s);
}

/* Shakes hands; at most n_max bytes of the server's come, in pieces. OK and not *ret_done: it is
 * not done with them. */
static int shake(peer *p, size_t piece, size_t n_max, bool *ret_done)
{
    char wire[SHOAL_CLIENT_TLS_FEED_MAX];
    for (;;) {
        int code = shoal_client_tls_shake(p->tls, ret_done, &p->error);
        size_t told = to_server(p->tls, &p->s);
        if (code != SHOAL_CLIENT_OK || *ret_done) {
            return code;
        }
        (void)SSL_do_handshake(p->s.ssl);
        ERR_clear_error();
        size_t want = piece < n_max ? piece : n_max;
        int got = want > 0 ? BIO_read(p->s.out, wire, (int)want) : -1;
        if (got <= 0 && told == 0) {
            return SHOAL_CLIENT_OK;
        }
        if (got > 0) {
            n_max -= (size_t)got;
            assert_int_equal(shoal_client_tls_feed(p->tls, wire, (size_t)got, &p->error),
                             SHOAL_CLIENT_OK);
        }
    }
}

static void finish_server(const peer *p)
{
    (void)to_server(p->tls, &p->s);
    assert_int_equal(SSL_do_handshake(p->s.ssl), 1);
}

/* Everything the server has for the client, in pieces; what was said is appended to text. */
static int take_all(peer *p, size_t piece, char *text, size_t capacity, bool *ret_end)
{
    char wire[SHOAL_CLIENT_TLS_FEED_MAX];
    size_t n_text = 0;
    *ret_end = false;
    for (;;) {
        int got = BIO_read(p->s.out, wire, (int)piece);
        if (got <= 0) {
            return SHOAL_CLIENT_OK;
        }
        SHOAL_CLIENT_TRY(shoal_client_tls_feed(p->tls, wire, (size_t)got, &p->error));
        for (size_t n = 1; n > 0; n_text += n) {
            SHOAL_CLIENT_TRY(shoal_client_tls_read(p->tls, text + n_text, capacity - n_text, &n,
                                                   ret_end, &p->error));
        }
    }
}

/* --- what is trusted -------------------------------------------------------------------------- */

static void test_tls_carries_both_ways_in_pieces_of_any_size(void **state)
{
    (void)state;
    char path[128];
    const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    const size_t pieces[] = {1, 7, 8192};
    static char text[20000];
    X509 *cert = make_cert("edge", "DNS:edge.example,IP:192.0.2.7", -1, 1, edge_key, ca_key);
    for (size_t i = 0; i < 6; i++) {
        size_t piece = pieces[i % 3];
        peer p = peer_new(cert, edge_key, path_of("ca.pem", path),
                          i % 2 ? "edge.example" : "192.0.2.7", versions[i / 3]);
        bool done = false;
        assert_int_equal(shake(&p, piece, SIZE_MAX, &done), SHOAL_CLIENT_OK);
        assert_true(done);
        finish_server(&p);
        assert_int_equal(shoal_client_tls_write(p.tls, "question", 8, &p.error), SHOAL_CLIENT_OK);
        (void)to_server(p.tls, &p.s);
        size_t n = 0;
        assert_int_equal(SSL_read_ex(p.s.ssl, text, sizeof text, &n), 1);
        assert_memory_equal(text, "question", 8);
        static char answer[16384];
        memset(answer, 'a', sizeof answer);
        assert_int_equal(SSL_write(p.s.ssl, answer, sizeof answer), sizeof answer);
        bool end = false;
        memset(text, 0, sizeof text);
        assert_int_equal(take_all(&p, piece, text, sizeof text, &end), SHOAL_CLIENT_OK);
        assert_memory_equal(text, answer, sizeof answer);
        assert_int_equal(strlen(text), sizeof answer);
        assert_false(end);
        assert_false(shoal_client_tls_has_news(p.tls));
        (void)SSL_shutdown(p.s.ssl);
        assert_int_equal(take_all(&p, piece, text, sizeof text, &end), SHOAL_CLIENT_OK);
        assert_true(end);
        assert_true(shoal_client_tls_has_news(p.tls));
        shoal_client_tls_end(p.tls);
        (void)to_server(p.tls, &p.s);
        assert_int_equal(SSL_read_ex(p.s.ssl, text, sizeof text, &n), 0);
        assert_int_equal(SSL_get_error(p.s.ssl, 0), SSL_ERROR_ZERO_RETURN);
        peer_free(&p);
    }
    X509_free(cert);
}

/* A ticket is no answer: a request goes on being sent when one comes. */
static void test_tls_tickets_are_no_news(void **state)
{
    (void)state;
    char path[128];
    char wire[4096];
    X509 *cert = make_cert("edge", "DNS:edge.example", -1, 1, edge_key, ca_key);
    peer p = peer_new(cert, edge_key, path_of("ca.pem", path), "edge.example", TLS1_3_VERSION);
    bool done = false;
    assert_int_equal(shake(&p, 8192, SIZE_MAX, &done), SHOAL_CLIENT_OK);
    finish_server(&p);
    int got = BIO_read(p.s.out, wire, sizeof wire);
    assert_true(got > 0); /* OpenSSL's server gives two */
    assert_int_equal(shoal_client_tls_feed(p.tls, wire, (size_t)got, &p.error), SHOAL_CLIENT_OK);
    assert_false(shoal_client_tls_has_news(p.tls));
    assert_int_equal(SSL_write(p.s.ssl, "no", 2), 2);
    got = BIO_read(p.s.out, wire, sizeof wire);
    assert_int_equal(shoal_client_tls_feed(p.tls, wire, (size_t)got, &p.error), SHOAL_CLIENT_OK);
    assert_true(shoal_client_tls_has_news(p.tls));
    peer_free(&p);
    X509_free(cert);
}

static void test_tls_certificates_that_are_not_right_are_refused(void **state)
{
    (void)state;
    char path[128];
    const struct {
        const char *host, *names;
        long from_days, to_days;
        const char *said; /* NULL: it is right */
    } cases[] = {
        {"edge.example", "DNS:edge.example", -1, 1, NULL},
        {"EDGE.example", "DNS:edge.example", -1, 1, NULL},
        {"a.edge.example", "DNS:*.edge.example", -1, 1, NULL},
        {"192.0.2.7", "IP:192.0.2.7", -1, 1, NULL},
        {"2001:db8::7", "IP:2001:db8:0:0::7", -1, 1, NULL},
        {"edge.example", "DNS:other.example,IP:192.0.2.9", -1, 1,
         "not for edge.example but for other.example, 192.0.2.9; ask for it by such a name"},
        {"192.0.2.7", "DNS:192.0.2.7", -1, 1, "not for 192.0.2.7 but for 192.0.2.7"},
        {"2001:db8::8", "IP:2001:db8::7", -1, 1, "but for 2001:db8::7"},
        {"ab.edge.example", "DNS:a*.edge.example", -1, 1, "but for a*.edge.example"},
        {"a.b.edge.example", "DNS:*.edge.example", -1, 1, "not for a.b.edge.example"},
        {"edge.example", "email:edge.example@edge.example", -1, 1, "but for no host at all"},
        {"edge.example", "DNS:edge.example", -3, -2, "ended on 20"},
        {"edge.example", "DNS:edge.example", 2, 3, "this machine's clock may be wrong"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        X509 *cert = make_cert("edge", cases[i].names, cases[i].from_days, cases[i].to_days,
                               edge_key, ca_key);
        peer p = peer_new(cert, edge_key, path_of("ca.pem", path), cases[i].host, TLS1_3_VERSION);
        bool done = false;
        int code = shake(&p, 100, SIZE_MAX, &done);
        assert_int_equal(code, cases[i].said ? SHOAL_CLIENT_E_TLS : SHOAL_CLIENT_OK);
        assert_int_equal(done, !cases[i].said);
        if (cases[i].said) {
            assert_int_equal(strncmp(p.error.text, url, strlen(url)), 0);
            if (!strstr(p.error.text, cases[i].said)) {
                fail_msg("\"%s\" lacks \"%s\"", p.error.text, cases[i].said);
            }
            /* The server was told, by an alert. */
            assert_int_equal(SSL_do_handshake(p.s.ssl), -1);
            assert_int_equal(SSL_get_error(p.s.ssl, -1), SSL_ERROR_SSL);
        }
        peer_free(&p);
        X509_free(cert);
    }
}

/* A common name is no name of a host, though OpenSSL would take it where no other is there. */
static void test_tls_strangers_are_refused_and_pinned_ones_taken(void **state)
{
    (void)state;
    char path[128];
    bool done = false;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *theirs = make_cert("edge", "DNS:edge.example", -1, 1, edge_key, key);
    peer p = peer_new(theirs, edge_key, path_of("ca.pem", path), "edge.example", TLS1_3_VERSION);
    assert_int_equal(shake(&p, 100, SIZE_MAX, &done), SHOAL_CLIENT_E_TLS); /* a forged signature */
    peer_free(&p);
    p = peer_new(theirs, edge_key, NULL, "edge.example", TLS1_2_VERSION);
    assert_int_equal(shake(&p, 100, SIZE_MAX, &done), SHOAL_CLIENT_E_TLS);
    assert_non_null(strstr(p.error.text, "issued by /CN=Our authority, which is not among"));
    assert_non_null(strstr(p.error.text, "--ca-file"));
    peer_free(&p);
    write_cert("pinned.pem", theirs);
    p = peer_new(theirs, edge_key, path_of("pinned.pem", path), "edge.example", TLS1_3_VERSION);
    assert_int_equal(shake(&p, 100, SIZE_MAX, &done), SHOAL_CLIENT_OK);
    assert_true(done);
    peer_free(&p);
    assert_int_equal(unlink(path), 0);
    X509_free(theirs);
    EVP_PKEY_free(key);
}

static void test_tls_files_without_authorities_are_refused(void **state)
{
    (void)state;
    char path[128];
    shoal_client_trust *trust = NULL;
    shoal_client_error error;
    const struct {
        const char *bytes; /* NULL: no file at all */
        const char *said;
    } cases[] = {
        {NULL, "cannot be read"},
        {"", "no certificate"},
        {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ca_file"},
        {"-----BEGIN CERTIFICATE-----\n", "ca_file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        (void)path_of("some.pem", path);
        if (cases[i].bytes) {
            FILE *f = fopen(path, "w");
            assert_non_null(f);
            assert_true(fputs(cases[i].bytes, f) >= 0);
            assert_int_equal(fclose(f), 0);
        }
        assert_int_equal(shoal_client_trust_new(path, &trust, &error), SHOAL_CLIENT_E_INVALID);
        assert_non_null(strstr(error.text, path));
        if (!strstr(error.text, cases[i].said)) {
            fail_msg("\"%s\" lacks \"%s\"", error.text, cases[i].said);
        }
        (void)unlink(path);
    }
    assert_int_equal(shoal_client_trust_new(folder, &trust, &error), SHOAL_CLIENT_E_INVALID);
}

/* --- what breaks ------------------------------------------------------------------------------ */

static void test_tls_handshake_cut_anywhere_is_told(void **state)
{
    (void)state;
    char path[128];
    const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    X509 *cert = make_cert("edge", "DNS:edge.example", -1, 1, edge_key, ca_key);
    for (size_t v = 0; v < 2; v++) {
        size_t n_cut = 0;
        for (bool done = false; !done; n_cut += done ? 0 : 13) {
            peer p = peer_new(cert, edge_key, path_of("ca.pem", path), "edge.example", versions[v]);
            assert_int_equal(shake(&p, 8192, n_cut, &done), SHOAL_CLIENT_OK);
            if (!done) {
                assert_int_equal(shoal_client_tls_cut(p.tls, &p.error), SHOAL_CLIENT_E_IO);
                assert_non_null(strstr(p.error.text, "ended in the TLS handshake"));
            } else {
                assert_int_equal(shoal_client_tls_cut(p.tls, &p.error), SHOAL_CLIENT_E_IO);
                assert_non_null(strstr(p.error.text, "was cut"));
            }
            peer_free(&p);
        }
        assert_true(n_cut > 300);
    }
    X509_free(cert);
}

static void test_tls_what_is_not_tls_is_told(void **state)
{
    (void)state;
    char path[128];
    const struct {
        const char *bytes;
        size_t n;
        const char *said;
    } cases[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28, "speaks no TLS"},
        {"H", 1, NULL},
        {"\x15\x03\x03\x00\x02\x02\x28", 7, "handshake failure"}, /* an alert */
        {"\x16\x03\x03\xff\xff\x00", 6, "handshake failed"},
        {"\x16\x03\x03\x00\x04\x63\x00\x00\x00", 9, "handshake failed"},
        {"\x17\x03\x03\x00\x01\x00", 6, "speaks no TLS"},
    };
    X509 *cert = make_cert("edge", "DNS:edge.example", -1, 1, edge_key, ca_key);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        peer p = peer_new(cert, edge_key, path_of("ca.pem", path), "edge.example", TLS1_3_VERSION);
        bool done = false;
        assert_int_equal(shoal_client_tls_shake(p.tls, &done, &p.error), SHOAL_CLIENT_OK);
        assert_int_equal(shoal_client_tls_feed(p.tls, cases[i].bytes, cases[i].n, &p.error),
                         SHOAL_CLIENT_OK);
        int code = shoal_client_tls_shake(p.tls, &done, &p.error);
        assert_false(done);
        assert_int_equal(code, cases[i].said ? SHOAL_CLIENT_E_TLS : SHOAL_CLIENT_OK);
        if (cases[i].said && !strstr(p.error.text, cases[i].said)) {
            fail_msg("%zu: \"%s\" lacks \"%s\"", i, p.error.text, cases[i].said);
        }
        peer_free(&p);
    }
    X509_free(cert);
}

static void test_tls_changed_bytes_of_a_record_break_it(void **state)
{
    (void)state;
    char path[128];
    X509 *cert = make_cert("edge", "DNS:edge.example", -1, 1, edge_key, ca_key);
    for (size_t at = 0;; at++) {
        char wire[4096];
        char text[64];
        size_t n = 0;
        bool done = false;
        bool end = false;
        peer p = peer_new(cert, edge_key, path_of("ca.pem", path), "edge.example", TLS1_3_VERSION);
        assert_int_equal(shake(&p, 8192, SIZE_MAX, &done), SHOAL_CLIENT_OK);
        finish_server(&p);
        assert_int_equal(take_all(&p, 8192, text, sizeof text, &end), SHOAL_CLIENT_OK);
        assert_int_equal(SSL_write(p.s.ssl, "answer", 6), 6);
        int got = BIO_read(p.s.out, wire, sizeof wire);
        assert_true(got > 6);
        if (at == (size_t)got) {
            peer_free(&p);
            break;
        }
        wire[at] = (char)(wire[at] ^ 1 << at % 8);
        assert_int_equal(shoal_client_tls_feed(p.tls, wire, (size_t)got, &p.error),
                         SHOAL_CLIENT_OK);
        int code = shoal_client_tls_read(p.tls, text, sizeof text, &n, &end, &p.error);
        assert_int_equal(n, 0);
        assert_false(end);
        if (code == SHOAL_CLIENT_OK) { /* a longer length waits for bytes that never come */
            assert_true(at == 3 || at == 4);
            code = shoal_client_tls_cut(p.tls, &p.error);
        }
        assert_int_equal(code, SHOAL_CLIENT_E_IO);
        peer_free(&p);
    }
    X509_free(cert);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tls_carries_both_ways_in_pieces_of_any_size),
        cmocka_unit_test(test_tls_tickets_are_no_news),
        cmocka_unit_test(test_tls_certificates_that_are_not_right_are_refused),
        cmocka_unit_test(test_tls_strangers_are_refused_and_pinned_ones_taken),
        cmocka_unit_test(test_tls_files_without_authorities_are_refused),
        cmocka_unit_test(test_tls_handshake_cut_anywhere_is_told),
        cmocka_unit_test(test_tls_what_is_not_tls_is_told),
        cmocka_unit_test(test_tls_changed_bytes_of_a_record_break_it),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
