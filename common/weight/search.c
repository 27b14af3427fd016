/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/search_internal.h"

#include <math.h>
#include <stdbool.h>

enum {
    SYMMETRIC_STEPS = 9, /* candidates on each side of the plain scale */
    AFFINE_STEPS = 20,
    TABLE_STEPS = 7,
    N_VALUES = 16
};

void shoal_search_weights(const float *x, size_t n, double *ret_w)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        ret_w[i] = sqrt(mean + (double)x[i] * (double)x[i]);
    }
}

double shoal_search_error(const float *x, const double *w, size_t n, double s, double m, int low,
                          int high)
{
    double inv = s != 0 ? 1 / s : 0;
    double error = 0;
    for (size_t i = 0; i < n; i++) {
        double code = shoal_search_round(((double)x[i] + m) * inv, low, high);
        double d = s * code - m - (double)x[i];
        error += w[i] * d * d;
    }
    return error;
}

/* The element of largest magnitude. */
static double extreme_of(const float *x, size_t n)
{
    double extreme = 0;
    for (size_t i = 0; i < n; i++) {
        extreme = fabs((double)x[i]) > fabs(extreme) ? (double)x[i] : extreme;
    }
    return extreme;
}

/* For given codes the best scale is xl / ll, and it removes xl^2 / ll from the error: the
 * candidate with the largest gain wins. */
double shoal_search_scale(const float *x, const double *w, size_t n, int low, int high)
{
    double extreme = extreme_of(x, n);
    double best = 0;
    double best_gain = 0;
    for (int step = -SYMMETRIC_STEPS; extreme != 0 && step <= SYMMETRIC_STEPS; step++) {
        double inv = ((double)low + 0.1 * step) / extreme;
        double xl = 0;
        double ll = 0;
        for (size_t i = 0; i < n; i++) {
            double code = shoal_search_round((double)x[i] * inv, low, high);
            xl += w[i] * (double)x[i] * code;
            ll += w[i] * code * code;
        }
        if (ll > 0 && xl * xl > best_gain * ll) {
            best_gain = xl * xl / ll;
            best = xl / ll;
        }
    }
    return best;
}

double shoal_search_table(const float *x, const double *w, size_t n, const int8_t *values)
{
    double extreme = extreme_of(x, n);
    double best = 0;
    double best_gain = 0;
    /* The table is not symmetric: the extreme may go to either of its ends. */
    for (int side = 0; extreme != 0 && side < 2; side++) {
        double end = values[side == 0 ? 0 : N_VALUES - 1];
        for (int step = -TABLE_STEPS; step <= TABLE_STEPS; step++) {
            double inv = end * (1 + 0.02 * step) / extreme;
            double xl = 0;
            double ll = 0;
            for (size_t i = 0; i < n; i++) {
                double value = values[shoal_search_nearest((double)x[i] * inv, values)];
                xl += w[i] * (double)x[i] * value;
                ll += w[i] * value * value;
            }
            if (ll > 0 && xl * xl > best_gain * ll) {
                best_gain = xl * xl / ll;
                best = xl / ll;
            }
        }
    }
    return best;
}

typedef struct sums {
    double w, x, l, ll, xl;
} sums;

/* Least squares of x ~ s * l + c under s >= 0, c <= 0; false when the codes are all the same. */
static bool fit(const sums *t, double *ret_s, double *ret_m)
{
    double det = t->w * t->ll - t->l * t->l;
    if (!(det > 0)) {
        return false;
    }
    double s = (t->w * t->xl - t->x * t->l) / det;
    double c = (t->ll * t->x - t->l * t->xl) / det;
    if (c > 0) {
        c = 0;
        s = t->xl / t->ll;
    }
    *ret_s = s;
    *ret_m = -c;
    return s > 0;
}

static bool fit_candidate(const float *x, const double *w, size_t n, double inv, double m, int high,
                          double *ret_s, double *ret_m)
{
    sums t = {0};
    for (size_t i = 0; i < n; i++) {
        double code = shoal_search_round(((double)x[i] + m) * inv, 0, high);
        t.w += w[i];
        t.x += w[i] * (double)x[i];
        t.l += w[i] * code;
        t.ll += w[i] * code * code;
        t.xl += w[i] * code * (double)x[i];
    }
    return fit(&t, ret_s, ret_m);
}

void shoal_search_affine(const float *x, const double *w, size_t n, int high, double *ret_s,
                         double *ret_m)
{
    double least = 0;
    double most = x[0];
    for (size_t i = 0; i < n; i++) {
        least = (double)x[i] < least ? (double)x[i] : least;
        most = (double)x[i] > most ? (double)x[i] : most;
    }
    double best_s = most > least ? (most - least) / high : 0;
    double best_m = -least;
    double best = shoal_search_error(x, w, n, best_s, best_m, 0, high);
    for (int step = 0; best > 0 && most > least && step <= AFFINE_STEPS; step++) {
        double inv = ((double)high - 0.1 * AFFINE_STEPS / 2 + 0.1 * step) / (most - least);
        double s = 0;
        double m = 0;
        if (!fit_candidate(x, w, n, inv, -least, high, &s, &m)) {
            continue;
        }
        double error = shoal_search_error(x, w, n, s, m, 0, high);
        if (error < best) {
            best = error;
            best_s = s;
            best_m = m;
        }
    }
    *ret_s = best_s;
    *ret_m = best_m;
}
