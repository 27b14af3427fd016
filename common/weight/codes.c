/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/codes_internal.h"

#include "common/weight/format.h"

#include <string.h>

enum {
    N = SHOAL_QBLOCK,
    HALF = N / 2,
    WORD = 4,
    SIGN = 4 /* of the place of a value */
};

/* clang-format off */
static const shoal_codes_kind kinds[] = {
    {SHOAL_TYPE_C2_32, 2, 32, SHOAL_CODES_ALL, 2, -2, 1},
    {SHOAL_TYPE_C2_64, 2, 64, SHOAL_CODES_ALL, 2, -2, 1},
    {SHOAL_TYPE_C2_128, 2, 128, SHOAL_CODES_ALL, 2, -2, 1},
    {SHOAL_TYPE_C3_32, 3, 32, SHOAL_CODES_ALL, 3, -4, 3},
    {SHOAL_TYPE_C3_64, 3, 64, SHOAL_CODES_ALL, 3, -4, 3},
    {SHOAL_TYPE_C3_128, 3, 128, SHOAL_CODES_ALL, 3, -4, 3},
    {SHOAL_TYPE_Q4_0, 4, 32, SHOAL_CODES_ALL, 4, -8, 7},
    {SHOAL_TYPE_C4_64, 4, 64, SHOAL_CODES_ALL, 4, -8, 7},
    {SHOAL_TYPE_C4_128, 4, 128, SHOAL_CODES_ALL, 4, -8, 7},
    {SHOAL_TYPE_Q8_0, 8, 32, SHOAL_CODES_ALL, 8, -128, 127},
    {SHOAL_TYPE_S4_32, 4, 32, SHOAL_CODES_TWO_FOUR, 3, -7, 7},
    {SHOAL_TYPE_S4_64, 4, 64, SHOAL_CODES_TWO_FOUR, 3, -7, 7},
    {SHOAL_TYPE_S4_128, 4, 128, SHOAL_CODES_TWO_FOUR, 3, -7, 7},
    {SHOAL_TYPE_S8_32, 8, 32, SHOAL_CODES_TWO_FOUR, 5, -128, 127},
    {SHOAL_TYPE_S8_64, 8, 64, SHOAL_CODES_TWO_FOUR, 5, -128, 127},
    {SHOAL_TYPE_S8_128, 8, 128, SHOAL_CODES_TWO_FOUR, 5, -128, 127},
    {SHOAL_TYPE_B16_32, 4, 32, SHOAL_CODES_HALF, 3, -8, 7},
    {SHOAL_TYPE_B16_64, 4, 64, SHOAL_CODES_HALF, 3, -8, 7},
    {SHOAL_TYPE_B16_128, 4, 128, SHOAL_CODES_HALF, 3, -8, 7},
    {SHOAL_TYPE_B8_32, 4, 32, SHOAL_CODES_QUARTER, 2, -8, 7},
    {SHOAL_TYPE_B8_64, 4, 64, SHOAL_CODES_QUARTER, 2, -8, 7},
    {SHOAL_TYPE_B8_128, 4, 128, SHOAL_CODES_QUARTER, 2, -8, 7},
    {SHOAL_TYPE_N3_32, 3, 32, SHOAL_CODES_LEVELS, 3, -4, 3},
    {SHOAL_TYPE_N3_64, 3, 64, SHOAL_CODES_LEVELS, 3, -4, 3},
    {SHOAL_TYPE_N3_128, 3, 128, SHOAL_CODES_LEVELS, 3, -4, 3},
    {SHOAL_TYPE_N4_32, 4, 32, SHOAL_CODES_LEVELS, 4, -8, 7},
    {SHOAL_TYPE_N4_64, 4, 64, SHOAL_CODES_LEVELS, 4, -8, 7},
    {SHOAL_TYPE_N4_128, 4, 128, SHOAL_CODES_LEVELS, 4, -8, 7},
};
/* clang-format on */

