/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine thread: read mails, admit, pump links, run one step, tell what came of it. External
 * events only enqueue; everything happens here, at our own pace.
 */
#include "edge/coop/loop.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    IDLE_MS = 60000, /* nothing under way and nothing to ask */
    DESCRIBE_RETRY_MS = 250,
    WARM_NS = 1000000 /* of the step before, that long ago, a step still finds its caches warm */
};

/* --- mails --------------------------------------------------------------------------------------
 */

static gen *find_by_link(shoal_coop *coop, const link *l)
{
    for (gen *g = coop->active; g; g = g->next) {
        if (g->up == l) {
            return g;
        }
    }
    return NULL;
}

static void cancel(shoal_coop *coop, uint64_t id)
{
    for (gen *g = coop->active; g; g = g->next) {
        if (g->id == id) {
            shoal_gen_finish(coop, g, SHOAL_FINISH_CANCELLED);
        }
    }
    for (gen *g = coop->waiting_head; g; g = g->next) {
        if (g->id == id) {
            g->cancelled = true;
        }
    }
}

static void fail_unanswered(shoal_coop *coop, const mail *m)
{
    for (gen *g = coop->active; g; g = g->next) {
        bool waits = g->mode != SHOAL_MODE_ASSIST || g->assist.waits;
        if (g->mode != SHOAL_MODE_LOCAL && waits && g->cloud == CLOUD_NONE && !g->done) {
            shoal_uplink_lost(coop, g, m->status, m->text);
        }
    }
}

static void take_described(shoal_coop *coop, const mail *m)
{
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    shoal_coop_describe_end(coop);
    shoal_assist_described(coop, m->status == SHOAL_RPC_OK ? NULL : m->text, now_ms);
    if (m->status == SHOAL_RPC_OK) {
        uint64_t ns = shoal_clock_now_ns(&coop->clock) - coop->describe_sent_ns;
        coop->figures.round_trip_us = (double)ns / 1e3;
        coop->described = true;
        coop->cloud = *m->described;
        (void)pthread_mutex_lock(&coop->state_mutex);
        coop->state.cloud_described = true;
        coop->state.cloud = *m->described;
        (void)pthread_mutex_unlock(&coop->state_mutex);
        return;
    }
    coop->describe_at_ms = now_ms + DESCRIBE_RETRY_MS;
    fail_unanswered(coop, m);
}

/* All members are counts of one size. */
static void add_totals(shoal_coop_totals *sum, const shoal_coop_totals *more)
{
    enum {
        COUNTS = sizeof *sum / sizeof(uint64_t)
    };
    uint64_t a[COUNTS];
    uint64_t b[COUNTS];
    memcpy(a, sum, sizeof a);
    memcpy(b, more, sizeof b);
    for (size_t i = 0; i < COUNTS; i++) {
        a[i] += b[i];
    }
    memcpy(sum, a, sizeof a);
}

static void take_carried(shoal_coop *coop, const carried *what)
{
    add_totals(&coop->ended, &what->totals);
    add_totals(&coop->charge.seen, &what->totals);
    if (what->has_spend) { /* else the next look at the totals spends them */
        add_totals(&coop->spent, &what->totals);
        coop->spend = what->spend;
    }
}

static void take_mail(shoal_coop *coop, mail *m)
{
    gen *g = NULL;
    switch (m->kind) {
    case MAIL_SUBMIT:
        g = SHOAL_STEAL(m->generation);
        g->next = NULL;
        if (coop->waiting_tail) {
            coop->waiting_tail->next = g;
        } else {
            coop->waiting_head = g;
        }
        coop->waiting_tail = g;
        break;
    case MAIL_CANCEL:
        cancel(coop, m->id);
        break;
    case MAIL_MESSAGE:
        g = find_by_link(coop, m->from);
        if (g && !g->done) {
            shoal_uplink_message(coop, g, m->message, m->n_bytes);
        }
        break;
    case MAIL_CLOSED:
        g = find_by_link(coop, m->from);
        if (g) {
            shoal_uplink_lost(coop, g, m->status == SHOAL_RPC_OK ? SHOAL_RPC_ABORTED : m->status,
                              m->text);
        } else {
            shoal_link_closed(coop, m->from);
        }
        break;
    case MAIL_DESCRIBED:
        take_described(coop, m);
        break;
    case MAIL_SESSION:
        shoal_session_serve(coop, m->session);
        break;
    case MAIL_FETCHED:
        shoal_coop_fetch_ended(coop, m->fetched);
        break;
    case MAIL_CARRY:
        take_carried(coop, m->carried);
        break;
    }
    shoal_mail_free(m);
}

