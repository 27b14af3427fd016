/* SPDX-License-Identifier: Apache-2.0
 *
 * One forward pass for every architecture: pre-norm residual blocks of attention with rotary
 * positions (Su et al., 2104.09864) and a gated feed-forward (Shazeer, 2002.05202). What a model
 * does not have is a NULL weight or a zero number. Read shoal_forward_layers first.
 */
#include "common/model/forward_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <string.h>

enum {
    ROWS_TOGETHER = 8,      /* rows of a sequence that read the KV blocks together */
    AHEAD_BYTES = 256 << 10 /* of weights that a thread fetches while it attends */
};

/* --- scratch memory -------------------------------------------------------------------------- */

static size_t blocks_per_table(const shoal_forward *f)
{
    return (f->shape.n_ctx_max + SHOAL_KV_BLOCK - 1) / SHOAL_KV_BLOCK;
}

/* Query heads that share a KV head. */
static size_t group_of(const shoal_hparams *hp)
{
    return hp->n_heads / hp->n_kv_heads;
}

static float *floats(size_t rows, size_t width, bool *ok)
{
    float *p = shoal_calloc_aligned(rows * width, sizeof(float));
    *ok = *ok && p;
    return p;
}

static size_t widest_ffn(const shoal_hparams *hp)
{
    return SHOAL_MAX(hp->ffn, SHOAL_MAX(hp->moe.ffn, hp->moe.ffn_shared));
}

static shoal_status allocate(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    size_t rows = f->shape.n_rows_max;
    size_t att_width = hp->n_heads * hp->value_dim;
    bool ok = true;
    f->x = floats(rows, hp->dim, &ok);
    f->h = floats(rows, hp->dim, &ok);
    f->q = floats(rows, hp->n_heads * hp->head_dim, &ok);
    f->k = floats(rows, hp->n_kv_heads * hp->head_dim, &ok);
    f->v = floats(rows, hp->n_kv_heads * hp->value_dim, &ok);
    f->att = floats(rows, att_width, &ok);
    f->gate = floats(rows, widest_ffn(hp), &ok);
    f->up = floats(rows, widest_ffn(hp), &ok);
    for (size_t r = 0; r < SHOAL_COUNT(f->cos); r++) {
        f->cos[r] = floats(rows, hp->rope_dim / 2, &ok);
        f->sin[r] = floats(rows, hp->rope_dim / 2, &ok);
    }
    f->last = floats(f->shape.n_logits_max, hp->dim, &ok);
    f->logits = floats(f->shape.n_logits_max, hp->n_vocab, &ok);
    f->kept = shoal_calloc(rows, sizeof *f->kept);
    f->spoken = shoal_calloc(f->shape.n_logits_max, sizeof *f->spoken);
    f->blocks =
        shoal_calloc(shoal_pool_n_threads(f->pool) * 2 * blocks_per_table(f), sizeof *f->blocks);
    f->shares = floats(shoal_pool_n_threads(f->pool) * f->shape.kv_budget, group_of(hp), &ok);
    if (!ok || !f->kept || !f->spoken || !f->blocks) {
        return SHOAL_E_NOMEM;
    }
    size_t widest = SHOAL_MAX(SHOAL_MAX(hp->dim, att_width),
                              SHOAL_MAX(widest_ffn(hp), SHOAL_MAX(hp->mla.rank, hp->mla.q_rank)));
    SHOAL_TRY(shoal_acts_new(SHOAL_MAX(rows, f->shape.n_logits_max), widest, &f->acts));
    SHOAL_TRY(shoal_acts_reserve(f->acts, &f->model->needs));
    SHOAL_TRY(shoal_experts_init(f));
    SHOAL_TRY(shoal_adapting_init(f));
    return shoal_latent_init(f);
}

shoal_status shoal_forward_new(const shoal_model *model, const shoal_kernels *kernels,
                               shoal_pool *pool, const shoal_forward_shape *shape,
                               shoal_forward **ret_forward)
{
    shoal_forward *f = shoal_calloc(1, sizeof *f);
    if (!f) {
        return SHOAL_E_NOMEM;
    }
    f->model = model;
    f->kernels = kernels;
    f->pool = pool;
    f->shape = *shape;
    shoal_status status = allocate(f);
    if (status != SHOAL_OK) {
        shoal_forward_free(f);
        return status;
    }
    *ret_forward = f;
    return SHOAL_OK;
}