const shoal_codes_kind *shoal_codes_kind_of(shoal_type type)
{
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        if (kinds[i].type == type) {
            return &kinds[i];
        }
    }
    return NULL;
}

bool shoal_codes_find(size_t bits, size_t group, shoal_codes_mask mask, shoal_type *ret_type)
{
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        if (kinds[i].bits == bits && kinds[i].group == group && kinds[i].mask == mask) {
            *ret_type = kinds[i].type;
            return true;
        }
    }
    return false;
}

void shoal_codes_range(shoal_type type, int *ret_low, int *ret_high)
{
    const shoal_codes_kind *kind = shoal_codes_kind_of(type);
    SHOAL_ASSERT(kind);
    *ret_low = kind->low;
    *ret_high = kind->high;
}

size_t shoal_codes_row_bytes(shoal_type type, size_t k)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    SHOAL_ASSERT(info && k % info->block == 0);
    return k / info->block * info->block_bytes;
}

/* --- words of 32 columns: fields of 2, 3, 4 or 8 bits --------------------------------------------
 */

static void put_two(const uint8_t field[N], uint8_t *to)
{
    for (size_t i = 0; i < N; i++) {
        size_t at = i / HALF * WORD + i % WORD;
        to[at] = (uint8_t)(to[at] | field[i] << i % HALF / WORD * 2);
    }
}

static void put_tri(const uint8_t field[N], uint8_t *to)
{
    for (size_t j = 0; j < WORD; j++) {
        for (size_t p = 0; p < 3; p++) {
            to[p * WORD + j] = (uint8_t)(field[p * WORD + j] | field[HALF + p * WORD + j] << 3);
        }
        unsigned low = field[3 * WORD + j];
        unsigned high = field[HALF + 3 * WORD + j];
        to[j] = (uint8_t)(to[j] | (low & 3) << 6);
        to[WORD + j] = (uint8_t)(to[WORD + j] | low >> 2 << 6 | high >> 2 << 7);
        to[2 * WORD + j] = (uint8_t)(to[2 * WORD + j] | (high & 3) << 6);
    }
}

static void put_nib(const uint8_t field[N], uint8_t *to)
{
    for (size_t i = 0; i < HALF; i++) {
        to[i] = (uint8_t)(field[i] | field[HALF + i] << 4);
    }
}

static void put_fields(size_t n_words, const uint8_t field[N], uint8_t *to)
{
    memset(to, 0, n_words * WORD);
    switch (n_words) {
    case 2:
        put_two(field, to);
        break;
    case 3:
        put_tri(field, to);
        break;
    case 4:
        put_nib(field, to);
        break;
    default:
        memcpy(to, field, N);
    }
}

/* Byte j of word w. */
typedef struct words {
    const uint8_t *at;
    size_t stride;
} words;

static unsigned byte_of(const words *from, size_t w, size_t j)
{
    return from->at[w * from->stride + j];
}

static void get_tri(const words *from, uint8_t field[N])
{
    for (size_t j = 0; j < WORD; j++) {
        for (size_t p = 0; p < 3; p++) {
            field[p * WORD + j] = byte_of(from, p, j) & 7;
            field[HALF + p * WORD + j] = byte_of(from, p, j) >> 3 & 7;
        }
        unsigned tops = byte_of(from, 1, j) >> 6;
        field[3 * WORD + j] = (uint8_t)(byte_of(from, 0, j) >> 6 | (tops & 1) << 2);
        field[HALF + 3 * WORD + j] = (uint8_t)(byte_of(from, 2, j) >> 6 | (tops >> 1) << 2);
    }
}

static void get_fields(size_t n_words, const words *from, uint8_t field[N])
{
    if (n_words == 3) {
        get_tri(from, field);
        return;
    }
    for (size_t i = 0; i < N; i++) {
        size_t j = i % WORD;
        if (n_words == 2) {
            field[i] = byte_of(from, i / HALF, j) >> i % HALF / WORD * 2 & 3;
        } else if (n_words == 4) {
            field[i] = byte_of(from, i % HALF / WORD, j) >> i / HALF * 4 & 15;
        } else {
            field[i] = (uint8_t)byte_of(from, i / WORD, j);
        }
    }
}

