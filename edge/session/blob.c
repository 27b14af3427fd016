/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/session/blob.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    CHUNK_BLOCKS = 16
};

void shoal_session_copy_free(shoal_session_copy *copy)
{
    if (!copy) {
        return;
    }
    shoal_free(copy->ids);
    shoal_free(copy->blocks);
    shoal_free(copy);
}

/* Where a block begins, of all layers; block n: how many bytes n blocks have. */
static size_t block_at(size_t first_bytes, size_t other_bytes, size_t block)
{
    return block == 0 ? 0 : first_bytes + (block - 1) * other_bytes;
}

static shoal_status copy_new(size_t n_ids, size_t n_bytes, shoal_session_copy **ret_copy)
{
    SHOAL_CLEANUP(shoal_session_copy_freep)
    shoal_session_copy *copy = shoal_calloc(1, sizeof *copy);
    if (!copy) {
        return SHOAL_E_NOMEM;
    }
    copy->n_ids = n_ids;
    copy->ids = shoal_calloc(n_ids, sizeof *copy->ids);
    copy->blocks = shoal_calloc(n_bytes, 1);
    if (!copy->ids || !copy->blocks) {
        return SHOAL_E_NOMEM;
    }
    *ret_copy = SHOAL_STEAL(copy);
    return SHOAL_OK;
}

/* --- out of the pool and back ----------------------------------------------------------------- */

shoal_status shoal_session_copy_out(const shoal_kept *kept, shoal_session_copy **ret_copy,
                                    shoal_err *err)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(kept->seq);
    size_t first_bytes = shoal_kv_block_bytes(shape, 0);
    size_t other_bytes = shoal_kv_block_bytes(shape, 1);
    size_t n_blocks = kept->n_ids / BLOCK;
    SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
    if (copy_new(kept->n_ids, block_at(first_bytes, other_bytes, n_blocks), &copy) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a copy of session %s", kept->name);
    }
    memcpy(copy->ids, kept->ids, kept->n_ids * sizeof *copy->ids);
    copy->n_archived = kept->kind.lossy ? n_blocks : 0;
    for (size_t b = 0; b < n_blocks; b++) {
        shoal_status status = shoal_kv_block_export(
            kept->seq, b, copy->blocks + block_at(first_bytes, other_bytes, b));
        if (status == SHOAL_E_LIMIT) {
            return shoal_err_set(err, status,
                                 "session %s cannot be saved: it has %zu tokens, and the model's "
                                 "windowed layers no longer have tokens %zu to %zu. Save it "
                                 "earlier, or send its text to another gateway",
                                 kept->name, kept->n_ids, b * BLOCK, b * BLOCK + BLOCK - 1);
        }
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status,
                                 "session %s cannot be saved: its KV holds what is no number",
                                 kept->name);
        }
    }
    *ret_copy = SHOAL_STEAL(copy);
    return SHOAL_OK;
}

shoal_status shoal_session_copy_in(const shoal_session_copy *copy, shoal_kv_seq *seq,
                                   shoal_err *err)
{
    SHOAL_ASSERT(shoal_kv_seq_length(seq) % BLOCK == 0);
    const shoal_kv_shape *shape = shoal_kv_seq_shape(seq);
    size_t first_bytes = shoal_kv_block_bytes(shape, 0);
    size_t other_bytes = shoal_kv_block_bytes(shape, 1);
    for (size_t b = shoal_kv_seq_length(seq) / BLOCK; b < copy->n_ids / BLOCK; b++) {
        shoal_status status =
            shoal_kv_block_import(seq, copy->blocks + block_at(first_bytes, other_bytes, b),
                                  b == 0 ? first_bytes : other_bytes);
        if (status != SHOAL_OK) {
            const char *why = status == SHOAL_E_INVALID ? "holds what is no number"
                              : status == SHOAL_BUSY    ? "finds no pages of KV"
                                                        : "is past the context";
            return shoal_err_set(err, status, "block %zu of the session %s", b, why);
        }
    }
    return SHOAL_OK;
}

