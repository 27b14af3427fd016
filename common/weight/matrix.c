/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/matrix_internal.h"

#include "common/base/checked.h"
#include "common/base/file.h"
#include "common/base/mem.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    LEAF_BYTES = 1 << 20
};

static const shoal_format *const formats[] = {
#define SHOAL_FORMAT(name) &shoal_format_##name,
#include "common/weight/formats.inc"
#undef SHOAL_FORMAT
};

const shoal_format *shoal_format_find(shoal_type type)
{
    for (size_t i = 0; i < SHOAL_COUNT(formats); i++) {
        if (formats[i]->type == type) {
            return formats[i];
        }
    }
    return NULL;
}

static shoal_status check_shape(const shoal_matrix *m, shoal_err *err)
{
    const shoal_panel_info *info = shoal_panel_find(m->format->panel);
    const uint64_t *dims = m->tensor->dims;
    uint64_t rows = 0;
    if (dims[0] < 1 || !shoal_mul_u64(dims[1], dims[2], &rows) || rows < 1 || dims[3] != 1 ||
        rows > SIZE_MAX / 2 || (info->quantised && dims[0] % info->step != 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %.*s: a matrix is expected, with rows of whole blocks of %zu",
                             SHOAL_TENSOR_NAME(m->tensor), info->step);
    }
    return SHOAL_OK;
}

shoal_status shoal_matrix_of(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                             shoal_matrix *ret_matrix, shoal_err *err)
{
    shoal_matrix m = {.tensor = tensor, .format = shoal_format_find(tensor->type)};
    if (!m.format) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "tensor %.*s: type %d has no product",
                             SHOAL_TENSOR_NAME(tensor), (int)tensor->type);
    }
    SHOAL_TRY(check_shape(&m, err));
    if (m.format->pack_scales && gguf) {
        SHOAL_TRY(shoal_fp8_scales(gguf, tensor, &m.scales, err));
    }
    const shoal_type_info *info = shoal_type_find((uint32_t)tensor->type);
    m.k = (size_t)tensor->dims[0];
    m.n_rows = (size_t)(tensor->dims[1] * tensor->dims[2]);
    m.row_bytes = m.k / info->block * info->block_bytes;
    m.panel_bytes = shoal_panel_bytes(m.format->panel, m.k);
    SHOAL_ASSERT(m.row_bytes > 0);
    m.leaf_rows = SHOAL_MAX(LEAF_BYTES / ROWS / m.row_bytes, (size_t)1) * ROWS;
    m.n_leaves = (m.n_rows + m.leaf_rows - 1) / m.leaf_rows;
    *ret_matrix = m;
    return SHOAL_OK;
}

const uint8_t *shoal_matrix_blocks(const shoal_matrix *m, size_t row, uint8_t *space)
{
    if (!m->tensor->packed) {
        return m->tensor->data + row * m->row_bytes;
    }
    m->format->restore_row(m->tensor->data + row / ROWS * m->panel_bytes, m->k, row % ROWS, space);
    return space;
}

/* The scales of a row's band of tiles. Every matrix of a stack begins with a band of its own. */
static const uint8_t *scales_of(const shoal_matrix *m, size_t row)
{
    size_t n_rows = (size_t)m->tensor->dims[1];
    size_t n_bands = (n_rows + SHOAL_FP8_TILE - 1) / SHOAL_FP8_TILE;
    size_t band_bytes = (m->k + SHOAL_FP8_TILE - 1) / SHOAL_FP8_TILE * sizeof(float);
    size_t band = row / n_rows * n_bands + row % n_rows / SHOAL_FP8_TILE;
    return m->scales->data + band * band_bytes;
}

shoal_status shoal_matrix_pack(const shoal_matrix *m, size_t row, size_t n, uint8_t *panels,
                               size_t *ret_bad_row)
{
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *space = NULL;
    if (m->tensor->packed) {
        space = shoal_calloc(m->row_bytes, 1);
        if (!space) {
            return SHOAL_E_NOMEM;
        }
    }
    for (size_t i = 0; i < n; i++) {
        const uint8_t *blocks = shoal_matrix_blocks(m, row + i, space);
        if (!m->format->finite(blocks, m->k)) {
            *ret_bad_row = row + i;
            return SHOAL_E_INVALID;
        }
        uint8_t *panel = panels + i / ROWS * m->panel_bytes;
        m->format->pack_row(blocks, m->k, i % ROWS, panel);
        if (m->scales) {
            m->format->pack_scales(scales_of(m, row + i), m->k, i % ROWS, panel);
        }
    }
    return SHOAL_OK;
}

void shoal_matrix_forget(const shoal_matrix *m, size_t row, size_t n)
{
    if (m->tensor->mapped && !m->tensor->packed) {
        shoal_map_forget(m->tensor->data + row * m->row_bytes, n * m->row_bytes);
    }
}

shoal_status shoal_matrix_not_finite(const shoal_matrix *m, size_t row, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "tensor %.*s: row %zu holds a number that is not finite, or two of four "
                         "in no order; the file is damaged or was made wrong",
                         SHOAL_TENSOR_NAME(m->tensor), row);
}
