/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "protocol/bundle/bundle.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define HEAD  "shoal-bundle 1\nfamily minnow\nversion 2026.11\nserial 7\nprogram 0.1.0\n"
#define MODEL "file model a.gguf 12 " HASH "\n"
#define TEST  "test 1,2,3 4,5\n"

static char folder[64];

static char *in_folder(const char *name)
{
    char *path = shoal_bundle_path(folder, name);
    assert_non_null(path);
    return path;
}

static void write_text(const char *name, const void *data, size_t n)
{
    shoal_err err = SHOAL_ERR_INIT;
    char *path = in_folder(name);
    assert_int_equal(shoal_file_write(path, data, n, &err), SHOAL_OK);
    shoal_free(path);
}

/* An Ed25519 key, or an RSA one, as NAME.pem and NAME.pub.pem. */
static void make_key(const char *name, bool is_rsa)
{
    char file[64];
    EVP_PKEY *key = is_rsa ? EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048)
                           : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    assert_non_null(key);
    for (int is_public = 0; is_public < 2; is_public++) {
        (void)snprintf(file, sizeof file, is_public ? "%s.pub.pem" : "%s.pem", name);
        char *path = in_folder(file);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_int_equal(is_public ? PEM_write_PUBKEY(f, key)
                                   : PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL),
                         1);
        (void)fclose(f);
        shoal_free(path);
    }
    EVP_PKEY_free(key);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-bundle-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static shoal_status parse(const char *text)
{
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_bundle_parse(text, strlen(text), &b, &err);
    assert_true(status == SHOAL_OK || err.text[0]);
    return status;
}

static void test_manifest_prints_as_it_was_read(void **state)
{
    (void)state;
    static const char text[] =
        HEAD MODEL "file adapter b.gguf 1099511627776 " HASH "\nfile prefix _system.kv 1 " HASH
                   "\n" TEST "test 0 16777215\n";
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_bundle_parse(text, sizeof text - 1, &b, &err), SHOAL_OK);
    assert_string_equal(b->family, "minnow");
    assert_string_equal(b->version, "2026.11");
    assert_int_equal(b->serial, 7);
    assert_int_equal(b->n_files, 3);
    assert_int_equal(b->files[1].role, SHOAL_BUNDLE_ADAPTER);
    assert_int_equal(b->files[0].hash.bytes[1], 0x23);
    assert_int_equal(b->n_tests, 2);
    assert_int_equal(b->tests[0].n_ids, 3);
    assert_int_equal(b->tests[0].answer[1], 5);
    assert_string_equal(shoal_bundle_find(b, SHOAL_BUNDLE_PREFIX, 0)->name, "_system.kv");
    assert_null(shoal_bundle_find(b, SHOAL_BUNDLE_PREFIX, 1));
    assert_int_equal(shoal_bundle_print(b, &again, &err), SHOAL_OK);
    assert_string_equal(again.data, text);
}

