/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompts made from a seed, and the continuation that the node gave each of them when it was asked
 * alone: what every later answer is held against (R1, R2), and what a synthetic edge drafts from.
 * Kept in a file, so that many runs share one recording. One thread; read-only while a load runs.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_TRUTH_H
#define SHOAL_TESTS_BENCH_LOAD_TRUTH_H

#include "common/base/macros.h"
#include "protocol/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LOAD_ITEMS_MAX = 1 << 20,
    LOAD_BANNED_MAX = 8
};

typedef struct load_range {
    size_t low;
    size_t high;
} load_range;

typedef struct load_truth_settings {
    size_t n_items;    /* different prompts, 1..LOAD_ITEMS_MAX */
    load_range prompt; /* tokens of a prompt, at least 1 */
    size_t n_shared;   /* of those, the first so many are equal in all */
    load_range out;    /* tokens asked for, at least 1 */
    float temperature; /* of every item; each has a noise seed of its own */
    uint64_t seed;
    int32_t banned[LOAD_BANNED_MAX]; /* ids whose logits get -100, end tokens for instance */
    size_t n_banned;
} load_truth_settings;

typedef struct load_item {
    int32_t *ids; /* [n_prompt + n_out_max]: prompt, then the recorded continuation */
    size_t n_prompt;
    size_t n_out_max; /* tokens asked for */
    size_t n_out;     /* tokens that came: less after an end token; 0: not recorded */
    uint64_t seed;    /* of its sampling */
} load_item;

typedef struct load_truth {
    load_truth_settings settings;
    shoal_describe describe; /* of the node that is asked */
    load_item *items;
    shoal_logit_bias biases[LOAD_BANNED_MAX];
} load_truth;

/* Makes the prompts. SHOAL_E_INVALID names what does not fit the model. */
shoal_status load_truth_new(const load_truth_settings *settings, const shoal_describe *describe,
                            load_truth **ret_truth, shoal_err *err) SHOAL_MUST_CHECK;
void load_truth_free(load_truth *truth);
SHOAL_DEFINE_CLEANUP(load_truth, load_truth_free)

shoal_sampling load_truth_sampling(const load_truth *truth, const load_item *item);

/* SHOAL_E_NOTFOUND: no such file. SHOAL_E_MISMATCH: recorded with other settings or another model.
 * A broken file is SHOAL_E_INVALID with its line. */
shoal_status load_truth_read(load_truth *truth, const char *path, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status load_truth_write(const load_truth *truth, const char *path,
                              shoal_err *err) SHOAL_MUST_CHECK;

#endif
