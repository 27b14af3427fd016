/* SPDX-License-Identifier: Apache-2.0
 *
 * The llama architecture (Touvron et al., 2302.13971): pre-norm residual blocks of grouped-query
 * attention with rotary positions (Su et al., 2104.09864) and SwiGLU (Shazeer, 2002.05202).
 * Read shoal_forward_layers first.
 */
#include "common/model/forward.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

/* Rows below which an elementwise job is not worth waking the pool for. */
enum {
    ROWS_SERIAL = 4
};

struct shoal_forward {
    const shoal_model *model;
    const shoal_kernels *kernels;
    shoal_pool *pool;
    shoal_forward_shape shape;

    const shoal_row *rows; /* of the pass under way */
    size_t n_rows;
    size_t layer;

    /* R is n_rows_max, L is n_logits_max. */
    float *x;            /* (R, dim) residual stream */
    float *h;            /* (R, dim) normed input of a block */
    float *q;            /* (R, n_heads * head_dim) */
    float *k;            /* (R, n_kv_heads * head_dim) */
    float *v;            /* (R, n_kv_heads * head_dim) */
    float *att;          /* (R, n_heads * head_dim) attention output */
    float *gate;         /* (R, ffn) */
    float *up;           /* (R, ffn) */
    float *cos;          /* (R, head_dim / 2) */
    float *sin;          /* (R, head_dim / 2) */
    float *last;         /* (L, dim) normed rows whose logits are wanted */
    float *logits;       /* (L, n_vocab) */
    double *rope_freq;   /* (head_dim / 2) radians per position */
    const void **blocks; /* (n_threads, 2, ceil(n_ctx_max / 32)) block tables */
    shoal_acts *acts;
};

static size_t blocks_per_table(const shoal_forward *f)
{
    return (f->shape.n_ctx_max + SHOAL_KV_BLOCK - 1) / SHOAL_KV_BLOCK;
}

static float *floats(size_t rows, size_t width, bool *ok)
{
    float *p = shoal_calloc_aligned(rows * width, sizeof(float));
    *ok = *ok && p;
    return p;
}

shoal_status shoal_forward_new(const shoal_model *model, const shoal_kernels *kernels,
                               shoal_pool *pool, const shoal_forward_shape *shape,
                               shoal_forward **ret_forward)
{
    const shoal_hparams *hp = &model->hp;
    shoal_forward *f = shoal_calloc(1, sizeof *f);
    if (!f) {
        return SHOAL_E_NOMEM;
    }
    f->model = model;
    f->kernels = kernels;
    f->pool = pool;
    f->shape = *shape;
    size_t rows = shape->n_rows_max;
    size_t q_width = hp->n_heads * hp->head_dim;
    size_t kv_width = hp->n_kv_heads * hp->head_dim;
    bool ok = true;
    f->x = floats(rows, hp->dim, &ok);
    f->h = floats(rows, hp->dim, &ok);
    f->q = floats(rows, q_width, &ok);
    f->k = floats(rows, kv_width, &ok);
    f->v = floats(rows, kv_width, &ok);
    f->att = floats(rows, q_width, &ok);
    f->gate = floats(rows, hp->ffn, &ok);
    f->up = floats(rows, hp->ffn, &ok);
    f->cos = floats(rows, hp->head_dim / 2, &ok);
    f->sin = floats(rows, hp->head_dim / 2, &ok);
    f->last = floats(shape->n_logits_max, hp->dim, &ok);
    f->logits = floats(shape->n_logits_max, hp->n_vocab, &ok);
    f->rope_freq = shoal_calloc(hp->head_dim / 2, sizeof *f->rope_freq);
    f->blocks =
        shoal_calloc(shoal_pool_n_threads(pool) * 2 * blocks_per_table(f), sizeof *f->blocks);
    size_t widest = SHOAL_MAX(SHOAL_MAX(hp->dim, hp->ffn), q_width);
    shoal_status status = SHOAL_E_NOMEM;
    if (ok && f->rope_freq && f->blocks) {
        status = shoal_acts_new(SHOAL_MAX(rows, shape->n_logits_max), widest, &f->acts);
    }
    if (status != SHOAL_OK) {
        shoal_forward_free(f);
        return status;
    }
    /* Pair i turns by base^(-2i / rope_dim) per position; channels past rope_dim stand still. */
    double log_base = shoal_logd((double)hp->rope_base);
    for (size_t i = 0; i < hp->rope_dim / 2; i++) {
        f->rope_freq[i] = shoal_expd(-log_base * (double)(2 * i) / (double)hp->rope_dim);
    }
    *ret_forward = f;
    return SHOAL_OK;
}

