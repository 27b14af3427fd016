/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of float panels with AVX-512: a panel's 16 rows are one register of outputs. Several
 * panels at width 1 and several columns otherwise keep enough independent sums in flight; no sum is
 * ever split.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_math.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    COLS_MAX = 8,
    PANELS_MAX = 4,
    CACHED_BYTES = 1 << 19, /* activations that stay in the second cache */
    FP8_BLOCK = 64 + SHOAL_FP8_TILE * ROWS,
    AHEAD = 2048 /* bytes: how far in front weights are fetched */
};

/* Writes 16 outputs of panel p, fewer in the last panel. */
SHOAL_INLINE void put(const shoal_gemm *g, size_t p, size_t c, __m512 acc)
{
    float *y = g->y + c * g->y_stride + p * ROWS;
    _mm512_mask_storeu_ps(y, avx512_first(g->n_rows - p * ROWS), acc);
}

/* --- float weights --------------------------------------------------------------------------- */

typedef __m512 load_fn(const void *p);

/* n_p panels by n_c columns, constants after inlining, n_p * n_c <= 16. What the inner loop reads
 * of g is copied first: the compiler does not take it out of the loop by itself. */
SHOAL_INLINE void float_tile(const shoal_gemm *g, size_t p, size_t c, size_t element, load_fn *load,
                             size_t n_p, size_t n_c)
{
    const size_t n_k = g->k;
    const float *x[COLS_MAX];
    __m512 acc[PANELS_MAX][COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        x[j] = g->x + (c + j) * g->x_stride;
        for (size_t i = 0; i < n_p; i++) {
            acc[i][j] = _mm512_setzero_ps();
        }
    }
    const uint8_t *panel = (const uint8_t *)g->panels + p * ROWS * n_k * element;
    for (size_t k = 0; k < n_k; k++) {
        __m512 w[PANELS_MAX];
        for (size_t i = 0; i < n_p; i++) {
            const uint8_t *at = panel + (i * n_k + k) * ROWS * element;
            if (n_c > 1) {
                _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
            }
            w[i] = load(at);
        }
        for (size_t j = 0; j < n_c; j++) {
            __m512 xk = _mm512_set1_ps(x[j][k]);
            for (size_t i = 0; i < n_p; i++) {
                acc[i][j] = _mm512_fmadd_ps(w[i], xk, acc[i][j]);
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            put(g, p + i, c + j, acc[i][j]);
        }
    }
}

/* Columns [c, c1) of n_p panels, which the first tile brings into the cache for the others. */
SHOAL_INLINE void float_panels(const shoal_gemm *g, size_t p, size_t c, size_t c1, size_t element,
                               load_fn *load, size_t n_p)
{
    for (; c + 8 <= c1; c += 8) {
        float_tile(g, p, c, element, load, n_p, 8);
    }
    /* What is left of eight has a tile of its own: over one or two columns alone the sums would
     * wait for each other longer than four columns take. */
    switch (c1 - c) {
    case 7:
        float_tile(g, p, c, element, load, n_p, 7);
        break;
    case 6:
        float_tile(g, p, c, element, load, n_p, 6);
        break;
    case 5:
        float_tile(g, p, c, element, load, n_p, 5);
        break;
    case 4:
        float_tile(g, p, c, element, load, n_p, 4);
        break;
    case 3:
        float_tile(g, p, c, element, load, n_p, 3);
        break;
    case 2:
        float_tile(g, p, c, element, load, n_p, 2);
        break;
    case 1:
        float_tile(g, p, c, element, load, n_p, 1);
        break;
    default:
        break;
    }
}

/* Columns whose activations stay in the second cache while the panels pass by. */
SHOAL_INLINE size_t cached_columns(size_t k)
{
    size_t n = CACHED_BYTES / (k * sizeof(float) + 1) / COLS_MAX * COLS_MAX;
    return n < 2 * COLS_MAX ? 2 * COLS_MAX : n;
}

SHOAL_INLINE void float_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t element,
                             load_fn *load)
{
    const size_t n_cached = cached_columns(g->k);
    for (size_t c = 0; c < g->n_cols; c += n_cached) {
        size_t c1 = g->n_cols - c < n_cached ? g->n_cols : c + n_cached;
        size_t p = p0;
        if (c1 - c == 1) {
            for (; p + 4 <= p1; p += 4) {
                float_tile(g, p, c, element, load, 4, 1);
            }
        }
        for (; p + 2 <= p1; p += 2) {
            float_panels(g, p, c, c1, element, load, 2);
        }
        if (p < p1) {
            float_panels(g, p, c, c1, element, load, 1);
        }
    }
}

