/* SPDX-License-Identifier: Apache-2.0
 *
 * What becomes of every tensor. Matrices take the type asked for; vectors and the router of a
 * mixture of experts stay as they are. A matrix whose rows are no whole blocks of the type falls
 * back to a type that fits.
 */
#include "cloud/forge/convert.h"

#include "common/base/mem.h"
#include "common/weight/sides.h"

#include <stdio.h>
#include <string.h>

uint64_t shoal_forge_tiles(uint64_t n)
{
    return n / SHOAL_FP8_TILE + (n % SHOAL_FP8_TILE != 0);
}

static bool ends_with(shoal_str name, const char *end)
{
    size_t n = strlen(end);
    return name.length >= n && memcmp(name.data + name.length - n, end, n) == 0;
}

static bool is_named(shoal_str name, const char *text)
{
    return name.length == strlen(text) && ends_with(name, text);
}

/* The layer a tensor belongs to, or -1. */
static long layer_of(shoal_str name)
{
    if (name.length < 5 || memcmp(name.data, "blk.", 4) != 0) {
        return -1;
    }
    long layer = 0;
    for (size_t i = 4; i < name.length && name.data[i] >= '0' && name.data[i] <= '9'; i++) {
        layer = layer * 10 + (name.data[i] - '0');
        if (layer > SHOAL_MODEL_LAYERS_MAX) {
            return -1;
        }
    }
    return layer;
}

bool shoal_forge_is_scales(const shoal_gguf *gguf, const shoal_gguf_tensor *t)
{
    static const char more[] = "_scale";
    char name[SHOAL_GGUF_NAME_MAX + 1];
    if (!ends_with(t->name, ".weight_scale")) {
        return false;
    }
    (void)snprintf(name, sizeof name, "%.*s", (int)(t->name.length - strlen(more)), t->name.data);
    const shoal_gguf_tensor *matrix = shoal_gguf_find_tensor(gguf, name);
    return matrix && matrix->type == SHOAL_TYPE_I8;
}

/* A type that rows of k elements can have: the one asked for, Q8_0, or F16. */
static convert_target fitting(conversion *c, convert_target to, uint64_t k)
{
    if (k % to.info->block == 0) {
        return to;
    }
    const shoal_type_info *q8_0 = shoal_type_find(SHOAL_TYPE_Q8_0);
    bool whole = k % q8_0->block == 0;
    to.info = whole ? q8_0 : shoal_type_find(SHOAL_TYPE_F16);
    c->n_q8_0 += whole ? 1 : 0;
    c->n_f16 += whole ? 0 : 1;
    return to;
}

bool shoal_forge_is_matrix(const shoal_gguf_tensor *t)
{
    return (t->dims[1] > 1 || t->type == SHOAL_TYPE_I8) && ends_with(t->name, ".weight") &&
           !ends_with(t->name, "ffn_gate_inp.weight");
}

/* What is decoded here are the usual levels of a type, not a matrix's own. */
static shoal_status check_levels(const conversion *c, const convert_item *item, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    const shoal_gguf_tensor *t = item->from;
    if (item->copy || !shoal_side_name(t->name, SHOAL_SIDE_LEVELS, name) ||
        !shoal_gguf_find_tensor(c->gguf, name)) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "tensor %.*s: it has levels of its own and is copied only; convert the "
                         "model that this one was made from",
                         (int)SHOAL_MIN(t->name.length, (size_t)64), t->name.data);
}

shoal_status shoal_forge_convert_to(conversion *c, const shoal_gguf_tensor *t, convert_target to,
                                    convert_item *ret, shoal_err *err)
{
    bool matrix = shoal_forge_is_matrix(t);
    if (matrix && t->type == SHOAL_TYPE_I32) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "tensor %.*s: I32 is no type of weights",
                             (int)SHOAL_MIN(t->name.length, (size_t)64), t->name.data);
    }
    *ret = (convert_item){.from = t, .to = {.info = shoal_type_find((uint32_t)t->type)}};
    if (t->type == SHOAL_TYPE_I8 && matrix) {
        SHOAL_TRY(shoal_fp8_scales(c->gguf, t, &ret->scales, err));
        ret->to.fp8 = true;
    }
    if (matrix && to.info) {
        ret->to = fitting(c, to, t->dims[0]);
    }
    ret->pair = shoal_lora_file_find(&c->pairs, t->name);
    ret->copy = ret->to.info->type == t->type && !ret->pair;
    c->n_converted += ret->copy ? 0 : 1;
    c->any_fp8 = c->any_fp8 || ret->to.fp8;
    return check_levels(c, ret, err);
}

static shoal_status plan_item(conversion *c, const shoal_gguf_tensor *t, convert_item *ret,
                              shoal_err *err)
{
    if (c->exit_norm.data && is_named(t->name, "output_norm.weight")) {
        c->exit_norm.name = t->name;
        t = &c->exit_norm;
    }
    bool outer = is_named(t->name, "output.weight") || is_named(t->name, "token_embd.weight");
    return shoal_forge_convert_to(c, t, outer && c->output_type.info ? c->output_type : c->type,
                                  ret, err);
}

