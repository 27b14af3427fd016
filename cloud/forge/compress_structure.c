/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/compress_structure.h"

#include "common/base/mem.h"
#include "common/compress/structure.h"
#include "common/weight/pack.h"
#include "common/weight/sides.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- which tensors hang together -------------------------------------------------------------- */

bool shoal_forge_structure_name(const char *name, size_t *ret_layer, const char **ret_suffix)
{
    static const char prefix[] = "blk.";
    char *end = NULL;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) {
        return false;
    }
    const char *digits = name + sizeof prefix - 1;
    unsigned long layer = strtoul(digits, &end, 10);
    if (end == digits || *end != '.' || layer >= SHOAL_MODEL_LAYERS_MAX) {
        return false;
    }
    *ret_layer = layer;
    *ret_suffix = end + 1;
    return true;
}

size_t shoal_forge_structure_n(const shoal_hparams *hp, structure_unit unit)
{
    return unit == STRUCTURE_NEURON  ? hp->ffn
           : unit == STRUCTURE_QUERY ? hp->n_heads
           : unit == STRUCTURE_KEY   ? hp->n_kv_heads
                                     : 0;
}

structure_parts shoal_forge_structure_parts(const shoal_hparams *hp, bool fused, const char *suffix)
{
    const structure_axis neuron = {STRUCTURE_NEURON, 1};
    const structure_axis query = {STRUCTURE_QUERY, hp->head_dim};
    const structure_axis key = {STRUCTURE_KEY, hp->head_dim};
    const structure_axis value = {STRUCTURE_KEY, hp->value_dim};
    const struct {
        const char *suffix;
        structure_parts parts;
    } table[] = {
        {"attn_q.weight", {.rows = {query}, .n_rows = 1}},
        {"attn_k.weight", {.rows = {key}, .n_rows = 1}},
        {"attn_v.weight", {.rows = {value}, .n_rows = 1}},
        {"attn_q.bias", {.rows = {query}, .n_rows = 1}},
        {"attn_k.bias", {.rows = {key}, .n_rows = 1}},
        {"attn_v.bias", {.rows = {value}, .n_rows = 1}},
        {"attn_qkv.weight", {.rows = {query, key, value}, .n_rows = 3}},
        {"attn_output.weight", {.cols = {STRUCTURE_QUERY, hp->value_dim}}},
        {"ffn_gate.weight", {.rows = {neuron}, .n_rows = 1}},
        {"ffn_up.weight", {.rows = {neuron, neuron}, .n_rows = fused ? 2 : 1}},
        {"ffn_down.weight", {.cols = neuron}},
    };
    for (size_t i = 0; i < SHOAL_COUNT(table); i++) {
        if (strcmp(suffix, table[i].suffix) == 0) {
            return table[i].parts;
        }
    }
    return (structure_parts){.n_rows = 0};
}

/* --- how many go ------------------------------------------------------------------------------ */

/* Of n, what is left when a share goes: a multiple of one, at least it. */
static size_t left_of(size_t n, double share, size_t multiple)
{
    double left = round((1 - share) * (double)n / (double)multiple);
    return SHOAL_MAX((size_t)left, (size_t)1) * multiple;
}

static shoal_status refuse_share(const char *key, double share, size_t n, const char *what,
                                 size_t multiple, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "structure.%s: %g of %zu %s is none of them, or all: what stays is a "
                         "multiple of %zu below that",
                         key, share, n, what, multiple);
}

static shoal_status count(const compress_run *run, compress_structure *s, shoal_err *err)
{
    const forge_recipe_structure *r = &run->recipe->structure;
    const shoal_hparams *hp = &s->hp;
    size_t n_readers = hp->n_heads / hp->n_kv_heads;
    bool heads = r->groups > 0 || r->queries > 0;
    if ((r->neurons > 0 && hp->moe.n_experts > 0) || (heads && hp->mla.rank > 0)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "structure: neurons of experts and heads of latent attention are not "
                             "pruned (architecture %s)",
                             hp->arch);
    }
    s->ffn = r->neurons > 0 ? left_of(hp->ffn, r->neurons, r->multiple) : hp->ffn;
    s->n_kv_heads = r->groups > 0 ? left_of(hp->n_kv_heads, r->groups, 1) : hp->n_kv_heads;
    s->n_heads = s->n_kv_heads * n_readers;
    if (r->queries > 0) {
        s->n_heads = hp->n_kv_heads * left_of(n_readers, r->queries, 1);
    }
    if (r->neurons > 0 && s->ffn >= hp->ffn) {
        return refuse_share("neurons", r->neurons, hp->ffn, "neurons", r->multiple, err);
    }
    if (r->groups > 0 && s->n_kv_heads == hp->n_kv_heads) {
        return refuse_share("groups", r->groups, hp->n_kv_heads, "KV heads", 1, err);
    }
    if (r->queries > 0 && s->n_heads == hp->n_heads) {
        return refuse_share("queries", r->queries, n_readers, "query heads of a KV head", 1, err);
    }
    return SHOAL_OK;
}

