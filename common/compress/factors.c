/* SPDX-License-Identifier: Apache-2.0
 *
 * Factors: the L R nearest to E in the norm of H. With V the eigenvectors of E H E^T of the
 * greatest eigenvalues, V V^T E is that, and what it leaves is the sum of the other eigenvalues:
 * the whitened decomposition of SVD-LLM (2403.07378) without an inverse of H, so a singular one
 * does no harm. L is rounded first; R is then the least-squares answer to the L that is stored.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"
#include "common/tensor/type.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

void dsyevr_(const char *jobz, const char *range, const char *uplo, const int *n, double *a,
             const int *lda, const double *vl, const double *vu, const int *il, const int *iu,
             const double *abstol, int *m, double *w, double *z, const int *ldz, int *isuppz,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info);
void dposv_(const char *uplo, const int *n, const int *nrhs, double *a, const int *lda, double *b,
            const int *ldb, int *info);

enum {
    BLOCK = SHOAL_COMPRESS_FACTOR_BLOCK,
    CODE_MAX = 127
};

/* --- rounding -------------------------------------------------------------------------------- */

static size_t blocks(size_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* x (rank, n) in place: what it is once it is stored. */
static void round_factor(shoal_factor *f, size_t rank, double *x)
{
    for (size_t i = 0; i < rank * blocks(f->n); i++) {
        size_t row = i / blocks(f->n);
        size_t col = i % blocks(f->n) * BLOCK;
        size_t n = SHOAL_MIN((size_t)BLOCK, f->n - col);
        double *v = x + row * f->n + col;
        double most = 0;
        for (size_t j = 0; j < n; j++) {
            most = fmax(most, fabs(v[j]));
        }
        double scale = shoal_half(fmin(most / CODE_MAX, 65504), &f->scales[i]);
        for (size_t j = 0; j < n; j++) {
            double code = scale > 0 ? nearbyint(v[j] / scale) : 0;
            code = fmin(fmax(code, -CODE_MAX), CODE_MAX);
            f->codes[i * BLOCK + j] = (int8_t)code;
            v[j] = code * scale;
        }
    }
}

void shoal_factors_add(const shoal_compressed *c, double sign, double *w)
{
    for (size_t r = 0; r < c->form.rank; r++) {
        for (size_t row = 0; row < c->n_rows; row++) {
            size_t at = r * blocks(c->n_rows) + row / BLOCK;
            double l = sign * (double)c->left.codes[at * BLOCK + row % BLOCK] *
                       (double)shoal_f16_to_f32(c->left.scales[at]);
            for (size_t b = 0; b < blocks(c->n_cols); b++) {
                size_t right = r * blocks(c->n_cols) + b;
                double s = l * (double)shoal_f16_to_f32(c->right.scales[right]);
                size_t n = SHOAL_MIN((size_t)BLOCK, c->n_cols - b * BLOCK);
                for (size_t j = 0; j < n; j++) {
                    w[row * c->n_cols + b * BLOCK + j] +=
                        s * (double)c->right.codes[right * BLOCK + j];
                }
            }
        }
    }
}

/* --- the fit --------------------------------------------------------------------------------- */

typedef struct fit {
    size_t n_rows;
    size_t n_cols;
    size_t rank;
    double *eh;     /* (n_rows, n_cols) E H, then free */
    double *g;      /* (n_rows, n_rows) E H E^T */
    double *left;   /* (rank, n_rows) */
    double *right;  /* (rank, n_cols) */
    double *values; /* (n_rows) */
    double *gram;   /* (rank, rank) */
    double *work;   /* (26 n_rows) */
    int *iwork;     /* (12 n_rows) */
} fit;

static void fit_fini(fit *f)
{
    shoal_free(f->eh);
    shoal_free(f->g);
    shoal_free(f->left);
    shoal_free(f->right);
    shoal_free(f->values);
    shoal_free(f->gram);
    shoal_free(f->work);
    shoal_free(f->iwork);
}

static shoal_status fit_init(fit *f)
{
    f->eh = shoal_calloc(f->n_rows * f->n_cols, sizeof *f->eh);
    f->g = shoal_calloc(f->n_rows * f->n_rows, sizeof *f->g);
    f->left = shoal_calloc(f->rank * f->n_rows, sizeof *f->left);
    f->right = shoal_calloc(f->rank * f->n_cols, sizeof *f->right);
    f->values = shoal_calloc(f->n_rows, sizeof *f->values);
    f->gram = shoal_calloc(f->rank * f->rank, sizeof *f->gram);
    f->work = shoal_calloc(26 * f->n_rows, sizeof *f->work);
    f->iwork = shoal_calloc(12 * f->n_rows, sizeof *f->iwork);
    return f->eh && f->g && f->left && f->right && f->values && f->gram && f->work && f->iwork
               ? SHOAL_OK
               : SHOAL_E_NOMEM;
}

/* The rank eigenvectors of g of the greatest values, as rows of left. */
static shoal_status directions(fit *f)
{
    int n = (int)f->n_rows;
    int first = (int)(f->n_rows - f->rank + 1);
    int n_work = 26 * n;
    int n_iwork = 10 * n;
    int found = 0;
    int info = 0;
    double unused = 0;
    dsyevr_("V", "I", "U", &n, f->g, &n, &unused, &unused, &first, &n, &unused, &found, f->values,
            f->left, &n, f->iwork + 10 * f->n_rows, f->work, &n_work, f->iwork, &n_iwork, &info);
    return info == 0 && (size_t)found == f->rank ? SHOAL_OK : SHOAL_E_INTERNAL;
}

/* right = (L^T L)^-1 L^T E. Directions that rounding has left without length get nothing. */
static shoal_status answer(fit *f, const double *e)
{
    int n = (int)f->rank;
    int n_rhs = (int)f->n_cols;
    int info = 0;
    size_t rank = f->rank;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, (blasint)f->n_rows, 1, f->left,
                (blasint)f->n_rows, f->left, (blasint)f->n_rows, 0, f->gram, n);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n_rhs, (blasint)f->n_rows, 1, f->left,
                (blasint)f->n_rows, e, n_rhs, 0, f->right, n_rhs);
    for (size_t i = 0; i < rank; i++) {
        f->gram[i * rank + i] += 1e-9;
    }
    /* dposv wants right hand sides by columns: the transpose, in what eh was. */
    for (size_t i = 0; i < rank; i++) {
        for (size_t j = 0; j < f->n_cols; j++) {
            f->eh[j * rank + i] = f->right[i * f->n_cols + j];
        }
    }
    dposv_("U", &n, &n_rhs, f->gram, &n, f->eh, &n, &info);
    for (size_t i = 0; i < rank; i++) {
        for (size_t j = 0; j < f->n_cols; j++) {
            f->right[i * f->n_cols + j] = f->eh[j * rank + i];
        }
    }
    return info == 0 ? SHOAL_OK : SHOAL_E_INTERNAL;
}

shoal_status shoal_factors_fit(const shoal_problem *p, const double *h, const double *e,
                               shoal_compressed *c)
{
    SHOAL_CLEANUP(fit_fini)
    fit f = {.n_rows = p->n_rows, .n_cols = p->n_cols, .rank = c->form.rank};
    blasint n_rows = (blasint)f.n_rows;
    blasint n_cols = (blasint)f.n_cols;
    SHOAL_TRY(fit_init(&f));
    if (h) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n_rows, n_cols, n_cols, 1, e, n_cols,
                    h, n_cols, 0, f.eh, n_cols);
    } else {
        memcpy(f.eh, e, f.n_rows * f.n_cols * sizeof *f.eh);
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_rows, n_rows, n_cols, 1, f.eh, n_cols, e,
                n_cols, 0, f.g, n_rows);
    SHOAL_TRY(directions(&f));
    round_factor(&c->left, f.rank, f.left);
    SHOAL_TRY(answer(&f, e));
    round_factor(&c->right, f.rank, f.right);
    return SHOAL_OK;
}
