/* SPDX-License-Identifier: Apache-2.0
 *
 * The product of every panel kind: scalar against a plain float64 computation from the layouts as
 * panel.h states them, every tier against scalar by memcmp, on ragged sizes with poisoned padding.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/tiers.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    POISON = 0xA5,
    PAD = 16,
    ROWS = SHOAL_PANEL_ROWS,
    ROWS_MAX = 80,
    COLS_MAX = 33,
    WIDE_MAX = 257, /* more columns than any tier keeps in a cache */
    K_MAX = 1024
};

/* Emulated processors are some fifty times slower: they get every narrow width, a few wide ones. */
#ifdef SHOAL_TEST_SLOW
enum {
    WIDTH_STEP = 12,
    ROWS_STEP = 5,
    ROUNDS = 1,
    K_LONG = K_MAX
};
#else
enum {
    WIDTH_STEP = 1,
    ROWS_STEP = 1,
    ROUNDS = 2,
    K_LONG = 17 * 256 /* no chunk of a row that stays in a first cache is longer */
};
#endif

enum {
    PANELS_BYTES_MAX = ROWS_MAX * K_LONG * 4
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261125;

static int group_setup(void **state)
{
    (void)state;
    n_tiers = test_tiers(&scalar, tiers);
    return 0;
}

/* --- one weight, by panel.h alone ----------------------------------------------------------------
 */

static float half_at(const uint8_t *p, size_t r)
{
    uint16_t half = 0;
    memcpy(&half, p + 2 * r, sizeof half);
    return shoal_f16_to_f32(half);
}

static int nib(const uint8_t *p, size_t r, size_t i)
{
    size_t g = i % 16 / 4;
    uint8_t byte = p[g * 64 + r * 4 + i % 4];
    return i < 16 ? byte & 15 : byte >> 4;
}

static int hi1(const uint8_t *p, size_t r, size_t i)
{
    return p[r * 4 + i % 4] >> (i / 4) & 1;
}

static int two(const uint8_t *p, size_t r, size_t i)
{
    return p[i / 16 * 64 + r * 4 + i % 4] >> (2 * (i % 16 / 4)) & 3;
}

static int tri(const uint8_t *p, size_t r, size_t i)
{
    size_t g = i % 16 / 4;
    const uint8_t *at = p + r * 4 + i % 4;
    if (g < 3) {
        return at[g * 64] >> (i < 16 ? 0 : 3) & 7;
    }
    return i < 16 ? at[0] >> 6 | (at[64] & 0x40) >> 4 : at[128] >> 6 | (at[64] & 0x80) >> 5;
}

/* The element of 32 as the sum of those of the sixteen values that are its own. */
static int pairs(const uint8_t *p, size_t r, size_t i)
{
    int sum = 0;
    for (size_t v = i / 4 * 2; v < i / 4 * 2 + 2; v++) {
        int place = tri(p, r, 16 + v);
        if ((size_t)(place & 3) == i % 4) {
            sum += place & 4 ? -tri(p, r, v) : tri(p, r, v);
        }
    }
    return sum;
}

/* The same of values of eight bits with their places behind them. */
static int wide_pairs(const uint8_t *p, size_t r, size_t i)
{
    int sum = 0;
    for (size_t v = i / 4 * 2; v < i / 4 * 2 + 2; v++) {
        if ((size_t)(p[256 + 4 * r + v % 4] >> v / 4 * 2 & 3) == i % 4) {
            sum += (int8_t)p[v / 4 * 64 + 4 * r + v % 4];
        }
    }
    return sum;
}

/* What is there takes the values in order, and again from the first. */
static int bitmap(const uint8_t *p, size_t n_values, size_t r, size_t i)
{
    uint32_t bits = 0;
    memcpy(&bits, p + 4 * r, 4);
    if (!(bits >> i & 1)) {
        return 0;
    }
    size_t v = (size_t)__builtin_popcount(bits & ((1u << i) - 1)) % n_values;
    uint8_t both = p[64 + v / 8 * 64 + 4 * r + v % 4];
    return (v / 4 % 2 ? both >> 4 : both & 15) - 8;
}

/* w = scale * code + min, of row r and element e of a panel block. */
typedef struct term {
    double scale;
    double code;
    double min;
} term;

static term float_term(shoal_panel kind, const uint8_t *block, size_t r, size_t e)
{
    uint16_t half = 0;
    float w = 0;
    switch ((int)kind) {
    case SHOAL_PANEL_F32:
        memcpy(&w, block + 4 * r, sizeof w);
        return (term){1, (double)w, 0};
    case SHOAL_PANEL_F16:
        return (term){1, (double)half_at(block, r), 0};
    case SHOAL_PANEL_BF16:
        memcpy(&half, block + 2 * r, sizeof half);
        return (term){1, (double)shoal_bf16_to_f32(half), 0};
    default:
        memcpy(&w, block + 4 * r, sizeof w);
        return (term){(double)w, (double)shoal_e4m3_to_f32(block[64 + e * 16 + r]), 0};
    }
}

static term block_term(shoal_panel kind, const uint8_t *block, size_t r, size_t e)
{
    double d = (double)half_at(block, r);
    double m = (double)half_at(block + 32, r);
    switch ((int)kind) {
    case SHOAL_PANEL_Q8_0:
        return (term){d, (int8_t)block[32 + e / 4 * 64 + r * 4 + e % 4], 0};
    case SHOAL_PANEL_Q4_0:
        return (term){d, nib(block + 32, r, e) - 8, 0};
    case SHOAL_PANEL_IQ4_NL:
        return (term){d, shoal_iq4_nl[nib(block + 32, r, e)], 0};
    case SHOAL_PANEL_Q5_0:
        return (term){d, nib(block + 32, r, e) + 16 * hi1(block + 288, r, e) - 16, 0};
    case SHOAL_PANEL_Q4_1:
        return (term){d, nib(block + 64, r, e), m};
    default: /* q5_1 */
        return (term){d, nib(block + 64, r, e) + 16 * hi1(block + 320, r, e), m};
    }
}

static term super_term(shoal_panel kind, const uint8_t *block, size_t r, size_t e)
{
    double d = (double)half_at(block, r);
    double dmin = (double)half_at(block + 32, r);
    size_t s = e / 32;
    size_t i = e % 32;
    size_t h = i / 16;
    const uint8_t *sub = NULL;
    switch ((int)kind) {
    case SHOAL_PANEL_Q2_K:
        sub = block + 64 + s * 160;
        return (term){d * (sub[h * 16 + r] & 15), two(sub + 32, r, i),
                      -dmin * (sub[h * 16 + r] >> 4)};
    case SHOAL_PANEL_Q3_K:
        sub = block + 32 + s * 224;
        return (term){d * (int8_t)sub[h * 16 + r],
                      two(sub + 32, r, i) + 4 * hi1(sub + 160, r, i) - 4, 0};
    case SHOAL_PANEL_Q4_K:
        sub = block + 64 + s * 288;
        return (term){d * sub[r], nib(sub + 32, r, i), -dmin * sub[16 + r]};
    case SHOAL_PANEL_Q5_K:
        sub = block + 64 + s * 352;
        return (term){d * sub[r], nib(sub + 32, r, i) + 16 * hi1(sub + 288, r, i),
                      -dmin * sub[16 + r]};
    default: /* q6_K */
        sub = block + 32 + s * 416;
        return (term){d * (int8_t)sub[h * 16 + r],
                      nib(sub + 32, r, i) + 16 * two(sub + 288, r, i) - 32, 0};
    }
}

static bool is_group(shoal_panel kind)
{
    return kind >= SHOAL_PANEL_C2_32 && kind <= SHOAL_PANEL_B8_128;
}

static term group_term(shoal_panel kind, const uint8_t *block, size_t r, size_t e,
                       const int8_t *levels)
{
    double d = (double)half_at(block, r);
    size_t s = e / 32;
    if (kind <= SHOAL_PANEL_C2_128) {
        return (term){d, two(block + 32 + s * 128, r, e % 32) - 2, 0};
    }
    if (kind <= SHOAL_PANEL_C3_128) {
        return (term){d, tri(block + 32 + s * 192, r, e % 32) - 4, 0};
    }
    if (kind <= SHOAL_PANEL_C4_128) {
        return (term){d, nib(block + 32 + s * 256, r, e % 32) - 8, 0};
    }
    if (kind <= SHOAL_PANEL_S4_128) {
        return (term){d, pairs(block + 32 + s * 192, r, e % 32), 0};
    }
    if (kind <= SHOAL_PANEL_N3_128) {
        return (term){d, levels[tri(block + 32 + s * 192, r, e % 32)], 0};
    }
    if (kind <= SHOAL_PANEL_N4_128) {
        return (term){d, levels[nib(block + 32 + s * 256, r, e % 32)], 0};
    }
    if (kind <= SHOAL_PANEL_S8_128) {
        return (term){d, wide_pairs(block + 32 + s * 320, r, e % 32), 0};
    }
    bool half = kind <= SHOAL_PANEL_B16_128;
    return (term){d, bitmap(block + 32 + s * (half ? 192 : 128), half ? 16 : 8, r, e % 32), 0};
}

static term term_at(shoal_panel kind, const uint8_t *panels, size_t k, size_t row, size_t i,
                    const int8_t *levels)
{
    const shoal_panel_info *info = shoal_panel_find(kind);
    const uint8_t *block =
        panels + row / ROWS * shoal_panel_bytes(kind, k) + i / info->step * info->block_bytes;
    size_t e = i % info->step;
    if (!info->quantised) {
        return float_term(kind, block, row % ROWS, e);
    }
    if (is_group(kind)) {
        return group_term(kind, block, row % ROWS, e, levels);
    }
    return info->step == 32 ? block_term(kind, block, row % ROWS, e)
                            : super_term(kind, block, row % ROWS, e);
}

/* --- operands ------------------------------------------------------------------------------------
 */

typedef struct operands {
    uint8_t *panels;
    float *x;
    int8_t *xq;
    shoal_act_block *xb;
    float *y[2];
    size_t y_bytes;
    int8_t levels[16];
} operands;

static void operands_new(operands *o)
{
    o->panels = shoal_calloc_aligned(PANELS_BYTES_MAX, 1);
    o->x = shoal_calloc_aligned(WIDE_MAX * (K_MAX + 3), sizeof(float));
    o->xq = shoal_calloc_aligned(WIDE_MAX * K_MAX, 1);
    o->xb = shoal_calloc_aligned(WIDE_MAX * K_MAX / 32, sizeof *o->xb);
    o->y_bytes = (WIDE_MAX * (ROWS_MAX + 5) + PAD) * sizeof(float);
    o->y[0] = shoal_calloc_aligned(o->y_bytes, 1);
    o->y[1] = shoal_calloc_aligned(o->y_bytes, 1);
}

static void operands_free(operands *o)
{
    shoal_free(o->panels);
    shoal_free(o->x);
    shoal_free(o->xq);
    shoal_free(o->xb);
    shoal_free(o->y[0]);
    shoal_free(o->y[1]);
}

static void put_half(uint8_t *p, float x)
{
    uint16_t half = shoal_f32_to_f16(x);
    memcpy(p, &half, sizeof half);
}

static void fill_floats(shoal_panel kind, uint8_t *panels, size_t n)
{
    for (size_t i = 0; kind == SHOAL_PANEL_F32 && i < n / 4; i++) {
        float w = test_awkward(&rng);
        memcpy(panels + 4 * i, &w, sizeof w);
    }
    for (size_t i = 0; kind == SHOAL_PANEL_F16 && i < n / 2; i++) {
        put_half(panels + 2 * i, test_awkward(&rng));
    }
    for (size_t i = 0; kind == SHOAL_PANEL_BF16 && i < n / 2; i++) {
        uint16_t w = shoal_f32_to_bf16(test_awkward(&rng));
        memcpy(panels + 2 * i, &w, sizeof w);
    }
    for (size_t i = 0; kind == SHOAL_PANEL_FP8 && i < n; i++) {
        if (i % 2112 < 64) {
            float s = test_signed(&rng);
            memcpy(panels + i, &s, sizeof s);
            i += 3;
        } else if ((panels[i] & 0x7F) == 0x7F) {
            panels[i] ^= 1; /* not a number */
        }
    }
}

/* Panels with every byte pattern that can occur: scales are finite, codes are anything. */
static void fill_panels(shoal_panel kind, uint8_t *panels, size_t n_panels, size_t k)
{
    const shoal_panel_info *info = shoal_panel_find(kind);
    size_t n = n_panels * shoal_panel_bytes(kind, k);
    for (size_t i = 0; i < n; i++) {
        panels[i] = (uint8_t)shoal_rng_next(&rng);
    }
    /* The largest codes and scales everywhere, now and then: what an integer may overflow on. */
    if (shoal_rng_next(&rng) % 8 == 0) {
        memset(panels, shoal_rng_next(&rng) % 2 ? 0xFF : 0x80, n);
    }
    if (!info->quantised) {
        fill_floats(kind, panels, n);
        return;
    }
    bool mins = kind == SHOAL_PANEL_Q4_1 || kind == SHOAL_PANEL_Q5_1 || kind == SHOAL_PANEL_Q2_K ||
                kind == SHOAL_PANEL_Q4_K || kind == SHOAL_PANEL_Q5_K;
    for (size_t b = 0; b < n / info->block_bytes; b++) {
        for (size_t r = 0; r < (mins ? 2 * ROWS : ROWS); r++) {
            put_half(panels + b * info->block_bytes + 2 * r, test_signed(&rng));
        }
    }
}

/* Levels of any order and size; now and then the largest alone. */
static void fill_levels(operands *o)
{
    bool ends = shoal_rng_next(&rng) % 8 == 0;
    for (size_t i = 0; i < sizeof o->levels; i++) {
        int level = (int)(shoal_rng_next(&rng) % 255) - 127;
        o->levels[i] = (int8_t)(ends ? (i % 2 ? 127 : -127) : level);
    }
}

static void fill_inputs(operands *o, size_t k, size_t n_cols)
{
    for (size_t i = 0; i < n_cols * (k + 3); i++) {
        o->x[i] = test_awkward(&rng);
    }
    if (k % 32 != 0) {
        return;
    }
    for (size_t c = 0; c < n_cols; c++) {
        float *x = o->x + c * (k + 3);
        /* All codes at their ends in some columns. */
        for (size_t i = 0; c % 4 == 1 && i < k; i++) {
            x[i] = c % 8 == 1 ? 3.0F : -3.0F;
        }
        scalar.quantize_q8(k, x, o->xq + c * k, o->xb + c * (k / 32));
    }
}

/* Relative to the sum of the magnitudes of all products: k roundings of 2^-24 in each sum. */
static void check_float64(shoal_panel kind, const shoal_gemm *g)
{
    const double budget = 4e-6;
    bool quantised = shoal_panel_find(kind)->quantised;
    for (size_t c = 0; c < g->n_cols; c++) {
        for (size_t row = 0; row < g->n_rows; row++) {
            double sum = 0;
            double size = 1e-30;
            for (size_t i = 0; i < g->k; i++) {
                double x = quantised
                               ? (double)g->xb[c * (g->k / 32) + i / 32].scale * g->xq[c * g->k + i]
                               : (double)g->x[c * g->x_stride + i];
                term w = term_at(kind, g->panels, g->k, row, i, g->levels);
                sum += (w.scale * w.code + w.min) * x;
                size += (fabs(w.scale * w.code) + fabs(w.min)) * fabs(x);
            }
            double got = (double)g->y[c * g->y_stride + row];
            if (!(fabs(got - sum) <= budget * size)) {
                fail_msg("%s at (%zu, %zu): %g, float64 gives %g", shoal_panel_find(kind)->name,
                         row, c, got, sum);
            }
        }
    }
}

static void compare(shoal_panel kind, operands *o, size_t n_rows, size_t k, size_t n_cols)
{
    size_t n_panels = (n_rows + ROWS - 1) / ROWS;
    assert_true(n_panels * shoal_panel_bytes(kind, k) <= PANELS_BYTES_MAX);
    fill_panels(kind, o->panels, n_panels, k);
    fill_inputs(o, k, n_cols);
    fill_levels(o);
    shoal_gemm g = {
        .panels = o->panels,
        .n_rows = n_rows,
        .k = k,
        .n_cols = n_cols,
        .x = o->x,
        .x_stride = k + 3,
        .xq = o->xq,
        .xb = o->xb,
        .levels = o->levels,
        .y = o->y[0],
        .y_stride = n_rows + 5,
    };
    memset(o->y[0], POISON, o->y_bytes);
    scalar.gemm[kind](&g, 0, n_panels);
    check_float64(kind, &g);
    for (size_t t = 0; t < n_tiers; t++) {
        memset(o->y[1], POISON, o->y_bytes);
        g.y = o->y[1];
        /* In two parts, as the pool would. */
        size_t middle = n_panels / 2;
        tiers[t].gemm[kind](&g, middle, n_panels);
        tiers[t].gemm[kind](&g, 0, middle);
        if (memcmp(o->y[0], o->y[1], o->y_bytes) != 0) {
            fail_msg("gemm of %s in %s differs from scalar: %zu rows, k %zu, %zu columns",
                     shoal_panel_find(kind)->name, tiers[t].tier, n_rows, k, n_cols);
        }
    }
}

static void test_products_equal_scalar_on_ragged_sizes(void **state)
{
    (void)state;
    operands o;
    operands_new(&o);
    for (size_t kind = 0; kind < SHOAL_PANELS; kind++) {
        size_t step = kind == SHOAL_PANEL_FP8 ? 1 : shoal_panel_find((shoal_panel)kind)->step;
        size_t k_max = step == 256               ? K_MAX
                       : kind == SHOAL_PANEL_FP8 ? 300
                       : step > 32               ? 4 * step
                                                 : 160;
        for (size_t n_cols = 1; n_cols <= COLS_MAX; n_cols += n_cols < 9 ? 1 : WIDTH_STEP) {
            for (size_t round = 0; round < ROUNDS; round++) {
                size_t n_rows = 1 + shoal_rng_next(&rng) % 50;
                size_t k = step * (1 + shoal_rng_next(&rng) % (k_max / step));
                compare((shoal_panel)kind, &o, n_rows, k, n_cols);
            }
        }
        for (size_t n_rows = 1; n_rows <= 70; n_rows += ROWS_STEP) {
            compare((shoal_panel)kind, &o, n_rows, step > 32 ? step : 32, 1 + n_rows % 6);
        }
    }
    operands_free(&o);
}

/* Long rows: more blocks than any tier keeps at a time. */
static void test_products_equal_scalar_on_long_rows(void **state)
{
    (void)state;
    operands o;
    operands_new(&o);
    for (size_t kind = 0; kind < SHOAL_PANELS; kind++) {
        static const size_t widths[] = {1, 2, 3, 5, 8, 11};
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
            compare((shoal_panel)kind, &o, 33, K_MAX, widths[w]);
        }
        /* Columns take turns over pieces of a row. */
        compare((shoal_panel)kind, &o, 33, K_LONG, 7);
        compare((shoal_panel)kind, &o, 33, K_LONG, 11);
    }
    operands_free(&o);
}

