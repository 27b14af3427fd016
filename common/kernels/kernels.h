/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel family. The law (R2): a lane is an output, never a piece of a sum. Every output
 * accumulates alone, in one order, by fused multiply-adds, so each tier gives the scalar code's
 * bits (memcmp) at any vector width, batch width and thread count. The scalar tier is the
 * specification; SIMD tiers override slots. Kernels are pure, allocate nothing, take any ragged
 * size, never write past their outputs, and may run on any compute thread.
 *
 * The few true reductions (sum of squares, sum of exponentials, a dot for a norm) use one shape:
 * sixteen virtual lanes, lane j takes elements j, j+16, j+32, ... in order by fma or add, then the
 * tree 16 -> 8 -> 4 -> 2 -> 1 adding lane j and lane j + half.
 *
 * The one freedom: where a result is NaN, it is NaN in every tier, but sign and payload may differ
 * (processors pick them from either operand, compilers swap operands).
 *
 * Panels, activations and the law of products: panel.h.
 */
#ifndef SHOAL_KERNELS_KERNELS_H
#define SHOAL_KERNELS_KERNELS_H

#include "common/kernels/panel.h"

enum {
    SHOAL_KV_BLOCK = 32, /* tokens per KV block */
    SHOAL_HEAD_DIM_MAX = 512
};

/* Attention of one token's group of query heads that share one KV head, over positions
 * [0, n_tokens): online softmax over blocks of 32 tokens by absolute position.
 *   K block: [head_dim][32] (lanes are tokens), V block: [32][head_dim] (lanes are channels),
 *   elements f32 or f16 by slot.
 * Per head: s_t = scale * (fma over d ascending of q[d] * K[d][t]); per block: m' = max(m, max s),
 * c = exp(m - m') (0 for the first block), p_t = exp(s_t - m') for valid t and 0 past n_tokens,
 * l = fma(l, c, sum32(p)) where sum32 is the 16-lane reduction over the 32 entries,
 * out[d] = out[d] * c, then out[d] = fma(p_t, V[t][d], out[d]) for valid t ascending.
 * At the end out[d] = out[d] / l (division). */
typedef struct shoal_attend {
    size_t n_heads;  /* query heads of the group */
    size_t head_dim; /* at most SHOAL_HEAD_DIM_MAX */
    size_t n_tokens; /* at least 1 */
    float scale;
    const float *q;              /* [n_heads][head_dim] */
    const void *const *k_blocks; /* ceil(n_tokens / 32) blocks, 64-byte aligned */
    const void *const *v_blocks;
    float *out; /* [n_heads][head_dim] */
} shoal_attend;

typedef struct shoal_kernels {
    const char *tier; /* "scalar", "avx2", "avx512" */

    /* Codes and scale per block of 32: amax = max |x|; scale = amax / 127; inv = 127 / amax (0 when
     * amax is 0); q = round to nearest even of x * inv, clamped by t < 127 ? t : 127 and
     * t > -127 ? t : -127 (so NaN becomes 127). k is a multiple of 32. A non-finite amax (ignoring
     * NaN) makes scale NaN and codes 0. */
    void (*quantize_q8)(size_t k, const float *x, int8_t *q, shoal_act_block *blocks);

    shoal_gemm_fn *gemm[SHOAL_PANELS]; /* panel.h */

    /* y = x * w / sqrt(mean(x^2) + eps): ss by the 16-lane fma reduction; r = 1 / sqrtf(ss / n +
     * eps) (IEEE division and root); y[i] = (x[i] * r) * w[i]. y may be x. */
    void (*rmsnorm)(size_t n, const float *x, const float *w, float eps, float *y);
    /* Rotates the first n_rot channels of each head (head h starts at x + h * stride) by cos[i],
     * sin[i], i < n_rot / 2: y0 = fma(x0, c, -(x1 * s)); y1 = fma(x0, s, x1 * c), in place. A pair
     * is channels (2i, 2i + 1) in rope, (i, i + n_rot / 2) in rope_halves. */
    void (*rope)(size_t n_heads, size_t stride, size_t n_rot, const float *cos, const float *sin,
                 float *x);
    void (*rope_halves)(size_t n_heads, size_t stride, size_t n_rot, const float *cos,
                        const float *sin, float *x);
    /* y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). y may be gate or up. */
    void (*swiglu)(size_t n, const float *gate, const float *up, float *y);
    /* y = gelu(gate) * up in the tanh form, gelu(g) = g / (1 + exp(-2u)) with
     * u = g * fma(g * g, 0.044715 * sqrt(2 / pi), sqrt(2 / pi)): the same function as
     * g / 2 * (1 + tanh(u)), without its cancellation. y may be gate or up. */
    void (*geglu)(size_t n, const float *gate, const float *up, float *y);
    void (*add)(size_t n, const float *x, float *y);                 /* y += x */
    void (*add_scaled)(size_t n, float s, const float *x, float *y); /* y = fma(s, x, y) */
    void (*softcap)(size_t n, float cap, float *x); /* x = cap * tanh(x / cap), in place */

    /* One token's K and V of one KV head into slot (0..31) of its blocks; f16 rounds to nearest
     * even. */
    void (*kv_store_f32)(size_t head_dim, const float *k, const float *v, size_t slot, void *kblock,
                         void *vblock);
    void (*kv_store_f16)(size_t head_dim, const float *k, const float *v, size_t slot, void *kblock,
                         void *vblock);
    void (*attend_f32)(const shoal_attend *a);
    void (*attend_f16)(const shoal_attend *a);

    /* Largest value and its lowest index; NaN never wins (all NaN: index 0). n at least 1. */
    size_t (*argmax)(size_t n, const float *x, float *ret_max);
    /* Sum of exp((x - max) * inv_t) by the 16-lane reduction. */
    float (*sum_exp)(size_t n, const float *x, float max, float inv_t);
} shoal_kernels;

/* CPU tiers, as bits. */
typedef enum shoal_cpu_tier {
    SHOAL_CPU_AVX2 = 1,  /* AVX2, FMA, F16C */
    SHOAL_CPU_AVX512 = 2 /* AVX-512 F, BW, DQ, VL and VNNI */
} shoal_cpu_tier;

/* What this machine can run. */
uint32_t shoal_cpu_detect(void);
/* "scalar", "avx2", "avx512", "native" (all detected), or a comma list: the mask of --cpu-mask.
 * Negative for an unknown name. */
int shoal_cpu_mask_parse(const char *text, uint32_t *ret_mask);

/* Fills every slot with scalar, then overrides tier by tier where detected AND allowed. */
void shoal_kernels_init(shoal_kernels *kernels, uint32_t mask);

#endif
