/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/run.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/bench/load/events.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum {
    RETRY_MS_MIN = 20,
    RETRY_MS_MAX = 1000
};

typedef enum event_kind {
    ARRIVE,  /* session number `attempt` begins */
    SEND,    /* bytes have crossed the simulated way up */
    TAKE,    /* a mail has crossed the way down */
    DRAFTED, /* the edge has its next span */
    REOPEN
} event_kind;

typedef enum outcome {
    PENDING,
    WRONG,
    BROKEN,
    VANISHED,
    CUT_OFF, /* unfinished at the end of the drain */
    OVER     /* counted */
} outcome;

typedef struct session {
    load_edge edge;
    load_stream *stream; /* NULL: not open */
    uint32_t attempt;    /* of opening a stream; what is on its way from an older one is void */
    outcome outcome;
    bool started;
    bool drafting;        /* a timer for the next span runs */
    bool drafted;         /* it has run out */
    uint32_t draft_round; /* of that timer; an older one is void */
    size_t tenant;
    size_t vanish_at; /* confirmed tokens at which the edge goes away; SIZE_MAX: never */
    uint64_t arrive_ns;
    uint64_t first_ns;
    uint64_t last_ns;
    uint64_t cut_ns; /* since when it has no stream */
    uint64_t retry_ms;
    size_t n_window; /* tokens that came in the window */
} session;

typedef struct run {
    load_link *link;
    load_truth *truth;
    const load_plan *plan;
    load_result *result;
    session *sessions;
    size_t n_started;
    size_t n_over;
    uint64_t start_ns; /* of the plan on the real clock */
    uint64_t noise;
    load_events events;
    shoal_buf buf;
    bool cutting; /* the drain is over */
} run;

static uint64_t now_ns(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ns(&clock);
}

static void note(run *r, const session *s, const char *what)
{
    if (r->result->why[0] == '\0') {
        (void)snprintf(r->result->why, sizeof r->result->why, "session %zu, item %zu: %.180s",
                       (size_t)(s - r->sessions), (size_t)(s->edge.item - r->truth->items), what);
    }
}

/* --- sessions -----------------------------------------------------------------------------------
 */

static bool counts(const run *r, const session *s)
{
    uint64_t at = s->arrive_ns - r->start_ns;
    return at >= r->plan->warm_ns && at < r->plan->end_ns;
}

static shoal_status start_next(run *r);

/* A session has no stream and will have none. */
static shoal_status session_over(run *r, session *s)
{
    load_result *result = r->result;
    s->outcome = OVER;
    r->n_over++;
    result->n_drafted += s->edge.counts.n_drafted;
    result->n_accepted += s->edge.counts.n_accepted;
    result->n_rounds += s->edge.counts.n_rounds;
    result->node_cached += s->edge.counts.n_cached;
    return r->plan->width > 0 ? start_next(r) : SHOAL_OK;
}

static shoal_status session_ok(run *r, session *s)
{
    load_result *result = r->result;
    size_t n_tokens = s->edge.n_confirmed - s->edge.item->n_prompt;
    result->n_ok++;
    result->n_tokens += s->n_window;
    result->n_tokens_ok += n_tokens;
    result->tenants[s->tenant].n_ok++;
    result->tenants[s->tenant].n_tokens += s->n_window;
    if (counts(r, s) && n_tokens > 1) {
        double took = (double)(s->last_ns - s->first_ns) / 1e9;
        SHOAL_TRY(load_samples_add(&result->token, took / (double)(n_tokens - 1)));
    }
    return session_over(r, s);
}

static void give_up(session *s, outcome how)
{
    s->outcome = how;
    if (s->stream) {
        load_stream_cancel(s->stream);
    }
}

static shoal_status session_open(run *r, session *s);

