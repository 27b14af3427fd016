/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing a GGUF of version 3. Pairs are kept in the file's own bytes, so that copying one from a
 * reader loses nothing; the file is put together at finish.
 */
#include "common/base/checked.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "common/tensor/gguf_internal.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

enum {
    ALIGNMENT_DEFAULT = 32,
    VERSION = 3,
    FIRST_CAPACITY = 32
};

typedef struct pair {
    char *key; /* key_length bytes, stable: the index points here */
    size_t key_length;
    shoal_buf raw; /* key and value as in the file */
} pair;

typedef struct tensor {
    char *name;
    shoal_type type;
    uint32_t n_dims;
    uint64_t dims[SHOAL_GGUF_DIMS_MAX];
    uint64_t size_bytes;
    const void *data;
} tensor;

struct shoal_gguf_writer {
    uint32_t alignment;
    pair *pairs;
    size_t n_pairs;
    size_t pairs_capacity;
    shoal_names pair_names;
    tensor *tensors;
    size_t n_tensors;
    size_t tensors_capacity;
    shoal_names tensor_names;
};

shoal_status shoal_gguf_writer_new(shoal_gguf_writer **ret_writer)
{
    shoal_gguf_writer *writer = shoal_calloc(1, sizeof(*writer));
    if (writer == NULL) {
        return SHOAL_E_NOMEM;
    }
    writer->alignment = ALIGNMENT_DEFAULT;
    *ret_writer = writer;
    return SHOAL_OK;
}

static void pair_fini(pair *p)
{
    shoal_free(p->key);
    shoal_buf_fini(&p->raw);
}

void shoal_gguf_writer_free(shoal_gguf_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    for (size_t i = 0; i < writer->n_pairs; i++) {
        pair_fini(&writer->pairs[i]);
    }
    for (size_t i = 0; i < writer->n_tensors; i++) {
        shoal_free(writer->tensors[i].name);
    }
    shoal_free(writer->pairs);
    shoal_free(writer->tensors);
    shoal_names_fini(&writer->pair_names);
    shoal_names_fini(&writer->tensor_names);
    shoal_free(writer);
}

/* Makes room for one more item of an array. */
static shoal_status reserve(void *items_p, size_t n, size_t *capacity, size_t item_bytes)
{
    if (n < *capacity) {
        return SHOAL_OK;
    }
    void *old = NULL;
    memcpy(&old, items_p, sizeof(old));
    size_t wanted = *capacity == 0 ? FIRST_CAPACITY : *capacity * 2;
    void *bigger = shoal_realloc(old, wanted, item_bytes);
    if (bigger == NULL) {
        return SHOAL_E_NOMEM;
    }
    memcpy(items_p, &bigger, sizeof(bigger));
    *capacity = wanted;
    return SHOAL_OK;
}

/* --- little-endian bytes --------------------------------------------------------------------- */

static shoal_status put_u32(shoal_buf *buf, uint32_t x)
{
    uint32_t le = htole32(x);
    return shoal_buf_append(buf, &le, sizeof(le));
}

static shoal_status put_u64(shoal_buf *buf, uint64_t x)
{
    uint64_t le = htole64(x);
    return shoal_buf_append(buf, &le, sizeof(le));
}

static shoal_status put_f32(shoal_buf *buf, float x)
{
    uint32_t bits = 0;
    memcpy(&bits, &x, sizeof(bits));
    return put_u32(buf, bits);
}

static shoal_status put_bytes(shoal_buf *buf, shoal_str s)
{
    SHOAL_TRY(put_u64(buf, s.length));
    return s.length > 0 ? shoal_buf_append(buf, s.data, s.length) : SHOAL_OK;
}

static shoal_status put_zeros(shoal_buf *buf, size_t n)
{
    static const char zeros[64];
    for (size_t part = 0; n > 0; n -= part) {
        part = SHOAL_MIN(n, sizeof(zeros));
        SHOAL_TRY(shoal_buf_append(buf, zeros, part));
    }
    return SHOAL_OK;
}

size_t shoal_gguf_writer_padding(const shoal_gguf_writer *writer, uint64_t n)
{
    return (size_t)((writer->alignment - n % writer->alignment) % writer->alignment);
}

