/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the AVX2 products of quantised panels: what their kinds share. A panel's 16 rows are
 * two registers of eight outputs.
 *
 * The integer part lives in 16 bits as long as it can. maddubs multiplies unsigned codes with the
 * signed activations and adds neighbours; the sums of a block stay inside 16 bits because offsets
 * are taken off at the start (16-bit addition wraps, and what it ends with fits, whatever it passed
 * through). The widening madd at the end multiplies by the integer scales of the K types for
 * nothing. Codes of eight bits are widened at every step.
 *
 * Up to four columns unpack a block on the way. Where unpacking is dear, many columns share one:
 * some blocks of a panel go into a scratch in the first cache, all columns run over it, and their
 * sums wait in y.
 */
#ifndef SHOAL_KERNELS_AVX2_QUANT_H
#define SHOAL_KERNELS_AVX2_QUANT_H

#include "common/kernels/avx2_panel.h"

#include <stdbool.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    COLS_MAX = 4,
    CHUNK = 16,       /* blocks unpacked at a time: 13 KiB */
    PANELS_MAX = 4,   /* streams of weights at width 1 */
    AHEAD = 2048,     /* bytes: how far in front weights are fetched */
    SCALES_BYTES = 32 /* sixteen f16 */
};

/* --- unpacking: groups i and 4 + i of 32 elements, eight rows --------------------------------- */

typedef struct unpacked {
    __m256i low;  /* group i, of the first 16 elements */
    __m256i high; /* group 4 + i, of the last 16 */
} unpacked;

/* levels: of kinds whose codes are indices of them. */
typedef unpacked unpack_fn(const uint8_t *codes, size_t i, size_t h, const int8_t *levels);

SHOAL_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

SHOAL_INLINE unpacked unpack_nib(const uint8_t *nib, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i both = load(nib + i * 64 + h * 32);
    return (unpacked){_mm256_and_si256(both, mask),
                      _mm256_and_si256(_mm256_srli_epi16(both, 4), mask)};
}

/* Bits i and 4 + i of hi1, each as bit 4 of its byte. */
SHOAL_INLINE unpacked unpack_hi1(const uint8_t *hi1, size_t i, size_t h)
{
    const __m256i mask = _mm256_set1_epi8(16);
    __m256i bits = _mm256_srl_epi16(load(hi1 + h * 32), _mm_cvtsi32_si128((int)i));
    return (unpacked){_mm256_and_si256(_mm256_slli_epi16(bits, 4), mask),
                      _mm256_and_si256(bits, mask)};
}

SHOAL_INLINE unpacked unpack_two(const uint8_t *two, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    const __m256i mask = _mm256_set1_epi8(3);
    __m128i shift = _mm_cvtsi32_si128((int)(2 * i));
    return (unpacked){_mm256_and_si256(_mm256_srl_epi16(load(two + h * 32), shift), mask),
                      _mm256_and_si256(_mm256_srl_epi16(load(two + 64 + h * 32), shift), mask)};
}

SHOAL_INLINE unpacked join(unpacked a, unpacked b)
{
    return (unpacked){_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}

SHOAL_INLINE unpacked unpack_5bit(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    return join(unpack_nib(codes, i, h, NULL), unpack_hi1(codes + 256, i, h));
}

SHOAL_INLINE unpacked unpack_3bit(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    unpacked top = unpack_hi1(codes + 128, i, h);
    top.low = _mm256_srli_epi16(top.low, 2);
    top.high = _mm256_srli_epi16(top.high, 2);
    return join(unpack_two(codes, i, h, NULL), top);
}

/* Bits 2i and 2i + 1 of each byte as bits 4 and 5. */
SHOAL_INLINE __m256i bits45(const uint8_t *two, size_t i)
{
    __m256i bits = load(two);
    bits = i < 2 ? _mm256_slli_epi16(bits, (int)(4 - 2 * i))
                 : _mm256_srli_epi16(bits, (int)(2 * i - 4));
    return _mm256_and_si256(bits, _mm256_set1_epi8(0x30));
}

SHOAL_INLINE unpacked unpack_6bit(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    const uint8_t *two = codes + 256 + h * 32;
    return join(unpack_nib(codes, i, h, NULL), (unpacked){bits45(two, i), bits45(two + 64, i)});
}

/* The part of panel.h: codes of three bits in three times two registers. */
SHOAL_INLINE unpacked unpack_tri(const uint8_t *tri, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    const __m256i seven = _mm256_set1_epi8(7);
    const __m256i four = _mm256_set1_epi8(4);
    const __m256i three = _mm256_set1_epi8(3);
    if (i < 3) {
        __m256i bits = load(tri + 64 * i + 32 * h);
        return (unpacked){_mm256_and_si256(bits, seven),
                          _mm256_and_si256(_mm256_srli_epi16(bits, 3), seven)};
    }
    __m256i first = load(tri + 32 * h);
    __m256i tops = load(tri + 64 + 32 * h);
    __m256i last = load(tri + 128 + 32 * h);
    return (unpacked){
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(tops, 4), four),
                        _mm256_and_si256(_mm256_srli_epi16(first, 6), three)),
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(tops, 5), four),
                        _mm256_and_si256(_mm256_srli_epi16(last, 6), three)),
    };
}

