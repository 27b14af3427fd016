/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of parameters: which tensors an architecture has, in the order of the forward pass.
 * Weights of one input (q, k, v; gate, up) follow each other, so that one product can make them.
 */
#include "common/train/params.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/math.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    FLOATS_ALIGN = 16,
    LAYER_ITEMS_MAX = 20,
    OTHER_ITEMS_MAX = 3 + SHOAL_TRAIN_EXITS_MAX
};

/* --- the table ------------------------------------------------------------------------------- */

static bool has(const shoal_params *p, uint32_t flag)
{
    return (p->hp.row->flags & flag) != 0;
}

/* layer SIZE_MAX: the name stands alone. */
static shoal_param *add(shoal_params *p, size_t layer, const char *suffix, shoal_param_kind kind,
                        size_t n_rows, size_t n_cols)
{
    shoal_param *item = &p->items[p->n_items++];
    if (layer == SIZE_MAX) {
        (void)snprintf(item->name, sizeof item->name, "%s", suffix);
    } else {
        (void)snprintf(item->name, sizeof item->name, "blk.%zu.%s", layer, suffix);
    }
    item->kind = kind;
    item->n_rows = n_rows;
    item->n_cols = n_cols;
    item->n_stacked = 1;
    item->offset = p->n_floats;
    p->n_floats += (n_rows * n_cols + FLOATS_ALIGN - 1) / FLOATS_ALIGN * FLOATS_ALIGN;
    return item;
}

static void add_vector(shoal_params *p, size_t layer, const char *suffix, size_t n)
{
    (void)add(p, layer, suffix, SHOAL_PARAM_VECTOR, 1, n);
}

static void add_matrix(shoal_params *p, size_t layer, const char *suffix, size_t n_rows,
                       size_t n_cols)
{
    (void)add(p, layer, suffix, SHOAL_PARAM_MATRIX, n_rows, n_cols);
}

static void add_stack(shoal_params *p, size_t layer, const char *suffix, size_t n, size_t n_rows,
                      size_t n_cols)
{
    add(p, layer, suffix, SHOAL_PARAM_MATRIX, n * n_rows, n_cols)->n_stacked = n;
}

static void add_latent(shoal_params *p, size_t layer)
{
    const shoal_hparams *hp = &p->hp;
    const shoal_mla *mla = &hp->mla;
    size_t q = hp->n_heads * hp->head_dim;
    add_vector(p, layer, "attn_norm.weight", hp->dim);
    if (mla->q_rank > 0) {
        add_matrix(p, layer, "attn_q_a.weight", mla->q_rank, hp->dim);
        add_vector(p, layer, "attn_q_a_norm.weight", mla->q_rank);
        add_matrix(p, layer, "attn_q_b.weight", q, mla->q_rank);
    } else {
        add_matrix(p, layer, "attn_q.weight", q, hp->dim);
    }
    add_matrix(p, layer, "attn_kv_a_mqa.weight", mla->rank + hp->rope_dim, hp->dim);
    add_vector(p, layer, "attn_kv_a_norm.weight", mla->rank);
    add_matrix(p, layer, "attn_kv_b.weight", hp->n_heads * (mla->plain + hp->value_dim), mla->rank);
    add_matrix(p, layer, "attn_output.weight", hp->dim, hp->n_heads * hp->value_dim);
}

static void add_attention(shoal_params *p, size_t layer)
{
    const shoal_hparams *hp = &p->hp;
    size_t q = hp->n_heads * hp->head_dim;
    size_t k = hp->n_kv_heads * hp->head_dim;
    size_t v = hp->n_kv_heads * hp->value_dim;
    add_vector(p, layer, "attn_norm.weight", hp->dim);
    if (has(p, SHOAL_ARCH_FUSED)) {
        add_matrix(p, layer, "attn_qkv.weight", q + k + v, hp->dim);
    } else {
        add_matrix(p, layer, "attn_q.weight", q, hp->dim);
        add_matrix(p, layer, "attn_k.weight", k, hp->dim);
        add_matrix(p, layer, "attn_v.weight", v, hp->dim);
    }
    if (has(p, SHOAL_ARCH_BIAS)) {
        add_vector(p, layer, "attn_q.bias", q);
        add_vector(p, layer, "attn_k.bias", k);
        add_vector(p, layer, "attn_v.bias", v);
    }
    if (has(p, SHOAL_ARCH_QK_NORM)) {
        add_vector(p, layer, "attn_q_norm.weight", hp->head_dim);
        add_vector(p, layer, "attn_k_norm.weight", hp->head_dim);
    }
    add_matrix(p, layer, "attn_output.weight", hp->dim, hp->n_heads * hp->value_dim);
    if (has(p, SHOAL_ARCH_POST_NORMS)) {
        add_vector(p, layer, "post_attention_norm.weight", hp->dim);
    }
}

