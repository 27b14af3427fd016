/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors to weights: names and shapes as the architecture and the numbers ask for them. Fused
 * tensors and stacks of experts are taken apart into views, so the forward pass knows neither.
 */
#include "common/model/model_internal.h"

#include "common/base/mem.h"
#include "common/weight/sides.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct loader {
    shoal_model *model;
    const shoal_gguf *gguf;
    bool *used;   /* (n_tensors) */
    size_t layer; /* SIZE_MAX: names stand alone, else after "blk.<layer>." */
    shoal_err *err;
} loader;

static bool has(const loader *l, uint32_t flag)
{
    return (l->model->hp.row->flags & flag) != 0;
}

static void name_of(const loader *l, const char *suffix, char name[SHOAL_GGUF_NAME_MAX])
{
    if (l->layer == SIZE_MAX) {
        (void)snprintf(name, SHOAL_GGUF_NAME_MAX, "%s", suffix);
    } else {
        (void)snprintf(name, SHOAL_GGUF_NAME_MAX, "blk.%zu.%s", l->layer, suffix);
    }
}

static void mark(const loader *l, const shoal_gguf_tensor *t)
{
    if (t) {
        l->used[t - shoal_gguf_tensor_at(l->gguf, 0)] = true;
    }
}

/* NULL when absent. */
static const shoal_gguf_tensor *peek(const loader *l, const char *suffix)
{
    char name[SHOAL_GGUF_NAME_MAX];
    name_of(l, suffix, name);
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(l->gguf, name);
    char scale_name[SHOAL_GGUF_NAME_MAX + 1];
    if (t && t->type == SHOAL_TYPE_I8 && shoal_fp8_scale_name(t->name, scale_name)) {
        mark(l, shoal_gguf_find_tensor(l->gguf, scale_name));
    }
    mark(l, t);
    return t;
}

/* A tensor of exactly [n][rows][cols]. */
static shoal_status find(const loader *l, const char *suffix, size_t cols, size_t rows, size_t n,
                         const shoal_gguf_tensor **ret_tensor)
{
    char name[SHOAL_GGUF_NAME_MAX];
    name_of(l, suffix, name);
    const shoal_gguf_tensor *t = peek(l, suffix);
    if (!t) {
        return shoal_err_set(l->err, SHOAL_E_NOTFOUND,
                             "tensor %s is missing: the file is not a complete %s model", name,
                             l->model->hp.arch);
    }
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != n || t->dims[3] != 1) {
        return shoal_err_set(l->err, SHOAL_E_INVALID,
                             "tensor %s: shape %llu x %llu x %llu, the metadata asks for "
                             "%zu x %zu x %zu",
                             name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                             (unsigned long long)t->dims[2], cols, rows, n);
    }
    l->model->n_params += (uint64_t)cols * rows * n;
    *ret_tensor = t;
    return SHOAL_OK;
}

static void mark_sides(const loader *l, const shoal_gguf_tensor *t)
{
    for (size_t side = 0; side < SHOAL_SIDES; side++) {
        char name[SHOAL_GGUF_NAME_MAX + 1];
        if (shoal_side_name(t->name, (shoal_side)side, name)) {
            mark(l, shoal_gguf_find_tensor(l->gguf, name));
        }
    }
}

/* Rows [row, row + n) of a matrix or of a stack of them. */
static shoal_status load_rows(const loader *l, const shoal_gguf_tensor *t, size_t row, size_t n,
                              shoal_weight **ret_weight)
{
    mark_sides(l, t);
    SHOAL_TRY(shoal_weight_load(l->gguf, t, row, n, l->model->builders, ret_weight, l->err));
    shoal_weight_raise_needs(*ret_weight, &l->model->needs);
    return SHOAL_OK;
}

static shoal_status load_matrix(const loader *l, const char *suffix, size_t cols, size_t rows,
                                shoal_weight **ret_weight)
{
    const shoal_gguf_tensor *t = NULL;
    SHOAL_TRY(find(l, suffix, cols, rows, 1, &t));
    return load_rows(l, t, 0, rows, ret_weight);
}

