/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of weights: panels of every type at several widths, what fires, bitmaps, what stands
 * beside a product, and whole numbers.
 */
#include "tests/bench/kernels.h"

#include <string.h>

enum {
    COLS_MAX = 32
};

/* --- products --------------------------------------------------------------------------------- */

typedef struct gemm_operands {
    shoal_gemm g;
    size_t n_panels; /* to run */
    shoal_panel panel;
} gemm_operands;

static void run_gemm(void *context)
{
    const bench_job *j = context;
    const gemm_operands *o = j->operands;
    j->kernels->gemm[o->panel](&o->g, 0, o->n_panels);
}

/* Random bits with ordinary scales: halves and floats in +-[0.5, 1). */
static void fill_panels(bench *b, shoal_panel panel, uint8_t *panels, size_t bytes)
{
    static const uint64_t keep[] = {[SHOAL_PANEL_F32] = 0x807FFFFF807FFFFF,
                                    [SHOAL_PANEL_F16] = 0x83FF83FF83FF83FF,
                                    [SHOAL_PANEL_BF16] = 0x807F807F807F807F,
                                    [SHOAL_PANEL_FP8] = 0xBFBFBFBFBFBFBFBF};
    static const uint64_t force[] = {[SHOAL_PANEL_F32] = 0x3F0000003F000000,
                                     [SHOAL_PANEL_F16] = 0x3800380038003800,
                                     [SHOAL_PANEL_BF16] = 0x3F003F003F003F00,
                                     [SHOAL_PANEL_FP8] = 0};
    const shoal_panel_info *info = shoal_panel_find(panel);
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t bits = shoal_rng_next(&b->rng);
        if (!info->quantised) {
            bits = (bits & keep[panel]) | force[panel];
        }
        memcpy(panels + i, &bits, sizeof bits);
    }
    for (size_t at = 0; info->quantised && at + info->block_bytes <= bytes;
         at += info->block_bytes) {
        /* d, and m or dmin where the kind has one: elsewhere these are codes, as good as any. */
        for (size_t r = 0; r < 2 * (size_t)SHOAL_PANEL_ROWS; r++) {
            uint16_t d = (uint16_t)((shoal_rng_next(&b->rng) & 0x83FF) | 0x2000);
            memcpy(panels + at + 2 * r, &d, sizeof d);
        }
    }
}

/* Scalar is timed on a part, since it is compute-bound anyway; so is the comparison. */
static void bench_columns(bench *b, gemm_operands *o, size_t n_cols)
{
    const shoal_panel_info *info = shoal_panel_find(o->panel);
    shoal_gemm *g = &o->g;
    g->n_cols = n_cols;
    size_t all = g->n_rows / SHOAL_PANEL_ROWS;
    size_t part = all < 4 ? all : 4;
    char shape[48];
    char slot[24];
    snprintf(slot, sizeof slot, "gemm_%s", info->name);
    bench_work w = {.slot = slot,
                    .shape = shape,
                    .run = run_gemm,
                    .operands = o,
                    .out = g->y,
                    .out_bytes = n_cols * g->y_stride * sizeof *g->y};
    for (size_t i = 0; i < b->n_tiers; i++) {
        o->n_panels = part;
        bench_check_tier(b, &w, &b->tiers[i]);
        o->n_panels = strcmp(b->tiers[i].tier, "scalar") == 0 ? part : all;
        size_t rows = o->n_panels * SHOAL_PANEL_ROWS;
        snprintf(shape, sizeof shape, "%zux%zu width %zu", rows, g->k, n_cols);
        size_t x_bytes = info->quantised ? g->k * 2 : g->k * 4;
        w.bytes = o->n_panels * shoal_panel_bytes(o->panel, g->k) + n_cols * (x_bytes + rows * 4);
        w.flops = 2 * (uint64_t)rows * g->k * n_cols;
        (void)bench_time_tier(b, &w, &b->tiers[i]);
    }
}

