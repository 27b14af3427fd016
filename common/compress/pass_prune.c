/* SPDX-License-Identifier: Apache-2.0
 *
 * Pruning without an answer of what stays: by magnitude, over the layer, and by Wanda's score
 * |w_ij|
 * ||x_j||, in each row (2306.11695). Both are baselines, and either may be asked for the other's
 * rivals, so that scores can be compared alone.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>

/* Keeps the n_keep greatest of scores, those of rows [row, row + n_rows); of equals the first. */
static void keep_greatest(shoal_compressed *c, size_t row, size_t n_rows, const double *scores,
                          double *scratch)
{
    size_t n = n_rows * c->n_cols;
    size_t n_keep = SHOAL_MIN(shoal_keep_count(c->form.density, n), n);
    memcpy(scratch, scores, n * sizeof *scratch);
    double least = n_keep ? shoal_values_largest(scratch, n, n_keep - 1) : (double)INFINITY;
    size_t n_above = 0;
    for (size_t i = 0; i < n; i++) {
        n_above += scores[i] > least;
    }
    size_t n_equal = n_keep - n_above;
    for (size_t i = 0; i < n; i++) {
        bool equal = scores[i] == least && n_equal > 0;
        n_equal -= equal;
        shoal_keep(c, row + i / c->n_cols, i % c->n_cols, scores[i] > least || equal);
    }
}

static shoal_status prune(const shoal_problem *p, bool wanda, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup) double *scores = shoal_calloc(2 * n, sizeof *scores);
    if (!scores) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        size_t j = i % p->n_cols;
        scores[i] = fabs(p->w[i]) * (wanda ? sqrt(p->h[j * p->n_cols + j]) : 1);
    }
    bool shared = shoal_mask_share(out->form.mask).of > 0;
    bool by_row =
        out->form.rivals == SHOAL_RIVALS_USUAL ? wanda : out->form.rivals == SHOAL_RIVALS_ROW;
    if (!shared && !by_row) {
        keep_greatest(out, 0, p->n_rows, scores, scores + n);
    }
    for (size_t row = 0; row < p->n_rows; row++) {
        const double *s = scores + row * p->n_cols;
        if (shared) {
            shoal_values_keep_share(out, row, 0, s, p->n_cols);
        } else if (by_row) {
            keep_greatest(out, row, 1, s, scores + n);
        }
    }
    shoal_values_put_all(out, p->w);
    return SHOAL_OK;
}

shoal_status shoal_pass_magnitude(const shoal_problem *p, shoal_compressed *out)
{
    return prune(p, false, out);
}

shoal_status shoal_pass_wanda(const shoal_problem *p, shoal_compressed *out)
{
    return prune(p, true, out);
}
