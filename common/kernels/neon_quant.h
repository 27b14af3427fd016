/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the NEON files: products of quantised panels, written once and built three times. The
 * file that includes this names its door in SHOAL_NEON_QUANT_DOOR and the tier it makes in
 * SHOAL_NEON_QUANT_TIER; its compile flags decide how four bytes are multiplied: by widening (any
 * processor), by sdot, or for two columns at a time by smmla. Integer sums are exact in any order,
 * everything after them follows the law of panel.h.
 */
#ifndef SHOAL_KERNELS_NEON_QUANT_H
#define SHOAL_KERNELS_NEON_QUANT_H

#include "common/kernels/kernels.h"

#if defined(__aarch64__) && defined(SHOAL_NEON_QUANT_DOOR)

#    include "common/kernels/neon_codes.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    QUADS = ROWS / 4,
    COLS_MAX = 4
};

/* How the integer of 32 elements and the mins come about. */
typedef enum block_form {
    FORM_PLAIN,   /* {d}: the sum of code * x */
    FORM_MIN,     /* {d, m}: the same, then m */
    FORM_ONE,     /* {d, dmin}, {sc, mn}: one scale and one min */
    FORM_NIBBLES, /* {d, dmin}, {sm[2]}: a scale and a min for each half, a nibble each */
    FORM_SIGNED   /* {d}, {sc[2]}: a signed scale for each half */
} block_form;

/* Where things lie in a panel block of one kind. */
typedef struct layout {
    block_form form;
    size_t head_bytes; /* of the f16 in front */
    size_t n_subs;     /* runs of 32 elements */
    size_t sub_bytes;
    size_t codes_at; /* in a sub-block */
} layout;

/* The codes of 32 activations of a few columns: two vectors each, as arrange() leaves them. */
typedef struct acts {
    int8x16_t v[COLS_MAX][2];
} acts;

/* The exact sums of a quad of rows: [column][0] over the first half, [column][1] over the second,
 * or all of it in [column][0]. */
typedef struct dots {
    int32x4_t of[COLS_MAX][2];
} dots;

/* acc += the dot of four bytes of each row with bytes 4 * lane.. of x. Widened, two products are
 * at most 2 * 128 * 127 in size and fit 16 bits. */
#    if defined(__ARM_FEATURE_DOTPROD)
#        define DOT4(acc, w, x, lane) vdotq_laneq_s32(acc, w, x, lane)
#    else
#        define DOT4(acc, w, x, lane)                                                              \
            dot4(acc, w, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane)))

SHOAL_INLINE int32x4_t dot4(int32x4_t acc, int8x16_t w, int8x16_t x)
{
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    int16x8_t high = vmull_high_s8(w, x);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}
#    endif

/* One half: four groups of codes against sixteen bytes of x. */
SHOAL_INLINE int32x4_t half_dot(int32x4_t acc, const int8x16_t w[4], int8x16_t x)
{
    acc = DOT4(acc, w[0], x, 0);
    acc = DOT4(acc, w[1], x, 1);
    acc = DOT4(acc, w[2], x, 2);
    return DOT4(acc, w[3], x, 3);
}

/* Reads block b of columns c to c + n_c - 1. For smmla two columns are laid side by side, eight
 * bytes of each in a vector: v[j] has the first half of both, v[j + 1] the second. */
SHOAL_INLINE void arrange(const shoal_gemm *g, size_t c, size_t b, size_t n_c, acts *x)
{
    for (size_t j = 0; j < n_c; j++) {
        const int8_t *q = g->xq + (c + j) * g->k + b * SHOAL_QBLOCK;
        x->v[j][0] = vld1q_s8(q);
        x->v[j][1] = vld1q_s8(q + 16);
    }
#    if defined(__ARM_FEATURE_MATMUL_INT8)
    for (size_t j = 0; j + 2 <= n_c; j += 2) {
        int64x2_t low[2] = {vreinterpretq_s64_s8(x->v[j][0]), vreinterpretq_s64_s8(x->v[j + 1][0])};
        int64x2_t high[2] = {vreinterpretq_s64_s8(x->v[j][1]),
                             vreinterpretq_s64_s8(x->v[j + 1][1])};
        x->v[j][0] = vreinterpretq_s8_s64(vzip1q_s64(low[0], low[1]));
        x->v[j][1] = vreinterpretq_s8_s64(vzip2q_s64(low[0], low[1]));
        x->v[j + 1][0] = vreinterpretq_s8_s64(vzip1q_s64(high[0], high[1]));
        x->v[j + 1][1] = vreinterpretq_s8_s64(vzip2q_s64(high[0], high[1]));
    }
#    endif
}

