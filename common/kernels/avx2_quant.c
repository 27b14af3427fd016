/* SPDX-License-Identifier: Apache-2.0
 *
 * How the AVX2 products of quantised panels go through panels and columns; the tiles are in
 * avx2_quant.h, the kinds in avx2_quant_32.c, avx2_quant_k.c and avx2_quant_codes.c.
 */
#include "common/kernels/avx2_quant.h"

enum {
    EXPAND_COLS = 8, /* columns from which dear codes are unpacked once for all */
    COLS_CACHED = 48 /* columns whose activations stay in the second cache */
};

/* The next tile of `left` columns: as wide as can be, but no lone column at the end. */
static size_t tile_width(size_t widest, size_t left)
{
    if (left <= widest) {
        return left;
    }
    return left == widest + 1 || left == 2 * widest - 2 ? widest - 1 : widest;
}

static void fused_columns(const product *t, const shoal_gemm *g, size_t p, size_t c, size_t c1)
{
    while (c < c1) {
        size_t n_c = tile_width(t->widest, c1 - c);
        t->fused[n_c - 1](g, t->n_subs, p, c);
        c += n_c;
    }
}

static void expanded_panel(const product *t, const shoal_gemm *g, size_t p, size_t c0, size_t c1)
{
    const kind *k = t->kind;
    const size_t block_bytes = k->head + k->n_subs * k->sub;
    const size_t n_blocks = g->k / SHOAL_QBLOCK;
    const uint8_t *panel = (const uint8_t *)g->panels + p * (n_blocks / k->n_subs) * block_bytes;
    expanded scratch[CHUNK];
    for (size_t b = 0; b < n_blocks; b += CHUNK) {
        size_t n = n_blocks - b < CHUNK ? n_blocks - b : CHUNK;
        for (size_t i = 0; i < n; i++) {
            const uint8_t *block = panel + (b + i) / k->n_subs * block_bytes;
            t->expand(block, block + k->head + (b + i) % k->n_subs * k->sub, &scratch[i]);
        }
        for (size_t c = c0; c < c1;) {
            size_t n_c = tile_width(t->widest, c1 - c);
            t->expanded[n_c - 1](g, scratch, n, p, b, c);
            c += n_c;
        }
    }
}

void shoal_kernels_avx2_product(const product *t, const shoal_gemm *g, size_t p0, size_t p1)
{
    for (size_t c = 0; c < g->n_cols; c += COLS_CACHED) {
        size_t c1 = g->n_cols - c < COLS_CACHED ? g->n_cols : c + COLS_CACHED;
        size_t p = p0;
        for (; c1 - c == 1 && p + PANELS_MAX <= p1; p += PANELS_MAX) {
            t->streams(g, t->n_subs, p, c);
        }
        for (; c1 - c == 2 && p + 2 <= p1; p += 2) {
            t->two(g, t->n_subs, p, c);
        }
        for (; p < p1; p++) {
            if (t->expand && c1 - c >= EXPAND_COLS) {
                expanded_panel(t, g, p, c, c1);
            } else {
                fused_columns(t, g, p, c, c1);
            }
        }
    }
}
