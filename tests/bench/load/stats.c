/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/stats.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <math.h>
#include <stdlib.h>

shoal_status load_samples_add(load_samples *samples, double value)
{
    if (samples->n == samples->capacity) {
        size_t capacity = SHOAL_MAX(2 * samples->capacity, (size_t)1024);
        if (capacity > LOAD_SAMPLES_MAX) {
            return SHOAL_E_LIMIT;
        }
        double *grown = shoal_realloc(samples->values, capacity, sizeof *grown);
        if (!grown) {
            return SHOAL_E_NOMEM;
        }
        samples->values = grown;
        samples->capacity = capacity;
    }
    samples->values[samples->n++] = value;
    return SHOAL_OK;
}

void load_samples_fini(load_samples *samples)
{
    shoal_free(samples->values);
    *samples = (load_samples){0};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(load_samples *samples)
{
    if (samples->n > 0) {
        qsort(samples->values, samples->n, sizeof *samples->values, by_value);
    }
}

double load_samples_quantile(load_samples *samples, double share)
{
    if (samples->n == 0) {
        return (double)NAN;
    }
    sort(samples);
    double at = share * (double)(samples->n - 1);
    size_t low = (size_t)at;
    size_t high = SHOAL_MIN(low + 1, samples->n - 1);
    double rest = at - (double)low;
    return samples->values[low] + rest * (samples->values[high] - samples->values[low]);
}

double load_uniform(uint64_t *rng)
{
    return (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
}

double load_uniform_at(uint64_t key, uint64_t counter)
{
    uint64_t state = key ^ (counter + 1) * 0x9E3779B97F4A7C15U;
    (void)shoal_rng_next(&state);
    return load_uniform(&state);
}

double load_poisson_gap(uint64_t *rng, double rate)
{
    return -log(1.0 - load_uniform(rng)) / rate;
}

/* Walks both sorted lists by value. A group of t equal values shares the mean of its ranks; ties
 * get the sum of t^3 - t over groups, which shrinks the variance. */
static double rank_sum_of_a(const load_samples *a, const load_samples *b, double *ret_ties)
{
    double sum = 0;
    double ties = 0;
    size_t i = 0;
    size_t j = 0;
    while (i < a->n || j < b->n) {
        bool from_a = j == b->n || (i < a->n && a->values[i] <= b->values[j]);
        double value = from_a ? a->values[i] : b->values[j];
        size_t rank = i + j; /* of the group's first, from 0 */
        size_t n_a = 0;
        size_t n_b = 0;
        for (; i < a->n && a->values[i] <= value; i++) {
            n_a++;
        }
        for (; j < b->n && b->values[j] <= value; j++) {
            n_b++;
        }
        double t = (double)(n_a + n_b);
        sum += (double)n_a * ((double)rank + (t + 1) / 2);
        ties += t * t * t - t;
    }
    *ret_ties = ties;
    return sum;
}

shoal_status load_mann_whitney(load_samples *a, load_samples *b, load_rank_test *ret_test)
{
    if (a->n == 0 || b->n == 0) {
        return SHOAL_E_INVALID;
    }
    sort(a);
    sort(b);
    double ties = 0;
    double n_a = (double)a->n;
    double n_b = (double)b->n;
    double n = n_a + n_b;
    double u = rank_sum_of_a(a, b, &ties) - n_a * (n_a + 1) / 2;
    double mean = n_a * n_b / 2;
    double variance = n_a * n_b / 12 * (n + 1 - ties / (n * (n - 1)));
    double off = fabs(u - mean) - 0.5; /* u is a count, the normal distribution is not */
    double z = variance > 0 && off > 0 ? off / sqrt(variance) : 0;
    *ret_test = (load_rank_test){
        .u = u, .share = u / (n_a * n_b), .z = u < mean ? -z : z, .p = erfc(z / sqrt(2.0))};
    return SHOAL_OK;
}
