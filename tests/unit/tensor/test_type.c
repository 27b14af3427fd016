/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/base/rng.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

static float float_of(uint32_t bits)
{
    float x = 0.0f;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* How a list says a type: our own by their family, "C2" of C2_32. */
static const char *said_as(const shoal_type_info *info)
{
    static char family[8];
    size_t n = strcspn(info->name, "_");
    if (!shoal_type_is_own(info->type)) {
        return info->name;
    }
    assert_true(n < sizeof family);
    memcpy(family, info->name, n);
    family[n] = '\0';
    return family;
}

static void test_find_known_types_have_their_blocks(void **state)
{
    (void)state;
    const shoal_type_info want[] = {
        {SHOAL_TYPE_F32, "F32", 1, 4},
        {SHOAL_TYPE_F16, "F16", 1, 2},
        {SHOAL_TYPE_Q4_0, "Q4_0", 32, 18},
        {SHOAL_TYPE_Q4_1, "Q4_1", 32, 20},
        {SHOAL_TYPE_Q5_0, "Q5_0", 32, 22},
        {SHOAL_TYPE_Q5_1, "Q5_1", 32, 24},
        {SHOAL_TYPE_Q8_0, "Q8_0", 32, 34},
        {SHOAL_TYPE_Q2_K, "Q2_K", 256, 84},
        {SHOAL_TYPE_Q3_K, "Q3_K", 256, 110},
        {SHOAL_TYPE_Q4_K, "Q4_K", 256, 144},
        {SHOAL_TYPE_Q5_K, "Q5_K", 256, 176},
        {SHOAL_TYPE_Q6_K, "Q6_K", 256, 210},
        {SHOAL_TYPE_IQ4_NL, "IQ4_NL", 32, 18},
        {SHOAL_TYPE_I8, "I8", 1, 1},
        {SHOAL_TYPE_I32, "I32", 1, 4},
        {SHOAL_TYPE_BF16, "BF16", 1, 2},
        {SHOAL_TYPE_C2_32, "C2_32", 32, 10},
        {SHOAL_TYPE_C2_64, "C2_64", 64, 18},
        {SHOAL_TYPE_C2_128, "C2_128", 128, 34},
        {SHOAL_TYPE_C3_32, "C3_32", 32, 14},
        {SHOAL_TYPE_C3_64, "C3_64", 64, 26},
        {SHOAL_TYPE_C3_128, "C3_128", 128, 50},
        {SHOAL_TYPE_C4_64, "C4_64", 64, 34},
        {SHOAL_TYPE_C4_128, "C4_128", 128, 66},
        {SHOAL_TYPE_S4_32, "S4_32", 32, 14},
        {SHOAL_TYPE_S4_64, "S4_64", 64, 26},
        {SHOAL_TYPE_S4_128, "S4_128", 128, 50},
        {SHOAL_TYPE_N3_32, "N3_32", 32, 14},
        {SHOAL_TYPE_N3_64, "N3_64", 64, 26},
        {SHOAL_TYPE_N3_128, "N3_128", 128, 50},
        {SHOAL_TYPE_N4_32, "N4_32", 32, 18},
        {SHOAL_TYPE_N4_64, "N4_64", 64, 34},
        {SHOAL_TYPE_N4_128, "N4_128", 128, 66},
        {SHOAL_TYPE_S8_32, "S8_32", 32, 22},
        {SHOAL_TYPE_S8_64, "S8_64", 64, 42},
        {SHOAL_TYPE_S8_128, "S8_128", 128, 82},
        {SHOAL_TYPE_B16_32, "B16_32", 32, 14},
        {SHOAL_TYPE_B16_64, "B16_64", 64, 26},
        {SHOAL_TYPE_B16_128, "B16_128", 128, 50},
        {SHOAL_TYPE_B8_32, "B8_32", 32, 10},
        {SHOAL_TYPE_B8_64, "B8_64", 64, 18},
        {SHOAL_TYPE_B8_128, "B8_128", 128, 34},
    };
    /* both lists fit a line of an error, with an option and a name before them */
    assert_true(strlen(shoal_type_own_names()) + strlen(shoal_type_names()) <
                SHOAL_ERR_TEXT_MAX - 64);
    size_t n_found = 0;
    for (uint32_t t = 0; t < 300; t++) {
        n_found += shoal_type_find(t) != NULL;
    }
    assert_int_equal(n_found, SHOAL_COUNT(want));
    assert_null(shoal_type_find(UINT32_MAX));
    for (size_t i = 0; i < SHOAL_COUNT(want); i++) {
        const shoal_type_info *info = shoal_type_find((uint32_t)want[i].type);
        assert_non_null(info);
        assert_string_equal(info->name, want[i].name);
        assert_int_equal(info->block, want[i].block);
        assert_int_equal(info->block_bytes, want[i].block_bytes);
        assert_ptr_equal(shoal_type_find_name(want[i].name), info);
        bool own = shoal_type_is_own(info->type);
        assert_int_equal(own, want[i].type >= SHOAL_TYPE_C2_32);
        assert_true(info->type < SHOAL_TYPES_END);
        assert_non_null(strstr(own ? shoal_type_own_names() : shoal_type_names(), said_as(info)));
    }
    assert_ptr_equal(shoal_type_find_name("q4_0"), shoal_type_find(SHOAL_TYPE_Q4_0));
    assert_ptr_equal(shoal_type_find_name("q4_k"), shoal_type_find(12));
    assert_null(shoal_type_find_name("Q4_00"));
    assert_null(shoal_type_find_name(""));
}

/* The value of a half by its definition, in double. */
static double half_value(uint32_t half)
{
    double sign = half & 0x8000u ? -1.0 : 1.0;
    int exponent = (int)(half >> 10 & 31u);
    double mantissa = (double)(half & 0x3ffu);
    if (exponent == 0) {
        return sign * ldexp(mantissa, -24);
    }
    return sign * ldexp(1024.0 + mantissa, exponent - 25);
}

static void test_f16_all_halves_match_the_definition_and_come_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = shoal_f16_to_f32((uint16_t)h);
        if ((h & 0x7c00u) != 0x7c00u) {
            assert_true((double)x == half_value(h));
            assert_int_equal(signbit(x) != 0, h >> 15);
            assert_int_equal(shoal_f32_to_f16(x), h);
        } else if ((h & 0x3ffu) == 0) {
            assert_true(isinf(x) && (signbit(x) != 0) == (h >> 15 != 0));
            assert_int_equal(shoal_f32_to_f16(x), h);
        } else {
            assert_true(isnan(x));
            assert_true(isnan(shoal_f16_to_f32(shoal_f32_to_f16(x))));
        }
    }
}

