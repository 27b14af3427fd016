/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters from a loaded model, whatever its weights are stored as.
 */
#include "common/train/params.h"

#include "common/base/mem.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* --- shapes ---------------------------------------------------------------------------------- */

typedef struct number {
    const char *name;
    size_t ours;
    size_t theirs;
} number;

static shoal_status check_numbers(const number *numbers, size_t n, shoal_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (numbers[i].ours != numbers[i].theirs) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "the model has %s %zu, the parameters %zu: only layers may be "
                                 "left out",
                                 numbers[i].name, numbers[i].theirs, numbers[i].ours);
        }
    }
    return SHOAL_OK;
}

static shoal_status check_shape(const shoal_hparams *a, const shoal_hparams *b, shoal_err *err)
{
    if (a->row != b->row) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the model is of architecture %s, the parameters of %s", b->arch,
                             a->arch);
    }
    if (a->n_layers > b->n_layers) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the model has %zu layers, fewer than the parameters' %zu",
                             b->n_layers, a->n_layers);
    }
    const number numbers[] = {
        {"a vocabulary of", a->n_vocab, b->n_vocab},
        {"width", a->dim, b->dim},
        {"heads", a->n_heads, b->n_heads},
        {"KV heads", a->mla.rank ? 0 : a->n_kv_heads, b->mla.rank ? 0 : b->n_kv_heads},
        {"latent rank", a->mla.rank, b->mla.rank},
        {"query rank", a->mla.q_rank, b->mla.q_rank},
        {"head width", a->head_dim, b->head_dim},
        {"value width", a->value_dim, b->value_dim},
        {"rotated channels", a->rope_dim, b->rope_dim},
        {"feed-forward width", a->ffn, b->ffn},
        {"tied output", a->tied, b->tied},
        {"experts", a->moe.n_experts, b->moe.n_experts},
        {"dense layers", a->moe.n_dense, b->moe.n_dense},
        {"expert width", a->moe.ffn, b->moe.ffn},
        {"shared expert width", a->moe.ffn_shared, b->moe.ffn_shared},
    };
    return check_numbers(numbers, SHOAL_COUNT(numbers), err);
}

/* --- copies ---------------------------------------------------------------------------------- */

/* Rows of n weights, one behind the other. */
static void copy_weights(shoal_weight *const *weights, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t row = 0; row < shoal_weight_n_rows(weights[i]); row++) {
            shoal_weight_row(weights[i], row, to);
            to += shoal_weight_k(weights[i]);
        }
    }
}

