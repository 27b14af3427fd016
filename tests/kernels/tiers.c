/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/tiers.h"

#ifdef SHOAL_TEST_EMULATED
/* The door of common/kernels/avx512_*.c as tests/kernels builds them, on emulated intrinsics. */
void shoal_kernels_init_avx512_emulated(shoal_kernels *kernels);

/* What stands in for AVX-512 may itself be built with AVX2. */
static size_t emulated(shoal_kernels *ret)
{
#    if defined(__x86_64__)
    if (!(shoal_cpu_detect() & SHOAL_CPU_AVX2)) {
        return 0;
    }
#    endif
    shoal_kernels_init(ret, 0);
    shoal_kernels_init_avx512_emulated(ret);
    ret->tier = "avx512 (emulated)";
    return 1;
}
#else
static size_t emulated(shoal_kernels *ret)
{
    (void)ret;
    return 0;
}
#endif

size_t test_tiers(shoal_kernels *ret_scalar, shoal_kernels ret[TIERS_MAX])
{
    shoal_kernels_init(ret_scalar, 0);
    size_t n = emulated(&ret[0]);
    if (shoal_cpu_detect() & SHOAL_CPU_AVX2) {
        shoal_kernels_init(&ret[n++], SHOAL_CPU_AVX2);
    }
    if (shoal_cpu_detect() & SHOAL_CPU_AVX512) {
        shoal_kernels_init(&ret[n++], SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512);
    }
    /* Each on top of the one before, which is how processors have them. */
    static const uint32_t neon[] = {SHOAL_CPU_NEON, SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD,
                                    SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD | SHOAL_CPU_I8MM};
    for (size_t i = 0; i < sizeof neon / sizeof neon[0]; i++) {
        if ((shoal_cpu_detect() & neon[i]) == neon[i]) {
            shoal_kernels_init(&ret[n++], neon[i]);
        }
    }
    for (size_t i = 0; i < n; i++) {
        print_message("tier under test: %s\n", ret[i].tier);
    }
    return n;
}
