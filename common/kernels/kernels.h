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
 * Panels, activations and the law of products: panel.h. Products that read a part of a matrix:
 * firing.h. What is added to products: sides.h.
 */
#ifndef SHOAL_KERNELS_KERNELS_H
#define SHOAL_KERNELS_KERNELS_H

#include "common/kernels/firing.h"
#include "common/kernels/kv_block.h"
#include "common/kernels/panel.h"
#include "common/kernels/sides.h"

enum {
    SHOAL_KV_BLOCK = 32,     /* tokens per KV block */
    SHOAL_KV_Q8_SCALES = 64, /* bytes of the scales in front of a q8 KV block */
    SHOAL_HEAD_DIM_MAX = 576
};

/* Attention of consecutive positions of one sequence, each with the group of query heads that
 * share one KV head: online softmax over blocks of 32 tokens by absolute position.
 *
 * Positions are counted from the first token of the first block given. Row r sees positions
 * [first, end) with end = n_tokens + r, and first = end - window where there is a window shorter
 * than that, else 0. A block without a position of [first, end) is not read for that row. What is
 * written of a block is what was stored; the rest may be anything.
 *
 *   f32, f16: K block [k_dim][32] (lanes are tokens), V block [32][v_dim] (lanes are channels)
 *   q8:       K block { uint16_t d[32]; int8_t q[k_dim][32]; },
 *             V block { uint16_t d[32]; int8_t q[32][v_dim]; }: one f16 scale for each token
 *
 * Per row and head, over its blocks ascending, t over the block's tokens in [first, end):
 *   dot_t = fma over d ascending of q[d] * K[d][t] (q8: the code as a float)
 *   s_t = dot_t * scale (q8: (f32(dk_t) * dot_t) * scale)
 *   s_t = softcap * tanh(s_t / softcap), tanh by shoal_tanhf, where softcap is not 0
 *   m' = max(m, max s); c = exp(m - m') (0 for the row's first block); p_t = exp(s_t - m'), and 0
 *   for every other t of the block
 *   l = fma(l, c, sum32(p)) where sum32 is the 16-lane reduction over the 32 entries
 *   out[d] = out[d] * c, then out[d] = fma(p_t, V[t][d], out[d]) for t ascending
 *   (q8: fma(p_t * f32(dv_t), the code as a float, out[d]))
 * At the end out[d] = out[d] / l (division). Where shares are wanted, share[t] is what out[d] would
 * be if V[t][d] were 1 and all other values 0: p_t, times the c of every later block whose c is not
 * 1, then / l.
 *
 * attend_sealed reads f16 blocks but for blocks sealed_from to sealed_to - 1, which are sealed
 * (kv_block.h), K at k_level and V at v_level. Those differ from the above in
 *   dot_t = (fma over d ascending of (q[d] * f32(scale_d)) * code[d][t]) + the 16-lane reduction by
 *   fma of q[d] * f32(min_d)
 *   out[d] = fma(out[d], c, sum32(p_t * f32(min_t))), then out[d] = fma(p_t * f32(scale_t),
 *   code[t][d], out[d]) for t ascending; the summands of tokens that are not seen are 0 */
typedef struct shoal_attend {
    size_t n_rows;   /* at least 1 */
    size_t n_heads;  /* query heads of the group */
    size_t k_dim;    /* at most SHOAL_HEAD_DIM_MAX */
    size_t v_dim;    /* at most SHOAL_HEAD_DIM_MAX */
    size_t n_tokens; /* end of the first row, at least 1 */
    size_t window;   /* positions a row sees, its own included; 0: all */
    float scale;
    float softcap;               /* 0: none */
    const float *q;              /* [n_rows][q_stride], of which [n_heads][k_dim] are used */
    size_t q_stride;             /* at least n_heads * k_dim */
    const void *const *k_blocks; /* ceil((n_tokens + n_rows - 1) / 32) blocks, 64-byte aligned */
    const void *const *v_blocks;
    float *out;        /* [n_rows][out_stride], of which [n_heads][v_dim] are written */
    size_t out_stride; /* at least n_heads * v_dim */
    /* NULL, or what part of a head's attention each token has, [n_heads][shares_stride], of which
     * n_tokens are written: from attend_f32 and attend_f16 with one row and no window. */
    float *shares;
    size_t shares_stride; /* at least n_tokens */
    /* For attend_sealed; other slots do not read them. */
    size_t sealed_from, sealed_to;
    shoal_kv_level k_level, v_level;
    /* A hint: what the caller will read next, fetched between blocks, SHOAL_ATTEND_AHEAD at most
     * for each. It is not read, and may be gone. 0 bytes: nothing. */
    const void *ahead;
    size_t ahead_bytes;
} shoal_attend;

enum {
    SHOAL_ATTEND_AHEAD = 1 << 10
};

