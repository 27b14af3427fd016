/* SPDX-License-Identifier: Apache-2.0
 *
 * Mutual TLS with the identities of deploy/certs/make-dev-certs, and everyone who must stay out.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "peer.h"
#include "protocol/rpc/rpc_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PATH_BYTES = 256
};

/* Certificates of one authority in one folder. */
typedef struct house {
    char dir[PATH_BYTES / 2];
    char ca[PATH_BYTES];
    char cloud_cert[PATH_BYTES];
    char cloud_key[PATH_BYTES];
    char edge_cert[PATH_BYTES];
    char edge_key[PATH_BYTES];
    shoal_rpc_tls cloud;
    shoal_rpc_tls edge;
} house;

static house ours;
static house theirs;
static bool have_certs;

static bool run(const char *command)
{
    return system(command) ==
           0; /* NOLINT(cert-env33-c): fixed words and our own temporary folder */
}

static bool make_house(house *h)
{
    const char *source = getenv("SHOAL_SOURCE_DIR");
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(h->dir, sizeof h->dir, "%s/shoal-tls-XXXXXX", tmp ? tmp : "/tmp");
    char command[2 * PATH_BYTES];
    if (!source || !mkdtemp(h->dir)) {
        return false;
    }
    (void)snprintf(command, sizeof command, "'%s/deploy/certs/make-dev-certs' '%s' >/dev/null",
                   source, h->dir);
    (void)snprintf(h->ca, PATH_BYTES, "%s/ca.pem", h->dir);
    (void)snprintf(h->cloud_cert, PATH_BYTES, "%s/cloud.pem", h->dir);
    (void)snprintf(h->cloud_key, PATH_BYTES, "%s/cloud.key", h->dir);
    (void)snprintf(h->edge_cert, PATH_BYTES, "%s/edge.pem", h->dir);
    (void)snprintf(h->edge_key, PATH_BYTES, "%s/edge.key", h->dir);
    h->cloud = (shoal_rpc_tls){h->ca, h->cloud_cert, h->cloud_key, NULL};
    h->edge = (shoal_rpc_tls){h->ca, h->edge_cert, h->edge_key, NULL};
    return run(command);
}

static void remove_house(const house *h)
{
    char command[PATH_BYTES];
    if (h->dir[0] != '\0') {
        (void)snprintf(command, sizeof command, "rm -rf '%s'", h->dir);
        assert_true(run(command));
    }
}

static int set_up(void **state)
{
    (void)state;
    have_certs =
        run("command -v openssl >/dev/null 2>&1") && make_house(&ours) && make_house(&theirs);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_house(&ours);
    remove_house(&theirs);
    return 0;
}

