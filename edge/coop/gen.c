/* SPDX-License-Identifier: Apache-2.0
 *
 * One generation: its tokens, what of them may be shown, and how they become text.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *shoal_tier_name(shoal_tier tier)
{
    static const char *const names[SHOAL_TIERS] = {"exit", "edge", "cloud"};
    SHOAL_ASSERT(tier < SHOAL_TIERS);
    return names[tier];
}

const char *shoal_unassisted_name(shoal_unassisted why)
{
    static const char *const names[SHOAL_UNASSISTED_KINDS] = {"", "away", "budget"};
    SHOAL_ASSERT(why < SHOAL_UNASSISTED_KINDS);
    return names[why];
}

static shoal_status copy_request(gen *g, const shoal_coop_request *request, shoal_err *err)
{
    g->capacity = g->n_end + COOP_WINDOW_MAX + 1;
    g->tokens = shoal_calloc(g->capacity, sizeof *g->tokens);
    g->confidences = shoal_calloc(g->capacity, sizeof *g->confidences);
    g->biases = shoal_calloc(request->sampling.n_biases, sizeof *g->biases);
    if (!g->tokens || !g->confidences || !g->biases) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a request of %zu tokens", g->n_end);
    }
    memcpy(g->tokens, request->ids, request->n_ids * sizeof *g->tokens);
    if (request->sampling.n_biases > 0) {
        memcpy(g->biases, request->sampling.biases, request->sampling.n_biases * sizeof *g->biases);
    }
    g->sampling = request->sampling;
    g->sampling.biases = g->biases;
    g->sampling.allowed = NULL;
    SHOAL_TRY(shoal_gen_form_bytes(request, &g->form_bytes, err));
    if (request->n_stops > 0) {
        SHOAL_TRY(shoal_stop_new(request->stops, request->n_stops, &g->stop, err));
    }
    return SHOAL_OK;
}

shoal_status shoal_gen_new(shoal_coop *coop, const shoal_coop_request *request, gen **ret_gen,
                           shoal_err *err)
{
    gen *g = shoal_calloc(1, sizeof *g);
    if (!g) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a request");
    }
    g->id = atomic_fetch_add(&coop->next_id, 1) + 1;
    g->mode = request->mode;
    g->lora = request->adapter ? request->adapter->lora : coop->settings.lora;
    g->adapter = request->adapter ? request->adapter->name : NULL;
    g->degrade = request->degrade;
    g->priority = request->priority;
    g->assist.n_most = request->n_cloud_max;
    g->assist.risk = request->risk;
    g->on_event = request->on_event;
    g->ctx = request->ctx;
    g->n_prompt = request->n_ids;
    g->n_end = request->n_ids + request->n_tokens_max;
    g->n_confirmed = g->n_prompt;
    g->n_tokens = g->n_prompt;
    g->n_sent = g->n_prompt;
    g->scores = request->scores;
    g->score_prompt = request->scores && request->score_prompt;
    g->tops = request->tops;
    g->n_tops = SHOAL_MIN(request->n_tops, coop->model->hp.n_vocab);
    if (g->score_prompt) {
        g->scores[0] = (shoal_coop_score){.id = request->ids[0], .top_id = -1};
    }
    g->retry_ms = COOP_RETRY_MS_MIN;
    g->reconnect_ms = request->reconnect_ms ? request->reconnect_ms : coop->settings.reconnect_ms;
    g->started_ns = shoal_clock_now_ns(&coop->clock);
    g->fault_rng = g->started_ns ^ g->id;
    g->detok.started = true; /* an answer goes on where the prompt ended: its first space counts */
    if (request->deadline_ms > 0) {
        g->deadline_at_ms = g->started_ns / 1000000u + request->deadline_ms;
    }
    g->usage.n_prompt = g->n_prompt;
    /* The whole text of the longest possible answer fits: a token's text is bounded. */
    g->text.limit = (size_t)64 << 20;
    (void)snprintf(g->request_id, sizeof g->request_id, "%s",
                   request->request_id ? request->request_id : "");
    (void)snprintf(g->session, sizeof g->session, "%s", request->session ? request->session : "");
    shoal_status status = copy_request(g, request, err);
    if (status == SHOAL_OK) {
        bool own = request->exit_policy != NULL;
        status = shoal_leave_init(coop, g, own ? request->exit_policy : coop->settings.exit_policy,
                                  own ? request->exit_threshold : (float)NAN, err);
    }
    if (status == SHOAL_OK && request->take_grammar) { /* last: what is taken is taken with OK */
        status = shoal_form_new(request->take_grammar, request->grammar_opening, &g->form);
    }
    if (status != SHOAL_OK) {
        shoal_gen_free(g);
        return status;
    }
    *ret_gen = g;
    return SHOAL_OK;
}

