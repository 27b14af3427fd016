/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/exit/exit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool leaves(const shoal_exit_policy *p, float top, float gap, float entropy)
{
    const shoal_exit_features f = {
        .sound = true, .top = top, .gap = gap, .entropy = entropy, .depth = 0.5F};
    return shoal_exit_decide(p, NULL, &f);
}

static void test_decide_at_the_threshold_and_one_ulp_beside(void **state)
{
    (void)state;
    static const float at[] = {0.0F, 1e-20F, 0.25F, 0.7F, 0.99999994F, 1.0F};
    for (size_t i = 0; i < SHOAL_COUNT(at); i++) {
        float t = at[i];
        float below = nextafterf(t, -1);
        float above = nextafterf(t, 2);
        const shoal_exit_policy fixed = {.kind = SHOAL_EXIT_FIXED, .threshold = t};
        const shoal_exit_policy risk = {.kind = SHOAL_EXIT_RISK, .threshold = t};
        const shoal_exit_policy margin = {.kind = SHOAL_EXIT_MARGIN, .threshold = t};
        const shoal_exit_policy entropy = {.kind = SHOAL_EXIT_ENTROPY, .threshold = t};
        assert_true(leaves(&fixed, t, 0, NAN) && leaves(&fixed, above, 0, NAN));
        assert_false(leaves(&fixed, below, 1, 0));
        assert_true(leaves(&risk, t, 0, NAN) && leaves(&risk, above, 0, NAN));
        assert_false(leaves(&risk, below, 1, 0));
        assert_true(leaves(&margin, 0, t, NAN) && leaves(&margin, 0, above, NAN));
        assert_false(leaves(&margin, 1, below, 0));
        assert_true(leaves(&entropy, 0, 0, t) && leaves(&entropy, 0, 0, below));
        assert_false(leaves(&entropy, 1, 1, above));
        assert_false(leaves(&entropy, 1, 1, NAN)); /* not measured */
    }
}

static void test_never_means_never(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        shoal_exit_policy p = {.kind = (shoal_exit_kind)kind, .threshold = SHOAL_EXIT_NEVER};
        if (kind == SHOAL_EXIT_ENTROPY) {
            p.threshold = SHOAL_EXIT_NEVER_ENTROPY;
        }
        p.bias = 1e6F; /* of LINEAR: as sure as it gets */
        if (kind != SHOAL_EXIT_PERCENTILE) {
            assert_false(leaves(&p, 1, 1, 0));
        }
    }
}

static void test_rows_that_are_not_sound_stay(void **state)
{
    (void)state;
    const shoal_exit_features f = {.sound = false, .top = 1, .gap = 1, .entropy = 0, .depth = 1};
    shoal_exit_state s;
    memset(&s, 0, sizeof s);
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        const shoal_exit_policy p = {.kind = (shoal_exit_kind)kind, .rate = 1, .window = 16};
        for (size_t i = 0; i < 64; i++) {
            assert_false(shoal_exit_decide(&p, &s, &f));
        }
    }
}

static void test_linear_is_a_sigmoid_of_its_features(void **state)
{
    (void)state;
    const shoal_exit_policy p = {.kind = SHOAL_EXIT_LINEAR,
                                 .bias = -2,
                                 .w_top = 3,
                                 .w_gap = 1,
                                 .w_depth = 0.5F,
                                 .threshold = 0.5F};
    const shoal_exit_features f = {.sound = true, .top = 0.5F, .gap = 0.25F, .depth = 0.5F};
    float want = 1 / (1 + expf(-(-2 + 1.5F + 0.25F + 0.25F)));
    assert_true(fabsf(shoal_exit_score(&p, &f) - want) < 1e-6F);
    assert_true(shoal_exit_decide(&p, NULL, &f)); /* exactly on the line */
    shoal_exit_policy far = p;
    far.bias = -1e6F;
    assert_true(shoal_exit_score(&far, &f) == 0.0F);
    far.bias = 1e6F;
    assert_true(shoal_exit_score(&far, &f) == 1.0F);
}

static void test_text_gives_every_number_back(void **state)
{
    (void)state;
    static const shoal_exit_policy all[] = {
        {.kind = SHOAL_EXIT_FIXED, .threshold = 0.1F},
        {.kind = SHOAL_EXIT_FIXED, .threshold = SHOAL_EXIT_NEVER},
        {.kind = SHOAL_EXIT_MARGIN, .threshold = 0.99999994F},
        {.kind = SHOAL_EXIT_ENTROPY, .threshold = SHOAL_EXIT_NEVER_ENTROPY},
        {.kind = SHOAL_EXIT_LINEAR,
         .threshold = 1.0F / 3,
         .bias = -123456.789F,
         .w_top = 1e-30F,
         .w_gap = -1.0F / 7,
         .w_depth = 999999.9F},
        {.kind = SHOAL_EXIT_PERCENTILE, .threshold = 0.3F, .rate = 0.7F, .window = 1024},
        {.kind = SHOAL_EXIT_RISK, .threshold = 0.5F, .risk = 1e-6F, .delta = 0.05F}};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        char text[SHOAL_EXIT_TEXT_MAX];
        shoal_exit_policy back;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_exit_policy_check(&all[i], NULL), SHOAL_OK);
        shoal_exit_policy_print(&all[i], text);
        if (shoal_exit_policy_parse(text, &back, &err) != SHOAL_OK) {
            fail_msg("%s: %s", text, err.text);
        }
        assert_memory_equal(&back, &all[i], sizeof back);
    }
}