static void gemm_f32(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 4, avx512_load_f32);
}

static void gemm_f16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx512_load_f16);
}

static void gemm_bf16(const shoal_gemm *g, size_t p0, size_t p1)
{
    float_gemm(g, p0, p1, 2, avx512_load_bf16);
}

/* --- fp8 ------------------------------------------------------------------------------------ */

/* Two elements of 16 rows. A code's bits, moved into a half, are its value over 256, subnormal ones
 * included; times 256 is exact. What is not a number gets all bits of a half. */
SHOAL_INLINE void load_e4m3(const uint8_t *codes, __m512 ret[2])
{
    const __m512i ones = _mm512_set1_epi16(0x3F80);
    __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)codes));
    __m512i half = _mm512_srai_epi16(_mm512_slli_epi16(wide, 8), 1);
    half = _mm512_and_si512(half, _mm512_set1_epi16((int16_t)0xBFFF));
    __mmask32 nan = _mm512_cmpeq_epi16_mask(_mm512_and_si512(half, ones), ones);
    half = _mm512_mask_mov_epi16(half, nan, _mm512_set1_epi16(-1));
    const __m512 up = _mm512_set1_ps(256.0F);
    ret[0] = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), up);
    ret[1] = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), up);
}

/* Takes element `at` of n_c columns into the sums of one tile. */
SHOAL_INLINE void fp8_add(const shoal_gemm *g, size_t c, size_t at, __m512 w, size_t n_c,
                          __m512 t[COLS_MAX])
{
    const float *x = g->x + c * g->x_stride + at;
    for (size_t j = 0; j < n_c; j++) {
        t[j] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[j * g->x_stride]), t[j]);
    }
}

/* n_p panels by n_c columns. The last tile of a panel is whole in memory, wherever k ends. */
SHOAL_INLINE void fp8_tile(const shoal_gemm *g, size_t p, size_t c, size_t n_p, size_t n_c)
{
    const size_t panel_bytes = shoal_panel_bytes(SHOAL_PANEL_FP8, g->k);
    const uint8_t *block = (const uint8_t *)g->panels + p * panel_bytes;
    __m512 acc[PANELS_MAX][COLS_MAX];
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            acc[i][j] = _mm512_setzero_ps();
        }
    }
    for (size_t at = 0; at < g->k; at += SHOAL_FP8_TILE, block += FP8_BLOCK) {
        const size_t n = g->k - at < SHOAL_FP8_TILE ? g->k - at : SHOAL_FP8_TILE;
        __m512 t[PANELS_MAX][COLS_MAX];
        for (size_t i = 0; i < n_p; i++) {
            for (size_t j = 0; j < n_c; j++) {
                t[i][j] = _mm512_setzero_ps();
            }
        }
        for (size_t e = 0; e < n; e += 2) {
            for (size_t i = 0; i < n_p; i++) {
                const uint8_t *codes = block + i * panel_bytes + 64 + e * ROWS;
                _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
                __m512 w[2];
                load_e4m3(codes, w);
                fp8_add(g, c, at + e, w[0], n_c, t[i]);
                if (e + 1 < n) {
                    fp8_add(g, c, at + e + 1, w[1], n_c, t[i]);
                }
            }
        }
        for (size_t i = 0; i < n_p; i++) {
            __m512 s = _mm512_loadu_ps(block + i * panel_bytes);
            for (size_t j = 0; j < n_c; j++) {
                acc[i][j] = _mm512_fmadd_ps(s, t[i][j], acc[i][j]);
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            put(g, p + i, c + j, acc[i][j]);
        }
    }
}