void shoal_gen_free(gen *g)
{
    if (!g) {
        return;
    }
    shoal_uplink_close(g);
    shoal_coop_fetch_drop(g);
    shoal_kv_seq_free(g->seq);
    shoal_leave_fini(g);
    shoal_stop_free(g->stop);
    shoal_form_free(g->form);
    shoal_free(g->allowed);
    shoal_buf_fini(&g->form_bytes);
    shoal_buf_fini(&g->text);
    shoal_free(g->tokens);
    shoal_free(g->confidences);
    shoal_free(g->biases);
    shoal_free(g);
}

/* --- telling the app -------------------------------------------------------------------------- */

static double elapsed_ms(const shoal_coop *coop, const gen *g)
{
    return (double)(shoal_clock_now_ns(&coop->clock) - g->started_ns) / 1e6;
}

/* Tokens that the cloud alone would have made, a step each. */
static size_t n_saved(const shoal_usage *usage)
{
    return usage->n_generated - SHOAL_MIN(usage->n_cloud_steps, usage->n_generated);
}

static void add_usage(shoal_coop_totals *totals, const shoal_usage *usage)
{
    for (size_t t = 0; t < SHOAL_TIERS; t++) {
        totals->n_by_tier[t] += usage->n_by_tier[t];
    }
    totals->n_unassisted +=
        usage->n_unassisted[SHOAL_UNASSISTED_AWAY] + usage->n_unassisted[SHOAL_UNASSISTED_BUDGET];
    totals->n_prompt += usage->n_prompt;
    totals->n_drafted += usage->n_drafted;
    totals->n_accepted += usage->n_accepted;
    totals->n_rounds += usage->n_rounds;
    totals->n_cloud_steps += usage->n_cloud_steps;
    totals->n_steps += usage->n_steps;
    totals->n_layers += usage->n_layers;
    totals->n_exit_checked += usage->n_exit_checked;
    totals->n_exit_agreed += usage->n_exit_agreed;
    totals->n_reconnects += usage->n_reconnects;
    totals->n_saved += n_saved(usage);
    totals->bytes_up += usage->bytes_up;
    totals->bytes_down += usage->bytes_down;
}

void shoal_coop_sum_totals(const shoal_coop *coop, shoal_coop_totals *ret_totals)
{
    *ret_totals = coop->ended;
    for (const gen *g = coop->active; g; g = g->next) {
        if (!g->done) {
            add_usage(ret_totals, &g->usage);
        }
    }
}

void shoal_coop_look_at_link(shoal_coop *coop)
{
    uint64_t up = 0;
    uint64_t down = 0;
    if (!coop->settings.traffic) {
        return;
    }
    shoal_traffic_take(coop->settings.traffic, shoal_clock_now_ms(&coop->clock), &up, &down);
    coop->ended.packet_bytes_up += up;
    coop->ended.packet_bytes_down += down;
    shoal_metric_add(coop->metrics.packet_bytes_up, (double)up);
    shoal_metric_add(coop->metrics.packet_bytes_down, (double)down);
}

uint64_t shoal_coop_billed_up(const shoal_coop *coop, const shoal_coop_totals *totals)
{
    return coop->settings.traffic ? totals->packet_bytes_up : totals->bytes_up;
}

