/* SPDX-License-Identifier: Apache-2.0
 *
 * The model without what was taken out of it, as a GGUF in memory. Rows go as bytes, so what is
 * left of them is what it was; columns are decoded, and encoded in the type that they had.
 */
#include "cloud/forge/compress_structure.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

/* --- what is left ----------------------------------------------------------------------------- */

static bool is_gone(const compress_structure *s, size_t layer, structure_unit unit, size_t i)
{
    const compress_structure_layer *l = &s->layers[layer];
    const bool *gone = unit == STRUCTURE_NEURON ? l->neurons
                       : unit == STRUCTURE_KEY  ? l->keys
                                                : l->queries;
    return gone[i];
}

/* Rows that an axis leaves, after `begin` others; rows NULL: they are only counted. */
static size_t left_on(const compress_structure *s, size_t layer, const structure_axis *axis,
                      size_t begin, size_t *rows)
{
    size_t n = 0;
    for (size_t u = 0; u < shoal_forge_structure_n(&s->hp, axis->unit); u++) {
        for (size_t i = 0; !is_gone(s, layer, axis->unit, u) && i < axis->width; i++) {
            if (rows) {
                rows[n] = begin + u * axis->width + i;
            }
            n++;
        }
    }
    return n;
}

/* Rows that are left of all runs, ascending. */
static size_t left_rows(const compress_structure *s, size_t layer, const structure_parts *parts,
                        size_t *rows)
{
    size_t n = 0;
    size_t begin = 0;
    for (size_t i = 0; i < parts->n_rows; i++) {
        const structure_axis *axis = &parts->rows[i];
        n += left_on(s, layer, axis, begin, rows ? rows + n : NULL);
        begin += shoal_forge_structure_n(&s->hp, axis->unit) * axis->width;
    }
    return n;
}

/* --- one tensor ------------------------------------------------------------------------------- */

typedef struct cut {
    uint64_t dims[SHOAL_GGUF_DIMS_MAX];
    uint8_t *data; /* NULL: the tensor's own */
} cut;

static uint64_t bytes_of(shoal_type type, uint64_t n)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    return n / info->block * info->block_bytes;
}

static shoal_status cut_rows(const compress_structure *s, size_t layer,
                             const structure_parts *parts, const shoal_gguf_tensor *t, cut *c,
                             shoal_err *err)
{
    bool vector = t->n_dims == 1;
    size_t n_all = (size_t)(vector ? t->dims[0] : t->dims[1]);
    size_t row_bytes = (size_t)bytes_of(t->type, vector ? 1 : t->dims[0]);
    SHOAL_CLEANUP(shoal_free_cleanup) size_t *rows = shoal_calloc(n_all, sizeof *rows);
    size_t n = left_rows(s, layer, parts, NULL);
    c->data = shoal_calloc_aligned(n, row_bytes);
    if (!rows || !c->data) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", n);
    }
    (void)left_rows(s, layer, parts, rows);
    for (size_t i = 0; i < n; i++) {
        memcpy(c->data + i * row_bytes, t->data + rows[i] * row_bytes, row_bytes);
    }
    c->dims[vector ? 0 : 1] = n;
    return SHOAL_OK;
}

/* fitted: the matrix as it is now; NULL: as in the file. */
static shoal_status cut_cols(const compress_structure *s, size_t layer, const structure_axis *axis,
                             const shoal_gguf_tensor *t, const float *fitted, cut *c,
                             shoal_err *err)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t k = (size_t)t->dims[0];
    size_t n_rows = (size_t)t->dims[1];
    size_t n = left_on(s, layer, axis, 0, NULL);
    if (n % info->block != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "rows of %zu elements are no whole blocks of %s, which has %zu: set "
                             "structure.multiple, or convert the model to F16 first",
                             n, info->name, (size_t)info->block);
    }
    size_t row_bytes = (size_t)bytes_of(t->type, n);
    SHOAL_CLEANUP(shoal_free_cleanup) size_t *cols = shoal_calloc(k, sizeof *cols);
    SHOAL_CLEANUP(shoal_free_cleanup) float *row = shoal_calloc(2 * k, sizeof *row);
    c->data = shoal_calloc_aligned(n_rows, row_bytes);
    if (!cols || !row || !c->data) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", n_rows);
    }
    (void)left_on(s, layer, axis, 0, cols);
    for (size_t r = 0; r < n_rows; r++) {
        const float *x = fitted ? fitted + r * k : row + k;
        if (!fitted) {
            shoal_weight_decode(t->type, t->data + r * bytes_of(t->type, k), k, row + k);
        }
        for (size_t i = 0; i < n; i++) {
            row[i] = x[cols[i]];
        }
        SHOAL_TRY(shoal_weight_encode(t->type, row, n, c->data + r * row_bytes, err));
    }
    c->dims[0] = n;
    return SHOAL_OK;
}

static shoal_status cut_tensor(const compress_structure *s, const shoal_gguf_tensor *t,
                               const char *name, cut *c, shoal_err *err)
{
    size_t layer = 0;
    const char *suffix = NULL;
    memcpy(c->dims, t->dims, sizeof c->dims);
    if (!shoal_forge_structure_name(name, &layer, &suffix)) {
        return SHOAL_OK;
    }
    bool fused = (s->hp.row->flags & SHOAL_ARCH_FUSED) != 0;
    structure_parts parts = shoal_forge_structure_parts(&s->hp, fused, suffix);
    if (parts.n_rows > 0 &&
        left_rows(s, layer, &parts, NULL) < (size_t)(t->n_dims == 1 ? t->dims[0] : t->dims[1])) {
        return cut_rows(s, layer, &parts, t, c, err);
    }
    if (parts.cols.unit != STRUCTURE_NONE &&
        left_on(s, layer, &parts.cols, 0, NULL) < (size_t)t->dims[0]) {
        const compress_structure_layer *l = &s->layers[layer];
        const float *fitted = parts.cols.unit == STRUCTURE_NEURON ? l->down : l->output;
        return cut_cols(s, layer, &parts.cols, t, fitted, c, err);
    }
    return SHOAL_OK;
}