static void add_dense(shoal_params *p, size_t layer)
{
    const shoal_hparams *hp = &p->hp;
    if (has(p, SHOAL_ARCH_FUSED)) {
        add_matrix(p, layer, "ffn_up.weight", 2 * hp->ffn, hp->dim);
    } else {
        add_matrix(p, layer, "ffn_gate.weight", hp->ffn, hp->dim);
        add_matrix(p, layer, "ffn_up.weight", hp->ffn, hp->dim);
    }
    add_matrix(p, layer, "ffn_down.weight", hp->dim, hp->ffn);
}

/* DeepSeek-V3 balances its experts by a bias that gradients do not reach; zero is none. */
static bool has_choice_bias(const shoal_hparams *hp)
{
    return (hp->row->flags & SHOAL_ARCH_MLA) && hp->moe.sigmoid;
}

static void add_experts(shoal_params *p, size_t layer)
{
    const shoal_hparams *hp = &p->hp;
    const shoal_moe *moe = &hp->moe;
    add_matrix(p, layer, "ffn_gate_inp.weight", moe->n_experts, hp->dim);
    if (has_choice_bias(hp)) {
        add_vector(p, layer, "exp_probs_b.bias", moe->n_experts);
        p->items[p->n_items - 1].frozen = true;
    }
    add_stack(p, layer, "ffn_gate_exps.weight", moe->n_experts, moe->ffn, hp->dim);
    add_stack(p, layer, "ffn_up_exps.weight", moe->n_experts, moe->ffn, hp->dim);
    add_stack(p, layer, "ffn_down_exps.weight", moe->n_experts, hp->dim, moe->ffn);
    if (moe->ffn_shared > 0) {
        if (has(p, SHOAL_ARCH_SHARED_SIGMOID)) {
            add_vector(p, layer, "ffn_gate_inp_shexp.weight", hp->dim);
        }
        add_matrix(p, layer, "ffn_gate_shexp.weight", moe->ffn_shared, hp->dim);
        add_matrix(p, layer, "ffn_up_shexp.weight", moe->ffn_shared, hp->dim);
        add_matrix(p, layer, "ffn_down_shexp.weight", hp->dim, moe->ffn_shared);
    }
}

static void add_layer(shoal_params *p, size_t layer)
{
    if (has(p, SHOAL_ARCH_MLA)) {
        add_latent(p, layer);
    } else {
        add_attention(p, layer);
    }
    add_vector(p, layer, "ffn_norm.weight", p->hp.dim);
    if (p->hp.moe.n_experts > 0 && layer >= p->hp.moe.n_dense) {
        add_experts(p, layer);
    } else {
        add_dense(p, layer);
    }
    if (has(p, SHOAL_ARCH_POST_NORMS)) {
        add_vector(p, layer, "post_ffw_norm.weight", p->hp.dim);
    }
}

static void add_all(shoal_params *p)
{
    const shoal_hparams *hp = &p->hp;
    (void)add(p, SIZE_MAX, "token_embd.weight", SHOAL_PARAM_TABLE, hp->n_vocab, hp->dim);
    for (size_t i = 0; i < hp->n_layers; i++) {
        add_layer(p, i);
    }
    for (size_t i = 0; i < p->n_exits; i++) {
        char name[SHOAL_TRAIN_NAME_MAX];
        (void)snprintf(name, sizeof name, "shoal.exit.%zu.norm", p->exits[i]);
        add_vector(p, SIZE_MAX, name, hp->dim);
    }
    add_vector(p, SIZE_MAX, "output_norm.weight", hp->dim);
    if (!hp->tied) {
        (void)add(p, SIZE_MAX, "output.weight", SHOAL_PARAM_TABLE, hp->n_vocab, hp->dim);
    }
}

/* --- life ------------------------------------------------------------------------------------ */

static shoal_status check_exits(const shoal_hparams *hp, const size_t *exits, size_t n,
                                shoal_err *err)
{
    if (n > SHOAL_TRAIN_EXITS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%zu exits: at most %d can be trained", n,
                             (int)SHOAL_TRAIN_EXITS_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        size_t below = i > 0 ? exits[i - 1] : 0;
        if (exits[i] <= below || exits[i] >= hp->n_layers) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "exit %zu after %zu layers; counts ascend, each from 1 to %zu", i,
                                 exits[i], hp->n_layers - 1);
        }
    }
    return SHOAL_OK;
}

