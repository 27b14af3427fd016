/* SPDX-License-Identifier: Apache-2.0
 *
 * Sides as products read them, from the tensors of a file: R is a weight of its own, in place where
 * the file is packed; L and single elements go into panels of the weight's rows.
 */
#include "common/weight/sides_internal.h"

#include "common/base/mem.h"
#include "common/weight/matrix_internal.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_QBLOCK,
    BLOCK = 34 /* bytes of 32 elements of Q8_0 */
};

static size_t n_panels(const shoal_sides *s)
{
    return (s->n_rows + ROWS - 1) / ROWS;
}

static shoal_status no_memory(const shoal_gguf_tensor *weight, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for what stands beside tensor %.*s",
                         SHOAL_TENSOR_NAME(weight));
}

/* --- low rank -------------------------------------------------------------------------------- */

/* Sixteen rows lie in one block of 32 of every column of L, so a panel has one scale for each. */
static void pack_left(const shoal_sides *s, const shoal_gguf_tensor *left, size_t row)
{
    size_t column_bytes = (size_t)left->dims[0] / N * BLOCK;
    for (size_t p = 0; p < n_panels(s); p++) {
        uint8_t *panel = s->left + p * shoal_low_bytes(s->rank);
        size_t first = row + p * ROWS;
        size_t n = SHOAL_MIN(s->n_rows - p * ROWS, (size_t)ROWS);
        for (size_t r = 0; r < s->rank; r++) {
            const uint8_t *block = left->data + r * column_bytes + first / N * BLOCK;
            memcpy(panel + 2 * r, block, 2);
            memcpy(panel + 2 * s->rank + r * ROWS, block + 2 + first % N, n);
        }
    }
}

static shoal_status build_low(shoal_sides *s, const shoal_gguf *gguf,
                              const shoal_gguf_tensor *weight, const shoal_side_tensors *tensors,
                              size_t row, shoal_pool *pool, shoal_err *err)
{
    const shoal_gguf_tensor *left = tensors->of[SHOAL_SIDE_LOW_LEFT];
    const shoal_gguf_tensor *right = tensors->of[SHOAL_SIDE_LOW_RIGHT];
    if (!left) {
        return SHOAL_OK;
    }
    if (row % ROWS != 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: a part of it begins at row %zu, with low-rank factors a "
                             "multiple of %d is needed; leave them out for this layer",
                             SHOAL_TENSOR_NAME(weight), row, (int)ROWS);
    }
    s->rank = (size_t)left->dims[1];
    s->left = shoal_calloc_aligned(n_panels(s), shoal_low_bytes(s->rank));
    if (!s->left) {
        return no_memory(weight, err);
    }
    pack_left(s, left, row);
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(gguf, right, &m, err));
    return shoal_matrix_weight(&m, 0, s->rank, pool, &s->right, err);
}

/* --- column scales --------------------------------------------------------------------------- */

static shoal_status build_inverse(shoal_sides *s, const shoal_gguf_tensor *weight,
                                  const shoal_gguf_tensor *scales, shoal_err *err)
{
    if (!scales) {
        return SHOAL_OK;
    }
    s->inverse = shoal_calloc_aligned(s->k, sizeof *s->inverse);
    if (!s->inverse) {
        return no_memory(weight, err);
    }
    for (size_t i = 0; i < s->k; i++) {
        s->inverse[i] = 1.0F / shoal_f16_to_f32(shoal_format_u16(scales->data + 2 * i));
    }
    return SHOAL_OK;
}

/* --- single elements ------------------------------------------------------------------------- */

static uint32_t u32_at(const shoal_gguf_tensor *t, size_t i)
{
    uint32_t value = 0;
    memcpy(&value, t->data + 4 * i, sizeof value);
    return value;
}

/* Counts of every row, and where every panel's steps begin. */
static void count_singles(shoal_sides *s, const shoal_gguf_tensor *begin, size_t row)
{
    for (size_t p = 0; p < n_panels(s); p++) {
        uint32_t most = 0;
        for (size_t i = p * ROWS; i < SHOAL_MIN(s->n_rows, (p + 1) * ROWS); i++) {
            uint32_t n = u32_at(begin, row + i + 1) - u32_at(begin, row + i);
            s->counts[i] = n;
            s->n_singles += n;
            most = SHOAL_MAX(most, n);
        }
        s->begin[p + 1] = s->begin[p] + most;
    }
    s->n_steps = s->begin[n_panels(s)];
}

static shoal_status build_singles(shoal_sides *s, const shoal_gguf_tensor *weight,
                                  const shoal_side_tensors *tensors, size_t row, shoal_err *err)
{
    const shoal_gguf_tensor *begin = tensors->of[SHOAL_SIDE_SINGLE_BEGIN];
    const shoal_gguf_tensor *cols = tensors->of[SHOAL_SIDE_SINGLE_COLS];
    const shoal_gguf_tensor *values = tensors->of[SHOAL_SIDE_SINGLE_VALUES];
    if (!begin) {
        return SHOAL_OK;
    }
    s->begin = shoal_calloc(n_panels(s) + 1, sizeof *s->begin);
    s->counts = shoal_calloc_aligned(n_panels(s) * ROWS, sizeof *s->counts);
    if (!s->begin || !s->counts) {
        return no_memory(weight, err);
    }
    count_singles(s, begin, row);
    s->cols = shoal_calloc_aligned(SHOAL_MAX(s->n_steps, (size_t)1) * ROWS, sizeof *s->cols);
    s->values = shoal_calloc_aligned(SHOAL_MAX(s->n_steps, (size_t)1) * ROWS, sizeof *s->values);
    if (!s->cols || !s->values) {
        return no_memory(weight, err);
    }
    for (size_t i = 0; i < s->n_rows; i++) {
        size_t from = u32_at(begin, row + i);
        for (size_t j = 0; j < s->counts[i]; j++) {
            size_t at = (s->begin[i / ROWS] + j) * ROWS + i % ROWS;
            s->cols[at] = (uint16_t)u32_at(cols, from + j);
            s->values[at] = shoal_format_u16(values->data + 2 * (from + j));
        }
    }
    return SHOAL_OK;
}

