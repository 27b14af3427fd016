/* SPDX-License-Identifier: Apache-2.0
 *
 * Philox4x32-10 as in Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2,
 * 3" (SC11), section 3.3 and table 2 for the constants: ten rounds of two 32x32 -> 64 bit
 * products, the key bumped by Weyl constants between rounds.
 */
#include "common/base/rng.h"

void shoal_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_out[4])
{
    uint32_t x[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k0 = key[0];
    uint32_t k1 = key[1];
    for (int round = 0; round < SHOAL_PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)SHOAL_PHILOX_M0 * x[0];
        uint64_t p1 = (uint64_t)SHOAL_PHILOX_M1 * x[2];
        x[0] = (uint32_t)(p1 >> 32) ^ x[1] ^ k0;
        x[1] = (uint32_t)p1;
        x[2] = (uint32_t)(p0 >> 32) ^ x[3] ^ k1;
        x[3] = (uint32_t)p0;
        k0 += SHOAL_PHILOX_W0;
        k1 += SHOAL_PHILOX_W1;
    }
    for (int i = 0; i < 4; i++) {
        ret_out[i] = x[i];
    }
}
