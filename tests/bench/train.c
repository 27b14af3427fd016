/* SPDX-License-Identifier: Apache-2.0
 *
 * What a training step costs on one thread: forward, cross-entropy at the targets, backward. Beside
 * it stand the products of the same step, of the same shapes, by cblas_sgemm alone: the share that
 * a step reaches of them is what the rest of it costs.
 */
#include "tests/bench/bench.h"
#include "common/machine/peak.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/train/loss.h"
#include "common/train/net.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PRODUCTS_MAX = 512,
    SEGMENT = 25
};

typedef struct shape {
    const char *name;
    const char *arch;
    size_t dim;
    size_t n_layers;
    size_t n_heads;
    size_t n_kv_heads;
    size_t head_dim;
    size_t ffn;
    size_t n_vocab;
    size_t n_tokens; /* of a batch, in segments of SEGMENT tokens, targets in their last 45 % */
} shape;

static const shape shapes[] = {
    {"256 x 6", "llama", 256, 6, 8, 4, 32, 768, 2048, 2048},
    {"192 x 4", "llama", 192, 4, 6, 3, 32, 576, 2048, 2048},
    {"256 x 6, 512 tokens", "llama", 256, 6, 8, 4, 32, 768, 2048, 512},
};
static const shape smoke = {"64 x 2", "llama", 64, 2, 4, 2, 16, 128, 256, 60};

/* One product of a step: c [m][n] += a [m][k] b [k][n]. */
typedef struct product {
    int m;
    int n;
    int k;
    CBLAS_TRANSPOSE a;
    CBLAS_TRANSPOSE b;
} product;

typedef struct work {
    const shape *shape;
    shoal_params *params;
    shoal_net *net;
    float *grads;
    shoal_batch batch;
    int32_t *ids;
    int32_t *positions;
    int32_t *target_ids;
    float *weights;
    size_t *segments;
    size_t *targets;
    product products[PRODUCTS_MAX];
    size_t n_products;
    float *a;
    float *b;
    float *c;
} work;

static void must(bool ok, const char *what)
{
    if (!ok) {
        (void)fprintf(stderr, "shoal-bench-train: %s\n", what);
        exit(1);
    }
}

/* --- a step ---------------------------------------------------------------------------------- */

static void make_batch(work *w)
{
    size_t n = w->shape->n_tokens;
    uint64_t rng = 1;
    w->ids = shoal_calloc(n, sizeof *w->ids);
    w->positions = shoal_calloc(n, sizeof *w->positions);
    w->target_ids = shoal_calloc(n, sizeof *w->target_ids);
    w->weights = shoal_calloc(n, sizeof *w->weights);
    w->segments = shoal_calloc(n + 1, sizeof *w->segments);
    w->targets = shoal_calloc(n, sizeof *w->targets);
    must(w->ids && w->positions && w->target_ids && w->weights && w->segments && w->targets,
         "no memory for a batch");
    w->batch.n_tokens = n;
    for (size_t i = 0; i < n; i++) {
        size_t place = i % SEGMENT;
        w->ids[i] = (int32_t)(shoal_rng_next(&rng) % w->shape->n_vocab);
        w->positions[i] = (int32_t)place;
        w->weights[i] = 1;
        w->target_ids[i] = (int32_t)(shoal_rng_next(&rng) % w->shape->n_vocab);
        if (place == 0) {
            w->segments[w->batch.n_segments++] = i;
        }
        if (place * 100 >= SEGMENT * 55) {
            w->targets[w->batch.n_targets++] = i;
        }
    }
    w->segments[w->batch.n_segments] = n;
    w->batch.ids = w->ids;
    w->batch.positions = w->positions;
    w->batch.segments = w->segments;
    w->batch.targets = w->targets;
}

static void make_model(work *w)
{
    const shape *s = w->shape;
    shoal_hparams hp = {.row = shoal_arch_find(s->arch, strlen(s->arch)),
                        .n_vocab = s->n_vocab,
                        .n_ctx = 1024,
                        .dim = s->dim,
                        .n_layers = s->n_layers,
                        .n_heads = s->n_heads,
                        .n_kv_heads = s->n_kv_heads,
                        .head_dim = s->head_dim,
                        .value_dim = s->head_dim,
                        .rope_dim = s->head_dim,
                        .ffn = s->ffn,
                        .rope_base = 10000,
                        .norm_eps = 1e-5F,
                        .attn_scale = 0.17F,
                        .embed_scale = 1,
                        .tied = true};
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_params_new(&hp, NULL, 0, &w->params, &err) == SHOAL_OK, err.text);
    shoal_params_start(w->params, 1);
    must(shoal_net_new(w->params, w->batch.n_tokens, w->batch.n_targets, &w->net) == SHOAL_OK,
         "no memory for a net");
    w->grads = shoal_params_block(w->params);
    must(w->grads != NULL, "no memory for gradients");
}

static void run_forward(void *context)
{
    work *w = context;
    shoal_net_forward(w->net, w->params, &w->batch);
    (void)shoal_net_logits(w->net, 0);
}

static void run_step(void *context)
{
    work *w = context;
    shoal_net_forward(w->net, w->params, &w->batch);
    float *logits = shoal_net_logits(w->net, 0);
    (void)shoal_loss_cross_entropy(w->batch.n_targets, w->shape->n_vocab, w->target_ids, w->weights,
                                   logits);
    shoal_net_backward(w->net, w->params, &w->batch, w->grads);
}

/* --- its products alone ---------------------------------------------------------------------- */

static void add_product(work *w, size_t m, size_t n, size_t k, CBLAS_TRANSPOSE a, CBLAS_TRANSPOSE b)
{
    must(w->n_products < PRODUCTS_MAX, "too many products");
    w->products[w->n_products++] = (product){(int)m, (int)n, (int)k, a, b};
}