/* n elements of a tile in floats; element `at` of the columns is its first. Sums wait in y. */
SHOAL_INLINE void fp8_expanded_tile(const shoal_gemm *g, const float *w, __m512 s, size_t p,
                                    size_t c, size_t at, size_t n, size_t n_c)
{
    __m512 t[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        t[j] = _mm512_setzero_ps();
    }
    for (size_t e = 0; e < n; e++) {
        fp8_add(g, c, at + e, _mm512_loadu_ps(w + e * ROWS), n_c, t);
    }
    const __mmask16 rows = avx512_first(g->n_rows - p * ROWS);
    for (size_t j = 0; j < n_c; j++) {
        const float *y = g->y + (c + j) * g->y_stride + p * ROWS;
        __m512 acc = at > 0 ? _mm512_maskz_loadu_ps(rows, y) : _mm512_setzero_ps();
        put(g, p, c + j, _mm512_fmadd_ps(s, t[j], acc));
    }
}

/* Many columns share the widening: a tile of floats waits in the first cache. */
static void fp8_expanded_panel(const shoal_gemm *g, size_t p, size_t c0, size_t c1)
{
    const uint8_t *block =
        (const uint8_t *)g->panels + p * shoal_panel_bytes(SHOAL_PANEL_FP8, g->k);
    float w[SHOAL_FP8_TILE * ROWS];
    for (size_t at = 0; at < g->k; at += SHOAL_FP8_TILE, block += FP8_BLOCK) {
        const size_t n = g->k - at < SHOAL_FP8_TILE ? g->k - at : SHOAL_FP8_TILE;
        for (size_t e = 0; e < n; e += 2) {
            __m512 two[2];
            load_e4m3(block + 64 + e * ROWS, two);
            _mm512_storeu_ps(w + e * ROWS, two[0]);
            _mm512_storeu_ps(w + (e + 1) * ROWS, two[1]);
        }
        __m512 s = _mm512_loadu_ps(block);
        size_t c = c0;
        for (; c + 8 <= c1; c += 8) {
            fp8_expanded_tile(g, w, s, p, c, at, n, 8);
        }
        if (c + 4 <= c1) {
            fp8_expanded_tile(g, w, s, p, c, at, n, 4);
            c += 4;
        }
        for (; c < c1; c++) {
            fp8_expanded_tile(g, w, s, p, c, at, n, 1);
        }
    }
}

static void fp8_panel(const shoal_gemm *g, size_t p, size_t c, size_t c1)
{
    if (c1 - c > COLS_MAX) {
        fp8_expanded_panel(g, p, c, c1);
        return;
    }
    for (; c + 4 <= c1; c += 4) {
        fp8_tile(g, p, c, 1, 4);
    }
    if (c + 2 <= c1) {
        fp8_tile(g, p, c, 1, 2);
        c += 2;
    }
    if (c < c1) {
        fp8_tile(g, p, c, 1, 1);
    }
}

static void gemm_fp8(const shoal_gemm *g, size_t p0, size_t p1)
{
    const size_t n_cached = cached_columns(g->k);
    for (size_t c = 0; c < g->n_cols; c += n_cached) {
        size_t c1 = g->n_cols - c < n_cached ? g->n_cols : c + n_cached;
        size_t p = p0;
        if (c1 - c == 1) {
            for (; p + 4 <= p1; p += 4) {
                fp8_tile(g, p, c, 4, 1);
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

void shoal_kernels_avx512_gemm(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_F32] = gemm_f32;
    kernels->gemm[SHOAL_PANEL_F16] = gemm_f16;
    kernels->gemm[SHOAL_PANEL_BF16] = gemm_bf16;
    kernels->gemm[SHOAL_PANEL_FP8] = gemm_fp8;
}
