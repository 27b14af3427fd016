/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of the KV blocks and of attention over them, in plain C.
 */
#include "common/kernels/attend_share.h"
#include "common/kernels/kernels.h"

#include "common/kernels/math.h"
#include "common/kernels/tiers_internal.h"
#include "common/tensor/type.h"

#include <math.h>
#include <stdbool.h>

enum {
    N_LANES = 16,
    TOKENS = SHOAL_KV_BLOCK,
    F16_NAN = 0x7E00
};

/* --- storing --------------------------------------------------------------------------------- */

static void kv_store_f32(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock)
{
    float *keys = kblock;
    float *values = vblock;
    for (size_t d = 0; d < k_dim; d++) {
        keys[d * TOKENS + slot] = k[d];
    }
    for (size_t d = 0; d < v_dim; d++) {
        values[slot * v_dim + d] = v[d];
    }
}

static void kv_store_f16(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < k_dim; d++) {
        keys[d * TOKENS + slot] = shoal_f32_to_f16(k[d]);
    }
    for (size_t d = 0; d < v_dim; d++) {
        values[slot * v_dim + d] = shoal_f32_to_f16(v[d]);
    }
}

/* Adding and taking away 1.5 * 2^23 leaves the nearest integer, ties to even, for |t| < 2^22. */
static float nearest(float t)
{
    return (t + 0x1.8p+23F) - 0x1.8p+23F;
}

/* Codes of one vector, a stride apart, and its scale in front of the block. */
static void store_codes(size_t n, const float *x, size_t slot, void *block, size_t at,
                        size_t stride)
{
    uint16_t *scales = block;
    int8_t *codes = (int8_t *)block + SHOAL_KV_Q8_SCALES + at;
    float amax = 0;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        amax = a > amax ? a : amax;
    }
    uint16_t half = shoal_f32_to_f16(amax / 127.0F);
    float d = shoal_f16_to_f32(half);
    /* A scale of zero or NaN leaves codes of zero. */
    float inv = d > 0 && d < INFINITY ? 1.0F / d : 0;
    scales[slot] = d < INFINITY ? half : (uint16_t)F16_NAN;
    for (size_t i = 0; i < n; i++) {
        float t = x[i] * inv;
        t = t < 127.0F ? t : 127.0F;
        t = t > -127.0F ? t : -127.0F;
        codes[i * stride] = inv > 0 ? (int8_t)nearest(t) : 0;
    }
}

static void kv_store_q8(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                        void *kblock, void *vblock)
{
    store_codes(k_dim, k, slot, kblock, slot, TOKENS);
    store_codes(v_dim, v, slot, vblock, slot * v_dim, 1);
}

/* --- attention ------------------------------------------------------------------------------- */

/* One stored form: element i of a block, and the scale of token t's. */
typedef struct form {
    float (*element)(const void *block, size_t i);
    float (*scale)(const void *block, size_t t); /* NULL: none */
    bool sealed;                                 /* where the call says so */
} form;

static float element_f32(const void *block, size_t i)
{
    return ((const float *)block)[i];
}

static float element_f16(const void *block, size_t i)
{
    return shoal_f16_to_f32(((const uint16_t *)block)[i]);
}

static float element_q8(const void *block, size_t i)
{
    return (float)((const int8_t *)block)[SHOAL_KV_Q8_SCALES + i];
}

static float tree16(float lane[N_LANES])
{
    for (size_t half = N_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] = lane[j] + lane[j + half];
        }
    }
    return lane[0];
}

/* Element j and j + 16 to lane j, then the tree. */
static float sum32(const float p[TOKENS])
{
    float lane[N_LANES];
    for (size_t j = 0; j < N_LANES; j++) {
        lane[j] = p[j] + p[j + N_LANES];
    }
    return tree16(lane);
}

/* What a row's head carries from block to block. */
typedef struct head_state {
    const float *q;
    float *out;
    size_t head;
    float max;
    float sum;
} head_state;

static float score(const shoal_attend *a, const void *k, size_t t, const float *q, const form *f)
{
    float dot = 0;
    for (size_t d = 0; d < a->k_dim; d++) {
        dot = fmaf(q[d], f->element(k, d * TOKENS + t), dot);
    }
    float s = (f->scale ? f->scale(k, t) * dot : dot) * a->scale;
    return a->softcap == 0 ? s : a->softcap * shoal_tanhf(s / a->softcap);
}

/* --- sealed blocks ---------------------------------------------------------------------------- */

static bool is_sealed(const shoal_attend *a, size_t block, const form *f)
{
    return f->sealed && block >= a->sealed_from && block < a->sealed_to;
}

/* The minima's part of every token's dot. */
static float key_base(const shoal_attend *a, const void *k, const float *q)
{
    const uint16_t *min = (const uint16_t *)k + a->k_dim;
    float lane[N_LANES] = {0};
    for (size_t d = 0; d < a->k_dim; d++) {
        lane[d % N_LANES] = fmaf(q[d], shoal_f16_to_f32(min[d]), lane[d % N_LANES]);
    }
    return tree16(lane);
}

static float score_sealed(const shoal_attend *a, const void *k, size_t t, const float *q,
                          float base)
{
    const uint16_t *scale = k;
    const uint8_t *codes = (const uint8_t *)k + shoal_kv_head_bytes(a->k_dim);
    size_t row = shoal_kv_row_bytes(a->k_level, TOKENS);
    float dot = 0;
    for (size_t d = 0; d < a->k_dim; d++) {
        float code = (float)shoal_kv_code(a->k_level, codes + d * row, t);
        dot = fmaf(q[d] * shoal_f16_to_f32(scale[d]), code, dot);
    }
    float s = (dot + base) * a->scale;
    return a->softcap == 0 ? s : a->softcap * shoal_tanhf(s / a->softcap);
}