SHOAL_INLINE unpacked unpack_8bit(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    return (unpacked){load(codes + i * 64 + h * 32), load(codes + 256 + i * 64 + h * 32)};
}

/* Values of two of four with eight bits: magnitudes, and places with the sign in bit 2. */
SHOAL_INLINE unpacked unpack_s8(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    __m256i value = load(codes + i * 64 + h * 32);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi16(value, 5), _mm256_set1_epi8(4));
    __m256i at = _mm256_srl_epi16(load(codes + 256 + h * 32), _mm_cvtsi32_si128((int)(2 * i)));
    __m256i place = _mm256_and_si256(at, _mm256_set1_epi8(3));
    return (unpacked){_mm256_abs_epi8(value), _mm256_or_si256(place, sign)};
}

/* Signed levels in place of their indices. */
SHOAL_INLINE unpacked look_up(unpacked index, const int8_t *levels)
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)levels));
    return (unpacked){_mm256_shuffle_epi8(table, index.low),
                      _mm256_shuffle_epi8(table, index.high)};
}

SHOAL_INLINE unpacked unpack_nl(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    (void)levels;
    return look_up(unpack_nib(codes, i, h, NULL), shoal_iq4_nl);
}

SHOAL_INLINE unpacked unpack_n3(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    return look_up(unpack_tri(codes, i, h, NULL), levels);
}

SHOAL_INLINE unpacked unpack_n4(const uint8_t *codes, size_t i, size_t h, const int8_t *levels)
{
    return look_up(unpack_nib(codes, i, h, NULL), levels);
}

/* --- the kinds --------------------------------------------------------------------------------
 */

typedef enum arithmetic {
    WHOLE,      /* 16 bits hold a whole block */
    HALVES,     /* 16 bits hold half a block */
    WIDE,       /* codes are signed and of eight bits */
    PAIRS,      /* two of four: low are magnitudes, high signs and places */
    WIDE_PAIRS, /* the same with magnitudes of up to 128 */
    BITMAP      /* a bit for each element says whether it has a code; unpack is not called */
} arithmetic;

typedef enum mins_kind {
    MINS_NONE,
    MINS_WHOLE,
    MINS_HALVES
} mins_kind;

/* What a block has besides codes. mult is what the widening multiplies by: pairs of integer scales,
 * or ones. */
typedef struct scales {
    __m256 d[2];
    __m256i mult[2][2]; /* [half of the block][half of the rows] */
    __m256 mins[2][2];
    const int8_t *levels;
} scales;

typedef void scales_fn(const uint8_t *block, const uint8_t *sub, scales *ret);

typedef struct kind {
    shoal_panel panel;
    arithmetic arithmetic;
    int offset; /* of the codes, WHOLE and HALVES */
    mins_kind mins;
    size_t head;   /* bytes in front of the first sub-block */
    size_t sub;    /* bytes of a sub-block of 32 elements */
    size_t codes;  /* where its codes begin */
    size_t n_subs; /* 0: it has several groups, see product */
    unpack_fn *unpack;
    scales_fn *scales;
} kind;

SHOAL_INLINE void scales_d(const uint8_t *block, const uint8_t *sub, scales *ret)
{
    (void)sub;
    const __m256i one = _mm256_set1_epi16(1);
    for (size_t h = 0; h < 2; h++) {
        ret->d[h] = avx2_load_f16(block + 16 * h);
        ret->mult[0][h] = one;
        ret->mult[1][h] = one;
    }
}

SHOAL_INLINE void scales_dm(const uint8_t *block, const uint8_t *sub, scales *ret)
{
    scales_d(block, sub, ret);
    for (size_t h = 0; h < 2; h++) {
        ret->mins[0][h] = avx2_load_f16(block + SCALES_BYTES + 16 * h);
    }
}

SHOAL_INLINE __m256i load_u8x8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

/* Eight scales, each twice in its 32 bits. */
SHOAL_INLINE __m256i twice(__m256i scale)
{
    return _mm256_blend_epi16(scale, _mm256_slli_epi32(scale, 16), 0xAA);
}

SHOAL_INLINE __m256 negative_min(const uint8_t *block, __m256i mn, size_t h)
{
    __m256 dmin = avx2_load_f16(block + SCALES_BYTES + 16 * h);
    return _mm256_xor_ps(_mm256_mul_ps(dmin, _mm256_cvtepi32_ps(mn)), _mm256_set1_ps(-0.0F));
}

