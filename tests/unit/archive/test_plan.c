/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/archive/archive.h"
#include "common/base/mem.h"
#include "tests/support/random.h"
#include "tests/support/tiny_archive.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static shoal_tiny_archive tiny;

static shoal_status open_plan(const shoal_hash *model, const shoal_kv_shape *shape, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_archive_freep) shoal_archive *archive = NULL;
    assert_int_equal(shoal_archive_plan_write(&tiny.plan, &file, NULL), SHOAL_OK);
    return shoal_archive_open((const uint8_t *)file.data, file.length, model, shape, &archive, err);
}

static void reset(void)
{
    shoal_tiny_archive_init(&tiny, 5, 30, 0.5F);
}

static void test_open_tells_groups_and_hashes(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_archive_freep) shoal_archive *archive = NULL;
    reset();
    assert_int_equal(shoal_archive_plan_write(&tiny.plan, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_archive_open((const uint8_t *)file.data, file.length, &tiny.plan.model,
                                        &tiny.plan.shape, &archive, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_archive_n_groups(archive), 2);
    shoal_archive_group g = shoal_archive_group_at(archive, 1);
    assert_int_equal(g.first_layer, 2);
    assert_int_equal(g.n_layers, 1);
    assert_int_equal(g.n_channels, 36);
    assert_int_equal(g.page_bytes, 36 * 32 * 2);
    assert_int_equal(shoal_archive_group_at(archive, 0).n_kept, 42);
    shoal_hash hash;
    assert_int_equal(shoal_hash_of(file.data, file.length, &hash), SHOAL_OK);
    assert_memory_equal(&hash, shoal_archive_hash(archive), sizeof hash);
}

static void test_another_model_or_shape_is_a_mismatch_that_names_both(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    reset();
    shoal_hash other = {.bytes = {9}};
    assert_int_equal(open_plan(&other, &tiny.plan.shape, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "0707"));
    assert_non_null(strstr(err.text, "0900"));
    for (size_t i = 0; i < 4; i++) {
        shoal_kv_shape shape = tiny.plan.shape;
        shape.n_layers += i == 0;
        shape.n_kv_heads += i == 1;
        shape.k_dim += i == 2 ? 2 : 0;
        shape.v_dim += i == 3 ? 2 : 0;
        assert_int_equal(open_plan(&tiny.plan.model, &shape, NULL), SHOAL_E_MISMATCH);
    }
    shoal_kv_shape q8 = tiny.plan.shape;
    q8.type = SHOAL_KV_Q8T;
    assert_int_equal(open_plan(&tiny.plan.model, &q8, NULL), SHOAL_OK);
    shoal_kv_shape hadamard = tiny.plan.shape;
    hadamard.hadamard = true;
    shoal_err other_basis = SHOAL_ERR_INIT;
    assert_int_equal(open_plan(&tiny.plan.model, &hadamard, &other_basis), SHOAL_E_UNSUPPORTED);
    assert_non_null(strstr(other_basis.text, "Hadamard"));
}

static void refused(shoal_status code)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(open_plan(&tiny.plan.model, &tiny.plan.shape, &err), code);
    assert_int_not_equal(err.text[0], 0);
    reset();
}

