/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the AVX-512 products of quantised panels: what their kinds share. A panel's 16 rows
 * are one register of outputs.
 *
 * vpdpbusd multiplies unsigned codes with the signed activations and adds four neighbours to a
 * 32-bit sum, which cannot overflow: the largest is 255 * 127 * 32, and as much again for the
 * offset. Signed codes are moved up to unsigned by their offset; sums start at minus the offset
 * times the sum of the activations and so end at the exact signed dots. Integer scales are applied
 * in float, where that rounds as the law does: the dots and all products but the last are below
 * 2^24, so only the last step rounds, once, the exact integer.
 *
 * Two panels go together where there are several columns: a loaded activation serves both, since
 * two loads a cycle, not products, are what holds up one panel by itself (a third faster at four
 * columns). Columns that no tile holds at once take turns over a chunk of blocks in the first
 * cache, and their sums wait in y; so memory is read evenly, by all turns.
 *
 * Few columns unpack a block on the way. Where unpacking is dear, more columns share one: the
 * blocks of a chunk are unpacked into a scratch.
 */
#ifndef SHOAL_KERNELS_AVX512_QUANT_H
#define SHOAL_KERNELS_AVX512_QUANT_H

#include "common/base/macros.h"
#include "common/kernels/panel.h"

#include "common/kernels/avx512_math.h"

#include <stdbool.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    FUSED_COLS = 6,         /* of a tile: two panels of them fill the registers */
    TURN_COLS = 5,          /* the same where there are more columns: fastest */
    HALVES_COLS = 4,        /* the same where a dot has two sums */
    COLS_MAX = 8,           /* of a tile over unpacked blocks, one panel */
    EXPAND_COLS = 10,       /* columns from which dear codes are unpacked once for all */
    CHUNK_BYTES = 18 << 10, /* of each of two panels: they stay in the first cache */
    EXPAND_CHUNK = 16,      /* blocks unpacked at a time: 13 KiB */
    CACHED_BYTES = 1 << 19, /* activations that stay in the second cache */
    PANELS_MAX = 4,         /* streams of weights at width 1 */
    AHEAD = 2048,           /* bytes: how far in front weights are fetched */
    SCALES_BYTES = 32       /* sixteen f16 */
};

/* --- unpacking: groups i and 4 + i of 32 elements ------------------------------------------- */

typedef struct unpacked {
    __m512i low;  /* group i, of the first 16 elements */
    __m512i high; /* group 4 + i, of the last 16 */
} unpacked;

/* levels: of kinds whose codes are indices of them. */
typedef unpacked unpack_fn(const uint8_t *codes, int i, const int8_t *levels);

SHOAL_INLINE unpacked unpack_nib(const uint8_t *nib, int i, const int8_t *levels)
{
    (void)levels;
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i both = _mm512_loadu_si512(nib + 64 * (size_t)i);
    return (unpacked){_mm512_and_si512(both, mask),
                      _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
}

/* Moves bits up by `by`, down where that is negative. */
SHOAL_INLINE __m512i shift(__m512i bits, int by)
{
    return by < 0 ? _mm512_srl_epi16(bits, _mm_cvtsi32_si128(-by))
                  : _mm512_sll_epi16(bits, _mm_cvtsi32_si128(by));
}

/* Bits i and 4 + i of hi1, each as bit `to` of its byte. */
SHOAL_INLINE unpacked unpack_hi1(const uint8_t *hi1, int i, int to)
{
    const __m512i mask = _mm512_set1_epi8((char)(1 << to));
    __m512i bits = _mm512_loadu_si512(hi1);
    return (unpacked){_mm512_and_si512(shift(bits, to - i), mask),
                      _mm512_and_si512(shift(bits, to - i - 4), mask)};
}

/* Bits 2i and 2i + 1 of two, each pair as bits `to` and to + 1. */
SHOAL_INLINE unpacked unpack_two(const uint8_t *two, int i, int to)
{
    const __m512i mask = _mm512_set1_epi8((char)(3 << to));
    return (unpacked){_mm512_and_si512(shift(_mm512_loadu_si512(two), to - 2 * i), mask),
                      _mm512_and_si512(shift(_mm512_loadu_si512(two + 64), to - 2 * i), mask)};
}

SHOAL_INLINE unpacked join(unpacked a, unpacked b)
{
    return (unpacked){_mm512_or_si512(a.low, b.low), _mm512_or_si512(a.high, b.high)};
}

SHOAL_INLINE unpacked unpack_2bit(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    return unpack_two(codes, i, 0);
}

SHOAL_INLINE unpacked unpack_3bit(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    return join(unpack_two(codes, i, 0), unpack_hi1(codes + 128, i, 2));
}

SHOAL_INLINE unpacked unpack_5bit(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    return join(unpack_nib(codes, i, NULL), unpack_hi1(codes + 256, i, 4));
}

SHOAL_INLINE unpacked unpack_6bit(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    return join(unpack_nib(codes, i, NULL), unpack_two(codes + 256, i, 4));
}

/* The part of panel.h: codes of three bits in three registers. */
SHOAL_INLINE unpacked unpack_tri(const uint8_t *tri, int i, const int8_t *levels)
{
    (void)levels;
    const __m512i seven = _mm512_set1_epi8(7);
    const __m512i four = _mm512_set1_epi8(4);
    const __m512i three = _mm512_set1_epi8(3);
    if (i < 3) {
        __m512i bits = _mm512_loadu_si512(tri + 64 * (size_t)i);
        return (unpacked){_mm512_and_si512(bits, seven),
                          _mm512_and_si512(_mm512_srli_epi16(bits, 3), seven)};
    }
    __m512i first = _mm512_loadu_si512(tri);
    __m512i tops = _mm512_loadu_si512(tri + 64);
    __m512i last = _mm512_loadu_si512(tri + 128);
    return (unpacked){
        _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(tops, 4), four),
                        _mm512_and_si512(_mm512_srli_epi16(first, 6), three)),
        _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(tops, 5), four),
                        _mm512_and_si512(_mm512_srli_epi16(last, 6), three)),
    };
}

