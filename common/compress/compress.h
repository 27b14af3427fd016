/* SPDX-License-Identifier: Apache-2.0
 *
 * One linear layer in less bytes: passes behind one interface. A pass sees the weight W
 * [n_rows][n_cols] and the second moments H of its input (moments.h), and gives W' = Q diag(1/s) +
 * X + L R, any part optional, in the parts a runtime reads: codes with scales by groups, a bitmap
 * or 2:4 positions, column scales, single elements, factors in blocks of 32. Every byte of them
 * counts.
 *
 * The error of W' is that of the layer's output along the calibration text: tr((W - W') H (W -
 * W')^T) / tr(W H W^T). It is what passes lower and what is told; what rounding the input to 8 bits
 * adds is not in it.
 *
 * Products go to OpenBLAS on the calling thread. A problem is immutable after new: any thread may
 * run passes on it. Results do not depend on the number of threads.
 */
#ifndef SHOAL_COMPRESS_COMPRESS_H
#define SHOAL_COMPRESS_COMPRESS_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_COMPRESS_SIDE_MAX = 32768, /* rows and columns of a layer */
    SHOAL_COMPRESS_BITS_F16 = 16,    /* values that are not quantised */
    SHOAL_COMPRESS_GROUP_MAX = 128,
    SHOAL_COMPRESS_FACTOR_BLOCK = 32
};

/* --- a layer --------------------------------------------------------------------------------- */

typedef struct shoal_problem shoal_problem;

/* w [n_rows][n_cols], h [n_cols][n_cols] symmetric; both are copied. h NULL: the identity, so that
 * the error is that of the weights. A singular h is damped: what walks along its inverse adds one
 * per cent of the mean of its diagonal (GPTQ, 2210.17323), more where that is not enough.
 * SHOAL_E_INVALID for what is not finite or a weight that no f16 can hold, SHOAL_E_LIMIT for the
 * shape. */
shoal_status shoal_problem_new(size_t n_rows, size_t n_cols, const float *w, const float *h,
                               shoal_problem **ret_problem, shoal_err *err) SHOAL_MUST_CHECK;
/* Largest magnitudes of the input's elements, [n_cols], which SMOOTH looks at; copied, before any
 * pass runs. Without them they are the roots of h's diagonal. SHOAL_E_INVALID where one is not
 * finite or below 0. */
shoal_status shoal_problem_set_largest(shoal_problem *problem, const float *largest,
                                       shoal_err *err) SHOAL_MUST_CHECK;
void shoal_problem_free(shoal_problem *problem);
SHOAL_DEFINE_CLEANUP(shoal_problem, shoal_problem_free)

/* tr(W H W^T): what the layer puts out along the text. */
double shoal_problem_energy(const shoal_problem *problem);
/* The error, as at the top, of any other weights [n_rows][n_cols]. SHOAL_E_NOMEM. */
shoal_status shoal_problem_error(const shoal_problem *problem, const float *w,
                                 double *ret_error) SHOAL_MUST_CHECK;

/* --- what is made of it ---------------------------------------------------------------------- */

typedef enum shoal_mask {
    SHOAL_MASK_ALL,      /* every element is kept */
    SHOAL_MASK_BITMAP,   /* a bit for each element says whether it is */
    SHOAL_MASK_TWO_FOUR, /* two of every four columns, with four bits for their places */
    SHOAL_MASK_HALF,     /* 16 of every 32 columns, wherever they are, with a bit for each */
    SHOAL_MASK_QUARTER   /* 8 of every 32 */
} shoal_mask;

/* Among which elements a bitmap keeps the greatest. */
typedef enum shoal_rivals {
    SHOAL_RIVALS_USUAL, /* as the pass's paper has it */
    SHOAL_RIVALS_ROW,
    SHOAL_RIVALS_LAYER
} shoal_rivals;

/* How W' is stored. */
typedef struct shoal_form {
    /* Of a value: 2 to 8, SHOAL_COMPRESS_BITS_F16, 0: there are no values. Codes are two's
     * complement, but 2:4 of 4 bits: -7 to 7, as the base format S4 holds (codes.h). */
    size_t bits;
    size_t group; /* columns that share a scale: 16, 32, 64 or 128; not looked at with f16 */
    shoal_mask mask;
    double density;      /* share that a bitmap keeps, in [0, 1] */
    size_t rank;         /* of L R; 0: none */
    double recover;      /* share of the elements that come back past a 2:4 mask, in [0, 0.5] */
    shoal_rivals rivals; /* MAGNITUDE and WANDA; others do not look at it */
} shoal_form;

/* A factor as rank rows of n, blocks of 32 along them: value = scale * code. */
typedef struct shoal_factor {
    size_t n;
    int8_t *codes;    /* (rank, n rounded up to 32) */
    uint16_t *scales; /* (rank, blocks) f16 */
} shoal_factor;

