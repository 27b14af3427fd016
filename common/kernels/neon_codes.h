/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the NEON files: the codes of quantised panels, four rows (a quad) of 32 elements at a
 * time, as signed bytes. A register holds [row][4 bytes], so eight of them are the elements 4g to
 * 4g + 3 of the four rows for g from 0 to 7. Every code of every kind fits a signed byte.
 */
#ifndef SHOAL_KERNELS_NEON_CODES_H
#define SHOAL_KERNELS_NEON_CODES_H

#include "common/kernels/panel.h"

#if defined(__aarch64__)

#    include "common/kernels/neon_math.h"

enum {
    NEON_GROUPS = 8,
    NEON_ROWS_BYTES = 4 * SHOAL_PANEL_ROWS, /* four bytes of every row */
    NEON_NIB_BYTES = 4 * NEON_ROWS_BYTES,
    NEON_TWO_BYTES = 2 * NEON_ROWS_BYTES
};

/* Fills the eight groups of a quad of rows from the codes of a panel block or sub-block. */
/* levels: of kinds whose codes are indices of them. */
typedef void neon_codes_fn(const uint8_t *codes, size_t quad, const int8_t *levels,
                           int8x16_t w[NEON_GROUPS]);

SHOAL_INLINE void neon_nib(const uint8_t *nib, size_t quad, uint8x16_t u[NEON_GROUPS])
{
    for (size_t g = 0; g < 4; g++) {
        uint8x16_t both = vld1q_u8(nib + g * NEON_ROWS_BYTES + quad * 16);
        u[g] = vandq_u8(both, vdupq_n_u8(15));
        u[g + 4] = vshrq_n_u8(both, 4);
    }
}

/* Adds `weight` to the codes whose extra bit is set. */
SHOAL_INLINE void neon_hi1(const uint8_t *hi1, size_t quad, uint8_t weight,
                           uint8x16_t u[NEON_GROUPS])
{
    uint8x16_t bits = vld1q_u8(hi1 + quad * 16);
    for (size_t g = 0; g < NEON_GROUPS; g++) {
        uint8x16_t set = vtstq_u8(bits, vdupq_n_u8((uint8_t)(1u << g)));
        u[g] = vorrq_u8(u[g], vandq_u8(set, vdupq_n_u8(weight)));
    }
}

SHOAL_INLINE void neon_two(const uint8_t *two, size_t quad, uint8x16_t u[NEON_GROUPS])
{
    const uint8x16_t mask = vdupq_n_u8(3);
    for (size_t h = 0; h < 2; h++) {
        uint8x16_t bits = vld1q_u8(two + h * NEON_ROWS_BYTES + quad * 16);
        u[4 * h] = vandq_u8(bits, mask);
        u[4 * h + 1] = vandq_u8(vshrq_n_u8(bits, 2), mask);
        u[4 * h + 2] = vandq_u8(vshrq_n_u8(bits, 4), mask);
        u[4 * h + 3] = vshrq_n_u8(bits, 6);
    }
}

SHOAL_INLINE void neon_tri(const uint8_t *tri, size_t quad, uint8x16_t u[NEON_GROUPS])
{
    const uint8x16_t seven = vdupq_n_u8(7);
    const uint8x16_t four = vdupq_n_u8(4);
    uint8x16_t plane[3];
    for (size_t p = 0; p < 3; p++) {
        plane[p] = vld1q_u8(tri + p * NEON_ROWS_BYTES + quad * 16);
        u[p] = vandq_u8(plane[p], seven);
        u[p + 4] = vandq_u8(vshrq_n_u8(plane[p], 3), seven);
    }
    u[3] = vorrq_u8(vshrq_n_u8(plane[0], 6), vandq_u8(vshrq_n_u8(plane[1], 4), four));
    u[7] = vorrq_u8(vshrq_n_u8(plane[2], 6), vandq_u8(vshrq_n_u8(plane[1], 5), four));
}

/* Takes the offset off, which leaves signed codes. */
SHOAL_INLINE void neon_signed(const uint8x16_t u[NEON_GROUPS], int8_t offset,
                              int8x16_t w[NEON_GROUPS])
{
    for (size_t g = 0; g < NEON_GROUPS; g++) {
        w[g] = vsubq_s8(vreinterpretq_s8_u8(u[g]), vdupq_n_s8(offset));
    }
}

