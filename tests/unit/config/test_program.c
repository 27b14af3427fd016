/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/config/program.h"

#include <string.h>

static const shoal_config_key keys[] = {
    {"kv.max_mib", SHOAL_CONFIG_INT, "64", 1, 1024, NULL, false, "Memory, MiB."},
};

static const shoal_program program = {
    .name = "shoal-test",
    .version = "1.2.3",
    .purpose = "Tests things.",
    .keys = keys,
    .n_keys = 1,
};

static shoal_status parse(size_t n, const char *const *words, shoal_program_options *ret_options,
                          shoal_err *err)
{
    char *argv[2 * SHOAL_PROGRAM_SETS_MAX + 8];
    for (size_t i = 0; i < n; i++) {
        argv[i] = (char *)(uintptr_t)words[i];
    }
    return shoal_program_parse(&program, (int)n, argv, ret_options, err);
}

static void test_parse_each_word_is_understood(void **state)
{
    (void)state;
    static const char *const words[] = {"p", "--config", "f.yaml", "--set", "a=b", "--dump-config"};
    shoal_program_options options;
    assert_int_equal(parse(6, words, &options, NULL), SHOAL_OK);
    assert_int_equal(options.action, SHOAL_PROGRAM_DUMP);
    assert_string_equal(options.config_path, "f.yaml");
    assert_int_equal(options.n_sets, 1);
    assert_string_equal(options.sets[0], "a=b");
    assert_int_equal(parse(1, words, &options, NULL), SHOAL_OK);
    assert_int_equal(options.action, SHOAL_PROGRAM_RUN);
}

static void test_parse_wrong_words_name_themselves_and_the_help(void **state)
{
    (void)state;
    static const char *const unknown[] = {"p", "--frob"};
    static const char *const missing[] = {"p", "--set"};
    shoal_program_options options;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(parse(2, unknown, &options, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "--frob"));
    assert_non_null(strstr(err.text, "shoal-test --help"));
    shoal_err_clear(&err);
    assert_int_equal(parse(2, missing, &options, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "--set"));
}

static void test_parse_sets_up_to_the_limit_and_no_further(void **state)
{
    (void)state;
    const char *words[2 * (SHOAL_PROGRAM_SETS_MAX + 1) + 1] = {"p"};
    for (size_t i = 0; i <= SHOAL_PROGRAM_SETS_MAX; i++) {
        words[2 * i + 1] = "--set";
        words[2 * i + 2] = "kv.max_mib=7";
    }
    shoal_program_options options;
    assert_int_equal(parse(2 * SHOAL_PROGRAM_SETS_MAX + 1, words, &options, NULL), SHOAL_OK);
    assert_int_equal(options.n_sets, SHOAL_PROGRAM_SETS_MAX);
    assert_int_equal(parse(2 * SHOAL_PROGRAM_SETS_MAX + 3, words, &options, NULL), SHOAL_E_INVALID);
}

static void test_load_set_wins_over_environment(void **state)
{
    (void)state;
    char variable[] = "SHOAL_KV_MAX_MIB=100";
    char *const envp[] = {variable, NULL};
    shoal_program_options options = {.action = SHOAL_PROGRAM_RUN};
    shoal_config *config = NULL;
    assert_int_equal(shoal_program_load(&program, &options, envp, &config, NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 100);
    shoal_config_free(config);
    options.sets[options.n_sets++] = "kv.max_mib=200";
    assert_int_equal(shoal_program_load(&program, &options, envp, &config, NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 200);
    shoal_config_free(config);
}

static void test_text_of_each_action_says_what_it_should(void **state)
{
    (void)state;
    shoal_program_options options = {.action = SHOAL_PROGRAM_RUN};
    char *const envp[] = {NULL};
    shoal_config *config = NULL;
    assert_int_equal(shoal_program_load(&program, &options, envp, &config, NULL), SHOAL_OK);
    shoal_buf buf = {0};
    assert_int_equal(shoal_program_text(&program, SHOAL_PROGRAM_VERSION, config, &buf), SHOAL_OK);
    assert_string_equal(buf.data, "shoal-test 1.2.3\n");
    shoal_buf_reset(&buf);
    assert_int_equal(shoal_program_text(&program, SHOAL_PROGRAM_HELP, config, &buf), SHOAL_OK);
    assert_non_null(strstr(buf.data, "Tests things."));
    assert_non_null(strstr(buf.data, "kv.max_mib"));
    shoal_buf_fini(&buf);
    shoal_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_each_word_is_understood),
        cmocka_unit_test(test_parse_wrong_words_name_themselves_and_the_help),
        cmocka_unit_test(test_parse_sets_up_to_the_limit_and_no_further),
        cmocka_unit_test(test_load_set_wins_over_environment),
        cmocka_unit_test(test_text_of_each_action_says_what_it_should),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
