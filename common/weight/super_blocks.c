/* SPDX-License-Identifier: Apache-2.0
 *
 * How a file squeezes the super-blocks into bytes:
 *   Q2_K    84: 16 bytes of scale (low nibble) and floor (high) per 16 elements, 64 of codes, d,
 *               dmin
 *   Q3_K   110: 32 bytes of third bits, 64 of the low two, 12 of scales (six bits, minus 32), d
 *   Q4_K   144: d, dmin, 12 bytes of scales and floors (six bits, per 32), 128 of nibbles
 *   Q5_K   176: d, dmin, 12 bytes as above, 32 of fifth bits, 128 of nibbles
 *   Q6_K   210: 128 bytes of nibbles, 64 of the high two bits, 16 signed scales, d
 */
#include "common/weight/super_internal.h"

#include <string.h>

enum {
    N = SHOAL_SUPER,
    SUBS = SHOAL_SUPER_SUBS,
    RUN = 32 /* elements that lie in a row everywhere: loops over them are done in vectors */
};

/* Two bits a code: 32 bytes for each 128 elements, bit pair q of byte l is element 32q + l. */
static void read_crumbs(const uint8_t *p, unsigned shift, uint8_t code[N])
{
    for (size_t part = 0; part < N / RUN; part++) {
        for (size_t l = 0; l < RUN; l++) {
            unsigned byte = p[part / 4 * RUN + l];
            unsigned crumb = byte >> part % 4 * 2 & 3u;
            code[part * RUN + l] |= (uint8_t)(crumb << shift);
        }
    }
}

static void write_crumbs(const uint8_t code[N], unsigned shift, uint8_t *p)
{
    for (size_t e = 0; e < N; e++) {
        unsigned crumb = code[e] >> shift & 3u;
        p[e / 128 * 32 + e % 32] |= (uint8_t)(crumb << e % 128 / 32 * 2);
    }
}

/* One bit a code: bit e / 32 of byte e % 32. */
static void read_bits(const uint8_t *p, unsigned shift, uint8_t code[N])
{
    for (size_t part = 0; part < N / RUN; part++) {
        for (size_t l = 0; l < RUN; l++) {
            code[part * RUN + l] |= (uint8_t)(((unsigned)p[l] >> part & 1u) << shift);
        }
    }
}

static void write_bits(const uint8_t code[N], unsigned shift, uint8_t *p)
{
    for (size_t e = 0; e < N; e++) {
        p[e % 32] |= (uint8_t)((code[e] >> shift & 1u) << e / 32);
    }
}

/* Four bits a code: `half` bytes for each 2 * half elements, the first half of them low. */
static void read_nibbles(const uint8_t *p, size_t half, uint8_t code[N])
{
    for (size_t at = 0; at < N; at += 2 * half) {
        for (size_t run = 0; run < half; run += RUN) {
            const uint8_t *from = p + at / 2 + run;
            uint8_t *low = code + at + run;
            uint8_t *high = low + half;
            for (size_t l = 0; l < RUN; l++) {
                low[l] = from[l] & 15;
                high[l] = from[l] >> 4;
            }
        }
    }
}

static void write_nibbles(const uint8_t code[N], size_t half, uint8_t *p)
{
    for (size_t e = 0; e < N; e++) {
        unsigned nibble = code[e] & 15u;
        p[e / (2 * half) * half + e % half] |= (uint8_t)(nibble << e / half % 2 * 4);
    }
}

static void read_q2_k(const uint8_t *p, shoal_super *ret)
{
    for (size_t s = 0; s < SUBS; s++) {
        ret->sc[s] = p[s] & 15;
        ret->mn[s] = p[s] >> 4;
    }
    memset(ret->code, 0, sizeof ret->code);
    read_crumbs(p + 16, 0, ret->code);
}

static void write_q2_k(const shoal_super *s, uint8_t *p)
{
    for (size_t i = 0; i < SUBS; i++) {
        p[i] = (uint8_t)(((unsigned)s->sc[i] & 15u) | (unsigned)s->mn[i] << 4);
    }
    write_crumbs(s->code, 0, p + 16);
}

/* Scale s: its low four bits are a nibble of the first eight bytes, its high two lie in the last
 * four. */
static void read_q3_k(const uint8_t *p, shoal_super *ret)
{
    memset(ret, 0, sizeof *ret);
    for (size_t s = 0; s < SUBS; s++) {
        unsigned low = (unsigned)p[96 + s % 8] >> s / 8 * 4 & 15u;
        unsigned high = (unsigned)p[104 + s % 4] >> s / 4 * 2 & 3u;
        ret->sc[s] = (int8_t)((int)(low | high << 4) - 32);
    }
    read_crumbs(p + 32, 0, ret->code);
    read_bits(p, 2, ret->code);
}

static void write_q3_k(const shoal_super *s, uint8_t *p)
{
    write_bits(s->code, 2, p);
    write_crumbs(s->code, 0, p + 32);
    for (size_t i = 0; i < SUBS; i++) {
        unsigned six = (unsigned)(s->sc[i] + 32);
        p[96 + i % 8] |= (uint8_t)((six & 15u) << i / 8 * 4);
        p[104 + i % 4] |= (uint8_t)((six >> 4) << i / 4 * 2);
    }
}

