/* SPDX-License-Identifier: Apache-2.0
 *
 * Moments against sums written out, and files that are not what they say.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/compress/moments.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    K = 12,
    WIDE = 7,
    N = 40,
    CUT = 13,
    STRIDE = 15
};

static char path[] = "/tmp/shoal-test-moments-XXXXXX";
static const shoal_hash model = {.bytes = {7, 7}};
static float x[N * STRIDE];
static float wide[N * WIDE];

static int group_setup(void **state)
{
    (void)state;
    uint64_t rng = 11;
    int fd = mkstemp(path);
    for (size_t i = 0; i < SHOAL_COUNT(x); i++) {
        x[i] = test_signed(&rng);
    }
    for (size_t i = 0; i < SHOAL_COUNT(wide); i++) {
        wide[i] = test_signed(&rng);
    }
    return fd < 0 ? -1 : close(fd);
}

static int group_teardown(void **state)
{
    (void)state;
    return unlink(path);
}

/* q and k read x, o reads wide; in two pieces, as a text of two windows. */
static shoal_status collect_piece(shoal_moments *m, size_t i, shoal_err *err)
{
    size_t from = i ? CUT : 0;
    size_t n = i ? N - CUT : CUT;
    const float *at = x + from * STRIDE;
    SHOAL_TRY(shoal_moments_add(m, "q", 0, 5, false, K, n, at, STRIDE, err));
    SHOAL_TRY(shoal_moments_add(m, "k", 8, 3, true, K, n, at, STRIDE, err));
    return shoal_moments_add(m, "o", 0, 4, false, WIDE, n, wide + from * WIDE, WIDE, err);
}

static shoal_status collect(shoal_moments *m, shoal_err *err)
{
    SHOAL_TRY(collect_piece(m, 0, err));
    return collect_piece(m, 1, err);
}

static shoal_status write_file(shoal_err *err)
{
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    SHOAL_TRY(shoal_moments_new(&model, 1 << 20, &m));
    SHOAL_TRY(collect(m, err));
    return shoal_moments_write(m, path, err);
}

/* The same with an interruption between the pieces; run_there is what goes on. */
static shoal_status collect_again(const shoal_hash *run_here, const shoal_hash *run_there,
                                  uint64_t limit_bytes, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *before = NULL;
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    uint32_t done = 0;
    SHOAL_TRY(shoal_moments_new(&model, 1 << 20, &before));
    SHOAL_TRY(collect_piece(before, 0, err));
    SHOAL_TRY(shoal_moments_save(before, run_here, CUT, path, err));
    SHOAL_TRY(collect_piece(before, 1, err)); /* it is not finished by that */
    SHOAL_TRY(shoal_moments_resume(path, &model, run_there, limit_bytes, &m, &done, err));
    assert_int_equal(done, CUT);
    SHOAL_TRY(collect_piece(m, 1, err));
    return shoal_moments_write(m, path, err);
}

/* Plainly: a file that is damaged a thousand times need not reach the disk. */
static void put_bytes(const char *data, size_t n)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static shoal_status open_file(const shoal_hash *hash, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    return shoal_moments_open(path, hash, &m, err);
}

static void check_input(shoal_moments_input in, size_t k, const float *rows, size_t stride)
{
    assert_int_equal(in.k, k);
    assert_int_equal(in.n, N);
    for (size_t a = 0; a < k; a++) {
        float max = 0;
        for (size_t b = 0; b < k; b++) {
            double sum = 0;
            for (size_t i = 0; i < N; i++) {
                sum += (double)rows[i * stride + a] * (double)rows[i * stride + b];
            }
            assert_true(fabs(sum - (double)in.moment[a * k + b]) < 1e-4);
        }
        for (size_t i = 0; i < N; i++) {
            max = fmaxf(max, fabsf(rows[i * stride + a]));
        }
        assert_true(in.max[a] == max);
    }
}

static void test_what_was_added_is_what_is_read(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    static const char *const names[] = {"q", "k", "o"};
    static const size_t numbers[][3] = {{0, 5, 0}, {8, 3, 0}, {0, 4, 1}};
    assert_int_equal(write_file(NULL), SHOAL_OK);
    assert_int_equal(shoal_moments_open(path, &model, &m, NULL), SHOAL_OK);
    assert_int_equal(shoal_moments_n_layers(m), 3);
    assert_int_equal(shoal_moments_n_inputs(m), 2);
    for (size_t i = 0; i < 3; i++) {
        const shoal_moments_layer *l = shoal_moments_layer_at(m, i);
        assert_string_equal(l->name, names[i]);
        assert_int_equal(l->row, numbers[i][0]);
        assert_int_equal(l->n_rows, numbers[i][1]);
        assert_int_equal(l->input, numbers[i][2]);
    }
    check_input(shoal_moments_input_at(m, 0), K, x, STRIDE);
    check_input(shoal_moments_input_at(m, 1), WIDE, wide, WIDE);
}

