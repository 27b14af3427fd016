/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of codes: what goes in comes back, for every code, group and mask; what is refused; what
 * encoding keeps and costs; hostile blocks.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/weight/codes.h"
#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    K = 256,
    N_ROWS = 3,
    HALF_ONE = 0x3C00,
    HALF_INFINITY = 0x7C00,
    HALF_NAN = 0x7E01
};

enum {
    S4_128_AT = 12, /* of kinds */
    S8_128_AT = 21,
    B16_128_AT = 24,
    B8_128_AT = 27
};

static const struct {
    size_t bits;
    size_t group;
    shoal_codes_mask mask;
    shoal_type type;
    int low;
    int high;
} kinds[] = {
    {2, 32, SHOAL_CODES_ALL, SHOAL_TYPE_C2_32, -2, 1},
    {2, 64, SHOAL_CODES_ALL, SHOAL_TYPE_C2_64, -2, 1},
    {2, 128, SHOAL_CODES_ALL, SHOAL_TYPE_C2_128, -2, 1},
    {3, 32, SHOAL_CODES_ALL, SHOAL_TYPE_C3_32, -4, 3},
    {3, 64, SHOAL_CODES_ALL, SHOAL_TYPE_C3_64, -4, 3},
    {3, 128, SHOAL_CODES_ALL, SHOAL_TYPE_C3_128, -4, 3},
    {4, 32, SHOAL_CODES_ALL, SHOAL_TYPE_Q4_0, -8, 7},
    {4, 64, SHOAL_CODES_ALL, SHOAL_TYPE_C4_64, -8, 7},
    {4, 128, SHOAL_CODES_ALL, SHOAL_TYPE_C4_128, -8, 7},
    {8, 32, SHOAL_CODES_ALL, SHOAL_TYPE_Q8_0, -128, 127},
    {4, 32, SHOAL_CODES_TWO_FOUR, SHOAL_TYPE_S4_32, -7, 7},
    {4, 64, SHOAL_CODES_TWO_FOUR, SHOAL_TYPE_S4_64, -7, 7},
    {4, 128, SHOAL_CODES_TWO_FOUR, SHOAL_TYPE_S4_128, -7, 7},
    {3, 32, SHOAL_CODES_LEVELS, SHOAL_TYPE_N3_32, -4, 3},
    {3, 64, SHOAL_CODES_LEVELS, SHOAL_TYPE_N3_64, -4, 3},
    {3, 128, SHOAL_CODES_LEVELS, SHOAL_TYPE_N3_128, -4, 3},
    {4, 32, SHOAL_CODES_LEVELS, SHOAL_TYPE_N4_32, -8, 7},
    {4, 64, SHOAL_CODES_LEVELS, SHOAL_TYPE_N4_64, -8, 7},
    {4, 128, SHOAL_CODES_LEVELS, SHOAL_TYPE_N4_128, -8, 7},
    {8, 32, SHOAL_CODES_TWO_FOUR, SHOAL_TYPE_S8_32, -128, 127},
    {8, 64, SHOAL_CODES_TWO_FOUR, SHOAL_TYPE_S8_64, -128, 127},
    {8, 128, SHOAL_CODES_TWO_FOUR, SHOAL_TYPE_S8_128, -128, 127},
    {4, 32, SHOAL_CODES_HALF, SHOAL_TYPE_B16_32, -8, 7},
    {4, 64, SHOAL_CODES_HALF, SHOAL_TYPE_B16_64, -8, 7},
    {4, 128, SHOAL_CODES_HALF, SHOAL_TYPE_B16_128, -8, 7},
    {4, 32, SHOAL_CODES_QUARTER, SHOAL_TYPE_B8_32, -8, 7},
    {4, 64, SHOAL_CODES_QUARTER, SHOAL_TYPE_B8_64, -8, 7},
    {4, 128, SHOAL_CODES_QUARTER, SHOAL_TYPE_B8_128, -8, 7},
};

