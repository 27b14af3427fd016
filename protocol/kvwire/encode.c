/* SPDX-License-Identifier: Apache-2.0
 *
 * One record at a time is made in memory, hashed, and given out in pieces of any size.
 */
#include "protocol/kvwire/kvwire_internal.h"

#include "common/base/mem.h"

#include <string.h>

/* Where the next record stands. Chunks go through the text by ranges of blocks, and for each range
 * through the layers. */
typedef struct cursor {
    uint64_t record; /* its number, the head being 0 */
    uint32_t id;     /* ids before it */
    uint32_t block;  /* first of the range */
    uint32_t layer;  /* first of the chunk */
    uint32_t i;      /* blocks of the chunk before it */
    bool opened;     /* the chunk's own record is before it */
    bool ended;
} cursor;

struct shoal_kvwire_encoder {
    shoal_kvwire_about about;
    shoal_kvwire_source source;
    uint8_t salt[SHOAL_KVWIRE_SALT_MAX];
    size_t n_salt;
    shoal_hasher *hasher;
    cursor at;
    shoal_status failed; /* SHOAL_OK: not */
    uint8_t *buffer;     /* the record under way */
    size_t n;            /* its bytes */
    size_t n_given;      /* of them, given out */
    bool seeking;        /* records before the one that was asked for are read once more */
    uint64_t goal;       /* that one */
};

static shoal_kvwire_salt salt_of(const shoal_kvwire_encoder *e)
{
    return (shoal_kvwire_salt){.bytes = e->salt, .n = e->n_salt};
}

shoal_status shoal_kvwire_form(const char *form, shoal_hash *ret_hash)
{
    size_t n = strlen(form);
    return n > SHOAL_KVWIRE_FORM_MAX ? SHOAL_E_LIMIT : shoal_hash_of(form, n, ret_hash);
}

/* --- making and ending ------------------------------------------------------------------------ */

static shoal_status check(const shoal_kvwire_about *about, const shoal_kvwire_source *source,
                          shoal_kvwire_salt salt, shoal_err *err)
{
    SHOAL_TRY(check_about(about, err));
    if (about->n_archived > 0 && !source->read_archived) {
        return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: nothing reads archived blocks");
    }
    if (source->chunk_layers < 1 || source->chunk_blocks < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV blob: a chunk needs at least one layer and one block");
    }
    uint32_t n_layers = SHOAL_MIN(source->chunk_layers, about->n_layers);
    if (payload_max(about, n_layers) > SHOAL_KVWIRE_RECORD_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "KV blob: a block takes %llu bytes in %u layers, a record at most "
                             "%d: send fewer layers in a chunk",
                             (unsigned long long)payload_max(about, n_layers), n_layers,
                             (int)SHOAL_KVWIRE_RECORD_MAX);
    }
    if (salt.n > SHOAL_KVWIRE_SALT_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "KV blob: the salt has %zu bytes; at most %d",
                             salt.n, (int)SHOAL_KVWIRE_SALT_MAX);
    }
    return SHOAL_OK;
}

/* Before the first record; the hasher is new or has finished. */
static void rewind_to_head(shoal_kvwire_encoder *e)
{
    e->at = (cursor){.record = 0};
    e->n = 0;
    e->n_given = 0;
    content_start(e->hasher, salt_of(e));
}

shoal_status shoal_kvwire_encoder_new(const shoal_kvwire_about *about,
                                      const shoal_kvwire_source *source, shoal_kvwire_salt salt,
                                      shoal_kvwire_encoder **ret_encoder, shoal_err *err)
{
    SHOAL_TRY(check(about, source, salt, err));
    SHOAL_CLEANUP(shoal_kvwire_encoder_freep)
    shoal_kvwire_encoder *e = shoal_calloc(1, sizeof *e);
    if (!e) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a KV blob");
    }
    e->about = *about;
    e->source = *source;
    e->source.chunk_layers = SHOAL_MIN(source->chunk_layers, about->n_layers);
    e->n_salt = salt.n;
    if (salt.n > 0) {
        memcpy(e->salt, salt.bytes, salt.n);
    }
    uint64_t most = payload_max(about, e->source.chunk_layers);
    e->buffer = shoal_calloc(RECORD_HEAD + (size_t)most, 1);
    if (!e->buffer || shoal_hasher_new(&e->hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a KV blob");
    }
    rewind_to_head(e);
    *ret_encoder = SHOAL_STEAL(e);
    return SHOAL_OK;
}

void shoal_kvwire_encoder_free(shoal_kvwire_encoder *encoder)
{
    if (encoder) {
        shoal_hasher_free(encoder->hasher);
        shoal_free(encoder->buffer);
        shoal_free(encoder);
    }
}

