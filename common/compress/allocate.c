/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of the first layers, ascending in bytes and descending in error, are made into sums of one
 * layer more; each remembers the sum it came from and the point it took.
 */
#include "common/compress/allocate.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdlib.h>

typedef struct sum {
    double error;
    uint64_t bytes;
    uint32_t from; /* place among the sums before this layer */
    uint32_t point;
} sum;

/* Of one layer: what is kept of its sums. */
typedef struct stage {
    sum *sums;
    size_t n;
} stage;

typedef struct work {
    const shoal_allocate_layer *layers;
    size_t n_layers;
    uint64_t budget;
    uint64_t *least; /* (n_layers + 1) bytes of the smallest points of layers from i on */
    stage *stages;   /* (n_layers + 1) the first is of no layer */
    sum *all;        /* of a stage, before they are thinned out */
    bool exact;
} work;

static void work_fini(work *w)
{
    for (size_t i = 0; w->stages && i <= w->n_layers; i++) {
        shoal_free(w->stages[i].sums);
    }
    shoal_free(w->stages);
    shoal_free(w->least);
    shoal_free(w->all);
}

static shoal_status check(const shoal_allocate_layer *l, size_t i, shoal_err *err)
{
    if (l->n_points < 1 || l->n_points > SHOAL_ALLOCATE_POINTS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "layer %zu has %zu points, 1 to %d are taken", i,
                             l->n_points, SHOAL_ALLOCATE_POINTS_MAX);
    }
    bool good = isfinite(l->weight) && l->weight >= 0;
    for (size_t p = 0; p < l->n_points; p++) {
        const shoal_allocate_point *point = &l->points[p];
        good = good && isfinite(point->error) && point->error >= 0 &&
               point->bytes <= UINT64_MAX / 2 / SHOAL_ALLOCATE_LAYERS_MAX;
    }
    return good ? SHOAL_OK
                : shoal_err_set(err, SHOAL_E_INVALID,
                                "layer %zu: weight and errors must be finite and not negative", i);
}

static shoal_status work_init(work *w, shoal_err *err)
{
    size_t n_points = 1;
    w->least = shoal_calloc(w->n_layers + 1, sizeof *w->least);
    w->stages = shoal_calloc(w->n_layers + 1, sizeof *w->stages);
    if (!w->least || !w->stages) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu layers", w->n_layers);
    }
    for (size_t i = w->n_layers; i-- > 0;) {
        SHOAL_TRY(check(&w->layers[i], i, err));
        uint64_t least = UINT64_MAX;
        for (size_t p = 0; p < w->layers[i].n_points; p++) {
            least = SHOAL_MIN(least, w->layers[i].points[p].bytes);
        }
        w->least[i] = w->least[i + 1] + least;
        n_points = SHOAL_MAX(n_points, w->layers[i].n_points);
    }
    if (w->least[0] > w->budget) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%llu bytes for all layers: the smallest forms take %llu",
                             (unsigned long long)w->budget, (unsigned long long)w->least[0]);
    }
    w->all = shoal_calloc(n_points * SHOAL_ALLOCATE_SUMS_MAX, sizeof *w->all);
    w->stages[0].sums = shoal_calloc(1, sizeof(sum));
    w->stages[0].n = 1;
    return w->all && w->stages[0].sums
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sums of all layers");
}

/* Fewer bytes first, of equals less error, then the earlier point: a total order. */
static int compare(const void *a, const void *b)
{
    const sum *x = a;
    const sum *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? -1 : 1;
    }
    if (x->error < y->error || y->error < x->error) {
        return x->error < y->error ? -1 : 1;
    }
    if (x->from != y->from) {
        return x->from < y->from ? -1 : 1;
    }
    return (x->point > y->point) - (x->point < y->point);
}

/* Leaves those of n ordered sums that are better in error than every smaller one. */
static size_t keep_best(sum *sums, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || sums[i].error < sums[kept - 1].error) {
            sums[kept++] = sums[i];
        }
    }
    return kept;
}

/* Of sums in one of SUMS_MAX - 1 equal steps of bytes the last, whose error is least; and the
 * first of all, from which every layer that is left still fits. */
static size_t thin_out(sum *sums, size_t n)
{
    uint64_t low = sums[0].bytes;
    uint64_t step = (sums[n - 1].bytes - low) / (SHOAL_ALLOCATE_SUMS_MAX - 1) + 1;
    size_t kept = 1;
    for (size_t i = 1; i < n; i++) {
        bool last = i + 1 == n || (sums[i + 1].bytes - low) / step != (sums[i].bytes - low) / step;
        if (last) {
            sums[kept++] = sums[i];
        }
    }
    return kept;
}

static shoal_status add_layer(work *w, size_t i, shoal_err *err)
{
    const shoal_allocate_layer *l = &w->layers[i];
    const stage *before = &w->stages[i];
    size_t n = 0;
    for (size_t s = 0; s < before->n; s++) {
        for (size_t p = 0; p < l->n_points; p++) {
            uint64_t bytes = before->sums[s].bytes + l->points[p].bytes;
            if (bytes + w->least[i + 1] <= w->budget) {
                w->all[n++] = (sum){.error = before->sums[s].error + l->weight * l->points[p].error,
                                    .bytes = bytes,
                                    .from = (uint32_t)s,
                                    .point = (uint32_t)p};
            }
        }
    }
    qsort(w->all, n, sizeof *w->all, compare);
    n = keep_best(w->all, n);
    if (n > SHOAL_ALLOCATE_SUMS_MAX) {
        n = thin_out(w->all, n);
        w->exact = false;
    }
    stage *after = &w->stages[i + 1];
    after->sums = shoal_calloc(n, sizeof *after->sums);
    if (!after->sums) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sums of %zu layers", i + 1);
    }
    for (size_t s = 0; s < n; s++) {
        after->sums[s] = w->all[s];
    }
    after->n = n;
    return SHOAL_OK;
}

shoal_status shoal_allocate(const shoal_allocate_layer *layers, size_t n_layers, uint64_t budget,
                            size_t *ret_choices, shoal_allocation *ret_sum, shoal_err *err)
{
    SHOAL_CLEANUP(work_fini)
    work w = {.layers = layers, .n_layers = n_layers, .budget = budget, .exact = true};
    if (n_layers > SHOAL_ALLOCATE_LAYERS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%zu layers, at most %d are taken", n_layers,
                             SHOAL_ALLOCATE_LAYERS_MAX);
    }
    SHOAL_TRY(work_init(&w, err));
    for (size_t i = 0; i < n_layers; i++) {
        SHOAL_TRY(add_layer(&w, i, err));
    }
    /* The last of the last stage has the least error of all. */
    size_t at = w.stages[n_layers].n - 1;
    const sum *best = &w.stages[n_layers].sums[at];
    *ret_sum = (shoal_allocation){.bytes = best->bytes, .error = best->error, .exact = w.exact};
    for (size_t i = n_layers; i > 0; i--) {
        const sum *s = &w.stages[i].sums[at];
        ret_choices[i - 1] = s->point;
        at = s->from;
    }
    return SHOAL_OK;
}