/* Tokens [t0, t1) of sealed values, by weights p. */
static void add_sealed(const shoal_attend *a, const void *v, size_t t0, size_t t1, float carry,
                       const float p[TOKENS], float *out)
{
    const uint16_t *scale = v;
    const uint8_t *codes = (const uint8_t *)v + shoal_kv_head_bytes(TOKENS);
    size_t row = shoal_kv_row_bytes(a->v_level, a->v_dim);
    float mins[TOKENS] = {0};
    for (size_t t = t0; t < t1; t++) {
        mins[t] = p[t] * shoal_f16_to_f32(scale[TOKENS + t]);
    }
    float base = sum32(mins);
    for (size_t d = 0; d < a->v_dim; d++) {
        size_t at = d / SHOAL_KV_GROUP * shoal_kv_group_bytes(a->v_level);
        float acc = fmaf(out[d], carry, base);
        for (size_t t = t0; t < t1; t++) {
            const uint8_t *group = codes + t * row + at;
            float code = (float)shoal_kv_code(a->v_level, group, d % SHOAL_KV_GROUP);
            acc = fmaf(p[t] * shoal_f16_to_f32(scale[t]), code, acc);
        }
        out[d] = acc;
    }
}

/* --- blocks ----------------------------------------------------------------------------------- */

/* Takes tokens [t0, t1) of one block into one head's state and output. */
static void attend_block(const shoal_attend *a, size_t block, size_t t0, size_t t1, bool first,
                         const form *f, head_state *state)
{
    const void *v = a->v_blocks[block];
    float scores[TOKENS];
    float max = state->max;
    bool sealed = is_sealed(a, block, f);
    float base = sealed ? key_base(a, a->k_blocks[block], state->q) : 0;
    for (size_t t = t0; t < t1; t++) {
        scores[t] = sealed ? score_sealed(a, a->k_blocks[block], t, state->q, base)
                           : score(a, a->k_blocks[block], t, state->q, f);
        max = scores[t] > max ? scores[t] : max;
    }
    float carry = first ? 0 : shoal_expf(state->max - max);
    float p[TOKENS] = {0};
    for (size_t t = t0; t < t1; t++) {
        p[t] = shoal_expf(scores[t] - max);
    }
    state->max = max;
    state->sum = fmaf(state->sum, carry, sum32(p));
    if (sealed) {
        add_sealed(a, v, t0, t1, carry, p, state->out);
        return;
    }
    if (a->shares) {
        shoal_attend_share(a, state->head, block * TOKENS, t1, carry, p);
    }
    for (size_t t = t0; f->scale && t < t1; t++) {
        p[t] = p[t] * f->scale(v, t);
    }
    for (size_t d = 0; d < a->v_dim; d++) {
        float acc = state->out[d] * carry;
        for (size_t t = t0; t < t1; t++) {
            acc = fmaf(p[t], f->element(v, t * a->v_dim + d), acc);
        }
        state->out[d] = acc;
    }
}

static void attend_head(const shoal_attend *a, size_t row, size_t head, const form *f)
{
    size_t end = a->n_tokens + row;
    size_t start = a->window > 0 && end > a->window ? end - a->window : 0;
    head_state state = {
        .q = a->q + row * a->q_stride + head * a->k_dim,
        .out = a->out + row * a->out_stride + head * a->v_dim,
        .head = head,
        .max = -INFINITY,
    };
    for (size_t d = 0; d < a->v_dim; d++) {
        state.out[d] = 0;
    }
    for (size_t b = start / TOKENS; b * TOKENS < end; b++) {
        size_t at = b * TOKENS;
        size_t t0 = start > at ? start - at : 0;
        size_t t1 = end - at < TOKENS ? end - at : TOKENS;
        attend_block(a, b, t0, t1, b == start / TOKENS, f, &state);
    }
    for (size_t d = 0; d < a->v_dim; d++) {
        state.out[d] = state.out[d] / state.sum;
    }
    if (a->shares) {
        shoal_attend_share_end(a, head, state.sum);
    }
}

static void attend(const shoal_attend *a, form f)
{
    for (size_t row = 0; row < a->n_rows; row++) {
        for (size_t head = 0; head < a->n_heads; head++) {
            attend_head(a, row, head, &f);
        }
    }
}

static void attend_f32(const shoal_attend *a)
{
    attend(a, (form){.element = element_f32});
}

static void attend_f16(const shoal_attend *a)
{
    attend(a, (form){.element = element_f16});
}

static void attend_q8(const shoal_attend *a)
{
    /* The scales are f16 in front of the codes: element t of the block read as f16. */
    attend(a, (form){.element = element_q8, .scale = element_f16});
}

static void attend_sealed(const shoal_attend *a)
{
    attend(a, (form){.element = element_f16, .sealed = true});
}

void shoal_kernels_scalar_attend(shoal_kernels *kernels)
{
    kernels->kv_store_f32 = kv_store_f32;
    kernels->kv_store_f16 = kv_store_f16;
    kernels->kv_store_q8 = kv_store_q8;
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
    kernels->attend_q8 = attend_q8;
    kernels->attend_sealed = attend_sealed;
}
