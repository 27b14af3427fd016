/* SPDX-License-Identifier: Apache-2.0
 *
 * Low rank alone: nearest to the weights, and nearest in the output.
 */
#include "common/compress/compress_internal.h"

shoal_status shoal_pass_svd(const shoal_problem *p, shoal_compressed *out)
{
    return shoal_factors_fit(p, NULL, p->w, out);
}

shoal_status shoal_pass_whitened_svd(const shoal_problem *p, shoal_compressed *out)
{
    return shoal_factors_fit(p, p->h, p->w, out);
}
