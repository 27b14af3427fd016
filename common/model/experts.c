/* SPDX-License-Identifier: Apache-2.0
 *
 * A mixture of experts (Shazeer et al., 1701.06538; DeepSeek, 2401.06066): a router scores the
 * experts for each row, the row visits the best few and sums their outputs by weight. Rows of one
 * expert are gathered and multiplied together, so its weights are read once.
 *
 * A row's result does not depend on its batch-mates (R2): scores are sums in a stated order, ties
 * go to the lower id, and a row's sum starts from the shared expert (or zero) and takes its own
 * experts by ascending id.
 */
#include "common/model/experts.h"

#include "common/model/forward_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

shoal_status shoal_experts_init(shoal_forward *f)
{
    const shoal_moe *moe = &f->model->hp.moe;
    size_t rows = f->shape.n_rows_max;
    size_t dim = f->model->hp.dim;
    shoal_routing *r = &f->routing;
    if (moe->n_experts == 0) {
        return SHOAL_OK;
    }
    r->scores = shoal_calloc_aligned(rows * moe->n_experts, sizeof *r->scores);
    r->picked = shoal_calloc(rows * moe->n_used, sizeof *r->picked);
    r->weights = shoal_calloc(rows * moe->n_used, sizeof *r->weights);
    r->start = shoal_calloc(moe->n_experts + 1, sizeof *r->start);
    r->visitors = shoal_calloc(rows * moe->n_used, sizeof *r->visitors);
    r->gathered = shoal_calloc_aligned(rows * dim, sizeof *r->gathered);
    r->out = shoal_calloc_aligned(rows * dim, sizeof *r->out);
    r->sum = shoal_calloc_aligned(rows * dim, sizeof *r->sum);
    bool ok = r->scores && r->picked && r->weights && r->start && r->visitors && r->gathered &&
              r->out && r->sum;
    return ok ? SHOAL_OK : SHOAL_E_NOMEM;
}

void shoal_experts_fini(shoal_forward *f)
{
    shoal_routing *r = &f->routing;
    void *all[] = {r->scores,   r->picked,   r->weights, r->start,
                   r->visitors, r->gathered, r->out,     r->sum};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        shoal_free(all[i]);
    }
}

/* --- routing --------------------------------------------------------------------------------- */

static float sigmoid(float x)
{
    return 1.0F / (1.0F + shoal_expf(-x));
}

/* Scores to probabilities, in place; sums go by ascending id. */
static void score_to_probability(const shoal_moe *moe, float *scores)
{
    if (moe->sigmoid) {
        for (size_t e = 0; e < moe->n_experts; e++) {
            scores[e] = sigmoid(scores[e]);
        }
        return;
    }
    float max = scores[0];
    float sum = 0;
    for (size_t e = 1; e < moe->n_experts; e++) {
        max = scores[e] > max ? scores[e] : max;
    }
    for (size_t e = 0; e < moe->n_experts; e++) {
        scores[e] = shoal_expf(scores[e] - max);
        sum = sum + scores[e];
    }
    for (size_t e = 0; e < moe->n_experts; e++) {
        scores[e] = scores[e] / sum;
    }
}

/* The best of x among those not taken, and marks it taken; ties go to the lower index, and what is
 * not a number wins over nothing but itself. */
static size_t take_best(const float *x, bool *taken, size_t n)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        if (!taken[i] && (best == n || x[i] > x[best] || (isnan(x[best]) && !isnan(x[i])))) {
            best = i;
        }
    }
    SHOAL_ASSERT(best < n);
    taken[best] = true;
    return best;
}

/* A group is worth the sum of its two best (sigmoid scores) or its best (softmax). */
static float group_worth(const shoal_moe *moe, const float *scores, size_t group)
{
    size_t n = moe->n_experts / moe->n_groups;
    const float *x = scores + group * n;
    float first = -INFINITY;
    float second = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        /* NOLINTNEXTLINE(clang-analyzer-core.*): there are n_groups * n of them */
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return moe->sigmoid && n > 1 ? first + second : first;
}

/* Marks as taken the experts of all groups but the best n_groups_used. */
static void leave_groups(const shoal_moe *moe, const float *scores, bool *taken)
{
    float worth[SHOAL_MODEL_EXPERTS_MAX];
    bool in[SHOAL_MODEL_EXPERTS_MAX] = {false};
    size_t n = moe->n_experts / moe->n_groups;
    for (size_t g = 0; g < moe->n_groups; g++) {
        worth[g] = group_worth(moe, scores, g);
    }
    for (size_t i = 0; i < moe->n_groups_used; i++) {
        (void)take_best(worth, in, moe->n_groups);
    }
    for (size_t e = 0; e < moe->n_experts; e++) {
        taken[e] = !in[e / n];
    }
}

