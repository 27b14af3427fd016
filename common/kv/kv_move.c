/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/kv_move.h"

#include <stdio.h>
#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    ARITHMETIC = 1 /* raise it with any change of the kernels that changes a bit of KV */
};

size_t shoal_kv_block_bytes(const shoal_kv_shape *shape, size_t block)
{
    size_t n = 0;
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        size_t n_k = 0;
        size_t n_v = 0;
        shoal_kv_part_bytes(shape, layer, block, &n_k, &n_v);
        n += shape->n_kv_heads * (n_k + n_v);
    }
    return n;
}

size_t shoal_kv_form_layers(const shoal_kv_shape *shape)
{
    return shape->types ? 1 : shape->n_layers;
}

void shoal_kv_form(const shoal_kv_shape *shape, char ret_form[SHOAL_KV_FORM_BYTES])
{
    char types[SHOAL_KV_TYPES_BYTES];
    bool fits = shoal_kv_types_text(shape, types);
    SHOAL_ASSERT(fits); /* a pool checked it */
    size_t n = (size_t)snprintf(ret_form, SHOAL_KV_FORM_BYTES,
                                "%s layers=%zu heads=%zu k=%zu v=%zu block=%d arithmetic=%d", types,
                                shape->n_layers, shape->n_kv_heads, shape->k_dim, shape->v_dim,
                                (int)BLOCK, (int)ARITHMETIC);
    if (shape->evict && n < SHOAL_KV_FORM_BYTES) {
        n += (size_t)snprintf(ret_form + n, SHOAL_KV_FORM_BYTES - n, " evict=%s budget=%zu",
                              shape->evict->name, shape->budget);
    }
    if (shape->hadamard && n < SHOAL_KV_FORM_BYTES) {
        (void)snprintf(ret_form + n, SHOAL_KV_FORM_BYTES - n, " hadamard");
    }
}

/* --- finite ----------------------------------------------------------------------------------- */

/* Written without a branch inside, so that compilers make vectors of it. */
bool shoal_kv_finite_f16(const uint8_t *bytes, size_t n_values)
{
    enum {
        AT_ONCE = 32
    };
    unsigned bad = 0;
    size_t i = 0;
    /* Bits as wide as what is read, and a count that is known: that becomes vectors. */
    for (; i + AT_ONCE <= n_values; i += AT_ONCE) {
        uint16_t some[AT_ONCE];
        uint16_t found = 0;
        memcpy(some, bytes + 2 * i, sizeof some);
        for (size_t j = 0; j < AT_ONCE; j++) {
            found |= (some[j] & 0x7C00) == 0x7C00 ? 0xFFFF : 0;
        }
        bad |= found;
    }
    for (; i < n_values; i++) {
        uint16_t bits = 0;
        memcpy(&bits, bytes + 2 * i, sizeof bits);
        bad |= (bits & 0x7C00u) == 0x7C00u;
    }
    return !bad;
}

static bool finite_f32(const uint8_t *bytes, size_t n_values)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n_values; i++) {
        uint32_t bits = 0;
        memcpy(&bits, bytes + 4 * i, sizeof bits);
        bad |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return !bad;
}

/* Of codes, the scales and minima in front of them alone are numbers that can be bad. */
static bool finite_part(const shoal_kv_shape *shape, size_t layer, size_t block, const uint8_t *k,
                        const uint8_t *v)
{
    shoal_kv_type type = shoal_kv_layer_type(shape, layer);
    shoal_kv_level level = SHOAL_KV_LEVEL_Q8;
    size_t n_k = shape->k_dim * BLOCK;
    size_t n_v = shape->v_dim * BLOCK;
    if (type == SHOAL_KV_F32) {
        return finite_f32(k, n_k) && finite_f32(v, n_v);
    }
    if (type == SHOAL_KV_Q8T) {
        return shoal_kv_finite_f16(k, BLOCK) && shoal_kv_finite_f16(v, BLOCK);
    }
    if (block > 0 && shoal_kv_type_sealed(type, &level, &level)) {
        return shoal_kv_finite_f16(k, 2 * shape->k_dim) &&
               shoal_kv_finite_f16(v, (size_t)2 * BLOCK);
    }
    return shoal_kv_finite_f16(k, n_k) && shoal_kv_finite_f16(v, n_v);
}

/* --- moving ----------------------------------------------------------------------------------- */

shoal_status shoal_kv_block_export(const shoal_kv_seq *seq, size_t block, uint8_t *ret_bytes)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(seq);
    size_t n_parts = shape->n_layers * shape->n_kv_heads;
    if (!shoal_kv_seq_has_block(seq, block)) {
        return SHOAL_E_LIMIT;
    }
    for (size_t i = 0; i < n_parts; i++) {
        size_t layer = i / shape->n_kv_heads;
        shoal_kv_part part = shoal_kv_block_part(seq, layer, block, i % shape->n_kv_heads);
        if (!finite_part(shape, layer, block, part.k, part.v)) {
            return SHOAL_E_INVALID;
        }
    }
    for (size_t i = 0; i < n_parts; i++) {
        size_t layer = i / shape->n_kv_heads;
        size_t n_k = 0;
        size_t n_v = 0;
        shoal_kv_part_bytes(shape, layer, block, &n_k, &n_v);
        shoal_kv_part part = shoal_kv_block_part(seq, layer, block, i % shape->n_kv_heads);
        memcpy(ret_bytes, part.k, n_k);
        memcpy(ret_bytes + n_k, part.v, n_v);
        ret_bytes += n_k + n_v;
    }
    return SHOAL_OK;
}

shoal_status shoal_kv_block_import(shoal_kv_seq *seq, const uint8_t *bytes, size_t n)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(seq);
    size_t n_parts = shape->n_layers * shape->n_kv_heads;
    size_t length = shoal_kv_seq_length(seq);
    size_t block = length / BLOCK;
    size_t n_k = 0;
    size_t n_v = 0;
    const uint8_t *at = bytes;
    if (n != shoal_kv_block_bytes(shape, block)) {
        return SHOAL_E_INVALID;
    }
    for (size_t i = 0; i < n_parts; i++) {
        size_t layer = i / shape->n_kv_heads;
        shoal_kv_part_bytes(shape, layer, block, &n_k, &n_v);
        if (!finite_part(shape, layer, block, at, at + n_k)) {
            return SHOAL_E_INVALID;
        }
        at += n_k + n_v;
    }
    if (length % BLOCK != 0 || shape->evict) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(shoal_kv_seq_reserve(seq, length + BLOCK));
    at = bytes;
    for (size_t i = 0; i < n_parts; i++) {
        size_t layer = i / shape->n_kv_heads;
        shoal_kv_part_bytes(shape, layer, block, &n_k, &n_v);
        shoal_kv_part part = shoal_kv_block_part(seq, layer, block, i % shape->n_kv_heads);
        memcpy(part.k, at, n_k);
        memcpy(part.v, at + n_k, n_v);
        at += n_k + n_v;
    }
    shoal_kv_seq_advance_blocks(seq, length + BLOCK);
    return SHOAL_OK;
}
