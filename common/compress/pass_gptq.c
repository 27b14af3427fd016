/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ (2210.17323) and SparseGPT (2301.00774): one walk, which the form tells apart.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <string.h>

static shoal_status run(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup) double *w = shoal_calloc(n, sizeof *w);
    if (!w) {
        return SHOAL_E_NOMEM;
    }
    memcpy(w, p->w, n * sizeof *w);
    return shoal_walk(p, out, w, false);
}

shoal_status shoal_pass_gptq(const shoal_problem *p, shoal_compressed *out)
{
    return run(p, out);
}

shoal_status shoal_pass_sparsegpt(const shoal_problem *p, shoal_compressed *out)
{
    return run(p, out);
}
