/* SPDX-License-Identifier: Apache-2.0
 *
 * Multi-head latent attention (DeepSeek-V2, 2405.04434). A token's keys and values of all heads
 * are products of one latent c; the cache keeps c and, beside it, the one rotated key that all
 * heads share.
 *
 * Absorbed, which is the form at run time: a head's score q . (K c) is (K' q) . c, so queries go
 * into the latent, attention runs over c as one key head and one value head, and its result goes
 * through V. One form for prompts and single tokens alike, so chunking changes no bit (R2).
 * Expanded: every head's keys and values are computed and stored, as the paper states it.
 */
#include "common/model/forward_internal.h"

#include "common/base/mem.h"

#include <string.h>

static size_t latent_width(const shoal_hparams *hp)
{
    return hp->mla.rank + hp->rope_dim;
}

static shoal_status make_loners(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    size_t n = shoal_pool_n_threads(f->pool);
    f->loners = shoal_calloc(n, sizeof *f->loners);
    if (!f->loners) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_pool_new(1, &f->loners[i].pool));
        SHOAL_TRY(shoal_acts_new(f->shape.n_rows_max, SHOAL_MAX(hp->mla.plain, hp->mla.rank),
                                 &f->loners[i].acts));
        SHOAL_TRY(shoal_acts_reserve(f->loners[i].acts, &f->model->needs));
    }
    return SHOAL_OK;
}

shoal_status shoal_latent_init(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_mla *mla = &hp->mla;
    if (mla->rank == 0) {
        return SHOAL_OK;
    }
    size_t rows = f->shape.n_rows_max;
    size_t heads = hp->n_heads;
    f->q_low = shoal_calloc_aligned(rows * mla->q_rank, sizeof *f->q_low);
    f->latent = shoal_calloc_aligned(rows * latent_width(hp), sizeof *f->latent);
    if (!f->q_low || !f->latent) {
        return SHOAL_E_NOMEM;
    }
    if (mla->expanded) {
        f->per_head =
            shoal_calloc_aligned(rows * heads * (mla->plain + hp->value_dim), sizeof *f->per_head);
        return f->per_head ? SHOAL_OK : SHOAL_E_NOMEM;
    }
    f->q_latent = shoal_calloc_aligned(rows * heads * latent_width(hp), sizeof *f->q_latent);
    f->att_latent = shoal_calloc_aligned(rows * heads * mla->rank, sizeof *f->att_latent);
    return f->q_latent && f->att_latent ? make_loners(f) : SHOAL_E_NOMEM;
}

void shoal_latent_fini(shoal_forward *f)
{
    for (size_t i = 0; f->loners && i < shoal_pool_n_threads(f->pool); i++) {
        shoal_pool_free(f->loners[i].pool);
        shoal_acts_free(f->loners[i].acts);
    }
    shoal_free(f->loners);
    shoal_free(f->q_low);
    shoal_free(f->latent);
    shoal_free(f->q_latent);
    shoal_free(f->att_latent);
    shoal_free(f->per_head);
}

static void norm_query_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    float *q = f->q_low + row * hp->mla.q_rank;
    f->kernels->rmsnorm(hp->mla.q_rank, q, f->model->layers[f->layer].latent.q_norm, hp->norm_eps,
                        q);
}

/* Norms the latent, rotates the key beside it and the last channels of every query head. */
static void latent_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    size_t rank = hp->mla.rank;
    float *c = f->latent + row * latent_width(hp);
    float *q = f->q + row * hp->n_heads * hp->head_dim;
    f->kernels->rmsnorm(rank, c, f->model->layers[f->layer].latent.kv_norm, hp->norm_eps, c);
    shoal_forward_rotate(f, row, 1, hp->rope_dim, c + rank);
    shoal_forward_rotate(f, row, hp->n_heads, hp->head_dim, q + hp->mla.plain);
    if (!hp->mla.expanded) {
        shoal_kv_store(f->kernels, f->rows[row].seq, f->layer, f->rows[row].position, c, c);
    }
}

