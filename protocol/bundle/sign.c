/* SPDX-License-Identifier: Apache-2.0
 *
 * Ed25519 through EVP, one shot: the scheme has no digest of its own to be chosen.
 */
#include "protocol/bundle/bundle.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

enum {
    PEM_BYTES_MAX = 64 << 10
};

struct shoal_bundle_keys {
    EVP_PKEY *keys[SHOAL_BUNDLE_KEYS_MAX];
    size_t n_keys;
};

static void free_bio(BIO **bio)
{
    BIO_free(*bio);
}

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static void free_digest(EVP_MD_CTX **ctx)
{
    EVP_MD_CTX_free(*ctx);
}

/* No password is asked for at a terminal. */
static int no_password(char *buf, int size, int rwflag, void *ctx)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)ctx;
    return -1;
}

/* buf is wiped by the caller where it holds a private key. */
static shoal_status open_pem(const char *path, shoal_buf *buf, BIO **ret_bio, shoal_err *err)
{
    SHOAL_TRY(shoal_file_read(path, PEM_BYTES_MAX, buf, err));
    *ret_bio = BIO_new_mem_buf(buf->data, (int)buf->length);
    return *ret_bio ? SHOAL_OK : shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
}

/* The next block of a PEM file as a key. SHOAL_EOF: there is no further block. */
static shoal_status next_key(BIO *bio, EVP_PKEY **ret_key)
{
    char *name = NULL;
    char *header = NULL;
    unsigned char *data = NULL;
    long n = 0;
    if (PEM_read_bio(bio, &name, &header, &data, &n) != 1) {
        unsigned long last = ERR_peek_last_error();
        ERR_clear_error();
        return ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE
                   ? SHOAL_EOF
                   : SHOAL_E_INVALID;
    }
    const unsigned char *at = data;
    bool is_public = strcmp(name, PEM_STRING_PUBLIC) == 0 && header[0] == '\0';
    *ret_key = is_public ? d2i_PUBKEY(NULL, &at, n) : NULL;
    ERR_clear_error();
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_clear_free(data, (size_t)n); /* somebody may have put a private one here */
    return *ret_key ? SHOAL_OK : SHOAL_E_INVALID;
}

static shoal_status read_keys(shoal_bundle_keys *keys, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = PEM_BYTES_MAX};
    SHOAL_CLEANUP(free_bio) BIO *bio = NULL;
    shoal_status status = SHOAL_OK;
    SHOAL_TRY(open_pem(path, &buf, &bio, err));
    while (status == SHOAL_OK) {
        SHOAL_CLEANUP(free_key) EVP_PKEY *key = NULL;
        status = next_key(bio, &key);
        if (status == SHOAL_OK && EVP_PKEY_get_id(key) != EVP_PKEY_ED25519) {
            return shoal_err_set(
                err, SHOAL_E_INVALID,
                "%.160s: key %zu is not an Ed25519 key; openssl genpkey -algorithm "
                "ed25519 makes one",
                path, keys->n_keys + 1);
        }
        if (status == SHOAL_OK && keys->n_keys == SHOAL_BUNDLE_KEYS_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "%.200s: more than %d keys", path,
                                 (int)SHOAL_BUNDLE_KEYS_MAX);
        }
        if (status == SHOAL_OK) {
            keys->keys[keys->n_keys++] = SHOAL_STEAL(key);
        }
    }
    return status == SHOAL_EOF && keys->n_keys > 0
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_INVALID,
                               "%.160s: PEM public keys are expected; openssl pkey -pubout writes "
                               "one",
                               path);
}

shoal_status shoal_bundle_keys_read(const char *path, shoal_bundle_keys **ret_keys, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_bundle_keys_freep) shoal_bundle_keys *keys = shoal_calloc(1, sizeof *keys);
    if (!keys) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    SHOAL_TRY(read_keys(keys, path, err));
    *ret_keys = SHOAL_STEAL(keys);
    return SHOAL_OK;
}

void shoal_bundle_keys_free(shoal_bundle_keys *keys)
{
    if (!keys) {
        return;
    }
    for (size_t i = 0; i < keys->n_keys; i++) {
        EVP_PKEY_free(keys->keys[i]);
    }
    shoal_free(keys);
}

shoal_status shoal_bundle_verify(const shoal_bundle_keys *keys, const void *manifest, size_t n,
                                 const void *signature, size_t n_signature, shoal_err *err)
{
    if (n_signature != SHOAL_BUNDLE_SIGNATURE_BYTES) {
        return shoal_err_set(err, SHOAL_E_AUTH, "the signature has %zu bytes, Ed25519's has %d",
                             n_signature, (int)SHOAL_BUNDLE_SIGNATURE_BYTES);
    }
    for (size_t i = 0; i < keys->n_keys; i++) {
        SHOAL_CLEANUP(free_digest) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        if (!ctx || EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, keys->keys[i]) != 1) {
            ERR_clear_error();
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to verify a signature");
        }
        if (EVP_DigestVerify(ctx, signature, n_signature, manifest, n) == 1) {
            return SHOAL_OK;
        }
        ERR_clear_error();
    }
    return shoal_err_set(err, SHOAL_E_AUTH,
                         "the manifest is signed by none of the %zu keys that are trusted here",
                         keys->n_keys);
}

static shoal_status sign(EVP_PKEY *key, const void *manifest, size_t n, uint8_t *ret_signature,
                         shoal_err *err)
{
    SHOAL_CLEANUP(free_digest) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t size = SHOAL_BUNDLE_SIGNATURE_BYTES;
    if (!ctx || EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) != 1 ||
        EVP_DigestSign(ctx, ret_signature, &size, manifest, n) != 1) {
        ERR_clear_error();
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to sign");
    }
    return SHOAL_OK;
}

shoal_status shoal_bundle_sign(const char *key_path, const void *manifest, size_t n,
                               uint8_t ret_signature[SHOAL_BUNDLE_SIGNATURE_BYTES], shoal_err *err)
{
    shoal_buf buf = {.limit = PEM_BYTES_MAX};
    SHOAL_CLEANUP(free_bio) BIO *bio = NULL;
    SHOAL_CLEANUP(free_key) EVP_PKEY *key = NULL;
    shoal_status status = open_pem(key_path, &buf, &bio, err);
    if (status == SHOAL_OK) {
        key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
        ERR_clear_error();
    }
    if (buf.data) {
        explicit_bzero(buf.data, buf.length);
    }
    shoal_buf_fini(&buf);
    SHOAL_TRY(status);
    if (!key || EVP_PKEY_get_id(key) != EVP_PKEY_ED25519) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%.140s: an Ed25519 private key without a password is expected; "
                             "openssl genpkey -algorithm ed25519 makes one",
                             key_path);
    }
    return sign(key, manifest, n, ret_signature, err);
}
