/* SPDX-License-Identifier: Apache-2.0
 *
 * The mixture of experts, as common/model/experts.c has it: the shared expert, then each expert
 * for its visitors. The choice itself has no gradient; the weights of the chosen have.
 */
#include "common/model/experts.h"

#include "common/kernels/math.h"
#include "common/train/net_internal.h"

#include <string.h>

/* --- routes ---------------------------------------------------------------------------------- */

static void route(shoal_net *net, shoal_net_layer *l)
{
    const shoal_moe *moe = &net->hp.moe;
    shoal_net_experts *e = &l->experts;
    shoal_net_linear(net, &e->router, 1, l->n_rows, l->ffn_h, net->hp.dim, false, e->probability,
                     moe->n_experts);
    for (size_t i = 0; i < l->n_rows; i++) {
        shoal_experts_route(moe, shoal_net_weights(net, &e->bias),
                            e->probability + i * moe->n_experts, e->picked + i * moe->n_used,
                            e->weights + i * moe->n_used);
    }

    /* A counting sort of the visits by expert, rows in order. */
    size_t n = l->n_rows * moe->n_used;
    memset(e->start, 0, (moe->n_experts + 1) * sizeof *e->start);
    for (size_t i = 0; i < n; i++) {
        e->start[e->picked[i] + 1]++;
    }
    for (size_t i = 0; i < moe->n_experts; i++) {
        e->start[i + 1] += e->start[i];
    }
    for (size_t i = 0; i < n; i++) {
        e->visitors[e->start[e->picked[i]]++] = (uint32_t)i;
    }
    memmove(e->start + 1, e->start, moe->n_experts * sizeof *e->start);
    e->start[0] = 0;
}

/* From gradients of the weights of one row's experts, in their places of d_scores with zeros
 * between them, to those of all scores. */
static void route_row_back(const shoal_moe *moe, const float *probability, const uint16_t *picked,
                           float *d_scores)
{
    float sum = 1e-20F;
    float along = 0;
    for (size_t i = 0; moe->norm_weights && i < moe->n_used; i++) {
        sum += probability[picked[i]];
    }
    for (size_t i = 0; i < moe->n_used; i++) {
        along += moe->norm_weights ? d_scores[picked[i]] * probability[picked[i]] / sum : 0;
    }
    for (size_t i = 0; i < moe->n_used; i++) {
        float *d = &d_scores[picked[i]];
        *d = (*d - along) * moe->scale / (moe->norm_weights ? sum : 1);
    }
    float dot = 0;
    for (size_t i = 0; !moe->sigmoid && i < moe->n_used; i++) {
        dot += d_scores[picked[i]] * probability[picked[i]];
    }
    for (size_t i = 0; i < moe->n_experts; i++) {
        float p = probability[i];
        d_scores[i] = moe->sigmoid ? d_scores[i] * p * (1 - p) : p * (d_scores[i] - dot);
    }
}

/* --- the experts ----------------------------------------------------------------------------- */

/* One expert with its place among the visitors. */
static shoal_net_gate gate_of(const shoal_net *net, const shoal_net_experts *e, size_t expert)
{
    size_t width = net->hp.moe.ffn;
    size_t at = e->start[expert];
    return (shoal_net_gate){.gate_up = {shoal_net_rows(&e->gate, expert * width, width),
                                        shoal_net_rows(&e->up, expert * width, width)},
                            .down = shoal_net_rows(&e->down, expert * net->hp.dim, net->hp.dim),
                            .hidden = e->hidden + at * 2 * width,
                            .act = e->act + at * width};
}

static void expert(shoal_net *net, shoal_net_layer *l, size_t i, float *y)
{
    shoal_net_experts *e = &l->experts;
    size_t dim = net->hp.dim;
    size_t n = e->start[i + 1] - e->start[i];
    const uint32_t *visitors = e->visitors + e->start[i];
    float *x = e->x + e->start[i] * dim;
    float *out = e->out + e->start[i] * dim;
    shoal_net_gate gate = gate_of(net, e, i);
    for (size_t j = 0; j < n; j++) {
        memcpy(x + j * dim, l->ffn_h + visitors[j] / net->hp.moe.n_used * dim, dim * sizeof *x);
    }
    shoal_net_gated(net, &gate, n, x, false, out);
    for (size_t j = 0; j < n; j++) {
        net->ops.add_scaled(dim, e->weights[visitors[j]], out + j * dim,
                            y + visitors[j] / net->hp.moe.n_used * dim);
    }
}