/* Where a layer of a model keeps what a suffix names. */
static const struct {
    const char *suffix;
    size_t place; /* in shoal_layer */
    enum {
        VECTOR,
        WEIGHT,
        STACK
    } form;
} places[] = {
    {"attn_norm.weight", offsetof(shoal_layer, attn_norm), VECTOR},
    {"attn_q.weight", offsetof(shoal_layer, q), WEIGHT},
    {"attn_k.weight", offsetof(shoal_layer, k), WEIGHT},
    {"attn_v.weight", offsetof(shoal_layer, v), WEIGHT},
    {"attn_q_a.weight", offsetof(shoal_layer, latent.q_a), WEIGHT},
    {"attn_q_a_norm.weight", offsetof(shoal_layer, latent.q_norm), VECTOR},
    {"attn_q_b.weight", offsetof(shoal_layer, q), WEIGHT},
    {"attn_kv_a_mqa.weight", offsetof(shoal_layer, latent.kv_a), WEIGHT},
    {"attn_kv_a_norm.weight", offsetof(shoal_layer, latent.kv_norm), VECTOR},
    {"exp_probs_b.bias", offsetof(shoal_layer, experts.bias), VECTOR},
    {"attn_q.bias", offsetof(shoal_layer, q_bias), VECTOR},
    {"attn_k.bias", offsetof(shoal_layer, k_bias), VECTOR},
    {"attn_v.bias", offsetof(shoal_layer, v_bias), VECTOR},
    {"attn_q_norm.weight", offsetof(shoal_layer, q_norm), VECTOR},
    {"attn_k_norm.weight", offsetof(shoal_layer, k_norm), VECTOR},
    {"attn_output.weight", offsetof(shoal_layer, o), WEIGHT},
    {"post_attention_norm.weight", offsetof(shoal_layer, attn_post), VECTOR},
    {"ffn_norm.weight", offsetof(shoal_layer, ffn_norm), VECTOR},
    {"ffn_gate.weight", offsetof(shoal_layer, gate), WEIGHT},
    {"ffn_up.weight", offsetof(shoal_layer, up), WEIGHT},
    {"ffn_down.weight", offsetof(shoal_layer, down), WEIGHT},
    {"post_ffw_norm.weight", offsetof(shoal_layer, ffn_post), VECTOR},
    {"ffn_gate_inp.weight", offsetof(shoal_layer, experts.router), WEIGHT},
    {"ffn_gate_exps.weight", offsetof(shoal_layer, experts.gate), STACK},
    {"ffn_up_exps.weight", offsetof(shoal_layer, experts.up), STACK},
    {"ffn_down_exps.weight", offsetof(shoal_layer, experts.down), STACK},
    {"ffn_gate_inp_shexp.weight", offsetof(shoal_layer, experts.shared_router), VECTOR},
    {"ffn_gate_shexp.weight", offsetof(shoal_layer, experts.shared_gate), WEIGHT},
    {"ffn_up_shexp.weight", offsetof(shoal_layer, experts.shared_up), WEIGHT},
    {"ffn_down_shexp.weight", offsetof(shoal_layer, experts.shared_down), WEIGHT},
};

/* Keys' and values' rows of each head, however the model holds them: together, or apart with the
 * keys' turned. */
static shoal_status copy_latent(const shoal_params *p, const shoal_latent *latent, float *to,
                                shoal_err *err)
{
    const shoal_hparams *hp = &p->hp;
    size_t plain = hp->mla.plain;
    size_t rank = hp->mla.rank;
    if (latent->kv_b) {
        copy_weights(&(shoal_weight *){latent->kv_b}, 1, to);
        return SHOAL_OK;
    }
    SHOAL_CLEANUP(shoal_free_cleanup) float *row = shoal_calloc(plain, sizeof *row);
    if (!row) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a latent projection");
    }
    for (size_t head = 0; head < hp->n_heads; head++) {
        for (size_t r = 0; r < rank; r++) {
            shoal_weight_row(latent->k_b[head], r, row);
            for (size_t i = 0; i < plain; i++) {
                to[i * rank + r] = row[i];
            }
        }
        copy_weights(&latent->v_b[head], 1, to + plain * rank);
        to += (plain + hp->value_dim) * rank;
    }
    return SHOAL_OK;
}

static shoal_status copy_layer_item(shoal_params *p, const shoal_param *item, const char *suffix,
                                    const shoal_layer *layer, shoal_err *err)
{
    float *to = p->data + item->offset;
    if (strcmp(suffix, "attn_kv_b.weight") == 0) {
        return copy_latent(p, &layer->latent, to, err);
    }
    if (strcmp(suffix, "attn_qkv.weight") == 0) {
        copy_weights((shoal_weight *[]){layer->q, layer->k, layer->v}, 3, to);
        return SHOAL_OK;
    }
    if (strcmp(suffix, "ffn_up.weight") == 0 && (p->hp.row->flags & SHOAL_ARCH_FUSED)) {
        copy_weights((shoal_weight *[]){layer->gate, layer->up}, 2, to);
        return SHOAL_OK;
    }
    size_t i = 0;
    while (i < SHOAL_COUNT(places) && strcmp(places[i].suffix, suffix) != 0) {
        i++;
    }
    SHOAL_ASSERT(i < SHOAL_COUNT(places));
    const char *at = (const char *)layer + places[i].place;
    if (places[i].form == VECTOR) {
        float *vector = NULL;
        memcpy(&vector, at, sizeof vector);
        if (vector) {
            memcpy(to, vector, item->n_cols * sizeof *to);
        } else {
            memset(to, 0, item->n_cols * sizeof *to);
        }
    } else if (places[i].form == WEIGHT) {
        shoal_weight *weight = NULL;
        memcpy(&weight, at, sizeof weight);
        copy_weights(&weight, 1, to);
    } else {
        shoal_weight **stack = NULL;
        memcpy(&stack, at, sizeof stack);
        copy_weights(stack, item->n_stacked, to);
    }
    return SHOAL_OK;
}

