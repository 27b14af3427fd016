/* SPDX-License-Identifier: Apache-2.0
 *
 * What tokens cost in energy, and how long a budget of it lasts: a made-up device with a made-up
 * clock, under the policies of mode assist.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "edge/coop/energy.h"
#include "edge/coop/route.h"
#include "edge/coop/spend.h"

#include <math.h>
#include <stdbool.h>

static double unit(uint64_t *rng)
{
    return (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
}

static shoal_energy energy_of(double idle_w, double radio_nj)
{
    const shoal_energy_settings settings = {.idle_w = idle_w, .radio_nj = radio_nj};
    shoal_energy energy;
    shoal_energy_init(&energy, &settings);
    return energy;
}

static bool near(double a, double b, double share)
{
    return fabs(a - b) <= share * fabs(b);
}

static uint64_t charge(shoal_energy *energy, shoal_energy_interval interval)
{
    uint64_t uj = 0;
    uint64_t cloud_only = 0;
    shoal_energy_take(energy, &interval, &uj, &cloud_only);
    return uj;
}

static void test_two_powers_are_told_apart(void **state)
{
    (void)state;
    uint64_t rng = 3;
    shoal_energy energy = energy_of(0.5, 0);
    for (size_t i = 0; i < 400; i++) {
        double s = 0.02 + 0.1 * unit(&rng);
        double compute_s = s * unit(&rng);
        double w = (6 * compute_s + 1.5 * (s - compute_s)) * (0.9 + 0.2 * unit(&rng));
        (void)charge(&energy, (shoal_energy_interval){
                                  .s = s, .compute_s = compute_s, .measured = true, .uj = w * 1e6});
    }
    shoal_energy_costs costs = shoal_energy_costs_of(&energy);
    assert_true(near(costs.computing_w, 5.5, 0.05));
    assert_true(near(costs.waiting_w, 1.0, 0.15));
    assert_false(costs.known); /* no token was seen */
    assert_int_equal(shoal_energy_prefers(&energy), SHOAL_ENERGY_EITHER);
    /* An interval without a meter is charged as learned. */
    uint64_t uj = charge(&energy, (shoal_energy_interval){.s = 2, .compute_s = 1});
    assert_true(near((double)uj, (costs.computing_w + costs.waiting_w) * 1e6, 1e-3));
}

static void test_what_was_hardly_seen_is_not_known(void **state)
{
    (void)state;
    shoal_energy energy = energy_of(0, 0);
    shoal_energy_step(&energy, 20000, 1);
    shoal_energy_cloud_tokens(&energy, 20000, 1, 1);
    assert_int_equal(charge(&energy, (shoal_energy_interval){.s = 1, .compute_s = 1}), 0);
    for (size_t i = 0; i < 50; i++) { /* always in one proportion */
        (void)charge(&energy, (shoal_energy_interval){
                                  .s = 0.1, .compute_s = 0.095, .measured = true, .uj = 3e5});
    }
    shoal_energy_costs costs = shoal_energy_costs_of(&energy);
    assert_true(near(costs.computing_w, 3, 0.06));
    assert_false(costs.known);
    assert_int_equal(shoal_energy_prefers(&energy), SHOAL_ENERGY_EITHER);
    assert_false(shoal_energy_shifts(&energy, 0));
    for (size_t i = 0; i < 50; i++) {
        (void)charge(&energy, (shoal_energy_interval){.s = 0.1, .measured = true, .uj = 1e5});
    }
    costs = shoal_energy_costs_of(&energy);
    assert_true(costs.known && near(costs.waiting_w, 1, 0.05));
    assert_true(near(costs.here_uj, 20000 * costs.computing_w, 1e-6));
    assert_int_equal(shoal_energy_prefers(&energy), SHOAL_ENERGY_CLOUD);
}

