/* SPDX-License-Identifier: Apache-2.0
 *
 * Products that read only what fires: of every tier the bits of scalar, and those of scalar the
 * bits of the same matrix in panels, where every input is multiplied. Densities from none to all,
 * ragged rows, any part of the tiles, poisoned padding, inputs that are not finite.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/tiers.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    POISON = 0xA5,
    N = SHOAL_QBLOCK,
    TILES_MAX = 3,
    TILE_MAX = 512,
    ROWS_MAX = TILES_MAX * TILE_MAX,
    K_MAX = 320,
    COLS_MAX = 11,
    STRIDE = ROWS_MAX + 3,
    PANEL_BLOCK = 288
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261129;

static uint8_t *panels;
static uint8_t *tiles;
static size_t tile_rows; /* of the matrix under test */
static float x[COLS_MAX * K_MAX];
static int8_t xq[COLS_MAX * K_MAX];
static shoal_act_block xb[COLS_MAX * K_MAX / N];
static float want[COLS_MAX * STRIDE];
static float got[COLS_MAX * STRIDE];

static int group_setup(void **state)
{
    (void)state;
    n_tiers = test_tiers(&scalar, tiers);
    panels = shoal_calloc_aligned(ROWS_MAX / SHOAL_PANEL_ROWS,
                                  shoal_panel_bytes(SHOAL_PANEL_Q4_0, K_MAX));
    tiles = shoal_calloc_aligned(ROWS_MAX, K_MAX);
    return panels && tiles ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_free(panels);
    shoal_free(tiles);
    return 0;
}

/* Code and scale of one element in both layouts, as panel.h and firing.h state them. */
static void put(size_t row, size_t i, size_t k, unsigned code, uint16_t scale)
{
    uint8_t *panel =
        panels + row / 16 * shoal_panel_bytes(SHOAL_PANEL_Q4_0, k) + i / N * PANEL_BLOCK;
    uint8_t *nib = panel + 32 + i % 16 / 4 * 64 + row % 16 * 4 + i % 4;
    *nib = (uint8_t)(*nib | code << (i % N < 16 ? 0 : 4));
    memcpy(panel + 2 * (row % 16), &scale, 2);
    size_t r = row % tile_rows;
    uint8_t *block = tiles + (row / tile_rows * (k / N) + i / N) * tile_rows * 18;
    size_t quarter = r % 16 / 4;
    size_t run = r % 64 / 16;
    uint8_t *line = block + 2 * tile_rows + i % N * tile_rows / 2 + r / 128 * 64 + 16 * quarter +
                    4 * run + r % 4;
    *line = (uint8_t)(*line | code << (r % 128 < 64 ? 0 : 4));
    memcpy(block + 2 * r, &scale, 2);
}

static void fill_matrix(size_t n_rows, size_t k)
{
    size_t n_panels = (n_rows + 15) / 16;
    size_t n_tiles = (n_rows + tile_rows - 1) / tile_rows;
    unsigned same = (unsigned)(shoal_rng_next(&rng) % 6); /* all codes at an end, now and then */
    memset(panels, 0, n_panels * shoal_panel_bytes(SHOAL_PANEL_Q4_0, k));
    memset(tiles, 0, n_tiles * shoal_tile_bytes(tile_rows, k));
    for (size_t row = 0; row < n_rows; row++) {
        uint16_t scale = 0;
        for (size_t i = 0; i < k; i++) {
            unsigned code = same == 0 ? 0 : same == 1 ? 15 : (unsigned)(shoal_rng_next(&rng) % 16);
            scale = i % N == 0 ? shoal_f32_to_f16(test_awkward(&rng)) : scale;
            put(row, i, k, code, scale);
        }
    }
}

/* Of the inputs of a column about `density` in 256 fire, in some columns all at their ends. */
static void fill_column(size_t c, size_t k, size_t density)
{
    for (size_t i = 0; i < k; i++) {
        bool fires = shoal_rng_next(&rng) % 256 < density;
        float end = c % 4 == 1 ? 3.0F : -3.0F;
        x[c * k + i] = !fires ? 0.0F : c % 2 == 1 ? end : test_awkward(&rng);
    }
    if (shoal_rng_next(&rng) % 16 == 0) {
        x[c * k + shoal_rng_next(&rng) % k] = INFINITY;
    }
    scalar.quantize_q8(k, x + c * k, xq + c * k, xb + c * (k / N));
}

