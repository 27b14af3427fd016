/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights of Q4_0 stored input by input, for products that read only what fires (kernels/firing.h).
 * A tile is wide, so that an input's bytes are one long run, as long as there are tiles for all
 * processors and two blocks stay in the first cache; its width changes no bit. Tiles are always
 * built, from a packed file too.
 */
#include "common/weight/matrix_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    N = SHOAL_QBLOCK,
    STEP = SHOAL_TILE_STEP,
    LINE = SHOAL_TILE_LINE,
    WIDEST = 512, /* rows of a tile: 9 KiB a block */
    BLOCK = 18    /* bytes of 32 elements of Q4_0 */
};

typedef struct tiling {
    const shoal_matrix *m;
    size_t row; /* the first */
    const shoal_weight *w;
} tiling;

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

static shoal_status build_tile(void *ctx, size_t t, size_t *ret_bad_row)
{
    const tiling *b = ctx;
    const size_t n_tile = b->w->tile_rows;
    const size_t first = t * n_tile;
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *space = shoal_calloc(b->m->row_bytes, 1);
    if (!space) {
        return SHOAL_E_NOMEM;
    }
    const size_t n = SHOAL_MIN(n_tile, b->w->n_rows - first);
    for (size_t r = 0; r < n; r++) {
        const uint8_t *blocks = shoal_matrix_blocks(b->m, b->row + first + r, space);
        if (!b->m->format->finite(blocks, b->m->k)) {
            *ret_bad_row = b->row + first + r;
            return SHOAL_E_INVALID;
        }
        put_row(blocks, b->m->k, n_tile, r, b->w->owned + t * b->w->panel_bytes);
    }
    shoal_matrix_forget(b->m, b->row + first, n);
    return SHOAL_OK;
}

shoal_status shoal_tiles_weight(const shoal_matrix *m, size_t row, size_t n_rows, shoal_pool *pool,
                                shoal_weight **ret_weight, shoal_err *err)
{
    const size_t n_tile = tile_rows_for(n_rows);
    const size_t n_tiles = (n_rows + n_tile - 1) / n_tile;
    SHOAL_CLEANUP(shoal_weight_freep) shoal_weight *w = NULL;
    SHOAL_TRY(shoal_matrix_room(m, n_rows, n_tiles, shoal_tile_bytes(n_tile, m->k), &w, err));
    w->tile_rows = n_tile;
    tiling b = {.m = m, .row = row, .w = w};
    SHOAL_TRY(shoal_matrix_run(m, build_tile, &b, n_tiles, pool, err));
    *ret_weight = SHOAL_STEAL(w);
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
