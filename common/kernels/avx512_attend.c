/* SPDX-License-Identifier: Apache-2.0
 *
 * KV blocks with AVX-512.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"

enum {
    TOKENS = SHOAL_KV_BLOCK,
    LANES = 16,
    NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC
};

/* A channel's keys lie a block apart, so only the rounding is done sixteen at a time. */
static void kv_store_f16(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < k_dim; d += LANES) {
        size_t n = k_dim - d < LANES ? k_dim - d : LANES;
        uint16_t half[LANES];
        __m512 x = _mm512_maskz_loadu_ps(avx512_first(n), k + d);
        _mm256_storeu_si256((__m256i *)(void *)half, _mm512_cvtps_ph(x, NEAREST));
        for (size_t i = 0; i < n; i++) {
            keys[(d + i) * TOKENS + slot] = half[i];
        }
    }
    for (size_t d = 0; d < v_dim; d += LANES) {
        __mmask16 mask = avx512_first(v_dim - d);
        __m256i rounded = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, v + d), NEAREST);
        _mm256_mask_storeu_epi16(values + slot * v_dim + d, mask, rounded);
    }
}

void shoal_kernels_avx512_attend(shoal_kernels *kernels)
{
    kernels->kv_store_f16 = kv_store_f16;
}