static void expert_back(shoal_net *net, shoal_net_layer *l, size_t i, const float *dy, float *dx)
{
    shoal_net_experts *e = &l->experts;
    const shoal_moe *moe = &net->hp.moe;
    size_t dim = net->hp.dim;
    size_t n = e->start[i + 1] - e->start[i];
    const uint32_t *visitors = e->visitors + e->start[i];
    const float *out = e->out + e->start[i] * dim;
    shoal_net_gate gate = gate_of(net, e, i);
    memset(net->d_expert, 0, n * dim * sizeof *net->d_expert);
    for (size_t j = 0; j < n; j++) {
        size_t row = visitors[j] / moe->n_used;
        net->d_scores_e[row * moe->n_experts + i] =
            net->ops.dot(dim, dy + row * dim, out + j * dim);
        net->ops.add_scaled(dim, e->weights[visitors[j]], dy + row * dim, net->d_expert + j * dim);
    }
    shoal_net_gated_back(net, &gate, n, e->x + e->start[i] * dim, net->d_expert, false,
                         net->d_expert);
    for (size_t j = 0; j < n; j++) {
        net->ops.add(dim, net->d_expert + j * dim, dx + visitors[j] / moe->n_used * dim);
    }
}

/* --- the shared expert ----------------------------------------------------------------------- */

static void shared(shoal_net *net, shoal_net_layer *l, float *y)
{
    shoal_net_experts *e = &l->experts;
    size_t dim = net->hp.dim;
    const float *router = shoal_net_weights(net, &e->shared_router);
    if (!router) {
        shoal_net_gated(net, &e->shared, l->n_rows, l->ffn_h, true, y);
        return;
    }
    shoal_net_gated(net, &e->shared, l->n_rows, l->ffn_h, false, e->shared_out);
    for (size_t i = 0; i < l->n_rows; i++) {
        float score = net->ops.dot(dim, router, l->ffn_h + i * dim);
        e->shared_weight[i] = 1.0F / (1.0F + shoal_expf(-score));
        net->ops.add_scaled(dim, e->shared_weight[i], e->shared_out + i * dim, y + i * dim);
    }
}

/* dx is set. */
static void shared_back(shoal_net *net, shoal_net_layer *l, const float *dy, float *dx)
{
    shoal_net_experts *e = &l->experts;
    size_t dim = net->hp.dim;
    const float *router = shoal_net_weights(net, &e->shared_router);
    float *d_router = shoal_net_grads(net, &e->shared_router);
    if (!router) {
        shoal_net_gated_back(net, &e->shared, l->n_rows, l->ffn_h, dy, false, dx);
        return;
    }
    memset(net->d_expert, 0, l->n_rows * dim * sizeof *net->d_expert);
    for (size_t i = 0; i < l->n_rows; i++) {
        net->ops.add_scaled(dim, e->shared_weight[i], dy + i * dim, net->d_expert + i * dim);
    }
    shoal_net_gated_back(net, &e->shared, l->n_rows, l->ffn_h, net->d_expert, false, dx);
    for (size_t i = 0; i < l->n_rows; i++) {
        float w = e->shared_weight[i];
        float d = net->ops.dot(dim, dy + i * dim, e->shared_out + i * dim) * w * (1 - w);
        net->ops.add_scaled(dim, d, router, dx + i * dim);
        if (d_router) {
            net->ops.add_scaled(dim, d, l->ffn_h + i * dim, d_router);
        }
    }
}

/* --- the block ------------------------------------------------------------------------------- */

void shoal_net_experts_block(shoal_net *net, shoal_net_layer *l, float *y)
{
    route(net, l);
    if (shoal_net_has(&l->experts.shared.down)) {
        shared(net, l, y);
    }
    for (size_t i = 0; i < net->hp.moe.n_experts; i++) {
        expert(net, l, i, y);
    }
}

void shoal_net_experts_back(shoal_net *net, shoal_net_layer *l, const float *dy, float *dx)
{
    const shoal_moe *moe = &net->hp.moe;
    const shoal_net_experts *e = &l->experts;
    size_t dim = net->hp.dim;
    if (shoal_net_has(&e->shared.down)) {
        shared_back(net, l, dy, dx);
    } else {
        memset(dx, 0, l->n_rows * dim * sizeof *dx);
    }
    memset(net->d_scores_e, 0, l->n_rows * moe->n_experts * sizeof *net->d_scores_e);
    for (size_t i = 0; i < moe->n_experts; i++) {
        expert_back(net, l, i, dy, dx);
    }
    for (size_t i = 0; i < l->n_rows; i++) {
        route_row_back(moe, e->probability + i * moe->n_experts, e->picked + i * moe->n_used,
                       net->d_scores_e + i * moe->n_experts);
    }
    shoal_net_linear_back(net, &e->router, 1, l->n_rows, l->ffn_h, dim, net->d_scores_e,
                          moe->n_experts, true, dx, dim);
}