/* A matrix of one kind with codes of all values, and places of every pattern. */
typedef struct matrix {
    shoal_codes c;
    shoal_type type;
    int8_t codes[N_ROWS * K];
    uint16_t scales[N_ROWS * K / 32];
    uint8_t kept[N_ROWS * K / 8];
    uint8_t blocks[N_ROWS * K * 2];
} matrix;

/* How many of 32 a kind with a bitmap has room for, else 0. */
static size_t room_of(size_t kind)
{
    return kinds[kind].mask == SHOAL_CODES_HALF      ? 16
           : kinds[kind].mask == SHOAL_CODES_QUARTER ? 8
                                                     : 0;
}

/* Any number of elements that there is room for, anywhere in 32. */
static uint32_t draw_bitmap(size_t room, uint64_t *rng)
{
    uint32_t kept = 0;
    size_t n = shoal_rng_next(rng) % (room + 1);
    while ((size_t)__builtin_popcount(kept) < n) {
        kept |= 1u << shoal_rng_next(rng) % 32;
    }
    return kept;
}

static void fill(matrix *m, size_t kind, uint64_t *rng)
{
    uint32_t bitmap = 0;
    memset(m, 0, sizeof *m);
    m->type = kinds[kind].type;
    m->c = (shoal_codes){.n_rows = N_ROWS,
                         .k = K,
                         .bits = kinds[kind].bits,
                         .group = kinds[kind].group,
                         .mask = kinds[kind].mask,
                         .codes = m->codes,
                         .scales = m->scales,
                         .kept = m->kept};
    const int n_codes = kinds[kind].high - kinds[kind].low + 1;
    for (size_t i = 0; i < (size_t)N_ROWS * K; i += 4) {
        unsigned mask = 15;
        while (kinds[kind].mask == SHOAL_CODES_TWO_FOUR && __builtin_popcount(mask) > 2) {
            mask = (unsigned)(shoal_rng_next(rng) % 16);
        }
        if (room_of(kind) > 0) {
            bitmap = i % 32 == 0 ? draw_bitmap(room_of(kind), rng) : bitmap;
            mask = bitmap >> i % 32 & 15;
        }
        m->kept[i / 8] = (uint8_t)(m->kept[i / 8] | mask << i % 8);
        for (size_t j = 0; j < 4; j++) {
            int code = kinds[kind].low + (int)(shoal_rng_next(rng) % (unsigned)n_codes);
            m->codes[i + j] = (int8_t)(mask >> j & 1 ? code : 0);
        }
    }
    for (size_t i = 0; i < N_ROWS * K / m->c.group; i++) {
        m->scales[i] = shoal_f32_to_f16(test_signed(rng));
    }
}

static void pack(matrix *m)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_codes_pack(&m->c, 0, N_ROWS, m->blocks, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void test_every_kind_has_its_type(void **state)
{
    (void)state;
    size_t n_found = 0;
    for (size_t bits = 0; bits <= 16; bits++) {
        for (size_t group = 0; group <= 256; group++) {
            shoal_type type = SHOAL_TYPE_F32;
            n_found += shoal_codes_find(bits, group, SHOAL_CODES_ALL, &type);
            n_found += shoal_codes_find(bits, group, SHOAL_CODES_TWO_FOUR, &type);
            n_found += shoal_codes_find(bits, group, SHOAL_CODES_LEVELS, &type);
            n_found += shoal_codes_find(bits, group, SHOAL_CODES_HALF, &type);
            n_found += shoal_codes_find(bits, group, SHOAL_CODES_QUARTER, &type);
        }
    }
    assert_int_equal(n_found, SHOAL_COUNT(kinds));
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        shoal_type type = SHOAL_TYPE_F32;
        int low = 0;
        int high = 0;
        assert_true(shoal_codes_find(kinds[i].bits, kinds[i].group, kinds[i].mask, &type));
        assert_int_equal(type, kinds[i].type);
        shoal_codes_range(type, &low, &high);
        assert_int_equal(low, kinds[i].low);
        assert_int_equal(high, kinds[i].high);
        const shoal_type_info *info = shoal_type_find((uint32_t)type);
        assert_int_equal(shoal_codes_row_bytes(type, K), K / info->block * info->block_bytes);
        assert_int_equal(info->block, kinds[i].group);
    }
}

