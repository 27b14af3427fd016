/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "edge/fleet/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define MANIFEST                                                                                   \
    "shoal-bundle 1\nfamily a\nversion 1\nserial 7\nprogram 0.1.0\nfile model a.gguf 12 " HASH     \
    "\ntest 1 2\n"

static char folder[64];

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-store-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static shoal_store *open_store(bool want_lost)
{
    shoal_store *store = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    bool lost = false;
    if (shoal_store_open(folder, &store, &lost, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(lost, want_lost);
    return store;
}

static void write_at(const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(shoal_file_write(path, text, strlen(text), NULL), SHOAL_OK);
}

static bool exists(const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static void test_state_is_what_was_put(void **state)
{
    (void)state;
    shoal_store *store = open_store(false);
    assert_int_equal(shoal_store_state_of(store)->highest, 0);
    const shoal_store_state put = {.current = 9,
                                   .previous = 7,
                                   .highest = SHOAL_BUNDLE_SERIAL_MAX,
                                   .trying = 11,
                                   .tries = 2,
                                   .trial = 1,
                                   .failed = 8};
    assert_int_equal(shoal_store_put(store, &put, NULL), SHOAL_OK);
    shoal_store_free(store);
    store = open_store(false);
    assert_memory_equal(shoal_store_state_of(store), &put, sizeof put);
    shoal_store_free(store);
}

/* Each of its texts but the right one: it begins anew, above every serial that lies there. */
static void test_state_that_is_damaged_begins_anew(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "shoal-fleet 2\n",
        "shoal-fleet 1\ncurrent 1\n",
        "shoal-fleet 1\ncurrent 1\nprevious 0\nhighest 1\ntrying 0\ntries 0\ntrial 0\nfailed 0",
        "shoal-fleet 1\ncurrent 01\nprevious 0\nhighest 1\ntrying 0\ntries 0\ntrial 0\nfailed 0\n",
        "shoal-fleet 1\ncurrent -1\nprevious 0\nhighest 1\ntrying 0\ntries 0\ntrial 0\nfailed 0\n",
        "shoal-fleet 1\ncurrent 1\nprevious 0\nhighest 1\ntrying 0\ntries 0\ntrial 0\nfailed 0\n ",
    };
    char path[256];
    shoal_store_free(open_store(false));
    (void)snprintf(path, sizeof path, "%s/bundles/12", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    (void)snprintf(path, sizeof path, "%s/bundles/notes99", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        write_at("state", texts[i]);
        shoal_store *store = open_store(true);
        assert_int_equal(shoal_store_state_of(store)->current, 0);
        assert_int_equal(shoal_store_state_of(store)->highest, 12);
        shoal_store_free(store);
    }
    write_at("state", "shoal-fleet 1\ncurrent 1\nprevious 0\nhighest 1\ntrying 0\ntries 0\n"
                      "trial 0\nfailed 0\n");
    shoal_store *store = open_store(false);
    assert_int_equal(shoal_store_state_of(store)->current, 1);
    shoal_store_free(store);
}

static void test_incoming_is_of_one_manifest(void **state)
{
    (void)state;
    char signature[SHOAL_BUNDLE_SIGNATURE_BYTES];
    char other[] = MANIFEST;
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *bundle = NULL;
    shoal_store *store = open_store(false);
    uint64_t n = 99;
    memset(signature, 3, sizeof signature);
    assert_int_equal(shoal_bundle_parse(MANIFEST, strlen(MANIFEST), &bundle, NULL), SHOAL_OK);
    assert_int_equal(
        shoal_store_begin(store, MANIFEST, strlen(MANIFEST), signature, sizeof signature, NULL),
        SHOAL_OK);
    assert_int_equal(shoal_store_have(store, &bundle->files[0], &n, NULL), SHOAL_OK);
    assert_int_equal(n, 0);
    write_at("incoming/a.gguf", "five.");
    assert_int_equal(
        shoal_store_begin(store, MANIFEST, strlen(MANIFEST), signature, sizeof signature, NULL),
        SHOAL_OK);
    assert_int_equal(shoal_store_have(store, &bundle->files[0], &n, NULL), SHOAL_OK);
    assert_int_equal(n, 5);
    write_at("incoming/a.gguf", "thirteen byte");
    assert_int_equal(shoal_store_have(store, &bundle->files[0], &n, NULL), SHOAL_OK);
    assert_int_equal(n, 0);
    assert_false(exists("incoming/a.gguf"));
    write_at("incoming/a.gguf", "twelve bytes");
    assert_int_equal(shoal_store_have(store, &bundle->files[0], &n, NULL), SHOAL_OK);
    assert_int_equal(n, 12);
    /* Another manifest, or another signature of it: nothing of before is kept. */
    other[strlen(other) - 2] = '3';
    assert_int_equal(
        shoal_store_begin(store, other, strlen(other), signature, sizeof signature, NULL),
        SHOAL_OK);
    assert_false(exists("incoming/a.gguf"));
    write_at("incoming/a.gguf", "five.");
    signature[0] = 4;
    assert_int_equal(
        shoal_store_begin(store, other, strlen(other), signature, sizeof signature, NULL),
        SHOAL_OK);
    assert_false(exists("incoming/a.gguf"));
    shoal_store_free(store);
}

static void test_commit_moves_and_tidy_removes(void **state)
{
    (void)state;
    char signature[SHOAL_BUNDLE_SIGNATURE_BYTES] = {0};
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *bundle = NULL;
    shoal_store *store = open_store(false);
    assert_int_equal(shoal_bundle_parse(MANIFEST, strlen(MANIFEST), &bundle, NULL), SHOAL_OK);
    for (bundle->serial = 7; bundle->serial <= 9; bundle->serial++) {
        assert_int_equal(
            shoal_store_begin(store, MANIFEST, strlen(MANIFEST), signature, sizeof signature, NULL),
            SHOAL_OK);
        write_at("incoming/a.gguf", "twelve bytes");
        assert_int_equal(shoal_store_commit(store, bundle, NULL), SHOAL_OK);
        assert_int_equal(shoal_store_state_of(store)->trying, bundle->serial);
        assert_int_equal(shoal_store_state_of(store)->highest, bundle->serial);
        assert_false(exists("incoming"));
    }
    assert_true(exists("bundles/7/a.gguf") && exists("bundles/8/a.gguf"));
    shoal_store_state next = *shoal_store_state_of(store);
    next.current = 8;
    assert_int_equal(shoal_store_put(store, &next, NULL), SHOAL_OK);
    shoal_store_tidy(store);
    assert_false(exists("bundles/7"));
    assert_true(exists("bundles/8/a.gguf") && exists("bundles/9/manifest"));
    shoal_store_free(store);
}

static void test_room_is_asked_for(void **state)
{
    (void)state;
    shoal_store *store = open_store(false);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_store_check_room(store, 1, &err), SHOAL_OK);
    assert_int_equal(shoal_store_check_room(store, SHOAL_BUNDLE_FILE_BYTES_MAX * 1024, &err),
                     SHOAL_E_EXHAUSTED);
    assert_non_null(strstr(err.text, "make room"));
    shoal_store_free(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state_is_what_was_put, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_state_that_is_damaged_begins_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_incoming_is_of_one_manifest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_commit_moves_and_tidy_removes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_room_is_asked_for, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
