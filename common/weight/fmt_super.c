/* SPDX-License-Identifier: Apache-2.0
 *
 * Q2_K, Q3_K, Q4_K, Q5_K, Q6_K: values and panels from the plain form of super_internal.h. The
 * layout of their panels is drawn in common/kernels/panel.h.
 */
#include "common/weight/panel_internal.h"
#include "common/weight/super_internal.h"

#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_SUPER,
    SUBS = SHOAL_SUPER_SUBS
};

typedef shoal_super_kind kind;

static bool has_nibbles(const kind *k)
{
    return k->bits >= 4;
}

static bool has_two(const kind *k)
{
    return k->bits == 2 || k->bits == 3 || k->bits == 6;
}

static bool has_one(const kind *k)
{
    return k->bits == 3 || k->bits == 5;
}

static bool finite_blocks(const kind *k, const uint8_t *blocks, size_t n)
{
    for (size_t b = 0; b < n / N; b++, blocks += k->block) {
        if (!shoal_format_half_finite(shoal_format_u16(blocks + k->d_at)) ||
            (k->dmin_at != 0 && !shoal_format_half_finite(shoal_format_u16(blocks + k->dmin_at)))) {
            return false;
        }
    }
    return true;
}

static void values_of(const kind *k, const shoal_super *s, float *ret_x)
{
    float d = shoal_f16_to_f32(s->d);
    float dmin = shoal_f16_to_f32(s->dmin);
    for (size_t sub = 0; sub < SUBS; sub++) {
        float scale = d * (float)s->sc[sub];
        float floor = dmin * (float)s->mn[sub];
        for (size_t i = 16 * sub; i < 16 * sub + 16; i++) {
            float x = scale * (float)((int)s->code[i] - k->zero);
            ret_x[i] = k->dmin_at != 0 ? x - floor : x;
        }
    }
}

static void decode_blocks(const kind *k, const uint8_t *blocks, size_t n, float *ret_x)
{
    for (size_t b = 0; b < n / N; b++) {
        shoal_super s;
        shoal_super_read(k, blocks + b * k->block, &s);
        values_of(k, &s, ret_x + b * N);
    }
}

static void encode_blocks(const kind *k, const float *x, size_t n, uint8_t *ret_blocks)
{
    memset(ret_blocks, 0, n / N * k->block);
    for (size_t b = 0; b < n / N; b++) {
        shoal_super s;
        shoal_super_search(k, x + b * N, &s);
        shoal_super_write(k, &s, ret_blocks + b * k->block);
    }
}

/* --- panels ---------------------------------------------------------------------------------- */

/* Bytes of the scales and floors of 32 elements of 16 rows. */
static size_t scale_bytes(void)
{
    return 2 * ROWS;
}

static void put_scales(const kind *k, const shoal_super *s, size_t b, size_t r, uint8_t *to)
{
    for (size_t h = 0; h < 2; h++) {
        unsigned sc = (uint8_t)s->sc[2 * b + h];
        unsigned mn = s->mn[2 * b + h];
        if (k->bits == 2) {
            to[h * ROWS + r] = (uint8_t)(sc | mn << 4);
        } else if (k->sub == 16) {
            to[h * ROWS + r] = (uint8_t)sc;
        } else {
            to[h * ROWS + r] = (uint8_t)(h == 0 ? sc : mn);
        }
    }
}

static void get_scales(const kind *k, const uint8_t *from, size_t b, size_t r, shoal_super *s)
{
    for (size_t h = 0; h < 2; h++) {
        uint8_t byte = from[h * ROWS + r];
        if (k->bits == 2) {
            s->sc[2 * b + h] = byte & 15;
            s->mn[2 * b + h] = byte >> 4;
        } else if (k->sub == 16) {
            s->sc[2 * b + h] = (int8_t)byte;
        } else {
            s->sc[2 * b + h] = (int8_t)from[r];
            s->mn[2 * b + h] = from[ROWS + r];
        }
    }
}

