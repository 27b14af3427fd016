/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2 products of the kinds of our own: codes with a scale for each group, two of four,
 * and indices of levels.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_quant.h"

static const kind c2 = {
    .panel = SHOAL_PANEL_C2_64,
    .arithmetic = WHOLE,
    .offset = 2,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 128,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_two,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(c2)
SHOAL_GROUP(c2, 32)
SHOAL_GROUP(c2, 64)
SHOAL_GROUP(c2, 128)

static const kind c3 = {
    .panel = SHOAL_PANEL_C3_64,
    .arithmetic = WHOLE,
    .offset = 4,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 192,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_tri,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(c3)
SHOAL_GROUP(c3, 32)
SHOAL_GROUP(c3, 64)
SHOAL_GROUP(c3, 128)

static const kind c4 = {
    .panel = SHOAL_PANEL_C4_64,
    .arithmetic = WHOLE,
    .offset = 8,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 256,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_nib,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(c4)
SHOAL_GROUP(c4, 64)
SHOAL_GROUP(c4, 128)

static const kind s4 = {
    .panel = SHOAL_PANEL_S4_64,
    .arithmetic = PAIRS,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 192,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_tri,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(s4)
SHOAL_GROUP(s4, 32)
SHOAL_GROUP(s4, 64)
SHOAL_GROUP(s4, 128)

static const kind s8 = {
    .panel = SHOAL_PANEL_S8_64,
    .arithmetic = WIDE_PAIRS,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 320,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_s8,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(s8)
SHOAL_GROUP(s8, 32)
SHOAL_GROUP(s8, 64)
SHOAL_GROUP(s8, 128)

static const kind b16 = {
    .panel = SHOAL_PANEL_B16_64,
    .arithmetic = BITMAP,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 192,
    .codes = 0,
    .n_subs = 0,
    .unpack = NULL,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(b16)
SHOAL_GROUP(b16, 32)
SHOAL_GROUP(b16, 64)
SHOAL_GROUP(b16, 128)

static const kind b8 = {
    .panel = SHOAL_PANEL_B8_64,
    .arithmetic = BITMAP,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 128,
    .codes = 0,
    .n_subs = 0,
    .unpack = NULL,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(b8)
SHOAL_GROUP(b8, 32)
SHOAL_GROUP(b8, 64)
SHOAL_GROUP(b8, 128)

static const kind n3 = {
    .panel = SHOAL_PANEL_N3_64,
    .arithmetic = WIDE,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 192,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_n3,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(n3)
SHOAL_GROUP(n3, 32)
SHOAL_GROUP(n3, 64)
SHOAL_GROUP(n3, 128)

static const kind n4 = {
    .panel = SHOAL_PANEL_N4_64,
    .arithmetic = WIDE,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 256,
    .codes = 0,
    .n_subs = 0,
    .unpack = unpack_n4,
    .scales = scales_d,
};
SHOAL_CHEAP_PRODUCT(n4)
SHOAL_GROUP(n4, 32)
SHOAL_GROUP(n4, 64)
SHOAL_GROUP(n4, 128)

void shoal_kernels_avx2_codes(shoal_kernels *kernels)
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
