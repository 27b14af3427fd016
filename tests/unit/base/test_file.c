/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/macros.h"
#include "common/base/mem.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256];
static char path[300];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/shoal-file-XXXXXX", base ? base : P_tmpdir);
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/thing", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(folder);
}

static void put(const char *text)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_file_write(path, text, strlen(text), &err), SHOAL_OK);
}

static void test_write_then_read_gives_the_same_bytes(void **state)
{
    (void)state;
    enum {
        N = 100000
    };
    SHOAL_CLEANUP(shoal_free_cleanup) unsigned char *bytes = shoal_calloc(N, 1);
    for (size_t i = 0; i < N; i++) {
        bytes[i] = (unsigned char)(i * 31 >> 3);
    }
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_file_write(path, bytes, N, &err), SHOAL_OK);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_buf_append(&buf, "+", 1), SHOAL_OK);
    assert_int_equal(shoal_file_read(path, N, &buf, &err), SHOAL_OK);
    assert_int_equal(buf.length, N + 1);
    assert_memory_equal(buf.data + 1, bytes, N);
}

static void test_read_at_the_limit_passes_and_past_it_names_it(void **state)
{
    (void)state;
    put("12345678");
    for (size_t limit = 7; limit <= 9; limit++) {
        shoal_err err = SHOAL_ERR_INIT;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        assert_int_equal(shoal_buf_append(&buf, "ab", 2), SHOAL_OK);
        shoal_status status = shoal_file_read(path, limit, &buf, &err);
        if (limit >= 8) {
            assert_int_equal(status, SHOAL_OK);
            assert_string_equal(buf.data, "ab12345678");
        } else {
            assert_int_equal(status, SHOAL_E_LIMIT);
            assert_string_equal(buf.data, "ab");
            assert_non_null(strstr(err.text, "limit of 7 bytes"));
            assert_non_null(strstr(err.text, path));
        }
    }
}

static void test_read_into_a_full_buffer_restores_it(void **state)
{
    (void)state;
    put("12345678");
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = 8};
    assert_int_equal(shoal_buf_append(&buf, "x", 1), SHOAL_OK);
    assert_int_equal(shoal_file_read(path, 100, &buf, &err), SHOAL_E_LIMIT);
    assert_string_equal(buf.data, "x");
}

static void test_read_of_missing_or_odd_files_names_path_and_reason(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    char missing[320];
    (void)snprintf(missing, sizeof missing, "%s/no/such", folder);
    assert_int_equal(shoal_file_read(missing, 10, &buf, &err), SHOAL_E_NOTFOUND);
    assert_non_null(strstr(err.text, missing));
    assert_non_null(strstr(err.text, "No such file"));
    shoal_err_clear(&err);
    assert_int_equal(shoal_file_read(folder, 10, &buf, &err), SHOAL_E_IO);
    assert_non_null(strstr(err.text, "directory"));
    shoal_err_clear(&err);
    assert_int_equal(shoal_file_read("/dev/zero", 4096, &buf, &err), SHOAL_E_LIMIT);
    assert_int_equal(shoal_file_read("/dev/null", 0, &buf, NULL), SHOAL_OK);
    assert_string_equal(buf.data, "");
}

static void test_map_shows_the_bytes_of_a_regular_file(void **state)
{
    (void)state;
    put("mapped");
    shoal_err err = SHOAL_ERR_INIT;
    shoal_map map = {0};
    assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
    assert_int_equal(map.size, 6);
    assert_memory_equal(map.data, "mapped", 6);
    shoal_map_close(&map);
    assert_null(map.data);
    shoal_map_close(&map);
    put("");
    assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    shoal_map_close(&map);
}

