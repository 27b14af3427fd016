/* SPDX-License-Identifier: Apache-2.0
 *
 * Looking into an open GGUF: typed values, array elements, and values rendered for people.
 */
#include "common/base/le.h"
#include "common/base/utf8.h"
#include "common/tensor/gguf_internal.h"

#include <inttypes.h>
#include <string.h>

enum {
    SHOWN_ELEMENTS = 8,
    SHOWN_TEXT = 4096,       /* bytes of a string value */
    SHOWN_TEXT_ELEMENT = 64, /* bytes of a string in an array */
};

uint32_t shoal_gguf_version(const shoal_gguf *gguf)
{
    return gguf->version;
}

size_t shoal_gguf_n_tensors(const shoal_gguf *gguf)
{
    return gguf->n_tensors;
}

const shoal_gguf_tensor *shoal_gguf_tensor_at(const shoal_gguf *gguf, size_t i)
{
    SHOAL_ASSERT(i < gguf->n_tensors);
    return &gguf->tensors[i];
}

const shoal_gguf_tensor *shoal_gguf_find_tensor(const shoal_gguf *gguf, const char *name)
{
    size_t i = 0;
    bool found = shoal_names_find(&gguf->tensor_names, (shoal_str){name, strlen(name)}, &i);
    return found ? &gguf->tensors[i] : NULL;
}

size_t shoal_gguf_n_kv(const shoal_gguf *gguf)
{
    return gguf->n_pairs;
}

static const shoal_gguf_pair *pair_at(const shoal_gguf *gguf, size_t i)
{
    SHOAL_ASSERT(i < gguf->n_pairs);
    return &gguf->pairs[i];
}

shoal_str shoal_gguf_key_at(const shoal_gguf *gguf, size_t i)
{
    return pair_at(gguf, i)->key;
}

shoal_gguf_kind shoal_gguf_kind_at(const shoal_gguf *gguf, size_t i, shoal_gguf_kind *ret_element,
                                   size_t *ret_n)
{
    const shoal_gguf_pair *pair = pair_at(gguf, i);
    *ret_element = pair->element;
    *ret_n = pair->n;
    return pair->kind;
}

shoal_str shoal_gguf_raw_at(const shoal_gguf *gguf, size_t i)
{
    return pair_at(gguf, i)->raw;
}

const shoal_gguf_pair *shoal_gguf_find_pair(const shoal_gguf *gguf, const char *key)
{
    size_t i = 0;
    bool found = shoal_names_find(&gguf->pair_names, (shoal_str){key, strlen(key)}, &i);
    return found ? &gguf->pairs[i] : NULL;
}

/* --- elements -------------------------------------------------------------------------------- */

/* An integer or bool as sign and magnitude: u64 and i64 do not fit in one C type. */
typedef struct integer {
    bool negative;
    uint64_t magnitude;
} integer;

static bool is_integer(shoal_gguf_kind kind)
{
    return kind != SHOAL_GGUF_F32 && kind != SHOAL_GGUF_F64 && kind != SHOAL_GGUF_BOOL &&
           kind != SHOAL_GGUF_STRING && kind != SHOAL_GGUF_ARRAY;
}

static bool is_signed(shoal_gguf_kind kind)
{
    return kind == SHOAL_GGUF_I8 || kind == SHOAL_GGUF_I16 || kind == SHOAL_GGUF_I32 ||
           kind == SHOAL_GGUF_I64;
}

/* Element i of a pair of integers or bools. */
static integer integer_at(const shoal_gguf_pair *pair, size_t i)
{
    size_t bytes = shoal_gguf_kind_bytes(pair->element);
    const uint8_t *p = pair->value + i * bytes;
    uint64_t x = 0;
    for (size_t b = 0; b < bytes; b++) {
        x |= (uint64_t)p[b] << (8 * b);
    }
    bool negative = is_signed(pair->element) && p[bytes - 1] > 0x7f;
    if (!negative) {
        return (integer){false, x};
    }
    uint64_t extension = bytes == 8 ? 0 : ~(uint64_t)0 << (8 * bytes);
    return (integer){true, ~(x | extension) + 1};
}

static double float_at(const shoal_gguf_pair *pair, size_t i)
{
    if (pair->element == SHOAL_GGUF_F64) {
        uint64_t bits = shoal_le_u64(pair->value + i * sizeof(bits));
        double x = 0.0;
        memcpy(&x, &bits, sizeof(x));
        return x;
    }
    uint32_t bits = shoal_le_u32(pair->value + i * sizeof(bits));
    float x = 0.0f;
    memcpy(&x, &bits, sizeof(x));
    return (double)x;
}

/* The length field was checked at open. */
static shoal_str str_at(const shoal_gguf_pair *pair, size_t i)
{
    const uint8_t *p = pair->value + (pair->offsets != NULL ? pair->offsets[i] : 0);
    return (shoal_str){(const char *)p + sizeof(uint64_t), (size_t)shoal_le_u64(p)};
}

/* --- typed look-ups -------------------------------------------------------------------------- */