uint64_t shoal_coop_billed_down(const shoal_coop *coop, const shoal_coop_totals *totals)
{
    return coop->settings.traffic ? totals->packet_bytes_down : totals->bytes_down;
}

void shoal_coop_publish_totals(shoal_coop *coop)
{
    shoal_coop_totals totals;
    shoal_coop_look_at_link(coop);
    shoal_coop_sum_totals(coop, &totals);
    shoal_assist_spend(coop, &totals, shoal_clock_now_ms(&coop->clock));
    (void)pthread_mutex_lock(&coop->state_mutex);
    coop->state.totals = totals;
    (void)pthread_mutex_unlock(&coop->state_mutex);
}

/* Before the last event, so that who asks after it finds the answer counted. */
static void close_books(shoal_coop *coop, gen *g)
{
    g->usage.total_ms = elapsed_ms(coop, g);
    g->done = true;
    shoal_metric_add(coop->metrics.drafted, (double)g->usage.n_drafted);
    shoal_metric_add(coop->metrics.accepted, (double)g->usage.n_accepted);
    shoal_metric_add(coop->metrics.steps, (double)g->usage.n_steps);
    shoal_metric_add(coop->metrics.layers, (double)g->usage.n_layers);
    shoal_metric_add(coop->metrics.exit_checked, (double)g->usage.n_exit_checked);
    shoal_metric_add(coop->metrics.exit_agreed, (double)g->usage.n_exit_agreed);
    shoal_metric_add(coop->metrics.reconnects, (double)g->usage.n_reconnects);
    shoal_metric_add(coop->metrics.bytes_up, (double)g->usage.bytes_up);
    shoal_metric_add(coop->metrics.bytes_down, (double)g->usage.bytes_down);
    shoal_metric_add(coop->metrics.saved, (double)n_saved(&g->usage));
    shoal_metric_add(coop->metrics.fed, (double)g->usage.n_fed);
    for (size_t t = 0; t < SHOAL_TIERS; t++) {
        shoal_metric_add(coop->metrics.tokens[t], (double)g->usage.n_by_tier[t]);
    }
    for (size_t w = SHOAL_UNASSISTED_AWAY; w < SHOAL_UNASSISTED_KINDS; w++) {
        shoal_metric_add(coop->metrics.unassisted[w], (double)g->usage.n_unassisted[w]);
    }
    add_usage(&coop->ended, &g->usage);
    coop->charge.n_ended += g->usage.n_generated > 0;
    shoal_charge_take(coop);
    shoal_coop_publish_totals(coop);
}

void shoal_gen_finish(shoal_coop *coop, gen *g, shoal_finish finish)
{
    if (g->done) {
        return;
    }
    close_books(coop, g);
    shoal_coop_event event = {
        .kind = SHOAL_COOP_DONE,
        .request = g->id,
        .finish = finish,
        .usage = &g->usage,
    };
    g->on_event(g->ctx, &event);
}

void shoal_gen_fail(shoal_coop *coop, gen *g, shoal_status code, const char *text)
{
    if (g->done) {
        return;
    }
    close_books(coop, g);
    shoal_err err = SHOAL_ERR_INIT;
    (void)shoal_err_set(&err, code, "%s", text);
    shoal_coop_event event = {
        .kind = SHOAL_COOP_ERROR,
        .request = g->id,
        .usage = &g->usage,
        .error = &err,
    };
    g->on_event(g->ctx, &event);
}

/* Adds the token's text; *ret_safe is how much of all text may be shown. SHOAL_EOF: a stop string
 * is complete and *ret_safe ends before it. */
static shoal_status grow_text(shoal_coop *coop, gen *g, int32_t id, bool last, size_t *ret_safe)
{
    size_t before = g->text.length;
    SHOAL_TRY(shoal_detok_push(coop->model->tokenizer, &g->detok, id, &g->text));
    if (last) {
        SHOAL_TRY(shoal_detok_finish(&g->detok, &g->text));
    }
    *ret_safe = g->text.length;
    if (!g->stop || g->text.length == before) {
        *ret_safe = g->stop && !last ? g->n_shown : g->text.length;
        return SHOAL_OK;
    }
    size_t safe = 0;
    shoal_status status =
        shoal_stop_push(g->stop, g->text.data + before, g->text.length - before, &safe);
    /* What was held back for a stop string is shown when nothing more can come. */
    *ret_safe = status == SHOAL_OK && last ? g->text.length : safe;
    return status;
}