/* q4_K, q5_K */
SHOAL_INLINE void scales_k(const uint8_t *block, const uint8_t *sub, scales *ret)
{
    for (size_t h = 0; h < 2; h++) {
        ret->d[h] = avx2_load_f16(block + 16 * h);
        ret->mult[0][h] = twice(load_u8x8(sub + 8 * h));
        ret->mult[1][h] = ret->mult[0][h];
        ret->mins[0][h] = negative_min(block, load_u8x8(sub + 16 + 8 * h), h);
    }
}

/* q2_K */
SHOAL_INLINE void scales_k2(const uint8_t *block, const uint8_t *sub, scales *ret)
{
    const __m256i mask = _mm256_set1_epi32(15);
    for (size_t h = 0; h < 2; h++) {
        ret->d[h] = avx2_load_f16(block + 16 * h);
        for (size_t s = 0; s < 2; s++) {
            __m256i both = load_u8x8(sub + 16 * s + 8 * h);
            ret->mult[s][h] = twice(_mm256_and_si256(both, mask));
            ret->mins[s][h] = negative_min(block, _mm256_srli_epi32(both, 4), h);
        }
    }
}

/* q3_K, q6_K */
SHOAL_INLINE void scales_signed(const uint8_t *block, const uint8_t *sub, scales *ret)
{
    for (size_t h = 0; h < 2; h++) {
        ret->d[h] = avx2_load_f16(block + 16 * h);
        for (size_t s = 0; s < 2; s++) {
            const void *at = sub + 16 * s + 8 * h;
            ret->mult[s][h] = twice(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
        }
    }
}

/* --- integer dots -------------------------------------------------------------------------------
 */

typedef struct rows {
    __m256i half[2];
} rows;

/* Four neighbouring codes, as an operand in memory. */
typedef struct four {
    int8_t q[4];
} four;

/* One column of activations at one block. */
typedef struct column {
    const int8_t *q;
    const shoal_act_block *act;
} column;

SHOAL_INLINE __m256i broadcast4(const void *x)
{
    int32_t bits = 0;
    memcpy(&bits, x, sizeof bits);
    return _mm256_set1_epi32(bits);
}

/* Where 16-bit sums start: minus the offset of the codes times the sums of the activations. */
SHOAL_INLINE rows start16(const int16_t *pairs, int offset)
{
    if (offset == 0) {
        return (rows){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
    }
    __m256i start = _mm256_mullo_epi16(broadcast4(pairs), _mm256_set1_epi16((int16_t)-offset));
    return (rows){{start, start}};
}

/* Both halves of the rows with the same four activations. In assembly, because compilers pull the
 * multiplications of all columns forward, run out of registers and keep the sums in memory: this
 * order needs two registers besides sums and codes. */
SHOAL_INLINE void add16(rows *dot, __m256i w0, __m256i w1, const int8_t *x)
{
    __m256i t;
    __m256i u;
    __asm__ volatile(
        "vpbroadcastd %[x], %[t]\n\t"
        "vpmaddubsw %[t], %[w0], %[u]\n\t"
        "vpmaddubsw %[t], %[w1], %[t]\n\t"
        "vpaddw %[u], %[dot0], %[dot0]\n\t"
        "vpaddw %[t], %[dot1], %[dot1]"
        : [dot0] "+x"(dot->half[0]), [dot1] "+x"(dot->half[1]), [t] "=&x"(t), [u] "=&x"(u)
        : [w0] "x"(w0), [w1] "x"(w1), [x] "m"(*(const four *)(const void *)x));
}

SHOAL_INLINE void whole_dots(const kind *k, const uint8_t *codes, unpack_fn *unpack,
                             const scales *s, const column *columns, size_t n_c, rows *dot)
{
    for (size_t j = 0; j < n_c; j++) {
        dot[j] = start16(columns[j].act->pairs, k->offset);
    }
    for (size_t i = 0; i < 4; i++) {
        const unpacked w[2] = {unpack(codes, i, 0, s->levels), unpack(codes, i, 1, s->levels)};
        for (size_t j = 0; j < n_c; j++) {
            const int8_t *x = columns[j].q + 4 * i;
            add16(&dot[j], w[0].low, w[1].low, x);
            add16(&dot[j], w[0].high, w[1].high, x + 16);
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        for (size_t h = 0; h < 2; h++) {
            dot[j].half[h] = _mm256_madd_epi16(dot[j].half[h], s->mult[0][h]);
        }
    }
}

SHOAL_INLINE void halves_dots(const kind *k, const uint8_t *codes, unpack_fn *unpack,
                              const scales *s, const column *columns, size_t n_c, rows *dot)
{
    rows low[COLS_MAX];
    rows high[COLS_MAX];
    for (size_t j = 0; j < n_c; j++) {
        low[j] = start16(columns[j].act->pairs + 2, k->offset);
        high[j] = start16(columns[j].act->pairs + 4, k->offset);
    }
    for (size_t i = 0; i < 4; i++) {
        const unpacked w[2] = {unpack(codes, i, 0, s->levels), unpack(codes, i, 1, s->levels)};
        for (size_t j = 0; j < n_c; j++) {
            add16(&low[j], w[0].low, w[1].low, columns[j].q + 4 * i);
        }
        for (size_t j = 0; j < n_c; j++) {
            add16(&high[j], w[0].high, w[1].high, columns[j].q + 4 * i + 16);
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        for (size_t h = 0; h < 2; h++) {
            __m256i a = _mm256_madd_epi16(low[j].half[h], s->mult[0][h]);
            __m256i b = _mm256_madd_epi16(high[j].half[h], s->mult[1][h]);
            dot[j].half[h] = _mm256_add_epi32(a, b);
        }
    }
}

/* dot += unsigned |w| times x with w's sign moved onto it. |w| is at most 128 and |x| at most 127:
 * a pair is at most 32512, but two may not be added in 16 bits. */
SHOAL_INLINE void add_signed(rows *dot, const __m256i w[2], const __m256i magnitude[2],
                             const int8_t *x)
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i t;
    __m256i u;
    __asm__ volatile(
        "vpbroadcastd %[x], %[t]\n\t"
        "vpsignb %[w0], %[t], %[u]\n\t"
        "vpsignb %[w1], %[t], %[t]\n\t"
        "vpmaddubsw %[u], %[m0], %[u]\n\t"
        "vpmaddubsw %[t], %[m1], %[t]\n\t"
        "vpmaddwd %[one], %[u], %[u]\n\t"
        "vpmaddwd %[one], %[t], %[t]\n\t"
        "vpaddd %[u], %[dot0], %[dot0]\n\t"
        "vpaddd %[t], %[dot1], %[dot1]"
        : [dot0] "+x"(dot->half[0]), [dot1] "+x"(dot->half[1]), [t] "=&x"(t), [u] "=&x"(u)
        : [w0] "x"(w[0]), [w1] "x"(w[1]), [m0] "x"(magnitude[0]), [m1] "x"(magnitude[1]),
          [one] "x"(one), [x] "m"(*(const four *)(const void *)x));
}

SHOAL_INLINE void wide_dots(const uint8_t *codes, unpack_fn *unpack, const scales *s,
                            const column *columns, size_t n_c, rows *dot)
{
    for (size_t j = 0; j < n_c; j++) {
        dot[j] = (rows){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
    }
    for (size_t i = 0; i < 4; i++) {
        const unpacked w[2] = {unpack(codes, i, 0, s->levels), unpack(codes, i, 1, s->levels)};
        const __m256i low[2] = {w[0].low, w[1].low};
        const __m256i low_abs[2] = {_mm256_abs_epi8(low[0]), _mm256_abs_epi8(low[1])};
        for (size_t j = 0; j < n_c; j++) {
            add_signed(&dot[j], low, low_abs, columns[j].q + 4 * i);
        }
        const __m256i high[2] = {w[0].high, w[1].high};
        const __m256i high_abs[2] = {_mm256_abs_epi8(high[0]), _mm256_abs_epi8(high[1])};
        for (size_t j = 0; j < n_c; j++) {
            add_signed(&dot[j], high, high_abs, columns[j].q + 4 * i + 16);
        }
    }
}

/* Magnitudes against the activations that signs and places choose of eight and their negatives. A
 * pair of products is at most 2 * 7 * 127, four of them fit 16 bits; of wide ones 2 * 128 * 127,
 * one does. */
SHOAL_INLINE void pairs_dots(const uint8_t *codes, unpack_fn *unpack, bool wide, const scales *s,
                             const column *columns, size_t n_c, rows *dot)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i second = _mm256_set1_epi32(0x08080000);
    const __m256i one = _mm256_set1_epi16(1);
    for (size_t j = 0; j < n_c; j++) {
        dot[j] = (rows){{zero, zero}};
    }
    for (size_t i = 0; i < 4; i++) {
        unpacked w[2] = {unpack(codes, i, 0, s->levels), unpack(codes, i, 1, s->levels)};
        for (size_t h = 0; h < 2; h++) {
            w[h].high = _mm256_or_si256(w[h].high, second);
        }
        for (size_t j = 0; j < n_c; j++) {
            int64_t bits = 0;
            memcpy(&bits, columns[j].q + 8 * i, sizeof bits);
            __m256i eight = _mm256_set1_epi64x(bits);
            __m256i table = _mm256_unpacklo_epi32(eight, _mm256_sub_epi8(zero, eight));
            for (size_t h = 0; h < 2; h++) {
                __m256i chosen = _mm256_shuffle_epi8(table, w[h].high);
                __m256i products = _mm256_maddubs_epi16(w[h].low, chosen);
                dot[j].half[h] =
                    wide ? _mm256_add_epi32(dot[j].half[h], _mm256_madd_epi16(products, one))
                         : _mm256_add_epi16(dot[j].half[h], products);
            }
        }
    }
    for (size_t j = 0; !wide && j < n_c; j++) {
        for (size_t h = 0; h < 2; h++) {
            dot[j].half[h] = _mm256_madd_epi16(dot[j].half[h], s->mult[0][h]);
        }
    }
}

/* The values of rows q and 4 + q of eight, sixteen to a lane, signed. */
SHOAL_INLINE void bitmap_tables(const uint8_t *values, bool eight, __m256i ret[4])
{
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i offset = _mm256_set1_epi8(8);
    __m256i first = load(values);
    __m256i last = eight ? first : load(values + 64);
    __m256i part[4] = {
        _mm256_sub_epi8(_mm256_and_si256(first, mask), offset),
        _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(first, 4), mask), offset),
        _mm256_sub_epi8(_mm256_and_si256(last, mask), offset),
        _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(last, 4), mask), offset),
    };
    __m256i low[2] = {_mm256_unpacklo_epi32(part[0], part[1]),
                      _mm256_unpacklo_epi32(part[2], part[3])};
    __m256i high[2] = {_mm256_unpackhi_epi32(part[0], part[1]),
                       _mm256_unpackhi_epi32(part[2], part[3])};
    ret[0] = _mm256_unpacklo_epi64(low[0], low[1]);
    ret[1] = _mm256_unpackhi_epi64(low[0], low[1]);
    ret[2] = _mm256_unpacklo_epi64(high[0], high[1]);
    ret[3] = _mm256_unpackhi_epi64(high[0], high[1]);
}

