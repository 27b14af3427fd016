/* SPDX-License-Identifier: Apache-2.0
 *
 * The controller step by step: what a token is reckoned to take, what is chosen, and that no choice
 * lasts for ever.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "edge/pace/span.h"

#include "common/base/macros.h"

#include <math.h>

static void near(double value, double wanted, double tolerance)
{
    if (!(fabs(value - wanted) <= tolerance * fabs(wanted))) {
        fail_msg("%.6g, wanted %.6g", value, wanted);
    }
}

static shoal_pace_world world_of(double edge, double trip, double step, double accept)
{
    shoal_pace_world world = {.edge_us = edge, .trip_us = trip, .step_us = step, .n_step = 32};
    for (size_t i = 0; i < SHOAL_PACE_DEPTHS; i++) {
        world.accept[i] = accept;
    }
    return world;
}

/* The same where others are served too. */
static shoal_pace_world loaded(shoal_pace_world world, double row, double price, double others)
{
    world.row_us = row;
    world.price = price;
    world.others = others;
    world.n_step = shoal_pace_span_max(&world);
    return world;
}

/* With one span at a time the time of a round is known, and so is what comes of it: E tokens with
 * E = (1 - a^(n+1)) / (1 - a) (Leviathan et al. 2023, eq. 1). */
static void test_stop_and_wait_takes_what_the_formula_says(void **state)
{
    (void)state;
    static const double accepts[] = {0.0, 0.3, 0.6, 0.8, 0.9};
    for (size_t a = 0; a < SHOAL_COUNT(accepts); a++) {
        shoal_pace_world world = world_of(5000, 40000, 20000, accepts[a]);
        for (size_t n = 1; n <= SHOAL_PACE_DRAFT_MAX; n *= 2) {
            double tokens = (1 - pow(accepts[a], (double)n + 1)) / (1 - accepts[a]);
            double round_us = 5000.0 * (double)n + 60000;
            near(shoal_pace_span_us(&world, n, n), round_us / tokens, 0.02);
        }
    }
}

static void test_without_refusals_the_slowest_part_sets_the_pace(void **state)
{
    (void)state;
    shoal_pace_world slow_edge = world_of(9000, 30000, 2000, 0.999);
    near(shoal_pace_span_us(&slow_edge, 4, 64), 9000, 0.05);
    /* 64 drafts on their way, one more with each verdict of eight. */
    shoal_pace_world slow_link = world_of(10, 640000, 10, 0.999);
    near(shoal_pace_span_us(&slow_link, 8, 64), 640000.0 / 65, 0.15);
}

static void test_nothing_depends_on_a_draft_that_never_stands(void **state)
{
    (void)state;
    shoal_pace_world world = world_of(5000, 40000, 20000, 0.0);
    double us = 0;
    shoal_pace_choice best = shoal_pace_span_best(&world, SHOAL_PACE_DRAFT_MAX, &us);
    assert_int_equal(best.n_draft, 1);
    near(us, 65000, 0.001);
}

static void test_price_makes_spans_shorter_down_to_none(void **state)
{
    (void)state;
    shoal_pace_world world = world_of(1000, 10000, 20000, 0.8);
    static const struct {
        double price;
        size_t n;
    } cases[] = {{0.0, 32}, {0.01, 14}, {0.1, 6},  {0.5, 2},
                 {0.7, 1},  {0.83, 1},  {0.85, 0}, {1.0, 0}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        world.price = cases[i].price;
        assert_int_equal(shoal_pace_span_max(&world), cases[i].n);
    }
}

static void test_longer_ways_want_longer_spans(void **state)
{
    (void)state;
    size_t n_before = 0;
    for (double trip = 1000; trip < 1e6; trip *= 4) {
        shoal_pace_world world = world_of(5000, trip, 20000, 0.85);
        double us = 0;
        shoal_pace_choice best = shoal_pace_span_best(&world, SHOAL_PACE_DRAFT_MAX, &us);
        assert_true(best.n_window >= n_before && best.n_window >= best.n_draft);
        n_before = best.n_window;
    }
    assert_true(n_before >= 16);
}

/* Where a step is short, drafts that are at hand at once travel together all the same. */
static void test_messages_are_not_free(void **state)
{
    (void)state;
    shoal_pace_world world = loaded(world_of(1, 300, 283, 0.86), 59, 0.229, 0.3);
    double us = 0;
    shoal_pace_choice best = shoal_pace_span_best(&world, SHOAL_PACE_DRAFT_MAX, &us);
    assert_in_range(best.n_draft, 3, SHOAL_PACE_DRAFT_MAX);
    near(us, shoal_pace_span_us(&world, best.n_draft, best.n_window), 1e-9);
}

