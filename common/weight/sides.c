/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensors of a weight's sides: their names, what a file must have for them, and their bytes.
 */
#include "common/weight/sides.h"

#include "common/weight/matrix_internal.h"

#include <math.h>
#include <string.h>

enum {
    N = SHOAL_QBLOCK,
    BLOCK = 34 /* bytes of 32 elements of Q8_0 */
};

static const char weight_end[] = ".weight";
static const struct {
    const char *suffix;
    shoal_type type;
} infos[SHOAL_SIDES] = {
    [SHOAL_SIDE_LOW_LEFT] = {"_low_left", SHOAL_TYPE_Q8_0},
    [SHOAL_SIDE_LOW_RIGHT] = {"_low_right", SHOAL_TYPE_Q8_0},
    [SHOAL_SIDE_COLUMN_SCALE] = {"_column_scale", SHOAL_TYPE_F16},
    [SHOAL_SIDE_THRESHOLD] = {"_threshold", SHOAL_TYPE_F32},
    [SHOAL_SIDE_SINGLE_BEGIN] = {"_single_begin", SHOAL_TYPE_I32},
    [SHOAL_SIDE_SINGLE_COLS] = {"_single_cols", SHOAL_TYPE_I32},
    [SHOAL_SIDE_SINGLE_VALUES] = {"_single_values", SHOAL_TYPE_F16},
    [SHOAL_SIDE_LEVELS] = {"_levels", SHOAL_TYPE_I8},
};

/* --- names ----------------------------------------------------------------------------------- */

static bool ends_with(shoal_str name, const char *end)
{
    size_t n = strlen(end);
    return name.length >= n && memcmp(name.data + name.length - n, end, n) == 0;
}

bool shoal_side_name(shoal_str weight, shoal_side side, char ret_name[SHOAL_GGUF_NAME_MAX + 1])
{
    size_t n = strlen(infos[side].suffix);
    if (!ends_with(weight, weight_end) || weight.length + n > SHOAL_GGUF_NAME_MAX) {
        return false;
    }
    memcpy(ret_name, weight.data, weight.length);
    memcpy(ret_name + weight.length, infos[side].suffix, n + 1);
    return true;
}

bool shoal_side_parse(shoal_str name, shoal_side *ret_side, shoal_str *ret_weight)
{
    for (size_t side = 0; side < SHOAL_SIDES; side++) {
        shoal_str weight = {name.data, name.length - strlen(infos[side].suffix)};
        if (ends_with(name, infos[side].suffix) && ends_with(weight, weight_end)) {
            *ret_side = (shoal_side)side;
            *ret_weight = weight;
            return true;
        }
    }
    return false;
}

/* --- checks ---------------------------------------------------------------------------------- */

static shoal_status bad_shape(const shoal_gguf_tensor *t, const char *type, uint64_t dim0,
                              uint64_t dim1, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "tensor %.*s: %s of %llu x %llu is expected beside its weight; compress "
                         "the model again",
                         SHOAL_TENSOR_NAME(t), type, (unsigned long long)dim0,
                         (unsigned long long)dim1);
}

static shoal_status check_tensor(const shoal_side_tensors *sides, shoal_side side, uint64_t dim0,
                                 uint64_t dim1, shoal_err *err)
{
    const shoal_gguf_tensor *t = sides->of[side];
    bool packed = t->packed && side != SHOAL_SIDE_LOW_RIGHT;
    if (t->type != infos[side].type || packed || t->dims[0] != dim0 || t->dims[1] != dim1 ||
        t->dims[2] != 1 || t->dims[3] != 1) {
        return bad_shape(t, shoal_type_find((uint32_t)infos[side].type)->name, dim0, dim1, err);
    }
    return SHOAL_OK;
}

static shoal_status not_finite(const shoal_gguf_tensor *t, const char *what, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "tensor %.*s: %s; the file is damaged or was made wrong",
                         SHOAL_TENSOR_NAME(t), what);
}