/* Pages that were let go come back from the file; the bytes around them never left. */
static void test_forgotten_pages_of_a_map_come_back(void **state)
{
    (void)state;
    enum {
        N = 5 * 4096 + 123
    };
    char *bytes = shoal_calloc(N, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < N; i++) {
        bytes[i] = (char)(i * 31 % 251);
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_map map = {0};
    assert_int_equal(shoal_file_write(path, bytes, N, &err), SHOAL_OK);
    assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
    const size_t ranges[][2] = {{0, N}, {1, N - 1}, {100, 50}, {4095, 2}, {4096, 4096}, {N, 0}};
    for (size_t i = 0; i < SHOAL_COUNT(ranges); i++) {
        shoal_map_forget(map.data + ranges[i][0], ranges[i][1]);
        assert_memory_equal(map.data, bytes, N);
    }
    shoal_map_close(&map);
    shoal_free(bytes);
}

/* Reads a mapping over and over until told to stop; counts bytes that are not what they should be.
 */
typedef struct rereader {
    const uint8_t *data;
    size_t n;
    atomic_bool stop;
    size_t n_wrong;
} rereader;

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 % 251);
}

static void *reread(void *ctx)
{
    rereader *r = ctx;
    do {
        for (size_t i = 0; i < r->n; i += 509) {
            r->n_wrong += r->data[i] != byte_at(i);
        }
    } while (!atomic_load(&r->stop));
    return NULL;
}

static bool kernel_has_huge_pages(void)
{
    return access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0;
}

static void test_huge_pages_change_no_byte_while_others_read(void **state)
{
    (void)state;
    enum {
        HUGE = 2 << 20,
        N = (24 << 20) + 3 * HUGE + 123 /* some pieces */
    };
    uint8_t *bytes = shoal_calloc(N, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < N; i++) {
        bytes[i] = byte_at(i);
    }
    const size_t sizes[] = {0, 1, HUGE - 1, HUGE, 2 * HUGE - 1, 2 * HUGE, N};
    for (size_t s = 0; s < SHOAL_COUNT(sizes); s++) {
        shoal_map map = {0};
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_file_write(path, bytes, sizes[s], &err), SHOAL_OK);
        assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
        rereader r = {.data = map.data, .n = map.size};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, reread, &r), 0);
        bool done = shoal_map_use_huge_pages(&map, NULL);
        assert_true(done || !kernel_has_huge_pages());
        atomic_store(&r.stop, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(r.n_wrong, 0);
        assert_int_equal(map.size, sizes[s]);
        assert_memory_equal(map.data, bytes, sizes[s]);
        shoal_map_close(&map);
    }
    shoal_free(bytes);
}

/* What was copied does not follow the file any more: the proof that something was. */
static void test_huge_pages_are_a_copy(void **state)
{
    (void)state;
    enum {
        HUGE = 2 << 20,
        N = 3 * HUGE
    };
    if (!kernel_has_huge_pages()) {
        skip();
    }
    uint8_t *bytes = shoal_calloc(N, 1);
    assert_non_null(bytes);
    shoal_map map = {0};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_file_write(path, bytes, N, &err), SHOAL_OK);
    assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
    assert_true(shoal_map_use_huge_pages(&map, NULL));
    memset(bytes, 7, N);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, N), N);
    assert_int_equal(close(fd), 0);
    size_t head = (size_t)(-(uintptr_t)map.data % HUGE);
    assert_int_equal(map.data[head], 0);
    assert_int_equal(map.data[head + HUGE], 0);
    shoal_map_close(&map);
    /* Who is told to stop before it begins has copied nothing: the map follows the file. */
    atomic_bool stop = true;
    assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
    assert_false(shoal_map_use_huge_pages(&map, &stop));
    assert_int_equal(map.data[head + HUGE], 7);
    memset(bytes, 9, N);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, N), N);
    assert_int_equal(close(fd), 0);
    assert_int_equal(map.data[head + HUGE], 9);
    shoal_map_close(&map);
    shoal_free(bytes);
}

static void test_map_of_anything_else_is_refused(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_map map = {0};
    assert_int_equal(shoal_map_open(folder, &map, &err), SHOAL_E_INVALID);
    shoal_err_clear(&err);
    assert_int_equal(shoal_map_open("/dev/zero", &map, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "/dev/zero: not a regular file"));
    shoal_err_clear(&err);
    assert_int_equal(shoal_map_open("", &map, &err), SHOAL_E_NOTFOUND);
    assert_null(map.data);
}

