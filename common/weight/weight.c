/* SPDX-License-Identifier: Apache-2.0 */
#include "common/weight/acts_internal.h"
#include "common/weight/matrix_internal.h"

enum {
    ROWS = SHOAL_PANEL_ROWS,
    PARTS_PER_THREAD = 8, /* enough to even out threads that are late */
    PART_PANELS = 4       /* kernels keep this many panels in flight at width 1 */
};

size_t shoal_weight_n_rows(const shoal_weight *weight)
{
    return weight->n_rows;
}

size_t shoal_weight_k(const shoal_weight *weight)
{
    return weight->k;
}

bool shoal_weight_skips(const shoal_weight *weight)
{
    return weight->sides && weight->sides->threshold > 0;
}

size_t shoal_weight_bytes(const shoal_weight *weight)
{
    size_t panels = weight->n_panels;
    if (weight->tile_rows > 0) {
        panels = (weight->n_rows + weight->tile_rows - 1) / weight->tile_rows;
    }
    return panels * weight->panel_bytes + (weight->sides ? shoal_sides_bytes(weight->sides) : 0);
}

uint64_t shoal_weight_flops(const shoal_weight *weight)
{
    return 2 * (uint64_t)weight->n_rows * weight->k +
           (weight->sides ? shoal_sides_flops(weight->sides) : 0);
}

const void *shoal_weight_panels(const shoal_weight *weight, size_t *ret_bytes)
{
    *ret_bytes = weight->panels ? weight->n_panels * weight->panel_bytes : 0;
    return weight->panels;
}

static bool reads_codes(const shoal_weight *weight)
{
    return shoal_panel_find(weight->format->panel)->quantised;
}

void shoal_weight_raise_needs(const shoal_weight *weight, shoal_side_needs *needs)
{
    const shoal_sides *sides = weight->sides;
    if (!sides) {
        return;
    }
    needs->rank = SHOAL_MAX(needs->rank, sides->rank);
    if (sides->inverse || sides->threshold > 0) {
        size_t *k = reads_codes(weight) ? &needs->k_codes : &needs->k_floats;
        *k = SHOAL_MAX(*k, weight->k);
    }
}

void shoal_weight_row(const shoal_weight *weight, size_t r, float *ret_row)
{
    SHOAL_ASSERT(r < weight->n_rows);
    if (weight->tile_rows > 0) {
        shoal_tiles_row(weight, r, ret_row);
    } else {
        const uint8_t *panel = weight->panels + r / ROWS * weight->panel_bytes;
        if (weight->sides && weight->sides->has_levels) {
            weight->format->unpack_levels(panel, weight->k, r % ROWS, weight->sides->levels,
                                          ret_row);
        } else {
            weight->format->unpack_row(panel, weight->k, r % ROWS, ret_row);
        }
    }
    if (weight->sides) {
        shoal_sides_expand_row(weight->sides, r, ret_row);
    }
}

/* --- product --------------------------------------------------------------------------------- */

/* One product of a job, and what is added to it. */
typedef struct task {
    shoal_panel panel;
    size_t n_panels;
    size_t unit; /* panels that stay together */
    size_t part_panels;
    size_t first_part;
    shoal_gemm gemm;
    shoal_firing firing;   /* tile_rows 0: the product is gemm's */
    shoal_low low;         /* rank 0: none */
    shoal_singles singles; /* begin NULL: none */
} task;

typedef struct job {
    const shoal_kernels *kernels;
    size_t n;
    task tasks[SHOAL_PRODUCTS_MAX];
} job;

static void run_part(void *ctx, size_t part, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    size_t i = j->n - 1;
    while (j->tasks[i].first_part > part) {
        i--;
    }
    const task *t = &j->tasks[i];
    size_t p0 = (part - t->first_part) * t->part_panels;
    size_t p1 = SHOAL_MIN(p0 + t->part_panels, t->n_panels);
    if (t->firing.tile_rows > 0) {
        j->kernels->gemm_firing(&t->firing, p0 / t->unit, (p1 + t->unit - 1) / t->unit);
    } else {
        j->kernels->gemm[t->panel](&t->gemm, p0, p1);
    }
    if (t->low.rank > 0) {
        j->kernels->add_low(&t->low, p0, p1);
    }
    if (t->singles.begin) {
        j->kernels->add_singles(&t->singles, p0, p1);
    }
}

/* Panels of a weight that stay together: kernels keep several in flight, a tile is one. */
static size_t unit_of(const shoal_weight *weight)
{
    return weight->tile_rows > 0 ? weight->tile_rows / ROWS : PART_PANELS;
}

