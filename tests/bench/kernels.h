/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of shoal-bench-kernels share: a subject is compared with scalar bit by bit in
 * every tier, then timed. One thread.
 */
#ifndef SHOAL_TESTS_BENCH_KERNELS_H
#define SHOAL_TESTS_BENCH_KERNELS_H

#include "common/base/macros.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "tests/bench/bench.h"

enum {
    BENCH_TIERS_MAX = 4,
    BENCH_CACHED_BYTES = 256 * 1024
};

typedef struct bench {
    bench_settings settings;
    bench_report report;
    const char *slot; /* NULL: all */
    const char *tier; /* NULL: all */
    size_t matrix_bytes;
    shoal_kernels scalar;
    shoal_kernels tiers[BENCH_TIERS_MAX];
    size_t n_tiers;
    size_t n_different;
    uint64_t rng;
} bench;

/* One subject in one tier: what a run is given. */
typedef struct bench_job {
    const shoal_kernels *kernels;
    void *operands;
} bench_job;

/* What all tiers of one subject share. */
typedef struct bench_work {
    const char *slot;
    const char *shape;
    uint64_t bytes;
    uint64_t flops;
    bench_fn *run; /* of a bench_job */
    void *operands;
    void *out; /* what the run writes, compared between tiers */
    size_t out_bytes;
} bench_work;

/* --- what the program asks for ---------------------------------------------------------------- */

void bench_products(bench *b);
void bench_firing(bench *b);
void bench_bitmaps(bench *b);
void bench_sides(bench *b);
void bench_whole(bench *b);
void bench_rows(bench *b);
void bench_attentions(bench *b);
void bench_seals(bench *b);

/* --- what they are made of -------------------------------------------------------------------- */

/* Whether the slot was asked for. */
bool bench_wants(const bench *b, const char *slot);
/* n * size zeroed bytes, on huge pages where it is large, as weights and KV are; shoal_free.
 * Without memory the program ends: there is nothing to unwind. */
void *bench_allocate(size_t n, size_t size);
/* n numbers of [-1, 1); shoal_free. */
float *bench_random_row(bench *b, size_t n);
/* A difference is told and counted. What the run writes is as before. */
void bench_check_tier(bench *b, const bench_work *w, const shoal_kernels *tier);
/* A row of the report; returns the median in seconds. */
double bench_time_tier(bench *b, const bench_work *w, const shoal_kernels *tier);
/* Both, in every tier. */
void bench_all_tiers(bench *b, const bench_work *w);

#endif
