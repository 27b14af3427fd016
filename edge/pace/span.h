/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a token takes with spans of so many drafts and a window of so many: a cycle from one
 * refused draft to the next, gone through event by event. Pure.
 */
#ifndef SHOAL_EDGE_PACE_SPAN_H
#define SHOAL_EDGE_PACE_SPAN_H

#include "edge/pace/pace.h"

/* A step of the cloud with one row of ours, when the others draft like that, and how long one of
 * theirs still takes on average when something of ours comes. */
typedef struct shoal_pace_step {
    double us;
    double wait_us; /* 0: there is none */
} shoal_pace_step;
shoal_pace_step shoal_pace_span_step(const shoal_pace_world *world, size_t n_draft,
                                     size_t n_window);
/* Microseconds a token, expected. n_draft 1..SHOAL_PACE_DRAFT_MAX, n_window n_draft and up. */
double shoal_pace_span_us(const shoal_pace_world *world, size_t n_draft, size_t n_window);
/* The deepest draft that is worth its row, 0..SHOAL_PACE_DRAFT_MAX: as the cloud's scheduler has
 * it, when all sessions draft alike; from accept and price alone. */
size_t shoal_pace_span_max(const shoal_pace_world *world);
/* The best of all, of at most n_draft_max drafts, at least 1; *ret_us is what a token takes. */
shoal_pace_choice shoal_pace_span_best(const shoal_pace_world *world, size_t n_draft_max,
                                       double *ret_us);

#endif
