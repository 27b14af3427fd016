/* SPDX-License-Identifier: Apache-2.0
 *
 * Mutual TLS: certificates in, credentials out; and who the peer is. gRPC takes any bytes for a
 * certificate and fails every handshake later, so the files are read with libcrypto first.
 */
#include "protocol/rpc/rpc_internal.h"

#include "common/base/buf.h"
#include "common/base/file.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>

#include <limits.h>
#include <string.h>
#include <time.h>

enum {
    PEM_BYTES_MAX = 1 << 20
};

typedef struct pem_files {
    shoal_buf ca;
    shoal_buf cert;
    shoal_buf key;
} pem_files;

static void pem_files_fini(pem_files *files)
{
    if (files->key.data) {
        explicit_bzero(files->key.data, files->key.capacity);
    }
    shoal_buf_fini(&files->ca);
    shoal_buf_fini(&files->cert);
    shoal_buf_fini(&files->key);
}

bool shoal_rpc_tls_absent(const shoal_rpc_tls *tls)
{
    return !tls || (!tls->ca && !tls->cert && !tls->key);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void bio_freep(BIO **bio)
{
    BIO_free(*bio);
}

static void x509_freep(X509 **x509)
{
    X509_free(*x509);
}

static void store_freep(X509_STORE **store)
{
    X509_STORE_free(*store);
}

static void store_ctx_freep(X509_STORE_CTX **ctx)
{
    X509_STORE_CTX_free(*ctx);
}

static void stack_freep(STACK_OF(X509) * *stack)
{
    sk_X509_pop_free(*stack, X509_free);
}

static void pkey_freep(EVP_PKEY **pkey)
{
    EVP_PKEY_free(*pkey);
}

/* A key with a passphrase is refused instead of asked for on the terminal. */
static int no_passphrase(char *buf, int size, int rwflag, void *ctx)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)ctx;
    return -1;
}

static BIO *bio_over(const shoal_buf *pem)
{
    SHOAL_ASSERT(pem->length <= INT_MAX);
    return BIO_new_mem_buf(pem->data, (int)pem->length);
}

/* Every certificate in the file parses; the first is returned for the caller to free. */
static shoal_status read_certificates(const char *path, const shoal_buf *pem, X509 **ret_first,
                                      shoal_err *err)
{
    SHOAL_CLEANUP(bio_freep) BIO *bio = bio_over(pem);
    SHOAL_CLEANUP(x509_freep)
    X509 *first = bio ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;
    if (!first) {
        ERR_clear_error();
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: holds no PEM certificate (-----BEGIN CERTIFICATE-----)", path);
    }
    for (;;) {
        SHOAL_CLEANUP(x509_freep) X509 *next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (next) {
            continue;
        }
        bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
        ERR_clear_error();
        if (!at_end) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s: a later certificate is malformed",
                                 path);
        }
        break;
    }
    *ret_first = SHOAL_STEAL(first);
    return SHOAL_OK;
}

static shoal_status check_dates(const char *path, const X509 *cert, shoal_err *err)
{
    if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0) {
        return shoal_err_set(err, SHOAL_E_AUTH,
                             "%s: the certificate is not valid yet; check this machine's clock",
                             path);
    }
    if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) {
        return shoal_err_set(err, SHOAL_E_AUTH, "%s: the certificate has expired; issue a new one",
                             path);
    }
    return SHOAL_OK;
}

static shoal_status check_key(const shoal_rpc_tls *tls, const pem_files *files, const X509 *cert,
                              shoal_err *err)
{
    SHOAL_CLEANUP(bio_freep) BIO *bio = bio_over(&files->key);
    SHOAL_CLEANUP(pkey_freep)
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    ERR_clear_error();
    if (!key) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: holds no PEM private key without a passphrase", tls->key);
    }
    int match = X509_check_private_key(cert, key);
    ERR_clear_error();
    if (match != 1) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: is not the key of the certificate in %s",
                             tls->key, tls->cert);
    }
    return SHOAL_OK;
}

static shoal_status require_path(const char *name, const char *path, shoal_err *err)
{
    if (path && path[0] != '\0') {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "tls: %s is missing; ca, cert and key are given together or not at all",
                         name);
}

