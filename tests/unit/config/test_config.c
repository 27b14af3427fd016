/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/config/config.h"

#include "tests/support/config_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static shoal_config *make(void)
{
    shoal_config *config = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_config_new(sample_keys, N_SAMPLE_KEYS, &config, &err), SHOAL_OK);
    return config;
}

static shoal_status load(shoal_config *config, const char *text, shoal_err *err)
{
    return shoal_config_load_text(config, "edge.yaml", text, strlen(text), err);
}

static void assert_loads(shoal_config *config, const char *text)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = load(config, text, &err);
    if (status != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void assert_refused(const char *text, const char *expected)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load(config, text, &err), SHOAL_E_INVALID);
    assert_string_equal(err.text, expected);
}

static void test_new_has_the_defaults(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 512);
    assert_int_equal(shoal_config_int(config, "offset"), -3);
    assert_string_equal(shoal_config_string(config, "http.listen"), "127.0.0.1:8080");
    assert_string_equal(shoal_config_string(config, "kv.level"), "f16");
    assert_string_equal(shoal_config_string(config, "motto"), "");
    assert_true(shoal_config_bool(config, "link.enabled"));
    assert_float_equal(shoal_config_real(config, "link.draft.risk"), 0.05, 0);
    shoal_config_free(NULL);
}

static void test_nested_inline_and_dotted_keys_are_the_same(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "kv:\n  max_mib: 64\n  level: q4\nlink:\n  draft:\n    risk: 0.5\n  enabled: off\n",
        "kv: {max_mib: 64, level: q4}\nlink: {draft: {risk: 0.5}, enabled: off}\n",
        "kv.max_mib: 64\nkv.level: q4\nlink.draft.risk: 5e-1\nlink.enabled: no\n",
        "\xEF\xBB\xBF---\nkv: {max_mib: \"64\", level: 'q4'}\nlink: {draft.risk: .5, enabled: no}",
    };
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
        assert_loads(config, texts[i]);
        assert_int_equal(shoal_config_int(config, "kv.max_mib"), 64);
        assert_string_equal(shoal_config_string(config, "kv.level"), "q4");
        assert_float_equal(shoal_config_real(config, "link.draft.risk"), 0.5, 0);
        assert_false(shoal_config_bool(config, "link.enabled"));
    }
}

static void test_empty_files_and_sections_change_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",     "\n\n",     "# nothing\n", "---\n", "kv:\n  # max_mib: 1\n",
        "{}\n", "kv: {}\n", "link:\nkv:\n"};
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
        assert_loads(config, texts[i]);
        assert_int_equal(shoal_config_int(config, "kv.max_mib"), 512);
    }
}

static void test_values_at_their_bounds_pass_and_past_them_do_not(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *error; /* NULL: taken */
    } cases[] = {
        {"kv.max_mib: 16", NULL},
        {"kv.max_mib: 15", "edge.yaml:1: kv.max_mib: 15 is less than 16"},
        {"kv.max_mib: 1024", NULL},
        {"kv.max_mib: 1025", "edge.yaml:1: kv.max_mib: 1025 is more than 1024"},
        {"\n\nkv:\n  max_mib: 6400", "edge.yaml:4: kv.max_mib: 6400 is more than 1024"},
        {"kv.max_mib: 99999999999999999999",
         "edge.yaml:1: kv.max_mib: 99999999999999999999 is more than 1024"},
        {"offset: 9007199254740992", NULL},
        {"offset: -9007199254740992", NULL},
        {"link.draft.risk: 1", NULL},
        {"link.draft.risk: 1.0001", "edge.yaml:1: link.draft.risk: 1.0001 is more than 1"},
        {"link.draft.risk: 0", NULL},
        {"link.draft.risk: -0.1", "edge.yaml:1: link.draft.risk: -0.1 is less than 0"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        if (cases[i].error) {
            assert_refused(cases[i].text, cases[i].error);
        } else {
            SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
            assert_loads(config, cases[i].text);
        }
    }
}

static void test_whole_numbers_past_an_exact_bound_are_refused(void **state)
{
    (void)state;
    assert_refused("offset: 9007199254740993",
                   "edge.yaml:1: offset: 9007199254740993 is more than 9007199254740992");
    assert_refused("offset: -9007199254740993",
                   "edge.yaml:1: offset: -9007199254740993 is less than -9007199254740992");
}

