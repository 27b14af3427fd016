/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms and rotations of rows, as blocks and heads use them.
 */
#include "common/train/net_internal.h"

void shoal_net_norm_rows(shoal_net *net, const shoal_net_part *norm, size_t n, const float *x,
                         float *y, float *r)
{
    size_t dim = net->hp.dim;
    const float *w = shoal_net_weights(net, norm);
    for (size_t i = 0; i < n; i++) {
        r[i] = net->ops.rmsnorm(dim, x + i * dim, w, net->hp.norm_eps, y + i * dim);
    }
}

void shoal_net_norm_rows_back(shoal_net *net, const shoal_net_part *norm, size_t n, const float *x,
                              const float *r, const float *dy, const float *to, float *dx)
{
    size_t dim = net->hp.dim;
    const float *w = shoal_net_weights(net, norm);
    float *dw = shoal_net_grads(net, norm);
    for (size_t i = 0; i < n; i++) {
        net->ops.rmsnorm_back(dim, x + i * dim, w, r[i], dy + i * dim, to ? to + i * dim : NULL,
                              dx + i * dim, dw);
    }
}

void shoal_net_join(shoal_net *net, const shoal_net_part *norm, size_t n, const float *h, float *r,
                    float *y)
{
    size_t dim = net->hp.dim;
    const float *w = shoal_net_weights(net, norm);
    for (size_t i = 0; i < n; i++) {
        r[i] = net->ops.rmsnorm(dim, h + i * dim, w, net->hp.norm_eps, net->row);
        net->ops.add(dim, net->row, y + i * dim);
    }
}

/* The gradient of a rotation is the rotation back. */
void shoal_net_rotate(shoal_net *net, const shoal_net_layer *l, const size_t *tokens, size_t n,
                      size_t n_heads, size_t row, float *x, bool back)
{
    const shoal_hparams *hp = &net->hp;
    size_t table = hp->windows[l - net->layers] > 0 && net->cos[1] ? 1 : 0;
    const float *cos = net->cos[table];
    const float *sin = back ? net->sin_back[table] : net->sin[table];
    size_t half = hp->rope_dim / 2;
    bool halves = hp->row->flags & SHOAL_ARCH_ROPE_HALVES;
    for (size_t i = 0; i < n; i++) {
        size_t token = tokens ? tokens[i] : i;
        (halves ? net->ops.rope_halves : net->ops.rope)(n_heads, hp->head_dim, hp->rope_dim,
                                                        cos + token * half, sin + token * half,
                                                        x + i * row);
    }
}
