/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers by which models are judged, and nothing about models: functions of counts, logits
 * and texts. Pure, any thread. The unit tests compute every one of them by hand.
 *
 * Texts are bytes; letters, white space and punctuation are those of ASCII.
 */
#ifndef SHOAL_FORGE_METRICS_H
#define SHOAL_FORGE_METRICS_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FORGE_BLEU_ORDERS = 4,
    FORGE_WORDS_MAX = 65535 /* words of two texts that are compared */
};

/* --- counts and means ----------------------------------------------------------------------------
 */

/* A value with the ends of its 95 % interval. */
typedef struct forge_interval {
    double value;
    double low;
    double high;
} forge_interval;

/* The share n_right of n, with the score interval of Wilson (1927); n = 0 gives 0 in [0, 1]. */
forge_interval shoal_forge_wilson(size_t n_right, size_t n);
/* sum w x / sum w over n values with weights of at least 0. The interval is the normal
 * approximation for a ratio: variance n / (n - 1) * sum (w (x - mean))^2 / (sum w)^2. Without two
 * values of positive weight it is as wide as can be; the mean of nothing is 0. */
forge_interval shoal_forge_weighted_mean(const double *values, const double *weights, size_t n);
/* (1 - tv) / (1 + tv): what coupled samples of two distributions at this total variation agree on
 * at least, when noise is shared by Gumbel's maximum (Daliri et al., 2408.07978). */
double shoal_forge_coupling_bound(double tv);

/* --- logits --------------------------------------------------------------------------------------
 */

/* What one row of logits says about the token that should follow. */
typedef struct forge_judged {
    int32_t argmax; /* lowest id of the largest logit; NaN never wins */
    double nll;     /* -log softmax(logits)[target]; NaN when a logit is */
    double top;     /* softmax(logits)[argmax] */
} forge_judged;

/* n at least 1, target in [0, n). Sums are in double. */
forge_judged shoal_forge_judge(const float *logits, size_t n, int32_t target);
/* Half the L1 distance of the two softmaxes at a temperature above 0. work: [2 * n]. */
double shoal_forge_total_variation(const float *a, const float *b, size_t n, double temperature,
                                   double *work);
/* exp of the mean; 0 when there is nothing to judge. */
double shoal_forge_perplexity_of(double nll_sum, size_t n);

/* --- texts ---------------------------------------------------------------------------------------
 */

/* F1 of the two bags of words, normalised as SQuAD does (Rajpurkar et al., 1606.05250): lower case,
 * punctuation deleted, then the words a, an and the dropped. Two empty bags agree (1), an empty
 * one agrees with no other (0). SHOAL_E_LIMIT past FORGE_WORDS_MAX. */
shoal_status shoal_forge_token_f1(const char *reference, const char *answer,
                                  double *ret_f1) SHOAL_MUST_CHECK;

/* Sums of corpus BLEU; zeroed memory is an empty corpus. */
typedef struct forge_bleu {
    uint64_t n_matches[FORGE_BLEU_ORDERS]; /* clipped by the reference's count */
    uint64_t n_grams[FORGE_BLEU_ORDERS];   /* of the answers */
    uint64_t n_answer;                     /* words */
    uint64_t n_reference;
} forge_bleu;

/* Adds one answer with its one reference. Words are separated by white space, and every
 * punctuation character is a word; case counts. SHOAL_E_LIMIT past FORGE_WORDS_MAX. */
shoal_status shoal_forge_bleu_add(forge_bleu *bleu, const char *reference,
                                  const char *answer) SHOAL_MUST_CHECK;
/* Corpus BLEU-4 in [0, 1] with the brevity penalty (Papineni et al., ACL 2002). No smoothing: an
 * order without a match makes it 0. Orders of which the answers have no n-gram at all (every answer
 * is shorter) are left out of the geometric mean. */
double shoal_forge_bleu_score(const forge_bleu *bleu);

#endif
