/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of a net: all of it is taken when the net is made.
 */
#include "common/train/net_internal.h"

#include "common/base/mem.h"

enum {
    LAYER_BLOCKS = 40,
    HEAD_BLOCKS = 5,
    OTHER_BLOCKS = 20
};

static void *take(shoal_net *net, size_t rows, size_t width, size_t size, bool *ok)
{
    size_t bytes = 0;
    void *p = NULL;
    if (*ok && !__builtin_mul_overflow(width, size, &bytes)) {
        p = shoal_calloc_huge(rows, bytes);
    }
    *ok = p != NULL;
    if (p) {
        SHOAL_ASSERT(net->n_memory < net->n_memory_max);
        net->memory[net->n_memory++] = p;
    }
    return p;
}

static float *floats(shoal_net *net, size_t rows, size_t width, bool *ok)
{
    return take(net, rows, width, sizeof(float), ok);
}

static size_t padded(const shoal_net *net)
{
    return (net->n_tokens_max + SHOAL_OPS_PAD - 1) / SHOAL_OPS_PAD * SHOAL_OPS_PAD;
}

static void allocate_gate(shoal_net *net, shoal_net_gate *g, size_t rows, bool *ok)
{
    g->hidden = floats(net, rows, 2 * g->down.n_cols, ok);
    g->act = floats(net, rows, g->down.n_cols, ok);
}

static void allocate_experts(shoal_net *net, shoal_net_experts *e, bool *ok)
{
    const shoal_moe *moe = &net->hp.moe;
    size_t n = net->n_tokens_max;
    size_t visits = n * moe->n_used;
    e->probability = floats(net, n, moe->n_experts, ok);
    e->weights = floats(net, n, moe->n_used, ok);
    e->picked = take(net, n, moe->n_used, sizeof *e->picked, ok);
    e->visitors = take(net, n, moe->n_used, sizeof *e->visitors, ok);
    e->start = take(net, moe->n_experts + 1, 1, sizeof *e->start, ok);
    e->x = floats(net, visits, net->hp.dim, ok);
    e->hidden = floats(net, visits, 2 * moe->ffn, ok);
    e->act = floats(net, visits, moe->ffn, ok);
    e->out = floats(net, visits, net->hp.dim, ok);
    if (shoal_net_has(&e->shared.down)) {
        allocate_gate(net, &e->shared, n, ok);
    }
    if (shoal_net_has(&e->shared_router)) {
        e->shared_out = floats(net, n, net->hp.dim, ok);
        e->shared_weight = floats(net, n, 1, ok);
    }
}

static void allocate_latent(shoal_net *net, shoal_net_latent *a, bool *ok)
{
    const shoal_hparams *hp = &net->hp;
    size_t n = net->n_tokens_max;
    if (hp->mla.q_rank > 0) {
        a->q_low = floats(net, n, hp->mla.q_rank, ok);
        a->q_low_h = floats(net, n, hp->mla.q_rank, ok);
        a->q_low_r = floats(net, n, 1, ok);
    }
    a->kv = floats(net, n, hp->mla.rank + hp->rope_dim, ok);
    a->c = floats(net, n, hp->mla.rank, ok);
    a->c_r = floats(net, n, 1, ok);
}

static void allocate_layer(shoal_net *net, shoal_net_layer *l, bool *ok)
{
    const shoal_hparams *hp = &net->hp;
    size_t n = net->n_tokens_max;
    size_t q = hp->n_heads * hp->head_dim;
    size_t k = hp->n_kv_heads * hp->head_dim;
    l->h = floats(net, n, hp->dim, ok);
    l->h_r = floats(net, n, 1, ok);
    l->qkv_data = floats(net, n, q + k + hp->n_kv_heads * hp->value_dim, ok);
    if (shoal_net_has(&l->q_norm)) {
        l->q_raw = floats(net, n, q, ok);
        l->k_raw = floats(net, n, k, ok);
        l->q_r = floats(net, n, hp->n_heads, ok);
        l->k_r = floats(net, n, hp->n_kv_heads, ok);
    }
    if (hp->mla.rank > 0) {
        allocate_latent(net, &l->latent, ok);
    }
    l->log_sums = floats(net, n, hp->n_heads, ok);
    l->att = floats(net, n, hp->n_heads * hp->value_dim, ok);
    if (shoal_net_has(&l->attn_post)) {
        l->attn_out = floats(net, n, hp->dim, ok);
        l->attn_out_r = floats(net, n, 1, ok);
    }
    l->mid = floats(net, n, hp->dim, ok);
    l->ffn_h = floats(net, n, hp->dim, ok);
    l->ffn_h_r = floats(net, n, 1, ok);
    if (shoal_net_has(&l->experts.router)) {
        allocate_experts(net, &l->experts, ok);
    } else {
        allocate_gate(net, &l->dense, n, ok);
    }
    if (shoal_net_has(&l->ffn_post)) {
        l->ffn_out = floats(net, n, hp->dim, ok);
        l->ffn_out_r = floats(net, n, 1, ok);
    }
    l->out = floats(net, n, hp->dim, ok);
}

