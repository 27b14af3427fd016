/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/checked.h"
#include "common/base/macros.h"

static void test_sums_and_products_at_the_edge_of_the_type(void **state)
{
    (void)state;
    uint64_t u = 0;
    size_t s = 0;
    assert_true(shoal_add_u64(UINT64_MAX - 1, 1, &u));
    assert_true(u == UINT64_MAX);
    assert_false(shoal_add_u64(UINT64_MAX, 1, &u));
    assert_true(shoal_mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &u));
    assert_false(shoal_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &u));
    assert_true(shoal_add_size(SIZE_MAX, 0, &s));
    assert_false(shoal_add_size(SIZE_MAX, 1, &s));
    assert_true(shoal_mul_size(SIZE_MAX, 1, &s));
    assert_false(shoal_mul_size(SIZE_MAX / 2 + 1, 2, &s));
    assert_true(shoal_mul_size(0, SIZE_MAX, &s));
    assert_int_equal(s, 0);
}

static void test_align_rounds_up_or_refuses(void **state)
{
    (void)state;
    static const struct {
        uint64_t x;
        uint64_t align;
        uint64_t expected;
    } cases[] = {{0, 32, 0}, {1, 32, 32}, {31, 32, 32}, {32, 32, 32}, {33, 32, 64}, {7, 1, 7}};
    uint64_t aligned = 0;
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        assert_true(shoal_align_u64(cases[i].x, cases[i].align, &aligned));
        assert_true(aligned == cases[i].expected);
    }
    assert_true(shoal_align_u64(UINT64_MAX - 31, 32, &aligned));
    assert_false(shoal_align_u64(UINT64_MAX - 30, 32, &aligned));
}

static void test_range_within_total_never_wraps(void **state)
{
    (void)state;
    assert_true(shoal_range_ok(0, 0, 0));
    assert_true(shoal_range_ok(10, 0, 10));
    assert_true(shoal_range_ok(4, 6, 10));
    assert_false(shoal_range_ok(4, 7, 10));
    assert_false(shoal_range_ok(11, 0, 10));
    assert_false(shoal_range_ok(5, UINT64_MAX, 10));
    assert_false(shoal_range_ok(UINT64_MAX, 2, 10));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_and_products_at_the_edge_of_the_type),
        cmocka_unit_test(test_align_rounds_up_or_refuses),
        cmocka_unit_test(test_range_within_total_never_wraps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
