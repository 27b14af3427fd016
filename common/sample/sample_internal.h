/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: the noise before its logarithms, the candidate list and
 * the filters. Not for other folders. One thread per sampler.
 */
#ifndef SHOAL_SAMPLE_SAMPLE_INTERNAL_H
#define SHOAL_SAMPLE_SAMPLE_INTERNAL_H

#include "common/sample/sample.h"

#include <stdbool.h>

/* --- noise.c --------------------------------------------------------------------------------- */

/* One position's noise: everything of Philox's counter and key but the token. */
typedef struct shoal_noise {
    uint32_t key[2];      /* seed, low half first */
    uint32_t position[2]; /* low half first */
} shoal_noise;

/* No noise is above this: -log(-log(u)) at the largest u, 1 - 2^-33, is 33 log 2 = 22.874. */
#define SHOAL_NOISE_MAX 22.875f

/* "SHGN": keeps this use of Philox apart from any other with the same key. */
#define SHOAL_NOISE_DOMAIN 0x5348474Eu

shoal_noise shoal_noise_at(uint64_t seed, uint64_t position);
/* The random words of tokens 4 * block .. 4 * block + 3. */
void shoal_noise_block(const shoal_noise *noise, uint32_t block, uint32_t ret_words[4]);
/* g of a random word. */
float shoal_noise_gumbel(uint32_t word);
/* At least shoal_noise_gumbel(word), at most log(2) plus a little above it in the upper tail, for
 * the price of counting leading zeros. */
float shoal_noise_bound(uint32_t word);

/* --- draw.c ---------------------------------------------------------------------------------- */

enum {
    SHOAL_NOISE_GROUP = 64 /* tokens whose noise is made at once */
};

/* Where a draw stands: a token's score is (logit - max) * inv_t + g, the best so far is least. */
typedef struct shoal_draw {
    float max;
    float inv_t;
    float least;
} shoal_draw;

/* The loops over a vocabulary, for one kind of processor. */
typedef struct shoal_draws {
    /* Of SHOAL_NOISE_GROUP tokens from 4 * block on, x their logits without NaN: false when none
     * can reach draw->least, else their random words. */
    bool (*group)(const shoal_noise *noise, uint32_t block, const float *x, const shoal_draw *draw,
                  uint32_t *ret_words);
    /* NaN becomes -inf, so that it neither wins nor spoils a sum; +inf becomes the largest number,
     * so that differences stay defined. */
    void (*clean)(size_t n, const float *logits, float *ret_clean);
} shoal_draws;

/* Those of the tier of that name (shoal_kernels), else plain ones; all give the same. */
const shoal_draws *shoal_draws_of(const char *tier);

/* --- filters.c ------------------------------------------------------------------------------- */

typedef struct shoal_candidate {
    float logit; /* after bias and penalties, before the temperature */
    int32_t id;
} shoal_candidate;

struct shoal_sampler {
    size_t n_vocab;
    shoal_kernels kernels; /* a copy: small, and no lifetime to explain */
    const shoal_draws *draws;
    float *work;                 /* [n_vocab] logits being changed */
    shoal_candidate *candidates; /* [n_vocab] */
    uint16_t *counts;            /* [n_vocab], all zero between calls */
};

/* Leaves -inf where a token is not allowed. */
void shoal_filter_allowed(shoal_sampler *sampler, const shoal_sampling *sampling);
/* Adds the logit bias to sampler->work. Ids outside the vocabulary are skipped. */
void shoal_filter_bias(shoal_sampler *sampler, const shoal_sampling *sampling);
/* Repetition, presence and frequency penalties on sampler->work, over the window. */
void shoal_filter_penalties(shoal_sampler *sampler, const shoal_sampling *sampling,
                            const int32_t *history, size_t n_history);
/* True when top-k, top-p or min-p can remove anything. */
bool shoal_filter_is_on(const shoal_sampler *sampler, const shoal_sampling *sampling);
/* Leaves the survivors of top-k, top-p and min-p, in no particular order, at *ret_kept inside
 * sampler->candidates; returns their number, at least 1. max is the largest of sampler->work,
 * finite; inv_t is 1 / temperature. */
size_t shoal_filter_select(shoal_sampler *sampler, const shoal_sampling *sampling, float max,
                           float inv_t, const shoal_candidate **ret_kept);

#endif
