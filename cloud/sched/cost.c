/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/sched/cost.h"

#include "common/base/macros.h"

#include <math.h>
#include <stdbool.h>

/* Weight of a step against the next one: half is forgotten after some 70 steps. */
static const double KEEP = 0.99;
/* Relative spread of the rows (variance / mean of squares) below which the fixed part cannot be
 * told from the rows'. */
static const double SPREAD_MIN = 1e-3;
/* A step counts for that many times its prediction at most, where it has no more than so many times
 * the rows that steps have had lately: beyond, nothing is known of what it should take. */
static const double LATE_MAX = 4.0;
static const double ROWS_KNOWN = 2.0;
/* Steps that a line known beforehand counts for, half of them with half the rows of those seen,
 * half with twice as many. */
static const double KNOWN_STEPS = 20.0;
/* How fast what a session adds is learned, and the sum of squares of sessions / rows, as far as
 * rows do not explain them, at which that is half as fast: a hundred steps give 4 where the share
 * of sessions in the rows goes from 0.4 to 0.8. */
static const double BESIDE_GAIN = 0.02;
static const double BESIDE_SPREAD = 2.0;
/* Rows of the knots; how many steps the line is worth there, and how far a step may lie off it. */
static const double KNOTS[SHOAL_SCHED_COST_KNOTS] = {1,  2,  3,  4,  5,  6,   7,   8,   10,
                                                     12, 16, 24, 32, 64, 128, 256, 512, 1024};
static const double LINE_STEPS = 5.0;
static const double OFF_MIN = 2.0 / 3.0;
static const double OFF_MAX = 3.0 / 2.0;
/* Drafts of a session that is alone, for what one of them costs: about as many as are worth it. */
enum {
    ALONE_DRAFTS = 7
};

static double line_us(const shoal_sched_cost *cost, double rows)
{
    return cost->fixed_us + cost->row_us * rows;
}

/* The knot at or before rows, and what part of the way to the next it is. */
static size_t find_knot(double rows, double *ret_share)
{
    size_t k = 0;
    while (k + 2 < SHOAL_SCHED_COST_KNOTS && KNOTS[k + 1] <= rows) {
        k++;
    }
    *ret_share = SHOAL_MIN((rows - KNOTS[k]) / (KNOTS[k + 1] - KNOTS[k]), 1.0);
    return k;
}

static double off_at(const shoal_sched_cost *cost, size_t k)
{
    return (cost->off[k] + LINE_STEPS) / (cost->seen[k] + LINE_STEPS);
}

/* us without what the sessions add. */
static void note_off(shoal_sched_cost *cost, double rows, double us)
{
    double predicted = line_us(cost, rows);
    double share = 0.0;
    size_t k = find_knot(rows, &share);
    for (size_t i = 0; i < SHOAL_SCHED_COST_KNOTS; i++) {
        cost->seen[i] *= KEEP;
        cost->off[i] *= KEEP;
    }
    if (predicted <= 0.0) {
        return;
    }
    double off = SHOAL_MIN(SHOAL_MAX(us / predicted, OFF_MIN), OFF_MAX);
    cost->seen[k] += 1.0 - share;
    cost->off[k] += (1.0 - share) * off;
    cost->seen[k + 1] += share;
    cost->off[k + 1] += share * off;
}

static double believed_us(const shoal_sched_cost *cost, double rows, double sessions, double us)
{
    double predicted = line_us(cost, rows) + cost->beside_us * sessions;
    bool known = predicted > 0.0 && rows <= ROWS_KNOWN * cost->rows_most;
    return known ? SHOAL_MIN(us, LATE_MAX * predicted) : us;
}

/* Sums of steps, as in shoal_sched_cost, of times without what the sessions add. */
typedef struct sums {
    double n;
    double rows;
    double rows_rows;
    double us;
    double rows_us;
} sums;

static void add_step(sums *s, double weight, double rows, double time)
{
    s->n += weight / (rows * rows);
    s->rows += weight / rows;
    s->rows_rows += weight;
    s->us += weight * time / (rows * rows);
    s->rows_us += weight * time / rows;
}

