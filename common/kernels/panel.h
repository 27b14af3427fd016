/* SPDX-License-Identifier: Apache-2.0
 *
 * How weights and activations lie in memory for matrix products, and the law of those products.
 *
 * A weight matrix [n_rows][k] is stored as panels of 16 rows, the last one padded with zeros. A
 * panel is a run of panel blocks, each `step` elements of k of all 16 rows. Parts that recur:
 *   [g][r][j]  four bytes of row r side by side: element 4g + j of 32
 *   nib        uint8_t [4][16][4]: low nibble of [g][r][j] is element 4g + j of 32, high nibble
 *              element 16 + 4g + j                                                     256 bytes
 *   hi1        uint8_t [16][4]: bit i of [r][j] is one more bit of element 4i + j       64 bytes
 *   two        uint8_t [2][16][4]: bits 2t and 2t + 1 of [h][r][j] are of element
 *              16h + 4t + j                                                            128 bytes
 *   tri    uint8_t [3][16][4]: bits 0 to 2 of [p][r][j] are element 4p + j of 32, bits 3 to 5
 * element 16 + 4p + j. Elements 12 + j and 28 + j are in what is left: bits 0 and 1 of the first in
 * bits 6 and 7 of [0], of the second in those of [2], their bits 2 in bits 6 and 7 of [1] 192 bytes
 * Floats:
 *   f32 float [k][16]; f16, bf16 uint16_t [k][16]
 *   fp8    of 128: { float s[16]; uint8_t e4m3[128][16] }    s * e4m3; k may end inside a block
 * Of 32 elements:
 *   q8_0   { uint16_t d[16]; int8_t q[8][16][4] }            d * q
 *   q4_0   { uint16_t d[16]; nib }                           d * (code - 8)
 *   q4_1   { uint16_t d[16], m[16]; nib }                    d * code + m
 *   q5_0   { uint16_t d[16]; nib; hi1 = bit 4 }              d * (code - 16)
 *   q5_1   { uint16_t d[16], m[16]; nib; hi1 = bit 4 }       d * code + m
 *   iq4_nl { uint16_t d[16]; nib }                           d * shoal_iq4_nl[code]
 * Of a group of 32, 64 or 128 elements, G of them, in G / 32 runs of 32 (c2_64 is c2 with G = 64):
 *   c2     { uint16_t d[16]; G / 32 x two }                  d * (code - 2)
 *   c3     { uint16_t d[16]; G / 32 x tri }                  d * (code - 4)
 *   c4     { uint16_t d[16]; G / 32 x nib }                  d * (code - 8)
 *   s4     { uint16_t d[16]; G / 32 x tri }: of every four elements two are not 0. Value 2q + i of
 *              sixteen (i = 0, 1) belongs to elements 4q to 4q + 3. Its magnitude is element
 *              2q + i of tri; element 16 + 2q + i has its place in bits 0 and 1, and in bit 2
 *              whether it is negative                        d * value
 *   s8     { uint16_t d[16]; G / 32 x { int8_t q[4][16][4]; uint8_t at[16][4] } }: the same with
 *              values of 8 bits. Value 4t + j of row r is [t][r][j] of q, its place in four is bits
 *              2t and 2t + 1 of [r][j] of at                d * value
 *   b16    { uint16_t d[16]; G / 32 x { uint8_t bits[16][4]; uint8_t q[2][16][4] } }: bit i % 8 of
 *              bits[r][i / 8] says whether element i of 32 is there. What is, takes the sixteen
 *              values in order, from the first again when there are more. Value 8t + j is the low
 *              nibble of q[t][r][j], value 8t + 4 + j the high one    d * (value - 8), else 0
 *   b8     the same with q[1][16][4], eight values
 *   n3     { uint16_t d[16]; G / 32 x tri }                  d * level[code], of 8 levels
 *   n4     { uint16_t d[16]; G / 32 x nib }                  d * level[code], of 16 levels
 * Of 256 elements, eight sub-blocks of 32 each, halves of 16:
 *   q2_K   { uint16_t d[16], dmin[16]; 8 x { uint8_t sm[2][16]; two } }
 *              low nibble of sm[h][r] the half's scale, high nibble its min
 *   q3_K   { uint16_t d[16]; 8 x { int8_t sc[2][16]; two; hi1 = bit 2 } }     d * sc * (code - 4)
 *   q4_K   { uint16_t d[16], dmin[16]; 8 x { uint8_t sc[16], mn[16]; nib } }
 *   q5_K   { uint16_t d[16], dmin[16]; 8 x { uint8_t sc[16], mn[16]; nib; hi1 = bit 4 } }
 *   q6_K   { uint16_t d[16]; 8 x { int8_t sc[2][16]; nib; two = bits 4, 5 } } d * sc * (code - 32)
 *              q2_K, q4_K and q5_K: d * sc * code - dmin * mn
 *
 * The law. Every output accumulates alone from 0, along k, by fused multiply-adds:
 *   float      acc = fma(w, x, acc) for k ascending, w widened exactly
 *   fp8        per block of 128: t from 0, t = fma(e4m3, x, t) for k ascending, then
 *              acc = fma(s, t, acc)
 *   quantised  per block of 32 ascending, S the activations' scale:
 *              acc = fma(f32(d) * S, (float)I, acc), where I is the exact integer
 *                32-types: sum of code * x, offsets taken off (q4_1, q5_1: codes as they are)
 *                c2 to b8: the same, values of one place both counted
 *                n3, n4:   sum of level[code] * x, levels -127 to 127
 *                K-types:  sum over both halves h of sc_h * (sum of code * x of that half)
 *              then the mins:
 *                q4_1, q5_1: acc = fma(f32(m), sum, acc)
 *                q4_K, q5_K: acc = fma(-(f32(dmin) * (float)mn), sum, acc)
 *                q2_K:       acc = fma(-(f32(dmin) * (float)mn_0), sum_low, acc), then mn_1 with
 *                            sum_high
 * The largest |I| is 64 * 127 * 127 * 32 for damaged scales and far inside 32 bits.
 */
