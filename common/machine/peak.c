/* SPDX-License-Identifier: Apache-2.0 */
#include "common/machine/peak.h"

#include "common/base/clock.h"
#include "common/base/macros.h"
#include "common/base/mem.h"
#include "common/kernels/kernels.h"
#include "common/machine/peak_internal.h"

#include <stdint.h>
#include <time.h>

enum {
    READ_BYTES = 256 << 20, /* larger than any last cache */
    PART_BYTES = 4 << 20,
    N_PARTS = READ_BYTES / PART_BYTES,
    LINE = 8,    /* words of a cache line */
    AHEAD = 512, /* words */
    PASSES = 5,
    ROUNDS = 1000000, /* of the register loops, in each thread: about 2 ms */
    BURSTS = 5
};

struct shoal_peak {
    shoal_pool *pool;
    uint64_t *data;
    uint64_t sums[N_PARTS]; /* so that nothing is optimised away */
    double ops[SHOAL_POOL_THREADS_MAX];
    double (*loop)(size_t n);
};

shoal_peak *shoal_peak_new(shoal_pool *pool)
{
    shoal_peak *p = shoal_calloc(1, sizeof *p);
    if (!p) {
        return NULL;
    }
    p->pool = pool;
    p->data = shoal_calloc_huge(READ_BYTES, 1);
    if (!p->data) {
        shoal_free(p);
        return NULL;
    }
    for (size_t i = 0; i < READ_BYTES / sizeof *p->data; i++) {
        p->data[i] = i * 0x9E3779B97F4A7C15U;
    }
    return p;
}

void shoal_peak_free(shoal_peak *peak)
{
    if (peak) {
        shoal_free(peak->data);
        shoal_free(peak);
    }
}

static double seconds(void)
{
    const shoal_clock clock = shoal_clock_real();
    return (double)shoal_clock_now_ns(&clock) / 1e9;
}

/* --- memory ------------------------------------------------------------------------------------
 */

/* As the engine reads its weights: from huge pages, in order, fetched some way ahead. One word of a
 * line brings all of it. */
static void read_part(void *ctx, size_t part, size_t worker)
{
    (void)worker;
    shoal_peak *p = ctx;
    const size_t n = PART_BYTES / sizeof(uint64_t);
    const uint64_t *at = p->data + part * n;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i += LINE) {
        __builtin_prefetch(at + i + AHEAD);
        sum ^= at[i];
    }
    p->sums[part] ^= sum;
}

/* A first pass is not timed: pages that nobody read for some seconds may have been marked idle by
 * the kernel and cost a fault each. */
double shoal_peak_read(shoal_peak *peak)
{
    shoal_pool_run(peak->pool, read_part, peak, N_PARTS);
    double start = seconds();
    for (int pass = 0; pass < PASSES; pass++) {
        shoal_pool_run(peak->pool, read_part, peak, N_PARTS);
    }
    return PASSES * (double)READ_BYTES / 1e9 / (seconds() - start);
}

/* --- registers ---------------------------------------------------------------------------------
 */

#if defined(__x86_64__)
static void run_loop(void *ctx, size_t part, size_t worker)
{
    (void)worker;
    shoal_peak *p = ctx;
    p->ops[part] = p->loop(ROUNDS);
}

/* Of one thread its own time counts, as in timing.c; of several the wall's. */
static double burst_seconds(size_t n_threads)
{
    struct timespec t;
    if (n_threads > 1 || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0) {
        return seconds();
    }
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The best of a few bursts: one that another process interrupts says nothing about the machine. */
static double run_loops(shoal_peak *peak, double (*loop)(size_t n))
{
    size_t n = shoal_pool_n_threads(peak->pool);
    double best = 0;
    peak->loop = loop;
    for (int burst = 0; burst < BURSTS; burst++) {
        double start = burst_seconds(n);
        shoal_pool_run(peak->pool, run_loop, peak, n);
        double took = burst_seconds(n) - start;
        double ops = 0;
        for (size_t i = 0; i < n; i++) {
            ops += peak->ops[i];
        }
        best = SHOAL_MAX(best, ops / 1e9 / took);
    }
    return best;
}

double shoal_peak_int8(shoal_peak *peak)
{
    uint32_t cpu = shoal_cpu_detect();
    if (cpu & SHOAL_CPU_AVX512) {
        return run_loops(peak, shoal_peak_avx512_int8);
    }
    return cpu & SHOAL_CPU_AVX2 ? run_loops(peak, shoal_peak_avx2_int8) : 0;
}

double shoal_peak_float(shoal_peak *peak)
{
    uint32_t cpu = shoal_cpu_detect();
    if (cpu & SHOAL_CPU_AVX512) {
        return run_loops(peak, shoal_peak_avx512_float);
    }
    return cpu & SHOAL_CPU_AVX2 ? run_loops(peak, shoal_peak_avx2_float) : 0;
}
#else
double shoal_peak_int8(shoal_peak *peak)
{
    (void)peak;
    return 0;
}

double shoal_peak_float(shoal_peak *peak)
{
    (void)peak;
    return 0;
}
#endif
