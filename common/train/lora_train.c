/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/lora_train.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* "SHLA": keeps the start of A apart from other uses of Philox with the same key. */
#define START_DOMAIN 0x53484C41u

/* One adapted matrix; places are those of the parameter tables. */
typedef struct pair {
    const shoal_param *base;
    const shoal_param *a;
    const shoal_param *b;
} pair;

struct shoal_lora_train {
    shoal_params *model;
    shoal_params *factors;
    float *base; /* a block: what the model was */
    pair *pairs;
    size_t n_pairs;
    size_t rank;
    float alpha;
    shoal_hash base_hash;
    /* The job under way. */
    const float *sums;
    float *out;
};

static bool is_adapted(const shoal_param *p)
{
    return p->kind == SHOAL_PARAM_MATRIX && p->n_stacked == 1;
}

static shoal_status add_factor(shoal_params *f, const shoal_param *base, const char *suffix,
                               size_t n_rows, size_t n_cols, shoal_err *err)
{
    shoal_param *p = &f->items[f->n_items];
    int n = snprintf(p->name, sizeof p->name, "%s.%s", base->name, suffix);
    if (n < 0 || (size_t)n >= sizeof p->name) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the name %s.%s has more than %d characters",
                             base->name, suffix, SHOAL_TRAIN_NAME_MAX - 1);
    }
    /* As a table: stepped by AdamW and not pulled towards zero, whatever the base's matrices are.
     */
    p->kind = SHOAL_PARAM_TABLE;
    p->n_rows = n_rows;
    p->n_cols = n_cols;
    p->n_stacked = 1;
    p->offset = f->n_floats;
    f->n_floats += (n_rows * n_cols + 15) / 16 * 16;
    f->n_items++;
    return SHOAL_OK;
}

static shoal_status make_factors(shoal_lora_train *lora, shoal_err *err)
{
    const shoal_params *model = lora->model;
    shoal_params *f = shoal_calloc(1, sizeof *f);
    lora->factors = f;
    lora->pairs = shoal_calloc(model->n_items, sizeof *lora->pairs);
    if (!f || !lora->pairs) {
        return SHOAL_E_NOMEM;
    }
    f->hp = model->hp;
    f->items = shoal_calloc(2 * model->n_items, sizeof *f->items);
    if (!f->items) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < model->n_items; i++) {
        const shoal_param *p = &model->items[i];
        if (!is_adapted(p)) {
            continue;
        }
        pair *to = &lora->pairs[lora->n_pairs++];
        to->base = p;
        to->a = &f->items[f->n_items];
        SHOAL_TRY(add_factor(f, p, "lora_a", lora->rank, p->n_cols, err));
        to->b = &f->items[f->n_items];
        SHOAL_TRY(add_factor(f, p, "lora_b", p->n_rows, lora->rank, err));
    }
    f->data = shoal_params_block(f);
    return f->data ? SHOAL_OK : SHOAL_E_NOMEM;
}

/* Uniform within 1 / sqrt(k), so that A x has about the scale of x. */
static void start(shoal_lora_train *lora, uint64_t seed)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (size_t i = 0; i < lora->n_pairs; i++) {
        const shoal_param *a = lora->pairs[i].a;
        float bound = 1.0F / sqrtf((float)a->n_cols);
        for (size_t k = 0; k < a->n_rows * a->n_cols; k++) {
            const uint32_t counter[4] = {(uint32_t)i, (uint32_t)k, 0, START_DOMAIN};
            uint32_t words[4];
            shoal_philox4x32_10(counter, key, words);
            lora->factors->data[a->offset + k] =
                bound * ((float)(words[0] >> 8) * 0x1p-23F - 1.0F + 0x1p-24F);
        }
    }
}

shoal_status shoal_lora_train_new(shoal_params *params, size_t rank, float alpha, uint64_t seed,
                                  shoal_lora_train **ret_lora, shoal_err *err)
{
    if (rank < 1 || rank > SHOAL_LORA_RANK_MAX || !(alpha > 0) || !isfinite(alpha)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "an adapter has a rank from 1 to %d and an alpha above 0, not %zu "
                             "and %g",
                             SHOAL_LORA_RANK_MAX, rank, (double)alpha);
    }
    SHOAL_CLEANUP(shoal_lora_train_freep) shoal_lora_train *lora = shoal_calloc(1, sizeof *lora);
    if (!lora) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the adapter");
    }
    lora->model = params;
    lora->rank = rank;
    lora->alpha = alpha;
    lora->base = shoal_params_block(params);
    shoal_status status = lora->base ? make_factors(lora, err) : SHOAL_E_NOMEM;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "no memory for an adapter of rank %zu", rank);
    }
    if (lora->n_pairs == 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "the model has no matrix to adapt");
    }
    memcpy(lora->base, params->data, params->n_floats * sizeof(float));
    if (shoal_hash_of(lora->base, params->n_floats * sizeof(float), &lora->base_hash) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the base's digest");
    }
    for (size_t i = 0; i < params->n_items; i++) {
        params->items[i].frozen = !is_adapted(&params->items[i]);
    }
    start(lora, seed);
    *ret_lora = SHOAL_STEAL(lora);
    return SHOAL_OK;
}

