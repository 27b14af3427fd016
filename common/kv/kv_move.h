/* SPDX-License-Identifier: Apache-2.0
 *
 * Full blocks of a sequence out of the pool and back in: for each layer and each KV head its K
 * block and its V block, one after the other, as attention reads them (R4). A sequence that took
 * blocks in goes on as one that computed them, bit for bit (R2). It knows no text and no name: what
 * bytes belong to which tokens is said by cloud/store. Engine-only.
 */
#ifndef SHOAL_KV_KV_MOVE_H
#define SHOAL_KV_KV_MOVE_H

#include "common/kv/kv.h"

enum {
    SHOAL_KV_FORM_BYTES = 224 /* of shoal_kv_form, its end included */
};

/* Bytes of the block of tokens [32 * block, 32 * block + 32), of all layers: of a sealed type block
 * 0 is f16, so it is larger. */
size_t shoal_kv_block_bytes(const shoal_kv_shape *shape, size_t block);
/* Parts of such a block that have the same bytes, one after the other: its layers, or where those
 * differ (shoal_kv_shape.types) the block as a whole, 1. What a blob calls layers (KVWIRE.md). */
size_t shoal_kv_form_layers(const shoal_kv_shape *shape);
/* In words, all that decides what a block's bytes mean beyond the model: the type, the shape, and
 * the number of the kernels' arithmetic, which rises when any bit of a result changes; what is
 * evicted; and whether heads were multiplied by Hadamard matrices. */
void shoal_kv_form(const shoal_kv_shape *shape, char ret_form[SHOAL_KV_FORM_BYTES]);

/* Whether n f16 numbers, at any address, are all finite. */
bool shoal_kv_finite_f16(const uint8_t *bytes, size_t n_values);

/* Copies a full block to ret_bytes, shoal_kv_block_bytes. SHOAL_E_LIMIT: the block is not full, or
 * a windowed layer no longer has it. SHOAL_E_INVALID: it holds an infinity or what is no number, so
 * import would refuse it. */
shoal_status shoal_kv_block_export(const shoal_kv_seq *seq, size_t block,
                                   uint8_t *ret_bytes) SHOAL_MUST_CHECK;
/* Appends a block to a sequence whose length is a multiple of 32. Nothing is changed but with
 * SHOAL_OK. SHOAL_E_INVALID: another size, or a number that is infinite or none: hostile bytes may
 * be wrong, but not poison what reads them. SHOAL_E_LIMIT: the length is no multiple of 32, the
 * context is full, a step is shorter than a block and a layer has a window, or KV is evicted;
 * SHOAL_BUSY: no pages. */
shoal_status shoal_kv_block_import(shoal_kv_seq *seq, const uint8_t *bytes,
                                   size_t n) SHOAL_MUST_CHECK;

#endif