static sums without_sessions(const shoal_sched_cost *cost)
{
    return (sums){.n = cost->n,
                  .rows = cost->rows,
                  .rows_rows = cost->rows_rows,
                  .us = cost->us - cost->beside_us * cost->sessions,
                  .rows_us = cost->rows_us - cost->beside_us * cost->rows_sessions};
}

/* What was seen, and what was known, at the speed that was seen. */
static sums with_known(const shoal_sched_cost *cost)
{
    sums s = without_sessions(cost);
    double known_us = cost->known_fixed_us * cost->n + cost->known_row_us * cost->rows;
    if (known_us <= 0.0) {
        return s;
    }
    double speed = s.us / known_us;
    double middle = cost->rows / cost->n;
    for (int i = 0; i < 2; i++) {
        double rows = i == 0 ? middle / 2 : middle * 2;
        double time = speed * (cost->known_fixed_us + cost->known_row_us * rows);
        add_step(&s, KNOWN_STEPS / 2, rows, time);
    }
    return s;
}

/* Determinant of a line's normal equations; 0 where the steps are too alike to tell its parts. */
static double spread_of(double n, double rows, double rows_rows)
{
    double spread = n * rows_rows - rows * rows;
    return spread > SPREAD_MIN * n * rows_rows ? spread : 0.0;
}

/* What sessions add, from what is left of them, and of the time, when rows have explained what they
 * can (Frisch and Waugh, Econometrica 1, 1933). */
static void fit_beside(shoal_sched_cost *cost)
{
    double spread = spread_of(cost->n, cost->rows, cost->rows_rows);
    if (spread <= 0.0) {
        return;
    }
    double at_none = (cost->rows_rows * cost->sessions - cost->rows * cost->rows_sessions) / spread;
    double each = (cost->n * cost->rows_sessions - cost->rows * cost->sessions) / spread;
    double left = cost->sessions_sessions - at_none * cost->sessions - each * cost->rows_sessions;
    if (left <= SPREAD_MIN * cost->sessions_sessions) {
        return;
    }
    double left_us = cost->sessions_us - at_none * cost->us - each * cost->rows_us;
    double beside_us = SHOAL_MAX(left_us / left, 0.0);
    double gain = BESIDE_GAIN * left / (left + BESIDE_SPREAD);
    cost->beside_us += (beside_us - cost->beside_us) * gain;
}

static void add_seen(shoal_sched_cost *cost, double rows, double sessions, double time)
{
    double share = sessions / rows;
    time /= rows;
    cost->rows_most = SHOAL_MAX(cost->rows_most * KEEP, rows);
    cost->n = cost->n * KEEP + 1.0 / (rows * rows);
    cost->rows = cost->rows * KEEP + 1.0 / rows;
    cost->rows_rows = cost->rows_rows * KEEP + 1.0;
    cost->us = cost->us * KEEP + time / rows;
    cost->rows_us = cost->rows_us * KEEP + time;
    cost->sessions = cost->sessions * KEEP + share / rows;
    cost->rows_sessions = cost->rows_sessions * KEEP + share;
    cost->sessions_sessions = cost->sessions_sessions * KEEP + share * share;
    cost->sessions_us = cost->sessions_us * KEEP + share * time;
    fit_beside(cost);
    if (cost->sessions > 0.0) {
        cost->beside_us = SHOAL_MIN(cost->beside_us, cost->us / cost->sessions);
    }
}