static void test_write_keeps_the_mode_and_leaves_no_tmp(void **state)
{
    (void)state;
    put("one");
    assert_int_equal(chmod(path, 0600), 0);
    put("two");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char tmp[320];
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    assert_int_not_equal(access(tmp, F_OK), 0);
}

static void secret_case(const char *text, size_t n, shoal_status status, size_t n_secret)
{
    shoal_err err = SHOAL_ERR_INIT;
    char secret[SHOAL_SECRET_MAX + 1] = "before";
    assert_int_equal(shoal_file_write(path, text, n, &err), SHOAL_OK);
    assert_int_equal(shoal_file_read_secret("a.key_file", path, secret, &err), status);
    if (status == SHOAL_OK) {
        assert_int_equal(strlen(secret), n_secret);
        assert_memory_equal(secret, text, n_secret);
    } else {
        assert_string_equal(secret, "before");
        assert_non_null(strstr(err.text, "a.key_file"));
        assert_non_null(strstr(err.text, path));
    }
    shoal_err_clear(&err);
}

static void test_secret_is_the_first_line_and_nothing_but_visible(void **state)
{
    (void)state;
    secret_case("sesame", 6, SHOAL_OK, 6);
    secret_case("s\n", 2, SHOAL_OK, 1);
    secret_case("sesame\r\nmore\n", 13, SHOAL_OK, 6);
    secret_case("~!\n\x7f\0", 5, SHOAL_OK, 2);
    secret_case("", 0, SHOAL_E_INVALID, 0);
    secret_case("\nsesame", 7, SHOAL_E_INVALID, 0);
    secret_case("two words\n", 10, SHOAL_E_INVALID, 0);
    secret_case("nul\0\n", 5, SHOAL_E_INVALID, 0);
    secret_case("del\x7f\n", 5, SHOAL_E_INVALID, 0);
    secret_case("b\xc3\xa4r\n", 5, SHOAL_E_INVALID, 0);
    SHOAL_CLEANUP(shoal_free_cleanup) char *wide = shoal_calloc(4 * SHOAL_SECRET_MAX, 1);
    memset(wide, 'k', 4 * SHOAL_SECRET_MAX);
    for (size_t n = SHOAL_SECRET_MAX - 1; n <= SHOAL_SECRET_MAX + 1; n++) {
        shoal_status status = n <= SHOAL_SECRET_MAX ? SHOAL_OK : SHOAL_E_INVALID;
        secret_case(wide, n, status, n);
        wide[n] = '\n'; /* and a long file behind it */
        secret_case(wide, 4 * SHOAL_SECRET_MAX, status, n);
        wide[n] = 'k';
    }
    shoal_err err = SHOAL_ERR_INIT;
    char secret[SHOAL_SECRET_MAX + 1];
    assert_int_equal(unlink(path), 0);
    assert_int_equal(shoal_file_read_secret("a.key_file", path, secret, &err), SHOAL_E_NOTFOUND);
    assert_non_null(strstr(err.text, "a.key_file"));
    shoal_err_clear(&err);
    assert_true(shoal_file_read_secret("a.key_file", folder, secret, &err) < 0);
    assert_non_null(strstr(err.text, folder));
}

/* A link left under the temporary name must not be followed. */
static void test_write_does_not_follow_a_planted_link(void **state)
{
    (void)state;
    char tmp[320];
    char victim[320];
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    (void)snprintf(victim, sizeof victim, "%s/victim", folder);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_file_write(victim, "old", 3, &err), SHOAL_OK);
    assert_int_equal(symlink(victim, tmp), 0);
    put("new");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_file_read(victim, 10, &buf, &err), SHOAL_OK);
    assert_string_equal(buf.data, "old");
    assert_int_equal(unlink(victim), 0);
}

static void test_write_into_a_missing_folder_fails_with_words(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    char missing[320];
    (void)snprintf(missing, sizeof missing, "%s/no/such", folder);
    assert_int_equal(shoal_file_write(missing, "x", 1, &err), SHOAL_E_NOTFOUND);
    assert_non_null(strstr(err.text, "cannot create"));
    shoal_err_clear(&err);
}

