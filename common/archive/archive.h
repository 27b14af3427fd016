/* SPDX-License-Identifier: Apache-2.0
 *
 * The archive level of KV: 32 tokens of some layers as a transform code (KVTC, 2511.01815), for
 * wire, disk and store. Keys have their rotation taken back, since positions hide what they have in
 * common; keys and values of all heads of a group of layers are one vector; its principal
 * components, found once for a model, are quantised in steps that a dynamic program chose, and the
 * codes go through rANS (Duda, 1311.2540) with tables that never change. All of that is the basis,
 * made by `shoal-forge kv-calibrate`.
 *
 * What is decoded feeds a model, so it is the same bits on every machine (R2): the transform is a
 * product of whole numbers, everything else integers and single IEEE operations in one order.
 *
 * A unit is one block of one group, coded alone: any of them can be decoded without the others. The
 * first SHOAL_ARCHIVE_FIRST tokens of a text are kept in f16 inside their unit. Of a text's last
 * SHOAL_ARCHIVE_LAST tokens units are of another kind, sealed in 8 bits as a pool of q8 would
 * (kernels/kv_block.h): which blocks those are is up to the caller (shoal_archive_n_blocks).
 *
 * A basis is immutable, any thread; work belongs to one call at a time. Nothing here touches a
 * sequence, and only shoal_archive_read a file.
 */
#ifndef SHOAL_ARCHIVE_ARCHIVE_H
#define SHOAL_ARCHIVE_ARCHIVE_H

#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/kernels/kv_block.h"
#include "common/kv/kv.h"

enum {
    SHOAL_ARCHIVE_FIRST = 4,                /* tokens of a text that stay f16 */
    SHOAL_ARCHIVE_LAST = 128,               /* tokens of a text that are kept better */
    SHOAL_ARCHIVE_BASIS_BYTES_MAX = 1 << 30 /* of a basis */
};

typedef struct shoal_archive shoal_archive;           /* a basis */
typedef struct shoal_archive_work shoal_archive_work; /* scratch for its units */

/* From the bytes of a file, which are not kept. The shape's type does not matter: units are of f16
 * pages. SHOAL_E_MISMATCH: made for another model or shape; SHOAL_E_INVALID: not a basis;
 * SHOAL_E_UNSUPPORTED: a shape in Hadamard's basis, where keys do not show their rotation. Errors
 * name what was found and what was expected. */
shoal_status shoal_archive_open(const uint8_t *bytes, size_t n, const shoal_hash *model,
                                const shoal_kv_shape *shape, shoal_archive **ret_archive,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* The same from the file at path, at most SHOAL_ARCHIVE_BASIS_BYTES_MAX long; errors also of
 * shoal_file_read, and all of them name the path. May block. */
shoal_status shoal_archive_read(const char *path, const shoal_hash *model,
                                const shoal_kv_shape *shape, shoal_archive **ret_archive,
                                shoal_err *err) SHOAL_MUST_CHECK;
void shoal_archive_free(shoal_archive *archive);
SHOAL_DEFINE_CLEANUP(shoal_archive, shoal_archive_free)

/* Of the basis' bytes: two that agree decode alike. */
const shoal_hash *shoal_archive_hash(const shoal_archive *archive);
size_t shoal_archive_n_groups(const shoal_archive *archive);

typedef struct shoal_archive_group {
    size_t first_layer;
    size_t n_layers;
    size_t page_bytes; /* of n_layers pages of f16, one after the other (kv_move.h) */
    size_t unit_bytes; /* a unit has at most so many */
    size_t n_kept;     /* components that have codes, of n_channels */
    size_t n_channels; /* of a token: keys and values of all heads and layers */
} shoal_archive_group;
/* group is below n_groups. Groups follow each other and have every layer once. */
shoal_archive_group shoal_archive_group_at(const shoal_archive *archive, size_t group);

/* Leading blocks of a text of n_tokens that may be archived; the full ones behind them are near. */
size_t shoal_archive_n_blocks(size_t n_tokens);

/* For the largest group. SHOAL_E_NOMEM. */
shoal_status shoal_archive_work_new(const shoal_archive *archive,
                                    shoal_archive_work **ret_work) SHOAL_MUST_CHECK;
void shoal_archive_work_free(shoal_archive_work *work);
SHOAL_DEFINE_CLEANUP(shoal_archive_work, shoal_archive_work_free)

/* Tokens [position, position + 32) of a group's layers, position a multiple of 32 below 2^31, from
 * page_bytes of pages into room for unit_bytes at ret_unit. SHOAL_E_INVALID: the pages hold an
 * infinity or what is no number. */
shoal_status shoal_archive_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                  shoal_archive_work *work, size_t group, size_t position,
                                  const uint8_t *pages, uint8_t *ret_unit,
                                  size_t *ret_n) SHOAL_MUST_CHECK;
/* Back into page_bytes of pages, all finite, written on success only. Any bytes may come:
 * SHOAL_E_INVALID names what is wrong with them, SHOAL_E_MISMATCH another basis, group or place. */
shoal_status shoal_archive_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                  shoal_archive_work *work, size_t group, size_t position,
                                  const uint8_t *unit, size_t n, uint8_t *ret_pages,
                                  shoal_err *err) SHOAL_MUST_CHECK;

/* The same of a text's newest tokens: a unit that always has near_bytes. Codes as above. */
size_t shoal_archive_near_bytes(const shoal_archive *archive, size_t group);
shoal_status shoal_archive_near_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                       shoal_archive_work *work, size_t group, size_t position,
                                       const uint8_t *pages, uint8_t *ret_unit) SHOAL_MUST_CHECK;
shoal_status shoal_archive_near_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                       shoal_archive_work *work, size_t group, size_t position,
                                       const uint8_t *unit, size_t n, uint8_t *ret_pages,
                                       shoal_err *err) SHOAL_MUST_CHECK;

/* --- whole blocks ----------------------------------------------------------------------------- */

/* A block of all layers is, of each group, 4 bytes of length and its unit (KVWIRE.md, codec 1). It
 * has at most so many bytes. */
size_t shoal_archive_block_bytes(const shoal_archive *archive);
/* How long one is likely to be, not the first of a text: what its tables were fitted to. For plans
 * alone: its last bits are the libm's. */
double shoal_archive_block_bytes_likely(const shoal_archive *archive);
/* The same of one that is near, to the byte. */
size_t shoal_archive_block_bytes_near(const shoal_archive *archive);
/* Block number `block` of a text, near or not, from the f16 pages of all layers, one after the
 * other, into room for shoal_archive_block_bytes. The codes of shoal_archive_encode. */
shoal_status shoal_archive_block_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                        shoal_archive_work *work, size_t block, bool near,
                                        const uint8_t *pages, uint8_t *ret_bytes,
                                        size_t *ret_n) SHOAL_MUST_CHECK;
/* Back; the codes of shoal_archive_decode, and one of the other kind is SHOAL_E_INVALID. On failure
 * some pages may be written. */
shoal_status shoal_archive_block_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                        shoal_archive_work *work, size_t block, bool near,
                                        const uint8_t *bytes, size_t n, uint8_t *ret_pages,
                                        shoal_err *err) SHOAL_MUST_CHECK;
/* What a token of all layers takes on this thread now, in microseconds. SHOAL_E_NOMEM. */
shoal_status shoal_archive_measure(const shoal_archive *archive, const shoal_kernels *kernels,
                                   const shoal_clock *clock, double *ret_encode_us,
                                   double *ret_decode_us) SHOAL_MUST_CHECK;

#endif
