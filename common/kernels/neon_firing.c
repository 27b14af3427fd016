/* SPDX-License-Identifier: Apache-2.0
 *
 * Products that read only what fires, with NEON: codes times one input's code into 16 bits, which
 * wrap; what is left when the offset is off them, at most 8 * 127 * 32, fits, and so is exact.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/neon_math.h"

enum {
    STEP = SHOAL_TILE_STEP,
    LINE = SHOAL_TILE_LINE,
    N = SHOAL_QBLOCK,
    PARTS = LINE / 16
};

/* Of 16 bits: of each 16 bytes of a line, the low and the high nibble of bytes 0 to 7, 8 to 15. */
typedef struct sums {
    int16x8_t of[PARTS][2][2];
} sums;

SHOAL_INLINE void add_line(const uint8_t *line, int8_t code, sums *s)
{
    const int8x8_t x = vdup_n_s8(code);
    for (size_t i = 0; i < PARTS; i++) {
        uint8x16_t bytes = vld1q_u8(line + 16 * i);
        int8x16_t low = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
        int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
        s->of[i][0][0] = vmlal_s8(s->of[i][0][0], vget_low_s8(low), x);
        s->of[i][0][1] = vmlal_s8(s->of[i][0][1], vget_high_s8(low), x);
        s->of[i][1][0] = vmlal_s8(s->of[i][1][0], vget_low_s8(high), x);
        s->of[i][1][1] = vmlal_s8(s->of[i][1][1], vget_high_s8(high), x);
    }
}

SHOAL_INLINE void dots(const uint8_t *codes, size_t run, const int8_t *xq, int sum, sums *s)
{
    for (size_t i = 0; i < PARTS; i++) {
        for (size_t j = 0; j < 4; j++) {
            s->of[i][j / 2][j % 2] = vdupq_n_s16((int16_t)(-8 * sum));
        }
    }
    for (size_t i = 0; i < N; i++) {
        if (xq[i] != 0) {
            add_line(codes + i * run, xq[i], s);
        }
    }
}

/* acc = fma(d * S, I, acc) for four rows from r on. */
SHOAL_INLINE void scale_in(const uint8_t *d, float scale, int16x4_t sum, size_t r, float *acc)
{
    float32x4_t factor = vmulq_n_f32(neon_load_f16(d + 2 * r), scale);
    float32x4_t was = vld1q_f32(acc + r);
    vst1q_f32(acc + r, vfmaq_f32(was, factor, vcvtq_f32_s32(vmovl_s16(sum))));
}

SHOAL_INLINE void add_block(const uint8_t *d, float scale, const sums *s, float *acc)
{
    for (size_t i = 0; i < PARTS; i++) {
        for (size_t nibble = 0; nibble < 2; nibble++) {
            for (size_t part = 0; part < 2; part++) {
                int16x8_t x = s->of[i][nibble][part];
                size_t r = 64 * nibble + 32 * part + 4 * i;
                scale_in(d, scale, vget_low_s16(x), r, acc);
                scale_in(d, scale, vget_high_s16(x), r + 16, acc);
            }
        }
    }
}

static void tile(const shoal_firing *f, size_t t, size_t c)
{
    const size_t n_rows = f->tile_rows;
    const size_t n_blocks = f->k / N;
    const uint8_t *block = f->tiles + t * shoal_tile_bytes(n_rows, f->k);
    const int8_t *xq = f->xq + c * f->k;
    const shoal_act_block *xb = f->xb + c * n_blocks;
    float acc[SHOAL_TILE_ROWS_MAX];
    memset(acc, 0, n_rows * sizeof *acc);
    for (size_t b = 0; b < n_blocks; b++, block += shoal_tile_block_bytes(n_rows)) {
        const int sum = xb[b].pairs[6] + xb[b].pairs[7];
        for (size_t row = 0; row < n_rows; row += STEP) {
            sums s;
            dots(block + 2 * n_rows + row / 2, n_rows / 2, xq + b * N, sum, &s);
            add_block(block + 2 * row, xb[b].scale, &s, acc + row);
        }
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

void shoal_kernels_neon_firing(shoal_kernels *kernels)
{
    kernels->gemm_firing = gemm_firing;
}