/* NaN may have any sign and payload. */
static void same_bits(const char *tier, size_t n_rows, size_t k, size_t n_cols)
{
    for (size_t i = 0; i < sizeof got / sizeof *got; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0 && !(isnan(got[i]) && isnan(want[i]))) {
            fail_msg("%s differs at %zu: %zu rows, k %zu, %zu columns: %g, not %g", tier, i, n_rows,
                     k, n_cols, (double)got[i], (double)want[i]);
        }
    }
}

/* The panels' bits first, then scalar and every tier over tiles, in two parts as the pool would. */
static void compare_products(size_t n_rows, size_t k, size_t n_cols)
{
    size_t n_tiles = (n_rows + tile_rows - 1) / tile_rows;
    const shoal_gemm g = {.panels = panels,
                          .n_rows = n_rows,
                          .k = k,
                          .n_cols = n_cols,
                          .xq = xq,
                          .xb = xb,
                          .y = want,
                          .y_stride = STRIDE};
    memset(want, POISON, sizeof want);
    scalar.gemm[SHOAL_PANEL_Q4_0](&g, 0, (n_rows + 15) / 16);
    const shoal_firing f = {.tiles = tiles,
                            .tile_rows = tile_rows,
                            .n_rows = n_rows,
                            .k = k,
                            .n_cols = n_cols,
                            .xq = xq,
                            .xb = xb,
                            .y = got,
                            .y_stride = STRIDE};
    for (size_t i = 0; i <= n_tiers; i++) {
        const shoal_kernels *tier = i < n_tiers ? &tiers[i] : &scalar;
        memset(got, POISON, sizeof got);
        tier->gemm_firing(&f, n_tiles / 2, n_tiles);
        tier->gemm_firing(&f, 0, n_tiles / 2);
        same_bits(tier->tier, n_rows, k, n_cols);
    }
}

static void compare(size_t n_rows, size_t k, size_t n_cols, size_t density)
{
    tile_rows = SHOAL_TILE_STEP * (1 + shoal_rng_next(&rng) % (TILE_MAX / SHOAL_TILE_STEP));
    fill_matrix(n_rows, k);
    for (size_t c = 0; c < n_cols; c++) {
        fill_column(c, k, density);
    }
    compare_products(n_rows, k, n_cols);
}

static void test_what_fires_gives_the_bits_of_all_inputs(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 15, 16, 63, 64, 65, 127, 128, 129, 200, 512, 700, ROWS_MAX};
    static const size_t densities[] = {0, 8, 64, 128, 200, 256};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t j = 0; j < sizeof densities / sizeof densities[0]; j++) {
            size_t k = N * (1 + shoal_rng_next(&rng) % (K_MAX / N));
            compare(rows[i], k, 1 + (i + j) % 3, densities[j]);
        }
    }
    for (size_t n_cols = 1; n_cols <= COLS_MAX; n_cols++) {
        compare(137, K_MAX, n_cols, 128);
    }
}

/* Every number of inputs that can fire in a block. */
static void test_every_count_of_firing_inputs_is_exact(void **state)
{
    (void)state;
    for (size_t n = 0; n <= N; n++) {
        tile_rows = SHOAL_TILE_STEP;
        fill_matrix(130, N);
        for (size_t i = 0; i < N; i++) {
            x[i] = i < n ? test_signed(&rng) + 2.0F : 0.0F;
        }
        for (size_t i = N - 1; i > 0; i--) {
            size_t other = shoal_rng_next(&rng) % (i + 1);
            float was = x[i];
            x[i] = x[other];
            x[other] = was;
        }
        scalar.quantize_q8(N, x, xq, xb);
        compare_products(130, N, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_fires_gives_the_bits_of_all_inputs),
        cmocka_unit_test(test_every_count_of_firing_inputs_is_exact),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