void shoal_lora_train_free(shoal_lora_train *lora)
{
    if (!lora) {
        return;
    }
    shoal_params_free(lora->factors);
    shoal_free(lora->base);
    shoal_free(lora->pairs);
    shoal_free(lora);
}

shoal_params *shoal_lora_train_params(shoal_lora_train *lora)
{
    return lora->factors;
}

float shoal_lora_train_alpha(const shoal_lora_train *lora)
{
    return lora->alpha;
}

const shoal_hash *shoal_lora_train_base(const shoal_lora_train *lora)
{
    return &lora->base_hash;
}

/* --- between sums and factors ---------------------------------------------------------------- */

static void merge_one(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    shoal_lora_train *lora = ctx;
    const pair *p = &lora->pairs[part_i];
    const float *factors = lora->factors->data;
    float *w = lora->model->data + p->base->offset;
    int m = (int)p->base->n_rows;
    int k = (int)p->base->n_cols;
    int r = (int)lora->rank;
    memcpy(w, lora->base + p->base->offset, (size_t)m * (size_t)k * sizeof *w);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, k, r, lora->alpha / (float)r,
                factors + p->b->offset, r, factors + p->a->offset, k, 1.0F, w, k);
}

void shoal_lora_train_merge(shoal_lora_train *lora, shoal_pool *pool)
{
    shoal_pool_run(pool, merge_one, lora, lora->n_pairs);
}

/* d B = s dW A^T, d A = s B^T dW. */
static void project_one(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    const shoal_lora_train *lora = ctx;
    const pair *p = &lora->pairs[part_i];
    const float *factors = lora->factors->data;
    const float *w = lora->sums + p->base->offset;
    int m = (int)p->base->n_rows;
    int k = (int)p->base->n_cols;
    int r = (int)lora->rank;
    float scale = lora->alpha / (float)r;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, r, k, scale, w, k,
                factors + p->a->offset, k, 0.0F, lora->out + p->b->offset, r);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, r, k, m, scale, factors + p->b->offset, r,
                w, k, 0.0F, lora->out + p->a->offset, k);
}

void shoal_lora_train_project(const shoal_lora_train *lora, const float *sums, float *factors,
                              shoal_pool *pool)
{
    shoal_lora_train job = *lora;
    job.sums = sums;
    job.out = factors;
    shoal_pool_run(pool, project_one, &job, lora->n_pairs);
}

/* --- the file -------------------------------------------------------------------------------- */

static shoal_status put_tensors(const shoal_lora_train *lora, shoal_gguf_writer *writer)
{
    const shoal_params *f = lora->factors;
    for (size_t i = 0; i < f->n_items; i++) {
        const shoal_param *p = &f->items[i];
        const uint64_t dims[2] = {p->n_cols, p->n_rows};
        SHOAL_TRY(
            shoal_gguf_put_tensor(writer, p->name, SHOAL_TYPE_F32, dims, 2, f->data + p->offset));
    }
    return SHOAL_OK;
}

static shoal_status put_all(const shoal_lora_train *lora, shoal_gguf_writer *writer)
{
    SHOAL_TRY(shoal_gguf_put_str(writer, "general.type", "adapter"));
    SHOAL_TRY(shoal_gguf_put_str(writer, "general.architecture", lora->model->hp.arch));
    SHOAL_TRY(shoal_gguf_put_str(writer, "adapter.type", "lora"));
    SHOAL_TRY(shoal_gguf_put_f32(writer, "adapter.lora.alpha", lora->alpha));
    return put_tensors(lora, writer);
}

shoal_status shoal_lora_train_write(const shoal_lora_train *lora, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    if (shoal_gguf_writer_new(&writer) != SHOAL_OK || put_all(lora, writer) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for the adapter", path);
    }
    SHOAL_TRY(shoal_gguf_writer_finish(writer, &buf, err));
    return shoal_file_write(path, buf.data, buf.length, err);
}
