/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of a compressed layer: their memory, bytes, and what they add up to.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"
#include "common/tensor/type.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum {
    BLOCK = SHOAL_COMPRESS_FACTOR_BLOCK,
    SINGLE = 6 /* column I32, value F16 */
};

static size_t blocks(size_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

static size_t mask_bytes(const shoal_compressed *c)
{
    return c->n_rows * ((c->n_cols + 7) / 8);
}

static bool quantised(const shoal_form *form)
{
    return form->bits > 0 && form->bits < SHOAL_COMPRESS_BITS_F16;
}

/* --- memory ---------------------------------------------------------------------------------- */

static shoal_status factor_new(size_t rank, size_t n, shoal_factor *f)
{
    f->n = n;
    f->codes = shoal_calloc(rank * blocks(n) * BLOCK, sizeof *f->codes);
    f->scales = shoal_calloc(rank * blocks(n), sizeof *f->scales);
    return f->codes && f->scales ? SHOAL_OK : SHOAL_E_NOMEM;
}

static shoal_status values_new(shoal_compressed *c)
{
    size_t n = c->n_rows * c->n_cols;
    if (quantised(&c->form)) {
        c->n_groups = (c->n_cols + c->form.group - 1) / c->form.group;
        c->codes = shoal_calloc(n, sizeof *c->codes);
        c->scales = shoal_calloc(c->n_rows * c->n_groups, sizeof *c->scales);
        if (!c->codes || !c->scales) {
            return SHOAL_E_NOMEM;
        }
    } else {
        c->halves = shoal_calloc(n, sizeof *c->halves);
        if (!c->halves) {
            return SHOAL_E_NOMEM;
        }
    }
    if (c->form.mask != SHOAL_MASK_ALL) {
        c->kept = shoal_calloc(mask_bytes(c), 1);
        return c->kept ? SHOAL_OK : SHOAL_E_NOMEM;
    }
    return SHOAL_OK;
}

shoal_status shoal_compressed_new(size_t n_rows, size_t n_cols, const shoal_form *form,
                                  shoal_compressed **ret_compressed)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = shoal_calloc(1, sizeof *c);
    if (!c) {
        return SHOAL_E_NOMEM;
    }
    c->n_rows = n_rows;
    c->n_cols = n_cols;
    c->form = *form;
    if (form->bits > 0) {
        SHOAL_TRY(values_new(c));
    }
    if (form->rank > 0) {
        SHOAL_TRY(factor_new(form->rank, n_rows, &c->left));
        SHOAL_TRY(factor_new(form->rank, n_cols, &c->right));
    }
    *ret_compressed = SHOAL_STEAL(c);
    return SHOAL_OK;
}

void shoal_compressed_free(shoal_compressed *c)
{
    if (c) {
        shoal_free(c->codes);
        shoal_free(c->levels);
        shoal_free(c->scales);
        shoal_free(c->halves);
        shoal_free(c->kept);
        shoal_free(c->column_scales);
        shoal_free(c->left.codes);
        shoal_free(c->left.scales);
        shoal_free(c->right.codes);
        shoal_free(c->right.scales);
        shoal_free(c->single_begin);
        shoal_free(c->single_cols);
        shoal_free(c->single_values);
        shoal_free(c);
    }
}

static void copy(void *to, const void *from, size_t n)
{
    if (from && to) {
        memcpy(to, from, n);
    }
}

void shoal_compressed_copy(const shoal_compressed *from, shoal_compressed *to)
{
    size_t n = from->n_rows * from->n_cols;
    size_t rank = from->form.rank;
    copy(to->codes, from->codes, n);
    copy(to->scales, from->scales, from->n_rows * from->n_groups * sizeof *to->scales);
    copy(to->halves, from->halves, n * sizeof *to->halves);
    copy(to->kept, from->kept, mask_bytes(from));
    copy(to->left.codes, from->left.codes, rank * blocks(from->n_rows) * BLOCK);
    copy(to->left.scales, from->left.scales, rank * blocks(from->n_rows) * sizeof(uint16_t));
    copy(to->right.codes, from->right.codes, rank * blocks(from->n_cols) * BLOCK);
    copy(to->right.scales, from->right.scales, rank * blocks(from->n_cols) * sizeof(uint16_t));
}

/* --- bytes ----------------------------------------------------------------------------------- */

/* Of the values of n_kept elements, their scales, and what says which are kept. */
static uint64_t value_bytes(size_t n_rows, size_t n_cols, const shoal_form *form, uint64_t n_kept)
{
    uint64_t bytes = (n_kept * form->bits + 7) / 8;
    if (quantised(form)) {
        bytes += 2 * (uint64_t)n_rows * ((n_cols + form->group - 1) / form->group);
    }
    if (form->mask == SHOAL_MASK_BITMAP) {
        bytes += (uint64_t)n_rows * ((n_cols + 7) / 8);
    } else if (form->mask == SHOAL_MASK_TWO_FOUR) {
        bytes += (uint64_t)n_rows * (((n_cols + 3) / 4 * 4 + 7) / 8);
    } else if (form->mask != SHOAL_MASK_ALL) {
        bytes += (uint64_t)n_rows * 4 * ((n_cols + 31) / 32);
    }
    return bytes;
}

static uint64_t factor_bytes(size_t rank, size_t n)
{
    return (uint64_t)rank * blocks(n) * (BLOCK + 2);
}

/* Two of the last, incomplete four, if there are as many. */
static uint64_t two_four_count(size_t n_rows, size_t n_cols)
{
    return (uint64_t)n_rows * (n_cols / 4 * 2 + SHOAL_MIN(n_cols % 4, (size_t)2));
}

