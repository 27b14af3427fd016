/* SPDX-License-Identifier: Apache-2.0
 *
 * What is told of single tokens: that some were said for want of the cloud.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "edge/http/api_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Tokens said for want of the cloud are told apart, and counted; the others are as they were. */
static void test_unassisted_tokens_are_told_apart(void **state)
{
    (void)state;
    static const char *const names[] = {
        [SHOAL_UNASSISTED_AWAY] = "away", [SHOAL_UNASSISTED_BUDGET] = "budget"};
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    for (int why = SHOAL_UNASSISTED_AWAY; why < SHOAL_UNASSISTED_KINDS; why++) {
        fake_next.unassisted = (shoal_unassisted)why;
        assert_int_equal(api_post(&a, "/v1/completions",
                                  "{\"prompt\":\"x\",\"max_tokens\":3,\"shoal\":{\"tokens\":true}}",
                                  &r),
                         200);
        json_t *j = api_body(&r);
        assert_null(api_at(j, "shoal.tokens.0.unassisted"));
        assert_string_equal(api_text_at(j, "shoal.tokens.1.unassisted"), names[why]);
        assert_string_equal(api_text_at(j, "shoal.tokens.2.unassisted"), names[why]);
        assert_string_equal(api_text_at(j, "shoal.tokens.2.tier"), "edge");
        assert_int_equal(json_integer_value(api_at(j, "usage.shoal.unassisted")), 2);
        json_decref(j);
    }
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unassisted_tokens_are_told_apart),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
