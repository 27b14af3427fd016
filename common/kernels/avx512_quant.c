/* SPDX-License-Identifier: Apache-2.0
 *
 * How the AVX-512 products of quantised panels go through panels and columns, and the kinds that
 * GGUF has; the tiles are in avx512_quant.h, kinds of our own in avx512_quant_codes.c.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_quant.h"

/* Columns of the next tile where `left` are: few tiles, none much narrower than the rest. */
static size_t tile_width(size_t left)
{
    static const uint8_t widths[] = {0, 1, 2, 3, 4, 3, 4, 4};
    return left < sizeof widths ? widths[left] : COLS_MAX;
}

/* The same where the weights may come from memory: a second tile of a few columns reads and unpacks
 * them again, so each width has a tile of its own as far as the kind does. */
static size_t fused_width(const tiles *t, size_t left)
{
    if (left <= COLS_MAX && t->fused[left]) {
        return left;
    }
    size_t n = tile_width(left);
    return t->fused[n] ? n : n / 2; /* dear kinds have no tile of eight */
}

static void fused_panel(const shoal_gemm *g, const tiles *t, size_t p, size_t c, size_t c1)
{
    for (size_t n_c = 0; c < c1; c += n_c) {
        n_c = fused_width(t, c1 - c);
        t->fused[n_c](g, t->n_subs, p, c);
    }
}

static void expanded_panel(const shoal_gemm *g, const tiles *t, size_t p, size_t c0, size_t c1)
{
    const kind *k = t->kind;
    const size_t n_subs = k->n_subs;
    const size_t block_bytes = k->head + n_subs * k->sub;
    const size_t n_blocks = g->k / SHOAL_QBLOCK;
    const uint8_t *panel = (const uint8_t *)g->panels + p * (n_blocks / n_subs) * block_bytes;
    expanded scratch[CHUNK];
    for (size_t b = 0; b < n_blocks; b += CHUNK) {
        size_t n = n_blocks - b < CHUNK ? n_blocks - b : CHUNK;
        for (size_t i = 0; i < n; i++) {
            const uint8_t *block = panel + (b + i) / n_subs * block_bytes;
            const uint8_t *sub = block + k->head + (b + i) % n_subs * k->sub;
            prefetch(sub, k->sub, AHEAD);
            t->expand(block, sub, &scratch[i]);
        }
        size_t n_c = 0;
        for (size_t c = c0; c < c1; c += n_c) {
            n_c = tile_width(c1 - c);
            t->expanded[n_c](g, scratch, n, p, b, c);
        }
    }
}

/* Columns whose activations stay in the second cache while the panels pass by: a multiple of the
 * tile. */
static size_t cached_columns(size_t k)
{
    const size_t column_bytes = k + k / SHOAL_QBLOCK * sizeof(shoal_act_block);
    size_t n = CACHED_BYTES / column_bytes / COLS_MAX * COLS_MAX;
    return n < 2 * COLS_MAX ? 2 * COLS_MAX : n;
}

void shoal_kernels_avx512_product(const shoal_gemm *g, size_t p0, size_t p1, const tiles *t)
{
    const size_t n_cached = cached_columns(g->k);
    for (size_t c = 0; c < g->n_cols; c += n_cached) {
        size_t c1 = g->n_cols - c < n_cached ? g->n_cols : c + n_cached;
        size_t p = p0;
        for (; c1 - c == 1 && p + 4 <= p1; p += 4) {
            t->four_panels(g, t->n_subs, p, c);
        }
        for (; c1 - c == 2 && p + 2 <= p1; p += 2) {
            t->two_panels(g, t->n_subs, p, c);
        }
        for (; p < p1; p++) {
            if (t->expand && c1 - c >= EXPAND_COLS) {
                expanded_panel(g, t, p, c, c1);
            } else {
                fused_panel(g, t, p, c, c1);
            }
        }
    }
}

/* --- the kinds ------------------------------------------------------------------------------ */

/* offset, scales, mins, head, sub, codes, n_subs, unpack, load, pairs */
static const kind q8_0 = {128, NONE, NONE, 0, 544, 32, 1, unpack_8bit, load_d, false};
static const kind q4_0 = {8, NONE, NONE, 0, 288, 32, 1, unpack_nib, load_d, false};
static const kind q4_1 = {0, NONE, WHOLE, 0, 320, 64, 1, unpack_nib, load_dm, false};
static const kind q5_0 = {16, NONE, NONE, 0, 352, 32, 1, unpack_5bit, load_d, false};
static const kind q5_1 = {0, NONE, WHOLE, 0, 384, 64, 1, unpack_5bit, load_dm, false};
static const kind iq4_nl = {128, NONE, NONE, 0, 288, 32, 1, unpack_nl, load_d, false};
static const kind q2_k = {0, HALVES, HALVES, 64, 160, 32, 8, unpack_2bit, load_k2, false};
static const kind q3_k = {4, HALVES, NONE, 32, 224, 32, 8, unpack_3bit, load_signed, false};
static const kind q4_k = {0, WHOLE, WHOLE, 64, 288, 32, 8, unpack_nib, load_k, false};
static const kind q5_k = {0, WHOLE, WHOLE, 64, 352, 32, 8, unpack_5bit, load_k, false};
static const kind q6_k = {32, HALVES, NONE, 32, 416, 32, 8, unpack_6bit, load_signed, false};

SHOAL_CHEAP(q8_0)
SHOAL_CHEAP(q4_0)
SHOAL_CHEAP(q4_1)
SHOAL_DEAR(q5_0)
SHOAL_DEAR(q5_1)
SHOAL_DEAR(iq4_nl)
SHOAL_DEAR(q2_k)
SHOAL_DEAR(q3_k)
SHOAL_CHEAP(q4_k)
SHOAL_DEAR(q5_k)
SHOAL_DEAR(q6_k)

void shoal_kernels_avx512_quant(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_Q8_0] = gemm_q8_0;
    kernels->gemm[SHOAL_PANEL_Q4_0] = gemm_q4_0;
    kernels->gemm[SHOAL_PANEL_Q4_1] = gemm_q4_1;
    kernels->gemm[SHOAL_PANEL_Q5_0] = gemm_q5_0;
    kernels->gemm[SHOAL_PANEL_Q5_1] = gemm_q5_1;
    kernels->gemm[SHOAL_PANEL_IQ4_NL] = gemm_iq4_nl;
    kernels->gemm[SHOAL_PANEL_Q2_K] = gemm_q2_k;
    kernels->gemm[SHOAL_PANEL_Q3_K] = gemm_q3_k;
    kernels->gemm[SHOAL_PANEL_Q4_K] = gemm_q4_k;
    kernels->gemm[SHOAL_PANEL_Q5_K] = gemm_q5_k;
    kernels->gemm[SHOAL_PANEL_Q6_K] = gemm_q6_k;
}
