/* SPDX-License-Identifier: Apache-2.0
 *
 * Stored types, of all layers alike or by layer, and their names.
 */
#include "common/kv/kv_internal.h"

#include <stdio.h>
#include <string.h>

static const char *const type_names[SHOAL_KV_TYPES] = {
    [SHOAL_KV_F32] = "f32",   [SHOAL_KV_F16] = "f16",   [SHOAL_KV_Q8T] = "q8t",
    [SHOAL_KV_K8V8] = "q8",   [SHOAL_KV_K8V4] = "k8v4", [SHOAL_KV_K8V3] = "k8v3",
    [SHOAL_KV_K4V8] = "k4v8", [SHOAL_KV_K4V4] = "q4",   [SHOAL_KV_K4V3] = "k4v3",
    [SHOAL_KV_K3V8] = "k3v8", [SHOAL_KV_K3V4] = "k3v4", [SHOAL_KV_K3V3] = "q3"};

const char *shoal_kv_type_name(shoal_kv_type type)
{
    SHOAL_ASSERT((size_t)type < SHOAL_COUNT(type_names));
    return type_names[type];
}

int shoal_kv_type_parse(const char *name, shoal_kv_type *ret_type)
{
    for (size_t i = 0; i < SHOAL_COUNT(type_names); i++) {
        if (strcmp(name, type_names[i]) == 0) {
            *ret_type = (shoal_kv_type)i;
            return 0;
        }
    }
    return -1;
}

bool shoal_kv_type_sealed(shoal_kv_type type, shoal_kv_level *ret_k, shoal_kv_level *ret_v)
{
    if (type < SHOAL_KV_K8V8) {
        return false;
    }
    *ret_k = (shoal_kv_level)((type - SHOAL_KV_K8V8) / SHOAL_KV_LEVELS);
    *ret_v = (shoal_kv_level)((type - SHOAL_KV_K8V8) % SHOAL_KV_LEVELS);
    return true;
}

/* The layers of one word, "TYPE" or "TYPE*COUNT"; without a count, 0. */
static shoal_status parse_run(const char *word, size_t n, shoal_kv_type *ret_type,
                              size_t *ret_count, shoal_err *err)
{
    char name[8] = "";
    shoal_kv_level level = SHOAL_KV_LEVEL_Q8;
    const char *star = memchr(word, '*', n);
    size_t n_name = star ? (size_t)(star - word) : n;
    size_t count = 0;
    bool ok = n_name > 0 && n_name < sizeof name;
    for (size_t i = n_name + 1; i < n && ok; i++) {
        ok = word[i] >= '0' && word[i] <= '9' && count <= SHOAL_KV_LAYERS_MAX;
        count = count * 10 + (size_t)(word[i] - '0');
    }
    memcpy(name, word, ok ? n_name : 0);
    ok = ok && (!star || count > 0) && shoal_kv_type_parse(name, ret_type) == 0 &&
         shoal_kv_type_sealed(*ret_type, &level, &level);
    *ret_count = count;
    return ok ? SHOAL_OK
              : shoal_err_set(err, SHOAL_E_INVALID,
                              "KV levels: \"%.*s\" is no sealed type (q8, q4, q3, k8v4 and so on) "
                              "with a count of layers behind it, as in q8*2",
                              (int)SHOAL_MIN(n, (size_t)40), word);
}

shoal_status shoal_kv_types_parse(const char *words, size_t n_layers, shoal_kv_type *ret_types,
                                  shoal_err *err)
{
    size_t layer = 0;
    shoal_kv_type type = SHOAL_KV_F16;
    for (bool more = true; more;) {
        size_t n = strcspn(words, ",");
        size_t count = 0;
        more = words[n] == ',';
        SHOAL_TRY(parse_run(words, n, &type, &count, err));
        count = count > 0 ? count : more ? 1 : n_layers - layer;
        if (count == 0 || count > n_layers - layer) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "KV levels: \"%.*s\" begins with layer %zu and the model has %zu "
                                 "layers",
                                 (int)SHOAL_MIN(n, (size_t)40), words, layer, n_layers);
        }
        for (size_t i = 0; i < count; i++) {
            ret_types[layer++] = type;
        }
        words += n + 1;
    }
    while (layer < n_layers) {
        ret_types[layer++] = type;
    }
    return SHOAL_OK;
}

shoal_kv_type shoal_kv_layer_type(const shoal_kv_shape *shape, size_t layer)
{
    return shape->types ? shape->types[layer] : shape->type;
}

bool shoal_kv_types_text(const shoal_kv_shape *shape, char ret_text[SHOAL_KV_TYPES_BYTES])
{
    size_t n = 0;
    if (!shape->types) {
        n = (size_t)snprintf(ret_text, SHOAL_KV_TYPES_BYTES, "%s", shoal_kv_type_name(shape->type));
        return n < SHOAL_KV_TYPES_BYTES;
    }
    for (size_t layer = 0; layer < shape->n_layers && n < SHOAL_KV_TYPES_BYTES;) {
        size_t end = layer + 1;
        while (end < shape->n_layers && shape->types[end] == shape->types[layer]) {
            end++;
        }
        n += (size_t)snprintf(ret_text + n, SHOAL_KV_TYPES_BYTES - n, "%s%s*%zu",
                              layer > 0 ? "," : "", shoal_kv_type_name(shape->types[layer]),
                              end - layer);
        layer = end;
    }
    return n < SHOAL_KV_TYPES_BYTES;
}

bool shoal_kv_types_ok(const shoal_kv_shape *shape)
{
    shoal_kv_level level = SHOAL_KV_LEVEL_Q8;
    for (size_t i = 0; shape->types && i < shape->n_layers; i++) {
        if (!shoal_kv_type_sealed(shape->types[i], &level, &level)) {
            return false;
        }
    }
    char text[SHOAL_KV_TYPES_BYTES];
    return (!shape->types || shape->type == shape->types[0]) && shoal_kv_types_text(shape, text);
}

static bool is_power_of_two(size_t dim)
{
    return (dim & (dim - 1)) == 0;
}

bool shoal_kv_basis_ok(const shoal_kv_shape *shape)
{
    return !shape->hadamard || (is_power_of_two(shape->k_dim) && is_power_of_two(shape->v_dim));
}