static void test_values_of_the_wrong_kind_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *error;
    } cases[] = {
        {"kv.max_mib: 1.5", "edge.yaml:1: kv.max_mib: 1.5 is not a whole number"},
        {"kv.max_mib: 0x20", "edge.yaml:1: kv.max_mib: 0x20 is not a whole number"},
        {"kv.max_mib: ' 64'", "edge.yaml:1: kv.max_mib:  64 is not a whole number"},
        {"kv.max_mib: +-1", "edge.yaml:1: kv.max_mib: +-1 is not a whole number"},
        {"kv.max_mib:", "edge.yaml:1: kv.max_mib: an empty value is not a whole number"},
        {"kv.max_mib: \"64\\0\"", "edge.yaml:1: kv.max_mib: 64? is not a whole number"},
        {"kv.max_mib: \"6\\e[31m\"", "edge.yaml:1: kv.max_mib: 6?[31m is not a whole number"},
        {"link.draft.risk: nan", "edge.yaml:1: link.draft.risk: nan is not a number"},
        {"link.draft.risk: 1e999", "edge.yaml:1: link.draft.risk: 1e999 is not a number"},
        {"link.draft.risk: 0x1p-2", "edge.yaml:1: link.draft.risk: 0x1p-2 is not a number"},
        {"link.enabled: maybe", "edge.yaml:1: link.enabled: maybe is not true or false"},
        {"link.enabled: on|yes", "edge.yaml:1: link.enabled: on|yes is not true or false"},
        {"kv.level: q5", "edge.yaml:1: kv.level: q5 is not one of f16, q8, q4"},
        {"kv.level: ''", "edge.yaml:1: kv.level: an empty value is not one of f16, q8, q4"},
        {"http.listen: ''", "edge.yaml:1: http.listen: 0 bytes are less than 1"},
        {"motto: \"a\\0b\"", "edge.yaml:1: motto: the text has control characters or is not UTF-8"},
        {"motto: \"a\\eb\"", "edge.yaml:1: motto: the text has control characters or is not UTF-8"},
        {"kv.max_mib: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "edge.yaml:1: kv.max_mib: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... is not a whole "
         "number"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        assert_refused(cases[i].text, cases[i].error);
    }
}

static void test_string_at_its_limit_passes_and_past_it_does_not(void **state)
{
    (void)state;
    for (int n = 63; n <= 65; n++) {
        SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
        char text[128];
        (void)snprintf(text, sizeof text, "http.listen: %0*d", n, 1);
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = load(config, text, &err);
        assert_int_equal(status, n <= 64 ? SHOAL_OK : SHOAL_E_INVALID);
        if (n > 64) {
            assert_string_equal(err.text, "edge.yaml:1: http.listen: 65 bytes are more than 64");
        }
    }
}

static void test_unknown_keys_get_the_nearest_known_one(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *error;
    } cases[] = {
        {"kv:\n  max_mb: 1", "edge.yaml:2: kv.max_mb: unknown key, did you mean kv.max_mib?"},
        {"max_mib: 64", "edge.yaml:1: max_mib: unknown key, did you mean kv.max_mib?"},
        {"risk: 1", "edge.yaml:1: risk: unknown key, did you mean link.draft.risk?"},
        {"zzzzzzzzzz: 1", "edge.yaml:1: zzzzzzzzzz: unknown key"},
        {"kv: 5", "edge.yaml:1: kv: is a section, not a value"},
        {"kv: ''", "edge.yaml:1: kv: is a section, not a value"},
        {"motto: {a: b}", "edge.yaml:1: motto.a: unknown key, did you mean motto?"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        assert_refused(cases[i].text, cases[i].error);
    }
}

static void test_duplicates_are_refused_across_spellings(void **state)
{
    (void)state;
    assert_refused("kv.max_mib: 64\nkv:\n  max_mib: 64\n",
                   "edge.yaml:3: kv.max_mib: already set on line 1");
}

static void test_failed_source_leaves_everything_as_it_was(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load(config, "motto: new\nkv.max_mib: 64\nkv.level: none\n", &err),
                     SHOAL_E_INVALID);
    assert_string_equal(shoal_config_string(config, "motto"), "");
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 512);
}