static void test_codes_come_back(void **state)
{
    (void)state;
    static matrix m;
    uint64_t rng = 20261129;
    for (size_t i = 0; i < 4 * SHOAL_COUNT(kinds); i++) {
        fill(&m, i % SHOAL_COUNT(kinds), &rng);
        pack(&m);
        size_t row_bytes = shoal_codes_row_bytes(m.type, K);
        for (size_t row = 0; row < N_ROWS; row++) {
            int8_t codes[K];
            uint16_t scales[K / 32];
            uint8_t kept[K / 8];
            shoal_codes_unpack(m.type, m.blocks + row * row_bytes, K, codes, scales, kept);
            assert_memory_equal(codes, m.codes + row * K, K);
            assert_memory_equal(scales, m.scales + row * K / m.c.group, K / m.c.group * 2);
            for (size_t b = 0; b < K / 8; b++) {
                assert_int_equal(kept[b] & m.kept[row * K / 8 + b], m.kept[row * K / 8 + b]);
            }
        }
    }
}

/* NF4 of QLoRA (2305.14314, appendix E) times 127, and the same for three bits: written down here
 * once more, not taken from the code. */
static int value_of(size_t kind, int code)
{
    static const int of_3[8] = {-127, -68, -31, 0, 23, 49, 79, 127};
    static const double of_4[16] = {-1.0,     -0.69619, -0.52507, -0.39492, -0.28444, -0.18477,
                                    -0.09105, 0,        0.07958,  0.16093,  0.24611,  0.33792,
                                    0.44071,  0.56262,  0.72296,  1.0};
    if (kinds[kind].mask != SHOAL_CODES_LEVELS) {
        return code;
    }
    return kinds[kind].bits == 3 ? of_3[code + 4] : (int)nearbyint(127 * of_4[code + 8]);
}

/* As the row codecs, a built weight and an embedding see them. */
static void test_values_are_scale_times_code(void **state)
{
    (void)state;
    static matrix m;
    uint64_t rng = 7;
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        fill(&m, i, &rng);
        pack(&m);
        const shoal_gguf_tensor t = {.name = {"a.weight", 8},
                                     .type = m.type,
                                     .n_dims = 2,
                                     .dims = {K, N_ROWS, 1, 1},
                                     .data = m.blocks,
                                     .size_bytes = N_ROWS * shoal_codes_row_bytes(m.type, K)};
        shoal_weight *w = NULL;
        assert_int_equal(shoal_weight_new(&t, &w, NULL), SHOAL_OK);
        for (size_t row = 0; row < N_ROWS; row++) {
            float x[K];
            float y[K];
            shoal_weight_row(w, row, x);
            shoal_weight_decode(m.type, m.blocks + row * shoal_codes_row_bytes(m.type, K), K, y);
            assert_memory_equal(x, y, sizeof x);
            for (size_t j = 0; j < K; j++) {
                float scale = shoal_f16_to_f32(m.scales[(row * K + j) / m.c.group]);
                assert_true(x[j] == scale * (float)value_of(i, m.codes[row * K + j]));
            }
        }
        shoal_weight_free(w);
    }
}

static void expect_refused(matrix *m, const char *word)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_true(shoal_codes_pack(&m->c, 0, N_ROWS, m->blocks, &err) < 0);
    if (!strstr(err.text, word)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
    }
}

