/* SPDX-License-Identifier: Apache-2.0
 *
 * An adapter's pairs put to the weights of a model: names to weights, shapes, products.
 */
#include "common/model/lora.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WEIGHTS_MAX = 3 /* that one tensor of a file is */
};

struct shoal_lora {
    const shoal_model *model;
    shoal_lora_part *parts; /* by address of their base */
    size_t n_parts;
    size_t n_pairs;
    size_t rank;
    shoal_hash hash;
};

/* --- names to weights ------------------------------------------------------------------------ */

typedef enum condition {
    ALWAYS,
    APART,   /* q, k and v are tensors of their own */
    FUSED,   /* they are one */
    Q_WHOLE, /* apart, and queries come from the stream */
    Q_LOW    /* queries come from a compressed form */
} condition;

#define AT(field) offsetof(shoal_layer, field)

/* Tensors of a layer that are linear layers of the forward pass, as one weight or several. */
static const struct {
    const char *suffix;
    condition when;
    size_t n;
    size_t offsets[WEIGHTS_MAX]; /* of the weights, in the order of the tensor's rows */
} places[] = {
    {"attn_qkv.weight", FUSED, 3, {AT(q), AT(k), AT(v)}},
    {"attn_q.weight", Q_WHOLE, 1, {AT(q)}},
    {"attn_k.weight", APART, 1, {AT(k)}},
    {"attn_v.weight", APART, 1, {AT(v)}},
    {"attn_q_a.weight", Q_LOW, 1, {AT(latent.q_a)}},
    {"attn_q_b.weight", Q_LOW, 1, {AT(q)}},
    {"attn_kv_a_mqa.weight", ALWAYS, 1, {AT(latent.kv_a)}},
    {"attn_kv_b.weight", ALWAYS, 1, {AT(latent.kv_b)}},
    {"attn_output.weight", ALWAYS, 1, {AT(o)}},
    {"ffn_gate.weight", APART, 1, {AT(gate)}},
    {"ffn_up.weight", APART, 1, {AT(up)}},
    {"ffn_up.weight", FUSED, 2, {AT(gate), AT(up)}},
    {"ffn_down.weight", ALWAYS, 1, {AT(down)}},
    {"ffn_gate_inp.weight", ALWAYS, 1, {AT(experts.router)}},
    {"ffn_gate_shexp.weight", ALWAYS, 1, {AT(experts.shared_gate)}},
    {"ffn_up_shexp.weight", ALWAYS, 1, {AT(experts.shared_up)}},
    {"ffn_down_shexp.weight", ALWAYS, 1, {AT(experts.shared_down)}},
};

static bool holds(const shoal_model *model, const shoal_layer *layer, condition when)
{
    bool fused = (model->hp.row->flags & SHOAL_ARCH_FUSED) != 0;
    switch (when) {
    case APART:
        return !fused;
    case FUSED:
        return fused;
    case Q_WHOLE:
        return !fused && !layer->latent.q_a;
    case Q_LOW:
        return layer->latent.q_a != NULL;
    case ALWAYS:
        break;
    }
    return true;
}

/* The layer that "blk.<i>." names, and what follows; NULL when it names none. */
static const shoal_layer *layer_of(const shoal_model *model, const char *name,
                                   const char **ret_suffix)
{
    size_t i = 0;
    const char *at = name + 4;
    if (strncmp(name, "blk.", 4) != 0 || *at < '0' || *at > '9') {
        return NULL;
    }
    if (*at == '0' && at[1] != '.') {
        return NULL; /* a second name of a layer would adapt it twice */
    }
    for (; *at >= '0' && *at <= '9' && i < model->hp.n_layers; at++) {
        i = i * 10 + (size_t)(*at - '0');
    }
    *ret_suffix = at + 1;
    return *at == '.' && i < model->hp.n_layers ? &model->layers[i] : NULL;
}

/* The weights a tensor is; their number, 0 when no product reads it as it is. */
static size_t weights_of(const shoal_model *model, const char *name,
                         const shoal_weight *ret_weights[WEIGHTS_MAX])
{
    const char *suffix = NULL;
    const shoal_layer *layer = layer_of(model, name, &suffix);
    if (!layer) {
        ret_weights[0] = strcmp(name, "output.weight") == 0 ? model->output : NULL;
        return ret_weights[0] ? 1 : 0;
    }
    for (size_t p = 0; p < SHOAL_COUNT(places); p++) {
        if (strcmp(suffix, places[p].suffix) != 0 || !holds(model, layer, places[p].when)) {
            continue;
        }
        for (size_t i = 0; i < places[p].n; i++) {
            memcpy(&ret_weights[i], (const char *)layer + places[p].offsets[i],
                   sizeof ret_weights[i]);
        }
        return ret_weights[0] ? places[p].n : 0;
    }
    return 0;
}

/* --- loading --------------------------------------------------------------------------------- */

static shoal_status check_base(const shoal_lora *lora, const shoal_lora_pair *p,
                               const shoal_weight *weights[WEIGHTS_MAX], size_t *ret_n,
                               shoal_err *err)
{
    size_t n = weights_of(lora->model, p->base, weights);
    uint64_t n_rows = 0;
    if (n == 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.100s.lora_a: the model has no linear layer %.60s that can "
                             "be adapted as it runs",
                             p->base, p->base);
    }
    for (size_t i = 0; i < n; i++) {
        n_rows += shoal_weight_n_rows(weights[i]);
    }
    uint64_t k = shoal_weight_k(weights[0]);
    if (p->a->dims[0] != k || p->b->dims[1] != n_rows) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %.100s.lora_a: the pair is for %llu x %llu, the model's "
                             "tensor is %llu x %llu",
                             p->base, (unsigned long long)p->a->dims[0],
                             (unsigned long long)p->b->dims[1], (unsigned long long)k,
                             (unsigned long long)n_rows);
    }
    *ret_n = n;
    return SHOAL_OK;
}