/* --- which go --------------------------------------------------------------------------------- */

/* A layer's matrix that reads units. */
typedef struct reader {
    shoal_problem *problem;
    float *w;
} reader;

static void reader_fini(reader *r)
{
    shoal_problem_free(r->problem);
    shoal_free(r->w);
}

static shoal_status reader_init(const compress_run *run, size_t layer, const char *suffix,
                                size_t n_rows, size_t k, reader *r, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%zu.%s", layer, suffix);
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(run->gguf, name);
    const float *moment = NULL;
    for (size_t i = 0; i < shoal_moments_n_layers(run->moments); i++) {
        const shoal_moments_layer *l = shoal_moments_layer_at(run->moments, i);
        shoal_moments_input in = shoal_moments_input_at(run->moments, l->input);
        moment = strcmp(l->name, name) == 0 && in.k == k ? in.moment : moment;
    }
    if (!t || !moment) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "%s: the moments have no layer of %zu elements of this name: run "
                             "calibrate-weights with this model",
                             name, k);
    }
    if (k > SHOAL_COMPRESS_SIDE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s: rows of %zu elements, a pass takes %d at most", name, k,
                             SHOAL_COMPRESS_SIDE_MAX);
    }
    r->w = shoal_calloc(n_rows * k, sizeof *r->w);
    if (!r->w) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for %zu rows", name, n_rows);
    }
    shoal_weight_decode(t->type, t->data, n_rows * k, r->w);
    return shoal_problem_new(n_rows, k, r->w, moment, &r->problem, err);
}

/* Chooses, and leaves in *ret_w what is left, where that was fitted. */
static shoal_status choose(reader *r, const shoal_structure *structure, const double *importance,
                           bool *gone, float **ret_w, double *ret_error, shoal_err *err)
{
    SHOAL_TRY(shoal_structure_remove(r->problem, structure, importance, gone, r->w, err));
    if (shoal_problem_error(r->problem, r->w, ret_error) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge a layer");
    }
    *ret_w = structure->refit ? SHOAL_STEAL(r->w) : NULL;
    return SHOAL_OK;
}

static shoal_status prune_neurons(const compress_run *run, const compress_structure *s,
                                  size_t layer, shoal_err *err)
{
    SHOAL_CLEANUP(reader_fini) reader r = {0};
    const shoal_hparams *hp = &s->hp;
    compress_structure_layer *l = &s->layers[layer];
    const double *importance =
        s->importance ? s->importance + layer * shoal_forge_structure_units(hp) : NULL;
    const shoal_structure neurons = {.width = 1,
                                     .n_class = hp->ffn,
                                     .n_gone = hp->ffn - s->ffn,
                                     .refit = run->recipe->structure.refit};
    SHOAL_TRY(reader_init(run, layer, "ffn_down.weight", hp->dim, hp->ffn, &r, err));
    return choose(&r, &neurons, importance, l->neurons, &l->down, &l->ffn_error, err);
}

/* A group is a KV head with its readers, or one query head; with KV heads all readers of one go. */
static shoal_status prune_heads(const compress_run *run, const compress_structure *s, size_t layer,
                                shoal_err *err)
{
    SHOAL_CLEANUP(reader_fini) reader r = {0};
    const shoal_hparams *hp = &s->hp;
    compress_structure_layer *l = &s->layers[layer];
    bool whole = s->n_kv_heads < hp->n_kv_heads;
    size_t n_readers = hp->n_heads / hp->n_kv_heads;
    size_t n_groups = whole ? hp->n_kv_heads : hp->n_heads;
    const shoal_structure heads = {.width = (whole ? n_readers : 1) * hp->value_dim,
                                   .n_class = whole ? hp->n_kv_heads : n_readers,
                                   .n_gone = whole ? hp->n_kv_heads - s->n_kv_heads
                                                   : (hp->n_heads - s->n_heads) / hp->n_kv_heads,
                                   .refit = run->recipe->structure.refit};
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *importance = shoal_calloc(n_groups, sizeof *importance);
    if (!importance) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu heads", n_groups);
    }
    for (size_t head = 0; s->importance && head < hp->n_heads; head++) {
        const double *units = s->importance + layer * shoal_forge_structure_units(hp) + hp->ffn;
        size_t group = whole ? head / n_readers : head;
        bool first = whole && head % n_readers == 0;
        importance[group] += units[head] + (first ? units[hp->n_heads + group] : 0);
    }
    SHOAL_TRY(reader_init(run, layer, "attn_output.weight", hp->dim, hp->n_heads * hp->value_dim,
                          &r, err));
    SHOAL_TRY(choose(&r, &heads, s->importance ? importance : NULL, whole ? l->keys : l->queries,
                     &l->output, &l->attention_error, err));
    for (size_t head = 0; whole && head < hp->n_heads; head++) {
        l->queries[head] = l->keys[head / n_readers];
    }
    return SHOAL_OK;
}

