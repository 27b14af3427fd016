/* SPDX-License-Identifier: Apache-2.0
 *
 * A step is a list of jobs that own their outputs: a matrix for Muon, or a piece of a parameter for
 * AdamW. The list depends on the layout alone, and so do the pieces whose squares make the norm:
 * any number of threads gives the same bits.
 */
#include "common/train/optim.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"
#include "common/train/muon.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE = 16384 /* floats of a job of AdamW, and of a part of the norm */
};

#define PI       3.14159265358979323846
#define ADAM_EPS 1e-8F

typedef struct job {
    const shoal_param *param;
    size_t begin; /* floats of the block */
    size_t n;
    size_t n_rows; /* of the matrix; 0: a piece for AdamW */
} job;

struct shoal_optim_plan {
    job *jobs; /* the dearest first: the last thread then waits for little */
    size_t n_jobs;
    double *squares; /* (n_jobs) */
    size_t scratch_floats;
    float **scratch; /* (SHOAL_POOL_THREADS_MAX) of a worker, made when it first runs */
};

/* What the jobs of one step read. */
typedef struct pass {
    shoal_optim *optim;
    shoal_params *params;
    float *grads;
    float clip; /* gradients are multiplied by this */
    float muon_rate;
    float adam_rate;
    float correct1; /* 1 / (1 - beta1^t), the correction of a young mean */
    float correct2;
} pass;

shoal_optim_settings shoal_optim_settings_default(void)
{
    return (shoal_optim_settings){.muon = true,
                                  .muon_rate = 0.02F,
                                  .adam_rate = 3e-3F,
                                  .weight_decay = 0.01F,
                                  .beta1 = 0.9F,
                                  .beta2 = 0.95F,
                                  .momentum = 0.95F,
                                  .clip = 1.0F,
                                  .n_warmup = 50,
                                  .n_steps = 1000,
                                  .final_share = 0.05F};
}

float shoal_optim_schedule(const shoal_optim_settings *settings, uint64_t step)
{
    if (step < settings->n_warmup) {
        return (float)((double)(step + 1) / (double)settings->n_warmup);
    }
    /* The last step, n_steps - 1, gets final_share itself; steps beyond the run stay there. */
    uint64_t span =
        settings->n_steps > settings->n_warmup + 1 ? settings->n_steps - 1 - settings->n_warmup : 0;
    uint64_t at = step - settings->n_warmup;
    if (at >= span) {
        return span == 0 && step < settings->n_steps ? 1.0F : settings->final_share;
    }
    double sine = 0;
    double cosine = 0;
    shoal_sincosd(PI * (double)at / (double)span, &sine, &cosine);
    double floor = (double)settings->final_share;
    return (float)(floor + (1.0 - floor) * 0.5 * (1.0 + cosine));
}

/* --- the plan -------------------------------------------------------------------------------- */

static size_t job_cost(const job *j)
{
    return j->n_rows > 0 ? j->n * SHOAL_MIN(j->n_rows, j->param->n_cols) : j->n;
}