#define NEED_CERTS()                                                                               \
    do {                                                                                           \
        if (!have_certs) {                                                                         \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

static void write_file(const char *path, const char *text)
{
    assert_int_equal(shoal_file_write(path, text, strlen(text), NULL), SHOAL_OK);
}

static void copy_file(const char *from, const char *to)
{
    shoal_buf text = {0};
    assert_int_equal(shoal_file_read(from, 1 << 20, &text, NULL), SHOAL_OK);
    write_file(to, text.data);
    shoal_buf_fini(&text);
}

static void shell(const char *format, const char *a)
{
    char command[4 * PATH_BYTES];
    char *out = command;
    /* Every @ stands for the folder. */
    for (const char *p = format; *p; p++) {
        size_t n = *p == '@' ? strlen(a) : 1;
        assert_true((size_t)(out - command) + n + 1 < sizeof command);
        memcpy(out, *p == '@' ? a : p, n);
        out += n;
    }
    *out = '\0';
    if (!run(command)) {
        fail_msg("failed: %s", command);
    }
}

/* One echo over a channel of these credentials; the status it ended with. identity: whom the server
 * is to see. */
static shoal_rpc_status try_echo_as(stand *s, shoal_rpc_channel *channel, const char *identity)
{
    peer p;
    peer_init(&p);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(channel, "/test.T/Echo", &peer_client_handlers, &p, 15000,
                                         false, &call),
                     SHOAL_OK);
    shoal_status status = shoal_rpc_call_send(call, "hello", 5);
    assert_true(status == SHOAL_OK || status == SHOAL_E_CANCELLED);
    shoal_rpc_call_half_close(call);
    peer_wait(&p, &p.n_closes, 1);
    shoal_rpc_status result = p.status;
    if (result == SHOAL_RPC_OK) {
        assert_int_equal(p.n_messages, 1);
        assert_true(p.authenticated);
        assert_string_equal(p.identity, "spiffe://shoal.dev/cloud/dev");
        assert_true(s->host.authenticated);
        assert_string_equal(s->host.identity, identity);
    }
    shoal_rpc_call_unref(call);
    peer_fini(&p);
    return result;
}

static shoal_rpc_status try_echo(stand *s, shoal_rpc_channel *channel)
{
    return try_echo_as(s, channel, "spiffe://shoal.dev/edge/dev");
}

static shoal_rpc_status try_client(stand *s, const shoal_rpc_tls *tls)
{
    shoal_rpc_channel *channel = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_rpc_channel_new(s->rpc, s->target, tls, NULL, NULL, &channel, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_rpc_status status = try_echo(s, channel);
    shoal_rpc_channel_free(channel);
    return status;
}

static void test_both_certificates_of_one_authority_are_taken(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_OK);
    stand_down(&s);
}

static void test_name_override_is_what_the_certificate_must_hold(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    shoal_rpc_tls tls = ours.edge;
    tls.name_override = "shoal-cloud";
    assert_int_equal(try_client(&s, &tls), SHOAL_RPC_OK);
    tls.name_override = "other-cloud";
    assert_int_equal(try_client(&s, &tls), SHOAL_RPC_UNAVAILABLE);
    stand_down(&s);
}

static void test_client_of_a_foreign_authority_is_refused(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    shoal_rpc_tls tls = {ours.ca, theirs.edge_cert, theirs.edge_key, NULL};
    assert_int_equal(try_client(&s, &tls), SHOAL_RPC_UNAVAILABLE);
    assert_int_equal(s.host.n_opened, 0);
    stand_down(&s);
}

static void test_server_of_a_foreign_authority_is_refused(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &theirs.cloud, &theirs.edge);
    assert_int_equal(try_client(&s, &ours.edge), SHOAL_RPC_UNAVAILABLE);
    assert_int_equal(s.host.n_opened, 0);
    stand_down(&s);
}

static void test_plaintext_client_is_refused(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    assert_int_equal(try_client(&s, NULL), SHOAL_RPC_UNAVAILABLE);
    assert_int_equal(s.host.n_opened, 0);
    stand_down(&s);
}

/* The edge's certificate is for clients: a gateway cannot stand in for its cloud. */
static void test_client_certificate_cannot_serve(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.edge, &ours.edge);
    shoal_rpc_tls tls = ours.edge;
    tls.name_override = "localhost";
    assert_int_equal(try_client(&s, &tls), SHOAL_RPC_UNAVAILABLE);
    stand_down(&s);
}

/* Our channels cannot leave their certificate out, so one is put together by hand. */
static void test_client_without_a_certificate_is_refused(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    shoal_buf ca = {0};
    assert_int_equal(shoal_file_read(ours.ca, 1 << 20, &ca, NULL), SHOAL_OK);
    grpc_channel_credentials *creds = grpc_ssl_credentials_create_ex(ca.data, NULL, NULL, NULL);
    shoal_rpc_channel *bare = shoal_calloc(1, sizeof *bare);
    assert_non_null(bare);
    bare->rpc = s.rpc;
    bare->conn = shoal_calloc(1, sizeof *bare->conn);
    assert_non_null(bare->conn);
    *bare->conn = (shoal_rpc_conn){
        .channel = bare, .grpc = grpc_channel_create(s.target, creds, NULL), .n_holds = 1};
    bare->n_conns = 1;
    grpc_channel_credentials_release(creds);
    assert_int_equal(try_echo(&s, bare), SHOAL_RPC_UNAVAILABLE);
    assert_int_equal(s.host.n_opened, 0);
    shoal_rpc_channel_free(bare);
    shoal_buf_fini(&ca);
    stand_down(&s);
}

/* A stream that stands goes on, new connections meet the new certificates and only those; what
 * cannot be read changes nothing. */