static void prune_part(void *ctx, size_t part_i, size_t worker_i)
{
    compress_run *run = ctx;
    const compress_structure *s = run->structure;
    compress_structure_layer *l = &s->layers[part_i];
    (void)worker_i;
    if (s->ffn < s->hp.ffn) {
        l->status = prune_neurons(run, s, part_i, &l->err);
    }
    if (l->status == SHOAL_OK && s->n_heads < s->hp.n_heads) {
        l->status = prune_heads(run, s, part_i, &l->err);
    }
}

/* --- the whole -------------------------------------------------------------------------------- */

/* What would be cut apart wrongly. */
static shoal_status check_input(const compress_run *run, shoal_err *err)
{
    shoal_str text;
    bool sides = shoal_gguf_get_str(run->gguf, SHOAL_SIDES_KEY, &text, NULL) == SHOAL_OK;
    if (shoal_pack_is_packed(run->gguf) || sides) {
        return shoal_err_set(
            err, SHOAL_E_UNSUPPORTED,
            "structure: the model is %s: prune the plain one that it was made from",
            sides ? "compressed already, with parts beside its matrices" : "packed");
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(run->gguf); i++) {
        if (shoal_gguf_tensor_at(run->gguf, i)->type == SHOAL_TYPE_I8) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "structure: FP8 is scaled by tiles of rows and columns, which "
                                 "cannot be taken apart: convert it first");
        }
    }
    return SHOAL_OK;
}

static shoal_status structure_new(compress_run *run, const shoal_model *model, shoal_err *err)
{
    const shoal_hparams *hp = &model->hp;
    bool ok = true;
    compress_structure *s = shoal_calloc(1, sizeof *s);
    run->structure = s;
    if (s) {
        s->hp = *hp;
        s->layers = shoal_calloc(hp->n_layers, sizeof *s->layers);
    }
    for (size_t i = 0; s && s->layers && i < hp->n_layers; i++) {
        compress_structure_layer *l = &s->layers[i];
        l->neurons = shoal_calloc(hp->ffn, sizeof *l->neurons);
        l->queries = shoal_calloc(hp->n_heads, sizeof *l->queries);
        l->keys = shoal_calloc(hp->n_kv_heads, sizeof *l->keys);
        ok = ok && l->neurons && l->queries && l->keys;
    }
    return s && s->layers && ok
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu layers", hp->n_layers);
}

void shoal_forge_structure_free(compress_structure *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; s->layers && i < s->hp.n_layers; i++) {
        shoal_free(s->layers[i].neurons);
        shoal_free(s->layers[i].queries);
        shoal_free(s->layers[i].keys);
        shoal_free(s->layers[i].down);
        shoal_free(s->layers[i].output);
    }
    shoal_free(s->layers);
    shoal_free(s->importance);
    shoal_buf_fini(&s->image);
    shoal_free(s);
}

static shoal_status first_error(const compress_structure *s, shoal_err *err)
{
    for (size_t i = 0; i < s->hp.n_layers; i++) {
        const compress_structure_layer *l = &s->layers[i];
        if (l->status != SHOAL_OK) {
            return shoal_err_set(err, l->status, "structure: layer %zu: %s", i,
                                 l->err.text[0] ? l->err.text : shoal_status_text(l->status));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_structure_run(compress_run *run, const shoal_model *model, shoal_err *err)
{
    const shoal_hparams *hp = &model->hp;
    SHOAL_TRY(check_input(run, err));
    SHOAL_TRY(structure_new(run, model, err));
    compress_structure *s = run->structure;
    SHOAL_TRY(count(run, s, err));
    if (run->recipe->structure.gradient) {
        SHOAL_TRY(shoal_forge_need(run->args->compress.along, "--along FILE", err));
        s->importance =
            shoal_calloc(hp->n_layers * shoal_forge_structure_units(hp), sizeof *s->importance);
        if (!s->importance) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for importances");
        }
        SHOAL_TRY(shoal_forge_structure_gradient(run->args, model, s->importance, err));
    }
    shoal_pool_run(run->pool, prune_part, run, hp->n_layers);
    SHOAL_TRY(first_error(s, err));
    return shoal_forge_structure_cut(run, s, err);
}
