/* SPDX-License-Identifier: Apache-2.0
 *
 * What a product relies on in a panel, read without making values: where scales lie is the layout
 * of common/kernels/panel.h, and everything between them is codes, of which every value is good.
 */
#include "common/weight/pack_internal.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    SUBS = SHOAL_QSUPER / SHOAL_QBLOCK
};

/* Small integer scales of a super-block's sub-blocks. */
typedef struct small_scales {
    size_t first;  /* byte of the first sub-block in a panel block */
    size_t stride; /* from one sub-block to the next */
    int low;       /* range of the 32 bytes a sub-block begins with */
    int high;
} small_scales;

typedef struct layout {
    size_t n_halves;    /* at the front of a panel block */
    small_scales small; /* stride 0: none, or of any value */
} layout;

static const layout layouts[SHOAL_PANELS] = {
    [SHOAL_PANEL_Q8_0] = {ROWS, {0}},
    [SHOAL_PANEL_Q4_0] = {ROWS, {0}},
    [SHOAL_PANEL_Q4_1] = {2 * ROWS, {0}},
    [SHOAL_PANEL_Q5_0] = {ROWS, {0}},
    [SHOAL_PANEL_Q5_1] = {2 * ROWS, {0}},
    [SHOAL_PANEL_IQ4_NL] = {ROWS, {0}},
    [SHOAL_PANEL_Q2_K] = {2 * ROWS, {0}},
    [SHOAL_PANEL_Q3_K] = {ROWS, {32, 224, -32, 31}},
    [SHOAL_PANEL_Q4_K] = {2 * ROWS, {64, 288, 0, 63}},
    [SHOAL_PANEL_Q5_K] = {2 * ROWS, {64, 352, 0, 63}},
    [SHOAL_PANEL_Q6_K] = {ROWS, {0}},
    [SHOAL_PANEL_C2_32] = {ROWS, {0}},
    [SHOAL_PANEL_C2_64] = {ROWS, {0}},
    [SHOAL_PANEL_C2_128] = {ROWS, {0}},
    [SHOAL_PANEL_C3_32] = {ROWS, {0}},
    [SHOAL_PANEL_C3_64] = {ROWS, {0}},
    [SHOAL_PANEL_C3_128] = {ROWS, {0}},
    [SHOAL_PANEL_C4_64] = {ROWS, {0}},
    [SHOAL_PANEL_C4_128] = {ROWS, {0}},
    [SHOAL_PANEL_S4_32] = {ROWS, {0}},
    [SHOAL_PANEL_S4_64] = {ROWS, {0}},
    [SHOAL_PANEL_S4_128] = {ROWS, {0}},
    [SHOAL_PANEL_N3_32] = {ROWS, {0}},
    [SHOAL_PANEL_N3_64] = {ROWS, {0}},
    [SHOAL_PANEL_N3_128] = {ROWS, {0}},
    [SHOAL_PANEL_N4_32] = {ROWS, {0}},
    [SHOAL_PANEL_N4_64] = {ROWS, {0}},
    [SHOAL_PANEL_N4_128] = {ROWS, {0}},
    [SHOAL_PANEL_S8_32] = {ROWS, {0}},
    [SHOAL_PANEL_S8_64] = {ROWS, {0}},
    [SHOAL_PANEL_S8_128] = {ROWS, {0}},
    [SHOAL_PANEL_B16_32] = {ROWS, {0}},
    [SHOAL_PANEL_B16_64] = {ROWS, {0}},
    [SHOAL_PANEL_B16_128] = {ROWS, {0}},
    [SHOAL_PANEL_B8_32] = {ROWS, {0}},
    [SHOAL_PANEL_B8_64] = {ROWS, {0}},
    [SHOAL_PANEL_B8_128] = {ROWS, {0}},
};

/* Exponents all of ones are infinities and NaN: `mask` is the exponent's bits. */
static bool halves_finite(const uint8_t *p, size_t n, uint16_t mask)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t half = 0;
        memcpy(&half, p + 2 * i, 2);
        bad |= (half & mask) == mask;
    }
    return !bad;
}

static bool floats_finite(const uint8_t *p, size_t n)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        memcpy(&bits, p + 4 * i, 4);
        bad |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return !bad;
}

static bool fp8_finite(const uint8_t *p)
{
    unsigned bad = 0;
    for (size_t i = 0; i < (size_t)SHOAL_FP8_TILE * ROWS; i++) {
        bad |= (p[4 * ROWS + i] & 0x7Fu) == 0x7Fu;
    }
    return !bad && floats_finite(p, ROWS);
}

static bool small_in_range(const small_scales *s, const uint8_t *block)
{
    int bad = 0;
    for (size_t sub = 0; s->stride != 0 && sub < SUBS; sub++) {
        const int8_t *scales = (const int8_t *)block + s->first + sub * s->stride;
        for (size_t i = 0; i < (size_t)2 * ROWS; i++) {
            bad |= scales[i] < s->low;
            bad |= scales[i] > s->high;
        }
    }
    return !bad;
}

bool shoal_panel_is_sound(shoal_panel kind, const uint8_t *panel, size_t bytes)
{
    if (kind == SHOAL_PANEL_F32) {
        return floats_finite(panel, bytes / 4);
    }
    if (kind == SHOAL_PANEL_F16 || kind == SHOAL_PANEL_BF16) {
        return halves_finite(panel, bytes / 2, kind == SHOAL_PANEL_F16 ? 0x7C00 : 0x7F80);
    }
    const shoal_panel_info *info = shoal_panel_find(kind);
    const layout *l = &layouts[kind];
    for (size_t at = 0; at < bytes; at += info->block_bytes) {
        const uint8_t *block = panel + at;
        bool good = kind == SHOAL_PANEL_FP8 ? fp8_finite(block)
                                            : halves_finite(block, l->n_halves, 0x7C00) &&
                                                  small_in_range(&l->small, block);
        if (!good) {
            return false;
        }
    }
    return true;
}
