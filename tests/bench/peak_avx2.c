/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/peak_internal.h"

#include <immintrin.h>

/* The steps are assembly, so that the compiler neither folds nor moves them: independent sums, as
 * many as the units have stages. */
double bench_peak_avx2_int8(size_t n)
{
    __m256i a[8];
    const __m256i w = _mm256_set1_epi8(3);
    for (int i = 0; i < 8; i++) {
        a[i] = _mm256_setzero_si256();
    }
    for (size_t r = 0; r < n; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m256i t;
            __asm__ volatile("vpmaddubsw %1, %1, %0" : "=x"(t) : "x"(w));
            __asm__ volatile("vpaddw %1, %0, %0" : "+x"(a[i]) : "x"(t));
        }
    }
    return (double)n * 8 * 64;
}

double bench_peak_avx2_float(size_t n)
{
    __m256 a[12];
    const __m256 w = _mm256_set1_ps(0.5F);
    for (int i = 0; i < 12; i++) {
        a[i] = _mm256_setzero_ps();
    }
    for (size_t r = 0; r < n; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            __asm__ volatile("vfmadd231ps %1, %1, %0" : "+x"(a[i]) : "x"(w));
        }
    }
    return (double)n * 12 * 16;
}