static void test_what_no_type_holds_is_refused(void **state)
{
    (void)state;
    static matrix m;
    uint64_t rng = 3;
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        for (int end = 0; end < 2; end++) {
            int limit = end ? kinds[i].high : kinds[i].low;
            fill(&m, i, &rng);
            /* The last code of the second row at its limit, then past it. */
            size_t at = 2 * K - 1;
            memset(m.kept + at / 8 - 3, 0, 3);
            m.kept[at / 8] = 0xC0;
            memset(m.codes + at - 31, 0, 31);
            m.codes[at] = (int8_t)limit;
            if (kinds[i].mask == SHOAL_CODES_ALL || kinds[i].mask == SHOAL_CODES_LEVELS) {
                m.c.kept = NULL;
            }
            pack(&m);
            if (limit > INT8_MIN && limit < INT8_MAX) {
                m.codes[at] = (int8_t)(end ? limit + 1 : limit - 1);
                expect_refused(&m, "row 1, column 255");
            }
        }
        fill(&m, i, &rng);
        m.scales[1] = i % 2 ? HALF_INFINITY : HALF_NAN;
        expect_refused(&m, "scale is not finite");
        fill(&m, i, &rng);
        m.c.k = K - 16;
        expect_refused(&m, "no type stores them");
        fill(&m, i, &rng);
        m.c.bits = 5;
        expect_refused(&m, "codes of 5 bits");
    }
}

static void test_two_of_four_and_no_more(void **state)
{
    (void)state;
    static matrix m;
    uint64_t rng = 11;
    for (unsigned mask = 0; mask < 16; mask++) {
        for (size_t i = 0; i < 4; i++) {
            bool with_kept = i % 2;
            fill(&m, i < 2 ? S4_128_AT : S8_128_AT, &rng);
            m.kept[0] = (uint8_t)((m.kept[0] & 0xF0) | mask);
            for (size_t j = 0; j < 4; j++) {
                m.codes[j] = (int8_t)(mask >> j & 1 ? (int)j - 7 : 0);
            }
            m.c.kept = with_kept ? m.kept : NULL;
            if (__builtin_popcount(mask) > 2) {
                expect_refused(&m, "row 0, column 0: more than two");
                continue;
            }
            pack(&m);
            int8_t codes[K];
            shoal_codes_unpack(m.type, m.blocks, K, codes, NULL, NULL);
            assert_memory_equal(codes, m.codes, K);
        }
    }
    fill(&m, S4_128_AT, &rng);
    m.kept[0] = 0;
    memset(m.codes, 0, 8);
    m.codes[5] = 1;
    expect_refused(&m, "row 0, column 5");
}

static void test_half_of_32_and_no_more(void **state)
{
    (void)state;
    static matrix m;
    uint64_t rng = 23;
    for (size_t i = 0; i < 12; i++) {
        const size_t kind = i % 2 ? B16_128_AT : B8_128_AT;
        const size_t n = room_of(kind) + i / 4 - 1;
        const bool with_kept = i / 2 % 2;
        fill(&m, kind, &rng);
        memset(m.kept + K / 8, 0, 4);
        memset(m.codes + K, 0, 32);
        for (size_t j = 0; j < n; j++) {
            m.kept[K / 8 + (31 - j) / 8] |= (uint8_t)(1u << (31 - j) % 8);
            m.codes[K + 31 - j] = (int8_t)(j % 2 ? 7 - (int)j % 7 : -8 + (int)j % 8);
        }
        m.c.kept = with_kept ? m.kept : NULL;
        if (n > room_of(kind)) {
            expect_refused(&m, kind == B16_128_AT ? "row 1, column 0: more than 16 of 32"
                                                  : "row 1, column 0: more than 8 of 32");
            continue;
        }
        pack(&m);
        int8_t codes[K];
        uint8_t kept[K / 8];
        shoal_codes_unpack(m.type, m.blocks + shoal_codes_row_bytes(m.type, K), K, codes, NULL,
                           kept);
        assert_memory_equal(codes, m.codes + K, K);
        assert_true(memcmp(kept, m.kept + K / 8, 4) == 0);
    }
}

