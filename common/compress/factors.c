/* SPDX-License-Identifier: Apache-2.0
 *
 * Factors: the L R nearest to E in the norm of H. With V the eigenvectors of E H E^T of the
 * greatest eigenvalues, V V^T E is that, and what it leaves is the sum of the other eigenvalues:
 * the whitened decomposition of SVD-LLM (2403.07378) without an inverse of H, so a singular one
 * does no harm. L is rounded first; R is then the least-squares answer to the L that is stored.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
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
    CODE_MAX = 127,
    EXACT_ROWS = 1024, /* up to here all eigenvectors are found at once */
    SPARE = 8,         /* directions past the rank, by which an iteration converges */
    ITERATIONS = 12
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

/* The n_found eigenvectors of a [n][n], which is used up, of the greatest values, as rows of ret.
 */
static shoal_status eigenvectors(fit *f, size_t n_all, size_t n_found, double *a, double *ret)
{
    int n = (int)n_all;
    int first = (int)(n_all - n_found + 1);
    int n_work = 26 * n;
    int n_iwork = 10 * n;
    int found = 0;
    int info = 0;
    double unused = 0;
    dsyevr_("V", "I", "U", &n, a, &n, &unused, &unused, &first, &n, &unused, &found, f->values, ret,
            &n, f->iwork + 10 * n_all, f->work, &n_work, f->iwork, &n_iwork, &info);
    return info == 0 && (size_t)found == n_found ? SHOAL_OK : SHOAL_E_INTERNAL;
}

/* Rows of x [n_x][n] orthonormal, by Gram-Schmidt twice over; what has no length left is zero. */
static void orthonormal(double *x, size_t n_x, size_t n)
{
    for (size_t i = 0; i < n_x; i++) {
        double *v = x + i * n;
        double before = cblas_dnrm2((blasint)n, v, 1);
        for (size_t twice = 0; twice < 2; twice++) {
            for (size_t j = 0; j < i; j++) {
                const double *u = x + j * n;
                double dot = cblas_ddot((blasint)n, u, 1, v, 1);
                cblas_daxpy((blasint)n, -dot, u, 1, v, 1);
            }
        }
        double length = cblas_dnrm2((blasint)n, v, 1);
        cblas_dscal((blasint)n, length > 1e-10 * before ? 1 / length : 0, v, 1);
    }
}

/* to = from g, both [n_x][n_rows]. */
static void times_g(const fit *f, const double *from, double *to, size_t n_x)
{
    blasint n = (blasint)f->n_rows;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n_x, n, n, 1, from, n, f->g, n,
                0, to, n);
}

/* The same of g as far as iteration on a subspace finds them (Halko, 0909.4061, algorithm 4.4):
 * where the spectrum is flat it does not converge, and where it is flat one direction is as good
 * as the next. The start is fixed, so is the answer. */
static shoal_status iterate(fit *f)
{
    size_t n_x = SHOAL_MIN(f->rank + SPARE, f->n_rows);
    blasint n = (blasint)f->n_rows;
    blasint m = (blasint)n_x;
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *x = shoal_calloc(2 * n_x * f->n_rows, sizeof *x);
    SHOAL_CLEANUP(shoal_free_cleanup) double *small = shoal_calloc(2 * n_x * n_x, sizeof *small);
    if (!x || !small) {
        return SHOAL_E_NOMEM;
    }
    double *gx = x + n_x * f->n_rows;
    uint64_t rng = 1;
    for (size_t i = 0; i < n_x * f->n_rows; i++) {
        x[i] = (double)(int64_t)shoal_rng_next(&rng);
    }
    for (size_t i = 0; i < ITERATIONS; i++) {
        orthonormal(x, n_x, f->n_rows);
        times_g(f, x, gx, n_x);
        memcpy(x, gx, n_x * f->n_rows * sizeof *x);
    }
    orthonormal(x, n_x, f->n_rows);
    times_g(f, x, gx, n_x);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, m, n, 1, x, n, gx, n, 0, small, m);
    SHOAL_TRY(eigenvectors(f, n_x, f->rank, small, small + n_x * n_x));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)f->rank, n, m, 1,
                small + n_x * n_x, m, x, n, 0, f->left, n);
    return SHOAL_OK;
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
    SHOAL_TRY(f.n_rows <= EXACT_ROWS || 2 * f.rank > f.n_rows
                  ? eigenvectors(&f, f.n_rows, f.rank, f.g, f.left)
                  : iterate(&f));
    round_factor(&c->left, f.rank, f.left);
    SHOAL_TRY(answer(&f, e));
    round_factor(&c->right, f.rank, f.right);
    return SHOAL_OK;
}
