/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a packed file of a plain one: two passes over the tensors, for the head holds their
 * digests and sums. Nothing larger than a group of rows is held in memory.
 */
#include "common/weight/pack_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    GROUP_BYTES = 16 << 20, /* panels made and written at a time */
    DIMS = SHOAL_PACK_DIMS
};

typedef struct packing {
    const shoal_gguf *gguf;
    size_t n; /* tensors */
    shoal_pool *pool;
    shoal_gguf_writer *writer;
    shoal_pack_sink *sink;
    void *ctx;
    int32_t *types;                  /* (n) */
    int32_t *dims;                   /* (n, DIMS) */
    char (*digests)[SHOAL_HASH_HEX]; /* (n) */
    char (*sums)[SHOAL_HASH_HEX];    /* (n) */
    shoal_str *texts;                /* (n) */
    size_t n_packed;
} packing;

static void packing_close(packing *p)
{
    shoal_gguf_writer_free(p->writer);
    shoal_free(p->types);
    shoal_free(p->dims);
    shoal_free(p->digests);
    shoal_free(p->sums);
    shoal_free(p->texts);
}

static shoal_status no_memory(shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to pack the model");
}

static shoal_status packing_open(packing *p, shoal_err *err)
{
    p->n = shoal_gguf_n_tensors(p->gguf);
    p->types = shoal_calloc(p->n, sizeof *p->types);
    p->dims = shoal_calloc(p->n, DIMS * sizeof *p->dims);
    p->digests = shoal_calloc(p->n, sizeof *p->digests);
    p->sums = shoal_calloc(p->n, sizeof *p->sums);
    p->texts = shoal_calloc(p->n, sizeof *p->texts);
    if (!p->types || !p->dims || !p->digests || !p->sums || !p->texts ||
        shoal_gguf_writer_new(&p->writer) != SHOAL_OK) {
        return no_memory(err);
    }
    return shoal_gguf_writer_align(p->writer, SHOAL_PACK_ALIGN);
}

static uint64_t panels_bytes(const shoal_matrix *m)
{
    return (uint64_t)((m->n_rows + SHOAL_PANEL_ROWS - 1) / SHOAL_PANEL_ROWS) * m->panel_bytes;
}

/* FP8's scales are read as a tensor when they go into panels. */
static bool is_scales(const shoal_gguf *gguf, const shoal_gguf_tensor *t)
{
    static const char end[] = "_scale";
    size_t n = t->name.length;
    char name[SHOAL_GGUF_NAME_MAX + 1];
    if (n < sizeof end || memcmp(t->name.data + n - (sizeof end - 1), end, sizeof end - 1) != 0) {
        return false;
    }
    (void)snprintf(name, sizeof name, "%.*s", (int)(n - (sizeof end - 1)), t->name.data);
    const shoal_gguf_tensor *codes = shoal_gguf_find_tensor(gguf, name);
    return codes && codes->type == SHOAL_TYPE_I8;
}

/* Sides but R go into panels of their weight when they are loaded. */
static bool is_side(const shoal_gguf_tensor *t)
{
    shoal_side side = SHOAL_SIDE_LOW_RIGHT;
    shoal_str weight = {0};
    return shoal_side_parse(t->name, &side, &weight) && side != SHOAL_SIDE_LOW_RIGHT;
}

/* What the file will say of tensor i. */
static shoal_status describe(packing *p, size_t i, shoal_err *err)
{
    const shoal_gguf_tensor *t = shoal_gguf_tensor_at(p->gguf, i);
    char name[SHOAL_GGUF_NAME_MAX + 1];
    (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
    p->types[i] = -1;
    for (size_t d = 0; d < DIMS; d++) {
        p->dims[i * DIMS + d] = 1;
    }
    shoal_matrix m;
    if (t->dims[1] < 2 || is_scales(p->gguf, t) || is_side(t) ||
        shoal_matrix_of(p->gguf, t, &m, NULL) != SHOAL_OK) {
        return shoal_gguf_put_tensor(p->writer, name, t->type, t->dims, t->n_dims, NULL);
    }
    shoal_hash hash;
    SHOAL_TRY(shoal_pack_digest(p->gguf, t, p->pool, &hash, err));
    shoal_hash_hex(&hash, p->digests[i]);
    SHOAL_TRY(shoal_pack_sum(p->gguf, t, p->pool, &hash, err));
    shoal_hash_hex(&hash, p->sums[i]);
    p->types[i] = (int32_t)t->type;
    for (size_t d = 0; d < DIMS; d++) {
        if (t->dims[d] > INT32_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "tensor %s: a dimension over %d", name,
                                 INT32_MAX);
        }
        p->dims[i * DIMS + d] = (int32_t)t->dims[d];
    }
    p->n_packed++;
    uint64_t bytes = panels_bytes(&m);
    return shoal_gguf_put_tensor(p->writer, name, SHOAL_TYPE_I8, &bytes, 1, NULL);
}

