/* SPDX-License-Identifier: Apache-2.0
 *
 * AWQ (2306.00978): columns whose input is large are made larger before rounding, so that they lose
 * less, and divided again behind it. The power of the input's size is searched; power 0 is plain
 * rounding, so the result is never worse than that.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>

enum {
    STEPS = 20
};

/* s_j = rms_j^power; inputs that were always zero have s = 1. */
static void put(const shoal_problem *p, double power, shoal_compressed *out, double *scratch)
{
    double *s = scratch + p->n_rows * p->n_cols;
    for (size_t j = 0; j < p->n_cols; j++) {
        double rms = sqrt(p->h[j * p->n_cols + j]);
        s[j] = rms > 0 ? pow(rms, power) : 0;
    }
    shoal_columns_centre(p->n_cols, s, out->column_scales);
    shoal_columns_put(p, s, out, scratch);
}

shoal_status shoal_pass_awq(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *scratch = shoal_calloc(2 * n + p->n_cols, sizeof *scratch);
    out->column_scales = shoal_calloc(p->n_cols, sizeof *out->column_scales);
    if (!scratch || !out->column_scales) {
        return SHOAL_E_NOMEM;
    }
    size_t best = 0;
    double best_error = (double)INFINITY;
    for (size_t i = 0; i <= STEPS; i++) {
        put(p, (double)i / STEPS, out, scratch);
        double error = shoal_compressed_error_in(p, out, scratch);
        if (error < best_error) {
            best_error = error;
            best = i;
        }
    }
    put(p, (double)best / STEPS, out, scratch);
    if (best == 0) {
        shoal_free(out->column_scales);
        out->column_scales = NULL;
    }
    return SHOAL_OK;
}
