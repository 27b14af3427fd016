/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/model_internal.h"

#include "common/base/mem.h"
#include "common/weight/pack.h"

#include <stdio.h>
#include <string.h>

enum {
    LOAD_THREADS_MAX = 16,
    LOAD_THREAD_BYTES = 1 << 18 /* a thread is worth starting for as many bytes of weights */
};

/* The numbers that shape results, as the reader resolved them. */
static void hash_numbers(shoal_hasher *hasher, const shoal_model *model)
{
    const shoal_hparams *hp = &model->hp;
    const shoal_moe *moe = &hp->moe;
    char text[512];
    int n = snprintf(
        text, sizeof text, "shoal-model-2 %s %zu %zu %zu %zu %zu %zu %zu %zu %zu %a %a %a %a %a",
        hp->arch, hp->n_vocab, hp->dim, hp->n_layers, hp->n_heads, hp->n_kv_heads, hp->head_dim,
        hp->value_dim, hp->rope_dim, hp->ffn, (double)hp->norm_eps, (double)hp->attn_scale,
        (double)hp->attn_softcap, (double)hp->final_softcap, (double)hp->embed_scale);
    shoal_hasher_update_field(hasher, text, (size_t)n);
    n = snprintf(text, sizeof text, "%zu %zu %zu %zu %zu %zu %zu %d %d %a %zu %zu %zu %d",
                 moe->n_experts, moe->n_used, moe->n_dense, moe->ffn, moe->ffn_shared,
                 moe->n_groups, moe->n_groups_used, moe->sigmoid, moe->norm_weights,
                 (double)moe->scale, hp->mla.rank, hp->mla.q_rank, hp->mla.plain, hp->mla.expanded);
    shoal_hasher_update_field(hasher, text, (size_t)n);
    for (size_t i = 0; i < hp->n_layers; i++) {
        n = snprintf(text, sizeof text, "%zu", hp->windows[i]);
        shoal_hasher_update_field(hasher, text, (size_t)n);
    }
    for (size_t r = 0; r < SHOAL_COUNT(model->rope); r++) {
        for (size_t i = 0; model->rope[r].freq && i < hp->rope_dim / 2; i++) {
            n = snprintf(text, sizeof text, "%a %a", model->rope[r].freq[i],
                         model->rope[r].magnitude);
            shoal_hasher_update_field(hasher, text, (size_t)n);
        }
    }
}

/* The identity of the results (R9): the numbers that shape them and every tensor's name, type,
 * shape and digest, in file order. The tokenizer has a hash of its own. */
static shoal_status hash_model(shoal_model *model, const shoal_gguf *gguf, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to hash the model");
    }
    hash_numbers(hasher, model);
    uint64_t bytes[SHOAL_TYPES_END] = {0}; /* by tensor type, for main_type */
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char shape[128];
        int n = snprintf(shape, sizeof shape, "%d %llu %llu %llu %llu", (int)t->type,
                         (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                         (unsigned long long)t->dims[2], (unsigned long long)t->dims[3]);
        shoal_hasher_update_field(hasher, t->name.data, t->name.length);
        shoal_hasher_update_field(hasher, shape, (size_t)n);
        shoal_hash digest;
        SHOAL_TRY(shoal_pack_digest(gguf, t, model->builders, &digest, err));
        shoal_hasher_update_field(hasher, &digest, sizeof digest);
        bytes[t->type] += t->size_bytes;
        if (bytes[t->type] > bytes[model->main_type]) {
            model->main_type = t->type;
        }
    }
    shoal_hasher_finish(hasher, &model->hash);
    return SHOAL_OK;
}

/* The job of these weights comes after the one that begins with *last (NULL: not known) and is the
 * last now. */
static void follow(shoal_weight **last, shoal_weight *const *weights, size_t n)
{
    const shoal_weight *next[SHOAL_PRODUCTS_MAX];
    for (size_t i = 0; i < n; i++) {
        next[i] = weights[i];
    }
    if (*last) {
        shoal_weight_set_next(*last, next, n);
    }
    *last = weights[0];
}

