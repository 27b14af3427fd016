/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge plan: what a model costs and is worth at a size it was not made in yet.
 *
 * A law is fitted to reports of `compress` that used one recipe and one KV level at several sizes.
 * Loss is what the full model's own words cost the small one more than the full one: the divergence
 * of the next token's distribution, in nats a token. It falls exponentially with bits P of a
 * weight:
 *
 *   loss(P) = C exp(-P / gamma)
 *
 * the law of post-training quantisation of Kumar et al. 2024, "Scaling Laws for Precision"
 * (2411.04330, section 3: delta = C_T (D^gamma_D / N^gamma_N) exp(-P / gamma_post)), whose factors
 * of parameters N and tokens D are constants where the model is one. C and gamma are the least
 * squares of log loss over P. Time of a token is a line in P, as a memory-bound step is. What is
 * promised is the fit and twice the largest distance of a point it was fitted to, and only between
 * the smallest and the largest of these: the law is not believed outside.
 *
 * Pure, any thread.
 */
#ifndef SHOAL_FORGE_SCALING_H
#define SHOAL_FORGE_SCALING_H

#include <stdbool.h>
#include <stddef.h>

enum {
    FORGE_SCALING_POINTS_MIN = 3, /* of different sizes, for a law */
    FORGE_SCALING_POINTS_MAX = 256,
    FORGE_SCALING_THREADS_MAX = 8,
    FORGE_SCALING_STEPS = 64 /* sizes between two ends that are weighed */
};

/* A model that was made. */
typedef struct forge_scaling_point {
    double bits;                          /* of a weight, everything counted; above 0 */
    double loss;                          /* nats, at least 0 */
    double ms[FORGE_SCALING_THREADS_MAX]; /* of a token; 0: not known */
} forge_scaling_point;

typedef struct forge_scaling_law {
    double log_c;
    double gamma;  /* bits that divide the loss by e; above 0 */
    double spread; /* largest distance of a point in log loss */
    double ms_at_0[FORGE_SCALING_THREADS_MAX];
    double ms_per_bit[FORGE_SCALING_THREADS_MAX];
    double ms_spread[FORGE_SCALING_THREADS_MAX]; /* largest distance; below 0: no times */
    double bits_min;
    double bits_max;
} forge_scaling_law;

/* False where these points have no law: fewer than FORGE_SCALING_POINTS_MIN sizes with a loss above
 * what a text of some thousand tokens tells from 0, or a loss that does not fall. */
bool shoal_forge_scaling_fit(const forge_scaling_point *points, size_t n, size_t n_threads,
                             forge_scaling_law *ret_law);
/* What is promised of a size within the law's ends. */
double shoal_forge_scaling_loss(const forge_scaling_law *law, double bits);
double shoal_forge_scaling_ms(const forge_scaling_law *law, size_t thread_i, double bits);

/* One thing that could be run. */
typedef struct forge_choice {
    size_t family;   /* the caller's */
    size_t report;   /* the caller's; SIZE_MAX: of the law */
    size_t thread_i; /* the caller's, ascending in threads */
    double bits;
    double ram_mib;
    double ms;      /* 0: not known */
    double quality; /* exp(-loss), (0, 1]: 1 is the full model's */
} forge_choice;

/* 0: any. */
typedef struct forge_limits {
    double ram_mib;
    double ms;
    double quality;
} forge_limits;

/* How far a choice is from the limit that it misses most, as a share of it; 0: it meets all. What
 * is not known meets nothing. */
double shoal_forge_choice_miss(const forge_choice *choice, const forge_limits *limits);
/* The best of n choices, at least one: of those that meet the limits the one of highest quality, of
 * equals fewest bits, then fewest threads; where none does, the one that misses least. */
size_t shoal_forge_choose(const forge_choice *choices, size_t n, const forge_limits *limits,
                          bool *ret_meets);

#endif