/* Scale and floor i of eight: the first four of each lie in the low six bits of bytes 0..3 and
 * 4..7; the others' low nibbles share bytes 8..11, and their high bits fill the gaps. */
static void read_six_bits(const uint8_t *p, shoal_super *ret)
{
    for (size_t i = 0; i < 8; i++) {
        unsigned sc = i < 4 ? p[i] & 63u : (p[i + 4] & 15u) | (unsigned)p[i - 4] >> 6 << 4;
        unsigned mn = i < 4 ? p[i + 4] & 63u : (unsigned)p[i + 4] >> 4 | (unsigned)p[i] >> 6 << 4;
        ret->sc[2 * i] = ret->sc[2 * i + 1] = (int8_t)sc;
        ret->mn[2 * i] = ret->mn[2 * i + 1] = (uint8_t)mn;
    }
}

static void write_six_bits(const shoal_super *s, uint8_t *p)
{
    for (size_t i = 0; i < 4; i++) {
        unsigned sc = (unsigned)s->sc[2 * i];
        unsigned mn = s->mn[2 * i];
        unsigned sc4 = (unsigned)s->sc[2 * i + 8];
        unsigned mn4 = s->mn[2 * i + 8];
        p[i] = (uint8_t)(sc | sc4 >> 4 << 6);
        p[i + 4] = (uint8_t)(mn | mn4 >> 4 << 6);
        p[i + 8] = (uint8_t)((sc4 & 15u) | (mn4 & 15u) << 4);
    }
}

static void read_q4_k(const uint8_t *p, shoal_super *ret)
{
    read_six_bits(p + 4, ret);
    read_nibbles(p + 16, 32, ret->code);
}

static void write_q4_k(const shoal_super *s, uint8_t *p)
{
    write_six_bits(s, p + 4);
    write_nibbles(s->code, 32, p + 16);
}

static void read_q5_k(const uint8_t *p, shoal_super *ret)
{
    read_six_bits(p + 4, ret);
    read_nibbles(p + 48, 32, ret->code);
    read_bits(p + 16, 4, ret->code);
}

static void write_q5_k(const shoal_super *s, uint8_t *p)
{
    write_six_bits(s, p + 4);
    write_bits(s->code, 4, p + 16);
    write_nibbles(s->code, 32, p + 48);
}

static void read_q6_k(const uint8_t *p, shoal_super *ret)
{
    memcpy(ret->sc, p + 192, SUBS);
    memset(ret->mn, 0, sizeof ret->mn);
    read_nibbles(p, 64, ret->code);
    read_crumbs(p + 128, 4, ret->code);
}

static void write_q6_k(const shoal_super *s, uint8_t *p)
{
    write_nibbles(s->code, 64, p);
    write_crumbs(s->code, 4, p + 128);
    memcpy(p + 192, s->sc, SUBS);
}

/* d and dmin stand where the kind says; all between them is the layout's own. */
void shoal_super_read(const shoal_super_kind *kind, const uint8_t *block, shoal_super *ret)
{
    kind->read(block, ret);
    ret->d = shoal_format_u16(block + kind->d_at);
    ret->dmin = kind->dmin_at != 0 ? shoal_format_u16(block + kind->dmin_at) : 0;
}

void shoal_super_write(const shoal_super_kind *kind, const shoal_super *s, uint8_t *ret_block)
{
    kind->write(s, ret_block);
    shoal_format_put_u16(ret_block + kind->d_at, s->d);
    if (kind->dmin_at != 0) {
        shoal_format_put_u16(ret_block + kind->dmin_at, s->dmin);
    }
}

const shoal_super_kind shoal_super_q2_k = {
    .panel = SHOAL_PANEL_Q2_K,
    .block = 84,
    .d_at = 80,
    .dmin_at = 82,
    .bits = 2,
    .sub = 16,
    .sc_high = 15,
    .read = read_q2_k,
    .write = write_q2_k,
};

const shoal_super_kind shoal_super_q3_k = {
    .panel = SHOAL_PANEL_Q3_K,
    .block = 110,
    .d_at = 108,
    .bits = 3,
    .zero = 4,
    .sub = 16,
    .sc_low = -32,
    .sc_high = 31,
    .read = read_q3_k,
    .write = write_q3_k,
};

const shoal_super_kind shoal_super_q4_k = {
    .panel = SHOAL_PANEL_Q4_K,
    .block = 144,
    .d_at = 0,
    .dmin_at = 2,
    .bits = 4,
    .sub = 32,
    .sc_high = 63,
    .read = read_q4_k,
    .write = write_q4_k,
};

const shoal_super_kind shoal_super_q5_k = {
    .panel = SHOAL_PANEL_Q5_K,
    .block = 176,
    .d_at = 0,
    .dmin_at = 2,
    .bits = 5,
    .sub = 32,
    .sc_high = 63,
    .read = read_q5_k,
    .write = write_q5_k,
};

const shoal_super_kind shoal_super_q6_k = {
    .panel = SHOAL_PANEL_Q6_K,
    .block = 210,
    .d_at = 208,
    .bits = 6,
    .zero = 32,
    .sub = 16,
    .sc_low = -128,
    .sc_high = 127,
    .read = read_q6_k,
    .write = write_q6_k,
};