/* --- admission ----------------------------------------------------------------------------------
 */

static size_t pages_needed(const shoal_coop *coop, const gen *g)
{
    if (g->mode == SHOAL_MODE_CLOUD && !g->degrade) {
        return 0;
    }
    size_t n_tokens = SHOAL_MIN(g->n_end, shoal_engine_n_ctx(coop->engine));
    return shoal_kv_pool_pages_for(shoal_engine_kv(coop->engine), n_tokens);
}

static gen *pop_waiting(shoal_coop *coop)
{
    gen *g = coop->waiting_head;
    coop->waiting_head = g->next;
    if (!coop->waiting_head) {
        coop->waiting_tail = NULL;
    }
    return g;
}

static void release(shoal_coop *coop, gen *g)
{
    shoal_session_end(coop, g);
    atomic_fetch_sub(&coop->n_waiting, 1);
    shoal_gen_free(g);
}

/* Ends the first that waits where it is of no use to wait on. wait_ms: for the energy budget. */
static bool end_waiting(shoal_coop *coop, uint64_t now_ms, uint64_t wait_ms, const char *text)
{
    gen *g = coop->waiting_head;
    bool late = g->deadline_at_ms && now_ms >= g->deadline_at_ms;
    bool never = wait_ms > 0 && g->deadline_at_ms && now_ms + wait_ms >= g->deadline_at_ms;
    if (!g->cancelled && !late && !never) {
        return false;
    }
    (void)pop_waiting(coop);
    if (late) {
        shoal_gen_fail(coop, g, SHOAL_E_DEADLINE, "the deadline passed before the request began");
    } else if (g->cancelled) {
        shoal_gen_finish(coop, g, SHOAL_FINISH_CANCELLED);
    } else {
        shoal_gen_fail(coop, g, SHOAL_BUSY, text);
    }
    release(coop, g);
    return true;
}

/* First come, first served; a request begins when the pages of its whole answer are free, or held
 * by kept sessions alone, so that nothing under way can run out of them, and when the energy budget
 * has something left. */
static void admit(shoal_coop *coop, uint64_t now_ms)
{
    size_t n_pages = shoal_kv_pool_n_pages(shoal_engine_kv(coop->engine));
    coop->charge.until_ms = 0;
    while (coop->waiting_head) {
        char text[SHOAL_WIRE_TEXT_MAX];
        uint64_t wait_ms = shoal_charge_wait_ms(coop, now_ms, text, sizeof text);
        if (end_waiting(coop, now_ms, wait_ms, text)) {
            continue;
        }
        if (wait_ms > 0) {
            coop->charge.until_ms = now_ms + wait_ms;
            return;
        }
        gen *g = coop->waiting_head;
        size_t need = pages_needed(coop, g);
        while (need > n_pages - coop->n_pages_promised && coop->n_active == 0 &&
               shoal_prefix_drop(coop)) {
        }
        if (coop->n_active >= coop->settings.n_active_max ||
            need > n_pages - coop->n_pages_promised) {
            return;
        }
        (void)pop_waiting(coop);
        if (shoal_gen_form_begin(coop, g) != SHOAL_OK) {
            shoal_gen_fail(coop, g, SHOAL_E_NOMEM, "no memory for the form of an answer");
            release(coop, g);
            continue;
        }
        shoal_pace_fork(&g->pace, &coop->pace);
        g->choice = shoal_pace_choose(&g->pace);
        if (need > 0 && shoal_session_begin(coop, g, need) != SHOAL_OK) {
            shoal_gen_fail(coop, g, SHOAL_E_NOMEM, "no memory for the sequence");
            release(coop, g);
            continue;
        }
        g->next = coop->active;
        coop->active = g;
        coop->n_active++;
        shoal_charge_begin(coop);
        shoal_assist_begin(coop, g, now_ms);
        shoal_metric_add(coop->metrics.requests, 1);
    }
}