/* A stack of n matrices as n weights. */
static shoal_status load_stack(const loader *l, const char *suffix, size_t cols, size_t rows,
                               size_t n, shoal_weight ***ret_weights)
{
    const shoal_gguf_tensor *t = NULL;
    SHOAL_TRY(find(l, suffix, cols, rows, n, &t));
    *ret_weights = shoal_calloc(n, sizeof **ret_weights);
    if (!*ret_weights) {
        return shoal_err_set(l->err, SHOAL_E_NOMEM, "no memory for %zu matrices", n);
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(load_rows(l, t, i * rows, rows, &(*ret_weights)[i]));
    }
    return SHOAL_OK;
}

static shoal_status load_vector(const loader *l, const char *suffix, size_t n, float **ret_vector)
{
    char name[SHOAL_GGUF_NAME_MAX];
    name_of(l, suffix, name);
    const shoal_gguf_tensor *t = NULL;
    SHOAL_TRY(find(l, suffix, n, 1, 1, &t));
    if (t->type != SHOAL_TYPE_F32 && t->type != SHOAL_TYPE_F16 && t->type != SHOAL_TYPE_BF16) {
        return shoal_err_set(l->err, SHOAL_E_UNSUPPORTED,
                             "tensor %s: a norm or bias must be F32, F16 or BF16", name);
    }
    float *vector = shoal_calloc_aligned(n, sizeof *vector);
    if (!vector) {
        return shoal_err_set(l->err, SHOAL_E_NOMEM, "no memory for tensor %s", name);
    }
    shoal_weight_decode(t->type, t->data, n, vector);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(vector[i])) {
            shoal_free(vector);
            return shoal_err_set(l->err, SHOAL_E_INVALID, "tensor %s: element %zu is not finite",
                                 name, i);
        }
    }
    *ret_vector = vector;
    return SHOAL_OK;
}

/* Nothing when absent. */
static shoal_status load_optional(const loader *l, const char *suffix, size_t n, float **ret_vector)
{
    return peek(l, suffix) ? load_vector(l, suffix, n, ret_vector) : SHOAL_OK;
}

/* --- attention ------------------------------------------------------------------------------- */

/* One tensor with the rows of several weights. */
static shoal_status load_fused(const loader *l, const char *suffix, size_t cols, const size_t *rows,
                               shoal_weight **const *slots, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        total += rows[i];
    }
    const shoal_gguf_tensor *t = NULL;
    SHOAL_TRY(find(l, suffix, cols, total, 1, &t));
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(load_rows(l, t, at, rows[i], slots[i]));
        at += rows[i];
    }
    return SHOAL_OK;
}

static shoal_status load_biases(const loader *l, shoal_layer *layer)
{
    const shoal_hparams *hp = &l->model->hp;
    size_t kv = hp->n_kv_heads;
    if (has(l, SHOAL_ARCH_BIAS)) {
        SHOAL_TRY(load_vector(l, "attn_q.bias", hp->n_heads * hp->head_dim, &layer->q_bias));
        SHOAL_TRY(load_vector(l, "attn_k.bias", kv * hp->head_dim, &layer->k_bias));
        return load_vector(l, "attn_v.bias", kv * hp->value_dim, &layer->v_bias);
    }
    if (has(l, SHOAL_ARCH_BIAS_MAYBE)) {
        SHOAL_TRY(load_optional(l, "attn_q.bias", hp->n_heads * hp->head_dim, &layer->q_bias));
        SHOAL_TRY(load_optional(l, "attn_k.bias", kv * hp->head_dim, &layer->k_bias));
        SHOAL_TRY(load_optional(l, "attn_v.bias", kv * hp->value_dim, &layer->v_bias));
        return load_optional(l, "attn_output.bias", hp->dim, &layer->o_bias);
    }
    return SHOAL_OK;
}