static void test_new_certificates_are_taken_under_a_stream(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    peer p;
    peer_init(&p);
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(s.channel, "/test.T/Echo", &peer_client_handlers, &p,
                                         15000, false, &call),
                     SHOAL_OK);
    assert_int_equal(shoal_rpc_call_send(call, "one", 3), SHOAL_OK);
    peer_wait(&p, &p.n_messages, 1);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_rpc_tls broken = theirs.cloud;
    broken.key = ours.cloud_key;
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &broken, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "is not the key"));
    assert_int_equal(try_client(&s, &theirs.edge), SHOAL_RPC_UNAVAILABLE);
    assert_int_equal(try_client(&s, &ours.edge), SHOAL_RPC_OK);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(shoal_rpc_server_set_tls(s.server, &theirs.cloud, NULL), SHOAL_OK);
    }
    assert_int_equal(try_client(&s, &theirs.edge), SHOAL_RPC_OK);
    assert_int_equal(try_client(&s, &ours.edge), SHOAL_RPC_UNAVAILABLE);
    assert_int_equal(shoal_rpc_call_send(call, "two", 3), SHOAL_OK);
    peer_wait(&p, &p.n_messages, 2);
    shoal_rpc_call_half_close(call);
    peer_wait(&p, &p.n_closes, 1);
    assert_int_equal(p.status, SHOAL_RPC_OK);
    shoal_rpc_call_unref(call);
    peer_fini(&p);
    stand_down(&s);
    stand_up(&s, NULL, NULL, NULL);
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &ours.cloud, NULL), SHOAL_E_INVALID);
    stand_down(&s);
}

/* Waits for as many; the test fails after 20 s. */
static void wait_conns(shoal_rpc_channel *channel, size_t n)
{
    struct timespec until;
    int rc = 0;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &until), 0);
    until.tv_sec += 20;
    (void)pthread_mutex_lock(&channel->rpc->lock);
    while (channel->n_conns != n && rc == 0) {
        rc = pthread_cond_timedwait(&channel->rpc->changed, &channel->rpc->lock, &until);
    }
    size_t seen = channel->n_conns;
    (void)pthread_mutex_unlock(&channel->rpc->lock);
    assert_int_equal(seen, n);
}

/* The other side: calls under way end on the connection they began on, although its certificate
 * would no longer be taken; those that begin are on one of the new. */
static void test_channel_takes_new_certificates_under_a_call(void **state)
{
    (void)state;
    NEED_CERTS();
    static const char renewed[] = "spiffe://shoal.dev/edge/renewed";
    char cert[PATH_BYTES];
    shell("openssl req -new -key @/edge.key -subj /CN=renewed -out @/renewed.csr && printf "
          "'subjectAltName=URI:spiffe://shoal.dev/edge/renewed\\nextendedKeyUsage=clientAuth\\n' "
          ">@/renewed.ext && openssl x509 -req -in @/renewed.csr -CA @/ca.pem -CAkey @/ca.key "
          "-set_serial 7 -days 5 -extfile @/renewed.ext -out @/renewed.pem 2>/dev/null",
          theirs.dir);
    (void)snprintf(cert, sizeof cert, "%s/renewed.pem", theirs.dir);
    const shoal_rpc_tls next = {theirs.ca, cert, theirs.edge_key, NULL};
    const shoal_rpc_tls broken = {theirs.ca, cert, ours.edge_key, NULL};
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    assert_int_equal(shoal_rpc_call_send(call, "one", 3), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &theirs.cloud, NULL), SHOAL_OK);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_rpc_channel_set_tls(s.channel, &broken, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "edge.key: is not the key of the certificate in"));
    assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_UNAUTHENTICATED);
    wait_conns(s.channel, 1);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(shoal_rpc_channel_set_tls(s.channel, &next, NULL), SHOAL_OK);
    }
    wait_conns(s.channel, 2);
    assert_int_equal(try_echo_as(&s, s.channel, renewed), SHOAL_RPC_OK);
    assert_int_equal(shoal_rpc_call_send(call, "two", 3), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 2);
    assert_int_equal(peer_read(&s.client, &s.client.n_closes), 0);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    wait_conns(s.channel, 1);
    assert_int_equal(try_echo_as(&s, s.channel, renewed), SHOAL_RPC_OK);
    const shoal_rpc_tls none = {0};
    assert_int_equal(shoal_rpc_channel_set_tls(s.channel, &none, NULL), SHOAL_E_INVALID);
    stand_down(&s);
    stand_up(&s, NULL, NULL, NULL);
    assert_int_equal(shoal_rpc_channel_set_tls(s.channel, &ours.edge, NULL), SHOAL_E_INVALID);
    stand_down(&s);
}