static shoal_status check_low(const shoal_gguf_tensor *weight, const shoal_side_tensors *sides,
                              shoal_err *err)
{
    const shoal_gguf_tensor *left = sides->of[SHOAL_SIDE_LOW_LEFT];
    const shoal_gguf_tensor *right = sides->of[SHOAL_SIDE_LOW_RIGHT];
    if (!left && !right) {
        return SHOAL_OK;
    }
    if (!left || !right) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor %.*s: its other factor, named ..%s, is missing; compress the "
                             "model again",
                             SHOAL_TENSOR_NAME(left ? left : right),
                             infos[left ? SHOAL_SIDE_LOW_RIGHT : SHOAL_SIDE_LOW_LEFT].suffix);
    }
    uint64_t rank = left->dims[1];
    if (rank > SHOAL_SIDES_RANK_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tensor %.*s: rank %llu is more than %d; compress with a lower rank",
                             SHOAL_TENSOR_NAME(left), (unsigned long long)rank,
                             (int)SHOAL_SIDES_RANK_MAX);
    }
    if (weight->dims[0] % N != 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: %llu columns are no multiple of 32, which low-rank "
                             "factors need; leave them out for this layer",
                             SHOAL_TENSOR_NAME(weight), (unsigned long long)weight->dims[0]);
    }
    SHOAL_TRY(
        check_tensor(sides, SHOAL_SIDE_LOW_LEFT, (weight->dims[1] + N - 1) / N * N, rank, err));
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_LOW_RIGHT, weight->dims[0], rank, err));
    const shoal_gguf_tensor *both[] = {left, right};
    for (size_t i = 0; i < SHOAL_COUNT(both); i++) {
        if (!both[i]->packed &&
            !shoal_format_q8_0.finite(both[i]->data, (size_t)(both[i]->dims[0] * rank))) {
            return not_finite(both[i], "a scale is not finite", err);
        }
    }
    return SHOAL_OK;
}

static shoal_status check_column_scale(const shoal_gguf_tensor *weight,
                                       const shoal_side_tensors *sides, shoal_err *err)
{
    const shoal_gguf_tensor *t = sides->of[SHOAL_SIDE_COLUMN_SCALE];
    if (!t) {
        return SHOAL_OK;
    }
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_COLUMN_SCALE, weight->dims[0], 1, err));
    for (size_t i = 0; i < (size_t)t->dims[0]; i++) {
        uint16_t half = shoal_format_u16(t->data + 2 * i);
        if (half == 0 || half >= 0x7C00u) { /* zero, infinite, NaN or below zero */
            return not_finite(t, "a column scale is not finite and above 0", err);
        }
    }
    return SHOAL_OK;
}

static shoal_status check_threshold(const shoal_side_tensors *sides, shoal_err *err)
{
    const shoal_gguf_tensor *t = sides->of[SHOAL_SIDE_THRESHOLD];
    if (!t) {
        return SHOAL_OK;
    }
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_THRESHOLD, 1, 1, err));
    float threshold = 0;
    memcpy(&threshold, t->data, sizeof threshold);
    return isfinite(threshold) && threshold > 0
               ? SHOAL_OK
               : not_finite(t, "a threshold is not finite and above 0", err);
}

static uint32_t u32_at(const shoal_gguf_tensor *t, size_t i)
{
    uint32_t value = 0;
    memcpy(&value, t->data + 4 * i, sizeof value);
    return value;
}

static shoal_status check_single_rows(const shoal_gguf_tensor *weight,
                                      const shoal_side_tensors *sides, shoal_err *err)
{
    const shoal_gguf_tensor *begin = sides->of[SHOAL_SIDE_SINGLE_BEGIN];
    const shoal_gguf_tensor *cols = sides->of[SHOAL_SIDE_SINGLE_COLS];
    size_t n = (size_t)cols->dims[0];
    size_t n_rows = (size_t)weight->dims[1];
    if (u32_at(begin, 0) != 0 || u32_at(begin, n_rows) != n) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %.*s: it must go from 0 to the %zu single elements; the file "
                             "is damaged or was made wrong",
                             SHOAL_TENSOR_NAME(begin), n);
    }
    for (size_t row = 0; row < n_rows; row++) {
        size_t from = u32_at(begin, row);
        size_t to = u32_at(begin, row + 1);
        if (from > to || to > n) {
            return not_finite(begin, "a row ends before it begins", err);
        }
        for (size_t i = from; i < to; i++) {
            uint32_t col = u32_at(cols, i);
            if (col >= weight->dims[0] || (i > from && col <= u32_at(cols, i - 1))) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "tensor %.*s: the columns of row %zu do not ascend below "
                                     "%llu; the file is damaged or was made wrong",
                                     SHOAL_TENSOR_NAME(cols), row,
                                     (unsigned long long)weight->dims[0]);
            }
        }
    }
    return SHOAL_OK;
}

