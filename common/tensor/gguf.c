/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a GGUF: header, pairs, tensor descriptions, then the map of the data section. Nothing
 * is allocated from a count before the bytes it promises are known to be there, and nothing is
 * added or multiplied before it is known to fit. One pass, linear in the file's head.
 */
#include "common/tensor/gguf.h"

#include "common/base/checked.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "common/tensor/gguf_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAIR_BYTES_MIN = 8 + 1 + 4 + 1,           /* key length, a byte of key, kind, a byte of value */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* name length, a byte, n_dims, a dim, type, offset */
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8
};

/* Where reading stands. Invariant: at <= size. */
typedef struct cursor {
    const uint8_t *data;
    size_t size;
    size_t at;
} cursor;

static size_t left(const cursor *c)
{
    return c->size - c->at;
}

static shoal_status cut_short(const cursor *c, const char *what, uint64_t need, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "the file is cut short: %s needs %" PRIu64
                         " bytes at offset %zu, and the file has %zu; copy it again",
                         what, need, c->at, c->size);
}

static shoal_status take_u32(cursor *c, const char *what, uint32_t *ret_value, shoal_err *err)
{
    if (left(c) < sizeof(uint32_t)) {
        return cut_short(c, what, sizeof(uint32_t), err);
    }
    *ret_value = shoal_le_u32(c->data + c->at);
    c->at += sizeof(uint32_t);
    return SHOAL_OK;
}

static shoal_status take_u64(cursor *c, const char *what, uint64_t *ret_value, shoal_err *err)
{
    if (left(c) < sizeof(uint64_t)) {
        return cut_short(c, what, sizeof(uint64_t), err);
    }
    *ret_value = shoal_le_u64(c->data + c->at);
    c->at += sizeof(uint64_t);
    return SHOAL_OK;
}

/* A length and that many bytes, at most limit. */
static shoal_status take_str(cursor *c, const char *what, uint64_t limit, shoal_str *ret_str,
                             shoal_err *err)
{
    uint64_t length = 0;
    SHOAL_TRY(take_u64(c, what, &length, err));
    if (length > limit) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s at offset %zu has %" PRIu64 " bytes, at most %" PRIu64
                             " are allowed",
                             what, c->at - sizeof(uint64_t), length, limit);
    }
    if (length > left(c)) {
        return cut_short(c, what, length, err);
    }
    *ret_str = (shoal_str){(const char *)c->data + c->at, (size_t)length};
    c->at += (size_t)length;
    return SHOAL_OK;
}

static shoal_status take_name(cursor *c, const char *what, uint64_t limit, shoal_str *ret_name,
                              shoal_err *err)
{
    size_t at = c->at;
    SHOAL_TRY(take_str(c, what, limit, ret_name, err));
    if (ret_name->length == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s at offset %zu is empty", what, at);
    }
    if (!shoal_gguf_name_ok(*ret_name)) {
        char shown[SHOAL_GGUF_SHOWN];
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s \"%s\" at offset %zu holds a control character or is not UTF-8",
                             what, shoal_gguf_shown(*ret_name, shown), at);
    }
    return SHOAL_OK;
}

/* --- header ---------------------------------------------------------------------------------- */

static shoal_status take_magic(cursor *c, shoal_err *err)
{
    if (c->size < 4) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "not a GGUF file: it has only %zu bytes (cut short?)", c->size);
    }
    char shown[SHOAL_GGUF_SHOWN];
    const char *magic = (const char *)c->data;
    if (memcmp(magic, "FUGG", 4) == 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "a big-endian GGUF is not supported; convert it to little-endian");
    }
    if (memcmp(magic, "lmgg", 4) == 0 || memcmp(magic, "tjgg", 4) == 0 ||
        memcmp(magic, "fmgg", 4) == 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "the file is of a format older than GGUF; convert the model again");
    }
    if (memcmp(magic, "GGUF", 4) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "not a GGUF file: it begins with \"%s\" instead of \"GGUF\"",
                             shoal_gguf_shown((shoal_str){magic, 4}, shown));
    }
    c->at = 4;
    return SHOAL_OK;
}