/* Blocks that no writer makes. */
static void test_hostile_blocks_are_refused_by_row(void **state)
{
    (void)state;
    static matrix m;
    uint64_t rng = 13;
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        const size_t room = room_of(i);
        bool places = kinds[i].mask == SHOAL_CODES_TWO_FOUR;
        for (size_t attack = 0; attack < (places ? 4u : room ? 3u : 2u); attack++) {
            fill(&m, i, &rng);
            pack(&m);
            size_t row_bytes = shoal_codes_row_bytes(m.type, K);
            uint8_t *row = m.blocks + 2 * row_bytes;
            if (attack < 2) {
                uint16_t half = attack ? HALF_NAN : HALF_INFINITY;
                memcpy(row + row_bytes - (shoal_type_find((uint32_t)m.type)->block_bytes), &half,
                       2);
            } else if (room) {
                /* One more than there is room for, in the row's last bitmap. */
                uint32_t kept = (uint32_t)((1ull << (room + 1)) - 1) << 7;
                memcpy(row + row_bytes - 4 * (room / 8 + 1), &kept, 4);
            } else {
                /* The places of the last word's first values: equal, then falling. */
                uint8_t *word = row + row_bytes - 4;
                unsigned at = kinds[i].bits == 8 ? 6 : 3;
                unsigned keep = ~(3u << at);
                word[0] = (uint8_t)((word[0] & keep) | 2u << at);
                word[1] = (uint8_t)((word[1] & keep) | (attack == 2 ? 2u : 1u) << at);
            }
            const shoal_gguf_tensor t = {.name = {"a.weight", 8},
                                         .type = m.type,
                                         .n_dims = 2,
                                         .dims = {K, N_ROWS, 1, 1},
                                         .data = m.blocks,
                                         .size_bytes = N_ROWS * row_bytes};
            shoal_weight *w = NULL;
            shoal_err err = SHOAL_ERR_INIT;
            assert_int_equal(shoal_weight_new(&t, &w, &err), SHOAL_E_INVALID);
            assert_non_null(strstr(err.text, "a.weight: row 2"));
            assert_null(w);
        }
    }
}

/* --- encoding ------------------------------------------------------------------------------------
 */

static float normal(uint64_t *rng)
{
    const double turn = 6.283185307179586;
    return (float)(sqrt(-2 * log(test_open_unit(rng))) * cos(turn * test_open_unit(rng)));
}

static void test_encoding_keeps_the_two_largest_of_four(void **state)
{
    (void)state;
    uint64_t rng = 17;
    float x[K];
    float y[K];
    uint8_t blocks[K];
    for (size_t i = 0; i < K; i++) {
        x[i] = test_signed(&rng) + (i % 4 == 1 || i % 8 == 3 || i % 8 == 6 ? 3.0F : 0.0F);
    }
    assert_int_equal(shoal_weight_encode(SHOAL_TYPE_S4_64, x, K, blocks, NULL), SHOAL_OK);
    shoal_weight_decode(SHOAL_TYPE_S4_64, blocks, K, y);
    for (size_t i = 0; i < K; i++) {
        bool large = i % 4 == 1 || i % 8 == 3 || i % 8 == 6;
        assert_true(large ? fabsf(y[i] - x[i]) < 0.5F : y[i] == 0);
    }
}

/* Relative error on normal data, root of the mean square. Rounding to 3 bits by 128 costs what
 * theory says a uniform quantiser of 8 levels does, about 0.19. */