static void test_idle_draw_and_bytes_are_counted(void **state)
{
    (void)state;
    shoal_energy energy = energy_of(2, 500);
    const shoal_energy_interval below = {.s = 1, .measured = true, .uj = 1.5e6};
    assert_int_equal(charge(&energy, below), 0); /* never below nothing */
    const shoal_energy_interval bytes = {.s = 1, .measured = true, .uj = 2e6, .n_bytes = 3};
    assert_int_equal(charge(&energy, bytes), 1); /* 1.5, of which a half is kept */
    assert_int_equal(charge(&energy, bytes), 2);
}

/* Costs of 1 W * here_us and 1 W * cloud_us. */
static shoal_energy energy_with(double here_us, double cloud_us)
{
    shoal_energy energy = energy_of(0, 0);
    for (size_t i = 0; i < 20; i++) {
        (void)charge(&energy,
                     (shoal_energy_interval){
                         .s = 1, .compute_s = (double)(i % 2), .measured = true, .uj = 1e6});
    }
    shoal_energy_step(&energy, here_us, 1);
    shoal_energy_cloud_tokens(&energy, cloud_us, 1, 1);
    return energy;
}

static void test_side_that_costs_less_is_preferred_by_a_margin(void **state)
{
    (void)state;
    shoal_energy same = energy_with(1000, 1000 * SHOAL_ENERGY_MARGIN * 0.999);
    assert_int_equal(shoal_energy_prefers(&same), SHOAL_ENERGY_EITHER);
    shoal_energy here = energy_with(1000, 1000 * SHOAL_ENERGY_MARGIN * 1.001);
    assert_int_equal(shoal_energy_prefers(&here), SHOAL_ENERGY_HERE);
    shoal_energy cloud = energy_with(1000 * SHOAL_ENERGY_MARGIN * 1.001, 1000);
    assert_int_equal(shoal_energy_prefers(&cloud), SHOAL_ENERGY_CLOUD);
    for (size_t i = 0; i < 8; i++) {
        assert_false(shoal_energy_shifts(&here, 0));
        assert_false(shoal_energy_shifts(&same, 0));
        assert_false(shoal_energy_shifts(&cloud, 1));
        assert_true(shoal_energy_shifts(&cloud, 0));
    }
    size_t n = 0;
    for (size_t i = 0; i < 100; i++) {
        n += shoal_energy_shifts(&cloud, 0.75);
    }
    assert_int_equal(n, 25);
    shoal_energy shared = energy_with(1000, 0);
    shoal_energy_cloud_tokens(&shared, 8000, 2, 4); /* four answers waited for it at once */
    assert_true(near(shoal_energy_costs_of(&shared).cloud_uj, 1000, 1e-6));
    shoal_energy_step(&shared, 8000, 4);
    assert_true(near(shoal_energy_costs_of(&shared).here_uj, 1000 + 1000 * 0.125, 1e-6));
}

static void test_cloud_only_is_what_its_tokens_would_have_cost(void **state)
{
    (void)state;
    uint64_t uj = 0;
    uint64_t cloud_only = 0;
    shoal_energy energy = energy_of(0, 0);
    const shoal_energy_interval interval = {
        .s = 1, .compute_s = 1, .measured = true, .uj = 1e6, .n_tokens = 10};
    shoal_energy_take(&energy, &interval, &uj, &cloud_only);
    assert_int_equal(uj, 1000000);
    assert_int_equal(cloud_only, uj); /* nothing is known of the cloud: nothing is claimed */
    energy = energy_with(1000, 4000);
    shoal_energy_take(&energy, &interval, &uj, &cloud_only);
    assert_int_equal(uj, 1000000);
    assert_true(near((double)cloud_only, 40000, 0.01));
}

/* --- an hour of a device ------------------------------------------------------------------------
 */

typedef struct device {
    const char *name;
    double computing_w;
    double waiting_w;
    double here_ms;  /* a token */
    double cloud_ms; /* a token */
    double trip_ms;
    double radio_nj;
    double limit_j; /* 0: none */
    bool in_bursts;
    bool blind; /* the meter is away in the middle third */
} device;

