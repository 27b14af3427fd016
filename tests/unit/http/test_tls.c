/* SPDX-License-Identifier: Apache-2.0
 *
 * The server under TLS: the client is OpenSSL between memory BIOs, so that each test decides which
 * bytes of the wire are sent, when, and how many at once.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HOST "Host: localhost\r\n"
#define LAST "Connection: close\r\n"

enum {
    WAIT_MS = 10000,
    BIG_BYTES = 4 << 20
};

/* --- the server ------------------------------------------------------------------------------- */

typedef struct echo {
    http_fixture f;
    shoal_http_settings s;
    atomic_size_t n_requests;
    atomic_size_t n_gone;
    char folder[64];
    char cert[96];
    char key[96];
} echo;

/* /hang is answered by nobody, /big with BIG_BYTES, a body by itself, the rest by its path. */
static void on_request(void *ctx, shoal_http_exchange *x)
{
    echo *e = ctx;
    atomic_fetch_add(&e->n_requests, 1);
    const char *path = shoal_http_path(x);
    if (strcmp(path, "/hang") == 0) {
        return;
    }
    if (strcmp(path, "/big") == 0) {
        char *body = shoal_calloc(1, BIG_BYTES);
        memset(body, 'b', BIG_BYTES);
        shoal_http_respond(x, 200, "text/plain", NULL, body, BIG_BYTES);
        shoal_free(body);
        return;
    }
    shoal_buf body = shoal_http_take_body(x);
    const char *text = body.length > 0 ? body.data : path;
    shoal_http_respond(x, 200, "text/plain", NULL, text, strlen(text));
    shoal_buf_fini(&body);
}

static void on_gone(void *ctx, shoal_http_exchange *x)
{
    echo *e = ctx;
    (void)x;
    atomic_fetch_add(&e->n_gone, 1);
}

/* A certificate for `name`, signed by itself, and its key. */
static void make_pair(const char *name, const char *cert_path, const char *key_path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    assert_true(key && cert);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(cert), 1), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), -60));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), 3600));
    X509_NAME *subject = X509_get_subject_name(cert);
    assert_int_equal(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                                (const unsigned char *)name, -1, -1, 0),
                     1);
    assert_int_equal(X509_set_issuer_name(cert, subject), 1);
    assert_int_equal(X509_set_pubkey(cert, key), 1);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *f = fopen(cert_path, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, cert), 1);
    assert_int_equal(fclose(f), 0);
    f = fopen(key_path, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(f), 0);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void prepare(echo *e)
{
    (void)snprintf(e->folder, sizeof e->folder, "/tmp/shoal-tls-XXXXXX");
    assert_non_null(mkdtemp(e->folder));
    (void)snprintf(e->cert, sizeof e->cert, "%s/cert.pem", e->folder);
    (void)snprintf(e->key, sizeof e->key, "%s/key.pem", e->folder);
    make_pair("first", e->cert, e->key);
    e->s = http_fixture_settings();
    e->s.tls_cert = e->cert;
    e->s.tls_key = e->key;
}

static void start(echo *e)
{
    const shoal_http_handler handler = {.ctx = e, .on_request = on_request, .on_gone = on_gone};
    http_fixture_start(&e->f, &e->s, &handler);
}

static void stop(echo *e)
{
    http_fixture_free(&e->f);
    (void)unlink(e->cert);
    (void)unlink(e->key);
    assert_int_equal(rmdir(e->folder), 0);
}

static void wait_for(atomic_size_t *counter, size_t value)
{
    uint64_t until = http_now_ms() + WAIT_MS;
    while (atomic_load(counter) < value) {
        assert_true(http_now_ms() < until);
        struct timespec pause = {.tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL);
    }
}

/* --- the client ------------------------------------------------------------------------------- */

typedef struct client {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in;
    BIO *out;
    size_t n_at_once; /* bytes of one send and one receive */
    bool ended;       /* the server has ended its side in order */
    bool broken;
} client;