/* Minus how many bytes of a lane, each 0 or -1, are -1 up to each. */
SHOAL_INLINE __m256i count_up(__m256i set)
{
    set = _mm256_add_epi8(set, _mm256_bslli_epi128(set, 1));
    set = _mm256_add_epi8(set, _mm256_bslli_epi128(set, 2));
    set = _mm256_add_epi8(set, _mm256_bslli_epi128(set, 4));
    return _mm256_add_epi8(set, _mm256_bslli_epi128(set, 8));
}

/* The 32 elements of eight rows, as ret[q][half]: sixteen to a lane, the lanes' rows as above. */
SHOAL_INLINE void bitmap_values(const uint8_t *codes, bool eight, __m256i ret[4][2])
{
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i halves = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0101010101010101, 0));
    const __m256i last = _mm256_set1_epi8(15);
    const __m256i ones = _mm256_set1_epi8(-1);
    __m256i bits = load(codes);
    __m256i table[4];
    bitmap_tables(codes + 64, eight, table);
    for (int q = 0; q < 4; q++) {
        __m256i before = _mm256_setzero_si256();
        for (int h = 0; h < 2; h++) {
            __m256i from = _mm256_add_epi8(halves, _mm256_set1_epi8((char)(4 * q + 2 * h)));
            __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(bits, from), bit);
            __m256i set = _mm256_cmpeq_epi8(own, bit);
            __m256i n = _mm256_add_epi8(count_up(set), before);
            /* The n-th that is set has value n - 1, which is not of -n; others have none. */
            __m256i index = _mm256_andnot_si256(_mm256_and_si256(n, set), ones);
            ret[q][h] = _mm256_shuffle_epi8(table[q], index);
            before = _mm256_shuffle_epi8(n, last);
        }
    }
}

