/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/config/config.h"

#include "tests/support/config_table.h"

#include <stdio.h>
#include <string.h>

static shoal_status try_text(const char *text, size_t n, shoal_err *err)
{
    shoal_config *config = NULL;
    assert_int_equal(shoal_config_new(sample_keys, N_SAMPLE_KEYS, &config, NULL), SHOAL_OK);
    shoal_status status = shoal_config_load_text(config, "x.yaml", text, n, err);
    shoal_config_free(config);
    return status;
}

static void test_what_a_configuration_does_not_need_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *error;
    } cases[] = {
        {"motto: [a, b]", "x.yaml:1: motto: lists are not supported, expected one value"},
        {"- a", "x.yaml:1: lists are not supported, expected one value"},
        {"motto:\n- a\n", "x.yaml:2: motto: lists are not supported, expected one value"},
        {"motto: &a x", "x.yaml:1: motto: anchors are not supported"},
        {"kv: &a {}", "x.yaml:1: kv: anchors are not supported"},
        {"motto: *a", "x.yaml:1: motto: aliases are not supported"},
        {"motto: !!str x", "x.yaml:1: motto: tags are not supported"},
        {"kv: !!map {}", "x.yaml:1: kv: tags are not supported"},
        {"motto: a\n---\nmotto: b\n", "x.yaml:2: a second document, expected one"},
        {"just words", "x.yaml:1: expected 'key: value' lines"},
        {"''", "x.yaml:1: expected 'key: value' lines"},
        {"? {a: b}\n: c", "x.yaml:1: a section cannot be a key"},
        {"'': 1", "x.yaml:1: a key is empty"},
        {"\"a\\nb\": 1", "x.yaml:1: a key has characters other than letters, digits, _ and ."},
        {"kv:\n  \"m\xC3\xBC\": 1",
         "x.yaml:2: kv: a key has characters other than letters, digits, _ and ."},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(try_text(cases[i].text, strlen(cases[i].text), &err), SHOAL_E_INVALID);
        assert_string_equal(err.text, cases[i].error);
    }
}

static void test_broken_yaml_names_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *start;
    } cases[] = {
        {"kv:\n  max_mib: 64\n level: q4\n", "x.yaml:3: not valid YAML: "},
        {"motto: \"open\n", "x.yaml:2: not valid YAML: "},
        {"kv: {max_mib: 64\n", "x.yaml:2: not valid YAML: "},
        {"motto: a\n\tkv: b\n", "x.yaml:2: not valid YAML: "},
        {"motto: a\nkv: \xFF\n", "x.yaml:2: not valid YAML: "},
        {"motto: a\n\nb: \x01\n", "x.yaml:3: not valid YAML: "},
        {"\xFF\xFEm\0", "x.yaml:1: not valid YAML: "},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(try_text(cases[i].text, strlen(cases[i].text), &err), SHOAL_E_INVALID);
        if (strncmp(err.text, cases[i].start, strlen(cases[i].start)) != 0) {
            fail_msg("%s", err.text);
        }
    }
}

static void test_sections_at_depth_8_are_taken_and_at_9_refused(void **state)
{
    (void)state;
    for (size_t depth = 7; depth <= 9; depth++) {
        char text[256] = "";
        size_t n = 0;
        for (size_t i = 0; i < depth; i++) {
            n += (size_t)snprintf(text + n, sizeof text - n, "{k%s", i + 1 < depth ? ": " : "");
        }
        for (size_t i = 0; i < depth; i++) {
            text[n++] = '}';
        }
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(try_text(text, n, &err), SHOAL_E_INVALID);
        bool too_deep = strstr(err.text, "sections are nested deeper than 8") != NULL;
        assert_int_equal(too_deep, depth == 9);
    }
}

