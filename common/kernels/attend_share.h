/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the tiers: the shares of attention (shoal_attend), which follow what a head carries
 * from block to block as its output does. Pure, any thread.
 */
#ifndef SHOAL_KERNELS_ATTEND_SHARE_H
#define SHOAL_KERNELS_ATTEND_SHARE_H

#include "common/kernels/kernels.h"

#include <string.h>

/* Tokens [at, at + n) have weights; those before are corrected. */
static inline void shoal_attend_share(const shoal_attend *a, size_t head, size_t at, size_t n,
                                      float correction, const float *weights)
{
    float *shares = a->shares + head * a->shares_stride;
    for (size_t t = 0; correction != 1.0F && t < at; t++) {
        shares[t] = shares[t] * correction;
    }
    memcpy(shares + at, weights, n * sizeof *shares);
}

static inline void shoal_attend_share_end(const shoal_attend *a, size_t head, float sum)
{
    float *shares = a->shares + head * a->shares_stride;
    for (size_t t = 0; t < a->n_tokens; t++) {
        shares[t] = shares[t] / sum;
    }
}

#endif
