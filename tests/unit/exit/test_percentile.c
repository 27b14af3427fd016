/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/exit/exit.h"

#include <math.h>
#include <string.h>

/* Uniform in [0, 1). */
static double uniform(uint64_t *rng)
{
    return (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
}

/* Probabilities of the best token whose odds are centred at `odds`. */
static float draw(uint64_t *rng, double odds)
{
    double noise = 0;
    for (size_t i = 0; i < 12; i++) {
        noise += uniform(rng);
    }
    return (float)(1 / (1 + exp(-(odds + 2 * (noise - 6)))));
}

typedef double drift(size_t i, size_t n);

static double still(size_t i, size_t n)
{
    (void)i;
    (void)n;
    return 1;
}

static double rising(size_t i, size_t n)
{
    return -1 + 8 * (double)i / (double)n;
}

static double falling(size_t i, size_t n)
{
    return -rising(i, n);
}

/* A jump from doubt to certainty in the middle. */
static double jump(size_t i, size_t n)
{
    return i < n / 2 ? -1 : 5;
}

static double waves(size_t i, size_t n)
{
    (void)n;
    return 2 + 2 * sin((double)i / 700);
}

/* A saturated model: most rows are 1 to the last bit. */
static double saturated(size_t i, size_t n)
{
    (void)n;
    return i % 10 < 7 ? 60 : 1;
}

static double share_left(const shoal_exit_policy *p, drift *odds, size_t n, uint64_t seed)
{
    shoal_exit_state s;
    size_t n_left = 0;
    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < n; i++) {
        const shoal_exit_features f = {.sound = true, .top = draw(&seed, odds(i, n))};
        n_left += shoal_exit_decide(p, &s, &f) ? 1 : 0;
    }
    return (double)n_left / (double)n;
}

static void test_rate_is_held_under_drift(void **state)
{
    (void)state;
    static drift *const drifts[] = {still, rising, falling, jump, waves, saturated};
    static const float rates[] = {0.05F, 0.3F, 0.6F, 0.85F, 0.95F};
    static const uint32_t windows[] = {128, 512, SHOAL_EXIT_WINDOW_MAX};
    for (size_t d = 0; d < SHOAL_COUNT(drifts); d++) {
        for (size_t r = 0; r < SHOAL_COUNT(rates); r++) {
            for (size_t w = 0; w < SHOAL_COUNT(windows); w++) {
                const shoal_exit_policy p = {.kind = SHOAL_EXIT_PERCENTILE,
                                             .threshold = 0.7F,
                                             .rate = rates[r],
                                             .window = windows[w]};
                double share = share_left(&p, drifts[d], 20000, 17 + d);
                if (fabs(share - (double)rates[r]) > 0.02) {
                    fail_msg("drift %zu, rate %g, window %u: %.4f left", d, (double)rates[r],
                             windows[w], share);
                }
            }
        }
    }
}

/* What leaves is what is surer: nobody leaves while a row of the window's upper share stays. */
static void test_surer_rows_leave(void **state)
{
    (void)state;
    const shoal_exit_policy p = {
        .kind = SHOAL_EXIT_PERCENTILE, .threshold = 0.7F, .rate = 0.5F, .window = 256};
    shoal_exit_state s;
    uint64_t rng = 3;
    size_t n_wrong = 0;
    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < 10000; i++) {
        const shoal_exit_features f = {.sound = true, .top = draw(&rng, 0)};
        bool left = shoal_exit_decide(&p, &s, &f);
        n_wrong += i > 256 && left != (f.top > 0.5F) && fabsf(f.top - 0.5F) > 0.1F ? 1 : 0;
    }
    assert_true(n_wrong < 100);
}

static void test_rates_of_none_and_all(void **state)
{
    (void)state;
    shoal_exit_policy p = {.kind = SHOAL_EXIT_PERCENTILE, .threshold = 2, .window = 16};
    assert_true(share_left(&p, waves, 5000, 5) == 0.0);
    p.rate = 1;
    p.threshold = 0;
    assert_true(share_left(&p, waves, 5000, 5) == 1.0);
}

static void test_start_follows_the_threshold(void **state)
{
    (void)state;
    const shoal_exit_policy p = {
        .kind = SHOAL_EXIT_PERCENTILE, .threshold = 0.7F, .rate = 0.0F, .window = 64};
    shoal_exit_state s;
    memset(&s, 0, sizeof s);
    const shoal_exit_features sure = {.sound = true, .top = 0.7F};
    const shoal_exit_features unsure = {.sound = true, .top = nextafterf(0.7F, 0)};
    for (size_t i = 0; i < SHOAL_EXIT_WINDOW_MIN / 2; i++) {
        assert_true(shoal_exit_decide(&p, &s, &sure));
        assert_false(shoal_exit_decide(&p, &s, &unsure));
    }
    assert_false(shoal_exit_decide(&p, &s, &sure)); /* from now on the rate */
}

/* Counts and ring stay each other's picture, at every value of top there is a corner in. */
static void test_state_stays_consistent(void **state)
{
    (void)state;
    static const float tops[] = {0.0F,   1e-30F,      0.4999999F, 0.5F, 0.50000006F,
                                 0.999F, 0.99999994F, 1.0F,       NAN,  1.5F};
    const shoal_exit_policy p = {
        .kind = SHOAL_EXIT_PERCENTILE, .threshold = 0.7F, .rate = 0.4F, .window = 17};
    shoal_exit_state s;
    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < 1000; i++) {
        const shoal_exit_features f = {.sound = i % 7 != 0, .top = tops[i % SHOAL_COUNT(tops)]};
        (void)shoal_exit_decide(&p, &s, &f);
        uint32_t total = 0;
        uint32_t left = 0;
        for (size_t b = 0; b < SHOAL_EXIT_BUCKETS; b++) {
            total += s.counts[b];
        }
        for (size_t r = 0; r < s.n; r++) {
            left += s.rows[r] >> 15;
        }
        assert_int_equal(total, s.n);
        assert_int_equal(left, s.n_left);
        assert_int_equal(s.n, i + 1 < 17 ? i + 1 : 17);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate_is_held_under_drift),
        cmocka_unit_test(test_surer_rows_leave),
        cmocka_unit_test(test_rates_of_none_and_all),
        cmocka_unit_test(test_start_follows_the_threshold),
        cmocka_unit_test(test_state_stays_consistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
