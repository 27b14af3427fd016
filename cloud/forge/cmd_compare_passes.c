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

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BITS = 3, /* of the first three columns, and of the bytes that all kinds get */
    GROUP = 64,
    COLUMNS_MAX = 16
};

#define AT(field) offsetof(forge_args, compare_passes.field)

static const forge_option options[] = {
    {0, "calibration", 'c', FORGE_OPTION_TEXT, AT(moments), 0, 0, "FILE",
     "what calibrate-weights has made of this model (required)"},
    {0, "bits", 0, FORGE_OPTION_INT, AT(bits), 2, 8, "B",
     "bits of a value; each kind gets the bytes of these, scales included (default 3)"},
};

const forge_own shoal_forge_compare_passes_own = {
    .run = shoal_forge_compare_passes,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.compare_passes = {.bits = BITS}},
};

/* --- columns --------------------------------------------------------------------------------- */

/* A column is a pass with a form, or, where equal, the best the pass makes of the bytes. */
typedef struct column {
    const char *name;
    shoal_pass pass;
    shoal_form form;
    bool equal;
} column;

static size_t make_columns(size_t bits, column *ret)
{
    const shoal_form q = {.bits = bits, .group = GROUP};
    const shoal_form half = {
        .bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_BITMAP, .density = 0.5};
    const shoal_form fours = {
        .bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_TWO_FOUR, .recover = 0.05};
    const column all[] = {
        {"rtn", SHOAL_PASS_RTN, q, false},
        {"awq", SHOAL_PASS_AWQ, q, false},
        {"gptq", SHOAL_PASS_GPTQ, q, false},
        {"magnitude", SHOAL_PASS_MAGNITUDE, half, false},
        {"wanda", SHOAL_PASS_WANDA, half, false},
        {"sparsegpt", SHOAL_PASS_SPARSEGPT, half, false},
        {"2:4", SHOAL_PASS_TWO_FOUR, fours, false},
        {"wrp", SHOAL_PASS_WRP, fours, false},
        {"quantised", SHOAL_PASS_GPTQ, q, true},
        {"sparse", SHOAL_PASS_SPARSEGPT, q, true},
        {"low-rank", SHOAL_PASS_WHITENED_SVD, q, true},
        {"joint", SHOAL_PASS_JOINT, q, true},
    };
    memcpy(ret, all, sizeof all);
    return SHOAL_COUNT(all);
}

typedef struct cell {
    double error;
    uint64_t bytes;
    shoal_form form;
    bool none; /* the pass has nothing of so many bytes */
} cell;

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
    size_t gptq;      /* not above rtn */
    size_t awq;       /* not above rtn */
    size_t wanda;     /* not above magnitude */
    size_t sparsegpt; /* not above wanda */
    size_t wrp;       /* at most half of 2:4 */
    size_t joint;     /* below the three other kinds */
} tally;

static void count(const cell *c, tally *t)
{
    bool joint = !c[11].none;
    for (size_t i = 8; i < 11; i++) {
        joint = joint && (c[i].none || c[11].error < c[i].error);
    }
    t->n++;
    t->awq += c[1].error <= c[0].error;
    t->gptq += c[2].error <= c[0].error;
    t->wanda += c[4].error <= c[3].error;
    t->sparsegpt += c[5].error <= c[4].error;
    t->wrp += c[7].error <= c[6].error / 2;
    t->joint += joint;
}

static void print_row(const shoal_moments_layer *l, size_t n_cols, const column *cols,
                      const cell *cells, size_t n, bool json)
{
    static const char *const masks[] = {"all", "bitmap", "2:4"};
    const shoal_form *f = &cells[n - 1].form;
    (void)printf(json ? "{\"layer\": \"%s\", \"row\": %zu, \"rows\": %zu, \"columns\": %zu"
                      : "%-26s %5zu %5zu %5zu",
                 l->name, l->row, l->n_rows, n_cols);
    for (size_t i = 0; i < n; i++) {
        if (json) {
            (void)printf(", \"%s%s\": ", cols[i].name, cols[i].equal ? " at equal bytes" : "");
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
                 (unsigned long long)cells[n - 1].bytes, f->bits, f->group, masks[f->mask],
                 f->density, f->rank);
    (void)fflush(stdout);
}

static shoal_status compare_layer(const shoal_params *params, const shoal_moments *moments,
                                  size_t i, size_t bits, bool json, tally *t, shoal_err *err)
{
    const shoal_moments_layer *l = shoal_moments_layer_at(moments, i);
    shoal_moments_input in = shoal_moments_input_at(moments, l->input);
    const shoal_param *item = shoal_params_find(params, l->name);
    if (!item || item->n_cols != in.k || l->row > item->n_rows ||
        l->n_rows > item->n_rows - l->row) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the model has no rows %zu to %zu of %s", l->row,
                             l->row + l->n_rows, l->name);
    }
    column cols[COLUMNS_MAX];
    cell cells[COLUMNS_MAX];
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    size_t n = make_columns(bits, cols);
    SHOAL_TRY(shoal_problem_new(
        l->n_rows, in.k, params->data + item->offset + l->row * item->n_cols, in.moment, &p, err));
    for (size_t c = 0; c < n; c++) {
        /* rtn comes first: its bytes are what each kind gets */
        SHOAL_TRY(fill(p, &cols[c], cells[0].bytes, &cells[c], err));
    }
    count(cells, t);
    print_row(l, in.k, cols, cells, n, json);
    return SHOAL_OK;
}

static void print_head(size_t bits)
{
    column cols[COLUMNS_MAX];
    size_t n = make_columns(bits, cols);
    (void)printf("%-26s %5s %5s %5s", "layer", "from", "rows", "cols");
    for (size_t i = 0; i < n; i++) {
        (void)printf(" %9s", cols[i].name);
    }
    (void)printf("  the joint form\n");
}

static void print_tally(const tally *t, bool json)
{
    (void)printf(
        json ? "{\"layers\": %zu, \"awq not above rtn\": %zu, \"gptq not above rtn\": %zu, "
               "\"wanda not above magnitude\": %zu, \"sparsegpt not above wanda\": %zu, "
               "\"wrp halves 2:4\": %zu, \"joint below the others\": %zu}\n"
             : "of %zu layers: awq <= rtn in %zu, gptq <= rtn in %zu, wanda <= magnitude in "
               "%zu, sparsegpt <= wanda in %zu, wrp <= 2:4 / 2 in %zu, joint below the "
               "other kinds in %zu\n",
        t->n, t->awq, t->gptq, t->wanda, t->sparsegpt, t->wrp, t->joint);
}

shoal_status shoal_forge_compare_passes(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->compare_passes.moments, "-c FILE", err));
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *params = NULL;
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *moments = NULL;
    size_t bits = (size_t)args->compare_passes.bits;
    tally t = {0};
    SHOAL_TRY(shoal_model_load(args->model, &model, err));
    SHOAL_TRY(shoal_moments_open(args->compare_passes.moments, &model->hash, &moments, err));
    SHOAL_TRY(shoal_params_new(&model->hp, NULL, 0, &params, err));
    SHOAL_TRY(shoal_params_from_model(params, model, err));
    if (!args->json) {
        print_head(bits);
    }
    for (size_t i = 0; i < shoal_moments_n_layers(moments); i++) {
        shoal_status status = compare_layer(params, moments, i, bits, args->json, &t, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "%s", shoal_moments_layer_at(moments, i)->name);
            return status;
        }
    }
    print_tally(&t, args->json);
    return SHOAL_OK;
}
