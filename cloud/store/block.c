/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/store/block.h"

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/base/mem.h"

#include <string.h>

enum {
    HEADER = SHOAL_BLOCK_HEADER_BYTES,
    AT_VERSION = 8,
    AT_HEADER_BYTES = 12,
    AT_PAYLOAD_BYTES = 16,
    AT_INDEX = 24,
    AT_PAYLOAD_CRC = 28,
    AT_NAME = 32,
    AT_TOKENS = 64,
    AT_ROOT = 192,
    AT_ZERO = 224,
    AT_HEADER_CRC = 252
};

static const char magic[8] = {'S', 'H', 'O', 'A', 'L', 'K', 'V', 'B'};
/* Separates these hashes from every other use of SHA-256; changes with the meaning of a name. */
static const char root_domain[] = "shoal kv block root 1";
static const char next_domain[] = "shoal kv block next 1";

struct shoal_block {
    size_t n; /* bytes of the container */
    uint8_t *bytes;
};

/* --- numbers ---------------------------------------------------------------------------------- */

static void put_tokens(uint8_t *at, const int32_t *tokens)
{
    for (size_t i = 0; i < SHOAL_BLOCK_TOKENS; i++) {
        shoal_le_put_u32(at + 4 * i, (uint32_t)tokens[i]);
    }
}

/* --- names ------------------------------------------------------------------------------------ */

shoal_status shoal_block_root(const shoal_hash *model, const char *form, const void *salt,
                              size_t n_salt, shoal_hash *ret_root)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    size_t n_form = strlen(form);
    if (n_form > SHOAL_BLOCK_FORM_MAX || n_salt > SHOAL_BLOCK_SALT_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update_field(hasher, root_domain, sizeof root_domain - 1);
    shoal_hasher_update_field(hasher, model->bytes, sizeof model->bytes);
    shoal_hasher_update_field(hasher, form, n_form);
    shoal_hasher_update_field(hasher, salt, n_salt);
    shoal_hasher_finish(hasher, ret_root);
    return SHOAL_OK;
}

static shoal_status name_of(const shoal_hash *root, const shoal_hash *before, uint32_t index,
                            const int32_t *tokens, shoal_block_id *ret_id)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    uint8_t bytes[4 * SHOAL_BLOCK_TOKENS];
    SHOAL_TRY(shoal_hasher_new(&hasher));
    put_tokens(bytes, tokens);
    shoal_hasher_update_field(hasher, next_domain, sizeof next_domain - 1);
    shoal_hasher_update_field(hasher, before->bytes, sizeof before->bytes);
    shoal_hasher_update_field(hasher, bytes, sizeof bytes);
    shoal_block_id id = {.root = *root, .index = index};
    shoal_hasher_finish(hasher, &id.name);
    memcpy(id.tokens, tokens, sizeof id.tokens);
    *ret_id = id;
    return SHOAL_OK;
}

shoal_status shoal_block_first(const shoal_hash *root, const int32_t *tokens,
                               shoal_block_id *ret_id)
{
    return name_of(root, root, 0, tokens, ret_id);
}

shoal_status shoal_block_next(const shoal_block_id *before, const int32_t *tokens,
                              shoal_block_id *ret_id)
{
    if (before->index >= SHOAL_BLOCK_INDEX_MAX) {
        return SHOAL_E_LIMIT;
    }
    return name_of(&before->root, &before->name, before->index + 1, tokens, ret_id);
}

/* --- containers ------------------------------------------------------------------------------- */

static shoal_status make(size_t n_bytes, shoal_block **ret_block)
{
    if (n_bytes <= HEADER || n_bytes > (size_t)HEADER + SHOAL_BLOCK_PAYLOAD_MAX) {
        return SHOAL_E_LIMIT;
    }
    shoal_block *block = shoal_calloc(1, sizeof *block);
    if (!block) {
        return SHOAL_E_NOMEM;
    }
    block->n = n_bytes;
    block->bytes = shoal_calloc_aligned(n_bytes, 1);
    if (!block->bytes) {
        shoal_free(block);
        return SHOAL_E_NOMEM;
    }
    *ret_block = block;
    return SHOAL_OK;
}

shoal_status shoal_block_new(size_t n_payload, shoal_block **ret_block)
{
    if (n_payload > SHOAL_BLOCK_PAYLOAD_MAX) {
        return SHOAL_E_LIMIT;
    }
    return make(HEADER + n_payload, ret_block);
}

shoal_status shoal_block_copy(const void *bytes, size_t n, shoal_block **ret_block)
{
    SHOAL_TRY(make(n, ret_block));
    memcpy((*ret_block)->bytes, bytes, n);
    return SHOAL_OK;
}

void shoal_block_free(shoal_block *block)
{
    if (block) {
        shoal_free(block->bytes);
        shoal_free(block);
    }
}

uint8_t *shoal_block_payload(shoal_block *block)
{
    return block->bytes + HEADER;
}

size_t shoal_block_n_payload(const shoal_block *block)
{
    return block->n - HEADER;
}

const uint8_t *shoal_block_bytes(const shoal_block *block)
{
    return block->bytes;
}

