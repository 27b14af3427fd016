/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/search_internal.h"

#include <math.h>
#include <stdbool.h>

enum {
    SYMMETRIC_STEPS = 9, /* candidates on each side of the plain scale */
    AFFINE_STEPS = 20,
    TABLE_STEPS = 4,
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

/* Four sums side by side: one alone would wait for its own additions. */
double shoal_search_error(const float *x, const double *w, size_t n, double s, double m, int low,
                          int high)
{
    double inv = s != 0 ? 1 / s : 0;
    double error[4] = {0};
    for (size_t i = 0; i < n; i += 4) {
        for (size_t j = 0; j < 4; j++) {
            double v = (double)x[i + j] + m;
            double d = s * shoal_search_round(v * inv, low, high) - v;
            error[j] += w[i + j] * d * d;
        }
    }
    return (error[0] + error[1]) + (error[2] + error[3]);
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
            double inv = end * (1 + 0.035 * step) / extreme;
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

/* Weighted sums over a sub-block for given codes l. */
typedef struct sums {
    double w, x, xx; /* do not depend on the codes */
    double l, ll, xl;
} sums;

/* Least squares of x ~ s * l + c under s >= 0, c <= 0, and the error it leaves; false when the
 * codes are all the same. */
static bool fit(const sums *t, double *ret_s, double *ret_m, double *ret_error)
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
    *ret_error = t->xx - s * t->xl - c * t->x;
    return s > 0;
}

static void sum_codes(const float *x, const double *w, size_t n, double inv, double m, int high,
                      sums *t)
{
    t->l = 0;
    t->ll = 0;
    t->xl = 0;
    for (size_t i = 0; i < n; i++) {
        double code = shoal_search_round(((double)x[i] + m) * inv, 0, high);
        double wl = w[i] * code;
        t->l += wl;
        t->ll += wl * code;
        t->xl += wl * (double)x[i];
    }
}

void shoal_search_affine(const float *x, const double *w, size_t n, int high, double *ret_s,
                         double *ret_m)
{
    double least = 0;
    double most = (double)x[0];
    sums t = {0};
    for (size_t i = 0; i < n; i++) {
        double v = (double)x[i];
        least = v < least ? v : least;
        most = v > most ? v : most;
        t.w += w[i];
        t.x += w[i] * v;
        t.xx += w[i] * v * v;
    }
    *ret_s = most > least ? (most - least) / high : 0;
    *ret_m = -least;
    double best = shoal_search_error(x, w, n, *ret_s, *ret_m, 0, high);
    for (int step = 0; best > 0 && most > least && step <= AFFINE_STEPS; step++) {
        double inv = ((double)high - 0.1 * AFFINE_STEPS / 2 + 0.1 * step) / (most - least);
        double s = 0;
        double m = 0;
        double error = 0;
        sum_codes(x, w, n, inv, -least, high, &t);
        if (fit(&t, &s, &m, &error) && error < best) {
            best = error;
            *ret_s = s;
            *ret_m = m;
        }
    }
}
