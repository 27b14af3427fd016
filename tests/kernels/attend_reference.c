/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/attend_reference.h"

#include <assert.h>
#include <math.h>

enum {
    TOKENS_MAX = 4096
};

double attend_reference_distance(const attend_reference *r, const float *out)
{
    static double p[TOKENS_MAX];
    double max = (double)-INFINITY;
    assert(r->end <= TOKENS_MAX);
    for (size_t t = r->first; t < r->end; t++) {
        p[t] = 0;
        for (size_t d = 0; d < r->k_dim; d++) {
            p[t] += (double)r->q[d] * r->key_at(r->ctx, t, d);
        }
        p[t] *= (double)r->scale;
        if (r->softcap > 0) {
            p[t] = (double)r->softcap * tanh(p[t] / (double)r->softcap);
        }
        max = fmax(max, p[t]);
    }
    double sum = 0;
    for (size_t t = r->first; t < r->end; t++) {
        p[t] = exp(p[t] - max);
        sum += p[t];
    }
    double worst = 0;
    for (size_t d = 0; d < r->v_dim; d++) {
        double want = 0;
        for (size_t t = r->first; t < r->end; t++) {
            want += p[t] / sum * r->value_at(r->ctx, t, d);
        }
        double off = fabs(want - (double)out[d]);
        worst = off <= worst ? worst : off; /* NaN is worst */
    }
    return worst;
}
