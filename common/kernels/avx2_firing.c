/* SPDX-License-Identifier: Apache-2.0
 *
 * Products that read only what fires, with AVX2. The codes of two firing inputs are interleaved and
 * multiplied by pairs into 16 bits, which wrap; what is left when the offset is off them, at most 8
 * * 127 * 32, fits, and so is exact.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_panel.h"

enum {
    STEP = SHOAL_TILE_STEP,
    LINE = SHOAL_TILE_LINE,
    N = SHOAL_QBLOCK,
    PAIR = 2
};

/* The inputs of a block that fire, ascending; a pair's missing one has code 0. */
typedef struct fired {
    size_t n;
    uint8_t at[N + PAIR];
    int8_t code[N + PAIR];
} fired;

SHOAL_INLINE void list_fired(const int8_t *xq, fired *f)
{
    __m256i codes = _mm256_loadu_si256((const __m256i *)(const void *)xq);
    __m256i silent = _mm256_cmpeq_epi8(codes, _mm256_setzero_si256());
    uint32_t mask = ~(uint32_t)_mm256_movemask_epi8(silent);
    size_t n = 0;
    for (; mask != 0; mask &= mask - 1) {
        uint8_t at = (uint8_t)__builtin_ctz(mask);
        f->at[n] = at;
        f->code[n] = xq[at];
        n++;
    }
    f->at[n] = n > 0 ? f->at[n - 1] : 0;
    f->code[n] = 0;
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

/* Of 16 bits: of either half of a line, its bytes 0 to 7 and 8 to 15 of every sixteen, either
 * nibble. */
typedef struct sums {
    __m256i of[2][2][2];
} sums;

SHOAL_INLINE void add_bytes(__m256i bytes, __m256i x, __m256i both[2])
{
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(bytes, mask);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    both[0] = _mm256_add_epi16(both[0], _mm256_maddubs_epi16(low, x));
    both[1] = _mm256_add_epi16(both[1], _mm256_maddubs_epi16(high, x));
}

SHOAL_INLINE void dots(const uint8_t *codes, size_t run, const fired *f, int sum, sums *s)
{
    const __m256i begin = _mm256_set1_epi16((int16_t)(-8 * sum));
    for (size_t h = 0; h < 2; h++) {
        for (size_t part = 0; part < 2; part++) {
            s->of[h][part][0] = begin;
            s->of[h][part][1] = begin;
        }
    }
    for (size_t i = 0; i < f->n; i += PAIR) {
        uint16_t two = 0;
        memcpy(&two, f->code + i, sizeof two);
        const __m256i x = _mm256_set1_epi16((int16_t)two);
        for (size_t h = 0; h < 2; h++) {
            const uint8_t *from = codes + 32 * h;
            __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(from + run * f->at[i]));
            __m256i b =
                _mm256_loadu_si256((const __m256i *)(const void *)(from + run * f->at[i + 1]));
            add_bytes(_mm256_unpacklo_epi8(a, b), x, s->of[h][0]);
            add_bytes(_mm256_unpackhi_epi8(a, b), x, s->of[h][1]);
        }
    }
}

/* acc = fma(d * S, I, acc) for eight rows from r on. */
SHOAL_INLINE void scale_in(const uint8_t *d, __m256 scale, __m256i sum, size_t r, float *acc)
{
    __m256 factor = _mm256_mul_ps(avx2_load_f16(d + 2 * r), scale);
    __m256 was = _mm256_loadu_ps(acc + r);
    _mm256_storeu_ps(acc + r, _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(sum), was));
}

/* Four sums of each 16 bytes are rows 16q + 8h to 8 further. */
SHOAL_INLINE void add_block(const uint8_t *d, float block_scale, const sums *s, float *acc)
{
    const __m256 scale = _mm256_set1_ps(block_scale);
    for (size_t h = 0; h < 2; h++) {
        for (size_t part = 0; part < 2; part++) {
            for (size_t nibble = 0; nibble < 2; nibble++) {
                __m256i x = s->of[h][part][nibble];
                size_t r = 64 * nibble + 32 * part + 8 * h;
                __m256i even = _mm256_srai_epi32(_mm256_unpacklo_epi16(x, x), 16);
                __m256i odd = _mm256_srai_epi32(_mm256_unpackhi_epi16(x, x), 16);
                scale_in(d, scale, even, r, acc);
                scale_in(d, scale, odd, r + 16, acc);
            }
        }
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

void shoal_kernels_avx2_firing(shoal_kernels *kernels)
{
    kernels->gemm_firing = gemm_firing;
}
