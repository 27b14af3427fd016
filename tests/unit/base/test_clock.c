/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clock.h"

static void test_real_clock_never_goes_back(void **state)
{
    (void)state;
    const shoal_clock clock = shoal_clock_real();
    uint64_t before = shoal_clock_now_ns(&clock);
    assert_true(before > 0);
    for (int i = 0; i < 1000; i++) {
        uint64_t now = shoal_clock_now_ns(&clock);
        assert_true(now >= before);
        before = now;
    }
}

static void test_virtual_clock_stands_until_moved(void **state)
{
    (void)state;
    uint64_t now_ns = 5;
    const shoal_clock clock = shoal_clock_virtual(&now_ns);
    assert_int_equal(shoal_clock_now_ns(&clock), 5);
    assert_int_equal(shoal_clock_now_ns(&clock), 5);
    now_ns = UINT64_C(3999999);
    assert_int_equal(shoal_clock_now_ms(&clock), 3);
    now_ns++;
    assert_int_equal(shoal_clock_now_ms(&clock), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_clock_never_goes_back),
        cmocka_unit_test(test_virtual_clock_stands_until_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
