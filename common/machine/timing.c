/* SPDX-License-Identifier: Apache-2.0 */
#include "common/machine/timing.h"

#include <stdlib.h>
#include <time.h>

static double seconds(bool wall)
{
    struct timespec now = {0};
    (void)clock_gettime(wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double seconds_of(bool wall, shoal_timing_fn *fn, void *context, size_t n_runs)
{
    double start = seconds(wall);
    for (size_t i = 0; i < n_runs; i++) {
        fn(context);
    }
    return seconds(wall) - start;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which a share of the sorted samples lies, between neighbours by proportion. */
static double quantile(const double *sorted, size_t n, double share)
{
    double at = share * (double)(n - 1);
    size_t low = (size_t)at;
    size_t high = low + 1 < n ? low + 1 : low;
    return sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
}

shoal_timing shoal_timing_measure(const shoal_timing_settings *settings, shoal_timing_fn *fn,
                                  void *context)
{
    double once = seconds_of(settings->wall, fn, context, 1);
    for (double spent = once; spent < settings->warmup_s; spent += once) {
        once = seconds_of(settings->wall, fn, context, 1);
    }
    double wanted = once > 0 ? settings->batch_s / once : 1e6;
    size_t n_runs = wanted < 1 ? 1 : wanted > 1e6 ? 1000000 : (size_t)wanted;
    double samples[SHOAL_TIMING_REPEATS_MAX] = {0};
    size_t most = settings->n_repeats_max < SHOAL_TIMING_REPEATS_MAX ? settings->n_repeats_max
                                                                     : SHOAL_TIMING_REPEATS_MAX;
    size_t n = 0;
    for (double spent = 0; n < most && (n < settings->n_repeats_min || spent < settings->total_s);
         n++) {
        double batch = seconds_of(settings->wall, fn, context, n_runs);
        samples[n] = batch / (double)n_runs;
        spent += batch;
    }
    qsort(samples, n, sizeof samples[0], by_value);
    return (shoal_timing){
        .median_s = quantile(samples, n, 0.5),
        .p10_s = quantile(samples, n, 0.1),
        .p90_s = quantile(samples, n, 0.9),
        .n_repeats = n,
        .n_runs = n_runs,
    };
}
