/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ with scales searched by the walk itself, then coordinate descent over codes and scales
 * (QuantEase, 2309.01885): what the joint form is without factors.
 */
#include "common/compress/compress_internal.h"

shoal_status shoal_pass_refined(const shoal_problem *p, shoal_compressed *out)
{
    return shoal_pass_joint(p, out);
}
