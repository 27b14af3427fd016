/* SPDX-License-Identifier: Apache-2.0 */
#include "common/compress/structure.h"

#include "common/base/mem.h"
#include "common/compress/compress_internal.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

/* LAPACK of OpenBLAS, which has no header: Cholesky. */
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);

enum {
    ROUNDS = 32
};

typedef struct removal {
    const shoal_problem *p;
    const shoal_structure *s;
    size_t n_groups;
    size_t n_batch;  /* groups of a round */
    double *w;       /* (n_rows, n_cols) what it is by now */
    double *inverse; /* (n_cols, n_cols) of the damped moments of what is left */
    double *scores;  /* (n_groups) */
    size_t *classes; /* (classes) groups that are still to go */
    size_t *columns; /* (n_batch * width) that go in a round */
    double *factor;  /* (n_batch * width, n_batch * width) */
    double *of_w;    /* (n_rows, n_batch * width) */
    double *of_h;    /* (n_batch * width, n_cols) */
    bool *gone;      /* (n_groups), the caller's */
} removal;

static void removal_fini(removal *r)
{
    shoal_free(r->w);
    shoal_free(r->inverse);
    shoal_free(r->scores);
    shoal_free(r->classes);
    shoal_free(r->columns);
    shoal_free(r->factor);
    shoal_free(r->of_w);
    shoal_free(r->of_h);
}

/* --- linear algebra --------------------------------------------------------------------------- */

/* By rows the lower triangle is by columns the upper one: a becomes L with L L^T = a. */
static bool cholesky(double *a, size_t n)
{
    int order = (int)n;
    int info = 0;
    dpotrf_("U", &order, a, &order, &info);
    for (size_t i = 0; info == 0 && i < n; i++) {
        info = isfinite(a[i * n + i]) && a[i * n + i] > 0 ? 0 : 1;
    }
    return info == 0;
}

/* The block of columns (and rows) of the inverse, factored, and X = W_B L^-T. */
static bool factor_block(removal *r, const size_t *columns, size_t n)
{
    size_t k = r->p->n_cols;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            r->factor[i * n + j] = r->inverse[columns[i] * k + columns[j]];
        }
    }
    for (size_t row = 0; row < r->p->n_rows; row++) {
        for (size_t i = 0; i < n; i++) {
            r->of_w[row * n + i] = r->w[row * k + columns[i]];
        }
    }
    if (!cholesky(r->factor, n)) {
        return false;
    }
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                (blasint)r->p->n_rows, (blasint)n, 1, r->factor, (blasint)n, r->of_w, (blasint)n);
    return true;
}

/* W and the inverse without so many columns: W -= W_B [H^-1]_BB^-1 [H^-1]_B, and likewise H^-1. */
static bool take_out(removal *r, const size_t *columns, size_t n)
{
    size_t k = r->p->n_cols;
    if (!factor_block(r, columns, n)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(r->of_h + i * k, r->inverse + columns[i] * k, k * sizeof *r->of_h);
    }
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)n,
                (blasint)k, 1, r->factor, (blasint)n, r->of_h, (blasint)k);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)r->p->n_rows, (blasint)k,
                (blasint)n, -1, r->of_w, (blasint)n, r->of_h, (blasint)k, 1, r->w, (blasint)k);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)k, (blasint)k, (blasint)n, -1,
                r->of_h, (blasint)k, r->of_h, (blasint)k, 1, r->inverse, (blasint)k);
    return true;
}

/* U^T U of what the problem has. */
static void make_inverse(removal *r)
{
    size_t k = r->p->n_cols;
    for (size_t i = 0; i < k; i++) {
        memcpy(r->inverse + i * k + i, r->p->u + i * k + i, (k - i) * sizeof *r->inverse);
    }
    cblas_dtrmm(CblasRowMajor, CblasLeft, CblasUpper, CblasTrans, CblasNonUnit, (blasint)k,
                (blasint)k, 1, r->p->u, (blasint)k, r->inverse, (blasint)k);
}

/* --- scores ----------------------------------------------------------------------------------- */

/* tr(W_g H_gg W_g^T) */
static double energy_of(removal *r, size_t group)
{
    size_t k = r->p->n_cols;
    size_t width = r->s->width;
    size_t at = group * width;
    double sum = 0;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)r->p->n_rows, (blasint)width,
                (blasint)width, 1, r->p->w + at, (blasint)k, r->p->h + at * k + at, (blasint)k, 0,
                r->of_w, (blasint)width);
    for (size_t i = 0; i < r->p->n_rows * width; i++) {
        sum += r->of_w[i] * r->p->w[i / width * k + at + i % width];
    }
    return sum;
}

