/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-bench-kernels: every slot of every tier of this machine, first compared with scalar bit by
 * bit, then timed. Matrices are taken once larger than the caches (what decoding meets) and once
 * inside them (what the arithmetic can do).
 */
#include "common/base/macros.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "tests/bench/bench.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    TIERS_MAX = 4,
    COLS_MAX = 32,
    MIB_DEFAULT = 96,
    MIB_MAX = 4096,
    CACHED_BYTES = 256 * 1024,
    N_ROW = 4096,     /* elements of a row operation: a hidden state */
    N_VOCAB = 131072, /* elements of a reduction over the vocabulary */
    N_TOKENS = 2048,
    N_BLOCKS = N_TOKENS / SHOAL_KV_BLOCK,
    DIM_MAX = 128
};

typedef struct bench {
    bench_settings settings;
    bench_report report;
    const char *slot; /* NULL: all */
    const char *tier; /* NULL: all */
    size_t matrix_bytes;
    shoal_kernels scalar;
    shoal_kernels tiers[TIERS_MAX];
    size_t n_tiers;
    size_t n_different;
    uint64_t rng;
} bench;

/* One subject in one tier. */
typedef struct job {
    const shoal_kernels *kernels;
    void *operands;
} job;

/* What all tiers of one subject share. */
typedef struct work {
    const char *slot;
    const char *shape;
    uint64_t bytes;
    uint64_t flops;
    bench_fn *run;
    void *operands;
    void *out; /* what the run writes, compared between tiers */
    size_t out_bytes;
} work;

static bool is_wanted(const bench *b, const char *slot)
{
    return !b->slot || strstr(slot, b->slot);
}

/* A benchmark that finds no memory has nothing to unwind. */
/* On huge pages where it is large, as weights and KV are. */
static void *allocate(size_t n, size_t size)
{
    void *p = shoal_calloc_huge(n, size);
    if (!p) {
        fprintf(stderr, "shoal-bench-kernels: no memory for %zu bytes, see --mib\n", n * size);
        exit(2);
    }
    return p;
}

static float *random_row(bench *b, size_t n)
{
    float *x = allocate(n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((double)(shoal_rng_next(&b->rng) >> 11) * 0x1p-52 - 1.0);
    }
    return x;
}

/* Runs the work once in both tiers from the same start and compares every byte. */
static bool is_same(const bench *b, const work *w, const shoal_kernels *tier)
{
    uint8_t *start = allocate(w->out_bytes, 1);
    uint8_t *expected = allocate(w->out_bytes, 1);
    memcpy(start, w->out, w->out_bytes);
    w->run(&(job){&b->scalar, w->operands});
    memcpy(expected, w->out, w->out_bytes);
    memcpy(w->out, start, w->out_bytes);
    w->run(&(job){tier, w->operands});
    bool same = memcmp(expected, w->out, w->out_bytes) == 0;
    memcpy(w->out, start, w->out_bytes);
    shoal_free(start);
    shoal_free(expected);
    return same;
}

static double time_tier(bench *b, const work *w, const shoal_kernels *tier)
{
    bench_subject subject = {
        .name = w->slot,
        .shape = w->shape,
        .variant = tier->tier,
        .bytes = w->bytes,
        .flops = w->flops,
        .run = w->run,
        .context = &(job){tier, w->operands},
    };
    bench_result result = bench_measure(&b->settings, &subject);
    bench_report_row(&b->report, &subject, &result);
    return result.median_s;
}

static void check_tier(bench *b, const work *w, const shoal_kernels *tier)
{
    if (!is_same(b, w, tier)) {
        fprintf(stderr, "shoal-bench-kernels: %s of %s, %s: bits differ from scalar\n", w->slot,
                tier->tier, w->shape);
        b->n_different++;
    }
}

static void bench_work(bench *b, const work *w)
{
    for (size_t i = 0; i < b->n_tiers; i++) {
        check_tier(b, w, &b->tiers[i]);
        (void)time_tier(b, w, &b->tiers[i]);
    }
}

