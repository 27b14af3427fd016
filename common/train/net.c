/* SPDX-License-Identifier: Apache-2.0
 *
 * The passes: embedding, layers, heads, and back. Read shoal_net_forward first.
 */
#include "common/train/net_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <string.h>

/* --- life ------------------------------------------------------------------------------------ */

shoal_status shoal_net_new(const shoal_params *params, size_t n_tokens_max, size_t n_targets_max,
                           shoal_net **ret_net)
{
    shoal_net_linear_once();
    SHOAL_CLEANUP(shoal_net_freep) shoal_net *net = shoal_calloc(1, sizeof *net);
    if (!net) {
        return SHOAL_E_NOMEM;
    }
    net->hp = params->hp;
    if (net->hp.mla.rank > 0) {
        net->hp.n_kv_heads = net->hp.n_heads;
    }
    net->n_tokens_max = n_tokens_max;
    net->n_targets_max = n_targets_max;
    shoal_ops_init(&net->ops, UINT32_MAX);
    shoal_kernels_init(&net->kernels, UINT32_MAX);
    SHOAL_TRY(shoal_net_allocate(net, params));
    *ret_net = SHOAL_STEAL(net);
    return SHOAL_OK;
}

void shoal_net_free(shoal_net *net)
{
    if (net) {
        shoal_net_release(net);
        shoal_free(net);
    }
}

void shoal_net_skip(shoal_net *net, const uint64_t *skip)
{
    memset(net->skip, 0, sizeof net->skip);
    if (skip) {
        memcpy(net->skip, skip, (net->hp.n_layers + 63) / 64 * sizeof *skip);
    }
}

void shoal_net_observe(shoal_net *net, shoal_net_observe_fn *fn, void *ctx)
{
    net->observe = fn;
    net->observe_ctx = ctx;
}

uint64_t shoal_net_flops(const shoal_net *net)
{
    return net->flops;
}

/* --- below the layers ------------------------------------------------------------------------ */

static void embed(shoal_net *net)
{
    size_t dim = net->hp.dim;
    float scale = net->hp.embed_scale;
    for (size_t i = 0; i < net->batch->n_tokens; i++) {
        float *x = net->embedded + i * dim;
        SHOAL_ASSERT(net->batch->ids[i] >= 0 && (size_t)net->batch->ids[i] < net->hp.n_vocab);
        memcpy(x, net->weights + net->embed.offset + (size_t)net->batch->ids[i] * dim,
               dim * sizeof *x);
        for (size_t j = 0; scale != 1.0F && j < dim; j++) {
            x[j] *= scale;
        }
    }
}

static void embed_back(shoal_net *net)
{
    size_t dim = net->hp.dim;
    float *grads = shoal_net_grads(net, &net->embed);
    for (size_t i = 0; grads && i < net->batch->n_tokens; i++) {
        net->ops.add_scaled(dim, net->hp.embed_scale, net->dx + i * dim,
                            grads + (size_t)net->batch->ids[i] * dim);
    }
}

/* As rope_table_row of the model's forward pass, and the same turned back. */
static void rope_table_row(shoal_net *net, size_t r, size_t token)
{
    const shoal_rope *rope = &net->params->rope[r];
    size_t n = net->hp.rope_dim / 2;
    for (size_t i = 0; i < n; i++) {
        double sine = 0;
        double cosine = 1;
        shoal_sincosd((double)net->batch->positions[token] * rope->freq[i], &sine, &cosine);
        net->cos[r][token * n + i] = (float)(cosine * rope->magnitude);
        net->sin[r][token * n + i] = (float)(sine * rope->magnitude);
        net->sin_back[r][token * n + i] = -net->sin[r][token * n + i];
    }
}

/* Segments mostly count from 0: what one of them has is copied by the next. */
static void rope_tables(shoal_net *net)
{
    size_t n = net->hp.rope_dim / 2;
    for (size_t i = 0; i < net->batch->n_tokens; i++) {
        int32_t position = net->batch->positions[i];
        size_t from = (size_t)position;
        bool known = position >= 0 && from < i && net->batch->positions[from] == position;
        for (size_t r = 0; r < SHOAL_COUNT(net->cos) && net->cos[r]; r++) {
            if (!known) {
                rope_table_row(net, r, i);
                continue;
            }
            memcpy(net->cos[r] + i * n, net->cos[r] + from * n, n * sizeof(float));
            memcpy(net->sin[r] + i * n, net->sin[r] + from * n, n * sizeof(float));
            memcpy(net->sin_back[r] + i * n, net->sin_back[r] + from * n, n * sizeof(float));
        }
    }
}

/* --- the layers ------------------------------------------------------------------------------ */

static bool skipped(const shoal_net *net, size_t layer)
{
    return net->skip[layer / 64] >> layer % 64 & 1;
}

static bool compact_at(const shoal_net *net, size_t depth)
{
    return net->last != SIZE_MAX && depth > net->last;
}

static void begin(shoal_net *net, const shoal_params *params, const shoal_batch *batch)
{
    SHOAL_ASSERT(batch->n_tokens <= net->n_tokens_max && batch->n_targets <= net->n_targets_max);
    net->params = params;
    net->batch = batch;
    net->weights = params->data;
    net->last = SIZE_MAX;
    for (size_t i = 0; i < net->hp.n_layers; i++) {
        net->last = skipped(net, i) ? net->last : i;
    }
    for (size_t i = 0; i < net->n_heads; i++) {
        net->heads[i].asked = false;
    }
}

