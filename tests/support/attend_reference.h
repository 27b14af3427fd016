/* SPDX-License-Identifier: Apache-2.0
 *
 * What attention should give: one row's head as a plain softmax in float64, over keys and values
 * however they are kept.
 */
#ifndef SHOAL_TESTS_SUPPORT_ATTEND_REFERENCE_H
#define SHOAL_TESTS_SUPPORT_ATTEND_REFERENCE_H

#include "common/kernels/kernels.h"

/* Channel d of token t. */
typedef double attend_element_fn(const void *ctx, size_t t, size_t d);

/* The first position that a row sees; the last is n_tokens + row - 1. */
size_t attend_reference_first(const shoal_attend *a, size_t row);

/* The largest distance of a row's head in a->out from it; NaN where that has one. */
double attend_reference_distance(const shoal_attend *a, size_t row, size_t head,
                                 attend_element_fn *key_at, attend_element_fn *value_at,
                                 const void *ctx);

#endif