static void allocate_heads(shoal_net *net, bool *ok)
{
    const shoal_hparams *hp = &net->hp;
    for (size_t i = 0; i < net->n_heads; i++) {
        shoal_net_head *head = &net->heads[i];
        head->x = floats(net, net->n_targets_max, hp->dim, ok);
        head->h = floats(net, net->n_targets_max, hp->dim, ok);
        head->h_r = floats(net, net->n_targets_max, 1, ok);
        head->logits = floats(net, net->n_targets_max, hp->n_vocab, ok);
        if (hp->final_softcap > 0) {
            head->capped = floats(net, net->n_targets_max, hp->n_vocab, ok);
        }
    }
}

static void allocate_scratch(shoal_net *net, const shoal_params *params, bool *ok)
{
    const shoal_hparams *hp = &net->hp;
    size_t n = net->n_tokens_max;
    size_t att = hp->n_heads * hp->value_dim;
    net->embedded = floats(net, n, hp->dim, ok);
    for (size_t r = 0; r < SHOAL_COUNT(net->cos); r++) {
        if (params->rope[r].freq) {
            net->cos[r] = floats(net, n, hp->rope_dim / 2, ok);
            net->sin[r] = floats(net, n, hp->rope_dim / 2, ok);
            net->sin_back[r] = floats(net, n, hp->rope_dim / 2, ok);
        }
    }
    net->dx = floats(net, n, hp->dim, ok);
    net->dx_targets = floats(net, net->n_targets_max, hp->dim, ok);
    net->dh = floats(net, SHOAL_MAX(n, net->n_targets_max), hp->dim, ok);
    net->gathered = floats(net, net->n_targets_max, hp->dim, ok);
    net->row = floats(net, 1, hp->dim, ok);
    size_t ffn = SHOAL_MAX(hp->ffn, SHOAL_MAX(hp->moe.ffn, hp->moe.ffn_shared));
    net->d_wide = floats(net, n, SHOAL_MAX(hp->dim, SHOAL_MAX(ffn, att)), ok);
    if (hp->moe.n_experts > 0) {
        net->d_expert = floats(net, n, hp->dim, ok);
        net->d_scores_e = floats(net, n, hp->moe.n_experts, ok);
    }
    net->d_qkv = floats(
        net, n, hp->n_heads * hp->head_dim + hp->n_kv_heads * (hp->head_dim + hp->value_dim), ok);
    if (hp->mla.rank > 0) {
        net->per_head = floats(net, n, hp->n_heads * (hp->mla.plain + hp->value_dim), ok);
        net->d_latent = floats(net, n, SHOAL_MAX(hp->mla.q_rank, hp->mla.rank + hp->rope_dim), ok);
    }
    net->k_turned = floats(net, hp->head_dim, padded(net), ok);
    net->v_turned = floats(net, hp->value_dim, padded(net), ok);
    net->scores = floats(net, SHOAL_NET_BLOCK, padded(net), ok);
    net->d_scores = floats(net, SHOAL_NET_BLOCK, padded(net), ok);
}

shoal_status shoal_net_allocate(shoal_net *net, const shoal_params *params)
{
    size_t n_layers = net->hp.n_layers;
    net->n_memory_max =
        n_layers * LAYER_BLOCKS + (params->n_exits + 1) * HEAD_BLOCKS + OTHER_BLOCKS;
    net->memory = shoal_calloc(net->n_memory_max, sizeof *net->memory);
    net->layers = shoal_calloc(n_layers, sizeof *net->layers);
    if (!net->memory || !net->layers) {
        return SHOAL_E_NOMEM;
    }
    shoal_net_layout(net, params);
    bool ok = true;
    for (size_t i = 0; i < n_layers; i++) {
        allocate_layer(net, &net->layers[i], &ok);
    }
    allocate_heads(net, &ok);
    allocate_scratch(net, params, &ok);
    return ok ? SHOAL_OK : SHOAL_E_NOMEM;
}

void shoal_net_release(shoal_net *net)
{
    for (size_t i = 0; i < net->n_memory; i++) {
        shoal_free(net->memory[i]);
    }
    shoal_free(net->memory);
    shoal_free(net->layers);
}