void shoal_forward_free(shoal_forward *f)
{
    if (!f) {
        return;
    }
    void *all[] = {f->x,      f->h,      f->q,    f->k,      f->v,      f->att,
                   f->gate,   f->up,     f->last, f->logits, f->cos[0], f->cos[1],
                   f->sin[0], f->sin[1], f->kept, f->spoken, f->blocks, f->shares};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        shoal_free(all[i]);
    }
    shoal_experts_fini(f);
    shoal_adapting_fini(f);
    shoal_latent_fini(f);
    shoal_acts_free(f->acts);
    shoal_free(f);
}

/* --- steps of a row -------------------------------------------------------------------------- */

void shoal_forward_each(shoal_forward *f, size_t n, shoal_pool_fn *fn)
{
    shoal_pool_run_sized(f->pool, fn, f, n, n);
}

static void embed_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    float *x = f->x + row * hp->dim;
    shoal_weight_row(f->model->embed, (size_t)f->rows[row].id, x);
    for (size_t i = 0; hp->embed_scale != 1.0F && i < hp->dim; i++) {
        x[i] = x[i] * hp->embed_scale;
    }
}

/* Angles are taken in double and rounded once, so every position has its own exact table. */
static void rope_table_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    size_t n = f->model->hp.rope_dim / 2;
    for (size_t r = 0; r < SHOAL_COUNT(f->model->rope); r++) {
        const shoal_rope *rope = &f->model->rope[r];
        for (size_t i = 0; rope->freq && i < n; i++) {
            double sine = 0;
            double cosine = 1;
            shoal_sincosd((double)f->rows[row].position * rope->freq[i], &sine, &cosine);
            f->cos[r][row * n + i] = (float)(cosine * rope->magnitude);
            f->sin[r][row * n + i] = (float)(sine * rope->magnitude);
        }
    }
}

void shoal_forward_rotate(const shoal_forward *f, size_t row, size_t n_heads, size_t stride,
                          float *x)
{
    const shoal_hparams *hp = &f->model->hp;
    size_t r = hp->windows[f->layer] > 0 && f->model->rope[1].freq ? 1 : 0;
    size_t n = hp->rope_dim / 2;
    bool halves = hp->row->flags & SHOAL_ARCH_ROPE_HALVES;
    (halves ? f->kernels->rope_halves : f->kernels->rope)(
        n_heads, stride, hp->rope_dim, f->cos[r] + row * n, f->sin[r] + row * n, x);
}

/* h = norm(x) */
static void norm_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    f->kernels->rmsnorm(hp->dim, f->x + row * hp->dim, f->norm, hp->norm_eps, f->h + row * hp->dim);
}

/* x += h, or x += norm(h) where the architecture norms a block's output. */
static void add_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    float *h = f->h + row * hp->dim;
    if (f->norm) {
        f->kernels->rmsnorm(hp->dim, h, f->norm, hp->norm_eps, h);
    }
    f->kernels->add(hp->dim, h, f->x + row * hp->dim);
}

static void gate_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    bool gelu = f->model->hp.row->flags & SHOAL_ARCH_GELU;
    float *gate = f->gate + row * f->width;
    (gelu ? f->kernels->geglu : f->kernels->swiglu)(f->width, gate, f->up + row * f->width, gate);
}

static void add_bias(const shoal_forward *f, const float *bias, size_t n, float *x)
{
    if (bias) {
        f->kernels->add(n, bias, x);
    }
}

static void norm_heads(const shoal_forward *f, const float *norm, size_t n_heads, float *x)
{
    const shoal_hparams *hp = &f->model->hp;
    for (size_t head = 0; norm && head < n_heads; head++) {
        float *at = x + head * hp->head_dim;
        f->kernels->rmsnorm(hp->head_dim, at, norm, hp->norm_eps, at);
    }
}