static void fit_line(shoal_sched_cost *cost)
{
    const sums s = with_known(cost);
    double spread = spread_of(s.n, s.rows, s.rows_rows);
    if (spread <= 0.0) {
        /* All steps alike: keep how the time was divided, scaled to what they take now. */
        double known = cost->fixed_us * cost->n + cost->row_us * cost->rows;
        if (known > 0.0) {
            cost->fixed_us *= s.us / known;
            cost->row_us *= s.us / known;
        } else {
            /* Rows are taken to be free until some are seen that are not: so they are tried. */
            cost->fixed_us = s.us / cost->n;
        }
        return;
    }
    double row_us = (s.n * s.rows_us - s.rows * s.us) / spread;
    row_us = SHOAL_MIN(SHOAL_MAX(row_us, 0.0), s.us / s.rows);
    cost->row_us = row_us;
    cost->fixed_us = SHOAL_MAX((s.us - row_us * s.rows) / s.n, 0.0);
}

static void observe(shoal_sched_cost *cost, size_t n_rows, size_t n_sessions, double us)
{
    SHOAL_ASSERT(n_rows >= 1 && n_sessions <= n_rows);
    double rows = (double)n_rows;
    double sessions = (double)n_sessions;
    double time = believed_us(cost, rows, sessions, us);
    add_seen(cost, rows, sessions, time);
    fit_line(cost);
    note_off(cost, rows, time - cost->beside_us * sessions);
}

static void forget_steps(shoal_sched_cost *cost)
{
    cost->n = cost->rows = cost->rows_rows = cost->us = cost->rows_us = 0.0;
    cost->sessions = cost->rows_sessions = cost->sessions_sessions = cost->sessions_us = 0.0;
    cost->fixed_us = cost->row_us = cost->beside_us = cost->rows_most = 0.0;
    for (size_t i = 0; i < SHOAL_SCHED_COST_KNOTS; i++) {
        cost->seen[i] = 0.0;
        cost->off[i] = 0.0;
    }
}

void shoal_sched_cost_know(shoal_sched_cost *cost, double fixed_us, double row_us)
{
    SHOAL_ASSERT(fixed_us > 0.0 && row_us >= 0.0);
    cost->known_fixed_us = fixed_us;
    cost->known_row_us = row_us;
    if (cost->n <= 0.0) {
        cost->fixed_us = fixed_us;
        cost->row_us = row_us;
    }
}

void shoal_sched_cost_observe(shoal_sched_cost *cost, size_t n_rows, size_t n_sessions, uint64_t us)
{
    if (cost->cold) {
        forget_steps(cost);
        cost->cold = false;
    }
    observe(cost, n_rows, n_sessions, (double)us);
}

void shoal_sched_cost_observe_cold(shoal_sched_cost *cost, size_t n_rows, size_t n_sessions,
                                   uint64_t us)
{
    if (n_rows >= SHOAL_SCHED_COST_WIDE) {
        shoal_sched_cost_observe(cost, n_rows, n_sessions, us);
    } else if (cost->cold || cost->n <= 0.0) {
        observe(cost, n_rows, n_sessions, (double)us);
        cost->cold = true;
    } else {
        double known_us = shoal_sched_cost_us(cost, n_rows) + cost->beside_us * (double)n_sessions;
        observe(cost, n_rows, n_sessions, SHOAL_MIN((double)us, known_us));
    }
}

static void observe_after(shoal_sched_cost *cost, size_t n_answers, size_t n_logits, uint64_t us)
{
    SHOAL_ASSERT(n_answers >= 1 && n_logits >= n_answers);
    double each = cost->answer_us * (double)n_answers + cost->logit_us * (double)n_logits;
    double time = each > 0.0 ? SHOAL_MIN((double)us, LATE_MAX * each + 1.0) : (double)us;
    double scale = 1.0 / (double)(n_answers + n_logits);
    double answers = (double)n_answers * scale;
    double logits = (double)n_logits * scale;
    time *= scale;
    cost->answers_answers = cost->answers_answers * KEEP + answers * answers;
    cost->answers_logits = cost->answers_logits * KEEP + answers * logits;
    cost->logits_logits = cost->logits_logits * KEEP + logits * logits;
    cost->answers_us = cost->answers_us * KEEP + answers * time;
    cost->logits_us = cost->logits_us * KEEP + logits * time;
    double square = cost->answers_answers * cost->logits_logits;
    double spread = square - cost->answers_logits * cost->answers_logits;
    if (spread <= SPREAD_MIN * square) {
        double known =
            cost->answer_us * cost->answers_answers + cost->logit_us * cost->answers_logits;
        if (known > 0.0) {
            cost->answer_us *= cost->answers_us / known;
            cost->logit_us *= cost->answers_us / known;
        } else {
            cost->answer_us = cost->answers_us / cost->answers_answers;
        }
        return;
    }
    double logit_us =
        (cost->answers_answers * cost->logits_us - cost->answers_logits * cost->answers_us) /
        spread;
    cost->logit_us = SHOAL_MIN(SHOAL_MAX(logit_us, 0.0), cost->logits_us / cost->logits_logits);
    double left_us = cost->answers_us - cost->logit_us * cost->answers_logits;
    cost->answer_us = SHOAL_MAX(left_us / cost->answers_answers, 0.0);
}