uint64_t shoal_kvwire_encoder_records(const shoal_kvwire_encoder *e)
{
    const shoal_kvwire_about *about = &e->about;
    uint64_t per_chunk = e->source.chunk_blocks;
    uint64_t n_plain = about->n_blocks - about->n_archived;
    uint64_t n_ranges = (n_plain + per_chunk - 1) / per_chunk;
    uint64_t n_groups =
        ((uint64_t)about->n_layers + e->source.chunk_layers - 1) / e->source.chunk_layers;
    uint64_t n_ids = (about->n_tokens + (uint64_t)IDS_PER_RECORD - 1) / IDS_PER_RECORD;
    /* Archived ones are in chunks of all layers. */
    uint64_t n_chunks = n_groups * n_ranges + (about->n_archived + per_chunk - 1) / per_chunk;
    return 1 + n_ids + n_chunks + n_groups * n_plain + about->n_archived + 1; /* head, end */
}

/* --- records ---------------------------------------------------------------------------------- */

static void make_head(shoal_kvwire_encoder *e)
{
    const shoal_kvwire_about *about = &e->about;
    uint8_t *h = e->buffer;
    bool archived = about->n_archived > 0;
    uint32_t n = archived ? LONG_HEAD_BYTES : HEAD_BYTES;
    memset(h, 0, n);
    memcpy(h, kvwire_magic, sizeof kvwire_magic);
    shoal_le_put_u32(h + AT_VERSION,
                     archived ? SHOAL_KVWIRE_VERSION_ARCHIVE : SHOAL_KVWIRE_VERSION);
    shoal_le_put_u32(h + AT_HEAD_BYTES, n);
    memcpy(h + AT_MODEL, about->model.bytes, SHOAL_HASH_BYTES);
    memcpy(h + AT_TOKENIZER, about->tokenizer.bytes, SHOAL_HASH_BYTES);
    memcpy(h + AT_FORM, about->form.bytes, SHOAL_HASH_BYTES);
    shoal_le_put_u32(h + AT_N_TOKENS, about->n_tokens);
    shoal_le_put_u32(h + AT_N_BLOCKS, about->n_blocks);
    shoal_le_put_u32(h + AT_N_LAYERS, about->n_layers);
    shoal_le_put_u32(h + AT_FIRST_BYTES, about->first_bytes);
    shoal_le_put_u32(h + AT_LAYER_BYTES, about->layer_bytes);
    if (archived) {
        shoal_le_put_u32(h + AT_N_ARCHIVED, about->n_archived);
        memcpy(h + AT_BASIS, about->basis.bytes, SHOAL_HASH_BYTES);
    }
    uint32_t at_crc = archived ? AT_LONG_HEAD_CRC : AT_HEAD_CRC;
    shoal_le_put_u32(h + at_crc, shoal_crc32c(0, h, at_crc));
    e->n = n;
}

/* Of the payload that stands in the buffer. */
static void make_record(shoal_kvwire_encoder *e, record_kind kind, size_t n_payload)
{
    shoal_le_put_u32(e->buffer, (uint32_t)kind);
    shoal_le_put_u32(e->buffer + AT_N, (uint32_t)n_payload);
    shoal_le_put_u32(e->buffer + AT_CRC, record_crc(e->buffer, n_payload));
    e->n = RECORD_HEAD + n_payload;
}

static void make_tokens(shoal_kvwire_encoder *e)
{
    uint32_t n = SHOAL_MIN(e->about.n_tokens - e->at.id, (uint32_t)IDS_PER_RECORD);
    for (uint32_t i = 0; i < n; i++) {
        shoal_le_put_u32(e->buffer + RECORD_HEAD + 4 * (size_t)i,
                         (uint32_t)e->source.ids[e->at.id + i]);
    }
    make_record(e, RECORD_TOKENS, 4 * (size_t)n);
    e->at.id += n;
}

static bool is_archived(const shoal_kvwire_encoder *e)
{
    return e->at.block < e->about.n_archived;
}

static uint32_t chunk_blocks(const shoal_kvwire_encoder *e)
{
    uint32_t end = is_archived(e) ? e->about.n_archived : e->about.n_blocks;
    return SHOAL_MIN(e->source.chunk_blocks, end - e->at.block);
}

static uint32_t chunk_layers(const shoal_kvwire_encoder *e)
{
    uint32_t n = SHOAL_MIN(e->source.chunk_layers, e->about.n_layers - e->at.layer);
    return is_archived(e) ? e->about.n_layers : n;
}

