/* SPDX-License-Identifier: Apache-2.0
 *
 * Products that read only what fires, with AVX-512 VNNI. The codes of four firing inputs are
 * interleaved as they lie, nibbles unparted: vpdpbusd of whole bytes gives low + 16 high, of the
 * low nibbles low, and both are exact. 24 operations take four inputs of 128 rows.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"

#include <string.h>

enum {
    STEP = SHOAL_TILE_STEP,
    LINE = SHOAL_TILE_LINE,
    N = SHOAL_QBLOCK,
    QUAD = 4,
    LIST = N + 16, /* a store of sixteen may pass the end */
    SUMS = 4       /* registers of 16 rows, of either nibble */
};

/* The inputs of a block that fire, ascending; the last quad is filled up with code 0. */
typedef struct fired {
    size_t n;
    uint8_t at[LIST];
    int8_t code[LIST];
} fired;

SHOAL_INLINE void list_fired(const int8_t *xq, fired *f)
{
    const __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    size_t n = 0;
    for (int half = 0; half < 2; half++) {
        const int8_t *from = xq + (size_t)half * 16;
        __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
        __mmask16 mask = _mm512_test_epi32_mask(codes, codes);
        __m512i at = _mm512_add_epi32(places, _mm512_set1_epi32(16 * half));
        at = _mm512_maskz_compress_epi32(mask, at);
        codes = _mm512_maskz_compress_epi32(mask, codes);
        _mm_storeu_si128((__m128i *)(void *)(f->at + n), _mm512_cvtepi32_epi8(at));
        _mm_storeu_si128((__m128i *)(void *)(f->code + n), _mm512_cvtepi32_epi8(codes));
        n += (size_t)__builtin_popcount(mask);
    }
    /* Of what fills up the last quad, the same line again is no line more. */
    memset(f->at + n, n > 0 ? f->at[n - 1] : 0, QUAD);
    memset(f->code + n, 0, QUAD);
    f->n = n;
}

/* A part of the next block's scales and runs, in proportion to the rows that were done: fetched all
 * at once they would hold up what is computed meanwhile. */
SHOAL_INLINE void prefetch_fired(const uint8_t *block, size_t n_rows, size_t row, const fired *f)
{
    const size_t run = n_rows / 2;
    const size_t last = f->n * (row + STEP) / n_rows;
    for (size_t j = 2 * row; j < 2 * (row + STEP); j += LINE) {
        _mm_prefetch((const char *)block + j, _MM_HINT_T0);
    }
    for (size_t i = f->n * row / n_rows; i < last; i++) {
        const char *from = (const char *)block + 2 * n_rows + f->at[i] * run;
        for (size_t j = 0; j < run; j += LINE) {
            _mm_prefetch(from + j, _MM_HINT_T0);
        }
    }
}

typedef struct sums {
    __m512i low[SUMS];  /* rows 0 to 63 */
    __m512i both[SUMS]; /* and 16 times those 64 further */
} sums;

SHOAL_INLINE void add_quad(const uint8_t *codes, size_t run, const uint8_t *at, const int8_t *code,
                           sums *s)
{
    const __m512i mask = _mm512_set1_epi8(15);
    int32_t four = 0;
    memcpy(&four, code, sizeof four);
    __m512i x = _mm512_set1_epi32(four);
    __m512i a = _mm512_loadu_si512(codes + at[0] * run);
    __m512i b = _mm512_loadu_si512(codes + at[1] * run);
    __m512i c = _mm512_loadu_si512(codes + at[2] * run);
    __m512i d = _mm512_loadu_si512(codes + at[3] * run);
    __m512i ab = _mm512_unpacklo_epi8(a, b);
    __m512i cd = _mm512_unpacklo_epi8(c, d);
    __m512i ab2 = _mm512_unpackhi_epi8(a, b);
    __m512i cd2 = _mm512_unpackhi_epi8(c, d);
    const __m512i rows[SUMS] = {_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd),
                                _mm512_unpacklo_epi16(ab2, cd2), _mm512_unpackhi_epi16(ab2, cd2)};
    for (size_t i = 0; i < SUMS; i++) {
        s->both[i] = _mm512_dpbusd_epi32(s->both[i], rows[i], x);
        s->low[i] = _mm512_dpbusd_epi32(s->low[i], _mm512_and_si512(rows[i], mask), x);
    }
}

/* Sums begin at what the offset 8 takes off, and so end at the signed dots. */
SHOAL_INLINE void dots(const uint8_t *codes, size_t run, const fired *f, int32_t sum, sums *s)
{
    for (size_t i = 0; i < SUMS; i++) {
        s->low[i] = _mm512_set1_epi32(-8 * sum);
        s->both[i] = _mm512_set1_epi32(-136 * sum);
    }
    for (size_t i = 0; i < f->n; i += QUAD) {
        add_quad(codes, run, f->at + i, f->code + i, s);
    }
}

/* acc = fma(d * S, I, acc) for sixteen rows. */
SHOAL_INLINE void scale_in(const uint8_t *d, __m512 scale, __m512i sum, float *acc)
{
    __m512 factor = _mm512_mul_ps(avx512_load_f16(d), scale);
    __m512 was = _mm512_loadu_ps(acc);
    _mm512_storeu_ps(acc, _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(sum), was));
}

SHOAL_INLINE void add_block(const uint8_t *d, float block_scale, const sums *s, float *acc)
{
    const __m512 scale = _mm512_set1_ps(block_scale);
    for (size_t i = 0; i < SUMS; i++) {
        __m512i high = _mm512_srai_epi32(_mm512_sub_epi32(s->both[i], s->low[i]), 4);
        scale_in(d + 32 * i, scale, s->low[i], acc + 16 * i);
        scale_in(d + STEP + 32 * i, scale, high, acc + STEP / 2 + 16 * i);
    }
}

static void tile(const shoal_firing *f, size_t t, size_t c)
{
    const size_t n_rows = f->tile_rows;
    const size_t n_blocks = f->k / N;
    const size_t block_bytes = shoal_tile_block_bytes(n_rows);
    const uint8_t *block = f->tiles + t * shoal_tile_bytes(n_rows, f->k);
    const int8_t *xq = f->xq + c * f->k;
    const shoal_act_block *xb = f->xb + c * n_blocks;
    float acc[SHOAL_TILE_ROWS_MAX];
    memset(acc, 0, n_rows * sizeof *acc);
    fired lists[2];
    list_fired(xq, &lists[0]);
    for (size_t b = 0; b < n_blocks; b++, block += block_bytes) {
        const fired *now = &lists[b % 2];
        fired *next = &lists[(b + 1) % 2];
        next->n = 0;
        if (b + 1 < n_blocks) {
            list_fired(xq + (b + 1) * N, next);
        }
        const int sum = xb[b].pairs[6] + xb[b].pairs[7];
        for (size_t row = 0; row < n_rows; row += STEP) {
            sums s;
            prefetch_fired(block + block_bytes, n_rows, row, next);
            dots(block + 2 * n_rows + row / 2, n_rows / 2, now, sum, &s);
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

void shoal_kernels_avx512_firing(shoal_kernels *kernels)
{
    kernels->gemm_firing = gemm_firing;
}