static void test_manifest_hostile_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "shoal-bundle 1\n",
        "shoal-bundle 2\nfamily minnow\nversion 1\nserial 7\nprogram 0.1.0\n" MODEL TEST,
        HEAD,
        HEAD MODEL,
        HEAD TEST,
        HEAD TEST MODEL,
        HEAD MODEL TEST "x",
        HEAD MODEL TEST "\n",
        HEAD MODEL "test 1 2",
        HEAD MODEL "test  1 2\n",
        HEAD MODEL "test 1 2 \n",
        HEAD MODEL "test 01 2\n",
        HEAD MODEL "test 1, 2\n",
        HEAD MODEL "test ,1 2\n",
        HEAD MODEL "test 1 16777216\n",
        HEAD MODEL "test -1 2\n",
        HEAD MODEL "test 1 2\r\n",
        HEAD "file model ../a 12 " HASH "\n" TEST,
        HEAD "file model /a 12 " HASH "\n" TEST,
        HEAD "file model a/b 12 " HASH "\n" TEST,
        HEAD "file model .. 12 " HASH "\n" TEST,
        HEAD "file model .a 12 " HASH "\n" TEST,
        HEAD "file model -a 12 " HASH "\n" TEST,
        HEAD "file model a\x01 12 " HASH "\n" TEST,
        HEAD "file model manifest 12 " HASH "\n" TEST,
        HEAD "file model manifest.sig 12 " HASH "\n" TEST,
        HEAD "file model a 0 " HASH "\n" TEST,
        HEAD "file model a 1099511627777 " HASH "\n" TEST,
        HEAD "file model a 99999999999999999999 " HASH "\n" TEST,
        HEAD "file model a 12 0" HASH "\n" TEST,
        HEAD
        "file model a 12 ABCDEF6789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n" TEST,
        HEAD "file other a 12 " HASH "\n" TEST,
        HEAD MODEL MODEL TEST,
        HEAD MODEL "file model b 12 " HASH "\n" TEST,
        HEAD MODEL "file adapter a.gguf 12 " HASH "\n" TEST,
        HEAD MODEL "file prefix p 12 " HASH "\nfile adapter b 12 " HASH "\n" TEST,
        HEAD MODEL "file adapter c 12 " HASH "\nfile adapter b 12 " HASH "\n" TEST,
        "shoal-bundle 1\nfamily minnow\nversion 1\nserial 0\nprogram 0.1.0\n" MODEL TEST,
        "shoal-bundle 1\nfamily minnow\nversion 1\nserial 9007199254740993\nprogram 0.1.0\n" MODEL
            TEST,
        "shoal-bundle 1\nfamily minnow\nversion 1\nserial 7\nprogram 0.1\n" MODEL TEST,
        "shoal-bundle 1\nfamily minnow\nversion 1\nserial 7\nprogram 0.1.0.0\n" MODEL TEST,
        "shoal-bundle 1\nfamily minnow\nversion 1\nserial 7\nprogram 0.1.10000\n" MODEL TEST,
        "shoal-bundle 1\nfamily\nversion 1\nserial 7\nprogram 0.1.0\n" MODEL TEST,
    };
    assert_int_equal(parse(HEAD MODEL TEST), SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        if (parse(wrong[i]) != SHOAL_E_INVALID) {
            fail_msg("taken: %s", wrong[i]);
        }
    }
    shoal_bundle *b = NULL;
    assert_int_equal(shoal_bundle_parse("", 0, &b, NULL), SHOAL_E_LIMIT);
    assert_int_equal(shoal_bundle_parse(HEAD "\0", sizeof HEAD, &b, NULL), SHOAL_E_INVALID);
}

/* HEAD, one model and more lines of a kind; n files or tests in all. */
static shoal_status parse_many(size_t n_files, size_t n_tests)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    assert_int_equal(shoal_buf_appendf(&text, HEAD MODEL), SHOAL_OK);
    for (size_t i = 1; i < n_files; i++) {
        assert_int_equal(shoal_buf_appendf(&text, "file prefix p%zu 1 " HASH "\n", i), SHOAL_OK);
    }
    for (size_t i = 0; i < n_tests; i++) {
        assert_int_equal(shoal_buf_appendf(&text, TEST), SHOAL_OK);
    }
    return parse(text.data);
}

static shoal_status parse_lengths(size_t n_name, size_t n_ids, size_t n_answer)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    char name[SHOAL_BUNDLE_NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    assert_int_equal(
        shoal_buf_appendf(&text, HEAD "file model %.*s 1 " HASH "\ntest ", (int)n_name, name),
        SHOAL_OK);
    for (size_t i = 0; i < n_ids + n_answer; i++) {
        bool ends = i + 1 == n_ids || i + 1 == n_ids + n_answer;
        assert_int_equal(shoal_buf_appendf(&text, "7%s",
                                           !ends            ? ","
                                           : i + 1 == n_ids ? " "
                                                            : "\n"),
                         SHOAL_OK);
    }
    return parse(text.data);
}

