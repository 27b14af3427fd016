/* SPDX-License-Identifier: Apache-2.0
 *
 * KV blocks with AVX2.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_math.h"

static void kv_store_f16(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < k_dim; d++) {
        keys[d * SHOAL_KV_BLOCK + slot] = _cvtss_sh(k[d], _MM_FROUND_TO_NEAREST_INT);
    }
    for (size_t d = 0; d < v_dim; d++) {
        values[slot * v_dim + d] = _cvtss_sh(v[d], _MM_FROUND_TO_NEAREST_INT);
    }
}

void shoal_kernels_avx2_attend(shoal_kernels *kernels)
{
    kernels->kv_store_f16 = kv_store_f16;
}
