/* SPDX-License-Identifier: Apache-2.0
 *
 * `compare-passes`: what every pass of common/compress makes of every linear layer of a model, as
 * the error of the layer's output along the text of calibrate-weights. First pass against pass in
 * one form, then kind against kind at equal bytes.
 */
#include "cloud/forge/forge.h"

#include "common/base/mem.h"
#include "common/compress/compress.h"
#include "common/compress/moments.h"
#include "common/train/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BITS = 3, /* of quantised columns, and of the bytes that all kinds get */
    GROUP = 64
};

#define AT(field) offsetof(forge_args, compare_passes.field)

static const forge_option options[] = {
    {0, "calibration", 'c', FORGE_OPTION_TEXT, AT(moments), 0, 0, "FILE",
     "what calibrate-weights has made of this model (required)"},
    {0, "bits", 0, FORGE_OPTION_INT, AT(bits), 2, 8, "B",
     "bits of a value; each kind gets the bytes of these, scales included (default 3)"},
    {0, "group", 0, FORGE_OPTION_INT, AT(group), 32, 128, "N",
     "columns that share a scale: 32, 64 or 128 (default 64)"},
};

const forge_own shoal_forge_compare_passes_own = {
    .run = shoal_forge_compare_passes,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.compare_passes = {.bits = BITS, .group = GROUP}},
};

/* --- columns --------------------------------------------------------------------------------- */

/* In the order in which they are made and told. */
typedef enum column_id {
    RTN,
    AWQ,
    GPTQ,
    REFINED,
    MAGNITUDE,
    MAGNITUDE_ROW,
    WANDA,
    WANDA_LAYER,
    SPARSEGPT,
    TWO_FOUR,
    WRP,
    EQUAL_QUANTISED,
    EQUAL_REFINED,
    EQUAL_SPARSE,
    EQUAL_LOW_RANK,
    EQUAL_JOINT,
    COLUMNS
} column_id;

/* A column is a pass with a form, or, where equal, the best the pass makes of the bytes of RTN. */
typedef struct column {
    const char *name;
    shoal_pass pass;
    shoal_form form;
    bool equal;
} column;

static void make_columns(const forge_args *args, column ret[COLUMNS])
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
    const column all[COLUMNS] = {
        [RTN] = {"rtn", SHOAL_PASS_RTN, q, false},
        [AWQ] = {"awq", SHOAL_PASS_AWQ, q, false},
        [GPTQ] = {"gptq", SHOAL_PASS_GPTQ, q, false},
        [REFINED] = {"refined", SHOAL_PASS_REFINED, q, false},
        [MAGNITUDE] = {"magnitude", SHOAL_PASS_MAGNITUDE, by_layer, false},
        [MAGNITUDE_ROW] = {"mag/row", SHOAL_PASS_MAGNITUDE, by_row, false},
        [WANDA] = {"wanda", SHOAL_PASS_WANDA, by_row, false},
        [WANDA_LAYER] = {"wanda/lay", SHOAL_PASS_WANDA, by_layer, false},
        [SPARSEGPT] = {"sparsegpt", SHOAL_PASS_SPARSEGPT, half, false},
        [TWO_FOUR] = {"2:4", SHOAL_PASS_TWO_FOUR, fours, false},
        [WRP] = {"wrp", SHOAL_PASS_WRP, fours, false},
        [EQUAL_QUANTISED] = {"=gptq", SHOAL_PASS_GPTQ, q, true},
        [EQUAL_REFINED] = {"=refined", SHOAL_PASS_REFINED, q, true},
        [EQUAL_SPARSE] = {"=sparse", SHOAL_PASS_SPARSEGPT, q, true},
        [EQUAL_LOW_RANK] = {"=low-rank", SHOAL_PASS_WHITENED_SVD, q, true},
        [EQUAL_JOINT] = {"=joint", SHOAL_PASS_JOINT, q, true},
    };
    memcpy(ret, all, sizeof all);
}

