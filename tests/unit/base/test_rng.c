/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/base/rng.h"

/* The known answers that Random123 publishes for philox4x32 with ten rounds. */
static void test_philox_known_vectors_match(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4];
        uint32_t key[2];
        uint32_t expected[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX},
         {UINT32_MAX, UINT32_MAX},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < SHOAL_COUNT(vectors); i++) {
        uint32_t out[4] = {0};
        shoal_philox4x32_10(vectors[i].counter, vectors[i].key, out);
        assert_memory_equal(out, vectors[i].expected, sizeof out);
    }
}

static void test_philox_output_may_overwrite_the_counter(void **state)
{
    (void)state;
    uint32_t counter[4] = {1, 2, 3, 4};
    const uint32_t key[2] = {5, 6};
    uint32_t out[4] = {0};
    shoal_philox4x32_10(counter, key, out);
    shoal_philox4x32_10(counter, key, counter);
    assert_memory_equal(out, counter, sizeof out);
}

/* First outputs of SplitMix64 from seed 1234567, as Vigna's reference program prints them. */
static void test_splitmix_known_vectors_match(void **state)
{
    (void)state;
    static const uint64_t expected[] = {
        UINT64_C(6457827717110365317), UINT64_C(3203168211198807973), UINT64_C(9817491932198370423),
        UINT64_C(4593380528125082431), UINT64_C(16408922859458223821)};
    uint64_t seed = 1234567;
    for (size_t i = 0; i < SHOAL_COUNT(expected); i++) {
        assert_true(shoal_rng_next(&seed) == expected[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_vectors_match),
        cmocka_unit_test(test_philox_output_may_overwrite_the_counter),
        cmocka_unit_test(test_splitmix_known_vectors_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