/* --- two of four -------------------------------------------------------------------------------
 */

/* Sixteen values of 32 columns and the place of each in its four. */
typedef struct pairs {
    int value[HALF];
    uint8_t place[HALF];
} pairs;

/* Places of four, the lowest first, of a mask that has at most two. */
static void two_places(unsigned mask, size_t ret_place[2])
{
    size_t n = 0;
    for (size_t p = 0; p < 4; p++) {
        if (mask >> p & 1) {
            ret_place[n++] = p;
        }
    }
    /* Filled from the end or, where that is kept, from the front: ascending all the same. */
    if (n == 0) {
        ret_place[0] = 2;
        ret_place[1] = 3;
    } else if (n == 1 && ret_place[0] == 3) {
        ret_place[0] = 0;
        ret_place[1] = 3;
    } else if (n == 1) {
        ret_place[1] = 3;
    }
}

/* Four bits: magnitudes in the first half of the fields, signs and places in the second. Eight: the
 * values, then a word with their places. */
static void put_pairs(const shoal_codes_kind *kind, const shoal_codes_run *run, uint8_t *to)
{
    pairs p;
    for (size_t q = 0; q < N / 4; q++) {
        size_t place[2] = {0};
        two_places(run->kept >> 4 * q & 15, place);
        for (size_t i = 0; i < 2; i++) {
            p.value[2 * q + i] = run->code[4 * q + place[i]];
            p.place[2 * q + i] = (uint8_t)place[i];
        }
    }
    uint8_t field[N];
    memset(to, 0, kind->n_words * WORD);
    for (size_t i = 0; i < HALF; i++) {
        bool negative = p.value[i] < 0;
        field[i] = (uint8_t)(negative ? -p.value[i] : p.value[i]);
        field[HALF + i] = (uint8_t)(p.place[i] | (negative ? SIGN : 0));
        if (kind->bits == 8) {
            to[i] = (uint8_t)p.value[i];
            to[HALF + i % WORD] = (uint8_t)(to[HALF + i % WORD] | p.place[i] << i / WORD * 2);
        }
    }
    if (kind->bits != 8) {
        put_tri(field, to);
    }
}

static void read_pairs(const shoal_codes_kind *kind, const words *from, pairs *ret)
{
    uint8_t field[N];
    if (kind->bits != 8) {
        get_tri(from, field);
    }
    for (size_t i = 0; i < HALF; i++) {
        if (kind->bits == 8) {
            ret->value[i] = (int8_t)byte_of(from, i / WORD, i % WORD);
            ret->place[i] = byte_of(from, 4, i % WORD) >> i / WORD * 2 & 3;
        } else {
            ret->value[i] = field[HALF + i] & SIGN ? -field[i] : field[i];
            ret->place[i] = field[HALF + i] & 3;
        }
    }
}

static bool get_pairs(const shoal_codes_kind *kind, const words *from, shoal_codes_run *ret)
{
    pairs p;
    bool ascending = true;
    read_pairs(kind, from, &p);
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < HALF; i++) {
        size_t at = i / 2 * 4 + p.place[i];
        ret->code[at] = (int8_t)(ret->code[at] + p.value[i]);
        ret->kept |= 1u << at;
        ascending = ascending && (i % 2 == 0 || p.place[i] > p.place[i - 1]);
    }
    return ascending;
}

/* --- bitmaps -----------------------------------------------------------------------------------
 */

/* How many of 32 columns have room; 0: the kind has no bitmap. */
static size_t room_of(const shoal_codes_kind *kind)
{
    return kind->mask == SHOAL_CODES_HALF ? N / 2 : kind->mask == SHOAL_CODES_QUARTER ? N / 4 : 0;
}

