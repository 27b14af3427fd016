/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines over models of tiny_arch.h, and the bits that every way of computing is compared with:
 * one token a step, by the scalar tier, on one thread (R2). What fails fails the test.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_ENGINE_H
#define SHOAL_TESTS_SUPPORT_TINY_ENGINE_H

#include "common/engine/engine.h"
#include "tests/support/tiny_model.h"

enum {
    SHOAL_TINY_MASKS_MAX = 8,
    SHOAL_TINY_ROW_BYTES = SHOAL_TINY_VOCAB * (int)sizeof(float)
};

/* A variant of tiny_arch.h in F16. */
shoal_model *shoal_tiny_engine_model(const char *variant);
shoal_engine *shoal_tiny_engine_new(const shoal_model *model,
                                    const shoal_engine_settings *settings);
shoal_kv_seq *shoal_tiny_engine_seq(shoal_engine *engine);
/* Ids of the vocabulary, always the same. */
void shoal_tiny_engine_ids(int32_t *ret_ids, size_t n);
/* Masks of CPU tiers: scalar, then every tier that this machine has on top of those before. */
size_t shoal_tiny_engine_masks(uint32_t ret[SHOAL_TINY_MASKS_MAX]);
/* The logits behind each of n ids. Of the settings the tier and the threads do not count. */
void shoal_tiny_engine_one_by_one(const shoal_model *model, shoal_engine_settings settings,
                                  const int32_t *ids, size_t n, float (*ret)[SHOAL_TINY_VOCAB]);

#endif