/* Levels in place of their indices. */
SHOAL_INLINE void neon_look_up(const uint8x16_t u[NEON_GROUPS], const int8_t *levels,
                               int8x16_t w[NEON_GROUPS])
{
    const int8x16_t table = vld1q_s8(levels);
    for (size_t g = 0; g < NEON_GROUPS; g++) {
        w[g] = vqtbl1q_s8(table, u[g]);
    }
}

SHOAL_INLINE void neon_codes_n3(const uint8_t *codes, size_t quad, const int8_t *levels,
                                int8x16_t w[NEON_GROUPS])
{
    uint8x16_t u[NEON_GROUPS];
    neon_tri(codes, quad, u);
    neon_look_up(u, levels, w);
}

SHOAL_INLINE void neon_codes_n4(const uint8_t *codes, size_t quad, const int8_t *levels,
                                int8x16_t w[NEON_GROUPS])
{
    uint8x16_t u[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_look_up(u, levels, w);
}

SHOAL_INLINE void neon_codes_q8_0(const uint8_t *codes, size_t quad, const int8_t *levels,
                                  int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    for (size_t g = 0; g < NEON_GROUPS; g++) {
        w[g] = vreinterpretq_s8_u8(vld1q_u8(codes + g * NEON_ROWS_BYTES + quad * 16));
    }
}

/* q4_1, q4_K */
SHOAL_INLINE void neon_codes_4(const uint8_t *codes, size_t quad, const int8_t *levels,
                               int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_signed(u, 0, w);
}

SHOAL_INLINE void neon_codes_q4_0(const uint8_t *codes, size_t quad, const int8_t *levels,
                                  int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_signed(u, 8, w);
}

SHOAL_INLINE void neon_codes_iq4_nl(const uint8_t *codes, size_t quad, const int8_t *levels,
                                    int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_look_up(u, shoal_iq4_nl, w);
}

/* q5_1, q5_K */
SHOAL_INLINE void neon_codes_5(const uint8_t *codes, size_t quad, const int8_t *levels,
                               int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_hi1(codes + NEON_NIB_BYTES, quad, 16, u);
    neon_signed(u, 0, w);
}

SHOAL_INLINE void neon_codes_q5_0(const uint8_t *codes, size_t quad, const int8_t *levels,
                                  int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_hi1(codes + NEON_NIB_BYTES, quad, 16, u);
    neon_signed(u, 16, w);
}

SHOAL_INLINE void neon_codes_q2_k(const uint8_t *codes, size_t quad, const int8_t *levels,
                                  int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_two(codes, quad, u);
    neon_signed(u, 0, w);
}

SHOAL_INLINE void neon_codes_q3_k(const uint8_t *codes, size_t quad, const int8_t *levels,
                                  int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_two(codes, quad, u);
    neon_hi1(codes + NEON_TWO_BYTES, quad, 4, u);
    neon_signed(u, 4, w);
}

SHOAL_INLINE void neon_codes_c2(const uint8_t *codes, size_t quad, const int8_t *levels,
                                int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_two(codes, quad, u);
    neon_signed(u, 2, w);
}

SHOAL_INLINE void neon_codes_c3(const uint8_t *codes, size_t quad, const int8_t *levels,
                                int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    neon_tri(codes, quad, u);
    neon_signed(u, 4, w);
}

SHOAL_INLINE void neon_codes_q6_k(const uint8_t *codes, size_t quad, const int8_t *levels,
                                  int8x16_t w[NEON_GROUPS])
{
    (void)levels;
    uint8x16_t u[NEON_GROUPS];
    uint8x16_t high[NEON_GROUPS];
    neon_nib(codes, quad, u);
    neon_two(codes + NEON_NIB_BYTES, quad, high);
    for (size_t g = 0; g < NEON_GROUPS; g++) {
        u[g] = vorrq_u8(u[g], vshlq_n_u8(high[g], 4));
    }
    neon_signed(u, 32, w);
}

/* Two of four of a quad of rows: sixteen values of each, four to a register, and where in four they
 * belong, with bit 2 where the activation is to be negative. */
typedef void neon_pairs_fn(const uint8_t *codes, size_t quad, int8x16_t value[4],
                           uint8x16_t place[4]);

SHOAL_INLINE void neon_pairs_s4(const uint8_t *codes, size_t quad, int8x16_t value[4],
                                uint8x16_t place[4])
{
    uint8x16_t u[NEON_GROUPS];
    neon_tri(codes, quad, u);
    for (size_t i = 0; i < 4; i++) {
        value[i] = vreinterpretq_s8_u8(u[i]);
        place[i] = u[4 + i];
    }
}

SHOAL_INLINE void neon_pairs_s8(const uint8_t *codes, size_t quad, int8x16_t value[4],
                                uint8x16_t place[4])
{
    const uint8x16_t mask = vdupq_n_u8(3);
    uint8x16_t at = vld1q_u8(codes + 4 * NEON_ROWS_BYTES + quad * 16);
    place[0] = vandq_u8(at, mask);
    place[1] = vandq_u8(vshrq_n_u8(at, 2), mask);
    place[2] = vandq_u8(vshrq_n_u8(at, 4), mask);
    place[3] = vshrq_n_u8(at, 6);
    for (size_t i = 0; i < 4; i++) {
        value[i] = vreinterpretq_s8_u8(vld1q_u8(codes + i * NEON_ROWS_BYTES + quad * 16));
    }
}

/* A bitmap: the 32 elements of the rows of a quad, sixteen to a register. */
SHOAL_INLINE void neon_bitmap(const uint8_t *codes, size_t quad, bool eight, int8x16_t w[4][2])
{
    static const uint8_t powers[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    static const uint8_t bytes[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    const uint8x16_t zero = vdupq_n_u8(0);
    const uint8x16_t bits = vld1q_u8(codes + quad * 16);
    const uint8x16_t first = vld1q_u8(codes + NEON_ROWS_BYTES + quad * 16);
    const uint8x16_t last = eight ? first : vld1q_u8(codes + NEON_TWO_BYTES + quad * 16);
    uint32x4_t part[4] = {
        vreinterpretq_u32_u8(vandq_u8(first, vdupq_n_u8(15))),
        vreinterpretq_u32_u8(vshrq_n_u8(first, 4)),
        vreinterpretq_u32_u8(vandq_u8(last, vdupq_n_u8(15))),
        vreinterpretq_u32_u8(vshrq_n_u8(last, 4)),
    };
    uint64x2_t low[2] = {vreinterpretq_u64_u32(vzip1q_u32(part[0], part[1])),
                         vreinterpretq_u64_u32(vzip1q_u32(part[2], part[3]))};
    uint64x2_t high[2] = {vreinterpretq_u64_u32(vzip2q_u32(part[0], part[1])),
                          vreinterpretq_u64_u32(vzip2q_u32(part[2], part[3]))};
    const uint64x2_t tables[4] = {vzip1q_u64(low[0], low[1]), vzip2q_u64(low[0], low[1]),
                                  vzip1q_u64(high[0], high[1]), vzip2q_u64(high[0], high[1])};
    for (size_t q = 0; q < 4; q++) {
        const int8x16_t table = vsubq_s8(vreinterpretq_s8_u64(tables[q]), vdupq_n_s8(8));
        uint8x16_t before = zero;
        for (size_t h = 0; h < 2; h++) {
            uint8x16_t from = vaddq_u8(vld1q_u8(bytes), vdupq_n_u8((uint8_t)(4 * q + 2 * h)));
            uint8x16_t set = vtstq_u8(vqtbl1q_u8(bits, from), vld1q_u8(powers));
            uint8x16_t n = set; /* minus how many are set up to each */
            n = vaddq_u8(n, vextq_u8(zero, n, 15));
            n = vaddq_u8(n, vextq_u8(zero, n, 14));
            n = vaddq_u8(n, vextq_u8(zero, n, 12));
            n = vaddq_u8(vaddq_u8(n, vextq_u8(zero, n, 8)), before);
            /* The n-th that is set has value n - 1 of sixteen; others find none. */
            uint8x16_t index = vandq_u8(vmvnq_u8(vandq_u8(n, set)), vdupq_n_u8(0x8F));
            w[q][h] = vqtbl1q_s8(table, index);
            before = vdupq_laneq_u8(n, 15);
        }
    }
}

#endif

#endif
