/* SPDX-License-Identifier: Apache-2.0
 *
 * 2:4 by Wanda's score, and WRP on top of it (ACL 2024, 2024.acl-long.347): of what the mask drops,
 * the elements of greatest score come back in each row, in f16 with their columns.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>

shoal_status shoal_pass_two_four(const shoal_problem *p, shoal_compressed *out)
{
    return shoal_pass_wanda(p, out);
}

/* Score of an element that the mask drops, 0 of one that it keeps. */
static double dropped_score(const shoal_problem *p, const shoal_compressed *c, size_t row,
                            size_t col)
{
    double w = p->w[row * p->n_cols + col];
    return shoal_kept(c, row, col) ? 0 : fabs(w) * sqrt(p->h[col * p->n_cols + col]);
}

static void recover_row(const shoal_problem *p, shoal_compressed *c, size_t row, size_t n,
                        double *scratch)
{
    uint32_t at = c->single_begin[row];
    for (size_t j = 0; j < p->n_cols; j++) {
        scratch[j] = dropped_score(p, c, row, j);
    }
    double least = n ? shoal_values_largest(scratch, p->n_cols, n - 1) : (double)INFINITY;
    for (size_t j = 0; j < p->n_cols && at < c->single_begin[row] + n; j++) {
        double s = dropped_score(p, c, row, j);
        if (s >= least && s > 0) {
            c->single_cols[at] = (uint32_t)j;
            (void)shoal_half(p->w[row * p->n_cols + j], &c->single_values[at]);
            at++;
        }
    }
    c->single_begin[row + 1] = at;
}

shoal_status shoal_pass_wrp(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = (size_t)(out->form.recover * (double)p->n_cols);
    SHOAL_TRY(shoal_pass_two_four(p, out));
    SHOAL_CLEANUP(shoal_free_cleanup) double *scratch = shoal_calloc(p->n_cols, sizeof *scratch);
    out->single_begin = shoal_calloc(p->n_rows + 1, sizeof *out->single_begin);
    out->single_cols = shoal_calloc(p->n_rows * n, sizeof *out->single_cols);
    out->single_values = shoal_calloc(p->n_rows * n, sizeof *out->single_values);
    if (!scratch || !out->single_begin || !out->single_cols || !out->single_values) {
        return SHOAL_E_NOMEM;
    }
    for (size_t row = 0; row < p->n_rows; row++) {
        recover_row(p, out, row, n, scratch);
    }
    return SHOAL_OK;
}