/* --- to a blob -------------------------------------------------------------------------------- */

struct shoal_session_writer {
    shoal_session_identity identity;
    shoal_archive_work *work; /* NULL: nothing is archived */
    shoal_session_copy *copy;
    size_t first_bytes; /* of all layers */
    size_t other_bytes;
    shoal_kvwire_encoder *encoder;
};

static shoal_kvwire_salt salt_of(const shoal_session_identity *identity)
{
    return (shoal_kvwire_salt){.bytes = identity->secret,
                               .n = identity->has_secret ? sizeof identity->secret : 0};
}

/* A chunk has all layers, so a block is asked for as it lies. */
static shoal_status read_block(void *ctx, uint32_t block, uint32_t layer, uint32_t n_layers,
                               uint8_t *ret_bytes)
{
    const shoal_session_writer *w = ctx;
    (void)layer;
    (void)n_layers;
    memcpy(ret_bytes, w->copy->blocks + block_at(w->first_bytes, w->other_bytes, block),
           block == 0 ? w->first_bytes : w->other_bytes);
    return SHOAL_OK;
}

static shoal_status read_archived(void *ctx, uint32_t block, uint8_t *ret_bytes, size_t *ret_n)
{
    const shoal_session_writer *w = ctx;
    const uint8_t *pages = w->copy->blocks + block_at(w->first_bytes, w->other_bytes, block);
    bool near = block >= shoal_archive_n_blocks(w->copy->n_ids);
    return shoal_archive_block_encode(w->identity.archive, w->identity.kernels, w->work, block,
                                      near, pages, ret_bytes, ret_n);
}

shoal_status shoal_session_writer_new(const shoal_session_identity *identity,
                                      shoal_session_copy *take_copy,
                                      shoal_session_writer **ret_writer, shoal_err *err)
{
    shoal_kvwire_about about = {.model = identity->model,
                                .tokenizer = identity->tokenizer,
                                .n_tokens = (uint32_t)take_copy->n_ids,
                                .n_blocks = (uint32_t)(take_copy->n_ids / BLOCK),
                                .n_layers = identity->n_layers,
                                .first_bytes = identity->first_bytes,
                                .layer_bytes = identity->layer_bytes};
    bool can = identity->archive && shoal_archive_n_blocks(take_copy->n_ids) > 0;
    if (take_copy->n_archived > 0 && !can) {
        return shoal_err_set(
            err, SHOAL_E_UNSUPPORTED,
            "the session came archived and cannot be saved as if it were exact; "
            "of its %zu tokens nothing can be archived again: use it on, or drop it",
            take_copy->n_ids);
    }
    if (can && (identity->archives || take_copy->n_archived > 0)) {
        about.n_archived = about.n_blocks;
        about.archived_bytes = (uint32_t)shoal_archive_block_bytes(identity->archive);
        about.basis = *shoal_archive_hash(identity->archive);
    }
    shoal_session_writer *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a session's blob");
    }
    w->first_bytes = (size_t)identity->first_bytes * identity->n_layers;
    w->other_bytes = (size_t)identity->layer_bytes * identity->n_layers;
    const shoal_kvwire_source source = {.ids = take_copy->ids,
                                        .ctx = w,
                                        .read = read_block,
                                        .read_archived = read_archived,
                                        .chunk_layers = identity->n_layers,
                                        .chunk_blocks = CHUNK_BLOCKS};
    shoal_status status = shoal_kvwire_form(identity->form, &about.form);
    if (status == SHOAL_OK && about.n_archived > 0) {
        w->identity = *identity;
        status = shoal_archive_work_new(identity->archive, &w->work);
    }
    if (status == SHOAL_OK) {
        status = shoal_kvwire_encoder_new(&about, &source, salt_of(identity), &w->encoder, err);
    } else {
        (void)shoal_err_set(err, status, "no memory for a session's blob");
    }
    if (status != SHOAL_OK) {
        shoal_session_writer_free(w);
        return status;
    }
    w->copy = take_copy;
    *ret_writer = w;
    return SHOAL_OK;
}