static shoal_status send_now(run *r, session *s, const void *data, size_t n, uint64_t now)
{
    if (r->plan->rtt_ns == 0) {
        shoal_status status = load_stream_send(s->stream, data, n);
        /* A stream that ended meanwhile says so itself. */
        return status == SHOAL_E_NOMEM ? status : SHOAL_OK;
    }
    load_event event = {
        .at_ns = now + r->plan->rtt_ns / 2, .kind = SEND, .subject = s, .attempt = s->attempt};
    SHOAL_TRY(load_event_copy(&event, data, n));
    return load_events_add(&r->events, &event);
}

/* Drafting takes time: the span is ready so much later, unless a verdict changes what it is. */
static shoal_status wait_for_drafts(run *r, session *s, uint64_t now)
{
    s->drafting = true;
    load_event event = {.at_ns = now + r->plan->draft_ns * load_edge_n_drafts(&s->edge),
                        .kind = DRAFTED,
                        .subject = s,
                        .attempt = ++s->draft_round};
    return load_events_add(&r->events, &event);
}

/* Sends what there is to send. */
static shoal_status pump(run *r, session *s, uint64_t now)
{
    char id[32];
    (void)snprintf(id, sizeof id, "load-%zu", (size_t)(s - r->sessions));
    s->edge.now_us = now / 1000;
    while (s->outcome == PENDING && s->stream) {
        load_edge_step step = load_edge_next(&s->edge);
        if (step == LOAD_EDGE_WAIT || step == LOAD_EDGE_CLOSED) {
            return SHOAL_OK;
        }
        if (step == LOAD_EDGE_HALF_CLOSE) {
            load_edge_half_closed(&s->edge);
            load_stream_half_close(s->stream);
            return SHOAL_OK;
        }
        if (step == LOAD_EDGE_DRAFT && r->plan->draft_ns > 0 && !s->drafted) {
            return s->drafting ? SHOAL_OK : wait_for_drafts(r, s, now);
        }
        s->drafted = false;
        shoal_edge_msg msg;
        load_edge_send(&s->edge, id, &msg);
        shoal_buf_reset(&r->buf);
        SHOAL_TRY(shoal_edge_msg_encode(&msg, &r->buf));
        SHOAL_TRY(send_now(r, s, r->buf.data, r->buf.length, now));
    }
    return SHOAL_OK;
}

static shoal_status session_open(run *r, session *s)
{
    s->attempt++;
    s->draft_round++;
    s->drafting = false;
    s->drafted = false;
    SHOAL_TRY(load_stream_open(r->link, s->tenant, r->truth->describe.n_vocab, s, &s->stream));
    return pump(r, s, now_ns());
}

static size_t draw_tenant(const run *r, size_t i)
{
    double at = load_uniform_at(r->noise, 4 * i);
    for (size_t t = 0; t + 1 < r->plan->n_tenants; t++) {
        if (at < r->plan->shares[t]) {
            return t;
        }
        at -= r->plan->shares[t];
    }
    return r->plan->n_tenants - 1;
}

static shoal_status session_start(run *r, size_t i, uint64_t scheduled_ns)
{
    session *s = &r->sessions[i];
    load_edge_settings settings = r->plan->edge;
    if (load_uniform_at(r->noise, 4 * i + 1) < r->plan->cloud_share) {
        settings.mode = SHOAL_MODE_CLOUD;
    }
    settings.draft_us = (double)r->plan->draft_ns / 1e3;
    settings.pace = settings.span == 0 ? r->plan->pace : NULL;
    /* Rounds through all items, each in an order of its own. */
    size_t n_items = r->truth->settings.n_items;
    size_t step = (size_t)(load_uniform_at(r->noise, 1 + i / n_items) * (double)n_items);
    load_item *item = &r->truth->items[(i + step) % n_items];
    load_edge_init(&s->edge, &settings, r->truth, item, r->noise + i);
    s->tenant = draw_tenant(r, i);
    s->arrive_ns = scheduled_ns;
    s->started = true;
    s->vanish_at = SIZE_MAX;
    s->retry_ms = RETRY_MS_MIN;
    if (load_uniform_at(r->noise, 4 * i + 2) < r->plan->vanish) {
        s->vanish_at =
            item->n_prompt + (size_t)(load_uniform_at(r->noise, 4 * i + 3) * (double)item->n_out);
    }
    r->n_started++;
    r->result->n_arrived++;
    r->result->tenants[s->tenant].n_arrived++;
    r->result->n_open_max = SHOAL_MAX(r->result->n_open_max, r->n_started - r->n_over);
    if (counts(r, s)) {
        SHOAL_TRY(load_samples_add(&r->result->late, (double)(now_ns() - scheduled_ns) / 1e9));
    }
    return session_open(r, s);
}

