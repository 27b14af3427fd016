/* SPDX-License-Identifier: Apache-2.0
 *
 * A language model: hyper-parameters, weights and tokenizer from a GGUF, validated as a whole.
 * Immutable after load, shared by any number of engines and threads.
 */
#ifndef SHOAL_MODEL_MODEL_H
#define SHOAL_MODEL_MODEL_H

#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/thread.h"
#include "common/kv/kv.h"
#include "common/model/arch.h"
#include "common/tensor/gguf.h"
#include "common/tokenizer/tokenizer.h"
#include "common/weight/weight.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_MODEL_LAYERS_MAX = 512,
    SHOAL_MODEL_DIM_MAX = 65536,
    SHOAL_MODEL_HEADS_MAX = 1024,
    SHOAL_MODEL_FFN_MAX = 1 << 20,
    SHOAL_MODEL_CTX_MAX = 1 << 22,
    SHOAL_MODEL_EXPERTS_MAX = 1024,
    SHOAL_MODEL_EXPERTS_USED_MAX = 64,
    SHOAL_MODEL_LATENT_MAX = 16384, /* rank of a compressed query or key-value */
    SHOAL_MODEL_EXITS_MAX = 8
};

/* Exit heads in a file: i32 layer counts, ascending, and f32 norm weights, `dim` for each. */
#define SHOAL_EXIT_LAYERS_KEY "shoal.exit.layers"
#define SHOAL_EXIT_NORM_KEY   "shoal.exit.norm"

/* Mixture of experts: which experts a token visits, and with what weight. */
typedef struct shoal_moe {
    size_t n_experts;  /* 0: every layer is dense */
    size_t n_used;     /* experts of a token */
    size_t n_dense;    /* leading layers without experts */
    size_t ffn;        /* hidden width of an expert */
    size_t ffn_shared; /* hidden width of the expert of every token; 0: none */
    size_t n_groups; /* experts are chosen within n_groups_used of n_groups groups; 1: no groups */
    size_t n_groups_used;
    bool sigmoid;      /* scores are sigmoids, not a softmax */
    bool norm_weights; /* the weights of the chosen are divided by their sum */
    float scale;       /* and multiplied by this */
} shoal_moe;

/* Multi-head latent attention (2405.04434): a token's keys and values are products of one latent,
 * of which the cache keeps just that, its rotated part beside it. */
typedef struct shoal_mla {
    size_t rank;   /* of the latent; 0: the architecture has none */
    size_t q_rank; /* of the compressed query; 0: queries come from the stream */
    size_t plain;  /* channels of a head that are not rotated */
    bool expanded; /* the cache holds every head's keys and values: for comparison */
} shoal_mla;

typedef struct shoal_hparams {
    char arch[32];         /* "llama" */
    char name[128];        /* for people, escaped */
    const shoal_arch *row; /* of the table */
    size_t n_vocab;
    size_t n_ctx; /* trained context, tokens */
    size_t dim;   /* width of the residual stream */
    size_t n_layers;
    size_t n_heads;    /* query heads */
    size_t n_kv_heads; /* divides n_heads */
    size_t head_dim;   /* of queries and keys, even */
    size_t value_dim;  /* of values, even */
    size_t rope_dim;   /* rotated channels of a head, even, at most head_dim */
    size_t ffn;        /* hidden width of the dense feed-forward */
    float rope_base;
    float norm_eps;
    float attn_scale;    /* scores are multiplied by this */
    float attn_softcap;  /* 0: none */
    float final_softcap; /* 0: none */
    float embed_scale;   /* embeddings are multiplied by this */
    bool tied;           /* output matrix is the embedding */
    shoal_moe moe;
    shoal_mla mla;
    size_t windows[SHOAL_MODEL_LAYERS_MAX]; /* positions a layer sees, its own included; 0: all */
    size_t n_exits;
    size_t exits[SHOAL_MODEL_EXITS_MAX]; /* layers below each exit, ascending, in [1, n_layers) */
} shoal_hparams;

/* Rotation of positions: pair i turns by freq[i] radians per position, cosines and sines are
 * multiplied by magnitude. */
typedef struct shoal_rope {
    double *freq; /* (rope_dim / 2); NULL: no such table */
    double magnitude;
} shoal_rope;

/* Experts of one layer. All but bias and shared are NULL together. */
typedef struct shoal_experts {
    shoal_weight *router;      /* (n_experts, dim) */
    float *bias;               /* (n_experts) added to scores for the choice alone; NULL: none */
    shoal_weight **gate;       /* (n_experts) of (ffn, dim) */
    shoal_weight **up;         /* (n_experts) of (ffn, dim) */
    shoal_weight **down;       /* (n_experts) of (dim, ffn) */
    float *shared_router;      /* (dim) its sigmoid weighs the shared expert; NULL: weight one */
    shoal_weight *shared_gate; /* (ffn_shared, dim); NULL: no shared expert */
    shoal_weight *shared_up;
    shoal_weight *shared_down;
} shoal_experts;

