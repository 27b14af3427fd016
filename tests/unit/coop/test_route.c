/* SPDX-License-Identifier: Apache-2.0
 *
 * Who makes the next token, and how long a budget lasts: the policies of mode assist with made-up
 * rows and a made-up clock.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "edge/coop/route.h"
#include "edge/coop/spend.h"

#include <math.h>
#include <string.h>

static const shoal_exit_policy fitted = {
    .kind = SHOAL_EXIT_RISK, .threshold = 0.4F, .risk = 0.01F, .delta = 0.05F};

static shoal_route route_of(double rate, double risk, const shoal_exit_policy *policy)
{
    shoal_route route;
    shoal_route_settings settings = shoal_route_settings_default();
    settings.rate = rate;
    settings.risk = risk;
    assert_int_equal(shoal_route_init(&route, &settings, policy, NULL, NULL), SHOAL_OK);
    return route;
}

static shoal_exit_features row_of(float top)
{
    return (shoal_exit_features){.sound = true, .top = top, .depth = 1};
}

static bool asks(shoal_route *route, const shoal_exit_features *features, double risk, double level)
{
    return shoal_route_judge(route, features, risk, level) == SHOAL_ROUTE_ASK;
}

/* Most rows are sure, as a language model's are; hardness moves them. */
static shoal_exit_features draw(uint64_t *rng, double hardness)
{
    double u = (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
    return row_of((float)(1 - pow(u, 4 / hardness)));
}

static void test_settings_out_of_range_are_named(void **state)
{
    (void)state;
    const shoal_route_settings bad[] = {
        {.rate = 0, .n_span_max = 1},
        {.rate = 1, .n_span_max = 1},
        {.rate = 0.1, .n_span_max = 0},
        {.rate = 0.1, .n_span_max = SHOAL_ROUTE_SPAN_MAX + 1},
        {.rate = 0.1, .n_span_max = 1, .prompt_entropy = -1},
        {.rate = 0.1, .n_span_max = 1, .risk = 1},
    };
    static const char *const names[] = {"rate", "rate", "span", "span", "entropy", "risk"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_route route;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_route_init(&route, &bad[i], &fitted, NULL, &err), SHOAL_E_LIMIT);
        assert_non_null(strstr(err.text, names[i]));
    }
}

static void test_risk_is_held_from_the_calibrated_one_up(void **state)
{
    (void)state;
    shoal_route route = route_of(0.1, 0, &fitted);
    assert_int_equal(shoal_route_check_risk(&route, 0.01, NULL), SHOAL_OK);
    assert_int_equal(shoal_route_check_risk(&route, 0.2, NULL), SHOAL_OK);
    assert_int_equal(shoal_route_check_risk(&route, 0.009, NULL), SHOAL_E_UNSUPPORTED);
    assert_int_equal(shoal_route_check_risk(&route, (double)NAN, NULL), SHOAL_E_LIMIT);
    shoal_route bare = route_of(0.1, 0, NULL);
    assert_int_equal(shoal_route_check_risk(&bare, 0.5, NULL), SHOAL_E_UNSUPPORTED);
    shoal_exit_policy tenth = fitted;
    tenth.risk = 0.1F; /* above 0.1 */
    shoal_route written = route_of(0.1, 0, &tenth);
    assert_int_equal(shoal_route_check_risk(&written, 0.1, NULL), SHOAL_OK);
    shoal_route configured = route_of(0.1, 0.01, &fitted);
    for (size_t i = 0; i < 200; i++) {
        shoal_exit_features below = row_of(0.39F);
        shoal_exit_features above = row_of(0.41F);
        assert_true(asks(&route, &below, 0.01, 1));
        assert_false(asks(&route, &above, 0.01, 1));
        assert_int_equal(shoal_route_judge(&route, &below, 0.01, 0), SHOAL_ROUTE_SPARE);
        assert_int_equal(shoal_route_judge(&route, &above, 0.01, 0), SHOAL_ROUTE_SURE);
        assert_true(asks(&configured, &below, 0, 1));
        assert_false(asks(&configured, &above, 0, 1));
    }
}