/* Values of two of four with eight bits: magnitudes, and places with the sign in bit 2. */
SHOAL_INLINE unpacked unpack_s8(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    __m512i value = _mm512_loadu_si512(codes + 64 * (size_t)i);
    __m512i sign = _mm512_and_si512(_mm512_srli_epi16(value, 5), _mm512_set1_epi8(4));
    __m512i place =
        _mm512_and_si512(shift(_mm512_loadu_si512(codes + 256), -2 * i), _mm512_set1_epi8(3));
    return (unpacked){_mm512_abs_epi8(value), _mm512_or_si512(place, sign)};
}

/* Turning the top bit adds 128. */
SHOAL_INLINE unpacked unpack_8bit(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    const __m512i top = _mm512_set1_epi8(-128);
    const uint8_t *at = codes + 64 * (size_t)i;
    return (unpacked){_mm512_xor_si512(_mm512_loadu_si512(at), top),
                      _mm512_xor_si512(_mm512_loadu_si512(at + 256), top)};
}

/* Signed levels in place of their indices, moved up to unsigned. */
SHOAL_INLINE unpacked look_up(unpacked index, const int8_t *levels)
{
    __m128i values = _mm_loadu_si128((const __m128i *)(const void *)levels);
    const __m512i table = _mm512_broadcast_i32x4(_mm_xor_si128(values, _mm_set1_epi8(-128)));
    return (unpacked){_mm512_shuffle_epi8(table, index.low),
                      _mm512_shuffle_epi8(table, index.high)};
}

SHOAL_INLINE unpacked unpack_nl(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    return look_up(unpack_nib(codes, i, NULL), shoal_iq4_nl);
}

SHOAL_INLINE unpacked unpack_n3(const uint8_t *codes, int i, const int8_t *levels)
{
    return look_up(unpack_tri(codes, i, NULL), levels);
}

SHOAL_INLINE unpacked unpack_n4(const uint8_t *codes, int i, const int8_t *levels)
{
    return look_up(unpack_nib(codes, i, NULL), levels);
}

/* --- the kinds ------------------------------------------------------------------------------ */

typedef enum parts {
    NONE,
    WHOLE, /* one a block */
    HALVES /* two a block, each for 16 elements */
} parts;

/* Which elements of a block have codes. */
typedef enum choice {
    ALL,
    PAIRS, /* two of four: low are magnitudes, high signs and places */
    BITMAP /* a bit each says; unpack is not called */
} choice;

/* What a block has besides codes, as floats. */
typedef struct scales {
    __m512 d;
    __m512 scale[2]; /* the integer scales of the K-types */
    __m512 mins[2];
} scales;

typedef struct kind kind;

/* What is written of ret is what the kind has. */
typedef void scales_fn(const kind *k, const uint8_t *block, const uint8_t *sub, scales *ret);

struct kind {
    int offset;   /* of the codes */
    parts scales; /* integer scales */
    parts mins;
    size_t head;   /* bytes in front of the first sub-block */
    size_t sub;    /* bytes of a sub-block of 32 elements */
    size_t codes;  /* where its codes begin */
    size_t n_subs; /* 0: it has several groups, see tiles */
    unpack_fn *unpack;
    scales_fn *load;
    choice choice;
};

SHOAL_INLINE void load_d(const kind *k, const uint8_t *block, const uint8_t *sub, scales *ret)
{
    (void)k;
    (void)sub;
    ret->d = avx512_load_f16(block);
}

SHOAL_INLINE void load_dm(const kind *k, const uint8_t *block, const uint8_t *sub, scales *ret)
{
    (void)k;
    (void)sub;
    ret->d = avx512_load_f16(block);
    ret->mins[0] = avx512_load_f16(block + SCALES_BYTES);
}