static shoal_status check_singles(const shoal_gguf_tensor *weight, const shoal_side_tensors *sides,
                                  shoal_err *err)
{
    const shoal_gguf_tensor *begin = sides->of[SHOAL_SIDE_SINGLE_BEGIN];
    const shoal_gguf_tensor *cols = sides->of[SHOAL_SIDE_SINGLE_COLS];
    const shoal_gguf_tensor *values = sides->of[SHOAL_SIDE_SINGLE_VALUES];
    if (!begin && !cols && !values) {
        return SHOAL_OK;
    }
    if (!begin || !cols || !values) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor %.*s: of its single elements, ..%s, ..%s and ..%s, one is "
                             "missing; compress the model again",
                             SHOAL_TENSOR_NAME(weight), infos[SHOAL_SIDE_SINGLE_BEGIN].suffix,
                             infos[SHOAL_SIDE_SINGLE_COLS].suffix,
                             infos[SHOAL_SIDE_SINGLE_VALUES].suffix);
    }
    if (weight->dims[0] > SHOAL_SIDES_SINGLES_K_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tensor %.*s: %llu columns are more than the %d that single elements "
                             "can name; leave them out for this layer",
                             SHOAL_TENSOR_NAME(weight), (unsigned long long)weight->dims[0],
                             (int)SHOAL_SIDES_SINGLES_K_MAX);
    }
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_SINGLE_BEGIN, weight->dims[1] + 1, 1, err));
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_SINGLE_COLS, cols->dims[0], 1, err));
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_SINGLE_VALUES, cols->dims[0], 1, err));
    if (cols->dims[0] > INT32_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tensor %.*s: more than %d single elements; keep fewer",
                             SHOAL_TENSOR_NAME(cols), INT32_MAX);
    }
    if (!shoal_format_f16.finite(values->data, (size_t)values->dims[0])) {
        return not_finite(values, "a number is not finite", err);
    }
    return check_single_rows(weight, sides, err);
}

static shoal_status check_levels(const shoal_gguf_tensor *weight, const shoal_side_tensors *sides,
                                 shoal_err *err)
{
    const shoal_gguf_tensor *t = sides->of[SHOAL_SIDE_LEVELS];
    if (!t) {
        return SHOAL_OK;
    }
    const shoal_format *format = shoal_format_find(weight->type);
    if (!format || !format->n_levels) {
        return not_finite(t, "its weight's codes are no indices of levels", err);
    }
    SHOAL_TRY(check_tensor(sides, SHOAL_SIDE_LEVELS, format->n_levels, 1, err));
    for (size_t i = 0; i < format->n_levels; i++) {
        if ((int8_t)t->data[i] == INT8_MIN) {
            return not_finite(t, "a level is below -127", err);
        }
    }
    return SHOAL_OK;
}

static shoal_status check_metadata(const shoal_gguf *gguf, const shoal_gguf_tensor *weight,
                                   shoal_err *err)
{
    shoal_str format = {0};
    if (shoal_gguf_get_str(gguf, SHOAL_SIDES_KEY, &format, NULL) != SHOAL_OK ||
        format.length != strlen(SHOAL_SIDES_FORMAT) ||
        memcmp(format.data, SHOAL_SIDES_FORMAT, format.length) != 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: it has tensors beside it, and metadata " SHOAL_SIDES_KEY
                             " = " SHOAL_SIDES_FORMAT " does not say how they are to be read; "
                             "compress the model with this version",
                             SHOAL_TENSOR_NAME(weight));
    }
    if (weight->dims[2] != 1 || weight->dims[3] != 1) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: a stack of matrices with tensors beside it is not "
                             "computed; compress the experts without factors, column scales and "
                             "single elements",
                             SHOAL_TENSOR_NAME(weight));
    }
    return SHOAL_OK;
}

