/* SPDX-License-Identifier: Apache-2.0
 *
 * What sampling does with every token of a vocabulary, sixteen blocks of noise at a time: loops
 * that the compiler turns into vectors, once for each kind of processor. The words are integers and
 * the bounds only say who need not be looked at, so all kinds give the same tokens.
 */
#include "common/sample/sample_internal.h"

#include "common/base/rng.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    BLOCKS = SHOAL_NOISE_GROUP / 4 /* of noise in a group of tokens */
};

#define DRAW_INLINE static inline __attribute__((always_inline))

/* Philox4x32-10 as common/base/rng.c, the counters apart in their third word alone. */
DRAW_INLINE void group_words(const shoal_noise *noise, uint32_t block, uint32_t x[4][BLOCKS])
{
    uint32_t k0 = noise->key[0];
    uint32_t k1 = noise->key[1];
    for (uint32_t i = 0; i < BLOCKS; i++) {
        x[0][i] = noise->position[0];
        x[1][i] = noise->position[1];
        x[2][i] = block + i;
        x[3][i] = SHOAL_NOISE_DOMAIN;
    }
    for (int round = 0; round < SHOAL_PHILOX_ROUNDS; round++) {
        for (size_t i = 0; i < BLOCKS; i++) {
            uint64_t p0 = (uint64_t)SHOAL_PHILOX_M0 * x[0][i];
            uint64_t p1 = (uint64_t)SHOAL_PHILOX_M1 * x[2][i];
            x[0][i] = (uint32_t)(p1 >> 32) ^ x[1][i] ^ k0;
            x[1][i] = (uint32_t)p1;
            x[2][i] = (uint32_t)(p0 >> 32) ^ x[3][i] ^ k1;
            x[3][i] = (uint32_t)p0;
        }
        k0 += SHOAL_PHILOX_W0;
        k1 += SHOAL_PHILOX_W1;
    }
}

/* With v = 1 - u: -log(1 - v) >= v, so g <= -log(v). v is at least f * 2^-24 with f the upper 24
 * bits of ~word, and the bits of f as a float, read as a number, are 2^23 (127 + e + m) for
 * f = 2^e (1 + m), where log2(1 + m) >= m: so g <= (24 - e - m) log 2. The last term covers the
 * rounding of the logarithms and of this, some 2e-5 at most. f = 0 gives more than any noise. */
DRAW_INLINE float bound_of(uint32_t word)
{
    float f = (float)(int32_t)(~word >> 8);
    int32_t bits = 0;
    memcpy(&bits, &f, sizeof bits);
    return (151.0f - (float)bits * 0x1p-23f) * 0.6931472f + 1e-4f;
}

DRAW_INLINE bool group_draw(const shoal_noise *noise, uint32_t block, const float *x,
                            const shoal_draw *draw, uint32_t *ret_words)
{
    const float max = draw->max;
    const float inv_t = draw->inv_t;
    const float least = draw->least;
    unsigned some = 0;
    for (size_t i = 0; i < SHOAL_NOISE_GROUP; i++) {
        some |= (x[i] - max) * inv_t + SHOAL_NOISE_MAX >= least ? 1u : 0u;
    }
    if (some == 0) {
        return false;
    }
    uint32_t words[4][BLOCKS];
    group_words(noise, block, words);
    for (size_t i = 0; i < BLOCKS; i++) {
        for (size_t k = 0; k < 4; k++) {
            ret_words[4 * i + k] = words[k][i];
        }
    }
    some = 0;
    for (size_t i = 0; i < SHOAL_NOISE_GROUP; i++) {
        some |= (x[i] - max) * inv_t + bound_of(ret_words[i]) >= least ? 1u : 0u;
    }
    return some != 0;
}

DRAW_INLINE void clean_all(size_t n, const float *logits, float *ret)
{
    for (size_t i = 0; i < n; i++) {
        float x = logits[i] > FLT_MAX ? FLT_MAX : logits[i];
        ret[i] = x <= FLT_MAX ? x : -INFINITY;
    }
}

#define DRAW_TIER(name, attributes)                                                                \
    attributes static bool name##_group(const shoal_noise *noise, uint32_t block, const float *x,  \
                                        const shoal_draw *draw, uint32_t *ret_words)               \
    {                                                                                              \
        return group_draw(noise, block, x, draw, ret_words);                                       \
    }                                                                                              \
    attributes static void name##_clean(size_t n, const float *logits, float *ret)                 \
    {                                                                                              \
        clean_all(n, logits, ret);                                                                 \
    }                                                                                              \
    static const shoal_draws name##_draws = {.group = name##_group, .clean = name##_clean};

DRAW_TIER(plain, )
#if defined(__x86_64__)
DRAW_TIER(avx2, __attribute__((target("avx2"))))
DRAW_TIER(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

const shoal_draws *shoal_draws_of(const char *tier)
{
#if defined(__x86_64__)
    if (strcmp(tier, "avx512") == 0) {
        return &avx512_draws;
    }
    if (strcmp(tier, "avx2") == 0) {
        return &avx2_draws;
    }
#endif
    (void)tier;
    return &plain_draws;
}
