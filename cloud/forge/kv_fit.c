/* SPDX-License-Identifier: Apache-2.0
 *
 * A basis from rows: principal components of each group under the weights of its layers, a step for
 * each of them, tables. Steps are a matter of rate and harm, both measured on the rows: the rate is
 * the entropy of the codes, the harm the weighted squared error. A slope that is the same
 * everywhere says how many bits a group gets (Shoham and Gersho, 1988); within the group the
 * dynamic program spends them.
 */
#include "cloud/forge/kv_fit.h"

#include "common/archive/archive.h"
#include "common/base/mem.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* LAPACK's symmetric eigenproblem by divide and conquer; OpenBLAS has it, without a header. */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info);

enum {
    CHOICES = 25, /* no code, and steps that shrink by the root of two */
    UNITS = 8,    /* of a bit */
    UNIT_OVERHEAD_BITS = 36 * 8,
    TABLE_FIRST = 6, /* tables go by twice the logarithm of deviation over step, plus this */
    TABLES = 20
};

typedef struct fit {
    kv_rows *rows;
    shoal_archive_plan *plan;
    double base;      /* the widest step */
    double *vectors;  /* of each group, (n, n), rows are components, widest last */
    size_t *at;       /* (n_groups) where a group's vectors begin */
    uint32_t *rates;  /* (n_channels, CHOICES) */
    double *harms;    /* (n_channels, CHOICES) */
    uint8_t *choices; /* (n_channels) */
} fit;

static double step_of(const fit *f, size_t choice)
{
    return f->base * exp2(-0.5 * (double)(choice - 1));
}

static int code_of(double y, double step)
{
    double size = fmin(fabs(y) / step + (double)SHOAL_ARCHIVE_ROUND, SHOAL_ARCHIVE_CODE_FAR);
    return y < 0 ? -(int)size : (int)size;
}

/* The square root of what an error of channel i of a layer costs. */
static double weight_of(const fit *f, size_t layer, size_t i)
{
    const shoal_kv_shape *s = &f->plan->shape;
    bool value = i % (s->k_dim + s->v_dim) >= s->k_dim;
    return sqrt(f->rows->weights[2 * layer + value]);
}

/* --- components ------------------------------------------------------------------------------- */

static shoal_status eigen(size_t n, double *a, double *w, shoal_err *err)
{
    int order = (int)n;
    int n_work = (int)(1 + 6 * n + 2 * n * n);
    int n_iwork = (int)(3 + 5 * n);
    int info = 0;
    SHOAL_CLEANUP(shoal_free_cleanup) double *work = shoal_calloc((size_t)n_work, sizeof *work);
    SHOAL_CLEANUP(shoal_free_cleanup) int *iwork = shoal_calloc((size_t)n_iwork, sizeof *iwork);
    if (!work || !iwork) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu components", n);
    }
    dsyevd_("V", "U", &order, a, &order, w, work, &n_work, iwork, &n_iwork, &info);
    return info == 0 ? SHOAL_OK
                     : shoal_err_set(err, SHOAL_E_INTERNAL,
                                     "the components of %zu channels were not found (%d)", n, info);
}