/* One matrix of about that many bytes at several widths. */
static void bench_matrix(bench *b, shoal_panel panel, size_t k, size_t bytes, const size_t *widths,
                         size_t n_widths)
{
    size_t panel_bytes = shoal_panel_bytes(panel, k);
    size_t n_panels = bytes / panel_bytes > 0 ? bytes / panel_bytes : 1;
    size_t n_rows = n_panels * SHOAL_PANEL_ROWS;
    uint8_t *panels = bench_allocate(n_panels, panel_bytes);
    fill_panels(b, panel, panels, n_panels * panel_bytes);
    float *x = bench_random_row(b, COLS_MAX * k);
    float *y = bench_allocate(COLS_MAX, n_rows * sizeof *y);
    int8_t *xq = bench_allocate(COLS_MAX, k);
    shoal_act_block *xb = bench_allocate(COLS_MAX, k / SHOAL_QBLOCK * sizeof *xb);
    b->scalar.quantize_q8(COLS_MAX * k, x, xq, xb);
    gemm_operands o = {
        .g = {.panels = panels,
              .levels = shoal_panel_levels(panel),
              .n_rows = n_rows,
              .k = k,
              .x = x,
              .x_stride = k,
              .xq = xq,
              .xb = xb,
              .y = y,
              .y_stride = n_rows},
        .panel = panel,
    };
    for (size_t i = 0; i < n_widths; i++) {
        bench_columns(b, &o, widths[i]);
    }
    shoal_free(panels);
    shoal_free(x);
    shoal_free(y);
    shoal_free(xq);
    shoal_free(xb);
}

void bench_products(bench *b)
{
    static const size_t widths[] = {1, 2, 4, 5, 8, COLS_MAX};
    static const size_t cached_widths[] = {1, 8};
    for (size_t i = 0; i < SHOAL_PANELS; i++) {
        char slot[24];
        snprintf(slot, sizeof slot, "gemm_%s", shoal_panel_find((shoal_panel)i)->name);
        if (bench_wants(b, slot)) {
            bench_matrix(b, (shoal_panel)i, 2048, b->matrix_bytes, widths,
                         sizeof widths / sizeof widths[0]);
            bench_matrix(b, (shoal_panel)i, 1024, BENCH_CACHED_BYTES, cached_widths,
                         sizeof cached_widths / sizeof cached_widths[0]);
        }
    }
}

/* --- what fires ------------------------------------------------------------------------------ */

enum {
    FIRING_K = 2048,
    FIRING_ROWS = 512, /* of a tile */
    DENSITIES = 5
};

/* Shares of the inputs that fire, in hundredths. */
static const unsigned densities[DENSITIES] = {100, 75, 50, 25, 5};

static void run_firing(void *context)
{
    const bench_job *j = context;
    const shoal_firing *f = j->operands;
    j->kernels->gemm_firing(f, 0, f->n_rows / f->tile_rows);
}

/* A column of which so many inputs fire. */
static void draw_firing(bench *b, unsigned density, int8_t *xq, shoal_act_block *xb)
{
    float x[FIRING_K];
    for (size_t i = 0; i < FIRING_K; i++) {
        bool fires = shoal_rng_next(&b->rng) % 100 < density;
        x[i] = fires ? 1.0F + (float)(shoal_rng_next(&b->rng) % 64) : 0.0F;
    }
    b->scalar.quantize_q8(FIRING_K, x, xq, xb);
}

/* The share at which the time is that of a product that reads all, between two measured ones. */
static void tell_break_even(const bench_work *w, const shoal_kernels *tier, const char *what,
                            double all_s, const unsigned *shares, const double *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] <= all_s) {
            double at = shares[i];
            if (i > 0) {
                at += (shares[i - 1] - at) * (all_s - s[i]) / (s[i - 1] - s[i]);
            }
            fprintf(stderr, "break-even of %s, %s: %s%.0f%% of the %s\n", w->slot, tier->tier,
                    i > 0 ? "" : "above ", at, what);
            return;
        }
    }
    fprintf(stderr, "break-even of %s, %s: none at %u%% of the %s and above, %.2f of the time\n",
            w->slot, tier->tier, shares[n - 1], what, s[n - 1] / all_s);
}

