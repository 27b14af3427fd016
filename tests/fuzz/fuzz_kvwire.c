/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a blob of KV, in pieces whose length the first byte says: no crash, a refusal has
 * words and stays, and what is taken is complete. The same bytes with magic, identity, checksums
 * and content hash put right reach what lies behind them.
 */
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "protocol/kvwire/kvwire.h"

#include <stdbool.h>
#include <string.h>

enum {
    HEAD = 160,
    LONG_HEAD = 192, /* where blocks are archived */
    RECORD_HEAD = 12,
    RECORD_END = 4
};

static const char form[] = "a form of the fuzzer";

static const shoal_hash basis;

static shoal_kvwire_expect expected(void)
{
    return (shoal_kvwire_expect){.form = form,
                                 .n_layers = 2,
                                 .first_bytes = 6,
                                 .layer_bytes = 3,
                                 .n_vocab = 512,
                                 .n_tokens_max = 1 << 14,
                                 .basis = &basis,
                                 .archived_bytes = 5};
}

typedef struct sum {
    uint64_t n_ids;
    uint64_t n_bytes;
    uint64_t n_archived;
    bool ended;
} sum;

static shoal_status take(shoal_kvwire_decoder *decoder, sum *s, shoal_kvwire_about *about,
                         shoal_err *err)
{
    shoal_kvwire_event event;
    shoal_status status = SHOAL_OK;
    while ((status = shoal_kvwire_decoder_step(decoder, &event, err)) == SHOAL_OK) {
        SHOAL_ASSERT(!s->ended);
        *about = *event.about;
        s->n_ids += event.kind == SHOAL_KVWIRE_TOKENS ? event.n : 0;
        bool archived = event.kind == SHOAL_KVWIRE_DATA && event.codec == SHOAL_KVWIRE_ARCHIVE;
        s->n_bytes += event.kind == SHOAL_KVWIRE_DATA && !archived ? event.n_bytes : 0;
        s->n_archived += archived;
        SHOAL_ASSERT(!archived || (event.n_bytes >= 1 && event.n_bytes <= 5));
        s->ended = event.kind == SHOAL_KVWIRE_END;
        SHOAL_ASSERT(event.kind != SHOAL_KVWIRE_DATA || event.block < about->n_blocks);
    }
    return status;
}

static void check(const uint8_t *bytes, size_t n, size_t piece)
{
    shoal_kvwire_decoder *decoder = NULL;
    const shoal_kvwire_expect expect = expected();
    if (shoal_kvwire_decoder_new(&expect, &decoder) != SHOAL_OK) {
        return; /* out of memory */
    }
    sum s = {.n_ids = 0};
    shoal_kvwire_about about = {.n_tokens = 0};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = SHOAL_MORE;
    for (size_t at = 0; at < n && status == SHOAL_MORE;) {
        size_t used = 0;
        shoal_kvwire_decoder_put_data(decoder, bytes + at, SHOAL_MIN(piece, n - at), &used);
        at += used;
        status = take(decoder, &s, &about, &err);
        SHOAL_ASSERT(used > 0 || status < 0);
    }
    if (status == SHOAL_MORE) {
        status = shoal_kvwire_decoder_finish(decoder, &err);
    } else {
        SHOAL_ASSERT(shoal_kvwire_decoder_finish(decoder, NULL) == status);
    }
    if (status == SHOAL_OK) {
        SHOAL_ASSERT(s.n_archived == about.n_archived);
        uint64_t n_first = about.n_blocks > 0 && about.n_archived == 0 ? 1 : 0;
        uint64_t n_others = about.n_blocks - about.n_archived - n_first;
        SHOAL_ASSERT(s.ended && s.n_ids == about.n_tokens);
        SHOAL_ASSERT(s.n_bytes ==
                     about.n_layers * (n_first * about.first_bytes + n_others * about.layer_bytes));
    } else {
        SHOAL_ASSERT(err.text[0] != '\0');
    }
    shoal_kvwire_decoder_free(decoder);
}

/* Makes the bytes as right as can be without knowing what they mean. */
static bool mend(uint8_t *bytes, size_t n)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    shoal_hash hash;
    if (n < HEAD || shoal_kvwire_form(form, &hash) != SHOAL_OK ||
        shoal_hasher_new(&hasher) != SHOAL_OK) {
        return false;
    }
    bool archived = n >= LONG_HEAD && bytes[8] == SHOAL_KVWIRE_VERSION_ARCHIVE;
    size_t n_head = archived ? LONG_HEAD : HEAD;
    memcpy(bytes, "SHOALKVW", 8);
    shoal_le_put_u32(bytes + 8, archived ? SHOAL_KVWIRE_VERSION_ARCHIVE : SHOAL_KVWIRE_VERSION);
    shoal_le_put_u32(bytes + 12, (uint32_t)n_head);
    memset(bytes + 16, 0, 64);
    memcpy(bytes + 80, hash.bytes, sizeof hash.bytes);
    memset(bytes + (archived ? 136 : 132), 0, archived ? 52 : 24);
    shoal_le_put_u32(bytes + n_head - 4, shoal_crc32c(0, bytes, n_head - 4));
    shoal_hasher_update_field(hasher, "shoal kvwire content 1", 22);
    shoal_hasher_update_field(hasher, NULL, 0);
    shoal_hasher_update(hasher, bytes, n_head);
    size_t at = n_head;
    while (n - at >= RECORD_HEAD) {
        uint8_t *record = bytes + at;
        size_t n_payload = shoal_le_u32(record + 4);
        if (n_payload > n - at - RECORD_HEAD) {
            break;
        }
        if (shoal_le_u32(record) == RECORD_END && n_payload == SHOAL_HASH_BYTES) {
            shoal_hasher_update_field(hasher, NULL, 0);
            shoal_hasher_finish(hasher, &hash);
            memcpy(record + RECORD_HEAD, hash.bytes, sizeof hash.bytes);
        }
        uint32_t crc = shoal_crc32c(0, record, 8);
        shoal_le_put_u32(record + 8, shoal_crc32c(crc, record + RECORD_HEAD, n_payload));
        shoal_hasher_update(hasher, record, RECORD_HEAD + n_payload);
        at += RECORD_HEAD + n_payload;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    size_t piece = 1 + (size_t)data[0];
    check(data + 1, size - 1, piece);
    uint8_t *bytes = shoal_calloc(size, 1);
    if (bytes) {
        memcpy(bytes, data + 1, size - 1);
        if (mend(bytes, size - 1)) {
            check(bytes, size - 1, piece);
        }
        shoal_free(bytes);
    }
    return 0;
}
