/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine can do at most, measured now: reading memory, and multiply-adds in registers.
 * The neighbours of a virtual machine move all three, so they are taken again and again between the
 * figures that are compared with them.
 */
#ifndef SHOAL_TESTS_BENCH_PEAK_H
#define SHOAL_TESTS_BENCH_PEAK_H

#include "common/base/pool.h"

typedef struct bench_peak bench_peak;

/* Takes 256 MiB to read from. NULL without memory. pool is borrowed. */
bench_peak *bench_peak_new(shoal_pool *pool);
void bench_peak_free(bench_peak *peak);

/* GB/s of all threads together, a stream each: the mean of some 30 ms. */
double bench_peak_read(bench_peak *peak);
/* Gop/s of all threads together, a multiplication and an addition being two: 8-bit integers with
 * 16-bit sums, and floats. 0 where the processor's vectors are not known here. The best of a few
 * bursts of 2 ms. */
double bench_peak_int8(bench_peak *peak);
double bench_peak_float(bench_peak *peak);

#endif
