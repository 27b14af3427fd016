/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/config/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GOOD                                                                                       \
    .name = "a.b", .type = SHOAL_CONFIG_INT, .fallback = "1", .min = 0, .max = 2, .help = "Help."

static shoal_status try_table(const shoal_config_key *keys, size_t n, shoal_err *err)
{
    shoal_config *config = NULL;
    shoal_status status = shoal_config_new(keys, n, &config, err);
    shoal_config_free(config);
    return status;
}

static void assert_row_refused(shoal_config_key key)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(try_table(&key, 1, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "configuration table"));
}

static void test_table_without_faults_is_taken(void **state)
{
    (void)state;
    const shoal_config_key key = {GOOD};
    assert_int_equal(try_table(&key, 1, NULL), SHOAL_OK);
    assert_int_equal(try_table(&key, 0, NULL), SHOAL_OK);
}

static void test_names_outside_the_grammar_are_refused(void **state)
{
    (void)state;
    static char long_name[130];
    memset(long_name, 'a', 129);
    const char *const names[] = {NULL,     "",     ".a",  "a.",  "a..b", "A",
                                 "1a",     "a.1b", "a b", "a-b", "_a",   "a.b.c.d.e.f.g.h.i",
                                 long_name};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        shoal_config_key key = {GOOD};
        key.name = names[i];
        assert_row_refused(key);
    }
    long_name[128] = '\0';
    shoal_config_key key = {GOOD};
    key.name = long_name;
    assert_int_equal(try_table(&key, 1, NULL), SHOAL_OK);
    key.name = "a.b.c.d.e.f.g.h";
    assert_int_equal(try_table(&key, 1, NULL), SHOAL_OK);
}

static void test_bounds_and_defaults_that_contradict_are_refused(void **state)
{
    (void)state;
    const shoal_config_key rows[] = {
        {.name = "a", .type = SHOAL_CONFIG_INT, .fallback = "1", .min = 2, .max = 1, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_INT, .fallback = "3", .min = 0, .max = 2, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_INT, .fallback = "1", .max = 1.5, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_INT, .fallback = "1", .max = 1e16, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_INT, .fallback = NULL, .max = 1, .help = "h"},
        {.name = "a",
         .type = SHOAL_CONFIG_REAL,
         .fallback = "1",
         .max = (double)INFINITY,
         .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_REAL, .fallback = "x", .max = 1, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_BOOL, .fallback = "1", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_STRING, .fallback = "", .max = 4097, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_STRING, .fallback = "", .min = 5, .max = 4, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_STRING, .fallback = "abc", .max = 2, .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_CHOICE, .fallback = "a", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_CHOICE, .fallback = "", .choices = "", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_CHOICE, .fallback = "a", .choices = "a|", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_CHOICE, .fallback = "a", .choices = "|a", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_CHOICE, .fallback = "a", .choices = "a||b", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_CHOICE, .fallback = "c", .choices = "a|b", .help = "h"},
        {.name = "a", .type = SHOAL_CONFIG_BOOL, .fallback = "no", .help = ""},
        {.name = "a", .type = SHOAL_CONFIG_BOOL, .fallback = "no", .help = NULL},
        {.name = "a", .type = SHOAL_CONFIG_BOOL, .fallback = "no", .help = "a\nb"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        assert_row_refused(rows[i]);
    }
}

static void test_clashing_keys_are_refused(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"a.b", "a.b"}, {"a", "a.b"}, {"a.b.c", "a"}, {"a.b_c", "a_b.c"}, {"a.b.c", "a.b_c"}};
    for (size_t i = 0; i < SHOAL_COUNT(pairs); i++) {
        shoal_config_key keys[] = {{GOOD}, {GOOD}};
        keys[0].name = pairs[i][0];
        keys[1].name = pairs[i][1];
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(try_table(keys, 2, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "clashes with"));
    }
    shoal_config_key keys[] = {{GOOD}, {GOOD}};
    keys[1].name = "a.bc";
    assert_int_equal(try_table(keys, 2, NULL), SHOAL_OK);
}

static void test_table_is_full_at_512(void **state)
{
    (void)state;
    static char names[513][8];
    static shoal_config_key keys[513];
    for (size_t i = 0; i < 513; i++) {
        (void)snprintf(names[i], sizeof names[i], "k%zu", i);
        keys[i] = (shoal_config_key){GOOD};
        keys[i].name = names[i];
    }
    assert_int_equal(try_table(keys, 511, NULL), SHOAL_OK);
    assert_int_equal(try_table(keys, 512, NULL), SHOAL_OK);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(try_table(keys, 513, &err), SHOAL_E_INVALID);
    assert_string_equal(err.text, "configuration table: 513 keys are more than 512");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_without_faults_is_taken),
        cmocka_unit_test(test_names_outside_the_grammar_are_refused),
        cmocka_unit_test(test_bounds_and_defaults_that_contradict_are_refused),
        cmocka_unit_test(test_clashing_keys_are_refused),
        cmocka_unit_test(test_table_is_full_at_512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
