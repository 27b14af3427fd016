/* SPDX-License-Identifier: Apache-2.0
 *
 * Products that read only the inputs that fire: those whose 8-bit code is not 0. A q4_0 matrix is
 * stored input by input for them, so that what a silent input would meet is never touched (TEAL,
 * 2408.14690; LLM in a flash, 2312.11514, section 3.2).
 *
 * Tiles of R rows, R a multiple of 128, the last one padded with zeros. A tile is a run of blocks
 * of 32 inputs
 *   { uint16_t d[R]; uint8_t code[32][R / 128][64] }
 * so an input has R / 2 bytes side by side: the longer such a run, the less of what is skipped does
 * the processor fetch by itself. 64 bytes are 128 rows: byte 16L + 4q + j of them, with L, q and j
 * below 4, holds row 16q + 4L + j in its low nibble and row 64 more in the high one. So bytes of
 * four inputs, interleaved within 16, are rows in order.
 *
 * The law is that of q4_0 (panel.h): what is skipped adds the integer 0. The bits are those of the
 * same matrix in panels with the same codes, for any R, and each column skips by its own codes
 * alone.
 */
#ifndef SHOAL_KERNELS_FIRING_H
#define SHOAL_KERNELS_FIRING_H

#include "common/kernels/panel.h"

enum {
    SHOAL_TILE_STEP = 128, /* rows that lie in one line of the cache */
    SHOAL_TILE_LINE = 64,
    SHOAL_TILE_ROWS_MAX = 1024
};

/* Bytes of a block of a tile, and of a tile whose rows have length k, a multiple of 32. */
static inline size_t shoal_tile_block_bytes(size_t tile_rows)
{
    return tile_rows * (2 + SHOAL_QBLOCK / 2);
}

static inline size_t shoal_tile_bytes(size_t tile_rows, size_t k)
{
    return k / SHOAL_QBLOCK * shoal_tile_block_bytes(tile_rows);
}

/* Where row r of 128 has its codes: the byte of a line, and by how much the nibble is shifted. */
static inline size_t shoal_tile_byte(size_t r)
{
    return r % 16 / 4 * 16 + r % 64 / 16 * 4 + r % 4;
}

static inline unsigned shoal_tile_shift(size_t r)
{
    return r < 64 ? 0 : 4;
}

/* y[c * y_stride + row] for the rows of tiles [t0, t1) and columns c in [0, n_cols). */
typedef struct shoal_firing {
    const uint8_t *tiles; /* aligned to 64 bytes */
    size_t tile_rows;     /* R, at most SHOAL_TILE_ROWS_MAX */
    size_t n_rows;        /* true rows: outputs past it are not written */
    size_t k;             /* a multiple of 32 */
    size_t n_cols;
    const int8_t *xq;          /* [n_cols][k] codes in [-127, 127] */
    const shoal_act_block *xb; /* [n_cols][k / 32] */
    float *y;                  /* [n_cols][y_stride] */
    size_t y_stride;           /* at least n_rows */
} shoal_firing;

typedef void shoal_firing_fn(const shoal_firing *f, size_t t0, size_t t1);

/* Rows of tile t that there are, padding apart. */
static inline size_t shoal_firing_rows(const shoal_firing *f, size_t t)
{
    size_t left = f->n_rows - t * f->tile_rows;
    return left < f->tile_rows ? left : f->tile_rows;
}

#endif
