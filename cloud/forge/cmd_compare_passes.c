/* SPDX-License-Identifier: Apache-2.0
 *
 * `compare-passes`: what every pass of common/compress makes of every linear layer of a model, as
 * the error of the layer's output along the text of calibrate-weights. First pass against pass in
 * one form, then kind against kind at equal bytes. A file of rows grows layer by layer, and the
 * same command goes on behind the last one.
 */
#include "cloud/forge/compare.h"
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/compress/compress.h"
#include "common/compress/moments.h"
#include "common/train/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    BITS = 3, /* of quantised columns, and of the bytes that all kinds get */
    GROUP = 64,
    FILE_MAX = 256 << 20
};

#define AT(field) offsetof(forge_args, compare_passes.field)

static const forge_option options[] = {
    {0, "calibration", 'c', FORGE_OPTION_TEXT, AT(moments), 0, 0, "FILE",
     "what calibrate-weights has made of this model (required)"},
    {0, "bits", 0, FORGE_OPTION_INT, AT(bits), 2, 8, "B",
     "bits of a value; each kind gets the bytes of these, scales included (default 3)"},
    {0, "group", 0, FORGE_OPTION_INT, AT(group), 32, 128, "N",
     "columns that share a scale: 32, 64 or 128 (default 64)"},
    {0, "output", 'o', FORGE_OPTION_TEXT, AT(output), 0, 0, "FILE",
     "rows as JSON; where it has some of this comparison, only the others are made"},
    {0, "plot", 0, FORGE_OPTION_TEXT, AT(plot), 0, 0, "FILE", "a picture, as SVG"},
};

const forge_own shoal_forge_compare_passes_own = {
    .run = shoal_forge_compare_passes,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.compare_passes = {.bits = BITS, .group = GROUP}},
};

/* --- columns --------------------------------------------------------------------------------- */

/* A column is a pass with a form, or, where equal, the best the pass makes of the bytes of RTN. */
typedef struct column {
    shoal_pass pass;
    shoal_form form;
    bool equal;
} column;

static void make_columns(const forge_args *args, column ret[COMPARE_COLUMNS])
{
    const shoal_form q = {.bits = (size_t)args->compare_passes.bits,
                          .group = (size_t)args->compare_passes.group};
    const shoal_form half = {
        .bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_BITMAP, .density = 0.5};
    const shoal_form fours = {.bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_TWO_FOUR};
    shoal_form by_row = half;
    shoal_form by_layer = half;
    by_row.rivals = SHOAL_RIVALS_ROW;
    by_layer.rivals = SHOAL_RIVALS_LAYER;
    const column all[COMPARE_COLUMNS] = {
        [COMPARE_RTN] = {SHOAL_PASS_RTN, q, false},
        [COMPARE_AWQ] = {SHOAL_PASS_AWQ, q, false},
        [COMPARE_CLIP] = {SHOAL_PASS_CLIP, q, false},
        [COMPARE_GPTQ] = {SHOAL_PASS_GPTQ, q, false},
        [COMPARE_REFINED] = {SHOAL_PASS_REFINED, q, false},
        [COMPARE_MAGNITUDE] = {SHOAL_PASS_MAGNITUDE, by_layer, false},
        [COMPARE_MAGNITUDE_ROW] = {SHOAL_PASS_MAGNITUDE, by_row, false},
        [COMPARE_WANDA] = {SHOAL_PASS_WANDA, by_row, false},
        [COMPARE_WANDA_LAYER] = {SHOAL_PASS_WANDA, by_layer, false},
        [COMPARE_SPARSEGPT] = {SHOAL_PASS_SPARSEGPT, half, false},
        [COMPARE_TWO_FOUR] = {SHOAL_PASS_TWO_FOUR, fours, false},
        [COMPARE_WRP] = {SHOAL_PASS_WRP, fours, false},
        [COMPARE_EQUAL_QUANTISED] = {SHOAL_PASS_GPTQ, q, true},
        [COMPARE_EQUAL_REFINED] = {SHOAL_PASS_REFINED, q, true},
        [COMPARE_EQUAL_SPARSE] = {SHOAL_PASS_SPARSEGPT, q, true},
        [COMPARE_EQUAL_LOW_RANK] = {SHOAL_PASS_WHITENED_SVD, q, true},
        [COMPARE_EQUAL_JOINT] = {SHOAL_PASS_JOINT, q, true},
    };
    memcpy(ret, all, sizeof all);
}

