/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2 products of the K kinds: panel blocks of 256 elements, with integer scales inside.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/avx2_quant.h"

static const kind q2_k = {
    .panel = SHOAL_PANEL_Q2_K,
    .arithmetic = HALVES,
    .offset = 0,
    .mins = MINS_HALVES,
    .head = 64,
    .sub = 160,
    .codes = 32,
    .n_subs = 8,
    .unpack = unpack_two,
    .scales = scales_k2,
};
SHOAL_DEAR_3(q2_k)

static const kind q3_k = {
    .panel = SHOAL_PANEL_Q3_K,
    .arithmetic = HALVES,
    .offset = 4,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 224,
    .codes = 32,
    .n_subs = 8,
    .unpack = unpack_3bit,
    .scales = scales_signed,
};
SHOAL_DEAR_3(q3_k)

static const kind q4_k = {
    .panel = SHOAL_PANEL_Q4_K,
    .arithmetic = WHOLE,
    .offset = 0,
    .mins = MINS_WHOLE,
    .head = 64,
    .sub = 288,
    .codes = 32,
    .n_subs = 8,
    .unpack = unpack_nib,
    .scales = scales_k,
};
SHOAL_CHEAP(q4_k)

static const kind q5_k = {
    .panel = SHOAL_PANEL_Q5_K,
    .arithmetic = HALVES,
    .offset = 0,
    .mins = MINS_WHOLE,
    .head = 64,
    .sub = 352,
    .codes = 32,
    .n_subs = 8,
    .unpack = unpack_5bit,
    .scales = scales_k,
};
SHOAL_DEAR_3(q5_k)

static const kind q6_k = {
    .panel = SHOAL_PANEL_Q6_K,
    .arithmetic = HALVES,
    .offset = 32,
    .mins = MINS_NONE,
    .head = 32,
    .sub = 416,
    .codes = 32,
    .n_subs = 8,
    .unpack = unpack_6bit,
    .scales = scales_signed,
};
SHOAL_DEAR_3(q6_k)

void shoal_kernels_avx2_quant_k(shoal_kernels *kernels)
{
    kernels->gemm[SHOAL_PANEL_Q2_K] = gemm_q2_k;
    kernels->gemm[SHOAL_PANEL_Q3_K] = gemm_q3_k;
    kernels->gemm[SHOAL_PANEL_Q4_K] = gemm_q4_k;
    kernels->gemm[SHOAL_PANEL_Q5_K] = gemm_q5_k;
    kernels->gemm[SHOAL_PANEL_Q6_K] = gemm_q6_k;
}
