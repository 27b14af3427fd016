/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/config/program.h"

#include "tests/support/config_table.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder of this test's own; names are relative to it. */
typedef struct place {
    char root[192];
    char config[256]; /* root/edge.yaml */
} place;

static void path_of(const place *p, const char *name, char ret_path[512])
{
    (void)snprintf(ret_path, 512, "%s/%s", p->root, name);
}

static void put(const place *p, const char *name, const char *text)
{
    char path[512];
    path_of(p, name, path);
    assert_int_equal(shoal_file_write(path, text, strlen(text), NULL), SHOAL_OK);
}

static void make_folder(const place *p, const char *name)
{
    char path[512];
    path_of(p, name, path);
    assert_int_equal(mkdir(path, 0700), 0);
}

static int set_up(void **state)
{
    static place p;
    const char *base = getenv("TMPDIR");
    (void)snprintf(p.root, sizeof p.root, "%s/shoal-folder-XXXXXX", base ? base : P_tmpdir);
    assert_non_null(mkdtemp(p.root));
    (void)snprintf(p.config, sizeof p.config, "%s/edge.yaml", p.root);
    put(&p, "edge.yaml", "kv: {max_mib: 100, level: q8}\nmotto: file\n");
    *state = &p;
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int tear_down(void **state)
{
    return nftw(((place *)*state)->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static shoal_status load(const place *p, shoal_config **ret_config, shoal_err *err)
{
    static const shoal_program program = {.name = "shoal-test",
                                          .version = "1",
                                          .purpose = "Tests.",
                                          .keys = sample_keys,
                                          .n_keys = N_SAMPLE_KEYS};
    static char variable[] = "SHOAL_OFFSET=4";
    static char *const envp[] = {variable, NULL};
    const shoal_program_options options = {.config_path = p->config};
    return shoal_program_load(&program, &options, envp, ret_config, err);
}

static void test_files_are_read_in_order_and_later_ones_win(void **state)
{
    const place *p = *state;
    make_folder(p, "edge.conf.d");
    put(p, "edge.conf.d/20-b.yaml", "motto: twenty\nlink.enabled: off\n");
    put(p, "edge.conf.d/10-a.yaml", "# first\n\nmotto: ten\noffset: 3\nkv.level: q4\n");
    put(p, "edge.conf.d/9.yaml", "link.enabled: on\n"); /* bytes, not numbers: the last one */
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    assert_int_equal(load(p, &config, NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"), 100);
    assert_string_equal(shoal_config_string(config, "kv.level"), "q4");
    assert_string_equal(shoal_config_string(config, "motto"), "twenty");
    assert_int_equal(shoal_config_int(config, "offset"), 4);
    assert_true(shoal_config_bool(config, "link.enabled"));
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf dump = {0};
    assert_int_equal(shoal_config_dump(config, &dump), SHOAL_OK);
    static const char *const lines[] = {
        "max_mib: 100 # %s/edge.yaml:1\n",
        "level: \"q4\" # %s/edge.conf.d/10-a.yaml:5\n",
        "motto: \"twenty\" # %s/edge.conf.d/20-b.yaml:1\n",
        "enabled: true # %s/edge.conf.d/9.yaml:1\n",
    };
    for (size_t i = 0; i < SHOAL_COUNT(lines); i++) {
        const char *hole = strstr(lines[i], "%s");
        char line[512];
        (void)snprintf(line, sizeof line, "%.*s%s%s", (int)(hole - lines[i]), lines[i], p->root,
                       hole + 2);
        assert_non_null(strstr(dump.data, line));
    }
    assert_non_null(strstr(dump.data, "\noffset: 4 # environment SHOAL_OFFSET\n"));
    assert_non_null(strstr(dump.data, "\n    risk: 0.05\n")); /* nobody set it */
}

static void test_other_files_are_passed_over(void **state)
{
    const place *p = *state;
    make_folder(p, "edge.conf.d");
    static const char *const names[] = {"a.yaml.dpkg-old", ".a.yaml", "a.yaml~", "a.yml", "yaml",
                                        ".yaml",           "README"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "edge.conf.d/%s", names[i]);
        put(p, name, "not: {a, configuration\n");
    }
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    assert_int_equal(load(p, &config, NULL), SHOAL_OK);
    assert_string_equal(shoal_config_string(config, "motto"), "file");
}

static void test_no_folder_and_an_empty_one_change_nothing(void **state)
{
    const place *p = *state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *without = NULL;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *empty = NULL;
    assert_int_equal(load(p, &without, NULL), SHOAL_OK);
    make_folder(p, "edge.conf.d");
    assert_int_equal(load(p, &empty, NULL), SHOAL_OK);
    assert_null(shoal_config_reload_conflict(without, empty));
    assert_string_equal(shoal_config_string(empty, "motto"), "file");
}

static void test_errors_name_the_file_and_its_line(void **state)
{
    const place *p = *state;
    make_folder(p, "edge.conf.d");
    put(p, "edge.conf.d/10-a.yaml", "motto: ten\n");
    put(p, "edge.conf.d/20-b.yaml", "motto: x\nkv.max_mbi: 64\n");
    shoal_config *config = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load(p, &config, &err), SHOAL_E_INVALID);
    assert_null(config);
    assert_true(strncmp(err.text, p->root, strlen(p->root)) == 0);
    assert_non_null(strstr(err.text, "/edge.conf.d/20-b.yaml:2: kv.max_mbi: unknown key, did you "
                                     "mean kv.max_mib?"));
    shoal_err_clear(&err);
    make_folder(p, "edge.conf.d/00.yaml");
    assert_int_equal(load(p, &config, &err), SHOAL_E_IO);
    assert_non_null(strstr(err.text, "/edge.conf.d/00.yaml: cannot read"));
}

static void test_a_file_in_the_folders_place_is_named(void **state)
{
    const place *p = *state;
    put(p, "edge.conf.d", "motto: x\n");
    shoal_config *config = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load(p, &config, &err), SHOAL_E_IO);
    assert_non_null(strstr(err.text, "/edge.conf.d: cannot open"));
}

static void test_files_up_to_the_limit_and_no_further(void **state)
{
    const place *p = *state;
    make_folder(p, "edge.conf.d");
    char name[64];
    for (int i = 0; i < SHOAL_CONFIG_FOLDER_FILES_MAX; i++) {
        char text[32];
        (void)snprintf(name, sizeof name, "edge.conf.d/%02d.yaml", i);
        (void)snprintf(text, sizeof text, "kv.max_mib: %d\n", 100 + i);
        put(p, name, text);
    }
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    assert_int_equal(load(p, &config, NULL), SHOAL_OK);
    assert_int_equal(shoal_config_int(config, "kv.max_mib"),
                     100 + SHOAL_CONFIG_FOLDER_FILES_MAX - 1);
    put(p, "edge.conf.d/x.yaml", "");
    shoal_config *more = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load(p, &more, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "/edge.conf.d: more than 64 files *.yaml"));
}

static void test_the_folder_of_another_ending_keeps_it(void **state)
{
    const place *p = *state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    assert_int_equal(shoal_config_new(sample_keys, N_SAMPLE_KEYS, &config, NULL), SHOAL_OK);
    make_folder(p, "edge.cfg.conf.d");
    put(p, "edge.cfg.conf.d/a.yaml", "motto: here\n");
    char path[512];
    path_of(p, "edge.cfg", path);
    assert_int_equal(shoal_config_load_folder(config, path, NULL), SHOAL_OK);
    assert_string_equal(shoal_config_string(config, "motto"), "here");
}

static void test_failing_allocations_are_errors(void **state)
{
    const place *p = *state;
    make_folder(p, "edge.conf.d");
    put(p, "edge.conf.d/a.yaml", "motto: one\n");
    put(p, "edge.conf.d/b.yaml", "motto: two\n");
    for (uint64_t i = 0;; i++) {
        assert_true(i < 1000);
        shoal_config *config = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = load(p, &config, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_config_free(config);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files_are_read_in_order_and_later_ones_win, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_other_files_are_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_folder_and_an_empty_one_change_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_errors_name_the_file_and_its_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_file_in_the_folders_place_is_named, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_files_up_to_the_limit_and_no_further, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_the_folder_of_another_ending_keeps_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_failing_allocations_are_errors, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
