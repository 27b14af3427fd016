/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors of types of our own, as a file holds them (gguf.h): I8, and named in the metadata.
 */
#include "common/tensor/gguf.h"

#include "common/base/checked.h"
#include "common/tensor/gguf_internal.h"

#include <inttypes.h>
#include <string.h>

enum {
    TYPE_NAME_MAX = 15
};

static bool is_named(shoal_str key, const char *name)
{
    return key.length == strlen(name) && memcmp(key.data, name, key.length) == 0;
}

bool shoal_gguf_is_own_key(shoal_str key)
{
    return is_named(key, SHOAL_GGUF_OWN_NAMES) || is_named(key, SHOAL_GGUF_OWN_TYPES);
}

static shoal_status count_strings(const shoal_gguf *gguf, const char *key, size_t *ret_n,
                                  shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_U8;
    SHOAL_TRY(shoal_gguf_get_array(gguf, key, &element, ret_n, err));
    if (element != SHOAL_GGUF_STRING) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: an array of strings is expected", key);
    }
    return SHOAL_OK;
}

static const shoal_type_info *own_type(shoal_str name)
{
    char text[TYPE_NAME_MAX + 1] = {0};
    if (name.length > TYPE_NAME_MAX) {
        return NULL;
    }
    memcpy(text, name.data, name.length);
    const shoal_type_info *info = shoal_type_find_name(text);
    return info && shoal_type_is_own(info->type) ? info : NULL;
}

static shoal_status take_own(shoal_gguf *gguf, shoal_str name, shoal_str type, shoal_err *err)
{
    char shown[SHOAL_GGUF_SHOWN];
    char shown_type[SHOAL_GGUF_SHOWN];
    size_t i = 0;
    const shoal_type_info *info = own_type(type);
    if (!info) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             SHOAL_GGUF_OWN_TYPES ": \"%s\" of tensor \"%s\" is not known, only "
                                                  "%s; this file needs a newer version",
                             shoal_gguf_shown(type, shown_type), shoal_gguf_shown(name, shown),
                             shoal_type_own_names());
    }
    if (!shoal_names_find(&gguf->tensor_names, name, &i)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             SHOAL_GGUF_OWN_NAMES ": there is no tensor \"%s\"",
                             shoal_gguf_shown(name, shown));
    }
    shoal_gguf_tensor *t = &gguf->tensors[i];
    uint64_t k = 0;
    if (t->type != SHOAL_TYPE_I8 || t->dims[0] % info->block_bytes != 0 ||
        !shoal_mul_u64(t->dims[0] / info->block_bytes, info->block, &k)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor \"%s\": %s is I8 with rows of whole blocks of %" PRIu32
                             " bytes, and named once",
                             shoal_gguf_shown(name, shown), info->name, info->block_bytes);
    }
    uint64_t dims[SHOAL_GGUF_DIMS_MAX];
    uint64_t bytes = 0;
    memcpy(dims, t->dims, sizeof dims);
    dims[0] = k;
    if (!shoal_gguf_tensor_bytes(info, dims, t->n_dims, &bytes)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "tensor \"%s\": its shape overflows",
                             shoal_gguf_shown(name, shown));
    }
    SHOAL_ASSERT(bytes == t->size_bytes);
    t->type = info->type;
    t->dims[0] = k;
    return SHOAL_OK;
}

shoal_status shoal_gguf_take_own(shoal_gguf *gguf, shoal_err *err)
{
    if (!shoal_gguf_find_pair(gguf, SHOAL_GGUF_OWN_NAMES) &&
        !shoal_gguf_find_pair(gguf, SHOAL_GGUF_OWN_TYPES)) {
        return SHOAL_OK;
    }
    size_t n = 0;
    size_t n_types = 0;
    SHOAL_TRY(count_strings(gguf, SHOAL_GGUF_OWN_NAMES, &n, err));
    SHOAL_TRY(count_strings(gguf, SHOAL_GGUF_OWN_TYPES, &n_types, err));
    if (n != n_types) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             SHOAL_GGUF_OWN_NAMES " has %zu entries, " SHOAL_GGUF_OWN_TYPES " %zu",
                             n, n_types);
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(take_own(gguf, shoal_gguf_array_str(gguf, SHOAL_GGUF_OWN_NAMES, i),
                           shoal_gguf_array_str(gguf, SHOAL_GGUF_OWN_TYPES, i), err));
    }
    return SHOAL_OK;
}
