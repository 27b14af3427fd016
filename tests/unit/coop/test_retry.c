/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "edge/coop/retry.h"

static void test_burst_goes_at_once_and_the_rest_in_line(void **state)
{
    (void)state;
    shoal_retry_bucket b;
    shoal_retry_bucket_init(&b, 3, 10, 5000);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(shoal_retry_bucket_take(&b, 5000), 0);
    }
    /* Each further one has a place of its own, a tenth of a second behind the one before. */
    for (uint64_t i = 1; i <= 20; i++) {
        assert_int_equal(shoal_retry_bucket_take(&b, 5000), 100 * i);
    }
    assert_int_equal(shoal_retry_bucket_take(&b, 5500), 2100 - 500);
    shoal_retry_bucket_give_back(&b);
    assert_int_equal(shoal_retry_bucket_take(&b, 5500), 2100 - 500);
    assert_int_equal(shoal_retry_bucket_take(&b, 8000), 0);
}

static void test_pause_fills_no_more_than_the_burst(void **state)
{
    (void)state;
    shoal_retry_bucket b;
    shoal_retry_bucket_init(&b, 2, 1, 0);
    shoal_retry_bucket_give_back(&b);
    assert_int_equal(shoal_retry_bucket_take(&b, 3600000), 0);
    assert_int_equal(shoal_retry_bucket_take(&b, 3600000), 0);
    assert_int_equal(shoal_retry_bucket_take(&b, 3600000), 1000);
    assert_int_equal(shoal_retry_bucket_take(&b, 3599000),
                     2000); /* a clock that goes back adds none */
}

/* However many generations try: over a minute burst and rate. */
static void test_rate_bounds_what_the_cloud_hears(void **state)
{
    (void)state;
    shoal_retry_bucket b;
    shoal_retry_bucket_init(&b, 64, 20, 0);
    size_t n_heard = 0;
    uint64_t due[512] = {0};
    for (uint64_t now = 0; now < 60000; now += 5) {
        for (size_t i = 0; i < 512; i++) {
            if (due[i] == now && now > 0) {
                n_heard++;
                due[i] = 0;
            }
            if (due[i] == 0) {
                uint64_t wait = shoal_retry_bucket_take(&b, now);
                n_heard += wait == 0;
                due[i] = wait == 0 ? 0 : (now + wait + 4) / 5 * 5;
            }
        }
    }
    assert_in_range(n_heard, 20 * 60, 20 * 60 + 64 + 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_burst_goes_at_once_and_the_rest_in_line),
        cmocka_unit_test(test_pause_fills_no_more_than_the_burst),
        cmocka_unit_test(test_rate_bounds_what_the_cloud_hears),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
