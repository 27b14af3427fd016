/* SPDX-License-Identifier: Apache-2.0
 *
 * 2:4 by Wanda's score; and WRP (ACL 2024, 2024.acl-long.347): elements that a 2:4 mask drops come
 * back, in f16 with their columns. Beyond the paper: the mask is SparseGPT's; which elements come
 * back follows from the gradient of the true error, over the layer; and all values, those that stay
 * and those that come back, are refitted by coordinate descent, which is most of what is won.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>

enum {
    SWEEPS = 20
};

shoal_status shoal_pass_two_four(const shoal_problem *p, shoal_compressed *out)
{
    return shoal_pass_wanda(p, out);
}

/* By how much the error falls if an element that is dropped takes its best value, all others held.
 */
static double gain_of(const shoal_problem *p, const shoal_compressed *c, const double *g, size_t i)
{
    size_t row = i / p->n_cols;
    size_t col = i % p->n_cols;
    double h = p->h[col * p->n_cols + col];
    return h > 0 && !shoal_kept(c, row, col) ? g[i] * g[i] / h : 0;
}

/* The n elements of the layer that bring most come back; gains [n_rows][n_cols] is scratch. */
static void recover(const shoal_problem *p, shoal_compressed *c, const double *g, double *gains,
                    size_t n)
{
    size_t n_all = p->n_rows * p->n_cols;
    size_t at = 0;
    for (size_t i = 0; i < n_all; i++) {
        gains[i] = gain_of(p, c, g, i);
    }
    double least = n ? shoal_values_largest(gains, n_all, n - 1) : (double)INFINITY;
    for (size_t i = 0; i < n_all; i++) {
        double gain = gain_of(p, c, g, i);
        size_t col = i % p->n_cols;
        if (col == 0) {
            c->single_begin[i / p->n_cols] = (uint32_t)at;
        }
        if (gain >= least && gain > 0 && at < n) {
            c->single_cols[at] = (uint32_t)col;
            c->single_values[at] = 0; /* refining gives it one */
            at++;
        }
    }
    c->single_begin[p->n_rows] = (uint32_t)at;
}

shoal_status shoal_pass_wrp(const shoal_problem *p, shoal_compressed *out)
{
    size_t n_all = p->n_rows * p->n_cols;
    size_t n = (size_t)(out->form.recover * (double)n_all);
    SHOAL_CLEANUP(shoal_free_cleanup) double *scratch = shoal_calloc(2 * n_all, sizeof *scratch);
    if (!scratch) {
        return SHOAL_E_NOMEM;
    }
    memcpy(scratch, p->w, n_all * sizeof *scratch);
    SHOAL_TRY(shoal_walk(p, out, scratch, false));
    SHOAL_TRY(shoal_refine(p, out, SWEEPS));
    out->single_begin = shoal_calloc(p->n_rows + 1, sizeof *out->single_begin);
    out->single_cols = shoal_calloc(n, sizeof *out->single_cols);
    out->single_values = shoal_calloc(n, sizeof *out->single_values);
    if (!out->single_begin || !out->single_cols || !out->single_values) {
        return SHOAL_E_NOMEM;
    }
    (void)shoal_residual(p, out, scratch, scratch + n_all);
    recover(p, out, scratch + n_all, scratch, n);
    return shoal_refine(p, out, SWEEPS);
}
