/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/pace/span.h"

#include "common/base/macros.h"

#include <math.h>

enum {
    POSITIONS = 160, /* of a cycle that are gone through */
    SPANS = POSITIONS + 1
};

/* What a message takes of both sides' processors, whatever is in it: to encode, to encrypt, to wake
 * who reads. Next door that is a good part of a step of a small model. What it takes of the cloud's
 * alone is taken from all the others, who send as many. */
static const double MESSAGE_US = 40.0;
static const double MESSAGE_CLOUD_US = 20.0;
/* What is beyond these positions is left to the slope. */
static const double REACH_MIN = 0.01;
/* At the price itself a draft is worth neither more nor less than what else the cloud would do, and
 * acceptance is known to some per cent only. */
static const double PRICE_SHARE = 0.95;

static double accept_at(const shoal_pace_world *world, size_t depth)
{
    return world->accept[SHOAL_MIN(depth, (size_t)SHOAL_PACE_DEPTHS) - 1];
}

shoal_pace_step shoal_pace_span_step(const shoal_pace_world *world, size_t n_draft, size_t n_window)
{
    double fixed_us = world->step_us - world->row_us * (world->others + 1);
    double us = world->step_us;
    double share = 1.0;
    double stands = 1.0;
    size_t n_rows = SHOAL_MIN(n_draft, world->n_step);
    for (size_t i = 1; i <= n_rows + 1; i++) {
        stands *= accept_at(world, i);
    }
    /* Away from the cloud: after a refusal, and after each span when there is only one. */
    double away_us = world->trip_us + (double)n_draft * world->edge_us;
    away_us *= n_window >= 2 * n_draft ? 1.0 - stands : 1.0;
    for (size_t i = 0; i < 4 && world->others > 0 && n_draft > 0; i++) {
        share = us / (us + away_us);
        us = fixed_us + world->row_us * (1 + world->others * share * (double)(1 + n_rows));
    }
    double there = world->others * share;
    return (shoal_pace_step){.us = us, .wait_us = us / 2 * there / (there + 1)};
}

/* A cycle in which every draft stands: when each position's verdict is at the edge. Where a draft
 * falls, the cycle ends with the verdict of its position. */
typedef struct cycle {
    const shoal_pace_world *world;
    shoal_pace_step step;
    size_t n_draft;
    size_t n_window;
    size_t n_end; /* positions wanted */
    double known_us[POSITIONS + 2];
    size_t n_known; /* positions whose verdict is reckoned */
    double edge_free_us;
    size_t n_drafted; /* positions that are drafted, or were given */
    /* Spans on their way: their last position and when they arrive. */
    size_t last[SPANS];
    double arrive_us[SPANS];
    size_t n_spans;
    size_t n_taken;
    double cloud_free_us;
} cycle;

static void send_span(cycle *c)
{
    if (c->n_spans < SPANS) {
        c->last[c->n_spans] = c->n_drafted;
        c->arrive_us[c->n_spans++] = c->edge_free_us + c->world->trip_us / 2;
    }
}

/* The edge drafts as far as the window lets it with what is known so far. */
static void draft(cycle *c)
{
    size_t n_open = 0; /* drafts of a span that is not sent */
    while (c->n_drafted < c->n_end) {
        size_t j = c->n_drafted + 1;
        size_t gate = j > c->n_window ? j - c->n_window : 0;
        if (gate > c->n_known) {
            break;
        }
        double start_us = SHOAL_MAX(c->edge_free_us, gate > 0 ? c->known_us[gate] : 0.0);
        c->n_drafted = j;
        if (j <= c->n_known && c->known_us[j] <= start_us) {
            c->edge_free_us = start_us; /* the cloud's own token came first */
            continue;
        }
        c->edge_free_us = start_us + c->world->edge_us;
        n_open++;
        if (n_open == c->n_draft) {
            send_span(c);
            n_open = 0;
        }
    }
    if (n_open > 0) {
        send_span(c);
    }
}

/* When a step may begin that has something to do from arrive_us on. Where others are served, steps
 * follow on each other: who comes late by a little waits for a whole one. */
static double step_start(const cycle *c, double arrive_us)
{
    double others_us = c->step.us - c->world->row_us;
    if (arrive_us <= c->cloud_free_us) {
        return c->cloud_free_us;
    }
    if (c->n_known == 0 || c->step.wait_us < c->step.us / 4) {
        return arrive_us + c->step.wait_us;
    }
    return c->cloud_free_us + ceil((arrive_us - c->cloud_free_us) / others_us) * others_us;
}

/* The next step of the cloud takes of the spans that are there what is worth it. False: none is. */
static bool step(cycle *c)
{
    while (c->n_taken < c->n_spans && c->last[c->n_taken] <= c->n_known) {
        c->n_taken++; /* known already from the cloud's own token */
    }
    if (c->n_taken == c->n_spans) {
        return false;
    }
    double start_us = step_start(c, c->arrive_us[c->n_taken]);
    size_t n_there = c->n_known;
    for (size_t i = c->n_taken; i < c->n_spans && c->arrive_us[i] <= start_us; i++) {
        n_there = c->last[i];
    }
    size_t n_rows = SHOAL_MIN(n_there - c->n_known, c->world->n_step);
    c->cloud_free_us = start_us + c->step.us + (double)n_rows * c->world->row_us;
    /* With the drafts their successor is found out. */
    size_t last = SHOAL_MIN(c->n_known + n_rows + 1, (size_t)POSITIONS + 1);
    while (c->n_known < last) {
        c->known_us[++c->n_known] = c->cloud_free_us + c->world->trip_us / 2;
    }
    return true;
}