/* A bitmap: rows are expanded, a register holding sixteen elements of two rows, and the exact sums
 * of each row put together at the end. A pair of products is at most 2 * 8 * 127, two of them fit
 * 16 bits. */
SHOAL_INLINE void bitmap_dots(const uint8_t *codes, bool eight, const column *columns, size_t n_c,
                              rows *dot)
{
    const __m256i one = _mm256_set1_epi16(1);
    for (size_t h = 0; h < 2; h++) {
        __m256i w[4][2];
        bitmap_values(codes + 32 * h, eight, w);
        for (size_t j = 0; j < n_c; j++) {
            const __m128i *q = (const __m128i *)(const void *)columns[j].q;
            const __m256i first = _mm256_broadcastsi128_si256(_mm_loadu_si128(q));
            const __m256i last = _mm256_broadcastsi128_si256(_mm_loadu_si128(q + 1));
            __m256i sum[4];
            for (size_t i = 0; i < 4; i++) {
                __m256i low = _mm256_maddubs_epi16(_mm256_abs_epi8(w[i][0]),
                                                   _mm256_sign_epi8(first, w[i][0]));
                __m256i high =
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w[i][1]), _mm256_sign_epi8(last, w[i][1]));
                sum[i] = _mm256_madd_epi16(_mm256_add_epi16(low, high), one);
            }
            dot[j].half[h] = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]),
                                               _mm256_hadd_epi32(sum[2], sum[3]));
        }
    }
}

