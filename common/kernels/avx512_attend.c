/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention with AVX-512: scores have tokens as lanes (a block is two registers), outputs have
 * channels as lanes. A block's keys and values are read once for up to four heads of the group.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"
#include "common/kernels/math.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    LANES = 16,
    HEADS = 4
};

/* One element type: its size, sixteen of them, some of them. */
typedef struct element {
    size_t size;
    __m512 (*load)(const void *p);
    __m512 (*load_some)(const void *p, __mmask16 mask);
} element;

/* What the online softmax carries from block to block for one head. */
typedef struct head_state {
    float max;
    float sum;
    float weights[TOKENS];
    float correction;
} head_state;

/* The scores of n_h heads before scaling; lanes past the valid tokens are masked later. */
SHOAL_INLINE void score_block(const shoal_attend *a, const float *q, const uint8_t *k, element e,
                              size_t n_h, __m512 s[HEADS][2])
{
    for (size_t h = 0; h < n_h; h++) {
        s[h][0] = _mm512_setzero_ps();
        s[h][1] = _mm512_setzero_ps();
    }
    const size_t head_dim = a->head_dim;
    for (size_t d = 0; d < head_dim; d++) {
        const uint8_t *row = k + d * TOKENS * e.size;
        __m512 low = e.load(row);
        __m512 high = e.load(row + LANES * e.size);
        for (size_t h = 0; h < n_h; h++) {
            __m512 qd = _mm512_set1_ps(q[h * head_dim + d]);
            s[h][0] = _mm512_fmadd_ps(qd, low, s[h][0]);
            s[h][1] = _mm512_fmadd_ps(qd, high, s[h][1]);
        }
    }
}

static void softmax_block(head_state *state, const __m512 s[2], size_t n, float scale, bool first)
{
    __mmask16 valid[2] = {avx512_first(n), avx512_first(n > LANES ? n - LANES : 0)};
    __m512 scaled[2];
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (size_t i = 0; i < 2; i++) {
        scaled[i] = _mm512_mul_ps(_mm512_set1_ps(scale), s[i]);
        /* max(a, b) is a > b ? a : b, so a NaN score never becomes the maximum. */
        max = _mm512_mask_max_ps(max, valid[i], scaled[i], max);
    }
    float block_max = avx512_max16(max);
    float new_max = block_max > state->max ? block_max : state->max;
    state->correction = first ? 0.0F : shoal_expf(state->max - new_max);
    __m512 p[2];
    for (size_t i = 0; i < 2; i++) {
        p[i] = avx512_exp(_mm512_sub_ps(scaled[i], _mm512_set1_ps(new_max)));
        p[i] = _mm512_maskz_mov_ps(valid[i], p[i]);
        _mm512_storeu_ps(state->weights + LANES * i, p[i]);
    }
    float block_sum = avx512_tree16(_mm512_add_ps(p[0], p[1]));
    state->sum = fmaf(state->sum, state->correction, block_sum);
    state->max = new_max;
}

/* out = out * correction, then out = fma(p_t, v_t, out) for t ascending, in n_v registers of
 * channels from d. With n_v of 0, the fewer than sixteen channels of the mask. */
SHOAL_INLINE void add_channels(const shoal_attend *a, float *out, const head_state *states,
                               const uint8_t *v, size_t n, size_t d, element e, size_t n_h,
                               size_t n_v, __mmask16 rest)
{
    const size_t n_r = n_v ? n_v : 1;
    const size_t head_dim = a->head_dim;
    __m512 acc[HEADS][2];
    for (size_t h = 0; h < n_h; h++) {
        __m512 correction = _mm512_set1_ps(states[h].correction);
        const float *from = out + h * head_dim + d;
        for (size_t i = 0; i < n_r; i++) {
            __m512 old =
                n_v ? _mm512_loadu_ps(from + LANES * i) : _mm512_maskz_loadu_ps(rest, from);
            acc[h][i] = _mm512_mul_ps(old, correction);
        }
    }
    for (size_t t = 0; t < n; t++) {
        const uint8_t *at = v + (t * head_dim + d) * e.size;
        for (size_t i = 0; i < n_r; i++) {
            __m512 values = n_v ? e.load(at + LANES * i * e.size) : e.load_some(at, rest);
            for (size_t h = 0; h < n_h; h++) {
                acc[h][i] =
                    _mm512_fmadd_ps(_mm512_set1_ps(states[h].weights[t]), values, acc[h][i]);
            }
        }
    }
    for (size_t h = 0; h < n_h; h++) {
        float *to = out + h * head_dim + d;
        for (size_t i = 0; i < n_r; i++) {
            _mm512_mask_storeu_ps(to + LANES * i, n_v ? 0xFFFF : rest, acc[h][i]);
        }
    }
}

