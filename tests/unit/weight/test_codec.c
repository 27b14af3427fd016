/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows between floats and the GGUF block layout, against the published rounding written down here
 * a second time, and against bytes worked out by hand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const shoal_type types[] = {SHOAL_TYPE_F32, SHOAL_TYPE_F16, SHOAL_TYPE_BF16, SHOAL_TYPE_Q8_0,
                                   SHOAL_TYPE_Q4_0};

static uint16_t half_at(const uint8_t *p)
{
    uint16_t half = 0;
    memcpy(&half, p, sizeof(half));
    return half;
}

static void test_q8_0_block_is_scale_then_codes(void **state)
{
    (void)state;
    float x[32] = {0};
    uint8_t block[34];
    /* amax 127: the scale is 1, so codes are the values, halves away from zero. */
    x[0] = 127.0f;
    x[1] = -127.0f;
    x[2] = 0.5f;
    x[3] = -0.5f;
    x[4] = 2.49f;
    x[31] = -3.0f;
    assert_int_equal(shoal_weight_encode(SHOAL_TYPE_Q8_0, x, 32, block, NULL), SHOAL_OK);
    const int8_t want[] = {127, -127, 1, -1, 2};
    assert_int_equal(half_at(block), 0x3c00);
    assert_memory_equal(block + 2, want, sizeof(want));
    assert_int_equal((int8_t)block[33], -3);
}

static void test_q4_0_block_pairs_element_j_with_j_plus_16(void **state)
{
    (void)state;
    float x[32] = {0};
    uint8_t block[18];
    /* The extreme is -8: the scale is 1 and its code 0. */
    x[0] = -8.0f;
    x[16] = 7.0f;
    x[1] = 1.4f;
    x[17] = -1.6f;
    assert_int_equal(shoal_weight_encode(SHOAL_TYPE_Q4_0, x, 32, block, NULL), SHOAL_OK);
    assert_int_equal(half_at(block), 0x3c00);
    assert_int_equal(block[2], 0xf0);
    assert_int_equal(block[3], 0x69);
    assert_int_equal(block[4], 0x88);
    /* A positive extreme makes the scale negative, and its opposite is cut at 15. */
    for (size_t i = 0; i < 32; i++) {
        x[i] = -x[i];
    }
    x[16] = -8.0f;
    assert_int_equal(shoal_weight_encode(SHOAL_TYPE_Q4_0, x, 32, block, NULL), SHOAL_OK);
    assert_int_equal(half_at(block), 0xbc00);
    assert_int_equal(block[2], 0xf0);
}

/* The reference rounding, from the definition of each type. */
static void reference_q8_0(const float *x, uint8_t *block)
{
    float amax = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    const float d = amax / 127.0f;
    const float id = d != 0.0f ? 1.0f / d : 0.0f;
    uint16_t half = shoal_f32_to_f16(d);
    memcpy(block, &half, 2);
    for (size_t i = 0; i < 32; i++) {
        int8_t code = (int8_t)roundf(x[i] * id);
        memcpy(block + 2 + i, &code, 1);
    }
}

static unsigned code_q4_0(float x, float id)
{
    int code = (int)(x * id + 8.5f);
    return (unsigned)(code < 15 ? code : 15);
}

static void reference_q4_0(const float *x, uint8_t *block)
{
    float max = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        max = fabsf(x[i]) > fabsf(max) ? x[i] : max;
    }
    const float d = max / -8.0f;
    const float id = d != 0.0f ? 1.0f / d : 0.0f;
    uint16_t half = shoal_f32_to_f16(d);
    memcpy(block, &half, 2);
    for (size_t j = 0; j < 16; j++) {
        block[2 + j] = (uint8_t)(code_q4_0(x[j], id) | code_q4_0(x[j + 16], id) << 4);
    }
}

