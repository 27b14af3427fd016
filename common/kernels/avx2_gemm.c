/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with AVX2: a panel's 16 rows are two vectors of eight outputs. Several panels at width 1
 * and several columns otherwise keep enough independent sums in flight; no sum is ever split.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_math.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    COLS_MAX = 4,
    PANELS_MAX = 4,
    BLOCK_AHEAD = 1152,
    AHEAD = 4096 /* bytes: how far in front a lone stream of weights is fetched */
};

/* Writes 16 outputs of panel p, fewer in the last panel. */
SHOAL_INLINE void put(const shoal_gemm *g, size_t p, size_t c, __m256 low, __m256 high)
{
    float *y = g->y + c * g->y_stride + p * ROWS;
    if ((p + 1) * ROWS <= g->n_rows) {
        _mm256_storeu_ps(y, low);
        _mm256_storeu_ps(y + 8, high);
        return;
    }
    float rest[ROWS];
    _mm256_storeu_ps(rest, low);
    _mm256_storeu_ps(rest + 8, high);
    memcpy(y, rest, (g->n_rows - p * ROWS) * sizeof *y);
}

typedef __m256 load_fn(const void *p);

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 4. What the inner loop reads of
 * g is copied first: the compiler does not take it out of the loop by itself. */
SHOAL_INLINE void float_tile(const shoal_gemm *g, size_t p, size_t c, size_t element, load_fn *load,
                             size_t n_p, size_t n_c)
{
    const size_t n_k = g->k;
    const float *x[COLS_MAX];
    __m256 acc[PANELS_MAX][COLS_MAX][2];
    for (size_t j = 0; j < n_c; j++) {
        x[j] = g->x + (c + j) * g->x_stride;
        for (size_t i = 0; i < n_p; i++) {
            acc[i][j][0] = _mm256_setzero_ps();
            acc[i][j][1] = _mm256_setzero_ps();
        }
    }
    const uint8_t *panel = (const uint8_t *)g->panels + p * ROWS * n_k * element;
    for (size_t k = 0; k < n_k; k++) {
        __m256 xk[COLS_MAX];
        for (size_t j = 0; j < n_c; j++) {
            xk[j] = _mm256_broadcast_ss(x[j] + k);
        }
        for (size_t i = 0; i < n_p; i++) {
            const uint8_t *at = panel + (i * n_k + k) * ROWS * element;
            if (n_p == 1) {
                _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
            }
            __m256 low = load(at);
            __m256 high = load(at + 8 * element);
            for (size_t j = 0; j < n_c; j++) {
                acc[i][j][0] = _mm256_fmadd_ps(low, xk[j], acc[i][j][0]);
                acc[i][j][1] = _mm256_fmadd_ps(high, xk[j], acc[i][j][1]);
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            put(g, p + i, c + j, acc[i][j][0], acc[i][j][1]);
        }
    }
}

/* All columns of some panels before the next: memory is read once, whatever the width. Narrow
 * widths are bound by memory and take several panels, each a stream of its own; at width 2 the
 * converted types do better with four panels and a second pass over them from the cache than with
 * two. */
SHOAL_INLINE void float_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t element,
                             load_fn *load)
{
    size_t p = p0;
    if (g->n_cols == 2 && element == 4) {
        for (; p + 2 <= p1; p += 2) {
            float_tile(g, p, 0, element, load, 2, 2);
        }
    } else if (g->n_cols <= 2) {
        for (; p + 4 <= p1; p += 4) {
            for (size_t c = 0; c < g->n_cols; c++) {
                float_tile(g, p, c, element, load, 4, 1);
            }
        }
    }
    for (; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            float_tile(g, p, c, element, load, 1, 4);
        }
        if (c + 2 <= g->n_cols) {
            float_tile(g, p, c, element, load, 1, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            float_tile(g, p, c, element, load, 1, 1);
        }
    }
}

static void gemm_f32(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 4, avx2_load_f32);
}

static void gemm_f16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx2_load_f16);
}

static void gemm_bf16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx2_load_bf16);
}

/* --- quantised ----------------------------------------------------------------------------------
 */

SHOAL_INLINE __m256i broadcast4(const int8_t *x)
{
    int32_t four = 0;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

/* acc += exact dot of unsigned |w| and x with w's sign moved onto it. |w| is at most 128 and |x| at
 * most 127, so a pair is at most 32512 and the 16-bit add cannot saturate. */
SHOAL_INLINE __m256i dot_signed(__m256i acc, __m256i w, __m256i magnitude, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* acc = fma(d * xs, dot, acc) in both halves. */
SHOAL_INLINE void scale_in(__m256 acc[2], __m256 d_low, __m256 d_high, float xs,
                           const __m256i dot[2])
{
    __m256 s = _mm256_set1_ps(xs);
    acc[0] = _mm256_fmadd_ps(_mm256_mul_ps(d_low, s), _mm256_cvtepi32_ps(dot[0]), acc[0]);
    acc[1] = _mm256_fmadd_ps(_mm256_mul_ps(d_high, s), _mm256_cvtepi32_ps(dot[1]), acc[1]);
}

/* One column of activations: its codes, and what is known of each block of them. */
typedef struct column {
    const int8_t *q;
    const shoal_act_block *blocks;
} column;

SHOAL_INLINE int32_t block_sum(const shoal_act_block *block)
{
    return block->pairs[6] + block->pairs[7];
}

/* GCC would unroll the groups of a block whole, reorder the sums and spill most of them. */
#if defined(__GNUC__) && !defined(__clang__)
#    define ROLLED _Pragma("GCC unroll 1")
#else
#    define ROLLED
#endif

/* Two halves of a panel's rows. */
typedef struct rows {
    __m256i half[2];
} rows;

/* The exact dots of one panel block with block b of n_c columns. */
typedef void dots_fn(const uint8_t *codes, const column *columns, size_t b, size_t n_c,
                     rows dot[COLS_MAX]);

SHOAL_INLINE __m256i load_half(const uint8_t *codes, size_t group, size_t half)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(codes + group * 64 + half * 32));
}