/* What comes back to 2:4: a twentieth more bytes, each element of six, each row's begin of four. */
static double recover_of(const compare_row *row, uint64_t bytes)
{
    double left = 0.05 * (double)bytes - 4.0 * (double)(row->n_rows + 1);
    return fmax(left / 6 / (double)(row->n_rows * row->n_cols), 0);
}

/* ret_bytes: 0 where there is none. */
static shoal_status fill(const shoal_problem *p, const column *col, uint64_t bytes,
                         compare_cell *ret_cell, uint64_t *ret_bytes, shoal_form *ret_form,
                         shoal_err *err)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    shoal_status status = col->equal ? shoal_compress_within(p, col->pass, bytes, &c, err)
                                     : shoal_compress(p, col->pass, &col->form, &c, err);
    *ret_cell = (compare_cell){.none = true};
    *ret_bytes = 0;
    if (status == SHOAL_E_LIMIT && col->equal) {
        shoal_err_clear(err);
        return SHOAL_OK;
    }
    SHOAL_TRY(status);
    ret_cell->none = false;
    *ret_bytes = shoal_compressed_bytes(c);
    *ret_form = c->form;
    if (shoal_compressed_error(p, c, &ret_cell->error) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge a layer");
    }
    return SHOAL_OK;
}

/* --- rows ------------------------------------------------------------------------------------ */

typedef struct comparison {
    const forge_args *args;
    compare_id id;
    shoal_model *model;
    shoal_params *params;
    shoal_moments *moments;
    compare_row *rows; /* one for each layer */
    size_t n_there;    /* rows that the file had */
    shoal_buf file;    /* what it is to have */
} comparison;

static void comparison_fini(comparison *c)
{
    shoal_model_free(c->model);
    shoal_params_free(c->params);
    shoal_moments_free(c->moments);
    shoal_free(c->rows);
    shoal_buf_fini(&c->file);
}

static shoal_status compare_layer(comparison *k, size_t i, compare_row *ret, shoal_err *err)
{
    const shoal_moments_layer *l = shoal_moments_layer_at(k->moments, i);
    shoal_moments_input in = shoal_moments_input_at(k->moments, l->input);
    const shoal_param *item = shoal_params_find(k->params, l->name);
    if (!item || item->n_cols != in.k || l->row > item->n_rows ||
        l->n_rows > item->n_rows - l->row) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the model has no rows %zu to %zu of it", l->row,
                             l->row + l->n_rows);
    }
    column cols[COMPARE_COLUMNS];
    uint64_t bytes[COMPARE_COLUMNS] = {0};
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    make_columns(k->args, cols);
    *ret = (compare_row){.row = l->row, .n_rows = l->n_rows, .n_cols = in.k};
    memcpy(ret->name, l->name, sizeof ret->name);
    SHOAL_TRY(shoal_problem_new(l->n_rows, in.k,
                                k->params->data + item->offset + l->row * item->n_cols, in.moment,
                                &p, err));
    for (size_t c = 0; c < COMPARE_COLUMNS; c++) {
        if (c == COMPARE_WRP) {
            cols[c].form.recover = recover_of(ret, bytes[COMPARE_TWO_FOUR]);
        }
        SHOAL_TRY(fill(p, &cols[c], bytes[COMPARE_RTN], &ret->cells[c], &bytes[c], &ret->form,
                       err)); /* the last form is the joint one's */
    }
    ret->bytes = bytes[COMPARE_EQUAL_JOINT];
    return SHOAL_OK;
}

/* Whether a row that was read is of this layer. */
static bool is_row_of(const comparison *k, size_t i)
{
    const compare_row *row = &k->rows[i];
    const shoal_moments_layer *l = shoal_moments_layer_at(k->moments, i);
    return strcmp(row->name, l->name) == 0 && row->row == l->row && row->n_rows == l->n_rows &&
           row->n_cols == shoal_moments_input_at(k->moments, l->input).k;
}

static shoal_status read_file(comparison *k, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    const char *path = k->args->compare_passes.output;
    if (!path || access(path, F_OK) != 0) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_file_read(path, FILE_MAX, &text, err));
    shoal_status status =
        shoal_forge_compare_read(text.data ? text.data : "", text.length, &k->id, k->rows,
                                 shoal_moments_n_layers(k->moments), &k->n_there, err);
    for (size_t i = 0; status == SHOAL_OK && i < k->n_there; i++) {
        if (!is_row_of(k, i)) {
            status = shoal_err_set(err, SHOAL_E_INVALID, "line %zu is of another layer", i + 2);
        }
    }
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", path);
    }
    return status;
}

