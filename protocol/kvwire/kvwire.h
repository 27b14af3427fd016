/* SPDX-License-Identifier: Apache-2.0
 *
 * The container in which KV leaves a machine: a text's token ids and full blocks of its KV, as a
 * stream of records that can be written, sent, cut and continued at any of them. Bytes in, bytes
 * out: no file, no socket, no pool. What a block's bytes mean is said by the form, in words whose
 * hash the head carries; here they are opaque and of a known length. A text's first blocks may be
 * archived (common/archive): then they are fewer bytes, of a length that is theirs, and the head
 * says which blocks and by which basis. The layout is in KVWIRE.md.
 *
 * A decoder checks every record before it hands it out, and the whole before it says END. What it
 * gave out before END may be used at once where it can be undone, and is committed after END alone.
 *
 * An object belongs to one thread at a time. Memory is one record and, of ids, nothing.
 */
#ifndef SHOAL_KVWIRE_KVWIRE_H
#define SHOAL_KVWIRE_KVWIRE_H

#include "common/base/hash.h"

#include <stdint.h>

enum {
    SHOAL_KVWIRE_VERSION = 1,           /* all blocks as the pool keeps them */
    SHOAL_KVWIRE_VERSION_ARCHIVE = 2,   /* some are archived */
    SHOAL_KVWIRE_BLOCK = 32,            /* tokens of one block */
    SHOAL_KVWIRE_TOKENS_MAX = 1 << 24,  /* of one text */
    SHOAL_KVWIRE_LAYERS_MAX = 1024,     /* of one model */
    SHOAL_KVWIRE_RECORD_MAX = 64 << 20, /* bytes of one block in the layers of one chunk */
    SHOAL_KVWIRE_SALT_MAX = 256,        /* bytes */
    SHOAL_KVWIRE_FORM_MAX = 256         /* bytes */
};

/* How the bytes of a chunk's blocks are coded. */
typedef enum shoal_kvwire_codec {
    SHOAL_KVWIRE_PLAIN = 0,  /* as the pool keeps them: of the length that the form says */
    SHOAL_KVWIRE_ARCHIVE = 1 /* by a basis, in all layers: of the length that the record says */
} shoal_kvwire_codec;

/* What a blob holds, as its head says. */
typedef struct shoal_kvwire_about {
    shoal_hash model;
    shoal_hash tokenizer;
    shoal_hash form;   /* shoal_kvwire_form */
    uint32_t n_tokens; /* ids of the text; 1..TOKENS_MAX */
    uint32_t n_blocks; /* full blocks with KV, from the text's start: 32 * n_blocks <= n_tokens */
    uint32_t n_layers; /* 1..LAYERS_MAX */
    uint32_t first_bytes;    /* of block 0 in one layer, which some forms keep differently */
    uint32_t layer_bytes;    /* of any other block in one layer */
    uint32_t n_archived;     /* leading blocks that are archived: 0..n_blocks */
    uint32_t archived_bytes; /* with them: of one in all layers, at most; 1..RECORD_MAX */
    shoal_hash basis;        /* with them: what they were archived by */
} shoal_kvwire_about;

/* The hash of a form in words (shoal_kv_form), at most SHOAL_KVWIRE_FORM_MAX bytes. */
shoal_status shoal_kvwire_form(const char *form, shoal_hash *ret_hash) SHOAL_MUST_CHECK;

/* Whom a blob is for: its content hash commits to the salt, so who does not know it can neither
 * make nor change a blob that is taken (R10). Of no bytes: for anybody, and the content hash tells
 * accidents alone. Borrowed for a call. */
typedef struct shoal_kvwire_salt {
    const void *bytes;
    size_t n; /* 0..SHOAL_KVWIRE_SALT_MAX */
} shoal_kvwire_salt;

/* --- out -------------------------------------------------------------------------------------- */

/* Where an encoder finds what it sends; borrowed for its life. */
typedef struct shoal_kvwire_source {
    const int32_t *ids; /* [n_tokens] */
    void *ctx;
    /* Block b of layers [layer, layer + n_layers), one after the other, as the pool keeps them.
     * Asked for in the order of the stream, and again after a seek. SHOAL_BUSY: not there yet. A
     * failure is the encoder's. */
    shoal_status (*read)(void *ctx, uint32_t block, uint32_t layer, uint32_t n_layers,
                         uint8_t *ret_bytes);
    /* Block b of all layers, archived, into room for archived_bytes: *ret_n of them, at least 1. As
     * read otherwise. NULL where none is. */
    shoal_status (*read_archived)(void *ctx, uint32_t block, uint8_t *ret_bytes, size_t *ret_n);
    uint32_t chunk_layers; /* layers of one chunk, at least 1: fewer are sooner of use */
    uint32_t chunk_blocks; /* blocks of one chunk, at least 1 */
} shoal_kvwire_source;

typedef struct shoal_kvwire_encoder shoal_kvwire_encoder;

