/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/acts_internal.h"
#include "common/weight/format.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    PARTS_PER_THREAD = 4, /* enough to even out threads that are late */
    PART_PANELS = 4       /* kernels keep this many panels in flight at width 1 */
};

struct shoal_weight {
    const shoal_format *format;
    size_t n_rows;
    size_t k;
    size_t n_panels;
    size_t panel_bytes;
    uint8_t *panels;
};

static const shoal_format *const formats[] = {
#define SHOAL_FORMAT(name) &shoal_format_##name,
#include "common/weight/formats.inc"
#undef SHOAL_FORMAT
};

static const shoal_format *find_format(shoal_type type)
{
    for (size_t i = 0; i < SHOAL_COUNT(formats); i++) {
        if (formats[i]->type == type) {
            return formats[i];
        }
    }
    return NULL;
}

/* Names in errors come from the file: cut, and bytes beyond ASCII are the log's affair. */
#define NAME_ARGS(t) (int)SHOAL_MIN((t)->name.length, (size_t)64), (t)->name.data

static shoal_status pack(shoal_weight *w, const shoal_gguf_tensor *t,
                         const shoal_gguf_tensor *scales, shoal_err *err)
{
    size_t band_bytes = (w->k + SHOAL_FP8_TILE - 1) / SHOAL_FP8_TILE * sizeof(float);
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t row_bytes = w->k / info->block * info->block_bytes;
    for (size_t row = 0; row < w->n_rows; row++) {
        const uint8_t *blocks = t->data + row * row_bytes;
        if (!w->format->finite(blocks, w->k)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "tensor %.*s: row %zu holds a number that is not finite; the file "
                                 "is damaged or was made wrong",
                                 NAME_ARGS(t), row);
        }
        uint8_t *panel = w->panels + row / ROWS * w->panel_bytes;
        w->format->pack_row(blocks, w->k, row % ROWS, panel);
        if (scales) {
            w->format->pack_scales(scales->data + row / SHOAL_FP8_TILE * band_bytes, w->k,
                                   row % ROWS, panel);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_weight_new(const shoal_gguf_tensor *tensor, shoal_weight **ret_weight,
                              shoal_err *err)
{
    return shoal_weight_new_scaled(tensor, NULL, ret_weight, err);
}

shoal_status shoal_weight_load(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                               shoal_weight **ret_weight, shoal_err *err)
{
    const shoal_gguf_tensor *scales = NULL;
    if (tensor->type == SHOAL_TYPE_I8) {
        SHOAL_TRY(shoal_fp8_scales(gguf, tensor, &scales, err));
    }
    return shoal_weight_new_scaled(tensor, scales, ret_weight, err);
}

shoal_status shoal_weight_new_scaled(const shoal_gguf_tensor *tensor,
                                     const shoal_gguf_tensor *scales, shoal_weight **ret_weight,
                                     shoal_err *err)
{
    const shoal_format *format = find_format(tensor->type);
    if (!format) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "tensor %.*s: type %d has no product",
                             NAME_ARGS(tensor), (int)tensor->type);
    }
    const shoal_panel_info *info = shoal_panel_find(format->panel);
    if (tensor->dims[2] != 1 || tensor->dims[3] != 1 || tensor->dims[0] < 1 ||
        tensor->dims[1] < 1 || (info->quantised && tensor->dims[0] % info->step != 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %.*s: a matrix is expected, with rows of whole blocks of %zu",
                             NAME_ARGS(tensor), info->step);
    }
    if (format->pack_scales && !scales) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: type %d has no product without scales",
                             NAME_ARGS(tensor), (int)tensor->type);
    }
    SHOAL_ASSERT(format->pack_scales || !scales);
    shoal_weight *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s", NAME_ARGS(tensor));
    }
    w->format = format;
    w->k = (size_t)tensor->dims[0];
    w->n_rows = (size_t)tensor->dims[1];
    w->n_panels = (w->n_rows + ROWS - 1) / ROWS;
    w->panel_bytes = shoal_panel_bytes(format->panel, w->k);
    w->panels = shoal_calloc_aligned(w->n_panels, w->panel_bytes);
    shoal_status status = SHOAL_E_NOMEM;
    if (w->panels) {
        status = pack(w, tensor, scales, err);
    } else {
        (void)shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s (%zu bytes)",
                            NAME_ARGS(tensor), w->n_panels * w->panel_bytes);
    }
    if (status != SHOAL_OK) {
        shoal_weight_free(w);
        return status;
    }
    *ret_weight = w;
    return SHOAL_OK;
}

