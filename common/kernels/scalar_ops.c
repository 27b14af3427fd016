/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of the small operations, in plain C, and the door of the scalar tier.
 */
#include "common/kernels/kernels.h"

#include "common/kernels/math.h"
#include "common/kernels/tiers_internal.h"

#include <math.h>

enum {
    N_LANES = 16
};

/* The one shape of every reduction: 16 -> 8 -> 4 -> 2 -> 1, lane j and lane j + half. */
static float tree(float lane[N_LANES])
{
    for (size_t half = N_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] = lane[j] + lane[j + half];
        }
    }
    return lane[0];
}

static void rmsnorm(size_t n, const float *x, const float *w, float eps, float *y)
{
    float lane[N_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lane[i % N_LANES] = fmaf(x[i], x[i], lane[i % N_LANES]);
    }
    float r = 1.0F / sqrtf(tree(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

static void rope(size_t n_heads, size_t head_dim, const float *cos, const float *sin, float *x)
{
    for (size_t head = 0; head < n_heads; head++) {
        for (size_t i = 0; i < head_dim / 2; i++) {
            float *pair = x + head * head_dim + 2 * i;
            float x0 = pair[0];
            float x1 = pair[1];
            pair[0] = fmaf(x0, cos[i], -(x1 * sin[i]));
            pair[1] = fmaf(x0, sin[i], x1 * cos[i]);
        }
    }
}

static void swiglu(size_t n, const float *gate, const float *up, float *y)
{
    for (size_t i = 0; i < n; i++) {
        float silu = gate[i] / (1.0F + shoal_expf(-gate[i]));
        y[i] = silu * up[i];
    }
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = y[i] + x[i];
    }
}

static size_t argmax(size_t n, const float *x, float *ret_max)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (x[i] > x[best] || (isnan(x[best]) && !isnan(x[i]))) {
            best = i;
        }
    }
    *ret_max = x[best];
    return best;
}

static float sum_exp(size_t n, const float *x, float max, float inv_t)
{
    float lane[N_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lane[i % N_LANES] = lane[i % N_LANES] + shoal_expf((x[i] - max) * inv_t);
    }
    return tree(lane);
}

void shoal_kernels_init_scalar(shoal_kernels *kernels)
{
    kernels->tier = "scalar";
    shoal_kernels_scalar_gemm(kernels);
    shoal_kernels_scalar_attend(kernels);
    kernels->rmsnorm = rmsnorm;
    kernels->rope = rope;
    kernels->swiglu = swiglu;
    kernels->add = add;
    kernels->argmax = argmax;
    kernels->sum_exp = sum_exp;
}