static void client_open(client *c, const echo *e, int version)
{
    *c = (client){.fd = http_connect(&e->f), .n_at_once = 4096};
    c->ctx = SSL_CTX_new(TLS_client_method());
    assert_non_null(c->ctx);
    SSL_CTX_set_security_level(c->ctx, 0); /* so that old versions can be offered at all */
    assert_int_equal(SSL_CTX_set_min_proto_version(c->ctx, version), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(c->ctx, version), 1);
    c->ssl = SSL_new(c->ctx);
    c->in = BIO_new(BIO_s_mem());
    c->out = BIO_new(BIO_s_mem());
    assert_true(c->ssl && c->in && c->out);
    (void)BIO_set_mem_eof_return(c->in, -1);
    SSL_set_bio(c->ssl, c->in, c->out);
    SSL_set_connect_state(c->ssl);
}

static void client_close(client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    (void)close(c->fd);
    ERR_clear_error();
}

/* Sends what TLS wants to say, in pieces. */
static void client_flush(client *c)
{
    char piece[4096];
    for (;;) {
        int n = BIO_read(c->out, piece, (int)SHOAL_MIN(c->n_at_once, sizeof piece));
        if (n <= 0) {
            return;
        }
        http_send_bytes(c->fd, piece, (size_t)n);
    }
}

/* Hands what comes to TLS; false: the server has closed. */
static bool client_receive(client *c)
{
    char piece[4096];
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (poll(&p, 1, WAIT_MS) != 1) {
        fail_msg("nothing came in time");
    }
    ssize_t n = recv(c->fd, piece, SHOAL_MIN(c->n_at_once, sizeof piece), 0);
    return n > 0 && BIO_write(c->in, piece, (int)n) == (int)n;
}

/* What a call that gave nothing asks for is done; false: it is over. */
static bool client_go_on(client *c, int rc)
{
    int why = SSL_get_error(c->ssl, rc);
    client_flush(c);
    c->ended = why == SSL_ERROR_ZERO_RETURN;
    c->broken = why == SSL_ERROR_SSL;
    ERR_clear_error();
    return why == SSL_ERROR_WANT_READ && client_receive(c);
}

static bool client_handshake(client *c)
{
    for (;;) {
        int rc = SSL_do_handshake(c->ssl);
        if (rc == 1) {
            client_flush(c);
            return true;
        }
        if (!client_go_on(c, rc)) {
            return false;
        }
    }
}

static void client_say(client *c, const char *text)
{
    assert_int_equal(SSL_write(c->ssl, text, (int)strlen(text)), (int)strlen(text));
    client_flush(c);
}

/* Until the end of the connection. */
static void client_read_all(client *c, shoal_buf *answer)
{
    char piece[4096];
    shoal_buf_reset(answer);
    for (;;) {
        int n = SSL_read(c->ssl, piece, sizeof piece);
        if (n > 0) {
            assert_int_equal(shoal_buf_append(answer, piece, (size_t)n), SHOAL_OK);
        } else if (!client_go_on(c, n)) {
            break;
        }
    }
    assert_int_equal(shoal_buf_append(answer, "", 0), SHOAL_OK);
}

static int client_ask(client *c, const char *request, shoal_buf *answer)
{
    client_say(c, request);
    client_read_all(c, answer);
    return http_status(answer->data);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_tls_request_is_answered_in_both_versions(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    echo e = {0};
    prepare(&e);
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    for (size_t i = 0; i < SHOAL_COUNT(versions); i++) {
        client c;
        client_open(&c, &e, versions[i]);
        assert_true(client_handshake(&c));
        assert_int_equal(client_ask(&c,
                                    "GET /x HTTP/1.1\r\n" HOST "\r\n"
                                    "GET /y HTTP/1.1\r\n" HOST LAST "\r\n",
                                    &a),
                         200);
        assert_non_null(strstr(a.data, "\r\n\r\n/xHTTP/1.1 200"));
        assert_non_null(strstr(a.data, "\r\n\r\n/y"));
        assert_true(c.ended); /* close_notify: the answer was not cut */
        client_close(&c);
    }
    stop(&e);
}

static void test_tls_old_versions_are_refused(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_VERSION, TLS1_1_VERSION};
    echo e = {0};
    prepare(&e);
    start(&e);
    for (size_t i = 0; i < SHOAL_COUNT(versions); i++) {
        client c;
        client_open(&c, &e, versions[i]);
        assert_false(client_handshake(&c));
        assert_true(c.broken); /* an alert, not only a closed socket */
        client_close(&c);
    }
    stop(&e);
}