static void test_manifest_limits(void **state)
{
    (void)state;
    assert_int_equal(parse_many(SHOAL_BUNDLE_FILES_MAX - 1, 1), SHOAL_OK);
    assert_int_equal(parse_many(SHOAL_BUNDLE_FILES_MAX, 1), SHOAL_OK);
    assert_int_equal(parse_many(SHOAL_BUNDLE_FILES_MAX + 1, 1), SHOAL_E_LIMIT);
    assert_int_equal(parse_many(1, SHOAL_BUNDLE_TESTS_MAX - 1), SHOAL_OK);
    assert_int_equal(parse_many(1, SHOAL_BUNDLE_TESTS_MAX), SHOAL_OK);
    assert_int_equal(parse_many(1, SHOAL_BUNDLE_TESTS_MAX + 1), SHOAL_E_LIMIT);
    assert_int_equal(parse_lengths(SHOAL_BUNDLE_NAME_MAX, 1, 1), SHOAL_OK);
    assert_int_equal(parse_lengths(SHOAL_BUNDLE_NAME_MAX + 1, 1, 1), SHOAL_E_INVALID);
    assert_int_equal(parse_lengths(1, SHOAL_BUNDLE_TEST_IDS_MAX, 1), SHOAL_OK);
    assert_int_equal(parse_lengths(1, SHOAL_BUNDLE_TEST_IDS_MAX + 1, 1), SHOAL_E_INVALID);
    assert_int_equal(parse_lengths(1, 1, SHOAL_BUNDLE_TEST_ANSWER_MAX), SHOAL_OK);
    assert_int_equal(parse_lengths(1, 1, SHOAL_BUNDLE_TEST_ANSWER_MAX + 1), SHOAL_E_INVALID);
    SHOAL_CLEANUP(shoal_free_cleanup)
    char *long_text = shoal_calloc(SHOAL_BUNDLE_MANIFEST_MAX + 1, 1);
    shoal_bundle *b = NULL;
    assert_int_equal(shoal_bundle_parse(long_text, SHOAL_BUNDLE_MANIFEST_MAX, &b, NULL),
                     SHOAL_E_INVALID);
    assert_int_equal(shoal_bundle_parse(long_text, SHOAL_BUNDLE_MANIFEST_MAX + 1, &b, NULL),
                     SHOAL_E_LIMIT);
}

static void test_manifest_truncated_is_refused(void **state)
{
    (void)state;
    static const char text[] = HEAD MODEL TEST TEST;
    for (size_t n = 1; n < sizeof text - 1; n++) {
        shoal_bundle *b = NULL;
        shoal_status status = shoal_bundle_parse(text, n, &b, NULL);
        /* Whole lines but for the last test are a manifest, of another signature. */
        bool whole = n == sizeof text - sizeof TEST;
        assert_int_equal(status, whole ? SHOAL_OK : SHOAL_E_INVALID);
        shoal_bundle_free(b);
    }
}

static void test_admit_family_serial_program(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = NULL;
    static const char text[] =
        "shoal-bundle 1\nfamily minnow\nversion 1\nserial 7\nprogram 1.2.3\n" MODEL TEST;
    assert_int_equal(shoal_bundle_parse(text, sizeof text - 1, &b, NULL), SHOAL_OK);
    static const struct {
        const char *family;
        uint64_t have;
        uint32_t program[3];
        bool fine;
    } rows[] = {
        {"minnow", 0, {1, 2, 3}, true},  {"", 6, {1, 2, 3}, true},
        {"minnow", 7, {1, 2, 3}, false}, {"minnow", 8, {1, 2, 3}, false},
        {"perch", 0, {1, 2, 3}, false},  {"minnow", 6, {1, 2, 2}, false},
        {"minnow", 6, {1, 1, 9}, false}, {"minnow", 6, {0, 9, 9}, false},
        {"minnow", 6, {1, 3, 0}, true},  {"minnow", 6, {2, 0, 0}, true},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status =
            shoal_bundle_admit(b, rows[i].family, rows[i].have, rows[i].program, &err);
        assert_int_equal(status, rows[i].fine ? SHOAL_OK : SHOAL_E_MISMATCH);
        assert_true(rows[i].fine || err.text[0]);
    }
}