static void make_chunk(shoal_kvwire_encoder *e)
{
    uint8_t *payload = e->buffer + RECORD_HEAD;
    shoal_le_put_u32(payload + AT_CHUNK_BLOCK, e->at.block);
    shoal_le_put_u32(payload + AT_CHUNK_BLOCKS, chunk_blocks(e));
    shoal_le_put_u32(payload + AT_CHUNK_LAYER, e->at.layer);
    shoal_le_put_u32(payload + AT_CHUNK_LAYERS, chunk_layers(e));
    shoal_le_put_u32(payload + AT_CHUNK_CODEC,
                     is_archived(e) ? SHOAL_KVWIRE_ARCHIVE : SHOAL_KVWIRE_PLAIN);
    make_record(e, RECORD_CHUNK, CHUNK_BYTES);
    e->at.opened = true;
}

static shoal_status make_block(shoal_kvwire_encoder *e)
{
    uint32_t block = e->at.block + e->at.i;
    uint32_t n_layers = chunk_layers(e);
    size_t n = (size_t)plain_bytes(&e->about, block, n_layers);
    uint8_t *payload = e->buffer + RECORD_HEAD;
    if (is_archived(e)) {
        SHOAL_TRY(e->source.read_archived(e->source.ctx, block, payload, &n));
        SHOAL_ASSERT(n >= 1 && n <= e->about.archived_bytes);
    } else {
        SHOAL_TRY(e->source.read(e->source.ctx, block, e->at.layer, n_layers, payload));
    }
    make_record(e, RECORD_BLOCK, n);
    e->at.i++;
    if (e->at.i < chunk_blocks(e)) {
        return SHOAL_OK;
    }
    e->at.i = 0;
    e->at.opened = false;
    uint32_t n_blocks = chunk_blocks(e);
    e->at.layer += n_layers;
    if (e->at.layer == e->about.n_layers) {
        e->at.layer = 0;
        e->at.block += n_blocks;
    }
    return SHOAL_OK;
}

static void make_end(shoal_kvwire_encoder *e)
{
    shoal_hash hash;
    content_end(e->hasher, salt_of(e), &hash);
    memcpy(e->buffer + RECORD_HEAD, hash.bytes, SHOAL_HASH_BYTES);
    make_record(e, RECORD_END, SHOAL_HASH_BYTES);
    e->at.ended = true;
}

/* The next record into the buffer; none after the end. */
static shoal_status make(shoal_kvwire_encoder *e)
{
    e->n = 0;
    e->n_given = 0;
    if (e->at.ended) {
        return SHOAL_OK;
    }
    if (e->at.record == 0) {
        make_head(e);
    } else if (e->at.id < e->about.n_tokens) {
        make_tokens(e);
    } else if (e->at.block == e->about.n_blocks) {
        make_end(e);
    } else if (!e->at.opened) {
        make_chunk(e);
    } else {
        SHOAL_TRY(make_block(e));
    }
    e->at.record++;
    if (!e->at.ended) {
        shoal_hasher_update(e->hasher, e->buffer, e->n);
    }
    return SHOAL_OK;
}

shoal_status shoal_kvwire_encoder_read(shoal_kvwire_encoder *e, uint8_t *ret_bytes, size_t n,
                                       size_t *ret_n)
{
    SHOAL_TRY(e->failed);
    SHOAL_ASSERT(!e->seeking);
    size_t n_done = 0;
    while (n_done < n) {
        if (e->n_given == e->n) {
            shoal_status status = make(e);
            if (status == SHOAL_BUSY) {
                *ret_n = n_done;
                return status;
            }
            e->failed = status;
            SHOAL_TRY(e->failed);
            if (e->n == 0) {
                break;
            }
        }
        size_t piece = SHOAL_MIN(n - n_done, e->n - e->n_given);
        memcpy(ret_bytes + n_done, e->buffer + e->n_given, piece);
        e->n_given += piece;
        n_done += piece;
    }
    *ret_n = n_done;
    return SHOAL_OK;
}

shoal_status shoal_kvwire_encoder_seek(shoal_kvwire_encoder *e, uint64_t record)
{
    SHOAL_TRY(e->failed);
    if (record > shoal_kvwire_encoder_records(e)) {
        return SHOAL_E_LIMIT;
    }
    if (!e->seeking || e->goal != record) {
        if (!e->at.ended) {
            shoal_hash unused; /* finishing makes the hasher new */
            shoal_hasher_finish(e->hasher, &unused);
        }
        rewind_to_head(e);
        e->goal = record;
        e->seeking = true;
    }
    while (e->at.record < record) {
        shoal_status status = make(e);
        e->n = 0; /* it was there before */
        if (status == SHOAL_BUSY) {
            return status;
        }
        e->failed = status;
        SHOAL_TRY(e->failed);
    }
    e->seeking = false;
    return SHOAL_OK;
}
