/* SPDX-License-Identifier: Apache-2.0
 *
 * The joint form, W' = Q(S) + L R, by alternating minimisation in the output's norm: values are
 * walked to W - L R and refined, then factors are fitted to W - Q(S) and values refined again, each
 * with H. Refining never raises the error; rounding factors may, so the best state of all is what
 * is given. Two starts: from values alone, as LoftQ does, and from factors of W, as OATS does.
 * Without rank it is the pass "refined", to which it is to be compared: most of what it wins over
 * GPTQ on small layers is won by refining, not by rank.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>

/* How hard it tries. A layer of a large model has one start and few sweeps: minutes. */
typedef struct effort {
    size_t starts;
    size_t walks;  /* of each start */
    size_t rounds; /* of factors behind each walk */
    size_t sweeps_first;
    size_t sweeps;
} effort;

static const effort full = {.starts = 2, .walks = 2, .rounds = 3, .sweeps_first = 20, .sweeps = 5};
static const effort large = {.starts = 1, .walks = 1, .rounds = 2, .sweeps_first = 8, .sweeps = 3};

typedef struct joint {
    const shoal_problem *p;
    shoal_compressed *now;
    shoal_compressed *best;
    double *w;       /* (n_rows, n_cols) */
    double *scratch; /* twice that */
    double best_error;
} joint;

static void judge(joint *j)
{
    double error = shoal_compressed_error_in(j->p, j->now, j->scratch);
    if (error < j->best_error) {
        j->best_error = error;
        shoal_compressed_copy(j->now, j->best);
    }
}

/* j->w = W - L R, which the values are to be; or W - Q(S), which the factors are to be. */
static void rest_of(const joint *j, bool values)
{
    size_t n = j->p->n_rows * j->p->n_cols;
    memcpy(j->w, j->p->w, n * sizeof *j->w);
    if (values) {
        shoal_compressed_expand(j->now, j->scratch);
        for (size_t i = 0; i < n; i++) {
            j->w[i] -= j->scratch[i];
        }
    }
    shoal_factors_add(j->now, values ? 1 : -1, j->w); /* W - W' + L R is W - Q(S) */
}

static shoal_status rounds(joint *j)
{
    const effort *e = shoal_problem_is_large(j->p) ? &large : &full;
    size_t rank = j->now->form.rank;
    for (size_t i = 0; i < (rank ? e->walks : 1); i++) {
        rest_of(j, false);
        SHOAL_TRY(shoal_walk(j->p, j->now, j->w, true));
        SHOAL_TRY(shoal_refine(j->p, j->now, e->sweeps_first));
        judge(j);
        for (size_t r = 0; r < (rank ? e->rounds : 0); r++) {
            rest_of(j, true);
            SHOAL_TRY(shoal_factors_fit(j->p, j->p->h, j->w, j->now));
            SHOAL_TRY(shoal_refine(j->p, j->now, e->sweeps));
            judge(j);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_pass_joint(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    size_t starts = shoal_problem_is_large(p) ? large.starts : full.starts;
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *now = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) double *w = shoal_calloc(3 * n, sizeof *w);
    if (!w) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(shoal_compressed_new(p->n_rows, p->n_cols, &out->form, &now));
    joint j = {
        .p = p, .now = now, .best = out, .w = w, .scratch = w + n, .best_error = (double)INFINITY};
    SHOAL_TRY(rounds(&j)); /* its factors are zero at first */
    if (out->form.rank > 0 && starts > 1) {
        SHOAL_TRY(shoal_factors_fit(p, p->h, p->w, now));
        SHOAL_TRY(rounds(&j));
    }
    return SHOAL_OK;
}