static void test_pieces_become_one_file_at_commit_only(void **state)
{
    (void)state;
    put("old");
    char tmp[320];
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    for (int commit = 0; commit < 2; commit++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_file_out *out = NULL;
        assert_int_equal(shoal_file_out_open(path, &out, NULL), SHOAL_OK);
        assert_int_equal(shoal_file_out_write(out, "new", 3, NULL), SHOAL_OK);
        assert_int_equal(shoal_file_out_write(out, "", 0, NULL), SHOAL_OK);
        assert_int_equal(shoal_file_out_write(out, "er", 2, NULL), SHOAL_OK);
        if (commit) {
            assert_int_equal(shoal_file_out_commit(out, NULL), SHOAL_OK);
        }
        shoal_file_out_close(out);
        assert_int_equal(shoal_file_read(path, 10, &buf, NULL), SHOAL_OK);
        assert_string_equal(buf.data, commit ? "newer" : "old");
        assert_int_not_equal(access(tmp, F_OK), 0);
    }
    shoal_file_out_close(NULL);
}

static void test_failing_allocations_leave_no_trace(void **state)
{
    (void)state;
    put("kept");
    for (uint64_t i = 0;; i++) {
        assert_true(i < 10);
        shoal_mem_fail_at(i);
        shoal_status status = shoal_file_write(path, "done", 4, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
    for (uint64_t i = 0;; i++) {
        assert_true(i < 10);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_mem_fail_at(i);
        shoal_status status = shoal_file_read(path, 100, &buf, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_string_equal(buf.data, "done");
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

static void test_paths_with_numbers(void **state)
{
    (void)state;
    const struct {
        const char *text;
        const char *path;
        double number;
        bool numbered;
    } rows[] = {
        {"a.gguf", "a.gguf", 0, false},
        {"a=0.5", "a", 0.5, true},
        {"a=b=-2", "a=b", -2, true},
        {"a=", "a=", 0, false},
        {"a=1x", "a=1x", 0, false},
        {"a=inf", "a", (double)INFINITY, true},
        {"=1", "", 1, true},
        {"", "", 0, false},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_free_cleanup) char *got = NULL;
        double number = 7;
        bool numbered = !rows[i].numbered;
        assert_int_equal(shoal_path_numbered(rows[i].text, &got, &number, &numbered, NULL),
                         SHOAL_OK);
        assert_string_equal(got, rows[i].path);
        assert_true(number == rows[i].number && numbered == rows[i].numbered);
    }
    SHOAL_CLEANUP(shoal_free_cleanup) char *got = NULL;
    double number = 0;
    bool numbered = false;
    assert_int_equal(shoal_path_numbered("a=nan", &got, &number, &numbered, NULL), SHOAL_OK);
    assert_true(numbered && isnan(number));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_then_read_gives_the_same_bytes),
        cmocka_unit_test(test_read_at_the_limit_passes_and_past_it_names_it),
        cmocka_unit_test(test_read_into_a_full_buffer_restores_it),
        cmocka_unit_test(test_read_of_missing_or_odd_files_names_path_and_reason),
        cmocka_unit_test(test_map_shows_the_bytes_of_a_regular_file),
        cmocka_unit_test(test_forgotten_pages_of_a_map_come_back),
        cmocka_unit_test(test_huge_pages_change_no_byte_while_others_read),
        cmocka_unit_test(test_huge_pages_are_a_copy),
        cmocka_unit_test(test_map_of_anything_else_is_refused),
        cmocka_unit_test(test_secret_is_the_first_line_and_nothing_but_visible),
        cmocka_unit_test(test_write_keeps_the_mode_and_leaves_no_tmp),
        cmocka_unit_test(test_write_does_not_follow_a_planted_link),
        cmocka_unit_test(test_write_into_a_missing_folder_fails_with_words),
        cmocka_unit_test(test_pieces_become_one_file_at_commit_only),
        cmocka_unit_test(test_paths_with_numbers),
        cmocka_unit_test(test_failing_allocations_leave_no_trace),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