/* Latent attention of one layer; kv_b is set when expanded, k_b and v_b when not. */
typedef struct shoal_latent {
    shoal_weight *q_a;  /* (q_rank, dim); NULL: the layer's q alone */
    float *q_norm;      /* (q_rank) */
    shoal_weight *kv_a; /* (rank + rope_dim, dim) */
    float *kv_norm;     /* (rank) */
    shoal_weight *kv_b; /* (n_heads * (plain + value_dim), rank) */
    shoal_weight **k_b; /* (n_heads) of (rank, plain): a query's plain channels into the latent */
    shoal_weight **v_b; /* (n_heads) of (value_dim, rank): a latent into a head's value */
} shoal_latent;

/* What a layer does not have is NULL. */
typedef struct shoal_layer {
    float *attn_norm; /* (dim) */
    shoal_weight *q;  /* (n_heads * head_dim, dim or q_rank) */
    shoal_weight *k;  /* (n_kv_heads * head_dim, dim) */
    shoal_weight *v;  /* (n_kv_heads * value_dim, dim) */
    shoal_weight *o;  /* (dim, n_heads * value_dim) */
    float *q_bias;
    float *k_bias;
    float *v_bias;
    float *o_bias;
    float *q_norm;      /* (head_dim) */
    float *k_norm;      /* (head_dim) */
    float *attn_post;   /* (dim) norm of the block's output */
    float *ffn_norm;    /* (dim) */
    shoal_weight *gate; /* (ffn, dim); NULL with experts */
    shoal_weight *up;   /* (ffn, dim) */
    shoal_weight *down; /* (dim, ffn) */
    float *ffn_post;    /* (dim) norm of the block's output */
    shoal_experts experts;
    shoal_latent latent;
} shoal_layer;

typedef struct shoal_model {
    shoal_hparams hp;
    shoal_weight *embed;  /* (n_vocab, dim) */
    float *out_norm;      /* (dim) */
    shoal_weight *output; /* (n_vocab, dim); NULL when tied */
    float *exit_norm;     /* (n_exits, dim); NULL without exits */
    shoal_layer *layers;  /* (n_layers) */
    shoal_rope rope[2];   /* of all layers; of layers with a window where they have their own */
    shoal_tokenizer *tokenizer;
    shoal_hash hash; /* over numbers that change results, and every tensor (R9); exits are not in
                      * it: what the full depth answers does not depend on them, so models that
                      * differ in exits alone verify each other */
    shoal_side_needs needs; /* of inputs, for weights with sides */
    uint64_t file_bytes;
    uint64_t n_params;
    shoal_type main_type;  /* type of most weight bytes */
    bool packed;           /* from a packed file: weights lie in map */
    shoal_map map;         /* empty unless packed */
    shoal_thread *settler; /* copies map into huge pages; NULL: nobody does */
    atomic_bool stop;      /* told to the settler */
    shoal_pool *builders;  /* threads of the load; NULL once it is done */
} shoal_model;

/* Loads path: a plain file is mapped for the load only, a packed one for the model's life. Errors
 * name file, key or tensor, value, limit. */
shoal_status shoal_model_load(const char *path, shoal_model **ret_model,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* From an open reader (shoal_pack_open, or shoal_gguf_open for plain files); the bytes of a plain
 * file are not needed afterwards. The threads of the load are made and ended inside. */
shoal_status shoal_model_new(const shoal_gguf *gguf, shoal_model **ret_model,
                             shoal_err *err) SHOAL_MUST_CHECK;
/* The same with latent attention in the form that keeps every head's keys and values: for tests
 * that hold the two forms together. Other architectures are refused. */
shoal_status shoal_model_new_expanded(const shoal_gguf *gguf, shoal_model **ret_model,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* Copies the weights of a packed file from the file's pages into huge ones
 * (shoal_map_use_huge_pages), on a thread of its own while steps go on. Nothing for a plain file,
 * whose weights lie in such pages anyway, nor where a thread, memory or huge pages are missing:
 * that costs speed alone. Once for a model. */
void shoal_model_start_huge_pages(shoal_model *model);
/* Until that is done. */
void shoal_model_wait_huge_pages(shoal_model *model);
void shoal_model_free(shoal_model *model);
SHOAL_DEFINE_CLEANUP(shoal_model, shoal_model_free)

/* What a KV pool for this model must hold. The result borrows from hp. */
shoal_kv_shape shoal_model_kv_shape(const shoal_hparams *hp, shoal_kv_type type);

/* Bytes of weights one decoded token reads: of the experts, those it visits. */
uint64_t shoal_model_bytes_per_token(const shoal_model *model);
/* Multiply-adds of the same weights, counted as two operations each. */
uint64_t shoal_model_flops_per_token(const shoal_model *model);

#endif