/* Where KV is kept in Hadamard's basis (shoal_kv_shape.hadamard) a head's query and key are turned
 * alike, so their product stays; its values are turned, and turned back in what attention gives:
 * QuaRot (2404.00456), q H (k H)' = q k' and (p v H) H = p v for H = H' = the inverse of H. */
static bool is_hadamard(const shoal_forward *f, size_t row)
{
    return shoal_kv_seq_shape(f->rows[row].seq)->hadamard;
}

/* Finishes q, k and v of a row and writes k and v where attention will read them, unless they have
 * to wait for the rows before. */
static void store_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    const shoal_layer *layer = &f->model->layers[f->layer];
    size_t q_width = hp->n_heads * hp->head_dim;
    size_t k_width = hp->n_kv_heads * hp->head_dim;
    size_t v_width = hp->n_kv_heads * hp->value_dim;
    float *q = f->q + row * q_width;
    float *k = f->k + row * k_width;
    float *v = f->v + row * v_width;
    add_bias(f, layer->q_bias, q_width, q);
    add_bias(f, layer->k_bias, k_width, k);
    add_bias(f, layer->v_bias, v_width, v);
    norm_heads(f, layer->q_norm, hp->n_heads, q);
    norm_heads(f, layer->k_norm, hp->n_kv_heads, k);
    shoal_forward_rotate(f, row, hp->n_heads, hp->head_dim, q);
    shoal_forward_rotate(f, row, hp->n_kv_heads, hp->head_dim, k);
    if (is_hadamard(f, row)) {
        f->kernels->hadamard(hp->n_heads, hp->head_dim, q);
        f->kernels->hadamard(hp->n_kv_heads, hp->head_dim, k);
        f->kernels->hadamard(hp->n_kv_heads, hp->value_dim, v);
    }
    if (!shoal_kv_evicts(f->rows[row].seq)) {
        shoal_kv_store(f->kernels, f->rows[row].seq, f->layer, f->rows[row].position, k, v);
    }
}

/* What is stored next continues blocks that may have to be got ready first. */
static void open_blocks(shoal_forward *f)
{
    for (size_t row = 0; row < f->n_rows; row++) {
        if (row == 0 || f->rows[row].seq != f->rows[row - 1].seq) {
            shoal_kv_open(f->rows[row].seq, f->layer, f->rows[row].position);
        }
    }
}

static void seal_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    if (shoal_kv_fills(f->rows[row].seq, f->rows[row].position)) {
        shoal_kv_seal(f->kernels, f->rows[row].seq, f->layer, f->rows[row].position);
    }
}

/* Blocks that are full now, before anything attends: what a later row reads of them are codes. */
static void seal_blocks(shoal_forward *f)
{
    size_t n = 0;
    for (size_t row = 0; row < f->n_rows; row++) {
        n += shoal_kv_fills(f->rows[row].seq, f->rows[row].position);
    }
    if (n > 0) {
        shoal_forward_each(f, f->n_rows, seal_row);
    }
}

/* --- attention ------------------------------------------------------------------------------- */

static bool is_latent(const shoal_forward *f)
{
    return f->model->hp.mla.rank > 0;
}

/* Attention over the latent has queries and results of its own width. */
static bool is_absorbed(const shoal_forward *f)
{
    return is_latent(f) && !f->model->hp.mla.expanded;
}

/* Rows with their query heads of one KV head; what they see is left open. */
static shoal_attend attend_from(const shoal_forward *f, size_t row, size_t n_rows, size_t kv_head)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_kv_shape *kv = shoal_kv_seq_shape(f->rows[row].seq);
    size_t head = row * hp->n_heads + kv_head * group_of(hp);
    return (shoal_attend){
        .n_rows = n_rows,
        .n_heads = group_of(hp),
        .k_dim = kv->k_dim,
        .v_dim = kv->v_dim,
        .scale = hp->attn_scale,
        .softcap = hp->attn_softcap,
        .q = (is_absorbed(f) ? f->q_latent : f->q) + head * kv->k_dim,
        .q_stride = hp->n_heads * kv->k_dim,
        .out = (is_absorbed(f) ? f->att_latent : f->att) + head * kv->v_dim,
        .out_stride = hp->n_heads * kv->v_dim,
    };
}

