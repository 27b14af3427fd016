/* SPDX-License-Identifier: Apache-2.0 */
#include "common/exit/exit.h"

#include "common/kernels/math.h"

#include <math.h>

enum {
    N_LANES = 16
};

/* Largest of all but one element. */
static float second_best(const shoal_kernels *kernels, const float *x, size_t n, size_t best)
{
    float below = -INFINITY;
    float above = -INFINITY;
    if (best > 0) {
        (void)kernels->argmax(best, x, &below);
    }
    if (best + 1 < n) {
        (void)kernels->argmax(n - best - 1, x + best + 1, &above);
    }
    return SHOAL_MAX(below, above);
}

/* -sum p log p = log s - sum e^z z / s with z = x - max, in the 16 lanes of every reduction. */
static float entropy_of(const float *x, size_t n, float max, float sum)
{
    float lane[N_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        float z = x[i] - max;
        float e = shoal_expf(z);
        if (e > 0) { /* a masked token is -inf and adds nothing */
            lane[i % N_LANES] = fmaf(e, z, lane[i % N_LANES]);
        }
    }
    for (size_t half = N_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] = lane[j] + lane[j + half];
        }
    }
    float entropy = shoal_logf(sum) - lane[0] / sum;
    return entropy > 0 ? entropy : 0;
}

void shoal_exit_measure(const shoal_kernels *kernels, const float *logits, size_t n_vocab,
                        float depth, bool entropy, shoal_exit_features *ret_features)
{
    float max = -INFINITY;
    size_t best = kernels->argmax(n_vocab, logits, &max);
    *ret_features = (shoal_exit_features){
        .id = (int32_t)best, .top = 0, .gap = 0, .entropy = (float)NAN, .depth = depth};
    if (!isfinite(max)) {
        return;
    }
    float sum = kernels->sum_exp(n_vocab, logits, max, 1.0F);
    if (!isfinite(sum)) {
        return; /* a NaN among them */
    }
    float second = second_best(kernels, logits, n_vocab, best);
    ret_features->sound = true;
    ret_features->top = 1.0F / sum;
    ret_features->gap = (1.0F - shoal_expf(second - max)) / sum;
    if (entropy) {
        ret_features->entropy = entropy_of(logits, n_vocab, max, sum);
    }
}