static void test_encoding_stays_in_its_budget(void **state)
{
    (void)state;
    static const struct {
        shoal_type type;
        double most;
    } rows[] = {
        {SHOAL_TYPE_C2_32, 0.40},  {SHOAL_TYPE_C2_64, 0.42},   {SHOAL_TYPE_C2_128, 0.45},
        {SHOAL_TYPE_C3_32, 0.18},  {SHOAL_TYPE_C3_64, 0.195},  {SHOAL_TYPE_C3_128, 0.21},
        {SHOAL_TYPE_C4_64, 0.10},  {SHOAL_TYPE_C4_128, 0.11},  {SHOAL_TYPE_S4_32, 0.40},
        {SHOAL_TYPE_S4_64, 0.405}, {SHOAL_TYPE_S4_128, 0.41},  {SHOAL_TYPE_N3_32, 0.18},
        {SHOAL_TYPE_N3_64, 0.195}, {SHOAL_TYPE_N3_128, 0.21},  {SHOAL_TYPE_N4_32, 0.10},
        {SHOAL_TYPE_N4_64, 0.10},  {SHOAL_TYPE_N4_128, 0.11},  {SHOAL_TYPE_S8_32, 0.38},
        {SHOAL_TYPE_S8_64, 0.38},  {SHOAL_TYPE_S8_128, 0.38},  {SHOAL_TYPE_B16_32, 0.30},
        {SHOAL_TYPE_B16_64, 0.30}, {SHOAL_TYPE_B16_128, 0.31}, {SHOAL_TYPE_B8_32, 0.56},
        {SHOAL_TYPE_B8_64, 0.56},  {SHOAL_TYPE_B8_128, 0.56},
    };
    enum {
        N = 128 * 256
    };
    static float x[N];
    static float y[N];
    static uint8_t blocks[N];
    uint64_t rng = 19;
    for (size_t i = 0; i < N; i++) {
        x[i] = normal(&rng);
    }
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        double error = 0;
        double size = 0;
        assert_int_equal(shoal_weight_encode(rows[i].type, x, N, blocks, NULL), SHOAL_OK);
        shoal_weight_decode(rows[i].type, blocks, N, y);
        for (size_t j = 0; j < N; j++) {
            error += ((double)x[j] - (double)y[j]) * ((double)x[j] - (double)y[j]);
            size += (double)x[j] * (double)x[j];
        }
        double relative = sqrt(error / size);
        if (!(relative <= rows[i].most && relative >= 0.7 * rows[i].most)) {
            fail_msg("%s: %.4f, budget %.4f", shoal_type_find((uint32_t)rows[i].type)->name,
                     relative, rows[i].most);
        }
    }
}

static void test_encoding_zeros_and_refusing_what_is_not_finite(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        float x[K] = {0};
        float y[K];
        uint8_t blocks[2 * K];
        shoal_type type = kinds[i].type;
        assert_int_equal(shoal_weight_encode(type, x, K, blocks, NULL), SHOAL_OK);
        shoal_weight_decode(type, blocks, K, y);
        for (size_t j = 0; j < K; j++) {
            assert_true(y[j] == 0);
        }
        x[K - 1] = 1e30F;
        assert_int_equal(shoal_weight_encode(type, x, K, blocks, NULL), SHOAL_E_INVALID);
        x[K - 1] = (float)NAN;
        assert_int_equal(shoal_weight_encode(type, x, K, blocks, NULL), SHOAL_E_INVALID);
        size_t part = kinds[i].group - 4;
        assert_int_equal(shoal_weight_encode(type, y, part, blocks, NULL), SHOAL_E_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_has_its_type),
        cmocka_unit_test(test_codes_come_back),
        cmocka_unit_test(test_values_are_scale_times_code),
        cmocka_unit_test(test_what_no_type_holds_is_refused),
        cmocka_unit_test(test_two_of_four_and_no_more),
        cmocka_unit_test(test_half_of_32_and_no_more),
        cmocka_unit_test(test_hostile_blocks_are_refused_by_row),
        cmocka_unit_test(test_encoding_keeps_the_two_largest_of_four),
        cmocka_unit_test(test_encoding_stays_in_its_budget),
        cmocka_unit_test(test_encoding_zeros_and_refusing_what_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
