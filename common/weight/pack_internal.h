/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: what the files about packed models share.
 */
#ifndef SHOAL_WEIGHT_PACK_INTERNAL_H
#define SHOAL_WEIGHT_PACK_INTERNAL_H

#include "common/weight/matrix_internal.h"
#include "common/weight/pack.h"

#define SHOAL_PACK_VERSION_KEY "shoal.pack.version"
#define SHOAL_PACK_TYPES       "shoal.pack.types"
#define SHOAL_PACK_DIMS_KEY    "shoal.pack.dims"
#define SHOAL_PACK_DIGESTS     "shoal.pack.digests"
#define SHOAL_PACK_SUMS        "shoal.pack.sums"

enum {
    SHOAL_PACK_DIMS = 3 /* a matrix, or a stack of them */
};

/* The entry of a packed tensor in one of the arrays; checked by shoal_pack_open. */
shoal_hash shoal_pack_stated(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                             const char *key);
/* The sum of a matrix's panels, which are made for it where the tensor is plain. */
shoal_status shoal_pack_sum(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                            shoal_pool *pool, shoal_hash *ret_sum, shoal_err *err) SHOAL_MUST_CHECK;
/* Whether every number of a panel is finite and every small scale in the range that products
 * rely on. */
bool shoal_panel_is_sound(shoal_panel kind, const uint8_t *panel, size_t bytes);

#endif