static shoal_status take_version(cursor *c, uint32_t *ret_version, shoal_err *err)
{
    SHOAL_TRY(take_u32(c, "the version", ret_version, err));
    uint32_t version = *ret_version;
    if (version == 2 || version == 3) {
        return SHOAL_OK;
    }
    if (version == 0x01000000u || version == 0x02000000u || version == 0x03000000u) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "a big-endian GGUF is not supported; convert it to little-endian");
    }
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "GGUF version %" PRIu32 " is not supported, only 2 and 3; convert the "
                         "model again",
                         version);
}

static shoal_status take_count(cursor *c, const char *what, uint64_t limit, size_t *ret_n,
                               shoal_err *err)
{
    uint64_t n = 0;
    SHOAL_TRY(take_u64(c, what, &n, err));
    if (n > limit) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s is %" PRIu64 ", at most %" PRIu64 " are allowed", what, n, limit);
    }
    *ret_n = (size_t)n;
    return SHOAL_OK;
}

static shoal_status take_header(cursor *c, shoal_gguf *gguf, shoal_err *err)
{
    SHOAL_TRY(take_magic(c, err));
    SHOAL_TRY(take_version(c, &gguf->version, err));
    SHOAL_TRY(
        take_count(c, "the number of tensors", SHOAL_GGUF_TENSORS_MAX, &gguf->n_tensors, err));
    SHOAL_TRY(
        take_count(c, "the number of metadata pairs", SHOAL_GGUF_KV_MAX, &gguf->n_pairs, err));
    /* Both limits keep the sum far from wrapping. */
    uint64_t need =
        (uint64_t)gguf->n_pairs * PAIR_BYTES_MIN + (uint64_t)gguf->n_tensors * TENSOR_BYTES_MIN;
    if (need > left(c)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the file is cut short or its header lies: %zu metadata pairs and %zu "
                             "tensors need at least %" PRIu64 " bytes, %zu follow the header",
                             gguf->n_pairs, gguf->n_tensors, need, left(c));
    }
    return SHOAL_OK;
}

/* --- metadata -------------------------------------------------------------------------------- */

size_t shoal_gguf_kind_bytes(shoal_gguf_kind kind)
{
    static const uint8_t bytes[] = {
        [SHOAL_GGUF_U8] = 1,    [SHOAL_GGUF_I8] = 1,   [SHOAL_GGUF_U16] = 2,
        [SHOAL_GGUF_I16] = 2,   [SHOAL_GGUF_U32] = 4,  [SHOAL_GGUF_I32] = 4,
        [SHOAL_GGUF_F32] = 4,   [SHOAL_GGUF_BOOL] = 1, [SHOAL_GGUF_STRING] = 0,
        [SHOAL_GGUF_ARRAY] = 0, [SHOAL_GGUF_U64] = 8,  [SHOAL_GGUF_I64] = 8,
        [SHOAL_GGUF_F64] = 8,
    };
    return bytes[kind];
}

const char *shoal_gguf_kind_name(shoal_gguf_kind kind)
{
    static const char *const names[] = {
        [SHOAL_GGUF_U8] = "u8",       [SHOAL_GGUF_I8] = "i8",     [SHOAL_GGUF_U16] = "u16",
        [SHOAL_GGUF_I16] = "i16",     [SHOAL_GGUF_U32] = "u32",   [SHOAL_GGUF_I32] = "i32",
        [SHOAL_GGUF_F32] = "f32",     [SHOAL_GGUF_BOOL] = "bool", [SHOAL_GGUF_STRING] = "string",
        [SHOAL_GGUF_ARRAY] = "array", [SHOAL_GGUF_U64] = "u64",   [SHOAL_GGUF_I64] = "i64",
        [SHOAL_GGUF_F64] = "f64",
    };
    return names[kind];
}

static shoal_status take_kind(cursor *c, const char *what, shoal_gguf_kind *ret_kind,
                              shoal_err *err)
{
    uint32_t kind = 0;
    SHOAL_TRY(take_u32(c, what, &kind, err));
    if (kind > SHOAL_GGUF_F64) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s is %" PRIu32 ", kinds go from 0 to %d", what,
                             kind, (int)SHOAL_GGUF_F64);
    }
    *ret_kind = (shoal_gguf_kind)kind;
    return SHOAL_OK;
}