void shoal_forward_free(shoal_forward *f)
{
    if (!f) {
        return;
    }
    float *all[] = {f->x,    f->h,  f->q,   f->k,   f->v,    f->att,
                    f->gate, f->up, f->cos, f->sin, f->last, f->logits};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        shoal_free(all[i]);
    }
    shoal_free(f->rope_freq);
    shoal_free(f->blocks);
    shoal_acts_free(f->acts);
    shoal_free(f);
}

/* Runs fn for every row: on the pool when there are enough of them. */
static void for_rows(shoal_forward *f, shoal_pool_fn *fn)
{
    if (f->n_rows >= ROWS_SERIAL) {
        shoal_pool_run(f->pool, fn, f, f->n_rows);
        return;
    }
    for (size_t row = 0; row < f->n_rows; row++) {
        fn(f, row, 0);
    }
}

static void embed_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    shoal_weight_row(f->model->embed, (size_t)f->rows[row].id, f->x + row * hp->dim);
}

/* Angles are taken in double and rounded once, so every position has its own exact table. */
static void rope_table_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t half = f->model->hp.head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        double sine = 0;
        double cosine = 1;
        shoal_sincosd((double)f->rows[row].position * f->rope_freq[i], &sine, &cosine);
        f->cos[row * half + i] = (float)cosine;
        f->sin[row * half + i] = (float)sine;
    }
}

static void norm_attn_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    f->kernels->rmsnorm(hp->dim, f->x + row * hp->dim, f->model->layers[f->layer].attn_norm,
                        hp->norm_eps, f->h + row * hp->dim);
}

static void norm_ffn_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    f->kernels->rmsnorm(hp->dim, f->x + row * hp->dim, f->model->layers[f->layer].ffn_norm,
                        hp->norm_eps, f->h + row * hp->dim);
}

/* Rotates q and k by their position and writes k and v where attention will read them. */
static void rope_store_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    size_t half = hp->head_dim / 2;
    const float *cosine = f->cos + row * half;
    const float *sine = f->sin + row * half;
    float *q = f->q + row * hp->n_heads * hp->head_dim;
    float *k = f->k + row * hp->n_kv_heads * hp->head_dim;
    const float *v = f->v + row * hp->n_kv_heads * hp->head_dim;
    f->kernels->rope(hp->n_heads, hp->head_dim, hp->head_dim, cosine, sine, q);
    f->kernels->rope(hp->n_kv_heads, hp->head_dim, hp->head_dim, cosine, sine, k);
    shoal_kv_store(f->kernels, f->rows[row].seq, f->layer, f->rows[row].position, k, v);
}

/* One row's query heads of one KV head, over the positions this layer lets it see. */
static void attend_part(void *ctx, size_t part, size_t worker)
{
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    size_t row = part / hp->n_kv_heads;
    size_t kv_head = part % hp->n_kv_heads;
    size_t group = hp->n_heads / hp->n_kv_heads;
    const void **k_blocks = f->blocks + worker * 2 * blocks_per_table(f);
    const void **v_blocks = k_blocks + blocks_per_table(f);
    const shoal_kv_seq *seq = f->rows[row].seq;
    size_t n_tokens = f->rows[row].position + 1;
    size_t first = shoal_kv_first(seq, f->layer, n_tokens);
    shoal_kv_blocks(seq, f->layer, kv_head, first, n_tokens, k_blocks, v_blocks);
    size_t offset = (row * hp->n_heads + kv_head * group) * hp->head_dim;
    shoal_attend a = {
        .n_rows = 1,
        .n_heads = group,
        .k_dim = hp->head_dim,
        .v_dim = hp->head_dim,
        .n_tokens = n_tokens - first / SHOAL_KV_BLOCK * SHOAL_KV_BLOCK,
        .window = first > 0 ? n_tokens - first : 0,
        .scale = 1.0F / sqrtf((float)hp->head_dim),
        .q = f->q + offset,
        .q_stride = hp->n_heads * hp->head_dim,
        .k_blocks = k_blocks,
        .v_blocks = v_blocks,
        .out = f->att + offset,
        .out_stride = hp->n_heads * hp->head_dim,
    };
    shoal_kv_attend(f->kernels, seq, &a);
}

