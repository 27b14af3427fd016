/* SPDX-License-Identifier: Apache-2.0
 *
 * Gumbel noise as a pure function of (seed, position, token).
 *
 * Philox4x32-10 runs with key = the seed's halves, low first, and the counter
 *   { position low, position high, token / 4, SHOAL_NOISE_DOMAIN };
 * token % 4 picks the output word x. Then u = (x + 1/2) * 2^-32 and g = -log(-log(u)).
 *
 * u is formed in double precision, where it is exact and strictly inside (0, 1). In binary32,
 * x + 1/2 would round up to 2^32 for the largest words and make g infinite; worse, the upper tail
 * of g, which decides who wins, would have steps of 2^-24 in -log(u), so that a token with a
 * probability below about 1e-7 could not be drawn at its rate. The inner logarithm is therefore
 * the double one; the outer one needs no more than binary32. Both have the same bits everywhere.
 */
#include "common/sample/sample_internal.h"

#include "common/base/rng.h"
#include "common/kernels/math.h"

shoal_noise shoal_noise_at(uint64_t seed, uint64_t position)
{
    return (shoal_noise){.key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
                         .position = {(uint32_t)position, (uint32_t)(position >> 32)}};
}

void shoal_noise_block(const shoal_noise *noise, uint32_t block, uint32_t ret_words[4])
{
    const uint32_t counter[4] = {noise->position[0], noise->position[1], block, SHOAL_NOISE_DOMAIN};
    shoal_philox4x32_10(counter, noise->key, ret_words);
}

float shoal_noise_gumbel(uint32_t word)
{
    double u = ((double)word + 0.5) * 0x1p-32;
    return -shoal_logf((float)-shoal_logd(u));
}

float shoal_noise_bound(uint32_t word)
{
    /* With v = 1 - u: -log(1 - v) >= v, so g <= -log(v). v is (~word + 1/2) * 2^-32, at least
     * 2^-(z + 1) where z counts the leading zeros of ~word, so g <= (z + 1) log 2. The last term
     * covers the rounding of the logarithms, some 1e-5 at most. */
    uint32_t v = ~word;
    int zeros = v == 0 ? 32 : __builtin_clz(v);
    return (float)(zeros + 1) * 0.6931472f + 1e-4f;
}

float shoal_sample_gumbel(uint64_t seed, uint64_t position, int32_t token)
{
    shoal_noise noise = shoal_noise_at(seed, position);
    uint32_t words[4];
    shoal_noise_block(&noise, (uint32_t)token / 4, words);
    return shoal_noise_gumbel(words[(uint32_t)token % 4]);
}