/* The norm of the model's head of this depth; of its output where there is none. */
static const float *norm_of_depth(const shoal_model *model, size_t depth)
{
    for (size_t i = 0; i < model->hp.n_exits; i++) {
        if (model->hp.exits[i] == depth) {
            return model->exit_norm + i * model->hp.dim;
        }
    }
    return model->out_norm;
}

static shoal_status copy_item(shoal_params *p, const shoal_param *item, const shoal_model *model,
                              shoal_err *err)
{
    float *to = p->data + item->offset;
    size_t depth = 0;
    int length = 0;
    if (sscanf(item->name, "blk.%zu.%n", &depth, &length) == 1 && length > 0) {
        return copy_layer_item(p, item, item->name + length, &model->layers[depth], err);
    }
    if (strcmp(item->name, "token_embd.weight") == 0) {
        copy_weights(&(shoal_weight *){model->embed}, 1, to);
    } else if (strcmp(item->name, "output.weight") == 0) {
        copy_weights(&(shoal_weight *){model->output}, 1, to);
    } else {
        bool exits = sscanf(item->name, "shoal.exit.%zu.norm", &depth) == 1;
        memcpy(to, norm_of_depth(model, exits ? depth : p->hp.n_layers), p->hp.dim * sizeof *to);
    }
    return SHOAL_OK;
}

/* --- rotation -------------------------------------------------------------------------------- */

static shoal_status copy_rope(shoal_params *p, const shoal_model *model, shoal_err *err)
{
    size_t bytes = p->hp.rope_dim / 2 * sizeof *p->rope[0].freq;
    for (size_t r = 0; r < SHOAL_COUNT(p->rope); r++) {
        const shoal_rope *from = &model->rope[r];
        shoal_rope *to = &p->rope[r];
        bool same =
            !to->freq == !from->freq && (!from->freq || (to->magnitude == from->magnitude &&
                                                         memcmp(to->freq, from->freq, bytes) == 0));
        if (same) {
            continue;
        }
        double *freq = from->freq ? shoal_calloc(1, bytes) : NULL;
        if (from->freq && !freq) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the rotation table");
        }
        if (freq) {
            memcpy(freq, from->freq, bytes);
        }
        shoal_free(to->freq);
        *to = (shoal_rope){.freq = freq, .magnitude = from->magnitude};
        p->rope_scaled = true;
    }
    return SHOAL_OK;
}

shoal_status shoal_params_from_model(shoal_params *params, const shoal_model *model, shoal_err *err)
{
    SHOAL_TRY(check_shape(&params->hp, &model->hp, err));
    for (size_t i = 0; i < params->hp.n_layers; i++) {
        const shoal_layer *l = &model->layers[i];
        if ((l->q_bias || l->k_bias || l->v_bias || l->o_bias) &&
            !(params->hp.row->flags & SHOAL_ARCH_BIAS)) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "layer %zu has biases of attention, which %s seldom has and the "
                                 "trainer does not: convert the model without them",
                                 i, params->hp.arch);
        }
        if (l->experts.bias && !params->hp.moe.sigmoid) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "layer %zu has a bias of the experts' choice, which the trainer "
                                 "knows beside sigmoid scores alone",
                                 i);
        }
    }
    SHOAL_TRY(copy_rope(params, model, err));
    for (size_t i = 0; i < params->n_items; i++) {
        SHOAL_TRY(copy_item(params, &params->items[i], model, err));
    }
    return SHOAL_OK;
}