#    if defined(__ARM_FEATURE_MATMUL_INT8)
/* Adds one half for a pair of columns: eight bytes of two rows are one operand of smmla, so the
 * sums come as (row 0, both columns; row 1, both columns). */
SHOAL_INLINE void half_pair(const int8x16_t w[4], const int8x16_t x[2], int32x4_t acc[2])
{
    for (size_t i = 0; i < 2; i++) {
        int32x4_t first = vreinterpretq_s32_s8(w[2 * i]);
        int32x4_t second = vreinterpretq_s32_s8(w[2 * i + 1]);
        acc[0] = vmmlaq_s32(acc[0], vreinterpretq_s8_s32(vzip1q_s32(first, second)), x[i]);
        acc[1] = vmmlaq_s32(acc[1], vreinterpretq_s8_s32(vzip2q_s32(first, second)), x[i]);
    }
}

/* From sums by rows and pairs to one vector of four rows for each of the columns. */
SHOAL_INLINE void unpair(const int32x4_t acc[2], int32x4_t *ret_first, int32x4_t *ret_second)
{
    *ret_first = vuzp1q_s32(acc[0], acc[1]);
    *ret_second = vuzp2q_s32(acc[0], acc[1]);
}
#    endif

/* The dots of a quad with n_c columns, apart for the halves or in one. */
SHOAL_INLINE void quad_dots(const int8x16_t w[NEON_GROUPS], const acts *x, size_t n_c, bool halves,
                            dots *ret)
{
    const int32x4_t zero = vdupq_n_s32(0);
    size_t j = 0;
#    if defined(__ARM_FEATURE_MATMUL_INT8)
    for (; j + 2 <= n_c; j += 2) {
        int32x4_t low[2] = {zero, zero};
        int32x4_t high[2] = {zero, zero};
        half_pair(w, x->v[j], low);
        half_pair(w + 4, x->v[j + 1], halves ? high : low);
        unpair(low, &ret->of[j][0], &ret->of[j + 1][0]);
        if (halves) {
            unpair(high, &ret->of[j][1], &ret->of[j + 1][1]);
        }
    }
#    endif
    for (; j < n_c; j++) {
        ret->of[j][0] = half_dot(zero, w, x->v[j][0]);
        if (halves) {
            ret->of[j][1] = half_dot(zero, w + 4, x->v[j][1]);
        } else {
            ret->of[j][0] = half_dot(ret->of[j][0], w + 4, x->v[j][1]);
        }
    }
}

/* Four bytes as integers. */
SHOAL_INLINE uint32x4_t four_u8(const uint8_t *p)
{
    uint32_t four = 0;
    memcpy(&four, p, sizeof four);
    uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    return vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
}

SHOAL_INLINE int32x4_t four_s8(const uint8_t *p)
{
    uint32_t four = 0;
    memcpy(&four, p, sizeof four);
    int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(four));
    return vmovl_s16(vget_low_s16(vmovl_s8(bytes)));
}

/* What a quad of rows has besides its codes. */
typedef struct scales {
    float32x4_t d;
    int32x4_t whole[2]; /* of the halves */
    float32x4_t min[2]; /* taken away, but for FORM_MIN: added */
} scales;

