/* SPDX-License-Identifier: Apache-2.0
 *
 * A machine's profile written and read back, and files that somebody has changed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/profile.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static forge_profile made;
static forge_profile got;

static int group_setup(void **state)
{
    (void)state;
    (void)snprintf(made.cpu, sizeof made.cpu, "A \"quoted\" processor");
    (void)snprintf(made.tier, sizeof made.tier, "avx2");
    memset(made.model, 'a', SHOAL_HASH_HEX - 1);
    made.n_cpus = 8;
    made.set_mib = 3.5;
    made.n_runs = 2;
    for (size_t r = 0; r < made.n_runs; r++) {
        forge_profile_run *run = &made.runs[r];
        run->n_threads = 1 + r;
        run->read_gb_s = 10.25 * (double)(1 + r);
        run->step_ms = 0.125;
        for (uint32_t t = 0; t < SHOAL_TYPES_END; t++) {
            for (size_t w = 0; shoal_forge_profile_type(t) && w < FORGE_PROFILE_WIDTHS; w++) {
                run->rates[t][w] = (shoal_rate){.fixed_us = (double)w, .gb_s = 1 + (double)t / 4};
            }
        }
    }
    return 0;
}

static void test_what_is_written_is_read(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
    assert_int_equal(shoal_forge_profile_json(&made, &text), SHOAL_OK);
    assert_int_equal(shoal_forge_profile_parse("p", text.data, text.length, &got, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_profile_json(&got, &again), SHOAL_OK);
    assert_string_equal(text.data, again.data);
    assert_non_null(strstr(text.data, "\"FP8\"")); /* under the name people know */
    assert_null(strstr(text.data, "\"I8\""));
    assert_string_equal(got.cpu, made.cpu);
    assert_true(!(got.flash_gb_s > 0) && !(got.runs[0].int8_gop_s > 0)); /* null is not measured */
    assert_ptr_equal(shoal_forge_profile_run(&got, 2), &got.runs[1]);
    assert_null(shoal_forge_profile_run(&got, 3));
    assert_true(fabs(got.runs[1].rates[SHOAL_TYPE_Q4_0][1].gb_s - 1.5) < 1e-9);
}

static void test_a_part_of_a_file_is_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    assert_int_equal(shoal_forge_profile_json(&made, &text), SHOAL_OK);
    for (size_t n = 0; n + 2 < text.length; n += 1 + n % 7) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_not_equal(shoal_forge_profile_parse("here", text.data, n, &got, &err), SHOAL_OK);
        assert_memory_equal(err.text, "here: ", 6);
    }
}

/* The text with the first `from` as `to`. */
static shoal_status with(const char *from, const char *to, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf changed = {0};
    assert_int_equal(shoal_forge_profile_json(&made, &text), SHOAL_OK);
    const char *at = strstr(text.data, from);
    assert_non_null(at);
    assert_int_equal(shoal_buf_append(&changed, text.data, (size_t)(at - text.data)), SHOAL_OK);
    assert_int_equal(shoal_buf_appendf(&changed, "%s%s", to, at + strlen(from)), SHOAL_OK);
    return shoal_forge_profile_parse("p", changed.data, changed.length, &got, err);
}

static void test_what_no_machine_is_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *says;
    } rows[] = {
        {"\"shoal_device\": 1", "\"shoal_device\": 2", "version 2"},
        {"\"shoal_device\": 1", "\"shoal_device\": \"1\"", "no profile"},
        {"\"n_cpus\": 8", "\"n_cpus\": 0", "n_cpus"},
        {"\"n_cpus\": 8", "\"n_cpus\": 65537", "n_cpus"},
        {"\"n_cpus\": 8", "\"n_cpus\": 8, \"n_cpus\": 8", "JSON"},
        {"\"set_mib\": 3.5", "\"set_mib\": -1", "set_mib"},
        {"\"set_mib\": 3.5", "\"set_mib\": 1e300", "set_mib"},
        {"\"set_mib\": 3.5", "\"set_mib\": \"3\"", "set_mib"},
        {"\"tier\": \"avx2\"", "\"tier\": \"0123456789012345678901234567890123\"", "tier"},
        {"\"flash_gb_s\": null", "\"flash_gb_s\": 0", "flash_gb_s"},
        {"\"model\": \"aaaa", "\"model\": \"AAAA", "model"},
        {"\"model\": \"aaaa", "\"model\": \"", "model"},
        {"\"threads\": 1", "\"threads\": 2", "2 threads do not follow 2"},
        {"\"threads\": 1", "\"threads\": -1", "threads"},
        {"\"threads\": 1", "\"threads\": 1.5", "threads"},
        {"\"read_gb_s\": 10.25", "\"read_gb_s\": 1e10", "read_gb_s"},
        {"\"step_ms\": 0.125", "\"step_ms\": -0.125", "step_ms"},
        {"\"Q4_0\"", "\"Q4_9\"", "Q4_9"},
        {"\"Q4_0\"", "\"I8\"", "I8"},
        {"\"width\": 1,", "\"width\": 5,", "width 5"},
        {"\"width\": 1,", "\"width\": 99,", "width"},
        {"\"fixed_us\": 0", "\"fixed_us\": -1", "fixed_us"},
        {"\"gb_s\": 1}", "\"gb_s\": 0}", "gb_s"},
        {"\"gb_s\": 1}", "\"gb_s\": null}", "gb_s"},
        {"\"rates\": {", "\"rates\": [], \"others\": {", "rates"},
        {"\"runs\": [", "\"runs\": [], \"others\": [", "runs"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_not_equal(with(rows[i].from, rows[i].to, &err), SHOAL_OK);
        if (!strstr(err.text, rows[i].says)) {
            fail_msg("%s: %s", rows[i].to, err.text);
        }
    }
    assert_int_equal(with("\"n_cpus\": 8", "\"n_cpus\": 65536", NULL), SHOAL_OK);
    assert_int_equal(with("\"read_gb_s\": 10.25", "\"read_gb_s\": 1e9", NULL), SHOAL_OK);
}

static void test_limits_of_a_file(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_free_cleanup) char *text = shoal_calloc(FORGE_PROFILE_FILE_MAX + 2, 1);
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf good = {0};
    assert_non_null(text);
    assert_int_equal(shoal_forge_profile_json(&made, &good), SHOAL_OK);
    memset(text, ' ', FORGE_PROFILE_FILE_MAX + 1);
    memcpy(text, good.data, good.length);
    assert_int_equal(shoal_forge_profile_parse("p", text, FORGE_PROFILE_FILE_MAX - 1, &got, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_forge_profile_parse("p", text, FORGE_PROFILE_FILE_MAX, &got, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_forge_profile_parse("p", text, FORGE_PROFILE_FILE_MAX + 1, &got, &err),
                     SHOAL_E_LIMIT);
    forge_profile *p = NULL;
    err = (shoal_err)SHOAL_ERR_INIT;
    assert_int_not_equal(shoal_forge_profile_load("/nonexistent/box.json", &p, &err), SHOAL_OK);
    assert_non_null(strstr(err.text, "box.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_a_part_of_a_file_is_refused),
        cmocka_unit_test(test_what_no_machine_is_is_refused),
        cmocka_unit_test(test_limits_of_a_file),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