/* Short spans, many on their way, are sent in vain behind each refusal; in a full cloud all pay for
 * the messages of each. The figures are those of sixteen sessions of a small model. */
static void test_messages_in_vain_are_counted(void **state)
{
    (void)state;
    shoal_pace_world world = loaded(world_of(1, 100, 1170, 0.75), 29, 0.25, 14.9);
    double us = 0;
    shoal_pace_choice best = shoal_pace_span_best(&world, SHOAL_PACE_DRAFT_MAX, &us);
    assert_in_range(best.n_draft, 8, SHOAL_PACE_DRAFT_MAX);
    assert_true(best.n_window < 2 * best.n_draft);
}

/* Others fill a step with what they draft, as often as they are there; who comes waits for half of
 * the one that runs. */
static void test_a_step_holds_what_the_others_draft(void **state)
{
    (void)state;
    shoal_pace_world world = world_of(0, 0, 20000, 0.0);
    world.row_us = 1000;
    near(shoal_pace_span_step(&world, 1, 1).us, 20000, 0);
    near(shoal_pace_span_step(&world, 1, 1).wait_us, 0, 0);
    world.others = 9;
    near(shoal_pace_span_step(&world, 1, 1).us, 29000, 1e-9); /* nobody is ever away */
    near(shoal_pace_span_step(&world, 1, 1).wait_us, 29000 / 2.0 * 0.9, 1e-9);
    world.trip_us = 1e12; /* everybody nearly always is */
    near(shoal_pace_span_step(&world, 1, 1).us, 11000, 1e-3);
    assert_true(shoal_pace_span_step(&world, 1, 1).wait_us < 1);
    for (size_t i = 0; i < SHOAL_PACE_DEPTHS; i++) {
        world.accept[i] = 1;
    }
    near(shoal_pace_span_step(&world, 1, 1).us, 11000, 1e-3);
    near(shoal_pace_span_step(&world, 1, 2).us, 29000, 1e-9); /* the next span is there already */
}

static void test_what_no_step_judges_is_no_gain(void **state)
{
    (void)state;
    shoal_pace_world world = world_of(100, 1000, 20000, 0.95);
    double whole_us = shoal_pace_span_us(&world, 8, 8);
    world.n_step = 2;
    assert_true(shoal_pace_span_us(&world, 8, 8) > 1.5 * whole_us);
}

/* --- the controller -----------------------------------------------------------------------------
 */

static void trip(shoal_pace *pace, double us)
{
    const shoal_pace_trip trip = {.us = us, .alone = true};
    shoal_pace_round_trip(pace, &trip);
}

static shoal_pace pace_new(void)
{
    const shoal_pace_settings settings = {.n_draft = 0};
    shoal_pace pace;
    shoal_pace_init(&pace, &settings);
    shoal_pace_edge_token(&pace, 5000);
    trip(&pace, 1000);
    return pace;
}

static void judge(shoal_pace *pace, size_t n, size_t n_right_of_ten)
{
    for (size_t i = 0; i < n; i++) {
        shoal_pace_judged(pace, i % 10 < n_right_of_ten);
    }
}

static void test_fixed_settings_are_kept(void **state)
{
    (void)state;
    static const struct {
        shoal_pace_settings settings;
        shoal_pace_choice choice;
    } cases[] = {{{5, 0, 1, 1}, {5, 15}},
                 {{5, 7, 1, 1}, {5, 7}},
                 {{5, 2, 1, 1}, {5, 5}},
                 {{32, 0, 1, 1}, {32, 64}}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_pace pace;
        shoal_pace_init(&pace, &cases[i].settings);
        shoal_pace_told(&pace, 1000, 1000, 1.0); /* whatever it costs */
        shoal_pace_choice choice = shoal_pace_choose(&pace);
        assert_int_equal(choice.n_draft, cases[i].choice.n_draft);
        assert_int_equal(choice.n_window, cases[i].choice.n_window);
        assert_int_equal(shoal_pace_opening(&pace, 0), 0);
    }
}

