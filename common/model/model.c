/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/model_internal.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What a tensor must look like: n_dims and dims[0], dims[1]. */
typedef struct want {
    const char *name;
    uint32_t n_dims;
    size_t cols;
    size_t rows; /* 1 for vectors */
} want;

static shoal_status find(const shoal_gguf *gguf, const want *w,
                         const shoal_gguf_tensor **ret_tensor, shoal_err *err)
{
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, w->name);
    if (!t) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor %s is missing: the file is not a complete llama model",
                             w->name);
    }
    bool flat = w->n_dims == 1;
    bool dims_ok = t->dims[0] == w->cols && t->dims[2] == 1 && t->dims[3] == 1 &&
                   (flat ? t->dims[1] == 1 : t->dims[1] == w->rows);
    if (!dims_ok) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %s: shape %llu x %llu, the metadata asks for %zu x %zu",
                             w->name, (unsigned long long)t->dims[0],
                             (unsigned long long)t->dims[1], w->cols, w->rows);
    }
    *ret_tensor = t;
    return SHOAL_OK;
}

static shoal_status load_matrix(shoal_model *model, const shoal_gguf *gguf, const want *w,
                                shoal_weight **ret_weight, shoal_err *err)
{
    const shoal_gguf_tensor *t = NULL;
    SHOAL_TRY(find(gguf, w, &t, err));
    SHOAL_TRY(shoal_weight_load(gguf, t, ret_weight, err));
    model->n_params += (uint64_t)w->cols * w->rows;
    return SHOAL_OK;
}

static shoal_status load_vector(shoal_model *model, const shoal_gguf *gguf, const want *w,
                                float **ret_vector, shoal_err *err)
{
    const shoal_gguf_tensor *t = NULL;
    SHOAL_TRY(find(gguf, w, &t, err));
    if (t->type != SHOAL_TYPE_F32 && t->type != SHOAL_TYPE_F16 && t->type != SHOAL_TYPE_BF16) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "tensor %s: a norm must be F32, F16 or BF16",
                             w->name);
    }
    float *vector = shoal_calloc_aligned(w->cols, sizeof *vector);
    if (!vector) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tensor %s", w->name);
    }
    shoal_weight_decode(t->type, t->data, w->cols, vector);
    for (size_t i = 0; i < w->cols; i++) {
        if (!isfinite(vector[i])) {
            shoal_free(vector);
            return shoal_err_set(err, SHOAL_E_INVALID, "tensor %s: element %zu is not finite",
                                 w->name, i);
        }
    }
    model->n_params += w->cols;
    *ret_vector = vector;
    return SHOAL_OK;
}

static shoal_status load_layer(shoal_model *model, const shoal_gguf *gguf, size_t i, shoal_err *err)
{
    const shoal_hparams *hp = &model->hp;
    shoal_layer *layer = &model->layers[i];
    size_t q_width = hp->n_heads * hp->head_dim;
    size_t kv_width = hp->n_kv_heads * hp->head_dim;
    const struct {
        const char *suffix;
        size_t cols;
        size_t rows;
        shoal_weight **slot;
    } matrices[] = {
        {"attn_q", hp->dim, q_width, &layer->q},      {"attn_k", hp->dim, kv_width, &layer->k},
        {"attn_v", hp->dim, kv_width, &layer->v},     {"attn_output", q_width, hp->dim, &layer->o},
        {"ffn_gate", hp->dim, hp->ffn, &layer->gate}, {"ffn_up", hp->dim, hp->ffn, &layer->up},
        {"ffn_down", hp->ffn, hp->dim, &layer->down},
    };
    const struct {
        const char *suffix;
        float **slot;
    } vectors[] = {{"attn_norm", &layer->attn_norm}, {"ffn_norm", &layer->ffn_norm}};
    char name[SHOAL_GGUF_NAME_MAX];
    for (size_t m = 0; m < SHOAL_COUNT(matrices); m++) {
        (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", i, matrices[m].suffix);
        want w = {.name = name, .n_dims = 2, .cols = matrices[m].cols, .rows = matrices[m].rows};
        SHOAL_TRY(load_matrix(model, gguf, &w, matrices[m].slot, err));
    }
    for (size_t v = 0; v < SHOAL_COUNT(vectors); v++) {
        (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", i, vectors[v].suffix);
        want w = {.name = name, .n_dims = 1, .cols = hp->dim, .rows = 1};
        SHOAL_TRY(load_vector(model, gguf, &w, vectors[v].slot, err));
    }
    return SHOAL_OK;
}

static shoal_status load_weights(shoal_model *model, const shoal_gguf *gguf, shoal_err *err)
{
    const shoal_hparams *hp = &model->hp;
    want embed = {"token_embd.weight", 2, hp->dim, hp->n_vocab};
    want norm = {"output_norm.weight", 1, hp->dim, 1};
    want output = {"output.weight", 2, hp->dim, hp->n_vocab};
    SHOAL_TRY(load_matrix(model, gguf, &embed, &model->embed, err));
    SHOAL_TRY(load_vector(model, gguf, &norm, &model->out_norm, err));
    model->hp.tied = !shoal_gguf_find_tensor(gguf, output.name);
    if (!model->hp.tied) {
        SHOAL_TRY(load_matrix(model, gguf, &output, &model->output, err));
    }
    model->layers = shoal_calloc(hp->n_layers, sizeof *model->layers);
    if (!model->layers) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu layers", hp->n_layers);
    }
    for (size_t i = 0; i < hp->n_layers; i++) {
        SHOAL_TRY(load_layer(model, gguf, i, err));
    }
    return SHOAL_OK;
}

/* The identity of the results (R9): the numbers that shape them and every tensor's name, type,
 * shape and bytes, in file order. The tokenizer has a hash of its own. */
static shoal_status hash_model(shoal_model *model, const shoal_gguf *gguf)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    const shoal_hparams *hp = &model->hp;
    char shape[256];
    int n =
        snprintf(shape, sizeof shape, "shoal-model-1 %s %zu %zu %zu %zu %zu %zu %zu %zu %a %a",
                 hp->arch, hp->n_vocab, hp->dim, hp->n_layers, hp->n_heads, hp->n_kv_heads,
                 hp->head_dim, hp->rope_dim, hp->ffn, (double)hp->rope_base, (double)hp->norm_eps);
    shoal_hasher_update_field(hasher, shape, (size_t)n);
    uint64_t bytes[32] = {0}; /* by tensor type, for main_type */
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_hasher_update_field(hasher, t->name.data, t->name.length);
        n = snprintf(shape, sizeof shape, "%d %llu %llu %llu %llu", (int)t->type,
                     (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                     (unsigned long long)t->dims[2], (unsigned long long)t->dims[3]);
        shoal_hasher_update_field(hasher, shape, (size_t)n);
        shoal_hasher_update_field(hasher, t->data, t->size_bytes);
        bytes[(size_t)t->type % SHOAL_COUNT(bytes)] += t->size_bytes;
        if (bytes[(size_t)t->type % SHOAL_COUNT(bytes)] >
            bytes[(size_t)model->main_type % SHOAL_COUNT(bytes)]) {
            model->main_type = t->type;
        }
    }
    shoal_hasher_finish(hasher, &model->hash);
    return SHOAL_OK;
}

