/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling parameters come from requests and peers: every field has a range and an error that
 * names it. NaN fails every comparison and is therefore written as "not inside".
 */
#include "common/sample/sample.h"

shoal_sampling shoal_sampling_default(void)
{
    return (shoal_sampling){
        .temperature = 1.0f,
        .top_p = 1.0f,
        .min_p = 0.0f,
        .top_k = 0,
        .repetition_penalty = 1.0f,
        .presence_penalty = 0.0f,
        .frequency_penalty = 0.0f,
        .penalty_window = 64,
        .seed = 0,
        .biases = NULL,
        .n_biases = 0,
    };
}

static shoal_status check_closed(const char *name, float x, float low, float high, shoal_err *err)
{
    if (x >= low && x <= high) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID, "%s is %g; it must lie in [%g, %g]", name, (double)x,
                         (double)low, (double)high);
}

enum {
    SEEN_SLOTS = 2 * SHOAL_BIAS_MAX
};

/* Ids inside the vocabulary and distinct, by a small open-addressing table of indices + 1. */
static shoal_status check_biases(const shoal_sampling *sampling, size_t n_vocab, shoal_err *err)
{
    uint16_t seen[SEEN_SLOTS] = {0};
    for (size_t i = 0; i < sampling->n_biases; i++) {
        shoal_logit_bias bias = sampling->biases[i];
        if (bias.id < 0 || (size_t)bias.id >= n_vocab) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "logit_bias: token %d is outside the vocabulary of %zu", bias.id,
                                 n_vocab);
        }
        if (!(bias.bias >= -100.0f && bias.bias <= 100.0f)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "logit_bias of token %d is %g; it must lie in [-100, 100]",
                                 bias.id, (double)bias.bias);
        }
        uint32_t slot = ((uint32_t)bias.id * 2654435761u) % SEEN_SLOTS;
        while (seen[slot] != 0) {
            if (sampling->biases[seen[slot] - 1].id == bias.id) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "logit_bias names token %d twice; give each id once", bias.id);
            }
            slot = (slot + 1) % SEEN_SLOTS;
        }
        seen[slot] = (uint16_t)(i + 1);
    }
    return SHOAL_OK;
}

shoal_status shoal_sampling_check(const shoal_sampling *sampling, size_t n_vocab, shoal_err *err)
{
    SHOAL_TRY(check_closed("temperature", sampling->temperature, 0.0f, 10.0f, err));
    if (!(sampling->top_p > 0.0f && sampling->top_p <= 1.0f)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "top_p is %g; it must lie in (0, 1]",
                             (double)sampling->top_p);
    }
    if (!(sampling->min_p >= 0.0f && sampling->min_p < 1.0f)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "min_p is %g; it must lie in [0, 1)",
                             (double)sampling->min_p);
    }
    SHOAL_TRY(check_closed("repetition_penalty", sampling->repetition_penalty, 0.1f, 10.0f, err));
    SHOAL_TRY(check_closed("presence_penalty", sampling->presence_penalty, -2.0f, 2.0f, err));
    SHOAL_TRY(check_closed("frequency_penalty", sampling->frequency_penalty, -2.0f, 2.0f, err));
    if (sampling->penalty_window > SHOAL_PENALTY_WINDOW_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "penalty_window is %u tokens; it must be at most %d",
                             sampling->penalty_window, (int)SHOAL_PENALTY_WINDOW_MAX);
    }
    if (sampling->n_biases > SHOAL_BIAS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "logit_bias has %zu entries; at most %d",
                             sampling->n_biases, (int)SHOAL_BIAS_MAX);
    }
    if (sampling->n_biases > 0 && !sampling->biases) {
        return shoal_err_set(err, SHOAL_E_INVALID, "logit_bias has %zu entries but no list",
                             sampling->n_biases);
    }
    return check_biases(sampling, n_vocab, err);
}

bool shoal_sampling_is_greedy(const shoal_sampling *sampling)
{
    bool plain = !(sampling->repetition_penalty < 1.0f) && !(sampling->repetition_penalty > 1.0f);
    for (size_t i = 0; i < sampling->n_biases; i++) {
        plain = plain && !(sampling->biases[i].bias < 0.0f) && !(sampling->biases[i].bias > 0.0f);
    }
    plain = plain && !(sampling->presence_penalty < 0.0f) && !(sampling->presence_penalty > 0.0f);
    plain = plain && !(sampling->frequency_penalty < 0.0f) && !(sampling->frequency_penalty > 0.0f);
    return plain && (!(sampling->temperature > 0.0f) || sampling->top_k == 1);
}