SHOAL_INLINE __m512i load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

SHOAL_INLINE __m512 negative_min(const uint8_t *block, __m512i mn)
{
    __m512 dmin = avx512_load_f16(block + SCALES_BYTES);
    return _mm512_xor_ps(_mm512_mul_ps(dmin, _mm512_cvtepi32_ps(mn)), _mm512_set1_ps(-0.0F));
}

/* q4_K, q5_K */
SHOAL_INLINE void load_k(const kind *k, const uint8_t *block, const uint8_t *sub, scales *ret)
{
    (void)k;
    ret->d = avx512_load_f16(block);
    ret->scale[0] = _mm512_cvtepi32_ps(load_u8(sub));
    ret->mins[0] = negative_min(block, load_u8(sub + 16));
}

/* q2_K */
SHOAL_INLINE void load_k2(const kind *k, const uint8_t *block, const uint8_t *sub, scales *ret)
{
    (void)k;
    ret->d = avx512_load_f16(block);
    for (size_t h = 0; h < 2; h++) {
        __m512i both = load_u8(sub + 16 * h);
        ret->scale[h] = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
        ret->mins[h] = negative_min(block, _mm512_srli_epi32(both, 4));
    }
}

/* q3_K, q6_K */
SHOAL_INLINE void load_signed(const kind *k, const uint8_t *block, const uint8_t *sub, scales *ret)
{
    (void)k;
    ret->d = avx512_load_f16(block);
    for (size_t h = 0; h < 2; h++) {
        __m128i sc = _mm_loadu_si128((const __m128i *)(const void *)(sub + 16 * h));
        ret->scale[h] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sc));
    }
}

/* --- one block against some columns --------------------------------------------------------- */

SHOAL_INLINE __m512i broadcast4(const void *x)
{
    int32_t bits = 0;
    memcpy(&bits, x, sizeof bits);
    return _mm512_set1_epi32(bits);
}

/* Where the sum of a dot starts; pairs are the two sums of its activations. */
SHOAL_INLINE __m512i start(const int16_t *pairs, int offset)
{
    if (offset == 0) {
        return _mm512_setzero_si512();
    }
    return _mm512_dpwssd_epi32(_mm512_setzero_si512(), broadcast4(pairs),
                               _mm512_set1_epi16((int16_t)-offset));
}

/* Columns of activations from one block on; the next column is `stride` elements on. */
typedef struct columns {
    const int8_t *q;
    const shoal_act_block *act;
    size_t stride;
} columns;

SHOAL_INLINE const int8_t *codes_of(const columns *x, size_t j)
{
    return x->q + j * x->stride;
}

SHOAL_INLINE const shoal_act_block *act_of(const columns *x, size_t j)
{
    return x->act + j * (x->stride / SHOAL_QBLOCK);
}

/* The law's (float)I. From +0 on, since the law's zero has no sign. */
SHOAL_INLINE __m512 integer(const kind *k, const scales *s, __m512i low, __m512i high)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 first = _mm512_cvtepi32_ps(low);
    if (k->scales == NONE) {
        return first;
    }
    __m512 rest = zero;
    if (k->scales == HALVES) {
        rest = _mm512_fmadd_ps(s->scale[1], _mm512_cvtepi32_ps(high), zero);
    }
    return _mm512_fmadd_ps(s->scale[0], first, rest);
}

/* Eight activations and their negatives in every sixteen bytes: where bit 2 of a place says so, it
 * finds the negative, and bit 3 chooses the four. */
SHOAL_INLINE __m512i signed_table(const int8_t *x)
{
    int64_t bits = 0;
    memcpy(&bits, x, sizeof bits);
    __m512i eight = _mm512_set1_epi64(bits);
    return _mm512_unpacklo_epi32(eight, _mm512_sub_epi8(_mm512_setzero_si512(), eight));
}

/* A sub-block of each of some panels: what the scales are loaded from, and the codes. */
typedef struct pieces {
    const uint8_t *block[PANELS_MAX];
    const uint8_t *sub[PANELS_MAX];
    const uint8_t *codes[PANELS_MAX];
    const int8_t *levels;
} pieces;

/* The last step of the law for one output. */
SHOAL_INLINE __m512 add_dot(const kind *k, const scales *s, const shoal_act_block *act, __m512i low,
                            __m512i high, __m512 acc)
{
    __m512 scale = _mm512_mul_ps(s->d, _mm512_set1_ps(act->scale));
    acc = _mm512_fmadd_ps(scale, integer(k, s, low, high), acc);
    if (k->mins == WHOLE) {
        acc = _mm512_fmadd_ps(s->mins[0], _mm512_set1_ps(act->sum), acc);
    } else if (k->mins == HALVES) {
        acc = _mm512_fmadd_ps(s->mins[0], _mm512_set1_ps(act->sum_low), acc);
        acc = _mm512_fmadd_ps(s->mins[1], _mm512_set1_ps(act->sum_high), acc);
    }
    return acc;
}