static shoal_status load_plain_attention(const loader *l, shoal_layer *layer)
{
    const shoal_hparams *hp = &l->model->hp;
    size_t rows[] = {hp->n_heads * hp->head_dim, hp->n_kv_heads * hp->head_dim,
                     hp->n_kv_heads * hp->value_dim};
    if (has(l, SHOAL_ARCH_FUSED)) {
        shoal_weight **slots[] = {&layer->q, &layer->k, &layer->v};
        SHOAL_TRY(load_fused(l, "attn_qkv.weight", hp->dim, rows, slots, SHOAL_COUNT(rows)));
    } else {
        SHOAL_TRY(load_matrix(l, "attn_q.weight", hp->dim, rows[0], &layer->q));
        SHOAL_TRY(load_matrix(l, "attn_k.weight", hp->dim, rows[1], &layer->k));
        SHOAL_TRY(load_matrix(l, "attn_v.weight", hp->dim, rows[2], &layer->v));
    }
    if (has(l, SHOAL_ARCH_QK_NORM)) {
        SHOAL_TRY(load_vector(l, "attn_q_norm.weight", hp->head_dim, &layer->q_norm));
        SHOAL_TRY(load_vector(l, "attn_k_norm.weight", hp->head_dim, &layer->k_norm));
    }
    return load_biases(l, layer);
}

/* A matrix made of decoded rows: F16 stays F16, anything else becomes F32, so it is exact. */
static shoal_status weight_of(const loader *l, const shoal_gguf_tensor *source, const float *x,
                              size_t cols, size_t rows, shoal_weight **ret_weight)
{
    shoal_type type = source->type == SHOAL_TYPE_F16 ? SHOAL_TYPE_F16 : SHOAL_TYPE_F32;
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint8_t *data = shoal_calloc_aligned(cols * rows, info->block_bytes);
    if (!data) {
        return shoal_err_set(l->err, SHOAL_E_NOMEM, "no memory for a latent projection");
    }
    SHOAL_TRY(shoal_weight_encode(type, x, cols * rows, data, l->err));
    shoal_gguf_tensor made = {.name = source->name,
                              .type = type,
                              .n_dims = 2,
                              .dims = {cols, rows, 1, 1},
                              .data = data,
                              .size_bytes = (uint64_t)cols * rows * info->block_bytes};
    return shoal_weight_new(&made, ret_weight, l->err);
}

/* All rows of a matrix or of a stack of them, as floats. */
static shoal_status decode(const loader *l, const shoal_gguf_tensor *t, float **ret_x)
{
    size_t cols = (size_t)t->dims[0];
    size_t rows = (size_t)t->dims[1];
    size_t n = (size_t)t->dims[2];
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc_aligned(n * rows * cols, sizeof *x);
    if (!x) {
        return shoal_err_set(l->err, SHOAL_E_NOMEM, "no memory for a latent projection");
    }
    for (size_t i = 0; i < n; i++) {
        shoal_weight *matrix = NULL;
        SHOAL_TRY(load_rows(l, t, i * rows, rows, &matrix));
        if (shoal_weight_skips(matrix)) {
            shoal_weight_free(matrix);
            return shoal_err_set(l->err, SHOAL_E_UNSUPPORTED,
                                 "tensor %.*s: a latent projection with a threshold beside it is "
                                 "not computed; leave it out for this layer",
                                 (int)SHOAL_MIN(t->name.length, (size_t)64), t->name.data);
        }
        for (size_t row = 0; row < rows; row++) {
            shoal_weight_row(matrix, row, x + (i * rows + row) * cols);
        }
        shoal_weight_free(matrix);
    }
    *ret_x = SHOAL_STEAL(x);
    return SHOAL_OK;
}

static void transpose(const float *x, size_t rows, size_t cols, float *ret_x)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            ret_x[c * rows + r] = x[r * cols + c];
        }
    }
}

