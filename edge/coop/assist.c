/* SPDX-License-Identifier: Apache-2.0
 *
 * Mode ASSIST: the edge speaks while it is sure. Where it is not, what it has said goes up as
 * TRUSTED tokens and the cloud continues for a span, from the middle of a sentence if need be
 * (protocol/SPEC.md, section 4); at the span's end the edge's own next row decides who goes on.
 * The cloud is never needed: whatever becomes of it, the edge takes up where the text stands. Which
 * row is unsure is edge/coop/route.h, whether the cloud is worth asking edge/coop/breaker.h, and
 * what may be spent on it edge/coop/spend.h.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- handing over -------------------------------------------------------------------------------
 */

/* Tokens that the cloud was asked for and has not made. */
static uint64_t n_reserved(const shoal_coop *coop)
{
    uint64_t n = 0;
    for (const gen *g = coop->active; g; g = g->next) {
        n += g->assist.waits && !g->done ? g->assist.until - g->n_confirmed : 0;
    }
    return n;
}

/* A breaker that is stale is worth a wait: the probe will tell. */
static bool is_away(const shoal_coop *coop, const gen *g, uint64_t now_ms)
{
    bool open = coop->breaker.open && !shoal_breaker_stale(&coop->breaker, now_ms);
    return !coop->target || g->assist.alone || open;
}

/* Tokens the cloud may be asked for by this answer now; 0: none. */
static size_t n_allowed(const shoal_coop *coop, const gen *g, uint64_t now_ms)
{
    size_t n_made = g->usage.n_by_tier[SHOAL_TIER_CLOUD];
    if (is_away(coop, g, now_ms) || n_made >= g->assist.n_most) {
        return 0;
    }
    size_t n = SHOAL_MIN(g->assist.n_most - n_made, g->n_end - g->n_confirmed);
    return SHOAL_MIN(n, shoal_spend_tokens_left(&coop->spend, n_reserved(coop), now_ms));
}

static void hand_over(shoal_coop *coop, gen *g, size_t n, uint64_t now_ms)
{
    g->assist.waits = true;
    g->assist.asked = false;
    g->assist.until = g->n_confirmed + n;
    g->assist.give_up_ms = now_ms + coop->settings.patience_ms;
    g->cloud_said_ns = 0;
    g->usage.n_rounds++;
}

void shoal_assist_begin(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    if (g->mode != SHOAL_MODE_ASSIST || !coop->described || coop->link_is_cut) {
        return;
    }
    size_t n = n_allowed(coop, g, now_ms);
    if (n > 0 && shoal_spend_level(&coop->spend, n_reserved(coop), now_ms) >= 1 &&
        shoal_energy_shifts(&coop->charge.energy, shoal_charge_level(coop, now_ms))) {
        hand_over(coop, g, n, now_ms);
    }
}

/* Of the budgets of what asking costs; of energy where asking costs more of it than not. */
static double asking_level(const shoal_coop *coop, uint64_t now_ms)
{
    double level = shoal_spend_level(&coop->spend, n_reserved(coop), now_ms);
    return shoal_energy_prefers(&coop->charge.energy) == SHOAL_ENERGY_HERE
               ? SHOAL_MIN(level, shoal_charge_level(coop, now_ms))
               : level;
}

bool shoal_assist_asks(shoal_coop *coop, gen *g, const float *logits, const shoal_sampled *sampled)
{
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    double level = asking_level(coop, now_ms);
    g->assist.own = *sampled;
    g->assist.own_at = g->n_tokens;
    if (g->assist.waits) {
        return true; /* its prompt was too hard */
    }
    if (g->n_allowed == 1) {
        return false; /* the form leaves nothing to be unsure of */
    }
    shoal_exit_features features;
    shoal_exit_measure(shoal_engine_kernels(coop->engine), logits, coop->model->hp.n_vocab, 1.0F,
                       false, &features);
    shoal_route_verdict verdict = shoal_route_judge(&coop->route, &features, g->assist.risk, level);
    g->assist.n_unsure = verdict == SHOAL_ROUTE_ASK ? g->assist.n_unsure + 1 : 0;
    if (verdict == SHOAL_ROUTE_SURE) {
        return false;
    }
    size_t n = n_allowed(coop, g, now_ms);
    if (verdict == SHOAL_ROUTE_SPARE || n == 0) {
        bool away = is_away(coop, g, now_ms);
        g->assist.why = away ? SHOAL_UNASSISTED_AWAY : SHOAL_UNASSISTED_BUDGET;
        return false;
    }
    hand_over(coop, g, SHOAL_MIN(n, shoal_route_span(&coop->route, g->assist.n_unsure)), now_ms);
    return true;
}

