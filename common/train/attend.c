/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention between the projections: for each segment and KV head, scores, softmax and the mean of
 * values, and from its gradient those of q, k and v. Segments are short, so these are small
 * products in strips of rows that see about the same keys: what lies above the diagonal is hardly
 * computed. The backward pass makes the probabilities again from the kept logarithms of their sums
 * (Dao et al., 2205.14135, section 3), a block of rows at a time.
 */
#include "common/train/net_internal.h"

#include <string.h>

/* One KV head of one segment. */
typedef struct run {
    shoal_net *net;
    const shoal_net_layer *l;
    size_t first; /* token of the segment's first key */
    size_t n_keys;
    size_t padded; /* n_keys rounded up: row length of what is transposed, and of scores */
    size_t kv_head;
    size_t row; /* rows [row, row_end) of the layer are the segment's */
    size_t row_end;
    size_t window;
} run;

static size_t pad(size_t n)
{
    return (n + SHOAL_OPS_PAD - 1) / SHOAL_OPS_PAD * SHOAL_OPS_PAD;
}

/* Keys that a row sees are [low_of, high_of). */
static size_t high_of(const run *r, size_t row)
{
    return (r->l->rows ? r->l->rows[row] : row) - r->first + 1;
}

static size_t low_of(const run *r, size_t row)
{
    size_t high = high_of(r, row);
    return r->window > 0 && high > r->window ? high - r->window : 0;
}

/* The layer's rows that lie in segment s; *inout_row is where those of the last segment ended. */
static run run_of(shoal_net *net, const shoal_net_layer *l, size_t s, size_t *inout_row)
{
    const size_t *segments = net->batch->segments;
    run r = {.net = net,
             .l = l,
             .first = segments[s],
             .n_keys = segments[s + 1] - segments[s],
             .window = net->hp.windows[l - net->layers],
             .row = *inout_row};
    r.padded = pad(r.n_keys);
    r.row_end = r.row;
    while (r.row_end < l->n_rows && (l->rows ? l->rows[r.row_end] : r.row_end) < segments[s + 1]) {
        r.row_end++;
    }
    *inout_row = r.row_end;
    return r;
}

/* Raw scores of n rows of a head over the first `end` keys. */
static void score_strip(const run *r, size_t head, size_t row, size_t n, size_t end, float *scores)
{
    const shoal_hparams *hp = &r->net->hp;
    const float *q = r->l->q + row * r->l->q_row + head * hp->head_dim;
    r->net->ops.product(n, end, hp->head_dim, q, r->l->q_row, 1, r->net->k_turned, r->padded, false,
                        scores, r->padded);
    r->net->flops += 2 * (uint64_t)n * end * hp->head_dim;
}

static void attend_strip(const run *r, size_t head, size_t row, size_t n)
{
    shoal_net *net = r->net;
    const shoal_hparams *hp = &net->hp;
    const shoal_net_layer *l = r->l;
    size_t low = low_of(r, row);
    size_t high = high_of(r, row + n - 1);
    size_t width = hp->n_heads * hp->value_dim;
    float *scores = net->scores;
    score_strip(r, head, row, n, pad(high), scores);
    for (size_t i = 0; i < n; i++) {
        l->log_sums[(row + i) * hp->n_heads + head] =
            net->ops.softmax(low_of(r, row + i), high_of(r, row + i), pad(high), hp->attn_scale,
                             hp->attn_softcap, scores + i * r->padded);
    }
    const float *v = l->v + (r->first + low) * l->kv_row + r->kv_head * hp->value_dim;
    net->ops.product(n, hp->value_dim, high - low, scores + low, r->padded, 1, v, l->kv_row, false,
                     l->att + row * width + head * hp->value_dim, width);
    net->flops += 2 * (uint64_t)n * (high - low) * hp->value_dim;
}

static void turn_keys(const run *r)
{
    const shoal_hparams *hp = &r->net->hp;
    const float *k = r->l->k + r->first * r->l->kv_row + r->kv_head * hp->head_dim;
    r->net->ops.transpose(r->n_keys, hp->head_dim, k, r->l->kv_row, r->padded, r->net->k_turned,
                          r->padded);
}

void shoal_net_attend(shoal_net *net, shoal_net_layer *l)
{
    size_t group = net->hp.n_heads / net->hp.n_kv_heads;
    size_t done = 0;
    for (size_t s = 0; s < net->batch->n_segments; s++) {
        run r = run_of(net, l, s, &done);
        for (r.kv_head = 0; r.row < r.row_end && r.kv_head < net->hp.n_kv_heads; r.kv_head++) {
            turn_keys(&r);
            for (size_t i = 0; i < group; i++) {
                size_t n = 0;
                for (size_t row = r.row; row < r.row_end; row += n) {
                    n = SHOAL_MIN((size_t)SHOAL_NET_STRIP, r.row_end - row);
                    attend_strip(&r, r.kv_head * group + i, row, n);
                }
            }
        }
    }
}

/* --- backward -------------------------------------------------------------------------------- */

typedef struct slopes {
    const float *att; /* gradients of l->att; the others have the layout of l's */
    float *q;
    float *k;
    float *v;
} slopes;

