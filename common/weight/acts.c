/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/acts_internal.h"

#include "common/base/mem.h"

enum {
    COLS_SERIAL = 4 /* fewer columns are not worth waking the pool for */
};

shoal_status shoal_acts_new(size_t n_cols_max, size_t k_max, shoal_acts **ret_acts)
{
    shoal_acts *acts = shoal_calloc(1, sizeof *acts);
    if (!acts) {
        return SHOAL_E_NOMEM;
    }
    size_t n_blocks = (k_max + SHOAL_QBLOCK - 1) / SHOAL_QBLOCK;
    acts->n_cols_max = n_cols_max;
    acts->k_max = k_max;
    acts->codes = shoal_calloc_aligned(n_cols_max, n_blocks * SHOAL_QBLOCK);
    acts->blocks = shoal_calloc_aligned(n_cols_max, n_blocks * sizeof *acts->blocks);
    if (!acts->codes || !acts->blocks) {
        shoal_acts_free(acts);
        return SHOAL_E_NOMEM;
    }
    *ret_acts = acts;
    return SHOAL_OK;
}

void shoal_acts_free(shoal_acts *acts)
{
    if (acts) {
        shoal_free(acts->codes);
        shoal_free(acts->blocks);
        shoal_free(acts);
    }
}

void shoal_acts_set(shoal_acts *acts, const float *x, size_t n_cols, size_t k, size_t stride)
{
    SHOAL_ASSERT(n_cols <= acts->n_cols_max && k <= acts->k_max && stride >= k);
    acts->x = x;
    acts->n_cols = n_cols;
    acts->k = k;
    acts->stride = stride;
    acts->quantised = false;
}

const float *shoal_acts_x(const shoal_acts *acts, size_t *ret_stride)
{
    *ret_stride = acts->stride;
    return acts->x;
}

typedef struct job {
    shoal_acts *acts;
    const shoal_kernels *kernels;
} job;

static void quantise_column(void *ctx, size_t c, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    shoal_acts *a = j->acts;
    size_t n_blocks = a->k / SHOAL_QBLOCK;
    j->kernels->quantize_q8(a->k, a->x + c * a->stride, a->codes + c * a->k,
                            a->blocks + c * n_blocks);
}

void shoal_acts_quantise(shoal_acts *acts, const shoal_kernels *kernels, shoal_pool *pool)
{
    if (acts->quantised) {
        return;
    }
    job j = {.acts = acts, .kernels = kernels};
    if (acts->n_cols >= COLS_SERIAL) {
        shoal_pool_run(pool, quantise_column, &j, acts->n_cols);
    } else {
        for (size_t c = 0; c < acts->n_cols; c++) {
            quantise_column(&j, c, 0);
        }
    }
    acts->quantised = true;
}