/* Between two neighbours: below the middle down, above it up, at it to the even one. */
static void test_f16_rounding_is_to_nearest_even_everywhere(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = shoal_f16_to_f32((uint16_t)h);
        float high = h == 0x7bff ? 65536.0f : shoal_f16_to_f32((uint16_t)(h + 1));
        float middle = low + (high - low) / 2.0f;
        uint32_t even = h + (h & 1u);
        assert_int_equal(shoal_f32_to_f16(middle), even);
        assert_int_equal(shoal_f32_to_f16(-middle), even | 0x8000u);
        assert_int_equal(shoal_f32_to_f16(nextafterf(middle, 0.0f)), h);
        assert_int_equal(shoal_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(shoal_f32_to_f16(3.0e38f), 0x7c00);
    assert_int_equal(shoal_f32_to_f16(-3.0e38f), 0xfc00);
    assert_int_equal(shoal_f32_to_f16(float_of(1)), 0);
}

static void test_bf16_all_values_come_back_and_rounding_is_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = shoal_bf16_to_f32((uint16_t)h);
        if (isnan(x)) {
            assert_true(isnan(shoal_bf16_to_f32(shoal_f32_to_bf16(x))));
            continue;
        }
        assert_int_equal(shoal_f32_to_bf16(x), h);
        if (isinf(x)) {
            continue;
        }
        uint32_t bits = h << 16;
        assert_int_equal(shoal_f32_to_bf16(float_of(bits | 0x7fffu)), h);
        assert_int_equal(shoal_f32_to_bf16(float_of(bits | 0x8000u)), h + (h & 1u));
        assert_int_equal(shoal_f32_to_bf16(float_of(bits | 0x8001u)), h + 1);
    }
    /* A NaN whose payload lies only in the bits that go away stays a NaN. */
    assert_true(isnan(shoal_bf16_to_f32(shoal_f32_to_bf16(float_of(0x7f800001u)))));
    assert_true(isnan(shoal_f16_to_f32(shoal_f32_to_f16(float_of(0x7f800001u)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_known_types_have_their_blocks),
        cmocka_unit_test(test_f16_all_halves_match_the_definition_and_come_back),
        cmocka_unit_test(test_f16_rounding_is_to_nearest_even_everywhere),
        cmocka_unit_test(test_bf16_all_values_come_back_and_rounding_is_to_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