/* A signed manifest: every byte of text and signature flipped, cut, and keys that did not sign. */
static void test_signature_each_byte_counts(void **state)
{
    (void)state;
    make_key("maker", false);
    make_key("other", false);
    char text[] = HEAD MODEL TEST;
    size_t n = sizeof text - 1;
    uint8_t signature[SHOAL_BUNDLE_SIGNATURE_BYTES];
    shoal_err err = SHOAL_ERR_INIT;
    char *key = in_folder("maker.pem");
    char *trusted = in_folder("maker.pub.pem");
    char *others = in_folder("other.pub.pem");
    shoal_bundle_keys *keys = NULL;
    shoal_bundle_keys *wrong = NULL;
    assert_int_equal(shoal_bundle_sign(key, text, n, signature, &err), SHOAL_OK);
    assert_int_equal(shoal_bundle_keys_read(trusted, &keys, &err), SHOAL_OK);
    assert_int_equal(shoal_bundle_keys_read(others, &wrong, &err), SHOAL_OK);
    assert_int_equal(shoal_bundle_verify(keys, text, n, signature, sizeof signature, &err),
                     SHOAL_OK);
    assert_int_equal(shoal_bundle_verify(wrong, text, n, signature, sizeof signature, NULL),
                     SHOAL_E_AUTH);
    assert_int_equal(shoal_bundle_verify(keys, text, n - 1, signature, sizeof signature, NULL),
                     SHOAL_E_AUTH);
    for (size_t i = 0; i < SHOAL_BUNDLE_SIGNATURE_BYTES; i++) {
        assert_int_equal(shoal_bundle_verify(keys, text, n, signature, i, NULL), SHOAL_E_AUTH);
    }
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            text[i] = (char)(text[i] ^ (1 << bit));
            assert_int_equal(shoal_bundle_verify(keys, text, n, signature, sizeof signature, NULL),
                             SHOAL_E_AUTH);
            text[i] = (char)(text[i] ^ (1 << bit));
        }
    }
    for (size_t i = 0; i < sizeof signature; i++) {
        for (int bit = 0; bit < 8; bit++) {
            signature[i] = (uint8_t)(signature[i] ^ (1 << bit));
            assert_int_equal(shoal_bundle_verify(keys, text, n, signature, sizeof signature, NULL),
                             SHOAL_E_AUTH);
            signature[i] = (uint8_t)(signature[i] ^ (1 << bit));
        }
    }
    shoal_bundle_keys_free(keys);
    shoal_bundle_keys_free(wrong);
    shoal_free(key);
    shoal_free(trusted);
    shoal_free(others);
}

static shoal_status read_keys(const char *name)
{
    char *path = in_folder(name);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_bundle_keys *keys = NULL;
    shoal_status status = shoal_bundle_keys_read(path, &keys, &err);
    assert_true(status == SHOAL_OK || err.text[0]);
    shoal_bundle_keys_free(keys);
    shoal_free(path);
    return status;
}

static void test_keys_of_other_kinds_and_too_many(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf many = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf one = {0};
    shoal_err err = SHOAL_ERR_INIT;
    uint8_t signature[SHOAL_BUNDLE_SIGNATURE_BYTES];
    make_key("one", false);
    make_key("rsa", true);
    char *path = in_folder("one.pub.pem");
    assert_int_equal(shoal_file_read(path, 4096, &one, &err), SHOAL_OK);
    for (size_t i = 1; i <= SHOAL_BUNDLE_KEYS_MAX + 1; i++) {
        assert_int_equal(shoal_buf_append(&many, one.data, one.length), SHOAL_OK);
        write_text("many.pem", many.data, many.length);
        assert_int_equal(read_keys("many.pem"),
                         i <= SHOAL_BUNDLE_KEYS_MAX ? SHOAL_OK : SHOAL_E_LIMIT);
    }
    shoal_free(path);
    assert_int_equal(read_keys("rsa.pub.pem"), SHOAL_E_INVALID);
    assert_int_equal(read_keys("one.pem"), SHOAL_E_INVALID); /* a private key is none */
    assert_int_equal(read_keys("none.pem"), SHOAL_E_NOTFOUND);
    write_text("empty.pem", "", 0);
    assert_int_equal(read_keys("empty.pem"), SHOAL_E_INVALID);
    write_text("cut.pem", one.data, one.length / 2);
    assert_int_equal(read_keys("cut.pem"), SHOAL_E_INVALID);
    path = in_folder("rsa.pem");
    assert_int_equal(shoal_bundle_sign(path, "x", 1, signature, NULL), SHOAL_E_INVALID);
    shoal_free(path);
    path = in_folder("one.pub.pem");
    assert_int_equal(shoal_bundle_sign(path, "x", 1, signature, NULL), SHOAL_E_INVALID);
    shoal_free(path);
}

