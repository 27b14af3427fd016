/* SPDX-License-Identifier: Apache-2.0
 *
 * Fitting exit policies to rows whose next tier's answer is known. Pure: the same samples give the
 * same numbers on every machine. Threads: any.
 */
#ifndef SHOAL_EXIT_FIT_H
#define SHOAL_EXIT_FIT_H

#include "common/exit/exit.h"

/* One row. Rows of one answer depend on each other, answers do not: a group is an answer, and
 * groups are what the statistics of RISK counts. */
typedef struct shoal_exit_sample {
    shoal_exit_features features;
    uint32_t group; /* 0 .. n_groups - 1, ascending; each has a row */
    bool agrees;    /* the next tier would have said the same */
} shoal_exit_sample;

typedef struct shoal_exit_samples {
    const shoal_exit_sample *rows;
    size_t n;
    size_t n_groups;
} shoal_exit_samples;

typedef struct shoal_exit_fit {
    double risk;  /* share of rows that leaves and does not agree, at most */
    double delta; /* for RISK alone */
    double rate;  /* of PERCENTILE; negative: what the fitted FIXED policy lets go */
} shoal_exit_fit;

/* The policy of a kind that lets most rows go within the risk. FIXED, MARGIN, ENTROPY and LINEAR
 * meet it on these very samples, which promises nothing of others: their threshold was chosen by
 * looking. RISK promises: over draws of the samples, the share of rows of a new answer that leaves
 * and does not agree is above the risk, on average over answers, with probability delta at most.
 * LINEAR keeps weights given in inout_policy when they are not all zero, and else fits its own.
 * SHOAL_E_INVALID without samples; SHOAL_E_NOMEM. */
shoal_status shoal_exit_fit_policy(const shoal_exit_samples *samples, const shoal_exit_fit *fit,
                                   shoal_exit_kind kind, shoal_exit_policy *inout_policy,
                                   shoal_err *err) SHOAL_MUST_CHECK;

/* Weights of a logistic regression of `agrees` on (1, top, gap, depth), a ridge of 1e-3 keeping
 * them finite where the rows are separable or a feature is constant; Newton's method, at most 50
 * steps. Rows that are not sound are left out. The samples may be of several exits together. */
void shoal_exit_fit_logistic(const shoal_exit_samples *samples, shoal_exit_policy *inout_policy);

/* p-value of "the risk is above alpha" when the mean of n losses in [0, 1] was `mean`:
 * the lesser of Hoeffding's and Bentkus' (Bates et al., 2101.02703). In [0, 1]. */
double shoal_exit_risk_p(double mean, size_t n, double alpha);

/* Threshold of top by fixed-sequence testing from the strictest of a fixed grid downward: the last
 * one before a p-value is above delta; SHOAL_EXIT_NEVER when the first one already is. */
float shoal_exit_fit_risk(const shoal_exit_samples *samples, double alpha, double delta);

/* What a policy does to samples, in their order, a state starting at the first. */
typedef struct shoal_exit_outcome {
    double left;      /* share of rows */
    double disagreed; /* share of rows that left and did not agree */
    double risk;      /* the same, averaged over groups: what RISK bounds */
} shoal_exit_outcome;
shoal_exit_outcome shoal_exit_try(const shoal_exit_samples *samples,
                                  const shoal_exit_policy *policy);

#endif
