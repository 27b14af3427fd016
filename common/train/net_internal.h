/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the passes: what a net keeps, and the steps that its files lend each other. Each step
 * has its backward form beside it, under the same name with _back.
 *
 * The last layer that runs is compact: of its rows only the targets are computed, since nothing
 * else is asked for above it. Its keys and values are still those of every token.
 */
#ifndef SHOAL_TRAIN_NET_INTERNAL_H
#define SHOAL_TRAIN_NET_INTERNAL_H

#include "common/kernels/kernels.h"
#include "common/train/net.h"
#include "common/train/ops.h"

enum {
    SHOAL_NET_STRIP = 4, /* rows of a small product that are computed together */
    SHOAL_NET_BLOCK = 64 /* rows of scores the backward pass holds at a time */
};

/* Rows of a parameter: a whole one, or a part of one that is fused or stacked. */
typedef struct shoal_net_part {
    size_t item;   /* SIZE_MAX: the architecture has none */
    size_t offset; /* in a block */
    size_t n_rows;
    size_t n_cols;
} shoal_net_part;

/* A gated feed-forward: a dense block's, or an expert's. Rows are those it is given. */
typedef struct shoal_net_gate {
    shoal_net_part gate_up[2];
    shoal_net_part down;
    float *hidden; /* (rows, 2 width) gate and up side by side */
    float *act;    /* (rows, width) */
} shoal_net_gate;

/* A mixture of experts: routes of m rows, and what the experts keep of their n_used m visitors,
 * which lie expert by expert. */
typedef struct shoal_net_experts {
    shoal_net_part router; /* none: the layer is dense */
    shoal_net_part bias;   /* of the choice; no gradient */
    shoal_net_part gate;   /* stacks */
    shoal_net_part up;
    shoal_net_part down;
    shoal_net_part shared_router;
    shoal_net_gate shared; /* its parts may be none */
    float *probability;    /* (m, n_experts) */
    float *weights;        /* (m, n_used) */
    uint16_t *picked;      /* (m, n_used) */
    uint32_t *visitors;    /* (m n_used) entries of picked, by expert */
    size_t *start;         /* (n_experts + 1) where an expert's visitors begin */
    float *x;              /* (m n_used, dim) */
    float *hidden;         /* (m n_used, 2 ffn) */
    float *act;            /* (m n_used, ffn) */
    float *out;            /* (m n_used, dim) */
    float *shared_out;     /* (m, dim); NULL where it is not weighed */
    float *shared_weight;  /* (m) */
} shoal_net_experts;

/* Latent attention: what its projections keep. */
typedef struct shoal_net_latent {
    shoal_net_part q_a; /* none: queries come from the stream */
    shoal_net_part q_norm;
    shoal_net_part kv_a;
    shoal_net_part kv_norm;
    shoal_net_part kv_b;
    float *q_low;   /* (m, q_rank) */
    float *q_low_h; /* (m, q_rank) its norm */
    float *q_low_r; /* (m) */
    float *kv;      /* (n, rank + rope_dim) the latent, and the key of all heads, rotated */
    float *c;       /* (n, rank) norm of the latent */
    float *c_r;     /* (n) */
} shoal_net_latent;

/* What the backward pass needs of a layer; row counts in brackets, n of all tokens, m of the rows
 * that go on (n, or the targets in a compact layer). */
typedef struct shoal_net_layer {
    shoal_net_part attn_norm;
    shoal_net_part qkv[3]; /* q alone with latent attention */
    shoal_net_latent latent;
    shoal_net_part qkv_bias[3];
    shoal_net_part q_norm;
    shoal_net_part k_norm;
    shoal_net_part o;
    shoal_net_part attn_post;
    shoal_net_part ffn_norm;
    shoal_net_gate dense;
    shoal_net_experts experts;
    shoal_net_part ffn_post;

    const size_t *rows; /* (m) tokens of a compact layer; NULL: all */
    size_t n_rows;      /* m */
    const float *x;     /* (n, dim) the stream below */
    float *h;           /* (n, dim) norm(x) */
    float *h_r;         /* (n) of that norm */
    float *qkv_data;    /* holds q, k and v */
    float *q;           /* (m, q_row), rotated */
    float *k;           /* (n, kv_row), rotated */
    float *v;           /* (n, kv_row) */
    size_t q_row;
    size_t kv_row;
    float *q_raw;      /* (m, n_heads * head_dim) before the norm of heads; NULL without */
    float *k_raw;      /* (n, n_kv_heads * head_dim) */
    float *q_r;        /* (m, n_heads) of that norm */
    float *k_r;        /* (n, n_kv_heads) */
    float *log_sums;   /* (m, n_heads) of the softmax */
    float *att;        /* (m, n_heads * value_dim) */
    float *attn_out;   /* (m, dim) before the norm of the block's output; NULL without */
    float *attn_out_r; /* (m) */
    float *mid;        /* (m, dim) the stream between the blocks */
    float *ffn_h;      /* (m, dim) norm(mid) */
    float *ffn_h_r;    /* (m) */
    float *ffn_out;    /* (m, dim) before the norm of the block's output; NULL without */
    float *ffn_out_r;  /* (m) */
    float *out;        /* (m, dim) the stream above */
} shoal_net_layer;