uint8_t *shoal_block_bytes_mut(shoal_block *block)
{
    return block->bytes;
}

size_t shoal_block_n_bytes(const shoal_block *block)
{
    return block->n;
}

void shoal_block_seal(shoal_block *block, const shoal_block_id *id)
{
    uint8_t *h = block->bytes;
    size_t n_payload = block->n - HEADER;
    memset(h, 0, HEADER);
    memcpy(h, magic, sizeof magic);
    shoal_le_put_u32(h + AT_VERSION, SHOAL_BLOCK_VERSION);
    shoal_le_put_u32(h + AT_HEADER_BYTES, HEADER);
    shoal_le_put_u64(h + AT_PAYLOAD_BYTES, n_payload);
    shoal_le_put_u32(h + AT_INDEX, id->index);
    shoal_le_put_u32(h + AT_PAYLOAD_CRC, shoal_crc32c(0, h + HEADER, n_payload));
    memcpy(h + AT_NAME, id->name.bytes, SHOAL_HASH_BYTES);
    put_tokens(h + AT_TOKENS, id->tokens);
    memcpy(h + AT_ROOT, id->root.bytes, SHOAL_HASH_BYTES);
    shoal_le_put_u32(h + AT_HEADER_CRC, shoal_crc32c(0, h, AT_HEADER_CRC));
}

/* The fields of a header whose checksum is right. */
static shoal_status check_fields(const uint8_t *h, size_t n, shoal_err *err)
{
    if (shoal_le_u32(h + AT_HEADER_BYTES) != HEADER) {
        return shoal_err_set(err, SHOAL_E_INVALID, "stored block: header bytes is %u, not %d",
                             shoal_le_u32(h + AT_HEADER_BYTES), (int)HEADER);
    }
    if (shoal_le_u64(h + AT_PAYLOAD_BYTES) != n - HEADER) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "stored block: payload bytes is %llu, but %zu follow the header",
                             (unsigned long long)shoal_le_u64(h + AT_PAYLOAD_BYTES), n - HEADER);
    }
    if (shoal_le_u32(h + AT_INDEX) > SHOAL_BLOCK_INDEX_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "stored block: block index %u is above %d",
                             shoal_le_u32(h + AT_INDEX), (int)SHOAL_BLOCK_INDEX_MAX);
    }
    for (size_t i = AT_ZERO; i < AT_HEADER_CRC; i++) {
        if (h[i] != 0) {
            return shoal_err_set(err, SHOAL_E_INVALID, "stored block: byte %zu is not zero", i);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_block_parse(const uint8_t *bytes, size_t n, shoal_block_id *ret_id,
                               shoal_err *err)
{
    if (n <= HEADER || n > (size_t)HEADER + SHOAL_BLOCK_PAYLOAD_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "stored block: %zu bytes, a block has %d to %d and %d before them", n,
                             1, (int)SHOAL_BLOCK_PAYLOAD_MAX, (int)HEADER);
    }
    if (memcmp(bytes, magic, sizeof magic) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "stored block: not a block of KV (magic)");
    }
    if (shoal_le_u32(bytes + AT_VERSION) != SHOAL_BLOCK_VERSION) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "stored block: version %u, this is %d",
                             shoal_le_u32(bytes + AT_VERSION), (int)SHOAL_BLOCK_VERSION);
    }
    if (shoal_le_u32(bytes + AT_HEADER_CRC) != shoal_crc32c(0, bytes, AT_HEADER_CRC)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "stored block: checksum of the header");
    }
    SHOAL_TRY(check_fields(bytes, n, err));
    if (shoal_le_u32(bytes + AT_PAYLOAD_CRC) != shoal_crc32c(0, bytes + HEADER, n - HEADER)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "stored block: checksum of the payload");
    }
    shoal_block_id id = {.index = shoal_le_u32(bytes + AT_INDEX)};
    memcpy(id.name.bytes, bytes + AT_NAME, SHOAL_HASH_BYTES);
    memcpy(id.root.bytes, bytes + AT_ROOT, SHOAL_HASH_BYTES);
    for (size_t i = 0; i < SHOAL_BLOCK_TOKENS; i++) {
        id.tokens[i] = (int32_t)shoal_le_u32(bytes + AT_TOKENS + 4 * i);
    }
    *ret_id = id;
    return SHOAL_OK;
}

shoal_status shoal_block_check(const shoal_block *block, const shoal_block_id *expected,
                               shoal_err *err)
{
    shoal_block_id id;
    SHOAL_TRY(shoal_block_parse(block->bytes, block->n, &id, err));
    const char *what = NULL;
    if (memcmp(&id.root, &expected->root, sizeof id.root) != 0) {
        what = "model, form or tenant";
    } else if (memcmp(&id.name, &expected->name, sizeof id.name) != 0) {
        what = "name";
    } else if (id.index != expected->index) {
        what = "index";
    } else if (memcmp(id.tokens, expected->tokens, sizeof id.tokens) != 0) {
        what = "tokens";
    }
    return what ? shoal_err_set(err, SHOAL_E_MISMATCH, "stored block: %s of another block", what)
                : SHOAL_OK;
}
