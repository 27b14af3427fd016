/* SPDX-License-Identifier: Apache-2.0
 *
 * One unit at a time is collected in memory: the head, the head of a record, its payload. Lengths
 * are checked before they are waited for, so hostile bytes can make us wait for no more than one
 * record of the form that was expected.
 */
#include "protocol/kvwire/kvwire_internal.h"

#include "common/base/mem.h"

#include <string.h>

typedef enum unit {
    UNIT_HEAD,
    UNIT_RECORD_HEAD,
    UNIT_PAYLOAD,
    UNIT_NONE /* after the end */
} unit;

/* What has been taken of the stream. */
typedef struct progress {
    uint32_t id;    /* ids so far */
    uint32_t block; /* first of the range under way */
    uint32_t n_blocks;
    uint32_t layer; /* first of the chunk under way, or the next */
    uint32_t n_layers;
    uint32_t i; /* blocks of the chunk so far */
    bool opened;
    shoal_kvwire_codec codec;
} progress;

struct shoal_kvwire_decoder {
    shoal_kvwire_expect expect;
    shoal_hash form;
    char form_text[SHOAL_KVWIRE_FORM_MAX + 1];
    uint8_t salt[SHOAL_KVWIRE_SALT_MAX];
    shoal_hash basis;
    shoal_hasher *hasher;
    shoal_kvwire_about about;
    progress at;
    uint64_t record;    /* the next one's number, the head being 0 */
    uint64_t record_at; /* the byte it begins at */
    unit unit;
    size_t have;       /* bytes of the buffer */
    size_t need;       /* bytes of the buffer that make the unit whole */
    shoal_err failure; /* code SHOAL_OK: none */
    uint8_t *buffer;
    int32_t ids[IDS_PER_RECORD];
};

/* --- making and ending ------------------------------------------------------------------------ */

shoal_status shoal_kvwire_decoder_new(const shoal_kvwire_expect *expect,
                                      shoal_kvwire_decoder **ret_decoder)
{
    bool archives = expect->basis != NULL;
    const shoal_kvwire_about shape = {.n_tokens = SHOAL_KVWIRE_BLOCK,
                                      .n_blocks = 1,
                                      .n_layers = expect->n_layers,
                                      .first_bytes = expect->first_bytes,
                                      .layer_bytes = expect->layer_bytes,
                                      .n_archived = archives,
                                      .archived_bytes = archives ? expect->archived_bytes : 0};
    shoal_hash form;
    SHOAL_TRY(shoal_kvwire_form(expect->form, &form));
    SHOAL_TRY(check_about(&shape, NULL));
    if (expect->salt.n > SHOAL_KVWIRE_SALT_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_CLEANUP(shoal_kvwire_decoder_freep)
    shoal_kvwire_decoder *d = shoal_calloc(1, sizeof *d);
    if (!d) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(shoal_hasher_new(&d->hasher));
    d->expect = *expect;
    d->form = form;
    memcpy(d->form_text, expect->form, strlen(expect->form));
    d->expect.form = d->form_text;
    if (archives) {
        d->basis = *expect->basis;
        d->expect.basis = &d->basis;
    }
    if (expect->salt.n > 0) {
        memcpy(d->salt, expect->salt.bytes, expect->salt.n);
    }
    d->expect.salt.bytes = d->salt;
    uint64_t most = SHOAL_MIN(payload_max(&shape, shape.n_layers), SHOAL_KVWIRE_RECORD_MAX);
    d->buffer = shoal_calloc(RECORD_HEAD + (size_t)most, 1);
    if (!d->buffer) {
        return SHOAL_E_NOMEM;
    }
    d->unit = UNIT_HEAD;
    d->need = HEAD_BYTES;
    content_start(d->hasher, d->expect.salt);
    *ret_decoder = SHOAL_STEAL(d);
    return SHOAL_OK;
}

void shoal_kvwire_decoder_free(shoal_kvwire_decoder *decoder)
{
    if (decoder) {
        shoal_hasher_free(decoder->hasher);
        shoal_free(decoder->buffer);
        shoal_free(decoder);
    }
}

/* --- the head --------------------------------------------------------------------------------- */

static shoal_status same_hash(const char *what, const char *remedy, const uint8_t *theirs,
                              const shoal_hash *ours, shoal_err *err)
{
    if (memcmp(theirs, ours->bytes, SHOAL_HASH_BYTES) == 0) {
        return SHOAL_OK;
    }
    shoal_hash given;
    char given_hex[SHOAL_HASH_HEX];
    char ours_hex[SHOAL_HASH_HEX];
    memcpy(given.bytes, theirs, SHOAL_HASH_BYTES);
    shoal_hash_hex(&given, given_hex);
    shoal_hash_hex(ours, ours_hex);
    return shoal_err_set(err, SHOAL_E_MISMATCH, "KV blob: its %s is %s, not %s: %s", what,
                         given_hex, ours_hex, remedy);
}

static shoal_status check_identity(const shoal_kvwire_decoder *d, shoal_err *err)
{
    const uint8_t *h = d->buffer;
    SHOAL_TRY(
        same_hash("model", "it belongs to another model", h + AT_MODEL, &d->expect.model, err));
    SHOAL_TRY(same_hash("tokenizer", "it belongs to another vocabulary", h + AT_TOKENIZER,
                        &d->expect.tokenizer, err));
    SHOAL_TRY(same_hash("KV form", "set kv.type, kv.levels and kv.hadamard as they were",
                        h + AT_FORM, &d->form, err));
    if (shoal_le_u32(h + AT_VERSION) == SHOAL_KVWIRE_VERSION) {
        return SHOAL_OK;
    }
    if (!d->expect.basis) {
        shoal_hash given;
        char hex[SHOAL_HASH_HEX];
        memcpy(given.bytes, h + AT_BASIS, SHOAL_HASH_BYTES);
        shoal_hash_hex(&given, hex);
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "KV blob: it is archived by basis %s, and here archived KV, which is "
                             "not exact, is taken by none: set kv.archive",
                             hex);
    }
    return same_hash("basis", "kv.archive names another one than made it", h + AT_BASIS,
                     d->expect.basis, err);
}