static shoal_status start_next(run *r)
{
    return r->n_started < r->plan->n_sessions && !r->cutting
               ? session_start(r, r->n_started, now_ns())
               : SHOAL_OK;
}

/* --- what comes ---------------------------------------------------------------------------------
 */

static shoal_status note_tokens(run *r, session *s, size_t n_new, uint64_t at_ns)
{
    load_result *result = r->result;
    bool counted = counts(r, s);
    if (s->first_ns == 0) {
        s->first_ns = at_ns;
        if (counted) {
            SHOAL_TRY(load_samples_add(&result->first, (double)(at_ns - s->arrive_ns) / 1e9));
        }
    } else if (counted) {
        SHOAL_TRY(load_samples_add(&result->gap, (double)(at_ns - s->last_ns) / 1e9));
    }
    s->last_ns = at_ns;
    result->n_tokens_all += n_new;
    uint64_t at = at_ns - r->start_ns;
    s->n_window += at >= r->plan->warm_ns && at < r->plan->end_ns ? n_new : 0;
    s->retry_ms = RETRY_MS_MIN;
    s->cut_ns = 0;
    return SHOAL_OK;
}

static shoal_status take_message(run *r, session *s, const load_mail *mail, uint64_t at_ns)
{
    const shoal_cloud_msg *msg = mail->msg;
    size_t n_new = 0;
    s->edge.now_us = at_ns / 1000;
    shoal_status status = load_edge_take(&s->edge, msg, &n_new);
    if (status != SHOAL_OK) {
        note(r, s, s->edge.why);
        give_up(s, status == SHOAL_E_MISMATCH ? WRONG : BROKEN);
        return SHOAL_OK;
    }
    if (msg->kind == SHOAL_CLOUD_FINISHED) {
        r->result->node_verified += msg->body.finished.n_verified;
        r->result->node_generated += msg->body.finished.n_generated;
        r->result->node_compute_us += msg->body.finished.compute_us;
    }
    if (msg->kind == SHOAL_CLOUD_VERDICT && s->edge.n_sent == s->edge.n_confirmed) {
        s->draft_round++; /* what is being drafted begins elsewhere now */
        s->drafting = false;
        s->drafted = false;
    }
    if (n_new > 0) {
        SHOAL_TRY(note_tokens(r, s, n_new, at_ns));
    }
    if (s->edge.n_confirmed >= s->vanish_at) {
        give_up(s, VANISHED);
        return SHOAL_OK;
    }
    return pump(r, s, at_ns);
}

static bool again(shoal_rpc_status status)
{
    return status == SHOAL_RPC_CANCELLED || status == SHOAL_RPC_UNAVAILABLE ||
           status == SHOAL_RPC_ABORTED || status == SHOAL_RPC_INTERNAL ||
           status == SHOAL_RPC_UNKNOWN;
}

