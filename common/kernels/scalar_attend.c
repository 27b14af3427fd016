/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of the KV blocks and of attention over them, in plain C.
 */
#include "common/kernels/kernels.h"

#include "common/kernels/math.h"
#include "common/kernels/tiers_internal.h"
#include "common/tensor/type.h"

#include <math.h>

enum {
    N_LANES = 16
};

/* --- storing --------------------------------------------------------------------------------- */

static void kv_store_f32(size_t head_dim, const float *k, const float *v, size_t slot, void *kblock,
                         void *vblock)
{
    float *keys = kblock;
    float *values = vblock;
    for (size_t d = 0; d < head_dim; d++) {
        keys[d * SHOAL_KV_BLOCK + slot] = k[d];
        values[slot * head_dim + d] = v[d];
    }
}

static void kv_store_f16(size_t head_dim, const float *k, const float *v, size_t slot, void *kblock,
                         void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < head_dim; d++) {
        keys[d * SHOAL_KV_BLOCK + slot] = shoal_f32_to_f16(k[d]);
        values[slot * head_dim + d] = shoal_f32_to_f16(v[d]);
    }
}

/* --- attention ------------------------------------------------------------------------------- */

typedef float element_fn(const void *block, size_t i);

static float element_f32(const void *block, size_t i)
{
    return ((const float *)block)[i];
}

static float element_f16(const void *block, size_t i)
{
    return shoal_f16_to_f32(((const uint16_t *)block)[i]);
}

/* Element j and j + 16 to lane j, then the tree. */
static float sum32(const float p[SHOAL_KV_BLOCK])
{
    float lane[N_LANES];
    for (size_t j = 0; j < N_LANES; j++) {
        lane[j] = p[j] + p[j + N_LANES];
    }
    for (size_t half = N_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] = lane[j] + lane[j + half];
        }
    }
    return lane[0];
}

/* What a head carries from block to block. */
typedef struct head_state {
    float max;
    float sum;
} head_state;

/* Takes n tokens of one block into one head's state and output. */
static void attend_block(const shoal_attend *a, size_t block, size_t n, size_t head,
                         element_fn *element, head_state *state)
{
    const float *q = a->q + head * a->head_dim;
    float *out = a->out + head * a->head_dim;
    float scores[SHOAL_KV_BLOCK];
    float max = state->max;
    for (size_t t = 0; t < n; t++) {
        float dot = 0;
        for (size_t d = 0; d < a->head_dim; d++) {
            dot = fmaf(q[d], element(a->k_blocks[block], d * SHOAL_KV_BLOCK + t), dot);
        }
        scores[t] = a->scale * dot;
        max = scores[t] > max ? scores[t] : max;
    }
    float carry = block == 0 ? 0 : shoal_expf(state->max - max);
    float p[SHOAL_KV_BLOCK] = {0};
    for (size_t t = 0; t < n; t++) {
        p[t] = shoal_expf(scores[t] - max);
    }
    state->max = max;
    state->sum = fmaf(state->sum, carry, sum32(p));
    for (size_t d = 0; d < a->head_dim; d++) {
        float acc = out[d] * carry;
        for (size_t t = 0; t < n; t++) {
            acc = fmaf(p[t], element(a->v_blocks[block], t * a->head_dim + d), acc);
        }
        out[d] = acc;
    }
}

static void attend(const shoal_attend *a, element_fn *element)
{
    for (size_t head = 0; head < a->n_heads; head++) {
        float *out = a->out + head * a->head_dim;
        head_state state = {.max = -INFINITY, .sum = 0};
        for (size_t d = 0; d < a->head_dim; d++) {
            out[d] = 0;
        }
        for (size_t at = 0; at < a->n_tokens; at += SHOAL_KV_BLOCK) {
            size_t left = a->n_tokens - at;
            size_t n = left < SHOAL_KV_BLOCK ? left : SHOAL_KV_BLOCK;
            attend_block(a, at / SHOAL_KV_BLOCK, n, head, element, &state);
        }
        for (size_t d = 0; d < a->head_dim; d++) {
            out[d] = out[d] / state.sum;
        }
    }
}

static void attend_f32(const shoal_attend *a)
{
    attend(a, element_f32);
}

static void attend_f16(const shoal_attend *a)
{
    attend(a, element_f16);
}

void shoal_kernels_scalar_attend(shoal_kernels *kernels)
{
    kernels->kv_store_f32 = kv_store_f32;
    kernels->kv_store_f16 = kv_store_f16;
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
}