/* Keys and values of every head, from their products with the latent. */
static void expand_row(void *ctx, size_t row, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    size_t plain = hp->mla.plain;
    const float *rotated = f->latent + row * latent_width(hp) + hp->mla.rank;
    const float *kv = f->per_head + row * hp->n_heads * (plain + hp->value_dim);
    float *k = f->k + row * hp->n_heads * hp->head_dim;
    float *v = f->v + row * hp->n_heads * hp->value_dim;
    for (size_t head = 0; head < hp->n_heads; head++) {
        memcpy(k + head * hp->head_dim, kv, plain * sizeof *k);
        memcpy(k + head * hp->head_dim + plain, rotated, hp->rope_dim * sizeof *k);
        memcpy(v + head * hp->value_dim, kv + plain, hp->value_dim * sizeof *v);
        kv += plain + hp->value_dim;
    }
    shoal_kv_store(f->kernels, f->rows[row].seq, f->layer, f->rows[row].position, k, v);
}

/* One head's queries of all rows into the latent: [K' q, rotated q]. */
static void absorb_head(void *ctx, size_t head, size_t worker)
{
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    const shoal_loner *l = &f->loners[worker];
    size_t q_stride = hp->n_heads * hp->head_dim;
    size_t y_stride = hp->n_heads * latent_width(hp);
    const float *q = f->q + head * hp->head_dim;
    float *y = f->q_latent + head * latent_width(hp);
    shoal_acts_set(l->acts, q, f->n_rows, hp->mla.plain, q_stride);
    shoal_weight_matmul(f->model->layers[f->layer].latent.k_b[head], f->kernels, l->pool, l->acts,
                        y, y_stride);
    for (size_t row = 0; row < f->n_rows; row++) {
        memcpy(y + row * y_stride + hp->mla.rank, q + row * q_stride + hp->mla.plain,
               hp->rope_dim * sizeof *y);
    }
}

/* One head's result of all rows out of the latent. */
static void release_head(void *ctx, size_t head, size_t worker)
{
    shoal_forward *f = ctx;
    const shoal_hparams *hp = &f->model->hp;
    const shoal_loner *l = &f->loners[worker];
    shoal_acts_set(l->acts, f->att_latent + head * hp->mla.rank, f->n_rows, hp->mla.rank,
                   hp->n_heads * hp->mla.rank);
    shoal_weight_matmul(f->model->layers[f->layer].latent.v_b[head], f->kernels, l->pool, l->acts,
                        f->att + head * hp->value_dim, hp->n_heads * hp->value_dim);
}

void shoal_latent_project(shoal_forward *f)
{
    const shoal_hparams *hp = &f->model->hp;
    const shoal_layer *layer = &f->model->layers[f->layer];
    const shoal_latent *latent = &layer->latent;

    /* c, k = norm(Wkv h), rotated; q = Wq h, or Wq norm(Wqa h) */
    shoal_forward_matmul(f, latent->kv_a, f->latent);
    if (latent->q_a) {
        shoal_forward_matmul(f, latent->q_a, f->q_low);
        shoal_forward_each(f, f->n_rows, norm_query_row);
        shoal_acts_set(f->acts, f->q_low, f->n_rows, hp->mla.q_rank, hp->mla.q_rank);
    }
    shoal_forward_matmul(f, layer->q, f->q);
    shoal_forward_each(f, f->n_rows, latent_row);
    if (hp->mla.expanded) {
        shoal_acts_set(f->acts, f->latent, f->n_rows, hp->mla.rank, latent_width(hp));
        shoal_forward_matmul(f, latent->kv_b, f->per_head);
        shoal_forward_each(f, f->n_rows, expand_row);
        return;
    }
    shoal_pool_run_sized(f->pool, absorb_head, f, hp->n_heads, f->n_rows * hp->n_heads);
    for (size_t head = 0; head < hp->n_heads; head++) {
        f->bytes_read += shoal_weight_bytes(latent->k_b[head]);
    }
}

void shoal_latent_finish(shoal_forward *f)
{
    const shoal_latent *latent = &f->model->layers[f->layer].latent;
    shoal_pool_run_sized(f->pool, release_head, f, f->model->hp.n_heads,
                         f->n_rows * f->model->hp.n_heads);
    for (size_t head = 0; head < f->model->hp.n_heads; head++) {
        f->bytes_read += shoal_weight_bytes(latent->v_b[head]);
    }
}
