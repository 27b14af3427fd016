/* SPDX-License-Identifier: Apache-2.0
 *
 * Storing one token's keys and values with AVX2: rounding goes eight at a time, while a channel's
 * keys lie a block apart and are written one by one.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_math.h"

#include <math.h>
#include <stdalign.h>
#include <string.h>

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

/* The largest |x|, NaN ignored. */
static float largest(size_t n, const float *x)
{
    __m256 amax = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        amax = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0F), _mm256_loadu_ps(x + i)), amax);
    }
    float most = avx2_max8(amax);
    for (; i < n; i++) {
        float a = fabsf(x[i]);
        most = a > most ? a : most;
    }
    return most;
}

/* Codes of one vector, a stride apart, and its scale in front of the block. */
static void store_codes(size_t n, const float *x, size_t slot, void *block, size_t at,
                        size_t stride)
{
    enum {
        F16_NAN = 0x7E00
    };
    uint16_t *scales = block;
    int8_t *codes = (int8_t *)block + SHOAL_KV_Q8_SCALES + at;
    uint16_t half = _cvtss_sh(largest(n, x) / 127.0F, _MM_FROUND_TO_NEAREST_INT);
    float d = _cvtsh_ss(half);
    float inv = d > 0 && d < INFINITY ? 1.0F / d : 0;
    scales[slot] = d < INFINITY ? half : (uint16_t)F16_NAN;
    for (size_t i = 0; i < n; i += 8) {
        alignas(32) float some[8] = {0};
        alignas(32) int32_t q[8];
        size_t m = n - i < 8 ? n - i : 8;
        memcpy(some, x + i, m * sizeof *x);
        /* min(a, b) is a < b ? a : b, so NaN becomes 127 as in the scalar code. */
        __m256 t = _mm256_mul_ps(_mm256_load_ps(some), _mm256_set1_ps(inv));
        t = _mm256_max_ps(_mm256_min_ps(t, _mm256_set1_ps(127)), _mm256_set1_ps(-127));
        _mm256_store_si256((__m256i *)q, _mm256_cvtps_epi32(t));
        for (size_t j = 0; j < m; j++) {
            codes[(i + j) * stride] = inv > 0 ? (int8_t)q[j] : 0;
        }
    }
}

static void kv_store_q8(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                        void *kblock, void *vblock)
{
    store_codes(k_dim, k, slot, kblock, slot, SHOAL_KV_BLOCK);
    store_codes(v_dim, v, slot, vblock, slot * v_dim, 1);
}

void shoal_kernels_avx2_kv(shoal_kernels *kernels)
{
    kernels->kv_store_f16 = kv_store_f16;
    kernels->kv_store_q8 = kv_store_q8;
}