/* A matrix, of which every product reads the same bytes as its layout has them. */
typedef struct firing_operands {
    shoal_firing firing;
    gemm_operands all;
    size_t n_tiles;
    size_t tile_bytes;
    uint8_t *tiles;
    int8_t *xq;
    shoal_act_block *xb;
    float *y;
} firing_operands;

static void make_firing(bench *b, firing_operands *o)
{
    const size_t tile_rows = FIRING_ROWS;
    o->tile_bytes = shoal_tile_bytes(tile_rows, FIRING_K);
    o->n_tiles = SHOAL_MAX(b->matrix_bytes / o->tile_bytes, (size_t)1);
    const size_t n_rows = o->n_tiles * tile_rows;
    o->tiles = bench_allocate(o->n_tiles, o->tile_bytes);
    fill_panels(b, SHOAL_PANEL_Q4_0, o->tiles, o->n_tiles * o->tile_bytes);
    for (size_t at = 0; at < o->n_tiles * o->tile_bytes; at += 2) {
        if (at % shoal_tile_block_bytes(tile_rows) < 2 * tile_rows) {
            const uint16_t d = (uint16_t)((shoal_rng_next(&b->rng) & 0x83FF) | 0x2000);
            memcpy(o->tiles + at, &d, sizeof d);
        }
    }
    o->xq = bench_allocate(FIRING_K, 1);
    o->xb = bench_allocate(FIRING_K / SHOAL_QBLOCK, sizeof *o->xb);
    o->y = bench_allocate(n_rows, sizeof *o->y);
    o->firing = (shoal_firing){.tiles = o->tiles,
                               .tile_rows = tile_rows,
                               .n_rows = n_rows,
                               .k = FIRING_K,
                               .n_cols = 1,
                               .xq = o->xq,
                               .xb = o->xb,
                               .y = o->y,
                               .y_stride = n_rows};
    o->all = (gemm_operands){.g = {.panels = o->tiles,
                                   .n_rows = n_rows,
                                   .k = FIRING_K,
                                   .n_cols = 1,
                                   .xq = o->xq,
                                   .xb = o->xb,
                                   .y = o->y,
                                   .y_stride = n_rows},
                             .n_panels = n_rows / SHOAL_PANEL_ROWS,
                             .panel = SHOAL_PANEL_Q4_0};
}

/* At width 1: by panels, then by input at several shares. */
static void bench_firing_tier(bench *b, firing_operands *o, const shoal_kernels *tier)
{
    char shape[48];
    double s[DENSITIES];
    const size_t n_rows = o->firing.n_rows;
    snprintf(shape, sizeof shape, "%zux%d by panels", n_rows, (int)FIRING_K);
    bench_work w = {.slot = "gemm_firing",
                    .shape = shape,
                    .bytes = o->n_tiles * o->tile_bytes,
                    .flops = 2 * (uint64_t)n_rows * FIRING_K,
                    .run = run_gemm,
                    .operands = &o->all,
                    .out = o->y,
                    .out_bytes = n_rows * sizeof *o->y};
    draw_firing(b, 100, o->xq, o->xb);
    const double all_s = bench_time_tier(b, &w, tier);
    w.run = run_firing;
    w.operands = &o->firing;
    for (size_t i = 0; i < DENSITIES; i++) {
        const double part = (1 + 8 * (densities[i] / 100.0)) / 9; /* scales are always read */
        draw_firing(b, densities[i], o->xq, o->xb);
        snprintf(shape, sizeof shape, "%zux%d %u%% fire", n_rows, (int)FIRING_K, densities[i]);
        w.bytes = (uint64_t)((double)(o->n_tiles * o->tile_bytes) * part);
        bench_check_tier(b, &w, tier);
        s[i] = bench_time_tier(b, &w, tier);
    }
    tell_break_even(&w, tier, "inputs fire", all_s, densities, s, DENSITIES);
}