/* --- pairs ----------------------------------------------------------------------------------- */

static shoal_status check_name(shoal_str name, size_t limit)
{
    if (name.length > limit) {
        return SHOAL_E_LIMIT;
    }
    return name.length > 0 && shoal_gguf_name_ok(name) ? SHOAL_OK : SHOAL_E_INVALID;
}

/* Starts a pair: the key and the kind. */
static shoal_status begin(shoal_buf *raw, const char *key, shoal_gguf_kind kind)
{
    SHOAL_TRY(put_bytes(raw, (shoal_str){key, strlen(key)}));
    return put_u32(raw, (uint32_t)kind);
}

static shoal_status begin_array(shoal_buf *raw, const char *key, shoal_gguf_kind element, size_t n)
{
    if (n > SHOAL_GGUF_ARRAY_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(begin(raw, key, SHOAL_GGUF_ARRAY));
    SHOAL_TRY(put_u32(raw, (uint32_t)element));
    return put_u64(raw, n);
}

/* Takes raw's memory on success, and replaces an earlier pair of the same key. */
static shoal_status keep(shoal_gguf_writer *writer, shoal_str key, shoal_buf *raw)
{
    SHOAL_TRY(check_name(key, SHOAL_GGUF_KEY_MAX));
    size_t i = 0;
    if (shoal_names_find(&writer->pair_names, key, &i)) {
        shoal_buf_fini(&writer->pairs[i].raw);
        writer->pairs[i].raw = *raw;
        *raw = (shoal_buf){0};
        return SHOAL_OK;
    }
    if (writer->n_pairs >= SHOAL_GGUF_KV_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(reserve(&writer->pairs, writer->n_pairs, &writer->pairs_capacity, sizeof(pair)));
    SHOAL_CLEANUP(shoal_free_cleanup) char *copy = shoal_calloc(key.length, 1);
    if (copy == NULL) {
        return SHOAL_E_NOMEM;
    }
    memcpy(copy, key.data, key.length);
    SHOAL_TRY(shoal_names_put(&writer->pair_names, (shoal_str){copy, key.length}, writer->n_pairs));
    writer->pairs[writer->n_pairs++] =
        (pair){.key = SHOAL_STEAL(copy), .key_length = key.length, .raw = *raw};
    *raw = (shoal_buf){0};
    return SHOAL_OK;
}

static shoal_str key_of(const char *key)
{
    return (shoal_str){key, strlen(key)};
}

shoal_status shoal_gguf_put_raw(shoal_gguf_writer *writer, shoal_str key, shoal_str raw_pair)
{
    if (raw_pair.length < sizeof(uint64_t) + key.length ||
        shoal_le_u64((const uint8_t *)raw_pair.data) != key.length ||
        memcmp(raw_pair.data + sizeof(uint64_t), key.data, key.length) != 0) {
        return SHOAL_E_INVALID;
    }
    if (shoal_gguf_is_own_key(key)) {
        return SHOAL_OK;
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(shoal_buf_append(&raw, raw_pair.data, raw_pair.length));
    return keep(writer, key, &raw);
}

shoal_status shoal_gguf_put_u32(shoal_gguf_writer *writer, const char *key, uint32_t value)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(begin(&raw, key, SHOAL_GGUF_U32));
    SHOAL_TRY(put_u32(&raw, value));
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_put_f32(shoal_gguf_writer *writer, const char *key, float value)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(begin(&raw, key, SHOAL_GGUF_F32));
    SHOAL_TRY(put_f32(&raw, value));
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_put_bool(shoal_gguf_writer *writer, const char *key, bool value)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(begin(&raw, key, SHOAL_GGUF_BOOL));
    SHOAL_TRY(shoal_buf_append(&raw, value ? "\1" : "\0", 1));
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_put_str(shoal_gguf_writer *writer, const char *key, const char *value)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    size_t length = strlen(value);
    if (length > SHOAL_GGUF_STRING_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(begin(&raw, key, SHOAL_GGUF_STRING));
    SHOAL_TRY(put_bytes(&raw, (shoal_str){value, length}));
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_put_str_array(shoal_gguf_writer *writer, const char *key,
                                      const shoal_str *values, size_t n)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(begin_array(&raw, key, SHOAL_GGUF_STRING, n));
    for (size_t i = 0; i < n; i++) {
        if (values[i].length > SHOAL_GGUF_STRING_MAX) {
            return SHOAL_E_LIMIT;
        }
        SHOAL_TRY(put_bytes(&raw, values[i]));
    }
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_put_f32_array(shoal_gguf_writer *writer, const char *key,
                                      const float *values, size_t n)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(begin_array(&raw, key, SHOAL_GGUF_F32, n));
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(put_f32(&raw, values[i]));
    }
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_put_i32_array(shoal_gguf_writer *writer, const char *key,
                                      const int32_t *values, size_t n)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_TRY(begin_array(&raw, key, SHOAL_GGUF_I32, n));
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(put_u32(&raw, (uint32_t)values[i]));
    }
    return keep(writer, key_of(key), &raw);
}

shoal_status shoal_gguf_writer_align(shoal_gguf_writer *writer, uint32_t alignment)
{
    bool power = alignment != 0 && (alignment & (alignment - 1)) == 0;
    if (!power || alignment < ALIGNMENT_DEFAULT || alignment > SHOAL_GGUF_ALIGNMENT_MAX) {
        return SHOAL_E_INVALID;
    }
    writer->alignment = alignment;
    return SHOAL_OK;
}

/* --- tensors --------------------------------------------------------------------------------- */

shoal_status shoal_gguf_put_tensor(shoal_gguf_writer *writer, const char *name, shoal_type type,
                                   const uint64_t *dims, uint32_t n_dims, const void *data)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    SHOAL_TRY(check_name(key_of(name), SHOAL_GGUF_NAME_MAX));
    if (n_dims > SHOAL_GGUF_DIMS_MAX || writer->n_tensors >= SHOAL_GGUF_TENSORS_MAX) {
        return SHOAL_E_LIMIT;
    }
    tensor t = {.type = type, .n_dims = n_dims, .data = data};
    if (info == NULL || n_dims == 0 ||
        !shoal_gguf_tensor_bytes(info, dims, n_dims, &t.size_bytes)) {
        return SHOAL_E_INVALID;
    }
    memcpy(t.dims, dims, n_dims * sizeof(*dims));
    SHOAL_TRY(
        reserve(&writer->tensors, writer->n_tensors, &writer->tensors_capacity, sizeof(tensor)));
    SHOAL_CLEANUP(shoal_free_cleanup) char *copy = shoal_strdup(name);
    if (copy == NULL) {
        return SHOAL_E_NOMEM;
    }
    shoal_status status = shoal_names_put(&writer->tensor_names, key_of(copy), writer->n_tensors);
    if (status != SHOAL_OK) {
        return status == SHOAL_BUSY ? SHOAL_E_INVALID : status;
    }
    t.name = SHOAL_STEAL(copy);
    writer->tensors[writer->n_tensors++] = t;
    return SHOAL_OK;
}

