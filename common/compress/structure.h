/* SPDX-License-Identifier: Apache-2.0
 *
 * Structured pruning: whole groups of a layer's inputs go, so that what makes them can go too (the
 * neurons of a feed-forward, the heads of attention). The layer is the one that reads them: the
 * error is that of its output, as in compress.h.
 *
 * Which ones: by an importance that the caller knows (LLM-Pruner, 2305.11627, eq. 3: |w dL/dw|
 * summed over all weights of a group), or by what the output loses. Without a refit that is
 * tr(W_g H_gg W_g^T). With one, what is left takes over what it can, and a group costs
 * tr(W_g [H^-1]_gg^-1 W_g^T) (Hassibi and Stork 1993; ZipLM, 2302.04089, eq. 3): the cheapest go,
 * W and H^-1 are brought up to date, and so on, in 32 rounds at most.
 *
 * Products go to OpenBLAS on the calling thread; any thread, and the same bits for any number.
 */
#ifndef SHOAL_COMPRESS_STRUCTURE_H
#define SHOAL_COMPRESS_STRUCTURE_H

#include "common/compress/compress.h"

typedef struct shoal_structure {
    size_t width;   /* columns of a group, one behind the other; divides the layer's columns */
    size_t n_class; /* groups of a class, one behind the other; divides the number of groups */
    size_t n_gone;  /* groups that go of each class, in [1, n_class) */
    bool refit;     /* what is left is fitted to the output of before, in the norm of the damped H
                     * (shoal_problem_new) */
} shoal_structure;

/* importance [n_groups], finite, NULL: what the output loses. Of equals the first goes.
 * ret_gone [n_groups]; ret_w [n_rows][n_cols] has zeros in the columns that are gone.
 * SHOAL_E_NOMEM; SHOAL_E_INVALID where rounding has left no inverse. */
shoal_status shoal_structure_remove(const shoal_problem *problem, const shoal_structure *structure,
                                    const double *importance, bool *ret_gone, float *ret_w,
                                    shoal_err *err) SHOAL_MUST_CHECK;

#endif
