/* SPDX-License-Identifier: Apache-2.0
 *
 * The projections of latent attention in the expanded form: every head's keys and values are made
 * of the latent, as the paper states it (2405.04434, section 2.1), so attention itself is that of
 * the others. The form that inference runs is the same function with its products in other order.
 */
#include "common/train/net_internal.h"

#include <string.h>

static size_t kv_width(const shoal_net *net)
{
    return net->hp.mla.rank + net->hp.rope_dim;
}

static size_t head_width(const shoal_net *net)
{
    return net->hp.mla.plain + net->hp.value_dim;
}

/* Keys and values of every head from their products with the latent, and the one rotated key. */
static void expand_row(const shoal_net *net, const float *per_head, const float *rotated, float *k,
                       float *v)
{
    const shoal_hparams *hp = &net->hp;
    size_t plain = hp->mla.plain;
    for (size_t head = 0; head < hp->n_heads; head++) {
        const float *from = per_head + head * head_width(net);
        float *key = k + head * hp->head_dim;
        memcpy(key, from, plain * sizeof *key);
        memcpy(key + plain, rotated, hp->rope_dim * sizeof *key);
        memcpy(v + head * hp->value_dim, from + plain, hp->value_dim * sizeof *v);
    }
}

static void expand_row_back(const shoal_net *net, const float *dk, const float *dv, float *d_head,
                            float *d_rotated)
{
    const shoal_hparams *hp = &net->hp;
    size_t plain = hp->mla.plain;
    memset(d_rotated, 0, hp->rope_dim * sizeof *d_rotated);
    for (size_t head = 0; head < hp->n_heads; head++) {
        const float *key = dk + head * hp->head_dim;
        float *to = d_head + head * head_width(net);
        memcpy(to, key, plain * sizeof *to);
        memcpy(to + plain, dv + head * hp->value_dim, hp->value_dim * sizeof *to);
        net->ops.add(hp->rope_dim, key + plain, d_rotated);
    }
}

/* --- queries --------------------------------------------------------------------------------- */

void shoal_net_latent_query(shoal_net *net, shoal_net_layer *l, const float *h)
{
    shoal_net_latent *a = &l->latent;
    size_t rank = net->hp.mla.q_rank;
    const float *x = h;
    size_t width = net->hp.dim;
    if (rank > 0) {
        shoal_net_linear(net, &a->q_a, 1, l->n_rows, h, width, false, a->q_low, rank);
        for (size_t i = 0; i < l->n_rows; i++) {
            a->q_low_r[i] =
                net->ops.rmsnorm(rank, a->q_low + i * rank, shoal_net_weights(net, &a->q_norm),
                                 net->hp.norm_eps, a->q_low_h + i * rank);
        }
        x = a->q_low_h;
        width = rank;
    }
    shoal_net_linear(net, l->qkv, 1, l->n_rows, x, width, false, l->q, l->q_row);
    shoal_net_rotate(net, l, l->rows, l->n_rows, net->hp.n_heads, l->q_row,
                     l->q + net->hp.mla.plain, false);
}

void shoal_net_latent_query_back(shoal_net *net, shoal_net_layer *l, const float *h, float *dq,
                                 bool add, float *dh)
{
    shoal_net_latent *a = &l->latent;
    size_t rank = net->hp.mla.q_rank;
    size_t dim = net->hp.dim;
    shoal_net_rotate(net, l, l->rows, l->n_rows, net->hp.n_heads, l->q_row, dq + net->hp.mla.plain,
                     true);
    if (rank == 0) {
        shoal_net_linear_back(net, l->qkv, 1, l->n_rows, h, dim, dq, l->q_row, add, dh, dim);
        return;
    }
    float *d_low = net->d_latent;
    shoal_net_linear_back(net, l->qkv, 1, l->n_rows, a->q_low_h, rank, dq, l->q_row, false, d_low,
                          rank);
    for (size_t i = 0; i < l->n_rows; i++) {
        net->ops.rmsnorm_back(rank, a->q_low + i * rank, shoal_net_weights(net, &a->q_norm),
                              a->q_low_r[i], d_low + i * rank, NULL, d_low + i * rank,
                              shoal_net_grads(net, &a->q_norm));
    }
    shoal_net_linear_back(net, &a->q_a, 1, l->n_rows, h, dim, d_low, rank, add, dh, dim);
}

/* --- keys and values ------------------------------------------------------------------------- */

void shoal_net_latent_keys(shoal_net *net, shoal_net_layer *l)
{
    shoal_net_latent *a = &l->latent;
    size_t n = net->batch->n_tokens;
    size_t rank = net->hp.mla.rank;
    size_t width = kv_width(net);
    size_t heads = net->hp.n_heads * head_width(net);
    shoal_net_linear(net, &a->kv_a, 1, n, l->h, net->hp.dim, false, a->kv, width);
    for (size_t i = 0; i < n; i++) {
        a->c_r[i] = net->ops.rmsnorm(rank, a->kv + i * width, shoal_net_weights(net, &a->kv_norm),
                                     net->hp.norm_eps, a->c + i * rank);
    }
    shoal_net_rotate(net, l, NULL, n, 1, width, a->kv + rank, false);
    shoal_net_linear(net, &a->kv_b, 1, n, a->c, rank, false, net->per_head, heads);
    for (size_t i = 0; i < n; i++) {
        expand_row(net, net->per_head + i * heads, a->kv + i * width + rank, l->k + i * l->kv_row,
                   l->v + i * l->kv_row);
    }
}

void shoal_net_latent_keys_back(shoal_net *net, shoal_net_layer *l, const float *dk,
                                const float *dv)
{
    shoal_net_latent *a = &l->latent;
    size_t n = net->batch->n_tokens;
    size_t rank = net->hp.mla.rank;
    size_t width = kv_width(net);
    size_t heads = net->hp.n_heads * head_width(net);
    float *d_kv = net->d_latent;
    for (size_t i = 0; i < n; i++) {
        expand_row_back(net, dk + i * l->kv_row, dv + i * l->kv_row, net->per_head + i * heads,
                        d_kv + i * width + rank);
    }
    shoal_net_rotate(net, l, NULL, n, 1, width, d_kv + rank, true);
    shoal_net_linear_back(net, &a->kv_b, 1, n, a->c, rank, net->per_head, heads, false, d_kv,
                          width);
    for (size_t i = 0; i < n; i++) {
        net->ops.rmsnorm_back(rank, a->kv + i * width, shoal_net_weights(net, &a->kv_norm),
                              a->c_r[i], d_kv + i * width, NULL, d_kv + i * width,
                              shoal_net_grads(net, &a->kv_norm));
    }
    shoal_net_linear_back(net, &a->kv_a, 1, n, l->h, net->hp.dim, d_kv, width, false, net->dh,
                          net->hp.dim);
}
