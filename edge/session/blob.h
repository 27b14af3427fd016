/* SPDX-License-Identifier: Apache-2.0
 *
 * A session away from its pool: its tokens and the full blocks of its KV, and the same as a blob of
 * protocol/kvwire, which goes to a file or to another gateway. The tokens behind the last full
 * block, 31 at most, travel as ids: whoever takes the blob computes them.
 *
 * Where an operator chose it, blocks are archived (common/archive), the last 128 tokens in 8 bits:
 * a blob is then about a tenth, of those a half, and what is read of it is near what was written,
 * not the same. Such a blob says so, and is taken only with the basis that made it. What once came
 * archived is archived in every blob that is made of it: nobody takes it for what was computed.
 */
#ifndef SHOAL_SESSION_BLOB_H
#define SHOAL_SESSION_BLOB_H

#include "common/archive/archive.h"
#include "common/kv/kv_move.h"
#include "edge/session/keep.h"
#include "protocol/kvwire/kvwire.h"

/* What a blob must be of to be taken here. */
typedef struct shoal_session_identity {
    shoal_hash model;
    shoal_hash tokenizer;
    char form[SHOAL_KV_FORM_BYTES];
    uint32_t n_layers;
    uint32_t first_bytes; /* of block 0 in one layer */
    uint32_t layer_bytes; /* of any other block in one layer */
    uint32_t n_vocab;
    uint32_t n_tokens_max;
    const shoal_archive *archive; /* NULL: no archived blob is taken; outlives all that has this */
    const shoal_kernels *kernels; /* with it */
    bool archives;                /* with it: blobs are written so, where KV is f16 */
    bool has_secret;              /* known to the gateways that take each other's sessions (R10) */
    uint8_t secret[SHOAL_HASH_BYTES];
} shoal_session_identity;

/* Plain memory; any one thread at a time. */
typedef struct shoal_session_copy {
    int32_t *ids; /* (n_ids) */
    size_t n_ids;
    uint8_t *blocks;   /* [n_ids / 32] of shoal_kv_block_bytes, one after the other */
    size_t n_archived; /* of the first of them: they were archived on their way */
} shoal_session_copy;

void shoal_session_copy_free(shoal_session_copy *copy);
SHOAL_DEFINE_CLEANUP(shoal_session_copy, shoal_session_copy_free)

/* Engine-only. SHOAL_E_LIMIT: a windowed layer no longer has the text's first tokens;
 * SHOAL_E_INVALID: the KV holds what is no number; SHOAL_E_NOMEM. */
shoal_status shoal_session_copy_out(const shoal_kept *kept, shoal_session_copy **ret_copy,
                                    shoal_err *err) SHOAL_MUST_CHECK;
/* Engine-only. Fills a sequence that is empty, or has a multiple of 32 of the same text's tokens,
 * with the full blocks that it lacks; the tokens behind them are to be fed. On failure the sequence
 * holds some of them. SHOAL_E_INVALID: a number that is none; SHOAL_BUSY: no pages. */
shoal_status shoal_session_copy_in(const shoal_session_copy *copy, shoal_kv_seq *seq,
                                   shoal_err *err) SHOAL_MUST_CHECK;

/* A blob's bytes, made as they are read. */
typedef struct shoal_session_writer shoal_session_writer;
/* The identity is borrowed for the call, the copy is the writer's with SHOAL_OK.
 * SHOAL_E_UNSUPPORTED: the copy came archived, and is too short to be archived, or there is no
 * basis. */
shoal_status shoal_session_writer_new(const shoal_session_identity *identity,
                                      shoal_session_copy *take_copy,
                                      shoal_session_writer **ret_writer,
                                      shoal_err *err) SHOAL_MUST_CHECK;
void shoal_session_writer_free(shoal_session_writer *writer);
/* Up to n of the next bytes; fewer, or none, at the end alone. */
shoal_status shoal_session_writer_read(shoal_session_writer *writer, uint8_t *ret_bytes, size_t n,
                                       size_t *ret_n) SHOAL_MUST_CHECK;

/* A whole blob of hostile bytes. Nothing of it is given out unless all of it is right: its codes
 * are those of shoal_kvwire_decoder_step, and SHOAL_E_INVALID where it lacks full blocks. */
shoal_status shoal_session_read(const shoal_session_identity *identity, const uint8_t *bytes,
                                size_t n, shoal_session_copy **ret_copy,
                                shoal_err *err) SHOAL_MUST_CHECK;

/* The same of bytes that come piece by piece, of any size. One thread at a time. n_bytes_max: a
 * blob whose KV alone has more is refused before memory is taken for it. */
typedef struct shoal_session_reader shoal_session_reader;
shoal_status shoal_session_reader_new(const shoal_session_identity *identity, size_t n_bytes_max,
                                      shoal_session_reader **ret_reader) SHOAL_MUST_CHECK;
void shoal_session_reader_free(shoal_session_reader *reader);
SHOAL_DEFINE_CLEANUP(shoal_session_reader, shoal_session_reader_free)
/* The codes of shoal_session_read; a failure stays. */
shoal_status shoal_session_reader_put(shoal_session_reader *reader, const uint8_t *bytes, size_t n,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* The end was there, and right. */
bool shoal_session_reader_is_whole(const shoal_session_reader *reader);
/* The bytes were cut off: forgets the record that is not whole. They go on with that record of the
 * blob; 0: nothing was whole. A failure stays. */
shoal_status shoal_session_reader_resume(shoal_session_reader *reader,
                                         uint64_t *ret_record) SHOAL_MUST_CHECK;
/* No byte follows. SHOAL_E_INVALID: the end is missing. */
shoal_status shoal_session_reader_finish(shoal_session_reader *reader,
                                         shoal_session_copy **ret_copy,
                                         shoal_err *err) SHOAL_MUST_CHECK;

#endif
