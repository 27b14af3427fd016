/* SPDX-License-Identifier: Apache-2.0
 *
 * What answers cost in energy: while any is under way the meter is looked at now and then, and what
 * it saw is charged to them; what the device draws when nothing is asked is nobody's, so an idle
 * daemon wakes for no meter. A meter that is lost changes no answer: what it would have seen is
 * estimated by what was learned before. While a bundle follows another, both of them look at the
 * meter as long as answers of both are under way.
 */
#include "edge/coop/coop_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    LOOK_MS = 100 /* between two looks while answers are under way, and at the end of each */
};

void shoal_charge_begin(shoal_coop *coop)
{
    coop_charge *charge = &coop->charge;
    if (!charge->meter || charge->open) {
        return;
    }
    charge->open = true;
    charge->since_ns = shoal_clock_now_ns(&coop->clock);
    charge->compute_us = 0;
    charge->n_ended = 0;
    shoal_coop_look_at_link(coop);
    shoal_coop_sum_totals(coop, &charge->seen);
    double nothing = 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_power_skip(charge->meter);
    charge->up = shoal_power_take(charge->meter, charge->since_ns, &nothing, &err) >= 0;
    if (!charge->up) {
        (void)snprintf(charge->trouble, sizeof charge->trouble, "%s", err.text);
    }
}

void shoal_charge_take(shoal_coop *coop)
{
    coop_charge *charge = &coop->charge;
    if (!charge->open) {
        return;
    }
    uint64_t now_ns = shoal_clock_now_ns(&coop->clock);
    shoal_coop_totals now;
    shoal_coop_look_at_link(coop);
    shoal_coop_sum_totals(coop, &now);
    const shoal_coop_totals *before = &charge->seen;
    shoal_energy_interval interval = {
        .s = (double)(now_ns - charge->since_ns) / 1e9,
        .compute_s = charge->compute_us / 1e6,
        .n_cloud = now.n_by_tier[SHOAL_TIER_CLOUD] - before->n_by_tier[SHOAL_TIER_CLOUD],
        .n_bytes = shoal_coop_billed_up(coop, &now) - shoal_coop_billed_up(coop, before) +
                   shoal_coop_billed_down(coop, &now) - shoal_coop_billed_down(coop, before),
        .n_ended = charge->n_ended,
    };
    for (size_t t = 0; t < SHOAL_TIERS; t++) {
        interval.n_tokens += now.n_by_tier[t] - before->n_by_tier[t];
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_power_take(charge->meter, now_ns, &interval.uj, &err);
    interval.measured = status == SHOAL_OK;
    charge->up = status >= 0;
    if (!charge->up) {
        (void)snprintf(charge->trouble, sizeof charge->trouble, "%s", err.text);
    }
    uint64_t uj = 0;
    uint64_t cloud_only_uj = 0;
    shoal_energy_take(&charge->energy, &interval, &uj, &cloud_only_uj);
    coop->ended.energy_uj += uj;
    coop->ended.energy_cloud_only_uj += cloud_only_uj;
    shoal_metric_add(coop->metrics.energy, (double)uj / 1e6);
    shoal_metric_add(coop->metrics.energy_cloud_only, (double)cloud_only_uj / 1e6);
    charge->seen = now;
    charge->since_ns = now_ns;
    charge->compute_us = 0;
    charge->n_ended = 0;
}

void shoal_charge_turn(shoal_coop *coop)
{
    coop_charge *charge = &coop->charge;
    if (charge->open &&
        (!coop->active || shoal_charge_look_ms(coop) <= shoal_clock_now_ms(&coop->clock))) {
        shoal_charge_take(coop);
        charge->open = coop->active != NULL;
    }
}

uint64_t shoal_charge_look_ms(const shoal_coop *coop)
{
    return coop->charge.open ? coop->charge.since_ns / 1000000 + LOOK_MS : UINT64_MAX;
}

void shoal_charge_step(shoal_coop *coop, double step_us, size_t n_tokens)
{
    coop->charge.compute_us += step_us;
    shoal_energy_step(&coop->charge.energy, step_us, n_tokens);
}

void shoal_charge_cloud_tokens(shoal_coop *coop, gen *g, size_t n_tokens)
{
    uint64_t now_ns = shoal_clock_now_ns(&coop->clock);
    if (g->cloud_said_ns > 0 && n_tokens > 0) {
        size_t n_waiting = 0;
        for (const gen *other = coop->active; other; other = other->next) {
            n_waiting += !other->done && (other->assist.waits || other->mode == SHOAL_MODE_CLOUD);
        }
        shoal_energy_cloud_tokens(&coop->charge.energy, (double)(now_ns - g->cloud_said_ns) / 1e3,
                                  n_tokens, n_waiting);
    }
    g->cloud_said_ns = now_ns;
}

/* --- the budget ---------------------------------------------------------------------------------
 */

/* What answers under way are still to cost, at most. */
static uint64_t reserved_uj(const shoal_coop *coop)
{
    return (uint64_t)((double)coop->n_active * coop->charge.energy.answer_uj);
}

double shoal_charge_level(const shoal_coop *coop, uint64_t now_ms)
{
    return shoal_spend_level_of(&coop->spend, SHOAL_SPEND_ENERGY, reserved_uj(coop), now_ms);
}

uint64_t shoal_charge_wait_ms(const shoal_coop *coop, uint64_t now_ms, char *text, size_t n_text)
{
    shoal_spend_period period = SHOAL_SPEND_HOUR;
    uint64_t wait_ms =
        shoal_spend_wait_ms(&coop->spend, SHOAL_SPEND_ENERGY, reserved_uj(coop), now_ms, &period);
    (void)snprintf(text, n_text,
                   "budget.energy_j_per_%s: nothing is left for another %" PRIu64
                   " s, and the request may not wait as long",
                   shoal_spend_period_name(period), wait_ms / 1000 + 1);
    return wait_ms;
}

void shoal_charge_publish(shoal_coop *coop, uint64_t now_ms)
{
    const coop_charge *charge = &coop->charge;
    if (!charge->meter) {
        return;
    }
    shoal_energy_costs costs = shoal_energy_costs_of(&charge->energy);
    shoal_coop_energy_state *state = &coop->state.energy;
    state->kind = coop->settings.power_kind;
    state->up = charge->up;
    state->level = shoal_charge_level(coop, now_ms);
    state->costs = costs;
    (void)snprintf(state->trouble, sizeof state->trouble, "%s", charge->trouble);
    shoal_metric_set(coop->metrics.energy_up, charge->up ? 1 : 0);
    shoal_metric_set(coop->metrics.energy_edge_token, costs.here_uj / 1e6);
    shoal_metric_set(coop->metrics.energy_cloud_token, costs.cloud_uj / 1e6);
}