/* A folder as shoal-forge makes it, and what is done to it. */
static void test_folder_files_are_what_was_signed(void **state)
{
    (void)state;
    static const char content[] = "not a model";
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *made = shoal_calloc(1, sizeof *made);
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *read = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_bundle_keys_freep) shoal_bundle_keys *keys = NULL;
    uint8_t signature[SHOAL_BUNDLE_SIGNATURE_BYTES];
    shoal_err err = SHOAL_ERR_INIT;
    make_key("maker", false);
    char *key = in_folder("maker.pem");
    char *trusted = in_folder("maker.pub.pem");
    char *path = in_folder("a.gguf");
    write_text("a.gguf", content, sizeof content);
    assert_int_equal(shoal_bundle_parse(HEAD MODEL TEST, strlen(HEAD MODEL TEST), &read, &err),
                     SHOAL_OK);
    *made = *read;
    assert_int_equal(
        shoal_bundle_measure(path, NULL, &made->files[0].n_bytes, &made->files[0].hash, &err),
        SHOAL_OK);
    assert_int_equal(made->files[0].n_bytes, sizeof content);
    assert_int_equal(shoal_bundle_print(made, &text, &err), SHOAL_OK);
    assert_int_equal(shoal_bundle_sign(key, text.data, text.length, signature, &err), SHOAL_OK);
    write_text(SHOAL_BUNDLE_MANIFEST, text.data, text.length);
    write_text(SHOAL_BUNDLE_SIGNATURE, signature, sizeof signature);
    assert_int_equal(shoal_bundle_keys_read(trusted, &keys, &err), SHOAL_OK);
    shoal_bundle_free(SHOAL_STEAL(read));
    assert_int_equal(shoal_bundle_open(folder, keys, NULL, NULL, &read, &err), SHOAL_OK);
    assert_int_equal(shoal_bundle_check_files(read, folder, NULL, &err), SHOAL_OK);
    atomic_bool stop;
    atomic_init(&stop, true);
    assert_int_equal(shoal_bundle_check_files(read, folder, &stop, NULL), SHOAL_E_CANCELLED);
    for (size_t i = 0; i < sizeof content; i++) {
        char other[sizeof content];
        memcpy(other, content, sizeof content);
        other[i] ^= 1;
        write_text("a.gguf", other, sizeof other);
        assert_int_equal(shoal_bundle_check_files(read, folder, NULL, NULL), SHOAL_E_INVALID);
    }
    write_text("a.gguf", content, sizeof content - 1);
    assert_int_equal(shoal_bundle_check_files(read, folder, NULL, NULL), SHOAL_E_INVALID);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(shoal_bundle_check_files(read, folder, NULL, NULL), SHOAL_E_NOTFOUND);
    write_text("elsewhere", content, sizeof content);
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_int_equal(shoal_bundle_check_files(read, folder, NULL, NULL), SHOAL_E_IO);
    shoal_free(path);
    shoal_free(key);
    shoal_free(trusted);
}

static void test_memory_failing_leaves_nothing(void **state)
{
    (void)state;
    shoal_bundle *b = NULL;
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_bundle_parse(HEAD MODEL TEST, strlen(HEAD MODEL TEST), &b, NULL),
                     SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_null(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest_prints_as_it_was_read),
        cmocka_unit_test(test_manifest_hostile_is_refused),
        cmocka_unit_test(test_manifest_limits),
        cmocka_unit_test(test_manifest_truncated_is_refused),
        cmocka_unit_test(test_admit_family_serial_program),
        cmocka_unit_test_setup_teardown(test_signature_each_byte_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keys_of_other_kinds_and_too_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_folder_files_are_what_was_signed, set_up, tear_down),
        cmocka_unit_test(test_memory_failing_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