static void test_tls_alpn_knows_http_1_1_alone(void **state)
{
    (void)state;
    static const struct {
        const char *offer;
        bool ok;
    } cases[] = {{"\x08http/1.1", true}, {"\x02h2\x08http/1.1", true}, {"\x02h2", false}};
    echo e = {0};
    prepare(&e);
    start(&e);
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        client c;
        const unsigned char *chosen = NULL;
        unsigned n_chosen = 0;
        client_open(&c, &e, TLS1_3_VERSION);
        assert_int_equal(SSL_set_alpn_protos(c.ssl, (const unsigned char *)cases[i].offer,
                                             (unsigned)strlen(cases[i].offer)),
                         0);
        assert_int_equal(client_handshake(&c), cases[i].ok);
        SSL_get0_alpn_selected(c.ssl, &chosen, &n_chosen);
        if (cases[i].ok) {
            assert_int_equal(n_chosen, 8);
            assert_memory_equal(chosen, "http/1.1", 8);
        }
        client_close(&c);
    }
    stop(&e);
}

static void test_tls_bytes_one_by_one_are_the_same(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    client c;
    client_open(&c, &e, TLS1_3_VERSION);
    c.n_at_once = 1;
    assert_true(client_handshake(&c));
    assert_int_equal(
        client_ask(&c, "POST /p HTTP/1.1\r\n" HOST LAST "Content-Length: 5\r\n\r\nhello", &a), 200);
    assert_non_null(strstr(a.data, "\r\n\r\nhello"));
    assert_true(c.ended);
    client_close(&c);
    stop(&e);
}

static void test_tls_large_answer_comes_whole(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    client c;
    client_open(&c, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&c));
    assert_int_equal(client_ask(&c, "GET /big HTTP/1.1\r\n" HOST LAST "\r\n", &a), 200);
    const char *body = strstr(a.data, "\r\n\r\n") + 4;
    assert_int_equal(strspn(body, "b"), BIG_BYTES);
    client_close(&c);
    stop(&e);
}

static void test_tls_half_open_handshake_ends_in_time(void **state)
{
    (void)state;
    enum {
        N = 8
    };
    echo e = {0};
    prepare(&e);
    e.s.header_ms = 300;
    start(&e);
    client c[N];
    char hello[4096];
    uint64_t begun = http_now_ms();
    for (int i = 0; i < N; i++) {
        client_open(&c[i], &e, TLS1_3_VERSION);
        assert_int_equal(SSL_do_handshake(c[i].ssl), -1);
        int n = BIO_read(c[i].out, hello, sizeof hello);
        assert_true(n > N);
        http_send_bytes(c[i].fd, hello, (size_t)(n * i / N)); /* from nothing to nearly all */
    }
    for (int i = 0; i < N; i++) {
        char byte = 0;
        assert_true(recv(c[i].fd, &byte, 1, 0) <= 0);
        client_close(&c[i]);
    }
    assert_true(http_now_ms() - begun >= 250 && http_now_ms() - begun < WAIT_MS);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    client good;
    client_open(&good, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&good));
    assert_int_equal(client_ask(&good, "GET / HTTP/1.1\r\n" HOST LAST "\r\n", &a), 200);
    client_close(&good);
    stop(&e);
}

static void test_tls_head_has_its_time_after_the_handshake(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    e.s.header_ms = 300;
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    client c;
    client_open(&c, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&c));
    assert_int_equal(client_ask(&c, "GET /slow HTTP/1.1\r\nHo", &a), 408);
    assert_true(c.ended);
    client_close(&c);
    stop(&e);
}

