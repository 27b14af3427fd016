/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention with AVX2: scores have tokens as lanes, outputs have channels as lanes. A block's keys
 * and values are read once for up to two heads of the group.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_math.h"
#include "common/kernels/math.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    HEADS = 2,
    CHANNELS = 4 /* registers of output channels at a time */
};

typedef __m256 load_fn(const void *p);

/* What the online softmax carries from block to block for one head. */
typedef struct head_state {
    float max;
    float sum;
    float weights[TOKENS];
    float correction;
} head_state;

/* scores[h][t] for n_h heads and all 32 lanes; lanes past the valid tokens are masked later. */
SHOAL_INLINE void score_block(const shoal_attend *a, const float *q, const uint8_t *k,
                              size_t element, load_fn *load, size_t n_h, __m256 s[HEADS][4])
{
    for (size_t h = 0; h < n_h; h++) {
        for (size_t i = 0; i < 4; i++) {
            s[h][i] = _mm256_setzero_ps();
        }
    }
    const size_t head_dim = a->head_dim;
    for (size_t d = 0; d < head_dim; d++) {
        const uint8_t *row = k + d * TOKENS * element;
        __m256 keys[4];
        for (size_t i = 0; i < 4; i++) {
            keys[i] = load(row + i * 8 * element);
        }
        for (size_t h = 0; h < n_h; h++) {
            __m256 qd = _mm256_broadcast_ss(q + h * head_dim + d);
            for (size_t i = 0; i < 4; i++) {
                s[h][i] = _mm256_fmadd_ps(qd, keys[i], s[h][i]);
            }
        }
    }
}

static void softmax_block(head_state *state, __m256 s[4], size_t n, float scale, bool first)
{
    const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 nothing = _mm256_set1_ps(-INFINITY);
    __m256 valid[4];
    __m256 max = nothing;
    for (size_t i = 0; i < 4; i++) {
        __m256 index = _mm256_add_ps(lane, _mm256_set1_ps((float)(8 * i)));
        valid[i] = _mm256_cmp_ps(index, _mm256_set1_ps((float)n), _CMP_LT_OQ);
        s[i] = _mm256_mul_ps(_mm256_set1_ps(scale), s[i]);
        /* max(a, b) is a > b ? a : b, so a NaN score never becomes the maximum. */
        max = _mm256_max_ps(_mm256_blendv_ps(nothing, s[i], valid[i]), max);
    }
    float block_max = avx2_max8(max);
    float new_max = block_max > state->max ? block_max : state->max;
    state->correction = first ? 0.0F : shoal_expf(state->max - new_max);
    for (size_t i = 0; i < 4; i++) {
        s[i] = avx2_exp(_mm256_sub_ps(s[i], _mm256_set1_ps(new_max)));
        s[i] = _mm256_and_ps(s[i], valid[i]);
        _mm256_storeu_ps(state->weights + 8 * i, s[i]);
    }
    float block_sum = avx2_tree16(_mm256_add_ps(s[0], s[2]), _mm256_add_ps(s[1], s[3]));
    state->sum = fmaf(state->sum, state->correction, block_sum);
    state->max = new_max;
}

/* out = out * correction, then out = fma(p_t, v_t, out) for t ascending, for n_v registers of
 * channels from d: enough sums in flight to hide the latency of each. */
SHOAL_INLINE void add_channels(const shoal_attend *a, float *out, const head_state *states,
                               const uint8_t *v, size_t n, size_t d, size_t element, load_fn *load,
                               size_t n_h, size_t n_v)
{
    const size_t head_dim = a->head_dim;
    __m256 acc[HEADS][CHANNELS];
    for (size_t h = 0; h < n_h; h++) {
        __m256 correction = _mm256_set1_ps(states[h].correction);
        for (size_t i = 0; i < n_v; i++) {
            acc[h][i] = _mm256_mul_ps(_mm256_loadu_ps(out + h * head_dim + d + 8 * i), correction);
        }
    }
    for (size_t t = 0; t < n; t++) {
        const uint8_t *at = v + (t * head_dim + d) * element;
        __m256 weights[HEADS];
        for (size_t h = 0; h < n_h; h++) {
            weights[h] = _mm256_broadcast_ss(&states[h].weights[t]);
        }
        for (size_t i = 0; i < n_v; i++) {
            __m256 values = load(at + 8 * i * element);
            for (size_t h = 0; h < n_h; h++) {
                acc[h][i] = _mm256_fmadd_ps(weights[h], values, acc[h][i]);
            }
        }
    }
    for (size_t h = 0; h < n_h; h++) {
        for (size_t i = 0; i < n_v; i++) {
            _mm256_storeu_ps(out + h * head_dim + d + 8 * i, acc[h][i]);
        }
    }
}

