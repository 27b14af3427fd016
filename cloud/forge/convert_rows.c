/* SPDX-License-Identifier: Apache-2.0
 *
 * One tensor's rows in their new form. A few megabytes of rows are in memory at a time: threads
 * decode and encode bands of them, then the chunk goes to the file.
 */
#include "cloud/forge/convert.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    BAND = SHOAL_FP8_TILE,      /* rows of one part of the work: FP8 tiles are never split */
    CHUNK_ELEMENTS = 1 << 22,   /* about as many are in memory, but one band at least */
    CHECK_ELEMENTS = 256 * 1024 /* of a tensor that is copied, looked at in one go */
};

/* A chunk of rows of one matrix being converted. */
typedef struct chunk {
    const convert_item *item;
    const uint8_t *from;      /* the first row's bytes */
    const float *from_scales; /* the first row's band of scales */
    const float *pair_a;      /* of the item's pair, [rank][k] */
    size_t k;
    size_t row; /* of the matrix, the first one */
    size_t n_rows;
    size_t from_row_bytes;
    size_t to_row_bytes;
    float *x;               /* [n_rows][k] */
    uint8_t *to;            /* [n_rows][to_row_bytes] */
    float *to_scales;       /* [bands][tiles of k], for FP8 */
    shoal_status *statuses; /* of the bands */
} chunk;

static void decode_rows(const chunk *j, size_t row, size_t n)
{
    const uint8_t *from = j->from + row * j->from_row_bytes;
    float *x = j->x + row * j->k;
    if (!j->from_scales) {
        shoal_weight_decode(j->item->from->type, from, n * j->k, x);
        return;
    }
    const float *scales = j->from_scales + row / BAND * shoal_forge_tiles(j->k);
    for (size_t r = 0; r < n; r++) {
        shoal_fp8_decode(from + r * j->k, scales, j->k, x + r * j->k);
    }
}

static shoal_status encode_rows(const chunk *j, size_t row, size_t n, shoal_err *err)
{
    const float *x = j->x + row * j->k;
    uint8_t *to = j->to + row * j->to_row_bytes;
    if (!j->item->to.fp8) {
        return shoal_weight_encode(j->item->to.info->type, x, n * j->k, to, err);
    }
    float *scales = j->to_scales + row / BAND * shoal_forge_tiles(j->k);
    shoal_status status = shoal_fp8_encode(x, n, j->k, to, scales);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "a number to be encoded is not finite");
    }
    return SHOAL_OK;
}

static void run_band(void *ctx, size_t band, size_t worker)
{
    (void)worker;
    const chunk *j = ctx;
    size_t row = band * BAND;
    size_t n = SHOAL_MIN(j->n_rows - row, (size_t)BAND);
    decode_rows(j, row, n);
    if (j->item->pair) {
        shoal_forge_merge_rows(j->item->pair, j->pair_a, j->row + row, n, j->x + row * j->k);
    }
    j->statuses[band] = encode_rows(j, row, n, NULL);
}

static shoal_status convert_chunk(conversion *c, chunk *j, shoal_err *err)
{
    size_t n_bands = (j->n_rows + BAND - 1) / BAND;
    shoal_pool_run(c->pool, run_band, j, n_bands);
    for (size_t band = 0; band < n_bands; band++) {
        if (j->statuses[band] != SHOAL_OK) {
            /* Once more, for its words. */
            size_t row = band * BAND;
            return encode_rows(j, row, SHOAL_MIN(j->n_rows - row, (size_t)BAND), err);
        }
    }
    return SHOAL_OK;
}

static shoal_status put_out(conversion *c, const void *data, size_t n, shoal_err *err)
{
    c->n_bytes += n;
    return shoal_file_out_write(c->out, data, n, err);
}

static shoal_status put_padding(conversion *c, uint64_t size, shoal_err *err)
{
    static const uint8_t zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    return put_out(c, zeros, shoal_gguf_writer_padding(c->writer, size), err);
}

/* --- as they are ----------------------------------------------------------------------------- */