/* Of a token that is confirmed as of this tier. */
static shoal_unassisted take_why(gen *g, shoal_tier tier)
{
    shoal_unassisted why = g->degraded != SHOAL_UNASSISTED_NOT ? g->degraded : g->assist.why;
    g->assist.why = SHOAL_UNASSISTED_NOT;
    return tier == SHOAL_TIER_CLOUD ? SHOAL_UNASSISTED_NOT : why;
}

void shoal_gen_confirm(shoal_coop *coop, gen *g, shoal_tier tier, uint32_t round)
{
    int32_t id = g->tokens[g->n_confirmed];
    if (g->form && !shoal_form_push(g->form, coop->words, &g->held, id)) {
        shoal_gen_fail(coop, g, SHOAL_E_PROTOCOL, "a token breaks the form asked for");
        return;
    }
    size_t position = g->n_confirmed++;
    tier = shoal_leave_tier(g, position, tier);
    shoal_unassisted why = take_why(g, tier);
    g->usage.n_generated++;
    g->usage.n_by_tier[tier]++;
    g->usage.n_unassisted[why]++;
    if (g->usage.n_generated == 1) {
        g->usage.first_token_ms = elapsed_ms(coop, g);
        shoal_metric_observe(coop->metrics.first_token, g->usage.first_token_ms / 1e3);
    }
    bool end = shoal_tokenizer_is_end(coop->model->tokenizer, id);
    bool last = end || g->n_confirmed == g->n_end;
    size_t safe = 0;
    shoal_status status = grow_text(coop, g, id, last, &safe);
    bool stopped = status == SHOAL_EOF;
    if (status != SHOAL_OK && !stopped) {
        shoal_gen_fail(coop, g, SHOAL_E_NOMEM, "no memory for the text of the answer");
        return;
    }
    if (stopped) {
        SHOAL_ASSERT(safe <= g->text.length);
    }
    safe = SHOAL_MAX(safe, g->n_shown);
    shoal_coop_event event = {
        .kind = SHOAL_COOP_TOKEN,
        .request = g->id,
        .id = id,
        .tier = tier,
        .unassisted = why,
        .confidence = g->confidences[position],
        .round = round,
        .text = g->text.data ? g->text.data + g->n_shown : "",
        .n_text = safe - g->n_shown,
    };
    g->n_shown = safe;
    g->on_event(g->ctx, &event);
    if (end || stopped) {
        shoal_gen_finish(coop, g, SHOAL_FINISH_STOP);
    } else if (last) {
        shoal_gen_finish(coop, g, SHOAL_FINISH_LENGTH);
    }
}

/* --- tokens ------------------------------------------------------------------------------------
 */

bool shoal_gen_may_draft(const shoal_coop *coop, const gen *g)
{
    if (g->done || g->n_tokens >= g->n_end) {
        return false;
    }
    if (g->mode == SHOAL_MODE_EXACT && g->n_tokens - g->n_confirmed >= g->choice.n_window) {
        return false;
    }
    if (g->n_tokens > g->n_confirmed) {
        return !shoal_tokenizer_is_end(coop->model->tokenizer, g->tokens[g->n_tokens - 1]);
    }
    return true;
}

bool shoal_gen_span(const shoal_coop *coop, const gen *g, shoal_span *ret_span)
{
    if (!g->seq) {
        return false;
    }
    size_t length = shoal_kv_seq_length(g->seq);
    size_t n = g->n_tokens - length;
    size_t n_max = g->score_prompt ? COOP_SCORE_ROWS : COOP_PREFILL_CHUNK;
    bool to_the_end = n <= n_max;
    *ret_span = (shoal_span){
        .seq = g->seq,
        .ids = g->tokens + length,
        .n_ids = to_the_end ? n : n_max,
        .n_logits = to_the_end ? shoal_assist_prompt_rows(coop, g, n) : 0,
        .logits_i = 0,
        .lora = g->lora,
    };
    if (g->score_prompt) {
        ret_span->n_logits = ret_span->n_ids;
    }
    return true;
}