/* The same for one channel past the last full register. */
static void add_channel(const shoal_attend *a, float *out, const head_state *state,
                        const uint8_t *v, size_t n, size_t d, size_t element)
{
    float acc = out[d] * state->correction;
    for (size_t t = 0; t < n; t++) {
        const uint8_t *at = v + (t * a->head_dim + d) * element;
        float value = 0;
        if (element == 4) {
            memcpy(&value, at, sizeof value);
        } else {
            uint16_t half = 0;
            memcpy(&half, at, sizeof half);
            value = _cvtsh_ss(half);
        }
        acc = fmaf(state->weights[t], value, acc);
    }
    out[d] = acc;
}

SHOAL_INLINE void add_values(const shoal_attend *a, float *out, const head_state *states,
                             const uint8_t *v, size_t n, size_t element, load_fn *load, size_t n_h)
{
    size_t d = 0;
    for (; d + 8 * (size_t)CHANNELS <= a->head_dim; d += 8 * (size_t)CHANNELS) {
        add_channels(a, out, states, v, n, d, element, load, n_h, CHANNELS);
    }
    for (; d + 8 <= a->head_dim; d += 8) {
        add_channels(a, out, states, v, n, d, element, load, n_h, 1);
    }
    for (; d < a->head_dim; d++) {
        for (size_t h = 0; h < n_h; h++) {
            add_channel(a, out + h * a->head_dim, &states[h], v, n, d, element);
        }
    }
}

SHOAL_INLINE void attend_heads(const shoal_attend *a, size_t h0, size_t element, load_fn *load,
                               size_t n_h)
{
    const float *q = a->q + h0 * a->head_dim;
    float *out = a->out + h0 * a->head_dim;
    head_state states[HEADS];
    for (size_t h = 0; h < n_h; h++) {
        states[h].max = -INFINITY;
        states[h].sum = 0;
    }
    memset(out, 0, n_h * a->head_dim * sizeof *out);
    for (size_t b = 0; b * TOKENS < a->n_tokens; b++) {
        size_t left = a->n_tokens - b * TOKENS;
        size_t n = left < TOKENS ? left : TOKENS;
        __m256 s[HEADS][4];
        score_block(a, q, a->k_blocks[b], element, load, n_h, s);
        for (size_t h = 0; h < n_h; h++) {
            softmax_block(&states[h], s[h], n, a->scale, b == 0);
        }
        add_values(a, out, states, a->v_blocks[b], n, element, load, n_h);
    }
    for (size_t h = 0; h < n_h; h++) {
        for (size_t d = 0; d < a->head_dim; d++) {
            out[h * a->head_dim + d] = out[h * a->head_dim + d] / states[h].sum;
        }
    }
}

SHOAL_INLINE void attend(const shoal_attend *a, size_t element, load_fn *load)
{
    size_t h = 0;
    for (; h + HEADS <= a->n_heads; h += HEADS) {
        attend_heads(a, h, element, load, HEADS);
    }
    if (h < a->n_heads) {
        attend_heads(a, h, element, load, 1);
    }
}

static void attend_f32(const shoal_attend *a)
{
    attend(a, 4, avx2_load_f32);
}

static void attend_f16(const shoal_attend *a)
{
    attend(a, 2, avx2_load_f16);
}

static void kv_store_f16(size_t head_dim, const float *k, const float *v, size_t slot, void *kblock,
                         void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < head_dim; d++) {
        keys[d * TOKENS + slot] = _cvtss_sh(k[d], _MM_FROUND_TO_NEAREST_INT);
        values[slot * head_dim + d] = _cvtss_sh(v[d], _MM_FROUND_TO_NEAREST_INT);
    }
}

void shoal_kernels_avx2_attend(shoal_kernels *kernels)
{
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
    kernels->kv_store_f16 = kv_store_f16;
}
