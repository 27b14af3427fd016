/* SPDX-License-Identifier: Apache-2.0
 *
 * What is told of single tokens: that some were said for want of the cloud, and where nothing is
 * told of their log-probabilities.
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

/* In every mode but LOCAL, asked for or the default: before anything is handed to the engine. */
static void test_logprobs_are_refused_where_two_models_speak(void **state)
{
    (void)state;
    static const char *const wishes[][2] = {
        {"/v1/completions", "\"prompt\":\"x\",\"logprobs\":0"},
        {"/v1/completions", "\"prompt\":\"x\",\"logprobs\":2,\"stream\":true"},
        {"/v1/chat/completions",
         "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"logprobs\":true"},
        {"/v1/chat/completions",
         "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"logprobs\":true,"
         "\"top_logprobs\":3,\"stream\":true"}};
    static const shoal_mode modes[] = {SHOAL_MODE_ASSIST, SHOAL_MODE_EXACT, SHOAL_MODE_CLOUD};
    for (size_t i = 0; i < SHOAL_COUNT(modes); i++) {
        const char *mode = shoal_mode_name(modes[i]);
        api_fixture a;
        shoal_api_settings s = api_test_settings();
        shoal_http_settings h = http_fixture_settings();
        s.mode_default = modes[i];
        api_start_with(&a, &s, &h);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
        for (size_t k = 0; k < 2 * SHOAL_COUNT(wishes); k++) {
            bool asked = k % 2 == 1;
            char body[300];
            char why[80];
            (void)snprintf(body, sizeof body, "{%s,\"shoal\":{%s%s%s\"degrade\":true}}",
                           wishes[k / 2][1], asked ? "\"mode\":\"" : "", asked ? mode : "",
                           asked ? "\"," : "");
            (void)snprintf(why, sizeof why, "mode \\\"%s\\\" was %s", mode,
                           asked ? "asked for" : "the default");
            assert_int_equal(api_post(&a, wishes[k / 2][0], body, &r), 400);
            assert_non_null(strstr(r.data, why));
            json_t *j = api_body(&r);
            assert_string_equal(api_text_at(j, "error.param"), "logprobs");
            assert_string_equal(api_text_at(j, "error.code"), "unsupported_value");
            json_decref(j);
        }
        assert_int_equal(atomic_load(&fake_n_submitted), 0);
        assert_int_equal(api_post(&a, "/v1/completions",
                                  "{\"prompt\":\"x\",\"logprobs\":null,\"echo\":true}", &r),
                         200);
        json_t *j = api_body(&r);
        assert_string_equal(api_text_at(j, "choices.0.text"), "xwwwww");
        json_decref(j);
        api_stop(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unassisted_tokens_are_told_apart),
        cmocka_unit_test(test_logprobs_are_refused_where_two_models_speak),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
