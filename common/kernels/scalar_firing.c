/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of products that read only what fires, in plain C (firing.h).
 */
#include "common/kernels/kernels.h"

#include "common/kernels/tiers_internal.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    STEP = SHOAL_TILE_STEP,
    LINE = SHOAL_TILE_LINE,
    N = SHOAL_QBLOCK
};

/* The integers of 128 rows and a block, offsets taken off; `run` bytes are an input's. */
static void dots(const uint8_t *codes, size_t run, const int8_t *xq, int32_t sum[STEP])
{
    memset(sum, 0, STEP * sizeof *sum);
    for (size_t i = 0; i < N; i++) {
        const uint8_t *line = codes + i * run;
        for (size_t r = 0; xq[i] != 0 && r < STEP; r++) {
            int code = line[shoal_tile_byte(r)] >> shoal_tile_shift(r) & 15;
            sum[r] += (code - 8) * xq[i];
        }
    }
}

static void tile(const shoal_firing *f, size_t t, size_t c)
{
    const size_t n_rows = f->tile_rows;
    const uint8_t *block = f->tiles + t * shoal_tile_bytes(n_rows, f->k);
    const int8_t *xq = f->xq + c * f->k;
    const shoal_act_block *xb = f->xb + c * (f->k / N);
    float acc[SHOAL_TILE_ROWS_MAX] = {0};
    for (size_t b = 0; b < f->k / N; b++) {
        for (size_t row = 0; row < n_rows; row += STEP) {
            int32_t sum[STEP];
            dots(block + 2 * n_rows + row / 2, n_rows / 2, xq + b * N, sum);
            for (size_t r = 0; r < STEP; r++) {
                uint16_t half = 0;
                memcpy(&half, block + 2 * (row + r), sizeof half);
                float d = shoal_f16_to_f32(half) * xb[b].scale;
                acc[row + r] = fmaf(d, (float)sum[r], acc[row + r]);
            }
        }
        block += shoal_tile_block_bytes(n_rows);
    }
    memcpy(f->y + c * f->y_stride + t * n_rows, acc, shoal_firing_rows(f, t) * sizeof *acc);
}

static void gemm_firing(const shoal_firing *f, size_t t0, size_t t1)
{
    for (size_t t = t0; t < t1; t++) {
        for (size_t c = 0; c < f->n_cols; c++) {
            tile(f, t, c);
        }
    }
}

void shoal_kernels_scalar_firing(shoal_kernels *kernels)
{
    kernels->gemm_firing = gemm_firing;
}