/* An exit or the output. */
typedef struct shoal_net_head {
    shoal_net_part norm;
    size_t depth; /* layers below it */
    bool asked;   /* since the last forward pass */
    float *x;     /* (n_targets, dim) the stream at the targets */
    float *h;     /* (n_targets, dim) norm(x) */
    float *h_r;
    float *logits; /* (n_targets, n_vocab) */
    float *capped; /* the same as they were given out; NULL without a cap */
} shoal_net_head;

struct shoal_net {
    shoal_hparams hp; /* with latent attention: of its expanded form */
    shoal_ops ops;
    shoal_kernels kernels;
    size_t n_tokens_max;
    size_t n_targets_max;
    uint64_t flops;
    uint64_t skip[SHOAL_MODEL_LAYERS_MAX / 64];
    shoal_net_observe_fn *observe; /* NULL: nobody */
    void *observe_ctx;
    void **memory; /* (n_memory_max) everything that was given out (memory.c) */
    size_t n_memory;
    size_t n_memory_max;

    shoal_net_part embed;
    shoal_net_part output; /* the embedding where they are tied */
    shoal_net_layer *layers;
    size_t n_heads; /* exits, then the output */
    shoal_net_head heads[SHOAL_TRAIN_EXITS_MAX + 1];

    /* of the pass */
    const shoal_params *params;
    const shoal_batch *batch;
    const float *weights;
    float *grads;
    size_t last;      /* layer that is compact; SIZE_MAX: none runs */
    float *embedded;  /* (n, dim) */
    const float *top; /* the stream above all layers */
    float *cos[2];    /* (n, rope_dim / 2), see shoal_model.rope */
    float *sin[2];
    float *sin_back[2]; /* turned the other way */

    /* scratch */
    float *dx;         /* (n, dim) gradient of the stream */
    float *dx_targets; /* (n_targets, dim) the same above the compact layer */
    float *dh;         /* (n, dim) */
    float *gathered;   /* (n_targets, dim) */
    float *row;        /* (dim) */
    float *d_wide;     /* (n, the widest of dim, feed-forwards and n_heads * value_dim) */
    float *d_expert;   /* (n, dim); NULL without experts, as the next */
    float *d_scores_e; /* (n, n_experts) */
    float *d_qkv;      /* as qkv_data */
    float *per_head;   /* (n, n_heads * (plain + value_dim)); NULL without a latent, as the next */
    float *d_latent;   /* (n, the wider of q_rank and rank + rope_dim) */
    float *k_turned;   /* (head_dim, n padded) */
    float *v_turned;   /* (value_dim, n padded) */
    float *scores;     /* (SHOAL_NET_BLOCK, n padded) */
    float *d_scores;
};

/* --- parts ----------------------------------------------------------------------------------- */

/* Rows [row, row + n) of a part. */
static inline shoal_net_part shoal_net_rows(const shoal_net_part *part, size_t row, size_t n)
{
    return (shoal_net_part){.item = part->item,
                            .offset = part->offset + row * part->n_cols,
                            .n_rows = n,
                            .n_cols = part->n_cols};
}

static inline bool shoal_net_has(const shoal_net_part *part)
{
    return part->item != SIZE_MAX;
}

/* NULL where there is none. */
static inline const float *shoal_net_weights(const shoal_net *net, const shoal_net_part *part)
{
    return shoal_net_has(part) ? net->weights + part->offset : NULL;
}

/* NULL where there is none or it is frozen. */
static inline float *shoal_net_grads(const shoal_net *net, const shoal_net_part *part)
{
    return shoal_net_has(part) && !net->params->items[part->item].frozen ? net->grads + part->offset
                                                                         : NULL;
}

