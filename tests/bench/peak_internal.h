/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the peaks: loops that keep the vector units busy, for n rounds; each returns how many
 * operations that were.
 */
#ifndef SHOAL_TESTS_BENCH_PEAK_INTERNAL_H
#define SHOAL_TESTS_BENCH_PEAK_INTERNAL_H

#include <stddef.h>

#if defined(__x86_64__)
double bench_peak_avx2_int8(size_t n);
double bench_peak_avx2_float(size_t n);
double bench_peak_avx512_int8(size_t n);
double bench_peak_avx512_float(size_t n);
#endif

#endif