static shoal_status check_shape(const shoal_kvwire_decoder *d, shoal_err *err)
{
    const shoal_kvwire_about *about = &d->about;
    const struct {
        const char *name;
        uint32_t theirs, ours;
    } rows[] = {
        {"layers", about->n_layers, d->expect.n_layers},
        {"bytes of block 0", about->first_bytes, d->expect.first_bytes},
        {"bytes of a block", about->layer_bytes, d->expect.layer_bytes},
    };
    SHOAL_TRY(check_about(about, err));
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].theirs != rows[i].ours) {
            return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: %s: %u, the form says %u",
                                 rows[i].name, rows[i].theirs, rows[i].ours);
        }
    }
    if (about->n_tokens > d->expect.n_tokens_max) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "KV blob: its text has %u tokens and %u fit here: a larger context "
                             "or KV pool is needed",
                             about->n_tokens, d->expect.n_tokens_max);
    }
    return SHOAL_OK;
}

static shoal_status take_head(shoal_kvwire_decoder *d, shoal_err *err)
{
    const uint8_t *h = d->buffer;
    if (memcmp(h, kvwire_magic, sizeof kvwire_magic) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: it does not begin as one");
    }
    /* A later version may have another head: its number is read before anything else. */
    uint32_t version = shoal_le_u32(h + AT_VERSION);
    bool archived = version == SHOAL_KVWIRE_VERSION_ARCHIVE;
    if (version != SHOAL_KVWIRE_VERSION && !archived) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "KV blob: version %u; this program reads versions %d and %d", version,
                             (int)SHOAL_KVWIRE_VERSION, (int)SHOAL_KVWIRE_VERSION_ARCHIVE);
    }
    uint32_t n_head = archived ? LONG_HEAD_BYTES : HEAD_BYTES;
    if (d->need < n_head) {
        d->need = n_head;
        return SHOAL_MORE;
    }
    uint32_t at_crc = archived ? AT_LONG_HEAD_CRC : AT_HEAD_CRC;
    if (shoal_le_u32(h + at_crc) != shoal_crc32c(0, h, at_crc)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: the head's checksum is wrong");
    }
    if (shoal_le_u32(h + AT_HEAD_BYTES) != n_head) {
        return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: the head has %u bytes, not %u",
                             shoal_le_u32(h + AT_HEAD_BYTES), n_head);
    }
    for (size_t i = archived ? AT_LONG_ZERO : AT_ZERO; i < at_crc; i++) {
        if (h[i] != 0) {
            return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: byte %zu of the head is not 0", i);
        }
    }
    SHOAL_TRY(check_identity(d, err));
    shoal_kvwire_about *about = &d->about;
    memcpy(about->model.bytes, h + AT_MODEL, SHOAL_HASH_BYTES);
    memcpy(about->tokenizer.bytes, h + AT_TOKENIZER, SHOAL_HASH_BYTES);
    memcpy(about->form.bytes, h + AT_FORM, SHOAL_HASH_BYTES);
    about->n_tokens = shoal_le_u32(h + AT_N_TOKENS);
    about->n_blocks = shoal_le_u32(h + AT_N_BLOCKS);
    about->n_layers = shoal_le_u32(h + AT_N_LAYERS);
    about->first_bytes = shoal_le_u32(h + AT_FIRST_BYTES);
    about->layer_bytes = shoal_le_u32(h + AT_LAYER_BYTES);
    if (archived) {
        about->n_archived = shoal_le_u32(h + AT_N_ARCHIVED);
        about->archived_bytes = d->expect.archived_bytes;
        if (about->n_archived == 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "KV blob: archived blocks: 0 in a head for them");
        }
        memcpy(about->basis.bytes, h + AT_BASIS, SHOAL_HASH_BYTES);
    }
    return check_shape(d, err);
}