/* Parts are counted as they come, so that what a failed one has is freed with the adapter. */
static shoal_status add_pair(shoal_lora *lora, const shoal_gguf *gguf, const shoal_lora_pair *p,
                             shoal_err *err)
{
    const shoal_weight *weights[WEIGHTS_MAX] = {NULL};
    shoal_weight *a = NULL;
    size_t n = 0;
    size_t row = 0;
    size_t rank = (size_t)p->a->dims[1];
    SHOAL_TRY(check_base(lora, p, weights, &n, err));
    for (size_t i = 0; i < n; i++) {
        shoal_lora_part *part = &lora->parts[lora->n_parts++];
        size_t n_rows = shoal_weight_n_rows(weights[i]);
        if (i == 0) {
            SHOAL_TRY(shoal_weight_load(gguf, p->a, 0, rank, NULL, &a, err));
        }
        *part =
            (shoal_lora_part){.base = weights[i], .a = a, .scale = p->scale, .borrows_a = i > 0};
        SHOAL_TRY(shoal_weight_load(gguf, p->b, row, n_rows, NULL, &part->b, err));
        row += n_rows;
    }
    lora->rank = SHOAL_MAX(lora->rank, rank);
    return SHOAL_OK;
}

static void hash_tensor(shoal_hasher *hasher, const shoal_gguf_tensor *t)
{
    char shape[96];
    int n = snprintf(shape, sizeof shape, "%d %llu %llu", (int)t->type,
                     (unsigned long long)t->dims[0], (unsigned long long)t->dims[1]);
    shoal_hasher_update_field(hasher, shape, (size_t)n);
    shoal_hasher_update_field(hasher, t->data, (size_t)t->size_bytes);
}

static shoal_status hash_pairs(shoal_lora *lora, const shoal_lora_file *file, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to hash the adapter");
    }
    for (size_t i = 0; i < file->n_pairs; i++) {
        const shoal_lora_pair *p = &file->pairs[i];
        char text[SHOAL_GGUF_NAME_MAX + 64];
        int n = snprintf(text, sizeof text, "shoal-lora-1 %s %a", p->base, (double)p->scale);
        shoal_hasher_update_field(hasher, text, (size_t)n);
        hash_tensor(hasher, p->a);
        hash_tensor(hasher, p->b);
    }
    shoal_hasher_finish(hasher, &lora->hash);
    return SHOAL_OK;
}

static int by_base(const void *x, const void *y)
{
    uintptr_t a = (uintptr_t)((const shoal_lora_part *)x)->base;
    uintptr_t b = (uintptr_t)((const shoal_lora_part *)y)->base;
    return a < b ? -1 : a > b;
}

shoal_status shoal_lora_new(const shoal_model *model, const shoal_gguf *gguf, float strength,
                            shoal_lora **ret_lora, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_lora_file_fini) shoal_lora_file file = {0};
    SHOAL_CLEANUP(shoal_lora_freep) shoal_lora *lora = NULL;
    SHOAL_TRY(shoal_lora_file_read(gguf, model->hp.arch, strength, &file, err));
    lora = shoal_calloc(1, sizeof *lora);
    if (!lora) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the adapter");
    }
    lora->model = model;
    lora->n_pairs = file.n_pairs;
    lora->parts = shoal_calloc(file.n_pairs * WEIGHTS_MAX, sizeof *lora->parts);
    if (!lora->parts) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the adapter");
    }
    for (size_t i = 0; i < file.n_pairs; i++) {
        SHOAL_TRY(add_pair(lora, gguf, &file.pairs[i], err));
    }
    SHOAL_TRY(hash_pairs(lora, &file, err));
    qsort(lora->parts, lora->n_parts, sizeof *lora->parts, by_base);
    *ret_lora = SHOAL_STEAL(lora);
    return SHOAL_OK;
}

static shoal_status load(const shoal_model *model, const char *path, float strength,
                         shoal_lora **ret_lora, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_map_open(path, &map, err));
    SHOAL_TRY(shoal_gguf_open(map.data, map.size, &gguf, err));
    return shoal_lora_new(model, gguf, strength, ret_lora, err);
}

shoal_status shoal_lora_load(const shoal_model *model, const char *path, float strength,
                             shoal_lora **ret_lora, shoal_err *err)
{
    shoal_status status = load(model, path, strength, ret_lora, err);
    if (status != SHOAL_OK) {
        const char *base = strrchr(path, '/');
        shoal_err_prefix(err, "adapter %s", base ? base + 1 : path);
    }
    return status;
}

void shoal_lora_free(shoal_lora *lora)
{
    if (!lora) {
        return;
    }
    for (size_t i = 0; lora->parts && i < lora->n_parts; i++) {
        if (!lora->parts[i].borrows_a) {
            shoal_weight_free(lora->parts[i].a);
        }
        shoal_weight_free(lora->parts[i].b);
    }
    shoal_free(lora->parts);
    shoal_free(lora);
}

const shoal_model *shoal_lora_model(const shoal_lora *lora)
{
    return lora->model;
}

size_t shoal_lora_rank(const shoal_lora *lora)
{
    return lora->rank;
}

size_t shoal_lora_n_pairs(const shoal_lora *lora)
{
    return lora->n_pairs;
}

shoal_hash shoal_lora_hash(const shoal_lora *lora)
{
    return lora->hash;
}

const shoal_lora_part *shoal_lora_find(const shoal_lora *lora, const shoal_weight *base)
{
    const shoal_lora_part key = {.base = base};
    return bsearch(&key, lora->parts, lora->n_parts, sizeof key, by_base);
}
