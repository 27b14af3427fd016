/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer in doubles, and the factor of the inverse of its moments that walks go along.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

/* LAPACK of OpenBLAS, which has no header: Cholesky, and the inverse from it. */
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info);

#define DAMP     0.01 /* of the mean of the diagonal (GPTQ, section 3.3) */
#define DAMP_MAX 1e6
#define HALF_MAX 65504.0F

/* By rows the upper triangle is by columns the lower one. */
static bool try_inverse(const shoal_problem *p, double damp)
{
    int n = (int)p->n_cols;
    int info = 0;
    size_t k = p->n_cols;
    memcpy(p->u, p->h, k * k * sizeof *p->u);
    for (size_t i = 0; i < k; i++) {
        p->u[i * k + i] += damp;
    }
    dpotrf_("L", &n, p->u, &n, &info);
    if (info == 0) {
        dpotri_("L", &n, p->u, &n, &info);
    }
    if (info == 0) {
        dpotrf_("L", &n, p->u, &n, &info);
    }
    for (size_t i = 0; info == 0 && i < k; i++) {
        if (!isfinite(p->u[i * k + i]) || p->u[i * k + i] <= 0) {
            info = 1;
        }
    }
    return info == 0;
}

static shoal_status invert(const shoal_problem *p, shoal_err *err)
{
    double mean = 0;
    for (size_t i = 0; i < p->n_cols; i++) {
        mean += p->h[i * p->n_cols + i] / (double)p->n_cols;
    }
    double unit = mean > 0 ? mean : 1; /* an input that was always zero */
    for (double damp = DAMP; damp < DAMP_MAX; damp *= 10) {
        if (try_inverse(p, damp * unit)) {
            return SHOAL_OK;
        }
    }
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "the second moments of %zu elements have no inverse, even damped: they "
                         "are not those of a text",
                         p->n_cols);
}

static shoal_status check(size_t n_rows, size_t n_cols, const float *w, const float *h,
                          shoal_err *err)
{
    if (n_rows < 1 || n_cols < 1 || n_rows > SHOAL_COMPRESS_SIDE_MAX ||
        n_cols > SHOAL_COMPRESS_SIDE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a layer of %zu x %zu: it must have 1 to %d rows and columns", n_rows,
                             n_cols, SHOAL_COMPRESS_SIDE_MAX);
    }
    for (size_t i = 0; i < n_rows * n_cols; i++) {
        if (!(fabsf(w[i]) <= HALF_MAX)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "weight (%zu, %zu) is not finite, or larger than 65504",
                                 i / n_cols, i % n_cols);
        }
    }
    for (size_t i = 0; h && i < n_cols * n_cols; i++) {
        size_t r = i / n_cols;
        size_t c = i % n_cols;
        if (!isfinite(h[i]) || h[i] != h[c * n_cols + r] || (r == c && h[i] < 0)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "second moment (%zu, %zu) is not finite, not symmetric or "
                                 "negative",
                                 r, c);
        }
    }
    return SHOAL_OK;
}

static double energy_of(const shoal_problem *p, double *scratch)
{
    double sum = 0;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)p->n_rows, (blasint)p->n_cols,
                (blasint)p->n_cols, 1, p->w, (blasint)p->n_cols, p->h, (blasint)p->n_cols, 0,
                scratch, (blasint)p->n_cols);
    for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
        sum += scratch[i] * p->w[i];
    }
    return sum;
}

shoal_status shoal_problem_new(size_t n_rows, size_t n_cols, const float *w, const float *h,
                               shoal_problem **ret_problem, shoal_err *err)
{
    SHOAL_TRY(check(n_rows, n_cols, w, h, err));
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = shoal_calloc(1, sizeof *p);
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *scratch = shoal_calloc(n_rows * n_cols, sizeof *scratch);
    if (p) {
        p->n_rows = n_rows;
        p->n_cols = n_cols;
        p->w = shoal_calloc_aligned(n_rows * n_cols, sizeof *p->w);
        p->h = shoal_calloc_aligned(n_cols * n_cols, sizeof *p->h);
        p->u = shoal_calloc_aligned(n_cols * n_cols, sizeof *p->u);
        p->most = shoal_calloc(n_cols, sizeof *p->most);
    }
    if (!p || !scratch || !p->w || !p->h || !p->u || !p->most) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a layer of %zu x %zu", n_rows,
                             n_cols);
    }
    openblas_set_num_threads(1); /* bits do not depend on the machine's load */
    for (size_t i = 0; i < n_rows * n_cols; i++) {
        p->w[i] = (double)w[i];
    }
    for (size_t i = 0; i < n_cols * n_cols; i++) {
        p->h[i] = h ? (double)h[i] : i / n_cols == i % n_cols ? 1.0 : 0.0;
    }
    for (size_t i = 0; i < n_cols; i++) {
        p->most[i] = sqrt(p->h[i * n_cols + i]);
    }
    SHOAL_TRY(invert(p, err));
    p->energy = energy_of(p, scratch);
    *ret_problem = SHOAL_STEAL(p);
    return SHOAL_OK;
}

shoal_status shoal_problem_set_largest(shoal_problem *p, const float *largest, shoal_err *err)
{
    for (size_t i = 0; i < p->n_cols; i++) {
        if (!isfinite(largest[i]) || largest[i] < 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "the largest magnitude of element %zu is not finite or negative",
                                 i);
        }
    }
    for (size_t i = 0; i < p->n_cols; i++) {
        p->most[i] = (double)largest[i];
    }
    return SHOAL_OK;
}

void shoal_problem_free(shoal_problem *p)
{
    if (p) {
        shoal_free(p->w);
        shoal_free(p->h);
        shoal_free(p->u);
        shoal_free(p->most);
        shoal_free(p);
    }
}