void shoal_weight_free(shoal_weight *weight)
{
    if (weight) {
        shoal_free(weight->panels);
        shoal_free(weight);
    }
}

size_t shoal_weight_n_rows(const shoal_weight *weight)
{
    return weight->n_rows;
}

size_t shoal_weight_k(const shoal_weight *weight)
{
    return weight->k;
}

shoal_type shoal_weight_type(const shoal_weight *weight)
{
    return weight->format->type;
}

size_t shoal_weight_bytes(const shoal_weight *weight)
{
    return weight->n_panels * weight->panel_bytes;
}

void shoal_weight_row(const shoal_weight *weight, size_t r, float *ret_row)
{
    SHOAL_ASSERT(r < weight->n_rows);
    weight->format->unpack_row(weight->panels + r / ROWS * weight->panel_bytes, weight->k, r % ROWS,
                               ret_row);
}

/* --- product --------------------------------------------------------------------------------- */

typedef struct job {
    const shoal_weight *weight;
    const shoal_kernels *kernels;
    shoal_gemm g;
    size_t part_panels;
} job;

static void run_part(void *ctx, size_t part, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    size_t p0 = part * j->part_panels;
    size_t p1 = SHOAL_MIN(p0 + j->part_panels, j->weight->n_panels);
    j->kernels->gemm[j->weight->format->panel](&j->g, p0, p1);
}

void shoal_weight_matmul(const shoal_weight *weight, const shoal_kernels *kernels, shoal_pool *pool,
                         shoal_acts *acts, float *y, size_t y_stride)
{
    SHOAL_ASSERT(acts->k == weight->k && y_stride >= weight->n_rows);
    if (shoal_panel_find(weight->format->panel)->quantised) {
        shoal_acts_quantise(acts, kernels, pool);
    }
    size_t n_parts = SHOAL_MAX(shoal_pool_n_threads(pool) * PARTS_PER_THREAD, (size_t)1);
    size_t part_panels = (weight->n_panels + n_parts - 1) / n_parts;
    part_panels = (part_panels + PART_PANELS - 1) / PART_PANELS * PART_PANELS;
    job j = {
        .weight = weight,
        .kernels = kernels,
        .g = {.panels = weight->panels,
              .n_rows = weight->n_rows,
              .k = weight->k,
              .n_cols = acts->n_cols,
              .x = acts->x,
              .x_stride = acts->stride,
              .xq = acts->codes,
              .xb = acts->blocks,
              .y = y,
              .y_stride = y_stride},
        .part_panels = part_panels,
    };
    shoal_pool_run(pool, run_part, &j, (weight->n_panels + part_panels - 1) / part_panels);
}

/* --- codecs ---------------------------------------------------------------------------------- */

shoal_status shoal_weight_encode(shoal_type type, const float *x, size_t n, void *ret_blocks,
                                 shoal_err *err)
{
    const shoal_format *format = find_format(type);
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    if (!format || !info || !format->encode) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "tensor type %d cannot be written",
                             (int)type);
    }
    if (n % info->block != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%zu elements are no whole blocks of %u", n,
                             info->block);
    }
    if (!shoal_format_f32.finite((const uint8_t *)x, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "a number to be encoded is not finite");
    }
    format->encode(x, n, ret_blocks);
    if (!format->finite(ret_blocks, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a number to be encoded is too large for %s; keep this tensor in F32",
                             info->name);
    }
    return SHOAL_OK;
}

void shoal_weight_decode(shoal_type type, const void *blocks, size_t n, float *ret_x)
{
    const shoal_format *format = find_format(type);
    SHOAL_ASSERT(format && format->decode); /* the reader lets no type in but ours and I8 */
    format->decode(blocks, n, ret_x);
}