typedef struct hour {
    double used;     /* charged, of the limit */
    double true_j;   /* drawn */
    double by_cloud; /* share of tokens */
    size_t n_served;
    size_t n_refused;
    size_t n_whole; /* answers that were the cloud's from the start */
    double saved_j;
} hour;

enum {
    TOKENS = 40, /* of an answer */
    QUEUE = 32,
    TOKEN_BYTES = 40
};

typedef struct world {
    const device *d;
    shoal_energy energy;
    shoal_route route;
    shoal_spend spend;
    uint64_t rng;
    double now_ms;
    double compute_ms; /* of the interval under way */
    double wait_ms;
    shoal_energy_interval interval;
    hour out;
    uint64_t n_cloud;
    double cloud_only_uj;
} world;

static void look(world *w, bool ended)
{
    const device *d = w->d;
    double third = w->now_ms / 1200000;
    double joules = (d->computing_w * w->compute_ms + d->waiting_w * w->wait_ms) / 1e3;
    w->interval.s = (w->compute_ms + w->wait_ms) / 1e3;
    w->interval.compute_s = w->compute_ms / 1e3;
    w->interval.measured = !d->blind || third < 1 || third >= 2;
    w->interval.uj = joules * 1e6 * (0.95 + 0.1 * unit(&w->rng)); /* a meter with noise */
    w->interval.n_ended = ended;
    w->out.true_j += joules + (double)w->interval.n_bytes * d->radio_nj / 1e9;
    w->n_cloud += w->interval.n_cloud;
    uint64_t uj = 0;
    uint64_t cloud_only_uj = 0;
    shoal_energy_take(&w->energy, &w->interval, &uj, &cloud_only_uj);
    w->out.saved_j += ((double)cloud_only_uj - (double)uj) / 1e6;
    shoal_spend_turn(&w->spend, (uint64_t)w->now_ms);
    shoal_spend_add(&w->spend, SHOAL_SPEND_ENERGY, uj);
    w->interval = (shoal_energy_interval){0};
    w->compute_ms = 0;
    w->wait_ms = 0;
}

static void pass(world *w, double compute_ms, double wait_ms)
{
    w->compute_ms += compute_ms;
    w->wait_ms += wait_ms;
    w->now_ms += compute_ms + wait_ms;
    if (w->compute_ms + w->wait_ms >= 100) {
        look(w, false);
    }
}

static void ask_cloud(world *w, size_t n_tokens)
{
    pass(w, 0, w->d->trip_ms);
    for (size_t i = 0; i < n_tokens; i++) {
        w->interval.n_tokens++;
        w->interval.n_cloud++;
        w->interval.n_bytes += TOKEN_BYTES;
        if (i > 0) {
            shoal_energy_cloud_tokens(&w->energy, w->d->cloud_ms * 1e3, 1, 1);
        }
        pass(w, 0, w->d->cloud_ms);
    }
}

static double level(const world *w)
{
    return shoal_spend_level_of(&w->spend, SHOAL_SPEND_ENERGY, (uint64_t)w->energy.answer_uj,
                                (uint64_t)w->now_ms);
}

static void answer(world *w)
{
    if (shoal_energy_shifts(&w->energy, level(w))) {
        w->out.n_whole++;
        ask_cloud(w, TOKENS);
    } else {
        pass(w, w->d->here_ms * 2, 0); /* the prompt */
        for (size_t i = 0; i < TOKENS; i++) {
            bool dear = shoal_energy_prefers(&w->energy) == SHOAL_ENERGY_HERE;
            shoal_exit_features row = {.sound = true, .depth = 1};
            row.top = (float)(1 - pow(unit(&w->rng), 4));
            if (shoal_route_judge(&w->route, &row, 0, dear ? level(w) : 1) == SHOAL_ROUTE_ASK) {
                ask_cloud(w, 2);
                i++;
                pass(w, w->d->here_ms, 0); /* what the cloud said is fed */
            } else {
                w->interval.n_tokens++;
                shoal_energy_step(&w->energy, w->d->here_ms * 1e3, 1);
                pass(w, w->d->here_ms, 0);
            }
        }
    }
    look(w, true);
    w->out.n_served++;
}