static void test_environment_wins_over_the_file_and_set_over_both(void **state)
{
    (void)state;
    static char a[] = "SHOAL_KV_MAX_MIB=128";
    static char b[] = "SHOAL_UNKNOWN_THING=1";
    static char c[] = "PATH=/bin";
    static char d[] = "SHOAL_KV_MAX_MIB=256";
    static char e[] = "SHOAL_LINK_DRAFT_RISK";
    char *const envp[] = {b, c, e, a, d, NULL};
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    assert_loads(config, "kv.max_mib: 64\nmotto: file\n");
    assert_int_equal(shoal_config_load_env(config, envp, NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 128);
    assert_string_equal(shoal_config_string(config, "motto"), "file");
    assert_int_equal(shoal_config_set(config, "kv.max_mib=32", NULL), SHOAL_OK);
    assert_int_equal(shoal_config_set(config, "motto=a=b", NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 32);
    assert_string_equal(shoal_config_string(config, "motto"), "a=b");
}

static void test_environment_and_set_name_themselves_in_errors(void **state)
{
    (void)state;
    static char bad[] = "SHOAL_KV_MAX_MIB=6400";
    static char broken[] = "SHOAL_MOTTO=\xFF";
    char *const envp[] = {bad, NULL};
    char *const envp_broken[] = {broken, NULL};
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_config_load_env(config, envp, &err), SHOAL_E_INVALID);
    assert_string_equal(err.text,
                        "environment SHOAL_KV_MAX_MIB: kv.max_mib: 6400 is more than 1024");
    shoal_err_clear(&err);
    assert_int_equal(shoal_config_load_env(config, envp_broken, &err), SHOAL_E_INVALID);
    shoal_err_clear(&err);
    assert_int_equal(shoal_config_set(config, "kv.max_mib=6400", &err), SHOAL_E_INVALID);
    assert_string_equal(err.text, "--set: kv.max_mib: 6400 is more than 1024");
    shoal_err_clear(&err);
    assert_int_equal(shoal_config_set(config, "kv.max_mbi=64", &err), SHOAL_E_INVALID);
    assert_string_equal(err.text, "--set: kv.max_mbi: unknown key, did you mean kv.max_mib?");
    shoal_err_clear(&err);
    assert_int_equal(shoal_config_set(config, "kv.max_mib", &err), SHOAL_E_INVALID);
    assert_string_equal(err.text, "--set: expected key=value, as in kv.max_mib=64");
    shoal_err_clear(&err);
    assert_int_equal(shoal_config_set(config, "=1", &err), SHOAL_E_INVALID);
    assert_int_equal(shoal_config_load_env(config, NULL, NULL), SHOAL_OK);
}

static void test_dump_loads_back_to_the_same_values(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    assert_int_equal(shoal_config_set(config,
                                      "motto=\"a\\b\"\n\t# \xC3\xBC \xEF\xBB\xBF \xC2\x85 "
                                      "\xF0\x9F\x90\x9F 'x': {y}",
                                      NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_config_set(config, "link.draft.risk=0.3333333333333333", NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_config_set(config, "kv.level=q8", NULL), SHOAL_OK);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf first = {0};
    assert_int_equal(shoal_config_dump(config, &first), SHOAL_OK);
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *back = make();
    assert_loads(back, first.data);
    assert_null(shoal_config_reload_conflict(config, back));
    assert_string_equal(shoal_config_string(back, "motto"), shoal_config_string(config, "motto"));
    assert_string_equal(shoal_config_string(back, "kv.level"), "q8");
    assert_float_equal(shoal_config_real(back, "link.draft.risk"), 0.3333333333333333, 0);
    assert_non_null(strstr(first.data, "\n  level: \"q8\" # --set\n"));
    /* Now all of it stands where the dump has it, and stays there. */
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf second = {0};
    assert_int_equal(shoal_config_dump(back, &second), SHOAL_OK);
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *again = make();
    assert_loads(again, second.data);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf third = {0};
    assert_int_equal(shoal_config_dump(again, &third), SHOAL_OK);
    assert_string_equal(second.data, third.data);
    assert_non_null(strstr(first.data, "kv:\n  # Memory for keys and values, in MiB. whole number, "
                                       "16 to 1024; default: 512; needs a restart.\n"
                                       "  max_mib: 512\n"));
    assert_non_null(strstr(first.data, "link:\n  draft:\n    # Risk"));
    /* One block per section, though the table has kv in two places. */
    assert_null(strstr(strstr(first.data, "kv:\n") + 1, "\nkv:\n"));
}

static void test_dump_shows_no_bytes_of_a_path_that_would_end_its_comment(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    static const char text[] = "motto: x\n";
    assert_int_equal(shoal_config_load_text(config, "a\nkv: b\xFF\xC2\x85\xC3\xBC.yaml", text,
                                            sizeof text - 1, NULL),
                     SHOAL_OK);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_config_dump(config, &buf), SHOAL_OK);
    assert_non_null(strstr(buf.data, "motto: \"x\" # a?kv: b??\xC3\xBC.yaml:1\n"));
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *back = make();
    assert_loads(back, buf.data);
}

static void test_lines_of_dump_and_help_fit_a_terminal(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_config_dump(config, &buf), SHOAL_OK);
    assert_int_equal(shoal_config_help(config, &buf), SHOAL_OK);
    for (const char *p = buf.data; *p;) {
        size_t n = strcspn(p, "\n");
        assert_true(n <= 100);
        assert_int_equal(p[n], '\n');
        p += n + 1;
    }
    for (size_t i = 0; i < N_SAMPLE_KEYS; i++) {
        assert_non_null(strstr(buf.data, sample_keys[i].name));
    }
    assert_non_null(strstr(buf.data, "  link.draft.risk  (SHOAL_LINK_DRAFT_RISK)\n"));
    assert_non_null(strstr(buf.data, "one of f16, q8, q4"));
}

static void test_reload_names_the_first_key_that_must_not_change(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *running = make();
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *next = make();
    assert_null(shoal_config_reload_conflict(running, next));
    assert_loads(next, "link: {enabled: no, draft: {risk: 0.9}}");
    assert_null(shoal_config_reload_conflict(running, next));
    assert_loads(next, "motto: x");
    assert_string_equal(shoal_config_reload_conflict(running, next), "motto");
    assert_loads(next, "kv.max_mib: 64");
    assert_string_equal(shoal_config_reload_conflict(running, next), "kv.max_mib");
}

static void test_load_file_names_the_path(void **state)
{
    (void)state;
    char path[256];
    const char *base = getenv("TMPDIR");
    (void)snprintf(path, sizeof path, "%s/shoal-config-XXXXXX", base ? base : P_tmpdir);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char text[] = "kv.max_mib: 64\nkv.level: q9\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_config_load_file(config, path, &err), SHOAL_E_INVALID);
    assert_true(strncmp(err.text, path, strlen(path)) == 0);
    assert_non_null(strstr(err.text, ":2: kv.level: q9 is not one of"));
    assert_int_equal(ftruncate(fd, 14), 0);
    assert_int_equal(shoal_config_load_file(config, path, NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 64);
    (void)close(fd);
    assert_int_equal(unlink(path), 0);
    shoal_err_clear(&err);
    assert_int_equal(shoal_config_load_file(config, path, &err), SHOAL_E_NOTFOUND);
    assert_int_equal(shoal_config_load_file(config, "/dev/zero", NULL), SHOAL_E_LIMIT);
}

static void test_failing_allocations_leave_the_values(void **state)
{
    (void)state;
    static char a[] = "SHOAL_MOTTO=env";
    char *const envp[] = {a, NULL};
    for (uint64_t i = 0;; i++) {
        assert_true(i < 1000);
        shoal_mem_fail_at(i);
        shoal_config *config = NULL;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_status status = shoal_config_new(sample_keys, N_SAMPLE_KEYS, &config, NULL);
        if (status == SHOAL_OK) {
            status = load(config, "motto: file\nkv.level: q4\n", NULL);
        }
        if (status == SHOAL_OK) {
            status = shoal_config_load_env(config, envp, NULL);
        }
        if (status == SHOAL_OK) {
            status = shoal_config_set(config, "motto=set", NULL);
        }
        if (status == SHOAL_OK) {
            status = shoal_config_dump(config, &buf);
        }
        if (status == SHOAL_OK) {
            status = shoal_config_help(config, &buf);
        }
        shoal_mem_fail_at(UINT64_MAX);
        shoal_config_free(config);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_has_the_defaults),
        cmocka_unit_test(test_nested_inline_and_dotted_keys_are_the_same),
        cmocka_unit_test(test_empty_files_and_sections_change_nothing),
        cmocka_unit_test(test_values_at_their_bounds_pass_and_past_them_do_not),
        cmocka_unit_test(test_whole_numbers_past_an_exact_bound_are_refused),
        cmocka_unit_test(test_values_of_the_wrong_kind_are_named),
        cmocka_unit_test(test_string_at_its_limit_passes_and_past_it_does_not),
        cmocka_unit_test(test_unknown_keys_get_the_nearest_known_one),
        cmocka_unit_test(test_duplicates_are_refused_across_spellings),
        cmocka_unit_test(test_failed_source_leaves_everything_as_it_was),
        cmocka_unit_test(test_environment_wins_over_the_file_and_set_over_both),
        cmocka_unit_test(test_environment_and_set_name_themselves_in_errors),
        cmocka_unit_test(test_dump_loads_back_to_the_same_values),
        cmocka_unit_test(test_dump_shows_no_bytes_of_a_path_that_would_end_its_comment),
        cmocka_unit_test(test_lines_of_dump_and_help_fit_a_terminal),
        cmocka_unit_test(test_reload_names_the_first_key_that_must_not_change),
        cmocka_unit_test(test_load_file_names_the_path),
        cmocka_unit_test(test_failing_allocations_leave_the_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