/* Takes one block into the sums of n_c columns. */
SHOAL_INLINE void take_block(const kind *k, const uint8_t *codes, unpack_fn *unpack,
                             const scales *s, const column *columns, size_t n_c,
                             __m256 acc[COLS_MAX][2])
{
    rows dot[COLS_MAX];
    if (k->arithmetic == WHOLE) {
        whole_dots(k, codes, unpack, s, columns, n_c, dot);
    } else if (k->arithmetic == HALVES) {
        halves_dots(k, codes, unpack, s, columns, n_c, dot);
    } else if (k->arithmetic == BITMAP) {
        bitmap_dots(codes, k->sub == 128, columns, n_c, dot);
    } else if (k->arithmetic == PAIRS || k->arithmetic == WIDE_PAIRS) {
        pairs_dots(codes, unpack, k->arithmetic == WIDE_PAIRS, s, columns, n_c, dot);
    } else {
        wide_dots(codes, unpack, s, columns, n_c, dot);
    }
    for (size_t j = 0; j < n_c; j++) {
        const shoal_act_block *act = columns[j].act;
        __m256 scale = _mm256_broadcast_ss(&act->scale);
        for (size_t h = 0; h < 2; h++) {
            __m256 integer = _mm256_cvtepi32_ps(dot[j].half[h]);
            acc[j][h] = _mm256_fmadd_ps(_mm256_mul_ps(s->d[h], scale), integer, acc[j][h]);
            if (k->mins == MINS_WHOLE) {
                acc[j][h] =
                    _mm256_fmadd_ps(s->mins[0][h], _mm256_broadcast_ss(&act->sum), acc[j][h]);
            } else if (k->mins == MINS_HALVES) {
                acc[j][h] =
                    _mm256_fmadd_ps(s->mins[0][h], _mm256_broadcast_ss(&act->sum_low), acc[j][h]);
                acc[j][h] =
                    _mm256_fmadd_ps(s->mins[1][h], _mm256_broadcast_ss(&act->sum_high), acc[j][h]);
            }
        }
    }
}

SHOAL_INLINE column column_at(const shoal_gemm *g, size_t c, size_t b)
{
    return (column){g->xq + c * g->k + b * SHOAL_QBLOCK, g->xb + c * (g->k / SHOAL_QBLOCK) + b};
}

/* --- unpacking on the way ------------------------------------------------------------------------
 */

/* The lines of a sub-block some way ahead. */
SHOAL_INLINE void prefetch(const uint8_t *sub, size_t bytes, size_t ahead)
{
    for (size_t at = 0; at < bytes; at += 64) {
        _mm_prefetch((const char *)sub + ahead + at, _MM_HINT_T0);
    }
}

/* n_p panels by n_c columns. Each panel is a stream of its own: memory answers several streams of
 * one core faster than one. */
SHOAL_INLINE void fused_tile(const shoal_gemm *g, const kind *k, size_t n_subs, size_t p, size_t c,
                             size_t n_p, size_t n_c)
{
    const size_t block_bytes = k->head + n_subs * k->sub;
    const size_t n_blocks = g->k / (n_subs * SHOAL_QBLOCK);
    const size_t panel_bytes = n_blocks * block_bytes;
    const uint8_t *block = (const uint8_t *)g->panels + p * panel_bytes;
    column columns[COLS_MAX];
    __m256 acc[PANELS_MAX][COLS_MAX][2];
    for (size_t j = 0; j < n_c; j++) {
        columns[j] = column_at(g, c + j, 0);
        for (size_t i = 0; i < n_p; i++) {
            acc[i][j][0] = _mm256_setzero_ps();
            acc[i][j][1] = _mm256_setzero_ps();
        }
    }
    for (size_t b = 0; b < n_blocks; b++, block += block_bytes) {
        for (size_t s = 0; s < n_subs; s++) {
            /* A stream that ends goes on in the next tile. */
            size_t to = b * block_bytes + k->head + s * k->sub + AHEAD;
            size_t ahead = AHEAD + (to < panel_bytes ? 0 : (n_p - 1) * panel_bytes);
            for (size_t i = 0; i < n_p; i++) {
                const uint8_t *at = block + i * panel_bytes;
                const uint8_t *sub = at + k->head + s * k->sub;
                prefetch(sub, k->sub, ahead);
                scales scale;
                k->scales(at, sub, &scale);
                scale.levels = g->levels;
                take_block(k, sub + k->codes, k->unpack, &scale, columns, n_c, acc[i]);
            }
            for (size_t j = 0; j < n_c; j++) {
                columns[j].q += SHOAL_QBLOCK;
                columns[j].act++;
            }
        }
    }
    for (size_t i = 0; i < n_p; i++) {
        for (size_t j = 0; j < n_c; j++) {
            avx2_put(g, p + i, c + j, acc[i][j][0], acc[i][j][1]);
        }
    }
}