/* Messages that have left when the verdict of a position is at the edge, of those after from. */
static size_t n_sent(const cycle *c, size_t position, size_t from)
{
    double before_us = c->known_us[position] + c->world->trip_us / 2;
    while (from < c->n_spans && c->arrive_us[from] <= before_us) {
        from++;
    }
    return from;
}

/* A token's time, and messages, expected. */
static double token_us(const shoal_pace_world *world, size_t n_draft, size_t n_window,
                       double *ret_messages)
{
    cycle c = {.world = world,
               .step = shoal_pace_span_step(world, n_draft, n_window),
               .n_draft = n_draft,
               .n_window = n_window};
    double stands = 1.0;
    while (c.n_end < POSITIONS && (stands > REACH_MIN || c.n_end < n_draft)) {
        stands *= accept_at(world, ++c.n_end);
    }
    bool more = true;
    while (more && c.n_known < c.n_end) {
        draft(&c);
        more = step(&c);
    }
    double us = 0.0;
    double n = 0.0;
    double messages = 0.0;
    size_t half = c.n_end / 2;
    size_t sent = 0;
    size_t sent_half = 0;
    stands = 1.0;
    for (size_t j = 1; j <= c.n_end; j++) {
        double ends = stands * (1.0 - accept_at(world, j));
        sent = n_sent(&c, j, sent);
        sent_half = j == half ? sent : sent_half;
        us += ends * c.known_us[j];
        messages += ends * (double)sent;
        n += ends * (double)j;
        stands -= ends;
    }
    /* Who gets to the end goes on as in the last half of the way. */
    double slope_us = (c.known_us[c.n_end] - c.known_us[half]) / (double)(c.n_end - half);
    double slope = (double)(sent - sent_half) / (double)(c.n_end - half);
    double deep = SHOAL_MIN(accept_at(world, c.n_end + 1), 0.999);
    double n_tail = 1.0 / (1.0 - deep);
    us += stands * (c.known_us[c.n_end] + n_tail * slope_us);
    messages += stands * ((double)sent + n_tail * slope);
    n += stands * ((double)c.n_end + n_tail);
    *ret_messages = messages / n;
    return us / n;
}

double shoal_pace_span_us(const shoal_pace_world *world, size_t n_draft, size_t n_window)
{
    double messages = 0.0;
    return token_us(world, n_draft, n_window, &messages);
}

size_t shoal_pace_span_max(const shoal_pace_world *world)
{
    double stands = 1.0;
    double tokens = 1.0; /* that the rows before give */
    for (size_t j = 1; j <= SHOAL_PACE_DRAFT_MAX; j++) {
        /* What these take, in tokens of plain decoding. */
        double before = 1.0 + (double)(j - 1) * world->price;
        stands *= accept_at(world, j);
        if (stands * before < PRICE_SHARE * world->price * tokens) {
            return j - 1;
        }
        tokens += stands;
    }
    return SHOAL_PACE_DRAFT_MAX;
}

/* Dearer for what costs others: messages, and a little for drafts that are likely in vain. */
static double weigh(const shoal_pace_world *world, double us, double messages, size_t n_window)
{
    return us * (1.0 + 0.0002 * (double)n_window) +
           messages * (MESSAGE_US + world->others * MESSAGE_CLOUD_US);
}

shoal_pace_choice shoal_pace_span_best(const shoal_pace_world *world, size_t n_draft_max,
                                       double *ret_us)
{
    static const size_t drafts[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32};
    static const size_t spans[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};
    shoal_pace_choice best = {.n_draft = 0, .n_window = 0};
    double best_weight = 0.0;
    for (size_t i = 0; i < SHOAL_COUNT(drafts); i++) {
        size_t n = drafts[i];
        size_t n_before = 0;
        double us_before = 0.0;
        if (n > n_draft_max) {
            break;
        }
        for (size_t k = 0; k < SHOAL_COUNT(spans); k++) {
            size_t window = SHOAL_MIN(n * spans[k], (size_t)SHOAL_PACE_WINDOW_MAX);
            if (window == n_before) {
                break;
            }
            n_before = window;
            double messages = 0.0;
            double us = token_us(world, n, window, &messages);
            double weight = weigh(world, us, messages, window);
            bool wider_is_vain = k > 0 && us > 0.999 * us_before;
            us_before = us;
            if (best.n_draft == 0 || weight < best_weight) {
                best = (shoal_pace_choice){.n_draft = n, .n_window = window};
                best_weight = weight;
                *ret_us = us;
            }
            if (wider_is_vain) {
                break;
            }
        }
    }
    return best;
}