typedef struct cell {
    double error;
    uint64_t bytes;
    shoal_form form;
    bool none; /* the pass has nothing of so many bytes */
} cell;

/* What comes back to 2:4: a twentieth more bytes, each element of six, each row's begin of four. */
static double recover_of(const shoal_moments_layer *l, size_t n_cols, uint64_t bytes)
{
    double left = 0.05 * (double)bytes - 4.0 * (double)(l->n_rows + 1);
    return fmax(left / 6 / (double)(l->n_rows * n_cols), 0);
}

static shoal_status fill(const shoal_problem *p, const column *col, uint64_t bytes, cell *ret,
                         shoal_err *err)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    shoal_status status = col->equal ? shoal_compress_within(p, col->pass, bytes, &c, err)
                                     : shoal_compress(p, col->pass, &col->form, &c, err);
    if (status == SHOAL_E_LIMIT && col->equal) {
        shoal_err_clear(err);
        *ret = (cell){.none = true};
        return SHOAL_OK;
    }
    SHOAL_TRY(status);
    ret->bytes = shoal_compressed_bytes(c);
    ret->form = c->form;
    ret->none = false;
    if (shoal_compressed_error(p, c, &ret->error) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge a layer");
    }
    return SHOAL_OK;
}

/* --- the table ------------------------------------------------------------------------------- */

typedef struct tally {
    size_t n;
    size_t of[8];
    double logs[COLUMNS]; /* of the errors, summed */
    bool none[COLUMNS];
} tally;

/* What is counted. Wanda is put to magnitude among the same rivals. */
static const char *const goals[8] = {"awq <= rtn",
                                     "gptq <= rtn",
                                     "refined <= gptq",
                                     "wanda <= magnitude by row",
                                     "wanda <= magnitude by layer",
                                     "sparsegpt <= wanda",
                                     "wrp <= 2:4 / 2",
                                     "joint < gptq, sparse and low-rank at equal bytes"};

static void count(const cell *c, tally *t)
{
    bool joint = !c[EQUAL_JOINT].none;
    for (size_t i = EQUAL_QUANTISED; i < EQUAL_JOINT; i++) {
        bool rival = i != EQUAL_REFINED && !c[i].none;
        joint = joint && (!rival || c[EQUAL_JOINT].error < c[i].error);
    }
    const bool met[8] = {c[AWQ].error <= c[RTN].error,
                         c[GPTQ].error <= c[RTN].error,
                         c[REFINED].error <= c[GPTQ].error,
                         c[WANDA].error <= c[MAGNITUDE_ROW].error,
                         c[WANDA_LAYER].error <= c[MAGNITUDE].error,
                         c[SPARSEGPT].error <= c[WANDA].error,
                         c[WRP].error <= c[TWO_FOUR].error / 2,
                         joint};
    t->n++;
    for (size_t i = 0; i < SHOAL_COUNT(met); i++) {
        t->of[i] += met[i];
    }
    for (size_t i = 0; i < COLUMNS; i++) {
        t->none[i] = t->none[i] || c[i].none;
        t->logs[i] += log(fmax(c[i].error, 1e-12));
    }
}

static void print_row(const shoal_moments_layer *l, size_t n_cols, const column *cols,
                      const cell *cells, bool json)
{
    static const char *const masks[] = {"all", "bitmap", "2:4"};
    const cell *joint = &cells[EQUAL_JOINT];
    const shoal_form *f = &joint->form;
    (void)printf(json ? "{\"layer\": \"%s\", \"row\": %zu, \"rows\": %zu, \"columns\": %zu"
                      : "%-26s %5zu %5zu %5zu",
                 l->name, l->row, l->n_rows, n_cols);
    for (size_t i = 0; i < COLUMNS; i++) {
        if (json) {
            (void)printf(", \"%s\": ", cols[i].name);
        }
        if (cells[i].none) {
            (void)printf("%*s", json ? 0 : 10, json ? "null" : "-");
        } else {
            (void)printf(json ? "%.6g" : " %9.3g", cells[i].error);
        }
    }
    (void)printf(json ? ", \"bytes\": %llu, \"form\": {\"bits\": %zu, \"group\": %zu, \"mask\": "
                        "\"%s\", \"density\": %g, \"rank\": %zu}}\n"
                      : "  %llu B: %zu bits / %zu, %s %g, rank %zu\n",
                 (unsigned long long)joint->bytes, f->bits, f->group, masks[f->mask], f->density,
                 f->rank);
    (void)fflush(stdout);
}

