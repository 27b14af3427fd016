/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: the search for scales when a row is encoded. The error of an element
 * is weighted by w; every number is a double, in which nothing that fits a float overflows. Pure.
 */
#ifndef SHOAL_WEIGHT_SEARCH_INTERNAL_H
#define SHOAL_WEIGHT_SEARCH_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

/* Large elements matter more, but small ones still count: w = sqrt(mean of x^2 + x^2). */
void shoal_search_weights(const float *x, size_t n, double *ret_w);

/* The scale s for x ~ s * code, codes in [low, high], n at most 32: candidates around the one that
 * makes the largest magnitude an extreme code, each fitted by least squares. 0 if all x are 0. */
double shoal_search_scale(const float *x, const double *w, size_t n, int low, int high);

/* The index of the value nearest to v in a rising table of 16; the lower of two, 0 for NaN. */
static inline size_t shoal_search_nearest(double v, const int8_t *values)
{
    /* Four halvings: is v above the middle of two neighbours? */
    size_t i = 0;
    double twice = 2 * v;
    i += twice > values[i + 7] + values[i + 8] ? 8 : 0;
    i += twice > values[i + 3] + values[i + 4] ? 4 : 0;
    i += twice > values[i + 1] + values[i + 2] ? 2 : 0;
    i += twice > values[i] + values[i + 1] ? 1 : 0;
    return i;
}

/* The same for x ~ values[i] * s, a rising table of 16 values. */
double shoal_search_table(const float *x, const double *w, size_t n, const int8_t *values);

/* Scale and floor for x ~ s * code - m, codes in [0, high], s and m not negative; n is a multiple
 * of 4. */
void shoal_search_affine(const float *x, const double *w, size_t n, int high, double *ret_s,
                         double *ret_m);

/* The nearest integer to v, ties to even, within [low, high]; low for NaN. */
static inline double shoal_search_round(double v, double low, double high)
{
    double t = v > low ? v : low;
    t = t < high ? t : high;
    /* Adding 1.5 * 2^52 leaves no bits behind the point; the sum is rounded to nearest even. */
    return (t + 0x1.8p52) - 0x1.8p52;
}

/* Weighted squared error of x ~ s * code - m with the best code in [low, high] for each element;
 * n is a multiple of 4. */
double shoal_search_error(const float *x, const double *w, size_t n, double s, double m, int low,
                          int high);

#endif