/* Every string needs its eight bytes of length, so the table is never larger than the file. */
static shoal_status take_strings(cursor *c, shoal_gguf_pair *pair, shoal_err *err)
{
    if (pair->n > left(c) / sizeof(uint64_t)) {
        return cut_short(c, "an array of strings", (uint64_t)pair->n * sizeof(uint64_t), err);
    }
    pair->offsets = shoal_calloc(pair->n, sizeof(*pair->offsets));
    if (pair->offsets == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory indexing %zu strings", pair->n);
    }
    size_t start = c->at;
    for (size_t i = 0; i < pair->n; i++) {
        shoal_str element;
        pair->offsets[i] = c->at - start;
        SHOAL_TRY(take_str(c, "a string of the array", SHOAL_GGUF_STRING_MAX, &element, err));
    }
    return SHOAL_OK;
}

static shoal_status take_elements(cursor *c, shoal_gguf_pair *pair, shoal_err *err)
{
    /* n is limited far below where the product could wrap. */
    uint64_t bytes = (uint64_t)pair->n * shoal_gguf_kind_bytes(pair->element);
    if (bytes > left(c)) {
        return cut_short(c, "the value", bytes, err);
    }
    if (pair->element == SHOAL_GGUF_BOOL) {
        for (size_t i = 0; i < pair->n; i++) {
            if (pair->value[i] > 1) {
                return shoal_err_set(err, SHOAL_E_INVALID, "a bool is %d, only 0 and 1 are allowed",
                                     (int)pair->value[i]);
            }
        }
    }
    c->at += (size_t)bytes;
    return SHOAL_OK;
}

static shoal_status take_value(cursor *c, shoal_gguf_pair *pair, shoal_err *err)
{
    SHOAL_TRY(take_kind(c, "the kind of the value", &pair->kind, err));
    pair->element = pair->kind;
    pair->n = 1;
    if (pair->kind == SHOAL_GGUF_ARRAY) {
        SHOAL_TRY(take_kind(c, "the kind of the array's elements", &pair->element, err));
        if (pair->element == SHOAL_GGUF_ARRAY) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "an array of arrays is not supported");
        }
        SHOAL_TRY(take_count(c, "the length of the array", SHOAL_GGUF_ARRAY_MAX, &pair->n, err));
    }
    pair->value = c->data + c->at;
    if (pair->element != SHOAL_GGUF_STRING) {
        return take_elements(c, pair, err);
    }
    if (pair->kind == SHOAL_GGUF_ARRAY) {
        return take_strings(c, pair, err);
    }
    shoal_str text;
    return take_str(c, "the string", SHOAL_GGUF_STRING_MAX, &text, err);
}

static shoal_status take_pair(cursor *c, shoal_gguf *gguf, size_t i, shoal_err *err)
{
    shoal_gguf_pair *pair = &gguf->pairs[i];
    const char *start = (const char *)c->data + c->at;
    SHOAL_TRY(take_name(c, "a metadata key", SHOAL_GGUF_KEY_MAX, &pair->key, err));
    char shown[SHOAL_GGUF_SHOWN];
    shoal_status status = take_value(c, pair, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "metadata \"%s\"", shoal_gguf_shown(pair->key, shown));
        return status;
    }
    pair->raw = (shoal_str){start, (size_t)((const char *)c->data + c->at - start)};
    status = shoal_names_put(&gguf->pair_names, pair->key, i);
    if (status == SHOAL_BUSY) {
        return shoal_err_set(err, SHOAL_E_INVALID, "metadata \"%s\" is there twice",
                             shoal_gguf_shown(pair->key, shown));
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "out of memory indexing %zu metadata pairs",
                             gguf->n_pairs);
    }
    return SHOAL_OK;
}

static shoal_status take_pairs(cursor *c, shoal_gguf *gguf, shoal_err *err)
{
    gguf->pairs = shoal_calloc(gguf->n_pairs, sizeof(*gguf->pairs));
    if (gguf->pairs == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu metadata pairs",
                             gguf->n_pairs);
    }
    for (size_t i = 0; i < gguf->n_pairs; i++) {
        SHOAL_TRY(take_pair(c, gguf, i, err));
    }
    gguf->alignment = ALIGNMENT_DEFAULT;
    if (shoal_gguf_find_pair(gguf, "general.alignment") == NULL) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_gguf_get_u64(gguf, "general.alignment", &gguf->alignment, err));
    uint64_t a = gguf->alignment;
    if (a < ALIGNMENT_MIN || a > SHOAL_GGUF_ALIGNMENT_MAX || (a & (a - 1)) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "general.alignment is %" PRIu64 ", it must be a power of two from %d "
                             "to %d",
                             a, (int)ALIGNMENT_MIN, (int)SHOAL_GGUF_ALIGNMENT_MAX);
    }
    return SHOAL_OK;
}

