/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 (FIPS 180-4) through libcrypto: the content hash of models, tokenizers and KV (R9).
 * An object is used by one thread at a time.
 */
#ifndef SHOAL_BASE_HASH_H
#define SHOAL_BASE_HASH_H

#include "common/base/macros.h"

#include <stdint.h>

enum {
    SHOAL_HASH_BYTES = 32,
    SHOAL_HASH_HEX = 65
};

typedef struct shoal_hash {
    uint8_t bytes[SHOAL_HASH_BYTES];
} shoal_hash;

typedef struct shoal_hasher shoal_hasher;

shoal_status shoal_hasher_new(shoal_hasher **ret_hasher) SHOAL_MUST_CHECK;
void shoal_hasher_free(shoal_hasher *hasher);
SHOAL_DEFINE_CLEANUP(shoal_hasher, shoal_hasher_free)
void shoal_hasher_update(shoal_hasher *hasher, const void *data, size_t n);
/* Length-prefixed (8 bytes, little-endian), so that fields cannot run into each other. */
void shoal_hasher_update_field(shoal_hasher *hasher, const void *data, size_t n);
void shoal_hasher_finish(shoal_hasher *hasher, shoal_hash *ret_hash);

/* Of one piece of memory. Any thread. */
shoal_status shoal_hash_of(const void *data, size_t n, shoal_hash *ret_hash) SHOAL_MUST_CHECK;

/* Lower-case hexadecimal with its NUL. */
void shoal_hash_hex(const shoal_hash *hash, char ret_hex[SHOAL_HASH_HEX]);

#endif
