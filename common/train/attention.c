/* SPDX-License-Identifier: Apache-2.0
 *
 * The attention block: norm, projections, norms of heads, rotation, attention, projection back
 * into the stream.
 */
#include "common/train/net_internal.h"

#include <string.h>

typedef struct widths {
    size_t q;
    size_t k;
    size_t v;
    size_t att;
} widths;

static widths widths_of(const shoal_hparams *hp)
{
    return (widths){.q = hp->n_heads * hp->head_dim,
                    .k = hp->n_kv_heads * hp->head_dim,
                    .v = hp->n_kv_heads * hp->value_dim,
                    .att = hp->n_heads * hp->value_dim};
}

/* Where q, k and v lie: side by side for each token, or q of the targets and then k and v of all.
 */
static void place(shoal_net *net, shoal_net_layer *l)
{
    widths w = widths_of(&net->hp);
    l->q = l->qkv_data;
    l->q_row = l->rows ? w.q : w.q + w.k + w.v;
    l->kv_row = l->rows ? w.k + w.v : l->q_row;
    l->k = l->q + (l->rows ? l->n_rows * w.q : w.q);
    l->v = l->k + w.k;
}

static void gather(const shoal_net *net, const shoal_net_layer *l, const float *x, float *y)
{
    size_t dim = net->hp.dim;
    for (size_t i = 0; i < l->n_rows; i++) {
        memcpy(y + i * dim, x + l->rows[i] * dim, dim * sizeof *y);
    }
}

/* --- steps of q and k ------------------------------------------------------------------------ */

/* Heads of one kind: what q and k differ in. */
typedef struct heads {
    const shoal_net_part *norm;
    const size_t *rows; /* tokens of the rows; NULL: all */
    size_t n_rows;
    size_t n_heads;
    size_t row;
    float *x;
    float *raw;
    float *r;
} heads;

static heads q_heads(const shoal_net *net, const shoal_net_layer *l, float *x)
{
    return (heads){.norm = &l->q_norm,
                   .rows = l->rows,
                   .n_rows = l->n_rows,
                   .n_heads = net->hp.n_heads,
                   .row = l->q_row,
                   .x = x,
                   .raw = l->q_raw,
                   .r = l->q_r};
}

static heads k_heads(const shoal_net *net, const shoal_net_layer *l, float *x)
{
    return (heads){.norm = &l->k_norm,
                   .n_rows = net->batch->n_tokens,
                   .n_heads = net->hp.n_kv_heads,
                   .row = l->kv_row,
                   .x = x,
                   .raw = l->k_raw,
                   .r = l->k_r};
}

static void norm_heads(shoal_net *net, const heads *h)
{
    size_t width = net->hp.head_dim;
    const float *w = shoal_net_weights(net, h->norm);
    for (size_t i = 0; w && i < h->n_rows * h->n_heads; i++) {
        float *x = h->x + i / h->n_heads * h->row + i % h->n_heads * width;
        memcpy(h->raw + i * width, x, width * sizeof *x);
        h->r[i] = net->ops.rmsnorm(width, x, w, net->hp.norm_eps, x);
    }
}

static void norm_heads_back(shoal_net *net, const heads *h)
{
    size_t width = net->hp.head_dim;
    const float *w = shoal_net_weights(net, h->norm);
    float *dw = shoal_net_grads(net, h->norm);
    for (size_t i = 0; w && i < h->n_rows * h->n_heads; i++) {
        float *dx = h->x + i / h->n_heads * h->row + i % h->n_heads * width;
        net->ops.rmsnorm_back(width, h->raw + i * width, w, h->r[i], dx, NULL, dx, dw);
    }
}

static void rotate(shoal_net *net, const shoal_net_layer *l, const heads *h, bool back)
{
    shoal_net_rotate(net, l, h->rows, h->n_rows, h->n_heads, h->row, h->x, back);
}

static void add_bias(shoal_net *net, const shoal_net_part *bias, size_t n_rows, size_t row,
                     float *x)
{
    const float *b = shoal_net_weights(net, bias);
    for (size_t i = 0; b && i < n_rows; i++) {
        net->ops.add(bias->n_cols, b, x + i * row);
    }
}

static void add_bias_back(shoal_net *net, const shoal_net_part *bias, size_t n_rows, size_t row,
                          const float *dx)
{
    float *db = shoal_net_grads(net, bias);
    for (size_t i = 0; db && i < n_rows; i++) {
        net->ops.add(bias->n_cols, dx + i * row, db);
    }
}

/* --- projections ----------------------------------------------------------------------------- */

/* The rows of h that go on. */
static const float *rows_on(shoal_net *net, const shoal_net_layer *l)
{
    if (!l->rows) {
        return l->h;
    }
    gather(net, l, l->h, net->gathered);
    return net->gathered;
}

static void project(shoal_net *net, shoal_net_layer *l)
{
    size_t n = net->batch->n_tokens;
    size_t dim = net->hp.dim;
    if (l->rows) {
        shoal_net_linear(net, l->qkv, 1, l->n_rows, rows_on(net, l), dim, false, l->q, l->q_row);
        shoal_net_linear(net, l->qkv + 1, 2, n, l->h, dim, false, l->k, l->kv_row);
    } else {
        shoal_net_linear(net, l->qkv, 3, n, l->h, dim, false, l->q, l->q_row);
    }
    add_bias(net, &l->qkv_bias[0], l->n_rows, l->q_row, l->q);
    add_bias(net, &l->qkv_bias[1], n, l->kv_row, l->k);
    add_bias(net, &l->qkv_bias[2], n, l->kv_row, l->v);
    heads q = q_heads(net, l, l->q);
    heads k = k_heads(net, l, l->k);
    norm_heads(net, &q);
    norm_heads(net, &k);
    rotate(net, l, &q, false);
    rotate(net, l, &k, false);
}