SHOAL_INLINE void dots_q8_0(const uint8_t *codes, const column *columns, size_t b, size_t n_c,
                            rows dot[COLS_MAX])
{
    for (size_t j = 0; j < n_c; j++) {
        dot[j] = (rows){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
    }
    ROLLED
    for (size_t i = 0; i < 8; i++) {
        __m256i low = load_half(codes, i, 0);
        __m256i high = load_half(codes, i, 1);
        __m256i low_abs = _mm256_abs_epi8(low);
        __m256i high_abs = _mm256_abs_epi8(high);
        for (size_t j = 0; j < n_c; j++) {
            __m256i x = broadcast4(columns[j].q + b * SHOAL_QBLOCK + 4 * i);
            dot[j].half[0] = dot_signed(dot[j].half[0], low, low_abs, x);
            dot[j].half[1] = dot_signed(dot[j].half[1], high, high_abs, x);
        }
    }
}

/* Nibbles are 0 to 15, so eight pairs sum to at most 8 * 2 * 15 * 127 = 30480: the whole block fits
 * 16 bits and is widened once. Eight times the sum of x is taken away at the end. */
SHOAL_INLINE void dots_q4_0(const uint8_t *codes, const column *columns, size_t b, size_t n_c,
                            rows dot[COLS_MAX])
{
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i one = _mm256_set1_epi16(1);
    for (size_t j = 0; j < n_c; j++) {
        dot[j] = (rows){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
    }
    ROLLED
    for (size_t i = 0; i < 4; i++) {
        for (size_t h = 0; h < 2; h++) {
            __m256i both = load_half(codes, i, h);
            __m256i first = _mm256_and_si256(both, mask);
            __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            for (size_t j = 0; j < n_c; j++) {
                const int8_t *x = columns[j].q + b * SHOAL_QBLOCK + 4 * i;
                __m256i pairs = _mm256_maddubs_epi16(first, broadcast4(x));
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(second, broadcast4(x + 16)));
                dot[j].half[h] = _mm256_add_epi16(dot[j].half[h], pairs);
            }
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        __m256i offset = _mm256_set1_epi32(8 * block_sum(&columns[j].blocks[b]));
        for (size_t h = 0; h < 2; h++) {
            dot[j].half[h] = _mm256_sub_epi32(_mm256_madd_epi16(dot[j].half[h], one), offset);
        }
    }
}

/* One panel by n_c columns. One line of a later block is fetched, which keeps the processor's own
 * prefetcher on the stream; all its lines were slower by a fifth at widths 1 and 2. */
SHOAL_INLINE void block_tile(const shoal_gemm *g, size_t p, size_t c, size_t block_bytes,
                             dots_fn *dots, size_t n_c)
{
    const size_t n_blocks = g->k / SHOAL_QBLOCK;
    const uint8_t *panel = (const uint8_t *)g->panels + p * n_blocks * block_bytes;
    column columns[COLS_MAX];
    __m256 acc[COLS_MAX][2];
    for (size_t j = 0; j < n_c; j++) {
        columns[j] = (column){g->xq + (c + j) * g->k, g->xb + (c + j) * n_blocks};
        acc[j][0] = _mm256_setzero_ps();
        acc[j][1] = _mm256_setzero_ps();
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = panel + b * block_bytes;
        _mm_prefetch((const char *)block + BLOCK_AHEAD, _MM_HINT_T0);
        rows dot[COLS_MAX];
        dots(block + 2 * (size_t)ROWS, columns, b, n_c, dot);
        __m256 d_low = avx2_load_f16(block);
        __m256 d_high = avx2_load_f16(block + 16);
        for (size_t j = 0; j < n_c; j++) {
            scale_in(acc[j], d_low, d_high, columns[j].blocks[b].scale, dot[j].half);
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        put(g, p, c + j, acc[j][0], acc[j][1]);
    }
}

/* All columns of a panel before the next: memory is read once, whatever the width. */
SHOAL_INLINE void block_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t block_bytes,
                             dots_fn *dots)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            block_tile(g, p, c, block_bytes, dots, 4);
        }
        if (c + 2 <= g->n_cols) {
            block_tile(g, p, c, block_bytes, dots, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            block_tile(g, p, c, block_bytes, dots, 1);
        }
    }
}

static void gemm_q8_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    block_gemm(g, p0, p1, 544, dots_q8_0);
}

static void gemm_q4_0(const shoal_gemm *g, size_t p0, size_t p1)
{
    block_gemm(g, p0, p1, 288, dots_q4_0);
}

void shoal_kernels_avx2_gemm(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_F32] = gemm_f32;
    kernels->gemm[SHOAL_PANEL_F16] = gemm_f16;
    kernels->gemm[SHOAL_PANEL_BF16] = gemm_bf16;
    kernels->gemm[SHOAL_PANEL_Q8_0] = gemm_q8_0;
    kernels->gemm[SHOAL_PANEL_Q4_0] = gemm_q4_0;
}