#ifndef SHOAL_KERNELS_PANEL_H
#define SHOAL_KERNELS_PANEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_PANEL_ROWS = 16,
    SHOAL_QBLOCK = 32,   /* elements that share one activation scale */
    SHOAL_QSUPER = 256,  /* elements of a K-type's panel block */
    SHOAL_FP8_TILE = 128 /* elements that share one fp8 scale */
};

typedef enum shoal_panel {
    SHOAL_PANEL_F32,
    SHOAL_PANEL_F16,
    SHOAL_PANEL_BF16,
    SHOAL_PANEL_FP8,
    SHOAL_PANEL_Q8_0,
    SHOAL_PANEL_Q4_0,
    SHOAL_PANEL_Q4_1,
    SHOAL_PANEL_Q5_0,
    SHOAL_PANEL_Q5_1,
    SHOAL_PANEL_IQ4_NL,
    SHOAL_PANEL_Q2_K,
    SHOAL_PANEL_Q3_K,
    SHOAL_PANEL_Q4_K,
    SHOAL_PANEL_Q5_K,
    SHOAL_PANEL_Q6_K,
    SHOAL_PANEL_C2_32,
    SHOAL_PANEL_C2_64,
    SHOAL_PANEL_C2_128,
    SHOAL_PANEL_C3_32,
    SHOAL_PANEL_C3_64,
    SHOAL_PANEL_C3_128,
    SHOAL_PANEL_C4_64,
    SHOAL_PANEL_C4_128,
    SHOAL_PANEL_S4_32,
    SHOAL_PANEL_S4_64,
    SHOAL_PANEL_S4_128,
    SHOAL_PANEL_N3_32,
    SHOAL_PANEL_N3_64,
    SHOAL_PANEL_N3_128,
    SHOAL_PANEL_N4_32,
    SHOAL_PANEL_N4_64,
    SHOAL_PANEL_N4_128,
    SHOAL_PANEL_S8_32,
    SHOAL_PANEL_S8_64,
    SHOAL_PANEL_S8_128,
    SHOAL_PANEL_B16_32,
    SHOAL_PANEL_B16_64,
    SHOAL_PANEL_B16_128,
    SHOAL_PANEL_B8_32,
    SHOAL_PANEL_B8_64,
    SHOAL_PANEL_B8_128,
    SHOAL_PANELS
} shoal_panel;

typedef struct shoal_panel_info {
    const char *name;   /* "q4_0" */
    size_t step;        /* elements of k in a panel block */
    size_t block_bytes; /* of one panel block: `step` elements of 16 rows */
    bool quantised;     /* reads xq and xb; otherwise x. k is a multiple of step, but for fp8 */
} shoal_panel_info;

/* panel is below SHOAL_PANELS. */
const shoal_panel_info *shoal_panel_find(shoal_panel panel);
/* Bytes of one panel of rows of length k. */
size_t shoal_panel_bytes(shoal_panel panel, size_t k);

/* The sixteen values of iq4_nl's codes. */
extern const int8_t shoal_iq4_nl[16];
/* The levels of n3 and n4 where a matrix has none of its own: a normal distribution's (NF4 of
 * QLoRA, 2305.14314, appendix E, times 127; of n3 the same construction for 3 bits, the last eight
 * unused). NULL for other kinds. */
const int8_t *shoal_panel_levels(shoal_panel panel);

/* What a product knows of 32 activations besides their codes. */
typedef struct shoal_act_block {
    float scale;
    float sum;      /* scale * (float)(sum of the codes): all 32, */
    float sum_low;  /* the first 16, */
    float sum_high; /* the last 16 */
    /* Sums of codes at places 0, 1 and 2, 3 of every four: all 32, first 16, last 16; then the sums
     * of the first and the last 16. At most 32 * 127. */
    int16_t pairs[8];
} shoal_act_block;

/* y[c * y_stride + row] for the rows of panels [p0, p1) and columns c in [0, n_cols). */
typedef struct shoal_gemm {
    const void *panels; /* 32-byte aligned */
    size_t n_rows;      /* true rows: outputs past it are not written */
    size_t k;           /* inner length, a multiple of the panel's step (fp8: any) */
    size_t n_cols;      /* batch width */
    const float *x;     /* [n_cols][x_stride] */
    size_t x_stride;
    const int8_t *xq;          /* [n_cols][k] codes in [-127, 127] */
    const shoal_act_block *xb; /* [n_cols][k / 32] */
    const int8_t *levels;      /* [16] of n3 and n4, -127 to 127; others do not look at it */
    float *y;                  /* [n_cols][y_stride] */
    size_t y_stride;           /* at least n_rows */
} shoal_gemm;

typedef void shoal_gemm_fn(const shoal_gemm *g, size_t p0, size_t p1);

#endif