static void test_parse_fills_in_defaults(void **state)
{
    (void)state;
    shoal_exit_policy p;
    assert_int_equal(shoal_exit_policy_parse("percentile:rate=0.5", &p, NULL), SHOAL_OK);
    assert_int_equal(p.window, 512);
    assert_true(p.threshold == 0.9F);
}

static void test_parse_refuses_and_names_what(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *named;
    } bad[] = {
        {"", "known are"},
        {"fixe:threshold=1", "known are"},
        {"fixedd", "known are"},
        {"fixed", "threshold=NUMBER is missing"},
        {"fixed:", "threshold=NUMBER is missing"},
        {"fixed:threshold", "no key"},
        {"fixed:threshold=", "threshold"},
        {"fixed:threshold=x", "threshold"},
        {"fixed:threshold=0.5x", "threshold"},
        {"fixed:threshold=nan", "threshold"},
        {"fixed:threshold=inf", "threshold"},
        {"fixed:threshold=-1e-9", "threshold"},
        {"fixed:threshold=2.0000003", "threshold"},
        {"fixed:threshold=0.5,", "comma"},
        {"fixed:threshold=0.5,threshold=0.5", "once"},
        {"fixed:threshold=0.5,rate=0.5", "no key"},
        {"entropy:threshold=-1.1", "threshold"},
        {"entropy:threshold=64.1", "threshold"},
        {"percentile:rate=1.1", "rate"},
        {"percentile:rate=0.5,window=15", "window"},
        {"percentile:rate=0.5,window=1025", "window"},
        {"percentile:rate=0.5,window=16.5", "window"},
        {"risk:threshold=0.5,risk=0.01", "delta=NUMBER is missing"},
        {"risk:threshold=0.5,risk=0,delta=0.1", "risk"},
        {"risk:threshold=0.5,risk=0.51,delta=0.1", "risk"},
        {"linear:threshold=0.5,bias=1e7,top=0,gap=0", "bias"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_exit_policy p;
        shoal_err err = SHOAL_ERR_INIT;
        if (shoal_exit_policy_parse(bad[i].text, &p, &err) >= 0) {
            fail_msg("\"%s\" was accepted", bad[i].text);
        }
        if (!strstr(err.text, bad[i].named)) {
            fail_msg("\"%s\" does not name %s", err.text, bad[i].named);
        }
    }
    char text[SHOAL_EXIT_TEXT_MAX + 8] = "fixed:threshold=0.";
    for (size_t n = SHOAL_EXIT_TEXT_MAX - 1; n <= SHOAL_EXIT_TEXT_MAX + 1; n++) {
        shoal_exit_policy p;
        memset(text + 18, '1', n - 18);
        text[n] = 0;
        assert_int_equal(shoal_exit_policy_parse(text, &p, NULL),
                         n < SHOAL_EXIT_TEXT_MAX ? SHOAL_OK : SHOAL_E_LIMIT);
    }
}

static void test_check_refuses_numbers_that_are_not_finite(void **state)
{
    (void)state;
    shoal_exit_policy p = {.kind = SHOAL_EXIT_LINEAR, .w_gap = NAN};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_exit_policy_check(&p, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "gap"));
    p.kind = SHOAL_EXIT_FIXED; /* which has no such number */
    assert_int_equal(shoal_exit_policy_check(&p, NULL), SHOAL_OK);
}

static void test_kinds_have_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_EXIT_KINDS; i++) {
        shoal_exit_kind kind = SHOAL_EXIT_KINDS;
        assert_int_equal(shoal_exit_kind_parse(shoal_exit_kind_name((shoal_exit_kind)i), &kind),
                         SHOAL_OK);
        assert_int_equal(kind, i);
    }
    shoal_exit_kind kind = SHOAL_EXIT_KINDS;
    assert_int_equal(shoal_exit_kind_parse("all", &kind), SHOAL_E_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decide_at_the_threshold_and_one_ulp_beside),
        cmocka_unit_test(test_never_means_never),
        cmocka_unit_test(test_rows_that_are_not_sound_stay),
        cmocka_unit_test(test_linear_is_a_sigmoid_of_its_features),
        cmocka_unit_test(test_text_gives_every_number_back),
        cmocka_unit_test(test_parse_fills_in_defaults),
        cmocka_unit_test(test_parse_refuses_and_names_what),
        cmocka_unit_test(test_check_refuses_numbers_that_are_not_finite),
        cmocka_unit_test(test_kinds_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