static shoal_status load(const shoal_rpc_tls *tls, pem_files *files, shoal_err *err)
{
    SHOAL_TRY(require_path("ca", tls->ca, err));
    SHOAL_TRY(require_path("cert", tls->cert, err));
    SHOAL_TRY(require_path("key", tls->key, err));
    SHOAL_TRY(shoal_file_read(tls->ca, PEM_BYTES_MAX, &files->ca, err));
    SHOAL_TRY(shoal_file_read(tls->cert, PEM_BYTES_MAX, &files->cert, err));
    SHOAL_TRY(shoal_file_read(tls->key, PEM_BYTES_MAX, &files->key, err));
    SHOAL_CLEANUP(x509_freep) X509 *authority = NULL;
    SHOAL_CLEANUP(x509_freep) X509 *own = NULL;
    SHOAL_TRY(read_certificates(tls->ca, &files->ca, &authority, err));
    SHOAL_TRY(read_certificates(tls->cert, &files->cert, &own, err));
    SHOAL_TRY(check_dates(tls->ca, authority, err));
    SHOAL_TRY(check_dates(tls->cert, own, err));
    return check_key(tls, files, own, err);
}

shoal_status shoal_rpc_tls_check(const shoal_rpc_tls *tls, shoal_err *err)
{
    SHOAL_CLEANUP(pem_files_fini) pem_files files = {0};
    return load(tls, &files, err);
}

shoal_status shoal_rpc_tls_hash(const shoal_rpc_tls *tls, shoal_hash *ret_hash, shoal_err *err)
{
    SHOAL_CLEANUP(pem_files_fini) pem_files files = {0};
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    const char *name = tls->name_override ? tls->name_override : "";
    SHOAL_TRY(load(tls, &files, err));
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to look at certificates");
    }
    shoal_hasher_update_field(hasher, files.ca.data, files.ca.length);
    shoal_hasher_update_field(hasher, files.cert.data, files.cert.length);
    shoal_hasher_update_field(hasher, files.key.data, files.key.length);
    shoal_hasher_update_field(hasher, name, strlen(name));
    shoal_hasher_finish(hasher, ret_hash);
    return SHOAL_OK;
}

/* --- credentials ------------------------------------------------------------------------------ */

shoal_status shoal_rpc_tls_client(const shoal_rpc_tls *tls, grpc_channel_credentials **ret_creds,
                                  shoal_err *err)
{
    SHOAL_CLEANUP(pem_files_fini) pem_files files = {0};
    SHOAL_TRY(load(tls, &files, err));
    grpc_ssl_pem_key_cert_pair pair = {.private_key = files.key.data,
                                       .cert_chain = files.cert.data};
    grpc_channel_credentials *creds =
        grpc_ssl_credentials_create_ex(files.ca.data, &pair, NULL, NULL);
    if (!creds) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: gRPC does not take these credentials",
                             tls->cert);
    }
    *ret_creds = creds;
    return SHOAL_OK;
}

void shoal_rpc_tls_source_init(shoal_rpc_tls_source *source)
{
    memset(source, 0, sizeof *source);
    int rc = pthread_mutex_init(&source->lock, NULL);
    SHOAL_ASSERT(rc == 0);
}

void shoal_rpc_tls_source_fini(shoal_rpc_tls_source *source)
{
    grpc_ssl_server_certificate_config_destroy(source->next);
    X509_STORE_free(source->authorities);
    shoal_buf_fini(&source->ca);
    (void)pthread_mutex_destroy(&source->lock);
}