/* The pair of a plain value. */
static shoal_status plain(const shoal_gguf *gguf, const char *key, const shoal_gguf_pair **ret_pair,
                          shoal_err *err)
{
    *ret_pair = shoal_gguf_find_pair(gguf, key);
    if (*ret_pair == NULL) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND, "metadata \"%s\" is missing", key);
    }
    return SHOAL_OK;
}

static shoal_status wrong_kind(const shoal_gguf_pair *pair, const char *key, const char *wanted,
                               shoal_err *err)
{
    bool array = pair->kind == SHOAL_GGUF_ARRAY;
    return shoal_err_set(err, SHOAL_E_INVALID, "metadata \"%s\" is %s%s, %s is needed", key,
                         array ? "an array of " : "of kind ", shoal_gguf_kind_name(pair->element),
                         wanted);
}

shoal_status shoal_gguf_get_u64(const shoal_gguf *gguf, const char *key, uint64_t *ret_value,
                                shoal_err *err)
{
    const shoal_gguf_pair *pair = NULL;
    SHOAL_TRY(plain(gguf, key, &pair, err));
    if (!is_integer(pair->kind)) {
        return wrong_kind(pair, key, "an integer", err);
    }
    integer x = integer_at(pair, 0);
    if (x.negative) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "metadata \"%s\" is -%" PRIu64 ", it must not be negative", key,
                             x.magnitude);
    }
    *ret_value = x.magnitude;
    return SHOAL_OK;
}

shoal_status shoal_gguf_get_f64(const shoal_gguf *gguf, const char *key, double *ret_value,
                                shoal_err *err)
{
    const shoal_gguf_pair *pair = NULL;
    SHOAL_TRY(plain(gguf, key, &pair, err));
    if (pair->kind == SHOAL_GGUF_F32 || pair->kind == SHOAL_GGUF_F64) {
        *ret_value = float_at(pair, 0);
        return SHOAL_OK;
    }
    if (!is_integer(pair->kind)) {
        return wrong_kind(pair, key, "a number", err);
    }
    integer x = integer_at(pair, 0);
    *ret_value = x.negative ? -(double)x.magnitude : (double)x.magnitude;
    return SHOAL_OK;
}

shoal_status shoal_gguf_get_bool(const shoal_gguf *gguf, const char *key, bool *ret_value,
                                 shoal_err *err)
{
    const shoal_gguf_pair *pair = NULL;
    SHOAL_TRY(plain(gguf, key, &pair, err));
    if (pair->kind != SHOAL_GGUF_BOOL) {
        return wrong_kind(pair, key, "a bool", err);
    }
    *ret_value = pair->value[0] != 0;
    return SHOAL_OK;
}

shoal_status shoal_gguf_get_str(const shoal_gguf *gguf, const char *key, shoal_str *ret_value,
                                shoal_err *err)
{
    const shoal_gguf_pair *pair = NULL;
    SHOAL_TRY(plain(gguf, key, &pair, err));
    if (pair->kind != SHOAL_GGUF_STRING) {
        return wrong_kind(pair, key, "a string", err);
    }
    *ret_value = str_at(pair, 0);
    return SHOAL_OK;
}

shoal_status shoal_gguf_get_array(const shoal_gguf *gguf, const char *key,
                                  shoal_gguf_kind *ret_element, size_t *ret_n, shoal_err *err)
{
    const shoal_gguf_pair *pair = NULL;
    SHOAL_TRY(plain(gguf, key, &pair, err));
    if (pair->kind != SHOAL_GGUF_ARRAY) {
        return wrong_kind(pair, key, "an array", err);
    }
    *ret_element = pair->element;
    *ret_n = pair->n;
    return SHOAL_OK;
}

/* The array that the caller has checked before. */
static const shoal_gguf_pair *array(const shoal_gguf *gguf, const char *key, size_t begin, size_t n)
{
    const shoal_gguf_pair *pair = shoal_gguf_find_pair(gguf, key);
    SHOAL_ASSERT(pair != NULL && pair->kind == SHOAL_GGUF_ARRAY && begin <= pair->n &&
                 n <= pair->n - begin);
    return pair;
}

void shoal_gguf_array_strs(const shoal_gguf *gguf, const char *key, size_t begin, size_t n,
                           shoal_str *ret_values)
{
    const shoal_gguf_pair *pair = array(gguf, key, begin, n);
    SHOAL_ASSERT(pair->element == SHOAL_GGUF_STRING);
    for (size_t i = 0; i < n; i++) {
        ret_values[i] = str_at(pair, begin + i);
    }
}

void shoal_gguf_array_f64s(const shoal_gguf *gguf, const char *key, size_t begin, size_t n,
                           double *ret_values)
{
    const shoal_gguf_pair *pair = array(gguf, key, begin, n);
    SHOAL_ASSERT(pair->element == SHOAL_GGUF_F32 || pair->element == SHOAL_GGUF_F64);
    for (size_t i = 0; i < n; i++) {
        ret_values[i] = float_at(pair, begin + i);
    }
}