/* What rows that go on give to net->dh. */
static void scatter_add(shoal_net *net, const shoal_net_layer *l, const float *dh)
{
    size_t dim = net->hp.dim;
    for (size_t i = 0; i < l->n_rows; i++) {
        net->ops.add(dim, dh + i * dim, net->dh + l->rows[i] * dim);
    }
}

/* From gradients of rotated q, k and of v to net->dh, that of l->h. */
static void project_back(shoal_net *net, shoal_net_layer *l, float *dq, float *dk, float *dv)
{
    size_t n = net->batch->n_tokens;
    size_t dim = net->hp.dim;
    heads q = q_heads(net, l, dq);
    heads k = k_heads(net, l, dk);
    rotate(net, l, &q, true);
    rotate(net, l, &k, true);
    norm_heads_back(net, &q);
    norm_heads_back(net, &k);
    add_bias_back(net, &l->qkv_bias[0], l->n_rows, l->q_row, dq);
    add_bias_back(net, &l->qkv_bias[1], n, l->kv_row, dk);
    add_bias_back(net, &l->qkv_bias[2], n, l->kv_row, dv);
    if (!l->rows) {
        shoal_net_linear_back(net, l->qkv, 3, n, l->h, dim, dq, l->q_row, false, net->dh, dim);
        return;
    }
    shoal_net_linear_back(net, l->qkv + 1, 2, n, l->h, dim, dk, l->kv_row, false, net->dh, dim);
    shoal_net_linear_back(net, l->qkv, 1, l->n_rows, rows_on(net, l), dim, dq, l->q_row, false,
                          net->d_wide, dim);
    scatter_add(net, l, net->d_wide);
}

static void project_latent_back(shoal_net *net, shoal_net_layer *l, float *dq, const float *dk,
                                const float *dv)
{
    shoal_net_latent_keys_back(net, l, dk, dv);
    if (!l->rows) {
        shoal_net_latent_query_back(net, l, l->h, dq, true, net->dh);
        return;
    }
    shoal_net_latent_query_back(net, l, rows_on(net, l), dq, false, net->d_wide);
    scatter_add(net, l, net->d_wide);
}

/* --- the block ------------------------------------------------------------------------------- */

void shoal_net_attention(shoal_net *net, shoal_net_layer *l)
{
    size_t dim = net->hp.dim;
    size_t width = widths_of(&net->hp).att;

    /* h = norm(x); q, k, v = Wq h, Wk h, Wv h; att */
    shoal_net_norm_rows(net, &l->attn_norm, net->batch->n_tokens, l->x, l->h, l->h_r);
    place(net, l);
    if (net->hp.mla.rank > 0) {
        shoal_net_latent_query(net, l, rows_on(net, l));
        shoal_net_latent_keys(net, l);
    } else {
        project(net, l);
    }
    shoal_net_attend(net, l);

    /* mid = x + Wo att, or x + norm(Wo att) */
    if (l->rows) {
        gather(net, l, l->x, l->mid);
    } else {
        memcpy(l->mid, l->x, l->n_rows * dim * sizeof *l->mid);
    }
    if (shoal_net_has(&l->attn_post)) {
        shoal_net_linear(net, &l->o, 1, l->n_rows, l->att, width, false, l->attn_out, dim);
        shoal_net_join(net, &l->attn_post, l->n_rows, l->attn_out, l->attn_out_r, l->mid);
    } else {
        shoal_net_linear(net, &l->o, 1, l->n_rows, l->att, width, true, l->mid, dim);
    }
}

void shoal_net_attention_back(shoal_net *net, shoal_net_layer *l, float *dx)
{
    size_t dim = net->hp.dim;
    size_t n = net->batch->n_tokens;
    size_t width = widths_of(&net->hp).att;
    const float *d_out = dx;
    if (shoal_net_has(&l->attn_post)) {
        shoal_net_norm_rows_back(net, &l->attn_post, l->n_rows, l->attn_out, l->attn_out_r, dx,
                                 NULL, net->dh);
        d_out = net->dh;
    }
    shoal_net_linear_back(net, &l->o, 1, l->n_rows, l->att, width, d_out, dim, false, net->d_wide,
                          width);
    float *dq = net->d_qkv;
    float *dk = net->d_qkv + (l->k - l->q);
    float *dv = net->d_qkv + (l->v - l->q);
    shoal_net_attend_back(net, l, net->d_wide, dq, dk, dv);
    if (net->hp.mla.rank > 0) {
        project_latent_back(net, l, dq, dk, dv);
    } else {
        project_back(net, l, dq, dk, dv);
    }
    if (l->rows) {
        memset(net->dx, 0, n * dim * sizeof *net->dx);
        for (size_t i = 0; i < l->n_rows; i++) {
            memcpy(net->dx + l->rows[i] * dim, dx + i * dim, dim * sizeof *dx);
        }
    }
    shoal_net_norm_rows_back(net, &l->attn_norm, n, l->x, l->h_r, net->dh, net->dx, net->dx);
}