/* A request that bears more keeps more; one between two is held by the lesser. */
static void test_greater_risk_has_a_threshold_of_its_own(void **state)
{
    (void)state;
    static const shoal_exit_risks risks = {
        .n = 2, .risk = {0.05F, 0.2F}, .threshold = {0.3F, 0.1F}};
    static const struct {
        double risk;
        float kept; /* least top that stays */
    } rows[] = {{0.01, 0.4F}, {0.049, 0.4F}, {0.05, 0.3F}, {0.19, 0.3F}, {0.2, 0.1F}, {0.9, 0.1F}};
    shoal_route route;
    shoal_route_settings settings = shoal_route_settings_default();
    settings.risk = 0.05;
    assert_int_equal(shoal_route_init(&route, &settings, &fitted, &risks, NULL), SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_exit_features at = row_of(rows[i].kept);
        shoal_exit_features below = row_of(rows[i].kept - 0.001F);
        assert_false(asks(&route, &at, rows[i].risk, 1));
        assert_true(asks(&route, &below, rows[i].risk, 1));
    }
    shoal_exit_features below = row_of(0.299F);
    assert_true(asks(&route, &below, 0, 1)); /* as configured */
    below = row_of(0.301F);
    assert_false(asks(&route, &below, 0, 1));
    assert_int_equal(shoal_route_check_risk(&route, 0.009, NULL), SHOAL_E_UNSUPPORTED);
}

static void test_rate_is_held_under_drift_and_broken_rows_ask(void **state)
{
    (void)state;
    static const double hardness[] = {1, 0.5, 2, 1};
    uint64_t rng = 11;
    shoal_route route = route_of(0.1, 0, NULL);
    for (size_t k = 0; k < SHOAL_COUNT(hardness); k++) {
        size_t n_asked = 0;
        for (size_t i = 0; i < 8000; i++) {
            shoal_exit_features row = draw(&rng, hardness[k]);
            n_asked += asks(&route, &row, 0, 1);
        }
        assert_in_range(n_asked, 640, 960);
    }
    shoal_exit_features broken = {.sound = false};
    assert_true(asks(&route, &broken, 0, 1));
}

static void test_level_leaves_the_least_sure_of_the_unsure(void **state)
{
    (void)state;
    static const double levels[] = {1, 0.5, 0.25};
    double top_before = 1;
    for (size_t k = 0; k < SHOAL_COUNT(levels); k++) {
        uint64_t rng = 17;
        shoal_route route = route_of(0.2, 0, NULL);
        double top = 0;
        size_t n_asked = 0;
        for (size_t i = 0; i < 10000; i++) {
            shoal_exit_features row = draw(&rng, 1);
            if (asks(&route, &row, 0, levels[k])) {
                top += (double)row.top;
                n_asked++;
            }
        }
        assert_in_range(n_asked, (size_t)(1500 * levels[k]), (size_t)(2500 * levels[k]));
        assert_true(top / (double)n_asked < top_before);
        top_before = top / (double)n_asked;
    }
}

static void test_spans_double_up_to_their_limit(void **state)
{
    (void)state;
    shoal_route route = route_of(0.1, 0, NULL);
    static const size_t wanted[] = {1, 1, 2, 4, 8, 8};
    for (size_t i = 0; i < SHOAL_COUNT(wanted); i++) {
        assert_int_equal(shoal_route_span(&route, i + 1), wanted[i]);
    }
    route.settings.n_span_max = 5;
    assert_int_equal(shoal_route_span(&route, 5), 5);
    assert_int_equal(shoal_route_span(&route, 1000000), 5);
    assert_false(shoal_route_is_hard(&route, 29));
    route.settings.prompt_entropy = 2;
    assert_false(shoal_route_is_hard(&route, 2));
    assert_true(shoal_route_is_hard(&route, 2.1));
}

/* --- budgets ------------------------------------------------------------------------------------
 */

typedef struct traffic {
    const char *name;
    double per_s;
    double (*pace)(double at);     /* at: share of the period that has passed */
    double (*hardness)(double at); /* of the rows */
} traffic;

static double even(double at)
{
    (void)at;
    return 1;
}

static double in_bursts(double at)
{
    return fmod(at * 24, 2) < 1 ? 1.8 : 0.2;
}

static double by_day(double at)
{
    return 1 + 0.8 * sin(6.283185307179586 * (at - 0.25));
}

static double harder(double at)
{
    return 0.7 + at;
}

