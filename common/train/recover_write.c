/* SPDX-License-Identifier: Apache-2.0
 *
 * The compressed file again, with what has been learnt. Tensors are written row by row, so memory
 * holds one row more than training does.
 */
#include "common/train/recover_internal.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/weight/weight.h"

#include <stdio.h>
#include <string.h>

typedef struct writing {
    shoal_recover *recover;
    shoal_gguf_writer *writer;
    shoal_file_out *out;
} writing;

static void writing_close(writing *w)
{
    shoal_gguf_writer_free(w->writer);
    shoal_file_out_close(w->out);
}

/* --- metadata ----------------------------------------------------------------------------------
 */

static bool is_fitted(shoal_str key)
{
    static const char *const prefixes[] = {"shoal.exit.policy.", "shoal.exit.calibration.",
                                           "shoal.escalate."};
    for (size_t i = 0; i < SHOAL_COUNT(prefixes); i++) {
        size_t n = strlen(prefixes[i]);
        if (key.length >= n && memcmp(key.data, prefixes[i], n) == 0) {
            return true;
        }
    }
    return false;
}

/* Norms of exits are metadata: those that were trained, in the order of the exits. */
static shoal_status put_exits(const writing *w)
{
    const shoal_params *p = w->recover->model;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf norms = {0};
    for (size_t i = 0; i < p->n_exits; i++) {
        char name[SHOAL_TRAIN_NAME_MAX];
        (void)snprintf(name, sizeof name, "shoal.exit.%zu.norm", p->exits[i]);
        const float *norm = p->data + shoal_params_find(p, name)->offset;
        SHOAL_TRY(shoal_buf_append(&norms, norm, p->hp.dim * sizeof *norm));
    }
    return p->n_exits == 0 ? SHOAL_OK
                           : shoal_gguf_put_f32_array(w->writer, SHOAL_EXIT_NORM_KEY,
                                                      (const float *)(const void *)norms.data,
                                                      p->n_exits * p->hp.dim);
}

static shoal_status describe(const writing *w)
{
    const shoal_gguf *gguf = w->recover->small;
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        shoal_str key = shoal_gguf_key_at(gguf, i);
        if (!is_fitted(key)) {
            SHOAL_TRY(shoal_gguf_put_raw(w->writer, key, shoal_gguf_raw_at(gguf, i)));
        }
    }
    SHOAL_TRY(put_exits(w));
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        SHOAL_TRY(shoal_gguf_put_tensor(w->writer, name, t->type, t->dims, t->n_dims, NULL));
    }
    return SHOAL_OK;
}

/* --- tensors -----------------------------------------------------------------------------------
 */

static const shoal_recover_item *item_of(const shoal_recover *r, const shoal_gguf_tensor *t)
{
    for (size_t i = 0; i < r->n_items; i++) {
        if (r->items[i].tensor == t) {
            return &r->items[i];
        }
    }
    return NULL;
}

static shoal_status write_codes(const writing *w, const shoal_recover_item *item, shoal_err *err)
{
    size_t k = item->value->n_cols;
    size_t row_bytes = shoal_codes_row_bytes(item->tensor->type, k);
    SHOAL_CLEANUP(shoal_free_cleanup) int8_t *codes = shoal_calloc(k, sizeof *codes);
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint16_t *scales = shoal_calloc(k / item->group, sizeof *scales);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *blocks = shoal_calloc(1, row_bytes);
    if (!codes || !scales || !blocks) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for a row", item->value->name);
    }
    for (size_t row = 0; row < item->value->n_rows; row++) {
        shoal_recover_codes_of(w->recover, item, row, codes, scales);
        const shoal_codes one = {.n_rows = 1,
                                 .k = k,
                                 .bits = item->bits,
                                 .group = item->group,
                                 .mask = item->mask,
                                 .codes = codes,
                                 .scales = scales,
                                 .kept = item->kept ? item->kept + row * ((k + 7) / 8) : NULL};
        SHOAL_TRY(shoal_codes_pack(&one, 0, 1, blocks, err));
        SHOAL_TRY(shoal_file_out_write(w->out, blocks, row_bytes, err));
    }
    return SHOAL_OK;
}

/* Rounded before, so encoded without a loss; vectors are F32. */
static shoal_status write_plain(const writing *w, const shoal_recover_item *item, shoal_err *err)
{
    size_t k = item->value->n_cols;
    size_t row_bytes = (size_t)(item->tensor->size_bytes / item->value->n_rows);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *blocks = shoal_calloc(1, row_bytes);
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc(k, sizeof *x);
    if (!blocks || !x) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for a row", item->value->name);
    }
    for (size_t row = 0; row < item->value->n_rows; row++) {
        shoal_recover_plain_values(w->recover, item, row * k, k, x);
        SHOAL_TRY(shoal_weight_encode(item->tensor->type, x, k, blocks, err));
        SHOAL_TRY(shoal_file_out_write(w->out, blocks, row_bytes, err));
    }
    return SHOAL_OK;
}

static shoal_status write_tensor(const writing *w, const shoal_gguf_tensor *t, shoal_err *err)
{
    static const uint8_t zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    const shoal_recover_item *item = item_of(w->recover, t);
    SHOAL_TRY(!item ? shoal_file_out_write(w->out, t->data, (size_t)t->size_bytes, err)
              : item->form == SHOAL_RECOVER_CODES ? write_codes(w, item, err)
                                                  : write_plain(w, item, err));
    return shoal_file_out_write(w->out, zeros, shoal_gguf_writer_padding(w->writer, t->size_bytes),
                                err);
}

shoal_status shoal_recover_write(shoal_recover *recover, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(writing_close) writing w = {.recover = recover};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    SHOAL_TRY(shoal_pool_new(1, &pool));
    shoal_recover_round(recover, pool); /* the step since changed numbers alone */
    shoal_status status = shoal_gguf_writer_new(&w.writer);
    status = status == SHOAL_OK ? describe(&w) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s: the output cannot be described: %s", path,
                             shoal_status_text(status));
    }
    SHOAL_TRY(shoal_gguf_writer_head(w.writer, &head, err));
    SHOAL_TRY(shoal_file_out_open(path, &w.out, err));
    SHOAL_TRY(shoal_file_out_write(w.out, head.data, head.length, err));
    for (size_t i = 0; i < shoal_gguf_n_tensors(recover->small); i++) {
        SHOAL_TRY(write_tensor(&w, shoal_gguf_tensor_at(recover->small, i), err));
    }
    return shoal_file_out_commit(w.out, err);
}