/* --- records ---------------------------------------------------------------------------------- */

static shoal_status wrong(const shoal_kvwire_decoder *d, const char *what, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "KV blob: record %llu: %s",
                         (unsigned long long)d->record, what);
}

/* What comes next, and the bytes of its payload; of an archived block, at most so many. */
static record_kind next_kind(const shoal_kvwire_decoder *d, uint64_t *ret_n)
{
    if (d->at.id < d->about.n_tokens) {
        uint32_t n = SHOAL_MIN(d->about.n_tokens - d->at.id, (uint32_t)IDS_PER_RECORD);
        *ret_n = (uint64_t)n * sizeof(int32_t);
        return RECORD_TOKENS;
    }
    if (d->at.opened && d->at.codec == SHOAL_KVWIRE_ARCHIVE) {
        *ret_n = d->about.archived_bytes;
        return RECORD_BLOCK;
    }
    if (d->at.opened) {
        *ret_n = plain_bytes(&d->about, d->at.block + d->at.i, d->at.n_layers);
        return RECORD_BLOCK;
    }
    bool all = d->at.block == d->about.n_blocks;
    *ret_n = all ? SHOAL_HASH_BYTES : CHUNK_BYTES;
    return all ? RECORD_END : RECORD_CHUNK;
}

static shoal_status take_record_head(shoal_kvwire_decoder *d, shoal_err *err)
{
    uint64_t n = 0;
    uint32_t kind = next_kind(d, &n);
    if (shoal_le_u32(d->buffer) != kind) {
        return wrong(d, "another kind than belongs here", err);
    }
    bool archived = kind == RECORD_BLOCK && d->at.codec == SHOAL_KVWIRE_ARCHIVE;
    uint32_t given = shoal_le_u32(d->buffer + AT_N);
    if (archived ? given < 1 || given > n : given != n) {
        return wrong(d, "another length than belongs here", err);
    }
    d->unit = UNIT_PAYLOAD;
    d->need = RECORD_HEAD + (size_t)given;
    return SHOAL_OK;
}

static shoal_status take_tokens(shoal_kvwire_decoder *d, size_t n_payload,
                                shoal_kvwire_event *event, shoal_err *err)
{
    uint32_t n = (uint32_t)(n_payload / sizeof(int32_t));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = shoal_le_u32(d->buffer + RECORD_HEAD + sizeof(int32_t) * (size_t)i);
        if (id >= d->expect.n_vocab) {
            return wrong(d, "an id outside the vocabulary", err);
        }
        d->ids[i] = (int32_t)id;
    }
    *event =
        (shoal_kvwire_event){.kind = SHOAL_KVWIRE_TOKENS, .first = d->at.id, .n = n, .ids = d->ids};
    d->at.id += n;
    return SHOAL_OK;
}

