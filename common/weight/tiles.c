/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights of Q4_0 stored input by input, for products that read only what fires (kernels/firing.h).
 * A tile is wide, so that an input's bytes are one long run, as long as there are tiles for all
 * processors and two blocks stay in the first cache; its width changes no bit. Tiles are always
 * built, from a packed file too.
 */
#include "common/weight/matrix_internal.h"

#include "common/base/mem.h"

#include <stdatomic.h>
#include <string.h>

enum {
    N = SHOAL_QBLOCK,
    STEP = SHOAL_TILE_STEP,
    LINE = SHOAL_TILE_LINE,
    WIDEST = 512, /* rows of a tile: 9 KiB a block */
    BLOCK = 18    /* bytes of 32 elements of Q4_0 */
};

typedef struct build {
    const shoal_matrix *m;
    size_t row; /* the first */
    const shoal_weight *w;
    _Atomic size_t bad_row; /* SIZE_MAX: none */
    atomic_bool no_memory;
} build;

static size_t tile_rows_for(size_t n_rows)
{
    size_t each = n_rows / SHOAL_MAX(shoal_pool_n_cpus(), (size_t)1);
    each = (each + STEP - 1) / STEP * STEP;
    return SHOAL_MAX(SHOAL_MIN(each, (size_t)WIDEST), (size_t)STEP);
}

/* Row r of a tile from its blocks of Q4_0: the low nibbles of 16 bytes are the first 16 elements,
 * the high ones the others. */
static void put_row(const uint8_t *blocks, size_t k, size_t n_rows, size_t r, uint8_t *tile)
{
    const unsigned shift = shoal_tile_shift(r % STEP);
    for (size_t b = 0; b < k / N; b++, blocks += BLOCK, tile += shoal_tile_block_bytes(n_rows)) {
        memcpy(tile + 2 * r, blocks, 2);
        uint8_t *to = tile + 2 * n_rows + r / STEP * LINE + shoal_tile_byte(r % STEP);
        for (size_t i = 0; i < N; i++, to += n_rows / 2) {
            unsigned code = (unsigned)(blocks[2 + i % 16] >> (i < 16 ? 0 : 4)) & 15U;
            *to = (uint8_t)(*to | code << shift);
        }
    }
}

static void fail(build *b, size_t row)
{
    size_t seen = atomic_load(&b->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&b->bad_row, &seen, row)) {
    }
}

static void build_tile(void *ctx, size_t t, size_t worker)
{
    (void)worker;
    build *b = ctx;
    const size_t n_tile = b->w->tile_rows;
    const size_t first = t * n_tile;
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *space = shoal_calloc(b->m->row_bytes, 1);
    if (!space) {
        atomic_store(&b->no_memory, true);
        return;
    }
    const size_t n = SHOAL_MIN(n_tile, b->w->n_rows - first);
    for (size_t r = 0; r < n; r++) {
        const uint8_t *blocks = shoal_matrix_blocks(b->m, b->row + first + r, space);
        if (!b->m->format->finite(blocks, b->m->k)) {
            fail(b, b->row + first + r);
            return;
        }
        put_row(blocks, b->m->k, n_tile, r, b->w->owned + t * b->w->panel_bytes);
    }
    shoal_matrix_forget(b->m, b->row + first, n);
}

static shoal_status build_all(build *b, size_t n_tiles, shoal_pool *pool, shoal_err *err)
{
    if (pool) {
        shoal_pool_run(pool, build_tile, b, n_tiles);
    }
    for (size_t t = 0; !pool && t < n_tiles; t++) {
        build_tile(b, t, 0);
    }
    if (atomic_load(&b->no_memory)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s",
                             SHOAL_TENSOR_NAME(b->m->tensor));
    }
    size_t bad_row = atomic_load(&b->bad_row);
    return bad_row == SIZE_MAX ? SHOAL_OK : shoal_matrix_not_finite(b->m, bad_row, err);
}

shoal_status shoal_tiles_weight(const shoal_matrix *m, size_t row, size_t n_rows, shoal_pool *pool,
                                shoal_weight **ret_weight, shoal_err *err)
{
    shoal_weight *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s",
                             SHOAL_TENSOR_NAME(m->tensor));
    }
    w->format = m->format;
    w->k = m->k;
    w->n_rows = n_rows;
    w->n_panels = (n_rows + SHOAL_PANEL_ROWS - 1) / SHOAL_PANEL_ROWS;
    w->tile_rows = tile_rows_for(n_rows);
    w->panel_bytes = shoal_tile_bytes(w->tile_rows, w->k);
    const size_t n_tiles = (n_rows + w->tile_rows - 1) / w->tile_rows;
    w->owned = shoal_calloc_huge(n_tiles, w->panel_bytes);
    shoal_status status = SHOAL_E_NOMEM;
    if (w->owned) {
        build b = {.m = m, .row = row, .w = w, .bad_row = SIZE_MAX};
        status = build_all(&b, n_tiles, pool, err);
    } else {
        (void)shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %.*s (%zu bytes)",
                            SHOAL_TENSOR_NAME(m->tensor), n_tiles * w->panel_bytes);
    }
    if (status != SHOAL_OK) {
        shoal_weight_free(w);
        return status;
    }
    *ret_weight = w;
    return SHOAL_OK;
}

void shoal_tiles_row(const shoal_weight *weight, size_t r, float *ret_row)
{
    const size_t n_rows = weight->tile_rows;
    const uint8_t *block = weight->owned + r / n_rows * weight->panel_bytes;
    r = r % n_rows;
    for (size_t i = 0; i < weight->k; i++) {
        const uint8_t *at = block + i / N * shoal_tile_block_bytes(n_rows);
        const uint8_t *line = at + 2 * n_rows + i % N * (n_rows / 2) + r / STEP * LINE;
        int code = line[shoal_tile_byte(r % STEP)] >> shoal_tile_shift(r % STEP) & 15;
        float d = shoal_f16_to_f32(shoal_format_u16(at + 2 * r));
        ret_row[i] = d * (float)(code - 8);
    }
}
