/* SPDX-License-Identifier: Apache-2.0 */
#include "common/exit/fit.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct scored {
    float score;
    bool agrees;
} scored;

static int by_score_descending(const void *a, const void *b)
{
    float x = ((const scored *)a)->score;
    float y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

/* The lowest score at which at most `most` rows that score as much or more do not agree. Rows of
 * one score go together. NaN: not even the highest. */
static float lowest_score(scored *rows, size_t n, double most)
{
    qsort(rows, n, sizeof *rows, by_score_descending);
    float lowest = (float)NAN;
    size_t n_wrong = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && rows[end].score == rows[i].score) {
            n_wrong += rows[end].agrees ? 0 : 1;
            end++;
        }
        if ((double)n_wrong > most) {
            break;
        }
        lowest = rows[i].score;
        i = end;
    }
    return lowest;
}

/* A threshold met on these samples. */
static shoal_status fit_threshold(const shoal_exit_samples *s, double risk, shoal_exit_policy *p,
                                  shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) scored *rows = shoal_calloc(s->n, sizeof *rows);
    if (!rows) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to sort %zu rows", s->n);
    }
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        float score = shoal_exit_score(p, &s->rows[i].features);
        if (!isnan(score)) {
            rows[n++] = (scored){score, s->rows[i].agrees};
        }
    }
    float lowest = lowest_score(rows, n, risk * (double)s->n);
    bool entropy = p->kind == SHOAL_EXIT_ENTROPY;
    if (isnan(lowest)) {
        p->threshold = entropy ? SHOAL_EXIT_NEVER_ENTROPY : SHOAL_EXIT_NEVER;
    } else {
        p->threshold = entropy ? -lowest : lowest;
    }
    return SHOAL_OK;
}

static shoal_status fit_percentile(const shoal_exit_samples *s, const shoal_exit_fit *fit,
                                   shoal_exit_policy *p, shoal_err *err)
{
    shoal_exit_policy fixed = {.kind = SHOAL_EXIT_FIXED};
    SHOAL_TRY(fit_threshold(s, fit->risk, &fixed, err));
    p->threshold = fixed.threshold;
    p->rate = (float)(fit->rate >= 0 ? fit->rate : shoal_exit_try(s, &fixed).left);
    p->window = 512;
    return SHOAL_OK;
}

shoal_status shoal_exit_fit_policy(const shoal_exit_samples *samples, const shoal_exit_fit *fit,
                                   shoal_exit_kind kind, shoal_exit_policy *inout_policy,
                                   shoal_err *err)
{
    shoal_exit_policy p = *inout_policy;
    p.kind = kind;
    if (samples->n == 0 || samples->n_groups == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no rows to fit an exit policy to");
    }
    if (kind == SHOAL_EXIT_RISK) {
        p.risk = (float)fit->risk;
        p.delta = (float)fit->delta;
        p.threshold = shoal_exit_fit_risk(samples, fit->risk, fit->delta);
    } else if (kind == SHOAL_EXIT_PERCENTILE) {
        SHOAL_TRY(fit_percentile(samples, fit, &p, err));
    } else {
        if (kind == SHOAL_EXIT_LINEAR && p.bias == 0 && p.w_top == 0 && p.w_gap == 0 &&
            p.w_depth == 0) {
            shoal_exit_fit_logistic(samples, &p);
        }
        SHOAL_TRY(fit_threshold(samples, fit->risk, &p, err));
    }
    SHOAL_TRY(shoal_exit_policy_check(&p, err));
    *inout_policy = p;
    return SHOAL_OK;
}

shoal_exit_outcome shoal_exit_try(const shoal_exit_samples *samples,
                                  const shoal_exit_policy *policy)
{
    shoal_exit_state state;
    shoal_exit_outcome all = {0};
    memset(&state, 0, sizeof state);
    for (size_t i = 0; i < samples->n;) {
        uint32_t group = samples->rows[i].group;
        size_t n = 0;
        double wrong = 0;
        for (; i < samples->n && samples->rows[i].group == group; i++, n++) {
            const shoal_exit_sample *row = &samples->rows[i];
            bool left = shoal_exit_decide(policy, &state, &row->features);
            all.left += left ? 1 : 0;
            wrong += left && !row->agrees ? 1 : 0;
        }
        all.disagreed += wrong;
        all.risk += wrong / (double)n;
    }
    if (samples->n > 0) {
        all.left /= (double)samples->n;
        all.disagreed /= (double)samples->n;
        all.risk /= (double)samples->n_groups;
    }
    return all;
}
