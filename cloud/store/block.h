/* SPDX-License-Identifier: Apache-2.0
 *
 * The container of one stored block: 32 tokens of one text, all layers, in the canonical form
 * (R4), with a header that says what it is. It knows nothing of layers and types: the payload is
 * opaque, its form is part of the name. Pure; a block belongs to one thread at a time.
 *
 * The name of a block is a chain of SHA-256: the root commits to the model's content hash, the KV
 * form and the tenant's salt, and each next name to the one before and the block's 32 tokens. So a
 * name stands for all tokens up to the end of its block, and equal names are equal content (R2).
 *
 * Layout, little-endian:
 *     0  8  magic "SHOALKVB"          28  4  CRC-32C of the payload
 *     8  4  version, 1                32 32  name
 *    12  4  header bytes, 256         64 128 the block's 32 token ids
 *    16  8  payload bytes            192 32  root
 *    24  4  block index              224 28  zero
 *                                    252  4  CRC-32C of the header before
 *   256     payload
 */
#ifndef SHOAL_CLOUD_STORE_BLOCK_H
#define SHOAL_CLOUD_STORE_BLOCK_H

#include "common/base/hash.h"

#include <stdint.h>

enum {
    SHOAL_BLOCK_TOKENS = 32,
    SHOAL_BLOCK_VERSION = 1,
    SHOAL_BLOCK_HEADER_BYTES = 256,
    SHOAL_BLOCK_INDEX_MAX = (1 << 25) - 1, /* texts of 2^30 tokens */
    SHOAL_BLOCK_PAYLOAD_MAX = 256 << 20,   /* bytes */
    SHOAL_BLOCK_SALT_MAX = 256,            /* bytes */
    SHOAL_BLOCK_FORM_MAX = 256             /* bytes */
};

/* What one block is. */
typedef struct shoal_block_id {
    shoal_hash root;
    shoal_hash name;
    uint32_t index; /* tokens [32 * index, 32 * index + 32) of the text; 0..INDEX_MAX */
    int32_t tokens[SHOAL_BLOCK_TOKENS];
} shoal_block_id;

/* form: everything beyond the model that decides the payload's bytes, as text. salt: NULL and 0 for
 * the public namespace. SHOAL_E_LIMIT, SHOAL_E_NOMEM. */
shoal_status shoal_block_root(const shoal_hash *model, const char *form, const void *salt,
                              size_t n_salt, shoal_hash *ret_root) SHOAL_MUST_CHECK;
/* The first block of a text. */
shoal_status shoal_block_first(const shoal_hash *root, const int32_t *tokens,
                               shoal_block_id *ret_id) SHOAL_MUST_CHECK;
/* The block after before. SHOAL_E_LIMIT past SHOAL_BLOCK_INDEX_MAX. */
shoal_status shoal_block_next(const shoal_block_id *before, const int32_t *tokens,
                              shoal_block_id *ret_id) SHOAL_MUST_CHECK;

/* Header and payload in one piece of memory. */
typedef struct shoal_block shoal_block;

/* n_payload 1..SHOAL_BLOCK_PAYLOAD_MAX, zeroed. */
shoal_status shoal_block_new(size_t n_payload, shoal_block **ret_block) SHOAL_MUST_CHECK;
/* From a copy of n bytes of a container, unchecked; SHOAL_E_LIMIT for a size no container has. */
shoal_status shoal_block_copy(const void *bytes, size_t n,
                              shoal_block **ret_block) SHOAL_MUST_CHECK;
void shoal_block_free(shoal_block *block);
SHOAL_DEFINE_CLEANUP(shoal_block, shoal_block_free)

/* The payload, aligned to 64 bytes. */
uint8_t *shoal_block_payload(shoal_block *block);
size_t shoal_block_n_payload(const shoal_block *block);
/* The whole container. */
const uint8_t *shoal_block_bytes(const shoal_block *block);
uint8_t *shoal_block_bytes_mut(shoal_block *block);
size_t shoal_block_n_bytes(const shoal_block *block);

/* Writes the header for what the payload holds now. */
void shoal_block_seal(shoal_block *block, const shoal_block_id *id);
/* Reads the header of n hostile bytes and checks every field and both checksums. SHOAL_E_INVALID
 * for bytes that are no container of ours, SHOAL_E_UNSUPPORTED for another version; the text names
 * the field. */
shoal_status shoal_block_parse(const uint8_t *bytes, size_t n, shoal_block_id *ret_id,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* Parses, and holds it against what was asked for. SHOAL_E_MISMATCH: sound, but another block. */
shoal_status shoal_block_check(const shoal_block *block, const shoal_block_id *expected,
                               shoal_err *err) SHOAL_MUST_CHECK;

#endif
