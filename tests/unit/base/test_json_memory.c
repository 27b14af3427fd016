/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/json_memory.h"
#include "common/base/mem.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Tokens of every kind that are longer than what their text begins with, strings of sizes that a
 * text grows by too. The parser keeps the longest text that it had, so who comes first grows. */
static const char *const texts[] = {
    "[1234567890123456, 12345678901234567, 0.1234567890123456789012345678901234567890123456789, "
    "\"and a text of more than sixty-four bytes, so that it grows after that number once more\"]",
    "{\"a name that is longer than sixteen bytes\": \"and a text of more than sixty-four bytes, so "
    "that it grows more than once on its way\", \"n\": [1234567890123456, 12345678901234567, "
    "0.12345678901234567890123456789012345678901234567890123456789012345678901234567890, "
    "-1.5000000000000000000000000000000000e-10, true, null, \"a text of thirty-one bytes here\", "
    "[[[\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\"]]], {}, [], \"\", "
    "\"\\u00e4\\u00f6\\u00fc\\ud83d\\ude00\\u00e4\\u00f6\\u00fc\\ud83d\\ude00\"]}"};

static json_t *load(const char *text, size_t budget, shoal_status *ret_judged)
{
    json_error_t why;
    *ret_judged = shoal_json_memory_begin(strlen(text), budget);
    if (*ret_judged != SHOAL_OK) {
        return NULL;
    }
    json_t *root = json_loadb(text, strlen(text), JSON_REJECT_DUPLICATES, &why);
    *ret_judged = shoal_json_memory_judge();
    if (*ret_judged != SHOAL_OK) {
        json_decref(root);
        root = NULL;
    } else {
        assert_non_null(root);
    }
    shoal_json_memory_end();
    return root;
}

static void test_every_budget_gives_all_or_nothing(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        shoal_status judged = SHOAL_OK;
        json_t *right = load(texts[k], 1 << 20, &judged);
        assert_int_equal(judged, SHOAL_OK);
        size_t n_refused = 0;
        for (size_t budget = 0; budget < 8192; budget++) {
            json_t *root = load(texts[k], budget, &judged);
            n_refused += judged != SHOAL_OK;
            assert_true(root ? json_equal(root, right) : judged == SHOAL_E_LIMIT);
            assert_int_equal(judged == SHOAL_OK, root != NULL);
            json_decref(root);
        }
        assert_in_range(n_refused, 200, 8000);
        json_decref(right);
    }
}

static void test_every_failing_allocation_gives_all_or_nothing(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        shoal_status judged = SHOAL_E_NOMEM;
        uint64_t n = 0;
        for (; judged != SHOAL_OK; n++) {
            assert_true(n < 1000);
            shoal_mem_fail_at(n);
            json_t *root = load(texts[k], 1 << 20, &judged);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(judged == SHOAL_OK || judged == SHOAL_E_NOMEM);
            json_decref(root);
        }
        assert_true(n > 12);
    }
}

static void test_memory_outside_of_a_parse_has_no_budget(void **state)
{
    (void)state;
    json_t *all = json_array();
    for (int i = 0; i < 1000; i++) {
        char line[80];
        (void)snprintf(line, sizeof line, "a text that is put in by hand, number %d", i);
        assert_int_equal(json_array_append_new(all, json_string(line)), 0);
    }
    char *written = json_dumps(all, 0);
    assert_true(strlen(written) > 30000);
    shoal_json_free(written);
    json_decref(all);
}

/* Nothing but sizes that a text grows by, after all else failed: the spare part is never passed. */
static void test_spare_part_ends(void **state)
{
    (void)state;
    assert_int_equal(shoal_json_memory_begin(100, 0), SHOAL_OK);
    assert_null(shoal_json_allocate(24));
    assert_int_equal(shoal_json_memory_judge(), SHOAL_E_LIMIT);
    size_t got = 0;
    for (size_t n = 32; n <= 256; n *= 2) {
        char *p = shoal_json_allocate(n);
        assert_non_null(p);
        memset(p, 1, n);
        got += n;
        shoal_json_free(p);
        assert_null(shoal_json_allocate(n + 8));
    }
    assert_null(shoal_json_allocate(1024));
    while (shoal_json_allocate(32)) {
        got += 32;
        assert_true(got <= 8 * 100 + 512);
    }
    shoal_json_memory_end();
    void *p = shoal_json_allocate(24);
    assert_non_null(p);
    shoal_json_free(p);
}

int main(void)
{
    json_set_alloc_funcs(shoal_json_allocate, shoal_json_free);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_budget_gives_all_or_nothing),
        cmocka_unit_test(test_every_failing_allocation_gives_all_or_nothing),
        cmocka_unit_test(test_memory_outside_of_a_parse_has_no_budget),
        cmocka_unit_test(test_spare_part_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
