/* SPDX-License-Identifier: Apache-2.0
 *
 * Digests and sums of tensors, leaf by leaf on the pool, and the check of packed ones.
 */
#include "common/weight/pack_internal.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdatomic.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    LANES = 8,
    STEP = LANES * sizeof(uint64_t)
};

/* --- the sum of a leaf ------------------------------------------------------------------------
 * Fletcher's sums on eight lanes of 64 bits, modulo 2^64: the plain sum, and the sum of those sums,
 * which knows the order. It runs as fast as memory and finds what disks and copies do; it is no
 * defence against somebody who means it. */

typedef uint64_t pair __attribute__((vector_size(16)));

typedef struct lanes {
    pair plain[LANES / 2];
    pair running[LANES / 2];
} lanes;

static void add_bytes(lanes *s, const uint8_t *data, size_t n)
{
    lanes l = *s;
    for (size_t at = 0; at + STEP <= n; at += STEP) {
        pair x[LANES / 2];
        memcpy(x, data + at, STEP);
        for (size_t i = 0; i < LANES / 2; i++) {
            l.plain[i] += x[i];
            l.running[i] += l.plain[i];
        }
    }
    if (n % STEP != 0) {
        pair x[LANES / 2] = {{0}};
        memcpy(x, data + n / STEP * STEP, n % STEP);
        for (size_t i = 0; i < LANES / 2; i++) {
            l.plain[i] += x[i];
            l.running[i] += l.plain[i];
        }
    }
    *s = l;
}

/* --- leaves on the pool ---------------------------------------------------------------------- */

typedef enum leaf_task {
    TASK_DIGEST, /* of the blocks, restored where the tensor is packed */
    TASK_SUM,    /* of the panels, made where the tensor is plain */
    TASK_CHECK,  /* a sum, and panels are sound */
    TASK_VERIFY  /* a digest, and panels made anew are those of the file */
} leaf_task;

typedef struct leaves {
    const shoal_matrix *m; /* NULL: a tensor that is one leaf */
    const shoal_gguf_tensor *tensor;
    leaf_task task;
    shoal_hash *digests; /* (n_leaves) by TASK_DIGEST and TASK_VERIFY */
    lanes *sums;         /* (n_leaves) by the others */
    atomic_int failed;   /* a status */
} leaves;

static shoal_status digest_plain(leaves *l, size_t i)
{
    const uint8_t *data = l->tensor->data;
    size_t n = (size_t)l->tensor->size_bytes;
    if (l->m) {
        size_t row = i * l->m->leaf_rows;
        data += row * l->m->row_bytes;
        n = SHOAL_MIN(l->m->leaf_rows, l->m->n_rows - row) * l->m->row_bytes;
    }
    SHOAL_TRY(shoal_hash_of(data, n, &l->digests[i]));
    if (l->tensor->mapped) {
        shoal_map_forget(data, n);
    }
    return SHOAL_OK;
}

/* The panels of leaf i as a plain tensor's must be, into new memory. */
static shoal_status make_panels(const leaves *l, size_t i, uint8_t **ret_panels)
{
    const shoal_matrix *m = l->m;
    size_t row = i * m->leaf_rows;
    size_t n = SHOAL_MIN(m->leaf_rows, m->n_rows - row);
    size_t bad_row = 0;
    *ret_panels = shoal_calloc_aligned((n + ROWS - 1) / ROWS, m->panel_bytes);
    return *ret_panels ? shoal_matrix_pack(m, row, n, *ret_panels, &bad_row) : SHOAL_E_NOMEM;
}

static const uint8_t *panels_of(const leaves *l, size_t i, size_t *ret_n_panels)
{
    size_t row = i * l->m->leaf_rows;
    *ret_n_panels = (SHOAL_MIN(l->m->leaf_rows, l->m->n_rows - row) + ROWS - 1) / ROWS;
    return l->tensor->data + row / ROWS * l->m->panel_bytes;
}

static shoal_status verify_leaf(leaves *l, size_t i)
{
    const shoal_matrix *m = l->m;
    size_t row = i * m->leaf_rows;
    size_t n = SHOAL_MIN(m->leaf_rows, m->n_rows - row);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *blocks = shoal_calloc(n, m->row_bytes);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *panels = NULL;
    if (!blocks) {
        return SHOAL_E_NOMEM;
    }
    for (size_t r = 0; r < n; r++) {
        (void)shoal_matrix_blocks(m, row + r, blocks + r * m->row_bytes);
    }
    SHOAL_TRY(shoal_hash_of(blocks, n * m->row_bytes, &l->digests[i]));
    SHOAL_TRY(make_panels(l, i, &panels));
    size_t n_panels = 0;
    const uint8_t *there = panels_of(l, i, &n_panels);
    return memcmp(there, panels, n_panels * m->panel_bytes) == 0 ? SHOAL_OK : SHOAL_E_INVALID;
}

static shoal_status sum_leaf(leaves *l, size_t i)
{
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *made = NULL;
    size_t n_panels = 0;
    const uint8_t *panels = panels_of(l, i, &n_panels);
    if (!l->tensor->packed) {
        SHOAL_TRY(make_panels(l, i, &made));
        panels = made;
        shoal_matrix_forget(l->m, i * l->m->leaf_rows,
                            SHOAL_MIN(l->m->leaf_rows, l->m->n_rows - i * l->m->leaf_rows));
    }
    lanes s = {0};
    for (size_t p = 0; p < n_panels; p++) {
        const uint8_t *panel = panels + p * l->m->panel_bytes;
        add_bytes(&s, panel, l->m->panel_bytes);
        if (l->task == TASK_CHECK &&
            !shoal_panel_is_sound(l->m->format->panel, panel, l->m->panel_bytes)) {
            return SHOAL_E_INVALID;
        }
    }
    l->sums[i] = s;
    return SHOAL_OK;
}