/* What hp alone says of the rotation. */
static shoal_status make_rope(shoal_params *p)
{
    const shoal_hparams *hp = &p->hp;
    double bases[] = {(double)hp->rope_base, (double)hp->row->window_base};
    for (size_t r = 0; r < SHOAL_COUNT(p->rope); r++) {
        if (bases[r] <= 0) {
            continue;
        }
        size_t n = hp->rope_dim / 2;
        p->rope[r].magnitude = 1;
        p->rope[r].freq = shoal_calloc(n, sizeof *p->rope[r].freq);
        if (!p->rope[r].freq) {
            return SHOAL_E_NOMEM;
        }
        for (size_t i = 0; i < n; i++) {

            p->rope[r].freq[i] =
                shoal_expd(-shoal_logd(bases[r]) * (double)(2 * i) / (double)hp->rope_dim);
        }
    }
    return SHOAL_OK;
}

static shoal_status fill(shoal_params *p)
{
    p->items = shoal_calloc(p->hp.n_layers * LAYER_ITEMS_MAX + OTHER_ITEMS_MAX, sizeof *p->items);
    if (!p->items) {
        return SHOAL_E_NOMEM;
    }
    add_all(p);
    SHOAL_TRY(make_rope(p));
    p->data = shoal_params_block(p);
    return p->data ? SHOAL_OK : SHOAL_E_NOMEM;
}

shoal_status shoal_params_new(const shoal_hparams *hp, const size_t *exits, size_t n_exits,
                              shoal_params **ret_params, shoal_err *err)
{
    SHOAL_TRY(check_exits(hp, exits, n_exits, err));
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = shoal_calloc(1, sizeof *p);
    if (!p) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for parameters");
    }
    p->hp = *hp;
    p->n_exits = n_exits;
    p->hp.n_exits = n_exits;
    for (size_t i = 0; i < n_exits; i++) {
        p->exits[i] = exits[i];
        p->hp.exits[i] = exits[i];
    }
    if (fill(p) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu parameters", p->n_floats);
    }
    *ret_params = SHOAL_STEAL(p);
    return SHOAL_OK;
}

void shoal_params_free(shoal_params *params)
{
    if (!params) {
        return;
    }
    for (size_t r = 0; r < SHOAL_COUNT(params->rope); r++) {
        shoal_free(params->rope[r].freq);
    }
    shoal_free(params->items);
    shoal_free(params->data);
    shoal_free(params);
}

const shoal_param *shoal_params_find(const shoal_params *params, const char *name)
{
    for (size_t i = 0; i < params->n_items; i++) {
        if (strcmp(params->items[i].name, name) == 0) {
            return &params->items[i];
        }
    }
    return NULL;
}

float *shoal_params_block(const shoal_params *params)
{
    return shoal_calloc_aligned(params->n_floats, sizeof(float));
}

/* --- start ----------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name);
    size_t m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Box and Muller's pair of normal numbers from four words of the generator, which are those of
 * (seed, item, place): no number depends on another. */
static void normal_pair(uint64_t seed, size_t item, size_t place, double ret_x[2])
{
    uint32_t counter[4] = {(uint32_t)place, (uint32_t)(place >> 32), (uint32_t)item, 0x7A11u};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t bits[4];
    shoal_philox4x32_10(counter, key, bits);
    double u = ((double)bits[0] + 1) * 0x1p-32;
    double turn = (double)bits[1] * 0x1p-32 * 6.283185307179586;
    double radius = sqrt(-2 * shoal_logd(u));
    double sine = 0;
    double cosine = 0;
    shoal_sincosd(turn, &sine, &cosine);
    ret_x[0] = radius * cosine;
    ret_x[1] = radius * sine;
}

static void start_item(shoal_params *p, size_t i, uint64_t seed)
{
    const shoal_param *item = &p->items[i];
    float *x = p->data + item->offset;
    size_t n = item->n_rows * item->n_cols;
    if (item->kind == SHOAL_PARAM_VECTOR && !ends_with(item->name, "_shexp.weight")) {
        float value = ends_with(item->name, ".bias") ? 0.0F : 1.0F;
        for (size_t j = 0; j < n; j++) {
            x[j] = value;
        }
        return;
    }
    bool into_stream = strstr(item->name, "attn_output") || strstr(item->name, "ffn_down");
    double deviation = 0.02 / (into_stream ? sqrt(2.0 * (double)p->hp.n_layers) : 1.0);
    for (size_t j = 0; j < n; j += 2) {
        double pair[2];
        normal_pair(seed, i, j / 2, pair);
        x[j] = (float)(pair[0] * deviation);
        if (j + 1 < n) {
            x[j + 1] = (float)(pair[1] * deviation);
        }
    }
}

void shoal_params_start(shoal_params *params, uint64_t seed)
{
    for (size_t i = 0; i < params->n_items; i++) {
        start_item(params, i, seed);
    }
}
