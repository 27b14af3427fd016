/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"

#include <string.h>

static void test_every_code_has_its_own_text(void **state)
{
    (void)state;
    static const struct {
        shoal_status code;
        const char *text;
    } list[] = {
#define X(name, value, text) {name, text},
        SHOAL_STATUS_LIST(X)
#undef X
    };
    for (size_t i = 0; i < SHOAL_COUNT(list); i++) {
        assert_string_equal(shoal_status_text(list[i].code), list[i].text);
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(list[i].code, list[j].code);
            assert_string_not_equal(list[i].text, list[j].text);
        }
    }
}

static void test_code_outside_the_list_has_a_text(void **state)
{
    (void)state;
    assert_string_equal(shoal_status_text(-1000), "unknown status");
    assert_string_equal(shoal_status_text(1000), "unknown status");
}

static shoal_status pass(shoal_status status, int *reached)
{
    SHOAL_TRY(status);
    *reached = 1;
    return SHOAL_OK;
}

static void test_try_returns_failures_and_outcomes(void **state)
{
    (void)state;
    int reached = 0;
    assert_int_equal(pass(SHOAL_E_IO, &reached), SHOAL_E_IO);
    assert_int_equal(pass(SHOAL_MORE, &reached), SHOAL_MORE);
    assert_int_equal(reached, 0);
    assert_int_equal(pass(SHOAL_OK, &reached), SHOAL_OK);
    assert_int_equal(reached, 1);
}

static void test_steal_leaves_null_behind(void **state)
{
    (void)state;
    int x = 0;
    int *p = &x;
    int *q = SHOAL_STEAL(p);
    assert_null(p);
    assert_ptr_equal(q, &x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_has_its_own_text),
        cmocka_unit_test(test_code_outside_the_list_has_a_text),
        cmocka_unit_test(test_try_returns_failures_and_outcomes),
        cmocka_unit_test(test_steal_leaves_null_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
