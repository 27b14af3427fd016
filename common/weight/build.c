/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights from tensors: rows are packed into panels leaf by leaf, on the pool where there is one,
 * and each leaf's pages of the file are let go, so that a model is never held twice. Rows of a
 * packed file that begin a panel are used where they lie.
 */
#include "common/weight/matrix_internal.h"

#include "common/base/mem.h"

#include <stdatomic.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS
};

/* --- work in parts ---------------------------------------------------------------------------- */

typedef struct run {
    shoal_matrix_part *part;
    void *ctx;
    _Atomic size_t bad_row; /* the lowest that is not finite, or SIZE_MAX */
    atomic_bool no_memory;
} run;

static void lower(_Atomic size_t *least, size_t value)
{
    size_t seen = atomic_load(least);
    while (value < seen && !atomic_compare_exchange_weak(least, &seen, value)) {
    }
}

static void run_part(void *ctx, size_t part, size_t worker)
{
    (void)worker;
    run *r = ctx;
    size_t bad_row = SIZE_MAX;
    if (r->part(r->ctx, part, &bad_row) == SHOAL_E_NOMEM) {
        atomic_store(&r->no_memory, true);
    }
    lower(&r->bad_row, bad_row);
}

shoal_status shoal_matrix_run(const shoal_matrix *m, shoal_matrix_part *part, void *ctx,
                              size_t n_parts, shoal_pool *pool, shoal_err *err)
{
    run r = {.part = part, .ctx = ctx, .bad_row = SIZE_MAX};
    if (pool) {
        shoal_pool_run(pool, run_part, &r, n_parts);
    }
    for (size_t i = 0; !pool && i < n_parts; i++) {
        run_part(&r, i, 0);
    }
    if (atomic_load(&r.no_memory)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s",
                             SHOAL_TENSOR_NAME(m->tensor));
    }
    size_t bad_row = atomic_load(&r.bad_row);
    return bad_row == SIZE_MAX ? SHOAL_OK : shoal_matrix_not_finite(m, bad_row, err);
}

shoal_status shoal_matrix_room(const shoal_matrix *m, size_t n_rows, size_t n_units,
                               size_t unit_bytes, shoal_weight **ret_weight, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_weight_freep) shoal_weight *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s",
                             SHOAL_TENSOR_NAME(m->tensor));
    }
    w->format = m->format;
    w->k = m->k;
    w->n_rows = n_rows;
    w->n_panels = (n_rows + ROWS - 1) / ROWS;
    w->panel_bytes = unit_bytes;
    w->owned = n_units > 0 ? shoal_calloc_huge(n_units, unit_bytes) : NULL;
    if (n_units > 0 && !w->owned) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s (%zu bytes)",
                             SHOAL_TENSOR_NAME(m->tensor), n_units * unit_bytes);
    }
    *ret_weight = SHOAL_STEAL(w);
    return SHOAL_OK;
}

/* --- panels ----------------------------------------------------------------------------------- */

typedef struct packing {
    const shoal_matrix *m;
    size_t row; /* the first */
    size_t n_rows;
    uint8_t *panels;
} packing;

static shoal_status pack_part(void *ctx, size_t part, size_t *ret_bad_row)
{
    const packing *p = ctx;
    size_t at = part * p->m->leaf_rows;
    size_t n = SHOAL_MIN(p->m->leaf_rows, p->n_rows - at);
    shoal_status status = shoal_matrix_pack(p->m, p->row + at, n,
                                            p->panels + at / ROWS * p->m->panel_bytes, ret_bad_row);
    shoal_matrix_forget(p->m, p->row + at, n);
    return status;
}

shoal_status shoal_matrix_weight(const shoal_matrix *m, size_t row, size_t n_rows, shoal_pool *pool,
                                 shoal_weight **ret_weight, shoal_err *err)
{
    if (m->format->pack_scales && !m->scales && !m->tensor->packed) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: type %d has no product without scales",
                             SHOAL_TENSOR_NAME(m->tensor), (int)m->tensor->type);
    }
    const bool in_place = m->tensor->packed && row % ROWS == 0;
    const size_t n_panels = in_place ? 0 : (n_rows + ROWS - 1) / ROWS;
    SHOAL_CLEANUP(shoal_weight_freep) shoal_weight *w = NULL;
    SHOAL_TRY(shoal_matrix_room(m, n_rows, n_panels, m->panel_bytes, &w, err));
    w->panels = in_place ? m->tensor->data + row / ROWS * m->panel_bytes : w->owned;
    if (!in_place) {
        packing p = {.m = m, .row = row, .n_rows = n_rows, .panels = w->owned};
        const size_t n_parts = (n_rows + m->leaf_rows - 1) / m->leaf_rows;
        SHOAL_TRY(shoal_matrix_run(m, pack_part, &p, n_parts, pool, err));
    }
    *ret_weight = SHOAL_STEAL(w);
    return SHOAL_OK;
}

shoal_status shoal_weight_new_scaled(const shoal_gguf_tensor *tensor,
                                     const shoal_gguf_tensor *scales, shoal_weight **ret_weight,
                                     shoal_err *err)
{
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(NULL, tensor, &m, err));
    SHOAL_ASSERT(m.format->pack_scales || !scales);
    if (tensor->dims[2] != 1) {
        return shoal_err_set(err, SHOAL_E_INVALID, "tensor %.*s: a matrix is expected, not a stack",
                             SHOAL_TENSOR_NAME(tensor));
    }
    m.scales = scales;
    return shoal_matrix_weight(&m, 0, m.n_rows, NULL, ret_weight, err);
}

shoal_status shoal_weight_new(const shoal_gguf_tensor *tensor, shoal_weight **ret_weight,
                              shoal_err *err)
{
    return shoal_weight_new_scaled(tensor, NULL, ret_weight, err);
}

shoal_status shoal_weight_load(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor, size_t row,
                               size_t n_rows, shoal_pool *pool, shoal_weight **ret_weight,
                               shoal_err *err)
{
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(gguf, tensor, &m, err));
    SHOAL_ASSERT(n_rows >= 1 && row < m.n_rows && n_rows <= m.n_rows - row);
    shoal_sides *sides = NULL;
    SHOAL_TRY(shoal_sides_load(gguf, tensor, row, n_rows, pool, &sides, err));
    bool tiled = sides && sides->threshold > 0 && m.format == &shoal_format_q4_0;
    shoal_status status =
        (tiled ? shoal_tiles_weight : shoal_matrix_weight)(&m, row, n_rows, pool, ret_weight, err);
    if (status != SHOAL_OK) {
        shoal_sides_free(sides);
        return status;
    }
    (*ret_weight)->sides = sides;
    return SHOAL_OK;
}

void shoal_weight_free(shoal_weight *weight)
{
    if (weight) {
        shoal_sides_free(weight->sides);
        shoal_free(weight->owned);
        shoal_free(weight);
    }
}

shoal_status shoal_weight_blocks(const shoal_gguf_tensor *tensor, size_t row, size_t n_rows,
                                 uint8_t *ret_blocks, shoal_err *err)
{
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(NULL, tensor, &m, err));
    SHOAL_ASSERT(row <= m.n_rows && n_rows <= m.n_rows - row);
    for (size_t i = 0; i < n_rows; i++) {
        uint8_t *to = ret_blocks + i * m.row_bytes;
        const uint8_t *blocks = shoal_matrix_blocks(&m, row + i, to);
        if (blocks != to) {
            memcpy(to, blocks, m.row_bytes);
        }
    }
    return SHOAL_OK;
}
