/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of float panels with AVX2: a panel's 16 rows are two vectors of eight outputs. Several
 * panels at width 1 and several columns otherwise keep enough independent sums in flight; no sum is
 * ever split.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_panel.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    COLS_MAX = 4,
    PANELS_MAX = 4,
    AHEAD = 4096,            /* bytes: how far in front a lone stream of weights is fetched */
    SCALES_BYTES = ROWS * 4, /* in front of a tile of fp8 */
    FP8_BLOCK = SCALES_BYTES + SHOAL_FP8_TILE * ROWS,
    CACHED_BYTES = 1 << 18 /* activations that stay in the second cache */
};

typedef struct pair {
    __m256 low;
    __m256 high;
} pair;

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
            avx2_put(g, p + i, c + j, acc[i][j][0], acc[i][j][1]);
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

/* --- fp8 ------------------------------------------------------------------------------------ */

/* Two elements of 16 rows, and into *top the largest code so far of each row and parity, without
 * its sign and twice. The bits of a code, moved into a half, are its value over 256, subnormal ones
 * included; times 256 is exact. What is not a number becomes 480, for nan_rows to mend. */
SHOAL_INLINE void load_e4m3(const uint8_t *codes, pair ret[2], __m256i *top)
{
    const __m256i keep = _mm256_set1_epi16((int16_t)0xBFFF);
    const __m256i zero = _mm256_setzero_si256();
    const __m256 up = _mm256_set1_ps(256.0F);
    __m256i two = _mm256_loadu_si256((const __m256i *)(const void *)codes);
    *top = _mm256_max_epu8(*top, _mm256_add_epi8(two, two));
    __m256i low = _mm256_unpacklo_epi8(zero, two);
    __m256i high = _mm256_unpackhi_epi8(zero, two);
    low = _mm256_and_si256(_mm256_srai_epi16(low, 1), keep);
    high = _mm256_and_si256(_mm256_srai_epi16(high, 1), keep);
    ret[0].low = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(low)), up);
    ret[0].high = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(high)), up);
    ret[1].low = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(low, 1)), up);
    ret[1].high = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(high, 1)), up);
}

/* All bits of the rows that have a code that is not a number: or-ed to a sum, what it would be. */
SHOAL_INLINE pair nan_rows(__m256i top)
{
    __m128i rows = _mm_max_epu8(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    rows = _mm_cmpeq_epi8(rows, _mm_set1_epi8((char)0xFE));
    return (pair){_mm256_castsi256_ps(_mm256_cvtepi8_epi32(rows)),
                  _mm256_castsi256_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(rows, rows)))};
}

SHOAL_INLINE void fp8_add(const float *x, size_t stride, pair w, size_t n_c, pair t[COLS_MAX])
{
    for (size_t j = 0; j < n_c; j++) {
        __m256 xe = _mm256_broadcast_ss(x + j * stride);
        t[j].low = _mm256_fmadd_ps(w.low, xe, t[j].low);
        t[j].high = _mm256_fmadd_ps(w.high, xe, t[j].high);
    }
}

/* acc = fma(s, t, acc) with the tile's scales. */
SHOAL_INLINE pair fp8_scale(const uint8_t *block, pair nan, pair t, pair acc)
{
    const float *s = (const float *)(const void *)block;
    return (pair){
        _mm256_fmadd_ps(_mm256_loadu_ps(s), _mm256_or_ps(t.low, nan.low), acc.low),
        _mm256_fmadd_ps(_mm256_loadu_ps(s + 8), _mm256_or_ps(t.high, nan.high), acc.high)};
}

/* The sums of n elements of n_p panels by n_c columns, n_p * n_c <= 4. */
SHOAL_INLINE void fp8_dots(const uint8_t *block, size_t panel_bytes, const float *x, size_t stride,
                           size_t n, size_t n_p, size_t n_c, pair t[PANELS_MAX][COLS_MAX],
                           __m256i top[PANELS_MAX])
{
    const uint8_t *codes = block + SCALES_BYTES;
    for (size_t e = 0; e < n; e += 2, codes += 2 * (size_t)ROWS) {
#pragma GCC unroll 4
        for (size_t i = 0; i < n_p; i++) {
            pair w[2];
            _mm_prefetch((const char *)codes + i * panel_bytes + AHEAD, _MM_HINT_T0);
            load_e4m3(codes + i * panel_bytes, w, &top[i]);
            fp8_add(x + e, stride, w[0], n_c, t[i]);
            if (e + 1 < n) {
                fp8_add(x + e + 1, stride, w[1], n_c, t[i]);
            }
        }
    }
}