typedef struct shoal_compressed {
    size_t n_rows;
    size_t n_cols;
    shoal_form form;
    size_t n_groups;  /* of a row */
    int8_t *codes;    /* (n_rows, n_cols), 0 where nothing is kept; NULL with f16 or none */
    int8_t *levels;   /* [16] what codes stand for, the least code's first, ascending, -127 to
                       * 127; NULL: for themselves */
    uint16_t *scales; /* (n_rows, n_groups) f16 */
    uint16_t *halves; /* (n_rows, n_cols) f16 values; NULL when quantised */
    uint8_t *kept;    /* (n_rows, ceil(n_cols / 8)) bit j % 8 of byte j / 8; NULL: all */
    uint16_t *column_scales; /* (n_cols) f16, s; NULL: ones */
    shoal_factor left;       /* of n_rows: column r of L is row r here */
    shoal_factor right;      /* of n_cols */
    uint32_t *single_begin;  /* (n_rows + 1) where a row's single elements begin; NULL: none */
    uint32_t *single_cols;   /* ascending in a row */
    uint16_t *single_values; /* f16 */
} shoal_compressed;

void shoal_compressed_free(shoal_compressed *compressed);
SHOAL_DEFINE_CLEANUP(shoal_compressed, shoal_compressed_free)

/* Bytes of all parts as a file packs them: values of kept elements alone, bitmap or places, scales,
 * factors, single elements with their columns. */
uint64_t shoal_compressed_bytes(const shoal_compressed *compressed);
/* W' in full, [n_rows][n_cols]. */
void shoal_compressed_expand(const shoal_compressed *compressed, double *ret_w);
/* As at the top; 0 where W H W^T is. SHOAL_E_NOMEM. */
shoal_status shoal_compressed_error(const shoal_problem *problem,
                                    const shoal_compressed *compressed,
                                    double *ret_error) SHOAL_MUST_CHECK;

/* --- passes ---------------------------------------------------------------------------------- */

typedef enum shoal_pass {
    SHOAL_PASS_RTN,          /* rounding to nearest, scales by least squares */
    SHOAL_PASS_AWQ,          /* columns scaled by their input's size first (2306.00978) */
    SHOAL_PASS_SMOOTH,       /* columns scaled so that 8 bits do for the input (2211.10438) */
    SHOAL_PASS_CLIP,         /* ranges of groups searched in the output's norm (2308.13137) */
    SHOAL_PASS_CODEBOOK,     /* levels of the layer's own by weighted k-means (2306.07629), then
                              * GPTQ's walk over them */
    SHOAL_PASS_GPTQ,         /* errors handed on to the columns behind (2210.17323) */
    SHOAL_PASS_REFINED,      /* that, then coordinate descent over codes and scales (2309.01885) */
    SHOAL_PASS_MAGNITUDE,    /* the largest weights stay, of the layer if the form does not say */
    SHOAL_PASS_WANDA,        /* the largest |w| ||x|| stay, of each row else (2306.11695) */
    SHOAL_PASS_SPARSEGPT,    /* w^2 / [H^-1]_jj^2, errors handed on (2301.00774) */
    SHOAL_PASS_SVD,          /* L R alone, closest to W */
    SHOAL_PASS_WHITENED_SVD, /* L R alone, closest in the output (2403.07378) */
    SHOAL_PASS_TWO_FOUR,     /* Wanda's score in every four */
    SHOAL_PASS_WRP,          /* 2:4 of SPARSEGPT, some of what it drops comes back where it helps
                              * most (2024.acl-long.347), and all values are refitted */
    SHOAL_PASS_JOINT,        /* Q(S) + L R, each fitted to what the other leaves, in the output's
                              * norm (OATS 2409.13652, SLiM 2410.09615, 3BASiL 2603.01376) */
    SHOAL_PASSES
} shoal_pass;

const char *shoal_pass_name(shoal_pass pass);

/* What a form must be for a pass is told in its error, SHOAL_E_INVALID: RTN, AWQ, SMOOTH, CLIP,
 * GPTQ and REFINED keep all, CODEBOOK too, in 3 or 4 bits; MAGNITUDE, WANDA and SPARSEGPT have any
 * mask but ALL; both SVDs have rank and no values; TWO_FOUR and WRP are 2:4. JOINT takes any
 * values with any rank, and without one is refined the same. */
shoal_status shoal_compress(const shoal_problem *problem, shoal_pass pass, const shoal_form *form,
                            shoal_compressed **ret_compressed, shoal_err *err) SHOAL_MUST_CHECK;
/* The best that GPTQ, REFINED, SPARSEGPT (f16 values), either SVD or JOINT makes of at most so many
 * bytes, over the bits, masks, ranks (0 too) that fit and groups of 32, 64 or 128 that divide a
 * row, if any does; SHOAL_E_LIMIT when nothing fits. Of layers of more than 2^21 elements JOINT
 * tries dense forms alone, each with less effort. */
shoal_status shoal_compress_within(const shoal_problem *problem, shoal_pass pass, uint64_t bytes,
                                   shoal_compressed **ret_compressed,
                                   shoal_err *err) SHOAL_MUST_CHECK;

#endif