/* --- finish ---------------------------------------------------------------------------------- */

/* A pair copied from a file of another alignment would be a lie in this one. */
static bool is_alignment(const pair *p)
{
    static const char key[] = "general.alignment";
    return p->key_length == sizeof(key) - 1 && memcmp(p->key, key, sizeof(key) - 1) == 0;
}

/* Which tensors have a type of our own: two arrays, see gguf.h. */
static shoal_status write_own(const shoal_gguf_writer *writer, size_t n_own, shoal_buf *buf)
{
    for (int types = 0; types < 2; types++) {
        const char *key = types ? SHOAL_GGUF_OWN_TYPES : SHOAL_GGUF_OWN_NAMES;
        SHOAL_TRY(begin_array(buf, key, SHOAL_GGUF_STRING, n_own));
        for (size_t i = 0; i < writer->n_tensors; i++) {
            const tensor *t = &writer->tensors[i];
            const char *text = types ? shoal_type_find((uint32_t)t->type)->name : t->name;
            if (shoal_type_is_own(t->type)) {
                SHOAL_TRY(put_bytes(buf, key_of(text)));
            }
        }
    }
    return SHOAL_OK;
}

static shoal_status write_pairs(const shoal_gguf_writer *writer, shoal_buf *buf)
{
    bool says_alignment = writer->alignment != ALIGNMENT_DEFAULT;
    size_t n_own = 0;
    for (size_t i = 0; i < writer->n_tensors; i++) {
        n_own += shoal_type_is_own(writer->tensors[i].type) ? 1 : 0;
    }
    size_t n = n_own > 0 ? 2 : 0;
    n += says_alignment ? 1 : 0;
    for (size_t i = 0; i < writer->n_pairs; i++) {
        n += is_alignment(&writer->pairs[i]) ? 0 : 1;
    }
    SHOAL_TRY(shoal_buf_append(buf, "GGUF", 4));
    SHOAL_TRY(put_u32(buf, VERSION));
    SHOAL_TRY(put_u64(buf, writer->n_tensors));
    SHOAL_TRY(put_u64(buf, n));
    if (says_alignment) {
        SHOAL_TRY(begin(buf, "general.alignment", SHOAL_GGUF_U32));
        SHOAL_TRY(put_u32(buf, writer->alignment));
    }
    for (size_t i = 0; i < writer->n_pairs; i++) {
        const shoal_buf *raw = &writer->pairs[i].raw;
        if (!is_alignment(&writer->pairs[i])) {
            SHOAL_TRY(shoal_buf_append(buf, raw->data, raw->length));
        }
    }
    return n_own > 0 ? write_own(writer, n_own, buf) : SHOAL_OK;
}

