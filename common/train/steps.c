/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms of rows, as both blocks and the heads use them.
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
