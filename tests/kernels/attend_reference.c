/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/attend_reference.h"

#include <assert.h>
#include <math.h>

enum {
    TOKENS_MAX = 4096
};

size_t attend_reference_first(const shoal_attend *a, size_t row)
{
    size_t end = a->n_tokens + row;
    return a->window > 0 && end > a->window ? end - a->window : 0;
}

double attend_reference_distance(const shoal_attend *a, size_t row, size_t head,
                                 attend_element_fn *key_at, attend_element_fn *value_at,
                                 const void *ctx)
{
    static double p[TOKENS_MAX];
    const float *q = a->q + row * a->q_stride + head * a->k_dim;
    const float *out = a->out + row * a->out_stride + head * a->v_dim;
    const size_t first = attend_reference_first(a, row);
    const size_t end = a->n_tokens + row;
    double max = (double)-INFINITY;
    assert(end <= TOKENS_MAX);
    for (size_t t = first; t < end; t++) {
        p[t] = 0;
        for (size_t d = 0; d < a->k_dim; d++) {
            p[t] += (double)q[d] * key_at(ctx, t, d);
        }
        p[t] *= (double)a->scale;
        if (a->softcap > 0) {
            p[t] = (double)a->softcap * tanh(p[t] / (double)a->softcap);
        }
        max = fmax(max, p[t]);
    }
    double sum = 0;
    for (size_t t = first; t < end; t++) {
        p[t] = exp(p[t] - max);
        sum += p[t];
    }
    double worst = 0;
    for (size_t d = 0; d < a->v_dim; d++) {
        double want = 0;
        for (size_t t = first; t < end; t++) {
            want += p[t] / sum * value_at(ctx, t, d);
        }
        double off = fabs(want - (double)out[d]);
        worst = off <= worst ? worst : off; /* NaN is worst */
    }
    return worst;
}
