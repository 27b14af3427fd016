/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiny_sides.h"

#include "tests/support/random.h"
#include "tests/support/tiny_internal.h"

#include "common/base/mem.h"
#include "common/weight/sides.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What stands beside a matrix. */
typedef struct turn {
    uint32_t rank;
    uint32_t per_mille; /* of the elements are single ones */
    bool column_scales;
} turn;

/* Matrices take turns with these. */
static const turn turns[] = {{1, 0, false}, {0, 20, true}, {33, 0, true}, {0, 0, true},
                             {32, 7, true}, {0, 0, false}, {5, 3, false}};

enum {
    BLOCK = 32
};

/* Memory that lives until the file is finished. */
static void *own(tiny *t, size_t n, size_t size)
{
    void *data = shoal_calloc(n, size);
    if (data && t->n_data < TINY_TENSORS_MAX) {
        t->data[t->n_data++] = data;
        return data;
    }
    shoal_free(data);
    return NULL;
}

static size_t blocks_of(size_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* Codes of any value, and scales that make columns of about this size. */
static shoal_status make_factor(tiny *t, size_t rank, size_t n, float size,
                                const int8_t **ret_codes, const uint16_t **ret_scales)
{
    int8_t *codes = own(t, rank * blocks_of(n), BLOCK);
    uint16_t *scales = own(t, rank * blocks_of(n), sizeof *scales);
    if (!codes || !scales) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < rank * blocks_of(n) * BLOCK; i++) {
        codes[i] = (int8_t)(shoal_rng_next(&t->rng) % 255 - 127);
    }
    for (size_t i = 0; i < rank * blocks_of(n); i++) {
        scales[i] = shoal_f32_to_f16(size / 127 * test_between(&t->rng, 0.5F, 1.5F));
    }
    *ret_codes = codes;
    *ret_scales = scales;
    return SHOAL_OK;
}

static shoal_status make_singles(tiny *t, uint32_t per_mille, float size, shoal_side_parts *parts)
{
    uint32_t *begin = own(t, parts->n_rows + 1, sizeof *begin);
    uint32_t *cols = own(t, parts->n_rows * parts->k, sizeof *cols);
    uint16_t *values = own(t, parts->n_rows * parts->k, sizeof *values);
    uint32_t n = 0;
    if (!begin || !cols || !values) {
        return SHOAL_E_NOMEM;
    }
    for (size_t row = 0; row < parts->n_rows; row++) {
        for (size_t col = 0; col < parts->k; col++) {
            if (shoal_rng_next(&t->rng) % 1000 < per_mille) {
                cols[n] = (uint32_t)col;
                values[n++] = shoal_f32_to_f16(size * 3 * test_signed(&t->rng));
            }
        }
        begin[row + 1] = n;
    }
    parts->single_begin = begin;
    parts->single_cols = cols;
    parts->single_values = values;
    return SHOAL_OK;
}

/* The same for every matrix of this width, so that some of one input share them. */
static shoal_status make_scales(tiny *t, shoal_side_parts *parts)
{
    uint64_t rng = parts->k;
    uint16_t *scales = own(t, parts->k, sizeof *scales);
    if (!scales) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < parts->k; i++) {
        scales[i] = shoal_f32_to_f16(test_between(&rng, 0.5F, 2.0F));
    }
    parts->column_scales = scales;
    return SHOAL_OK;
}

static shoal_status put_parts(tiny *t, const shoal_gguf_tensor *weight,
                              const shoal_side_parts *parts)
{
    shoal_side_shape shapes[SHOAL_SIDES];
    size_t n = shoal_sides_shapes(parts, shapes);
    for (size_t i = 0; i < n; i++) {
        char name[SHOAL_GGUF_NAME_MAX + 1];
        uint8_t *bytes = own(t, shapes[i].n_bytes, 1);
        if (!bytes || !shoal_side_name(weight->name, shapes[i].side, name)) {
            return SHOAL_E_NOMEM;
        }
        shoal_sides_encode(parts, &shapes[i], bytes);
        SHOAL_TRY(shoal_gguf_put_tensor(t->writer, name, shapes[i].type, shapes[i].dims,
                                        shapes[i].n_dims, bytes));
    }
    return SHOAL_OK;
}

static shoal_status put_sides(tiny *t, const shoal_gguf_tensor *weight, const turn *what)
{
    shoal_side_parts parts = {.n_rows = (size_t)weight->dims[1], .k = (size_t)weight->dims[0]};
    float size = 1 / sqrtf((float)parts.k);
    if (what->rank > 0 && parts.k % BLOCK == 0) {
        parts.rank = what->rank;
        SHOAL_TRY(
            make_factor(t, parts.rank, parts.n_rows, 1, &parts.left_codes, &parts.left_scales));
        SHOAL_TRY(make_factor(t, parts.rank, parts.k, size / sqrtf((float)parts.rank),
                              &parts.right_codes, &parts.right_scales));
    }
    if (what->per_mille > 0) {
        SHOAL_TRY(make_singles(t, what->per_mille, size, &parts));
    }
    if (what->column_scales) {
        SHOAL_TRY(make_scales(t, &parts));
    }
    return put_parts(t, weight, &parts);
}

static bool may_have(const shoal_gguf_tensor *t)
{
    static const char end[] = ".weight";
    size_t n = sizeof end - 1;
    return t->dims[1] > 1 && t->dims[2] == 1 && t->name.length > n &&
           memcmp(t->name.data + t->name.length - n, end, n) == 0;
}

static shoal_status put_all(tiny *t, const shoal_gguf *base, uint32_t rank)
{
    const turn same = {.rank = rank};
    size_t n = 0;
    for (size_t i = 0; i < shoal_gguf_n_kv(base); i++) {
        SHOAL_TRY(
            shoal_gguf_put_raw(t->writer, shoal_gguf_key_at(base, i), shoal_gguf_raw_at(base, i)));
    }
    SHOAL_TRY(shoal_gguf_put_str(t->writer, SHOAL_SIDES_KEY, SHOAL_SIDES_FORMAT));
    for (size_t i = 0; i < shoal_gguf_n_tensors(base); i++) {
        const shoal_gguf_tensor *from = shoal_gguf_tensor_at(base, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)from->name.length, from->name.data);
        SHOAL_TRY(shoal_gguf_put_tensor(t->writer, name, from->type, from->dims, from->n_dims,
                                        from->data));
        if (may_have(from)) {
            SHOAL_TRY(put_sides(t, from, rank > 0 ? &same : &turns[n % SHOAL_COUNT(turns)]));
            n++;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_tiny_sides_gguf(const shoal_gguf *base, uint64_t seed, uint32_t rank,
                                   shoal_buf *buf)
{
    tiny t = {.rng = seed};
    SHOAL_TRY(shoal_gguf_writer_new(&t.writer));
    return shoal_tiny_finish(&t, put_all(&t, base, rank), buf);
}
