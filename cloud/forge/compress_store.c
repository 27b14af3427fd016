/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pass has made of a matrix, as tensors of a file: exactly its codes, scales and factors.
 */
#include "cloud/forge/compress.h"

#include "common/base/mem.h"
#include "common/weight/codes.h"
#include "common/weight/sides.h"

#include <stdio.h>
#include <string.h>

enum {
    N = 32, /* columns of a block of Q5_0 */
    Q5_0_BYTES = 22,
    INFO_FIXED = 8 + 4 + 12 /* of a tensor's description: length of name, dimensions, type, place */
};

static shoal_codes_mask mask_of(shoal_mask mask)
{
    static const shoal_codes_mask masks[] = {[SHOAL_MASK_ALL] = SHOAL_CODES_ALL,
                                             [SHOAL_MASK_TWO_FOUR] = SHOAL_CODES_TWO_FOUR,
                                             [SHOAL_MASK_HALF] = SHOAL_CODES_HALF,
                                             [SHOAL_MASK_QUARTER] = SHOAL_CODES_QUARTER};
    return masks[mask];
}

/* The type that holds exactly what a pass makes in a form. */
static bool type_of(const forge_recipe_form *form, shoal_type *ret_type)
{
    const shoal_form *f = &form->form;
    bool all = f->mask == SHOAL_MASK_ALL;
    if (f->mask == SHOAL_MASK_BITMAP) {
        return false;
    }
    if (form->pass == SHOAL_PASS_CODEBOOK) {
        return shoal_codes_find(f->bits, f->group, SHOAL_CODES_LEVELS, ret_type);
    }
    if (all && f->bits == SHOAL_COMPRESS_BITS_F16) {
        *ret_type = SHOAL_TYPE_F16;
        return true;
    }
    if (all && f->bits == 5 && f->group == N) {
        *ret_type = SHOAL_TYPE_Q5_0;
        return true;
    }
    return shoal_codes_find(f->bits, f->group, mask_of(f->mask), ret_type);
}

shoal_type shoal_forge_store_type(const forge_recipe_form *form)
{
    shoal_type type = form->type;
    if (!form->typed) {
        bool known = type_of(form, &type);
        SHOAL_ASSERT(known);
    }
    return type;
}

/* Sides stand beside one matrix that is one linear layer. */
static const char *side_reason(const forge_recipe_form *form, size_t k, bool single)
{
    if (!shoal_forge_store_has_sides(form)) {
        return NULL;
    }
    if (!single) {
        return "what stands beside values is for a tensor that is one linear layer";
    }
    if (form->form.rank > SHOAL_SIDES_RANK_MAX) {
        return "the rank is above 1024";
    }
    if ((form->form.rank > 0 || form->fill) && k % N != 0) {
        return "its rows are no multiple of 32, which low-rank factors need";
    }
    return NULL;
}

static bool scales_columns(shoal_pass pass)
{
    return pass == SHOAL_PASS_AWQ || pass == SHOAL_PASS_SMOOTH;
}

bool shoal_forge_store_has_sides(const forge_recipe_form *form)
{
    return !form->keep && !form->typed &&
           (form->form.rank > 0 || form->fill || scales_columns(form->pass) ||
            form->pass == SHOAL_PASS_WRP || form->pass == SHOAL_PASS_CODEBOOK);
}

const char *shoal_forge_store_reason(const forge_recipe_form *form, size_t k, bool single)
{
    shoal_type type = form->type;
    if (form->keep) {
        return NULL;
    }
    if (!form->typed && form->form.bits == 0) {
        return "no format has factors without values";
    }
    if (!form->typed && !type_of(form, &type)) {
        return "no format has such bits, group and mask";
    }
    if (k % shoal_type_find((uint32_t)type)->block != 0) {
        return "its rows are no whole blocks of the type";
    }
    return side_reason(form, k, single);
}

uint64_t shoal_forge_store_bytes(const forge_recipe_form *form, size_t n_rows, size_t k)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)shoal_forge_store_type(form));
    const shoal_type_info *factor = shoal_type_find(SHOAL_TYPE_Q8_0);
    uint64_t bytes = (uint64_t)n_rows * (k / info->block) * info->block_bytes;
    if (!form->typed) {
        uint64_t blocks = (n_rows + N - 1) / N + k / N;
        bytes += form->form.rank * blocks * factor->block_bytes;
        bytes += scales_columns(form->pass) ? 2 * (uint64_t)k : 0;
        bytes += form->pass == SHOAL_PASS_CODEBOOK ? (uint64_t)1 << form->form.bits : 0;
    }
    return bytes;
}

/* --- memory ----------------------------------------------------------------------------------- */

void shoal_forge_stored_fini(compress_stored *stored)
{
    for (size_t i = 0; i < stored->n; i++) {
        shoal_free(stored->tensors[i].data);
    }
    memset(stored, 0, sizeof *stored);
}

uint64_t shoal_forge_stored_bytes(const compress_stored *stored)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < stored->n; i++) {
        bytes += stored->tensors[i].n_bytes;
    }
    return bytes;
}

uint64_t shoal_forge_stored_file_bytes(const compress_stored *stored)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < stored->n; i++) {
        const compress_tensor *t = &stored->tensors[i];
        bytes += (t->n_bytes + N - 1) / N * N;
        bytes += INFO_FIXED + strlen(t->name) + 8 * (uint64_t)t->n_dims;
        if (shoal_type_is_own(t->type)) { /* named once more, with its type (gguf.h) */
            bytes += 16 + strlen(t->name) + strlen(shoal_type_find((uint32_t)t->type)->name);
        }
    }
    return bytes;
}

