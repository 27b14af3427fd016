/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the forward pass: its scratch memory, and the pieces that have files of their own.
 */
#ifndef SHOAL_MODEL_FORWARD_INTERNAL_H
#define SHOAL_MODEL_FORWARD_INTERNAL_H

#include "common/model/forward.h"

/* Which rows visit an expert, and what every row's experts weigh. R is n_rows_max, E the number of
 * experts, U the number a row visits. */
typedef struct shoal_routing {
    float *scores;       /* (R, E) of the router, then probabilities */
    uint16_t *picked;    /* (R, U) expert ids of a row, ascending */
    float *weights;      /* (R, U) of the same */
    size_t *start;       /* (E + 1) first entry of an expert in visitors */
    uint32_t *visitors;  /* (R * U) entries of picked, grouped by expert, rows ascending */
    float *gathered;     /* (R, dim) inputs of one expert's rows */
    float *out;          /* (R, dim) outputs of one expert's rows */
    float *sum;          /* (R, dim) of a row's experts, so far */
    const uint32_t *now; /* visitors of the expert under way */
} shoal_routing;

/* Rows by their adapter, and scratch for a few of them at a time (lora_apply.c). */
typedef struct shoal_adapting {
    struct {
        const shoal_lora *lora;
        size_t n; /* rows that have it */
    } * groups;   /* (n_loras_max) */
    size_t n_groups;
    size_t *rows;    /* (R) of the groups one after the other, each ascending */
    float *gathered; /* (chunk, widest input) */
    float *low;      /* (chunk, lora_rank_max) products with A */
    float *delta;    /* (chunk, widest output) products with B */
    shoal_acts *acts;

    const shoal_lora_part *part; /* of the chunk under way */
    const size_t *now;           /* its rows */
    float *y;                    /* what is added to */
} shoal_adapting;

/* A worker that multiplies alone, while the others do the same with other weights. */
typedef struct shoal_loner {
    shoal_pool *pool; /* of one thread */
    shoal_acts *acts;
} shoal_loner;

struct shoal_forward {
    const shoal_model *model;
    const shoal_kernels *kernels;
    shoal_pool *pool;
    shoal_forward_shape shape;

    const shoal_row *rows; /* of the pass under way */
    size_t n_rows;
    size_t layer;
    const float *norm;    /* weights of the norm under way; NULL: none */
    size_t width;         /* of gate and up under way */
    uint64_t bytes_read;  /* of weights, since new */
    uint64_t bytes_heads; /* of these, of the output matrix */

    float *x;      /* (R, dim) residual stream */
    float *h;      /* (R, dim) normed input of a block, then its output */
    float *q;      /* (R, n_heads * head_dim) */
    float *k;      /* (R, n_kv_heads * head_dim) */
    float *v;      /* (R, n_kv_heads * value_dim) */
    float *att;    /* (R, n_heads * value_dim) attention output */
    float *gate;   /* (R, widest feed-forward) */
    float *up;     /* (R, widest feed-forward) */
    float *cos[2]; /* (R, rope_dim / 2) of each rotation table */
    float *sin[2];
    float *last;         /* (L, dim) normed rows whose logits are wanted; L is n_logits_max */
    float *logits;       /* (L, n_vocab) */
    shoal_row *kept;     /* (R) rows that go on past the last layer's keys and values */
    shoal_row *spoken;   /* (L) rows whose logits are under way */
    const void **blocks; /* (n_threads, 2, ceil(n_ctx_max / 32)) block tables */
    float *shares;       /* (n_threads, heads of a group, kv_budget) of attention */
    shoal_acts *acts;

    /* Latent attention. */
    float *q_low;        /* (R, q_rank) */
    float *latent;       /* (R, rank + rope_dim) */
    float *q_latent;     /* (R, n_heads * (rank + rope_dim)) queries of the latent */
    float *att_latent;   /* (R, n_heads * rank) attention output of the latent */
    float *per_head;     /* (R, n_heads * (plain + value_dim)) when expanded */
    shoal_loner *loners; /* (n_threads) when not */

    shoal_routing routing;
    shoal_adapting adapting;
};

/* Runs fn for parts [0, n): on the pool when there are enough of them. */
void shoal_forward_each(shoal_forward *f, size_t n, shoal_pool_fn *fn);
/* y = w x for the columns last set in f->acts, and what rows' adapters add to it; y has rows of the
 * weight's own height. The columns are f's rows, except for weights that no adapter can name. */
void shoal_forward_matmul(shoal_forward *f, const shoal_weight *w, float *y);
/* y = down (act(gate x) * up x) for the n columns last set in f->acts. */
void shoal_forward_gated(shoal_forward *f, size_t n, const shoal_weight *gate,
                         const shoal_weight *up, const shoal_weight *down, float *y);
/* Rotates heads of a row by its position: the first rope_dim channels from x, x + stride, ... */
void shoal_forward_rotate(const shoal_forward *f, size_t row, size_t n_heads, size_t stride,
                          float *x);

/* Adapters (lora_apply.c). */
shoal_status shoal_adapting_init(shoal_forward *f) SHOAL_MUST_CHECK;
void shoal_adapting_fini(shoal_forward *f);
/* f->rows have changed. */
void shoal_adapting_group(shoal_forward *f);
/* y += scale B (A x) for the columns last set in f->acts, where a row's adapter has w. */
void shoal_adapting_add(shoal_forward *f, const shoal_weight *w, float *y);

/* h = experts(h) for every row (experts.c). */
shoal_status shoal_experts_init(shoal_forward *f) SHOAL_MUST_CHECK;
void shoal_experts_fini(shoal_forward *f);
void shoal_experts_block(shoal_forward *f);

/* Latent attention (latent.c): q, k and v of h, rotated and stored; then f->att of what attention
 * gave for the latent. */
shoal_status shoal_latent_init(shoal_forward *f) SHOAL_MUST_CHECK;
void shoal_latent_fini(shoal_forward *f);
void shoal_latent_project(shoal_forward *f);
void shoal_latent_finish(shoal_forward *f);

#endif