void bench_firing(bench *b)
{
    firing_operands o = {.n_tiles = 0};
    if (!bench_wants(b, "gemm_firing")) {
        return;
    }
    make_firing(b, &o);
    for (size_t i = 0; i < b->n_tiers; i++) {
        /* As of other products, scalar's speed is not that of memory. */
        if (strcmp(b->tiers[i].tier, "scalar") != 0) {
            bench_firing_tier(b, &o, &b->tiers[i]);
        }
    }
    shoal_free(o.tiles);
    shoal_free(o.xq);
    shoal_free(o.xb);
    shoal_free(o.y);
}

/* --- bitmaps --------------------------------------------------------------------------------- */

enum {
    BITMAP_K = 2048,
    BITMAPS = 2
};

/* At width 1, of as many rows: all weights of four bits, then bitmaps of them. */
static void bench_bitmap_tier(bench *b, gemm_operands *o, const shoal_kernels *tier)
{
    static const shoal_panel kinds[1 + BITMAPS] = {SHOAL_PANEL_C4_64, SHOAL_PANEL_B16_64,
                                                   SHOAL_PANEL_B8_64};
    static const unsigned shares[BITMAPS] = {50, 25};
    char shape[48];
    double s[1 + BITMAPS];
    bench_work w = {.slot = "gemm_bitmap",
                    .shape = shape,
                    .flops = 2 * (uint64_t)o->g.n_rows * BITMAP_K,
                    .run = run_gemm,
                    .operands = o,
                    .out = o->g.y,
                    .out_bytes = o->g.n_rows * sizeof *o->g.y};
    for (size_t i = 0; i <= BITMAPS; i++) {
        o->panel = kinds[i];
        w.bytes = o->n_panels * shoal_panel_bytes(kinds[i], BITMAP_K);
        fill_panels(b, kinds[i], (uint8_t *)(uintptr_t)o->g.panels, w.bytes);
        snprintf(shape, sizeof shape, "%zux%d %s", o->g.n_rows, (int)BITMAP_K,
                 shoal_panel_find(kinds[i])->name);
        s[i] = bench_time_tier(b, &w, tier);
    }
    tell_break_even(&w, tier, "weights kept", s[0], shares, s + 1, BITMAPS);
}

void bench_bitmaps(bench *b)
{
    const size_t panel_bytes = shoal_panel_bytes(SHOAL_PANEL_C4_64, BITMAP_K);
    const size_t n_panels = SHOAL_MAX(b->matrix_bytes / panel_bytes, (size_t)1);
    const size_t n_rows = n_panels * SHOAL_PANEL_ROWS;
    if (!bench_wants(b, "gemm_bitmap")) {
        return;
    }
    uint8_t *panels = bench_allocate(n_panels, panel_bytes);
    float *x = bench_random_row(b, BITMAP_K);
    float *y = bench_allocate(n_rows, sizeof *y);
    int8_t *xq = bench_allocate(BITMAP_K, 1);
    shoal_act_block *xb = bench_allocate(BITMAP_K / SHOAL_QBLOCK, sizeof *xb);
    b->scalar.quantize_q8(BITMAP_K, x, xq, xb);
    gemm_operands o = {.g = {.panels = panels,
                             .n_rows = n_rows,
                             .k = BITMAP_K,
                             .n_cols = 1,
                             .xq = xq,
                             .xb = xb,
                             .y = y,
                             .y_stride = n_rows},
                       .n_panels = n_panels};
    for (size_t i = 0; i < b->n_tiers; i++) {
        if (strcmp(b->tiers[i].tier, "scalar") != 0) {
            bench_bitmap_tier(b, &o, &b->tiers[i]);
        }
    }
    shoal_free(panels);
    shoal_free(x);
    shoal_free(y);
    shoal_free(xq);
    shoal_free(xb);
}

