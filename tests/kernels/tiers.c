/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiers.h"

#include <string.h>

size_t test_tiers(shoal_kernels ret[TIERS_MAX])
{
    size_t n = 0;
    if (shoal_cpu_detect() & SHOAL_CPU_AVX2) {
        shoal_kernels_init(&ret[n++], SHOAL_CPU_AVX2);
    }
    if (shoal_cpu_detect() & SHOAL_CPU_AVX512) {
        shoal_kernels_init(&ret[n++], SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512);
    }
    return n;
}
