/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2 products of the kinds whose panel blocks are 32 elements.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_quant.h"

static const kind q8_0 = {
    .panel = SHOAL_PANEL_Q8_0,
    .arithmetic = WIDE,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 0,
    .sub = 544,
    .codes = 32,
    .n_subs = 1,
    .unpack = unpack_8bit,
    .scales = scales_d,
};
SHOAL_CHEAP(q8_0)

static const kind q4_0 = {
    .panel = SHOAL_PANEL_Q4_0,
    .arithmetic = WHOLE,
    .offset = 8,
    .mins = MINS_NONE,
    .head = 0,
    .sub = 288,
    .codes = 32,
    .n_subs = 1,
    .unpack = unpack_nib,
    .scales = scales_d,
};
SHOAL_CHEAP(q4_0)

static const kind q4_1 = {
    .panel = SHOAL_PANEL_Q4_1,
    .arithmetic = WHOLE,
    .offset = 0,
    .mins = MINS_WHOLE,
    .head = 0,
    .sub = 320,
    .codes = 64,
    .n_subs = 1,
    .unpack = unpack_nib,
    .scales = scales_dm,
};
SHOAL_CHEAP(q4_1)

static const kind q5_0 = {
    .panel = SHOAL_PANEL_Q5_0,
    .arithmetic = WHOLE,
    .offset = 16,
    .mins = MINS_NONE,
    .head = 0,
    .sub = 352,
    .codes = 32,
    .n_subs = 1,
    .unpack = unpack_5bit,
    .scales = scales_d,
};
SHOAL_DEAR_4(q5_0)

static const kind q5_1 = {
    .panel = SHOAL_PANEL_Q5_1,
    .arithmetic = HALVES,
    .offset = 0,
    .mins = MINS_WHOLE,
    .head = 0,
    .sub = 384,
    .codes = 64,
    .n_subs = 1,
    .unpack = unpack_5bit,
    .scales = scales_dm,
};
SHOAL_DEAR_3(q5_1)

static const kind iq4_nl = {
    .panel = SHOAL_PANEL_IQ4_NL,
    .arithmetic = WIDE,
    .offset = 0,
    .mins = MINS_NONE,
    .head = 0,
    .sub = 288,
    .codes = 32,
    .n_subs = 1,
    .unpack = unpack_nl,
    .scales = scales_d,
};
SHOAL_DEAR_4(iq4_nl)

void shoal_kernels_avx2_quant_32(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_Q8_0] = gemm_q8_0;
    kernels->gemm[SHOAL_PANEL_Q4_0] = gemm_q4_0;
    kernels->gemm[SHOAL_PANEL_Q4_1] = gemm_q4_1;
    kernels->gemm[SHOAL_PANEL_Q5_0] = gemm_q5_0;
    kernels->gemm[SHOAL_PANEL_Q5_1] = gemm_q5_1;
    kernels->gemm[SHOAL_PANEL_IQ4_NL] = gemm_iq4_nl;
}