static void test_keys_at_128_bytes_are_looked_up_and_longer_refused(void **state)
{
    (void)state;
    for (int n = 127; n <= 129; n++) {
        char text[256];
        char key[160];
        memset(key, 'k', sizeof key);
        key[n - 3] = '\0';
        (void)snprintf(text, sizeof text, "kv:\n  %s: 1\n", key);
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(try_text(text, strlen(text), &err), SHOAL_E_INVALID);
        assert_int_equal(strstr(err.text, "longer than 128 bytes") != NULL, n == 129);
        assert_int_equal(strstr(err.text, "unknown key") != NULL, n < 129);
    }
}

static void test_values_at_4096_bytes_are_taken_and_longer_refused(void **state)
{
    (void)state;
    static char text[5000];
    for (size_t n = 4095; n <= 4097; n++) {
        memset(text, 'v', sizeof text);
        memcpy(text, "motto: ", 7);
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = try_text(text, 7 + n, &err);
        assert_int_equal(status, n <= 4096 ? SHOAL_OK : SHOAL_E_INVALID);
        if (n > 4096) {
            assert_string_equal(err.text, "x.yaml:1: motto: a value is longer than 4096 bytes");
        }
    }
}

static void test_files_at_1_mib_are_taken_and_longer_refused(void **state)
{
    (void)state;
    enum {
        MIB = 1024 * 1024
    };
    SHOAL_CLEANUP(shoal_free_cleanup) char *text = shoal_calloc(MIB + 1, 1);
    assert_non_null(text);
    memset(text, '\n', MIB + 1);
    memcpy(text, "motto: x", 8);
    assert_int_equal(try_text(text, MIB - 1, NULL), SHOAL_OK);
    assert_int_equal(try_text(text, MIB, NULL), SHOAL_OK);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(try_text(text, MIB + 1, &err), SHOAL_E_LIMIT);
    assert_string_equal(err.text, "x.yaml: longer than the limit of 1048576 bytes");
}

/* Openers without end must neither recurse nor take long. */
static void test_deep_openers_are_refused_early(void **state)
{
    (void)state;
    static char text[200000];
    static const char openers[] = "{[?-\"'&*!|>";
    for (size_t i = 0; openers[i]; i++) {
        memset(text, openers[i], sizeof text);
        assert_int_not_equal(try_text(text, sizeof text, NULL), SHOAL_OK);
    }
}

/* A good file with bytes changed, and every prefix of it: some status, no crash, no leak. */
static void test_damaged_files_never_crash(void **state)
{
    (void)state;
    static const char good[] = "# a\nkv:\n  max_mib: 64 # b\n  level: 'q4'\nlink: {draft: {risk: "
                               "0.5}, enabled: off}\nmotto: |\n  two\n  lines\n...\n";
    enum {
        N = sizeof good - 1
    };
    assert_int_equal(try_text(good, N, NULL), SHOAL_OK);
    for (size_t n = 0; n < N; n++) {
        (void)try_text(good, n, NULL);
    }
    uint64_t seed = 42;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 3000; round++) {
        char text[N];
        memcpy(text, good, N);
        for (int change = 0; change < 3; change++) {
            uint64_t draw = shoal_rng_next(&seed);
            static const char marks[] = ":{}[]\"'#&*!|>%@-? \n\t\\\xFF\xC3";
            text[draw % N] = marks[(draw >> 32) % (sizeof marks)];
        }
        (void)try_text(text, N, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_configuration_does_not_need_is_refused),
        cmocka_unit_test(test_broken_yaml_names_the_line),
        cmocka_unit_test(test_sections_at_depth_8_are_taken_and_at_9_refused),
        cmocka_unit_test(test_keys_at_128_bytes_are_looked_up_and_longer_refused),
        cmocka_unit_test(test_values_at_4096_bytes_are_taken_and_longer_refused),
        cmocka_unit_test(test_files_at_1_mib_are_taken_and_longer_refused),
        cmocka_unit_test(test_deep_openers_are_refused_early),
        cmocka_unit_test(test_damaged_files_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