static void test_tls_hostile_bytes_end_one_connection(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    uint64_t rng = 20;
    for (int i = 0; i < 200; i++) {
        char bytes[512];
        size_t n = 1 + shoal_rng_next(&rng) % sizeof bytes;
        for (size_t k = 0; k < n; k++) {
            bytes[k] = (char)shoal_rng_next(&rng);
        }
        if (i % 2 == 0) { /* a record of a handshake, as far as its head says */
            memcpy(bytes, "\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03", SHOAL_MIN(n, (size_t)11));
        }
        int fd = http_connect(&e.f);
        http_send_bytes(fd, bytes, n);
        (void)shutdown(fd, SHUT_WR);
        shoal_buf_reset(&a);
        http_read_all(fd, &a, WAIT_MS);
        (void)close(fd);
    }
    /* One bit of a sealed request: its mark no longer fits, and nobody hears of it. */
    for (int bit = 0; bit < 64; bit++) {
        char record[256];
        client c;
        client_open(&c, &e, TLS1_3_VERSION);
        assert_true(client_handshake(&c));
        const char *request = "GET / HTTP/1.1\r\n" HOST LAST "\r\n";
        assert_true(SSL_write(c.ssl, request, (int)strlen(request)) > 0);
        int n = BIO_read(c.out, record, sizeof record);
        assert_true(n > 5 + 8);
        record[5 + bit / 8] = (char)(record[5 + bit / 8] ^ 1 << bit % 8);
        http_send_bytes(c.fd, record, (size_t)n);
        client_read_all(&c, &a);
        assert_int_equal(a.length, 0);
        assert_true(c.broken);
        client_close(&c);
    }
    assert_int_equal(atomic_load(&e.n_requests), 0);
    client good;
    client_open(&good, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&good));
    assert_int_equal(client_ask(&good, "GET / HTTP/1.1\r\n" HOST LAST "\r\n", &a), 200);
    client_close(&good);
    stop(&e);
}

static void test_tls_client_that_leaves_or_breaks_is_gone(void **state)
{
    (void)state;
    static const char request[] = "GET /hang HTTP/1.1\r\n" HOST "\r\n";
    echo e = {0};
    prepare(&e);
    start(&e);
    for (size_t i = 0; i < 3; i++) {
        client c;
        client_open(&c, &e, TLS1_3_VERSION);
        assert_true(client_handshake(&c));
        client_say(&c, request);
        wait_for(&e.n_requests, i + 1);
        if (i == 0) { /* ends in order, the socket stays */
            assert_int_equal(SSL_shutdown(c.ssl), 0);
            client_flush(&c);
        } else if (i == 1) { /* what it says is not what it sealed */
            http_send_bytes(c.fd, "\x17\x03\x03\x00\x11 0123456789abcdef", 22);
        } else {
            (void)shutdown(c.fd, SHUT_RDWR);
        }
        wait_for(&e.n_gone, i + 1);
        client_close(&c);
    }
    stop(&e);
}

static void test_tls_http_in_the_clear_is_told(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    assert_int_equal(http_ask(&e.f, "GET /x HTTP/1.1\r\n" HOST LAST "\r\n", &a), 400);
    assert_non_null(strstr(a.data, "tls_required"));
    assert_non_null(strstr(a.data, "https"));
    assert_int_equal(atomic_load(&e.n_requests), 0);
    stop(&e);
}

static void test_tls_full_server_refuses_after_the_handshake(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    e.s.n_connections_max = 2;
    start(&e);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    client c[3];
    for (size_t i = 0; i < 3; i++) {
        client_open(&c[i], &e, TLS1_3_VERSION);
        assert_true(client_handshake(&c[i]));
        if (i < 2) {
            client_say(&c[i], "GET /hang HTTP/1.1\r\n" HOST "\r\n");
            wait_for(&e.n_requests, i + 1);
        }
    }
    client_read_all(&c[2], &a);
    assert_int_equal(http_status(a.data), 503);
    assert_non_null(strstr(a.data, "http.connections_max"));
    for (size_t i = 0; i < 3; i++) {
        client_close(&c[i]);
    }
    stop(&e);
}

static const char *common_name(const client *c, char name[32])
{
    X509 *cert = SSL_get1_peer_certificate(c->ssl);
    assert_non_null(cert);
    (void)X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, 32);
    X509_free(cert);
    return name;
}

/* The loop has to rest while its server is changed: the test is its thread then. */
static shoal_status set_tls(echo *e, const char *cert, const char *key, shoal_err *err)
{
    http_fixture_stop_loop(&e->f);
    shoal_status status = shoal_http_server_set_tls(e->f.server, cert, key, err);
    http_fixture_resume_loop(&e->f);
    return status;
}