/* --- beside a product ------------------------------------------------------------------------- */

enum {
    SIDE_ROWS = 2048,
    SIDE_K = 2048,
    SIDE_RANK = 64,
    SIDE_STEPS = 10 /* single elements of a row: half a percent */
};

static void run_low(void *context)
{
    const bench_job *j = context;
    j->kernels->add_low(j->operands, 0, SIDE_ROWS / SHOAL_PANEL_ROWS);
}

static void run_singles(void *context)
{
    const bench_job *j = context;
    j->kernels->add_singles(j->operands, 0, SIDE_ROWS / SHOAL_PANEL_ROWS);
}

/* A half of [0.25, 0.5) with either sign. */
static uint16_t random_half(bench *b)
{
    return (uint16_t)((shoal_rng_next(&b->rng) & 0x83FF) | 0x3400);
}

/* y += L t of rank 64, for one column and for eight. */
static void bench_low(bench *b, size_t n_cols, float *t, float *y)
{
    const size_t n_panels = SIDE_ROWS / SHOAL_PANEL_ROWS;
    uint8_t *panels = bench_allocate(n_panels, shoal_low_bytes(SIDE_RANK));
    for (size_t p = 0; p < n_panels; p++) {
        uint8_t *panel = panels + p * shoal_low_bytes(SIDE_RANK);
        for (size_t i = 0; i < shoal_low_bytes(SIDE_RANK); i++) {
            panel[i] = (uint8_t)shoal_rng_next(&b->rng);
        }
        for (size_t r = 0; r < SIDE_RANK; r++) {
            const uint16_t d = random_half(b);
            memcpy(panel + 2 * r, &d, sizeof d);
        }
    }
    shoal_low low = {.panels = panels,
                     .n_rows = SIDE_ROWS,
                     .rank = SIDE_RANK,
                     .n_cols = n_cols,
                     .t = t,
                     .t_stride = SIDE_RANK,
                     .y = y,
                     .y_stride = SIDE_ROWS};
    char shape[48];
    snprintf(shape, sizeof shape, "%dx%d width %zu", (int)SIDE_ROWS, (int)SIDE_RANK, n_cols);
    const bench_work w = {.slot = "add_low",
                          .shape = shape,
                          .bytes = n_panels * shoal_low_bytes(SIDE_RANK) +
                                   2 * n_cols * SIDE_ROWS * sizeof *y,
                          .flops = 2 * (uint64_t)SIDE_ROWS * SIDE_RANK * n_cols,
                          .run = run_low,
                          .operands = &low,
                          .out = y,
                          .out_bytes = n_cols * SIDE_ROWS * sizeof *y};
    bench_all_tiers(b, &w);
    shoal_free(panels);
}

/* y += X x, ten elements a row. */
static void bench_singles(bench *b, size_t n_cols, float *x, float *y)
{
    const size_t n_panels = SIDE_ROWS / SHOAL_PANEL_ROWS;
    const size_t n = n_panels * SIDE_STEPS * SHOAL_PANEL_ROWS;
    uint32_t *begin = bench_allocate(n_panels + 1, sizeof *begin);
    uint32_t *counts = bench_allocate(SIDE_ROWS, sizeof *counts);
    uint16_t *cols = bench_allocate(n, sizeof *cols);
    uint16_t *values = bench_allocate(n, sizeof *values);
    for (size_t p = 0; p <= n_panels; p++) {
        begin[p] = (uint32_t)(p * SIDE_STEPS);
    }
    for (size_t r = 0; r < SIDE_ROWS; r++) {
        counts[r] = SIDE_STEPS;
    }
    for (size_t i = 0; i < n; i++) {
        cols[i] = (uint16_t)(shoal_rng_next(&b->rng) % SIDE_K);
        values[i] = random_half(b);
    }
    shoal_singles singles = {.begin = begin,
                             .counts = counts,
                             .cols = cols,
                             .values = values,
                             .n_rows = SIDE_ROWS,
                             .n_cols = n_cols,
                             .x = x,
                             .x_stride = SIDE_K,
                             .y = y,
                             .y_stride = SIDE_ROWS};
    char shape[48];
    snprintf(shape, sizeof shape, "%dx%d, %d a row, width %zu", (int)SIDE_ROWS, (int)SIDE_K,
             (int)SIDE_STEPS, n_cols);
    const bench_work w = {.slot = "add_singles",
                          .shape = shape,
                          .bytes = n * 4 + 2 * n_cols * SIDE_ROWS * sizeof *y,
                          .flops = 2 * (uint64_t)n * n_cols,
                          .run = run_singles,
                          .operands = &singles,
                          .out = y,
                          .out_bytes = n_cols * SIDE_ROWS * sizeof *y};
    bench_all_tiers(b, &w);
    shoal_free(begin);
    shoal_free(counts);
    shoal_free(cols);
    shoal_free(values);
}

