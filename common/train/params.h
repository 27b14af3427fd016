/* SPDX-License-Identifier: Apache-2.0
 *
 * The parameters of a model in training: one block of floats, and a table that names its parts as
 * a GGUF does. Gradients, moments and checkpoints are blocks of the same layout, so everything
 * that walks over parameters is a loop over one array.
 */
#ifndef SHOAL_TRAIN_PARAMS_H
#define SHOAL_TRAIN_PARAMS_H

#include "common/model/model.h"

enum {
    SHOAL_TRAIN_EXITS_MAX = 8,
    SHOAL_TRAIN_NAME_MAX = 64 /* bytes of a parameter's name, its NUL included */
};

typedef enum shoal_param_kind {
    SHOAL_PARAM_MATRIX, /* of a linear layer: Muon, weight decay */
    SHOAL_PARAM_TABLE,  /* embedding and output matrix: AdamW, no weight decay */
    SHOAL_PARAM_VECTOR  /* norms and biases: AdamW, no weight decay */
} shoal_param_kind;

typedef struct shoal_param {
    char name[SHOAL_TRAIN_NAME_MAX]; /* of the GGUF tensor, or "shoal.exit.<layers>.norm" */
    shoal_param_kind kind;
    size_t n_rows; /* of all its matrices; 1 for a vector */
    size_t n_cols;
    size_t n_stacked; /* matrices one behind the other in it: experts; else 1 */
    size_t offset;    /* of its first float in a block; rows are contiguous */
    bool frozen;      /* no gradient wanted, never stepped */
} shoal_param;

typedef struct shoal_params {
    shoal_hparams hp;
    size_t n_exits;
    size_t exits[SHOAL_TRAIN_EXITS_MAX]; /* layers below each exit, ascending, in [1, n_layers) */
    size_t n_items;
    shoal_param *items;
    size_t n_floats;    /* of a block: every offset is a multiple of 16, gaps stay zero */
    float *data;        /* (n_floats), 64-byte aligned */
    shoal_rope rope[2]; /* as in shoal_model: what hp says, without scaling, until from_model */
    bool rope_scaled;   /* the tables are of a model that scales its rotation */
} shoal_params;

/* Parameters of this shape, all zero. hp is copied. */
shoal_status shoal_params_new(const shoal_hparams *hp, const size_t *exits, size_t n_exits,
                              shoal_params **ret_params, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_params_free(shoal_params *params);
SHOAL_DEFINE_CLEANUP(shoal_params, shoal_params_free)

/* Normal numbers of standard deviation 0.02, those of matrices that write into the residual stream
 * divided by sqrt(2 n_layers) (GPT-2, section 2.3); norms are one. A function of the seed alone. */
void shoal_params_start(shoal_params *params, uint64_t seed);
/* From a loaded model of the same shape or of more layers: its first hp.n_layers, weights of any
 * type decoded, and its rotation. A head's norm is that of the model's exit of the same depth, and
 * where there is none that of its output. Llama's biases of attention, which hp does not tell of,
 * are refused. */
shoal_status shoal_params_from_model(shoal_params *params, const shoal_model *model,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* A GGUF with these parameters as F32 and the exits as metadata; the tokenizer's keys and general.*
 * are copied from `tokenizer`, an open GGUF, but for those that say how its tensors are stored;
 * general.name is hp's. A scaled rotation is refused: its keys are not in hp. */
shoal_status shoal_params_write(const shoal_params *params, const shoal_gguf *tokenizer,
                                const char *path, shoal_err *err) SHOAL_MUST_CHECK;

/* NULL when there is none of the name. */
const shoal_param *shoal_params_find(const shoal_params *params, const char *name);
/* A zeroed block of the same layout (shoal_free), NULL without memory. */
float *shoal_params_block(const shoal_params *params) SHOAL_MUST_CHECK;

#endif
