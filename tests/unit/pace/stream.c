/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "stream.h"

#include "common/base/macros.h"
#include "common/base/rng.h"

#include <math.h>
#include <string.h>

enum {
    QUEUE_MAX = 4096
};

typedef enum kind {
    UP_DRAFT,
    UP_CONTINUE,
    DOWN_VERDICT,
    DOWN_TOKENS
} kind;

typedef struct message {
    double at_us; /* arrival */
    kind kind;
    uint32_t epoch;
    bool known;  /* DRAFT: of confirmed tokens */
    size_t from; /* DRAFT: first position. VERDICT: accepted to */
    size_t to;   /* DRAFT, VERDICT, TOKENS: position behind the last id */
    double step_us;
    double price;
} message;

typedef struct line {
    message items[QUEUE_MAX];
    size_t head;
    size_t n;
    double last_us; /* arrivals keep their order */
} line;

typedef struct stream {
    const trace *t;
    shoal_pace *pace;
    shoal_pace_choice choice;
    stream_result *result;
    size_t n_end;
    line up;
    line down;
    uint64_t n_sends;
    /* the edge */
    double edge_us;
    size_t n_confirmed;
    size_t n_tokens;
    size_t n_sent;
    uint32_t epoch;
    bool continuing;
    double timed_us; /* when what is timed was sent, negative: nothing */
    size_t timed_rows;
    size_t timed_from;
    bool timed_alone;
    bool timed_decoding;
    double segment_us; /* when the segment began */
    size_t segment_i;
    size_t segment_end;
    /* the cloud */
    double cloud_us;
    double stepped_us; /* end of our last step: others' steps begin from here on */
    double rows;       /* of ours in a step, of late */
    size_t n_held;
    size_t n_drafts;
    uint32_t cloud_epoch;
    bool plain;
    double n_judged;
    double n_right;
} stream;

static double draw(uint64_t seed, uint64_t i)
{
    uint64_t rng = seed * 0x9E3779B97F4A7C15U + i;
    (void)shoal_rng_next(&rng);
    return (double)(shoal_rng_next(&rng) >> 11) * 0x1p-53;
}

static const segment *segment_at(const stream *s, size_t position)
{
    size_t i = 0;
    while (i + 1 < s->t->n_segments && position >= s->t->segments[i].n_tokens) {
        position -= s->t->segments[i++].n_tokens;
    }
    return &s->t->segments[i];
}

static bool is_right(const stream *s, size_t position)
{
    return draw(s->t->seed, position) < segment_at(s, position)->accept;
}

static void post(stream *s, line *l, double now_us, message m)
{
    const segment *g = segment_at(s, s->n_confirmed);
    double delay_us = g->trip_us / 2 * (0.9 + 0.2 * draw(s->t->seed + 1, s->n_sends++));
    l->last_us = fmax(l->last_us, now_us + delay_us);
    m.at_us = l->last_us;
    assert_true(l->n < QUEUE_MAX);
    l->items[(l->head + l->n++) % QUEUE_MAX] = m;
}

static bool arrived(const line *l, double now_us)
{
    return l->n > 0 && l->items[l->head].at_us <= now_us;
}

static message pop(line *l)
{
    message m = l->items[l->head];
    l->head = (l->head + 1) % QUEUE_MAX;
    l->n--;
    return m;
}

/* --- the cloud ----------------------------------------------------------------------------------
 */

static double others(const stream *s)
{
    return (double)segment_at(s, s->n_held)->n_others;
}

/* With n_rows of ours; the others have as many of late as we have had, and are as often away. */
static double step_us(const stream *s, size_t n_rows)
{
    return s->t->fixed_us + s->t->row_us * ((double)n_rows + others(s) * s->rows);
}

/* As if all were decoded plainly. */
static double plain_us(const stream *s)
{
    return s->t->fixed_us + s->t->row_us * (1 + others(s));
}

static double price(const stream *s)
{
    return (1 + others(s)) * s->t->row_us / plain_us(s);
}

static void note_rows(stream *s, double n_rows)
{
    s->rows += (n_rows - s->rows) / 16;
}

static void answer(stream *s, kind k, size_t from)
{
    post(s, &s->down, s->cloud_us,
         (message){.kind = k,
                   .epoch = s->cloud_epoch,
                   .from = from,
                   .to = s->n_held,
                   .step_us = plain_us(s),
                   .price = price(s)});
}

static void cloud_take(stream *s, const message *m)
{
    if (m->epoch < s->cloud_epoch) {
        return;
    }
    if (m->epoch > s->cloud_epoch) {
        s->cloud_epoch = m->epoch;
        s->n_drafts = 0;
    }
    if (m->kind == UP_CONTINUE) {
        s->plain = true;
        answer(s, DOWN_TOKENS, m->from);
        return;
    }
    assert_true(m->from <= s->n_held + s->n_drafts); /* no gap */
    for (size_t q = m->from; q < SHOAL_MIN(m->to, s->n_held); q++) {
        if (!is_right(s, q) && !m->known) {
            s->cloud_epoch++;
            s->n_drafts = 0;
            answer(s, DOWN_VERDICT, q);
            return;
        }
    }
    if (m->to <= s->n_held) {
        answer(s, DOWN_VERDICT, m->to);
        return;
    }
    s->n_drafts = m->to - s->n_held;
    s->plain = false;
}

