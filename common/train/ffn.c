/* SPDX-License-Identifier: Apache-2.0
 *
 * The feed-forward block.
 */
#include "common/train/net_internal.h"

#include <string.h>

/* act = act(gate) * up over n rows of [gate | up]. */
static void gate_rows(shoal_net *net, size_t n, size_t width, const float *gate_up, float *act)
{
    bool gelu = net->hp.row->flags & SHOAL_ARCH_GELU;
    for (size_t i = 0; i < n; i++) {
        const float *gate = gate_up + i * 2 * width;
        (gelu ? net->kernels.geglu : net->kernels.swiglu)(width, gate, gate + width,
                                                          act + i * width);
    }
}

static void gate_rows_back(shoal_net *net, size_t n, size_t width, const float *d_act,
                           float *gate_up)
{
    bool gelu = net->hp.row->flags & SHOAL_ARCH_GELU;
    for (size_t i = 0; i < n; i++) {
        float *gate = gate_up + i * 2 * width;
        (gelu ? net->ops.geglu_back : net->ops.swiglu_back)(width, d_act + i * width, gate,
                                                            gate + width);
    }
}

void shoal_net_gated(shoal_net *net, const shoal_net_gate *g, size_t n, const float *x, bool add,
                     float *y)
{
    size_t dim = net->hp.dim;
    size_t width = g->down.n_cols;
    shoal_net_linear(net, g->gate_up, 2, n, x, dim, false, g->hidden, 2 * width);
    gate_rows(net, n, width, g->hidden, g->act);
    shoal_net_linear(net, &g->down, 1, n, g->act, width, add, y, dim);
}

void shoal_net_gated_back(shoal_net *net, const shoal_net_gate *g, size_t n, const float *x,
                          const float *dy, bool add, float *dx)
{
    size_t dim = net->hp.dim;
    size_t width = g->down.n_cols;
    shoal_net_linear_back(net, &g->down, 1, n, g->act, width, dy, dim, false, net->d_wide, width);
    gate_rows_back(net, n, width, net->d_wide, g->hidden);
    shoal_net_linear_back(net, g->gate_up, 2, n, x, dim, g->hidden, 2 * width, add, dx, dim);
}

void shoal_net_ffn(shoal_net *net, shoal_net_layer *l)
{
    size_t dim = net->hp.dim;
    bool post = shoal_net_has(&l->ffn_post);

    /* h = norm(mid); out = mid + Wdown (act(Wgate h) * Wup h), or mid + norm of it */
    shoal_net_norm_rows(net, &l->ffn_norm, l->n_rows, l->mid, l->ffn_h, l->ffn_h_r);
    memcpy(l->out, l->mid, l->n_rows * dim * sizeof *l->out);
    if (shoal_net_has(&l->experts.router)) {
        SHOAL_ASSERT(!post); /* no architecture has both */
        shoal_net_experts_block(net, l, l->out);
        return;
    }
    shoal_net_gated(net, &l->dense, l->n_rows, l->ffn_h, !post, post ? l->ffn_out : l->out);
    if (post) {
        shoal_net_join(net, &l->ffn_post, l->n_rows, l->ffn_out, l->ffn_out_r, l->out);
    }
}

void shoal_net_ffn_back(shoal_net *net, shoal_net_layer *l, float *dx)
{
    const float *d_out = dx;
    if (shoal_net_has(&l->ffn_post)) {
        shoal_net_norm_rows_back(net, &l->ffn_post, l->n_rows, l->ffn_out, l->ffn_out_r, dx, NULL,
                                 net->dh);
        d_out = net->dh;
    }
    if (shoal_net_has(&l->experts.router)) {
        shoal_net_experts_back(net, l, d_out, net->dh);
    } else {
        shoal_net_gated_back(net, &l->dense, l->n_rows, l->ffn_h, d_out, false, net->dh);
    }
    shoal_net_norm_rows_back(net, &l->ffn_norm, l->n_rows, l->mid, l->ffn_h_r, net->dh, dx, dx);
}
