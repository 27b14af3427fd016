/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 products of the kinds of our own: codes with a scale for each group, two of
 * four, and indices of levels.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_quant.h"

/* offset, scales, mins, head, sub, codes, n_subs, unpack, load, choice */
static const kind c2 = {2, NONE, NONE, 32, 128, 0, 0, unpack_2bit, load_d, ALL};
static const kind c3 = {4, NONE, NONE, 32, 192, 0, 0, unpack_tri, load_d, ALL};
static const kind c4 = {8, NONE, NONE, 32, 256, 0, 0, unpack_nib, load_d, ALL};
static const kind n3 = {128, NONE, NONE, 32, 192, 0, 0, unpack_n3, load_d, ALL};
static const kind n4 = {128, NONE, NONE, 32, 256, 0, 0, unpack_n4, load_d, ALL};
static const kind s4 = {0, NONE, NONE, 32, 192, 0, 0, unpack_tri, load_d, PAIRS};
static const kind s8 = {0, NONE, NONE, 32, 320, 0, 0, unpack_s8, load_d, PAIRS};
static const kind b16 = {0, NONE, NONE, 32, 192, 0, 0, NULL, load_d, BITMAP};
static const kind b8 = {0, NONE, NONE, 32, 128, 0, 0, NULL, load_d, BITMAP};

SHOAL_WIDE(c2)
SHOAL_GROUP(c2, 32)
SHOAL_GROUP(c2, 64)
SHOAL_GROUP(c2, 128)
SHOAL_WIDE(c3)
SHOAL_GROUP(c3, 32)
SHOAL_GROUP(c3, 64)
SHOAL_GROUP(c3, 128)
SHOAL_WIDE(c4)
SHOAL_GROUP(c4, 64)
SHOAL_GROUP(c4, 128)
SHOAL_WIDE(s4)
SHOAL_GROUP(s4, 32)
SHOAL_GROUP(s4, 64)
SHOAL_GROUP(s4, 128)
SHOAL_WIDE(s8)
SHOAL_GROUP(s8, 32)
SHOAL_GROUP(s8, 64)
SHOAL_GROUP(s8, 128)
SHOAL_WIDE(b16)
SHOAL_GROUP(b16, 32)
SHOAL_GROUP(b16, 64)
SHOAL_GROUP(b16, 128)
SHOAL_WIDE(b8)
SHOAL_GROUP(b8, 32)
SHOAL_GROUP(b8, 64)
SHOAL_GROUP(b8, 128)
SHOAL_WIDE(n3)
SHOAL_GROUP(n3, 32)
SHOAL_GROUP(n3, 64)
SHOAL_GROUP(n3, 128)
SHOAL_WIDE(n4)
SHOAL_GROUP(n4, 32)
SHOAL_GROUP(n4, 64)
SHOAL_GROUP(n4, 128)

void shoal_kernels_avx512_codes(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_C2_32] = gemm_c2_32;
    kernels->gemm[SHOAL_PANEL_C2_64] = gemm_c2_64;
    kernels->gemm[SHOAL_PANEL_C2_128] = gemm_c2_128;
    kernels->gemm[SHOAL_PANEL_C3_32] = gemm_c3_32;
    kernels->gemm[SHOAL_PANEL_C3_64] = gemm_c3_64;
    kernels->gemm[SHOAL_PANEL_C3_128] = gemm_c3_128;
    kernels->gemm[SHOAL_PANEL_C4_64] = gemm_c4_64;
    kernels->gemm[SHOAL_PANEL_C4_128] = gemm_c4_128;
    kernels->gemm[SHOAL_PANEL_S4_32] = gemm_s4_32;
    kernels->gemm[SHOAL_PANEL_S4_64] = gemm_s4_64;
    kernels->gemm[SHOAL_PANEL_S4_128] = gemm_s4_128;
    kernels->gemm[SHOAL_PANEL_N3_32] = gemm_n3_32;
    kernels->gemm[SHOAL_PANEL_N3_64] = gemm_n3_64;
    kernels->gemm[SHOAL_PANEL_N3_128] = gemm_n3_128;
    kernels->gemm[SHOAL_PANEL_N4_32] = gemm_n4_32;
    kernels->gemm[SHOAL_PANEL_N4_64] = gemm_n4_64;
    kernels->gemm[SHOAL_PANEL_N4_128] = gemm_n4_128;
    kernels->gemm[SHOAL_PANEL_S8_32] = gemm_s8_32;
    kernels->gemm[SHOAL_PANEL_S8_64] = gemm_s8_64;
    kernels->gemm[SHOAL_PANEL_S8_128] = gemm_s8_128;
    kernels->gemm[SHOAL_PANEL_B16_32] = gemm_b16_32;
    kernels->gemm[SHOAL_PANEL_B16_64] = gemm_b16_64;
    kernels->gemm[SHOAL_PANEL_B16_128] = gemm_b16_128;
    kernels->gemm[SHOAL_PANEL_B8_32] = gemm_b8_32;
    kernels->gemm[SHOAL_PANEL_B8_64] = gemm_b8_64;
    kernels->gemm[SHOAL_PANEL_B8_128] = gemm_b8_128;
}