/* Two of four: magnitudes are unsigned, so a sum needs no offset, and which activation a value
 * belongs to is a shuffle of eight. */
SHOAL_INLINE void take_pairs(const kind *k, const pieces *at, const columns *x, size_t n_p,
                             size_t n_c, __m512 acc[PANELS_MAX][COLS_MAX])
{
    const __m512i second = _mm512_set1_epi32(0x08080000);
    __m512i dot[PANELS_MAX][COLS_MAX];
    for (size_t p = 0; p < n_p; p++) {
        for (size_t j = 0; j < n_c; j++) {
            dot[p][j] = _mm512_setzero_si512();
        }
    }
    for (size_t i = 0; i < 4; i++) {
        unpacked w[PANELS_MAX];
        for (size_t p = 0; p < n_p; p++) {
            w[p] = k->unpack(at->codes[p], (int)i, NULL);
            w[p].high = _mm512_or_si512(w[p].high, second);
        }
        for (size_t j = 0; j < n_c; j++) {
            __m512i table = signed_table(codes_of(x, j) + 8 * i);
            for (size_t p = 0; p < n_p; p++) {
                __m512i chosen = _mm512_shuffle_epi8(table, w[p].high);
                dot[p][j] = _mm512_dpbusd_epi32(dot[p][j], w[p].low, chosen);
            }
        }
    }
    for (size_t p = 0; p < n_p; p++) {
        scales s;
        k->load(k, at->block[p], at->sub[p], &s);
        for (size_t j = 0; j < n_c; j++) {
            acc[p][j] = add_dot(k, &s, act_of(x, j), dot[p][j], dot[p][j], acc[p][j]);
        }
    }
}

/* The values of the rows q, 4 + q, 8 + q and 12 + q, sixteen to a lane, signed. */
SHOAL_INLINE void bitmap_tables(const uint8_t *values, bool eight, __m512i ret[4])
{
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i offset = _mm512_set1_epi8(8);
    __m512i first = _mm512_loadu_si512(values);
    __m512i last = eight ? first : _mm512_loadu_si512(values + 64);
    __m512i part[4] = {
        _mm512_sub_epi8(_mm512_and_si512(first, mask), offset),
        _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(first, 4), mask), offset),
        _mm512_sub_epi8(_mm512_and_si512(last, mask), offset),
        _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(last, 4), mask), offset),
    };
    __m512i low[2] = {_mm512_unpacklo_epi32(part[0], part[1]),
                      _mm512_unpacklo_epi32(part[2], part[3])};
    __m512i high[2] = {_mm512_unpackhi_epi32(part[0], part[1]),
                       _mm512_unpackhi_epi32(part[2], part[3])};
    ret[0] = _mm512_unpacklo_epi64(low[0], low[1]);
    ret[1] = _mm512_unpackhi_epi64(low[0], low[1]);
    ret[2] = _mm512_unpacklo_epi64(high[0], high[1]);
    ret[3] = _mm512_unpackhi_epi64(high[0], high[1]);
}

/* Minus how many of a lane's sixteen bits, one a byte, are set up to each. */
SHOAL_INLINE __m512i count_up(__mmask64 set)
{
    const __m512i middle = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0707070707070707, -1));
    __m512i n = _mm512_movm_epi8(set);
    n = _mm512_add_epi8(n, _mm512_slli_epi64(n, 8));
    n = _mm512_add_epi8(n, _mm512_slli_epi64(n, 16));
    n = _mm512_add_epi8(n, _mm512_slli_epi64(n, 32));
    return _mm512_add_epi8(n, _mm512_shuffle_epi8(n, middle)); /* the low eight's, to the high */
}

/* The 32 elements of a panel's rows, as ret[q][half]: sixteen to a lane, the lanes' rows as above.
 */
SHOAL_INLINE void bitmap_values(const uint8_t *codes, bool eight, __m512i ret[4][2])
{
    const __m512i bit = _mm512_set1_epi64((int64_t)0x8040201008040201);
    const __m512i halves = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0101010101010101, 0));
    const __m512i last = _mm512_set1_epi8(15);
    __m512i bits = _mm512_loadu_si512(codes);
    __m512i table[4];
    bitmap_tables(codes + 64, eight, table);
    for (int q = 0; q < 4; q++) {
        __m512i before = _mm512_setzero_si512();
        for (int h = 0; h < 2; h++) {
            __m512i from = _mm512_add_epi8(halves, _mm512_set1_epi8((char)(4 * q + 2 * h)));
            __mmask64 set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, from), bit);
            __m512i n = _mm512_add_epi8(count_up(set), before);
            /* The n-th that is set has value n - 1, which is not of -n. */
            __m512i index = _mm512_xor_si512(n, _mm512_set1_epi8(-1));
            ret[q][h] = _mm512_maskz_shuffle_epi8(set, table[q], index);
            before = _mm512_shuffle_epi8(n, last);
        }
    }
}