/* Everything a net of these sizes keeps; free takes what there is (memory.c). */
shoal_status shoal_net_allocate(shoal_net *net, const shoal_params *params);
void shoal_net_release(shoal_net *net);
/* The table of layers and heads (layout.c). */
void shoal_net_layout(shoal_net *net, const shoal_params *params);

/* --- products (linear.c) --------------------------------------------------------------------- */

/* Before the first of them, in any thread. */
void shoal_net_linear_once(void);
/* y [n][y_row] = x [n][x_row] W^T for the rows of all parts side by side, or += it. Parts that
 * follow each other in the block are one product. */
void shoal_net_linear(shoal_net *net, const shoal_net_part *parts, size_t n_parts, size_t n,
                      const float *x, size_t x_row, bool add, float *y, size_t y_row);
/* From dy: gradients of the parts, and dx = dy W (+= with add) unless it is NULL. */
void shoal_net_linear_back(shoal_net *net, const shoal_net_part *parts, size_t n_parts, size_t n,
                           const float *x, size_t x_row, const float *dy, size_t dy_row, bool add,
                           float *dx, size_t dx_row);

/* --- blocks ---------------------------------------------------------------------------------- */

/* Rotates heads of n rows, which are those tokens (NULL: all); back: the other way (steps.c). */
void shoal_net_rotate(shoal_net *net, const shoal_net_layer *l, const size_t *tokens, size_t n,
                      size_t n_heads, size_t row, float *x, bool back);
/* Latent attention (latent.c): l->q from h, the rows of l->h that go on; l->k and l->v; and from
 * gradients of q (in place) to dh, += with add; of k and v to net->dh. */
void shoal_net_latent_query(shoal_net *net, shoal_net_layer *l, const float *h);
void shoal_net_latent_query_back(shoal_net *net, shoal_net_layer *l, const float *h, float *dq,
                                 bool add, float *dh);
void shoal_net_latent_keys(shoal_net *net, shoal_net_layer *l);
void shoal_net_latent_keys_back(shoal_net *net, shoal_net_layer *l, const float *dk,
                                const float *dv);
/* l->mid = l->x + attention (attention.c). */
void shoal_net_attention(shoal_net *net, shoal_net_layer *l);
/* dx (m rows) of mid becomes net->dx (n rows) of x. */
void shoal_net_attention_back(shoal_net *net, shoal_net_layer *l, float *dx);
/* The part between q, k, v and Wo (attend.c): l->att; and from its gradient those of q, k and v,
 * which have the rows and row lengths of l's. */
void shoal_net_attend(shoal_net *net, shoal_net_layer *l);
void shoal_net_attend_back(shoal_net *net, const shoal_net_layer *l, const float *d_att, float *dq,
                           float *dk, float *dv);
/* y [n][dim] = Wdown (act(Wgate x) * Wup x), or += it (ffn.c). The way back overwrites what g
 * keeps, and may have dx where dy is; dx += with add. */
void shoal_net_gated(shoal_net *net, const shoal_net_gate *g, size_t n, const float *x, bool add,
                     float *y);
void shoal_net_gated_back(shoal_net *net, const shoal_net_gate *g, size_t n, const float *x,
                          const float *dy, bool add, float *dx);
/* y (m rows) += the experts' sum for l->ffn_h (experts.c); and from dy to dx, that of ffn_h. */
void shoal_net_experts_block(shoal_net *net, shoal_net_layer *l, float *y);
void shoal_net_experts_back(shoal_net *net, shoal_net_layer *l, const float *dy, float *dx);
/* l->out = l->mid + feed-forward (ffn.c); dx (m rows) of out becomes that of mid. */
void shoal_net_ffn(shoal_net *net, shoal_net_layer *l);
void shoal_net_ffn_back(shoal_net *net, shoal_net_layer *l, float *dx);

/* y = norm(x), r kept for the way back (steps.c). */
void shoal_net_norm_rows(shoal_net *net, const shoal_net_part *norm, size_t n, const float *x,
                         float *y, float *r);
/* dx = to + what x gets from dy; to may be dx, NULL is zero. dx may be dy. */
void shoal_net_norm_rows_back(shoal_net *net, const shoal_net_part *norm, size_t n, const float *x,
                              const float *r, const float *dy, const float *to, float *dx);
/* y += norm(h): a block's output joins the stream where the architecture norms it. */
void shoal_net_join(shoal_net *net, const shoal_net_part *norm, size_t n, const float *h, float *r,
                    float *y);

#endif