static void reap(shoal_coop *coop)
{
    gen **at = &coop->active;
    while (*at) {
        gen *g = *at;
        if (g->done) {
            *at = g->next;
            coop->n_active--;
            release(coop, g);
        } else {
            at = &g->next;
        }
    }
}

/* --- one step -----------------------------------------------------------------------------------
 */

/* Whether the edge model has work for this generation. */
static bool wants_compute(const shoal_coop *coop, const gen *g)
{
    return g->seq && !g->done && g->mode != SHOAL_MODE_CLOUD && !g->assist.waits &&
           !g->fetch_holds && shoal_gen_may_draft(coop, g);
}

/* The rows of a span as scores of the prompt's tokens that follow them. The last row of a whole
 * prompt is for the sample. */
static void score_prompt(shoal_coop *coop, gen *g, const shoal_span *span)
{
    size_t first = (size_t)(span->ids - g->tokens) + 1;
    for (size_t i = 0; i < span->n_logits && first + i < g->n_prompt; i++) {
        shoal_gen_score(g, first + i, g->tokens[first + i],
                        shoal_engine_logits(coop->engine, span->logits_i + i),
                        coop->model->hp.n_vocab);
    }
}

static void take_rows(shoal_coop *coop, gen *g, const shoal_span *span)
{
    shoal_sampled sampled;
    if (g->score_prompt) {
        score_prompt(coop, g, span);
        if (span->ids + span->n_ids < g->tokens + g->n_tokens) {
            return; /* of a prompt that goes on */
        }
    }
    if (shoal_gen_constrain(coop, g) != SHOAL_OK) {
        return; /* has ended with it */
    }
    if (g->mode == SHOAL_MODE_ASSIST && span->n_logits > 1) {
        shoal_assist_judge_prompt(coop, g, span);
    }
    const float *logits = shoal_engine_logits(coop->engine, span->logits_i + span->n_logits - 1);
    shoal_sample(coop->sampler, &g->sampling, logits, g->tokens, g->n_tokens, &sampled);
    if (g->scores) {
        shoal_gen_score(g, g->n_tokens, sampled.id, logits, coop->model->hp.n_vocab);
    }
    if (g->mode == SHOAL_MODE_ASSIST && shoal_assist_asks(coop, g, logits, &sampled)) {
        return;
    }
    shoal_gen_take_sample(coop, g, &sampled);
}

/* Tokens of the prompt among those that the span fed. */
static void count_fed(gen *g, const shoal_span *span)
{
    size_t first = (size_t)(span->ids - g->tokens);
    g->usage.n_fed += SHOAL_MIN(first + span->n_ids, g->n_prompt) - SHOAL_MIN(first, g->n_prompt);
}

