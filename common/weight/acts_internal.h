/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: an input batch and its 8-bit form.
 */
#ifndef SHOAL_WEIGHT_ACTS_INTERNAL_H
#define SHOAL_WEIGHT_ACTS_INTERNAL_H

#include "common/weight/weight.h"

struct shoal_acts {
    size_t n_cols_max;
    size_t k_max;
    const float *x; /* borrowed, [n_cols][stride] */
    size_t n_cols;
    size_t k;
    size_t stride;
    bool quantised;          /* codes and blocks are those of x */
    int8_t *codes;           /* [n_cols][k] */
    shoal_act_block *blocks; /* [n_cols][k / 32] */
};

/* Makes the 8-bit form unless it is there: once per input, however many weights read it. */
void shoal_acts_quantise(shoal_acts *acts, const shoal_kernels *kernels, shoal_pool *pool);

#endif