static shoal_status check_finite(const convert_item *item, shoal_err *err)
{
    const shoal_gguf_tensor *t = item->from;
    if (t->type == SHOAL_TYPE_I8 || t->type == SHOAL_TYPE_I32) {
        return SHOAL_OK; /* any byte is a number, and FP8's NaN codes are refused when loaded */
    }
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t n_blocks = (size_t)t->size_bytes / info->block_bytes;
    size_t step = CHECK_ELEMENTS / info->block;
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc(CHECK_ELEMENTS, sizeof *x);
    if (!x) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory");
    }
    for (size_t b = 0; b < n_blocks; b += step) {
        size_t n = SHOAL_MIN(step, n_blocks - b) * info->block;
        shoal_weight_decode(t->type, t->data + b * info->block_bytes, n, x);
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(x[i])) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "element %zu is not finite; the file is damaged or was made "
                                     "wrong",
                                     b * info->block + i);
            }
        }
    }
    return SHOAL_OK;
}

/* A packed matrix's blocks; how its panels are was checked when the file was opened. */
static shoal_status restore(conversion *c, const shoal_gguf_tensor *t, shoal_err *err)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t k = (size_t)t->dims[0];
    size_t row_bytes = k / info->block * info->block_bytes;
    size_t n_rows = (size_t)(t->dims[1] * t->dims[2]);
    size_t step = SHOAL_MAX(CHUNK_ELEMENTS / k, (size_t)1);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *blocks = shoal_calloc(step, row_bytes);
    if (!blocks) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", step);
    }
    for (size_t row = 0; row < n_rows; row += step) {
        size_t n = SHOAL_MIN(step, n_rows - row);
        SHOAL_TRY(shoal_weight_blocks(t, row, n, blocks, err));
        SHOAL_TRY(put_out(c, blocks, n * row_bytes, err));
    }
    return put_padding(c, n_rows * row_bytes, err);
}

static shoal_status copy(conversion *c, const convert_item *item, shoal_err *err)
{
    const shoal_gguf_tensor *t = item->from;
    if (t->packed) {
        SHOAL_TRY(restore(c, t, err));
    } else {
        SHOAL_TRY(check_finite(item, err));
        SHOAL_TRY(put_out(c, t->data, (size_t)t->size_bytes, err));
        SHOAL_TRY(put_padding(c, t->size_bytes, err));
    }
    if (item->scales) {
        SHOAL_TRY(put_out(c, item->scales->data, (size_t)item->scales->size_bytes, err));
        SHOAL_TRY(put_padding(c, item->scales->size_bytes, err));
    }
    return SHOAL_OK;
}

/* --- converted ------------------------------------------------------------------------------- */

typedef struct buffers {
    uint8_t *from; /* blocks restored from a packed file */
    float *x;
    uint8_t *to;
    shoal_status *statuses;
    float *from_scales; /* a copy: the file's bytes need not be aligned for floats */
    float *to_scales;   /* of the whole tensor */
    float *pair_a;      /* A of the item's pair */
} buffers;

static void buffers_fini(buffers *b)
{
    shoal_free(b->from);
    shoal_free(b->x);
    shoal_free(b->to);
    shoal_free(b->statuses);
    shoal_free(b->from_scales);
    shoal_free(b->to_scales);
    shoal_free(b->pair_a);
}

static shoal_status buffers_init(buffers *b, const convert_item *item, size_t chunk_rows,
                                 size_t from_row_bytes, size_t to_row_bytes, size_t n_scales)
{
    size_t k = (size_t)item->from->dims[0];
    size_t from_bytes = item->from->packed ? chunk_rows * from_row_bytes : 0;
    b->from = shoal_calloc(from_bytes, 1);
    b->x = shoal_calloc(chunk_rows * k, sizeof *b->x);
    b->to = shoal_calloc(chunk_rows, to_row_bytes);
    b->statuses = shoal_calloc((chunk_rows + BAND - 1) / BAND, sizeof *b->statuses);
    b->from_scales = shoal_calloc(n_scales, sizeof *b->from_scales);
    b->to_scales = shoal_calloc(n_scales, sizeof *b->to_scales);
    if (!b->from || !b->x || !b->to || !b->statuses || !b->from_scales || !b->to_scales) {
        return SHOAL_E_NOMEM;
    }
    if (item->pair) {
        const shoal_gguf_tensor *a = item->pair->a;
        size_t n = (size_t)(a->dims[0] * a->dims[1]);
        b->pair_a = shoal_calloc(n, sizeof *b->pair_a);
        if (!b->pair_a) {
            return SHOAL_E_NOMEM;
        }
        shoal_weight_decode(a->type, a->data, n, b->pair_a);
    }
    if (item->scales) {
        memcpy(b->from_scales, item->scales->data, (size_t)item->scales->size_bytes);
    }
    return SHOAL_OK;
}

