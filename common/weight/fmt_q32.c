/* SPDX-License-Identifier: Apache-2.0
 *
 * The types of 32 elements with codes of four or five bits and one f16 scale d: a block is d, the
 * f16 floor m where there is one, the fifth bits (bit i of 32 belongs to element i), and 16 bytes
 * of nibbles, byte j holding elements j (low) and j + 16 (high).
 *   Q4_1    d * code + m
 *   Q5_0    d * (code - 16)
 *   Q5_1    d * code + m
 *   IQ4_NL  d * one of sixteen values, denser around zero
 * A panel block is 16 scales, 16 floors, the nibbles, the fifth bits (panel_internal.h).
 */
#include "common/weight/format.h"
#include "common/weight/panel_internal.h"
#include "common/weight/search_internal.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_QBLOCK
};

typedef struct kind {
    shoal_panel panel;
    size_t block;         /* bytes in a file */
    bool floor;           /* has m */
    bool fifth;           /* codes have five bits */
    const int8_t *values; /* what a code stands for, times d */
} kind;

static const int8_t counts[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                  16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
static const int8_t centred[32] = {-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6,
                                   -5,  -4,  -3,  -2,  -1,  0,   1,   2,  3,  4,  5,
                                   6,   7,   8,   9,   10,  11,  12,  13, 14, 15};

static const kind q4_1 = {SHOAL_PANEL_Q4_1, 20, true, false, counts};
static const kind q5_0 = {SHOAL_PANEL_Q5_0, 22, false, true, centred};
static const kind q5_1 = {SHOAL_PANEL_Q5_1, 24, true, true, counts};
static const kind iq4_nl = {SHOAL_PANEL_IQ4_NL, 18, false, false, shoal_iq4_nl};

/* One block, whatever holds it. */
typedef struct coded {
    uint16_t d;
    uint16_t m;
    uint8_t code[N];
} coded;

/* --- blocks of a file ------------------------------------------------------------------------ */

static void read_block(const kind *k, const uint8_t *p, coded *ret)
{
    ret->d = shoal_format_u16(p);
    ret->m = k->floor ? shoal_format_u16(p + 2) : 0;
    p += k->floor ? 4 : 2;
    const uint8_t *nibbles = p + (k->fifth ? 4 : 0);
    for (size_t j = 0; j < N / 2; j++) {
        ret->code[j] = nibbles[j] & 15;
        ret->code[j + N / 2] = nibbles[j] >> 4;
    }
    for (size_t i = 0; k->fifth && i < N; i++) {
        ret->code[i] |= (uint8_t)((p[i / 8] >> i % 8 & 1) << 4);
    }
}

static void write_block(const kind *k, const coded *c, uint8_t *ret)
{
    memset(ret, 0, k->block);
    shoal_format_put_u16(ret, c->d);
    if (k->floor) {
        shoal_format_put_u16(ret + 2, c->m);
    }
    ret += k->floor ? 4 : 2;
    for (size_t i = 0; k->fifth && i < N; i++) {
        ret[i / 8] |= (uint8_t)((c->code[i] >> 4 & 1) << i % 8);
    }
    ret += k->fifth ? 4 : 0;
    for (size_t j = 0; j < N / 2; j++) {
        ret[j] = (uint8_t)((c->code[j] & 15) | (c->code[j + N / 2] & 15) << 4);
    }
}

static bool finite_blocks(const kind *k, const uint8_t *blocks, size_t n)
{
    for (size_t b = 0; b < n / N; b++, blocks += k->block) {
        if (!shoal_format_half_finite(shoal_format_u16(blocks)) ||
            (k->floor && !shoal_format_half_finite(shoal_format_u16(blocks + 2)))) {
            return false;
        }
    }
    return true;
}

/* --- values ---------------------------------------------------------------------------------- */

static void values_of(const kind *k, const coded *c, float *ret_x)
{
    float d = shoal_f16_to_f32(c->d);
    float m = shoal_f16_to_f32(c->m);
    for (size_t i = 0; i < N; i++) {
        float x = d * (float)k->values[c->code[i]];
        ret_x[i] = k->floor ? x + m : x;
    }
}

static void decode_blocks(const kind *k, const uint8_t *blocks, size_t n, float *ret_x)
{
    for (size_t b = 0; b < n / N; b++) {
        coded c;
        read_block(k, blocks + b * k->block, &c);
        values_of(k, &c, ret_x + b * N);
    }
}

/* --- panels ---------------------------------------------------------------------------------- */

static void pack_blocks(const kind *k, const uint8_t *blocks, size_t n, size_t r, uint8_t *panel)
{
    size_t panel_block = shoal_panel_find(k->panel)->block_bytes;
    for (size_t b = 0; b < n / N; b++) {
        coded c;
        uint8_t *to = panel + b * panel_block;
        read_block(k, blocks + b * k->block, &c);
        shoal_format_put_u16(to + 2 * r, c.d);
        to += 2 * ROWS;
        if (k->floor) {
            shoal_format_put_u16(to + 2 * r, c.m);
            to += 2 * ROWS;
        }
        shoal_panel_put_nib(to, r, c.code);
        if (k->fifth) {
            shoal_panel_put_hi1(to + SHOAL_PART_NIB, r, c.code, 4);
        }
    }
}

static void get_coded(const kind *k, const uint8_t *from, size_t r, coded *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->d = shoal_format_u16(from + 2 * r);
    from += 2 * ROWS;
    if (k->floor) {
        ret->m = shoal_format_u16(from + 2 * r);
        from += 2 * ROWS;
    }
    shoal_panel_get_nib(from, r, ret->code);
    if (k->fifth) {
        shoal_panel_get_hi1(from + SHOAL_PART_NIB, r, ret->code, 4);
    }
}

static void restore_blocks(const kind *k, const uint8_t *panel, size_t n, size_t r,
                           uint8_t *ret_blocks)
{
    size_t panel_block = shoal_panel_find(k->panel)->block_bytes;
    for (size_t b = 0; b < n / N; b++) {
        coded c;
        get_coded(k, panel + b * panel_block, r, &c);
        write_block(k, &c, ret_blocks + b * k->block);
    }
}

static void unpack_blocks(const kind *k, const uint8_t *panel, size_t n, size_t r, float *ret_row)
{
    size_t panel_block = shoal_panel_find(k->panel)->block_bytes;
    for (size_t b = 0; b < n / N; b++) {
        coded c;
        get_coded(k, panel + b * panel_block, r, &c);
        values_of(k, &c, ret_row + b * N);
    }
}

/* --- encoding -------------------------------------------------------------------------------- */

/* The reference rounding with a floor: d spans the values, m is the least of them. */
static void encode_floor(const float *x, int high, coded *ret)
{
    float least = x[0];
    float most = x[0];
    for (size_t i = 1; i < N; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    float d = (most - least) / (float)high;
    float inv = d != 0 ? 1.0F / d : 0.0F;
    ret->d = shoal_f32_to_f16(d);
    ret->m = shoal_f32_to_f16(least);
    for (size_t i = 0; i < N; i++) {
        float code = (x[i] - least) * inv + 0.5F;
        ret->code[i] = (uint8_t)fminf((float)high, fmaxf(0.0F, code));
    }
}

/* The reference rounding without: the scale makes the element of largest magnitude exactly -16. */
static void encode_q5_0_block(const float *x, coded *ret)
{
    float extreme = 0;
    for (size_t i = 0; i < N; i++) {
        extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
    }
    float d = extreme / -16.0F;
    float inv = d != 0 ? 1.0F / d : 0.0F;
    ret->d = shoal_f32_to_f16(d);
    for (size_t i = 0; i < N; i++) {
        ret->code[i] = (uint8_t)fminf(31.0F, fmaxf(0.0F, x[i] * inv + 16.5F));
    }
}

static void encode_iq4_nl_block(const float *x, coded *ret)
{
    double w[N];
    shoal_search_weights(x, N, w);
    ret->d = shoal_f32_to_f16((float)shoal_search_table(x, w, N, shoal_iq4_nl));
    float d = shoal_f16_to_f32(ret->d);
    float inv = d != 0 ? 1.0F / d : 0.0F;
    for (size_t i = 0; i < N; i++) {
        ret->code[i] = (uint8_t)shoal_search_nearest((double)(x[i] * inv), shoal_iq4_nl);
    }
}

static void encode_blocks(const kind *k, const float *x, size_t n, uint8_t *ret_blocks)
{
    for (size_t b = 0; b < n / N; b++, x += N) {
        coded c = {0};
        if (k->floor) {
            encode_floor(x, k->fifth ? 31 : 15, &c);
        } else if (k->fifth) {
            encode_q5_0_block(x, &c);
        } else {
            encode_iq4_nl_block(x, &c);
        }
        write_block(k, &c, ret_blocks + b * k->block);
    }
}

/* --- formats --------------------------------------------------------------------------------- */

/* A format's functions bind its kind. */
#define FORMAT(name, NAME)                                                                         \
    static void pack_##name(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)             \
    {                                                                                              \
        pack_blocks(&name, blocks, k, r, panel);                                                   \
    }                                                                                              \
    static void restore_##name(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)      \
    {                                                                                              \
        restore_blocks(&name, panel, k, r, ret_blocks);                                            \
    }                                                                                              \
    static void unpack_##name(const uint8_t *panel, size_t k, size_t r, float *ret_row)            \
    {                                                                                              \
        unpack_blocks(&name, panel, k, r, ret_row);                                                \
    }                                                                                              \
    static void encode_##name(const float *x, size_t n, uint8_t *ret_blocks)                       \
    {                                                                                              \
        encode_blocks(&name, x, n, ret_blocks);                                                    \
    }                                                                                              \
    static void decode_##name(const uint8_t *blocks, size_t n, float *ret_x)                       \
    {                                                                                              \
        decode_blocks(&name, blocks, n, ret_x);                                                    \
    }                                                                                              \
    static bool finite_##name(const uint8_t *blocks, size_t n)                                     \
    {                                                                                              \
        return finite_blocks(&name, blocks, n);                                                    \
    }                                                                                              \
    const shoal_format shoal_format_##name = {                                                     \
        .type = SHOAL_TYPE_##NAME,                                                                 \
        .panel = SHOAL_PANEL_##NAME,                                                               \
        .pack_row = pack_##name,                                                                   \
        .restore_row = restore_##name,                                                             \
        .unpack_row = unpack_##name,                                                               \
        .encode = encode_##name,                                                                   \
        .decode = decode_##name,                                                                   \
        .finite = finite_##name,                                                                   \
    };

FORMAT(q4_1, Q4_1)
FORMAT(q5_0, Q5_0)
FORMAT(q5_1, Q5_1)
FORMAT(iq4_nl, IQ4_NL)