/* A range of blocks stays the same until it has gone through all layers. */
static shoal_status take_chunk(shoal_kvwire_decoder *d, shoal_err *err)
{
    const uint8_t *payload = d->buffer + RECORD_HEAD;
    progress *at = &d->at;
    uint32_t n_blocks = shoal_le_u32(payload + AT_CHUNK_BLOCKS);
    uint32_t n_layers = shoal_le_u32(payload + AT_CHUNK_LAYERS);
    uint32_t codec = shoal_le_u32(payload + AT_CHUNK_CODEC);
    if (shoal_le_u32(payload + AT_CHUNK_BLOCK) != at->block ||
        shoal_le_u32(payload + AT_CHUNK_LAYER) != at->layer) {
        return wrong(d, "a chunk that does not follow the one before", err);
    }
    bool archived = at->block < d->about.n_archived;
    uint32_t end = archived ? d->about.n_archived : d->about.n_blocks;
    if (n_blocks < 1 || n_blocks > end - at->block || (at->layer > 0 && n_blocks != at->n_blocks)) {
        return wrong(d, "a chunk of blocks that are not there", err);
    }
    if (n_layers < 1 || n_layers > d->about.n_layers - at->layer ||
        payload_max(&d->about, n_layers) > SHOAL_KVWIRE_RECORD_MAX ||
        (archived && n_layers != d->about.n_layers)) {
        return wrong(d, "a chunk of layers that are not there", err);
    }
    if (codec > SHOAL_KVWIRE_ARCHIVE) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "KV blob: record %llu: blocks are coded by codec %u; this program "
                             "reads codecs %d and %d",
                             (unsigned long long)d->record, codec, (int)SHOAL_KVWIRE_PLAIN,
                             (int)SHOAL_KVWIRE_ARCHIVE);
    }
    if ((codec == SHOAL_KVWIRE_ARCHIVE) != archived) {
        return wrong(d, "a chunk of blocks that the head says are coded otherwise", err);
    }
    at->codec = (shoal_kvwire_codec)codec;
    at->n_blocks = n_blocks;
    at->n_layers = n_layers;
    at->i = 0;
    at->opened = true;
    return SHOAL_OK;
}

static void take_block(shoal_kvwire_decoder *d, size_t n_payload, shoal_kvwire_event *event)
{
    progress *at = &d->at;
    *event = (shoal_kvwire_event){.kind = SHOAL_KVWIRE_DATA,
                                  .block = at->block + at->i,
                                  .layer = at->layer,
                                  .n_layers = at->n_layers,
                                  .codec = at->codec,
                                  .bytes = d->buffer + RECORD_HEAD,
                                  .n_bytes = n_payload};
    at->i++;
    if (at->i < at->n_blocks) {
        return;
    }
    at->opened = false;
    at->layer += at->n_layers;
    if (at->layer == d->about.n_layers) {
        at->layer = 0;
        at->block += at->n_blocks;
    }
}

static shoal_status take_end(shoal_kvwire_decoder *d, shoal_kvwire_event *event, shoal_err *err)
{
    shoal_hash hash;
    content_end(d->hasher, d->expect.salt, &hash);
    SHOAL_TRY(same_hash("content hash", "it is damaged, or was made under another key",
                        d->buffer + RECORD_HEAD, &hash, err));
    *event = (shoal_kvwire_event){.kind = SHOAL_KVWIRE_END};
    return SHOAL_OK;
}

