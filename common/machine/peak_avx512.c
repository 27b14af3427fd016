/* SPDX-License-Identifier: Apache-2.0 */
#include "common/machine/peak_internal.h"

#include <immintrin.h>

/* As peak_avx2.c: vpdpbusd is sixteen times four multiply-adds. */
double shoal_peak_avx512_int8(size_t n)
{
    const __m512i w = _mm512_set1_epi8(3);
    SHOAL_PEAK_LOOP(__m512i, _mm512_setzero_si512(), "vpdpbusd %[w], %[w], %", "v", w, n);
    return (double)n * 12 * 128;
}

double shoal_peak_avx512_float(size_t n)
{
    const __m512 w = _mm512_set1_ps(0.5F);
    SHOAL_PEAK_LOOP(__m512, _mm512_setzero_ps(), "vfmadd231ps %[w], %[w], %", "v", w, n);
    return (double)n * 12 * 32;
}
