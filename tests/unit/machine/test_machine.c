/* SPDX-License-Identifier: Apache-2.0
 *
 * Measuring says something sane and leaves nothing behind; how fast anything is, no test asserts.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/machine/about.h"
#include "common/machine/flash.h"
#include "common/machine/peak.h"
#include "common/machine/rate.h"
#include "common/machine/timing.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void count(void *context)
{
    (*(size_t *)context)++;
}

static void test_timing_runs_what_it_says(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 3; n++) {
        size_t n_runs = 0;
        const shoal_timing_settings settings = {.n_repeats_min = n, .n_repeats_max = n};
        shoal_timing t = shoal_timing_measure(&settings, count, &n_runs);
        assert_int_equal(t.n_repeats, n);
        assert_int_equal(n_runs, 1 + t.n_repeats * t.n_runs); /* one to see how long it takes */
        assert_true(t.p10_s <= t.median_s && t.median_s <= t.p90_s);
    }
    size_t n_runs = 0;
    const shoal_timing_settings wall = {
        .warmup_s = 1e-4, .total_s = 1e-3, .batch_s = 1e-4, .n_repeats_max = 10, .wall = true};
    shoal_timing t = shoal_timing_measure(&wall, count, &n_runs);
    assert_true(t.n_repeats >= 1 && t.n_repeats <= 10 && n_runs >= t.n_repeats * t.n_runs);
}

static void test_fit_is_the_line_through_both(void **state)
{
    (void)state;
    const double bytes[2] = {1e5, 4e6};
    const shoal_rate want = {.fixed_us = 3, .gb_s = 12.5};
    const double seconds[2] = {shoal_rate_seconds(&want, bytes[0]),
                               shoal_rate_seconds(&want, bytes[1])};
    shoal_rate got = shoal_rate_fit(bytes, seconds);
    assert_true(fabs(got.fixed_us - 3) < 1e-6 && fabs(got.gb_s - 12.5) < 1e-6);
    for (size_t i = 0; i < 2; i++) {
        assert_true(fabs(shoal_rate_seconds(&got, bytes[i]) / seconds[i] - 1) < 1e-9);
    }
}

static void test_fit_of_odd_times_stays_in_range(void **state)
{
    (void)state;
    const double bytes[2] = {1e5, 4e6};
    const double odd[][2] = {{1e-3, 1e-4}, {1e-4, 1e-4}, {1e-7, 1e-3}, {0, 0}, {0, 1e-3}};
    for (size_t i = 0; i < SHOAL_COUNT(odd); i++) {
        shoal_rate got = shoal_rate_fit(bytes, odd[i]);
        assert_true(got.fixed_us >= 0 && got.gb_s > 0 && isfinite(got.gb_s));
        double large = shoal_rate_seconds(&got, bytes[1]);
        assert_true(fabs(large - odd[i][1]) <= 1e-9);
        assert_true(shoal_rate_seconds(&got, 2e5) < shoal_rate_seconds(&got, 3e5));
    }
}

static void test_every_weight_has_a_rate(void **state)
{
    (void)state;
    shoal_kernels kernels;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    static const size_t widths[] = {1, 5, SHOAL_RATE_COLS_MAX};
    shoal_kernels_init(&kernels, shoal_cpu_detect());
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    const shoal_rate_settings settings = {
        .kernels = &kernels, .pool = pool, .set_bytes = SHOAL_RATE_SET_MIN};
    size_t n = 0;
    for (uint32_t t = 0; t < SHOAL_TYPES_END; t++) {
        shoal_rate rates[SHOAL_COUNT(widths)];
        if (!shoal_type_find(t) || t == SHOAL_TYPE_I32) {
            continue;
        }
        assert_int_equal(
            shoal_rate_measure(&settings, (shoal_type)t, widths, SHOAL_COUNT(widths), rates, NULL),
            SHOAL_OK);
        for (size_t i = 0; i < SHOAL_COUNT(widths); i++) {
            assert_true(rates[i].fixed_us >= 0 && rates[i].gb_s > 0 && isfinite(rates[i].gb_s));
        }
        n++;
    }
    assert_int_equal(n, 41);
    shoal_rate none;
    assert_int_not_equal(shoal_rate_measure(&settings, SHOAL_TYPE_I32, widths, 1, &none, NULL),
                         SHOAL_OK);
}

static void test_rate_without_memory_is_an_error(void **state)
{
    (void)state;
    shoal_kernels kernels;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    const size_t width = 1;
    shoal_rate rate;
    shoal_kernels_init(&kernels, shoal_cpu_detect());
    assert_int_equal(shoal_pool_new(1, &pool), SHOAL_OK);
    const shoal_rate_settings settings = {
        .kernels = &kernels, .pool = pool, .set_bytes = SHOAL_RATE_SET_MIN};
    shoal_status status = SHOAL_E_NOMEM;
    uint64_t fail = 0;
    for (; status != SHOAL_OK && fail < 200; fail++) {
        shoal_mem_fail_at(fail);
        status = shoal_rate_measure(&settings, SHOAL_TYPE_Q8_0, &width, 1, &rate, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
    }
    assert_true(fail > 10 && fail < 200);
}

static void test_flash_is_read_and_nothing_stays(void **state)
{
    (void)state;
    char folder[] = "/tmp/shoal-machine-XXXXXX";
    double rate = 0;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(shoal_flash_measure(folder, SHOAL_FLASH_PIECE, &rate, NULL), SHOAL_OK);
    assert_true(rate > 0 && isfinite(rate));
    assert_int_equal(rmdir(folder), 0); /* it is empty */
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_flash_measure(folder, SHOAL_FLASH_PIECE, &rate, &err), SHOAL_E_IO);
    assert_non_null(strstr(err.text, folder));
    char deep[5000];
    memset(deep, 'd', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    assert_int_equal(shoal_flash_measure(deep, SHOAL_FLASH_PIECE, &rate, &err), SHOAL_E_LIMIT);
}

static void test_peaks_and_name(void **state)
{
    (void)state;
    char name[SHOAL_MACHINE_NAME_MAX];
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(1, &pool), SHOAL_OK);
    shoal_peak *peak = shoal_peak_new(pool);
    assert_non_null(peak);
    assert_true(shoal_peak_read(peak) > 0);
    bool vectors = shoal_cpu_detect() & (SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512);
    assert_int_equal(shoal_peak_int8(peak) > 0, vectors);
    assert_int_equal(shoal_peak_float(peak) > 0, vectors);
    shoal_peak_free(peak);
    shoal_machine_cpu_name(name);
    assert_true(strlen(name) > 0);
    for (const char *c = name; *c; c++) {
        assert_true(*c >= 0x20 && *c <= 0x7E);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timing_runs_what_it_says),
        cmocka_unit_test(test_fit_is_the_line_through_both),
        cmocka_unit_test(test_fit_of_odd_times_stays_in_range),
        cmocka_unit_test(test_every_weight_has_a_rate),
        cmocka_unit_test(test_rate_without_memory_is_an_error),
        cmocka_unit_test(test_flash_is_read_and_nothing_stays),
        cmocka_unit_test(test_peaks_and_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