/* As cloud/sched does, were the others like us: a draft takes part while it gives no less for its
 * row than the step gives for its time. */
static size_t drafts_taken(const stream *s)
{
    double accept = (s->n_right + 4.0) / (s->n_judged + 5.0);
    double n_sessions = 1 + others(s);
    double stands = 1.0;
    double tokens = 1.0;
    size_t n = 0;
    while (n < s->n_drafts) {
        double us = s->t->fixed_us + s->t->row_us * n_sessions * (double)(1 + n);
        stands *= accept;
        if (stands * us < n_sessions * tokens * s->t->row_us) {
            break;
        }
        tokens += stands;
        n++;
    }
    return n;
}

static void cloud_step(stream *s)
{
    bool drafted = s->n_drafts > 0;
    size_t n = drafts_taken(s);
    size_t n_right = 0;
    s->cloud_us += step_us(s, 1 + n);
    note_rows(s, (double)(1 + n));
    while (n_right < n && is_right(s, s->n_held + n_right)) {
        n_right++;
    }
    size_t own = s->n_held + n_right;
    bool stood = n_right == n && (s->n_drafts == n || is_right(s, own));
    s->n_judged += (double)SHOAL_MIN(n_right + 1, s->n_drafts);
    s->n_right += (double)(n_right + (s->n_drafts > n && stood));
    s->n_held = own + 1;
    size_t accepted_to = own;
    if (!stood) {
        s->cloud_epoch++;
        s->n_drafts = 0;
    } else if (s->n_drafts > n) {
        s->n_drafts -= n + 1;
        accepted_to = own + 1;
    } else {
        s->n_drafts = 0;
    }
    answer(s, drafted ? DOWN_VERDICT : DOWN_TOKENS, accepted_to);
}

static bool cloud_works(const stream *s)
{
    return (s->n_drafts > 0 || s->plain) && s->n_held < s->n_end;
}

static double cloud_next(const stream *s)
{
    return cloud_works(s) ? s->cloud_us
           : s->up.n > 0  ? fmax(s->cloud_us, s->up.items[s->up.head].at_us)
                          : (double)INFINITY;
}

static void cloud_receive(stream *s)
{
    while (arrived(&s->up, s->cloud_us)) {
        message m = pop(&s->up);
        cloud_take(s, &m);
    }
}

static void cloud_run(stream *s)
{
    bool idle = !cloud_works(s);
    s->cloud_us = cloud_next(s);
    cloud_receive(s);
    if (!cloud_works(s)) {
        return;
    }
    if (idle && segment_at(s, s->n_held)->n_others > 0) {
        /* The others' steps go on: ours begins with the next one, with all that has come by then.
         */
        double others_us = step_us(s, 0);
        double start_us = s->stepped_us;
        while (start_us < s->cloud_us) {
            note_rows(s, 0);
            start_us += others_us;
        }
        s->cloud_us = start_us;
        return;
    }
    cloud_step(s);
    s->stepped_us = s->cloud_us;
}

/* --- the edge -----------------------------------------------------------------------------------
 */

static void confirm(stream *s)
{
    s->n_confirmed++;
    if (s->n_confirmed == s->segment_end) {
        s->result->us[s->segment_i] = s->edge_us - s->segment_us;
        s->segment_us = s->edge_us;
        s->segment_i++;
        if (s->segment_i < s->t->n_segments) {
            s->segment_end += s->t->segments[s->segment_i].n_tokens;
        }
    }
}

static void judged(stream *s, bool right)
{
    if (s->pace) {
        shoal_pace_judged(s->pace, right);
    }
}

/* The cloud's ids up to m->to; true when a draft was wrong. */
static bool take_ids(stream *s, const message *m, size_t n_sent)
{
    bool rolled_back = false;
    for (size_t q = SHOAL_MAX(m->from, s->n_confirmed); q < m->to; q++) {
        bool drafted = q < s->n_tokens && !rolled_back;
        bool right = drafted && is_right(s, q);
        if (drafted) {
            judged(s, right); /* or compared, where it was not sent */
        }
        s->result->n_plain += !(drafted && q < n_sent);
        if (!right) {
            rolled_back = rolled_back || drafted;
            s->n_tokens = q + 1;
            s->n_sent = q + 1;
        }
        confirm(s);
    }
    s->n_sent = SHOAL_MAX(s->n_sent, s->n_confirmed);
    return rolled_back;
}