/* --- unpacking once for many columns
 * -------------------------------------------------------------------------------
 */

/* One block unpacked: codes [i][low, high][half of the rows][32]. */
typedef struct expanded {
    uint8_t codes[512];
    float d[ROWS];
    int16_t mult[2][2][16];
    float mins[2][ROWS];
} expanded;

SHOAL_INLINE unpacked unpack_expanded(const uint8_t *codes, size_t i, size_t h,
                                      const int8_t *levels)
{
    (void)levels;
    return (unpacked){load(codes + i * 128 + h * 32), load(codes + i * 128 + 64 + h * 32)};
}

SHOAL_INLINE void store(void *p, __m256i x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}

SHOAL_INLINE void expand(const kind *k, const uint8_t *block, const uint8_t *sub, expanded *e)
{
    scales s;
    k->scales(block, sub, &s);
    for (size_t i = 0; i < 4; i++) {
        for (size_t h = 0; h < 2; h++) {
            unpacked w = k->unpack(sub + k->codes, i, h, NULL); /* dear kinds have no levels */
            store(e->codes + i * 128 + h * 32, w.low);
            store(e->codes + i * 128 + 64 + h * 32, w.high);
        }
    }
    for (size_t h = 0; h < 2; h++) {
        _mm256_storeu_ps(e->d + 8 * h, s.d[h]);
        for (size_t n = 0; n < 2; n++) {
            store(e->mult[n][h], s.mult[n][h]);
            if (k->mins == MINS_HALVES || (k->mins == MINS_WHOLE && n == 0)) {
                _mm256_storeu_ps(e->mins[n] + 8 * h, s.mins[n][h]);
            }
        }
    }
}

SHOAL_INLINE void load_scales(const kind *k, const expanded *e, scales *ret)
{
    for (size_t h = 0; h < 2; h++) {
        ret->d[h] = _mm256_loadu_ps(e->d + 8 * h);
        for (size_t n = 0; n < 2; n++) {
            ret->mult[n][h] = load(e->mult[n][h]);
            if (k->mins == MINS_HALVES || (k->mins == MINS_WHOLE && n == 0)) {
                ret->mins[n][h] = _mm256_loadu_ps(e->mins[n] + 8 * h);
            }
        }
    }
}

/* Columns [c, c + n_c) over n unpacked blocks, the first of which is block b of the panel. */
SHOAL_INLINE void expanded_tile(const shoal_gemm *g, const kind *k, const expanded *e, size_t n,
                                size_t p, size_t b, size_t c, size_t n_c)
{
    column columns[COLS_MAX];
    __m256 acc[COLS_MAX][2];
    for (size_t j = 0; j < n_c; j++) {
        columns[j] = column_at(g, c + j, b);
        if (b > 0) {
            avx2_get(g, p, c + j, &acc[j][0], &acc[j][1]);
        } else {
            acc[j][0] = _mm256_setzero_ps();
            acc[j][1] = _mm256_setzero_ps();
        }
    }
    for (size_t i = 0; i < n; i++) {
        scales s;
        load_scales(k, &e[i], &s);
        s.levels = g->levels;
        take_block(k, e[i].codes, unpack_expanded, &s, columns, n_c, acc);
        for (size_t j = 0; j < n_c; j++) {
            columns[j].q += SHOAL_QBLOCK;
            columns[j].act++;
        }
    }
    for (size_t j = 0; j < n_c; j++) {
        avx2_put(g, p, c + j, acc[j][0], acc[j][1]);
    }
}

/* --- the tiles of a kind ------------------------------------------------------------------------
 */

typedef void fused_fn(const shoal_gemm *g, size_t n_subs, size_t p, size_t c);
typedef void expand_fn(const uint8_t *block, const uint8_t *sub, expanded *e);
typedef void expanded_fn(const shoal_gemm *g, const expanded *e, size_t n, size_t p, size_t b,
                         size_t c);

/* Functions of their own for each width: inlined into one they would take a compiler minutes. */
typedef struct product {
    const kind *kind;
    size_t n_subs;      /* of a block, where the kind does not say */
    size_t widest;      /* columns of the widest tile */
    fused_fn *streams;  /* PANELS_MAX panels, one column */
    fused_fn *two;      /* two panels, two columns */
    fused_fn *fused[4]; /* one panel, 1 to widest columns */
    expand_fn *expand;  /* NULL where unpacking is cheap */
    expanded_fn *expanded[4];
} product;

void shoal_kernels_avx2_product(const product *product, const shoal_gemm *g, size_t p0, size_t p1);