/* From four partial sums of each row to one, in the order of the rows. */
SHOAL_INLINE __m512i gather_rows(const __m512i s[4])
{
    __m512i first =
        _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
    __m512i last =
        _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(first, last), _mm512_unpackhi_epi64(first, last));
}

/* A bitmap: rows are expanded, a register holding sixteen elements of four rows, and the exact sums
 * of each row put together at the end. */
SHOAL_INLINE void take_bitmap(const kind *k, const pieces *at, const columns *x, size_t n_p,
                              size_t n_c, __m512 acc[PANELS_MAX][COLS_MAX])
{
    const __m512i zero = _mm512_setzero_si512();
    for (size_t p = 0; p < n_p; p++) {
        __m512i w[4][2];
        scales s;
        bitmap_values(at->codes[p], k->sub == 128, w);
        k->load(k, at->block[p], at->sub[p], &s);
        for (size_t j = 0; j < n_c; j++) {
            __m512i sum[4] = {zero, zero, zero, zero};
            for (size_t h = 0; h < 2; h++) {
                const int8_t *q = codes_of(x, j) + 16 * h;
                const __m512i acts =
                    _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)q));
                for (size_t i = 0; i < 4; i++) {
                    __m512i turned =
                        _mm512_mask_sub_epi8(acts, _mm512_movepi8_mask(w[i][h]), zero, acts);
                    sum[i] = _mm512_dpbusd_epi32(sum[i], _mm512_abs_epi8(w[i][h]), turned);
                }
            }
            __m512i dot = gather_rows(sum);
            acc[p][j] = add_dot(k, &s, act_of(x, j), dot, dot, acc[p][j]);
        }
    }
}

/* Takes a block of each panel into the sums of n_c columns. */
SHOAL_INLINE void take_block(const kind *k, unpack_fn *unpack, scales_fn *load, const pieces *at,
                             const columns *x, size_t n_p, size_t n_c,
                             __m512 acc[PANELS_MAX][COLS_MAX])
{
    const bool halves = k->scales == HALVES;
    __m512i low[PANELS_MAX][COLS_MAX];
    __m512i high[PANELS_MAX][COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        const shoal_act_block *act = act_of(x, j);
        low[0][j] = start(act->pairs + (halves ? 2 : 0), k->offset);
        high[0][j] = start(act->pairs + 4, halves ? k->offset : 0);
        for (size_t p = 1; p < n_p; p++) {
            low[p][j] = low[0][j];
            high[p][j] = high[0][j];
        }
    }
    for (int i = 0; i < 4; i++) {
        unpacked w[PANELS_MAX];
        for (size_t p = 0; p < n_p; p++) {
            w[p] = unpack(at->codes[p], i, at->levels);
        }
        for (size_t j = 0; j < n_c; j++) {
            const __m512i first = broadcast4(codes_of(x, j) + 4 * i);
            const __m512i last = broadcast4(codes_of(x, j) + 4 * i + 16);
            for (size_t p = 0; p < n_p; p++) {
                __m512i *second = halves ? &high[p][j] : &low[p][j];
                low[p][j] = _mm512_dpbusd_epi32(low[p][j], w[p].low, first);
                *second = _mm512_dpbusd_epi32(*second, w[p].high, last);
            }
        }
    }
    for (size_t p = 0; p < n_p; p++) {
        scales s;
        load(k, at->block[p], at->sub[p], &s);
        for (size_t j = 0; j < n_c; j++) {
            acc[p][j] = add_dot(k, &s, act_of(x, j), low[p][j], high[p][j], acc[p][j]);
        }
    }
}

/* Reads or writes 16 outputs of panel p, fewer in the last panel. */
SHOAL_INLINE __m512 get(const shoal_gemm *g, size_t p, size_t c)
{
    const float *y = g->y + c * g->y_stride + p * ROWS;
    return _mm512_maskz_loadu_ps(avx512_first(g->n_rows - p * ROWS), y);
}

SHOAL_INLINE void put(const shoal_gemm *g, size_t p, size_t c, __m512 acc)
{
    float *y = g->y + c * g->y_stride + p * ROWS;
    _mm512_mask_storeu_ps(y, avx512_first(g->n_rows - p * ROWS), acc);
}

SHOAL_INLINE columns columns_at(const shoal_gemm *g, size_t c, size_t b)
{
    return (columns){g->xq + c * g->k + b * SHOAL_QBLOCK, g->xb + c * (g->k / SHOAL_QBLOCK) + b,
                     g->k};
}

SHOAL_INLINE void next_block(columns *x)
{
    x->q += SHOAL_QBLOCK;
    x->act++;
}