void shoal_sched_cost_observe_after(shoal_sched_cost *cost, size_t n_answers, size_t n_logits,
                                    uint64_t us)
{
    if (cost->after_cold) {
        cost->answers_answers = cost->answers_logits = cost->logits_logits = 0.0;
        cost->answers_us = cost->logits_us = cost->answer_us = cost->logit_us = 0.0;
        cost->after_cold = false;
    }
    observe_after(cost, n_answers, n_logits, us);
}

void shoal_sched_cost_observe_after_cold(shoal_sched_cost *cost, size_t n_answers, size_t n_logits,
                                         uint64_t us)
{
    double predicted = cost->answer_us * (double)n_answers + cost->logit_us * (double)n_logits;
    if (cost->after_cold || cost->answers_answers <= 0.0) {
        observe_after(cost, n_answers, n_logits, us);
        cost->after_cold = true;
    } else {
        observe_after(cost, n_answers, n_logits, SHOAL_MIN(us, (uint64_t)predicted));
    }
}

double shoal_sched_cost_us(const shoal_sched_cost *cost, size_t n_rows)
{
    double rows = (double)n_rows;
    double share = 0.0;
    size_t k = find_knot(SHOAL_MAX(rows, 1.0), &share);
    double off = off_at(cost, k) * (1.0 - share) + off_at(cost, k + 1) * share;
    return line_us(cost, rows) * off;
}

double shoal_sched_cost_session_us(const shoal_sched_cost *cost)
{
    return cost->beside_us + cost->answer_us;
}

double shoal_sched_cost_more_us(const shoal_sched_cost *cost, size_t n_rows, size_t n_more)
{
    double us = shoal_sched_cost_us(cost, n_rows + n_more) - shoal_sched_cost_us(cost, n_rows);
    return SHOAL_MAX(us, 0.0);
}

double shoal_sched_cost_draft_us(const shoal_sched_cost *cost, size_t n_sessions)
{
    size_t n_more = SHOAL_MAX(n_sessions, (size_t)ALONE_DRAFTS);
    return shoal_sched_cost_more_us(cost, n_sessions, n_more) / (double)n_more + cost->logit_us;
}

size_t shoal_sched_cost_rows(const shoal_sched_cost *cost, uint64_t us, size_t n_rows_max)
{
    if (us == 0 || cost->row_us <= 0.0) {
        return n_rows_max;
    }
    double rows = SHOAL_MAX((double)us - cost->fixed_us, cost->fixed_us) / cost->row_us;
    if (rows >= (double)n_rows_max) {
        return n_rows_max;
    }
    return SHOAL_MAX((size_t)floor(rows), (size_t)1);
}

double shoal_sched_cost_price(const shoal_sched_cost *cost, size_t n_sessions)
{
    double step_us = shoal_sched_cost_us(cost, n_sessions);
    double token_us =
        step_us / (double)n_sessions + shoal_sched_cost_session_us(cost) + cost->logit_us;
    double draft_us = shoal_sched_cost_draft_us(cost, n_sessions);
    return token_us > 0.0 ? SHOAL_MIN(draft_us / token_us, 1.0) : 0.0;
}