/* A connection that stands does not outlive its authority: what is under way ends as it began, and
 * nothing new begins, until the authority is back. Who is of one that stayed is not touched. */
static void test_calls_of_an_authority_that_is_gone_are_refused(void **state)
{
    (void)state;
    NEED_CERTS();
    char both[PATH_BYTES];
    (void)snprintf(both, sizeof both, "%s/revoke.pem", ours.dir);
    copy_file(theirs.ca, both);
    shell("cat @/ca.pem >>@/revoke.pem", ours.dir);
    const shoal_rpc_tls of_both = {both, ours.cloud_cert, ours.cloud_key, NULL};
    const shoal_rpc_tls of_theirs = {theirs.ca, ours.cloud_cert, ours.cloud_key, NULL};
    const shoal_rpc_tls stays = {ours.ca, theirs.edge_cert, theirs.edge_key, NULL};
    stand s;
    stand_up(&s, NULL, &of_both, &ours.edge);
    shoal_rpc_channel *other = NULL;
    assert_int_equal(shoal_rpc_channel_new(s.rpc, s.target, &stays, NULL, NULL, &other, NULL),
                     SHOAL_OK);
    assert_int_equal(try_echo(&s, other), SHOAL_RPC_OK);
    shoal_rpc_call *call = stand_call(&s, "/test.T/Echo", 0);
    assert_int_equal(shoal_rpc_call_send(call, "one", 3), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 1);
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &of_both, NULL), SHOAL_OK);
    assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_OK);
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &of_theirs, NULL), SHOAL_OK);
    for (size_t i = 0; i < 3; i++) { /* judged, and then remembered */
        assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_UNAUTHENTICATED);
        assert_int_equal(try_echo(&s, other), SHOAL_RPC_OK);
    }
    assert_int_equal(shoal_rpc_call_send(call, "two", 3), SHOAL_OK);
    peer_wait(&s.client, &s.client.n_messages, 2);
    shoal_rpc_call_half_close(call);
    stand_close(&s, call);
    assert_int_equal(s.client.status, SHOAL_RPC_OK);
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &of_both, NULL), SHOAL_OK);
    assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_OK);
    shoal_rpc_channel_free(other);
    stand_down(&s);
}

/* A reload that finds the same files costs no connection. */
static void test_the_same_certificates_keep_the_connection(void **state)
{
    (void)state;
    NEED_CERTS();
    char again[PATH_BYTES];
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    (void)snprintf(again, sizeof again, "%s/again.pem", ours.dir);
    copy_file(ours.edge_cert, again);
    const shoal_rpc_tls moved = {ours.ca, again, ours.edge_key, NULL};
    const shoal_rpc_conn *conn = s.channel->conn;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(shoal_rpc_channel_set_tls(s.channel, i == 1 ? &moved : &ours.edge, NULL),
                         SHOAL_OK);
        assert_ptr_equal(s.channel->conn, conn);
        assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_OK);
    }
    wait_conns(s.channel, 1);
    stand_down(&s);
}

/* Without memory nothing has changed, and in the end it is done. */
static void test_failing_memory_keeps_the_certificates(void **state)
{
    (void)state;
    NEED_CERTS();
    stand s;
    stand_up(&s, NULL, &ours.cloud, &ours.edge);
    char ca[PATH_BYTES];
    shell("(cat @/ca.pem && echo) >@/longer.pem", ours.dir);
    (void)snprintf(ca, sizeof ca, "%s/longer.pem", ours.dir);
    const shoal_rpc_tls changed = {ca, ours.edge_cert, ours.edge_key, NULL};
    shoal_status status = SHOAL_E_NOMEM;
    uint64_t n = 0;
    for (; status == SHOAL_E_NOMEM; n++) {
        shoal_mem_fail_here_at(n);
        status = shoal_rpc_channel_set_tls(s.channel, &changed, NULL);
        shoal_mem_fail_here_at(UINT64_MAX);
        assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_OK);
    }
    assert_int_equal(status, SHOAL_OK);
    assert_true(n > 3);
    stand_down(&s);
}

