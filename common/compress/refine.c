/* SPDX-License-Identifier: Apache-2.0
 *
 * Refinement: cyclic coordinate descent on the true error, from any state. With G = (W - W') H, the
 * best value of an element, all others held, is what it is now plus G_j / H_jj; the nearest that
 * can be stored is the best that can be stored, since the error is a parabola (QuantEase,
 * 2309.01885). The best scale of a group, its codes q held, is what it is now plus q G / q H q. So
 * no step makes the error greater. Columns go in blocks: G outside a block is brought up to date
 * once for all of it, as in walk.c.
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

typedef struct sweep {
    const shoal_problem *p;
    shoal_compressed *c;
    double *g;      /* (n_rows, n_cols) (W - W') H */
    double *deltas; /* (n_rows, BLOCK) what the block's elements have moved by */
    double gain;    /* by which tr((W - W') H (W - W')^T) has fallen */
} sweep;

/* One element has moved by d: its block's part of G follows. */
static void move(const sweep *k, size_t row, size_t col, size_t begin, size_t end, double d)
{
    double *g = k->g + row * k->p->n_cols;
    const double *h = k->p->h + col * k->p->n_cols;
    k->deltas[row * BLOCK + col - begin] += d;
    for (size_t t = begin; t < end; t++) {
        g[t] -= d * h[t];
    }
}

static double gain_of(double d, double g, double h)
{
    return d * (2 * g - d * h);
}

/* A group's scale, its codes held. Columns [from, to) of a block that begins at begin. */
static void refit_scale(sweep *k, size_t row, size_t from, size_t to, size_t begin, size_t end)
{
    double hq[BLOCK] = {0};
    shoal_compressed *c = k->c;
    size_t n_cols = c->n_cols;
    SHOAL_ASSERT(c->form.group > 0);
    const int8_t *q = c->codes + row * n_cols;
    double *g = k->g + row * n_cols;
    double qg = 0;
    double qhq = 0;
    for (size_t j = from; j < to; j++) {
        if (q[j] != 0) {
            const double *h = k->p->h + j * n_cols;
            qg += q[j] * g[j];
            for (size_t t = begin; t < end; t++) {
                hq[t - begin] += q[j] * h[t];
            }
        }
    }
    for (size_t j = from; j < to; j++) {
        qhq += q[j] * hq[j - begin];
    }
    uint16_t *scale = &c->scales[row * c->n_groups + from / c->form.group];
    uint16_t half = 0;
    double now = (double)shoal_f16_to_f32(*scale);
    double d = qhq > 0 ? shoal_half(now + qg / qhq, &half) - now : 0;
    if (!isfinite(d) || !(gain_of(d, qg, qhq) > 0)) {
        return;
    }
    *scale = half;
    k->gain += gain_of(d, qg, qhq);
    for (size_t t = begin; t < end; t++) {
        g[t] -= d * hq[t - begin];
    }
    for (size_t j = from; j < to; j++) {
        k->deltas[row * BLOCK + j - begin] += d * q[j];
    }
}

/* The values of a block's kept elements, one by one. */
static void refit_values(sweep *k, size_t row, size_t begin, size_t end)
{
    size_t n_cols = k->c->n_cols;
    for (size_t j = begin; j < end; j++) {
        double g = k->g[row * n_cols + j];
        double h = k->p->h[j * n_cols + j];
        if (h <= 0 || !shoal_kept(k->c, row, j)) {
            continue;
        }
        double now = shoal_values_get(k->c, row, j);
        double d = shoal_values_put(k->c, row, j, now + g / h) - now;
        if (d != 0) {
            k->gain += gain_of(d, g, h);
            move(k, row, j, begin, end, d);
        }
    }
}

/* By how much the error falls if one leaves and another takes its place, with the best
 * value for it: what leaves costs its share, and changes what the other must make good. */
static double swap_gain(const sweep *k, size_t row, size_t out, size_t in)
{
    size_t n_cols = k->c->n_cols;
    const double *h = k->p->h + out * n_cols;
    double now = shoal_values_get(k->c, row, out);
    double best = k->p->h[in * n_cols + in];
    double g = k->g[row * n_cols + in] + now * h[in];
    return best > 0 ? g * g / best + gain_of(-now, k->g[row * n_cols + out], h[out]) : 0;
}

/* Swaps them if the value that can be stored gains too. */
static void swap(sweep *k, size_t row, size_t out, size_t in, size_t begin, size_t end)
{
    shoal_compressed *c = k->c;
    size_t n_cols = c->n_cols;
    double now = shoal_values_get(c, row, out);
    double h = k->p->h[in * n_cols + in];
    double g = k->g[row * n_cols + in] + now * k->p->h[out * n_cols + in];
    double next = shoal_values_put(c, row, in, g / h);
    double gain =
        gain_of(-now, k->g[row * n_cols + out], k->p->h[out * n_cols + out]) + gain_of(next, g, h);
    bool better = gain > 0;
    (void)shoal_values_put(c, row, better ? out : in, 0);
    if (better) {
        shoal_keep(c, row, out, false);
        shoal_keep(c, row, in, true);
        k->gain += gain;
        move(k, row, out, begin, end, -now);
        move(k, row, in, begin, end, next);
    }
}