shoal_status shoal_sides_find(const shoal_gguf *gguf, const shoal_gguf_tensor *weight,
                              shoal_side_tensors *ret_sides, shoal_err *err)
{
    shoal_side_tensors sides = {0};
    size_t n = 0;
    for (size_t side = 0; side < SHOAL_SIDES; side++) {
        char name[SHOAL_GGUF_NAME_MAX + 1];
        if (shoal_side_name(weight->name, (shoal_side)side, name)) {
            sides.of[side] = shoal_gguf_find_tensor(gguf, name);
            n += sides.of[side] != NULL;
        }
    }
    if (n > 0) {
        SHOAL_TRY(check_metadata(gguf, weight, err));
        SHOAL_TRY(check_low(weight, &sides, err));
        SHOAL_TRY(check_column_scale(weight, &sides, err));
        SHOAL_TRY(check_threshold(&sides, err));
        SHOAL_TRY(check_singles(weight, &sides, err));
        SHOAL_TRY(check_levels(weight, &sides, err));
    }
    *ret_sides = sides;
    return SHOAL_OK;
}

/* --- making ---------------------------------------------------------------------------------- */

size_t shoal_sides_shapes(const shoal_side_parts *parts, shoal_side_shape ret_shapes[SHOAL_SIDES])
{
    size_t n_single = parts->single_begin ? parts->single_begin[parts->n_rows] : 0;
    const uint64_t dims[SHOAL_SIDES][2] = {
        [SHOAL_SIDE_LOW_LEFT] = {(parts->n_rows + N - 1) / N * N, parts->rank},
        [SHOAL_SIDE_LOW_RIGHT] = {parts->k, parts->rank},
        [SHOAL_SIDE_COLUMN_SCALE] = {parts->k, parts->column_scales ? 1 : 0},
        [SHOAL_SIDE_THRESHOLD] = {1, parts->threshold > 0 ? 1 : 0},
        [SHOAL_SIDE_SINGLE_BEGIN] = {parts->n_rows + 1, n_single > 0 ? 1 : 0},
        [SHOAL_SIDE_SINGLE_COLS] = {n_single, 1},
        [SHOAL_SIDE_SINGLE_VALUES] = {n_single, 1},
        [SHOAL_SIDE_LEVELS] = {parts->n_levels, 1},
    };
    size_t n = 0;
    for (size_t side = 0; side < SHOAL_SIDES; side++) {
        size_t elements = (size_t)(dims[side][0] * dims[side][1]);
        const shoal_type_info *info = shoal_type_find((uint32_t)infos[side].type);
        if (elements > 0) {
            ret_shapes[n++] = (shoal_side_shape){
                .side = (shoal_side)side,
                .type = infos[side].type,
                .dims = {dims[side][0], dims[side][1]},
                .n_dims = side <= SHOAL_SIDE_LOW_RIGHT ? 2 : 1,
                .n_bytes = elements / info->block * info->block_bytes,
            };
        }
    }
    return n;
}

static void encode_factor(const int8_t *codes, const uint16_t *scales, size_t n_blocks,
                          uint8_t *ret_bytes)
{
    for (size_t b = 0; b < n_blocks; b++) {
        shoal_format_put_u16(ret_bytes + b * BLOCK, scales[b]);
        memcpy(ret_bytes + b * BLOCK + 2, codes + b * N, N);
    }
}

void shoal_sides_encode(const shoal_side_parts *parts, const shoal_side_shape *shape,
                        uint8_t *ret_bytes)
{
    size_t n_blocks = shape->n_bytes / BLOCK;
    switch (shape->side) {
    case SHOAL_SIDE_LOW_LEFT:
        encode_factor(parts->left_codes, parts->left_scales, n_blocks, ret_bytes);
        break;
    case SHOAL_SIDE_LOW_RIGHT:
        encode_factor(parts->right_codes, parts->right_scales, n_blocks, ret_bytes);
        break;
    case SHOAL_SIDE_COLUMN_SCALE:
        memcpy(ret_bytes, parts->column_scales, shape->n_bytes);
        break;
    case SHOAL_SIDE_THRESHOLD:
        memcpy(ret_bytes, &parts->threshold, shape->n_bytes);
        break;
    case SHOAL_SIDE_SINGLE_BEGIN:
        memcpy(ret_bytes, parts->single_begin, shape->n_bytes);
        break;
    case SHOAL_SIDE_SINGLE_COLS:
        memcpy(ret_bytes, parts->single_cols, shape->n_bytes);
        break;
    case SHOAL_SIDE_SINGLE_VALUES:
        memcpy(ret_bytes, parts->single_values, shape->n_bytes);
        break;
    case SHOAL_SIDE_LEVELS:
        memcpy(ret_bytes, parts->levels, shape->n_bytes);
        break;
    case SHOAL_SIDES:
        break;
    }
}
