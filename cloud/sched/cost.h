/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine step costs: time = fixed + row * rows, fitted to the steps that were run by least
 * squares with exponential forgetting, so it follows a machine that gets busy or hot. The fixed
 * part is what all rows share (reading the weights, mostly), the other what each row adds. While
 * all steps had the same number of rows the two cannot be told apart and all is fixed. What
 * follows the step for each row with logits, a sample of a large vocabulary for one, is apart.
 * Pure: the same observations give the same model. Caller's memory, one thread.
 */
#ifndef SHOAL_CLOUD_SCHED_COST_H
#define SHOAL_CLOUD_SCHED_COST_H

#include <stddef.h>
#include <stdint.h>

/* A zeroed struct knows nothing: it predicts 0. */
typedef struct shoal_sched_cost {
    double fixed_us; /* at least 0 */
    double row_us;   /* at least 0 */
    double logit_us; /* after the step, of each row with logits, at least 0 */
    /* Sums over the steps, each weighing a little less than the one after it. */
    double n;
    double rows;
    double rows_rows;
    double us;
    double rows_us;
} shoal_sched_cost;

/* A step of n_rows, at least 1, took us. */
void shoal_sched_cost_observe(shoal_sched_cost *cost, size_t n_rows, uint64_t us);
/* What came after a step for its n_logits, at least 1, took us. */
void shoal_sched_cost_observe_logits(shoal_sched_cost *cost, size_t n_logits, uint64_t us);
/* Time of a step of n_rows, us; 0 while nothing is known. */
double shoal_sched_cost_us(const shoal_sched_cost *cost, size_t n_rows);
/* The most rows that a step within us runs, at most n_rows_max; but at least 1, and at least as
 * many as cost what the step costs anyway: fewer would buy little time with much work. us 0: no
 * limit. */
size_t shoal_sched_cost_rows(const shoal_sched_cost *cost, uint64_t us, size_t n_rows_max);
/* Of a row more with logits, us. */
double shoal_sched_cost_draft_us(const shoal_sched_cost *cost);
/* What one such row more costs, in parts of what a token costs when each of n_sessions, at least 1,
 * runs one: draft / (fixed / n_sessions + draft). From 0 (drafts are free) to 1 (a draft costs as
 * much as a token). 0 while nothing is known. */
double shoal_sched_cost_price(const shoal_sched_cost *cost, size_t n_sessions);

#endif