size_t shoal_assist_prompt_rows(const shoal_coop *coop, const gen *g, size_t n_ids)
{
    bool judged = g->mode == SHOAL_MODE_ASSIST && g->n_confirmed == g->n_prompt &&
                  coop->route.settings.prompt_entropy > 0;
    return judged ? SHOAL_MIN(n_ids, (size_t)SHOAL_ROUTE_PROMPT_ROWS) : 1;
}

void shoal_assist_judge_prompt(shoal_coop *coop, gen *g, const shoal_span *span)
{
    double sum = 0;
    for (size_t i = 0; i < span->n_logits; i++) {
        shoal_exit_features features;
        shoal_exit_measure(shoal_engine_kernels(coop->engine),
                           shoal_engine_logits(coop->engine, span->logits_i + i),
                           coop->model->hp.n_vocab, 1.0F, true, &features);
        sum += features.sound ? (double)features.entropy : 0;
    }
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    size_t n = n_allowed(coop, g, now_ms);
    bool free = asking_level(coop, now_ms) >= 1;
    if (n > 0 && free && shoal_route_is_hard(&coop->route, sum / (double)span->n_logits)) {
        hand_over(coop, g, n, now_ms);
    }
}

/* The edge takes up where the text stands; where the cloud has said nothing, with the token that it
 * had itself. */
static void take_over(shoal_coop *coop, gen *g)
{
    bool has_own = g->assist.own_at == g->n_tokens;
    g->assist.waits = false;
    g->assist.asked = false;
    g->assist.until = 0;
    if (has_own && !g->done) {
        g->assist.why = SHOAL_UNASSISTED_AWAY;
        shoal_gen_take_sample(coop, g, &g->assist.own);
    }
}

void shoal_assist_progress(shoal_coop *coop, gen *g)
{
    shoal_breaker_worked(&coop->breaker);
    shoal_coop_publish_totals(coop); /* charged before anybody may ask for more */
    g->assist.n_told = g->n_confirmed;
    g->assist.give_up_ms = shoal_clock_now_ms(&coop->clock) + coop->settings.patience_ms;
    if (g->assist.waits && g->n_confirmed >= g->assist.until) {
        take_over(coop, g);
    }
}

void shoal_assist_pump(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    char text[SHOAL_WIRE_TEXT_MAX];
    if (!g->assist.waits) {
        return;
    }
    if (now_ms >= g->assist.give_up_ms) {
        (void)snprintf(text, sizeof text, "no answer within assist.patience_ms, %" PRIu64 " ms",
                       coop->settings.patience_ms);
        shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, text);
        return;
    }
    if (g->cloud == CLOUD_NONE) {
        if (!coop->described) {
            return; /* the probe, or the first Describe, will tell */
        }
        if (!shoal_uplink_identity_ok(coop, text, sizeof text)) {
            shoal_uplink_lost(coop, g, SHOAL_RPC_INVALID_ARGUMENT, text);
            return;
        }
        shoal_rpc_status served = shoal_uplink_can_serve(coop, g, text, sizeof text);
        if (served != SHOAL_RPC_OK) {
            shoal_uplink_lost(coop, g, served, text);
            return;
        }
        if (shoal_uplink_open(coop, g) != SHOAL_OK) {
            shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, "the stream could not be opened");
            return;
        }
        g->assist.asked = false;
        g->assist.n_told = g->n_confirmed;
    }
    if (!g->assist.asked) {
        if (shoal_uplink_hand_over(coop, g, g->assist.n_told, g->assist.until - g->n_confirmed) !=
            SHOAL_OK) {
            shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, "the stream broke while sending");
            return;
        }
        g->assist.asked = true;
        g->assist.n_told = g->n_confirmed;
    }
}

/* --- a cloud that is lost -----------------------------------------------------------------------
 */

