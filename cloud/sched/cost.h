/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine step costs: time = fixed + row * rows + beside * sessions, fitted to the steps
 * that were run by least squares with exponential forgetting, so it follows a machine that gets
 * busy or hot. A step weighs the less the more rows it has, so that it is the relative error that
 * is least: were all alike, the steps of a long prompt would say for hundreds of steps what the
 * second row of a short one costs. One that takes many times what was predicted was held up by
 * something else, and counts in part: where steps do have become slower, a few of them say so. The
 * fixed part is what all rows share (reading the weights, mostly), the second what each row adds.
 * While all steps had the same number of rows the two cannot be told apart and all is fixed. The
 * third is what a session's answer takes from the step that runs meanwhile, since its messages are
 * other threads' and these want the same processors. Were it taken for the row's, a draft, which
 * sends no message of its own, would be as dear as a token. Only steps whose rows are not one for
 * each session tell the two apart, those with drafts and those with prompts; where there are none
 * it stays as it was seen last. Steps do not lie on the line: while memory is what they wait for a
 * few rows more are nearly free, and beyond they are dear. So it is kept for some numbers of rows,
 * the knots, how far steps with about as many lie off it; between two of them that is a straight
 * line, and where nothing was seen lately steps are taken to lie on it. Steps of about as many
 * rows, which scatter, say next to nothing of what a row costs: the slope of a line through them is
 * noise. So what a row is known to cost from steps that were timed on purpose, scaled to what steps
 * take now, counts as much as a few of them (ridge regression towards a known line; Hoerl and
 * Kennard, Technometrics 12, 1970): where the rows differ, what is seen outweighs it. What follows
 * the step is apart: for each row with logits a sample of a large vocabulary, for each session an
 * answer that costs the same whatever is in it. It is fitted alike, but for a fixed part; while
 * each session has one row all is the answer's, and a draft is taken to be free until there was
 * one. Pure: the same observations give the same model. Caller's memory, one thread.
 */
#ifndef SHOAL_CLOUD_SCHED_COST_H
#define SHOAL_CLOUD_SCHED_COST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_SCHED_COST_KNOTS = 18,
    SHOAL_SCHED_COST_WIDE = 32 /* rows beside which the cold is nothing */
};

/* A zeroed struct knows nothing: it predicts 0. */
typedef struct shoal_sched_cost {
    double fixed_us;  /* at least 0 */
    double row_us;    /* at least 0 */
    double beside_us; /* during the step, of each session that it has an answer for, at least 0 */
    double logit_us;  /* after the step, of each row with logits, at least 0 */
    double answer_us; /* and of each session with such rows, at least 0 */
    /* Sums over the steps, each weighing 1 / rows^2, and a little less than the one after it. */
    double n;
    double rows;
    double rows_rows;
    double us;
    double rows_us;
    double sessions;
    double rows_sessions;
    double sessions_sessions;
    double sessions_us;
    double rows_most;      /* of a step, fading */
    double known_fixed_us; /* a line known beforehand; both 0: none */
    double known_row_us;
    /* At each knot how often steps were seen, and the sum of time / line of them, both fading. */
    double seen[SHOAL_SCHED_COST_KNOTS];
    double off[SHOAL_SCHED_COST_KNOTS];
    /* What came after them, likewise, weighing 1 / (answers + logits)^2. */
    double answers_answers;
    double answers_logits;
    double logits_logits;
    double answers_us;
    double logits_us;
    bool cold;       /* the sums of steps, and the knots, are of cold steps alone */
    bool after_cold; /* and the others */
} shoal_sched_cost;

/* Steps that were timed before there was work lie on this line; both at least 0, fixed_us more. Of
 * lasting worth is what a row costs in parts of the step: how fast the machine is changes. */
void shoal_sched_cost_know(shoal_sched_cost *cost, double fixed_us, double row_us);
/* A step of n_rows, at least 1, took us; n_sessions of those rows' owners, at most n_rows, get an
 * answer by it. */
void shoal_sched_cost_observe(shoal_sched_cost *cost, size_t n_rows, size_t n_sessions,
                              uint64_t us);
/* The same of a step before which nothing ran for a while: caches and threads were cold, which
 * costs a fixed time whatever the rows. Such steps are mostly wider than those that follow on one
 * another, a prompt or a span against single tokens, so a line through both would take the cold for
 * the price of a row. Of fewer than SHOAL_SCHED_COST_WIDE rows they say what a step takes only
 * until there are others; from then on what is beyond the prediction is left out, and what is left
 * keeps the line from following the first few others at once. */
void shoal_sched_cost_observe_cold(shoal_sched_cost *cost, size_t n_rows, size_t n_sessions,
                                   uint64_t us);
/* What came after a step for n_answers sessions, at least 1, with n_logits rows, at least as many,
 * took us. */
void shoal_sched_cost_observe_after(shoal_sched_cost *cost, size_t n_answers, size_t n_logits,
                                    uint64_t us);
/* The same after a cold step. */
void shoal_sched_cost_observe_after_cold(shoal_sched_cost *cost, size_t n_answers, size_t n_logits,
                                         uint64_t us);
/* Time of a step of n_rows without what its sessions add, us; 0 while nothing is known. */
double shoal_sched_cost_us(const shoal_sched_cost *cost, size_t n_rows);
/* What each session that gets an answer adds, during the step and after it, besides its rows and
 * its logits, us. */
double shoal_sched_cost_session_us(const shoal_sched_cost *cost);
/* The most rows that a step within us runs, at most n_rows_max; but at least 1, and at least as
 * many as cost what the step costs anyway: fewer would buy little time with much work. us 0: no
 * limit. */
size_t shoal_sched_cost_rows(const shoal_sched_cost *cost, uint64_t us, size_t n_rows_max);
/* What n_more rows add to a step of n_rows, us, at least 0. */
double shoal_sched_cost_more_us(const shoal_sched_cost *cost, size_t n_rows, size_t n_more);
/* Of a draft where each of n_sessions, at least 1, runs one row: one each more, or seven in all if
 * that is more, divided by their number, and its logits, us. */
double shoal_sched_cost_draft_us(const shoal_sched_cost *cost, size_t n_sessions);
/* What such a draft costs, in parts of what a token then costs: draft / (step / n_sessions +
 * session + logit). From 0 (drafts are free) to 1 (a draft costs as much as a token). 0 while
 * nothing is known. */
double shoal_sched_cost_price(const shoal_sched_cost *cost, size_t n_sessions);

#endif
