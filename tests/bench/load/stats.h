/* SPDX-License-Identifier: Apache-2.0
 *
 * Samples and what is said about them: quantiles, arrivals of a Poisson process, and the test of
 * Mann and Whitney whether two samples come from one distribution. One thread at a time.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_STATS_H
#define SHOAL_TESTS_BENCH_LOAD_STATS_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LOAD_SAMPLES_MAX = 1 << 24
};

/* A growing list. Zeroed memory is a valid empty one. */
typedef struct load_samples {
    double *values;
    size_t n;
    size_t capacity;
} load_samples;

/* SHOAL_E_NOMEM; SHOAL_E_LIMIT beyond LOAD_SAMPLES_MAX. */
shoal_status load_samples_add(load_samples *samples, double value) SHOAL_MUST_CHECK;
void load_samples_fini(load_samples *samples);
/* The value below which a share in [0, 1] of the samples lies, between neighbours by proportion;
 * NAN without samples. Sorts. */
double load_samples_quantile(load_samples *samples, double share);

/* Seconds to the next arrival of a Poisson process of `rate` a second (above 0). */
double load_poisson_gap(uint64_t *rng, double rate);
/* Uniform in [0, 1). */
double load_uniform(uint64_t *rng);
/* The same from a counter: two keys always give the same number. */
double load_uniform_at(uint64_t key, uint64_t counter);

typedef struct load_rank_test {
    double u;     /* how often a value of a is above one of b, ties as a half */
    double share; /* u / (n_a n_b): 0.5 when neither tends to be larger */
    double z;
    double p; /* two-sided */
} load_rank_test;

/* Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than
 * the other" (1947): normal approximation with the correction for ties and continuity; fit from
 * about 20 samples each. Both lists are sorted. SHOAL_E_INVALID: one is empty. */
shoal_status load_mann_whitney(load_samples *a, load_samples *b,
                               load_rank_test *ret_test) SHOAL_MUST_CHECK;

#endif