/* kv_b [n_heads][plain + value][rank] as k_b, transposed, and v_b of each head. */
static shoal_status absorb(const loader *l, const shoal_gguf_tensor *t, shoal_latent *latent)
{
    const shoal_hparams *hp = &l->model->hp;
    size_t rank = hp->mla.rank;
    size_t plain = hp->mla.plain;
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = NULL;
    SHOAL_TRY(decode(l, t, &x));
    SHOAL_CLEANUP(shoal_free_cleanup) float *turned = shoal_calloc(rank * plain, sizeof *turned);
    latent->k_b = shoal_calloc(hp->n_heads, sizeof *latent->k_b);
    latent->v_b = shoal_calloc(hp->n_heads, sizeof *latent->v_b);
    if (!turned || !latent->k_b || !latent->v_b) {
        return shoal_err_set(l->err, SHOAL_E_NOMEM, "no memory for %zu heads", hp->n_heads);
    }
    for (size_t head = 0; head < hp->n_heads; head++) {
        size_t row = head * (plain + hp->value_dim);
        transpose(x + row * rank, plain, rank, turned);
        SHOAL_TRY(weight_of(l, t, turned, plain, rank, &latent->k_b[head]));
        SHOAL_TRY(load_rows(l, t, row + plain, hp->value_dim, &latent->v_b[head]));
    }
    return SHOAL_OK;
}

/* k_b [n_heads][rank][plain] and v_b [n_heads][value][rank] as one kv_b. */
static shoal_status expand(const loader *l, const shoal_gguf_tensor *k, const shoal_gguf_tensor *v,
                           shoal_latent *latent)
{
    const shoal_hparams *hp = &l->model->hp;
    size_t rank = hp->mla.rank;
    size_t plain = hp->mla.plain;
    size_t rows = plain + hp->value_dim;
    SHOAL_CLEANUP(shoal_free_cleanup) float *kx = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) float *vx = NULL;
    SHOAL_TRY(decode(l, k, &kx));
    SHOAL_TRY(decode(l, v, &vx));
    SHOAL_CLEANUP(shoal_free_cleanup)
    float *all = shoal_calloc(hp->n_heads * rows * rank, sizeof *all);
    if (!all) {
        return shoal_err_set(l->err, SHOAL_E_NOMEM, "no memory for %zu heads", hp->n_heads);
    }
    for (size_t head = 0; head < hp->n_heads; head++) {
        float *at = all + head * rows * rank;
        transpose(kx + head * rank * plain, rank, plain, at);
        memcpy(at + plain * rank, vx + head * hp->value_dim * rank,
               hp->value_dim * rank * sizeof *at);
    }
    return weight_of(l, k, all, rank, hp->n_heads * rows, &latent->kv_b);
}

/* Files hold kv_b, or k_b and v_b, or all three; the wanted form is made of what is there. */
static shoal_status load_latent_values(const loader *l, shoal_latent *latent)
{
    const shoal_hparams *hp = &l->model->hp;
    size_t rank = hp->mla.rank;
    size_t plain = hp->mla.plain;
    size_t value = hp->value_dim;
    bool joined = peek(l, "attn_kv_b.weight") != NULL;
    bool apart = peek(l, "attn_k_b.weight") != NULL;
    if (joined && (hp->mla.expanded || !apart)) {
        const shoal_gguf_tensor *t = NULL;
        SHOAL_TRY(find(l, "attn_kv_b.weight", rank, hp->n_heads * (plain + value), 1, &t));
        return hp->mla.expanded ? load_rows(l, t, 0, (size_t)t->dims[1], &latent->kv_b)
                                : absorb(l, t, latent);
    }
    (void)peek(l, "attn_v_b.weight");
    if (!hp->mla.expanded) {
        SHOAL_TRY(load_stack(l, "attn_k_b.weight", plain, rank, hp->n_heads, &latent->k_b));
        return load_stack(l, "attn_v_b.weight", rank, value, hp->n_heads, &latent->v_b);
    }
    const shoal_gguf_tensor *k = NULL;
    const shoal_gguf_tensor *v = NULL;
    SHOAL_TRY(find(l, "attn_k_b.weight", plain, rank, hp->n_heads, &k));
    SHOAL_TRY(find(l, "attn_v_b.weight", rank, value, hp->n_heads, &v));
    return expand(l, k, v, latent);
}

