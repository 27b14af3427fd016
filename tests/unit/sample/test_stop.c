/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/sample/sample.h"

/* The specification, by brute force: after `n` bytes of text, the first completed stop (shortest
 * prefix of the text, then the longest string) or how much may be shown. */
static shoal_status reference(const char *const *stops, size_t n_stops, const char *text, size_t n,
                              size_t *ret_safe)
{
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n_stops; i++) {
            size_t length = strlen(stops[i]);
            if (length <= end && memcmp(text + end - length, stops[i], length) == 0) {
                longest = SHOAL_MAX(longest, length);
            }
        }
        if (longest > 0) {
            *ret_safe = end - longest;
            return SHOAL_EOF;
        }
    }
    size_t held = 0;
    for (size_t i = 0; i < n_stops; i++) {
        size_t length = strlen(stops[i]);
        for (size_t part = SHOAL_MIN(length - 1, n); part > held; part--) {
            if (memcmp(text + n - part, stops[i], part) == 0) {
                held = part;
            }
        }
    }
    *ret_safe = n - held;
    return SHOAL_OK;
}

static shoal_stop *make(const char *const *stops, size_t n)
{
    shoal_stop *stop = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_stop_new(stops, n, &stop, &err), SHOAL_OK);
    return stop;
}

static void test_stop_split_at_every_byte_is_found(void **state)
{
    (void)state;
    const char *stops[] = {"\nUser:", "</s>", "\xE2\x82\xAC\xE2\x82"};
    const char text[] = "a <\nUse\nUser </s\nUser: and more";
    size_t n = strlen(text);
    for (size_t cut = 0; cut <= n; cut++) {
        shoal_stop *stop = make(stops, 3);
        size_t safe = 99;
        size_t wanted = 99;
        shoal_status got = shoal_stop_push(stop, text, cut, &safe);
        assert_int_equal(got, reference(stops, 3, text, cut, &wanted));
        assert_int_equal(safe, wanted);
        assert_int_equal(shoal_stop_push(stop, text + cut, n - cut, &safe), SHOAL_EOF);
        assert_int_equal(safe, strlen("a <\nUse\nUser </s"));
        shoal_stop_free(stop);
    }
}

static void test_stop_random_text_equals_brute_force(void **state)
{
    (void)state;
    uint64_t rng = 7;
    for (int round = 0; round < 3000; round++) {
        char texts[4][12] = {{0}};
        const char *stops[4];
        size_t n_stops = 1 + shoal_rng_next(&rng) % 4;
        for (size_t i = 0; i < n_stops; i++) {
            size_t length = 1 + shoal_rng_next(&rng) % 9;
            for (size_t j = 0; j < length; j++) {
                texts[i][j] = (char)('a' + (char)(shoal_rng_next(&rng) % 2));
            }
            stops[i] = texts[i];
        }
        char text[40];
        for (size_t j = 0; j < sizeof text; j++) {
            text[j] = (char)('a' + (char)(shoal_rng_next(&rng) % 2));
        }
        shoal_stop *stop = make(stops, n_stops);
        size_t before = 0;
        for (size_t n = 1; n <= sizeof text; n++) {
            size_t safe = 0;
            size_t wanted = 0;
            shoal_status got = shoal_stop_push(stop, text + n - 1, 1, &safe);
            assert_int_equal(got, reference(stops, n_stops, text, n, &wanted));
            assert_int_equal(safe, wanted);
            assert_true(safe >= before);
            before = safe;
        }
        shoal_stop_free(stop);
    }
}