/* From a gRPC thread, for each connection that is being made. What is given is gRPC's. */
static grpc_ssl_certificate_config_reload_status
fetch(void *user, grpc_ssl_server_certificate_config **ret_config)
{
    shoal_rpc_tls_source *source = user;
    (void)pthread_mutex_lock(&source->lock);
    grpc_ssl_server_certificate_config *next = SHOAL_STEAL(source->next);
    (void)pthread_mutex_unlock(&source->lock);
    if (!next) {
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    *ret_config = next;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

/* The authorities of a file that has been read. What the handshake takes, this does too, and more:
 * it is asked about peers that were taken once. */
static shoal_status make_store(const shoal_buf *ca, X509_STORE **ret_store, shoal_err *err)
{
    SHOAL_CLEANUP(bio_freep) BIO *bio = bio_over(ca);
    SHOAL_CLEANUP(store_freep) X509_STORE *store = X509_STORE_new();
    bool ok = bio && store;
    while (ok) {
        SHOAL_CLEANUP(x509_freep) X509 *one = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (!one) {
            break;
        }
        ok = X509_STORE_add_cert(store, one) == 1;
    }
    ERR_clear_error();
    if (!ok) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for authorities");
    }
    (void)X509_STORE_set_flags(store, X509_V_FLAG_NO_CHECK_TIME | X509_V_FLAG_PARTIAL_CHAIN);
    *ret_store = SHOAL_STEAL(store);
    return SHOAL_OK;
}

/* Under the lock. */
static void take_authorities(shoal_rpc_tls_source *source, pem_files *files, X509_STORE **store)
{
    bool first = source->ca.length == 0;
    bool same = !first && source->ca.length == files->ca.length &&
                memcmp(source->ca.data, files->ca.data, files->ca.length) == 0;
    shoal_buf before = source->ca;
    source->ca = files->ca;
    files->ca = before;
    if (first || same) {
        return;
    }
    X509_STORE *last = source->authorities;
    source->authorities = *store;
    *store = last;
    memset(source->verdicts, 0, sizeof source->verdicts);
}

shoal_status shoal_rpc_tls_source_load(shoal_rpc_tls_source *source, const shoal_rpc_tls *tls,
                                       shoal_err *err)
{
    SHOAL_CLEANUP(pem_files_fini) pem_files files = {0};
    SHOAL_CLEANUP(store_freep) X509_STORE *store = NULL;
    SHOAL_TRY(load(tls, &files, err));
    SHOAL_TRY(make_store(&files.ca, &store, err));
    grpc_ssl_pem_key_cert_pair pair = {.private_key = files.key.data,
                                       .cert_chain = files.cert.data};
    grpc_ssl_server_certificate_config *config =
        grpc_ssl_server_certificate_config_create(files.ca.data, &pair, 1);
    (void)pthread_mutex_lock(&source->lock);
    grpc_ssl_server_certificate_config *before = source->next;
    source->next = config;
    take_authorities(source, &files, &store);
    (void)pthread_mutex_unlock(&source->lock);
    grpc_ssl_server_certificate_config_destroy(before);
    return SHOAL_OK;
}

shoal_status shoal_rpc_tls_server(const shoal_rpc_tls *tls, shoal_rpc_tls_source *source,
                                  grpc_server_credentials **ret_creds, shoal_err *err)
{
    SHOAL_TRY(shoal_rpc_tls_source_load(source, tls, err));
    /* Takes the options. */
    grpc_server_credentials *creds = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, fetch, source));
    if (!creds) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: gRPC does not take these credentials",
                             tls->cert);
    }
    *ret_creds = creds;
    return SHOAL_OK;
}

shoal_status shoal_rpc_tls_expiry(const shoal_rpc_tls *tls, int64_t *ret_unix_s, shoal_err *err)
{
    SHOAL_TRY(require_path("cert", tls->cert, err));
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf pem = {0};
    SHOAL_TRY(shoal_file_read(tls->cert, PEM_BYTES_MAX, &pem, err));
    SHOAL_CLEANUP(x509_freep) X509 *cert = NULL;
    SHOAL_TRY(read_certificates(tls->cert, &pem, &cert, err));
    struct tm end;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &end) != 1) {
        ERR_clear_error();
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: the certificate names no valid end",
                             tls->cert);
    }
    *ret_unix_s = (int64_t)timegm(&end);
    return SHOAL_OK;
}

/* --- the peer --------------------------------------------------------------------------------- */

static const grpc_auth_property *find_property(const grpc_auth_context *context, const char *name)
{
    grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(context, name);
    return grpc_auth_property_iterator_next(&it);
}

/* NULL where there is none, or no memory. */
static BIO *bio_over_property(const grpc_auth_property *property)
{
    bool fits = property && property->value_length <= INT_MAX;
    return fits ? BIO_new_mem_buf(property->value, (int)property->value_length) : NULL;
}

