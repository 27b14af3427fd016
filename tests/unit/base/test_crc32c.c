/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/crc32c.h"
#include "common/base/rng.h"

#include <string.h>

/* RFC 3720, appendix B.4. */
static void test_vectors_of_the_standard_match(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0};
    uint8_t ones[32];
    uint8_t up[32];
    memset(ones, 0xFF, sizeof ones);
    for (size_t i = 0; i < sizeof up; i++) {
        up[i] = (uint8_t)i;
    }
    assert_int_equal(shoal_crc32c(0, zeros, sizeof zeros), 0x8A9136AAu);
    assert_int_equal(shoal_crc32c(0, ones, sizeof ones), 0x62A8AB43u);
    assert_int_equal(shoal_crc32c(0, up, sizeof up), 0x46DD794Eu);
    assert_int_equal(shoal_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(shoal_crc32c(0, "", 0), 0);
}

static void test_any_split_and_both_ways_agree(void **state)
{
    (void)state;
    uint8_t bytes[203];
    uint64_t rng = 20261128;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)shoal_rng_next(&rng);
    }
    for (size_t n = 0; n <= sizeof bytes; n++) {
        uint32_t whole = shoal_crc32c(0, bytes, n);
        assert_int_equal(whole, shoal_crc32c_portable(0, bytes, n));
        size_t cut = n ? shoal_rng_next(&rng) % n : 0;
        assert_int_equal(shoal_crc32c(shoal_crc32c(0, bytes, cut), bytes + cut, n - cut), whole);
        assert_int_equal(
            shoal_crc32c_portable(shoal_crc32c_portable(0, bytes, cut), bytes + cut, n - cut),
            whole);
    }
}

static void test_one_flipped_bit_shows(void **state)
{
    (void)state;
    uint8_t bytes[64] = {1, 2, 3};
    uint32_t right = shoal_crc32c(0, bytes, sizeof bytes);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_not_equal(shoal_crc32c(0, bytes, sizeof bytes), right);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_of_the_standard_match),
        cmocka_unit_test(test_any_split_and_both_ways_agree),
        cmocka_unit_test(test_one_flipped_bit_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