static void test_stop_holds_back_only_what_may_become_one(void **state)
{
    (void)state;
    const char *stops[] = {"STOP"};
    shoal_stop *stop = make(stops, 1);
    size_t safe = 0;
    assert_int_equal(shoal_stop_push(stop, "xxSTO", 5, &safe), SHOAL_OK);
    assert_int_equal(safe, 2);
    assert_int_equal(shoal_stop_push(stop, "S", 1, &safe), SHOAL_OK);
    assert_int_equal(safe, 5);
    assert_int_equal(shoal_stop_push(stop, "x", 1, &safe), SHOAL_OK);
    assert_int_equal(safe, 7);
    assert_int_equal(shoal_stop_push(stop, "", 0, &safe), SHOAL_OK);
    assert_int_equal(safe, 7);
    assert_int_equal(shoal_stop_push(stop, "STOPSTOP", 8, &safe), SHOAL_EOF);
    assert_int_equal(safe, 7);
    assert_int_equal(shoal_stop_push(stop, "later", 5, &safe), SHOAL_EOF);
    assert_int_equal(safe, 7);
    shoal_stop_free(stop);
}

static void test_stop_two_end_together_longest_counts(void **state)
{
    (void)state;
    const char *stops[] = {"c", "abc", "bc"};
    shoal_stop *stop = make(stops, 3);
    size_t safe = 0;
    assert_int_equal(shoal_stop_push(stop, "zabc", 4, &safe), SHOAL_EOF);
    assert_int_equal(safe, 1);
    shoal_stop_free(stop);
}

static void test_stop_none_shows_everything(void **state)
{
    (void)state;
    shoal_stop *stop = make(NULL, 0);
    size_t safe = 0;
    assert_int_equal(shoal_stop_push(stop, "abc", 3, &safe), SHOAL_OK);
    assert_int_equal(safe, 3);
    shoal_stop_free(stop);
    shoal_stop_free(NULL);
}

static void test_stop_count_and_length_at_their_limits(void **state)
{
    (void)state;
    char longest[SHOAL_STOP_BYTES_MAX + 2];
    memset(longest, 'x', sizeof longest);
    const char *stops[SHOAL_STOPS_MAX + 1];
    for (size_t i = 0; i < SHOAL_STOPS_MAX + 1; i++) {
        stops[i] = longest;
    }
    longest[SHOAL_STOP_BYTES_MAX - 1] = '\0';
    shoal_stop_free(make(stops, SHOAL_STOPS_MAX - 1));
    longest[SHOAL_STOP_BYTES_MAX - 1] = 'x';
    longest[SHOAL_STOP_BYTES_MAX] = '\0';
    shoal_stop *stop = make(stops, SHOAL_STOPS_MAX);
    size_t safe = 1;
    assert_int_equal(shoal_stop_push(stop, longest, SHOAL_STOP_BYTES_MAX - 1, &safe), SHOAL_OK);
    assert_int_equal(safe, 0);
    assert_int_equal(shoal_stop_push(stop, "x", 1, &safe), SHOAL_EOF);
    assert_int_equal(safe, 0);
    shoal_stop_free(stop);

    shoal_err err = SHOAL_ERR_INIT;
    stop = NULL;
    assert_int_equal(shoal_stop_new(stops, SHOAL_STOPS_MAX + 1, &stop, &err), SHOAL_E_INVALID);
    longest[SHOAL_STOP_BYTES_MAX] = 'x';
    longest[SHOAL_STOP_BYTES_MAX + 1] = '\0';
    shoal_err_clear(&err);
    assert_int_equal(shoal_stop_new(stops, 1, &stop, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "stop[0]"));
    const char *bad[] = {"ok", "", NULL};
    assert_int_equal(shoal_stop_new(bad, 2, &stop, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_stop_new(bad + 2, 1, &stop, NULL), SHOAL_E_INVALID);
    assert_null(stop);
}

static void test_stop_failed_allocation_is_reported(void **state)
{
    (void)state;
    const char *stops[] = {"x"};
    shoal_stop *stop = NULL;
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_stop_new(stops, 1, &stop, NULL), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_null(stop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_split_at_every_byte_is_found),
        cmocka_unit_test(test_stop_random_text_equals_brute_force),
        cmocka_unit_test(test_stop_holds_back_only_what_may_become_one),
        cmocka_unit_test(test_stop_two_end_together_longest_counts),
        cmocka_unit_test(test_stop_none_shows_everything),
        cmocka_unit_test(test_stop_count_and_length_at_their_limits),
        cmocka_unit_test(test_stop_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