/* Which of every few stay: the best swap of each. */
static void refit_share(sweep *k, size_t row, size_t begin, size_t end)
{
    const size_t of = shoal_mask_share(k->c->form.mask).of;
    for (size_t first = begin; of > 0 && first < end; first += of) {
        size_t last = SHOAL_MIN(first + of, end);
        size_t best_out = last;
        size_t best_in = last;
        double best = 0;
        for (size_t i = first * of; i < last * of; i++) {
            size_t out = i / of;
            size_t in = first + i % of;
            bool can = in < last && shoal_kept(k->c, row, out) && !shoal_kept(k->c, row, in);
            double gain = can ? swap_gain(k, row, out, in) : 0;
            if (gain > best) {
                best = gain;
                best_out = out;
                best_in = in;
            }
        }
        if (best > 0) {
            swap(k, row, best_out, best_in, begin, end);
        }
    }
}

/* Single elements of a block; the row's begin at *at. */
static void refit_singles(sweep *k, size_t row, size_t begin, size_t end, uint32_t *at)
{
    size_t n_cols = k->c->n_cols;
    uint32_t last = k->c->single_begin[row + 1];
    for (; *at < last && k->c->single_cols[*at] < end; ++*at) {
        size_t j = k->c->single_cols[*at];
        double g = k->g[row * n_cols + j];
        double h = k->p->h[j * n_cols + j];
        if (h <= 0) {
            continue;
        }
        double now = (double)shoal_f16_to_f32(k->c->single_values[*at]);
        double next = fmin(fmax(now + g / h, -SHOAL_HALF_MAX), SHOAL_HALF_MAX);
        double d = shoal_half(next, &k->c->single_values[*at]) - now;
        if (d != 0) {
            k->gain += gain_of(d, g, h);
            move(k, row, j, begin, end, d);
        }
    }
}

static void sweep_row(sweep *k, size_t row, size_t begin, size_t end, uint32_t *at)
{
    memset(k->deltas + row * BLOCK, 0, BLOCK * sizeof *k->deltas);
    if (k->c->codes) {
        for (size_t j = begin; j < end; j += k->c->form.group) {
            refit_scale(k, row, j, SHOAL_MIN(j + k->c->form.group, end), begin, end);
        }
    }
    if (!at) {
        refit_share(k, row, begin, end); /* what has come back holds its place */
    }
    if (k->c->form.bits > 0) {
        refit_values(k, row, begin, end);
    }
    if (at) {
        refit_singles(k, row, begin, end, at);
    }
}

/* G outside the block: -= deltas H. */
static void spread(const sweep *k, size_t begin, size_t end, size_t from, size_t to)
{
    size_t n_cols = k->p->n_cols;
    if (from < to) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)k->p->n_rows,
                    (blasint)(to - from), (blasint)(end - begin), -1, k->deltas, BLOCK,
                    k->p->h + begin * n_cols + from, (blasint)n_cols, 1, k->g + from,
                    (blasint)n_cols);
    }
}

static void sweep_all(sweep *k, uint32_t *at)
{
    size_t n_cols = k->p->n_cols;
    k->gain = 0;
    for (size_t row = 0; at && row < k->p->n_rows; row++) {
        at[row] = k->c->single_begin[row];
    }
    for (size_t begin = 0; begin < n_cols; begin += BLOCK) {
        size_t end = SHOAL_MIN(begin + BLOCK, n_cols);
        for (size_t row = 0; row < k->p->n_rows; row++) {
            sweep_row(k, row, begin, end, at ? &at[row] : NULL);
        }
        spread(k, begin, end, 0, begin);
        spread(k, begin, end, end, n_cols);
    }
}

shoal_status shoal_refine(const shoal_problem *p, shoal_compressed *c, size_t n_sweeps)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_ASSERT(!c->column_scales);
    SHOAL_CLEANUP(shoal_free_cleanup) double *scratch = shoal_calloc(2 * n, sizeof *scratch);
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *deltas = shoal_calloc(p->n_rows * BLOCK, sizeof *deltas);
    SHOAL_CLEANUP(shoal_free_cleanup) uint32_t *at = NULL;
    if (c->single_begin) {
        at = shoal_calloc(p->n_rows, sizeof *at);
    }
    if (!scratch || !deltas || (c->single_begin && !at)) {
        return SHOAL_E_NOMEM;
    }
    sweep k = {.p = p, .c = c, .g = scratch, .deltas = deltas};
    double error = shoal_residual(p, c, scratch + n, k.g);
    for (size_t i = 0; i < n_sweeps; i++) {
        sweep_all(&k, at);
        error -= k.gain;
        if (!(k.gain > SHOAL_REFINE_STOP * error)) {
            break;
        }
    }
    return SHOAL_OK;
}
