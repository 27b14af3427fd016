/* SPDX-License-Identifier: Apache-2.0
 *
 * What attention should give: one row's head as a plain softmax in float64, over keys and values
 * however they are kept.
 */
#ifndef SHOAL_TESTS_SUPPORT_ATTEND_REFERENCE_H
#define SHOAL_TESTS_SUPPORT_ATTEND_REFERENCE_H

#include <stddef.h>

typedef struct attend_reference {
    const float *q; /* [k_dim] */
    size_t k_dim;
    size_t v_dim;
    size_t first; /* tokens [first, end) are attended to */
    size_t end;
    float scale;
    float softcap; /* 0: none */
    double (*key_at)(const void *ctx, size_t t, size_t d);
    double (*value_at)(const void *ctx, size_t t, size_t d);
    const void *ctx;
} attend_reference;

/* The largest distance of out [v_dim] from it; NaN where out has one. */
double attend_reference_distance(const attend_reference *r, const float *out);

#endif
