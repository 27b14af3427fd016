/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to libcrypto for SHA-256.
 */
#include "common/base/hash.h"

#include "common/base/mem.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

/* OpenSSL takes itself down when the process exits, while threads of gRPC may still be inside it:
 * what they hold is lost then, or gone under their hands. The first call decides, so it is made
 * before main; the memory goes with the process. */
__attribute__((constructor)) static void keep_openssl_until_the_end(void)
{
    (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

struct shoal_hasher {
    EVP_MD_CTX *ctx;
};

shoal_status shoal_hasher_new(shoal_hasher **ret_hasher)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = shoal_calloc(1, sizeof *hasher);
    if (!hasher) {
        return SHOAL_E_NOMEM;
    }
    hasher->ctx = EVP_MD_CTX_new();
    if (!hasher->ctx || EVP_DigestInit_ex(hasher->ctx, EVP_sha256(), NULL) != 1) {
        return SHOAL_E_NOMEM;
    }
    *ret_hasher = SHOAL_STEAL(hasher);
    return SHOAL_OK;
}

void shoal_hasher_free(shoal_hasher *hasher)
{
    if (!hasher) {
        return;
    }
    EVP_MD_CTX_free(hasher->ctx);
    shoal_free(hasher);
}

void shoal_hasher_update(shoal_hasher *hasher, const void *data, size_t n)
{
    if (n == 0) {
        return;
    }
    /* After a good init the software digest cannot fail: it allocates nothing. */
    int rc = EVP_DigestUpdate(hasher->ctx, data, n);
    SHOAL_ASSERT(rc == 1);
}

void shoal_hasher_update_field(shoal_hasher *hasher, const void *data, size_t n)
{
    uint8_t prefix[8];
    for (size_t i = 0; i < sizeof prefix; i++) {
        prefix[i] = (uint8_t)((uint64_t)n >> (8 * i));
    }
    shoal_hasher_update(hasher, prefix, sizeof prefix);
    shoal_hasher_update(hasher, data, n);
}

void shoal_hasher_finish(shoal_hasher *hasher, shoal_hash *ret_hash)
{
    unsigned n = 0;
    int rc = EVP_DigestFinal_ex(hasher->ctx, ret_hash->bytes, &n);
    SHOAL_ASSERT(rc == 1 && n == SHOAL_HASH_BYTES);
    /* The object starts over, so that a second use gives a digest and not a library error. */
    rc = EVP_DigestInit_ex(hasher->ctx, NULL, NULL);
    SHOAL_ASSERT(rc == 1);
}

shoal_status shoal_hash_of(const void *data, size_t n, shoal_hash *ret_hash)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update(hasher, data, n);
    shoal_hasher_finish(hasher, ret_hash);
    return SHOAL_OK;
}

void shoal_hash_hex(const shoal_hash *hash, char ret_hex[SHOAL_HASH_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < SHOAL_HASH_BYTES; i++) {
        ret_hex[2 * i] = digits[hash->bytes[i] >> 4];
        ret_hex[2 * i + 1] = digits[hash->bytes[i] & 15u];
    }
    ret_hex[2 * SHOAL_HASH_BYTES] = '\0';
}