SHOAL_INLINE void read_scales(block_form form, const uint8_t *block, const uint8_t *sub,
                              size_t quad, scales *s)
{
    s->d = neon_load_f16(block + 8 * quad);
    float32x4_t dmin = vdupq_n_f32(0.0F);
    if (form != FORM_PLAIN && form != FORM_SIGNED) {
        dmin = neon_load_f16(block + 2 * ROWS + 8 * quad);
    }
    if (form == FORM_MIN) {
        s->min[0] = dmin;
    } else if (form == FORM_ONE) {
        s->whole[0] = vreinterpretq_s32_u32(four_u8(sub + 4 * quad));
        s->min[0] = vmulq_f32(dmin, vcvtq_f32_u32(four_u8(sub + ROWS + 4 * quad)));
    }
    for (size_t h = 0; h < 2; h++) {
        const uint8_t *at = sub + h * ROWS + 4 * quad;
        if (form == FORM_SIGNED) {
            s->whole[h] = four_s8(at);
        } else if (form == FORM_NIBBLES) {
            uint32x4_t both = four_u8(at);
            s->whole[h] = vreinterpretq_s32_u32(vandq_u32(both, vdupq_n_u32(15)));
            s->min[h] = vmulq_f32(dmin, vcvtq_f32_u32(vshrq_n_u32(both, 4)));
        }
    }
}

/* Takes the integer of one column's block into its sums, then the mins. */
SHOAL_INLINE float32x4_t scale_in(block_form form, const scales *s, const int32x4_t dot[2],
                                  const shoal_act_block *act, float32x4_t acc)
{
    int32x4_t whole = dot[0];
    if (form == FORM_ONE) {
        whole = vmulq_s32(s->whole[0], dot[0]);
    } else if (form == FORM_NIBBLES || form == FORM_SIGNED) {
        whole = vmlaq_s32(vmulq_s32(s->whole[0], dot[0]), s->whole[1], dot[1]);
    }
    float32x4_t ds = vmulq_f32(s->d, vdupq_n_f32(act->scale));
    acc = vfmaq_f32(acc, ds, vcvtq_f32_s32(whole));
    if (form == FORM_MIN) {
        acc = vfmaq_f32(acc, s->min[0], vdupq_n_f32(act->sum));
    } else if (form == FORM_ONE) {
        acc = vfmsq_f32(acc, s->min[0], vdupq_n_f32(act->sum));
    } else if (form == FORM_NIBBLES) {
        acc = vfmsq_f32(acc, s->min[0], vdupq_n_f32(act->sum_low));
        acc = vfmsq_f32(acc, s->min[1], vdupq_n_f32(act->sum_high));
    }
    return acc;
}

/* One panel by n_c columns; all but g, p and c are constants after inlining. */
SHOAL_INLINE void block_tile(const shoal_gemm *g, size_t p, size_t c, layout l,
                             neon_codes_fn *codes, size_t n_c)
{
    const size_t n_acts = g->k / SHOAL_QBLOCK;
    const size_t n_blocks = n_acts / l.n_subs;
    const size_t block_bytes = l.head_bytes + l.n_subs * l.sub_bytes;
    const bool halves = l.form == FORM_NIBBLES || l.form == FORM_SIGNED;
    const uint8_t *block = (const uint8_t *)g->panels + p * n_blocks * block_bytes;
    float32x4_t acc[COLS_MAX][QUADS];
    for (size_t i = 0; i < n_c * QUADS; i++) {
        acc[i / QUADS][i % QUADS] = vdupq_n_f32(0.0F);
    }
    for (size_t b = 0; b < n_acts; b++) {
        const uint8_t *sub = block + l.head_bytes + b % l.n_subs * l.sub_bytes;
        acts x;
        arrange(g, c, b, n_c, &x);
        for (size_t quad = 0; quad < QUADS; quad++) {
            int8x16_t w[NEON_GROUPS];
            codes(sub + l.codes_at, quad, g->levels, w);
            dots dot;
            quad_dots(w, &x, n_c, halves, &dot);
            scales s;
            read_scales(l.form, block, sub, quad, &s);
            for (size_t j = 0; j < n_c; j++) {
                const shoal_act_block *act = g->xb + (c + j) * n_acts + b;
                acc[j][quad] = scale_in(l.form, &s, dot.of[j], act, acc[j][quad]);
            }
        }
        if ((b + 1) % l.n_subs == 0) {
            block += block_bytes;
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        neon_put(g, p, c + j, acc[j]);
    }
}

/* All columns of a panel before the next: memory is read once, whatever the width. */
SHOAL_INLINE void block_gemm(const shoal_gemm *g, size_t p0, size_t p1, layout l,
                             neon_codes_fn *codes)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            block_tile(g, p, c, l, codes, 4);
        }
        if (c + 2 <= g->n_cols) {
            block_tile(g, p, c, l, codes, 2);
            c += 2;
        }
        if (c < g->n_cols) {
            block_tile(g, p, c, l, codes, 1);
        }
    }
}