/* Out of Hadamard's basis. */
static void turn_back(const shoal_forward *f, size_t row, const shoal_attend *a)
{
    for (size_t i = 0; i < a->n_rows && is_hadamard(f, row); i++) {
        f->kernels->hadamard(a->n_heads, a->v_dim, a->out + i * a->out_stride);
    }
}

/* Rows of one part: a prompt's rows share the blocks they read, while every thread has work. */
static size_t rows_per_part(const shoal_forward *f)
{
    size_t n = f->n_rows * f->model->hp.n_kv_heads / (4 * shoal_pool_n_threads(f->pool));
    return n < 1 ? 1 : SHOAL_MIN(n, (size_t)ROWS_TOGETHER);
}

static size_t n_groups(const shoal_forward *f)
{
    return (f->n_rows + rows_per_part(f) - 1) / rows_per_part(f);
}

/* Tokens that the rows see, all together. */
static size_t n_attended(const shoal_forward *f)
{
    size_t n = 0;
    for (size_t row = 0; row < f->n_rows; row++) {
        size_t n_tokens = f->rows[row].position + 1;
        n += n_tokens - shoal_kv_first(f->rows[row].seq, f->layer, n_tokens);
    }
    return n;
}

/* What a part of attention fetches of the weights behind it. */
typedef struct ahead {
    const void *from;
    size_t n_bytes;
} ahead;

/* A thread's parts share what it will begin to read: attention computes more than it reads, and
 * weights that come in its shadow need not be waited for. */
static ahead ahead_of_part(const shoal_forward *f, size_t part)
{
    const size_t n_parts = n_groups(f) * f->model->hp.n_kv_heads;
    const size_t middle = shoal_pool_odd_part(f->pool, n_parts);
    const bool odd = part >= middle;
    const char *from = shoal_pool_expected(f->pool, odd);
    const size_t n_bytes = AHEAD_BYTES / (odd ? n_parts - middle : middle);
    return from ? (ahead){from + (part - (odd ? middle : 0)) * n_bytes, n_bytes} : (ahead){0};
}

/* Consecutive positions of one sequence with their query heads of one KV head, over the positions
 * this layer lets them see. */
static void attend_run(shoal_forward *f, size_t row, size_t n_rows, size_t kv_head, size_t worker,
                       ahead next)
{
    const void **k_blocks = f->blocks + worker * 2 * blocks_per_table(f);
    const void **v_blocks = k_blocks + blocks_per_table(f);
    const shoal_kv_seq *seq = f->rows[row].seq;
    const shoal_kv_shape *kv = shoal_kv_seq_shape(seq);
    size_t n_tokens = f->rows[row].position + 1;
    size_t first = shoal_kv_first(seq, f->layer, n_tokens);
    shoal_kv_blocks(seq, f->layer, kv_head, first, n_tokens + n_rows - 1, k_blocks, v_blocks);
    shoal_attend a = attend_from(f, row, n_rows, kv_head);
    a.n_tokens = n_tokens - first / SHOAL_KV_BLOCK * SHOAL_KV_BLOCK;
    a.window = kv->windows ? kv->windows[f->layer] : 0;
    a.k_blocks = k_blocks;
    a.v_blocks = v_blocks;
    a.ahead = next.from;
    a.ahead_bytes = next.n_bytes;
    shoal_kv_attend(f->kernels, seq, f->layer, first, &a);
    turn_back(f, row, &a);
}

/* Some rows, run by run, and one KV head. */
static void attend_part(void *ctx, size_t part, size_t worker)
{
    shoal_forward *f = ctx;
    size_t kv_head = part % f->model->hp.n_kv_heads;
    size_t row = part / f->model->hp.n_kv_heads * rows_per_part(f);
    ahead next = ahead_of_part(f, part);
    size_t end = SHOAL_MIN(row + rows_per_part(f), f->n_rows);
    while (row < end) {
        size_t n = 1;
        while (row + n < end && f->rows[row + n].seq == f->rows[row].seq &&
               f->rows[row + n].position == f->rows[row].position + n) {
            n++;
        }
        n = shoal_kv_rows_together(f->rows[row].seq, f->rows[row].position, n);
        attend_run(f, row, n, kv_head, worker, next);
        next = (ahead){0};
        row += n;
    }
}