shoal_status shoal_forge_store_begin(const forge_recipe_form *form, const shoal_gguf_tensor *tensor,
                                     compress_stored *stored, shoal_err *err)
{
    compress_tensor *t = &stored->tensors[0];
    size_t n_rows = (size_t)(tensor->dims[1] * tensor->dims[2] * tensor->dims[3]);
    (void)snprintf(t->name, sizeof t->name, "%.*s", (int)tensor->name.length, tensor->name.data);
    t->type = shoal_forge_store_type(form);
    t->n_dims = tensor->n_dims;
    memcpy(t->dims, tensor->dims, sizeof t->dims);
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    t->n_bytes = n_rows * ((size_t)tensor->dims[0] / info->block) * info->block_bytes;
    t->data = shoal_calloc(t->n_bytes, 1);
    if (!t->data) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a matrix of %zu bytes", t->n_bytes);
    }
    stored->n = 1;
    return SHOAL_OK;
}

/* --- blocks ----------------------------------------------------------------------------------- */

static void put_half(uint8_t *to, uint16_t scale)
{
    to[0] = (uint8_t)(scale & 255);
    to[1] = (uint8_t)(scale >> 8);
}

/* Q5_0: a scale, the fifth bits, then element j in the low nibble of byte j and element j + 16 in
 * its high one; value = scale * (code - 16). */
static void put_q5_0(const shoal_compressed *c, size_t row, uint8_t *to)
{
    for (size_t b = 0; b < c->n_cols / N; b++, to += Q5_0_BYTES) {
        const int8_t *codes = c->codes + row * c->n_cols + b * N;
        put_half(to, c->scales[row * c->n_groups + b]);
        memset(to + 2, 0, Q5_0_BYTES - 2);
        for (size_t j = 0; j < N; j++) {
            unsigned code = (unsigned)(codes[j] + 16);
            to[2 + j / 8] = (uint8_t)(to[2 + j / 8] | (code >> 4 & 1) << j % 8);
            to[6 + j % 16] = (uint8_t)(to[6 + j % 16] | (code & 15) << j / 16 * 4);
        }
    }
}

static void put_halves(const shoal_compressed *c, size_t row, uint8_t *to)
{
    for (size_t j = 0; j < c->n_cols; j++) {
        put_half(to + 2 * j, c->halves[row * c->n_cols + j]);
    }
}

static shoal_status put_codes(const shoal_compressed *c, uint8_t *to, shoal_err *err)
{
    const shoal_codes codes = {.n_rows = c->n_rows,
                               .k = c->n_cols,
                               .bits = c->form.bits,
                               .group = c->form.group,
                               .mask = c->levels ? SHOAL_CODES_LEVELS : mask_of(c->form.mask),
                               .codes = c->codes,
                               .scales = c->scales,
                               .kept = c->kept};
    return shoal_codes_pack(&codes, 0, c->n_rows, to, err);
}

static shoal_status put_base(const shoal_compressed *c, size_t row, compress_tensor *t,
                             shoal_err *err)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t row_bytes = c->n_cols / info->block * info->block_bytes;
    if (t->type != SHOAL_TYPE_F16 && t->type != SHOAL_TYPE_Q5_0) {
        return put_codes(c, t->data + row * row_bytes, err);
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        uint8_t *to = t->data + (row + r) * row_bytes;
        if (t->type == SHOAL_TYPE_F16) {
            put_halves(c, r, to);
        } else {
            put_q5_0(c, r, to);
        }
    }
    return SHOAL_OK;
}

static shoal_status put_sides(const shoal_compressed *c, const shoal_gguf_tensor *tensor,
                              compress_stored *stored, shoal_err *err)
{
    const shoal_side_parts parts = {.n_rows = c->n_rows,
                                    .k = c->n_cols,
                                    .rank = c->form.rank,
                                    .left_codes = c->left.codes,
                                    .left_scales = c->left.scales,
                                    .right_codes = c->right.codes,
                                    .right_scales = c->right.scales,
                                    .column_scales = c->column_scales,
                                    .single_begin = c->single_begin,
                                    .single_cols = c->single_cols,
                                    .single_values = c->single_values,
                                    .levels = c->levels,
                                    .n_levels = c->levels ? (size_t)1 << c->form.bits : 0};
    shoal_side_shape shapes[SHOAL_SIDES];
    size_t n = shoal_sides_shapes(&parts, shapes);
    for (size_t i = 0; i < n; i++) {
        compress_tensor *t = &stored->tensors[stored->n];
        *t = (compress_tensor){.type = shapes[i].type,
                               .n_dims = shapes[i].n_dims,
                               .dims = {shapes[i].dims[0], shapes[i].dims[1], 1, 1},
                               .n_bytes = shapes[i].n_bytes};
        if (!shoal_side_name(tensor->name, shapes[i].side, t->name)) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "its name is too long for what stands beside");
        }
        t->data = shoal_calloc(t->n_bytes, 1);
        if (!t->data) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu bytes", t->n_bytes);
        }
        stored->n++;
        shoal_sides_encode(&parts, &shapes[i], t->data);
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_store_put(const shoal_compressed *c, const shoal_gguf_tensor *tensor,
                                   size_t row, compress_stored *stored, shoal_err *err)
{
    SHOAL_TRY(put_base(c, row, &stored->tensors[0], err));
    return put_sides(c, tensor, stored, err);
}

shoal_status shoal_forge_store_encode(const float *x, size_t row, size_t n_rows, size_t k,
                                      compress_stored *stored, shoal_err *err)
{
    compress_tensor *t = &stored->tensors[0];
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t row_bytes = k / info->block * info->block_bytes;
    return shoal_weight_encode(t->type, x, n_rows * k, t->data + row * row_bytes, err);
}