static void edge_take(stream *s, const message *m)
{
    size_t n_before = s->n_confirmed;
    size_t n_sent = s->n_sent;
    bool verdict = m->kind == DOWN_VERDICT;
    assert_true(!verdict || m->from <= s->n_sent);
    if (s->pace) {
        shoal_pace_told(s->pace, m->step_us, s->t->row_us, m->price);
    }
    if (verdict && s->timed_us >= 0 && m->from + (size_t)s->timed_alone > s->timed_from) {
        if (s->pace) {
            const shoal_pace_trip trip = {s->edge_us - s->timed_us, s->timed_rows, s->timed_alone,
                                          s->timed_decoding};
            shoal_pace_round_trip(s->pace, &trip);
        }
        s->timed_us = -1;
    }
    while (verdict && s->n_confirmed < m->from) {
        judged(s, true);
        confirm(s);
    }
    bool rolled_back = take_ids(s, m, n_sent);
    if (rolled_back) {
        s->timed_us = -1;
    }
    if (m->epoch > s->epoch) {
        s->epoch = m->epoch;
        s->n_sent = s->n_confirmed;
        s->continuing = false;
    } else if (rolled_back && n_sent > n_before && n_sent > s->n_confirmed - 1) {
        s->epoch++;
        s->continuing = false;
    }
    if (s->pace && s->n_confirmed > n_before) {
        shoal_pace_confirmed(s->pace, s->n_confirmed - n_before, (uint64_t)s->edge_us + 1);
    }
}

static bool may_draft(const stream *s)
{
    return s->n_tokens < s->n_end && s->n_tokens - s->n_confirmed < s->choice.n_window;
}

static void send_drafts(stream *s)
{
    while (s->n_sent < s->n_tokens) {
        size_t n = SHOAL_MIN(s->n_tokens - s->n_sent, s->choice.n_draft);
        if (n < s->choice.n_draft && may_draft(s)) {
            return;
        }
        if (s->timed_us < 0) {
            s->timed_us = s->edge_us;
            s->timed_alone = s->n_sent == s->n_confirmed;
            s->timed_decoding = s->continuing;
            s->timed_rows = s->continuing ? 0 : n;
            s->timed_from = s->n_sent;
        }
        s->continuing = false;
        post(
            s, &s->up, s->edge_us,
            (message){.kind = UP_DRAFT, .epoch = s->epoch, .from = s->n_sent, .to = s->n_sent + n});
        s->n_sent += n;
    }
}

static double edge_next(const stream *s)
{
    return may_draft(s)    ? s->edge_us
           : s->down.n > 0 ? fmax(s->edge_us, s->down.items[s->down.head].at_us)
                           : (double)INFINITY;
}

static void edge_choose(stream *s)
{
    bool drafted = s->choice.n_draft > 0;
    if (s->pace) {
        s->choice = shoal_pace_choose(s->pace);
        s->result->n_switches += drafted != (s->choice.n_draft > 0);
    }
    if (s->choice.n_draft > 0) {
        send_drafts(s);
    } else if (!s->continuing) {
        s->n_tokens = SHOAL_MAX(s->n_sent, s->n_confirmed);
        s->continuing = true;
        post(s, &s->up, s->edge_us,
             (message){.kind = UP_CONTINUE, .epoch = s->epoch, .from = s->n_confirmed});
    } else if (s->timed_us < 0 && s->pace && shoal_pace_wants_trip(s->pace)) {
        /* A draft of what is known already: its verdict comes at once. */
        s->timed_us = s->edge_us;
        s->timed_alone = true;
        s->timed_decoding = true;
        s->timed_rows = 0;
        s->timed_from = s->n_confirmed - 1;
        post(s, &s->up, s->edge_us,
             (message){.kind = UP_DRAFT,
                       .epoch = s->epoch,
                       .known = true,
                       .from = s->n_confirmed - 1,
                       .to = s->n_confirmed});
    }
}

static void edge_run(stream *s)
{
    s->edge_us = edge_next(s);
    while (arrived(&s->down, s->edge_us)) {
        message m = pop(&s->down);
        edge_take(s, &m);
    }
    edge_choose(s);
    if (may_draft(s)) {
        s->edge_us += s->t->edge_us;
        s->n_tokens++;
        if (s->pace) {
            shoal_pace_edge_token(s->pace, s->t->edge_us);
        }
        edge_choose(s);
    }
}

void stream_run(const trace *t, shoal_pace_choice choice, shoal_pace *pace,
                stream_result *ret_result)
{
    static stream s;
    memset(&s, 0, sizeof s);
    memset(ret_result, 0, sizeof *ret_result);
    s.t = t;
    s.pace = pace;
    s.choice = choice;
    s.result = ret_result;
    s.timed_us = -1;
    s.rows = 1;
    s.segment_end = t->segments[0].n_tokens;
    for (size_t i = 0; i < t->n_segments; i++) {
        s.n_end += t->segments[i].n_tokens;
    }
    if (pace) {
        /* What Opened tells, and the time it took. */
        shoal_pace_told(pace, plain_us(&s), t->row_us, price(&s));
        const shoal_pace_trip trip = {t->segments[0].trip_us, 0, true, false};
        shoal_pace_round_trip(pace, &trip);
    }
    edge_choose(&s);
    for (size_t n = 0; s.n_confirmed < s.n_end; n++) {
        assert_true(n < 10000000); /* no standstill */
        double edge = edge_next(&s);
        double cloud = cloud_next(&s);
        assert_true(isfinite(edge) || isfinite(cloud));
        if (edge <= cloud) {
            edge_run(&s);
        } else {
            cloud_run(&s);
        }
    }
}