typedef struct outcome {
    double used; /* of the limit */
    double kept; /* mean top of rows that were not handed over */
    double sent;
    size_t n_wanted; /* rows the rate alone would hand over */
} outcome;

static outcome live_through(const traffic *t, shoal_spend_kind kind, shoal_spend_period period,
                            uint64_t period_ms, uint64_t limit, uint64_t each)
{
    uint64_t rng = 5;
    shoal_route route = route_of(0.1, 0, NULL);
    shoal_route free_route = route;
    shoal_spend_limits limits = {0};
    shoal_spend spend;
    outcome o = {0};
    size_t n_kept = 0;
    size_t n_sent = 0;
    double due = 0;
    limits.most[kind][period] = limit;
    shoal_spend_init(&spend, &limits, 1000);
    for (uint64_t ms = 0; ms < period_ms; ms += 1000) {
        double at = (double)ms / (double)period_ms;
        shoal_spend_turn(&spend, 1000 + ms);
        for (due += t->per_s * t->pace(at); due >= 1; due--) {
            shoal_exit_features row = draw(&rng, t->hardness(at));
            double level = shoal_spend_level(&spend, 0, 1000 + ms);
            bool sent = asks(&route, &row, 0, level);
            sent = sent && (kind == SHOAL_SPEND_BYTES ||
                            shoal_spend_tokens_left(&spend, 0, 1000 + ms) >= each);
            o.n_wanted += asks(&free_route, &row, 0, 1);
            if (sent) {
                shoal_spend_add(&spend, kind, each);
            }
            n_sent += sent;
            n_kept += !sent;
            *(sent ? &o.sent : &o.kept) += (double)row.top;
        }
    }
    o.used = limit > 0 ? (double)spend.used[kind][period] / (double)limit : 0;
    o.kept /= (double)n_kept;
    o.sent /= (double)n_sent;
    return o;
}

static void test_budget_is_met_within_5_percent_whatever_the_traffic(void **state)
{
    (void)state;
    static const traffic all[] = {
        {"even", 20, even, even},
        {"in bursts", 20, in_bursts, even},
        {"by day", 20, by_day, even},
        {"harder and harder", 20, even, harder},
        {"in bursts, harder", 20, in_bursts, harder},
    };
    static const double shares[] = {0.05, 0.3, 0.7}; /* of what would be wanted: about 7200 */
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        for (size_t s = 0; s < SHOAL_COUNT(shares); s++) {
            uint64_t limit = (uint64_t)(7200 * shares[s]);
            outcome o =
                live_through(&all[i], SHOAL_SPEND_TOKENS, SHOAL_SPEND_HOUR, 3600000, limit, 1);
            print_message("%s, %llu an hour: %.1f %% used\n", all[i].name,
                          (unsigned long long)limit, 100 * o.used);
            /* What is released for a night that ends the period cannot be wanted by anybody. */
            bool wanted = all[i].pace != by_day || shares[s] < 0.5;
            assert_true(o.used > (wanted ? 0.95 : 0.9) && o.used <= 1);
            assert_true(o.sent < o.kept); /* what is scarce goes where it is needed */
        }
    }
    outcome bytes = live_through(&all[2], SHOAL_SPEND_BYTES, SHOAL_SPEND_HOUR, 3600000, 40000, 17);
    assert_true(bytes.used > 0.95 && bytes.used < 1.001); /* a hand-over may end above it */
    outcome day = live_through(&(traffic){"a day", 0.5, by_day, even}, SHOAL_SPEND_TOKENS,
                               SHOAL_SPEND_DAY, 86400000, 1500, 1);
    assert_true(day.used > 0.95 && day.used <= 1);
}

static void test_budget_above_what_is_wanted_changes_nothing(void **state)
{
    (void)state;
    const traffic t = {"even", 20, even, even};
    outcome o = live_through(&t, SHOAL_SPEND_TOKENS, SHOAL_SPEND_HOUR, 3600000, 200000, 1);
    assert_int_equal((size_t)lround(o.used * 200000), o.n_wanted);
}