static shoal_status load_latent_attention(const loader *l, shoal_layer *layer)
{
    const shoal_hparams *hp = &l->model->hp;
    shoal_latent *latent = &layer->latent;
    size_t q_rows = hp->n_heads * hp->head_dim;
    if (hp->mla.q_rank > 0) {
        SHOAL_TRY(load_matrix(l, "attn_q_a.weight", hp->dim, hp->mla.q_rank, &latent->q_a));
        SHOAL_TRY(load_vector(l, "attn_q_a_norm.weight", hp->mla.q_rank, &latent->q_norm));
        SHOAL_TRY(load_matrix(l, "attn_q_b.weight", hp->mla.q_rank, q_rows, &layer->q));
    } else {
        SHOAL_TRY(load_matrix(l, "attn_q.weight", hp->dim, q_rows, &layer->q));
    }
    SHOAL_TRY(load_matrix(l, "attn_kv_a_mqa.weight", hp->dim, hp->mla.rank + hp->rope_dim,
                          &latent->kv_a));
    SHOAL_TRY(load_vector(l, "attn_kv_a_norm.weight", hp->mla.rank, &latent->kv_norm));
    return load_latent_values(l, latent);
}

/* --- feed-forward ---------------------------------------------------------------------------- */

static shoal_status load_dense(const loader *l, shoal_layer *layer)
{
    const shoal_hparams *hp = &l->model->hp;
    if (has(l, SHOAL_ARCH_FUSED)) {
        size_t rows[] = {hp->ffn, hp->ffn};
        shoal_weight **slots[] = {&layer->gate, &layer->up};
        SHOAL_TRY(load_fused(l, "ffn_up.weight", hp->dim, rows, slots, SHOAL_COUNT(rows)));
    } else {
        SHOAL_TRY(load_matrix(l, "ffn_gate.weight", hp->dim, hp->ffn, &layer->gate));
        SHOAL_TRY(load_matrix(l, "ffn_up.weight", hp->dim, hp->ffn, &layer->up));
    }
    return load_matrix(l, "ffn_down.weight", hp->ffn, hp->dim, &layer->down);
}

static shoal_status load_experts(const loader *l, shoal_experts *e)
{
    const shoal_hparams *hp = &l->model->hp;
    const shoal_moe *moe = &hp->moe;
    size_t n = moe->n_experts;
    SHOAL_TRY(load_matrix(l, "ffn_gate_inp.weight", hp->dim, n, &e->router));
    SHOAL_TRY(load_stack(l, "ffn_gate_exps.weight", hp->dim, moe->ffn, n, &e->gate));
    SHOAL_TRY(load_stack(l, "ffn_up_exps.weight", hp->dim, moe->ffn, n, &e->up));
    SHOAL_TRY(load_stack(l, "ffn_down_exps.weight", moe->ffn, hp->dim, n, &e->down));
    SHOAL_TRY(load_optional(l, "exp_probs_b.bias", n, &e->bias));
    if (moe->ffn_shared == 0) {
        return SHOAL_OK;
    }
    if (has(l, SHOAL_ARCH_SHARED_SIGMOID)) {
        SHOAL_TRY(load_vector(l, "ffn_gate_inp_shexp.weight", hp->dim, &e->shared_router));
    }
    SHOAL_TRY(load_matrix(l, "ffn_gate_shexp.weight", hp->dim, moe->ffn_shared, &e->shared_gate));
    SHOAL_TRY(load_matrix(l, "ffn_up_shexp.weight", hp->dim, moe->ffn_shared, &e->shared_up));
    return load_matrix(l, "ffn_down_shexp.weight", moe->ffn_shared, hp->dim, &e->shared_down);
}

/* --- the whole ------------------------------------------------------------------------------- */

