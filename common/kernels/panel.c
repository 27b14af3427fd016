/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kernels/panel.h"

static const shoal_panel_info infos[SHOAL_PANELS] = {
    [SHOAL_PANEL_F32] = {"f32", 1, 64, false},
    [SHOAL_PANEL_F16] = {"f16", 1, 32, false},
    [SHOAL_PANEL_BF16] = {"bf16", 1, 32, false},
    [SHOAL_PANEL_FP8] = {"fp8", SHOAL_FP8_TILE, 2112, false},
    [SHOAL_PANEL_Q8_0] = {"q8_0", SHOAL_QBLOCK, 544, true},
    [SHOAL_PANEL_Q4_0] = {"q4_0", SHOAL_QBLOCK, 288, true},
    [SHOAL_PANEL_Q4_1] = {"q4_1", SHOAL_QBLOCK, 320, true},
    [SHOAL_PANEL_Q5_0] = {"q5_0", SHOAL_QBLOCK, 352, true},
    [SHOAL_PANEL_Q5_1] = {"q5_1", SHOAL_QBLOCK, 384, true},
    [SHOAL_PANEL_IQ4_NL] = {"iq4_nl", SHOAL_QBLOCK, 288, true},
    [SHOAL_PANEL_Q2_K] = {"q2_K", SHOAL_QSUPER, 1344, true},
    [SHOAL_PANEL_Q3_K] = {"q3_K", SHOAL_QSUPER, 1824, true},
    [SHOAL_PANEL_Q4_K] = {"q4_K", SHOAL_QSUPER, 2368, true},
    [SHOAL_PANEL_Q5_K] = {"q5_K", SHOAL_QSUPER, 2880, true},
    [SHOAL_PANEL_Q6_K] = {"q6_K", SHOAL_QSUPER, 3360, true},
    [SHOAL_PANEL_C2_32] = {"c2_32", SHOAL_QBLOCK, 160, true},
    [SHOAL_PANEL_C2_64] = {"c2_64", 64, 288, true},
    [SHOAL_PANEL_C2_128] = {"c2_128", 128, 544, true},
    [SHOAL_PANEL_C3_32] = {"c3_32", SHOAL_QBLOCK, 224, true},
    [SHOAL_PANEL_C3_64] = {"c3_64", 64, 416, true},
    [SHOAL_PANEL_C3_128] = {"c3_128", 128, 800, true},
    [SHOAL_PANEL_C4_64] = {"c4_64", 64, 544, true},
    [SHOAL_PANEL_C4_128] = {"c4_128", 128, 1056, true},
    [SHOAL_PANEL_S4_32] = {"s4_32", SHOAL_QBLOCK, 224, true},
    [SHOAL_PANEL_S4_64] = {"s4_64", 64, 416, true},
    [SHOAL_PANEL_S4_128] = {"s4_128", 128, 800, true},
    [SHOAL_PANEL_N3_32] = {"n3_32", SHOAL_QBLOCK, 224, true},
    [SHOAL_PANEL_N3_64] = {"n3_64", 64, 416, true},
    [SHOAL_PANEL_N3_128] = {"n3_128", 128, 800, true},
    [SHOAL_PANEL_N4_32] = {"n4_32", SHOAL_QBLOCK, 288, true},
    [SHOAL_PANEL_N4_64] = {"n4_64", 64, 544, true},
    [SHOAL_PANEL_N4_128] = {"n4_128", 128, 1056, true},
    [SHOAL_PANEL_S8_32] = {"s8_32", SHOAL_QBLOCK, 352, true},
    [SHOAL_PANEL_S8_64] = {"s8_64", 64, 672, true},
    [SHOAL_PANEL_S8_128] = {"s8_128", 128, 1312, true},
    [SHOAL_PANEL_B16_32] = {"b16_32", SHOAL_QBLOCK, 224, true},
    [SHOAL_PANEL_B16_64] = {"b16_64", 64, 416, true},
    [SHOAL_PANEL_B16_128] = {"b16_128", 128, 800, true},
    [SHOAL_PANEL_B8_32] = {"b8_32", SHOAL_QBLOCK, 160, true},
    [SHOAL_PANEL_B8_64] = {"b8_64", 64, 288, true},
    [SHOAL_PANEL_B8_128] = {"b8_128", 128, 544, true},
};

/* Quantiles of a normal distribution, as IQ4_NL is published. */
const int8_t shoal_iq4_nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};

static const int8_t normal_3[16] = {-127, -68, -31, 0, 23, 49, 79, 127};
static const int8_t normal_4[16] = {-127, -88, -67, -50, -36, -23, -12, 0,
                                    10,   20,  31,  43,  56,  71,  92,  127};

const int8_t *shoal_panel_levels(shoal_panel panel)
{
    if (panel >= SHOAL_PANEL_N3_32 && panel <= SHOAL_PANEL_N3_128) {
        return normal_3;
    }
    return panel >= SHOAL_PANEL_N4_32 && panel <= SHOAL_PANEL_N4_128 ? normal_4 : NULL;
}

const shoal_panel_info *shoal_panel_find(shoal_panel panel)
{
    return &infos[panel];
}

size_t shoal_panel_bytes(shoal_panel panel, size_t k)
{
    const shoal_panel_info *info = &infos[panel];
    return (k + info->step - 1) / info->step * info->block_bytes;
}