/* --- tiles ---------------------------------------------------------------------------------- */

/* What a tile takes: columns from c on, of panels from p on, in the blocks [b, b + n) of a row. */
typedef struct stretch {
    size_t p;
    size_t c;
    size_t b;
    size_t n;
    size_t turn; /* of n_turns that the columns take over the same blocks */
    size_t n_turns;
} stretch;

SHOAL_INLINE void begin(const shoal_gemm *g, const stretch *s, size_t n_p, size_t n_c,
                        __m512 acc[PANELS_MAX][COLS_MAX])
{
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            acc[i][j] = s->b > 0 ? get(g, s->p + i, s->c + j) : _mm512_setzero_ps();
        }
    }
}

SHOAL_INLINE void finish(const shoal_gemm *g, const stretch *s, size_t n_p, size_t n_c,
                         __m512 acc[PANELS_MAX][COLS_MAX])
{
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            put(g, s->p + i, s->c + j, acc[i][j]);
        }
    }
}

/* The lines of a sub-block some way ahead. */
SHOAL_INLINE void prefetch(const uint8_t *sub, size_t bytes, size_t ahead)
{
    for (size_t at = 0; at < bytes; at += 64) {
        _mm_prefetch((const char *)sub + ahead + at, _MM_HINT_T0);
    }
}

/* How far ahead: the next chunk, where columns take turns; else the further, the fewer streams. */
SHOAL_INLINE size_t reach_of(const stretch *s, const kind *k, size_t n_p, size_t n_c,
                             size_t block_bytes)
{
    if (s->n_turns > 1) {
        return s->n * block_bytes;
    }
    if (k->n_subs > 1 && n_p == 1 && n_c > 1) {
        return 4 * AHEAD;
    }
    return n_p == PANELS_MAX ? AHEAD : 2 * AHEAD;
}

/* n_p panels by n_c columns, constants after inlining. Each panel is a stream of its own: memory
 * answers several streams of one core faster than one, where a block is codes and little else. */
SHOAL_INLINE void fused_tile(const shoal_gemm *g, const kind *k, size_t n_subs, const stretch *s,
                             size_t n_p, size_t n_c)
{
    const size_t block_bytes = k->head + n_subs * k->sub;
    const size_t panel_bytes = g->k / (n_subs * SHOAL_QBLOCK) * block_bytes;
    const size_t reach = reach_of(s, k, n_p, n_c, block_bytes);
    const uint8_t *block = (const uint8_t *)g->panels + s->p * panel_bytes + s->b * block_bytes;
    columns x = columns_at(g, s->c, s->b * n_subs);
    size_t wait = s->turn; /* sub-blocks until one is this turn's to fetch */
    __m512 acc[PANELS_MAX][COLS_MAX];
    begin(g, s, n_p, n_c, acc);
    for (size_t b = s->b; b < s->b + s->n; b++, block += block_bytes) {
        for (size_t i = 0; i < n_subs; i++) {
            pieces at = {.levels = g->levels};
            for (size_t q = 0; q < n_p; q++) {
                at.block[q] = block + q * panel_bytes;
                at.sub[q] = at.block[q] + k->head + i * k->sub;
                at.codes[q] = at.sub[q] + k->codes;
            }
            if (wait-- == 0) {
                /* A stream that ends goes on in the next tile. */
                size_t to = b * block_bytes + k->head + i * k->sub + reach;
                size_t ahead = reach + (to < panel_bytes ? 0 : (n_p - 1) * panel_bytes);
                for (size_t q = 0; q < n_p; q++) {
                    prefetch(at.sub[q], k->sub, ahead);
                }
                wait = s->n_turns - 1;
            }
            if (k->choice == PAIRS) {
                take_pairs(k, &at, &x, n_p, n_c, acc);
            } else if (k->choice == BITMAP) {
                take_bitmap(k, &at, &x, n_p, n_c, acc);
            } else {
                take_block(k, k->unpack, k->load, &at, &x, n_p, n_c, acc);
            }
            next_block(&x);
        }
    }
    finish(g, s, n_p, n_c, acc);
}

/* --- unpacking once for many columns -------------------------------------------------------- */

/* One block unpacked: codes [i][low, high][64]. */
typedef struct expanded {
    uint8_t codes[512];
    float d[ROWS];
    float scale[2][ROWS];
    float mins[2][ROWS];
} expanded;

SHOAL_INLINE unpacked unpack_expanded(const uint8_t *codes, int i, const int8_t *levels)
{
    (void)levels;
    const uint8_t *at = codes + 128 * (size_t)i;
    return (unpacked){_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64)};
}