/* True when the session goes on with another stream a little later. */
static bool reopen(run *r, session *s, shoal_rpc_status status, uint64_t at_ns,
                   shoal_status *ret_status)
{
    if (!again(status) || r->plan->resume_ns == 0 || s->edge.settings.record) {
        return false;
    }
    s->cut_ns = s->cut_ns == 0 ? at_ns : s->cut_ns;
    if (at_ns - s->cut_ns > r->plan->resume_ns) {
        return false;
    }
    r->result->n_cut++;
    load_edge_reopen(&s->edge);
    uint64_t jitter = shoal_rng_next(&r->noise) % (s->retry_ms + 1);
    load_event event = {.at_ns = now_ns() + (s->retry_ms / 2 + jitter / 2) * 1000000U,
                        .kind = REOPEN,
                        .subject = s,
                        .attempt = s->attempt};
    s->retry_ms = SHOAL_MIN(2 * s->retry_ms, (uint64_t)RETRY_MS_MAX);
    *ret_status = load_events_add(&r->events, &event);
    return true;
}

/* The stream ended and nothing was decided before. */
static shoal_status judge_end(run *r, session *s, const load_mail *mail, uint64_t at_ns)
{
    load_result *result = r->result;
    char text[LOAD_WHY_MAX];
    (void)snprintf(text, sizeof text, "status %d: %.150s", (int)mail->status, mail->text);
    if (mail->status == SHOAL_RPC_OK) {
        if (s->edge.finished && (load_edge_complete(&s->edge) || s->edge.settings.record)) {
            return session_ok(r, s);
        }
        note(r, s, "ended well, but not whole");
        result->n_broken++;
        return session_over(r, s);
    }
    if (mail->status == SHOAL_RPC_RESOURCE_EXHAUSTED) {
        if (s->edge.settings.record) {
            note(r, s, text); /* under load it is an answer like others, here one is missing */
        }
        result->n_shed += s->first_ns != 0;
        result->n_refused += s->first_ns == 0;
        if (s->first_ns == 0 && counts(r, s)) {
            SHOAL_TRY(load_samples_add(&result->refusal, (double)(at_ns - s->arrive_ns) / 1e9));
        }
        return session_over(r, s);
    }
    shoal_status status = SHOAL_OK;
    if (reopen(r, s, mail->status, at_ns, &status)) {
        return status;
    }
    note(r, s, text);
    result->n_failed[SHOAL_MIN((size_t)mail->status, (size_t)LOAD_STATUS_MAX - 1)]++;
    return session_over(r, s);
}

static shoal_status take_end(run *r, session *s, const load_mail *mail, uint64_t at_ns)
{
    load_stream_free(SHOAL_STEAL(s->stream));
    switch (s->outcome) {
    case PENDING:
        return judge_end(r, s, mail, at_ns);
    case WRONG:
        r->result->n_wrong++;
        break;
    case BROKEN:
        r->result->n_broken++;
        break;
    case VANISHED:
        r->result->n_vanished++;
        break;
    case CUT_OFF:
        r->result->n_unfinished++;
        break;
    case OVER:
        return SHOAL_OK;
    }
    return session_over(r, s);
}

static shoal_status take_mail(run *r, const load_mail *mail, uint64_t at_ns)
{
    session *s = load_stream_user(mail->stream);
    switch (mail->kind) {
    case LOAD_MAIL_MESSAGE:
        return s->outcome == PENDING ? take_message(r, s, mail, at_ns) : SHOAL_OK;
    case LOAD_MAIL_BROKEN:
        note(r, s, mail->text);
        s->outcome = s->outcome == PENDING ? BROKEN : s->outcome;
        return SHOAL_OK;
    case LOAD_MAIL_END:
        return take_end(r, s, mail, at_ns);
    }
    return SHOAL_OK;
}

static void release_mail(void *mail)
{
    load_mail_free(mail);
}

static shoal_status receive(run *r, load_mail *take_mail_)
{
    shoal_status status = SHOAL_OK;
    if (r->plan->rtt_ns == 0) {
        status = take_mail(r, take_mail_, take_mail_->at_ns);
        load_mail_free(take_mail_);
        return status;
    }
    load_event event = {.at_ns = take_mail_->at_ns + r->plan->rtt_ns / 2,
                        .kind = TAKE,
                        .data = take_mail_,
                        .release = release_mail};
    return load_events_add(&r->events, &event);
}