static void test_a_fixed_window_holds_what_is_chosen(void **state)
{
    (void)state;
    const shoal_pace_settings settings = {.n_window = 1}; /* else longer spans were chosen */
    shoal_pace pace;
    shoal_pace_init(&pace, &settings);
    trip(&pace, 300000);
    trip(&pace, 300000);
    trip(&pace, 300000);
    shoal_pace_choice choice = shoal_pace_choose(&pace);
    assert_int_equal(choice.n_draft, 1);
    assert_int_equal(choice.n_window, 1);
}

static void test_unknown_cost_means_drafts(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    judge(&pace, 200, 1);
    assert_true(shoal_pace_choose(&pace).n_draft >= 1);
}

static void test_saturated_cloud_means_plain_decoding_at_once(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    shoal_pace_told(&pace, 40000, 700, 0.02);
    assert_true(shoal_pace_choose(&pace).n_window >= 3);
    judge(&pace, 100, 8);
    size_t n_before = SHOAL_PACE_DRAFT_MAX;
    for (double price = 0.1; price < 0.7; price += 0.1) {
        shoal_pace_told(&pace, 40000, 700, price);
        shoal_pace_choice choice = shoal_pace_choose(&pace);
        shoal_pace_world world = shoal_pace_world_get(&pace);
        size_t n_max = shoal_pace_span_max(&world);
        assert_true(n_max <= n_before && n_max == world.n_step && choice.n_draft >= 1);
        n_before = n_max;
    }
    assert_in_range(n_before, 1, 2);
    shoal_pace_told(&pace, 40000, 700, 0.95);
    assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
    assert_false(shoal_pace_wants_trip(&pace));
    shoal_pace_told(&pace, 40000, 700, 0.02);
    assert_true(shoal_pace_choose(&pace).n_draft >= 1);
}

/* Where drafts are so dear, not even tries are made. */
static void test_saturated_cloud_is_not_tried(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    judge(&pace, 100, 10);
    shoal_pace_told(&pace, 40000, 700, 0.85);
    for (uint64_t i = 1; i < 3000; i++) {
        assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
        shoal_pace_confirmed(&pace, 1, i * 40000);
    }
}

/* Drafts that never stand, far away: the cloud decodes, tries are made, and rarer each time. */
static void test_plain_decoding_is_left_now_and_then(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    size_t n_tries = 0;
    size_t n_looks = 0;
    size_t since = 0;
    size_t gap = 0;
    uint64_t now_us = 1;
    trip(&pace, 300000);
    trip(&pace, 300000);
    trip(&pace, 300000);
    shoal_pace_told(&pace, 40000, 700, 0.02);
    judge(&pace, 300, 0);
    assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
    for (size_t i = 0; i < 4000; i++) {
        now_us += 40000;
        since++;
        shoal_pace_confirmed(&pace, 1, now_us);
        shoal_pace_choice choice = shoal_pace_choose(&pace);
        if (choice.n_draft == 0 && choice.n_window > 0) {
            shoal_pace_judged(&pace, false); /* a look, which costs nobody anything */
            n_looks++;
        } else if (choice.n_draft > 0) {
            assert_true(since >= gap);
            gap = since;
            since = 0;
            n_tries++;
            for (size_t n = 0; shoal_pace_choose(&pace).n_draft > 0; n++) {
                assert_true(n < 100);
                now_us += 350000;
                shoal_pace_judged(&pace, false);
                shoal_pace_confirmed(&pace, 1, now_us);
            }
        }
    }
    assert_in_range(n_tries, 2, 5);
    assert_in_range(n_looks, 800, 1200);
    /* And when drafts stand again, that is found out. */
    size_t n_drafted = 0;
    for (size_t i = 0; i < 4000; i++) {
        shoal_pace_choice choice = shoal_pace_choose(&pace);
        bool drafts = choice.n_draft > 0;
        now_us += drafts ? 20000 : 40000;
        if (choice.n_window > 0) {
            shoal_pace_judged(&pace, true);
        }
        shoal_pace_confirmed(&pace, 1, now_us);
        n_drafted += drafts;
    }
    assert_true(n_drafted > 3400);
}

/* The sums say drafting is faster, the clock says it is not. */
static void test_clock_has_the_last_word(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    uint64_t now_us = 1;
    size_t n_plain = 0;
    shoal_pace_told(&pace, 40000, 700, 0.02);
    for (size_t i = 0; i < 3000; i++) {
        bool drafts = shoal_pace_choose(&pace).n_draft > 0;
        now_us += drafts ? 90000 : 40000;
        if (drafts) {
            shoal_pace_judged(&pace, i % 5 != 0);
        }
        shoal_pace_confirmed(&pace, 1, now_us);
        n_plain += !drafts;
    }
    assert_true(n_plain > 2000);
}

