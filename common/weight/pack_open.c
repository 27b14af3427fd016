/* SPDX-License-Identifier: Apache-2.0
 *
 * The metadata of a packed file, checked against its tensors: after this the sizes of panels are
 * those that the shapes ask for.
 */
#include "common/weight/pack_internal.h"

#include "common/base/checked.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS
};

static int nibble_of(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hash(shoal_str text, shoal_hash *ret_hash)
{
    if (text.length != (size_t)SHOAL_HASH_HEX - 1) {
        return false;
    }
    for (size_t i = 0; i < SHOAL_HASH_BYTES; i++) {
        int high = nibble_of(text.data[2 * i]);
        int low = nibble_of(text.data[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        ret_hash->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static size_t index_of(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor)
{
    size_t i = (size_t)(tensor - shoal_gguf_tensor_at(gguf, 0));
    SHOAL_ASSERT(i < shoal_gguf_n_tensors(gguf));
    return i;
}

shoal_hash shoal_pack_stated(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                             const char *key)
{
    shoal_hash hash;
    bool ok = parse_hash(shoal_gguf_array_str(gguf, key, index_of(gguf, tensor)), &hash);
    SHOAL_ASSERT(ok);
    return hash;
}

static shoal_status check_array(const shoal_gguf *gguf, const char *key, shoal_gguf_kind want,
                                size_t n, shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_U8;
    size_t length = 0;
    SHOAL_TRY(shoal_gguf_get_array(gguf, key, &element, &length, err));
    if (element != want || length != n) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: %zu elements of %s are expected, for every tensor of the file",
                             key, n, want == SHOAL_GGUF_I32 ? "i32" : "strings");
    }
    return SHOAL_OK;
}

static shoal_status check_version(const shoal_gguf *gguf, shoal_err *err)
{
    uint64_t version = 0;
    SHOAL_TRY(shoal_gguf_get_u64(gguf, SHOAL_PACK_VERSION_KEY, &version, err));
    if (version != SHOAL_PACK_VERSION) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s is %llu, known is %d: pack the model again with this version",
                             SHOAL_PACK_VERSION_KEY, (unsigned long long)version,
                             (int)SHOAL_PACK_VERSION);
    }
    size_t n = shoal_gguf_n_tensors(gguf);
    SHOAL_TRY(check_array(gguf, SHOAL_PACK_TYPES, SHOAL_GGUF_I32, n, err));
    SHOAL_TRY(check_array(gguf, SHOAL_PACK_DIMS_KEY, SHOAL_GGUF_I32, n * SHOAL_PACK_DIMS, err));
    SHOAL_TRY(check_array(gguf, SHOAL_PACK_DIGESTS, SHOAL_GGUF_STRING, n, err));
    return check_array(gguf, SHOAL_PACK_SUMS, SHOAL_GGUF_STRING, n, err);
}

static shoal_status bad_tensor(const shoal_gguf_tensor *t, const char *what, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "packed tensor %.*s: %s", SHOAL_TENSOR_NAME(t),
                         what);
}

/* The matrix that tensor i was, or unpacked ones as they are. */
static shoal_status read_tensor(const shoal_gguf *gguf, size_t i, shoal_gguf_tensor *ret_tensor,
                                shoal_err *err)
{
    const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
    int64_t type = shoal_gguf_array_i64(gguf, SHOAL_PACK_TYPES, i);
    *ret_tensor = *t;
    if (type == -1) {
        return SHOAL_OK;
    }
    const shoal_type_info *info = type < 0 ? NULL : shoal_type_find((uint32_t)type);
    if (!info) {
        return bad_tensor(t, "shoal.pack.types names a type that is not known", err);
    }
    shoal_gguf_tensor was = *t;
    was.type = info->type;
    was.packed = true;
    was.n_dims = 2;
    for (size_t d = 0; d < SHOAL_PACK_DIMS; d++) {
        int64_t dim = shoal_gguf_array_i64(gguf, SHOAL_PACK_DIMS_KEY, i * SHOAL_PACK_DIMS + d);
        if (dim < 1) {
            return bad_tensor(t, "shoal.pack.dims is less than 1", err);
        }
        was.dims[d] = (uint64_t)dim;
    }
    was.n_dims = was.dims[2] > 1 ? 3 : 2;
    shoal_matrix m;
    SHOAL_TRY(shoal_matrix_of(NULL, &was, &m, err));
    uint64_t bytes = 0;
    if (was.dims[1] < 2 || was.dims[0] % info->block != 0 ||
        !shoal_mul_u64((m.n_rows + ROWS - 1) / ROWS, m.panel_bytes, &bytes)) {
        return bad_tensor(t, "shoal.pack.dims is no matrix of its type", err);
    }
    if (t->type != SHOAL_TYPE_I8 || t->n_dims != 1 || t->size_bytes != bytes) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "packed tensor %.*s: %llu bytes of I8 are expected, it has %llu of %s",
                             SHOAL_TENSOR_NAME(t), (unsigned long long)bytes,
                             (unsigned long long)t->size_bytes,
                             shoal_type_find((uint32_t)t->type)->name);
    }
    if ((uintptr_t)t->data % SHOAL_PACK_ALIGN != 0) {
        return bad_tensor(t, "its panels are not at a multiple of 64 bytes", err);
    }
    shoal_hash hash;
    if (!parse_hash(shoal_gguf_array_str(gguf, SHOAL_PACK_DIGESTS, i), &hash) ||
        !parse_hash(shoal_gguf_array_str(gguf, SHOAL_PACK_SUMS, i), &hash)) {
        return bad_tensor(t, "its digest or sum is not 64 hexadecimal digits", err);
    }
    *ret_tensor = was;
    return SHOAL_OK;
}

bool shoal_pack_is_packed(const shoal_gguf *gguf)
{
    uint64_t version = 0;
    return shoal_gguf_get_u64(gguf, SHOAL_PACK_VERSION_KEY, &version, NULL) != SHOAL_E_NOTFOUND;
}

shoal_status shoal_pack_open(const uint8_t *data, size_t size, shoal_gguf **ret_gguf,
                             shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_gguf_open(data, size, &gguf, err));
    if (shoal_pack_is_packed(gguf)) {
        SHOAL_TRY(check_version(gguf, err));
        for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
            shoal_gguf_tensor tensor;
            SHOAL_TRY(read_tensor(gguf, i, &tensor, err));
            shoal_gguf_set_tensor(gguf, i, &tensor);
        }
    }
    *ret_gguf = SHOAL_STEAL(gguf);
    return SHOAL_OK;
}
