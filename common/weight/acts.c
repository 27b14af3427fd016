/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/acts_internal.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>

enum {
    STEP = 256 /* elements scaled at a time on their way to codes */
};

static size_t n_blocks(size_t k)
{
    return (k + SHOAL_QBLOCK - 1) / SHOAL_QBLOCK;
}

/* Room for the 8-bit form of columns of k elements. */
static shoal_status form_reserve(shoal_acts_form *form, size_t n_cols, size_t k)
{
    shoal_free(form->codes);
    shoal_free(form->blocks);
    form->codes = shoal_calloc_aligned(n_cols, n_blocks(k) * SHOAL_QBLOCK);
    form->blocks = shoal_calloc_aligned(n_cols, n_blocks(k) * sizeof *form->blocks);
    return form->codes && form->blocks ? SHOAL_OK : SHOAL_E_NOMEM;
}

static void form_fini(shoal_acts_form *form)
{
    shoal_free(form->own);
    shoal_free(form->codes);
    shoal_free(form->blocks);
}

shoal_status shoal_acts_new(size_t n_cols_max, size_t k_max, shoal_acts **ret_acts)
{
    shoal_acts *acts = shoal_calloc(1, sizeof *acts);
    if (!acts) {
        return SHOAL_E_NOMEM;
    }
    acts->n_cols_max = n_cols_max;
    acts->k_max = k_max;
    if (form_reserve(&acts->plain, n_cols_max, k_max) != SHOAL_OK) {
        shoal_acts_free(acts);
        return SHOAL_E_NOMEM;
    }
    *ret_acts = acts;
    return SHOAL_OK;
}

shoal_status shoal_acts_reserve(shoal_acts *acts, const shoal_side_needs *needs)
{
    if (needs->rank > 0) {
        shoal_free(acts->low);
        acts->low = shoal_calloc_aligned(acts->n_cols_max * needs->rank * SHOAL_PRODUCTS_MAX,
                                         sizeof *acts->low);
        if (!acts->low) {
            return SHOAL_E_NOMEM;
        }
    }
    for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
        shoal_acts_form *form = &acts->scaled[i];
        if (needs->k_codes > 0) {
            SHOAL_TRY(form_reserve(form, acts->n_cols_max, needs->k_codes));
        }
        if (needs->k_floats > 0) {
            shoal_free(form->own);
            form->own = shoal_calloc_aligned(acts->n_cols_max * needs->k_floats, sizeof *form->own);
            if (!form->own) {
                return SHOAL_E_NOMEM;
            }
        }
    }
    acts->needs = *needs;
    return SHOAL_OK;
}

void shoal_acts_free(shoal_acts *acts)
{
    if (acts) {
        form_fini(&acts->plain);
        for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
            form_fini(&acts->scaled[i]);
        }
        shoal_free(acts->low);
        shoal_free(acts);
    }
}

void shoal_acts_set(shoal_acts *acts, const float *x, size_t n_cols, size_t k, size_t stride)
{
    SHOAL_ASSERT(n_cols <= acts->n_cols_max && k <= acts->k_max && stride >= k);
    acts->n_cols = n_cols;
    acts->k = k;
    acts->plain.x = x;
    acts->plain.stride = stride;
    acts->plain.scaled = true;
    acts->plain.quantised = false;
    for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
        acts->scaled[i].taken = false;
        acts->scaled[i].scaled = false;
        acts->scaled[i].quantised = false;
    }
}

const float *shoal_acts_x(const shoal_acts *acts, size_t *ret_stride)
{
    *ret_stride = acts->plain.stride;
    return acts->plain.x;
}

/* --- forms ----------------------------------------------------------------------------------- */

typedef struct job {
    shoal_acts *acts;
    shoal_acts_form *form;
    const shoal_kernels *kernels;
} job;

/* Elements [at, at + n) of x, changed. What is no number stays so. */
static void change(const shoal_acts_change *how, size_t at, size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = fabsf(x[at + i]) < how->threshold ? 0.0F : x[at + i];
    }
    for (size_t i = 0; how->inverse && i < n; i++) {
        y[i] = y[i] * how->inverse[at + i];
    }
}

static void scale_column(void *ctx, size_t c, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const shoal_acts *a = j->acts;
    change(&j->form->change, 0, a->k, a->plain.x + c * a->plain.stride, j->form->own + c * a->k);
}

/* Straight from the plain input: a form whose readers all want codes needs no floats. */
static void quantise_column(void *ctx, size_t c, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const shoal_acts *a = j->acts;
    const shoal_acts_form *form = j->form;
    const float *x = a->plain.x + c * a->plain.stride;
    int8_t *codes = form->codes + c * a->k;
    shoal_act_block *blocks = form->blocks + c * (a->k / SHOAL_QBLOCK);
    if (form == &a->plain) {
        j->kernels->quantize_q8(a->k, x, codes, blocks);
        return;
    }
    for (size_t at = 0; at < a->k; at += STEP) {
        float part[STEP];
        size_t n = SHOAL_MIN(a->k - at, (size_t)STEP);
        change(&form->change, at, n, x, part);
        j->kernels->quantize_q8(n, part, codes + at, blocks + at / SHOAL_QBLOCK);
    }
}

static void each_column(job *j, shoal_pool *pool, shoal_pool_fn *fn)
{
    const shoal_acts *acts = j->acts;
    shoal_pool_run_sized(pool, fn, j, acts->n_cols, acts->n_cols * acts->k);
}

void shoal_acts_forms_begin(shoal_acts *acts)
{
    for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
        acts->scaled[i].wanted = false;
    }
}

static bool is_same(const shoal_acts_change *a, const shoal_acts_change *b, size_t k)
{
    bool bits = a->inverse && b->inverse && memcmp(a->inverse, b->inverse, k * sizeof(float)) == 0;
    return a->threshold == b->threshold && (a->inverse == b->inverse || bits);
}

/* The form with this change, or one that nobody of this job wants, made theirs. */
static shoal_acts_form *find_form(shoal_acts *acts, const shoal_acts_change *how)
{
    shoal_acts_form *spare = NULL;
    for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
        shoal_acts_form *form = &acts->scaled[i];
        if (form->taken && is_same(&form->change, how, acts->k)) {
            return form;
        }
        if (!form->wanted && (!spare || (spare->taken && !form->taken))) {
            spare = form;
        }
    }
    SHOAL_ASSERT(spare);
    spare->change = *how;
    spare->taken = true;
    spare->scaled = false;
    spare->quantised = false;
    return spare;
}

const shoal_acts_form *shoal_acts_form_get(shoal_acts *acts, shoal_acts_change how, bool quantised,
                                           const shoal_kernels *kernels, shoal_pool *pool)
{
    bool plain = !how.inverse && how.threshold == 0;
    shoal_acts_form *form = plain ? &acts->plain : find_form(acts, &how);
    job j = {.acts = acts, .form = form, .kernels = kernels};
    form->wanted = true;
    if (quantised && !form->quantised) {
        SHOAL_ASSERT(plain || acts->k <= acts->needs.k_codes);
        each_column(&j, pool, quantise_column);
        form->quantised = true;
    }
    if (!quantised && !form->scaled) {
        SHOAL_ASSERT(acts->k <= acts->needs.k_floats);
        form->x = form->own;
        form->stride = acts->k;
        each_column(&j, pool, scale_column);
        form->scaled = true;
    }
    return form;
}