SHOAL_INLINE void expand(const kind *k, const uint8_t *block, const uint8_t *sub, expanded *e)
{
    scales s;
    k->load(k, block, sub, &s);
    for (int i = 0; i < 4; i++) {
        unpacked w = k->unpack(sub + k->codes, i, NULL); /* dear kinds have no levels */
        _mm512_storeu_si512(e->codes + 128 * (size_t)i, w.low);
        _mm512_storeu_si512(e->codes + 128 * (size_t)i + 64, w.high);
    }
    _mm512_storeu_ps(e->d, s.d);
    for (size_t h = 0; h < 2; h++) {
        if (h < (size_t)k->scales) {
            _mm512_storeu_ps(e->scale[h], s.scale[h]);
        }
        if (h < (size_t)k->mins) {
            _mm512_storeu_ps(e->mins[h], s.mins[h]);
        }
    }
}

/* sub is an expanded. */
SHOAL_INLINE void load_expanded(const kind *k, const uint8_t *block, const uint8_t *sub,
                                scales *ret)
{
    const expanded *e = (const expanded *)(const void *)sub;
    (void)block;
    ret->d = _mm512_loadu_ps(e->d);
    for (size_t h = 0; h < 2; h++) {
        if (h < (size_t)k->scales) {
            ret->scale[h] = _mm512_loadu_ps(e->scale[h]);
        }
        if (h < (size_t)k->mins) {
            ret->mins[h] = _mm512_loadu_ps(e->mins[h]);
        }
    }
}

/* The same over the unpacked blocks of one panel; a stretch counts sub-blocks here. */
SHOAL_INLINE void expanded_tile(const shoal_gemm *g, const kind *k, const expanded *e,
                                const stretch *s, size_t n_c)
{
    columns x = columns_at(g, s->c, s->b);
    __m512 acc[PANELS_MAX][COLS_MAX];
    begin(g, s, 1, n_c, acc);
    for (size_t i = 0; i < s->n; i++) {
        const pieces at = {.sub = {(const uint8_t *)&e[i]}, .codes = {e[i].codes}};
        take_block(k, unpack_expanded, load_expanded, &at, &x, 1, n_c, acc);
        next_block(&x);
    }
    finish(g, s, 1, n_c, acc);
}

/* --- all panels ----------------------------------------------------------------------------- */

typedef void fused_fn(const shoal_gemm *g, size_t n_subs, const stretch *s);
typedef void expand_fn(const uint8_t *block, const uint8_t *sub, expanded *e);
typedef void expanded_fn(const shoal_gemm *g, const expanded *e, const stretch *s);

/* A kind and its tiles, by panels and columns: four of one, else one or two. Each is a function of
 * its own: inlined into one they would take a compiler several times as long. */
typedef struct tiles {
    const kind *kind;
    size_t n_subs; /* of a block, where the kind does not say */
    fused_fn *fused[PANELS_MAX + 1][FUSED_COLS + 1];
    expand_fn *expand; /* dear kinds only */
    expanded_fn *expanded[COLS_MAX + 1];
} tiles;

void shoal_kernels_avx512_product(const shoal_gemm *g, size_t p0, size_t p1, const tiles *t);

#define SHOAL_FUSED(kind, n_p, n_c)                                                                \
    static void fused_##kind##_##n_p##x##n_c(const shoal_gemm *g, size_t n_subs, const stretch *s) \
    {                                                                                              \
        fused_tile(g, &(kind), (kind).n_subs ? (kind).n_subs : n_subs, s, n_p, n_c);               \
    }

#define SHOAL_EXPANDED(kind, n_c)                                                                  \
    static void expanded_##kind##_##n_c(const shoal_gemm *g, const expanded *e, const stretch *s)  \
    {                                                                                              \
        expanded_tile(g, &(kind), e, s, n_c);                                                      \
    }

/* Tiles of kinds whose dots have two sums. */
#define SHOAL_NARROW(kind)                                                                         \
    SHOAL_FUSED(kind, 1, 1)                                                                        \
    SHOAL_FUSED(kind, 1, 2)                                                                        \
    SHOAL_FUSED(kind, 1, 3)                                                                        \
    SHOAL_FUSED(kind, 1, 4)                                                                        \
    SHOAL_FUSED(kind, 2, 2)                                                                        \
    SHOAL_FUSED(kind, 2, 3)                                                                        \
    SHOAL_FUSED(kind, 2, 4)

#define SHOAL_NARROW_TILES(k)                                                                      \
    .kind = &(k), .fused[1][1] = fused_##k##_1x1, .fused[1][2] = fused_##k##_1x2,                  \
    .fused[1][3] = fused_##k##_1x3, .fused[1][4] = fused_##k##_1x4,                                \
    .fused[2][2] = fused_##k##_2x2, .fused[2][3] = fused_##k##_2x3, .fused[2][4] = fused_##k##_2x4

/* Those of kinds with one sum and minima, for which two panels of six columns leave no registers.
 */
#define SHOAL_WIDE_SUBS(kind)                                                                      \
    SHOAL_NARROW(kind)                                                                             \
    SHOAL_FUSED(kind, 1, 5)                                                                        \
    SHOAL_FUSED(kind, 1, 6)                                                                        \
    SHOAL_FUSED(kind, 2, 5)