/* Plain tokens come sooner while the others draft. Where the cloud is what all wait for nobody
 * takes that; where the way is, its price says nothing of how long that takes. */
static void test_in_a_crowd_the_price_decides(void **state)
{
    (void)state;
    static const double trips[] = {500, 60000};
    for (size_t i = 0; i < SHOAL_COUNT(trips); i++) {
        const shoal_pace_settings settings = {.n_draft = 0};
        shoal_pace pace;
        shoal_pace_init(&pace, &settings);
        shoal_pace_edge_token(&pace, 1);
        trip(&pace, trips[i]);
        shoal_pace_told(&pace, 1170, 29, 0.41);
        uint64_t now_us = 1;
        size_t n_plain = 0;
        for (size_t k = 0; k < 1000; k++) {
            bool drafts = shoal_pace_choose(&pace).n_draft > 0;
            now_us += drafts ? 1500 : 700;
            if (drafts) {
                shoal_pace_judged(&pace, k % 4 != 0);
            }
            shoal_pace_confirmed(&pace, 1, now_us);
            n_plain += !drafts;
        }
        assert_in_range(n_plain, i == 0 ? 0 : 600, i == 0 ? 0 : 1000);
        if (i == 0) { /* dearer than the first draft is worth */
            judge(&pace, 200, 6);
            shoal_pace_told(&pace, 1170, 60, 0.79);
            assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
        }
    }
}

/* An idle cloud is spared though it would be faster by itself, a full one is not. */
static void test_plain_gain_spares_an_idle_cloud(void **state)
{
    (void)state;
    static const double gains[] = {0.0, 1.0, 2.0, 8.0};
    for (size_t i = 0; i < SHOAL_COUNT(gains); i++) {
        const shoal_pace_settings settings = {.plain_gain = gains[i]};
        shoal_pace pace;
        shoal_pace_init(&pace, &settings);
        trip(&pace, 60000);
        shoal_pace_told(&pace, 3000, 100, 0.03);
        bool drafts = shoal_pace_choose(&pace).n_draft > 0;
        assert_int_equal(drafts, gains[i] > 5);
        shoal_pace_told(&pace, 3000, 100, 0.79); /* a draft is still worth its row */
        assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
        shoal_pace_told(&pace, 30000, 100, 0.99);
        assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
    }
}

/* Before the cloud decodes, as many drafts as the answer can wait for. */
static void test_an_opening_costs_a_share_of_the_way(void **state)
{
    (void)state;
    static const struct {
        double share;
        double edge_us;
        double ahead_us;
        double price;
        size_t n_min;
        size_t n_max;
    } cases[] =
        {
            {0.05, 150, 0, 0.03, 7, 24}, /* faster than a step: as deep as one may stand */
            {0.05, 150, 2000, 0.03, 7, 24},
            {0.05, 150, 60000, 0.03, 0, 0}, /* a long prompt: the cloud is done sooner */
            {0.05, 1100, 0, 0.03, 3, 6},    /* some 500 us each, of 2500 */
            {0.10, 1100, 0, 0.03, 7, 10},
            {0.05, 1100, 1500, 0.03, 1, 3},
            {0.05, 4000, 0, 0.03, 0, 0},
            {0.0, 150, 0, 0.03, 0, 0},
            {0.05, 150, 0, 0.5, 3, 12}, /* no deeper than what is likely to stand */
            {0.05, 150, 0, 0.81, 0, 0}, /* nor where nobody drafts */
        };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        const shoal_pace_settings settings = {.spare_share = cases[i].share};
        shoal_pace pace;
        shoal_pace_init(&pace, &settings);
        assert_int_equal(shoal_pace_opening(&pace, 0), 0); /* nobody says what a step takes */
        for (size_t k = 0; k < 64; k++) {
            trip(&pace, 50000);
            shoal_pace_edge_token(&pace, cases[i].edge_us);
        }
        judge(&pace, 400, 9);
        shoal_pace_told(&pace, 800, 20, cases[i].price);
        size_t n = shoal_pace_opening(&pace, cases[i].ahead_us);
        if (n < cases[i].n_min || n > cases[i].n_max) {
            fail_msg("case %zu: %zu drafts", i, n);
        }
    }
}