static void put_bitmap(const shoal_codes_kind *kind, const shoal_codes_run *run, uint8_t *to)
{
    size_t n = 0;
    memset(to, 0, kind->n_words * WORD);
    for (size_t i = 0; i < N; i++) {
        if (run->kept >> i & 1) {
            uint8_t *at = &to[WORD + n / 8 * WORD + n % WORD];
            *at = (uint8_t)(*at | (run->code[i] - kind->low) << n % 8 / WORD * 4);
            to[i / 8] = (uint8_t)(to[i / 8] | 1u << i % 8);
            n++;
        }
    }
}

/* False where more are kept than there is room for. */
static bool get_bitmap(const shoal_codes_kind *kind, const words *from, shoal_codes_run *ret)
{
    const size_t room = room_of(kind);
    size_t n = 0;
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < N; i++) {
        if (byte_of(from, 0, i / 8) >> i % 8 & 1) {
            size_t v = n++ % room;
            unsigned field = byte_of(from, 1 + v / 8, v % WORD) >> v % 8 / WORD * 4 & 15;
            ret->code[i] = (int8_t)((int)field + kind->low);
            ret->kept |= 1u << i;
        }
    }
    return n <= room;
}

void shoal_codes_put(const shoal_codes_kind *kind, const shoal_codes_run *run, uint8_t *ret_words)
{
    uint8_t field[N];
    if (kind->mask == SHOAL_CODES_TWO_FOUR) {
        put_pairs(kind, run, ret_words);
        return;
    }
    if (room_of(kind) > 0) {
        put_bitmap(kind, run, ret_words);
        return;
    }
    int offset = kind->bits == 8 ? 0 : kind->low;
    for (size_t i = 0; i < N; i++) {
        field[i] = (uint8_t)(run->code[i] - offset);
    }
    put_fields(kind->n_words, field, ret_words);
}

bool shoal_codes_get(const shoal_codes_kind *kind, const uint8_t *from, size_t stride,
                     shoal_codes_run *ret_run)
{
    uint8_t field[N];
    if (kind->mask == SHOAL_CODES_TWO_FOUR) {
        return get_pairs(kind, &(words){from, stride}, ret_run);
    }
    if (room_of(kind) > 0) {
        return get_bitmap(kind, &(words){from, stride}, ret_run);
    }
    get_fields(kind->n_words, &(words){from, stride}, field);
    int offset = kind->bits == 8 ? 0 : kind->low;
    ret_run->kept = UINT32_MAX;
    for (size_t i = 0; i < N; i++) {
        ret_run->code[i] = (int8_t)(field[i] + offset);
    }
    return true;
}

/* --- rows ---------------------------------------------------------------------------------------
 */

static const char *const kinds_of_mask[] = {
    [SHOAL_CODES_ALL] = "",
    [SHOAL_CODES_TWO_FOUR] = " with two of four",
    [SHOAL_CODES_LEVELS] = " as indices of levels",
    [SHOAL_CODES_HALF] = " with 16 of 32",
    [SHOAL_CODES_QUARTER] = " with 8 of 32",
};

static bool is_kept(const shoal_codes *c, size_t row, size_t col)
{
    if (c->kept) {
        return c->kept[row * ((c->k + 7) / 8) + col / 8] >> col % 8 & 1;
    }
    bool all = c->mask == SHOAL_CODES_ALL || c->mask == SHOAL_CODES_LEVELS;
    return all || c->codes[row * c->k + col] != 0;
}

static size_t bits_set(uint32_t kept)
{
    size_t n = 0;
    for (; kept; kept &= kept - 1) {
        n++;
    }
    return n;
}