static void test_tls_new_pair_serves_new_connections(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    start(&e);
    char name[32];
    char other[112];
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    client old;
    client_open(&old, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&old));
    assert_string_equal(common_name(&old, name), "first");
    (void)snprintf(other, sizeof other, "%s.other", e.key);
    make_pair("second", e.cert, other);
    /* Half a rotation is refused by name, and the old pair serves on. */
    assert_int_equal(set_tls(&e, e.cert, e.key, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "api.tls_key"));
    err = (shoal_err)SHOAL_ERR_INIT;
    assert_int_equal(set_tls(&e, "", "", &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "restart"));
    client c;
    client_open(&c, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&c));
    assert_string_equal(common_name(&c, name), "first");
    client_close(&c);
    assert_int_equal(rename(other, e.key), 0);
    assert_int_equal(set_tls(&e, e.cert, e.key, &err), SHOAL_OK);
    assert_true(shoal_http_server_tls_end_s(e.f.server) > (int64_t)time(NULL) + 3000);
    client_open(&c, &e, TLS1_3_VERSION);
    assert_true(client_handshake(&c));
    assert_string_equal(common_name(&c, name), "second");
    client_close(&c);
    assert_int_equal(client_ask(&old, "GET /old HTTP/1.1\r\n" HOST LAST "\r\n", &a), 200);
    client_close(&old);
    stop(&e);
}

static void test_tls_files_that_cannot_serve_are_named(void **state)
{
    (void)state;
    echo e = {0};
    prepare(&e);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_http_tls_check(e.cert, e.key, &err), SHOAL_OK);
    assert_int_equal(shoal_http_tls_check("", NULL, &err), SHOAL_OK);
    const struct {
        const char *cert;
        const char *key;
        const char *named;
    } cases[] = {
        {e.cert, "", "api.tls_key is not"},
        {"", e.key, "api.tls_cert is not"},
        {"/nowhere.pem", e.key, "api.tls_cert: /n"},
        {e.cert, "/nowhere.pem", "api.tls_key: /n"},
        {e.key, e.key, "api.tls_cert: "},
        {e.cert, e.cert, "api.tls_key: "},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        err = (shoal_err)SHOAL_ERR_INIT;
        assert_int_equal(shoal_http_tls_check(cases[i].cert, cases[i].key, &err), SHOAL_E_INVALID);
        if (!strstr(err.text, cases[i].named)) {
            fail_msg("case %zu: %s", i, err.text);
        }
    }
    /* A key with a password would have to be asked for on a terminal. */
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *f = fopen(e.key, "w");
    assert_true(key && f);
    assert_int_equal(PEM_write_PrivateKey(f, key, EVP_aes_256_cbc(), (const unsigned char *)"word",
                                          4, NULL, NULL),
                     1);
    assert_int_equal(fclose(f), 0);
    EVP_PKEY_free(key);
    err = (shoal_err)SHOAL_ERR_INIT;
    assert_int_equal(shoal_http_tls_check(e.cert, e.key, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "api.tls_key: "));
    stop(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tls_request_is_answered_in_both_versions),
        cmocka_unit_test(test_tls_old_versions_are_refused),
        cmocka_unit_test(test_tls_alpn_knows_http_1_1_alone),
        cmocka_unit_test(test_tls_bytes_one_by_one_are_the_same),
        cmocka_unit_test(test_tls_large_answer_comes_whole),
        cmocka_unit_test(test_tls_half_open_handshake_ends_in_time),
        cmocka_unit_test(test_tls_head_has_its_time_after_the_handshake),
        cmocka_unit_test(test_tls_hostile_bytes_end_one_connection),
        cmocka_unit_test(test_tls_client_that_leaves_or_breaks_is_gone),
        cmocka_unit_test(test_tls_http_in_the_clear_is_told),
        cmocka_unit_test(test_tls_full_server_refuses_after_the_handshake),
        cmocka_unit_test(test_tls_new_pair_serves_new_connections),
        cmocka_unit_test(test_tls_files_that_cannot_serve_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