/* Runs at most one batch; false when nobody wants to compute. */
static bool step(shoal_coop *coop)
{
    size_t n = 0;
    size_t n_rows = 0;
    size_t n_logits = 0;
    size_t n_checks = 0;
    size_t n_ids_max = 0;
    size_t n_logits_max = shoal_engine_n_logits_max(coop->engine);
    for (gen *g = coop->active; g && n < coop->settings.n_active_max; g = g->next) {
        shoal_span span;
        if (!wants_compute(coop, g) || !shoal_gen_span(coop, g, &span)) {
            continue;
        }
        size_t n_waiting = shoal_depth_n_waiting(g->seq);
        shoal_leave_span(g, COOP_CHECK_ROWS - n_checks, &span);
        size_t n_own_checks = span.check ? n_waiting : 0;
        if (n_rows + span.n_ids + n_waiting > COOP_ROWS_MAX ||
            n_logits + span.n_logits + n_own_checks > n_logits_max) {
            continue;
        }
        coop->spans[n] = span;
        coop->span_gens[n] = g;
        n_rows += span.n_ids + n_waiting;
        n_ids_max = SHOAL_MAX(n_ids_max, span.n_ids);
        n_logits += span.n_logits + n_own_checks;
        n_checks += n_own_checks;
        n++;
    }
    if (n == 0) {
        return false;
    }
    uint64_t start_ns = shoal_clock_now_ns(&coop->clock);
    shoal_status status = shoal_engine_step(coop->engine, coop->spans, n);
    SHOAL_ASSERT(status == SHOAL_OK); /* admission promised pages and rows */
    double step_us = (double)(shoal_clock_now_ns(&coop->clock) - start_ns) / 1e3;
    /* The first one after a pause finds caches and threads cold; drafts follow on one another. */
    bool warm = start_ns - coop->stepped_ns < WARM_NS;
    coop->stepped_ns = shoal_clock_now_ns(&coop->clock);
    shoal_coop_fetch_step(coop, n_rows, step_us);
    shoal_charge_step(coop, step_us, n_ids_max == 1 ? n : 0);
    for (size_t i = 0; i < n; i++) {
        gen *g = coop->span_gens[i];
        count_fed(g, &coop->spans[i]);
        shoal_leave_count(coop, g, &coop->spans[i]);
        if (coop->spans[i].n_logits == 0) {
            continue;
        }
        if (coop->spans[i].n_ids == 1 && warm) {
            shoal_pace_edge_token(&g->pace, step_us);
        }
        take_rows(coop, g, &coop->spans[i]);
    }
    return true;
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static void check_deadlines(shoal_coop *coop, uint64_t now_ms)
{
    bool stop_now = atomic_load(&coop->stopping) && now_ms >= atomic_load(&coop->stop_at_ms);
    for (gen *g = coop->active; g; g = g->next) {
        if (stop_now) {
            shoal_gen_finish(coop, g, SHOAL_FINISH_CANCELLED);
        } else if (g->deadline_at_ms && now_ms >= g->deadline_at_ms) {
            shoal_gen_fail(coop, g, SHOAL_E_DEADLINE, "the request's deadline has passed");
        }
    }
    for (gen *g = coop->waiting_head; g; g = g->next) {
        g->cancelled = g->cancelled || stop_now;
    }
}

/* How long the loop may sleep when there is nothing to compute. */
static uint64_t patience_ms(const shoal_coop *coop, uint64_t now_ms)
{
    uint64_t until = SHOAL_MIN(now_ms + IDLE_MS, shoal_charge_look_ms(coop));
    until = SHOAL_MIN(until, shoal_channel_wakes_ms(coop));
    if (coop->waiting_head && coop->charge.until_ms > 0) {
        until = SHOAL_MIN(until, coop->charge.until_ms);
    }
    for (const gen *g = coop->active; g; g = g->next) {
        if (g->deadline_at_ms) {
            until = SHOAL_MIN(until, g->deadline_at_ms);
        }
        until = SHOAL_MIN(until, shoal_coop_fetch_wakes_ms(g));
        if (g->cloud == CLOUD_AHEAD) {
            until = SHOAL_MIN(until, g->opening_ns / 1000000 + 1);
        }
        if (g->cloud == CLOUD_OPENING) {
            until = SHOAL_MIN(until, g->open_by_ms);
        }
        if (g->mode == SHOAL_MODE_ASSIST) {
            until = g->assist.waits ? SHOAL_MIN(until, g->assist.give_up_ms) : until;
        } else if (g->mode != SHOAL_MODE_LOCAL && g->cloud == CLOUD_NONE && !coop->describe_call) {
            uint64_t next =
                coop->described ? g->retry_at_ms : SHOAL_MAX(g->retry_at_ms, coop->describe_at_ms);
            until = SHOAL_MIN(until, next);
        }
    }
    for (const gen *g = coop->waiting_head; g; g = g->next) {
        if (g->deadline_at_ms) {
            until = SHOAL_MIN(until, g->deadline_at_ms);
        }
    }
    for (const link *l = coop->closing; l; l = l->next_closing) {
        until = SHOAL_MIN(until, l->close_by_ms);
    }
    if (atomic_load(&coop->stopping)) {
        until = SHOAL_MIN(until, atomic_load(&coop->stop_at_ms));
    }
    return until > now_ms ? until - now_ms : 0;
}

static void publish(shoal_coop *coop, uint64_t now_ms)
{
    const shoal_kv_pool *kv = shoal_engine_kv(coop->engine);
    size_t n_pages = shoal_kv_pool_n_pages(kv);
    size_t n_used = n_pages - shoal_kv_pool_n_free(kv);
    size_t n_all = atomic_load(&coop->n_waiting);
    size_t n_waiting = n_all > coop->n_active ? n_all - coop->n_active : 0;
    const shoal_coop_speculation speculation = {
        .fixed = coop->settings.n_draft > 0,
        .n_draft = coop->choice.n_draft,
        .n_window = coop->choice.n_window,
        .acceptance = shoal_pace_acceptance(&coop->pace),
        .edge_token_ms = coop->pace.edge_us / 1e3,
        .cloud_step_ms = coop->pace.step_us / 1e3,
        .price = coop->pace.price,
    };
    shoal_coop_publish_totals(coop); /* and spends them, before the budgets are told */
    (void)pthread_mutex_lock(&coop->state_mutex);
    coop->state.n_active = coop->n_active;
    coop->state.n_waiting = n_waiting;
    coop->state.kv_pages_used = n_used;
    coop->state.round_trip_ms = coop->round_trip_ms;
    coop->state.speculation = speculation;
    shoal_assist_publish(coop, now_ms);
    shoal_coop_fetch_publish(coop, now_ms);
    shoal_charge_publish(coop, now_ms);
    (void)pthread_mutex_unlock(&coop->state_mutex);
    shoal_metric_set(coop->metrics.running, (double)coop->n_active);
    shoal_metric_set(coop->metrics.waiting, (double)n_waiting);
    shoal_metric_set(coop->metrics.given_up, coop->breaker.open ? 1 : 0);
    shoal_metric_set(coop->metrics.sessions, coop->keep ? (double)shoal_keep_n(coop->keep) : 0);
    shoal_metric_set(coop->metrics.kv_usage, (double)n_used / (double)n_pages);
    shoal_metric_set(coop->metrics.draft_tokens, (double)speculation.n_draft);
    shoal_metric_set(coop->metrics.draft_window, (double)speculation.n_window);
    shoal_metric_set(coop->metrics.draft_acceptance, speculation.acceptance);
    shoal_metric_set(coop->metrics.cloud_step, speculation.cloud_step_ms / 1e3);
    shoal_metric_set(coop->metrics.cloud_price, speculation.price);
}

void shoal_coop_loop(void *ctx)
{
    shoal_coop *coop = ctx;
    bool computed = false;
    if (coop->channel) {
        shoal_coop_describe_start(coop); /* so that the first request need not wait for it */
    }
    for (;;) {
        uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
        atomic_store(&coop->turn_since_ms, 0);
        mail *m = shoal_mailbox_take(&coop->box, computed ? 0 : patience_ms(coop, now_ms));
        atomic_store(&coop->turn_since_ms, shoal_clock_now_ms(&coop->clock));
        while (m) {
            mail *next = m->next;
            take_mail(coop, m);
            m = next;
        }
        now_ms = shoal_clock_now_ms(&coop->clock);
        check_deadlines(coop, now_ms);
        shoal_uplink_check_cut(coop);
        reap(coop);
        admit(coop, now_ms);
        shoal_channel_mind(coop, now_ms);
        shoal_assist_probe(coop, now_ms);
        for (gen *g = coop->active; g; g = g->next) {
            shoal_uplink_pump(coop, g, now_ms);
            shoal_coop_fetch_pump(coop, g, now_ms);
        }
        computed = step(coop);
        reap(coop);
        shoal_charge_turn(coop);
        shoal_link_sweep(coop, now_ms, false);
        publish(coop, now_ms);
        if (atomic_load(&coop->stopping) && !coop->active && !coop->waiting_head) {
            atomic_store(&coop->turn_since_ms, 0);
            return;
        }
    }
}