/* --- the file --------------------------------------------------------------------------------- */

static shoal_status put_metadata(const compress_run *run, const compress_structure *s,
                                 shoal_gguf_writer *w)
{
    const shoal_hparams *hp = &s->hp;
    const struct {
        const char *suffix;
        size_t value;
    } keys[] = {{"feed_forward_length", s->ffn},
                {"attention.head_count", s->n_heads},
                {"attention.head_count_kv", s->n_kv_heads},
                {"attention.key_length", hp->head_dim},
                {"attention.value_length", hp->value_dim}};
    bool heads = s->n_heads < hp->n_heads;
    char key[96];
    for (size_t i = 0; i < shoal_gguf_n_kv(run->gguf); i++) {
        SHOAL_TRY(shoal_gguf_put_raw(w, shoal_gguf_key_at(run->gguf, i),
                                     shoal_gguf_raw_at(run->gguf, i)));
    }
    for (size_t i = 0; i < SHOAL_COUNT(keys); i++) {
        if (i == 0 ? s->ffn < hp->ffn : heads) {
            (void)snprintf(key, sizeof key, "%s.%s", hp->arch, keys[i].suffix);
            SHOAL_TRY(shoal_gguf_put_u32(w, key, (uint32_t)keys[i].value));
        }
    }
    if (heads && hp->row->wide_layers == hp->n_layers) { /* else it would follow from fewer heads */
        (void)snprintf(key, sizeof key, "%s.attention.scale", hp->arch);
        SHOAL_TRY(shoal_gguf_put_f32(w, key, hp->attn_scale));
    }
    return SHOAL_OK;
}

static shoal_status make_image(const compress_run *run, compress_structure *s, cut *cuts,
                               shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    shoal_status status = shoal_gguf_writer_new(&w);
    status = status == SHOAL_OK ? put_metadata(run, s, w) : status;
    for (size_t i = 0; status == SHOAL_OK && i < shoal_gguf_n_tensors(run->gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(run->gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        status = cut_tensor(s, t, name, &cuts[i], err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "structure: %s", name);
            return status;
        }
        status = shoal_gguf_put_tensor(w, name, t->type, cuts[i].dims, t->n_dims,
                                       cuts[i].data ? cuts[i].data : t->data);
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "structure: what is left cannot be described: %s",
                             shoal_status_text(status));
    }
    return shoal_gguf_writer_finish(w, &s->image, err);
}

/* --- moments ---------------------------------------------------------------------------------- */

/* Of the first n rows of a tensor, how many are left. */
static size_t left_before(const size_t *rows, size_t n_left, size_t n)
{
    size_t left = 0;
    while (left < n_left && rows[left] < n) {
        left++;
    }
    return left;
}

static shoal_status cut_layer(const compress_run *run, const compress_structure *s, size_t i,
                              size_t *list)
{
    const shoal_moments_layer *l = shoal_moments_layer_at(run->moments, i);
    shoal_moments_input in = shoal_moments_input_at(run->moments, l->input);
    size_t layer = 0;
    const char *suffix = NULL;
    if (!shoal_forge_structure_name(l->name, &layer, &suffix)) {
        return SHOAL_OK;
    }
    bool fused = (s->hp.row->flags & SHOAL_ARCH_FUSED) != 0;
    structure_parts parts = shoal_forge_structure_parts(&s->hp, fused, suffix);
    if (parts.n_rows > 0) {
        size_t n = left_rows(s, layer, &parts, list);
        size_t begin = left_before(list, n, l->row);
        size_t end = left_before(list, n, l->row + l->n_rows);
        return shoal_moments_cut(run->moments, i, begin, end - begin, NULL, 0);
    }
    if (parts.cols.unit == STRUCTURE_NONE) {
        return SHOAL_OK;
    }
    size_t n = left_on(s, layer, &parts.cols, 0, list);
    return n < in.k ? shoal_moments_cut(run->moments, i, l->row, l->n_rows, list, n) : SHOAL_OK;
}

static shoal_status cut_moments(const compress_run *run, const compress_structure *s)
{
    const shoal_hparams *hp = &s->hp;
    size_t n =
        2 * hp->ffn + (hp->n_heads + 2 * hp->n_kv_heads) * SHOAL_MAX(hp->head_dim, hp->value_dim);
    SHOAL_CLEANUP(shoal_free_cleanup) size_t *list = shoal_calloc(n, sizeof *list);
    if (!list) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < shoal_moments_n_layers(run->moments); i++) {
        SHOAL_TRY(cut_layer(run, s, i, list));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_structure_cut(compress_run *run, compress_structure *s, shoal_err *err)
{
    size_t n = shoal_gguf_n_tensors(run->gguf);
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    shoal_gguf *gguf = NULL;
    cut *cuts = shoal_calloc(n, sizeof *cuts);
    shoal_status status = cuts ? make_image(run, s, cuts, err)
                               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu tensors", n);
    for (size_t i = 0; cuts && i < n; i++) {
        shoal_free(cuts[i].data);
    }
    shoal_free(cuts);
    SHOAL_TRY(status);
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)s->image.data, s->image.length, &gguf, err));
    shoal_gguf_close(run->gguf);
    run->gguf = gguf;
    SHOAL_TRY(shoal_model_new(gguf, &model, err)); /* that it is one, and its hash */
    s->hash = model->hash;
    return cut_moments(run, s) == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory to cut the moments");
}
