/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling with counter-based noise (DESIGN section 4): the token at a position is
 *   argmax over the filtered candidates of (logit / T + g(seed, position, token)),
 *   g = -log(-log(u)), u from Philox4x32-10 keyed by the seed; ties go to the lowest id,
 * a pure function of (logits, history, parameters, position), the same on edge and cloud, so a
 * draft is verified by comparing ids and the result is exactly the verifier's own sample (R1).
 * A sampler is scratch memory for one thread at a time; results do not depend on its past.
 */
#ifndef SHOAL_SAMPLE_SAMPLE_H
#define SHOAL_SAMPLE_SAMPLE_H

#include "common/base/macros.h"
#include "common/kernels/kernels.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_BIAS_MAX = 1024,          /* logit_bias entries */
    SHOAL_PENALTY_WINDOW_MAX = 4096 /* tokens of history that penalties look at */
};

typedef struct shoal_logit_bias {
    int32_t id;
    float bias; /* [-100, 100], added to the logit */
} shoal_logit_bias;

typedef struct shoal_sampling {
    float temperature;        /* [0, 10]; 0 is plain argmax */
    float top_p;              /* (0, 1]; 1 keeps all */
    float min_p;              /* [0, 1); 0 keeps all */
    uint32_t top_k;           /* 0 keeps all */
    float repetition_penalty; /* [0.1, 10]; 1 is off */
    float presence_penalty;   /* [-2, 2] */
    float frequency_penalty;  /* [-2, 2] */
    uint32_t penalty_window;  /* last tokens counted, 0..SHOAL_PENALTY_WINDOW_MAX; default 64 */
    uint64_t seed;
    const shoal_logit_bias *biases; /* borrowed, n_biases entries with distinct ids */
    size_t n_biases;
    const uint32_t *allowed; /* bit id % 32 of word id / 32: the only tokens there are; NULL: all */
} shoal_sampling;

/* T = 1, no filter, no penalty, window 64, seed 0. */
shoal_sampling shoal_sampling_default(void);
/* SHOAL_E_INVALID names the field, the value and the range. n_vocab bounds bias ids. */
shoal_status shoal_sampling_check(const shoal_sampling *sampling, size_t n_vocab,
                                  shoal_err *err) SHOAL_MUST_CHECK;

/* Whether the sample is the likeliest token of the raw logits, whatever came before: temperature 0
 * or top_k 1, no penalty, no bias. */
bool shoal_sampling_is_greedy(const shoal_sampling *sampling);

typedef struct shoal_sampler shoal_sampler;
shoal_status shoal_sampler_new(size_t n_vocab, const shoal_kernels *kernels,
                               shoal_sampler **ret_sampler) SHOAL_MUST_CHECK;
void shoal_sampler_free(shoal_sampler *sampler);

typedef struct shoal_sampled {
    int32_t id;
    float confidence; /* softmax probability of id at T = 1 on the raw logits, in [0, 1] */
    float top_gap;    /* probability of the first minus the second candidate, same softmax */
} shoal_sampled;

/* logits: [n_vocab], not changed. history: all tokens before position (prompt and generated),
 * n_history == position. Allocates nothing. NaN logits never win. */
void shoal_sample(shoal_sampler *sampler, const shoal_sampling *sampling, const float *logits,
                  const int32_t *history, size_t n_history, shoal_sampled *ret_sampled);

/* The noise itself, for tests and documentation. */
float shoal_sample_gumbel(uint64_t seed, uint64_t position, int32_t token);

/* --- stop strings ---------------------------------------------------------------------------- */

enum {
    SHOAL_STOPS_MAX = 16,
    SHOAL_STOP_BYTES_MAX = 256
};

/* Finds the first stop string in a text that arrives in pieces; holds back only what may still
 * become one. One thread. */
typedef struct shoal_stop shoal_stop;
shoal_status shoal_stop_new(const char *const *stops, size_t n, shoal_stop **ret_stop,
                            shoal_err *err) SHOAL_MUST_CHECK;
void shoal_stop_free(shoal_stop *stop);
/* Takes n bytes; *ret_safe is how many bytes of everything pushed so far may be shown in all
 * (monotonic). SHOAL_OK; SHOAL_EOF when a stop string was completed: *ret_safe then ends just
 * before it. */
shoal_status shoal_stop_push(shoal_stop *stop, const char *text, size_t n,
                             size_t *ret_safe) SHOAL_MUST_CHECK;

#endif
