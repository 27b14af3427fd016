/* SPDX-License-Identifier: Apache-2.0
 *
 * A model and data small enough to train in a test: segments of a fixed walk over a vocabulary
 * from a random begin.
 */
#ifndef SHOAL_TESTS_TRAIN_TOY_H
#define SHOAL_TESTS_TRAIN_TOY_H

#include "common/train/trainer.h"

enum {
    TOY_VOCAB = 23,
    TOY_SEGMENT = 8,
    TOY_SEGMENTS = 5,
    TOY_TOKENS = TOY_SEGMENT * TOY_SEGMENTS,
    TOY_PARTS_MAX = 4
};

typedef struct toy_room {
    int32_t ids[TOY_TOKENS];
    int32_t positions[TOY_TOKENS];
    size_t segments[TOY_SEGMENTS + 1];
    size_t targets[TOY_TOKENS];
    int32_t target_ids[TOY_TOKENS];
    float weights[TOY_TOKENS];
} toy_room;

/* Zeroed memory is a good one. */
typedef struct toy {
    toy_room rooms[TOY_PARTS_MAX];
    uint64_t seed;
    size_t factor;    /* of the walk, 0: 5 */
    float noise;      /* share of the targets that are random tokens */
    size_t n_tokens;  /* 0: all */
    size_t n_targets; /* 0: all */
    shoal_status fails;
    uint64_t fails_at; /* step */
} toy;

/* n_layers layers of width 16, exits after those listed; a function of the seed. */
shoal_params *toy_params(size_t n_layers, const size_t *exits, size_t n_exits, uint64_t seed);
/* A shoal_train_source. */
shoal_status toy_source(void *ctx, uint64_t step, size_t part, shoal_train_batch *ret_batch);
/* Two parts on one thread, Muon, ten steps. */
shoal_trainer_settings toy_settings(void);

#endif