/* Tells each weight what a token reads after it, as forward.c goes through them. Latent attention
 * and experts have jobs that are too small, or too many, to foretell. */
static void tell_order(shoal_model *model)
{
    shoal_weight *output = model->output ? model->output : model->embed;
    shoal_weight *last = output;
    for (size_t i = 0; i < model->hp.n_layers; i++) {
        shoal_layer *layer = &model->layers[i];
        if (model->hp.mla.rank > 0) {
            last = NULL;
        } else {
            follow(&last, (shoal_weight *[]){layer->q, layer->k, layer->v}, 3);
        }
        follow(&last, &layer->o, 1);
        if (layer->experts.router) {
            last = NULL;
        } else {
            follow(&last, (shoal_weight *[]){layer->gate, layer->up}, 2);
            follow(&last, &layer->down, 1);
        }
    }
    follow(&last, &output, 1);
}

static shoal_status build(shoal_model *model, const shoal_gguf *gguf, bool expanded, shoal_err *err)
{
    SHOAL_TRY(shoal_hparams_read(gguf, expanded, &model->hp, err));
    SHOAL_TRY(shoal_tokenizer_new(gguf, &model->tokenizer, err));
    model->hp.n_vocab = shoal_tokenizer_n_vocab(model->tokenizer);
    SHOAL_CLEANUP(shoal_free_cleanup)
    bool *used = shoal_calloc(shoal_gguf_n_tensors(gguf) + 1, sizeof *used);
    if (!used) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the model");
    }
    SHOAL_TRY(shoal_rope_read(model, gguf, used, err));
    SHOAL_TRY(shoal_exits_read_norms(model, gguf, err));
    SHOAL_TRY(shoal_pack_check(gguf, model->builders, err));
    SHOAL_TRY(shoal_tensors_load(model, gguf, used, err));
    tell_order(model);
    return hash_model(model, gguf, err);
}

static size_t load_threads(const shoal_gguf *gguf)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        bytes += shoal_gguf_tensor_at(gguf, i)->size_bytes;
    }
    size_t n = SHOAL_MIN(shoal_pool_n_cpus(), (size_t)LOAD_THREADS_MAX);
    return (size_t)SHOAL_MIN((uint64_t)n, 1 + bytes / LOAD_THREAD_BYTES);
}

static shoal_status new_model(const shoal_gguf *gguf, bool expanded, shoal_model **ret_model,
                              shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = shoal_calloc(1, sizeof *model);
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *builders = NULL;
    if (!model || shoal_pool_new(load_threads(gguf), &builders) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory, or no thread, for the model");
    }
    model->builders = builders;
    SHOAL_TRY(build(model, gguf, expanded, err));
    model->builders = NULL;
    *ret_model = SHOAL_STEAL(model);
    return SHOAL_OK;
}

shoal_status shoal_model_new(const shoal_gguf *gguf, shoal_model **ret_model, shoal_err *err)
{
    return new_model(gguf, false, ret_model, err);
}

shoal_status shoal_model_new_expanded(const shoal_gguf *gguf, shoal_model **ret_model,
                                      shoal_err *err)
{
    return new_model(gguf, true, ret_model, err);
}

static shoal_status load(const shoal_map *map, shoal_model **ret_model, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_pack_open(map->data, map->size, &gguf, err));
    shoal_gguf_set_mapped(gguf);
    SHOAL_TRY(shoal_model_new(gguf, ret_model, err));
    (*ret_model)->packed = shoal_pack_is_packed(gguf);
    return SHOAL_OK;
}

shoal_status shoal_model_load(const char *path, shoal_model **ret_model, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_TRY(shoal_map_open(path, &map, err));
    shoal_status status = load(&map, ret_model, err);
    if (status != SHOAL_OK) {
        const char *base = strrchr(path, '/');
        shoal_err_prefix(err, "model %s", base ? base + 1 : path);
        return status;
    }
    (*ret_model)->file_bytes = map.size;
    if ((*ret_model)->packed) {
        (*ret_model)->map = map;
        map = (shoal_map){0};
    }
    return SHOAL_OK;
}