#    define PRODUCT(name, codes, ...)                                                              \
        static void gemm_##name(const shoal_gemm *g, size_t p0, size_t p1)                         \
        {                                                                                          \
            block_gemm(g, p0, p1, (layout){__VA_ARGS__}, codes);                                   \
        }

/* form, bytes in front, runs of 32, bytes of a run, place of its codes */
PRODUCT(q8_0, neon_codes_q8_0, FORM_PLAIN, 32, 1, 512, 0)
PRODUCT(q4_0, neon_codes_q4_0, FORM_PLAIN, 32, 1, 256, 0)
PRODUCT(q4_1, neon_codes_4, FORM_MIN, 64, 1, 256, 0)
PRODUCT(q5_0, neon_codes_q5_0, FORM_PLAIN, 32, 1, 320, 0)
PRODUCT(q5_1, neon_codes_5, FORM_MIN, 64, 1, 320, 0)
PRODUCT(iq4_nl, neon_codes_iq4_nl, FORM_PLAIN, 32, 1, 256, 0)
PRODUCT(q2_k, neon_codes_q2_k, FORM_NIBBLES, 64, 8, 160, 32)
PRODUCT(q3_k, neon_codes_q3_k, FORM_SIGNED, 32, 8, 224, 32)
PRODUCT(q4_k, neon_codes_4, FORM_ONE, 64, 8, 288, 32)
PRODUCT(q5_k, neon_codes_5, FORM_ONE, 64, 8, 352, 32)
PRODUCT(q6_k, neon_codes_q6_k, FORM_SIGNED, 32, 8, 416, 32)

/* --- kinds of our own: n_subs runs of 32 elements share a scale
 * --------------------------------- */

#    define GROUPED(name, codes, sub_bytes)                                                        \
        static void name(const shoal_gemm *g, size_t p0, size_t p1, size_t n_subs)                 \
        {                                                                                          \
            block_gemm(g, p0, p1, (layout){FORM_PLAIN, 32, n_subs, sub_bytes, 0}, codes);          \
        }
GROUPED(c2, neon_codes_c2, 128)
GROUPED(c3, neon_codes_c3, 192)
GROUPED(c4, neon_codes_q4_0, 256)
GROUPED(n3, neon_codes_n3, 192)
GROUPED(n4, neon_codes_n4, 256)

/* acc += the dots of four bytes of each row. */
SHOAL_INLINE int32x4_t row_dots(int32x4_t acc, int8x16_t w, int8x16_t x)
{
#    if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(acc, w, x);
#    else
    return dot4(acc, w, x);
#    endif
}

/* Eight activations with their negatives: bit 2 of a place finds the negative, bit 3 the four. */
SHOAL_INLINE int8x16_t signed_table(const int8_t *x)
{
    int8x16_t eight = vcombine_s8(vld1_s8(x), vld1_s8(x));
    int8x16_t negative = vnegq_s8(eight);
    return vreinterpretq_s8_s32(
        vzip1q_s32(vreinterpretq_s32_s8(eight), vreinterpretq_s32_s8(negative)));
}

