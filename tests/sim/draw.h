/* SPDX-License-Identifier: Apache-2.0
 *
 * What a seed decides.
 */
#ifndef SHOAL_TESTS_SIM_DRAW_H
#define SHOAL_TESTS_SIM_DRAW_H

#include "common/base/rng.h"

#include <stdbool.h>
#include <stddef.h>

/* Uniform in [low, high]. */
static inline size_t sim_draw(uint64_t *rng, size_t low, size_t high)
{
    return low + (size_t)(shoal_rng_next(rng) % (high - low + 1));
}

/* True once in n. */
static inline bool sim_chance(uint64_t *rng, size_t n)
{
    return shoal_rng_next(rng) % n == 0;
}

#endif