shoal_status shoal_forge_convert_declare(conversion *c, const convert_item *item, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    const shoal_gguf_tensor *t = item->from;
    (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
    SHOAL_TRY(
        shoal_gguf_put_tensor(c->writer, name, item->to.info->type, t->dims, t->n_dims, NULL));
    if (!item->to.fp8) {
        return SHOAL_OK;
    }
    char scale_name[SHOAL_GGUF_NAME_MAX + 1];
    if (!shoal_fp8_scale_name(t->name, scale_name)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "tensor %s: the name is too long for FP8", name);
    }
    const uint64_t dims[] = {shoal_forge_tiles(t->dims[0]), shoal_forge_tiles(t->dims[1]),
                             t->dims[2], t->dims[3]};
    uint32_t n_dims = SHOAL_MAX(t->n_dims, (uint32_t)2);
    return shoal_gguf_put_tensor(c->writer, scale_name, SHOAL_TYPE_F32, dims, n_dims, NULL);
}

/* The number by which other programs name a file's main type. */
static shoal_status put_file_type(conversion *c)
{
    static const struct {
        shoal_type type;
        uint32_t number;
    } rows[] = {{SHOAL_TYPE_F32, 0},   {SHOAL_TYPE_F16, 1},    {SHOAL_TYPE_Q4_0, 2},
                {SHOAL_TYPE_Q4_1, 3},  {SHOAL_TYPE_Q8_0, 7},   {SHOAL_TYPE_Q5_0, 8},
                {SHOAL_TYPE_Q5_1, 9},  {SHOAL_TYPE_Q2_K, 10},  {SHOAL_TYPE_Q3_K, 11},
                {SHOAL_TYPE_Q4_K, 14}, {SHOAL_TYPE_Q5_K, 16},  {SHOAL_TYPE_Q6_K, 18},
                {SHOAL_TYPE_BF16, 32}, {SHOAL_TYPE_IQ4_NL, 25}};
    for (size_t i = 0; c->type.info && i < SHOAL_COUNT(rows); i++) {
        if (rows[i].type == c->type.info->type) {
            SHOAL_TRY(shoal_gguf_put_u32(c->writer, "general.file_type", rows[i].number));
            SHOAL_TRY(shoal_gguf_put_u32(c->writer, "general.quantization_version", 2));
        }
    }
    return SHOAL_OK;
}

/* The output is plain, whatever the input was. */
static bool is_of_packing(shoal_str key)
{
    static const char prefix[] = "shoal.pack.";
    return key.length > sizeof prefix - 1 && memcmp(key.data, prefix, sizeof prefix - 1) == 0;
}

shoal_status shoal_forge_convert_metadata(conversion *c)
{
    for (size_t i = 0; i < shoal_gguf_n_kv(c->gguf); i++) {
        shoal_str key = shoal_gguf_key_at(c->gguf, i);
        if (!is_named(key, SHOAL_FP8_KEY) && !is_of_packing(key) &&
            !shoal_forge_exits_drop(c, key)) {
            SHOAL_TRY(shoal_gguf_put_raw(c->writer, key, shoal_gguf_raw_at(c->gguf, i)));
        }
    }
    SHOAL_TRY(shoal_forge_exits_put(c));
    if (c->name) {
        SHOAL_TRY(shoal_gguf_put_str(c->writer, "general.name", c->name));
    }
    SHOAL_TRY(put_file_type(c));
    if (c->any_fp8) {
        SHOAL_TRY(shoal_gguf_put_str(c->writer, SHOAL_FP8_KEY, SHOAL_FP8_FORMAT));
    }
    if (c->n_layers > 0) {
        char key[96];
        (void)snprintf(key, sizeof key, "%s.block_count", c->arch);
        SHOAL_TRY(shoal_gguf_put_u32(c->writer, key, (uint32_t)c->n_layers));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_convert_plan(conversion *c, shoal_err *err)
{
    size_t n = shoal_gguf_n_tensors(c->gguf);
    c->items = shoal_calloc(n, sizeof *c->items);
    if (!c->items || shoal_gguf_writer_new(&c->writer) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the writer");
    }
    SHOAL_TRY(shoal_forge_exits_plan(c, err));
    for (size_t i = 0; i < n; i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(c->gguf, i);
        bool dropped = c->n_layers > 0 && layer_of(t->name) >= (long)c->n_layers;
        if (!dropped && !shoal_forge_is_scales(c->gguf, t)) {
            SHOAL_TRY(plan_item(c, t, &c->items[c->n_items++], err));
        }
    }
    shoal_status status = shoal_forge_convert_metadata(c);
    for (size_t i = 0; status == SHOAL_OK && i < c->n_items; i++) {
        status = shoal_forge_convert_declare(c, &c->items[i], err);
    }
    if (status != SHOAL_OK && (!err || err->code == SHOAL_OK)) {
        return shoal_err_set(err, status, "the output cannot be described: %s",
                             shoal_status_text(status));
    }
    return status;
}
