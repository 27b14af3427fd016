/* SPDX-License-Identifier: Apache-2.0
 *
 * A language model: hyper-parameters, weights and tokenizer from a GGUF, validated as a whole.
 * Immutable after load, shared by any number of engines and threads.
 */
#ifndef SHOAL_MODEL_MODEL_H
#define SHOAL_MODEL_MODEL_H

#include "common/base/hash.h"
#include "common/tensor/gguf.h"
#include "common/tokenizer/tokenizer.h"
#include "common/weight/weight.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_MODEL_LAYERS_MAX = 512,
    SHOAL_MODEL_DIM_MAX = 65536,
    SHOAL_MODEL_HEADS_MAX = 1024,
    SHOAL_MODEL_FFN_MAX = 1 << 20,
    SHOAL_MODEL_CTX_MAX = 1 << 22
};

typedef struct shoal_hparams {
    char arch[32];  /* "llama" */
    char name[128]; /* for people, escaped */
    size_t n_vocab;
    size_t n_ctx; /* trained context, tokens */
    size_t dim;   /* width of the residual stream */
    size_t n_layers;
    size_t n_heads;    /* query heads */
    size_t n_kv_heads; /* divides n_heads */
    size_t head_dim;   /* even */
    size_t rope_dim;   /* rotated channels of a head, even, at most head_dim */
    size_t ffn;        /* hidden width of the feed-forward */
    float rope_base;
    float norm_eps;
    bool tied; /* output matrix is the embedding */
} shoal_hparams;

typedef struct shoal_layer {
    float *attn_norm;   /* (dim) */
    shoal_weight *q;    /* (n_heads * head_dim, dim) */
    shoal_weight *k;    /* (n_kv_heads * head_dim, dim) */
    shoal_weight *v;    /* (n_kv_heads * head_dim, dim) */
    shoal_weight *o;    /* (dim, n_heads * head_dim) */
    float *ffn_norm;    /* (dim) */
    shoal_weight *gate; /* (ffn, dim) */
    shoal_weight *up;   /* (ffn, dim) */
    shoal_weight *down; /* (dim, ffn) */
} shoal_layer;

typedef struct shoal_model {
    shoal_hparams hp;
    shoal_weight *embed;  /* (n_vocab, dim) */
    float *out_norm;      /* (dim) */
    shoal_weight *output; /* (n_vocab, dim); NULL when tied */
    shoal_layer *layers;  /* (n_layers) */
    shoal_tokenizer *tokenizer;
    shoal_hash hash; /* over metadata that changes results, and every tensor (R9) */
    uint64_t file_bytes;
    uint64_t n_params;
    shoal_type main_type; /* type of most weight bytes */
} shoal_model;

/* Loads path (memory-mapped for the load only). Errors name file, key or tensor, value, limit. */
shoal_status shoal_model_load(const char *path, shoal_model **ret_model,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* From an open reader; its bytes are not needed afterwards. */
shoal_status shoal_model_new(const shoal_gguf *gguf, shoal_model **ret_model,
                             shoal_err *err) SHOAL_MUST_CHECK;
void shoal_model_free(shoal_model *model);
SHOAL_DEFINE_CLEANUP(shoal_model, shoal_model_free)

/* Bytes of weights one decoded token reads. */
uint64_t shoal_model_bytes_per_token(const shoal_model *model);

#endif
