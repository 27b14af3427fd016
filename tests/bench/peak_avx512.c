/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/peak_internal.h"

#include <immintrin.h>

/* As peak_avx2.c: vpdpbusd is sixteen times four multiply-adds. */
double bench_peak_avx512_int8(size_t n)
{
    __m512i a[12];
    const __m512i w = _mm512_set1_epi8(3);
    for (int i = 0; i < 12; i++) {
        a[i] = _mm512_setzero_si512();
    }
    for (size_t r = 0; r < n; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(a[i]) : "v"(w));
        }
    }
    return (double)n * 12 * 128;
}

double bench_peak_avx512_float(size_t n)
{
    __m512 a[12];
    const __m512 w = _mm512_set1_ps(0.5F);
    for (int i = 0; i < 12; i++) {
        a[i] = _mm512_setzero_ps();
    }
    for (size_t r = 0; r < n; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(a[i]) : "v"(w));
        }
    }
    return (double)n * 12 * 32;
}
