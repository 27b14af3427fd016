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

static void rope(size_t n_heads, size_t stride, size_t n_rot, const float *cos, const float *sin,
                 float *x)
{
    for (size_t head = 0; head < n_heads; head++) {
        for (size_t i = 0; i < n_rot / 2; i++) {
            float *pair = x + head * stride + 2 * i;
            float x0 = pair[0];
            float x1 = pair[1];
            pair[0] = fmaf(x0, cos[i], -(x1 * sin[i]));
            pair[1] = fmaf(x0, sin[i], x1 * cos[i]);
        }
    }
}

static void rope_halves(size_t n_heads, size_t stride, size_t n_rot, const float *cos,
                        const float *sin, float *x)
{
    size_t half = n_rot / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *low = x + head * stride;
        for (size_t i = 0; i < half; i++) {
            float x0 = low[i];
            float x1 = low[half + i];
            low[i] = fmaf(x0, cos[i], -(x1 * sin[i]));
            low[half + i] = fmaf(x0, sin[i], x1 * cos[i]);
        }
    }
}

static void hadamard_span(size_t n, size_t span, float *x)
{
    for (size_t from = 0; from < n; from += 2 * span) {
        for (size_t i = from; i < from + span; i++) {
            float a = x[i];
            float b = x[i + span];
            x[i] = a + b;
            x[i + span] = a - b;
        }
    }
}

static void hadamard(size_t n_heads, size_t n, float *x)
{
    const float s = 1.0F / sqrtf((float)n);
    for (float *end = x + n_heads * n; x < end; x += n) {
        for (size_t span = 1; span < n; span *= 2) {
            hadamard_span(n, span, x);
        }
        for (size_t i = 0; i < n; i++) {
            x[i] = x[i] * s;
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

static void geglu(size_t n, const float *gate, const float *up, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = shoal_geluf(gate[i]) * up[i];
    }
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = y[i] + x[i];
    }
}

static void add_scaled(size_t n, float s, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = fmaf(s, x[i], y[i]);
    }
}

static void softcap(size_t n, float cap, float *x)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = cap * shoal_tanhf(x[i] / cap);
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
    shoal_kernels_scalar_seal(kernels);
    shoal_kernels_scalar_sides(kernels);
    shoal_kernels_scalar_firing(kernels);
    shoal_kernels_scalar_whole(kernels);
    kernels->rmsnorm = rmsnorm;
    kernels->rope = rope;
    kernels->rope_halves = rope_halves;
    kernels->hadamard = hadamard;
    kernels->swiglu = swiglu;
    kernels->geglu = geglu;
    kernels->add = add;
    kernels->add_scaled = add_scaled;
    kernels->softcap = softcap;
    kernels->argmax = argmax;
    kernels->sum_exp = sum_exp;
}