static void add_h_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t dim = f->model->hp.dim;
    f->kernels->add(dim, f->h + row * dim, f->x + row * dim);
}

static void swiglu_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t ffn = f->model->hp.ffn;
    f->kernels->swiglu(ffn, f->gate + row * ffn, f->up + row * ffn, f->gate + row * ffn);
}

static void matmul(shoal_forward *f, const shoal_weight *w, float *y)
{
    shoal_weight_matmul(w, f->kernels, f->pool, f->acts, y, shoal_weight_n_rows(w));
}

static void attention_block(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_layer *layer = &f->model->layers[f->layer];
    size_t q_width = hp->n_heads * hp->head_dim;

    /* h = norm(x); q, k, v = Wq h, Wk h, Wv h */
    for_rows(f, norm_attn_row);
    shoal_acts_set(f->acts, f->h, f->n_rows, hp->dim, hp->dim);
    matmul(f, layer->q, f->q);
    matmul(f, layer->k, f->k);
    matmul(f, layer->v, f->v);

    /* Every row's k and v are stored before any row attends: rows of one sequence see each other.
     */
    for_rows(f, rope_store_row);
    shoal_pool_run(f->pool, attend_part, f, f->n_rows * hp->n_kv_heads);

    /* x += Wo att */
    shoal_acts_set(f->acts, f->att, f->n_rows, q_width, q_width);
    matmul(f, layer->o, f->h);
    for_rows(f, add_h_row);
}

static void ffn_block(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_layer *layer = &f->model->layers[f->layer];

    /* h = norm(x); x += Wdown (silu(Wgate h) * Wup h) */
    for_rows(f, norm_ffn_row);
    shoal_acts_set(f->acts, f->h, f->n_rows, hp->dim, hp->dim);
    matmul(f, layer->gate, f->gate);
    matmul(f, layer->up, f->up);
    for_rows(f, swiglu_row);
    shoal_acts_set(f->acts, f->gate, f->n_rows, hp->ffn, hp->ffn);
    matmul(f, layer->down, f->h);
    for_rows(f, add_h_row);
}

void shoal_forward_layers(shoal_forward *f, const shoal_row *rows, size_t n_rows, size_t layer_a,
                          size_t layer_b)
{
    SHOAL_ASSERT(n_rows <= f->shape.n_rows_max && layer_a <= layer_b &&
                 layer_b <= f->model->hp.n_layers);
    f->rows = rows;
    f->n_rows = n_rows;
    if (layer_a == 0) {
        for_rows(f, embed_row);
    }
    for_rows(f, rope_table_row);
    for (f->layer = layer_a; f->layer < layer_b; f->layer++) {
        attention_block(f);
        ffn_block(f);
    }
}

void shoal_forward_logits(shoal_forward *f, const size_t *row_indices, size_t n)
{
    const shoal_model *model = f->model;
    SHOAL_ASSERT(n <= f->shape.n_logits_max);
    for (size_t i = 0; i < n; i++) {
        f->kernels->rmsnorm(model->hp.dim, f->x + row_indices[i] * model->hp.dim, model->out_norm,
                            model->hp.norm_eps, f->last + i * model->hp.dim);
    }
    if (n > 0) {
        shoal_acts_set(f->acts, f->last, n, model->hp.dim, model->hp.dim);
        matmul(f, model->output ? model->output : model->embed, f->logits);
    }
}

const float *shoal_forward_logits_at(const shoal_forward *f, size_t i)
{
    return f->logits + i * f->model->hp.n_vocab;
}