/* Means, vectors, and the rows' components in their place. */
static shoal_status fit_group(fit *f, size_t group, size_t first_layer, shoal_err *err)
{
    shoal_archive_plan_group *g = &f->plan->groups[group];
    size_t per_layer = shoal_archive_layer_channels(&f->plan->shape);
    size_t n = g->n_layers * per_layer;
    size_t n_rows = f->rows->n;
    size_t stride = f->rows->n_channels;
    float *x = f->rows->x + first_layer * per_layer;
    double *v = f->vectors + f->at[group];
    SHOAL_CLEANUP(shoal_free_cleanup) double *c = shoal_calloc(n_rows * n, sizeof *c);
    SHOAL_CLEANUP(shoal_free_cleanup) double *y = shoal_calloc(n_rows * n, sizeof *y);
    SHOAL_CLEANUP(shoal_free_cleanup) double *w = shoal_calloc(n, sizeof *w);
    g->mean = shoal_calloc(n, sizeof *g->mean);
    if (!c || !y || !w || !g->mean) {
        return shoal_err_set(err, SHOAL_E_NOMEM,
                             "no memory for %zu rows of %zu channels: make the "
                             "text shorter, or groups of fewer layers (--group)",
                             n_rows, n);
    }
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t r = 0; r < n_rows; r++) {
            sum += (double)x[r * stride + i];
        }
        g->mean[i] = (float)(sum / (double)n_rows);
        double weight = weight_of(f, first_layer + i / per_layer, i % per_layer);
        for (size_t r = 0; r < n_rows; r++) {
            c[r * n + i] = weight * ((double)x[r * stride + i] - (double)g->mean[i]);
        }
    }
    /* The lower triangle by rows is the upper one by columns. */
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, (int)n, (int)n_rows, 1 / (double)n_rows, c,
                (int)n, 0, v, (int)n);
    SHOAL_TRY(eigen(n, v, w, err));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_rows, (int)n, (int)n, 1, c, (int)n,
                v, (int)n, 0, y, (int)n);
    for (size_t i = 0; i < n_rows * n; i++) {
        x[i / n * stride + i % n] = (float)y[i];
    }
    f->base = fmax(f->base, 2 * sqrt(fmax(w[n - 1], 0)));
    return SHOAL_OK;
}

/* --- steps ------------------------------------------------------------------------------------ */

/* Entropy of the codes and error of one component under one step. */
static void judge(const float *y, size_t n, size_t stride, double step, uint32_t *counts,
                  double *ret_bits, double *ret_harm)
{
    double harm = 0;
    memset(counts, 0, (2 * SHOAL_ARCHIVE_CODE_FAR + 1) * sizeof *counts);
    for (size_t r = 0; r < n; r++) {
        double v = (double)y[r * stride];
        int code = code_of(v, step);
        double e = v - code * step;
        harm += e * e / (double)n;
        counts[code + SHOAL_ARCHIVE_CODE_FAR]++;
    }
    double bits = 0;
    for (size_t i = 0; i < 2 * SHOAL_ARCHIVE_CODE_FAR + 1; i++) {
        bits -= counts[i] ? counts[i] * log2((double)counts[i] / (double)n) / (double)n : 0;
    }
    *ret_bits = bits;
    *ret_harm = harm;
}

static shoal_status judge_all(fit *f)
{
    size_t n = f->rows->n_channels;
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint32_t *counts = shoal_calloc(2 * SHOAL_ARCHIVE_CODE_FAR + 1, sizeof *counts);
    if (!counts) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        const float *y = f->rows->x + i;
        double power = 0;
        for (size_t r = 0; r < f->rows->n; r++) {
            power += (double)y[r * n] * (double)y[r * n] / (double)f->rows->n;
        }
        f->harms[i * CHOICES] = power;
        for (size_t c = 1; c < CHOICES; c++) {
            double bits = 0;
            judge(y, f->rows->n, n, step_of(f, c), counts, &bits, &f->harms[i * CHOICES + c]);
            f->rates[i * CHOICES + c] = (uint32_t)ceil(bits * UNITS);
        }
    }
    return SHOAL_OK;
}

/* Units that n channels take where a unit is worth slope. */
static size_t spend(const fit *f, size_t first, size_t n, double slope)
{
    size_t units = 0;
    for (size_t i = first; i < first + n; i++) {
        size_t best = 0;
        for (size_t c = 1; c < CHOICES; c++) {
            double gain = f->harms[i * CHOICES + best] - f->harms[i * CHOICES + c];
            double more = (double)f->rates[i * CHOICES + c] - (double)f->rates[i * CHOICES + best];
            best = gain > slope * more ? c : best;
        }
        units += f->rates[i * CHOICES + best];
    }
    return units;
}