static shoal_status build(shoal_model *model, const shoal_gguf *gguf, shoal_err *err)
{
    SHOAL_TRY(shoal_hparams_read(gguf, &model->hp, err));
    SHOAL_TRY(shoal_tokenizer_new(gguf, &model->tokenizer, err));
    model->hp.n_vocab = shoal_tokenizer_n_vocab(model->tokenizer);
    SHOAL_TRY(load_weights(model, gguf, err));
    if (hash_model(model, gguf) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to hash the model");
    }
    return SHOAL_OK;
}

shoal_status shoal_model_new(const shoal_gguf *gguf, shoal_model **ret_model, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = shoal_calloc(1, sizeof *model);
    if (!model) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the model");
    }
    SHOAL_TRY(build(model, gguf, err));
    *ret_model = SHOAL_STEAL(model);
    return SHOAL_OK;
}

shoal_status shoal_model_load(const char *path, shoal_model **ret_model, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_TRY(shoal_map_open(path, &map, err));
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_status status = shoal_gguf_open(map.data, map.size, &gguf, err);
    if (status == SHOAL_OK) {
        status = shoal_model_new(gguf, ret_model, err);
    }
    if (status != SHOAL_OK) {
        const char *base = strrchr(path, '/');
        shoal_err_prefix(err, "model %s", base ? base + 1 : path);
        return status;
    }
    (*ret_model)->file_bytes = map.size;
    return SHOAL_OK;
}

void shoal_model_free(shoal_model *model)
{
    if (!model) {
        return;
    }
    for (size_t i = 0; model->layers && i < model->hp.n_layers; i++) {
        shoal_layer *layer = &model->layers[i];
        shoal_weight *weights[] = {layer->q,    layer->k,  layer->v,   layer->o,
                                   layer->gate, layer->up, layer->down};
        for (size_t w = 0; w < SHOAL_COUNT(weights); w++) {
            shoal_weight_free(weights[w]);
        }
        shoal_free(layer->attn_norm);
        shoal_free(layer->ffn_norm);
    }
    shoal_free(model->layers);
    shoal_weight_free(model->embed);
    shoal_weight_free(model->output);
    shoal_free(model->out_norm);
    shoal_tokenizer_free(model->tokenizer);
    shoal_free(model);
}

uint64_t shoal_model_bytes_per_token(const shoal_model *model)
{
    uint64_t bytes = shoal_weight_bytes(model->output ? model->output : model->embed);
    for (size_t i = 0; i < model->hp.n_layers; i++) {
        const shoal_layer *layer = &model->layers[i];
        const shoal_weight *weights[] = {layer->q,    layer->k,  layer->v,   layer->o,
                                         layer->gate, layer->up, layer->down};
        for (size_t w = 0; w < SHOAL_COUNT(weights); w++) {
            bytes += shoal_weight_bytes(weights[w]);
        }
        bytes += 2 * sizeof(float) * model->hp.dim;
    }
    return bytes;
}