/* Two of four: values against the activations that signs and places choose. */
SHOAL_INLINE void pairs_tile(const shoal_gemm *g, size_t p, size_t c, size_t n_subs,
                             size_t sub_bytes, neon_pairs_fn *pairs, size_t n_c)
{
    const size_t n_acts = g->k / SHOAL_QBLOCK;
    const size_t block_bytes = 2 * ROWS + n_subs * sub_bytes;
    const uint8x16_t second = vreinterpretq_u8_u32(vdupq_n_u32(0x08080000));
    const uint8_t *panel = (const uint8_t *)g->panels + p * (n_acts / n_subs) * block_bytes;
    float32x4_t acc[COLS_MAX][QUADS];
    for (size_t i = 0; i < n_c * QUADS; i++) {
        acc[i / QUADS][i % QUADS] = vdupq_n_f32(0.0F);
    }
    for (size_t b = 0; b < n_acts; b++) {
        const uint8_t *block = panel + b / n_subs * block_bytes;
        const uint8_t *sub = block + 2 * ROWS + b % n_subs * sub_bytes;
        int8x16_t table[COLS_MAX][4];
        for (size_t i = 0; i < 4 * n_c; i++) {
            const int8_t *q = g->xq + (c + i / 4) * g->k + b * SHOAL_QBLOCK;
            table[i / 4][i % 4] = signed_table(q + 8 * (i % 4));
        }
        for (size_t quad = 0; quad < QUADS; quad++) {
            int8x16_t value[4];
            uint8x16_t place[4];
            pairs(sub, quad, value, place);
            scales s;
            read_scales(FORM_PLAIN, block, sub, quad, &s);
            for (size_t j = 0; j < n_c; j++) {
                int32x4_t dot[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
                for (size_t i = 0; i < 4; i++) {
                    int8x16_t chosen = vqtbl1q_s8(table[j][i], vorrq_u8(place[i], second));
                    dot[0] = row_dots(dot[0], value[i], chosen);
                }
                const shoal_act_block *act = g->xb + (c + j) * n_acts + b;
                acc[j][quad] = scale_in(FORM_PLAIN, &s, dot, act, acc[j][quad]);
            }
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        neon_put(g, p, c + j, acc[j]);
    }
}

SHOAL_INLINE void pairs_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t n_subs,
                             size_t sub_bytes, neon_pairs_fn *pairs)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            pairs_tile(g, p, c, n_subs, sub_bytes, pairs, 4);
        }
        for (; c < g->n_cols; c++) {
            pairs_tile(g, p, c, n_subs, sub_bytes, pairs, 1);
        }
    }
}

#    define PAIRS(name, pairs, sub_bytes)                                                          \
        static void name(const shoal_gemm *g, size_t p0, size_t p1, size_t n_subs)                 \
        {                                                                                          \
            pairs_gemm(g, p0, p1, n_subs, sub_bytes, pairs);                                       \
        }
PAIRS(s4, neon_pairs_s4, 192)
PAIRS(s8, neon_pairs_s8, 320)

/* A bitmap: rows are expanded, and the exact sums of each put together at the end. */
SHOAL_INLINE void bitmap_tile(const shoal_gemm *g, size_t p, size_t c, size_t n_subs, bool eight,
                              size_t n_c)
{
    const size_t n_acts = g->k / SHOAL_QBLOCK;
    const size_t sub_bytes = eight ? 2 * NEON_ROWS_BYTES : 3 * NEON_ROWS_BYTES;
    const size_t block_bytes = 2 * ROWS + n_subs * sub_bytes;
    const uint8_t *panel = (const uint8_t *)g->panels + p * (n_acts / n_subs) * block_bytes;
    float32x4_t acc[COLS_MAX][QUADS];
    for (size_t i = 0; i < n_c * QUADS; i++) {
        acc[i / QUADS][i % QUADS] = vdupq_n_f32(0.0F);
    }
    for (size_t b = 0; b < n_acts; b++) {
        const uint8_t *block = panel + b / n_subs * block_bytes;
        const uint8_t *sub = block + 2 * ROWS + b % n_subs * sub_bytes;
        for (size_t quad = 0; quad < QUADS; quad++) {
            int8x16_t w[4][2];
            neon_bitmap(sub, quad, eight, w);
            scales s;
            read_scales(FORM_PLAIN, block, sub, quad, &s);
            for (size_t j = 0; j < n_c; j++) {
                const int8_t *q = g->xq + (c + j) * g->k + b * SHOAL_QBLOCK;
                int32x4_t sum[4];
                for (size_t i = 0; i < 4; i++) {
                    sum[i] = row_dots(vdupq_n_s32(0), w[i][0], vld1q_s8(q));
                    sum[i] = row_dots(sum[i], w[i][1], vld1q_s8(q + 16));
                }
                int32x4_t dot[2] = {
                    vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3])),
                    vdupq_n_s32(0)};
                const shoal_act_block *act = g->xb + (c + j) * n_acts + b;
                acc[j][quad] = scale_in(FORM_PLAIN, &s, dot, act, acc[j][quad]);
            }
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        neon_put(g, p, c + j, acc[j]);
    }
}

