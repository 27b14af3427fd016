/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: an input batch, its 8-bit form, and the same divided by column scales.
 */
#ifndef SHOAL_WEIGHT_ACTS_INTERNAL_H
#define SHOAL_WEIGHT_ACTS_INTERNAL_H

#include "common/weight/weight.h"

/* What is done to an input before a base reads it; all zero: nothing. */
typedef struct shoal_acts_change {
    const float *inverse; /* (k) what it is multiplied by, borrowed from a weight; NULL: nothing */
    float threshold;      /* what is smaller becomes 0 */
} shoal_acts_change;

/* The input as some weights read it. */
typedef struct shoal_acts_form {
    shoal_acts_change change;
    bool taken;     /* it is of some change */
    const float *x; /* [n_cols][stride] */
    size_t stride;
    bool scaled;             /* x is there; the plain form's always is */
    bool quantised;          /* codes and blocks are */
    bool wanted;             /* by the products under way */
    float *own;              /* [n_cols][k] of a changed form */
    int8_t *codes;           /* [n_cols][k] */
    shoal_act_block *blocks; /* [n_cols][k / 32] */
} shoal_acts_form;

struct shoal_acts {
    size_t n_cols_max;
    size_t k_max;
    size_t n_cols;
    size_t k;
    shoal_side_needs needs; /* what there is room for */
    shoal_acts_form plain;
    shoal_acts_form scaled[SHOAL_PRODUCTS_MAX];
    float *low; /* [SHOAL_PRODUCTS_MAX][n_cols][rank] products with R */
};

/* The form with a change, with codes or floats: made once per input and change that differs,
 * however many weights read it. It stays until SHOAL_PRODUCTS_MAX others have been asked for. */
const shoal_acts_form *shoal_acts_form_get(shoal_acts *acts, shoal_acts_change how, bool quantised,
                                           const shoal_kernels *kernels, shoal_pool *pool);
/* Before the forms of one job are got: none is wanted yet. */
void shoal_acts_forms_begin(shoal_acts *acts);

#endif