/* The row behind the last one of a row's sequence. */
static size_t end_of_seq(const shoal_forward *f, size_t row)
{
    size_t end = row + 1;
    while (end < f->n_rows && f->rows[end].seq == f->rows[row].seq) {
        end++;
    }
    return end;
}

/* One sequence and one KV head, row after row: a row takes the place of a token that the rows
 * before it saw. */
static void attend_evicting(void *ctx, size_t part, size_t worker)
{
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    size_t kv_head = part % hp->n_kv_heads;
    size_t row = 0;
    for (size_t i = 0; i < part / hp->n_kv_heads; i++) {
        row = end_of_seq(f, row);
    }
    const void **blocks = f->blocks + worker * 2 * blocks_per_table(f);
    float *shares = f->shares + worker * f->shape.kv_budget * group_of(hp);
    for (size_t end = end_of_seq(f, row); row < end; row++) {
        size_t at = row * hp->n_kv_heads + kv_head;
        shoal_attend a = attend_from(f, row, 1, kv_head);
        shoal_kv_attend_evicting(f->kernels, f->rows[row].seq, f->layer, kv_head,
                                 f->rows[row].position, f->k + at * hp->head_dim,
                                 f->v + at * hp->value_dim, blocks, blocks + blocks_per_table(f),
                                 shares, &a);
        turn_back(f, row, &a);
    }
}

/* Rows that nobody wants to hear of leave the pass: the others close up, with what each has in
 * `more`, of that width. */
static void keep_rows(shoal_forward *f, const size_t *wanted, size_t n_wanted, float *more,
                      size_t width)
{
    const shoal_hparams *hp = &f->model->hp;
    for (size_t i = 0; i < n_wanted; i++) {
        size_t row = wanted[i];
        SHOAL_ASSERT(row >= i && row < f->n_rows);
        f->kept[i] = f->rows[row];
        if (row > i) {
            memcpy(f->x + i * hp->dim, f->x + row * hp->dim, hp->dim * sizeof *f->x);
            memcpy(more + i * width, more + row * width, width * sizeof *more);
        }
    }
    f->rows = f->kept;
    f->n_rows = n_wanted;
    shoal_adapting_group(f);
}

void shoal_forward_matmul(shoal_forward *f, const shoal_weight *w, float *y)
{
    shoal_weight_matmul(w, f->kernels, f->pool, f->acts, y, shoal_weight_n_rows(w));
    f->bytes_read += shoal_weight_bytes(w);
    shoal_adapting_add(f, w, y);
}

/* Weights of one input as one job; y[i] has the rows of w[i]. */
static void matmuls(shoal_forward *f, const shoal_weight *const *w, float *const *y, size_t n)
{
    shoal_product products[SHOAL_PRODUCTS_MAX] = {{0}};
    for (size_t i = 0; i < n; i++) {
        products[i] = (shoal_product){w[i], y[i], shoal_weight_n_rows(w[i])};
        f->bytes_read += shoal_weight_bytes(w[i]);
    }
    shoal_weight_matmuls(products, n, f->kernels, f->pool, f->acts);
    for (size_t i = 0; i < n; i++) {
        shoal_adapting_add(f, w[i], y[i]);
    }
}

/* f->att of the rows that go on. */
static void attend_rows(shoal_forward *f, const size_t *wanted, size_t n_wanted)
{
    const shoal_hparams *hp = &f->model->hp;
    if (f->n_rows > 0 && shoal_kv_evicts(f->rows[0].seq)) {
        size_t n_seqs = 0;
        for (size_t row = 0; row < f->n_rows; row = end_of_seq(f, row)) {
            n_seqs++;
        }
        /* Rows that leave have attended too: what later ones find depends on it. */
        shoal_pool_run_sized(f->pool, attend_evicting, f, n_seqs * hp->n_kv_heads,
                             f->n_rows * hp->n_kv_heads);
        if (wanted) {
            keep_rows(f, wanted, n_wanted, f->att, hp->n_heads * hp->value_dim);
        }
        return;
    }
    seal_blocks(f);
    if (wanted) {
        bool absorbed = is_absorbed(f);
        size_t q_dim = absorbed ? hp->mla.rank + hp->rope_dim : hp->head_dim;
        keep_rows(f, wanted, n_wanted, absorbed ? f->q_latent : f->q, hp->n_heads * q_dim);
    }
    if (f->n_rows > 0) {
        shoal_pool_run_sized(f->pool, attend_part, f, n_groups(f) * hp->n_kv_heads, n_attended(f));
    }
}