/* chain, what the peer sent beside its own certificate, may be NULL. */
static bool verify(X509_STORE *authorities, const grpc_auth_property *leaf,
                   const grpc_auth_property *chain)
{
    SHOAL_CLEANUP(bio_freep) BIO *one = bio_over_property(leaf);
    SHOAL_CLEANUP(bio_freep) BIO *others = bio_over_property(chain);
    SHOAL_CLEANUP(x509_freep)
    X509 *peer = one ? PEM_read_bio_X509(one, NULL, no_passphrase, NULL) : NULL;
    SHOAL_CLEANUP(stack_freep) STACK_OF(X509) *between = sk_X509_new_null();
    SHOAL_CLEANUP(store_ctx_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    bool ok = peer && between && ctx;
    while (ok && others) {
        X509 *next = PEM_read_bio_X509(others, NULL, no_passphrase, NULL);
        if (!next) {
            break;
        }
        ok = sk_X509_push(between, next) > 0;
        if (!ok) {
            X509_free(next);
        }
    }
    ok = ok && X509_STORE_CTX_init(ctx, authorities, peer, between) == 1 &&
         X509_STORE_CTX_set_default(ctx, "ssl_client") == 1 && X509_verify_cert(ctx) == 1;
    ERR_clear_error();
    return ok;
}

static bool hash_chain(const grpc_auth_property *leaf, const grpc_auth_property *chain,
                       shoal_hash *ret_hash)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return false;
    }
    shoal_hasher_update_field(hasher, leaf->value, leaf->value_length);
    if (chain) {
        shoal_hasher_update_field(hasher, chain->value, chain->value_length);
    }
    shoal_hasher_finish(hasher, ret_hash);
    return true;
}

/* Under the lock. A verdict is a signature to verify, and a peer's calls are many. */
static bool judge(shoal_rpc_tls_source *source, const grpc_auth_property *leaf,
                  const grpc_auth_property *chain)
{
    shoal_hash hash;
    if (!hash_chain(leaf, chain, &hash)) {
        return verify(source->authorities, leaf, chain);
    }
    shoal_rpc_verdict *verdict = &source->verdicts[hash.bytes[0] % SHOAL_RPC_VERDICTS];
    if (!verdict->known || memcmp(&verdict->chain, &hash, sizeof hash) != 0) {
        *verdict = (shoal_rpc_verdict){
            .known = true, .trusted = verify(source->authorities, leaf, chain), .chain = hash};
    }
    return verdict->trusted;
}

bool shoal_rpc_tls_source_trusts(shoal_rpc_tls_source *source, grpc_call *grpc)
{
    bool trusted = true;
    (void)pthread_mutex_lock(&source->lock);
    if (source->authorities) {
        grpc_auth_context *context = grpc_call_auth_context(grpc);
        const grpc_auth_property *leaf =
            context ? find_property(context, GRPC_X509_PEM_CERT_PROPERTY_NAME) : NULL;
        trusted = leaf && judge(source, leaf,
                                find_property(context, GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME));
        grpc_auth_context_release(context);
    }
    (void)pthread_mutex_unlock(&source->lock);
    return trusted;
}

/* The one value of a property, when it is short text. A longer one is not cut: two peers must not
 * become one. */
static bool take_property(const grpc_auth_context *context, const char *name,
                          char ret_value[SHOAL_RPC_IDENTITY_MAX])
{
    const grpc_auth_property *property = find_property(context, name);
    if (!property || property->value_length == 0 ||
        property->value_length >= SHOAL_RPC_IDENTITY_MAX) {
        return false;
    }
    for (size_t i = 0; i < property->value_length; i++) {
        if (property->value[i] < 0x21 || property->value[i] > 0x7e) {
            return false;
        }
    }
    memcpy(ret_value, property->value, property->value_length);
    ret_value[property->value_length] = '\0';
    return true;
}

bool shoal_rpc_tls_identity(grpc_call *grpc, char ret_identity[SHOAL_RPC_IDENTITY_MAX])
{
    ret_identity[0] = '\0';
    grpc_auth_context *context = grpc_call_auth_context(grpc);
    if (!context) {
        return false;
    }
    bool authenticated = grpc_auth_context_peer_is_authenticated(context) != 0;
    if (authenticated && !take_property(context, GRPC_PEER_SPIFFE_ID_PROPERTY_NAME, ret_identity)) {
        (void)take_property(context, GRPC_X509_CN_PROPERTY_NAME, ret_identity);
    }
    grpc_auth_context_release(context);
    return authenticated;
}