static shoal_status choose(fit *f)
{
    size_t n = f->rows->n_channels;
    size_t per_layer = shoal_archive_layer_channels(&f->plan->shape);
    double overhead = (double)f->plan->n_groups * UNIT_OVERHEAD_BITS / SHOAL_KV_BLOCK;
    double bits = (double)f->plan->bits * (double)n - overhead;
    size_t budget = bits > 0 ? (size_t)(bits * UNITS) : 0;
    double low = 1e-30;
    double high = 1e30;
    for (int i = 0; i < 200; i++) {
        double slope = sqrt(low * high);
        *(spend(f, 0, n, slope) > budget ? &low : &high) = slope;
    }
    size_t left = budget - SHOAL_MIN(budget, spend(f, 0, n, high));
    size_t first = 0;
    for (size_t g = 0; g < f->plan->n_groups; g++) {
        size_t width = f->plan->groups[g].n_layers * per_layer;
        size_t units = spend(f, first, width, high) + left / f->plan->n_groups;
        SHOAL_TRY(shoal_archive_allocate(width, CHOICES, f->rates + first * CHOICES,
                                         f->harms + first * CHOICES, units, f->choices + first));
        first += width;
    }
    return SHOAL_OK;
}

/* --- the plan --------------------------------------------------------------------------------- */

/* Which table a component's codes go by: that of components that fill as many steps. */
static int32_t table_of(const fit *f, size_t i)
{
    double ratio = sqrt(f->harms[i * CHOICES]) / step_of(f, f->choices[i]);
    double place = round(2 * log2(fmax(ratio, 1e-9))) + TABLE_FIRST;
    return (int32_t)fmin(fmax(place, 0), TABLES - 1);
}

static shoal_status put_group(fit *f, size_t group, size_t first_layer, shoal_err *err)
{
    shoal_archive_plan_group *g = &f->plan->groups[group];
    size_t per_layer = shoal_archive_layer_channels(&f->plan->shape);
    size_t n = g->n_layers * per_layer;
    size_t first = first_layer * per_layer;
    g->analysis = shoal_calloc(n * n, sizeof *g->analysis);
    g->synthesis = shoal_calloc(n * n, sizeof *g->synthesis);
    g->step = shoal_calloc(n, sizeof *g->step);
    g->table = shoal_calloc(n, sizeof *g->table);
    if (!g->analysis || !g->synthesis || !g->step || !g->table) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu components", n);
    }
    for (size_t c = n; c-- > 0;) {
        if (f->choices[first + c] == 0) {
            continue;
        }
        const double *v = f->vectors + f->at[group] + c * n;
        for (size_t i = 0; i < n; i++) {
            double weight = weight_of(f, first_layer + i / per_layer, i % per_layer);
            g->analysis[g->n_kept * n + i] = (float)(v[i] * weight);
            g->synthesis[g->n_kept * n + i] = (float)(v[i] / weight);
        }
        g->step[g->n_kept] = (float)step_of(f, f->choices[first + c]);
        g->table[g->n_kept++] = table_of(f, first + c);
    }
    return g->n_kept > 0
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_INVALID,
                               "--bits %.3g leaves nothing of layers %zu to %zu: ask for more",
                               (double)f->plan->bits, first_layer, first_layer + g->n_layers - 1);
}

/* Frequencies of all codes that share a table, and where each code is best decoded. */
static shoal_status put_tables(const fit *f)
{
    shoal_archive_plan *plan = f->plan;
    size_t n = f->rows->n_channels;
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint64_t *counts = shoal_calloc((size_t)TABLES * SHOAL_ARCHIVE_SYMBOLS, sizeof *counts);
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *sums = shoal_calloc((size_t)TABLES * SHOAL_ARCHIVE_SYMBOLS, sizeof *sums);
    plan->freqs = shoal_calloc((size_t)TABLES * SHOAL_ARCHIVE_SYMBOLS, sizeof *plan->freqs);
    plan->values = shoal_calloc((size_t)TABLES * SHOAL_ARCHIVE_SYMBOLS, sizeof *plan->values);
    if (!counts || !sums || !plan->freqs || !plan->values) {
        return SHOAL_E_NOMEM;
    }
    plan->n_tables = TABLES;
    for (size_t i = 0; i < n; i++) {
        double step = f->choices[i] ? step_of(f, f->choices[i]) : 0;
        size_t at = step > 0 ? (size_t)table_of(f, i) * SHOAL_ARCHIVE_SYMBOLS : 0;
        for (size_t r = 0; step > 0 && r < f->rows->n; r++) {
            double y = (double)f->rows->x[r * n + i];
            int code = code_of(y, step);
            bool small = code >= -SHOAL_ARCHIVE_CODE_MAX && code <= SHOAL_ARCHIVE_CODE_MAX;
            size_t symbol = small ? (size_t)(code + SHOAL_ARCHIVE_CODE_MAX) : SHOAL_ARCHIVE_ESCAPE;
            counts[at + symbol]++;
            sums[at + symbol] += y / step;
        }
    }
    for (size_t t = 0; t < TABLES; t++) {
        uint64_t *row = counts + t * SHOAL_ARCHIVE_SYMBOLS;
        shoal_archive_frequencies(row, plan->freqs + t * SHOAL_ARCHIVE_SYMBOLS);
        for (size_t s = 0; s < SHOAL_ARCHIVE_ESCAPE; s++) {
            /* A few samples say nothing of the middle. */
            double code = (double)s - SHOAL_ARCHIVE_CODE_MAX;
            double mean = row[s] > 20 ? sums[t * SHOAL_ARCHIVE_SYMBOLS + s] / (double)row[s] : code;
            plan->values[t * SHOAL_ARCHIVE_SYMBOLS + s] =
                s == SHOAL_ARCHIVE_CODE_MAX ? 0 : (float)mean;
        }
    }
    return SHOAL_OK;
}

