/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/base/utf8.h"

#include <string.h>

static size_t encode(uint32_t code, unsigned char out[4])
{
    if (code < 0x80) {
        out[0] = (unsigned char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (unsigned char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (unsigned char)((0xF00u >> n & 0xFF) | code);
    return n;
}

static void test_every_scalar_value_is_read_back(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        unsigned char bytes[4];
        uint32_t back = UINT32_MAX;
        size_t n = encode(code, bytes);
        bool surrogate = code >= 0xD800 && code <= 0xDFFF;
        size_t step = shoal_utf8_step(bytes, n, &back);
        if (step != (surrogate ? 0 : n) || (!surrogate && back != code)) {
            fail_msg("U+%04X", (unsigned)code);
        }
        if (n > 1 && shoal_utf8_step(bytes, n - 1, NULL) != 0) {
            fail_msg("U+%04X cut short", (unsigned)code);
        }
    }
}

static void test_malformed_sequences_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "\x80",
        "\xBF",
        "\xC0\x80",
        "\xC1\xBF",
        "\xC2",
        "\xC2\x20",
        "\xE0\x9F\xBF",
        "\xE0\xA0",
        "\xED\xA0\x80",
        "\xEF\xBF\x20",
        "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xFE",
        "\xFF",
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        assert_int_equal(shoal_utf8_step(cases[i], strlen(cases[i]), NULL), 0);
        assert_false(shoal_utf8_valid(cases[i], strlen(cases[i])));
    }
    assert_int_equal(shoal_utf8_step("a", 0, NULL), 0);
    assert_true(shoal_utf8_valid("", 0));
    assert_true(shoal_utf8_valid("gr\xC3\xBC\xC3\x9F\0x", 8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_scalar_value_is_read_back),
        cmocka_unit_test(test_malformed_sequences_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