static void put_super(const kind *k, const shoal_super *s, size_t r, uint8_t *to)
{
    shoal_format_put_u16(to + 2 * r, s->d);
    to += 2 * ROWS;
    if (k->dmin_at != 0) {
        shoal_format_put_u16(to + 2 * r, s->dmin);
        to += 2 * ROWS;
    }
    for (size_t b = 0; b < N / SHOAL_QBLOCK; b++) {
        const uint8_t *code = s->code + b * SHOAL_QBLOCK;
        put_scales(k, s, b, r, to);
        to += scale_bytes();
        if (has_nibbles(k)) {
            shoal_panel_put_nib(to, r, code);
            to += SHOAL_PART_NIB;
        }
        if (has_two(k)) {
            shoal_panel_put_two(to, r, code, k->bits == 6 ? 4 : 0);
            to += SHOAL_PART_TWO;
        }
        if (has_one(k)) {
            shoal_panel_put_hi1(to, r, code, k->bits - 1);
            to += SHOAL_PART_HI1;
        }
    }
}

static void get_super(const kind *k, const uint8_t *from, size_t r, shoal_super *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->d = shoal_format_u16(from + 2 * r);
    from += 2 * ROWS;
    if (k->dmin_at != 0) {
        ret->dmin = shoal_format_u16(from + 2 * r);
        from += 2 * ROWS;
    }
    for (size_t b = 0; b < N / SHOAL_QBLOCK; b++) {
        uint8_t *code = ret->code + b * SHOAL_QBLOCK;
        get_scales(k, from, b, r, ret);
        from += scale_bytes();
        if (has_nibbles(k)) {
            shoal_panel_get_nib(from, r, code);
            from += SHOAL_PART_NIB;
        }
        if (has_two(k)) {
            shoal_panel_get_two(from, r, code, k->bits == 6 ? 4 : 0);
            from += SHOAL_PART_TWO;
        }
        if (has_one(k)) {
            shoal_panel_get_hi1(from, r, code, k->bits - 1);
            from += SHOAL_PART_HI1;
        }
    }
}

static void pack_blocks(const kind *k, const uint8_t *blocks, size_t n, size_t r, uint8_t *panel)
{
    size_t panel_block = shoal_panel_find(k->panel)->block_bytes;
    for (size_t b = 0; b < n / N; b++) {
        shoal_super s;
        shoal_super_read(k, blocks + b * k->block, &s);
        put_super(k, &s, r, panel + b * panel_block);
    }
}

static void restore_blocks(const kind *k, const uint8_t *panel, size_t n, size_t r,
                           uint8_t *ret_blocks)
{
    size_t panel_block = shoal_panel_find(k->panel)->block_bytes;
    memset(ret_blocks, 0, n / N * k->block);
    for (size_t b = 0; b < n / N; b++) {
        shoal_super s;
        get_super(k, panel + b * panel_block, r, &s);
        shoal_super_write(k, &s, ret_blocks + b * k->block);
    }
}

static void unpack_blocks(const kind *k, const uint8_t *panel, size_t n, size_t r, float *ret_row)
{
    size_t panel_block = shoal_panel_find(k->panel)->block_bytes;
    for (size_t b = 0; b < n / N; b++) {
        shoal_super s;
        get_super(k, panel + b * panel_block, r, &s);
        values_of(k, &s, ret_row + b * N);
    }
}

/* --- formats --------------------------------------------------------------------------------- */

/* A format's functions bind its kind. */
#define FORMAT(name, NAME)                                                                         \
    static void pack_##name(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)             \
    {                                                                                              \
        pack_blocks(&shoal_super_##name, blocks, k, r, panel);                                     \
    }                                                                                              \
    static void restore_##name(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)      \
    {                                                                                              \
        restore_blocks(&shoal_super_##name, panel, k, r, ret_blocks);                              \
    }                                                                                              \
    static void unpack_##name(const uint8_t *panel, size_t k, size_t r, float *ret_row)            \
    {                                                                                              \
        unpack_blocks(&shoal_super_##name, panel, k, r, ret_row);                                  \
    }                                                                                              \
    static void encode_##name(const float *x, size_t n, uint8_t *ret_blocks)                       \
    {                                                                                              \
        encode_blocks(&shoal_super_##name, x, n, ret_blocks);                                      \
    }                                                                                              \
    static void decode_##name(const uint8_t *blocks, size_t n, float *ret_x)                       \
    {                                                                                              \
        decode_blocks(&shoal_super_##name, blocks, n, ret_x);                                      \
    }                                                                                              \
    static bool finite_##name(const uint8_t *blocks, size_t n)                                     \
    {                                                                                              \
        return finite_blocks(&shoal_super_##name, blocks, n);                                      \
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

FORMAT(q2_k, Q2_K)
FORMAT(q3_k, Q3_K)
FORMAT(q4_k, Q4_K)
FORMAT(q5_k, Q5_K)
FORMAT(q6_k, Q6_K)
