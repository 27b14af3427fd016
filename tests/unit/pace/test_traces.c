/* SPDX-License-Identifier: Apache-2.0
 *
 * The controller against an oracle, in simulated time: of every fixed span and window, and of plain
 * decoding, the one that was fastest in each segment of the trace. No fixed choice can do that; the
 * controller has to find it out on the way, and may take 5 % longer.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "stream.h"

#include "common/base/macros.h"
#include "common/base/rng.h"

#include <stdio.h>
#include <string.h>

static const double LOSS_MAX = 0.05;
/* Of one seed: its oracle has the luck of its drafts. */
static const double SEED_MAX = 0.07;

enum {
    N_BURSTS = 12
};

static trace constant(const char *name, double trip_ms, double accept)
{
    return (trace){.name = name,
                   .edge_us = 5000,
                   .fixed_us = 36000,
                   .row_us = 700,
                   .segments = {{4000, trip_ms * 1000, accept, 0}},
                   .n_segments = 1,
                   .seed = 11};
}

static trace acceptance_drops(void)
{
    trace t = constant("acceptance drops, 30 ms", 30, 0.9);
    t.segments[0].n_tokens = 2000;
    t.segments[1] = (segment){2000, 30000, 0.15, 0};
    t.segments[2] = (segment){2000, 30000, 0.85, 0};
    t.n_segments = 3;
    return t;
}

/* A link that is slow now and then, for as long as a seed says. */
static trace round_trips_burst(uint64_t seed)
{
    trace t = constant("bursts of 20 to 160 ms", 20, 0.82);
    uint64_t rng = seed;
    t.seed += seed;
    for (size_t i = 0; i < 16; i++) {
        size_t n = 150 + shoal_rng_next(&rng) % 250;
        t.segments[i] = (segment){n, i % 2 == 0 ? 20000 : 160000, 0.82, 0};
    }
    t.n_segments = 16;
    return t;
}

static trace cloud_saturates(void)
{
    trace t = constant("cloud saturates, 10 ms", 10, 0.8);
    static const size_t others[] = {0, 3, 15, 48, 120, 30, 7, 0};
    for (size_t i = 0; i < SHOAL_COUNT(others); i++) {
        t.segments[i] = (segment){1000, 10000, 0.8, others[i]};
    }
    t.n_segments = SHOAL_COUNT(others);
    t.fixed_us = 12000;
    return t;
}

static double best_fixed(const trace *t, double best_us[STREAM_SEGMENTS_MAX])
{
    static const size_t spans[] = {1, 2, 3, 4, 6, 8, 16, 64};
    static stream_result result;
    double all = 0;
    for (size_t n = 0; n <= SHOAL_PACE_DRAFT_MAX; n = n < 8 ? n + 1 : n + 4) {
        for (size_t k = 0; k < (n == 0 ? 1 : SHOAL_COUNT(spans)); k++) {
            shoal_pace_choice choice = {n, SHOAL_MIN(n * spans[k], (size_t)SHOAL_PACE_WINDOW_MAX)};
            stream_run(t, choice, NULL, &result);
            for (size_t i = 0; i < t->n_segments; i++) {
                bool better = (n == 0 && k == 0) || result.us[i] < best_us[i];
                best_us[i] = better ? result.us[i] : best_us[i];
            }
        }
    }
    for (size_t i = 0; i < t->n_segments; i++) {
        all += best_us[i];
    }
    return all;
}

/* How far the controller is behind; the test fails where that is more than most. */
static double compare(trace t, double most)
{
    static stream_result result;
    double best_us[STREAM_SEGMENTS_MAX] = {0};
    shoal_pace pace;
    const shoal_pace_settings settings = {.n_draft = 0};
    double oracle = best_fixed(&t, best_us);
    shoal_pace_init(&pace, &settings);
    stream_run(&t, (shoal_pace_choice){0, 0}, &pace, &result);
    double ours = 0;
    size_t n = 0;
    for (size_t i = 0; i < t.n_segments; i++) {
        ours += result.us[i];
        n += t.segments[i].n_tokens;
    }
    print_message("%-28s oracle %7.2f ms a token, controller %7.2f (%+.1f %%), %zu of %zu plain, "
                  "%zu switches\n",
                  t.name, oracle / 1e3 / (double)n, ours / 1e3 / (double)n,
                  100 * (ours / oracle - 1), result.n_plain, n, result.n_switches);
    if (ours > (1 + most) * oracle) {
        for (size_t i = 0; i < t.n_segments; i++) {
            print_message("  segment %zu: %.2f and %.2f ms a token\n", i,
                          best_us[i] / 1e3 / (double)t.segments[i].n_tokens,
                          result.us[i] / 1e3 / (double)t.segments[i].n_tokens);
        }
        fail_msg("%s: more than %.0f %% behind the oracle", t.name, 100 * most);
    }
    return ours / oracle - 1;
}

static void test_lan(void **state)
{
    (void)state;
    (void)compare(constant("LAN, 1 ms", 1, 0.8), LOSS_MAX);
}

static void test_wan(void **state)
{
    (void)state;
    (void)compare(constant("WAN, 50 ms", 50, 0.8), LOSS_MAX);
}

static void test_satellite(void **state)
{
    (void)state;
    (void)compare(constant("satellite, 300 ms", 300, 0.95), LOSS_MAX);
    (void)compare(constant("satellite, low acceptance", 300, 0.6), LOSS_MAX);
}

static void test_acceptance_that_drops(void **state)
{
    (void)state;
    (void)compare(acceptance_drops(), LOSS_MAX);
}

static void test_round_trips_in_bursts(void **state)
{
    (void)state;
    double sum = 0.0;
    for (uint64_t seed = 1; seed <= N_BURSTS; seed++) {
        sum += compare(round_trips_burst(seed), SEED_MAX);
    }
    print_message("of all %d: %+.1f %%\n", (int)N_BURSTS, 100 * sum / N_BURSTS);
    assert_true(sum / N_BURSTS <= LOSS_MAX);
}

static void test_cloud_that_saturates(void **state)
{
    (void)state;
    (void)compare(cloud_saturates(), LOSS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lan),
        cmocka_unit_test(test_wan),
        cmocka_unit_test(test_satellite),
        cmocka_unit_test(test_acceptance_that_drops),
        cmocka_unit_test(test_round_trips_in_bursts),
        cmocka_unit_test(test_cloud_that_saturates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