static void test_periods_end_and_limits_are_exact(void **state)
{
    (void)state;
    const uint64_t hour = 3600000;
    shoal_spend_limits limits = {0};
    shoal_spend spend;
    shoal_spend_kind kind = SHOAL_SPEND_KINDS;
    shoal_spend_period period = SHOAL_SPEND_PERIODS;
    shoal_spend_init(&spend, &limits, 0);
    assert_true(shoal_spend_level(&spend, 0, 0) >= 1);
    assert_true(shoal_spend_tokens_left(&spend, 0, 0) == SIZE_MAX);
    assert_false(shoal_spend_is_over(&spend, &kind, &period));
    limits.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR] = 100;
    limits.most[SHOAL_SPEND_BYTES][SHOAL_SPEND_DAY] = 1000;
    shoal_spend_init(&spend, &limits, 50);
    assert_int_equal(shoal_spend_tokens_left(&spend, 0, 50), 4);
    assert_int_equal(shoal_spend_tokens_left(&spend, 3, 50), 1);
    assert_int_equal(shoal_spend_tokens_left(&spend, 4, 50), 0);
    /* A limit of 100 has 4 to be spent at once; with 2 of them the level begins to fall. */
    assert_true(shoal_spend_level(&spend, 2, 50) >= 1);
    double half = shoal_spend_level(&spend, 3, 50);
    assert_true(half > 0.45 && half < 0.55);
    shoal_spend_limits more = {0};
    shoal_spend wide;
    more.most[SHOAL_SPEND_BYTES][SHOAL_SPEND_HOUR] = 1000;
    shoal_spend_init(&wide, &more, 50);
    assert_true(shoal_spend_level(&wide, 1u << 20, 50) >= 1); /* tokens are no bytes */
    more.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR] = 100;
    more.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_DAY] = 1000;
    shoal_spend_init(&wide, &more, 50);
    assert_int_equal(shoal_spend_tokens_left(&wide, 0, 50), 4); /* the least of all */
    assert_int_equal(shoal_spend_tokens_left(&spend, 0, 50 + hour / 2), 54);
    assert_int_equal(shoal_spend_tokens_left(&spend, 0, 50 + hour - 1), 100);
    shoal_spend_add(&spend, SHOAL_SPEND_TOKENS, 99);
    assert_false(shoal_spend_is_over(&spend, &kind, &period));
    shoal_spend_add(&spend, SHOAL_SPEND_TOKENS, 1);
    assert_true(shoal_spend_is_over(&spend, &kind, &period));
    assert_int_equal(kind, SHOAL_SPEND_TOKENS);
    assert_int_equal(period, SHOAL_SPEND_HOUR);
    assert_true(shoal_spend_level(&spend, 0, 50 + hour - 1) <= 0);
    assert_int_equal(shoal_spend_left_ms(&spend, SHOAL_SPEND_HOUR, 50 + hour - 1), 1);
    shoal_spend_turn(&spend, 50 + hour - 1);
    assert_int_equal(spend.used[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR], 100);
    shoal_spend_turn(&spend, 50 + hour);
    assert_int_equal(spend.used[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR], 0);
    assert_int_equal(spend.used[SHOAL_SPEND_TOKENS][SHOAL_SPEND_DAY], 100);
    shoal_spend_add(&spend, SHOAL_SPEND_BYTES, 1000);
    assert_true(shoal_spend_is_over(&spend, &kind, &period));
    assert_int_equal(kind, SHOAL_SPEND_BYTES);
    shoal_spend_turn(&spend, 50 + 50 * hour); /* two periods at once */
    assert_int_equal(spend.begin_ms[SHOAL_SPEND_DAY], 50 + 48 * hour);
    assert_false(shoal_spend_is_over(&spend, &kind, &period));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_out_of_range_are_named),
        cmocka_unit_test(test_risk_is_held_from_the_calibrated_one_up),
        cmocka_unit_test(test_greater_risk_has_a_threshold_of_its_own),
        cmocka_unit_test(test_rate_is_held_under_drift_and_broken_rows_ask),
        cmocka_unit_test(test_level_leaves_the_least_sure_of_the_unsure),
        cmocka_unit_test(test_spans_double_up_to_their_limit),
        cmocka_unit_test(test_budget_is_met_within_5_percent_whatever_the_traffic),
        cmocka_unit_test(test_budget_above_what_is_wanted_changes_nothing),
        cmocka_unit_test(test_periods_end_and_limits_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