static void test_numbers_out_of_range_are_refused(void **state)
{
    (void)state;
    volatile float zero = 0;
    reset();
    tiny.freqs[SHOAL_ARCHIVE_CODE_MAX]++;
    refused(SHOAL_E_INVALID);
    tiny.freqs[SHOAL_ARCHIVE_CODE_MAX] -= tiny.freqs[0] + 1;
    tiny.freqs[0] = -1;
    refused(SHOAL_E_INVALID);
    tiny.freqs[SHOAL_ARCHIVE_CODE_MAX] += tiny.freqs[SHOAL_ARCHIVE_ESCAPE];
    tiny.freqs[SHOAL_ARCHIVE_ESCAPE] = 0;
    refused(SHOAL_E_INVALID);
    tiny.values[3] = zero / zero;
    refused(SHOAL_E_INVALID);
    tiny.groups[0].step[0] = 0;
    refused(SHOAL_E_INVALID);
    tiny.groups[0].step[31] = zero / zero;
    refused(SHOAL_E_INVALID);
    tiny.groups[1].table[2] = SHOAL_TINY_ARCHIVE_TABLES;
    refused(SHOAL_E_INVALID);
    tiny.groups[1].table[2] = -1;
    refused(SHOAL_E_INVALID);
    tiny.groups[1].mean[1] = 2e6F;
    refused(SHOAL_E_INVALID);
    tiny.groups[1].analysis[1] = 1 / zero;
    refused(SHOAL_E_INVALID);
    tiny.freq[1] = 2;
    refused(SHOAL_E_INVALID);
    tiny.rope_of[1] = SHOAL_ARCHIVE_ROPES;
    refused(SHOAL_E_INVALID);
    tiny.plan.rot_at = 5;
    refused(SHOAL_E_INVALID);
    tiny.plan.n_groups = 1;
    refused(SHOAL_E_INVALID);
}

static void test_every_cut_file_is_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    reset();
    assert_int_equal(shoal_archive_plan_write(&tiny.plan, &file, NULL), SHOAL_OK);
    for (size_t n = 0; n < file.length; n += n < 4096 ? 13 : 509) {
        shoal_archive *archive = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(shoal_archive_open((const uint8_t *)file.data, n, &tiny.plan.model,
                                       &tiny.plan.shape, &archive, &err) < 0);
        assert_int_not_equal(err.text[0], 0);
    }
}

/* What daemons and the forge do with a path: the same basis, and errors that name the file. */
static void test_a_basis_is_read_from_its_file(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    char path[] = "/tmp/shoal-basis-XXXXXX";
    shoal_status status = SHOAL_E_NOMEM;
    shoal_hash hash;
    reset();
    assert_int_equal(shoal_archive_plan_write(&tiny.plan, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_hash_of(file.data, file.length, &hash), SHOAL_OK);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file.data, file.length), file.length);
    for (uint64_t n = 0; status == SHOAL_E_NOMEM; n++) {
        SHOAL_CLEANUP(shoal_archive_freep) shoal_archive *archive = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_mem_fail_at(n);
        status = shoal_archive_read(path, &tiny.plan.model, &tiny.plan.shape, &archive, &err);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(n < 1000 && (archive != NULL) == (status == SHOAL_OK));
        if (archive) {
            assert_memory_equal(&hash, shoal_archive_hash(archive), sizeof hash);
        }
    }
    assert_int_equal(status, SHOAL_OK);
    const shoal_hash other = {.bytes = {9}};
    for (size_t round = 0; round < 3; round++) {
        shoal_archive *archive = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(round != 1 || ftruncate(fd, (off_t)file.length - 1) == 0);
        assert_true(round != 2 || unlink(path) == 0);
        assert_true(shoal_archive_read(path, round ? &tiny.plan.model : &other, &tiny.plan.shape,
                                       &archive, &err) < 0);
        assert_null(archive);
        assert_non_null(strstr(err.text, path));
    }
    assert_int_equal(close(fd), 0);
}

static void test_failing_allocations_are_errors(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    shoal_status status = SHOAL_E_NOMEM;
    reset();
    assert_int_equal(shoal_archive_plan_write(&tiny.plan, &file, NULL), SHOAL_OK);
    for (uint64_t n = 0; status == SHOAL_E_NOMEM; n++) {
        SHOAL_CLEANUP(shoal_archive_freep) shoal_archive *archive = NULL;
        SHOAL_CLEANUP(shoal_archive_work_freep) shoal_archive_work *work = NULL;
        shoal_mem_fail_at(n);
        status = shoal_archive_open((const uint8_t *)file.data, file.length, &tiny.plan.model,
                                    &tiny.plan.shape, &archive, NULL);
        status = status == SHOAL_OK ? shoal_archive_work_new(archive, &work) : status;
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(n < 1000);
    }
    assert_int_equal(status, SHOAL_OK);
}