static shoal_status fit_all(fit *f, shoal_err *err)
{
    size_t layer = 0;
    for (size_t g = 0; g < f->plan->n_groups; g++) {
        (void)fprintf(stderr, "kv-calibrate: components of layers %zu to %zu\n", layer,
                      layer + f->plan->groups[g].n_layers - 1);
        SHOAL_TRY(fit_group(f, g, layer, err));
        layer += f->plan->groups[g].n_layers;
    }
    shoal_status status = judge_all(f);
    status = status == SHOAL_OK ? choose(f) : status;
    status = status == SHOAL_OK ? put_tables(f) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "no memory to choose steps");
    }
    layer = 0;
    for (size_t g = 0; g < f->plan->n_groups; g++) {
        SHOAL_TRY(put_group(f, g, layer, err));
        layer += f->plan->groups[g].n_layers;
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_kv_fit(kv_rows *rows, shoal_archive_plan *plan, shoal_err *err)
{
    size_t n = rows->n_channels;
    size_t per_layer = shoal_archive_layer_channels(&plan->shape);
    size_t n_vectors = 0;
    SHOAL_CLEANUP(shoal_free_cleanup) size_t *at = shoal_calloc(plan->n_groups, sizeof *at);
    SHOAL_CLEANUP(shoal_free_cleanup) uint32_t *rates = shoal_calloc(n * CHOICES, sizeof *rates);
    SHOAL_CLEANUP(shoal_free_cleanup) double *harms = shoal_calloc(n * CHOICES, sizeof *harms);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *choices = shoal_calloc(n, sizeof *choices);
    for (size_t g = 0; at && g < plan->n_groups; g++) {
        size_t width = plan->groups[g].n_layers * per_layer;
        at[g] = n_vectors;
        n_vectors += width * width;
        if (rows->n < 2 * width) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%zu tokens are too few for %zu channels: at least %zu, or groups "
                                 "of fewer layers (--group)",
                                 rows->n, width, 2 * width);
        }
    }
    SHOAL_CLEANUP(shoal_free_cleanup) double *vectors = shoal_calloc(n_vectors, sizeof *vectors);
    openblas_set_num_threads(1); /* its threads spin for each other on a machine that is busy */
    if (!at || !rates || !harms || !choices || !vectors) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to fit %zu channels", n);
    }
    fit f = {.rows = rows,
             .plan = plan,
             .vectors = vectors,
             .at = at,
             .rates = rates,
             .harms = harms,
             .choices = choices};
    return fit_all(&f, err);
}

void shoal_forge_kv_plan_fini(shoal_archive_plan *plan)
{
    for (size_t g = 0; plan->groups && g < plan->n_groups; g++) {
        shoal_free(plan->groups[g].mean);
        shoal_free(plan->groups[g].analysis);
        shoal_free(plan->groups[g].synthesis);
        shoal_free(plan->groups[g].step);
        shoal_free(plan->groups[g].table);
    }
    shoal_free(plan->groups);
    shoal_free(plan->freq);
    shoal_free(plan->rope_of);
    shoal_free(plan->freqs);
    shoal_free(plan->values);
}