/* Wide batches, which tiers cut into blocks of columns. */
static void test_products_equal_scalar_on_wide_batches(void **state)
{
    (void)state;
    operands o;
    operands_new(&o);
    for (size_t kind = 0; kind < SHOAL_PANELS; kind++) {
        static const size_t widths[] = {47, 48, 49, 50, 63, 64, 65, 66, 127, 128, 129, 130};
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
            compare((shoal_panel)kind, &o, 18, 256, widths[w]);
        }
        compare((shoal_panel)kind, &o, 5, K_MAX, WIDE_MAX - 1);
        compare((shoal_panel)kind, &o, 5, K_MAX, WIDE_MAX);
    }
    operands_free(&o);
}

/* A code that is not a number makes its row's outputs that, and no others. */
static void test_fp8_nan_stays_nan_in_its_row(void **state)
{
    (void)state;
    operands o;
    operands_new(&o);
    for (size_t n_cols = 1; n_cols <= 11; n_cols++) {
        for (size_t row = 0; row < ROWS; row++) {
            fill_panels(SHOAL_PANEL_FP8, o.panels, 1, 130);
            fill_inputs(&o, 130, n_cols);
            size_t at = (row * 7 + n_cols) % 128;
            o.panels[64 + at * ROWS + row] = n_cols % 2 ? 0x7F : 0xFF;
            shoal_gemm g = {.panels = o.panels,
                            .n_rows = ROWS,
                            .k = 130,
                            .n_cols = n_cols,
                            .x = o.x,
                            .x_stride = 130 + 3,
                            .y = o.y[0],
                            .y_stride = ROWS};
            for (size_t t = 0; t <= n_tiers; t++) {
                (t < n_tiers ? &tiers[t] : &scalar)->gemm[SHOAL_PANEL_FP8](&g, 0, 1);
                for (size_t i = 0; i < n_cols * ROWS; i++) {
                    assert_int_equal(isnan(o.y[0][i]) != 0, i % ROWS == row);
                }
            }
        }
    }
    operands_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_equal_scalar_on_ragged_sizes),
        cmocka_unit_test(test_products_equal_scalar_on_long_rows),
        cmocka_unit_test(test_products_equal_scalar_on_wide_batches),
        cmocka_unit_test(test_fp8_nan_stays_nan_in_its_row),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