void shoal_gguf_array_i64s(const shoal_gguf *gguf, const char *key, size_t begin, size_t n,
                           int64_t *ret_values)
{
    const shoal_gguf_pair *pair = array(gguf, key, begin, n);
    SHOAL_ASSERT(is_integer(pair->element) || pair->element == SHOAL_GGUF_BOOL);
    for (size_t i = 0; i < n; i++) {
        integer x = integer_at(pair, begin + i);
        /* The one value range that i64 lacks is clamped: no array of ours holds it. */
        int64_t positive = x.magnitude > INT64_MAX ? INT64_MAX : (int64_t)x.magnitude;
        ret_values[i] = x.negative ? (int64_t)(~x.magnitude + 1) : positive;
    }
}

shoal_str shoal_gguf_array_str(const shoal_gguf *gguf, const char *key, size_t i)
{
    shoal_str value = {.data = "", .length = 0};
    shoal_gguf_array_strs(gguf, key, i, 1, &value);
    return value;
}

double shoal_gguf_array_f64(const shoal_gguf *gguf, const char *key, size_t i)
{
    double value = 0.0;
    shoal_gguf_array_f64s(gguf, key, i, 1, &value);
    return value;
}

int64_t shoal_gguf_array_i64(const shoal_gguf *gguf, const char *key, size_t i)
{
    int64_t value = 0;
    shoal_gguf_array_i64s(gguf, key, i, 1, &value);
    return value;
}

shoal_str shoal_gguf_array_bytes(const shoal_gguf *gguf, const char *key)
{
    const shoal_gguf_pair *pair = array(gguf, key, 0, 0);
    const char *begin = (const char *)pair->value;
    return (shoal_str){.data = begin,
                       .length = (size_t)(pair->raw.data + pair->raw.length - begin)};
}

/* --- rendering ------------------------------------------------------------------------------- */

/* Quoted; control characters and bytes that are no UTF-8 as \xHH, so that a terminal is safe. */
static shoal_status render_str(shoal_str s, size_t limit, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_append(buf, "\"", 1));
    size_t i = 0;
    while (i < s.length && i < limit) {
        const char *p = s.data + i;
        uint32_t code = 0;
        size_t n = shoal_utf8_step(p, s.length - i, &code);
        bool escaped = n == 0 || code < 0x20 || (code >= 0x7f && code < 0xa0);
        n = n == 0 ? 1 : n;
        if (*p == '\n') {
            SHOAL_TRY(shoal_buf_append(buf, "\\n", 2));
        } else if (*p == '"' || *p == '\\') {
            SHOAL_TRY(shoal_buf_appendf(buf, "\\%c", *p));
        } else if (escaped) {
            for (size_t b = 0; b < n; b++) {
                SHOAL_TRY(shoal_buf_appendf(buf, "\\x%02x", (unsigned)(uint8_t)p[b]));
            }
        } else {
            SHOAL_TRY(shoal_buf_append(buf, p, n));
        }
        i += n;
    }
    SHOAL_TRY(shoal_buf_append(buf, "\"", 1));
    return i < s.length ? shoal_buf_appendf(buf, "... (%zu bytes)", s.length) : SHOAL_OK;
}

static shoal_status render_element(const shoal_gguf_pair *pair, size_t i, shoal_buf *buf)
{
    if (pair->element == SHOAL_GGUF_STRING) {
        bool in_array = pair->kind == SHOAL_GGUF_ARRAY;
        return render_str(str_at(pair, i), in_array ? SHOWN_TEXT_ELEMENT : SHOWN_TEXT, buf);
    }
    if (pair->element == SHOAL_GGUF_BOOL) {
        return shoal_buf_appendf(buf, "%s", pair->value[i] != 0 ? "true" : "false");
    }
    if (is_integer(pair->element)) {
        integer x = integer_at(pair, i);
        return shoal_buf_appendf(buf, "%s%" PRIu64, x.negative ? "-" : "", x.magnitude);
    }
    return shoal_buf_appendf(buf, "%.*g", pair->element == SHOAL_GGUF_F32 ? 9 : 17,
                             float_at(pair, i));
}

shoal_status shoal_gguf_render_at(const shoal_gguf *gguf, size_t i, shoal_buf *buf)
{
    const shoal_gguf_pair *pair = pair_at(gguf, i);
    if (pair->kind != SHOAL_GGUF_ARRAY) {
        return render_element(pair, 0, buf);
    }
    SHOAL_TRY(shoal_buf_append(buf, "[", 1));
    for (size_t e = 0; e < SHOAL_MIN(pair->n, (size_t)SHOWN_ELEMENTS); e++) {
        if (e > 0) {
            SHOAL_TRY(shoal_buf_append(buf, ", ", 2));
        }
        SHOAL_TRY(render_element(pair, e, buf));
    }
    if (pair->n > SHOWN_ELEMENTS) {
        return shoal_buf_appendf(buf, ", ... (%zu elements)]", pair->n);
    }
    return shoal_buf_append(buf, "]", 1);
}