/* One draft that something held up says little, and what was too slow once is tried again. */
static void test_a_held_up_draft_is_got_over(void **state)
{
    (void)state;
    const shoal_pace_settings settings = {.spare_share = 0.05};
    shoal_pace parent;
    shoal_pace child;
    shoal_pace_init(&parent, &settings);
    shoal_pace_edge_token(&parent, 100);
    shoal_pace_edge_token(&parent, 30000);
    assert_true(parent.edge_us < 150);
    for (size_t i = 0; i < 100; i++) {
        shoal_pace_edge_token(&parent, 5000);
    }
    near(parent.edge_us, 5000, 100); /* what lasts is believed */
    shoal_pace_told(&parent, 800, 20, 0.03);
    trip(&parent, 50000);
    judge(&parent, 400, 20);
    size_t n_asked = 0;
    for (size_t n = 0; n == 0; n_asked++) {
        assert_true(n_asked < 200);
        shoal_pace_fork(&child, &parent);
        n = shoal_pace_opening(&child, 0);
    }
    assert_true(n_asked > 10);
    shoal_pace_edge_token(&child, 1000);
    double known_us = parent.edge_us;
    shoal_pace_fork(&child, &parent);
    (void)shoal_pace_opening(&child, 0);
    near(parent.edge_us, known_us, 0); /* it was timed */
}

/* What a trip took is what it took less the steps that were waited for. */
static void test_round_trips_are_weighed_by_what_they_hold(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    shoal_pace_trip t = {.us = 33000, .alone = false};
    shoal_pace_round_trip(&pace, &t); /* may hold a wait for what was sent before it */
    near(pace.trip_us, 2000, 1e-9);
    t.us = 1000;
    shoal_pace_round_trip(&pace, &t); /* cannot */
    near(pace.trip_us, 1750, 1e-9);
    pace = pace_new();
    shoal_pace_told(&pace, 20000, 0, 0.1);
    t = (shoal_pace_trip){.us = 30000, .alone = true, .decoding = true};
    shoal_pace_round_trip(&pace, &t); /* half a step on average, and one of few */
    near(pace.trip_us, 1000 + 0.75 * 19000, 1e-9);
    pace = pace_new();
    shoal_pace_told(&pace, 20000, 500, 0.025); /* one session: nobody else */
    near(shoal_pace_world_get(&pace).others, 0, 0);
    t = (shoal_pace_trip){.us = 26000, .n_rows = 2, .alone = true};
    shoal_pace_round_trip(&pace, &t);
    near(pace.trip_us, 1000 + 0.25 * 4000, 1e-9);
    shoal_pace_told(&pace, 30000, 1000, 0.5);
    near(shoal_pace_world_get(&pace).others, 14, 1e-9);
}

/* One trip far off may be a packet sent again; the second is the new link. */
static void test_two_trips_that_are_far_off_are_a_new_link(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    shoal_pace_trip t = {.us = 16000, .alone = true};
    shoal_pace_round_trip(&pace, &t);
    near(pace.trip_us, 1000 + 0.25 * 15000, 1e-9);
    shoal_pace_round_trip(&pace, &t);
    near(pace.trip_us, 16000, 1e-9);
    t.us = 2000; /* and back */
    shoal_pace_round_trip(&pace, &t);
    near(pace.trip_us, 16000 - 0.25 * 14000, 1e-9);
    t.us = 60000; /* once up, once down: neither */
    shoal_pace_round_trip(&pace, &t);
    near(pace.trip_us, 12500 + 0.25 * 47500, 1e-9);
    t = (shoal_pace_trip){.us = 90000, .alone = false}; /* may be waits */
    shoal_pace_round_trip(&pace, &t);
    shoal_pace_round_trip(&pace, &t);
    assert_true(pace.trip_us < 30000);
}

static void test_pauses_and_changes_of_course_are_not_timed(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    shoal_pace_told(&pace, 40000, 700, 0.02);
    assert_true(shoal_pace_choose(&pace).n_draft > 0);
    shoal_pace_confirmed(&pace, 1, 1000);
    shoal_pace_confirmed(&pace, 1, 5000);
    near(pace.drafting.real_us, 4000, 0.01);
    shoal_pace_paused(&pace);
    shoal_pace_confirmed(&pace, 1, 90000000);
    near(pace.drafting.real_us, 4000, 0.01);
    shoal_pace_told(&pace, 40000, 700, 0.95);
    assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
    shoal_pace_confirmed(&pace, 1, 190000000); /* of drafts that were on their way */
    near(pace.plain.real_us, 0, 0);
    shoal_pace_confirmed(&pace, 1, 190040000);
    near(pace.plain.real_us, 40000, 0.01);
}

