/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 products of the kinds of our own: codes with a scale for each group, two of
 * four, and indices of levels.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx512_quant.h"

/* offset, scales, mins, head, sub, codes, n_subs, unpack, load, pairs */
static const kind c2 = {2, NONE, NONE, 32, 128, 0, 0, unpack_2bit, load_d, false};
static const kind c3 = {4, NONE, NONE, 32, 192, 0, 0, unpack_tri, load_d, false};
static const kind c4 = {8, NONE, NONE, 32, 256, 0, 0, unpack_nib, load_d, false};
static const kind n3 = {128, NONE, NONE, 32, 192, 0, 0, unpack_n3, load_d, false};
static const kind n4 = {128, NONE, NONE, 32, 256, 0, 0, unpack_n4, load_d, false};
static const kind s4 = {0, NONE, NONE, 32, 192, 0, 0, unpack_tri, load_d, true};

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
}