static shoal_status open_all(comparison *k, shoal_err *err)
{
    const forge_args *args = k->args;
    shoal_map map = {0};
    SHOAL_TRY(shoal_model_load(args->model, &k->model, err));
    SHOAL_TRY(shoal_moments_open(args->compare_passes.moments, &k->model->hash, &k->moments, err));
    SHOAL_TRY(shoal_params_new(&k->model->hp, NULL, 0, &k->params, err));
    SHOAL_TRY(shoal_params_from_model(k->params, k->model, err));
    SHOAL_TRY(shoal_map_open(args->compare_passes.moments, &map, err));
    k->id = (compare_id){.model = k->model->hash,
                         .bits = args->compare_passes.bits,
                         .group = args->compare_passes.group};
    shoal_status status = shoal_hash_of(map.data, map.size, &k->id.moments);
    shoal_map_close(&map);
    k->rows = shoal_calloc(shoal_moments_n_layers(k->moments), sizeof *k->rows);
    if (status != SHOAL_OK || !k->rows) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for rows");
    }
    return read_file(k, err);
}

/* --- telling --------------------------------------------------------------------------------- */

static shoal_status no_memory(shoal_status status, shoal_err *err)
{
    return status == SHOAL_OK ? SHOAL_OK
                              : shoal_err_set(err, status, "no memory for what is to be told");
}

static shoal_status tell(const shoal_buf *text)
{
    (void)fwrite(text->data, 1, text->length, stdout);
    (void)fflush(stdout);
    return SHOAL_OK;
}

static shoal_status tell_row(const comparison *k, const compare_row *row)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(k->args->json ? shoal_forge_compare_put_row(row, &text)
                            : shoal_forge_compare_put_table_row(row, &text));
    return tell(&text);
}

static shoal_status tell_head(void)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_forge_compare_put_table_head(&text));
    return tell(&text);
}

static shoal_status write_file(comparison *k, shoal_err *err)
{
    const char *path = k->args->compare_passes.output;
    return path ? shoal_file_write(path, k->file.data, k->file.length, err) : SHOAL_OK;
}

static shoal_status finish(comparison *k, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf plot = {0};
    size_t n = shoal_moments_n_layers(k->moments);
    const char *path = k->args->compare_passes.plot;
    SHOAL_TRY(no_memory(shoal_forge_compare_put_tally(k->rows, n, k->args->json, &text), err));
    SHOAL_TRY(no_memory(shoal_forge_compare_put_tally(k->rows, n, true, &k->file), err));
    SHOAL_TRY(write_file(k, err));
    if (path) {
        SHOAL_TRY(no_memory(shoal_forge_compare_plot(k->rows, n, &plot), err));
        SHOAL_TRY(shoal_file_write(path, plot.data, plot.length, err));
    }
    return tell(&text);
}

static shoal_status check_args(const forge_args *args, shoal_err *err)
{
    long group = args->compare_passes.group;
    SHOAL_TRY(shoal_forge_need(args->compare_passes.moments, "-c FILE", err));
    return group == 32 || group == 64 || group == 128
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_INVALID, "--group is %ld: it must be 32, 64 or 128",
                               group);
}

shoal_status shoal_forge_compare_passes(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(comparison_fini) comparison k = {.args = args};
    SHOAL_TRY(check_args(args, err));
    SHOAL_TRY(open_all(&k, err));
    SHOAL_TRY(no_memory(shoal_forge_compare_put_id(&k.id, &k.file), err));
    if (!args->json) {
        SHOAL_TRY(no_memory(tell_head(), err));
    }
    for (size_t i = 0; i < shoal_moments_n_layers(k.moments); i++) {
        shoal_status status = i < k.n_there ? SHOAL_OK : compare_layer(&k, i, &k.rows[i], err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "%s", shoal_moments_layer_at(k.moments, i)->name);
            return status;
        }
        SHOAL_TRY(no_memory(shoal_forge_compare_put_row(&k.rows[i], &k.file), err));
        SHOAL_TRY(i < k.n_there ? SHOAL_OK : write_file(&k, err));
        SHOAL_TRY(no_memory(tell_row(&k, &k.rows[i]), err));
    }
    return finish(&k, err);
}