static shoal_status load_layer(loader *l, size_t i)
{
    const shoal_hparams *hp = &l->model->hp;
    shoal_layer *layer = &l->model->layers[i];
    l->layer = i;
    SHOAL_TRY(load_vector(l, "attn_norm.weight", hp->dim, &layer->attn_norm));
    SHOAL_TRY(has(l, SHOAL_ARCH_MLA) ? load_latent_attention(l, layer)
                                     : load_plain_attention(l, layer));
    SHOAL_TRY(
        load_matrix(l, "attn_output.weight", hp->n_heads * hp->value_dim, hp->dim, &layer->o));
    SHOAL_TRY(load_vector(l, "ffn_norm.weight", hp->dim, &layer->ffn_norm));
    if (has(l, SHOAL_ARCH_POST_NORMS)) {
        SHOAL_TRY(load_vector(l, "post_attention_norm.weight", hp->dim, &layer->attn_post));
        SHOAL_TRY(load_vector(l, "post_ffw_norm.weight", hp->dim, &layer->ffn_post));
    }
    bool routed = hp->moe.n_experts > 0 && i >= hp->moe.n_dense;
    return routed ? load_experts(l, &layer->experts) : load_dense(l, layer);
}

/* A tensor nobody asked for would have changed the results. */
static shoal_status check_all_used(const loader *l)
{
    for (size_t i = 0; i < shoal_gguf_n_tensors(l->gguf); i++) {
        if (!l->used[i]) {
            shoal_str name = shoal_gguf_tensor_at(l->gguf, i)->name;
            return shoal_err_set(
                l->err, SHOAL_E_UNSUPPORTED, "tensor %.*s: not computed for architecture %s",
                (int)SHOAL_MIN(name.length, (size_t)64), name.data, l->model->hp.arch);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_tensors_load(shoal_model *model, const shoal_gguf *gguf, bool *used,
                                shoal_err *err)
{
    shoal_hparams *hp = &model->hp;
    loader l = {.model = model, .gguf = gguf, .used = used, .layer = SIZE_MAX, .err = err};
    SHOAL_TRY(load_matrix(&l, "token_embd.weight", hp->dim, hp->n_vocab, &model->embed));
    SHOAL_TRY(load_vector(&l, "output_norm.weight", hp->dim, &model->out_norm));
    hp->tied = !peek(&l, "output.weight");
    if (!hp->tied) {
        SHOAL_TRY(load_matrix(&l, "output.weight", hp->dim, hp->n_vocab, &model->output));
    }
    model->layers = shoal_calloc(hp->n_layers, sizeof *model->layers);
    if (!model->layers) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu layers", hp->n_layers);
    }
    for (size_t i = 0; i < hp->n_layers; i++) {
        SHOAL_TRY(load_layer(&l, i));
    }
    return check_all_used(&l);
}

static void free_stack(shoal_weight **weights, size_t n)
{
    for (size_t i = 0; weights && i < n; i++) {
        shoal_weight_free(weights[i]);
    }
    shoal_free(weights);
}

void shoal_layer_fini(shoal_layer *layer, const shoal_hparams *hp)
{
    shoal_experts *e = &layer->experts;
    shoal_latent *latent = &layer->latent;
    shoal_weight *weights[] = {layer->q,       layer->k,     layer->v,       layer->o,
                               layer->gate,    layer->up,    layer->down,    e->router,
                               e->shared_gate, e->shared_up, e->shared_down, latent->q_a,
                               latent->kv_a,   latent->kv_b};
    float *vectors[] = {layer->attn_norm, layer->q_bias,   layer->k_bias, layer->v_bias,
                        layer->o_bias,    layer->q_norm,   layer->k_norm, layer->attn_post,
                        layer->ffn_norm,  layer->ffn_post, e->bias,       e->shared_router,
                        latent->q_norm,   latent->kv_norm};
    for (size_t i = 0; i < SHOAL_COUNT(weights); i++) {
        shoal_weight_free(weights[i]);
    }
    for (size_t i = 0; i < SHOAL_COUNT(vectors); i++) {
        shoal_free(vectors[i]);
    }
    free_stack(e->gate, hp->moe.n_experts);
    free_stack(e->up, hp->moe.n_experts);
    free_stack(e->down, hp->moe.n_experts);
    free_stack(latent->k_b, hp->n_heads);
    free_stack(latent->v_b, hp->n_heads);
}