static void settle(void *ctx)
{
    shoal_model *model = ctx;
    (void)shoal_map_use_huge_pages(&model->map, &model->stop);
}

void shoal_model_start_huge_pages(shoal_model *model)
{
    if (model->packed && shoal_thread_start(SHOAL_ROLE_IO, "shoal-settle", settle, model,
                                            &model->settler) != SHOAL_OK) {
        model->settler = NULL;
    }
}

void shoal_model_wait_huge_pages(shoal_model *model)
{
    shoal_thread_join(model->settler);
    model->settler = NULL;
}

void shoal_model_free(shoal_model *model)
{
    if (!model) {
        return;
    }
    atomic_store(&model->stop, true);
    shoal_model_wait_huge_pages(model);
    for (size_t i = 0; model->layers && i < model->hp.n_layers; i++) {
        shoal_layer_fini(&model->layers[i], &model->hp);
    }
    shoal_free(model->layers);
    shoal_weight_free(model->embed);
    shoal_weight_free(model->output);
    shoal_free(model->out_norm);
    shoal_free(model->exit_norm);
    for (size_t r = 0; r < SHOAL_COUNT(model->rope); r++) {
        shoal_free(model->rope[r].freq);
    }
    shoal_tokenizer_free(model->tokenizer);
    shoal_map_close(&model->map);
    shoal_free(model);
}

shoal_kv_shape shoal_model_kv_shape(const shoal_hparams *hp, shoal_kv_type type)
{
    bool latent = hp->mla.rank > 0 && !hp->mla.expanded;
    return (shoal_kv_shape){
        .n_layers = hp->n_layers,
        .n_kv_heads = hp->n_kv_heads,
        .k_dim = latent ? hp->mla.rank + hp->rope_dim : hp->head_dim,
        .v_dim = latent ? hp->mla.rank : hp->value_dim,
        .type = type,
        .windows = hp->windows,
    };
}

/* --- what a token costs ---------------------------------------------------------------------- */

typedef struct cost {
    uint64_t bytes;
    uint64_t flops;
} cost;

static void count(cost *c, const shoal_weight *weight)
{
    if (weight) {
        c->bytes += shoal_weight_bytes(weight);
        c->flops += shoal_weight_flops(weight);
    }
}

/* The first n of a stack: they all have one shape. */
static void count_stack(cost *c, shoal_weight *const *weights, size_t n)
{
    for (size_t i = 0; weights && i < n; i++) {
        count(c, weights[i]);
    }
}

static cost cost_per_token(const shoal_model *model)
{
    cost c = {0};
    const shoal_hparams *hp = &model->hp;
    count(&c, model->output ? model->output : model->embed);
    for (size_t i = 0; i < hp->n_layers; i++) {
        const shoal_layer *layer = &model->layers[i];
        const shoal_experts *e = &layer->experts;
        const shoal_latent *latent = &layer->latent;
        const shoal_weight *weights[] = {layer->q,       layer->k,     layer->v,       layer->o,
                                         layer->gate,    layer->up,    layer->down,    e->router,
                                         e->shared_gate, e->shared_up, e->shared_down, latent->q_a,
                                         latent->kv_a,   latent->kv_b};
        for (size_t w = 0; w < SHOAL_COUNT(weights); w++) {
            count(&c, weights[w]);
        }
        count_stack(&c, e->gate, hp->moe.n_used);
        count_stack(&c, e->up, hp->moe.n_used);
        count_stack(&c, e->down, hp->moe.n_used);
        count_stack(&c, latent->k_b, hp->n_heads);
        count_stack(&c, latent->v_b, hp->n_heads);
    }
    return c;
}

uint64_t shoal_model_bytes_per_token(const shoal_model *model)
{
    return cost_per_token(model).bytes;
}

uint64_t shoal_model_flops_per_token(const shoal_model *model)
{
    return cost_per_token(model).flops;
}