void shoal_experts_route(const shoal_moe *moe, const float *bias, float *scores, uint16_t *picked,
                         float *weights)
{
    float choice[SHOAL_MODEL_EXPERTS_MAX];
    bool left[SHOAL_MODEL_EXPERTS_MAX] = {false};
    bool chosen[SHOAL_MODEL_EXPERTS_MAX] = {false};
    score_to_probability(moe, scores);
    for (size_t e = 0; e < moe->n_experts; e++) {
        choice[e] = bias ? scores[e] + bias[e] : scores[e];
    }
    if (moe->n_groups > 1) {
        leave_groups(moe, choice, left);
    }
    for (size_t i = 0; i < moe->n_used; i++) {
        chosen[take_best(choice, left, moe->n_experts)] = true;
    }
    size_t n = 0;
    float sum = 0;
    for (size_t e = 0; e < moe->n_experts; e++) {
        if (chosen[e]) {
            picked[n] = (uint16_t)e;
            weights[n++] = scores[e];
            sum = sum + scores[e];
        }
    }
    for (size_t i = 0; i < n; i++) {
        float weight = moe->norm_weights ? weights[i] / (sum + 1e-20F) : weights[i];
        weights[i] = weight * moe->scale;
    }
}

static void route_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_moe *moe = &f->model->hp.moe;
    shoal_experts_route(
        moe, f->model->layers[f->layer].experts.bias, f->routing.scores + row * moe->n_experts,
        f->routing.picked + row * moe->n_used, f->routing.weights + row * moe->n_used);
}

/* Entries of picked by expert: a counting sort, which keeps rows in order. */
static void group_visitors(shoal_forward *f)
{
    const shoal_moe *moe = &f->model->hp.moe;
    shoal_routing *r = &f->routing;
    size_t n = f->n_rows * moe->n_used;
    memset(r->start, 0, (moe->n_experts + 1) * sizeof *r->start);
    for (size_t i = 0; i < n; i++) {
        r->start[r->picked[i] + 1]++;
    }
    for (size_t e = 0; e < moe->n_experts; e++) {
        r->start[e + 1] += r->start[e];
    }
    for (size_t i = 0; i < n; i++) {
        r->visitors[r->start[r->picked[i]]++] = (uint32_t)i;
    }
    /* start[e] has become the end of e, which is the start of e + 1. */
    memmove(r->start + 1, r->start, moe->n_experts * sizeof *r->start);
    r->start[0] = 0;
}

/* --- products -------------------------------------------------------------------------------- */

static void gather_row(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t dim = f->model->hp.dim;
    size_t row = f->routing.now[i] / f->model->hp.moe.n_used;
    memcpy(f->routing.gathered + i * dim, f->h + row * dim, dim * sizeof *f->h);
}

static void add_expert_row(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t dim = f->model->hp.dim;
    size_t entry = f->routing.now[i];
    size_t row = entry / f->model->hp.moe.n_used;
    f->kernels->add_scaled(dim, f->routing.weights[entry], f->routing.out + i * dim,
                           f->routing.sum + row * dim);
}

/* The shared expert's part, weighed by the sigmoid of a dot in the order of a reduction of sixteen
 * lanes where there is one: lane j takes channels j, j + 16, ... and lanes add up in order. */
static void weigh_shared_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t dim = f->model->hp.dim;
    const float *router = f->model->layers[f->layer].experts.shared_router;
    const float *h = f->h + row * dim;
    float *sum = f->routing.sum + row * dim;
    float lanes[16] = {0};
    float dot = 0;
    for (size_t i = 0; i < dim; i++) {
        lanes[i % 16] = fmaf(router[i], h[i], lanes[i % 16]);
    }
    for (size_t j = 0; j < 16; j++) {
        dot = dot + lanes[j];
    }
    float weight = sigmoid(dot);
    for (size_t i = 0; i < dim; i++) {
        sum[i] = sum[i] * weight;
    }
}

static void shared_expert(shoal_forward *f, const shoal_experts *e)
{
    if (!e->shared_gate) {
        memset(f->routing.sum, 0, f->n_rows * f->model->hp.dim * sizeof *f->routing.sum);
        return;
    }
    shoal_forward_gated(f, f->n_rows, e->shared_gate, e->shared_up, e->shared_down, f->routing.sum);
    if (e->shared_router) {
        shoal_forward_each(f, f->n_rows, weigh_shared_row);
    }
}

void shoal_experts_block(shoal_forward *f)
{
    const shoal_moe *moe = &f->model->hp.moe;
    const shoal_experts *e = &f->model->layers[f->layer].experts;
    shoal_routing *r = &f->routing;
    size_t dim = f->model->hp.dim;

    /* Every row's experts; sum = the shared expert's output, which still reads h as a whole. */
    shoal_forward_matmul(f, e->router, r->scores);
    shoal_forward_each(f, f->n_rows, route_row);
    group_visitors(f);
    shared_expert(f, e);

    /* sum += weight * expert(h), expert by expert */
    for (size_t i = 0; i < moe->n_experts; i++) {
        size_t n = r->start[i + 1] - r->start[i];
        if (n == 0) {
            continue;
        }
        r->now = r->visitors + r->start[i];
        shoal_forward_each(f, n, gather_row);
        shoal_acts_set(f->acts, r->gathered, n, dim, dim);
        shoal_forward_gated(f, n, e->gate[i], e->up[i], e->down[i], r->out);
        shoal_forward_each(f, n, add_expert_row);
    }
    float *spare = f->h;
    f->h = r->sum;
    r->sum = spare;
}
