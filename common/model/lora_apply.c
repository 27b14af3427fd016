/* SPDX-License-Identifier: Apache-2.0
 *
 * What adapters add to a product. Rows of one adapter are brought together, so that its matrices
 * are read once for all of them. A row's sum is y = fma(scale, (B (A x)), y), each product by the
 * kernel law: its bits depend on its own adapter and input, and rows without one are not touched.
 */
#include "common/model/forward_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    CHUNK = 64 /* rows at a time: bounds scratch, whatever a step holds */
};

/* --- scratch memory -------------------------------------------------------------------------- */

typedef struct extent {
    size_t k;
    size_t n_rows;
} extent;

static void widen(extent *e, const shoal_weight *weight)
{
    if (weight) {
        e->k = SHOAL_MAX(e->k, shoal_weight_k(weight));
        e->n_rows = SHOAL_MAX(e->n_rows, shoal_weight_n_rows(weight));
    }
}

/* The widest input and output of all that an adapter can name. */
static extent widest(const shoal_model *model)
{
    extent e = {0};
    widen(&e, model->output);
    for (size_t i = 0; i < model->hp.n_layers; i++) {
        const shoal_layer *l = &model->layers[i];
        const shoal_weight *weights[] = {
            l->q,
            l->k,
            l->v,
            l->o,
            l->gate,
            l->up,
            l->down,
            l->experts.router,
            l->experts.shared_gate,
            l->experts.shared_up,
            l->experts.shared_down,
            l->latent.q_a,
            l->latent.kv_a,
            l->latent.kv_b,
        };
        for (size_t w = 0; w < SHOAL_COUNT(weights); w++) {
            widen(&e, weights[w]);
        }
    }
    return e;
}

shoal_status shoal_adapting_init(shoal_forward *f)
{
    shoal_adapting *g = &f->adapting;
    const shoal_forward_shape *shape = &f->shape;
    if (shape->n_loras_max == 0) {
        return SHOAL_OK;
    }
    extent e = widest(f->model);
    size_t chunk = SHOAL_MIN(shape->n_rows_max, (size_t)CHUNK);
    g->groups = shoal_calloc(shape->n_loras_max, sizeof *g->groups);
    g->rows = shoal_calloc(shape->n_rows_max, sizeof *g->rows);
    g->gathered = shoal_calloc_aligned(chunk * e.k, sizeof *g->gathered);
    g->low = shoal_calloc_aligned(chunk * shape->lora_rank_max, sizeof *g->low);
    g->delta = shoal_calloc_aligned(chunk * e.n_rows, sizeof *g->delta);
    if (!g->groups || !g->rows || !g->gathered || !g->low || !g->delta) {
        return SHOAL_E_NOMEM;
    }
    return shoal_acts_new(chunk, SHOAL_MAX(e.k, shape->lora_rank_max), &g->acts);
}

void shoal_adapting_fini(shoal_forward *f)
{
    shoal_adapting *g = &f->adapting;
    void *all[] = {g->groups, g->rows, g->gathered, g->low, g->delta};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        shoal_free(all[i]);
    }
    shoal_acts_free(g->acts);
}

/* --- groups ---------------------------------------------------------------------------------- */

/* Notes an adapter unless it is there. */
static void note(shoal_forward *f, const shoal_lora *lora)
{
    shoal_adapting *g = &f->adapting;
    for (size_t i = 0; i < g->n_groups; i++) {
        if (g->groups[i].lora == lora) {
            return;
        }
    }
    SHOAL_ASSERT(g->n_groups < f->shape.n_loras_max &&
                 shoal_lora_rank(lora) <= f->shape.lora_rank_max);
    g->groups[g->n_groups].lora = lora;
    g->groups[g->n_groups].n = 0;
    g->n_groups++;
}

void shoal_adapting_group(shoal_forward *f)
{
    shoal_adapting *g = &f->adapting;
    const shoal_lora *last = NULL;
    size_t n = 0;
    g->n_groups = 0;
    for (size_t row = 0; row < f->n_rows; row++) {
        const shoal_lora *lora = f->rows[row].lora;
        if (lora && lora != last) {
            note(f, lora);
        }
        last = lora;
    }
    for (size_t i = 0; i < g->n_groups; i++) {
        for (size_t row = 0; row < f->n_rows; row++) {
            if (f->rows[row].lora == g->groups[i].lora) {
                g->rows[n++] = row;
                g->groups[i].n++;
            }
        }
    }
}

/* --- products -------------------------------------------------------------------------------- */

static void gather_row(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_adapting *g = &f->adapting;
    size_t k = shoal_weight_k(g->part->base);
    size_t stride = 0;
    const float *x = shoal_acts_x(f->acts, &stride);
    memcpy(g->gathered + i * k, x + g->now[i] * stride, k * sizeof *x);
}

static void add_row(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    shoal_forward *f = ctx;
    const shoal_adapting *g = &f->adapting;
    size_t n = shoal_weight_n_rows(g->part->base);
    f->kernels->add_scaled(n, g->part->scale, g->delta + i * n, g->y + g->now[i] * n);
}

/* Inputs of n rows: where they lie when they are neighbours, else copies side by side. */
static void set_inputs(shoal_forward *f, size_t n)
{
    shoal_adapting *g = &f->adapting;
    size_t k = shoal_weight_k(g->part->base);
    size_t stride = 0;
    const float *x = shoal_acts_x(f->acts, &stride);
    if (g->now[n - 1] - g->now[0] == n - 1) {
        shoal_acts_set(g->acts, x + g->now[0] * stride, n, k, stride);
        return;
    }
    shoal_forward_each(f, n, gather_row);
    shoal_acts_set(g->acts, g->gathered, n, k, k);
}

static void add_chunk(shoal_forward *f, size_t n)
{
    shoal_adapting *g = &f->adapting;
    const shoal_lora_part *part = g->part;
    size_t rank = shoal_weight_n_rows(part->a);
    set_inputs(f, n);
    shoal_weight_matmul(part->a, f->kernels, f->pool, g->acts, g->low, rank);
    shoal_acts_set(g->acts, g->low, n, rank, rank);
    shoal_weight_matmul(part->b, f->kernels, f->pool, g->acts, g->delta,
                        shoal_weight_n_rows(part->b));
    f->bytes_read += shoal_weight_bytes(part->a) + shoal_weight_bytes(part->b);
    shoal_forward_each(f, n, add_row);
}

void shoal_adapting_add(shoal_forward *f, const shoal_weight *w, float *y)
{
    shoal_adapting *g = &f->adapting;
    const size_t *rows = g->rows;
    g->y = y;
    for (size_t i = 0; i < g->n_groups; i++) {
        size_t n = g->groups[i].n;
        g->part = shoal_lora_find(g->groups[i].lora, w);
        for (size_t at = 0; g->part && at < n; at += CHUNK) {
            g->now = rows + at;
            add_chunk(f, SHOAL_MIN(n - at, (size_t)CHUNK));
        }
        rows += n;
    }
}
