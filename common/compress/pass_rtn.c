/* SPDX-License-Identifier: Apache-2.0
 *
 * Rounding to nearest: each value by itself.
 */
#include "common/compress/compress_internal.h"

shoal_status shoal_pass_rtn(const shoal_problem *p, shoal_compressed *out)
{
    shoal_values_put_all(out, p->w);
    return SHOAL_OK;
}