typedef struct shoal_kernels {
    const char *tier; /* "scalar", "avx2", "avx512", "neon", "neon-dotprod", "neon-i8mm" */

    /* Codes and scale per block of 32: amax = max |x|; scale = amax / 127; inv = 127 / amax (0 when
     * amax is 0); q = round to nearest even of x * inv, clamped by t < 127 ? t : 127 and
     * t > -127 ? t : -127 (so NaN becomes 127). k is a multiple of 32. A non-finite amax (ignoring
     * NaN) makes scale NaN and codes 0. */
    void (*quantize_q8)(size_t k, const float *x, int8_t *q, shoal_act_block *blocks);

    shoal_gemm_fn *gemm[SHOAL_PANELS]; /* panel.h */
    shoal_firing_fn *gemm_firing;      /* firing.h */
    shoal_low_fn *add_low;             /* sides.h */
    shoal_singles_fn *add_singles;

    /* Whole numbers for 32 tokens: y[r][t] = sum over k < 2 * n_pairs of w[r * stride + k] *
     * x[k / 2][t][k % 2], modulo 2^32, so exact in any order. w is (n_rows, stride), stride at
     * least 2 * n_pairs; x is (n_pairs, 32, 2), 64-byte aligned; y (n_rows, 32) is written whole.
     */
    void (*mul_whole)(size_t n_rows, size_t n_pairs, const int16_t *w, size_t stride,
                      const int16_t *x, int32_t *y);

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
    /* Multiplies each of n_heads vectors of n channels, one behind the other, by the orthonormal
     * Walsh-Hadamard matrix H_n, n a power of two from 1 to 512: H_1 = 1, H_2n = the Kronecker
     * product of [1 1; 1 -1] / sqrt(2) and H_n (QuaRot, 2404.00456, section 3), so entry (i, j) is
     * (-1) to the number of bits that i and j share, over sqrt(n). It is its own inverse. With span
     * 1, 2, 4 to n / 2, pairs (a, b) = (x[i], x[i + span]), i without the bit of span, become (a +
     * b, a - b); then x[i] = x[i] * (1 / sqrtf(n)), IEEE root and division. In place. */
    void (*hadamard)(size_t n_heads, size_t n, float *x);
    /* y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). y may be gate or up. */
    void (*swiglu)(size_t n, const float *gate, const float *up, float *y);
    /* y = gelu(gate) * up in the tanh form, gelu(g) = g / (1 + exp(-2u)) with
     * u = g * fma(g * g, 0.044715 * sqrt(2 / pi), sqrt(2 / pi)): the same function as
     * g / 2 * (1 + tanh(u)), without its cancellation. y may be gate or up. */
    void (*geglu)(size_t n, const float *gate, const float *up, float *y);
    void (*add)(size_t n, const float *x, float *y);                 /* y += x */
    void (*add_scaled)(size_t n, float s, const float *x, float *y); /* y = fma(s, x, y) */
    void (*softcap)(size_t n, float cap, float *x); /* x = cap * tanh(x / cap), in place */

    /* One token's K (k_dim) and V (v_dim) of one KV head into slot (0..31) of its blocks; f16
     * rounds to nearest even. q8, for K and for V alone: amax = max |x| (NaN ignored); d = amax /
     * 127 rounded to f16; with inv = 1 / f32(d), 0 where d is 0, the code is x * inv as in
     * quantize_q8. An amax / 127 that f16 does not hold makes d NaN (0x7E00) and the codes 0. */
    void (*kv_store_f32)(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock);
    void (*kv_store_f16)(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock);
    void (*kv_store_q8)(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                        void *kblock, void *vblock);
    void (*attend_f32)(const shoal_attend *a);
    void (*attend_f16)(const shoal_attend *a);
    void (*attend_q8)(const shoal_attend *a);
    void (*attend_sealed)(const shoal_attend *a);
    /* Seals n_rows rows of n elements from x, f16 [n_rows][n], into shoal_kv_sealed_bytes bytes of
     * block, all of which are written, or opens them again (kv_block.h). n_rows and n are at least
     * 1, n_rows at most SHOAL_HEAD_DIM_MAX. */
    void (*kv_seal)(shoal_kv_level level, size_t n_rows, size_t n, const uint16_t *x, void *block);
    void (*kv_unseal)(shoal_kv_level level, size_t n_rows, size_t n, const void *block,
                      uint16_t *x);

    /* Largest value and its lowest index; NaN never wins (all NaN: index 0). n at least 1. */
    size_t (*argmax)(size_t n, const float *x, float *ret_max);
    /* Sum of exp((x - max) * inv_t) by the 16-lane reduction. */
    float (*sum_exp)(size_t n, const float *x, float max, float inv_t);
} shoal_kernels;

/* CPU tiers, as bits. */
typedef enum shoal_cpu_tier {
    SHOAL_CPU_AVX2 = 1,    /* AVX2, FMA, F16C */
    SHOAL_CPU_AVX512 = 2,  /* AVX-512 F, BW, DQ, VL and VNNI */
    SHOAL_CPU_NEON = 4,    /* every 64-bit ARM processor */
    SHOAL_CPU_DOTPROD = 8, /* its sdot, in products of quantised weights */
    SHOAL_CPU_I8MM = 16    /* its smmla with sdot, in the same */
} shoal_cpu_tier;

/* What this machine can run. */
uint32_t shoal_cpu_detect(void);
/* "scalar", "avx2", "avx512", "neon", "dotprod", "i8mm", "native" (all detected), or a comma list:
 * the mask of --cpu-mask. Names of another architecture's tiers are known and select nothing.
 * Negative for an unknown name. */
int shoal_cpu_mask_parse(const char *text, uint32_t *ret_mask);

/* Fills every slot with scalar, then overrides tier by tier where detected AND allowed. */
void shoal_kernels_init(shoal_kernels *kernels, uint32_t mask);

#endif