/* So an authority is followed by another: for a while both are believed. */
static void test_two_authorities_in_one_file_are_both_taken(void **state)
{
    (void)state;
    NEED_CERTS();
    char both[PATH_BYTES];
    char other[PATH_BYTES];
    (void)snprintf(both, sizeof both, "%s/both.pem", ours.dir);
    (void)snprintf(other, sizeof other, "%s/other.pem", ours.dir);
    copy_file(theirs.ca, other);
    shell("cat @/ca.pem @/other.pem >@/both.pem", ours.dir);
    const shoal_rpc_tls cloud = {both, ours.cloud_cert, ours.cloud_key, NULL};
    const shoal_rpc_tls edge = {both, theirs.edge_cert, theirs.edge_key, NULL};
    stand s;
    stand_up(&s, NULL, &cloud, &edge);
    assert_int_equal(try_echo(&s, s.channel), SHOAL_RPC_OK);
    assert_int_equal(try_client(&s, &ours.edge), SHOAL_RPC_OK);
    assert_int_equal(shoal_rpc_server_set_tls(s.server, &theirs.cloud, NULL), SHOAL_OK);
    assert_int_equal(try_client(&s, &edge), SHOAL_RPC_OK);
    stand_down(&s);
}

static void test_expiry_is_read_from_the_certificate(void **state)
{
    (void)state;
    NEED_CERTS();
    int64_t end = 0;
    assert_int_equal(shoal_rpc_tls_expiry(&ours.cloud, &end, NULL), SHOAL_OK);
    int64_t days = (end - (int64_t)time(NULL)) / 86400;
    assert_in_range(days, 28, 30);
    shoal_rpc_tls none = {0};
    assert_int_equal(shoal_rpc_tls_expiry(&none, &end, NULL), SHOAL_E_INVALID);
    none.cert = "/nowhere/cloud.pem";
    assert_int_equal(shoal_rpc_tls_expiry(&none, &end, NULL), SHOAL_E_NOTFOUND);
}

/* --- files ------------------------------------------------------------------------------------ */

static shoal_rpc *files_rpc;

/* Neither side takes these files, and both say which one is wrong. */
static void expect_refused(const shoal_rpc_tls *tls, shoal_status want, const char *word)
{
    shoal_rpc_channel *channel = NULL;
    shoal_rpc_server *server = NULL;
    int port = 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_rpc_channel_new(files_rpc, "127.0.0.1:1", tls, NULL, NULL, &channel, &err);
    if (status != want || !strstr(err.text, word)) {
        fail_msg("wanted %d and '%s', got %d '%s'", want, word, status, err.text);
    }
    shoal_err_clear(&err);
    status = shoal_rpc_server_new(files_rpc, "127.0.0.1:0", tls, NULL, 0, &server, &port, &err);
    if (status != want || !strstr(err.text, word)) {
        fail_msg("server: wanted %d and '%s', got %d '%s'", want, word, status, err.text);
    }
    assert_null(channel);
    assert_null(server);
}