static void note_trouble(shoal_coop *coop, const char *text)
{
    (void)pthread_mutex_lock(&coop->state_mutex);
    (void)snprintf(coop->state.cloud_trouble, sizeof coop->state.cloud_trouble, "%s",
                   text[0] ? text : "no connection");
    (void)pthread_mutex_unlock(&coop->state_mutex);
}

void shoal_assist_lost(shoal_coop *coop, gen *g, bool again, const char *text)
{
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    note_trouble(coop, text);
    if (again) {
        shoal_breaker_failed(&coop->breaker, now_ms);
        coop->described = false; /* another model may come up there */
    }
    if (g->retry_at_ms > now_ms) {
        shoal_breaker_hold(&coop->breaker, g->retry_at_ms); /* a Busy said so */
    }
    g->assist.alone = g->assist.alone || !again;
    g->assist.n_told = 0;
    if (g->assist.waits) {
        take_over(coop, g);
    }
}

void shoal_assist_probe(shoal_coop *coop, uint64_t now_ms)
{
    bool wanted = false;
    for (const gen *g = coop->active; g && !wanted; g = g->next) {
        wanted = g->mode == SHOAL_MODE_ASSIST && !g->done && !g->assist.alone;
    }
    bool due = !coop->breaker.open || shoal_breaker_due(&coop->breaker, now_ms);
    if (wanted && due && coop->channel && !coop->link_is_cut && !coop->described &&
        !coop->describe_call) {
        shoal_coop_describe_start(coop);
    }
}

void shoal_assist_described(shoal_coop *coop, const char *failure, uint64_t now_ms)
{
    if (!failure) {
        shoal_breaker_probed(&coop->breaker);
        return;
    }
    note_trouble(coop, failure);
    shoal_breaker_failed(&coop->breaker, now_ms);
}

/* --- budgets ------------------------------------------------------------------------------------
 */

void shoal_assist_spend(shoal_coop *coop, const shoal_coop_totals *totals, uint64_t now_ms)
{
    const shoal_coop_totals *before = &coop->spent;
    shoal_spend_turn(&coop->spend, now_ms);
    shoal_spend_add(&coop->spend, SHOAL_SPEND_TOKENS,
                    totals->n_by_tier[SHOAL_TIER_CLOUD] - before->n_by_tier[SHOAL_TIER_CLOUD]);
    shoal_spend_add(&coop->spend, SHOAL_SPEND_BYTES,
                    shoal_coop_billed_up(coop, totals) - shoal_coop_billed_up(coop, before));
    shoal_spend_add(&coop->spend, SHOAL_SPEND_ENERGY, totals->energy_uj - before->energy_uj);
    coop->spent = *totals;
}

bool shoal_assist_may_spend(const shoal_coop *coop, char *text, size_t n_text)
{
    shoal_spend_kind kind = SHOAL_SPEND_TOKENS;
    shoal_spend_period period = SHOAL_SPEND_HOUR;
    if (!shoal_spend_is_over(&coop->spend, &kind, &period)) {
        return true;
    }
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    (void)snprintf(text, n_text,
                   "not asked: budget.%s_per_%s is used up for another %" PRIu64
                   " s; use mode \"assist\" or \"local\"",
                   kind == SHOAL_SPEND_TOKENS ? "cloud_tokens" : "uplink_kib",
                   shoal_spend_period_name(period),
                   shoal_spend_left_ms(&coop->spend, period, now_ms) / 1000 + 1);
    return false;
}

void shoal_assist_publish(shoal_coop *coop, uint64_t now_ms)
{
    for (size_t k = 0; k < SHOAL_SPEND_KINDS; k++) {
        for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
            double most = (double)coop->spend.limits.most[k][p];
            if (most > 0) {
                shoal_metric_set(coop->metrics.spend[k][p], (double)coop->spend.used[k][p] / most);
            }
        }
    }
    shoal_coop_state *state = &coop->state;
    state->cloud_given_up = coop->breaker.open;
    state->unsure = coop->route.unsure;
    state->spend = coop->spend;
    state->spend_level = shoal_spend_level(&coop->spend, n_reserved(coop), now_ms);
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        state->spend_left_ms[p] = shoal_spend_left_ms(&coop->spend, (shoal_spend_period)p, now_ms);
    }
}