/* Values that a row has room for, 0 where the mask does not say. */
static uint64_t room_count(size_t n_rows, size_t n_cols, shoal_mask mask)
{
    const shoal_share share = shoal_mask_share(mask);
    bool bits = mask == SHOAL_MASK_HALF || mask == SHOAL_MASK_QUARTER;
    SHOAL_ASSERT(!bits || share.of > 0);
    return bits ? (uint64_t)n_rows * ((n_cols + share.of - 1) / share.of) * share.n_keep : 0;
}

uint64_t shoal_form_bytes(size_t n_rows, size_t n_cols, const shoal_form *form)
{
    uint64_t n = (uint64_t)n_rows * n_cols;
    uint64_t n_kept = form->mask == SHOAL_MASK_BITMAP     ? shoal_keep_count(form->density, n)
                      : form->mask == SHOAL_MASK_TWO_FOUR ? two_four_count(n_rows, n_cols)
                      : form->mask == SHOAL_MASK_ALL      ? n
                                                          : room_count(n_rows, n_cols, form->mask);
    uint64_t bytes = form->bits > 0 ? value_bytes(n_rows, n_cols, form, n_kept) : 0;
    return bytes + factor_bytes(form->rank, n_rows) + factor_bytes(form->rank, n_cols);
}

uint64_t shoal_compressed_bytes(const shoal_compressed *c)
{
    uint64_t n_kept = 0;
    for (size_t i = 0; c->form.bits > 0 && i < c->n_rows * c->n_cols; i++) {
        n_kept += shoal_kept(c, i / c->n_cols, i % c->n_cols);
    }
    n_kept = SHOAL_MAX(n_kept, room_count(c->n_rows, c->n_cols, c->form.mask));
    uint64_t bytes = c->form.bits > 0 ? value_bytes(c->n_rows, c->n_cols, &c->form, n_kept) : 0;
    bytes += factor_bytes(c->form.rank, c->n_rows) + factor_bytes(c->form.rank, c->n_cols);
    bytes += c->column_scales ? 2 * (uint64_t)c->n_cols : 0;
    bytes += c->levels ? (uint64_t)1 << c->form.bits : 0;
    if (c->single_begin) {
        bytes += 4 * ((uint64_t)c->n_rows + 1) + SINGLE * (uint64_t)c->single_begin[c->n_rows];
    }
    return bytes;
}

/* --- sums ------------------------------------------------------------------------------------ */

static void expand_row(const shoal_compressed *c, size_t row, double *ret_w)
{
    for (size_t j = 0; j < c->n_cols; j++) {
        size_t at = row * c->n_cols + j;
        double w = 0;
        if (c->codes) {
            uint16_t scale = c->scales[row * c->n_groups + j / c->form.group];
            w = shoal_code_value(c, c->codes[at]) * (double)shoal_f16_to_f32(scale);
        } else if (c->halves) {
            w = (double)shoal_f16_to_f32(c->halves[at]);
        }
        if (c->column_scales) {
            w /= (double)shoal_f16_to_f32(c->column_scales[j]);
        }
        ret_w[j] = w;
    }
    for (size_t i = c->single_begin ? c->single_begin[row] : 0;
         c->single_begin && i < c->single_begin[row + 1]; i++) {
        ret_w[c->single_cols[i]] += (double)shoal_f16_to_f32(c->single_values[i]);
    }
}

void shoal_compressed_expand(const shoal_compressed *c, double *ret_w)
{
    for (size_t row = 0; row < c->n_rows; row++) {
        expand_row(c, row, ret_w + row * c->n_cols);
    }
    shoal_factors_add(c, 1, ret_w);
}

/* d holds W' and becomes W - W', g = d H. */
static double residual_of(const shoal_problem *p, double *d, double *g)
{
    size_t n = p->n_rows * p->n_cols;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        d[i] = p->w[i] - d[i];
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)p->n_rows, (blasint)p->n_cols,
                (blasint)p->n_cols, 1, d, (blasint)p->n_cols, p->h, (blasint)p->n_cols, 0, g,
                (blasint)p->n_cols);
    for (size_t i = 0; i < n; i++) {
        sum += d[i] * g[i];
    }
    return fmax(sum, 0);
}

double shoal_residual(const shoal_problem *p, const shoal_compressed *c, double *d, double *g)
{
    shoal_compressed_expand(c, d);
    return residual_of(p, d, g);
}

double shoal_compressed_error_in(const shoal_problem *p, const shoal_compressed *c, double *scratch)
{
    double sum = shoal_residual(p, c, scratch, scratch + p->n_rows * p->n_cols);
    return p->energy > 0 ? sum / p->energy : 0;
}

shoal_status shoal_compressed_error(const shoal_problem *p, const shoal_compressed *c,
                                    double *ret_error)
{
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *scratch = shoal_calloc(2 * p->n_rows * p->n_cols, sizeof *scratch);
    if (!scratch) {
        return SHOAL_E_NOMEM;
    }
    *ret_error = shoal_compressed_error_in(p, c, scratch);
    return SHOAL_OK;
}

double shoal_problem_energy(const shoal_problem *p)
{
    return p->energy;
}

shoal_status shoal_problem_error(const shoal_problem *p, const float *w, double *ret_error)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup) double *scratch = shoal_calloc(2 * n, sizeof *scratch);
    if (!scratch) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        scratch[i] = (double)w[i];
    }
    double sum = residual_of(p, scratch, scratch + n);
    *ret_error = p->energy > 0 ? sum / p->energy : 0;
    return SHOAL_OK;
}
