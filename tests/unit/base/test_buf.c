/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/mem.h"

#include <string.h>

static void test_append_grows_and_terminates(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    char expected[1000];
    for (size_t i = 0; i < sizeof expected; i++) {
        expected[i] = (char)('a' + i % 26);
        assert_int_equal(shoal_buf_append(&buf, &expected[i], 1), SHOAL_OK);
        assert_int_equal(buf.length, i + 1);
        assert_int_equal(buf.data[buf.length], 0);
        assert_true(buf.capacity > buf.length);
    }
    assert_memory_equal(buf.data, expected, sizeof expected);
}

static void test_append_nothing_gives_an_empty_string(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_buf_append(&buf, NULL, 0), SHOAL_OK);
    assert_string_equal(buf.data, "");
}

static void test_append_at_the_limit_is_taken_and_past_it_refused(void **state)
{
    (void)state;
    static const char bytes[128] = {1};
    for (size_t limit = 1; limit < 100; limit++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = limit};
        assert_int_equal(shoal_buf_append(&buf, bytes, limit - 1), SHOAL_OK);
        assert_int_equal(shoal_buf_append(&buf, bytes, 2), SHOAL_E_LIMIT);
        assert_int_equal(buf.length, limit - 1);
        assert_int_equal(shoal_buf_append(&buf, bytes, 1), SHOAL_OK);
        assert_int_equal(shoal_buf_append(&buf, bytes, 1), SHOAL_E_LIMIT);
        assert_int_equal(shoal_buf_append(&buf, bytes, 0), SHOAL_OK);
        assert_int_equal(buf.length, limit);
        assert_true(buf.capacity <= limit + 1);
    }
}

static void test_append_of_an_absurd_size_is_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_buf_append(&buf, "abc", 3), SHOAL_OK);
    assert_int_equal(shoal_buf_append(&buf, "abc", SIZE_MAX), SHOAL_E_LIMIT);
    assert_int_equal(shoal_buf_append(&buf, "abc", SIZE_MAX - 3), SHOAL_E_LIMIT);
    assert_string_equal(buf.data, "abc");
}

static void test_appendf_prints_around_the_capacity(void **state)
{
    (void)state;
    for (int width = 1; width < 200; width++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        assert_int_equal(shoal_buf_appendf(&buf, "%s", "x"), SHOAL_OK);
        assert_int_equal(shoal_buf_appendf(&buf, "%0*d", width, 7), SHOAL_OK);
        assert_int_equal(buf.length, width + 1);
        assert_int_equal(buf.data[buf.length - 1], '7');
        assert_int_equal(strlen(buf.data), buf.length);
    }
}

static void test_appendf_past_the_limit_leaves_the_content(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = 8};
    assert_int_equal(shoal_buf_appendf(&buf, "%s", "four"), SHOAL_OK);
    assert_int_equal(shoal_buf_appendf(&buf, "%s", "12345"), SHOAL_E_LIMIT);
    assert_string_equal(buf.data, "four");
    assert_int_equal(shoal_buf_appendf(&buf, "%s", "1234"), SHOAL_OK);
    assert_string_equal(buf.data, "four1234");
}

static void test_consume_removes_from_the_front(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_buf_consume(&buf, 0);
    assert_int_equal(shoal_buf_append(&buf, "abcdef", 6), SHOAL_OK);
    shoal_buf_consume(&buf, 2);
    assert_string_equal(buf.data, "cdef");
    shoal_buf_consume(&buf, 4);
    assert_string_equal(buf.data, "");
    assert_int_equal(buf.length, 0);
}

static void test_reset_keeps_the_memory(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_buf_reset(&buf);
    assert_null(buf.data);
    assert_int_equal(shoal_buf_append(&buf, "abc", 3), SHOAL_OK);
    size_t capacity = buf.capacity;
    shoal_buf_reset(&buf);
    assert_string_equal(buf.data, "");
    assert_int_equal(buf.capacity, capacity);
}

static void test_failing_allocations_leave_the_content(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_buf_append(&buf, "abc", 3), SHOAL_E_NOMEM);
    assert_int_equal(buf.length, 0);
    assert_int_equal(shoal_buf_append(&buf, "abc", 3), SHOAL_OK);
    static const char more[4096];
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_buf_append(&buf, more, sizeof more), SHOAL_E_NOMEM);
    assert_string_equal(buf.data, "abc");
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_buf_appendf(&buf, "%4000d", 1), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_string_equal(buf.data, "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_grows_and_terminates),
        cmocka_unit_test(test_append_nothing_gives_an_empty_string),
        cmocka_unit_test(test_append_at_the_limit_is_taken_and_past_it_refused),
        cmocka_unit_test(test_append_of_an_absurd_size_is_refused),
        cmocka_unit_test(test_appendf_prints_around_the_capacity),
        cmocka_unit_test(test_appendf_past_the_limit_leaves_the_content),
        cmocka_unit_test(test_consume_removes_from_the_front),
        cmocka_unit_test(test_reset_keeps_the_memory),
        cmocka_unit_test(test_failing_allocations_leave_the_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