/* The last tile of a panel is whole in memory, wherever k ends. */
SHOAL_INLINE void fp8_tile(const shoal_gemm *g, size_t p, size_t c, size_t n_p, size_t n_c)
{
    const size_t panel_bytes = shoal_panel_bytes(SHOAL_PANEL_FP8, g->k);
    const uint8_t *block = (const uint8_t *)g->panels + p * panel_bytes;
    const pair none = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    pair acc[PANELS_MAX][COLS_MAX];
    for (size_t i = 0; i < n_p * n_c; i++) {
        acc[i / n_c][i % n_c] = none;
    }
    for (size_t at = 0; at < g->k; at += SHOAL_FP8_TILE, block += FP8_BLOCK) {
        const size_t n = g->k - at < SHOAL_FP8_TILE ? g->k - at : SHOAL_FP8_TILE;
        pair t[PANELS_MAX][COLS_MAX];
        __m256i top[PANELS_MAX];
        for (size_t i = 0; i < n_p; i++) {
            top[i] = _mm256_setzero_si256();
            for (size_t j = 0; j < n_c; j++) {
                t[i][j] = none;
            }
        }
        fp8_dots(block, panel_bytes, g->x + c * g->x_stride + at, g->x_stride, n, n_p, n_c, t, top);
        for (size_t i = 0; i < n_p; i++) {
            pair nan = nan_rows(top[i]);
            for (size_t j = 0; j < n_c; j++) {
                acc[i][j] = fp8_scale(block + i * panel_bytes, nan, t[i][j], acc[i][j]);
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            avx2_put(g, p + i, c + j, acc[i][j].low, acc[i][j].high);
        }
    }
}

/* A tile widened to floats. */
typedef struct expanded {
    const uint8_t *block;
    size_t at; /* its first element */
    size_t n;  /* its elements */
    pair nan;
    float w[SHOAL_FP8_TILE * ROWS];
} expanded;

SHOAL_INLINE void expand(const shoal_gemm *g, const uint8_t *panel, size_t at, expanded *ret)
{
    ret->block = panel + at / SHOAL_FP8_TILE * FP8_BLOCK;
    ret->at = at;
    ret->n = g->k - at < SHOAL_FP8_TILE ? g->k - at : SHOAL_FP8_TILE;
    __m256i top = _mm256_setzero_si256();
    for (size_t e = 0; e < ret->n; e += 2) {
        pair w[2];
        load_e4m3(ret->block + SCALES_BYTES + e * ROWS, w, &top);
        for (size_t i = 0; i < 2; i++) {
            _mm256_storeu_ps(ret->w + (e + i) * ROWS, w[i].low);
            _mm256_storeu_ps(ret->w + (e + i) * ROWS + 8, w[i].high);
        }
    }
    ret->nan = nan_rows(top);
}

/* One tile by n_c columns, whose sums wait in y. */
SHOAL_INLINE void fp8_expanded_tile(const shoal_gemm *g, const expanded *w, size_t p, size_t c,
                                    size_t n_c)
{
    const size_t stride = g->x_stride;
    const size_t n = w->n;
    const float *x = g->x + c * stride + w->at;
    const pair none = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    pair t[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        t[j] = none;
    }
    for (size_t e = 0; e < n; e++) {
        const float *row = w->w + e * ROWS;
        fp8_add(x + e, stride, (pair){_mm256_loadu_ps(row), _mm256_loadu_ps(row + 8)}, n_c, t);
    }
    for (size_t j = 0; j < n_c; j++) {
        pair acc = none;
        if (w->at > 0) {
            avx2_get(g, p, c + j, &acc.low, &acc.high);
        }
        acc = fp8_scale(w->block, w->nan, t[j], acc);
        avx2_put(g, p, c + j, acc.low, acc.high);
    }
}

/* Many columns share the widening: a tile of floats waits in the first cache. */
static void fp8_expanded_panel(const shoal_gemm *g, size_t p, size_t c0, size_t c1)
{
    const uint8_t *panel =
        (const uint8_t *)g->panels + p * shoal_panel_bytes(SHOAL_PANEL_FP8, g->k);
    expanded w;
    for (size_t at = 0; at < g->k; at += SHOAL_FP8_TILE) {
        expand(g, panel, at, &w);
        size_t c = c0;
        for (; c + 4 <= c1; c += 4) {
            fp8_expanded_tile(g, &w, p, c, 4);
        }
        if (c + 2 <= c1) {
            fp8_expanded_tile(g, &w, p, c, 2);
            c += 2;
        }
        if (c < c1) {
            fp8_expanded_tile(g, &w, p, c, 1);
        }
    }
}

static void fp8_panel(const shoal_gemm *g, size_t p, size_t c, size_t c1)
{
    switch (c1 - c) {
    case 1:
        fp8_tile(g, p, c, 1, 1);
        break;
    case 2:
        fp8_tile(g, p, c, 1, 2);
        break;
    case 3:
        fp8_tile(g, p, c, 1, 3);
        break;
    case 4:
        fp8_tile(g, p, c, 1, 4);
        break;
    default:
        fp8_expanded_panel(g, p, c, c1);
        break;
    }
}

/* Columns whose activations stay in the second cache while the panels pass by. */
static size_t cached_columns(size_t k)
{
    size_t n = CACHED_BYTES / (k * sizeof(float) + 1) / COLS_MAX * COLS_MAX;
    return n < 4 * COLS_MAX ? 4 * COLS_MAX : n;
}

static void gemm_fp8(const shoal_gemm *g, size_t p0, size_t p1)
{
    const size_t n_cached = cached_columns(g->k);
    for (size_t c = 0; c < g->n_cols; c += n_cached) {
        size_t c1 = g->n_cols - c < n_cached ? g->n_cols : c + n_cached;
        size_t p = p0;
        if (c1 - c == 1) {
            for (; p + 2 <= p1; p += 2) {
                fp8_tile(g, p, c, 2, 1);
            }
        } else if (c1 - c == 2) {
            for (; p + 2 <= p1; p += 2) {
                fp8_tile(g, p, c, 2, 2);
            }
        }
        for (; p < p1; p++) {
            fp8_panel(g, p, c, c1);
        }
    }
}

void shoal_kernels_avx2_gemm(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_F32] = gemm_f32;
    kernels->gemm[SHOAL_PANEL_F16] = gemm_f16;
    kernels->gemm[SHOAL_PANEL_BF16] = gemm_bf16;
    kernels->gemm[SHOAL_PANEL_FP8] = gemm_fp8;
}