static shoal_status put_hashes(packing *p, const char *key, char (*hashes)[SHOAL_HASH_HEX])
{
    for (size_t i = 0; i < p->n; i++) {
        p->texts[i] = (shoal_str){hashes[i], strlen(hashes[i])};
    }
    return shoal_gguf_put_str_array(p->writer, key, p->texts, p->n);
}

static shoal_status put_metadata(packing *p, shoal_err *err)
{
    for (size_t i = 0; i < shoal_gguf_n_kv(p->gguf); i++) {
        SHOAL_TRY(shoal_gguf_put_raw(p->writer, shoal_gguf_key_at(p->gguf, i),
                                     shoal_gguf_raw_at(p->gguf, i)));
    }
    for (size_t i = 0; i < p->n; i++) {
        SHOAL_TRY(describe(p, i, err));
    }
    SHOAL_TRY(shoal_gguf_put_u32(p->writer, SHOAL_PACK_VERSION_KEY, SHOAL_PACK_VERSION));
    SHOAL_TRY(shoal_gguf_put_i32_array(p->writer, SHOAL_PACK_TYPES, p->types, p->n));
    SHOAL_TRY(shoal_gguf_put_i32_array(p->writer, SHOAL_PACK_DIMS_KEY, p->dims, p->n * DIMS));
    SHOAL_TRY(put_hashes(p, SHOAL_PACK_DIGESTS, p->digests));
    return put_hashes(p, SHOAL_PACK_SUMS, p->sums);
}

static shoal_status write_padding(packing *p, uint64_t n_written, shoal_err *err)
{
    static const char zeros[SHOAL_PACK_ALIGN];
    return p->sink(p->ctx, zeros, shoal_gguf_writer_padding(p->writer, n_written), err);
}

static shoal_status write_panels(packing *p, const shoal_gguf_tensor *t, shoal_err *err)
{
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(p->gguf, t, &m, err));
    size_t group = SHOAL_MAX(GROUP_BYTES / m.panel_bytes, (size_t)1) * SHOAL_PANEL_ROWS;
    for (size_t row = 0; row < m.n_rows; row += group) {
        shoal_weight *w = NULL;
        SHOAL_TRY(shoal_matrix_weight(&m, row, SHOAL_MIN(group, m.n_rows - row), p->pool, &w, err));
        shoal_status status = p->sink(p->ctx, w->panels, w->n_panels * w->panel_bytes, err);
        shoal_weight_free(w);
        SHOAL_TRY(status);
    }
    return write_padding(p, panels_bytes(&m), err);
}

static shoal_status write_all(packing *p, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    SHOAL_TRY(shoal_gguf_writer_head(p->writer, &head, err));
    SHOAL_TRY(p->sink(p->ctx, head.data, head.length, err));
    for (size_t i = 0; i < p->n; i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(p->gguf, i);
        if (p->types[i] >= 0) {
            SHOAL_TRY(write_panels(p, t, err));
        } else {
            SHOAL_TRY(p->sink(p->ctx, t->data, (size_t)t->size_bytes, err));
            SHOAL_TRY(write_padding(p, t->size_bytes, err));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_pack_write(const shoal_gguf *gguf, shoal_pool *pool, shoal_pack_sink *sink,
                              void *ctx, size_t *ret_n_packed, shoal_err *err)
{
    SHOAL_CLEANUP(packing_close)
    packing p = {.gguf = gguf, .pool = pool, .sink = sink, .ctx = ctx};
    if (shoal_pack_is_packed(gguf)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the model is packed already; shoal-forge convert unpacks it");
    }
    SHOAL_TRY(packing_open(&p, err));
    shoal_status status = put_metadata(&p, err);
    if (status != SHOAL_OK) {
        return err && err->text[0]
                   ? status
                   : shoal_err_set(err, status, "packing the model: %s", shoal_status_text(status));
    }
    SHOAL_TRY(write_all(&p, err));
    *ret_n_packed = p.n_packed;
    return SHOAL_OK;
}
