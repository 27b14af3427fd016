/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk of GPTQ and SparseGPT: columns from left to right, each rounded or dropped, and its
 * error handed on to the columns behind along the inverse of H. With U^T U that inverse, the error
 * of column j is (w_j - q_j) / U_jj, and column t > j loses that times U_jt. Columns go in blocks;
 * what lies behind a block is changed once for all of it.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"
#include "common/tensor/type.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum {
    BLOCK = 128 /* a multiple of every group */
};

typedef struct walk {
    const shoal_problem *p;
    shoal_compressed *c;
    double *w;      /* (n_rows, n_cols) */
    double *errors; /* (n_rows, BLOCK) */
    double *scores; /* (n_rows, BLOCK) */
    bool search;    /* scales by walking */
} walk;

/* How much it costs to drop an element, if the rest may answer (SparseGPT, eq. 3). */
static double score(const walk *k, size_t row, size_t col)
{
    double w = k->w[row * k->p->n_cols + col];
    double u = k->p->u[col * k->p->n_cols + col];
    return w * w / (u * u);
}

static void choose_bitmap(const walk *k, size_t begin, size_t n)
{
    size_t n_all = k->p->n_rows * n;
    size_t n_keep = SHOAL_MIN(shoal_keep_count(k->c->form.density, n_all), n_all);
    for (size_t i = 0; i < n_all; i++) {
        k->scores[i] = score(k, i / n, begin + i % n);
    }
    double least = n_keep ? shoal_values_largest(k->scores, n_all, n_keep - 1) : (double)INFINITY;
    /* Of equals at the border the first ones stay. */
    size_t n_above = 0;
    for (size_t i = 0; i < n_all; i++) {
        n_above += score(k, i / n, begin + i % n) > least;
    }
    size_t n_equal = n_keep - SHOAL_MIN(n_above, n_keep);
    for (size_t i = 0; i < n_all; i++) {
        double s = score(k, i / n, begin + i % n);
        bool equal = s == least && n_equal > 0;
        n_equal -= equal;
        shoal_keep(k->c, i / n, begin + i % n, s > least || equal);
    }
}

static void choose_share(const walk *k, size_t row, size_t col, size_t n)
{
    double scores[SHOAL_COMPRESS_GROUP_MAX];
    for (size_t i = 0; i < n; i++) {
        scores[i] = score(k, row, col + i);
    }
    shoal_values_keep_share(k->c, row, col, scores, n);
}

/* The error of a group's walk, sum of e_j^2, under the scale that it has; w[n] is used up. */
static double rehearse(const walk *k, size_t row, size_t col, size_t n, double *w, double most)
{
    double sum = 0;
    for (size_t j = 0; j < n && sum < most; j++) {
        const double *u = k->p->u + (col + j) * k->p->n_cols + col;
        double q = shoal_kept(k->c, row, col + j) ? shoal_values_put(k->c, row, col + j, w[j]) : 0;
        double e = (w[j] - q) / u[j];
        sum += e * e;
        for (size_t t = j + 1; t < n; t++) {
            w[t] -= e * u[t];
        }
    }
    return sum;
}

/* Of scales around the one that fits the values best, the one whose walk over the group ends best:
 * what a column loses by rounding its neighbours behind it make good. */
static void search_scale(const walk *k, size_t row, size_t col, size_t n)
{
    static const double shares[] = {1, 0.95, 1.05, 0.9, 1.1, 0.85, 1.15, 0.8, 0.75, 0.7};
    double w[SHOAL_COMPRESS_GROUP_MAX];
    uint16_t *scale = &k->c->scales[row * k->c->n_groups + col / k->c->form.group];
    double from = (double)shoal_f16_to_f32(*scale);
    double best_error = (double)INFINITY;
    uint16_t best = *scale;
    for (size_t i = 0; i < 2 * SHOAL_COUNT(shares); i++) {
        double s = shoal_half((i % 2 ? -1 : 1) * shares[i / 2] * from, scale);
        memcpy(w, k->w + row * k->c->n_cols + col, n * sizeof *w);
        double error = isfinite(s) ? rehearse(k, row, col, n, w, best_error) : best_error;
        if (error < best_error) {
            best_error = error;
            best = *scale;
        }
    }
    *scale = best;
}

/* What must be known before an element is put: its group's scale, and, where so many of every few
 * are kept, which. */
static void prepare(const walk *k, size_t row, size_t col, size_t end)
{
    shoal_compressed *c = k->c;
    const size_t of = shoal_mask_share(c->form.mask).of;
    if (c->codes && col % c->form.group == 0) {
        size_t n = SHOAL_MIN(c->form.group, end - col);
        if (of > 0) {
            choose_share(k, row, col, n); /* as it looks from here, for the scale alone */
        }
        shoal_values_scale(c, row, col, n, k->w + row * c->n_cols + col);
        if (k->search && of == 0) {
            search_scale(k, row, col, n);
        }
    }
    if (of > 0 && col % of == 0) {
        choose_share(k, row, col, SHOAL_MIN(of, end - col));
    }
}

static void walk_row(const walk *k, size_t row, size_t begin, size_t end)
{
    size_t n_cols = k->p->n_cols;
    double *w = k->w + row * n_cols;
    double *errors = k->errors + row * BLOCK;
    for (size_t j = begin; j < end; j++) {
        const double *u = k->p->u + j * n_cols;
        prepare(k, row, j, end);
        double q = shoal_kept(k->c, row, j) ? shoal_values_put(k->c, row, j, w[j]) : 0;
        double e = (w[j] - q) / u[j];
        errors[j - begin] = e;
        for (size_t t = j + 1; t < end; t++) {
            w[t] -= e * u[t];
        }
    }
}

shoal_status shoal_walk(const shoal_problem *p, shoal_compressed *c, double *w, bool search)
{
    size_t n_rows = p->n_rows;
    size_t n_cols = p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup) double *errors = shoal_calloc(n_rows * BLOCK, sizeof *errors);
    SHOAL_CLEANUP(shoal_free_cleanup) double *scores = shoal_calloc(n_rows * BLOCK, sizeof *scores);
    if (!errors || !scores) {
        return SHOAL_E_NOMEM;
    }
    const walk k = {.p = p, .c = c, .w = w, .errors = errors, .scores = scores, .search = search};
    shoal_values_clear(c);
    for (size_t begin = 0; begin < n_cols; begin += BLOCK) {
        size_t end = SHOAL_MIN(begin + BLOCK, n_cols);
        if (c->form.mask == SHOAL_MASK_BITMAP) {
            choose_bitmap(&k, begin, end - begin);
        }
        for (size_t row = 0; row < n_rows; row++) {
            walk_row(&k, row, begin, end);
        }
        if (end < n_cols) {
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n_rows,
                        (blasint)(n_cols - end), (blasint)(end - begin), -1, errors, BLOCK,
                        p->u + begin * n_cols + end, (blasint)n_cols, 1, w + end, (blasint)n_cols);
        }
    }
    return SHOAL_OK;
}
