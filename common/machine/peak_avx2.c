/* SPDX-License-Identifier: Apache-2.0 */
#include "common/machine/peak_internal.h"

#include <immintrin.h>

/* The steps are assembly, so that the compiler neither folds nor moves them: independent sums, as
 * many as the units have stages. */
double shoal_peak_avx2_int8(size_t n)
{
    const __m256i w = _mm256_set1_epi8(3);
    __m256i s0 = _mm256_setzero_si256();
    __m256i s1 = s0;
    __m256i s2 = s0;
    __m256i s3 = s0;
    __m256i s4 = s0;
    __m256i s5 = s0;
    __m256i s6 = s0;
    __m256i s7 = s0;
    __m256i t0;
    __m256i t1;
    for (size_t r = 0; r < n; r++) {
        __asm__ volatile("vpmaddubsw %[w], %[w], %8\n\tvpaddw %8, %0, %0\n\t"
                         "vpmaddubsw %[w], %[w], %9\n\tvpaddw %9, %1, %1\n\t"
                         "vpmaddubsw %[w], %[w], %8\n\tvpaddw %8, %2, %2\n\t"
                         "vpmaddubsw %[w], %[w], %9\n\tvpaddw %9, %3, %3\n\t"
                         "vpmaddubsw %[w], %[w], %8\n\tvpaddw %8, %4, %4\n\t"
                         "vpmaddubsw %[w], %[w], %9\n\tvpaddw %9, %5, %5\n\t"
                         "vpmaddubsw %[w], %[w], %8\n\tvpaddw %8, %6, %6\n\t"
                         "vpmaddubsw %[w], %[w], %9\n\tvpaddw %9, %7, %7"
                         : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5), "+x"(s6),
                           "+x"(s7), "=&x"(t0), "=&x"(t1)
                         : [w] "x"(w));
    }
    return (double)n * 8 * 64;
}

double shoal_peak_avx2_float(size_t n)
{
    const __m256 w = _mm256_set1_ps(0.5F);
    SHOAL_PEAK_LOOP(__m256, _mm256_setzero_ps(), "vfmadd231ps %[w], %[w], %", "x", w, n);
    return (double)n * 12 * 16;
}