static shoal_status read_run(const shoal_codes_kind *kind, const shoal_codes *c, size_t row,
                             size_t col, shoal_codes_run *ret, shoal_err *err)
{
    ret->kept = 0;
    for (size_t i = 0; i < N; i++) {
        int code = c->codes[row * c->k + col + i];
        bool kept = is_kept(c, row, col + i);
        if (code < kind->low || code > kind->high || (!kept && code != 0)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "row %zu, column %zu: code %d, %d to %d are allowed, and 0 where "
                                 "nothing is kept",
                                 row, col + i, code, kind->low, kind->high);
        }
        ret->code[i] = (int8_t)code;
        ret->kept |= (uint32_t)kept << i;
        if (kind->mask == SHOAL_CODES_TWO_FOUR && i % 4 == 3 &&
            bits_set(ret->kept >> (i - 3) & 15) > 2) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "row %zu, column %zu: more than two of four are kept", row,
                                 col + i - 3);
        }
    }
    if (room_of(kind) > 0 && bits_set(ret->kept) > room_of(kind)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "row %zu, column %zu: more than %zu of 32 are kept", row, col,
                             room_of(kind));
    }
    return SHOAL_OK;
}

static shoal_status pack_row(const shoal_codes_kind *kind, const shoal_codes *c, size_t row,
                             uint8_t *to, shoal_err *err)
{
    const size_t n_groups = c->k / c->group;
    for (size_t g = 0; g < n_groups; g++) {
        uint16_t scale = c->scales[row * n_groups + g];
        if (!shoal_format_half_finite(scale)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "row %zu, column %zu: the scale is not finite", row, g * c->group);
        }
        shoal_format_put_u16(to, scale);
        to += 2;
        for (size_t col = g * c->group; col < (g + 1) * c->group; col += N) {
            shoal_codes_run run;
            SHOAL_TRY(read_run(kind, c, row, col, &run, err));
            shoal_codes_put(kind, &run, to);
            to += kind->n_words * WORD;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_codes_pack(const shoal_codes *c, size_t row, size_t n, uint8_t *ret_blocks,
                              shoal_err *err)
{
    shoal_type type = SHOAL_TYPE_F32;
    if (!shoal_codes_find(c->bits, c->group, c->mask, &type) || c->k % c->group != 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "codes of %zu bits in groups of %zu%s, %zu columns: no type stores "
                             "them; known are 2, 3 and 4 bits, 4 and 8 with two of four, 4 with "
                             "16 or 8 of 32, 3 and 4 as indices of levels, in whole groups of 32, "
                             "64 and 128, and 8 bits in groups of 32",
                             c->bits, c->group, kinds_of_mask[c->mask], c->k);
    }
    SHOAL_ASSERT(row <= c->n_rows && n <= c->n_rows - row);
    const shoal_codes_kind *kind = shoal_codes_kind_of(type);
    size_t row_bytes = shoal_codes_row_bytes(type, c->k);
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(pack_row(kind, c, row + i, ret_blocks + i * row_bytes, err));
    }
    return SHOAL_OK;
}

void shoal_codes_unpack(shoal_type type, const uint8_t *blocks, size_t k, int8_t *ret_codes,
                        uint16_t *ret_scales, uint8_t *ret_kept)
{
    const shoal_codes_kind *kind = shoal_codes_kind_of(type);
    SHOAL_ASSERT(kind && k % kind->group == 0);
    for (size_t g = 0; g < k / kind->group; g++) {
        if (ret_scales) {
            ret_scales[g] = shoal_format_u16(blocks);
        }
        blocks += 2;
        for (size_t col = g * kind->group; col < (g + 1) * kind->group; col += N) {
            shoal_codes_run run;
            (void)shoal_codes_get(kind, blocks, WORD, &run);
            for (size_t i = 0; ret_codes && i < N; i++) {
                ret_codes[col + i] = run.code[i];
            }
            for (size_t i = 0; ret_kept && i < N / 8; i++) {
                ret_kept[col / 8 + i] = (uint8_t)(run.kept >> 8 * i);
            }
            blocks += kind->n_words * WORD;
        }
    }
}