static void test_missing_and_malformed_files_are_named(void **state)
{
    (void)state;
    NEED_CERTS();
    char bad[PATH_BYTES];
    (void)snprintf(bad, sizeof bad, "%s/bad.pem", ours.dir);
    shoal_rpc_tls tls = ours.edge;
    tls.ca = NULL;
    expect_refused(&tls, SHOAL_E_INVALID, "ca is missing");
    tls = ours.edge;
    tls.cert = "";
    expect_refused(&tls, SHOAL_E_INVALID, "cert is missing");
    tls = ours.edge;
    tls.key = NULL;
    expect_refused(&tls, SHOAL_E_INVALID, "key is missing");
    tls = ours.edge;
    tls.ca = "/nowhere/ca.pem";
    expect_refused(&tls, SHOAL_E_NOTFOUND, "/nowhere/ca.pem");
    tls = ours.edge;
    tls.key = "/nowhere/edge.key";
    expect_refused(&tls, SHOAL_E_NOTFOUND, "/nowhere/edge.key");
    write_file(bad, "");
    tls = ours.edge;
    tls.ca = bad;
    expect_refused(&tls, SHOAL_E_INVALID, "bad.pem: holds no PEM certificate");
    write_file(bad, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    expect_refused(&tls, SHOAL_E_INVALID, "bad.pem: holds no PEM certificate");
    tls = ours.edge;
    tls.cert = bad;
    expect_refused(&tls, SHOAL_E_INVALID, "bad.pem: holds no PEM certificate");
    tls.cert = ours.edge_cert;
    tls.key = bad;
    expect_refused(&tls, SHOAL_E_INVALID, "bad.pem: holds no PEM private key");
    tls.key = ours.cloud_key;
    expect_refused(&tls, SHOAL_E_INVALID, "is not the key of the certificate in");
    shell("cat @/edge.pem >@/bad.pem; printf '%s\\n' '-----BEGIN CERTIFICATE-----' AAAA "
          "'-----END CERTIFICATE-----' >>@/bad.pem",
          ours.dir);
    tls = ours.edge;
    tls.cert = bad;
    expect_refused(&tls, SHOAL_E_INVALID, "a later certificate is malformed");
}

static void test_key_with_a_passphrase_is_refused_without_asking(void **state)
{
    (void)state;
    NEED_CERTS();
    char locked[PATH_BYTES];
    (void)snprintf(locked, sizeof locked, "%s/locked.key", ours.dir);
    shell("openssl pkey -in @/edge.key -aes256 -passout pass:secret -out @/locked.key", ours.dir);
    shoal_rpc_tls tls = ours.edge;
    tls.key = locked;
    expect_refused(&tls, SHOAL_E_INVALID, "without a passphrase");
}

static void test_expired_certificate_is_refused(void **state)
{
    (void)state;
    NEED_CERTS();
    char expired[PATH_BYTES];
    (void)snprintf(expired, sizeof expired, "%s/expired.pem", ours.dir);
    shell("mkdir -p @/old && : >@/old/index && openssl req -new -key @/edge.key -subj /CN=old "
          "-out @/old/csr && printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=@/old/index\\n"
          "new_certs_dir=@/old\\nrand_serial=yes\\ndefault_md=sha256\\npolicy=p\\n[p]\\n"
          "commonName=supplied\\n' >@/old/conf && openssl ca -batch -notext -config @/old/conf "
          "-cert @/ca.pem -keyfile @/ca.key -startdate 20200101000000Z -enddate 20210101000000Z "
          "-in @/old/csr -out @/expired.pem 2>/dev/null",
          ours.dir);
    shoal_rpc_tls tls = ours.edge;
    tls.cert = expired;
    expect_refused(&tls, SHOAL_E_AUTH, "has expired");
}

static void test_failing_memory_while_loading_is_told(void **state)
{
    (void)state;
    NEED_CERTS();
    shoal_rpc_channel *channel = NULL;
    shoal_status status = SHOAL_E_NOMEM;
    for (uint64_t i = 0; status == SHOAL_E_NOMEM; i++) {
        shoal_mem_fail_here_at(i);
        status =
            shoal_rpc_channel_new(files_rpc, "127.0.0.1:1", &ours.edge, NULL, NULL, &channel, NULL);
        shoal_mem_fail_here_at(UINT64_MAX);
    }
    assert_int_equal(status, SHOAL_OK);
    shoal_rpc_channel_free(channel);
}

static int make_rpc(void **state)
{
    (void)state;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    return shoal_rpc_new(&limits, &files_rpc, NULL);
}

static int free_rpc(void **state)
{
    (void)state;
    shoal_rpc_free(files_rpc);
    return 0;
}

/* --- the script ------------------------------------------------------------------------------- */

static void test_script_keeps_what_is_valid(void **state)
{
    (void)state;
    NEED_CERTS();
    char command[2 * PATH_BYTES];
    (void)snprintf(command, sizeof command, "'%s/deploy/certs/make-dev-certs' '%s' >/dev/null",
                   getenv("SHOAL_SOURCE_DIR"), ours.dir);
    shell("cksum @/*.pem @/*.key >@/before", ours.dir);
    assert_true(run(command));
    shell("cksum @/*.pem @/*.key >@/after && cmp -s @/before @/after", ours.dir);
    shell("test \"$(stat -c %a @/edge.key)\" = 600 && test \"$(stat -c %a @/ca.key)\" = 600",
          ours.dir);
    /* A certificate of another authority is made anew, the good one stays. */
    shell("cp @/edge.pem @/kept.pem", theirs.dir);
    copy_file(ours.cloud_cert, theirs.cloud_cert);
    copy_file(ours.cloud_key, theirs.cloud_key);
    (void)snprintf(command, sizeof command, "'%s/deploy/certs/make-dev-certs' '%s' >/dev/null",
                   getenv("SHOAL_SOURCE_DIR"), theirs.dir);
    assert_true(run(command));
    shell("cmp -s @/edge.pem @/kept.pem && openssl verify -CAfile @/ca.pem @/cloud.pem >/dev/null",
          theirs.dir);
}

/* One identity for each name, beside those that are there; what is no name makes nothing. */
static void test_script_makes_devices_by_name(void **state)
{
    (void)state;
    NEED_CERTS();
    static const char *const refused[] = {
        "''", "ca", "cloud", "dev", "-a", "../a", "a.b", "'a b'", "$(printf %059d 0)"};
    char command[2 * PATH_BYTES];
    const char *source = getenv("SHOAL_SOURCE_DIR");
    shell("cksum @/ca.* @/cloud.* @/edge.* >@/before", theirs.dir);
    (void)snprintf(command, sizeof command,
                   "'%s/deploy/certs/make-dev-certs' '%s' desk-1 $(printf %%058d 0) >/dev/null",
                   source, theirs.dir);
    assert_true(run(command));
    shell("for n in desk-1 $(printf %058d 0); do openssl verify -CAfile @/ca.pem @/$n.pem && "
          "openssl x509 -in @/$n.pem -noout -ext subjectAltName | "
          "grep -qx \" *URI:spiffe://shoal.dev/edge/$n\" || exit 1; done >/dev/null",
          theirs.dir);
    for (size_t i = 0; i < SHOAL_COUNT(refused); i++) {
        (void)snprintf(
            command, sizeof command,
            "'%s/deploy/certs/make-dev-certs' '%s' desk-2 %s >/dev/null 2>&1; test $? = 2", source,
            theirs.dir, refused[i]);
        assert_true(run(command));
    }
    shell("test ! -e @/desk-2.pem && cksum @/ca.* @/cloud.* @/edge.* | cmp -s - @/before",
          theirs.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_certificates_of_one_authority_are_taken),
        cmocka_unit_test(test_name_override_is_what_the_certificate_must_hold),
        cmocka_unit_test(test_client_of_a_foreign_authority_is_refused),
        cmocka_unit_test(test_server_of_a_foreign_authority_is_refused),
        cmocka_unit_test(test_plaintext_client_is_refused),
        cmocka_unit_test(test_client_certificate_cannot_serve),
        cmocka_unit_test(test_client_without_a_certificate_is_refused),
        cmocka_unit_test(test_new_certificates_are_taken_under_a_stream),
        cmocka_unit_test(test_channel_takes_new_certificates_under_a_call),
        cmocka_unit_test(test_calls_of_an_authority_that_is_gone_are_refused),
        cmocka_unit_test(test_the_same_certificates_keep_the_connection),
        cmocka_unit_test(test_failing_memory_keeps_the_certificates),
        cmocka_unit_test(test_two_authorities_in_one_file_are_both_taken),
        cmocka_unit_test(test_expiry_is_read_from_the_certificate),
        cmocka_unit_test_setup_teardown(test_missing_and_malformed_files_are_named, make_rpc,
                                        free_rpc),
        cmocka_unit_test_setup_teardown(test_key_with_a_passphrase_is_refused_without_asking,
                                        make_rpc, free_rpc),
        cmocka_unit_test_setup_teardown(test_expired_certificate_is_refused, make_rpc, free_rpc),
        cmocka_unit_test_setup_teardown(test_failing_memory_while_loading_is_told, make_rpc,
                                        free_rpc),
        cmocka_unit_test(test_script_keeps_what_is_valid),
        cmocka_unit_test(test_script_makes_devices_by_name),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
