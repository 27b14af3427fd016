/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/model_internal.h"

#include <stdio.h>
#include <string.h>

enum {
    KEY_MAX = 96
};

/* arch + suffix, for example "llama.block_count". */
static void key_of(const shoal_keys *keys, const char *suffix, char key[KEY_MAX])
{
    (void)snprintf(key, KEY_MAX, "%s.%s", keys->arch->name, suffix);
}

shoal_status shoal_keys_count(const shoal_keys *keys, const char *suffix, size_t min, size_t max,
                              size_t *inout_value)
{
    char key[KEY_MAX];
    key_of(keys, suffix, key);
    uint64_t value = 0;
    shoal_status status = shoal_gguf_get_u64(keys->gguf, key, &value, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(keys->err, status, "%s: an integer is expected", key);
    }
    if (value < min || value > max) {
        return shoal_err_set(keys->err, SHOAL_E_LIMIT, "%s: %llu is outside %zu to %zu", key,
                             (unsigned long long)value, min, max);
    }
    *inout_value = (size_t)value;
    return SHOAL_OK;
}

shoal_status shoal_keys_need(const shoal_keys *keys, const char *suffix, size_t max,
                             size_t *ret_value)
{
    size_t value = 0;
    SHOAL_TRY(shoal_keys_count(keys, suffix, 1, max, &value));
    if (value == 0) {
        return shoal_err_set(keys->err, SHOAL_E_NOTFOUND,
                             "%s.%s is missing: an integer is expected", keys->arch->name, suffix);
    }
    *ret_value = value;
    return SHOAL_OK;
}

shoal_status shoal_keys_real(const shoal_keys *keys, const char *suffix, double min, double max,
                             double *inout_value)
{
    char key[KEY_MAX];
    key_of(keys, suffix, key);
    double value = 0;
    shoal_status status = shoal_gguf_get_f64(keys->gguf, key, &value, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(keys->err, status, "%s: a number is expected", key);
    }
    if (!(value >= min && value <= max)) {
        return shoal_err_set(keys->err, SHOAL_E_LIMIT, "%s: %g is outside %g to %g", key, value,
                             min, max);
    }
    *inout_value = value;
    return SHOAL_OK;
}

shoal_status shoal_keys_bool(const shoal_keys *keys, const char *suffix, bool *inout_value)
{
    char key[KEY_MAX];
    key_of(keys, suffix, key);
    bool value = false;
    shoal_status status = shoal_gguf_get_bool(keys->gguf, key, &value, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(keys->err, status, "%s: true or false is expected", key);
    }
    *inout_value = value;
    return SHOAL_OK;
}

shoal_status shoal_keys_str(const shoal_keys *keys, const char *suffix, shoal_str *ret_value)
{
    char key[KEY_MAX];
    key_of(keys, suffix, key);
    shoal_str value = {.data = "", .length = 0};
    shoal_status status = shoal_gguf_get_str(keys->gguf, key, &value, NULL);
    if (status != SHOAL_OK && status != SHOAL_E_NOTFOUND) {
        return shoal_err_set(keys->err, status, "%s: a string is expected", key);
    }
    *ret_value = value;
    return SHOAL_OK;
}

shoal_status shoal_keys_check_all(const shoal_keys *keys)
{
    size_t n = strlen(keys->arch->name);
    for (size_t i = 0; i < shoal_gguf_n_kv(keys->gguf); i++) {
        shoal_str key = shoal_gguf_key_at(keys->gguf, i);
        if (key.length <= n + 1 || memcmp(key.data, keys->arch->name, n) != 0 ||
            key.data[n] != '.') {
            continue;
        }
        if (!shoal_arch_knows_key(keys->arch, key.data + n + 1, key.length - n - 1)) {
            return shoal_err_set(keys->err, SHOAL_E_UNSUPPORTED,
                                 "%.*s: not computed for this architecture; ignoring it could give "
                                 "other answers than the model's",
                                 (int)SHOAL_MIN(key.length, (size_t)KEY_MAX), key.data);
        }
    }
    return SHOAL_OK;
}
