/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/kernels/math.h"

#include <math.h>

static void test_expf_stays_within_two_ulp(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = -87.2F; x < 88.7F; x += 0.0031F) {
        worst = fmax(worst, fabs((double)shoal_expf(x) / exp((double)x) - 1));
    }
    print_message("expf: worst relative error %.2e\n", worst);
    assert_true(worst < 2 * 0x1p-23);
    assert_true(shoal_expf(-1000.0F) == 0.0F && shoal_expf(-INFINITY) == 0.0F);
    /* Infinity begins where e^x leaves binary32, and not before. */
    float top = 0x1.62e42ep+6F;
    assert_true(fabs((double)shoal_expf(top) / exp((double)top) - 1) < 2 * 0x1p-23);
    assert_true(isinf(shoal_expf(nextafterf(top, INFINITY))));
    assert_true(isinf(shoal_expf(89.0F)) && isinf(shoal_expf(INFINITY)));
    assert_true(isnan(shoal_expf(NAN)));
    assert_true(shoal_expf(0.0F) == 1.0F && shoal_expf(-0.0F) == 1.0F);
}

static void test_logf_stays_within_two_ulp(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = 1e-37F; x < 1e38F; x *= 1.0007F) {
        double want = log((double)x);
        worst = fmax(worst, fabs((double)shoal_logf(x) - want) / fmax(fabs(want), 0.1));
    }
    print_message("logf: worst relative error %.2e\n", worst);
    assert_true(worst < 2 * 0x1p-23);
    assert_true(shoal_logf(1.0F) == 0.0F && shoal_logf(0.0F) == -INFINITY);
    assert_true(isnan(shoal_logf(-1.0F)) && isnan(shoal_logf(NAN)));
}

static void test_double_functions_stay_within_1e_15(void **state)
{
    (void)state;
    for (double x = -690; x < 700; x += 0.0917) {
        assert_true(fabs(shoal_expd(x) / exp(x) - 1) < 1e-15);
    }
    for (double x = 1e-300; x < 1e300; x *= 1.031) {
        assert_true(fabs(shoal_logd(x) - log(x)) <= 1e-15 * fmax(1, fabs(log(x))));
    }
    for (double x = -3e5; x < 3e5; x += 0.7137) {
        double s = 0;
        double c = 0;
        shoal_sincosd(x, &s, &c);
        assert_true(fabs(s - sin(x)) < 1e-15 && fabs(c - cos(x)) < 1e-15);
    }
    double s = 1;
    double c = 0;
    shoal_sincosd(0, &s, &c);
    assert_true(s == 0 && c == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expf_stays_within_two_ulp),
        cmocka_unit_test(test_logf_stays_within_two_ulp),
        cmocka_unit_test(test_double_functions_stay_within_1e_15),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