/* Panels of a weight's part, of a job that has all_panels. */
static size_t panels_of_part(size_t all_panels, size_t unit, const shoal_pool *pool)
{
    size_t n_parts = SHOAL_MAX(shoal_pool_n_threads(pool) * PARTS_PER_THREAD, (size_t)1);
    size_t part_panels = (all_panels + n_parts - 1) / n_parts;
    return (part_panels + unit - 1) / unit * unit;
}

static void run_job(job *j, shoal_pool *pool)
{
    size_t all_panels = 0;
    for (size_t i = 0; i < j->n; i++) {
        all_panels += j->tasks[i].n_panels;
    }
    size_t parts = 0;
    size_t n_ops = 0;
    for (size_t i = 0; i < j->n; i++) {
        task *t = &j->tasks[i];
        n_ops += t->gemm.n_rows * t->gemm.k * t->gemm.n_cols;
        t->part_panels = panels_of_part(all_panels, t->unit, pool);
        t->first_part = parts;
        parts += (t->n_panels + t->part_panels - 1) / t->part_panels;
    }
    shoal_pool_run_sized(pool, run_part, j, parts, n_ops);
}

/* --- what comes next -------------------------------------------------------------------------- */

void shoal_weight_set_next(shoal_weight *weight, const shoal_weight *const *next, size_t n)
{
    SHOAL_ASSERT(n <= SHOAL_PRODUCTS_MAX);
    for (size_t i = 0; i < n; i++) {
        weight->next[i] = next[i];
    }
    weight->n_next = n;
}

/* Where a part of the job that comes next begins to read; NULL: there is no such part, or what it
 * reads will follow from what fires. *ret_parts is how many there are. */
static const void *start_of(const shoal_weight *weight, shoal_pool *pool, size_t part,
                            size_t *ret_parts)
{
    const void *start = NULL;
    size_t all_panels = 0;
    *ret_parts = 0;
    for (size_t i = 0; i < weight->n_next; i++) {
        all_panels += weight->next[i]->n_panels;
    }
    for (size_t i = 0; i < weight->n_next; i++) {
        const shoal_weight *w = weight->next[i];
        const size_t part_panels = panels_of_part(all_panels, unit_of(w), pool);
        const size_t parts = (w->n_panels + part_panels - 1) / part_panels;
        if (w->panels && part >= *ret_parts && part - *ret_parts < parts) {
            start = w->panels + (part - *ret_parts) * part_panels * w->panel_bytes;
        }
        *ret_parts += parts;
    }
    return start;
}

/* A job that is too small to be shared out is read by the caller alone: what another thread had
 * fetched of it would have to come from that one's cache. */
static void expect_next(const shoal_weight *weight, size_t n_cols, shoal_pool *pool)
{
    size_t parts = 0;
    size_t n_ops = 0;
    for (size_t i = 0; i < weight->n_next; i++) {
        n_ops += n_cols * weight->next[i]->n_rows * weight->next[i]->k;
    }
    const void *first = start_of(weight, pool, 0, &parts);
    const void *odd = start_of(weight, pool, shoal_pool_odd_part(pool, parts), &parts);
    shoal_pool_expect(pool, first, shoal_pool_shares(pool, run_part, n_ops) ? odd : NULL);
}

/* Adds the base's product to a job. */
static task *add_task(job *j, const shoal_weight *weight, shoal_acts_change change,
                      shoal_pool *pool, shoal_acts *acts, float *y, size_t y_stride)
{
    const shoal_acts_form *form =
        shoal_acts_form_get(acts, change, reads_codes(weight), j->kernels, pool);
    task *t = &j->tasks[j->n++];
    *t = (task){.panel = weight->format->panel,
                .n_panels = weight->n_panels,
                .unit = unit_of(weight),
                .gemm = {.panels = weight->panels,
                         .n_rows = weight->n_rows,
                         .k = weight->k,
                         .n_cols = acts->n_cols,
                         .x = form->x,
                         .x_stride = form->stride,
                         .xq = form->codes,
                         .xb = form->blocks,
                         .levels = weight->sides && weight->sides->has_levels
                                       ? weight->sides->levels
                                       : shoal_panel_levels(weight->format->panel),
                         .y = y,
                         .y_stride = y_stride}};
    if (weight->tile_rows > 0) {
        t->firing = (shoal_firing){.tiles = weight->owned,
                                   .tile_rows = weight->tile_rows,
                                   .n_rows = weight->n_rows,
                                   .k = weight->k,
                                   .n_cols = acts->n_cols,
                                   .xq = form->codes,
                                   .xb = form->blocks,
                                   .y = y,
                                   .y_stride = y_stride};
    }
    return t;
}