static void run_leaf(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    leaves *l = ctx;
    shoal_status status = SHOAL_OK;
    if (l->task == TASK_SUM || l->task == TASK_CHECK) {
        status = sum_leaf(l, i);
    } else if (l->task == TASK_VERIFY) {
        status = verify_leaf(l, i);
    } else {
        status = digest_plain(l, i);
    }
    int none = SHOAL_OK;
    if (status != SHOAL_OK) {
        (void)atomic_compare_exchange_strong(&l->failed, &none, (int)status);
    }
}

/* Runs the task over a tensor's leaves, and hashes what they gave. SHOAL_E_INVALID is a panel that
 * is not sound. m is NULL for what has no product. */
static shoal_status run_leaves(const shoal_gguf_tensor *tensor, const shoal_matrix *m,
                               leaf_task task, shoal_pool *pool, shoal_hash *ret_hash)
{
    size_t n = m ? m->n_leaves : 1;
    bool sums = task == TASK_SUM || task == TASK_CHECK;
    size_t bytes = sums ? sizeof(lanes) : sizeof(shoal_hash);
    SHOAL_CLEANUP(shoal_free_cleanup) void *out = shoal_calloc_aligned(n, bytes);
    if (!out) {
        return SHOAL_E_NOMEM;
    }
    leaves l = {.m = m, .tensor = tensor, .task = task, .digests = out, .sums = out};
    shoal_pool_run(pool, run_leaf, &l, n);
    SHOAL_TRY((shoal_status)atomic_load(&l.failed));
    return shoal_hash_of(out, n * bytes, ret_hash);
}

static shoal_status no_memory(const shoal_gguf_tensor *tensor, shoal_status status, shoal_err *err)
{
    return shoal_err_set(err, status, "tensor %.*s: %s while hashing", SHOAL_TENSOR_NAME(tensor),
                         shoal_status_text(status));
}

shoal_status shoal_pack_digest(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                               shoal_pool *pool, shoal_hash *ret_digest, shoal_err *err)
{
    if (tensor->packed) {
        *ret_digest = shoal_pack_stated(gguf, tensor, SHOAL_PACK_DIGESTS);
        return SHOAL_OK;
    }
    shoal_matrix m;
    bool rows = shoal_matrix_of(NULL, tensor, &m, NULL) == SHOAL_OK;
    shoal_status status = run_leaves(tensor, rows ? &m : NULL, TASK_DIGEST, pool, ret_digest);
    return status == SHOAL_OK ? SHOAL_OK : no_memory(tensor, status, err);
}

shoal_status shoal_pack_sum(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                            shoal_pool *pool, shoal_hash *ret_sum, shoal_err *err)
{
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(gguf, tensor, &m, err));
    shoal_status status = run_leaves(tensor, &m, TASK_SUM, pool, ret_sum);
    if (status == SHOAL_E_INVALID) {
        return shoal_err_set(err, status, "tensor %.*s: a number is not finite",
                             SHOAL_TENSOR_NAME(tensor));
    }
    return status == SHOAL_OK ? SHOAL_OK : no_memory(tensor, status, err);
}

/* --- packed tensors -------------------------------------------------------------------------- */

static shoal_status damaged(const shoal_gguf_tensor *tensor, const char *what, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "tensor %.*s: %s; the file is damaged, pack the model again",
                         SHOAL_TENSOR_NAME(tensor), what);
}

static shoal_status check_tensor(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                                 shoal_pool *pool, leaf_task task, shoal_err *err)
{
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(gguf, tensor, &m, err));
    shoal_hash hash;
    bool verify = task == TASK_VERIFY;
    shoal_status status = run_leaves(tensor, &m, task, pool, &hash);
    if (status == SHOAL_E_INVALID) {
        return damaged(tensor,
                       verify ? "panels are not those of its blocks"
                              : "a scale is not finite or out of its range",
                       err);
    }
    if (status != SHOAL_OK) {
        return no_memory(tensor, status, err);
    }
    shoal_hash stated =
        shoal_pack_stated(gguf, tensor, verify ? SHOAL_PACK_DIGESTS : SHOAL_PACK_SUMS);
    if (memcmp(&hash, &stated, sizeof hash) != 0) {
        return damaged(tensor,
                       verify ? "its blocks have another digest than the file states"
                              : "its panels have another sum than the file states",
                       err);
    }
    return SHOAL_OK;
}

static shoal_status check_all(const shoal_gguf *gguf, shoal_pool *pool, leaf_task task,
                              shoal_err *err)
{
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *tensor = shoal_gguf_tensor_at(gguf, i);
        if (tensor->packed) {
            SHOAL_TRY(check_tensor(gguf, tensor, pool, task, err));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_pack_check(const shoal_gguf *gguf, shoal_pool *pool, shoal_err *err)
{
    return check_all(gguf, pool, TASK_CHECK, err);
}

shoal_status shoal_pack_verify(const shoal_gguf *gguf, shoal_pool *pool, shoal_err *err)
{
    return check_all(gguf, pool, TASK_VERIFY, err);
}