static void test_an_interruption_changes_no_byte(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf whole = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_hash run = {.bytes = {1}};
    const shoal_hash other = {.bytes = {2}};
    const uint64_t need = (K * K + K + WIDE * WIDE + WIDE) * sizeof(float);
    assert_int_equal(write_file(NULL), SHOAL_OK);
    assert_int_equal(shoal_file_read(path, 1 << 20, &whole, NULL), SHOAL_OK);
    assert_int_equal(collect_again(&run, &run, need, NULL), SHOAL_OK);
    assert_int_equal(shoal_file_read(path, 1 << 20, &again, NULL), SHOAL_OK);
    assert_int_equal(again.length, whole.length);
    assert_memory_equal(again.data, whole.data, whole.length);
    assert_int_equal(collect_again(&run, &other, need, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "another text"));
    shoal_err_clear(&err);
    assert_int_equal(collect_again(&run, &run, need - 1, &err), SHOAL_E_LIMIT);
    assert_int_not_equal(err.text[0], 0);
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL; /* what is whole is not a state */
    uint32_t done = 0;
    assert_int_equal(write_file(NULL), SHOAL_OK);
    assert_int_not_equal(shoal_moments_resume(path, &model, &run, need, &m, &done, NULL), SHOAL_OK);
}

static void test_another_model_is_a_mismatch(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_hash other = {.bytes = {7, 8}};
    assert_int_equal(write_file(NULL), SHOAL_OK);
    assert_int_equal(open_file(&other, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "another model"));
}

static void test_memory_has_a_limit(void **state)
{
    (void)state;
    const uint64_t need = (K * K + K + WIDE * WIDE + WIDE) * sizeof(float);
    for (uint64_t i = 0; i < 3; i++) {
        SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_moments_new(&model, need - 1 + i, &m), SHOAL_OK);
        assert_int_equal(collect(m, &err), i == 0 ? SHOAL_E_LIMIT : SHOAL_OK);
        assert_int_equal(err.text[0] != 0, i == 0);
    }
}

static void test_widths_and_names_have_limits(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    char name[SHOAL_GGUF_NAME_MAX + 1] = {0};
    memset(name, 'n', SHOAL_GGUF_NAME_MAX);
    assert_int_equal(shoal_moments_new(&model, UINT64_MAX, &m), SHOAL_OK);
    assert_int_equal(shoal_moments_add(m, "w", 0, 1, false, SHOAL_MOMENTS_WIDTH_MAX + 1, 0, x,
                                       SHOAL_MOMENTS_WIDTH_MAX + 1, NULL),
                     SHOAL_E_LIMIT);
    assert_int_equal(shoal_moments_add(m, name, 0, 1, false, 1, 1, x, 1, NULL), SHOAL_E_LIMIT);
    name[SHOAL_GGUF_NAME_MAX - 1] = 0;
    assert_int_equal(shoal_moments_add(m, name, 0, 1, false, 1, 1, x, 1, NULL), SHOAL_OK);
}

static void test_what_is_not_finite_is_not_written(void **state)
{
    (void)state;
    float bad[3] = {1, NAN, 2};
    for (size_t i = 0; i < 3; i++) {
        SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
        bad[1] = i == 0 ? NAN : i == 1 ? INFINITY : 3e30F;
        assert_int_equal(shoal_moments_new(&model, 1 << 20, &m), SHOAL_OK);
        assert_int_equal(shoal_moments_add(m, "w", 0, 1, false, 3, 1, bad, 3, NULL), SHOAL_OK);
        assert_int_equal(shoal_moments_write(m, path, NULL), SHOAL_E_INVALID);
    }
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *none = NULL;
    assert_int_equal(shoal_moments_new(&model, 1 << 20, &none), SHOAL_OK);
    assert_int_equal(shoal_moments_write(none, path, NULL), SHOAL_E_INVALID);
}

/* Every byte counts but those between tensors and those of the format's own freedom: what opens
 * has the same numbers. */
