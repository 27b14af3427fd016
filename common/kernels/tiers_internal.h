/* SPDX-License-Identifier: Apache-2.0
 *
 * The doors of the tiers. Each overrides the slots it has and names itself; the caller has checked
 * that the CPU can run it. Pure, any thread.
 */
#ifndef SHOAL_KERNELS_TIERS_INTERNAL_H
#define SHOAL_KERNELS_TIERS_INTERNAL_H

#include "common/kernels/kernels.h"

/* The tests build the AVX-512 sources a second time on emulated intrinsics, beside the real ones;
 * the macro is then the header that has them. */
#ifdef SHOAL_SIMD_EMULATED
#    define shoal_kernels_init_avx512    shoal_kernels_init_avx512_emulated
#    define shoal_kernels_avx512_gemm    shoal_kernels_avx512_gemm_emulated
#    define shoal_kernels_avx512_quant   shoal_kernels_avx512_quant_emulated
#    define shoal_kernels_avx512_codes   shoal_kernels_avx512_codes_emulated
#    define shoal_kernels_avx512_product shoal_kernels_avx512_product_emulated
#    define shoal_kernels_avx512_attend  shoal_kernels_avx512_attend_emulated
#    define shoal_kernels_avx512_sides   shoal_kernels_avx512_sides_emulated
#    define shoal_kernels_avx512_firing  shoal_kernels_avx512_firing_emulated
#    define shoal_kernels_avx512_whole   shoal_kernels_avx512_whole_emulated
#endif

/* The specification: fills every slot. The parts below it belong to its init. */
void shoal_kernels_init_scalar(shoal_kernels *kernels);
void shoal_kernels_scalar_gemm(shoal_kernels *kernels);
void shoal_kernels_scalar_attend(shoal_kernels *kernels);
void shoal_kernels_scalar_sides(shoal_kernels *kernels);
void shoal_kernels_scalar_firing(shoal_kernels *kernels);
void shoal_kernels_scalar_whole(shoal_kernels *kernels);
void shoal_kernels_scalar_seal(shoal_kernels *kernels);

#if defined(__x86_64__)
void shoal_kernels_init_avx2(shoal_kernels *kernels);
void shoal_kernels_avx2_gemm(shoal_kernels *kernels);
void shoal_kernels_avx2_quant_32(shoal_kernels *kernels);
void shoal_kernels_avx2_quant_k(shoal_kernels *kernels);
void shoal_kernels_avx2_codes(shoal_kernels *kernels);
void shoal_kernels_avx2_attend(shoal_kernels *kernels);
void shoal_kernels_avx2_kv(shoal_kernels *kernels);
void shoal_kernels_avx2_seal(shoal_kernels *kernels);
void shoal_kernels_avx2_sides(shoal_kernels *kernels);
void shoal_kernels_avx2_firing(shoal_kernels *kernels);
void shoal_kernels_avx2_whole(shoal_kernels *kernels);
#endif

#if defined(__x86_64__) || defined(SHOAL_SIMD_EMULATED)
void shoal_kernels_init_avx512(shoal_kernels *kernels);
void shoal_kernels_avx512_gemm(shoal_kernels *kernels);
void shoal_kernels_avx512_quant(shoal_kernels *kernels);
void shoal_kernels_avx512_codes(shoal_kernels *kernels);
void shoal_kernels_avx512_attend(shoal_kernels *kernels);
void shoal_kernels_avx512_sides(shoal_kernels *kernels);
void shoal_kernels_avx512_firing(shoal_kernels *kernels);
void shoal_kernels_avx512_whole(shoal_kernels *kernels);
#endif

#if defined(__aarch64__)
void shoal_kernels_init_neon(shoal_kernels *kernels);
void shoal_kernels_neon_gemm(shoal_kernels *kernels);
void shoal_kernels_neon_attend(shoal_kernels *kernels);
void shoal_kernels_neon_seal(shoal_kernels *kernels);
void shoal_kernels_neon_sides(shoal_kernels *kernels);
void shoal_kernels_neon_firing(shoal_kernels *kernels);
void shoal_kernels_neon_quant(shoal_kernels *kernels);
void shoal_kernels_neon_dotprod(shoal_kernels *kernels); /* over the tier below */
void shoal_kernels_neon_i8mm(shoal_kernels *kernels);
#endif

#endif