static hour live(const device *d)
{
    static world w;
    const shoal_route_settings settings = shoal_route_settings_default();
    shoal_spend_limits limits = {0};
    double next_ms = 0;
    size_t n_waiting = 0;
    w = (world){.d = d, .energy = energy_of(0, d->radio_nj), .rng = 7};
    limits.most[SHOAL_SPEND_ENERGY][SHOAL_SPEND_HOUR] = (uint64_t)(d->limit_j * 1e6);
    assert_int_equal(shoal_route_init(&w.route, &settings, NULL, NULL, NULL), SHOAL_OK);
    shoal_spend_init(&w.spend, &limits, 0);
    while (w.now_ms < 3599000) {
        double often = !d->in_bursts ? 1 : fmod(w.now_ms / 150000, 2) < 1 ? 1.8 : 0.2;
        while (next_ms <= w.now_ms) {
            n_waiting += n_waiting < QUEUE;
            w.out.n_refused += n_waiting == QUEUE;
            next_ms += -log(1 - unit(&w.rng)) * 3000 / often;
        }
        shoal_spend_period period = SHOAL_SPEND_PERIODS;
        uint64_t wait_ms =
            shoal_spend_wait_ms(&w.spend, SHOAL_SPEND_ENERGY, 0, (uint64_t)w.now_ms, &period);
        if (wait_ms > 0) {
            assert_int_equal(period, SHOAL_SPEND_HOUR);
            w.now_ms += (double)SHOAL_MIN(wait_ms, 1000u);
        } else if (n_waiting > 0) {
            n_waiting--;
            answer(&w);
        } else {
            w.now_ms = next_ms;
        }
    }
    double used = (double)w.spend.used[SHOAL_SPEND_ENERGY][SHOAL_SPEND_HOUR] / 1e6;
    w.out.used = d->limit_j > 0 ? used / d->limit_j : used;
    w.out.by_cloud = (double)w.n_cloud / (double)(w.out.n_served * TOKENS);
    return w.out;
}

static void test_budget_is_met_within_5_percent(void **state)
{
    (void)state;
    /* By itself an hour of the first two costs some 11000 J, of the third some 3600. */
    static const device all[] = {
        {"cloud costs less", 6, 1, 40, 20, 50, 0, 5000, false, false},
        {"cloud costs less, in bursts", 6, 1, 40, 20, 50, 0, 5000, true, false},
        {"cloud costs more", 2, 1.5, 20, 20, 50, 4e6, 2800, false, false},
        {"cloud costs more, in bursts", 2, 1.5, 20, 20, 50, 4e6, 2800, true, false},
        {"either costs too much", 6, 5, 40, 40, 50, 0, 2000, false, false},
        {"either costs too much, in bursts", 6, 5, 40, 40, 50, 0, 2000, true, false},
        {"meter lost for a third", 6, 1, 40, 20, 50, 0, 5000, false, true},
    };
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        device free = all[i];
        free.limit_j = 0;
        hour wanted = live(&free);
        hour o = live(&all[i]);
        print_message(
            "%s: %.0f J wanted, of %.0f J %.1f %% charged, %.1f %% drawn; %zu of %zu "
            "served, %zu whole, %.1f %% of tokens from the cloud (%.1f %%), %.0f J saved\n",
            all[i].name, wanted.true_j, all[i].limit_j, 100 * o.used,
            100 * o.true_j / all[i].limit_j, o.n_served, wanted.n_served, o.n_whole,
            100 * o.by_cloud, 100 * wanted.by_cloud, o.saved_j);
        assert_true(wanted.true_j > all[i].limit_j * 1.05);
        assert_int_equal(wanted.n_whole, 0);
        assert_true(o.used > 0.95 && o.used < 1.05);
        assert_true(near(o.true_j, all[i].limit_j, 0.05));
        if (i < 2 || i == 6) { /* nobody had to wait: the cloud took over */
            assert_true(o.n_whole > 0 && o.n_refused == 0 && o.n_served + 40 > wanted.n_served);
        } else if (i < 4) { /* nobody had to wait: the cloud was asked less */
            assert_true(o.n_whole == 0 && o.by_cloud < wanted.by_cloud * 0.9);
            assert_true(o.n_served + 40 > wanted.n_served && o.saved_j > 0);
        } else {
            assert_true(o.n_served < wanted.n_served / 2);
        }
    }
}