static void test_a_changed_or_shortened_file_is_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    assert_int_equal(write_file(NULL), SHOAL_OK);
    assert_int_equal(shoal_file_read(path, 1 << 20, &file, NULL), SHOAL_OK);
    size_t n_opened = 0;
    for (size_t i = 0; i < file.length; i++) {
        SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
        file.data[i] = (char)(file.data[i] ^ 0x41);
        put_bytes(file.data, file.length);
        file.data[i] = (char)(file.data[i] ^ 0x41);
        if (shoal_moments_open(path, &model, &m, NULL) == SHOAL_OK) {
            n_opened++;
            assert_int_equal(shoal_moments_n_layers(m), 3);
            check_input(shoal_moments_input_at(m, 0), K, x, STRIDE);
            check_input(shoal_moments_input_at(m, 1), WIDE, wide, WIDE);
        }
    }
    assert_true(n_opened < 200); /* padding */
    for (size_t n = 0; n < file.length; n += n < 64 ? 1 : 37) {
        put_bytes(file.data, n);
        assert_int_not_equal(open_file(&model, NULL), SHOAL_OK);
    }
}

/* What is cut is what would have been collected of those elements alone; others stay as they are.
 */
static void test_a_cut_keeps_what_it_names(void **state)
{
    (void)state;
    static const size_t cols[] = {1, 2, 6};
    float some[N * SHOAL_COUNT(cols)];
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    for (size_t i = 0; i < SHOAL_COUNT(some); i++) {
        some[i] = wide[i / SHOAL_COUNT(cols) * WIDE + cols[i % SHOAL_COUNT(cols)]];
    }
    assert_int_equal(write_file(NULL), SHOAL_OK);
    assert_int_equal(shoal_moments_open(path, &model, &m, NULL), SHOAL_OK);
    shoal_mem_fail_at(1);
    assert_int_equal(shoal_moments_cut(m, 2, 1, 3, cols, SHOAL_COUNT(cols)), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_int_equal(shoal_moments_layer_at(m, 2)->n_rows, 4);
    assert_int_equal(shoal_moments_cut(m, 2, 1, 3, cols, SHOAL_COUNT(cols)), SHOAL_OK);
    assert_int_equal(shoal_moments_cut(m, 1, 2, 1, NULL, 0), SHOAL_OK);
    assert_int_equal(shoal_moments_layer_at(m, 2)->row, 1);
    assert_int_equal(shoal_moments_layer_at(m, 2)->n_rows, 3);
    assert_int_equal(shoal_moments_layer_at(m, 1)->row, 2);
    assert_int_equal(shoal_moments_layer_at(m, 1)->n_rows, 1);
    assert_int_equal(shoal_moments_layer_at(m, 0)->n_rows, 5);
    check_input(shoal_moments_input_at(m, 0), K, x, STRIDE);
    check_input(shoal_moments_input_at(m, 1), SHOAL_COUNT(cols), some, SHOAL_COUNT(cols));
    assert_int_equal(shoal_moments_cut(m, 2, 0, 3, cols, 1), SHOAL_OK); /* once more */
    assert_int_equal(shoal_moments_input_at(m, 1).k, 1);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    bool done = false;
    for (uint64_t i = 0; !done; i++) {
        assert_true(i < 1000);
        shoal_mem_fail_at(i);
        shoal_status status = write_file(NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        done = status == SHOAL_OK;
    }
    done = false;
    for (uint64_t i = 0; !done; i++) {
        assert_true(i < 1000);
        shoal_mem_fail_at(i);
        shoal_status status = open_file(&model, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        done = status == SHOAL_OK;
    }
    done = false;
    for (uint64_t i = 0; !done; i++) {
        const shoal_hash id = {.bytes = {1}};
        assert_true(i < 1000);
        shoal_mem_fail_at(i);
        shoal_status status = collect_again(&id, &id, 1 << 20, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        done = status == SHOAL_OK;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_added_is_what_is_read),
        cmocka_unit_test(test_an_interruption_changes_no_byte),
        cmocka_unit_test(test_another_model_is_a_mismatch),
        cmocka_unit_test(test_memory_has_a_limit),
        cmocka_unit_test(test_widths_and_names_have_limits),
        cmocka_unit_test(test_what_is_not_finite_is_not_written),
        cmocka_unit_test(test_a_changed_or_shortened_file_is_refused),
        cmocka_unit_test(test_a_cut_keeps_what_it_names),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