SHOAL_INLINE void add_values(const shoal_attend *a, float *out, const head_state *states,
                             const uint8_t *v, size_t n, element e, size_t n_h)
{
    size_t d = 0;
    for (; d + 2 * LANES <= a->head_dim; d += 2 * LANES) {
        add_channels(a, out, states, v, n, d, e, n_h, 2, 0);
    }
    if (d + LANES <= a->head_dim) {
        add_channels(a, out, states, v, n, d, e, n_h, 1, 0);
        d += LANES;
    }
    if (d < a->head_dim) {
        add_channels(a, out, states, v, n, d, e, n_h, 0, avx512_first(a->head_dim - d));
    }
}

static void divide(size_t n, float *out, float by)
{
    __m512 divisor = _mm512_set1_ps(by);
    for (size_t d = 0; d < n; d += LANES) {
        __mmask16 mask = avx512_first(n - d);
        __m512 value = _mm512_maskz_loadu_ps(mask, out + d);
        _mm512_mask_storeu_ps(out + d, mask, _mm512_div_ps(value, divisor));
    }
}

SHOAL_INLINE void attend_heads(const shoal_attend *a, size_t h0, element e, size_t n_h)
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
        __m512 s[HEADS][2];
        score_block(a, q, a->k_blocks[b], e, n_h, s);
        for (size_t h = 0; h < n_h; h++) {
            softmax_block(&states[h], s[h], n, a->scale, b == 0);
        }
        add_values(a, out, states, a->v_blocks[b], n, e, n_h);
    }
    for (size_t h = 0; h < n_h; h++) {
        divide(a->head_dim, out + h * a->head_dim, states[h].sum);
    }
}

SHOAL_INLINE void attend(const shoal_attend *a, element e)
{
    size_t h = 0;
    for (; h + 4 <= a->n_heads; h += 4) {
        attend_heads(a, h, e, 4);
    }
    if (h + 2 <= a->n_heads) {
        attend_heads(a, h, e, 2);
        h += 2;
    }
    if (h < a->n_heads) {
        attend_heads(a, h, e, 1);
    }
}

static void attend_f32(const shoal_attend *a)
{
    attend(a, (element){4, avx512_load_f32, avx512_load_some_f32});
}

static void attend_f16(const shoal_attend *a)
{
    attend(a, (element){2, avx512_load_f16, avx512_load_some_f16});
}

/* A channel's keys lie a block apart, so only the rounding is done sixteen at a time. */
static void kv_store_f16(size_t head_dim, const float *k, const float *v, size_t slot, void *kblock,
                         void *vblock)
{
    enum {
        NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC
    };
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < head_dim; d += LANES) {
        size_t n = head_dim - d < LANES ? head_dim - d : LANES;
        __mmask16 mask = avx512_first(n);
        uint16_t half[LANES];
        __m256i rounded = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, k + d), NEAREST);
        _mm256_storeu_si256((__m256i *)(void *)half, rounded);
        for (size_t i = 0; i < n; i++) {
            keys[(d + i) * TOKENS + slot] = half[i];
        }
        rounded = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, v + d), NEAREST);
        _mm256_mask_storeu_epi16(values + slot * head_dim + d, mask, rounded);
    }
}

void shoal_kernels_avx512_attend(shoal_kernels *kernels)
{
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
    kernels->kv_store_f16 = kv_store_f16;
}
