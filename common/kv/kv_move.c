/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/kv_move.h"

#include <stdio.h>
#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    ARITHMETIC = 1 /* raise it with any change of the kernels that changes a bit of KV */
};

size_t shoal_kv_block_bytes(const shoal_kv_shape *shape)
{
    return shape->n_layers * shoal_kv_page_bytes(shape);
}

void shoal_kv_form(const shoal_kv_shape *shape, char ret_form[SHOAL_KV_FORM_BYTES])
{
    (void)snprintf(ret_form, SHOAL_KV_FORM_BYTES,
                   "%s layers=%zu heads=%zu k=%zu v=%zu block=%d arithmetic=%d",
                   shoal_kv_type_name(shape->type), shape->n_layers, shape->n_kv_heads,
                   shape->k_dim, shape->v_dim, (int)BLOCK, (int)ARITHMETIC);
}

/* --- finite ----------------------------------------------------------------------------------- */

/* Written without a branch inside, so that compilers make vectors of it. */
static bool finite_f16(const uint8_t *bytes, size_t n_values)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n_values; i++) {
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

/* Of q8, the scales alone are numbers that can be bad; they stand before the codes of each block.
 */
static bool finite_q8(const shoal_kv_shape *shape, const uint8_t *page)
{
    bool ok = true;
    for (size_t head = 0; head < shape->n_kv_heads; head++) {
        ok = ok && finite_f16(page, BLOCK);
        page += SHOAL_KV_Q8_SCALES + shape->k_dim * BLOCK;
        ok = ok && finite_f16(page, BLOCK);
        page += SHOAL_KV_Q8_SCALES + shape->v_dim * BLOCK;
    }
    return ok;
}

static bool finite_page(const shoal_kv_shape *shape, const uint8_t *page)
{
    size_t n_bytes = shoal_kv_page_bytes(shape);
    switch (shape->type) {
    case SHOAL_KV_F32:
        return finite_f32(page, n_bytes / sizeof(float));
    case SHOAL_KV_F16:
        return finite_f16(page, n_bytes / sizeof(uint16_t));
    case SHOAL_KV_Q8:
        break;
    }
    return finite_q8(shape, page);
}

/* --- moving ----------------------------------------------------------------------------------- */

shoal_status shoal_kv_block_export(const shoal_kv_seq *seq, size_t block, uint8_t *ret_bytes)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(seq);
    size_t page_bytes = shoal_kv_page_bytes(shape);
    if (!shoal_kv_seq_has_block(seq, block)) {
        return SHOAL_E_LIMIT;
    }
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        if (!finite_page(shape, shoal_kv_block_page(seq, layer, block))) {
            return SHOAL_E_INVALID;
        }
    }
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        memcpy(ret_bytes + layer * page_bytes, shoal_kv_block_page(seq, layer, block), page_bytes);
    }
    return SHOAL_OK;
}

shoal_status shoal_kv_block_import(shoal_kv_seq *seq, const uint8_t *bytes, size_t n)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(seq);
    size_t page_bytes = shoal_kv_page_bytes(shape);
    size_t length = shoal_kv_seq_length(seq);
    if (n != shoal_kv_block_bytes(shape)) {
        return SHOAL_E_INVALID;
    }
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        if (!finite_page(shape, bytes + layer * page_bytes)) {
            return SHOAL_E_INVALID;
        }
    }
    if (length % BLOCK != 0) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(shoal_kv_seq_reserve(seq, length + BLOCK));
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        memcpy(shoal_kv_block_page(seq, layer, length / BLOCK), bytes + layer * page_bytes,
               page_bytes);
    }
    shoal_kv_seq_advance(seq, length + BLOCK);
    return SHOAL_OK;
}
