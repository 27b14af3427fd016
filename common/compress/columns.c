/* SPDX-License-Identifier: Apache-2.0
 *
 * Scales of columns: a weight's column is multiplied by s, the input's element divided by it in
 * front of the product (weight/sides.h).
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>

void shoal_columns_centre(size_t n, double *s, uint16_t *ret_halves)
{
    double least = (double)INFINITY;
    double most = 0;
    for (size_t j = 0; j < n; j++) {
        if (s[j] > 0) {
            least = fmin(least, s[j]);
            most = fmax(most, s[j]);
        }
    }
    double middle = most > 0 ? sqrt(least) * sqrt(most) : 1;
    for (size_t j = 0; j < n; j++) {
        double centred = s[j] > 0 ? s[j] / middle : 1;
        s[j] = shoal_half(fmin(fmax(centred, 1e-3), 1e3), &ret_halves[j]);
    }
}

void shoal_columns_put(const shoal_problem *p, const double *s, shoal_compressed *out,
                       double *scratch)
{
    for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
        scratch[i] = p->w[i] * s[i % p->n_cols];
    }
    shoal_values_put_all(out, scratch);
}
