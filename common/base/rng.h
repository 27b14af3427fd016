/* SPDX-License-Identifier: Apache-2.0
 *
 * Philox4x32-10, the counter-based generator (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC11, section 3.3): the output is a pure function of counter and key, so any position
 * can be computed anywhere, in any order. Pure, any thread.
 */
#ifndef SHOAL_BASE_RNG_H
#define SHOAL_BASE_RNG_H

#include <stdint.h>

enum {
    SHOAL_PHILOX_ROUNDS = 10
};
/* Multipliers, and what is added to the key after each round. */
#define SHOAL_PHILOX_M0 0xD2511F53u
#define SHOAL_PHILOX_M1 0xCD9E8D57u
#define SHOAL_PHILOX_W0 0x9E3779B9u
#define SHOAL_PHILOX_W1 0xBB67AE85u

void shoal_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_out[4]);

/* A plain sequential generator for tests and data: SplitMix64 steps. */
static inline uint64_t shoal_rng_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

#endif