static void add_sides(task *t, const shoal_sides *s, const shoal_acts *acts, const float *low)
{
    t->low = (shoal_low){.panels = s->left,
                         .n_rows = s->n_rows,
                         .rank = s->rank,
                         .n_cols = acts->n_cols,
                         .t = low,
                         .t_stride = s->rank,
                         .y = t->gemm.y,
                         .y_stride = t->gemm.y_stride};
    t->singles = (shoal_singles){.begin = s->begin,
                                 .counts = s->counts,
                                 .cols = s->cols,
                                 .values = s->values,
                                 .n_rows = s->n_rows,
                                 .n_cols = acts->n_cols,
                                 .x = acts->plain.x,
                                 .x_stride = acts->plain.stride,
                                 .y = t->gemm.y,
                                 .y_stride = t->gemm.y_stride};
}

/* t = R x of all products first, as a job of its own: every row of y needs all of it. */
static void run_low(const shoal_product *products, size_t n, const shoal_kernels *kernels,
                    shoal_pool *pool, shoal_acts *acts, float *low[SHOAL_PRODUCTS_MAX])
{
    job j = {.kernels = kernels};
    float *at = acts->low;
    for (size_t i = 0; i < n; i++) {
        const shoal_sides *s = products[i].weight->sides;
        if (s && s->rank > 0) {
            SHOAL_ASSERT(s->rank <= acts->needs.rank);
            low[i] = at;
            at += acts->n_cols * s->rank;
            (void)add_task(&j, s->right, (shoal_acts_change){0}, pool, acts, low[i], s->rank);
        }
    }
    if (j.n > 0) {
        run_job(&j, pool);
    }
}

void shoal_weight_matmuls(const shoal_product *products, size_t n, const shoal_kernels *kernels,
                          shoal_pool *pool, shoal_acts *acts)
{
    SHOAL_ASSERT(n >= 1 && n <= SHOAL_PRODUCTS_MAX);
    float *low[SHOAL_PRODUCTS_MAX] = {0};
    run_low(products, n, kernels, pool, acts, low);
    job j = {.kernels = kernels};
    shoal_acts_forms_begin(acts);
    for (size_t i = 0; i < n; i++) {
        const shoal_weight *w = products[i].weight;
        SHOAL_ASSERT(acts->k == w->k && products[i].y_stride >= w->n_rows);
        shoal_acts_change change = {0};
        if (w->sides) {
            change = (shoal_acts_change){w->sides->inverse, w->sides->threshold};
        }
        task *t = add_task(&j, w, change, pool, acts, products[i].y, products[i].y_stride);
        if (w->sides) {
            add_sides(t, w->sides, acts, low[i]);
        }
    }
    expect_next(products[0].weight, acts->n_cols, pool);
    run_job(&j, pool);
}

void shoal_weight_matmul(const shoal_weight *weight, const shoal_kernels *kernels, shoal_pool *pool,
                         shoal_acts *acts, float *y, size_t y_stride)
{
    const shoal_product product = {.weight = weight, .y = y, .y_stride = y_stride};
    shoal_weight_matmuls(&product, 1, kernels, pool, acts);
}

/* --- codecs ---------------------------------------------------------------------------------- */

shoal_status shoal_weight_encode(shoal_type type, const float *x, size_t n, void *ret_blocks,
                                 shoal_err *err)
{
    const shoal_format *format = shoal_format_find(type);
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    if (!format || !info || !format->encode) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "tensor type %d cannot be written",
                             (int)type);
    }
    if (n % info->block != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%zu elements are no whole blocks of %u", n,
                             info->block);
    }
    if (!shoal_format_f32.finite((const uint8_t *)x, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "a number to be encoded is not finite");
    }
    format->encode(x, n, ret_blocks);
    if (!format->finite(ret_blocks, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a number to be encoded is too large for %s; keep this tensor in F32",
                             info->name);
    }
    return SHOAL_OK;
}

void shoal_weight_decode(shoal_type type, const void *blocks, size_t n, float *ret_x)
{
    const shoal_format *format = shoal_format_find(type);
    SHOAL_ASSERT(format && format->decode); /* the reader lets no type in but ours and I8 */
    format->decode(blocks, n, ret_x);
}