static void attention_block(shoal_forward *f, const size_t *wanted, size_t n_wanted)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_layer *layer = &f->model->layers[f->layer];

    /* h = norm(x); q, k, v = Wq h, Wk h, Wv h. Every row's k and v are stored before any row
     * attends: rows of one sequence see each other. */
    f->norm = layer->attn_norm;
    shoal_forward_each(f, f->n_rows, norm_row);
    shoal_acts_set(f->acts, f->h, f->n_rows, hp->dim, hp->dim);
    open_blocks(f);
    if (is_latent(f)) {
        shoal_latent_project(f);
    } else {
        const shoal_weight *qkv[] = {layer->q, layer->k, layer->v};
        matmuls(f, qkv, (float *[]){f->q, f->k, f->v}, SHOAL_COUNT(qkv));
        shoal_forward_each(f, f->n_rows, store_row);
    }
    attend_rows(f, wanted, n_wanted);
    if (f->n_rows == 0) {
        return;
    }
    if (is_absorbed(f)) {
        shoal_latent_finish(f);
    }

    /* x += Wo att */
    size_t width = hp->n_heads * hp->value_dim;
    shoal_acts_set(f->acts, f->att, f->n_rows, width, width);
    shoal_forward_matmul(f, layer->o, f->h);
    for (size_t row = 0; layer->o_bias && row < f->n_rows; row++) {
        f->kernels->add(hp->dim, layer->o_bias, f->h + row * hp->dim);
    }
    f->norm = layer->attn_post;
    shoal_forward_each(f, f->n_rows, add_row);
}

/* --- feed-forward ---------------------------------------------------------------------------- */

void shoal_forward_gated(shoal_forward *f, size_t n, const shoal_weight *gate,
                         const shoal_weight *up, const shoal_weight *down, float *y)
{
    matmuls(f, (const shoal_weight *[]){gate, up}, (float *[]){f->gate, f->up}, 2);
    f->width = shoal_weight_n_rows(gate);
    shoal_forward_each(f, n, gate_row);
    shoal_acts_set(f->acts, f->gate, n, f->width, f->width);
    shoal_forward_matmul(f, down, y);
}

static void ffn_block(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_layer *layer = &f->model->layers[f->layer];

    /* h = norm(x); x += Wdown (act(Wgate h) * Wup h), or the experts' sum of the same */
    f->norm = layer->ffn_norm;
    shoal_forward_each(f, f->n_rows, norm_row);
    shoal_acts_set(f->acts, f->h, f->n_rows, hp->dim, hp->dim);
    if (layer->experts.router) {
        shoal_experts_block(f);
    } else {
        shoal_forward_gated(f, f->n_rows, layer->gate, layer->up, layer->down, f->h);
    }
    f->norm = layer->ffn_post;
    shoal_forward_each(f, f->n_rows, add_row);
}

/* --- the pass -------------------------------------------------------------------------------- */

void shoal_forward_layers(shoal_forward *f, const shoal_row *rows, size_t n_rows, size_t layer_a,
                          size_t layer_b, const size_t *wanted, size_t n_wanted)
{
    SHOAL_ASSERT(n_rows <= f->shape.n_rows_max && layer_a <= layer_b &&
                 layer_b <= f->model->hp.n_layers);
    f->rows = rows;
    f->n_rows = n_rows;
    shoal_adapting_group(f);
    if (layer_a == 0) {
        shoal_forward_each(f, n_rows, embed_row);
    }
    shoal_forward_each(f, n_rows, rope_table_row);
    for (f->layer = layer_a; f->layer < layer_b; f->layer++) {
        bool last = f->layer + 1 == layer_b;
        attention_block(f, last ? wanted : NULL, n_wanted);
        if (f->n_rows > 0) {
            ffn_block(f);
        }
    }
}

