/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/err.h"

#include <string.h>

static void test_set_first_error_wins_until_cleared(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_err_set(&err, SHOAL_E_IO, "%s %d", "first", 1), SHOAL_E_IO);
    int line = err.line;
    assert_int_equal(shoal_err_set(&err, SHOAL_E_LIMIT, "second"), SHOAL_E_LIMIT);
    assert_int_equal(err.code, SHOAL_E_IO);
    assert_string_equal(err.text, "first 1");
    assert_int_equal(err.line, line);
    assert_non_null(strstr(err.file, "test_err.c"));
    shoal_err_clear(&err);
    assert_int_equal(err.code, SHOAL_OK);
    assert_string_equal(err.text, "");
}

static void test_null_error_is_accepted_everywhere(void **state)
{
    (void)state;
    assert_int_equal(shoal_err_set(NULL, SHOAL_E_IO, "x"), SHOAL_E_IO);
    shoal_err_prefix(NULL, "x");
    shoal_err_clear(NULL);
}

static void test_set_long_text_is_cut_at_255_bytes(void **state)
{
    (void)state;
    for (int n = 254; n <= 257; n++) {
        shoal_err err = SHOAL_ERR_INIT;
        (void)shoal_err_set(&err, SHOAL_E_IO, "%0*d", n, 0);
        assert_int_equal(strlen(err.text), n < 255 ? n : 255);
    }
}

static void test_text_is_one_line_whatever_it_quotes(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    (void)shoal_err_set(&err, SHOAL_E_INVALID, "key \"%s\"", "a\n\x1b[2J\x7f\x1f ~\xc3\xa9");
    assert_string_equal(err.text, "key \"a??[2J?? ~\xc3\xa9\"");
    shoal_err_prefix(&err, "%s", "file\r\n");
    assert_string_equal(err.text, "file??: key \"a??[2J?? ~\xc3\xa9\"");
}

static void test_prefix_goes_before_what_is_set(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_err_prefix(&err, "nothing");
    assert_string_equal(err.text, "");
    (void)shoal_err_set(&err, SHOAL_E_IO, "text");
    shoal_err_prefix(&err, "file %d", 3);
    assert_string_equal(err.text, "file 3: text");
}

static void test_prefix_of_any_length_stays_in_bounds(void **state)
{
    (void)state;
    for (int n = 1; n < 300; n++) {
        shoal_err err = SHOAL_ERR_INIT;
        (void)shoal_err_set(&err, SHOAL_E_IO, "%0200d", 0);
        shoal_err_prefix(&err, "%0*d", n, 1);
        size_t length = strlen(err.text);
        assert_true(length < SHOAL_ERR_TEXT_MAX);
        assert_true(length >= 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_first_error_wins_until_cleared),
        cmocka_unit_test(test_null_error_is_accepted_everywhere),
        cmocka_unit_test(test_set_long_text_is_cut_at_255_bytes),
        cmocka_unit_test(test_text_is_one_line_whatever_it_quotes),
        cmocka_unit_test(test_prefix_goes_before_what_is_set),
        cmocka_unit_test(test_prefix_of_any_length_stays_in_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
