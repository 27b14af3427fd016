/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/fleet/rollout.h"

#include "common/base/buf.h"

#include <stdio.h>
#include <string.h>

enum {
    DEVICES = 20000
};

static shoal_rollout *parse(const char *text)
{
    shoal_rollout *r = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_rollout_parse(text, strlen(text), &r, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return r;
}

static const char *device(size_t i)
{
    static char name[64];
    (void)snprintf(name, sizeof name, "spiffe://site-%zu/gw-%zu", i % 97, i);
    return name;
}

static size_t n_with(const char *text, uint64_t serial)
{
    SHOAL_CLEANUP(shoal_rollout_freep) shoal_rollout *r = parse(text);
    size_t n = 0;
    for (size_t i = 0; i < DEVICES; i++) {
        n += shoal_rollout_has(r, "b7", serial, device(i));
    }
    return n;
}

/* A binomial's standard deviation at one half of 20000 is 71: five of them. */
static void test_share_is_of_devices(void **state)
{
    (void)state;
    assert_int_equal(n_with("b7 0\n", 7), 0);
    assert_int_equal(n_with("b7 100\n", 7), DEVICES);
    assert_int_equal(n_with("", 7), 0);
    assert_int_equal(n_with("b8 100\n", 7), 0);
    size_t half = n_with("b7 50", 7);
    assert_in_range(half, DEVICES / 2 - 355, DEVICES / 2 + 355);
    size_t few = n_with("b7 0.5", 7);
    assert_in_range(few, 100 - 50, 100 + 50);
}

static void test_share_grows_by_devices_and_differs_by_serial(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_rollout_freep) shoal_rollout *r = parse("a 10\nb 25.5\nc 60\n");
    size_t n_both = 0;
    size_t n_either = 0;
    for (size_t i = 0; i < DEVICES; i++) {
        bool a = shoal_rollout_has(r, "a", 7, device(i));
        bool b = shoal_rollout_has(r, "b", 7, device(i));
        bool c = shoal_rollout_has(r, "c", 7, device(i));
        assert_true(b || !a);
        assert_true(c || !b);
        assert_int_equal(c, shoal_rollout_has(r, "c", 7, device(i)));
        n_both += b && shoal_rollout_has(r, "b", 8, device(i));
        n_either += b;
    }
    /* Of those that have one bundle, a quarter has the next: other devices go first each time. */
    assert_in_range(n_both, n_either / 5, n_either / 3);
}

static void test_first_line_of_an_identity_decides(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_rollout_freep)
    shoal_rollout *r = parse("# who goes first\n"
                             "b7 100 spiffe://lab/*   # the lab\n"
                             "b7 0 spiffe://site-1/gw-1\r\n"
                             "\n"
                             "\tb7 100 spiffe://site-1/*\n"
                             "b7 0");
    assert_int_equal(r->n_lines, 4);
    assert_true(shoal_rollout_has(r, "b7", 7, "spiffe://lab/a"));
    assert_false(shoal_rollout_has(r, "b7", 7, "spiffe://site-1/gw-1"));
    assert_true(shoal_rollout_has(r, "b7", 7, "spiffe://site-1/gw-11"));
    assert_false(shoal_rollout_has(r, "b7", 7, "spiffe://site-2/gw-1"));
    assert_false(shoal_rollout_has(r, "b7", 7, ""));
}

static void test_hostile_lines_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"b7\n",        "b7 \n",     "b7 -1\n",   "b7 101\n",
                                        "b7 100.01\n", "b7 1.\n",   "b7 .5\n",   "b7 1.234\n",
                                        "b7 1..2\n",   "b7 x\n",    "b7 5%\n",   "b7 4294967297\n",
                                        "../b 5\n",    ".b 5\n",    "a/b 5\n",   "b7 5 a b\n",
                                        "b7 5 a*b\n",  "b7 5 **\n", "b7 5 \x01", "b7 5 \xc3\xa4"};
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        shoal_rollout *r = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        if (shoal_rollout_parse(wrong[i], strlen(wrong[i]), &r, &err) != SHOAL_E_INVALID) {
            fail_msg("taken: %s", wrong[i]);
        }
        assert_non_null(strstr(err.text, "line 1"));
    }
}

static shoal_status parse_lines(size_t n_lines, size_t n_name, size_t n_identity)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_rollout_freep) shoal_rollout *r = NULL;
    char long_text[256];
    memset(long_text, 'x', sizeof long_text);
    for (size_t i = 0; i < n_lines; i++) {
        assert_int_equal(shoal_buf_appendf(&text, "%.*s 5 %.*s\n", (int)n_name, long_text,
                                           (int)n_identity, long_text),
                         SHOAL_OK);
    }
    return shoal_rollout_parse(text.data, text.length, &r, NULL);
}

static void test_limits_at_their_edges(void **state)
{
    (void)state;
    assert_int_equal(parse_lines(SHOAL_ROLLOUT_LINES_MAX - 1, 2, 3), SHOAL_OK);
    assert_int_equal(parse_lines(SHOAL_ROLLOUT_LINES_MAX, 2, 3), SHOAL_OK);
    assert_int_equal(parse_lines(SHOAL_ROLLOUT_LINES_MAX + 1, 2, 3), SHOAL_E_LIMIT);
    assert_int_equal(parse_lines(1, SHOAL_ROLLOUT_NAME_MAX, 3), SHOAL_OK);
    assert_int_equal(parse_lines(1, SHOAL_ROLLOUT_NAME_MAX + 1, 3), SHOAL_E_INVALID);
    assert_int_equal(parse_lines(1, 2, SHOAL_ROLLOUT_IDENTITY_MAX), SHOAL_OK);
    assert_int_equal(parse_lines(1, 2, SHOAL_ROLLOUT_IDENTITY_MAX + 1), SHOAL_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_share_is_of_devices),
        cmocka_unit_test(test_share_grows_by_devices_and_differs_by_serial),
        cmocka_unit_test(test_first_line_of_an_identity_decides),
        cmocka_unit_test(test_hostile_lines_are_refused),
        cmocka_unit_test(test_limits_at_their_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
