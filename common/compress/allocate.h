/* SPDX-License-Identifier: Apache-2.0
 *
 * So many bytes for all layers: of each layer's measured points, each a form with its bytes and its
 * error, one is chosen, so that the weighted sum of errors is least and the bytes fit. That is the
 * knapsack problem with multiple choices; it is solved by dynamic programming over the sums that
 * no other sum is better than in both bytes and error (Nemhauser and Ullmann 1969), which is exact
 * as long as no more of them are kept than SHOAL_ALLOCATE_SUMS_MAX. Past that, of sums that differ
 * by less than a share of the budget only the best is kept: the bytes still fit, the sum of errors
 * is then a little above the least, and the result says so.
 *
 * Pure, any thread. The same input gives the same choice.
 */
#ifndef SHOAL_COMPRESS_ALLOCATE_H
#define SHOAL_COMPRESS_ALLOCATE_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_ALLOCATE_LAYERS_MAX = 65536,
    SHOAL_ALLOCATE_POINTS_MAX = 256, /* of a layer */
    SHOAL_ALLOCATE_SUMS_MAX = 16384
};

typedef struct shoal_allocate_point {
    uint64_t bytes;
    double error; /* finite, at least 0 */
} shoal_allocate_point;

typedef struct shoal_allocate_layer {
    const shoal_allocate_point *points; /* in any order */
    size_t n_points;                    /* at least 1 */
    double weight;                      /* of the layer's error in the sum; finite, at least 0 */
} shoal_allocate_layer;

typedef struct shoal_allocation {
    uint64_t bytes;
    double error; /* sum of weight * error */
    bool exact;   /* no other choice that fits has less */
} shoal_allocation;

/* ret_choices [n_layers] gets the place of each layer's chosen point. SHOAL_E_LIMIT where not even
 * the smallest points fit (the error says what would) and past a limit above; SHOAL_E_INVALID for
 * numbers outside their range. */
shoal_status shoal_allocate(const shoal_allocate_layer *layers, size_t n_layers, uint64_t budget,
                            size_t *ret_choices, shoal_allocation *ret_sum,
                            shoal_err *err) SHOAL_MUST_CHECK;

#endif