void shoal_net_forward(shoal_net *net, const shoal_params *params, const shoal_batch *batch)
{
    begin(net, params, batch);
    embed(net);
    rope_tables(net);
    const float *x = net->embedded;
    for (size_t i = 0; i < net->hp.n_layers; i++) {
        shoal_net_layer *l = &net->layers[i];
        l->x = x;
        if (skipped(net, i)) {
            continue;
        }
        bool compact = i == net->last;
        l->rows = compact ? batch->targets : NULL;
        l->n_rows = compact ? batch->n_targets : batch->n_tokens;
        shoal_net_attention(net, l);
        shoal_net_ffn(net, l);
        x = l->out;
    }
    net->top = x;
}

/* --- heads ----------------------------------------------------------------------------------- */

float *shoal_net_logits(shoal_net *net, size_t head_i)
{
    SHOAL_ASSERT(head_i < net->n_heads && net->batch);
    const shoal_hparams *hp = &net->hp;
    shoal_net_head *head = &net->heads[head_i];
    size_t n = net->batch->n_targets;
    const float *x = head->depth < hp->n_layers ? net->layers[head->depth].x : net->top;
    for (size_t i = 0; i < n; i++) {
        size_t row = compact_at(net, head->depth) ? i : net->batch->targets[i];
        memcpy(head->x + i * hp->dim, x + row * hp->dim, hp->dim * sizeof *x);
    }
    shoal_net_norm_rows(net, &head->norm, n, head->x, head->h, head->h_r);
    shoal_net_linear(net, &net->output, 1, n, head->h, hp->dim, false, head->logits, hp->n_vocab);
    for (size_t i = 0; hp->final_softcap > 0 && i < n; i++) {
        float *logits = head->logits + i * hp->n_vocab;
        net->kernels.softcap(hp->n_vocab, hp->final_softcap, logits);
        memcpy(head->capped + i * hp->n_vocab, logits, hp->n_vocab * sizeof *logits);
    }
    head->asked = true;
    return head->logits;
}

/* Adds to the gradient of the stream at this head: dx_targets above the compact layer, else dx. */
static void logits_back(shoal_net *net, shoal_net_head *head)
{
    const shoal_hparams *hp = &net->hp;
    size_t n = net->batch->n_targets;
    for (size_t i = 0; hp->final_softcap > 0 && i < n; i++) {
        net->ops.softcap_back(hp->n_vocab, hp->final_softcap, head->capped + i * hp->n_vocab,
                              head->logits + i * hp->n_vocab);
    }
    shoal_net_linear_back(net, &net->output, 1, n, head->h, hp->dim, head->logits, hp->n_vocab,
                          false, net->dh, hp->dim);
    shoal_net_norm_rows_back(net, &head->norm, n, head->x, head->h_r, net->dh, NULL, net->dh);
    for (size_t i = 0; i < n; i++) {
        float *dx = compact_at(net, head->depth) ? net->dx_targets + i * hp->dim
                                                 : net->dx + net->batch->targets[i] * hp->dim;
        net->ops.add(hp->dim, net->dh + i * hp->dim, dx);
    }
}

static void heads_back(shoal_net *net, size_t depth)
{
    for (size_t i = 0; i < net->n_heads; i++) {
        if (net->heads[i].depth == depth && net->heads[i].asked) {
            logits_back(net, &net->heads[i]);
        }
    }
}

/* Parameters from here up get gradients: what lies below n layers that are all frozen need not be
 * visited. */
static size_t lowest(const shoal_net *net)
{
    const shoal_param *items = net->params->items;
    size_t layer = 0;
    if (!items[net->embed.item].frozen) {
        return 0;
    }
    for (size_t i = net->layers[0].attn_norm.item; layer < net->hp.n_layers; layer++) {
        size_t end = layer + 1 < net->hp.n_layers ? net->layers[layer + 1].attn_norm.item
                                                  : net->heads[0].norm.item;
        for (; i < end; i++) {
            if (!items[i].frozen) {
                return layer;
            }
        }
    }
    return layer;
}

void shoal_net_backward(shoal_net *net, const shoal_params *params, const shoal_batch *batch,
                        float *grads)
{
    SHOAL_ASSERT(net->params == params && net->batch == batch);
    const shoal_hparams *hp = &net->hp;
    size_t end = lowest(net);
    net->grads = grads;
    memset(net->dx, 0, batch->n_tokens * hp->dim * sizeof *net->dx);
    memset(net->dx_targets, 0, batch->n_targets * hp->dim * sizeof *net->dx_targets);
    heads_back(net, hp->n_layers);
    for (size_t i = hp->n_layers; i > 0; i--) {
        shoal_net_layer *l = &net->layers[i - 1];
        if (!skipped(net, i - 1) && i > end) {
            float *dx = l->rows ? net->dx_targets : net->dx;
            shoal_net_ffn_back(net, l, dx);
            shoal_net_attention_back(net, l, dx);
        }
        heads_back(net, i - 1);
    }
    embed_back(net);
}
