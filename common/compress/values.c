/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of kept elements: scales by groups, codes, f16; and which elements are kept.
 */
#include "common/compress/compress_internal.h"

#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    CANDIDATES = 12 /* scales of either sign */
};

double shoal_half(double x, uint16_t *ret_half)
{
    *ret_half = shoal_f32_to_f16((float)x);
    return (double)shoal_f16_to_f32(*ret_half);
}

static double low_of(const shoal_compressed *c)
{
    bool fours = c->form.mask == SHOAL_MASK_TWO_FOUR && c->form.bits == 4;
    return fours ? -7 : -(double)(1 << (c->form.bits - 1));
}

static double high_of(const shoal_compressed *c)
{
    return (double)((1 << (c->form.bits - 1)) - 1);
}

/* The code whose level is nearest to v. */
static double level_of(const shoal_compressed *c, double v)
{
    const int n = 1 << c->form.bits;
    int at = 0;
    for (int half = n / 2; half > 0; half /= 2) {
        const int8_t *l = c->levels + at + half;
        at += v > ((double)l[-1] + (double)l[0]) / 2 ? half : 0;
    }
    return at - n / 2;
}

static double code_of(const shoal_compressed *c, double w, double scale)
{
    if (c->levels) {
        return level_of(c, scale != 0 ? w / scale : 0);
    }
    double code = scale != 0 ? nearbyint(w / scale) : 0;
    return fmin(fmax(code, low_of(c)), high_of(c));
}

/* The largest magnitude that a code stands for. */
static double reach_of(const shoal_compressed *c)
{
    return c->levels ? 127 : -low_of(c);
}

/* Squared error of n elements under a scale; *ret_best is the scale that least squares gives for
 * their codes. */
static double try_scale(const shoal_compressed *c, size_t row, size_t col, size_t n,
                        const double *w, double scale, double *ret_best)
{
    double error = 0;
    double wq = 0;
    double qq = 0;
    for (size_t i = 0; i < n; i++) {
        if (!shoal_kept(c, row, col + i)) {
            continue;
        }
        double q = shoal_code_value(c, (int)code_of(c, w[i], scale));
        error += (w[i] - q * scale) * (w[i] - q * scale);
        wq += w[i] * q;
        qq += q * q;
    }
    *ret_best = qq > 0 ? wq / qq : scale;
    return error;
}

void shoal_values_scale(shoal_compressed *c, size_t row, size_t col, size_t n, const double *w)
{
    double most = 0;
    if (c->halves) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        most = shoal_kept(c, row, col + i) ? fmax(most, fabs(w[i])) : most;
    }
    /* The code of greatest magnitude is negative, so both signs of a scale are worth a try. */
    uint16_t best = 0;
    double best_error = (double)INFINITY;
    for (size_t i = 0; i < 2 * CANDIDATES; i++) {
        double share = 1.05 - 0.05 * (double)(i / 2);
        double scale = (i % 2 ? -1 : 1) * share * most / reach_of(c);
        double fitted = scale;
        uint16_t half = 0;
        (void)try_scale(c, row, col, n, w, scale, &fitted);
        fitted = shoal_half(fitted, &half);
        double error = try_scale(c, row, col, n, w, fitted, &scale);
        if (isfinite(fitted) && error < best_error) {
            best_error = error;
            best = half;
        }
    }
    c->scales[row * c->n_groups + col / c->form.group] = best;
}

double shoal_values_get(const shoal_compressed *c, size_t row, size_t col)
{
    size_t at = row * c->n_cols + col;
    if (c->halves) {
        return (double)shoal_f16_to_f32(c->halves[at]);
    }
    return shoal_code_value(c, c->codes[at]) *
           (double)shoal_f16_to_f32(c->scales[row * c->n_groups + col / c->form.group]);
}

double shoal_values_put(shoal_compressed *c, size_t row, size_t col, double w)
{
    size_t at = row * c->n_cols + col;
    if (c->halves) {
        /* What is handed on may grow past what an f16 holds. */
        return shoal_half(fmin(fmax(w, -SHOAL_HALF_MAX), SHOAL_HALF_MAX), &c->halves[at]);
    }
    double scale = (double)shoal_f16_to_f32(c->scales[row * c->n_groups + col / c->form.group]);
    c->codes[at] = (int8_t)code_of(c, w, scale);
    return shoal_code_value(c, c->codes[at]) * scale;
}

void shoal_values_put_all(shoal_compressed *c, const double *w)
{
    size_t group = c->codes ? c->form.group : c->n_cols;
    for (size_t row = 0; row < c->n_rows; row++) {
        const double *x = w + row * c->n_cols;
        for (size_t col = 0; col < c->n_cols; col++) {
            if (col % group == 0) {
                shoal_values_scale(c, row, col, SHOAL_MIN(group, c->n_cols - col), x + col);
            }
            if (shoal_kept(c, row, col)) {
                (void)shoal_values_put(c, row, col, x[col]);
            }
        }
    }
}

void shoal_values_clear(shoal_compressed *c)
{
    size_t n = c->n_rows * c->n_cols;
    if (c->codes) {
        memset(c->codes, 0, n * sizeof *c->codes);
    }
    if (c->halves) {
        memset(c->halves, 0, n * sizeof *c->halves);
    }
    if (c->kept) {
        memset(c->kept, 0, c->n_rows * ((c->n_cols + 7) / 8));
    }
}

double shoal_values_largest(double *x, size_t n_all, size_t n)
{
    size_t low = 0;
    size_t high = n_all;
    while (high - low > 1) {
        double pivot = x[low + (high - low) / 2];
        size_t i = low;
        size_t greater = low;
        size_t less = high;
        while (i < less) { /* greater, equal, less */
            double v = x[i];
            if (v > pivot) {
                x[i++] = x[greater];
                x[greater++] = v;
            } else if (v < pivot) {
                x[i] = x[--less];
                x[less] = v;
            } else {
                i++;
            }
        }
        if (n < greater) {
            high = greater;
        } else if (n < less) {
            return pivot;
        } else {
            low = less;
        }
    }
    return x[low];
}

void shoal_values_keep_share(shoal_compressed *c, size_t row, size_t col, const double *score,
                             size_t n)
{
    const shoal_share share = shoal_mask_share(c->form.mask);
    SHOAL_ASSERT(share.of > 0);
    for (size_t i = 0; i < n; i++) {
        size_t begin = i / share.of * share.of;
        size_t better = 0;
        for (size_t j = begin; j < SHOAL_MIN(begin + share.of, n); j++) {
            better += score[j] > score[i] || (j < i && score[j] >= score[i]);
        }
        shoal_keep(c, row, col + i, better < share.n_keep);
    }
}