/* Far away the cloud decodes; when it has come near, one answer says so. */
static void test_the_way_is_asked_for_while_the_cloud_decodes(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    for (size_t i = 0; i < 8; i++) {
        trip(&pace, 300000);
    }
    shoal_pace_told(&pace, 40000, 700, 0.02);
    assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
    size_t n = 0;
    for (; !shoal_pace_wants_trip(&pace); n++) {
        assert_true(n < 40);
        shoal_pace_confirmed(&pace, 1, 1 + 40000 * n);
        assert_int_equal(shoal_pace_choose(&pace).n_draft, 0);
    }
    const shoal_pace_trip near_now = {.us = 10000, .alone = true, .decoding = true};
    shoal_pace_round_trip(&pace, &near_now);
    assert_false(shoal_pace_wants_trip(&pace));
    for (size_t i = 0; i < 12; i++) {
        shoal_pace_round_trip(&pace, &near_now);
    }
    assert_true(shoal_pace_choose(&pace).n_draft >= 1);
}

static void test_forks_learn_for_their_parent(void **state)
{
    (void)state;
    shoal_pace parent = pace_new();
    shoal_pace child;
    shoal_pace_fork(&child, &parent);
    shoal_pace_told(&child, 30000, 100, 0.25);
    judge(&child, 400, 2);
    near(parent.step_us, 30000, 0);
    near(parent.price, 0.25, 0);
    near(shoal_pace_acceptance(&parent), 0.2, 0.2);
    shoal_pace other;
    shoal_pace_fork(&other, &parent);
    near(shoal_pace_acceptance(&other), shoal_pace_acceptance(&child), 0.001);
}

static void test_acceptance_follows_what_is_recent(void **state)
{
    (void)state;
    shoal_pace pace = pace_new();
    near(shoal_pace_acceptance(&pace), 0.8, 0.001);
    judge(&pace, 1000, 9);
    near(shoal_pace_acceptance(&pace), 0.9, 0.05);
    judge(&pace, 150, 3);
    near(shoal_pace_acceptance(&pace), 0.3, 0.35);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_and_wait_takes_what_the_formula_says),
        cmocka_unit_test(test_without_refusals_the_slowest_part_sets_the_pace),
        cmocka_unit_test(test_nothing_depends_on_a_draft_that_never_stands),
        cmocka_unit_test(test_price_makes_spans_shorter_down_to_none),
        cmocka_unit_test(test_longer_ways_want_longer_spans),
        cmocka_unit_test(test_messages_are_not_free),
        cmocka_unit_test(test_messages_in_vain_are_counted),
        cmocka_unit_test(test_a_step_holds_what_the_others_draft),
        cmocka_unit_test(test_what_no_step_judges_is_no_gain),
        cmocka_unit_test(test_fixed_settings_are_kept),
        cmocka_unit_test(test_a_fixed_window_holds_what_is_chosen),
        cmocka_unit_test(test_unknown_cost_means_drafts),
        cmocka_unit_test(test_saturated_cloud_means_plain_decoding_at_once),
        cmocka_unit_test(test_saturated_cloud_is_not_tried),
        cmocka_unit_test(test_plain_decoding_is_left_now_and_then),
        cmocka_unit_test(test_clock_has_the_last_word),
        cmocka_unit_test(test_in_a_crowd_the_price_decides),
        cmocka_unit_test(test_plain_gain_spares_an_idle_cloud),
        cmocka_unit_test(test_an_opening_costs_a_share_of_the_way),
        cmocka_unit_test(test_a_held_up_draft_is_got_over),
        cmocka_unit_test(test_the_way_is_asked_for_while_the_cloud_decodes),
        cmocka_unit_test(test_round_trips_are_weighed_by_what_they_hold),
        cmocka_unit_test(test_two_trips_that_are_far_off_are_a_new_link),
        cmocka_unit_test(test_pauses_and_changes_of_course_are_not_timed),
        cmocka_unit_test(test_forks_learn_for_their_parent),
        cmocka_unit_test(test_acceptance_follows_what_is_recent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
