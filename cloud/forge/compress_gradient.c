/* SPDX-License-Identifier: Apache-2.0
 *
 * How much of a text's loss hangs on each unit of a layer, to first order: what would change if its
 * weights became zero.
 */
#include "cloud/forge/compress_structure.h"

#include "cloud/forge/windows.h"
#include "common/base/mem.h"
#include "common/train/loss.h"

#include <math.h>

enum {
    WINDOW = 256
};

typedef struct gradients {
    forge_windows windows;
    float *sum; /* a block of the parameters' layout */
    int32_t *next;
    float *weights;
} gradients;

static void gradients_fini(gradients *g)
{
    shoal_forge_windows_fini(&g->windows);
    shoal_free(g->sum);
    shoal_free(g->next);
    shoal_free(g->weights);
}

static shoal_status run_text(const forge_args *args, const shoal_model *model, gradients *g,
                             shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    const shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    size_t n_ids = 0;
    size_t window = SHOAL_MIN((size_t)WINDOW, model->hp.n_ctx);
    SHOAL_TRY(shoal_file_read(args->compress.along, SHOAL_TEXT_MAX, &text, err));
    SHOAL_TRY(shoal_tokenizer_encode(model->tokenizer, text.data ? text.data : "", text.length,
                                     flags, &ids, &n_ids, err));
    n_ids = SHOAL_MIN(n_ids, (size_t)args->compress.along_tokens);
    if (n_ids < 2) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s holds no two tokens", args->compress.along);
    }
    SHOAL_TRY(shoal_forge_windows_init(&g->windows, model, window, err));
    g->sum = shoal_params_block(g->windows.params);
    g->next = shoal_calloc(window, sizeof *g->next);
    g->weights = shoal_calloc(window, sizeof *g->weights);
    if (!g->sum || !g->next || !g->weights) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for gradients");
    }
    for (size_t at = 0; at + 1 < n_ids; at += window) {
        size_t n = SHOAL_MIN(window, n_ids - at);
        for (size_t i = 0; i < n; i++) {
            bool known = at + i + 1 < n_ids;
            g->next[i] = known ? ids[at + i + 1] : 0;
            g->weights[i] = known ? 1 : 0;
        }
        shoal_forge_windows_learn(&g->windows, ids + at, n, g->next, g->weights, g->sum);
    }
    return SHOAL_OK;
}

/* |w dL/dw| of row `row` of a parameter, of columns [col, col + n). */
static double sum_of(const gradients *g, const shoal_param *item, size_t row, size_t col, size_t n)
{
    size_t at = item->offset + row * item->n_cols + col;
    double sum = 0;
    for (size_t i = at; i < at + n; i++) {
        sum += fabs((double)g->windows.params->data[i] * (double)g->sum[i]);
    }
    return sum;
}

/* Adds to units [n] what their rows, or elements of a vector, have, then what their columns have.
 */
static void add_item(const gradients *g, const shoal_param *item, const structure_parts *parts,
                     size_t n, double *units)
{
    bool vector = item->kind == SHOAL_PARAM_VECTOR;
    const structure_axis *axis = parts->n_rows > 0 ? &parts->rows[0] : &parts->cols;
    size_t width = axis->width;
    for (size_t u = 0; u < n; u++) {
        if (vector) {
            units[u] += sum_of(g, item, 0, u * width, width);
            continue;
        }
        size_t n_rows = parts->n_rows > 0 ? width : item->n_rows;
        for (size_t r = 0; r < n_rows; r++) {
            units[u] += parts->n_rows > 0 ? sum_of(g, item, u * width + r, 0, item->n_cols)
                                          : sum_of(g, item, r, u * width, width);
        }
    }
}

shoal_status shoal_forge_structure_gradient(const forge_args *args, const shoal_model *model,
                                            double *ret_importance, shoal_err *err)
{
    SHOAL_CLEANUP(gradients_fini) gradients g = {0};
    const shoal_hparams *hp = &model->hp;
    SHOAL_TRY(run_text(args, model, &g, err));
    for (size_t i = 0; i < g.windows.params->n_items; i++) {
        const shoal_param *item = &g.windows.params->items[i];
        size_t layer = 0;
        const char *suffix = NULL;
        if (!shoal_forge_structure_name(item->name, &layer, &suffix)) {
            continue;
        }
        /* parameters are never fused */
        structure_parts parts = shoal_forge_structure_parts(hp, false, suffix);
        structure_unit unit = parts.n_rows > 0 ? parts.rows[0].unit : parts.cols.unit;
        size_t at = unit == STRUCTURE_NEURON  ? 0
                    : unit == STRUCTURE_QUERY ? hp->ffn
                                              : hp->ffn + hp->n_heads;
        double *units = ret_importance + layer * shoal_forge_structure_units(hp) + at;
        add_item(&g, item, &parts, shoal_forge_structure_n(hp, unit), units);
    }
    for (size_t i = 0; i < hp->n_layers * shoal_forge_structure_units(hp); i++) {
        if (!isfinite(ret_importance[i])) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "the gradients along %s are not finite: is it the model's own "
                                 "language?",
                                 args->compress.along);
        }
    }
    return SHOAL_OK;
}
