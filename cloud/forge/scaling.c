/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/scaling.h"

#include <math.h>
#include <stdint.h>

static const double floor_nats = 1e-4; /* below it a loss is chance */

/* Least squares of y over x. False where x has one value. */
static bool fit_line(const double *x, const double *y, size_t n, double *ret_at_0,
                     double *ret_slope)
{
    double mx = 0;
    double my = 0;
    double xx = 0;
    double xy = 0;
    for (size_t i = 0; i < n; i++) {
        mx += x[i] / (double)n;
        my += y[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        xy += (x[i] - mx) * (y[i] - my);
    }
    if (!(xx > 1e-12)) {
        return false;
    }
    *ret_slope = xy / xx;
    *ret_at_0 = my - *ret_slope * mx;
    return true;
}

static double largest_distance(const double *x, const double *y, size_t n, double at_0,
                               double slope)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs(y[i] - at_0 - slope * x[i]));
    }
    return most;
}

static size_t count_sizes(const double *x, size_t n)
{
    size_t n_sizes = 0;
    for (size_t i = 0; i < n; i++) {
        bool seen = false;
        for (size_t j = 0; j < i; j++) {
            seen = seen || fabs(x[i] - x[j]) < 1e-9;
        }
        n_sizes += !seen;
    }
    return n_sizes;
}

static void fit_times(const forge_scaling_point *points, const size_t *used, size_t n,
                      size_t n_threads, const double *x, forge_scaling_law *law)
{
    for (size_t t = 0; t < n_threads; t++) {
        double y[FORGE_SCALING_POINTS_MAX];
        bool known = true;
        for (size_t i = 0; i < n; i++) {
            y[i] = points[used[i]].ms[t];
            known = known && y[i] > 0;
        }
        law->ms_spread[t] = -1;
        if (known && fit_line(x, y, n, &law->ms_at_0[t], &law->ms_per_bit[t])) {
            law->ms_spread[t] = largest_distance(x, y, n, law->ms_at_0[t], law->ms_per_bit[t]);
        }
    }
}

bool shoal_forge_scaling_fit(const forge_scaling_point *points, size_t n, size_t n_threads,
                             forge_scaling_law *ret_law)
{
    double x[FORGE_SCALING_POINTS_MAX];
    double y[FORGE_SCALING_POINTS_MAX];
    size_t used[FORGE_SCALING_POINTS_MAX];
    size_t n_used = 0;
    double slope = 0;
    forge_scaling_law law = {.bits_min = (double)INFINITY};
    for (size_t i = 0; i < n && n_used < FORGE_SCALING_POINTS_MAX; i++) {
        if (points[i].loss > floor_nats) {
            x[n_used] = points[i].bits;
            y[n_used] = log(points[i].loss);
            law.bits_min = fmin(law.bits_min, points[i].bits);
            law.bits_max = fmax(law.bits_max, points[i].bits);
            used[n_used++] = i;
        }
    }
    if (count_sizes(x, n_used) < FORGE_SCALING_POINTS_MIN ||
        !fit_line(x, y, n_used, &law.log_c, &slope) || !(slope < 0)) {
        return false;
    }
    law.gamma = -1 / slope;
    law.spread = largest_distance(x, y, n_used, law.log_c, slope);
    fit_times(points, used, n_used, n_threads, x, &law);
    *ret_law = law;
    return true;
}

double shoal_forge_scaling_loss(const forge_scaling_law *law, double bits)
{
    return exp(law->log_c - bits / law->gamma + 2 * law->spread);
}

double shoal_forge_scaling_ms(const forge_scaling_law *law, size_t thread_i, double bits)
{
    double spread = law->ms_spread[thread_i];
    double ms = law->ms_at_0[thread_i] + law->ms_per_bit[thread_i] * bits + 2 * spread;
    return spread < 0 ? 0 : fmax(ms, 1e-9);
}

/* --- choosing --------------------------------------------------------------------------------- */

double shoal_forge_choice_miss(const forge_choice *c, const forge_limits *limits)
{
    double miss = 0;
    if (limits->ram_mib > 0) {
        miss = fmax(miss, c->ram_mib / limits->ram_mib - 1);
    }
    if (limits->ms > 0) {
        miss = fmax(miss, c->ms > 0 ? c->ms / limits->ms - 1 : (double)INFINITY);
    }
    if (limits->quality > 0) {
        miss = fmax(miss, c->quality > 0 ? limits->quality / c->quality - 1 : (double)INFINITY);
    }
    return miss;
}

static int order(double a, double b)
{
    return (a > b) - (a < b);
}

/* Below 0: a is to be preferred. */
static int compare(const forge_choice *a, const forge_choice *b, const forge_limits *limits)
{
    int by = order(shoal_forge_choice_miss(a, limits), shoal_forge_choice_miss(b, limits));
    by = by ? by : order(b->quality, a->quality);
    by = by ? by : order(a->bits, b->bits);
    return by ? by : order((double)a->thread_i, (double)b->thread_i);
}

size_t shoal_forge_choose(const forge_choice *choices, size_t n, const forge_limits *limits,
                          bool *ret_meets)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        best = compare(&choices[i], &choices[best], limits) < 0 ? i : best;
    }
    *ret_meets = !(shoal_forge_choice_miss(&choices[best], limits) > 0);
    return best;
}