const float *shoal_forward_state(const shoal_forward *f, size_t i)
{
    SHOAL_ASSERT(i < f->n_rows);
    return f->x + i * f->model->hp.dim;
}

void shoal_forward_go_on(shoal_forward *f, const float *const *states, size_t n_states)
{
    size_t dim = f->model->hp.dim;
    SHOAL_ASSERT(n_states <= f->shape.n_rows_max);
    for (size_t i = 0; i < n_states; i++) {
        memcpy(f->h + i * dim, states[i], dim * sizeof *f->h);
    }
    float *x = f->x;
    f->x = f->h;
    f->h = x;
    f->n_rows = n_states;
}

/* y = output x for the columns last set, which are chosen rows: adapters must know whose they are.
 */
static void output_matmul(shoal_forward *f, const size_t *chosen, size_t n_chosen, float *y)
{
    const shoal_model *model = f->model;
    const shoal_weight *output = model->output ? model->output : model->embed;
    const shoal_row *rows = f->rows;
    size_t n_rows = f->n_rows;
    bool regroup = f->shape.n_loras_max > 0;
    if (regroup) {
        for (size_t i = 0; i < n_chosen; i++) {
            f->spoken[i] = rows[chosen ? chosen[i] : i];
        }
        f->rows = f->spoken;
        f->n_rows = n_chosen;
        shoal_adapting_group(f);
    }
    shoal_forward_matmul(f, output, y);
    f->bytes_heads += shoal_weight_bytes(output);
    if (regroup) {
        f->rows = rows;
        f->n_rows = n_rows;
        shoal_adapting_group(f);
    }
}

void shoal_forward_logits_of(shoal_forward *f, size_t exit_i, const size_t *chosen, size_t n_chosen,
                             size_t result_i)
{
    const shoal_model *model = f->model;
    const shoal_hparams *hp = &model->hp;
    bool full = exit_i == hp->n_exits;
    const float *norm = full ? model->out_norm : model->exit_norm + exit_i * hp->dim;
    float *logits = f->logits + result_i * hp->n_vocab;
    SHOAL_ASSERT(exit_i <= hp->n_exits && f->layer == (full ? hp->n_layers : hp->exits[exit_i]));
    SHOAL_ASSERT(n_chosen <= f->n_rows && result_i + n_chosen <= f->shape.n_logits_max);
    if (n_chosen == 0) {
        return;
    }
    for (size_t i = 0; i < n_chosen; i++) {
        const float *x = shoal_forward_state(f, chosen ? chosen[i] : i);
        f->kernels->rmsnorm(hp->dim, x, norm, hp->norm_eps, f->last + i * hp->dim);
    }
    shoal_acts_set(f->acts, f->last, n_chosen, hp->dim, hp->dim);
    output_matmul(f, chosen, n_chosen, logits);
    for (size_t i = 0; hp->final_softcap > 0 && i < n_chosen; i++) {
        f->kernels->softcap(hp->n_vocab, hp->final_softcap, logits + i * hp->n_vocab);
    }
}

void shoal_forward_logits(shoal_forward *f)
{
    shoal_forward_logits_of(f, f->model->hp.n_exits, NULL, f->n_rows, 0);
}

void shoal_forward_exit_logits(shoal_forward *f, size_t exit_i)
{
    SHOAL_ASSERT(exit_i < f->model->hp.n_exits);
    shoal_forward_logits_of(f, exit_i, NULL, f->n_rows, 0);
}

void shoal_forward_logits_move(shoal_forward *f, size_t from, size_t to)
{
    size_t n_vocab = f->model->hp.n_vocab;
    if (from != to) {
        memcpy(f->logits + to * n_vocab, f->logits + from * n_vocab, n_vocab * sizeof *f->logits);
    }
}

const float *shoal_forward_logits_at(const shoal_forward *f, size_t i)
{
    return f->logits + i * f->model->hp.n_vocab;
}

uint64_t shoal_forward_bytes_read(const shoal_forward *f)
{
    return f->bytes_read;
}

uint64_t shoal_forward_bytes_heads(const shoal_forward *f)
{
    return f->bytes_heads;
}