/* Tiles begin anew with every matrix of a tensor of several. */
static shoal_status convert_matrices(conversion *c, const convert_item *item, chunk *j, buffers *b,
                                     size_t chunk_rows, shoal_err *err)
{
    const shoal_gguf_tensor *t = item->from;
    size_t rows = (size_t)t->dims[1];
    size_t matrix_scales = (size_t)(shoal_forge_tiles(rows) * shoal_forge_tiles(j->k));
    for (size_t m = 0; m < (size_t)(t->dims[2] * t->dims[3]); m++) {
        for (size_t row = 0; row < rows; row += chunk_rows) {
            size_t at = m * matrix_scales + row / BAND * (size_t)shoal_forge_tiles(j->k);
            j->row = row;
            j->n_rows = SHOAL_MIN(rows - row, chunk_rows);
            if (t->packed) {
                SHOAL_TRY(shoal_weight_blocks(t, m * rows + row, j->n_rows, b->from, err));
                j->from = b->from;
            } else {
                j->from = t->data + (m * rows + row) * j->from_row_bytes;
            }
            j->from_scales = item->scales ? b->from_scales + at : NULL;
            j->to_scales = b->to_scales + at;
            SHOAL_TRY(convert_chunk(c, j, err));
            SHOAL_TRY(put_out(c, j->to, j->n_rows * j->to_row_bytes, err));
        }
    }
    return SHOAL_OK;
}

static shoal_status convert(conversion *c, const convert_item *item, shoal_err *err)
{
    SHOAL_CLEANUP(buffers_fini) buffers b = {0};
    const shoal_gguf_tensor *t = item->from;
    const shoal_type_info *from = shoal_type_find((uint32_t)t->type);
    const shoal_type_info *to = item->to.info;
    size_t k = (size_t)t->dims[0];
    size_t n_matrices = (size_t)(t->dims[2] * t->dims[3]);
    size_t n_scales = n_matrices * (size_t)(shoal_forge_tiles(t->dims[1]) * shoal_forge_tiles(k));
    size_t bands = SHOAL_MAX(CHUNK_ELEMENTS / k / BAND, (size_t)1);
    size_t chunk_rows = SHOAL_MIN(bands * BAND, (size_t)t->dims[1]);
    size_t to_row_bytes = k / to->block * to->block_bytes;
    size_t from_row_bytes = k / from->block * from->block_bytes;
    if (buffers_init(&b, item, chunk_rows, from_row_bytes, to_row_bytes, n_scales) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", chunk_rows);
    }
    chunk j = {.item = item,
               .pair_a = b.pair_a,
               .k = k,
               .from_row_bytes = from_row_bytes,
               .to_row_bytes = to_row_bytes,
               .x = b.x,
               .to = b.to,
               .statuses = b.statuses};
    SHOAL_TRY(convert_matrices(c, item, &j, &b, chunk_rows, err));
    SHOAL_TRY(put_padding(c, n_matrices * t->dims[1] * to_row_bytes, err));
    if (item->to.fp8) {
        SHOAL_TRY(put_out(c, b.to_scales, n_scales * sizeof(float), err));
        SHOAL_TRY(put_padding(c, n_scales * sizeof(float), err));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_convert_item(conversion *c, const convert_item *item, shoal_err *err)
{
    shoal_status status = item->copy ? copy(c, item, err) : convert(c, item, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "tensor %.*s", (int)item->from->name.length, item->from->name.data);
    }
    return status;
}