static void test_encode_matches_the_reference_rounding(void **state)
{
    (void)state;
    uint64_t rng = 5;
    for (size_t round = 0; round < 5000; round++) {
        float x[32];
        uint8_t got[34];
        uint8_t want[34];
        float scale = ldexpf(1.0f, (int)(shoal_rng_next(&rng) % 40) - 30);
        for (size_t i = 0; i < 32; i++) {
            x[i] = round % 7 == 0 ? rintf(test_signed(&rng) * 4.0f) : test_signed(&rng) * scale;
        }
        assert_int_equal(shoal_weight_encode(SHOAL_TYPE_Q8_0, x, 32, got, NULL), SHOAL_OK);
        reference_q8_0(x, want);
        assert_memory_equal(got, want, 34);
        assert_int_equal(shoal_weight_encode(SHOAL_TYPE_Q4_0, x, 32, got, NULL), SHOAL_OK);
        reference_q4_0(x, want);
        assert_memory_equal(got, want, 18);
    }
}

static void test_decode_of_encode_stays_within_half_a_step(void **state)
{
    (void)state;
    enum {
        N = 256
    };
    uint64_t rng = 6;
    float x[N];
    float y[N];
    uint8_t blocks[N * 4];
    for (size_t i = 0; i < N; i++) {
        x[i] = test_signed(&rng);
    }
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        /* Half a step of each type for |x| <= 1; Q4_0 cuts the value opposite to its extreme, a
         * whole step; the f16 scale adds 2^-11. */
        const double steps[] = {0.0, 0x1p-12, 0x1p-9, 0.5 / 127.0 + 0x1p-11, 1.0 / 8.0 + 0x1p-10};
        assert_int_equal(shoal_weight_encode(types[t], x, N, blocks, NULL), SHOAL_OK);
        shoal_weight_decode(types[t], blocks, N, y);
        for (size_t i = 0; i < N; i++) {
            assert_true(fabs((double)y[i] - (double)x[i]) <= steps[t]);
        }
    }
}

static void test_encode_zeros_and_subnormals_give_zeros(void **state)
{
    (void)state;
    float x[32] = {0};
    float y[32];
    uint8_t block[34];
    const float tiny[] = {0.0f, -0.0f, 1e-45f, -1e-40f, FLT_MIN};
    for (size_t v = 0; v < SHOAL_COUNT(tiny); v++) {
        for (size_t i = 0; i < 32; i += 3) {
            x[i] = tiny[v];
        }
        for (size_t t = 3; t < SHOAL_COUNT(types); t++) {
            assert_int_equal(shoal_weight_encode(types[t], x, 32, block, NULL), SHOAL_OK);
            shoal_weight_decode(types[t], block, 32, y);
            for (size_t i = 0; i < 32; i++) {
                assert_true(y[i] == 0.0f);
            }
        }
    }
}

static void test_encode_refuses_what_cannot_be_said(void **state)
{
    (void)state;
    float x[64] = {0};
    uint8_t blocks[256];
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        for (size_t v = 0; v < SHOAL_COUNT(bad); v++) {
            shoal_err err = SHOAL_ERR_INIT;
            x[37] = bad[v];
            assert_int_equal(shoal_weight_encode(types[t], x, 64, blocks, &err), SHOAL_E_INVALID);
            assert_int_not_equal(err.text[0], 0);
        }
        /* Finite, but beyond what the type or its f16 scale holds. */
        shoal_err err = SHOAL_ERR_INIT;
        x[37] = FLT_MAX;
        assert_int_equal(shoal_weight_encode(types[t], x, 64, blocks, &err),
                         types[t] == SHOAL_TYPE_F32 ? SHOAL_OK : SHOAL_E_INVALID);
        x[37] = 65504.0f;
        assert_int_equal(shoal_weight_encode(types[t], x, 64, blocks, NULL), SHOAL_OK);
        x[37] = 0.0f;
        assert_int_equal(shoal_weight_encode(types[t], x, 33, blocks, NULL),
                         t < 3 ? SHOAL_OK : SHOAL_E_INVALID);
    }
    assert_int_equal(shoal_weight_encode((shoal_type)4, x, 32, blocks, NULL), SHOAL_E_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_q8_0_block_is_scale_then_codes),
        cmocka_unit_test(test_q4_0_block_pairs_element_j_with_j_plus_16),
        cmocka_unit_test(test_encode_matches_the_reference_rounding),
        cmocka_unit_test(test_decode_of_encode_stays_within_half_a_step),
        cmocka_unit_test(test_encode_zeros_and_subnormals_give_zeros),
        cmocka_unit_test(test_encode_refuses_what_cannot_be_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
