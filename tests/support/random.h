/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers as tests want them, each a function of the state alone. Any thread, one state
 * each.
 */
#ifndef SHOAL_TESTS_SUPPORT_RANDOM_H
#define SHOAL_TESTS_SUPPORT_RANDOM_H

#include "common/base/rng.h"

#include <stdint.h>

/* Uniform in [0, 1) and in [-1, 1), exact in float. */
static inline float test_unit(uint64_t *rng)
{
    return (float)(shoal_rng_next(rng) >> 40) * 0x1p-24F;
}

static inline float test_signed(uint64_t *rng)
{
    return test_unit(rng) * 2 - 1;
}

static inline float test_between(uint64_t *rng, float low, float high)
{
    return low + (high - low) * test_unit(rng);
}

/* Uniform in (0, 1): logarithms of it are finite. */
static inline double test_open_unit(uint64_t *rng)
{
    return ((double)(shoal_rng_next(rng) >> 11) + 0.5) * 0x1p-53;
}

/* Mostly ordinary numbers, some zeros, subnormals and large ones. */
static inline float test_awkward(uint64_t *rng)
{
    switch (shoal_rng_next(rng) % 16) {
    case 0:
        return 0.0F;
    case 1:
        return -0.0F;
    case 2:
        return test_signed(rng) * 1e-40F;
    case 3:
        return test_signed(rng) * 1e4F;
    default:
        return test_signed(rng);
    }
}

#endif