/* --- the dynamic program ---------------------------------------------------------------------- */

enum {
    THINGS = 5,
    CHOICES = 4
};

static double harm_of(const double *harms, const uint32_t *rates, const uint8_t *choices,
                      size_t *ret_rate)
{
    double harm = 0;
    *ret_rate = 0;
    for (size_t i = 0; i < THINGS; i++) {
        harm += harms[i * CHOICES + choices[i]];
        *ret_rate += choices[i] ? rates[i * CHOICES + choices[i]] : 0;
    }
    return harm;
}

static void test_allocation_equals_brute_force(void **state)
{
    (void)state;
    uint64_t rng = 21;
    for (size_t round = 0; round < 200; round++) {
        uint32_t rates[THINGS * CHOICES];
        double harms[THINGS * CHOICES];
        uint8_t got[THINGS];
        size_t budget = shoal_rng_next(&rng) % 30;
        for (size_t i = 0; i < THINGS * CHOICES; i++) {
            rates[i] = (uint32_t)(shoal_rng_next(&rng) % 12);
            harms[i] = (double)test_unit(&rng);
        }
        assert_int_equal(shoal_archive_allocate(THINGS, CHOICES, rates, harms, budget, got),
                         SHOAL_OK);
        double best = THINGS;
        for (size_t code = 0; code < 1024; code++) {
            uint8_t choices[THINGS];
            size_t rate = 0;
            for (size_t i = 0; i < THINGS; i++) {
                choices[i] = (uint8_t)(code >> (2 * i) & 3);
            }
            double harm = harm_of(harms, rates, choices, &rate);
            best = rate <= budget && harm < best ? harm : best;
        }
        size_t rate = 0;
        double harm = harm_of(harms, rates, got, &rate);
        assert_true(rate <= budget);
        assert_true(harm <= best + 1e-12);
    }
}

static void test_frequencies_add_up_and_forget_nothing(void **state)
{
    (void)state;
    uint64_t rng = 4;
    for (size_t round = 0; round < 300; round++) {
        uint64_t counts[SHOAL_ARCHIVE_SYMBOLS] = {0};
        int32_t freqs[SHOAL_ARCHIVE_SYMBOLS];
        int32_t sum = 0;
        for (size_t s = 0; s < SHOAL_ARCHIVE_SYMBOLS && round > 0; s++) {
            uint64_t r = shoal_rng_next(&rng);
            counts[s] = r % 3 ? (r >> 8) % (round < 100 ? 2 : 1000) : s == round % 64 ? r >> 30 : 0;
        }
        shoal_archive_frequencies(counts, freqs);
        for (size_t s = 0; s < SHOAL_ARCHIVE_SYMBOLS; s++) {
            bool sure = s == SHOAL_ARCHIVE_ESCAPE || s == SHOAL_ARCHIVE_CODE_MAX;
            assert_int_equal(freqs[s] > 0, counts[s] > 0 || sure);
            assert_true(freqs[s] >= 0 && freqs[s] < SHOAL_ARCHIVE_TOTAL);
            sum += freqs[s];
        }
        assert_int_equal(sum, SHOAL_ARCHIVE_TOTAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_tells_groups_and_hashes),
        cmocka_unit_test(test_another_model_or_shape_is_a_mismatch_that_names_both),
        cmocka_unit_test(test_numbers_out_of_range_are_refused),
        cmocka_unit_test(test_every_cut_file_is_refused),
        cmocka_unit_test(test_a_basis_is_read_from_its_file),
        cmocka_unit_test(test_failing_allocations_are_errors),
        cmocka_unit_test(test_allocation_equals_brute_force),
        cmocka_unit_test(test_frequencies_add_up_and_forget_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