static shoal_status compare_layer(const forge_args *args, const shoal_params *params,
                                  const shoal_moments *moments, size_t i, tally *t, shoal_err *err)
{
    const shoal_moments_layer *l = shoal_moments_layer_at(moments, i);
    shoal_moments_input in = shoal_moments_input_at(moments, l->input);
    const shoal_param *item = shoal_params_find(params, l->name);
    if (!item || item->n_cols != in.k || l->row > item->n_rows ||
        l->n_rows > item->n_rows - l->row) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the model has no rows %zu to %zu of %s", l->row,
                             l->row + l->n_rows, l->name);
    }
    column cols[COLUMNS];
    cell cells[COLUMNS];
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    make_columns(args, cols);
    SHOAL_TRY(shoal_problem_new(
        l->n_rows, in.k, params->data + item->offset + l->row * item->n_cols, in.moment, &p, err));
    for (size_t c = 0; c < COLUMNS; c++) {
        if (c == WRP) {
            cols[c].form.recover = recover_of(l, in.k, cells[TWO_FOUR].bytes);
        }
        SHOAL_TRY(fill(p, &cols[c], cells[RTN].bytes, &cells[c], err));
    }
    count(cells, t);
    print_row(l, in.k, cols, cells, args->json);
    return SHOAL_OK;
}

static void print_head(const forge_args *args)
{
    column cols[COLUMNS];
    make_columns(args, cols);
    (void)printf("%-26s %5s %5s %5s", "layer", "from", "rows", "cols");
    for (size_t i = 0; i < COLUMNS; i++) {
        (void)printf(" %9s", cols[i].name);
    }
    (void)printf("  the joint form\n");
}

static void print_tally(const forge_args *args, const tally *t)
{
    column cols[COLUMNS];
    make_columns(args, cols);
    (void)printf(args->json ? "{\"layers\": %zu" : "geometric means of %zu layers\n%41s", t->n, "");
    for (size_t i = 0; i < COLUMNS; i++) {
        double mean = exp(t->logs[i] / (double)SHOAL_MAX(t->n, (size_t)1));
        if (args->json) {
            (void)printf(", \"%s\": ", cols[i].name);
        }
        if (t->none[i]) {
            (void)printf("%*s", args->json ? 0 : 10, args->json ? "null" : "-");
        } else {
            (void)printf(args->json ? "%.6g" : " %9.3g", mean);
        }
    }
    (void)printf("\n");
    for (size_t i = 0; i < SHOAL_COUNT(goals); i++) {
        (void)printf(args->json ? ", \"%s\": %zu" : "%s: %zu\n", goals[i], t->of[i]);
    }
    (void)printf(args->json ? "}\n" : "");
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
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *params = NULL;
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *moments = NULL;
    tally t = {0};
    SHOAL_TRY(check_args(args, err));
    SHOAL_TRY(shoal_model_load(args->model, &model, err));
    SHOAL_TRY(shoal_moments_open(args->compare_passes.moments, &model->hash, &moments, err));
    SHOAL_TRY(shoal_params_new(&model->hp, NULL, 0, &params, err));
    SHOAL_TRY(shoal_params_from_model(params, model, err));
    if (!args->json) {
        print_head(args);
    }
    for (size_t i = 0; i < shoal_moments_n_layers(moments); i++) {
        shoal_status status = compare_layer(args, params, moments, i, &t, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "%s", shoal_moments_layer_at(moments, i)->name);
            return status;
        }
    }
    print_tally(args, &t);
    return SHOAL_OK;
}