#define SHOAL_WIDE_SUBS_TILES(k)                                                                   \
    SHOAL_NARROW_TILES(k), .fused[1][5] = fused_##k##_1x5, .fused[1][6] = fused_##k##_1x6,         \
                           .fused[2][5] = fused_##k##_2x5

#define SHOAL_WIDE_MINS(kind)                                                                      \
    SHOAL_WIDE_SUBS(kind)                                                                          \
    SHOAL_FUSED(kind, 4, 1)

#define SHOAL_WIDE_MINS_TILES(k) SHOAL_WIDE_SUBS_TILES(k), .fused[4][1] = fused_##k##_4x1

#define SHOAL_WIDE(kind)                                                                           \
    SHOAL_WIDE_MINS(kind)                                                                          \
    SHOAL_FUSED(kind, 2, 6)

#define SHOAL_WIDE_TILES(k) SHOAL_WIDE_MINS_TILES(k), .fused[2][6] = fused_##k##_2x6

/* Ten columns and more are shared out over turns of at most eight, so fewer than five never come.
 */
#define SHOAL_UNPACKED(kind)                                                                       \
    SHOAL_EXPANDED(kind, 5)                                                                        \
    SHOAL_EXPANDED(kind, 6)                                                                        \
    SHOAL_EXPANDED(kind, 7)                                                                        \
    SHOAL_EXPANDED(kind, 8)                                                                        \
    static void expand_##kind(const uint8_t *block, const uint8_t *sub, expanded *e)               \
    {                                                                                              \
        expand(&(kind), block, sub, e);                                                            \
    }

#define SHOAL_UNPACKED_TILES(k)                                                                    \
    .expand = expand_##k, .expanded[5] = expanded_##k##_5, .expanded[6] = expanded_##k##_6,        \
    .expanded[7] = expanded_##k##_7, .expanded[8] = expanded_##k##_8

#define SHOAL_GEMM(kind, ...)                                                                      \
    static void gemm_##kind(const shoal_gemm *g, size_t p0, size_t p1)                             \
    {                                                                                              \
        static const tiles t = {__VA_ARGS__};                                                      \
        shoal_kernels_avx512_product(g, p0, p1, &t);                                               \
    }

#define SHOAL_CHEAP(kind)                                                                          \
    SHOAL_WIDE(kind)                                                                               \
    SHOAL_GEMM(kind, SHOAL_WIDE_TILES(kind))

#define SHOAL_CHEAP_MINS(kind)                                                                     \
    SHOAL_WIDE_MINS(kind)                                                                          \
    SHOAL_GEMM(kind, SHOAL_WIDE_MINS_TILES(kind))

/* The same with sub-blocks. */
#define SHOAL_CHEAP_SUBS(kind)                                                                     \
    SHOAL_WIDE_SUBS(kind)                                                                          \
    SHOAL_GEMM(kind, SHOAL_WIDE_SUBS_TILES(kind))

/* One of the groups of a kind that has SHOAL_WIDE and n_subs 0. */
#define SHOAL_GROUP(kind, group)                                                                   \
    static void gemm_##kind##_##group(const shoal_gemm *g, size_t p0, size_t p1)                   \
    {                                                                                              \
        tiles t = {SHOAL_WIDE_TILES(kind)};                                                        \
        t.n_subs = (group) / SHOAL_QBLOCK;                                                         \
        shoal_kernels_avx512_product(g, p0, p1, &t);                                               \
    }

#define SHOAL_DEAR(kind)                                                                           \
    SHOAL_WIDE(kind)                                                                               \
    SHOAL_UNPACKED(kind)                                                                           \
    SHOAL_GEMM(kind, SHOAL_WIDE_TILES(kind), SHOAL_UNPACKED_TILES(kind))

#define SHOAL_DEAR_MINS(kind)                                                                      \
    SHOAL_WIDE_MINS(kind)                                                                          \
    SHOAL_UNPACKED(kind)                                                                           \
    SHOAL_GEMM(kind, SHOAL_WIDE_MINS_TILES(kind), SHOAL_UNPACKED_TILES(kind))

#define SHOAL_DEAR_SUBS(kind)                                                                      \
    SHOAL_WIDE_SUBS(kind)                                                                          \
    SHOAL_UNPACKED(kind)                                                                           \
    SHOAL_GEMM(kind, SHOAL_WIDE_SUBS_TILES(kind), SHOAL_UNPACKED_TILES(kind))

#define SHOAL_HALVES(kind)                                                                         \
    SHOAL_NARROW(kind)                                                                             \
    SHOAL_UNPACKED(kind)                                                                           \
    SHOAL_GEMM(kind, SHOAL_NARROW_TILES(kind), SHOAL_UNPACKED_TILES(kind))

#endif
