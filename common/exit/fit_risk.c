/* SPDX-License-Identifier: Apache-2.0
 *
 * Learn-then-Test (Angelopoulos et al., 2110.01052): a threshold is a hypothesis "its risk is above
 * alpha"; the thresholds whose hypothesis is rejected, all together wrongly with probability delta
 * at most, may be used. The sequence of tests is fixed before the data is seen, from the strictest
 * threshold to the loosest, and ends at the first that fails (fixed-sequence testing), so that no
 * test pays for the others.
 */
#include "common/exit/fit.h"

#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

enum {
    PER_LOG_ODD = 16,
    LOG_ODDS_MAX = 16, /* 1 - 1.1e-7, the last float but one below 1 */
    LOG_ODDS_MIN = -4,
    N_GRID = (LOG_ODDS_MAX - LOG_ODDS_MIN) * PER_LOG_ODD + 3 /* 1 before, 0 behind */
};

#define E 2.718281828459045

/* n times the divergence of a coin of a from one of b: -log of Hoeffding's bound. */
static double divergence(double a, double b)
{
    double left = a > 0 ? a * shoal_logd(a / b) : 0;
    double right = a < 1 ? (1 - a) * shoal_logd((1 - a) / (1 - b)) : 0;
    return left + right;
}

/* P(Bin(n, alpha) <= m): the last term by logarithms, those before it by their ratios. m is below
 * n alpha, so terms fall from the last one on. */
static double binomial_cdf(size_t m, size_t n, double alpha)
{
    double log_term = (double)m * shoal_logd(alpha) + (double)(n - m) * shoal_logd(1 - alpha);
    for (size_t i = 1; i <= m; i++) {
        log_term += shoal_logd((double)(n - m + i) / (double)i);
    }
    double sum = 1;
    double ratio = 1;
    for (size_t k = m; k > 0 && ratio > 1e-17; k--) {
        ratio *= (double)k / (double)(n - k + 1) * (1 - alpha) / alpha;
        sum += ratio;
    }
    return shoal_expd(SHOAL_MAX(log_term + shoal_logd(sum), -700));
}

double shoal_exit_risk_p(double mean, size_t n, double alpha)
{
    if (n == 0 || !(mean < alpha)) {
        return 1;
    }
    double hoeffding = shoal_expd(SHOAL_MAX(-(double)n * divergence(mean, alpha), -700));
    double most = ceil((double)n * mean - 1e-9); /* a sum of shares that is a whole number is one */
    double bentkus = most < (double)n * alpha ? E * binomial_cdf((size_t)most, n, alpha) : 1;
    return SHOAL_MIN(1, SHOAL_MIN(hoeffding, bentkus));
}

static float grid_at(size_t i)
{
    if (i == 0 || i == N_GRID - 1) {
        return i == 0 ? 1.0F : 0.0F;
    }
    double odds = LOG_ODDS_MAX - (double)(i - 1) / PER_LOG_ODD;
    return (float)(1 / (1 + shoal_expd(-odds)));
}

/* The first threshold of the grid, counted from the strictest, that a row passes. */
static size_t first_passed(const float *grid, float top)
{
    size_t low = 0;
    size_t high = N_GRID - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (top >= grid[middle]) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

float shoal_exit_fit_risk(const shoal_exit_samples *samples, double alpha, double delta)
{
    float grid[N_GRID];
    double losses[N_GRID] = {0}; /* what a threshold adds to the sum of those before it */
    for (size_t i = 0; i < N_GRID; i++) {
        grid[i] = grid_at(i);
    }
    for (size_t i = 0; i < samples->n;) {
        size_t end = i;
        while (end < samples->n && samples->rows[end].group == samples->rows[i].group) {
            end++;
        }
        double share = 1 / (double)(end - i);
        for (; i < end; i++) {
            const shoal_exit_sample *row = &samples->rows[i];
            if (row->features.sound && !row->agrees) {
                losses[first_passed(grid, row->features.top)] += share;
            }
        }
    }
    float threshold = SHOAL_EXIT_NEVER;
    double sum = 0;
    for (size_t i = 0; i < N_GRID; i++) {
        sum += losses[i];
        double mean = sum / (double)samples->n_groups;
        if (shoal_exit_risk_p(mean, samples->n_groups, alpha) > delta) {
            break;
        }
        threshold = grid[i];
    }
    return threshold;
}