void bench_sides(bench *b)
{
    static const size_t widths[] = {1, 8};
    float *x = bench_random_row(b, 8 * (size_t)SIDE_K);
    float *y = bench_random_row(b, 8 * (size_t)SIDE_ROWS);
    for (size_t i = 0; i < SHOAL_COUNT(widths); i++) {
        if (bench_wants(b, "add_low")) {
            bench_low(b, widths[i], x, y);
        }
        if (bench_wants(b, "add_singles")) {
            bench_singles(b, widths[i], x, y);
        }
    }
    shoal_free(x);
    shoal_free(y);
}

/* --- whole numbers ---------------------------------------------------------------------------- */

enum {
    WHOLE_ROWS = 1024, /* of a basis of archived KV: keys of one layer */
    WHOLE_PAIRS = WHOLE_ROWS / 2
};

typedef struct whole_operands {
    int16_t *w;
    int16_t *x;
    int32_t *y;
} whole_operands;

static void run_whole(void *context)
{
    const bench_job *j = context;
    const whole_operands *o = j->operands;
    j->kernels->mul_whole(WHOLE_ROWS, WHOLE_PAIRS, o->w, WHOLE_ROWS, o->x, o->y);
}

/* A basis of 1024 channels times a block of 32 tokens. */
void bench_whole(bench *b)
{
    const size_t n_x = (size_t)WHOLE_PAIRS * SHOAL_KV_BLOCK * 2;
    const size_t n_y = (size_t)WHOLE_ROWS * SHOAL_KV_BLOCK;
    if (!bench_wants(b, "mul_whole")) {
        return;
    }
    whole_operands o = {.w = bench_allocate((size_t)WHOLE_ROWS * WHOLE_ROWS, sizeof *o.w),
                        .x = bench_allocate(n_x, sizeof *o.x),
                        .y = bench_allocate(n_y, sizeof *o.y)};
    for (size_t i = 0; i < (size_t)WHOLE_ROWS * WHOLE_ROWS; i++) {
        o.w[i] = (int16_t)shoal_rng_next(&b->rng);
    }
    for (size_t i = 0; i < n_x; i++) {
        o.x[i] = (int16_t)shoal_rng_next(&b->rng);
    }
    const bench_work w = {.slot = "mul_whole",
                          .shape = "1024x1024, 32 tokens",
                          .bytes = (uint64_t)WHOLE_ROWS * WHOLE_ROWS * 2 + n_x * 2 + n_y * 4,
                          .flops = 2 * (uint64_t)WHOLE_ROWS * WHOLE_ROWS * SHOAL_KV_BLOCK,
                          .run = run_whole,
                          .operands = &o,
                          .out = o.y,
                          .out_bytes = n_y * sizeof *o.y};
    bench_all_tiers(b, &w);
    shoal_free(o.w);
    shoal_free(o.x);
    shoal_free(o.y);
}