/* SHOAL_OK with an event, SHOAL_MORE without. */
static shoal_status take_payload(shoal_kvwire_decoder *d, shoal_kvwire_event *event, shoal_err *err)
{
    size_t n = d->need - RECORD_HEAD;
    if (shoal_le_u32(d->buffer + AT_CRC) != record_crc(d->buffer, n)) {
        return wrong(d, "its checksum is wrong", err);
    }
    uint32_t kind = shoal_le_u32(d->buffer); /* the one that belongs here */
    if (kind == RECORD_TOKENS) {
        return take_tokens(d, n, event, err);
    }
    if (kind == RECORD_CHUNK) {
        SHOAL_TRY(take_chunk(d, err));
        return SHOAL_MORE;
    }
    if (kind == RECORD_END) {
        return take_end(d, event, err);
    }
    take_block(d, n, event);
    return SHOAL_OK;
}

/* --- driving ---------------------------------------------------------------------------------- */

void shoal_kvwire_decoder_put_data(shoal_kvwire_decoder *d, const uint8_t *bytes, size_t n,
                                   size_t *ret_used)
{
    if (d->unit == UNIT_NONE && n > 0) {
        (void)shoal_err_set(&d->failure, SHOAL_E_INVALID, "KV blob: bytes follow its end");
    }
    size_t used = d->failure.code == SHOAL_OK ? SHOAL_MIN(n, d->need - d->have) : 0;
    if (used > 0) {
        memcpy(d->buffer + d->have, bytes, used);
        d->have += used;
    }
    *ret_used = used;
}

/* The unit in the buffer was a head or a record: it counts, and the next record begins. */
static void pass(shoal_kvwire_decoder *d, bool end)
{
    if (!end) {
        shoal_hasher_update(d->hasher, d->buffer, d->need);
    }
    d->record++;
    d->record_at += d->need;
    d->have = 0;
    d->need = end ? 0 : RECORD_HEAD;
    d->unit = end ? UNIT_NONE : UNIT_RECORD_HEAD;
}

static shoal_status take_unit(shoal_kvwire_decoder *d, shoal_kvwire_event *event, shoal_err *err)
{
    if (d->unit == UNIT_HEAD) {
        SHOAL_TRY(take_head(d, err));
        *event = (shoal_kvwire_event){.kind = SHOAL_KVWIRE_HEAD};
        pass(d, false);
        return SHOAL_OK;
    }
    if (d->unit == UNIT_RECORD_HEAD) {
        SHOAL_TRY(take_record_head(d, err));
        return SHOAL_MORE;
    }
    shoal_status status = take_payload(d, event, err);
    if (status == SHOAL_OK || status == SHOAL_MORE) {
        pass(d, status == SHOAL_OK && event->kind == SHOAL_KVWIRE_END);
    }
    return status;
}

shoal_status shoal_kvwire_decoder_step(shoal_kvwire_decoder *d, shoal_kvwire_event *ret_event,
                                       shoal_err *err)
{
    if (d->failure.code != SHOAL_OK) {
        return shoal_err_set(err, d->failure.code, "%s", d->failure.text);
    }
    shoal_status status = SHOAL_MORE;
    while (status == SHOAL_MORE && d->unit != UNIT_NONE && d->have == d->need) {
        status = take_unit(d, ret_event, &d->failure);
    }
    if (status == SHOAL_OK) {
        ret_event->about = &d->about;
    } else if (status != SHOAL_MORE) {
        return shoal_err_set(err, status, "%s", d->failure.text);
    }
    return status;
}

uint64_t shoal_kvwire_decoder_resume(shoal_kvwire_decoder *d, uint64_t *ret_at)
{
    if (d->unit == UNIT_PAYLOAD) {
        d->unit = UNIT_RECORD_HEAD;
        d->need = RECORD_HEAD;
    } else if (d->unit == UNIT_HEAD) {
        d->need = HEAD_BYTES;
    }
    d->have = 0;
    *ret_at = d->record_at;
    return d->record;
}

shoal_status shoal_kvwire_decoder_finish(const shoal_kvwire_decoder *d, shoal_err *err)
{
    if (d->failure.code != SHOAL_OK) {
        return shoal_err_set(err, d->failure.code, "%s", d->failure.text);
    }
    if (d->unit != UNIT_NONE) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV blob: it ends in record %llu, after %llu bytes: the rest is "
                             "missing",
                             (unsigned long long)d->record,
                             (unsigned long long)(d->record_at + d->have));
    }
    return SHOAL_OK;
}