SHOAL_INLINE void bitmap_gemm(const shoal_gemm *g, size_t p0, size_t p1, size_t n_subs, bool eight)
{
    for (size_t p = p0; p < p1; p++) {
        size_t c = 0;
        for (; c + 4 <= g->n_cols; c += 4) {
            bitmap_tile(g, p, c, n_subs, eight, 4);
        }
        for (; c < g->n_cols; c++) {
            bitmap_tile(g, p, c, n_subs, eight, 1);
        }
    }
}

static void b16(const shoal_gemm *g, size_t p0, size_t p1, size_t n_subs)
{
    bitmap_gemm(g, p0, p1, n_subs, false);
}

static void b8(const shoal_gemm *g, size_t p0, size_t p1, size_t n_subs)
{
    bitmap_gemm(g, p0, p1, n_subs, true);
}

#    define GROUP(name, group)                                                                     \
        static void gemm_##name##_##group(const shoal_gemm *g, size_t p0, size_t p1)               \
        {                                                                                          \
            name(g, p0, p1, (group) / SHOAL_QBLOCK);                                               \
        }
GROUP(c2, 32)
GROUP(c2, 64)
GROUP(c2, 128)
GROUP(c3, 32)
GROUP(c3, 64)
GROUP(c3, 128)
GROUP(c4, 64)
GROUP(c4, 128)
GROUP(s4, 32)
GROUP(s4, 64)
GROUP(s4, 128)
GROUP(s8, 32)
GROUP(s8, 64)
GROUP(s8, 128)
GROUP(b16, 32)
GROUP(b16, 64)
GROUP(b16, 128)
GROUP(b8, 32)
GROUP(b8, 64)
GROUP(b8, 128)
GROUP(n3, 32)
GROUP(n3, 64)
GROUP(n3, 128)
GROUP(n4, 32)
GROUP(n4, 64)
GROUP(n4, 128)

void SHOAL_NEON_QUANT_DOOR(shoal_kernels *kernels)
{
    kernels->tier = SHOAL_NEON_QUANT_TIER;
    kernels->gemm[SHOAL_PANEL_Q8_0] = gemm_q8_0;
    kernels->gemm[SHOAL_PANEL_Q4_0] = gemm_q4_0;
    kernels->gemm[SHOAL_PANEL_Q4_1] = gemm_q4_1;
    kernels->gemm[SHOAL_PANEL_Q5_0] = gemm_q5_0;
    kernels->gemm[SHOAL_PANEL_Q5_1] = gemm_q5_1;
    kernels->gemm[SHOAL_PANEL_IQ4_NL] = gemm_iq4_nl;
    kernels->gemm[SHOAL_PANEL_Q2_K] = gemm_q2_k;
    kernels->gemm[SHOAL_PANEL_Q3_K] = gemm_q3_k;
    kernels->gemm[SHOAL_PANEL_Q4_K] = gemm_q4_k;
    kernels->gemm[SHOAL_PANEL_Q5_K] = gemm_q5_k;
    kernels->gemm[SHOAL_PANEL_Q6_K] = gemm_q6_k;
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

#endif

#endif