void shoal_gen_top(const float *logits, size_t n_vocab, double best, shoal_coop_top *ret_tops,
                   size_t n)
{
    size_t n_found = 0;
    for (size_t i = 0; n > 0 && i < n_vocab; i++) {
        if (n_found == n && !(logits[i] > logits[ret_tops[n - 1].id])) {
            continue;
        }
        size_t at = n_found < n ? n_found++ : n - 1;
        for (; at > 0 && logits[i] > logits[ret_tops[at - 1].id]; at--) {
            ret_tops[at] = ret_tops[at - 1];
        }
        ret_tops[at].id = (int32_t)i;
    }
    for (size_t i = 0; i < n_found; i++) {
        ret_tops[i].logprob =
            (float)((double)logits[ret_tops[i].id] - (double)logits[ret_tops[0].id] + best);
    }
}

void shoal_gen_score(gen *g, size_t position, int32_t id, const float *logits, size_t n_vocab)
{
    size_t top = 0;
    double sum = 0;
    for (size_t i = 1; i < n_vocab; i++) {
        top = logits[i] > logits[top] ? i : top;
    }
    for (size_t i = 0; i < n_vocab; i++) {
        sum += exp((double)logits[i] - (double)logits[top]);
    }
    double best = -log(sum);
    g->scores[position] = (shoal_coop_score){
        .id = id,
        .top_id = (int32_t)top,
        .logprob = (float)((double)logits[id] - (double)logits[top] + best),
        .top_logprob = (float)best,
    };
    if (g->n_tops > 0) {
        shoal_gen_top(logits, n_vocab, best, g->tops + position * g->n_tops, g->n_tops);
    }
}

void shoal_gen_take_sample(shoal_coop *coop, gen *g, const shoal_sampled *sampled)
{
    int32_t id = sampled->id;
    bool draft = g->mode == SHOAL_MODE_EXACT;
    if (draft && coop->settings.fault_flip_ratio > 0) {
        double u = (double)(shoal_rng_next(&g->fault_rng) >> 11) * 0x1p-53;
        if (u < coop->settings.fault_flip_ratio) {
            id = (int32_t)(shoal_rng_next(&g->fault_rng) % coop->model->hp.n_vocab);
        }
    }
    g->tokens[g->n_tokens] = id;
    g->confidences[g->n_tokens] = sampled->confidence;
    g->n_tokens++;
    if (!draft) {
        shoal_gen_confirm(coop, g, SHOAL_TIER_EDGE, 0);
        g->n_sent = g->n_confirmed;
    }
}

bool shoal_gen_take_cloud(shoal_coop *coop, gen *g, int32_t id, float confidence, uint32_t round)
{
    size_t position = g->n_confirmed;
    if (position < g->n_tokens && g->tokens[position] == id) {
        /* What the cloud decodes by itself is its own, whatever the edge would have said. */
        bool own = g->continuing && position >= g->n_sent;
        g->confidences[position] = own ? confidence : g->confidences[position];
        shoal_gen_confirm(coop, g, own ? SHOAL_TIER_CLOUD : SHOAL_TIER_EDGE, round);
        g->n_sent = SHOAL_MAX(g->n_sent, g->n_confirmed);
        return true;
    }
    g->tokens[position] = id;
    g->confidences[position] = confidence;
    g->n_tokens = position + 1;
    g->n_sent = position + 1;
    if (g->seq) {
        /* The pages stay promised: admission counted the whole answer. Where a windowed layer has
         * forgotten too much nothing is left, and the next spans feed the text again. */
        (void)shoal_kv_seq_truncate(g->seq, position);
    }
    shoal_gen_confirm(coop, g, SHOAL_TIER_CLOUD, round);
    return false;
}
