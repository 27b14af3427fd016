/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/sched/cost.h"

#include "common/base/macros.h"

#include <math.h>

/* Weight of a step against the next one: half is forgotten after some 70 steps. */
static const double KEEP = 0.99;
/* Weight of a step in what follows it. */
static const double LOGIT_GAIN = 1.0 / 32;
/* Relative spread of the rows (variance / mean of squares) below which the fixed part cannot be
 * told from the rows'. */
static const double SPREAD_MIN = 1e-3;

void shoal_sched_cost_observe(shoal_sched_cost *cost, size_t n_rows, uint64_t us)
{
    double rows = (double)n_rows;
    double time = (double)us;
    SHOAL_ASSERT(n_rows >= 1);
    cost->n = cost->n * KEEP + 1.0;
    cost->rows = cost->rows * KEEP + rows;
    cost->rows_rows = cost->rows_rows * KEEP + rows * rows;
    cost->us = cost->us * KEEP + time;
    cost->rows_us = cost->rows_us * KEEP + rows * time;
    double spread = cost->n * cost->rows_rows - cost->rows * cost->rows;
    if (spread <= SPREAD_MIN * cost->n * cost->rows_rows) {
        /* All steps alike: keep how the time was divided, scaled to what they take now. */
        double known = cost->fixed_us * cost->n + cost->row_us * cost->rows;
        if (known > 0.0) {
            cost->fixed_us *= cost->us / known;
            cost->row_us *= cost->us / known;
        } else {
            /* Rows are taken to be free until some are seen that are not: so they are tried. */
            cost->fixed_us = cost->us / cost->n;
        }
        return;
    }
    double row_us = (cost->n * cost->rows_us - cost->rows * cost->us) / spread;
    row_us = SHOAL_MIN(SHOAL_MAX(row_us, 0.0), cost->us / cost->rows);
    cost->row_us = row_us;
    cost->fixed_us = SHOAL_MAX((cost->us - row_us * cost->rows) / cost->n, 0.0);
}

void shoal_sched_cost_observe_logits(shoal_sched_cost *cost, size_t n_logits, uint64_t us)
{
    SHOAL_ASSERT(n_logits >= 1);
    double each = (double)us / (double)n_logits;
    cost->logit_us += (each - cost->logit_us) * (cost->logit_us > 0.0 ? LOGIT_GAIN : 1.0);
}

double shoal_sched_cost_draft_us(const shoal_sched_cost *cost)
{
    return cost->row_us + cost->logit_us;
}

double shoal_sched_cost_us(const shoal_sched_cost *cost, size_t n_rows)
{
    return cost->fixed_us + cost->row_us * (double)n_rows;
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
    double draft_us = shoal_sched_cost_draft_us(cost);
    double token_us = cost->fixed_us / (double)n_sessions + draft_us;
    return token_us > 0.0 ? draft_us / token_us : 0.0;
}
