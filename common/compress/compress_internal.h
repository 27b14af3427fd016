/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/compress: a problem in doubles, and what passes share. A pass is one file that
 * ends in a function of shoal_pass_fn; pass.c lists them.
 */
#ifndef SHOAL_COMPRESS_COMPRESS_INTERNAL_H
#define SHOAL_COMPRESS_COMPRESS_INTERNAL_H

#include "common/compress/compress.h"

#include "common/kernels/panel.h"

struct shoal_problem {
    size_t n_rows;
    size_t n_cols;
    double *w;     /* (n_rows, n_cols) */
    double *h;     /* (n_cols, n_cols) */
    double *u;     /* (n_cols, n_cols) upper triangle, U^T U is the inverse of the damped h */
    double *most;  /* (n_cols) largest magnitudes of the input */
    double energy; /* tr(W H W^T) */
};

/* A layer of which a try takes minutes: passes that try again and again do so less often. */
static inline bool shoal_problem_is_large(const shoal_problem *p)
{
    return (uint64_t)p->n_rows * p->n_cols > 1 << 21;
}

/* out has the parts that its form asks for, all zero; a mask that is not ALL keeps nothing yet. */
typedef shoal_status shoal_pass_fn(const shoal_problem *p, shoal_compressed *out);
shoal_status shoal_pass_rtn(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_awq(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_smooth(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_clip(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_codebook(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_gptq(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_refined(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_magnitude(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_wanda(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_sparsegpt(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_svd(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_whitened_svd(const shoal_problem *p,
                                     shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_two_four(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_wrp(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;
shoal_status shoal_pass_joint(const shoal_problem *p, shoal_compressed *out) SHOAL_MUST_CHECK;

/* --- parts (parts.c) ------------------------------------------------------------------------- */

shoal_status shoal_compressed_new(size_t n_rows, size_t n_cols, const shoal_form *form,
                                  shoal_compressed **ret_compressed) SHOAL_MUST_CHECK;
/* Bytes of parts of this form, single elements and column scales not counted. */
uint64_t shoal_form_bytes(size_t n_rows, size_t n_cols, const shoal_form *form);
/* Contents of one into another of the same form; nothing is allocated. */
void shoal_compressed_copy(const shoal_compressed *from, shoal_compressed *to);
/* d = W - W', g = d H, both [n_rows][n_cols]; their product, tr(d H d^T). */
double shoal_residual(const shoal_problem *p, const shoal_compressed *c, double *d, double *g);
/* tr(D H D^T) / energy of D = W - W'; scratch is twice (n_rows, n_cols). */
double shoal_compressed_error_in(const shoal_problem *p, const shoal_compressed *c,
                                 double *scratch);

static inline bool shoal_kept(const shoal_compressed *c, size_t row, size_t col)
{
    return !c->kept || (c->kept[row * ((c->n_cols + 7) / 8) + col / 8] >> col % 8 & 1);
}

static inline void shoal_keep(shoal_compressed *c, size_t row, size_t col, bool keep)
{
    uint8_t *byte = &c->kept[row * ((c->n_cols + 7) / 8) + col / 8];
    *byte = (uint8_t)(keep ? *byte | 1u << col % 8 : *byte & ~(1u << col % 8));
}

/* Kept elements of a layer of n_cols columns that a density asks for. */
static inline size_t shoal_keep_count(double density, size_t n)
{
    return (size_t)(density * (double)n + 0.5);
}

#define SHOAL_HALF_MAX 65504.0 /* of f16 */

/* --- values (values.c) ----------------------------------------------------------------------- */

/* The f16 nearest to x. */
double shoal_half(double x, uint16_t *ret_half);
/* Chooses the scale of a group for the kept ones of w, n of a row from column col on. */
void shoal_values_scale(shoal_compressed *c, size_t row, size_t col, size_t n, const double *w);
/* Puts an element, which is kept, and returns what it is then. Its group has a scale. */
double shoal_values_put(shoal_compressed *c, size_t row, size_t col, double w);
/* All kept elements of w [n_rows][n_cols], rounded to nearest. */
void shoal_values_put_all(shoal_compressed *c, const double *w);
/* Forgets values and mask. */
void shoal_values_clear(shoal_compressed *c);
/* The n-th largest (0: the largest) of n_all; x is reordered. */
double shoal_values_largest(double *x, size_t n_all, size_t n);
/* Of a mask that keeps so many of every few columns: how many of how many; else 0. */
typedef struct shoal_share {
    size_t n_keep;
    size_t of;
} shoal_share;

static inline shoal_share shoal_mask_share(shoal_mask mask)
{
    static const shoal_share shares[] = {[SHOAL_MASK_TWO_FOUR] = {2, 4},
                                         [SHOAL_MASK_HALF] = {16, 32},
                                         [SHOAL_MASK_QUARTER] = {8, 32}};
    return shares[mask];
}

/* Keeps of every few columns of a row those of greatest score, the left ones of equals. */
void shoal_values_keep_share(shoal_compressed *c, size_t row, size_t col, const double *score,
                             size_t n);

/* What a code stands for, scales not looked at. */
static inline double shoal_code_value(const shoal_compressed *c, int code)
{
    return c->levels ? (double)c->levels[code + (1 << (c->form.bits - 1))] : (double)code;
}
/* What an element is, single elements and factors not looked at; 0 where it is not kept. */
double shoal_values_get(const shoal_compressed *c, size_t row, size_t col);

/* --- scales of columns (columns.c) ----------------------------------------------------------- */

/* The middle of the range of s [n] becomes 1, and s what f16 holds; where s is 0 it becomes 1. */
void shoal_columns_centre(size_t n, double *s, uint16_t *ret_halves);
/* All values of W diag(s), rounded to nearest; scratch is [n_rows][n_cols]. */
void shoal_columns_put(const shoal_problem *p, const double *s, shoal_compressed *out,
                       double *scratch);

/* --- descents -------------------------------------------------------------------------------- */

/* The walk along the inverse of H (walk.c): w [n_rows][n_cols] is what is to be stored, and is used
 * up. Masks are chosen on the way. With search a group's scale is the one whose walk ends best,
 * else the one that fits its values best, as in the papers. */
shoal_status shoal_walk(const shoal_problem *p, shoal_compressed *c, double *w,
                        bool search) SHOAL_MUST_CHECK;

/* Scales, values and single elements, each the best while all others are held (refine.c): at most
 * n_sweeps times over all, until one brings less than this share of the error. A mask of so many of
 * every few swaps where that gains and nothing has come back yet; a bitmap, columns of single
 * elements and factors stay; there are no column scales. The error never rises. */
#define SHOAL_REFINE_STOP 1e-3
shoal_status shoal_refine(const shoal_problem *p, shoal_compressed *c,
                          size_t n_sweeps) SHOAL_MUST_CHECK;

/* --- factors (factors.c) --------------------------------------------------------------------- */

/* L R nearest to e [n_rows][n_cols] in the norm of h (NULL: of the identity), quantised. */
shoal_status shoal_factors_fit(const shoal_problem *p, const double *h, const double *e,
                               shoal_compressed *c) SHOAL_MUST_CHECK;
/* w += sign * L R. */
void shoal_factors_add(const shoal_compressed *c, double sign, double *w);

#endif