static shoal_status write_infos(const shoal_gguf_writer *writer, size_t start, shoal_buf *buf)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < writer->n_tensors; i++) {
        const tensor *t = &writer->tensors[i];
        SHOAL_TRY(put_bytes(buf, key_of(t->name)));
        SHOAL_TRY(put_u32(buf, t->n_dims));
        const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
        bool own = shoal_type_is_own(t->type);
        for (uint32_t d = 0; d < t->n_dims; d++) {
            bool row = own && d == 0;
            SHOAL_TRY(
                put_u64(buf, row ? t->dims[0] / info->block * info->block_bytes : t->dims[d]));
        }
        SHOAL_TRY(put_u32(buf, (uint32_t)(own ? SHOAL_TYPE_I8 : t->type)));
        SHOAL_TRY(put_u64(buf, offset));
        uint64_t end = 0;
        if (!shoal_add_u64(offset, t->size_bytes, &end) ||
            !shoal_align_u64(end, writer->alignment, &offset)) {
            return SHOAL_E_LIMIT;
        }
    }
    return put_zeros(buf, shoal_gguf_writer_padding(writer, buf->length - start));
}

static shoal_status write_data(const shoal_gguf_writer *writer, shoal_buf *buf)
{
    for (size_t i = 0; i < writer->n_tensors; i++) {
        const tensor *t = &writer->tensors[i];
        if (t->data == NULL) {
            return SHOAL_E_INVALID;
        }
        SHOAL_TRY(shoal_buf_append(buf, t->data, (size_t)t->size_bytes));
        SHOAL_TRY(put_zeros(buf, shoal_gguf_writer_padding(writer, t->size_bytes)));
    }
    return SHOAL_OK;
}

static shoal_status finish(const shoal_gguf_writer *writer, bool with_data, shoal_buf *buf,
                           shoal_err *err)
{
    size_t start = buf->length;
    shoal_status status = write_pairs(writer, buf);
    if (status == SHOAL_OK) {
        status = write_infos(writer, start, buf);
    }
    if (status == SHOAL_OK && with_data) {
        status = write_data(writer, buf);
    }
    if (status == SHOAL_OK) {
        return SHOAL_OK;
    }
    /* As if nothing had been appended. */
    buf->length = start;
    if (buf->data != NULL) {
        buf->data[start] = '\0';
    }
    return shoal_err_set(err, status, "writing a GGUF of %zu pairs and %zu tensors: %s",
                         writer->n_pairs, writer->n_tensors, shoal_status_text(status));
}

shoal_status shoal_gguf_writer_finish(shoal_gguf_writer *writer, shoal_buf *buf, shoal_err *err)
{
    return finish(writer, true, buf, err);
}

shoal_status shoal_gguf_writer_head(const shoal_gguf_writer *writer, shoal_buf *buf, shoal_err *err)
{
    return finish(writer, false, buf, err);
}
