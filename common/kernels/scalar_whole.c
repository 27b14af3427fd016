/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of products of whole numbers, in plain C.
 */
#include "common/kernels/kernels.h"

#include "common/kernels/tiers_internal.h"

#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK
};

static void mul_whole(size_t n_rows, size_t n_pairs, const int16_t *w, size_t stride,
                      const int16_t *x, int32_t *y)
{
    for (size_t r = 0; r < n_rows; r++) {
        uint32_t sums[TOKENS] = {0};
        for (size_t k = 0; k < n_pairs; k++) {
            int a = w[r * stride + 2 * k];
            int b = w[r * stride + 2 * k + 1];
            const int16_t *p = x + k * TOKENS * 2;
            for (size_t t = 0; t < TOKENS; t++) {
                sums[t] += (uint32_t)(a * p[2 * t]) + (uint32_t)(b * p[2 * t + 1]);
            }
        }
        memcpy(y + r * TOKENS, sums, sizeof sums);
    }
}

void shoal_kernels_scalar_whole(shoal_kernels *kernels)
{
    kernels->mul_whole = mul_whole;
}
