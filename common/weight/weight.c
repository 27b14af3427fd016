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

shoal_type shoal_weight_type(const shoal_weight *weight)
{
    return weight->format->type;
}

size_t shoal_weight_bytes(const shoal_weight *weight)
{
    return weight->n_panels * weight->panel_bytes;
}

const void *shoal_weight_panels(const shoal_weight *weight)
{
    return weight->panels;
}

void shoal_weight_row(const shoal_weight *weight, size_t r, float *ret_row)
{
    SHOAL_ASSERT(r < weight->n_rows);
    weight->format->unpack_row(weight->panels + r / ROWS * weight->panel_bytes, weight->k, r % ROWS,
                               ret_row);
}

/* --- product --------------------------------------------------------------------------------- */

typedef struct job {
    const shoal_kernels *kernels;
    size_t n;
    shoal_gemm g[SHOAL_PRODUCTS_MAX];
    shoal_panel panel[SHOAL_PRODUCTS_MAX];
    size_t n_panels[SHOAL_PRODUCTS_MAX];
    size_t first_part[SHOAL_PRODUCTS_MAX]; /* of each product */
    size_t part_panels;
} job;

static void run_part(void *ctx, size_t part, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    size_t i = j->n - 1;
    while (j->first_part[i] > part) {
        i--;
    }
    size_t p0 = (part - j->first_part[i]) * j->part_panels;
    size_t p1 = SHOAL_MIN(p0 + j->part_panels, j->n_panels[i]);
    j->kernels->gemm[j->panel[i]](&j->g[i], p0, p1);
}

static shoal_gemm gemm_of(const shoal_product *product, const shoal_acts *acts)
{
    return (shoal_gemm){.panels = product->weight->panels,
                        .n_rows = product->weight->n_rows,
                        .k = product->weight->k,
                        .n_cols = acts->n_cols,
                        .x = acts->x,
                        .x_stride = acts->stride,
                        .xq = acts->codes,
                        .xb = acts->blocks,
                        .y = product->y,
                        .y_stride = product->y_stride};
}

void shoal_weight_matmuls(const shoal_product *products, size_t n, const shoal_kernels *kernels,
                          shoal_pool *pool, shoal_acts *acts)
{
    SHOAL_ASSERT(n >= 1 && n <= SHOAL_PRODUCTS_MAX);
    job j = {.kernels = kernels, .n = n};
    size_t all_panels = 0;
    for (size_t i = 0; i < n; i++) {
        const shoal_weight *w = products[i].weight;
        SHOAL_ASSERT(acts->k == w->k && products[i].y_stride >= w->n_rows);
        if (shoal_panel_find(w->format->panel)->quantised) {
            shoal_acts_quantise(acts, kernels, pool);
        }
        j.g[i] = gemm_of(&products[i], acts);
        j.panel[i] = w->format->panel;
        j.n_panels[i] = w->n_panels;
        all_panels += w->n_panels;
    }
    size_t n_parts = SHOAL_MAX(shoal_pool_n_threads(pool) * PARTS_PER_THREAD, (size_t)1);
    size_t part_panels = (all_panels + n_parts - 1) / n_parts;
    j.part_panels = (part_panels + PART_PANELS - 1) / PART_PANELS * PART_PANELS;
    size_t parts = 0;
    for (size_t i = 0; i < n; i++) {
        j.first_part[i] = parts;
        parts += (j.n_panels[i] + j.part_panels - 1) / j.part_panels;
    }
    shoal_pool_run(pool, run_part, &j, parts);
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