void shoal_session_writer_free(shoal_session_writer *writer)
{
    if (!writer) {
        return;
    }
    shoal_kvwire_encoder_free(writer->encoder);
    shoal_archive_work_free(writer->work);
    shoal_session_copy_free(writer->copy);
    shoal_free(writer);
}

shoal_status shoal_session_writer_read(shoal_session_writer *writer, uint8_t *ret_bytes, size_t n,
                                       size_t *ret_n)
{
    return shoal_kvwire_encoder_read(writer->encoder, ret_bytes, n, ret_n);
}

/* --- from a blob ------------------------------------------------------------------------------ */

struct shoal_session_reader {
    size_t first_bytes; /* of all layers */
    size_t other_bytes;
    size_t n_bytes_max;
    shoal_session_identity identity;
    shoal_archive_work *work; /* NULL: archived blobs are not taken */
    shoal_kvwire_decoder *decoder;
    shoal_session_copy *copy;
    shoal_status failed;
};

shoal_status shoal_session_reader_new(const shoal_session_identity *identity, size_t n_bytes_max,
                                      shoal_session_reader **ret_reader)
{
    const shoal_hash *basis = identity->archive ? shoal_archive_hash(identity->archive) : NULL;
    size_t n_archived = identity->archive ? shoal_archive_block_bytes(identity->archive) : 0;
    const shoal_kvwire_expect expect = {.model = identity->model,
                                        .tokenizer = identity->tokenizer,
                                        .form = identity->form,
                                        .n_layers = identity->n_layers,
                                        .first_bytes = identity->first_bytes,
                                        .layer_bytes = identity->layer_bytes,
                                        .n_vocab = identity->n_vocab,
                                        .n_tokens_max = identity->n_tokens_max,
                                        .basis = basis,
                                        .archived_bytes = (uint32_t)n_archived,
                                        .salt = salt_of(identity)};
    SHOAL_CLEANUP(shoal_session_reader_freep)
    shoal_session_reader *r = shoal_calloc(1, sizeof *r);
    if (!r) {
        return SHOAL_E_NOMEM;
    }
    r->first_bytes = (size_t)identity->first_bytes * identity->n_layers;
    r->other_bytes = (size_t)identity->layer_bytes * identity->n_layers;
    r->n_bytes_max = n_bytes_max;
    r->identity = *identity;
    if (identity->archive) {
        SHOAL_TRY(shoal_archive_work_new(identity->archive, &r->work));
    }
    SHOAL_TRY(shoal_kvwire_decoder_new(&expect, &r->decoder));
    *ret_reader = SHOAL_STEAL(r);
    return SHOAL_OK;
}

void shoal_session_reader_free(shoal_session_reader *reader)
{
    if (!reader) {
        return;
    }
    shoal_kvwire_decoder_free(reader->decoder);
    shoal_archive_work_free(reader->work);
    shoal_session_copy_free(reader->copy);
    shoal_free(reader);
}

static shoal_status begin(shoal_session_reader *r, const shoal_kvwire_about *about, shoal_err *err)
{
    size_t n_blocks = about->n_tokens / BLOCK;
    size_t n_bytes = block_at(r->first_bytes, r->other_bytes, n_blocks);
    if (about->n_blocks != n_blocks) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the session has KV of %u full blocks of 32, its %u tokens make %zu",
                             about->n_blocks, about->n_tokens, n_blocks);
    }
    if (about->n_archived > 0 &&
        (about->n_archived != n_blocks || shoal_archive_n_blocks(about->n_tokens) == 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the session has %u archived blocks, of %u tokens %zu are",
                             about->n_archived, about->n_tokens,
                             shoal_archive_n_blocks(about->n_tokens) > 0 ? n_blocks : 0);
    }
    /* Memory is taken for what comes, not for what a head promises; of archived blocks, for what
     * the text's length says, which is bounded by the pool's. */
    size_t n_archived = block_at(r->first_bytes, r->other_bytes, about->n_archived);
    if (n_bytes - n_archived > r->n_bytes_max) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the session is cut off: %zu bytes, its KV alone has %zu",
                             r->n_bytes_max, n_bytes - n_archived);
    }
    if (copy_new(about->n_tokens, n_bytes, &r->copy) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a session of %u tokens",
                             about->n_tokens);
    }
    r->copy->n_archived = about->n_archived;
    return SHOAL_OK;
}

