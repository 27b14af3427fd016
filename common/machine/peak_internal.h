/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the peaks: loops that keep the vector units busy, for n rounds; each returns how many
 * operations that were.
 */
#ifndef SHOAL_TESTS_SHOAL_PEAK_INTERNAL_H
#define SHOAL_TESTS_SHOAL_PEAK_INTERNAL_H

#include <stddef.h>

/* n steps of twelve independent sums, each in a register: of an array of sums the compiler stores
 * every step. `op` ends where the sum's operand follows. */
#define SHOAL_PEAK_LOOP(type, zero, op, kind, w, n)                                                \
    do {                                                                                           \
        type s0 = zero;                                                                            \
        type s1 = zero;                                                                            \
        type s2 = zero;                                                                            \
        type s3 = zero;                                                                            \
        type s4 = zero;                                                                            \
        type s5 = zero;                                                                            \
        type s6 = zero;                                                                            \
        type s7 = zero;                                                                            \
        type s8 = zero;                                                                            \
        type s9 = zero;                                                                            \
        type s10 = zero;                                                                           \
        type s11 = zero;                                                                           \
        for (size_t r = 0; r < (n); r++) {                                                         \
            __asm__ volatile(op "0\n\t" op "1\n\t" op "2\n\t" op "3\n\t" op "4\n\t" op "5\n\t" op  \
                                "6\n\t" op "7\n\t" op "8\n\t" op "9\n\t" op "10\n\t" op "11"       \
                             : "+" kind(s0), "+" kind(s1), "+" kind(s2), "+" kind(s3),             \
                               "+" kind(s4), "+" kind(s5), "+" kind(s6), "+" kind(s7),             \
                               "+" kind(s8), "+" kind(s9), "+" kind(s10), "+" kind(s11)            \
                             : [w] kind(w));                                                       \
        }                                                                                          \
    } while (0)

#if defined(__x86_64__)
double shoal_peak_avx2_int8(size_t n);
double shoal_peak_avx2_float(size_t n);
double shoal_peak_avx512_int8(size_t n);
double shoal_peak_avx512_float(size_t n);
#endif

#endif