/* --- tensors --------------------------------------------------------------------------------- */

bool shoal_gguf_tensor_bytes(const shoal_type_info *info, const uint64_t *dims, uint32_t n_dims,
                             uint64_t *ret_bytes)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (dims[i] == 0 || !shoal_mul_u64(n, dims[i], &n)) {
            return false;
        }
    }
    return dims[0] % info->block == 0 &&
           shoal_mul_u64(n / info->block, info->block_bytes, ret_bytes);
}

static shoal_status take_shape(cursor *c, shoal_gguf_tensor *t, shoal_err *err)
{
    SHOAL_TRY(take_u32(c, "the number of dimensions", &t->n_dims, err));
    if (t->n_dims == 0 || t->n_dims > SHOAL_GGUF_DIMS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%" PRIu32 " dimensions, 1 to %d are allowed",
                             t->n_dims, (int)SHOAL_GGUF_DIMS_MAX);
    }
    for (uint32_t i = 0; i < SHOAL_GGUF_DIMS_MAX; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims) {
            SHOAL_TRY(take_u64(c, "a dimension", &t->dims[i], err));
        }
        if (t->dims[i] == 0) {
            return shoal_err_set(err, SHOAL_E_INVALID, "dimension %" PRIu32 " is 0", i);
        }
    }
    return SHOAL_OK;
}

static shoal_status take_tensor(cursor *c, shoal_gguf_tensor *t, uint64_t alignment, shoal_err *err)
{
    SHOAL_TRY(take_shape(c, t, err));
    uint32_t type = 0;
    SHOAL_TRY(take_u32(c, "the tensor type", &type, err));
    const shoal_type_info *info = shoal_type_find(type);
    if (info == NULL || shoal_type_is_own(info->type)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor type %" PRIu32 " is not supported, only %s; convert the model",
                             type, shoal_type_names());
    }
    t->type = info->type;
    if (!shoal_gguf_tensor_bytes(info, t->dims, t->n_dims, &t->size_bytes)) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "shape %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
            " overflows, or its first is not a multiple of %" PRIu32 " as %s needs",
            t->dims[0], t->dims[1], t->dims[2], t->dims[3], info->block, info->name);
    }
    SHOAL_TRY(take_u64(c, "the offset", &t->offset, err));
    if (t->offset % alignment != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "offset %" PRIu64 " is not a multiple of the alignment %" PRIu64,
                             t->offset, alignment);
    }
    return SHOAL_OK;
}

static shoal_status take_tensors(cursor *c, shoal_gguf *gguf, shoal_err *err)
{
    gguf->tensors = shoal_calloc(gguf->n_tensors, sizeof(*gguf->tensors));
    if (gguf->tensors == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu tensors", gguf->n_tensors);
    }
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        shoal_gguf_tensor *t = &gguf->tensors[i];
        char shown[SHOAL_GGUF_SHOWN];
        SHOAL_TRY(take_name(c, "a tensor name", SHOAL_GGUF_NAME_MAX, &t->name, err));
        shoal_status status = take_tensor(c, t, gguf->alignment, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "tensor \"%s\"", shoal_gguf_shown(t->name, shown));
            return status;
        }
        status = shoal_names_put(&gguf->tensor_names, t->name, i);
        if (status == SHOAL_BUSY) {
            return shoal_err_set(err, SHOAL_E_INVALID, "tensor \"%s\" is there twice",
                                 shoal_gguf_shown(t->name, shown));
        }
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "out of memory indexing %zu tensors",
                                 gguf->n_tensors);
        }
    }
    return SHOAL_OK;
}

/* --- the data section ------------------------------------------------------------------------ */

