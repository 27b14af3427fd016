/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed files: a GGUF whose matrices lie in panels as products read them, so that the file is
 * mapped and multiplied in place. A packed matrix is a one-dimensional I8 tensor under its own
 * name, at a multiple of SHOAL_PACK_ALIGN; metadata arrays with an entry for every tensor of the
 * file say what it is:
 *   shoal.pack.version  1
 *   shoal.pack.types    i32, the tensor type it was packed from; -1 where the tensor is not packed
 *   shoal.pack.dims     i32 [n][3], its first three dimensions
 *   shoal.pack.digests  strings, the digest of its original bytes, hexadecimal
 *   shoal.pack.sums     strings, the sum of its panels, hexadecimal
 * Everything else is as in the plain file.
 *
 * What is trusted. Sizes, alignment, scales and sums are checked when a model is loaded, so damage
 * is found and no panel can lead a product astray. The digest is believed: it is what makes a
 * packed file the same model as the plain one (R9), and checking it means restoring every block. A
 * peer that wants to lie about its model can do so without a file; an owner who wants to know asks
 * shoal_pack_verify.
 */
#ifndef SHOAL_WEIGHT_PACK_H
#define SHOAL_WEIGHT_PACK_H

#include "common/base/hash.h"
#include "common/weight/weight.h"

enum {
    SHOAL_PACK_VERSION = 1,
    SHOAL_PACK_ALIGN = 64
};

/* As shoal_gguf_open; tensors of a packed file are given with type and shape of the matrices they
 * were, and marked packed. data is aligned to SHOAL_PACK_ALIGN if the file is packed. */
shoal_status shoal_pack_open(const uint8_t *data, size_t size, shoal_gguf **ret_gguf,
                             shoal_err *err) SHOAL_MUST_CHECK;
bool shoal_pack_is_packed(const shoal_gguf *gguf);
/* Every packed tensor: its sum, and that scales are finite and in their range. Reads all panels
 * once, on all of the pool. */
shoal_status shoal_pack_check(const shoal_gguf *gguf, shoal_pool *pool,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* Restores every block, and compares digests and panels made anew with what the file has. */
shoal_status shoal_pack_verify(const shoal_gguf *gguf, shoal_pool *pool,
                               shoal_err *err) SHOAL_MUST_CHECK;

/* SHA-256 of the digests of a tensor's leaves, each the SHA-256 of about a mebibyte of its bytes
 * (whole rows, by type and shape alone). That of the original bytes for a packed tensor, as the
 * file states it. */
shoal_status shoal_pack_digest(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                               shoal_pool *pool, shoal_hash *ret_digest,
                               shoal_err *err) SHOAL_MUST_CHECK;

/* --- making one ------------------------------------------------------------------------------ */

/* Takes the next n bytes of the file. */
typedef shoal_status shoal_pack_sink(void *ctx, const void *data, size_t n, shoal_err *err);
/* The packed form of a plain file, to the sink from first byte to last. *ret_n_packed counts the
 * matrices in panels; what has no product is as it was. */
shoal_status shoal_pack_write(const shoal_gguf *gguf, shoal_pool *pool, shoal_pack_sink *sink,
                              void *ctx, size_t *ret_n_packed, shoal_err *err) SHOAL_MUST_CHECK;

#endif