/* --- the whole ------------------------------------------------------------------------------- */

void shoal_sides_free(shoal_sides *s)
{
    if (s) {
        shoal_weight_free(s->right);
        shoal_free(s->left);
        shoal_free(s->inverse);
        shoal_free(s->begin);
        shoal_free(s->counts);
        shoal_free(s->cols);
        shoal_free(s->values);
        shoal_free(s);
    }
}

static bool has_any(const shoal_side_tensors *tensors)
{
    for (size_t side = 0; side < SHOAL_SIDES; side++) {
        if (tensors->of[side]) {
            return true;
        }
    }
    return false;
}

shoal_status shoal_sides_load(const shoal_gguf *gguf, const shoal_gguf_tensor *weight, size_t row,
                              size_t n_rows, shoal_pool *pool, shoal_sides **ret_sides,
                              shoal_err *err)
{
    shoal_side_tensors tensors;
    SHOAL_TRY(shoal_sides_find(gguf, weight, &tensors, err));
    if (!has_any(&tensors)) {
        *ret_sides = NULL;
        return SHOAL_OK;
    }
    shoal_sides *s = shoal_calloc(1, sizeof *s);
    if (!s) {
        return no_memory(weight, err);
    }
    s->n_rows = n_rows;
    s->k = (size_t)weight->dims[0];
    shoal_status status = build_low(s, gguf, weight, &tensors, row, pool, err);
    if (status == SHOAL_OK) {
        status = build_inverse(s, weight, tensors.of[SHOAL_SIDE_COLUMN_SCALE], err);
    }
    const shoal_gguf_tensor *threshold = tensors.of[SHOAL_SIDE_THRESHOLD];
    if (threshold) {
        memcpy(&s->threshold, threshold->data, sizeof s->threshold);
    }
    const shoal_gguf_tensor *levels = tensors.of[SHOAL_SIDE_LEVELS];
    if (levels) {
        s->has_levels = true;
        memcpy(s->levels, levels->data, (size_t)levels->dims[0]);
    }
    if (status == SHOAL_OK) {
        status = build_singles(s, weight, &tensors, row, err);
    }
    if (status != SHOAL_OK) {
        shoal_sides_free(s);
        return status;
    }
    *ret_sides = s;
    return SHOAL_OK;
}

size_t shoal_sides_bytes(const shoal_sides *s)
{
    size_t bytes = n_panels(s) * shoal_low_bytes(s->rank);
    bytes += s->right ? shoal_weight_bytes(s->right) : 0;
    bytes += s->inverse ? s->k * sizeof *s->inverse : 0;
    bytes += s->has_levels ? sizeof s->levels : 0;
    if (s->begin) {
        bytes += (n_panels(s) + 1) * sizeof *s->begin + n_panels(s) * ROWS * sizeof *s->counts;
        bytes += s->n_steps * ROWS * (sizeof *s->cols + sizeof *s->values);
    }
    return bytes;
}

uint64_t shoal_sides_flops(const shoal_sides *s)
{
    return 2 * ((uint64_t)s->rank * (s->n_rows + s->k) + s->n_singles) + (s->inverse ? s->k : 0);
}

void shoal_sides_expand_row(const shoal_sides *s, size_t r, float *row)
{
    for (size_t i = 0; s->inverse && i < s->k; i++) {
        row[i] = row[i] * s->inverse[i];
    }
    const uint8_t *left = s->left + r / ROWS * shoal_low_bytes(s->rank);
    for (size_t t = 0; t < s->rank; t++) {
        float d = shoal_f16_to_f32(shoal_format_u16(left + 2 * t));
        float l = d * (float)(int8_t)left[2 * s->rank + t * ROWS + r % ROWS];
        const uint8_t *panel = s->right->panels + t / ROWS * s->right->panel_bytes;
        for (size_t i = 0; i < s->k; i += N) {
            float part[N];
            const size_t block = shoal_panel_bytes(SHOAL_PANEL_Q8_0, N);
            shoal_format_q8_0.unpack_row(panel + i / N * block, N, t % ROWS, part);
            for (size_t j = 0; j < N; j++) {
                row[i + j] = fmaf(l, part[j], row[i + j]);
            }
        }
    }
    for (size_t j = 0; s->begin && j < s->counts[r]; j++) {
        size_t at = (s->begin[r / ROWS] + j) * ROWS + r % ROWS;
        row[s->cols[at]] = row[s->cols[at]] + shoal_f16_to_f32(s->values[at]);
    }
}
