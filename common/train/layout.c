/* SPDX-License-Identifier: Apache-2.0
 *
 * Which parameters a layer's steps use: names to places in a block.
 */
#include "common/train/net_internal.h"

#include <stdio.h>

typedef struct finder {
    const shoal_params *params;
    size_t layer; /* SIZE_MAX: names stand alone */
} finder;

/* All rows of a parameter; item SIZE_MAX when there is none of the name. */
static shoal_net_part find(const finder *f, const char *suffix)
{
    char name[SHOAL_TRAIN_NAME_MAX];
    if (f->layer == SIZE_MAX) {
        (void)snprintf(name, sizeof name, "%s", suffix);
    } else {
        (void)snprintf(name, sizeof name, "blk.%zu.%s", f->layer, suffix);
    }
    const shoal_param *item = shoal_params_find(f->params, name);
    if (!item) {
        return (shoal_net_part){.item = SIZE_MAX};
    }
    return (shoal_net_part){.item = (size_t)(item - f->params->items),
                            .offset = item->offset,
                            .n_rows = item->n_rows,
                            .n_cols = item->n_cols};
}

static void attention_parts(const finder *f, shoal_net_layer *l)
{
    const shoal_hparams *hp = &f->params->hp;
    size_t q = hp->n_heads * hp->head_dim;
    size_t k = hp->n_kv_heads * hp->head_dim;
    size_t v = hp->n_kv_heads * hp->value_dim;
    l->attn_norm = find(f, "attn_norm.weight");
    shoal_net_latent *a = &l->latent;
    a->q_a = find(f, "attn_q_a.weight");
    a->q_norm = find(f, "attn_q_a_norm.weight");
    a->kv_a = find(f, "attn_kv_a_mqa.weight");
    a->kv_norm = find(f, "attn_kv_a_norm.weight");
    a->kv_b = find(f, "attn_kv_b.weight");
    if (hp->row->flags & SHOAL_ARCH_FUSED) {
        shoal_net_part all = find(f, "attn_qkv.weight");
        l->qkv[0] = shoal_net_rows(&all, 0, q);
        l->qkv[1] = shoal_net_rows(&all, q, k);
        l->qkv[2] = shoal_net_rows(&all, q + k, v);
    } else {
        l->qkv[0] = find(f, hp->mla.q_rank > 0 ? "attn_q_b.weight" : "attn_q.weight");
        l->qkv[1] = find(f, "attn_k.weight");
        l->qkv[2] = find(f, "attn_v.weight");
    }
    l->qkv_bias[0] = find(f, "attn_q.bias");
    l->qkv_bias[1] = find(f, "attn_k.bias");
    l->qkv_bias[2] = find(f, "attn_v.bias");
    l->q_norm = find(f, "attn_q_norm.weight");
    l->k_norm = find(f, "attn_k_norm.weight");
    l->o = find(f, "attn_output.weight");
    l->attn_post = find(f, "post_attention_norm.weight");
}

static void ffn_parts(const finder *f, shoal_net_layer *l)
{
    const shoal_hparams *hp = &f->params->hp;
    l->ffn_norm = find(f, "ffn_norm.weight");
    l->ffn_post = find(f, "post_ffw_norm.weight");
    shoal_net_part up = find(f, "ffn_up.weight");
    bool fused = hp->row->flags & SHOAL_ARCH_FUSED;
    l->dense.gate_up[0] = fused ? shoal_net_rows(&up, 0, hp->ffn) : find(f, "ffn_gate.weight");
    l->dense.gate_up[1] = fused ? shoal_net_rows(&up, hp->ffn, hp->ffn) : up;
    l->dense.down = find(f, "ffn_down.weight");
    shoal_net_experts *e = &l->experts;
    e->router = find(f, "ffn_gate_inp.weight");
    e->bias = find(f, "exp_probs_b.bias");
    e->gate = find(f, "ffn_gate_exps.weight");
    e->up = find(f, "ffn_up_exps.weight");
    e->down = find(f, "ffn_down_exps.weight");
    e->shared_router = find(f, "ffn_gate_inp_shexp.weight");
    e->shared.gate_up[0] = find(f, "ffn_gate_shexp.weight");
    e->shared.gate_up[1] = find(f, "ffn_up_shexp.weight");
    e->shared.down = find(f, "ffn_down_shexp.weight");
}

void shoal_net_layout(shoal_net *net, const shoal_params *params)
{
    const shoal_hparams *hp = &params->hp;
    finder f = {.params = params, .layer = SIZE_MAX};
    net->embed = find(&f, "token_embd.weight");
    net->output = hp->tied ? net->embed : find(&f, "output.weight");
    net->n_heads = params->n_exits + 1;
    for (size_t i = 0; i < params->n_exits; i++) {
        char name[SHOAL_TRAIN_NAME_MAX];
        (void)snprintf(name, sizeof name, "shoal.exit.%zu.norm", params->exits[i]);
        net->heads[i].norm = find(&f, name);
        net->heads[i].depth = params->exits[i];
    }
    net->heads[params->n_exits].norm = find(&f, "output_norm.weight");
    net->heads[params->n_exits].depth = hp->n_layers;
    for (size_t i = 0; i < hp->n_layers; i++) {
        f.layer = i;
        attention_parts(&f, &net->layers[i]);
        ffn_parts(&f, &net->layers[i]);
    }
}