/* SHOAL_E_LIMIT and SHOAL_E_INVALID name the field. */
shoal_status shoal_kvwire_encoder_new(const shoal_kvwire_about *about,
                                      const shoal_kvwire_source *source, shoal_kvwire_salt salt,
                                      shoal_kvwire_encoder **ret_encoder,
                                      shoal_err *err) SHOAL_MUST_CHECK;
void shoal_kvwire_encoder_free(shoal_kvwire_encoder *encoder);
SHOAL_DEFINE_CLEANUP(shoal_kvwire_encoder, shoal_kvwire_encoder_free)
/* All records of the blob, head and end among them. */
uint64_t shoal_kvwire_encoder_records(const shoal_kvwire_encoder *encoder);
/* The next bytes, at most n of them; fewer than n, or none, at the end, or with SHOAL_BUSY: the
 * next block is not there yet, and is asked for again by the next call. */
shoal_status shoal_kvwire_encoder_read(shoal_kvwire_encoder *encoder, uint8_t *ret_bytes, size_t n,
                                       size_t *ret_n) SHOAL_MUST_CHECK;
/* Goes on with that record of the stream, 0 being the head: what a decoder's records are. Reads
 * what stands before it once more, for the content hash. SHOAL_BUSY: a block of that is not there
 * yet; call it again with the same record, nothing is read before it is there. SHOAL_E_LIMIT: the
 * stream has fewer, and is where it was. */
shoal_status shoal_kvwire_encoder_seek(shoal_kvwire_encoder *encoder,
                                       uint64_t record) SHOAL_MUST_CHECK;

/* --- in --------------------------------------------------------------------------------------- */

/* What a decoder takes: whatever differs is refused, naming both. Copied. */
typedef struct shoal_kvwire_expect {
    shoal_hash model;
    shoal_hash tokenizer;
    const char *form; /* in words */
    uint32_t n_layers;
    uint32_t first_bytes;
    uint32_t layer_bytes;
    uint32_t n_vocab;
    uint32_t n_tokens_max;
    const shoal_hash *basis; /* archived blocks are taken, by this one; NULL: they are refused */
    uint32_t archived_bytes; /* with it: of one block in all layers, at most; 1..RECORD_MAX */
    shoal_kvwire_salt salt;
} shoal_kvwire_expect;

typedef enum shoal_kvwire_event_kind {
    SHOAL_KVWIRE_HEAD,   /* about */
    SHOAL_KVWIRE_TOKENS, /* ids [first, first + n) of the text, in order */
    SHOAL_KVWIRE_DATA,   /* a block in some layers */
    SHOAL_KVWIRE_END     /* all is there and the content hash is right */
} shoal_kvwire_event_kind;

/* Pointers are valid until the decoder's next call. */
typedef struct shoal_kvwire_event {
    shoal_kvwire_event_kind kind;
    const shoal_kvwire_about *about; /* all but of the first event too */
    uint32_t first;
    uint32_t n;
    const int32_t *ids;
    uint32_t block;
    uint32_t layer; /* bytes are of layers [layer, layer + n_layers) */
    uint32_t n_layers;
    shoal_kvwire_codec codec;
    const uint8_t *bytes;
    size_t n_bytes;
} shoal_kvwire_event;

typedef struct shoal_kvwire_decoder shoal_kvwire_decoder;

shoal_status shoal_kvwire_decoder_new(const shoal_kvwire_expect *expect,
                                      shoal_kvwire_decoder **ret_decoder) SHOAL_MUST_CHECK;
void shoal_kvwire_decoder_free(shoal_kvwire_decoder *decoder);
SHOAL_DEFINE_CLEANUP(shoal_kvwire_decoder, shoal_kvwire_decoder_free)
/* Takes up to n hostile bytes, *ret_used of them; then step until it answers SHOAL_MORE. Uses no
 * byte while an event waits, nor after the end, where a byte more is a failure. */
void shoal_kvwire_decoder_put_data(shoal_kvwire_decoder *decoder, const uint8_t *bytes, size_t n,
                                   size_t *ret_used);
/* The next event; SHOAL_MORE: it needs bytes, or has said END. SHOAL_E_INVALID: no blob of ours, or
 * damaged; SHOAL_E_UNSUPPORTED: another version or codec; SHOAL_E_MISMATCH: of another model,
 * tokenizer, form or salt; SHOAL_E_LIMIT: a longer text than may be; SHOAL_E_NOMEM. A failure
 * stays. */
shoal_status shoal_kvwire_decoder_step(shoal_kvwire_decoder *decoder, shoal_kvwire_event *ret_event,
                                       shoal_err *err) SHOAL_MUST_CHECK;
/* The link was cut: forgets the record that is not whole. The stream goes on with the record that
 * is returned, at byte *ret_at of the blob. */
uint64_t shoal_kvwire_decoder_resume(shoal_kvwire_decoder *decoder, uint64_t *ret_at);
/* No byte follows. SHOAL_E_INVALID: the end is missing. */
shoal_status shoal_kvwire_decoder_finish(const shoal_kvwire_decoder *decoder,
                                         shoal_err *err) SHOAL_MUST_CHECK;

#endif