static int by_offset(const void *a, const void *b)
{
    const shoal_gguf_tensor *x = *(const shoal_gguf_tensor *const *)a;
    const shoal_gguf_tensor *y = *(const shoal_gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Two tensors over the same bytes are no model that a converter wrote. Ranges are known to lie in
 * the file. */
static shoal_status check_overlap(const shoal_gguf *gguf, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup)
    const shoal_gguf_tensor **sorted = shoal_calloc(gguf->n_tensors, sizeof(*sorted));
    if (sorted == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu tensors", gguf->n_tensors);
    }
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        sorted[i] = &gguf->tensors[i];
    }
    qsort(sorted, gguf->n_tensors, sizeof(*sorted), by_offset);
    for (size_t i = 1; i < gguf->n_tensors; i++) {
        const shoal_gguf_tensor *low = sorted[i - 1];
        const shoal_gguf_tensor *high = sorted[i];
        if (low->offset + low->size_bytes > high->offset) {
            char shown[2][SHOAL_GGUF_SHOWN];
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "tensors \"%s\" and \"%s\" overlap at offset %" PRIu64,
                                 shoal_gguf_shown(low->name, shown[0]),
                                 shoal_gguf_shown(high->name, shown[1]), high->offset);
        }
    }
    return SHOAL_OK;
}

static shoal_status place_tensors(const cursor *c, shoal_gguf *gguf, shoal_err *err)
{
    uint64_t start = 0;
    /* Padding may be missing when no tensor follows. */
    if (!shoal_align_u64(c->at, gguf->alignment, &start) ||
        (start > c->size && gguf->n_tensors > 0)) {
        return cut_short(c, "the padding before the tensors", start - c->at, err);
    }
    start = SHOAL_MIN(start, (uint64_t)c->size);
    gguf->data_start = (size_t)start;
    uint64_t space = c->size - start;
    uint64_t end = 0;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        shoal_gguf_tensor *t = &gguf->tensors[i];
        if (!shoal_range_ok(t->offset, t->size_bytes, space)) {
            char shown[SHOAL_GGUF_SHOWN];
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "tensor \"%s\": %" PRIu64 " bytes at offset %" PRIu64
                                 " lie outside the %" PRIu64 " bytes of data (file cut short?)",
                                 shoal_gguf_shown(t->name, shown), t->size_bytes, t->offset, space);
        }
        t->data = c->data + start + t->offset;
        end = SHOAL_MAX(end, t->offset + t->size_bytes);
    }
    SHOAL_TRY(check_overlap(gguf, err));
    if (space - end >= gguf->alignment) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%" PRIu64 " bytes follow the last tensor; the file is damaged or "
                             "something was appended to it",
                             space - end);
    }
    return SHOAL_OK;
}

shoal_status shoal_gguf_open(const uint8_t *data, size_t size, shoal_gguf **ret_gguf,
                             shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = shoal_calloc(1, sizeof(*gguf));
    if (gguf == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory");
    }
    cursor c = {.data = data, .size = size, .at = 0};
    gguf->data = data;
    gguf->size = size;
    SHOAL_TRY(take_header(&c, gguf, err));
    SHOAL_TRY(take_pairs(&c, gguf, err));
    SHOAL_TRY(take_tensors(&c, gguf, err));
    SHOAL_TRY(place_tensors(&c, gguf, err));
    SHOAL_TRY(shoal_gguf_take_own(gguf, err));
    *ret_gguf = SHOAL_STEAL(gguf);
    return SHOAL_OK;
}

void shoal_gguf_set_mapped(shoal_gguf *gguf)
{
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        gguf->tensors[i].mapped = true;
    }
}

void shoal_gguf_set_tensor(shoal_gguf *gguf, size_t i, const shoal_gguf_tensor *tensor)
{
    SHOAL_ASSERT(i < gguf->n_tensors && tensor->data == gguf->tensors[i].data &&
                 tensor->name.data == gguf->tensors[i].name.data);
    gguf->tensors[i] = *tensor;
}

void shoal_gguf_close(shoal_gguf *gguf)
{
    if (gguf == NULL) {
        return;
    }
    for (size_t i = 0; gguf->pairs != NULL && i < gguf->n_pairs; i++) {
        shoal_free(gguf->pairs[i].offsets);
    }
    shoal_free(gguf->pairs);
    shoal_free(gguf->tensors);
    shoal_names_fini(&gguf->pair_names);
    shoal_names_fini(&gguf->tensor_names);
    shoal_free(gguf);
}