/* Probabilities and gradients of raw scores of n rows, in their places of the block, and from
 * these the gradients of q. */
static void attend_strip_back(const run *r, const slopes *d, size_t head, size_t row, size_t n,
                              float *scores, float *d_scores)
{
    shoal_net *net = r->net;
    const shoal_hparams *hp = &net->hp;
    const shoal_net_layer *l = r->l;
    size_t low = low_of(r, row);
    size_t high = high_of(r, row + n - 1);
    size_t width = hp->n_heads * hp->value_dim;
    size_t at = row * width + head * hp->value_dim;
    score_strip(r, head, row, n, pad(high), scores);
    net->ops.product(n, pad(high), hp->value_dim, d->att + at, width, 1, net->v_turned, r->padded,
                     false, d_scores, r->padded);
    for (size_t i = 0; i < n; i++) {
        float dot = net->ops.dot(hp->value_dim, d->att + at + i * width, l->att + at + i * width);
        net->ops.softmax_back(low_of(r, row + i), high_of(r, row + i), pad(high), hp->attn_scale,
                              hp->attn_softcap, l->log_sums[(row + i) * hp->n_heads + head], dot,
                              scores + i * r->padded, d_scores + i * r->padded);
    }
    const float *k = l->k + (r->first + low) * l->kv_row + r->kv_head * hp->head_dim;
    net->ops.product(n, hp->head_dim, high - low, d_scores + low, r->padded, 1, k, l->kv_row, false,
                     d->q + row * l->q_row + head * hp->head_dim, l->q_row);
    net->flops += 2 * (uint64_t)n * (pad(high) * hp->value_dim + (high - low) * hp->head_dim);
}

/* What the rows [row, row_end) of a block give to keys and values: key strip by key strip, from
 * the first row that sees one. */
static void attend_keys_back(const run *r, const slopes *d, size_t head, size_t row, size_t row_end)
{
    shoal_net *net = r->net;
    const shoal_hparams *hp = &net->hp;
    const shoal_net_layer *l = r->l;
    size_t width = hp->n_heads * hp->value_dim;
    size_t high = high_of(r, row_end - 1);
    size_t from = row;
    for (size_t key = 0; key < high; key += SHOAL_NET_STRIP) {
        size_t n = SHOAL_MIN((size_t)SHOAL_NET_STRIP, high - key);
        while (high_of(r, from) <= key) {
            from++;
        }
        size_t at = (from - row) * r->padded + key;
        size_t kv = (r->first + key) * l->kv_row;
        net->ops.product(n, hp->value_dim, row_end - from, net->scores + at, 1, r->padded,
                         d->att + from * width + head * hp->value_dim, width, true,
                         d->v + kv + r->kv_head * hp->value_dim, l->kv_row);
        net->ops.product(n, hp->head_dim, row_end - from, net->d_scores + at, 1, r->padded,
                         l->q + from * l->q_row + head * hp->head_dim, l->q_row, true,
                         d->k + kv + r->kv_head * hp->head_dim, l->kv_row);
        net->flops += 2 * (uint64_t)n * (row_end - from) * (hp->value_dim + hp->head_dim);
    }
}

static void attend_head_back(const run *r, const slopes *d, size_t head)
{
    shoal_net *net = r->net;
    for (size_t row = r->row; row < r->row_end; row += SHOAL_NET_BLOCK) {
        size_t end = SHOAL_MIN(row + SHOAL_NET_BLOCK, r->row_end);
        for (size_t at = row; at < end; at += SHOAL_NET_STRIP) {
            size_t place = (at - row) * r->padded;
            attend_strip_back(r, d, head, at, SHOAL_MIN((size_t)SHOAL_NET_STRIP, end - at),
                              net->scores + place, net->d_scores + place);
        }
        attend_keys_back(r, d, head, row, end);
    }
}

void shoal_net_attend_back(shoal_net *net, const shoal_net_layer *l, const float *d_att, float *dq,
                           float *dk, float *dv)
{
    const shoal_hparams *hp = &net->hp;
    size_t group = hp->n_heads / hp->n_kv_heads;
    size_t done = 0;
    slopes d = {.att = d_att, .q = dq, .k = dk, .v = dv};
    for (size_t i = 0; i < net->batch->n_tokens; i++) {
        memset(dk + i * l->kv_row, 0, hp->n_kv_heads * hp->head_dim * sizeof *dk);
        memset(dv + i * l->kv_row, 0, hp->n_kv_heads * hp->value_dim * sizeof *dv);
    }
    for (size_t s = 0; s < net->batch->n_segments; s++) {
        run r = run_of(net, l, s, &done);
        for (r.kv_head = 0; r.row < r.row_end && r.kv_head < hp->n_kv_heads; r.kv_head++) {
            turn_keys(&r);
            const float *v = l->v + r.first * l->kv_row + r.kv_head * hp->value_dim;
            net->ops.transpose(r.n_keys, hp->value_dim, v, l->kv_row, r.padded, net->v_turned,
                               r.padded);
            for (size_t i = 0; i < group; i++) {
                attend_head_back(&r, &d, r.kv_head * group + i);
            }
        }
    }
}