/* tr(W_g [H^-1]_gg^-1 W_g^T) */
static bool loss_of(removal *r, size_t group, double *ret_loss)
{
    size_t width = r->s->width;
    double sum = 0;
    for (size_t i = 0; i < width; i++) {
        r->columns[i] = group * width + i;
    }
    if (!factor_block(r, r->columns, width)) {
        return false;
    }
    for (size_t i = 0; i < r->p->n_rows * width; i++) {
        sum += r->of_w[i] * r->of_w[i];
    }
    *ret_loss = sum;
    return true;
}

static bool score_all(removal *r, const double *importance)
{
    for (size_t g = 0; g < r->n_groups; g++) {
        if (importance) {
            r->scores[g] = importance[g];
        } else if (!r->s->refit) {
            r->scores[g] = energy_of(r, g);
        } else if (!r->gone[g] && !loss_of(r, g, &r->scores[g])) {
            return false;
        }
    }
    return true;
}

/* --- choosing --------------------------------------------------------------------------------- */

/* The group of least score whose class has some to lose; SIZE_MAX: there is none. */
static size_t least(const removal *r)
{
    size_t best = SIZE_MAX;
    for (size_t g = 0; g < r->n_groups; g++) {
        if (!r->gone[g] && r->classes[g / r->s->n_class] > 0 &&
            (best == SIZE_MAX || r->scores[g] < r->scores[best])) {
            best = g;
        }
    }
    return best;
}

/* Up to n groups of least score go; their columns, ascending. */
static size_t choose(removal *r, size_t n)
{
    size_t width = r->s->width;
    size_t n_columns = 0;
    for (size_t i = 0; i < n; i++) {
        size_t group = least(r);
        if (group == SIZE_MAX) {
            break;
        }
        r->gone[group] = true;
        r->classes[group / r->s->n_class]--;
        for (size_t j = 0; j < width; j++) {
            r->columns[n_columns++] = group * width + j;
        }
    }
    return n_columns;
}

/* --- the whole -------------------------------------------------------------------------------- */

static shoal_status removal_init(removal *r, bool rounds)
{
    size_t n_rows = r->p->n_rows;
    size_t k = r->p->n_cols;
    size_t n_classes = r->n_groups / r->s->n_class;
    size_t n_all = n_classes * r->s->n_gone;
    r->n_batch = rounds ? (n_all + ROUNDS - 1) / ROUNDS : n_all;
    size_t n = r->n_batch * r->s->width;
    r->w = shoal_calloc_aligned(n_rows * k, sizeof *r->w);
    r->inverse = shoal_calloc_aligned(r->s->refit ? k * k : 1, sizeof *r->inverse);
    r->scores = shoal_calloc(r->n_groups, sizeof *r->scores);
    r->classes = shoal_calloc(n_classes, sizeof *r->classes);
    r->columns = shoal_calloc(n, sizeof *r->columns);
    r->factor = shoal_calloc_aligned(n * n, sizeof *r->factor);
    r->of_w = shoal_calloc_aligned(n_rows * n, sizeof *r->of_w);
    r->of_h = shoal_calloc_aligned(n * k, sizeof *r->of_h);
    if (!r->w || !r->inverse || !r->scores || !r->classes || !r->columns || !r->factor ||
        !r->of_w || !r->of_h) {
        return SHOAL_E_NOMEM;
    }
    memcpy(r->w, r->p->w, n_rows * k * sizeof *r->w);
    for (size_t i = 0; i < n_classes; i++) {
        r->classes[i] = r->s->n_gone;
    }
    memset(r->gone, 0, r->n_groups * sizeof *r->gone);
    if (r->s->refit) {
        make_inverse(r);
    }
    return SHOAL_OK;
}

static bool run(removal *r, const double *importance)
{
    while (least(r) != SIZE_MAX) {
        if (!score_all(r, importance)) {
            return false;
        }
        size_t n_columns = choose(r, r->n_batch);
        if (r->s->refit && !take_out(r, r->columns, n_columns)) {
            return false;
        }
    }
    return true;
}

shoal_status shoal_structure_remove(const shoal_problem *p, const shoal_structure *s,
                                    const double *importance, bool *ret_gone, float *ret_w,
                                    shoal_err *err)
{
    SHOAL_ASSERT(s->width > 0 && p->n_cols % s->width == 0 && s->n_class > 0 &&
                 p->n_cols / s->width % s->n_class == 0 && s->n_gone > 0 && s->n_gone < s->n_class);
    SHOAL_CLEANUP(removal_fini)
    removal r = {.p = p, .s = s, .n_groups = p->n_cols / s->width, .gone = ret_gone};
    if (removal_init(&r, s->refit && !importance) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to prune a layer of %zu x %zu",
                             p->n_rows, p->n_cols);
    }
    openblas_set_num_threads(1); /* bits do not depend on the machine's load */
    if (!run(&r, importance)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the second moments of %zu elements have no inverse when groups are "
                             "taken out: calibrate along more text",
                             p->n_cols);
    }
    for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
        ret_w[i] = ret_gone[i % p->n_cols / s->width] ? 0 : (float)r.w[i];
    }
    return SHOAL_OK;
}