/* Blocks may come in any parts by layers. */
static shoal_status take(shoal_session_reader *r, const shoal_kvwire_event *event, shoal_err *err)
{
    switch (event->kind) {
    case SHOAL_KVWIRE_HEAD:
        return begin(r, event->about, err);
    case SHOAL_KVWIRE_TOKENS:
        memcpy(r->copy->ids + event->first, event->ids, event->n * sizeof *event->ids);
        return SHOAL_OK;
    case SHOAL_KVWIRE_DATA: {
        if (event->codec == SHOAL_KVWIRE_ARCHIVE) {
            uint8_t *pages =
                r->copy->blocks + block_at(r->first_bytes, r->other_bytes, event->block);
            bool near = event->block >= shoal_archive_n_blocks(r->copy->n_ids);
            return shoal_archive_block_decode(r->identity.archive, r->identity.kernels, r->work,
                                              event->block, near, event->bytes, event->n_bytes,
                                              pages, err);
        }
        size_t layer_bytes = event->n_bytes / event->n_layers;
        memcpy(r->copy->blocks + block_at(r->first_bytes, r->other_bytes, event->block) +
                   event->layer * layer_bytes,
               event->bytes, event->n_bytes);
        return SHOAL_OK;
    }
    case SHOAL_KVWIRE_END:
        return SHOAL_OK;
    }
    return SHOAL_OK;
}

static shoal_status put_all(shoal_session_reader *r, const uint8_t *bytes, size_t n, shoal_err *err)
{
    for (size_t at = 0; at < n;) {
        size_t used = 0;
        shoal_kvwire_event event;
        shoal_kvwire_decoder_put_data(r->decoder, bytes + at, n - at, &used);
        at += used;
        shoal_status status = SHOAL_OK;
        while ((status = shoal_kvwire_decoder_step(r->decoder, &event, err)) == SHOAL_OK) {
            SHOAL_TRY(take(r, &event, err));
        }
        if (status != SHOAL_MORE) {
            return status;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_session_reader_put(shoal_session_reader *reader, const uint8_t *bytes, size_t n,
                                      shoal_err *err)
{
    if (reader->failed == SHOAL_OK) {
        reader->failed = put_all(reader, bytes, n, err);
    }
    return reader->failed;
}

bool shoal_session_reader_is_whole(const shoal_session_reader *reader)
{
    return reader->failed == SHOAL_OK &&
           shoal_kvwire_decoder_finish(reader->decoder, NULL) == SHOAL_OK;
}

shoal_status shoal_session_reader_resume(shoal_session_reader *reader, uint64_t *ret_record)
{
    SHOAL_TRY(reader->failed);
    uint64_t at = 0;
    *ret_record = shoal_kvwire_decoder_resume(reader->decoder, &at);
    return SHOAL_OK;
}

shoal_status shoal_session_reader_finish(shoal_session_reader *reader,
                                         shoal_session_copy **ret_copy, shoal_err *err)
{
    SHOAL_TRY(reader->failed);
    SHOAL_TRY(shoal_kvwire_decoder_finish(reader->decoder, err));
    *ret_copy = SHOAL_STEAL(reader->copy);
    return SHOAL_OK;
}

shoal_status shoal_session_read(const shoal_session_identity *identity, const uint8_t *bytes,
                                size_t n, shoal_session_copy **ret_copy, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_session_reader_freep) shoal_session_reader *reader = NULL;
    shoal_status status = shoal_session_reader_new(identity, n, &reader);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "no memory for reading a session");
    }
    SHOAL_TRY(shoal_session_reader_put(reader, bytes, n, err));
    return shoal_session_reader_finish(reader, ret_copy, err);
}