#define SHOAL_FUSED(name, suffix, n_p, n_c)                                                        \
    static void name##_fused_##suffix(const shoal_gemm *g, size_t n_subs, size_t p, size_t c)      \
    {                                                                                              \
        fused_tile(g, &name, name.n_subs ? name.n_subs : n_subs, p, c, n_p, n_c);                  \
    }
#define SHOAL_EXPANDED(name, n_c)                                                                  \
    static void name##_expanded_##n_c(const shoal_gemm *g, const expanded *e, size_t n, size_t p,  \
                                      size_t b, size_t c)                                          \
    {                                                                                              \
        expanded_tile(g, &name, e, n, p, b, c, n_c);                                               \
    }
#define SHOAL_FUSED_TILES(name)                                                                    \
    SHOAL_FUSED(name, streams, PANELS_MAX, 1)                                                      \
    SHOAL_FUSED(name, two, 2, 2)                                                                   \
    SHOAL_FUSED(name, 1, 1, 1)                                                                     \
    SHOAL_FUSED(name, 2, 1, 2)                                                                     \
    SHOAL_FUSED(name, 3, 1, 3)
#define SHOAL_EXPANDED_TILES(name)                                                                 \
    static void name##_expand(const uint8_t *block, const uint8_t *sub, expanded *e)               \
    {                                                                                              \
        expand(&name, block, sub, e);                                                              \
    }                                                                                              \
    SHOAL_EXPANDED(name, 1)                                                                        \
    SHOAL_EXPANDED(name, 2)                                                                        \
    SHOAL_EXPANDED(name, 3)
#define SHOAL_GEMM(name)                                                                           \
    static void gemm_##name(const shoal_gemm *g, size_t p0, size_t p1)                             \
    {                                                                                              \
        shoal_kernels_avx2_product(&name##_product, g, p0, p1);                                    \
    }

/* A kind that is cheap to unpack, with tiles of up to four columns. */
#define SHOAL_CHEAP_PRODUCT(name)                                                                  \
    SHOAL_FUSED_TILES(name)                                                                        \
    SHOAL_FUSED(name, 4, 1, 4)                                                                     \
    static const product name##_product = {                                                        \
        .kind = &name,                                                                             \
        .widest = 4,                                                                               \
        .streams = name##_fused_streams,                                                           \
        .two = name##_fused_two,                                                                   \
        .fused = {name##_fused_1, name##_fused_2, name##_fused_3, name##_fused_4},                 \
    };
#define SHOAL_CHEAP(name)                                                                          \
    SHOAL_CHEAP_PRODUCT(name)                                                                      \
    SHOAL_GEMM(name)
/* One of the groups of a kind that has SHOAL_CHEAP_PRODUCT and n_subs 0. */
#define SHOAL_GROUP(name, group)                                                                   \
    static void gemm_##name##_##group(const shoal_gemm *g, size_t p0, size_t p1)                   \
    {                                                                                              \
        product t = name##_product;                                                                \
        t.n_subs = (group) / SHOAL_QBLOCK;                                                         \
        shoal_kernels_avx2_product(&t, g, p0, p1);                                                 \
    }
/* One that is dear to unpack; sums of HALVES fill the registers with three columns. */
#define SHOAL_DEAR_3(name)                                                                         \
    SHOAL_FUSED_TILES(name)                                                                        \
    SHOAL_EXPANDED_TILES(name)                                                                     \
    static const product name##_product = {                                                        \
        .kind = &name,                                                                             \
        .widest = 3,                                                                               \
        .streams = name##_fused_streams,                                                           \
        .two = name##_fused_two,                                                                   \
        .fused = {name##_fused_1, name##_fused_2, name##_fused_3},                                 \
        .expand = name##_expand,                                                                   \
        .expanded = {name##_expanded_1, name##_expanded_2, name##_expanded_3},                     \
    };                                                                                             \
    SHOAL_GEMM(name)
#define SHOAL_DEAR_4(name)                                                                         \
    SHOAL_FUSED_TILES(name)                                                                        \
    SHOAL_EXPANDED_TILES(name)                                                                     \
    SHOAL_FUSED(name, 4, 1, 4)                                                                     \
    SHOAL_EXPANDED(name, 4)                                                                        \
    static const product name##_product = {                                                        \
        .kind = &name,                                                                             \
        .widest = 4,                                                                               \
        .streams = name##_fused_streams,                                                           \
        .two = name##_fused_two,                                                                   \
        .fused = {name##_fused_1, name##_fused_2, name##_fused_3, name##_fused_4},                 \
        .expand = name##_expand,                                                                   \
        .expanded = {name##_expanded_1, name##_expanded_2, name##_expanded_3, name##_expanded_4},  \
    };                                                                                             \
    SHOAL_GEMM(name)

#endif
