/* SPDX-License-Identifier: Apache-2.0
 *
 * Which tiers this machine can run and which the operator allows. A vector tier needs the
 * instructions (CPUID) and an operating system that saves the wide registers (XCR0); the bit
 * numbers are those of the Intel SDM, volume 1, chapters 13 to 15. On ARM the kernel tells both.
 */
#include "common/kernels/kernels.h"

#include "common/kernels/tiers_internal.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#    include <cpuid.h>

enum {
    XCR0_AVX = 0x06,    /* XMM and the upper halves of YMM */
    XCR0_AVX512 = 0xE6, /* those, the mask registers and the ZMM */
    LEAF1_ECX_AVX2_TIER = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C,
    LEAF7_ECX_VNNI = 1 << 11
};

static const uint32_t leaf7_ebx_avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;

/* Only after OSXSAVE was seen. By hand, since the intrinsic would need -mxsave on this file. */
static uint32_t saved_state(void)
{
    uint32_t low = 0;
    uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

uint32_t shoal_cpu_detect(void)
{
    uint32_t a = 0;
    uint32_t b = 0;
    uint32_t c = 0;
    uint32_t d = 0;
    const uint32_t needed = (uint32_t)LEAF1_ECX_AVX2_TIER;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed) {
        return 0;
    }
    uint32_t state = saved_state();
    if ((state & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return 0;
    }
    uint32_t mask = 0;
    if (b & bit_AVX2) {
        mask |= SHOAL_CPU_AVX2;
    }
    if ((state & XCR0_AVX512) == XCR0_AVX512 && (b & leaf7_ebx_avx512) == leaf7_ebx_avx512 &&
        (c & LEAF7_ECX_VNNI)) {
        mask |= SHOAL_CPU_AVX512;
    }
    return mask;
}
#elif defined(__aarch64__)
#    include <sys/auxv.h>

#    include <asm/hwcap.h>

uint32_t shoal_cpu_detect(void)
{
    unsigned long caps = getauxval(AT_HWCAP);
    if (!(caps & HWCAP_ASIMD)) {
        return 0;
    }
    uint32_t mask = SHOAL_CPU_NEON;
    if (caps & HWCAP_ASIMDDP) {
        mask |= SHOAL_CPU_DOTPROD;
    }
    if ((caps & HWCAP_ASIMDDP) && (getauxval(AT_HWCAP2) & HWCAP2_I8MM)) {
        mask |= SHOAL_CPU_I8MM;
    }
    return mask;
}
#else
uint32_t shoal_cpu_detect(void)
{
    return 0;
}
#endif

static bool find_name(const char *text, size_t length, uint32_t *ret_bits)
{
    const struct {
        const char *name;
        uint32_t bits;
    } names[] = {{"scalar", 0},
                 {"avx2", SHOAL_CPU_AVX2},
                 {"avx512", SHOAL_CPU_AVX512},
                 {"neon", SHOAL_CPU_NEON},
                 {"dotprod", SHOAL_CPU_DOTPROD},
                 {"i8mm", SHOAL_CPU_I8MM},
                 {"native", shoal_cpu_detect()}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i].name) == length && memcmp(text, names[i].name, length) == 0) {
            *ret_bits = names[i].bits;
            return true;
        }
    }
    return false;
}

int shoal_cpu_mask_parse(const char *text, uint32_t *ret_mask)
{
    if (!text) {
        return -1;
    }
    uint32_t mask = 0;
    for (;;) {
        size_t length = strcspn(text, ",");
        uint32_t bits = 0;
        if (!find_name(text, length, &bits)) {
            return -1;
        }
        mask |= bits;
        if (text[length] == '\0') {
            break;
        }
        text += length + 1;
    }
    *ret_mask = mask;
    return 0;
}

void shoal_kernels_init(shoal_kernels *kernels, uint32_t mask)
{
    shoal_kernels_init_scalar(kernels);
#if defined(__x86_64__)
    mask &= shoal_cpu_detect();
    if (mask & SHOAL_CPU_AVX2) {
        shoal_kernels_init_avx2(kernels);
    }
    if (mask & SHOAL_CPU_AVX512) {
        shoal_kernels_init_avx512(kernels);
    }
#elif defined(__aarch64__)
    mask &= shoal_cpu_detect();
    if (mask & SHOAL_CPU_NEON) {
        shoal_kernels_init_neon(kernels);
    }
    if (mask & SHOAL_CPU_DOTPROD) {
        shoal_kernels_neon_dotprod(kernels);
    }
    if (mask & SHOAL_CPU_I8MM) {
        shoal_kernels_neon_i8mm(kernels);
    }
#else
    (void)mask;
#endif
}