/* y = x W^T with its two gradients, over some rows. */
static void add_linear(work *w, size_t n, size_t rows, size_t cols)
{
    add_product(w, n, rows, cols, CblasNoTrans, CblasTrans);
    add_product(w, n, cols, rows, CblasNoTrans, CblasNoTrans);
    add_product(w, rows, cols, n, CblasTrans, CblasNoTrans);
}

static void make_products(work *w)
{
    const shape *s = w->shape;
    size_t q = s->n_heads * s->head_dim;
    size_t kv = 2 * s->n_kv_heads * s->head_dim;
    size_t largest = s->n_tokens * (q + kv + 2 * s->ffn + s->n_vocab) + s->n_vocab * s->dim;
    for (size_t i = 0; i < s->n_layers; i++) {
        bool last = i + 1 == s->n_layers;
        size_t n = last ? w->batch.n_targets : s->n_tokens;
        if (last) {
            add_linear(w, n, q, s->dim);
            add_linear(w, s->n_tokens, kv, s->dim);
        } else {
            add_linear(w, n, q + kv, s->dim);
        }
        add_linear(w, n, s->dim, q);
        add_linear(w, n, 2 * s->ffn, s->dim);
        add_linear(w, n, s->dim, s->ffn);
    }
    add_linear(w, w->batch.n_targets, s->n_vocab, s->dim);
    w->a = shoal_calloc_huge(largest, sizeof *w->a);
    w->b = shoal_calloc_huge(largest, sizeof *w->b);
    w->c = shoal_calloc_huge(largest, sizeof *w->c);
    must(w->a && w->b && w->c, "no memory for products");
    for (size_t i = 0; i < largest; i++) {
        w->a[i] = 1e-3F * (float)(i % 17);
        w->b[i] = 1e-3F * (float)(i % 13);
    }
}

static void run_products(void *context)
{
    const work *w = context;
    for (size_t i = 0; i < w->n_products; i++) {
        const product *p = &w->products[i];
        cblas_sgemm(CblasRowMajor, p->a, p->b, p->m, p->n, p->k, 1, w->a,
                    p->a == CblasTrans ? p->m : p->k, w->b, p->b == CblasTrans ? p->k : p->n, 0,
                    w->c, p->n);
    }
}

/* --- the report ------------------------------------------------------------------------------ */

static uint64_t flops_of(work *w, bench_fn *run)
{
    uint64_t before = shoal_net_flops(w->net);
    run(w);
    return shoal_net_flops(w->net) - before;
}

/* Gop/s of floats in registers, one thread, now; 0 where that is not known. */
static double float_peak(void)
{
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    if (shoal_pool_new(1, &pool) != SHOAL_OK) {
        return 0;
    }
    shoal_peak *peak = shoal_peak_new(pool);
    double ops = peak ? shoal_peak_float(peak) : 0;
    shoal_peak_free(peak);
    return ops;
}

static void measure(const bench_settings *settings, bench_report *report, const shape *s)
{
    work w = {.shape = s};
    make_batch(&w);
    make_model(&w);
    make_products(&w);
    uint64_t product_flops = 0;
    for (size_t i = 0; i < w.n_products; i++) {
        const product *p = &w.products[i];
        product_flops += 2 * (uint64_t)p->m * (uint64_t)p->n * (uint64_t)p->k;
    }
    bench_subject subjects[] = {
        {"train-forward", s->name, "", 0, flops_of(&w, run_forward), run_forward, &w},
        {"train-step", s->name, "", 0, flops_of(&w, run_step), run_step, &w},
        {"sgemm-of-step", s->name, "", 0, product_flops, run_products, &w},
    };
    bench_result results[SHOAL_COUNT(subjects)];
    double peak = float_peak();
    for (size_t i = 0; i < SHOAL_COUNT(subjects); i++) {
        results[i] = bench_measure(settings, &subjects[i]);
        bench_report_row(report, &subjects[i], &results[i]);
    }
    if (!report->json) {
        peak = fmax(peak, float_peak());
        (void)printf("  %s: %.0f tokens/s, %.1f %% of the time is what sgemm alone would take\n",
                     s->name, (double)s->n_tokens / results[1].median_s,
                     100 * results[2].median_s / results[1].median_s);
        (void)printf("  %.1f %% of %.0f GFLOP/s, the peak of one thread measured beside it\n",
                     peak > 0 ? (double)subjects[1].flops / results[1].median_s / 1e7 / peak : 0,
                     peak);
    }
    void *all[] = {w.ids,     w.positions, w.target_ids, w.weights, w.segments,
                   w.targets, w.grads,     w.a,          w.b,       w.c};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        shoal_free(all[i]);
    }
    shoal_net_free(w.net);
    shoal_params_free(w.params);
}

int main(int argc, char **argv)
{
    bool is_smoke = false;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        is_smoke = is_smoke || strcmp(argv[i], "--smoke") == 0;
        json = json || strcmp(argv[i], "--json") == 0;
    }
    bench_settings settings = is_smoke ? bench_settings_smoke() : bench_settings_default();
    settings.total_s = is_smoke ? settings.total_s : 4;
    bench_report report;
    openblas_set_num_threads(1);
    bench_report_begin(&report, stdout, json, openblas_get_corename());
    if (is_smoke) {
        measure(&settings, &report, &smoke);
    }
    for (size_t i = 0; !is_smoke && i < SHOAL_COUNT(shapes); i++) {
        measure(&settings, &report, &shapes[i]);
    }
    return bench_report_end(&report) == 0 ? 0 : 1;
}
