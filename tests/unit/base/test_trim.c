/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/trim.h"

#include <stdbool.h>
#include <string.h>

enum {
    N = 1024,
    BYTES = 32 << 10,
    SPARE = 8 << 20
};

/* Blocks with one between them that stays to the end, so that the heap cannot shrink by itself. */
static char *blocks[N];
static char *between[N];

static void take(size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        blocks[i] = shoal_calloc(BYTES, 1);
        between[i] = between[i] ? between[i] : shoal_calloc(1, 1);
        assert_true(blocks[i] && between[i]);
        memset(blocks[i], 0xA5, BYTES);
    }
}

static void give(char **list, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        shoal_free(list[i]);
        list[i] = NULL;
    }
}

static void skip_under_sanitizers(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* their allocator stands in place of the one that is asked */
#endif
}

static void test_what_a_burst_left_is_given_back_each_time(void **state)
{
    (void)state;
    skip_under_sanitizers();
    shoal_trim trim = {0};
    assert_int_equal(shoal_trim_memory(&trim, SPARE), 0);
    for (size_t round = 0; round < 3; round++) {
        take(0, N);
        if (round == 0) {
            assert_int_equal(shoal_trim_memory(&trim, SPARE), 0); /* nothing is free */
        }
        give(blocks, 0, N);
        assert_int_equal(shoal_trim_memory(&trim, (size_t)N * BYTES * 2), 0); /* too little */
        size_t back = shoal_trim_memory(&trim, SPARE);
        assert_true(back >= (size_t)N * BYTES / 10 * 8);
        assert_int_equal(shoal_trim_memory(&trim, SPARE), 0);
    }
}

/* Looked at in the middle of a burst, when half is free already and half still used. */
static void test_a_look_in_the_middle_hides_nothing(void **state)
{
    (void)state;
    skip_under_sanitizers();
    shoal_trim trim = {0};
    (void)shoal_trim_memory(&trim, SPARE);
    for (size_t round = 0; round < 2; round++) {
        take(0, N);
        give(blocks, 0, N / 2);
        assert_true(shoal_trim_memory(&trim, SPARE) >= (size_t)N * BYTES / 10 * 4);
        assert_int_equal((unsigned char)blocks[N - 1][BYTES - 1], 0xA5);
        give(blocks, N / 2, N);
        assert_true(shoal_trim_memory(&trim, SPARE) >= (size_t)N * BYTES / 10 * 4);
    }
    give(between, 0, N);
}

static bool is_about(size_t now, size_t before, size_t bytes)
{
    return now >= before + bytes && now <= before + bytes + bytes / 8 + 65536;
}

/* Small blocks and one that has a mapping of its own; what is free does not count. */
static void test_used_bytes_follow_what_is_handed_out(void **state)
{
    (void)state;
    skip_under_sanitizers();
    const size_t large = (size_t)64 << 20;
    size_t before = shoal_trim_used_bytes();
    take(0, N);
    assert_true(is_about(shoal_trim_used_bytes(), before, (size_t)N * BYTES));
    char *block = shoal_calloc(large, 1);
    assert_non_null(block);
    assert_true(is_about(shoal_trim_used_bytes(), before, (size_t)N * BYTES + large));
    shoal_free(block);
    give(blocks, 0, N);
    assert_true(is_about(shoal_trim_used_bytes(), before, 0));
    give(between, 0, N);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_burst_left_is_given_back_each_time),
        cmocka_unit_test(test_a_look_in_the_middle_hides_nothing),
        cmocka_unit_test(test_used_bytes_follow_what_is_handed_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
