/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules of exits: what is chosen from a file's policies, from numbers, from nothing, and what is
 * refused; and the shipped edge model's own.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/engine/rules.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static shoal_exit_rule rules[SHOAL_MODEL_EXITS_MAX];

/* Two exits; the second alone has a percentile. */
static shoal_exit_fitted sample(void)
{
    shoal_exit_fitted f = {.n_exits = 2, .calibrated = true, .fits = true};
    for (size_t i = 0; i < 2; i++) {
        f.sets[i].has[SHOAL_EXIT_RISK] = true;
        f.sets[i].policies[SHOAL_EXIT_RISK] =
            (shoal_exit_policy){.kind = SHOAL_EXIT_RISK,
                                .threshold = 0.5F + 0.1F * (float)i,
                                .risk = 0.01F,
                                .delta = 0.05F};
    }
    f.sets[1].has[SHOAL_EXIT_PERCENTILE] = true;
    f.sets[1].policies[SHOAL_EXIT_PERCENTILE] =
        (shoal_exit_policy){.kind = SHOAL_EXIT_PERCENTILE, .rate = 0.5F, .window = 64};
    return f;
}

static void refuse(const shoal_exit_fitted *f, const char *name, float threshold,
                   shoal_status status, const char *named)
{
    shoal_err err = SHOAL_ERR_INIT;
    memset(rules, 0, sizeof rules);
    assert_int_equal(shoal_exit_rules_choose(f, name, threshold, rules, &err), status);
    if (!strstr(err.text, named)) {
        fail_msg("\"%s\" does not name %s", err.text, named);
    }
    assert_false(shoal_exit_rules_any(rules, 2));
}

static void test_rules_of_a_kind_are_the_fitted_ones(void **state)
{
    (void)state;
    shoal_exit_fitted f = sample();
    assert_int_equal(shoal_exit_rules_choose(&f, "risk", (float)NAN, rules, NULL), SHOAL_OK);
    assert_true(rules[0].on && rules[1].on);
    assert_memory_equal(&rules[1].policy, &f.sets[1].policies[SHOAL_EXIT_RISK],
                        sizeof rules[1].policy);
    assert_int_equal(shoal_exit_rules_choose(&f, "percentile", (float)NAN, rules, NULL), SHOAL_OK);
    assert_true(!rules[0].on && rules[1].on);
    assert_int_equal(shoal_exit_rules_choose(&f, "off", (float)NAN, rules, NULL), SHOAL_OK);
    assert_false(shoal_exit_rules_any(rules, 2));
}

static void test_rules_with_a_threshold_compare_with_it(void **state)
{
    (void)state;
    shoal_exit_fitted f = sample();
    static const char *const bare[] = {"fixed", "margin", "entropy"};
    for (size_t i = 0; i < SHOAL_COUNT(bare); i++) {
        assert_int_equal(shoal_exit_rules_choose(&f, bare[i], 0.25F, rules, NULL), SHOAL_OK);
        assert_true(rules[0].on && rules[1].on);
        assert_string_equal(shoal_exit_kind_name(rules[0].policy.kind), bare[i]);
        assert_true(rules[1].policy.threshold == 0.25F);
    }
    assert_int_equal(shoal_exit_rules_choose(&f, "risk", 0.75F, rules, NULL), SHOAL_OK);
    assert_true(rules[0].policy.threshold == 0.75F && rules[0].policy.risk == 0.01F);
    assert_int_equal(shoal_exit_rules_choose(&f, "margin:threshold=0.5", (float)NAN, rules, NULL),
                     SHOAL_OK);
    assert_true(rules[0].on && rules[0].policy.kind == SHOAL_EXIT_MARGIN);
    /* What a threshold may be: 2 is the greatest. */
    assert_int_equal(shoal_exit_rules_choose(&f, "fixed", 2, rules, NULL), SHOAL_OK);
    refuse(&f, "fixed", 2.001F, SHOAL_E_INVALID, "threshold");
}

static void test_rules_that_cannot_be_are_refused_by_name(void **state)
{
    (void)state;
    shoal_exit_fitted f = sample();
    refuse(&f, "linear", (float)NAN, SHOAL_E_NOTFOUND, "linear");
    refuse(&f, "fixed", (float)NAN, SHOAL_E_NOTFOUND, "threshold");
    refuse(&f, "sometimes", (float)NAN, SHOAL_E_INVALID, "sometimes");
    refuse(&f, "", (float)NAN, SHOAL_E_INVALID, "known are");
    refuse(&f, "fixed:threshold=7", (float)NAN, SHOAL_E_INVALID, "threshold");
    f.fits = false;
    refuse(&f, "risk", (float)NAN, SHOAL_E_MISMATCH, "calibrate");
    assert_int_equal(shoal_exit_rules_choose(&f, "fixed", 0.9F, rules, NULL), SHOAL_OK);
    f.n_exits = 0;
    refuse(&f, "risk", (float)NAN, SHOAL_E_UNSUPPORTED, "no exits");
    assert_int_equal(shoal_exit_rules_choose(&f, "off", (float)NAN, rules, NULL), SHOAL_OK);
}

static void test_rules_of_the_shipped_edge_model_are_all_there(void **state)
{
    (void)state;
    const char *root = getenv("SHOAL_SOURCE_DIR");
    char path[512];
    shoal_model *model = NULL;
    shoal_exit_fitted f;
    shoal_err err = SHOAL_ERR_INIT;
    (void)snprintf(path, sizeof path, "%s/deploy/models/minnow/minnow-edge.gguf",
                   root ? root : ".");
    if (shoal_model_load(path, &model, &err) != SHOAL_OK ||
        shoal_exit_fitted_load(path, model, &f, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_true(f.calibrated && f.fits && f.n_exits == 2);
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        const char *name = shoal_exit_kind_name((shoal_exit_kind)kind);
        assert_int_equal(shoal_exit_rules_choose(&f, name, (float)NAN, rules, NULL), SHOAL_OK);
        assert_true(rules[0].on && rules[1].on);
    }
    shoal_model_free(model);
    assert_true(shoal_exit_fitted_load("/nowhere", &(shoal_model){.hp = {.n_exits = 1}}, &f, &err) <
                0);
    assert_non_null(strstr(err.text, "/nowhere"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules_of_a_kind_are_the_fitted_ones),
        cmocka_unit_test(test_rules_with_a_threshold_compare_with_it),
        cmocka_unit_test(test_rules_that_cannot_be_are_refused_by_name),
        cmocka_unit_test(test_rules_of_the_shipped_edge_model_are_all_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