static void test_budget_above_what_is_wanted_changes_nothing(void **state)
{
    (void)state;
    device d = {"cloud costs less", 6, 1, 40, 20, 50, 0, 0, false, false};
    hour wanted = live(&d);
    d.limit_j = 40000;
    hour o = live(&d);
    assert_int_equal(o.n_whole, 0);
    assert_int_equal(o.n_served, wanted.n_served);
    assert_true(o.true_j == wanted.true_j);
}

static void test_waits_end_when_something_is_released(void **state)
{
    (void)state;
    const uint64_t hour_ms = 3600000;
    shoal_spend_limits limits = {0};
    shoal_spend spend;
    shoal_spend_period period = SHOAL_SPEND_PERIODS;
    shoal_spend_init(&spend, &limits, 0);
    assert_int_equal(shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, 1000000, 0, &period), 0);
    assert_int_equal(period, SHOAL_SPEND_PERIODS);
    limits.most[SHOAL_SPEND_ENERGY][SHOAL_SPEND_HOUR] = 1000;
    limits.most[SHOAL_SPEND_ENERGY][SHOAL_SPEND_DAY] = 100000;
    shoal_spend_init(&spend, &limits, 0);
    assert_int_equal(shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, 39, 0, &period), 0);
    for (uint64_t n = 40; n < 1000; n += 60) {
        uint64_t wait_ms = shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, n, 0, &period);
        assert_int_equal(period, SHOAL_SPEND_HOUR);
        assert_int_equal(wait_ms, (n - 40) * 3600 + 1);
        uint64_t before_ms = wait_ms - SHOAL_MIN(wait_ms, 2u);
        assert_true(shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, n, before_ms, &period) > 0);
        assert_int_equal(shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, n, wait_ms, &period), 0);
    }
    shoal_spend_add(&spend, SHOAL_SPEND_ENERGY, 1000); /* all of the hour's */
    assert_int_equal(shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, 0, 5, &period), hour_ms - 5);
    assert_true(shoal_spend_level_of(&spend, SHOAL_SPEND_ENERGY, 0, hour_ms - 1) <= 0);
    /* It is no budget of the cloud's. */
    shoal_spend_kind kind = SHOAL_SPEND_KINDS;
    assert_false(shoal_spend_is_over(&spend, &kind, &period));
    assert_true(shoal_spend_level(&spend, 0, 5) >= 1);
    shoal_spend_turn(&spend, hour_ms);
    assert_int_equal(shoal_spend_wait_ms(&spend, SHOAL_SPEND_ENERGY, 0, hour_ms, &period), 0);
    assert_int_equal(spend.used[SHOAL_SPEND_ENERGY][SHOAL_SPEND_DAY], 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_powers_are_told_apart),
        cmocka_unit_test(test_what_was_hardly_seen_is_not_known),
        cmocka_unit_test(test_idle_draw_and_bytes_are_counted),
        cmocka_unit_test(test_side_that_costs_less_is_preferred_by_a_margin),
        cmocka_unit_test(test_cloud_only_is_what_its_tokens_would_have_cost),
        cmocka_unit_test(test_budget_is_met_within_5_percent),
        cmocka_unit_test(test_budget_above_what_is_wanted_changes_nothing),
        cmocka_unit_test(test_waits_end_when_something_is_released),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