static shoal_status happen(run *r, const load_event *event)
{
    session *s = event->subject;
    bool current = s && s->attempt == event->attempt && s->outcome == PENDING;
    switch ((event_kind)event->kind) {
    case ARRIVE:
        return session_start(r, event->attempt, event->at_ns);
    case SEND:
        if (current && s->stream) {
            shoal_status status = load_stream_send(s->stream, event->data, event->n);
            return status == SHOAL_E_NOMEM ? status : SHOAL_OK;
        }
        return SHOAL_OK;
    case DRAFTED:
        if (s->outcome == PENDING && s->draft_round == event->attempt) {
            s->drafting = false;
            s->drafted = true;
            return pump(r, s, event->at_ns);
        }
        return SHOAL_OK;
    case REOPEN:
        return current ? session_open(r, s) : SHOAL_OK;
    case TAKE:
        return take_mail(r, event->data, event->at_ns);
    }
    return SHOAL_OK;
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static uint64_t arrivals_seed(const load_plan *plan)
{
    return plan->seed ^ 0xA5A5A5A5U;
}

size_t load_plan_n_arrivals(const load_plan *plan, double seconds)
{
    uint64_t rng = arrivals_seed(plan);
    double at = load_poisson_gap(&rng, plan->rate);
    size_t n = 0;
    for (; at < seconds && n < LOAD_SESSIONS_MAX; n++) {
        at += load_poisson_gap(&rng, plan->rate);
    }
    return n;
}

static shoal_status plan_arrivals(run *r)
{
    const load_plan *plan = r->plan;
    if (plan->width > 0) {
        for (size_t i = 0; i < SHOAL_MIN(plan->width, plan->n_sessions); i++) {
            SHOAL_TRY(session_start(r, i, now_ns()));
        }
        return SHOAL_OK;
    }
    uint64_t rng = arrivals_seed(plan);
    double at = 0;
    for (size_t i = 0; i < plan->n_sessions; i++) {
        at += plan->rate > 0 ? load_poisson_gap(&rng, plan->rate) : 0;
        load_event event = {
            .at_ns = r->start_ns + (uint64_t)(at * 1e9), .kind = ARRIVE, .attempt = (uint32_t)i};
        SHOAL_TRY(load_events_add(&r->events, &event));
    }
    return SHOAL_OK;
}

/* Whoever is left is cancelled; who waits for a stream of its own ends here. */
static shoal_status cut_all(run *r)
{
    r->cutting = true;
    for (size_t i = 0; i < r->plan->n_sessions; i++) {
        session *s = &r->sessions[i];
        if (!s->started || s->outcome == OVER) {
            continue;
        }
        note(r, s, "not finished at the end of the drain");
        if (s->stream) {
            give_up(s, s->outcome == PENDING ? CUT_OFF : s->outcome);
        } else {
            r->result->n_unfinished++;
            SHOAL_TRY(session_over(r, s));
        }
    }
    return SHOAL_OK;
}

static bool goes_on(const run *r)
{
    return r->n_over < (r->cutting ? r->n_started : r->plan->n_sessions);
}

static shoal_status loop(run *r, uint64_t cut_ns)
{
    while (goes_on(r)) {
        uint64_t now = now_ns();
        if (now >= cut_ns && !r->cutting) {
            SHOAL_TRY(cut_all(r));
            continue;
        }
        load_event event;
        while (load_events_take(&r->events, now, &event)) {
            shoal_status status = happen(r, &event);
            load_event_fini(&event);
            SHOAL_TRY(status);
        }
        uint64_t wake_ns = load_events_next(&r->events);
        wake_ns = SHOAL_MIN(wake_ns, r->cutting ? now + 100000000U : cut_ns);
        load_mail *mail = goes_on(r) ? load_link_wait(r->link, wake_ns) : NULL;
        for (; mail; mail = load_link_wait(r->link, 0)) {
            SHOAL_TRY(receive(r, mail));
        }
    }
    return SHOAL_OK;
}

static double cpu_seconds(void)
{
    struct rusage usage = {0};
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* After a failure of our own streams may be open: they are cancelled and their ends awaited. */
static void close_all(run *r)
{
    for (size_t i = 0; i < r->plan->n_sessions; i++) {
        if (r->sessions[i].stream) {
            load_stream_cancel(r->sessions[i].stream);
        }
    }
    load_event event;
    while (load_events_take(&r->events, UINT64_MAX, &event)) {
        const load_mail *mail = event.kind == TAKE ? event.data : NULL;
        if (mail && mail->kind == LOAD_MAIL_END) {
            session *s = load_stream_user(mail->stream);
            load_stream_free(SHOAL_STEAL(s->stream));
        }
        load_event_fini(&event);
    }
    for (size_t i = 0; i < r->plan->n_sessions; i++) {
        while (r->sessions[i].stream && load_link_n_lost(r->link) == 0) {
            load_mail *mail = load_link_wait(r->link, now_ns() + 1000000000U);
            if (mail && mail->kind == LOAD_MAIL_END) {
                session *s = load_stream_user(mail->stream);
                load_stream_free(SHOAL_STEAL(s->stream));
            }
            load_mail_free(mail);
        }
    }
}

shoal_status load_run(load_link *link, load_truth *truth, const load_plan *plan,
                      load_result *ret_result, shoal_err *err)
{
    *ret_result = (load_result){0};
    run r = {.link = link,
             .truth = truth,
             .plan = plan,
             .result = ret_result,
             .noise = plan->seed * 0x9E3779B97F4A7C15U,
             .buf = {.limit = SHOAL_WIRE_MESSAGE_MAX}};
    r.sessions = shoal_calloc(plan->n_sessions, sizeof *r.sessions);
    if (!r.sessions) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu sessions", plan->n_sessions);
    }
    double cpu = cpu_seconds();
    r.start_ns = now_ns();
    shoal_status status = plan_arrivals(&r);
    if (status == SHOAL_OK) {
        status = loop(&r, r.start_ns + plan->end_ns + plan->drain_ns);
    }
    uint64_t end_ns = now_ns();
    ret_result->wall_s = (double)(end_ns - r.start_ns) / 1e9;
    uint64_t window_end = SHOAL_MIN(plan->end_ns, end_ns - r.start_ns);
    ret_result->window_s = (double)(window_end - SHOAL_MIN(window_end, plan->warm_ns)) / 1e9;
    ret_result->own_cpu_s = cpu_seconds() - cpu;
    ret_result->n_lost_mails = load_link_n_lost(link);
    close_all(&r);
    load_events_fini(&r.events);
    shoal_buf_fini(&r.buf);
    shoal_free(r.sessions);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the load could not be run: %s",
                             shoal_status_text(status));
    }
    if (plan->edge.record && ret_result->n_ok != plan->n_sessions) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "%zu of %zu answers were recorded; %.150s",
                             ret_result->n_ok, plan->n_sessions, ret_result->why);
    }
    return SHOAL_OK;
}

void load_result_fini(load_result *result)
{
    load_samples_fini(&result->first);
    load_samples_fini(&result->gap);
    load_samples_fini(&result->token);
    load_samples_fini(&result->refusal);
    load_samples_fini(&result->late);
}

size_t load_result_n_bad(const load_result *result)
{
    size_t n = result->n_wrong + result->n_broken + result->n_unfinished + result->n_lost_mails;
    for (size_t i = 0; i < LOAD_STATUS_MAX; i++) {
        n += result->n_failed[i];
    }
    return n;
}
