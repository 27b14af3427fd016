/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to protocol/kvwire: the layout (KVWIRE.md), shared by both directions.
 */
#ifndef SHOAL_KVWIRE_KVWIRE_INTERNAL_H
#define SHOAL_KVWIRE_KVWIRE_INTERNAL_H

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "protocol/kvwire/kvwire.h"

#include <stdbool.h>

enum {
    HEAD_BYTES = 160,
    AT_VERSION = 8,
    AT_HEAD_BYTES = 12,
    AT_MODEL = 16,
    AT_TOKENIZER = 48,
    AT_FORM = 80,
    AT_N_TOKENS = 112,
    AT_N_BLOCKS = 116,
    AT_N_LAYERS = 120,
    AT_FIRST_BYTES = 124,
    AT_LAYER_BYTES = 128,
    AT_ZERO = 132,
    AT_HEAD_CRC = 156,

    LONG_HEAD_BYTES = 192, /* of SHOAL_KVWIRE_VERSION_ARCHIVE */
    AT_N_ARCHIVED = 132,
    AT_BASIS = 136,
    AT_LONG_ZERO = 168,
    AT_LONG_HEAD_CRC = 188,

    RECORD_HEAD = 12, /* kind, bytes of the payload, CRC-32C of both and the payload */
    AT_N = 4,
    AT_CRC = 8,

    CHUNK_BYTES = 20,
    AT_CHUNK_BLOCK = 0,
    AT_CHUNK_BLOCKS = 4,
    AT_CHUNK_LAYER = 8,
    AT_CHUNK_LAYERS = 12,
    AT_CHUNK_CODEC = 16,

    IDS_PER_RECORD = 4096
};

typedef enum record_kind {
    RECORD_TOKENS = 1,
    RECORD_CHUNK = 2,
    RECORD_BLOCK = 3,
    RECORD_END = 4
} record_kind;

static const char kvwire_magic[8] = {'S', 'H', 'O', 'A', 'L', 'K', 'V', 'W'};
/* Separates this hash from every other use of SHA-256. */
static const char kvwire_content_domain[] = "shoal kvwire content 1";

/* Of a record's first eight bytes and its payload. */
static inline uint32_t record_crc(const uint8_t *record, size_t n_payload)
{
    return shoal_crc32c(shoal_crc32c(0, record, AT_CRC), record + RECORD_HEAD, n_payload);
}

/* Bytes of a block in that many layers. */
static inline uint64_t plain_bytes(const shoal_kvwire_about *about, uint32_t block,
                                   uint32_t n_layers)
{
    return (uint64_t)(block == 0 ? about->first_bytes : about->layer_bytes) * n_layers;
}

/* Bytes of the longest payload of a record that this many layers make. */
static inline uint64_t payload_max(const shoal_kvwire_about *about, uint32_t n_layers)
{
    uint64_t most = (uint64_t)IDS_PER_RECORD * sizeof(int32_t);
    most = SHOAL_MAX(most, about->n_archived > 0 ? about->archived_bytes : 0);
    most = SHOAL_MAX(most, plain_bytes(about, 0, n_layers));
    return SHOAL_MAX(most, plain_bytes(about, 1, n_layers));
}

/* What each head must hold whoever made it: SHOAL_E_INVALID names the field. */
static inline shoal_status check_about(const shoal_kvwire_about *about, shoal_err *err)
{
    const struct {
        const char *name;
        uint64_t value, min, max;
    } rows[] = {
        {"tokens", about->n_tokens, 1, SHOAL_KVWIRE_TOKENS_MAX},
        {"blocks", about->n_blocks, 0, about->n_tokens / SHOAL_KVWIRE_BLOCK},
        {"layers", about->n_layers, 1, SHOAL_KVWIRE_LAYERS_MAX},
        {"bytes of block 0", about->first_bytes, 1, SHOAL_KVWIRE_RECORD_MAX},
        {"bytes of a block", about->layer_bytes, 1, SHOAL_KVWIRE_RECORD_MAX},
        {"archived blocks", about->n_archived, 0, about->n_blocks},
        {"bytes of an archived block", about->archived_bytes, about->n_archived > 0 ? 1 : 0,
         SHOAL_KVWIRE_RECORD_MAX},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].value < rows[i].min || rows[i].value > rows[i].max) {
            return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: %s: %llu is outside %llu to %llu",
                                 rows[i].name, (unsigned long long)rows[i].value,
                                 (unsigned long long)rows[i].min, (unsigned long long)rows[i].max);
        }
    }
    return SHOAL_OK;
}

/* Before the content's first byte. */
static inline void content_start(shoal_hasher *hasher, shoal_kvwire_salt salt)
{
    shoal_hasher_update_field(hasher, kvwire_content_domain, sizeof kvwire_content_domain - 1);
    shoal_hasher_update_field(hasher, salt.bytes, salt.n);
}

/* After its last byte. The salt stands on both sides, so that nobody can append. */
static inline void content_end(shoal_hasher *hasher, shoal_kvwire_salt salt, shoal_hash *ret_hash)
{
    shoal_hasher_update_field(hasher, salt.bytes, salt.n);
    shoal_hasher_finish(hasher, ret_hash);
}

#endif
