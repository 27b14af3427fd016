/* SPDX-License-Identifier: Apache-2.0
 *
 * How the AVX-512 products of quantised panels go through panels and columns, and the kinds that
 * GGUF has; the tiles are in avx512_quant.h, kinds of our own in avx512_quant_codes.c.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_quant.h"

/* Turns that n columns take: few, all of about the same width. */
static size_t turns_of(const tiles *t, size_t n)
{
    if (t->kind->scales == HALVES) {
        return (n + HALVES_COLS - 1) / HALVES_COLS;
    }
    return n == FUSED_COLS ? 1 : (n + TURN_COLS - 1) / TURN_COLS;
}

/* Columns of the turn that comes next, of those that are left. */
static size_t turn_width(size_t n_left, const stretch *s)
{
    const size_t turns_left = s->n_turns - s->turn;
    return (n_left + turns_left - 1) / turns_left;
}

static void fused_panels(const shoal_gemm *g, const tiles *t, size_t p, size_t n_p, size_t c0,
                         size_t c1)
{
    const size_t n_subs = t->kind->n_subs ? t->kind->n_subs : t->n_subs;
    const size_t n_blocks = g->k / (n_subs * SHOAL_QBLOCK);
    const size_t chunk = CHUNK_BYTES / (t->kind->head + n_subs * t->kind->sub);
    stretch s = {.p = p, .n_turns = turns_of(t, c1 - c0)};
    const size_t step = s.n_turns == 1 ? n_blocks : chunk;
    for (s.b = 0; s.b < n_blocks; s.b += step) {
        s.n = SHOAL_MIN(step, n_blocks - s.b);
        s.c = c0;
        for (s.turn = 0; s.turn < s.n_turns; s.turn++) {
            size_t n_c = turn_width(c1 - s.c, &s);
            t->fused[n_p][n_c](g, n_subs, &s);
            s.c += n_c;
        }
    }
}

static void expanded_panel(const shoal_gemm *g, const tiles *t, size_t p, size_t c0, size_t c1)
{
    const kind *k = t->kind;
    const size_t block_bytes = k->head + k->n_subs * k->sub;
    const size_t n_blocks = g->k / SHOAL_QBLOCK;
    const uint8_t *panel = (const uint8_t *)g->panels + p * (n_blocks / k->n_subs) * block_bytes;
    expanded scratch[EXPAND_CHUNK];
    stretch s = {.p = p, .n_turns = (c1 - c0 + COLS_MAX - 1) / COLS_MAX};
    for (s.b = 0; s.b < n_blocks; s.b += EXPAND_CHUNK) {
        s.n = SHOAL_MIN((size_t)EXPAND_CHUNK, n_blocks - s.b);
        for (size_t i = 0; i < s.n; i++) {
            const uint8_t *block = panel + (s.b + i) / k->n_subs * block_bytes;
            const uint8_t *sub = block + k->head + (s.b + i) % k->n_subs * k->sub;
            prefetch(sub, k->sub, AHEAD);
            t->expand(block, sub, &scratch[i]);
        }
        s.c = c0;
        for (s.turn = 0; s.turn < s.n_turns; s.turn++) {
            size_t n_c = turn_width(c1 - s.c, &s);
            t->expanded[n_c](g, scratch, &s);
            s.c += n_c;
        }
    }
}

/* Panels of a tile. Six columns of two leave no registers for minima, and kinds with sub-blocks
 * have too much beside the codes: several of their panels at once only pay where columns take
 * turns. */
static size_t panels_of(const tiles *t, size_t width, size_t n_left)
{
    const bool in_turns = turns_of(t, width) > 1;
    if (t->kind->n_subs > 1 && !in_turns) {
        return 1;
    }
    if (width == 1) {
        return n_left < PANELS_MAX ? 1 : PANELS_MAX;
    }
    const bool spills = width == FUSED_COLS && t->kind->mins != NONE;
    return n_left < 2 || spills ? 1 : 2;
}

/* Columns whose activations stay in the second cache while the panels pass by. */
static size_t cached_columns(size_t k)
{
    const size_t column_bytes = k + k / SHOAL_QBLOCK * sizeof(shoal_act_block);
    return SHOAL_MAX(CACHED_BYTES / column_bytes, (size_t)16);
}

void shoal_kernels_avx512_product(const shoal_gemm *g, size_t p0, size_t p1, const tiles *t)
{
    const size_t n_cached = cached_columns(g->k);
    for (size_t c = 0; c < g->n_cols; c += n_cached) {
        const size_t c1 = SHOAL_MIN(g->n_cols, c + n_cached);
        const size_t width = c1 - c;
        for (size_t p = p0, n_p = 0; p < p1; p += n_p) {
            if (t->expand && width >= EXPAND_COLS) {
                n_p = 1;
                expanded_panel(g, t, p, c, c1);
            } else {
                n_p = panels_of(t, width, p1 - p);
                fused_panels(g, t, p, n_p, c, c1);
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
SHOAL_CHEAP_MINS(q4_1)
SHOAL_DEAR(q5_0)
SHOAL_DEAR_MINS(q5_1)
SHOAL_DEAR(iq4_nl)
SHOAL_HALVES(q2_k)
SHOAL_HALVES(q3_k)
SHOAL_CHEAP_SUBS(q4_k)
SHOAL_DEAR_SUBS(q5_k)
SHOAL_HALVES(q6_k)

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