static int dearest_first(const void *a, const void *b)
{
    const job *x = a;
    const job *y = b;
    size_t cost_x = job_cost(x);
    size_t cost_y = job_cost(y);
    if (cost_x != cost_y) {
        return cost_x > cost_y ? -1 : 1;
    }
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static bool is_muon(const shoal_optim_settings *settings, const shoal_param *p)
{
    return settings->muon && p->kind == SHOAL_PARAM_MATRIX;
}

/* Fills jobs where there are any, and says how many there are. */
static size_t list_jobs(const shoal_params *params, const shoal_optim_settings *settings, job *jobs)
{
    size_t n = 0;
    for (size_t i = 0; i < params->n_items; i++) {
        const shoal_param *p = &params->items[i];
        size_t floats = p->n_rows * p->n_cols;
        bool muon = is_muon(settings, p);
        size_t step = muon ? floats / p->n_stacked : (size_t)PIECE;
        for (size_t at = 0; at < floats && !p->frozen; at += step) {
            if (jobs) {
                jobs[n] = (job){.param = p,
                                .begin = p->offset + at,
                                .n = SHOAL_MIN(step, floats - at),
                                .n_rows = muon ? p->n_rows / p->n_stacked : 0};
            }
            n++;
        }
    }
    return n;
}

static shoal_status make_plan(shoal_optim *optim, const shoal_params *params)
{
    shoal_optim_plan *plan = shoal_calloc(1, sizeof *plan);
    optim->plan = plan;
    if (!plan) {
        return SHOAL_E_NOMEM;
    }
    plan->n_jobs = list_jobs(params, &optim->settings, NULL);
    plan->jobs = shoal_calloc(plan->n_jobs, sizeof *plan->jobs);
    plan->squares = shoal_calloc(plan->n_jobs, sizeof *plan->squares);
    plan->scratch = shoal_calloc(SHOAL_POOL_THREADS_MAX, sizeof(float *));
    if (!plan->jobs || !plan->squares || !plan->scratch) {
        return SHOAL_E_NOMEM;
    }
    (void)list_jobs(params, &optim->settings, plan->jobs);
    qsort(plan->jobs, plan->n_jobs, sizeof *plan->jobs, dearest_first);
    for (size_t i = 0; i < plan->n_jobs; i++) {
        const job *j = &plan->jobs[i];
        if (j->n_rows > 0) {
            size_t floats = shoal_muon_scratch_floats(j->n_rows, j->param->n_cols);
            plan->scratch_floats = SHOAL_MAX(plan->scratch_floats, floats);
        }
    }
    return SHOAL_OK;
}

static void free_plan(shoal_optim_plan *plan)
{
    for (size_t i = 0; plan && plan->scratch && i < SHOAL_POOL_THREADS_MAX; i++) {
        shoal_free(plan->scratch[i]);
    }
    if (plan) {
        shoal_free(plan->jobs);
        shoal_free(plan->squares);
        shoal_free((void *)plan->scratch);
    }
    shoal_free(plan);
}

shoal_status shoal_optim_new(const shoal_params *params, const shoal_optim_settings *settings,
                             shoal_optim **ret_optim)
{
    SHOAL_CLEANUP(shoal_optim_freep) shoal_optim *optim = shoal_calloc(1, sizeof *optim);
    if (!optim) {
        return SHOAL_E_NOMEM;
    }
    optim->settings = *settings;
    shoal_muon_begin();
    optim->first = shoal_params_block(params);
    optim->second = shoal_params_block(params);
    if (!optim->first || !optim->second) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(make_plan(optim, params));
    *ret_optim = SHOAL_STEAL(optim);
    return SHOAL_OK;
}

void shoal_optim_free(shoal_optim *optim)
{
    if (!optim) {
        return;
    }
    free_plan(optim->plan);
    shoal_free(optim->first);
    shoal_free(optim->second);
    shoal_free(optim);
}

/* --- the step -------------------------------------------------------------------------------- */

/* Squares of one job's gradients. Four sums in double hide the latency of the additions. */
static void sum_squares(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    const pass *p = ctx;
    const job *j = &p->optim->plan->jobs[part_i];
    const float *g = p->grads + j->begin;
    double sums[4] = {0};
    size_t whole = j->n / 4 * 4;
    for (size_t i = 0; i < whole; i += 4) {
        for (size_t k = 0; k < 4; k++) {
            sums[k] += (double)g[i + k] * (double)g[i + k];
        }
    }
    for (size_t i = whole; i < j->n; i++) {
        sums[0] += (double)g[i] * (double)g[i];
    }
    p->optim->plan->squares[part_i] = sums[0] + sums[1] + (sums[2] + sums[3]);
}

/* Kingma and Ba, 1412.6980, algorithm 1, with the decay of 1711.05101 beside the gradient. */
static void step_adam(const pass *p, const job *j)
{
    const shoal_optim_settings *s = &p->optim->settings;
    float *w = p->params->data + j->begin;
    float *g = p->grads + j->begin;
    float *m = p->optim->first + j->begin;
    float *v = p->optim->second + j->begin;
    float decay = j->param->kind == SHOAL_PARAM_MATRIX ? p->adam_rate * s->weight_decay : 0;
    float keep1 = s->beta1;
    float keep2 = s->beta2;
    float clip = p->clip;
    float rate = p->adam_rate * p->correct1;
    float correct2 = p->correct2;
    for (size_t i = 0; i < j->n; i++) {
        float grad = g[i] * clip;
        float mean = keep1 * m[i] + (1.0F - keep1) * grad;
        float square = keep2 * v[i] + (1.0F - keep2) * grad * grad;
        g[i] = grad;
        m[i] = mean;
        v[i] = square;
        w[i] -= decay * w[i] + rate * mean / (sqrtf(square * correct2) + ADAM_EPS);
    }
}

static void run_job(void *ctx, size_t part_i, size_t worker_i)
{
    const pass *p = ctx;
    const shoal_optim *optim = p->optim;
    const job *j = &optim->plan->jobs[part_i];
    if (j->n_rows == 0) {
        step_adam(p, j);
        return;
    }
    float *g = p->grads + j->begin;
    for (size_t i = 0; i < j->n; i++) {
        g[i] *= p->clip;
    }
    shoal_muon_step(j->n_rows, j->param->n_cols,
                    &(shoal_muon){.rate = p->muon_rate,
                                  .momentum = optim->settings.momentum,
                                  .decay = p->muon_rate * optim->settings.weight_decay},
                    g, optim->first + j->begin, p->params->data + j->begin,
                    optim->plan->scratch[worker_i]);
}

static shoal_status grow_scratch(shoal_optim_plan *plan, size_t n_threads)
{
    for (size_t i = 0; i < n_threads && plan->scratch_floats > 0; i++) {
        if (!plan->scratch[i]) {
            plan->scratch[i] = shoal_calloc_aligned(plan->scratch_floats, sizeof(float));
            if (!plan->scratch[i]) {
                return SHOAL_E_NOMEM;
            }
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_optim_step(shoal_optim *optim, shoal_params *params, float *grads,
                              shoal_pool *pool, double *ret_norm)
{
    const shoal_optim_settings *s = &optim->settings;
    shoal_optim_plan *plan = optim->plan;
    SHOAL_TRY(grow_scratch(plan, shoal_pool_n_threads(pool)));
    pass p = {.optim = optim, .params = params, .grads = grads, .clip = 1.0F};
    shoal_pool_run(pool, sum_squares, &p, plan->n_jobs);
    double squares = 0;
    for (size_t i = 0; i < plan->n_jobs; i++) {
        squares += plan->squares[i];
    }
    double norm = sqrt(squares);
    if (!isfinite(norm)) {
        return SHOAL_E_INVALID;
    }
    if (s->clip > 0 && norm > (double)s->clip) {
        p.clip = (float)((double)s->clip / norm);
    }
    float share = shoal_optim_schedule(s, optim->step);
    double t = (double)(optim->step + 1);
    p.muon_rate = s->muon_rate * share;
    p.adam_rate = s->adam_rate * share;
    p.correct1 = (float)(1.0 / (1.0 - pow((double)s->beta1, t)));
    p.correct2 = (float)(1.0 / (1.0 - pow((double)s->beta2, t)));
    shoal_pool_run(pool, run_job, &p, plan->n_jobs);
    optim->step++;
    *ret_norm = norm;
    return SHOAL_OK;
}