/* --- products --------------------------------------------------------------------------------- */

typedef struct gemm_operands {
    shoal_gemm g;
    size_t n_panels; /* to run */
    shoal_panel panel;
} gemm_operands;

static void run_gemm(void *context)
{
    const job *j = context;
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
    work w = {.slot = slot,
              .shape = shape,
              .run = run_gemm,
              .operands = o,
              .out = g->y,
              .out_bytes = n_cols * g->y_stride * sizeof *g->y};
    for (size_t i = 0; i < b->n_tiers; i++) {
        o->n_panels = part;
        check_tier(b, &w, &b->tiers[i]);
        o->n_panels = strcmp(b->tiers[i].tier, "scalar") == 0 ? part : all;
        size_t rows = o->n_panels * SHOAL_PANEL_ROWS;
        snprintf(shape, sizeof shape, "%zux%zu width %zu", rows, g->k, n_cols);
        size_t x_bytes = info->quantised ? g->k * 2 : g->k * 4;
        w.bytes = o->n_panels * shoal_panel_bytes(o->panel, g->k) + n_cols * (x_bytes + rows * 4);
        w.flops = 2 * (uint64_t)rows * g->k * n_cols;
        (void)time_tier(b, &w, &b->tiers[i]);
    }
}

/* One matrix of about that many bytes at several widths. */
static void bench_matrix(bench *b, shoal_panel panel, size_t k, size_t bytes, const size_t *widths,
                         size_t n_widths)
{
    size_t panel_bytes = shoal_panel_bytes(panel, k);
    size_t n_panels = bytes / panel_bytes > 0 ? bytes / panel_bytes : 1;
    size_t n_rows = n_panels * SHOAL_PANEL_ROWS;
    uint8_t *panels = allocate(n_panels, panel_bytes);
    fill_panels(b, panel, panels, n_panels * panel_bytes);
    float *x = random_row(b, COLS_MAX * k);
    float *y = allocate(COLS_MAX, n_rows * sizeof *y);
    int8_t *xq = allocate(COLS_MAX, k);
    shoal_act_block *xb = allocate(COLS_MAX, k / SHOAL_QBLOCK * sizeof *xb);
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

static void bench_products(bench *b)
{
    static const size_t widths[] = {1, 2, 4, 5, 8, COLS_MAX};
    static const size_t cached_widths[] = {1, 8};
    for (size_t i = 0; i < SHOAL_PANELS; i++) {
        char slot[24];
        snprintf(slot, sizeof slot, "gemm_%s", shoal_panel_find((shoal_panel)i)->name);
        if (is_wanted(b, slot)) {
            bench_matrix(b, (shoal_panel)i, 2048, b->matrix_bytes, widths,
                         sizeof widths / sizeof widths[0]);
            bench_matrix(b, (shoal_panel)i, 1024, CACHED_BYTES, cached_widths,
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
    const job *j = context;
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
static void tell_break_even(const work *w, const shoal_kernels *tier, const char *what,
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
    o->tiles = allocate(o->n_tiles, o->tile_bytes);
    fill_panels(b, SHOAL_PANEL_Q4_0, o->tiles, o->n_tiles * o->tile_bytes);
    for (size_t at = 0; at < o->n_tiles * o->tile_bytes; at += 2) {
        if (at % shoal_tile_block_bytes(tile_rows) < 2 * tile_rows) {
            const uint16_t d = (uint16_t)((shoal_rng_next(&b->rng) & 0x83FF) | 0x2000);
            memcpy(o->tiles + at, &d, sizeof d);
        }
    }
    o->xq = allocate(FIRING_K, 1);
    o->xb = allocate(FIRING_K / SHOAL_QBLOCK, sizeof *o->xb);
    o->y = allocate(n_rows, sizeof *o->y);
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
    work w = {.slot = "gemm_firing",
              .shape = shape,
              .bytes = o->n_tiles * o->tile_bytes,
              .flops = 2 * (uint64_t)n_rows * FIRING_K,
              .run = run_gemm,
              .operands = &o->all,
              .out = o->y,
              .out_bytes = n_rows * sizeof *o->y};
    draw_firing(b, 100, o->xq, o->xb);
    const double all_s = time_tier(b, &w, tier);
    w.run = run_firing;
    w.operands = &o->firing;
    for (size_t i = 0; i < DENSITIES; i++) {
        const double part = (1 + 8 * (densities[i] / 100.0)) / 9; /* scales are always read */
        draw_firing(b, densities[i], o->xq, o->xb);
        snprintf(shape, sizeof shape, "%zux%d %u%% fire", n_rows, (int)FIRING_K, densities[i]);
        w.bytes = (uint64_t)((double)(o->n_tiles * o->tile_bytes) * part);
        check_tier(b, &w, tier);
        s[i] = time_tier(b, &w, tier);
    }
    tell_break_even(&w, tier, "inputs fire", all_s, densities, s, DENSITIES);
}

static void bench_firing(bench *b)
{
    firing_operands o = {.n_tiles = 0};
    if (!is_wanted(b, "gemm_firing")) {
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
    work w = {.slot = "gemm_bitmap",
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
        s[i] = time_tier(b, &w, tier);
    }
    tell_break_even(&w, tier, "weights kept", s[0], shares, s + 1, BITMAPS);
}

static void bench_bitmaps(bench *b)
{
    const size_t panel_bytes = shoal_panel_bytes(SHOAL_PANEL_C4_64, BITMAP_K);
    const size_t n_panels = SHOAL_MAX(b->matrix_bytes / panel_bytes, (size_t)1);
    const size_t n_rows = n_panels * SHOAL_PANEL_ROWS;
    if (!is_wanted(b, "gemm_bitmap")) {
        return;
    }
    uint8_t *panels = allocate(n_panels, panel_bytes);
    float *x = random_row(b, BITMAP_K);
    float *y = allocate(n_rows, sizeof *y);
    int8_t *xq = allocate(BITMAP_K, 1);
    shoal_act_block *xb = allocate(BITMAP_K / SHOAL_QBLOCK, sizeof *xb);
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

/* --- rows ------------------------------------------------------------------------------------- */

typedef struct row_operands {
    const float *x;
    const float *w;
    float *y;
    int8_t *q;
    shoal_act_block *acts;
    uint16_t *blocks; /* K, then V */
} row_operands;

static void run_quantize(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->quantize_q8(N_ROW, o->x, o->q, o->acts);
}

static void run_rmsnorm(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->rmsnorm(N_ROW, o->x, o->w, 1e-5F, o->y);
}

/* Cosine and sine of an angle, so that turning again and again keeps the length. */
static void run_rope(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->rope(N_ROW / DIM_MAX, DIM_MAX, DIM_MAX, o->w, o->w + DIM_MAX / 2, o->y);
}

static void run_swiglu(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->swiglu(N_ROW, o->x, o->w, o->y);
}

static void run_rope_halves(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->rope_halves(N_ROW / DIM_MAX, DIM_MAX, DIM_MAX, o->w, o->w + DIM_MAX / 2, o->y);
}

static void run_hadamard(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->hadamard(N_ROW / DIM_MAX, DIM_MAX, o->y);
}

static void run_geglu(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->geglu(N_ROW, o->x, o->w, o->y);
}

static void run_add_scaled(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->add_scaled(N_ROW, 0.5F, o->x, o->y);
}

static void run_softcap(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->softcap(N_ROW, 30.0F, o->y);
}

static void run_add(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->add(N_ROW, o->x, o->y);
}

static void run_argmax(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    size_t at = j->kernels->argmax(N_VOCAB, o->x, o->y);
    o->y[1] = (float)at;
}

static void run_sum_exp(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    o->y[0] = j->kernels->sum_exp(N_VOCAB, o->x, 1.0F, 0.8F);
}

static void run_store_f32(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->kv_store_f32(DIM_MAX, DIM_MAX, o->x, o->w, 5, o->y,
                             o->y + DIM_MAX * SHOAL_KV_BLOCK);
}

static void run_store_q8(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    uint8_t *block = (uint8_t *)o->blocks;
    j->kernels->kv_store_q8(DIM_MAX, DIM_MAX, o->x, o->w, 5, block,
                            block + SHOAL_KV_Q8_SCALES + DIM_MAX * SHOAL_KV_BLOCK);
}

static void run_store_f16(void *context)
{
    const job *j = context;
    const row_operands *o = j->operands;
    j->kernels->kv_store_f16(DIM_MAX, DIM_MAX, o->x, o->w, 5, o->blocks,
                             o->blocks + DIM_MAX * SHOAL_KV_BLOCK);
}

static void bench_rows(bench *b)
{
    enum {
        N_BLOCK = 2 * DIM_MAX * SHOAL_KV_BLOCK
    };
    float *x = random_row(b, N_VOCAB);
    float *w = random_row(b, N_ROW);
    row_operands o = {
        .x = x,
        .w = w,
        .y = random_row(b, N_BLOCK),
        .q = allocate(N_ROW, 1),
        .acts = allocate(N_ROW / SHOAL_QBLOCK, sizeof(shoal_act_block)),
        .blocks = allocate(N_BLOCK, sizeof(uint16_t)),
    };
    float *turn = random_row(b, DIM_MAX);
    for (size_t i = 0; i < DIM_MAX / 2; i++) {
        turn[i] = 0.6F;
        turn[i + DIM_MAX / 2] = 0.8F;
    }
    row_operands rope = o;
    rope.w = turn;
    size_t store = (size_t)DIM_MAX * 2;
    const work works[] = {
        {"quantize_q8", "4096", N_ROW * 5, N_ROW * 3, run_quantize, &o, o.q, N_ROW},
        {"rmsnorm", "4096", N_ROW * 12, N_ROW * 4, run_rmsnorm, &o, o.y, N_ROW * 4},
        {"rope", "32 heads of 128", N_ROW * 8, N_ROW * 3, run_rope, &rope, o.y, N_ROW * 4},
        {"rope_halves", "32 heads of 128", N_ROW * 8, N_ROW * 3, run_rope_halves, &rope, o.y,
         N_ROW * 4},
        {"hadamard", "32 heads of 128", N_ROW * 8, N_ROW * 8, run_hadamard, &o, o.y, N_ROW * 4},
        {"geglu", "4096", N_ROW * 12, N_ROW * 26, run_geglu, &o, o.y, N_ROW * 4},
        {"add_scaled", "4096", N_ROW * 12, N_ROW * 2, run_add_scaled, &o, o.y, N_ROW * 4},
        {"softcap", "4096", N_ROW * 8, N_ROW * 34, run_softcap, &o, o.y, N_ROW * 4},
        {"swiglu", "4096", N_ROW * 12, N_ROW * 22, run_swiglu, &o, o.y, N_ROW * 4},
        {"add", "4096", N_ROW * 12, N_ROW, run_add, &o, o.y, N_ROW * 4},
        {"argmax", "131072", N_VOCAB * 4, N_VOCAB, run_argmax, &o, o.y, 8},
        {"sum_exp", "131072", N_VOCAB * 4, N_VOCAB * 22, run_sum_exp, &o, o.y, 4},
        {"kv_store_f32", "128", store * 8, 0, run_store_f32, &o, o.y, N_BLOCK * 4},
        {"kv_store_f16", "128", store * 6, 0, run_store_f16, &o, o.blocks, N_BLOCK * 2},
        {"kv_store_q8", "128", store * 5, 0, run_store_q8, &o, o.blocks, N_BLOCK * 2},
    };
    for (size_t i = 0; i < sizeof works / sizeof works[0]; i++) {
        if (is_wanted(b, works[i].slot)) {
            bench_work(b, &works[i]);
        }
    }
    shoal_free(x);
    shoal_free(w);
    shoal_free(o.y);
    shoal_free(o.q);
    shoal_free(o.acts);
    shoal_free(o.blocks);
    shoal_free(turn);
}

/* --- attention -------------------------------------------------------------------------------- */

/* The blocks of so many KV heads or layers, each of them attended in turn. */
typedef struct attends {
    size_t slot; /* offset of the kernel */
    shoal_attend a;
    size_t n_sets;
    const void **k_blocks; /* [n_sets][N_BLOCKS] */
    const void **v_blocks;
} attends;

typedef void attend_fn(const shoal_attend *a);

static void run_attends(void *context)
{
    const job *j = context;
    const attends *s = j->operands;
    attend_fn *attend = NULL;
    memcpy(&attend, (const char *)j->kernels + s->slot, sizeof attend);
    shoal_attend a = s->a;
    for (size_t i = 0; i < s->n_sets; i++) {
        a.k_blocks = s->k_blocks + i * N_BLOCKS;
        a.v_blocks = s->v_blocks + i * N_BLOCKS;
        attend(&a);
    }
}

/* One stored form. */
typedef struct stored {
    const char *slot;
    size_t element; /* bytes */
    size_t scales;  /* bytes in front of a block */
    size_t store;   /* offsets of the kernels */
    size_t attend;
    bool sealed; /* afterwards, all but the first and the last block */
    shoal_kv_level level;
} stored;

static const stored forms[] = {
    {"attend_f32", 4, 0, offsetof(shoal_kernels, kv_store_f32), offsetof(shoal_kernels, attend_f32),
     false, 0},
    {"attend_f16", 2, 0, offsetof(shoal_kernels, kv_store_f16), offsetof(shoal_kernels, attend_f16),
     false, 0},
    {"attend_q8", 1, SHOAL_KV_Q8_SCALES, offsetof(shoal_kernels, kv_store_q8),
     offsetof(shoal_kernels, attend_q8), false, 0},
    {"attend_sealed_q8", 2, 0, offsetof(shoal_kernels, kv_store_f16),
     offsetof(shoal_kernels, attend_sealed), true, SHOAL_KV_LEVEL_Q8},
    {"attend_sealed_q4", 2, 0, offsetof(shoal_kernels, kv_store_f16),
     offsetof(shoal_kernels, attend_sealed), true, SHOAL_KV_LEVEL_Q4},
    {"attend_sealed_q3", 2, 0, offsetof(shoal_kernels, kv_store_f16),
     offsetof(shoal_kernels, attend_sealed), true, SHOAL_KV_LEVEL_Q3},
};

/* Seals the blocks where they are. Returns the bytes that attention reads. */
static uint64_t seal_blocks(bench *b, const stored *f, size_t dim, size_t block, uint8_t *keys,
                            uint8_t *values)
{
    uint16_t *x = allocate(dim * SHOAL_KV_BLOCK, sizeof *x);
    for (size_t i = 1; i + 1 < N_BLOCKS; i++) {
        memcpy(x, keys + i * block, dim * SHOAL_KV_BLOCK * sizeof *x);
        b->scalar.kv_seal(f->level, dim, SHOAL_KV_BLOCK, x, keys + i * block);
        memcpy(x, values + i * block, dim * SHOAL_KV_BLOCK * sizeof *x);
        b->scalar.kv_seal(f->level, SHOAL_KV_BLOCK, dim, x, values + i * block);
    }
    shoal_free(x);
    size_t sealed = shoal_kv_sealed_bytes(f->level, dim, SHOAL_KV_BLOCK) +
                    shoal_kv_sealed_bytes(f->level, SHOAL_KV_BLOCK, dim);
    return (N_BLOCKS - 2) * (uint64_t)sealed + 4 * (uint64_t)block;
}

typedef void store_fn(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                      void *kblock, void *vblock);

/* Fills one set of blocks. Returns the bytes that attention reads of them. */
static uint64_t fill_set(bench *b, const stored *f, size_t head_dim, size_t block, uint8_t *keys,
                         uint8_t *values)
{
    float *row = random_row(b, 2 * head_dim);
    store_fn *store = NULL;
    memcpy(&store, (const char *)&b->scalar + f->store, sizeof store);
    for (size_t t = 0; t < N_TOKENS; t++) {
        size_t at = t / SHOAL_KV_BLOCK * block;
        row[t % head_dim] += 0.125F;
        store(head_dim, head_dim, row, row + head_dim, t % SHOAL_KV_BLOCK, keys + at, values + at);
    }
    shoal_free(row);
    return f->sealed ? seal_blocks(b, f, head_dim, block, keys, values)
                     : 2 * N_BLOCKS * (uint64_t)block;
}

/* Copies of one set of blocks, each block right behind the one before, as pools have
 * them: the first and the last of `block` bytes, the others of `bytes`. */
static uint8_t *copy_sets(const uint8_t *blocks, size_t block, size_t bytes, size_t n_sets,
                          const void **ret_blocks)
{
    uint8_t *sets = allocate(n_sets, 2 * block + (N_BLOCKS - 2) * bytes);
    for (size_t i = 0, to = 0; i < n_sets * N_BLOCKS; i++) {
        size_t at = i % N_BLOCKS;
        size_t n = at == 0 || at + 1 == N_BLOCKS ? block : bytes;
        ret_blocks[i] = memcpy(sets + to, blocks + at * block, n);
        to += n;
    }
    return sets;
}

static void bench_attention(bench *b, const stored *f, size_t n_sets, size_t n_rows, size_t n_heads,
                            size_t head_dim)
{
    if (!is_wanted(b, f->slot)) {
        return;
    }
    size_t block = f->scales + head_dim * SHOAL_KV_BLOCK * f->element;
    uint8_t *keys = allocate(N_BLOCKS, block);
    uint8_t *values = allocate(N_BLOCKS, block);
    const void **pointers = allocate(2 * n_sets * N_BLOCKS, sizeof *pointers);
    uint64_t n_bytes = n_sets * fill_set(b, f, head_dim, block, keys, values);
    size_t k_bytes = f->sealed ? shoal_kv_sealed_bytes(f->level, head_dim, SHOAL_KV_BLOCK) : block;
    size_t v_bytes = f->sealed ? shoal_kv_sealed_bytes(f->level, SHOAL_KV_BLOCK, head_dim) : block;
    uint8_t *k_sets = copy_sets(keys, block, k_bytes, n_sets, pointers);
    uint8_t *v_sets = copy_sets(values, block, v_bytes, n_sets, pointers + n_sets * N_BLOCKS);
    shoal_free(keys);
    shoal_free(values);
    size_t n_lines = n_rows * n_heads;
    float *q = random_row(b, n_lines * head_dim);
    float *out = random_row(b, n_lines * head_dim);
    attends s = {.slot = f->attend,
                 .a = {.n_rows = n_rows,
                       .n_heads = n_heads,
                       .k_dim = head_dim,
                       .v_dim = head_dim,
                       .n_tokens = N_TOKENS - n_rows + 1,
                       .scale = 0.0883883F,
                       .q = q,
                       .q_stride = n_heads * head_dim,
                       .out = out,
                       .out_stride = n_heads * head_dim,
                       .sealed_from = 1,
                       .sealed_to = N_BLOCKS - 1,
                       .k_level = f->level,
                       .v_level = f->level},
                 .n_sets = n_sets,
                 .k_blocks = pointers,
                 .v_blocks = pointers + n_sets * N_BLOCKS};
    char shape[64];
    snprintf(shape, sizeof shape, "%zu x %zu heads of %zu, %d tokens%s", n_rows, n_heads, head_dim,
             N_TOKENS, n_sets > 1 ? ", cold" : "");
    work w = {f->slot,     shape, n_bytes, 4 * (uint64_t)(n_sets * n_lines * head_dim * N_TOKENS),
              run_attends, &s,    out,     n_lines * head_dim * sizeof *out};
    bench_work(b, &w);
    shoal_free(k_sets);
    shoal_free(v_sets);
    shoal_free(pointers);
    shoal_free(q);
    shoal_free(out);
}

/* --- sealing ---------------------------------------------------------------------------------- */

typedef struct codec {
    shoal_kv_level level;
    uint16_t *x;    /* K and V of N_SEALED blocks, [2][32 * DIM_MAX] each */
    uint8_t *block; /* sealed, each at a multiple of bytes */
    size_t bytes;
} codec;

enum {
    N_SEALED = 64, /* blocks: 1 MiB of f16 */
    N_ELEMENTS = DIM_MAX * SHOAL_KV_BLOCK
};

static void run_seal(void *context)
{
    const job *j = context;
    const codec *c = j->operands;
    for (size_t i = 0; i < N_SEALED; i++) {
        const uint16_t *x = c->x + 2 * i * N_ELEMENTS;
        uint8_t *block = c->block + 2 * i * c->bytes;
        j->kernels->kv_seal(c->level, DIM_MAX, SHOAL_KV_BLOCK, x, block);
        j->kernels->kv_seal(c->level, SHOAL_KV_BLOCK, DIM_MAX, x + N_ELEMENTS, block + c->bytes);
    }
}

static void run_unseal(void *context)
{
    const job *j = context;
    const codec *c = j->operands;
    for (size_t i = 0; i < N_SEALED; i++) {
        uint16_t *x = c->x + 2 * i * N_ELEMENTS;
        const uint8_t *block = c->block + 2 * i * c->bytes;
        j->kernels->kv_unseal(c->level, DIM_MAX, SHOAL_KV_BLOCK, block, x);
        j->kernels->kv_unseal(c->level, SHOAL_KV_BLOCK, DIM_MAX, block + c->bytes, x + N_ELEMENTS);
    }
}

/* GB/s is of f16. */
static void bench_seals(bench *b)
{
    static const char *const slots[][2] = {{"kv_seal_q8", "kv_unseal_q8"},
                                           {"kv_seal_q4", "kv_unseal_q4"},
                                           {"kv_seal_q3", "kv_unseal_q3"}};
    for (size_t level = 0; level < SHOAL_KV_LEVELS; level++) {
        codec c = {.level = (shoal_kv_level)level};
        c.bytes = shoal_kv_sealed_bytes(c.level, DIM_MAX, SHOAL_KV_BLOCK);
        c.x = allocate(2 * N_SEALED * N_ELEMENTS, sizeof *c.x);
        c.block = allocate(2 * N_SEALED, c.bytes);
        for (size_t i = 0; i < 2 * N_SEALED * N_ELEMENTS; i++) {
            c.x[i] = (uint16_t)(0x3000 + shoal_rng_next(&b->rng) % 0x0C00);
        }
        run_seal(&(job){&b->scalar, &c}); /* what is opened */
        const work works[] = {
            {slots[level][0], "64 blocks of 128", 4 * (uint64_t)N_SEALED * N_ELEMENTS, 0, run_seal,
             &c, c.block, 2 * N_SEALED * c.bytes},
            {slots[level][1], "64 blocks of 128", 4 * (uint64_t)N_SEALED * N_ELEMENTS, 0,
             run_unseal, &c, c.x, 2 * N_SEALED * N_ELEMENTS * sizeof *c.x},
        };
        for (size_t i = 0; i < SHOAL_COUNT(works); i++) {
            if (is_wanted(b, works[i].slot)) {
                bench_work(b, &works[i]);
            }
        }
        shoal_free(c.x);
        shoal_free(c.block);
    }
}

/* Decoding with a group, one head alone, and eight rows of a prompt, with blocks in the second
 * cache; then the group with the blocks of many layers, which no cache holds. */
static void bench_attentions(bench *b)
{
    size_t n_cold = b->matrix_bytes / (2 * N_TOKENS * DIM_MAX * sizeof(uint16_t));
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        bench_attention(b, &forms[i], 1, 1, 4, 64);
        bench_attention(b, &forms[i], 1, 1, 4, DIM_MAX);
        bench_attention(b, &forms[i], 1, 1, 1, DIM_MAX);
        bench_attention(b, &forms[i], 1, 8, 4, 64);
        bench_attention(b, &forms[i], n_cold > 1 ? n_cold : 2, 1, 4, DIM_MAX);
    }
}

/* --- the program ------------------------------------------------------------------------------ */

static void add_tier(bench *b, uint32_t mask, char *names, size_t size)
{
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, mask);
    size_t length = strlen(names);
    snprintf(names + length, size - length, "%s%s", length ? " " : "", kernels.tier);
    if (!b->tier || strcmp(b->tier, kernels.tier) == 0) {
        b->tiers[b->n_tiers++] = kernels;
    }
}

/* A whole number of MiB within bounds, 0 for anything else. */
static size_t parse_mib(const char *text)
{
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    return errno || end == text || *end || text[0] == '-' || value > MIB_MAX ? 0 : value;
}

static int usage(FILE *out)
{
    fprintf(
        out,
        "usage: shoal-bench-kernels [--json] [--smoke] [--slot TEXT] [--tier NAME] [--mib N]\n"
        "  --json       one JSON object instead of a table\n"
        "  --smoke      one run of everything on small matrices: proves that it works\n"
        "  --slot TEXT  only slots whose name holds TEXT (gemm, attend_f16)\n"
        "  --tier NAME  only this tier (scalar, avx2, avx512, neon, neon-dotprod, neon-i8mm)\n"
        "  --mib N      size of the large matrices, 1 to %d MiB (%d); more than the last cache\n"
        "Exit status: 0; 1 when a tier's bits differ from scalar; 2 for anything else.\n",
        MIB_MAX, MIB_DEFAULT);
    return out == stdout ? 0 : 2;
}

static int run_all(bench *b, bool json)
{
    char names[64] = "";
    shoal_kernels_init(&b->scalar, 0);
    add_tier(b, 0, names, sizeof names);
    if (shoal_cpu_detect() & SHOAL_CPU_AVX2) {
        add_tier(b, SHOAL_CPU_AVX2, names, sizeof names);
    }
    if (shoal_cpu_detect() & SHOAL_CPU_AVX512) {
        add_tier(b, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, names, sizeof names);
    }
    static const uint32_t neon[] = {SHOAL_CPU_NEON, SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD,
                                    SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD | SHOAL_CPU_I8MM};
    for (size_t i = 0; i < sizeof neon / sizeof neon[0]; i++) {
        if ((shoal_cpu_detect() & neon[i]) == neon[i]) {
            add_tier(b, neon[i], names, sizeof names);
        }
    }
    if (b->n_tiers == 0) {
        fprintf(stderr, "shoal-bench-kernels: no tier %s here, there are: %s\n", b->tier, names);
        return 2;
    }
    bench_report_begin(&b->report, stdout, json, names);
    bench_products(b);
    bench_firing(b);
    bench_bitmaps(b);
    bench_attentions(b);
    bench_seals(b);
    bench_rows(b);
    if (bench_report_end(&b->report) < 0) {
        return 2;
    }
    return b->n_different ? 1 : 0;
}

int main(int argc, char **argv)
{
    static bench b;
    b.settings = bench_settings_default();
    b.matrix_bytes = (size_t)MIB_DEFAULT << 20;
    b.rng = 20261124;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--smoke") == 0) {
            b.settings = bench_settings_smoke();
            b.matrix_bytes = CACHED_BYTES;
        } else if (strcmp(argv[i], "--slot") == 0 && has_value) {
            b.slot = argv[++i];
        } else if (strcmp(argv[i], "--tier") == 0 && has_value) {
            b.tier = argv[++i];
        } else if (strcmp(argv[i], "--mib") == 0 && has_value) {
            b.matrix_bytes = parse_mib(argv[++i]) << 20;
        } else if (strcmp(argv[i], "--help") == 0) {
            return usage(stdout);
        } else {
            return usage(stderr);
        }
    }
    return b.matrix_bytes == 0 ? usage(stderr) : run_all(&b, json);
}
