/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge compress: structured pruning, before any rule. A group is what cannot
 * stand without its other parts: a neuron of a feed-forward is a row of gate, a row of up and a
 * column of down; a KV head is rows of k and v with the rows of q and the columns of the output
 * matrix of all query heads that read it; a query head alone is its rows of q and its columns.
 * Every layer loses as many, for a file has one width for all of them. What is left is a model in
 * memory, in place of the input: rules and writer see nothing else, and the moments are cut like
 * the weights.
 *
 * compress_structure.c says how many go and lets common/compress choose, layer by layer on the
 * threads of the pool; compress_gradient.c has the importance of LLM-Pruner; compress_cut.c makes
 * the model. Memory is that model, the matrices that were refitted in F32, and for gradients the
 * input twice in F32.
 */
#ifndef SHOAL_FORGE_COMPRESS_STRUCTURE_H
#define SHOAL_FORGE_COMPRESS_STRUCTURE_H

#include "cloud/forge/compress.h"

#include "common/model/model.h"

typedef struct compress_structure_layer {
    bool *neurons;          /* (ffn) that are gone */
    bool *queries;          /* (n_heads) likewise */
    bool *keys;             /* (n_kv_heads) likewise */
    float *down;            /* (dim, ffn) refitted; NULL: as it was */
    float *output;          /* (dim, n_heads * value_dim) likewise */
    double ffn_error;       /* of the output of down, as a share of it */
    double attention_error; /* of that of the output matrix */
    shoal_status status;
    shoal_err err;
} compress_structure_layer;

struct compress_structure {
    shoal_hparams hp; /* of the input */
    size_t ffn;       /* these three: what is left of them */
    size_t n_heads;
    size_t n_kv_heads;
    compress_structure_layer *layers;
    double
        *importance; /* by gradients (n_layers, ffn + n_heads + n_kv_heads); NULL: not looked at */
    shoal_buf image; /* the model that is left, as a GGUF */
    shoal_hash hash; /* of it */
};

/* Of a unit of one layer, in that order: neurons, query heads, KV heads. */
static inline size_t shoal_forge_structure_units(const shoal_hparams *hp)
{
    return hp->ffn + hp->n_heads + hp->n_kv_heads;
}

/* sum |w dL/dw| over the weights of every unit, L the loss of the text's next tokens (LLM-Pruner,
 * 2305.11627, eq. 3; the sum over elements). ret_importance [n_layers][units]. */
shoal_status shoal_forge_structure_gradient(const forge_args *args, const shoal_model *model,
                                            double *ret_importance,
                                            shoal_err *err) SHOAL_MUST_CHECK;
/* The model that is left, as run->gguf, and run->moments cut like it. */
shoal_status shoal_forge_structure_cut(compress_run *run, compress_structure *structure,
                                       shoal_err *err) SHOAL_MUST_CHECK;

/* What a unit of layers is: rows or elements, one run behind the other, or columns. */
typedef enum structure_unit {
    STRUCTURE_NONE, /* all stay */
    STRUCTURE_NEURON,
    STRUCTURE_QUERY,
    STRUCTURE_KEY
} structure_unit;

typedef struct structure_axis {
    structure_unit unit;
    size_t width; /* rows or columns of one */
} structure_axis;

enum {
    STRUCTURE_RUNS_MAX = 3
};

/* How a tensor of a layer hangs on units. */
typedef struct structure_parts {
    structure_axis rows[STRUCTURE_RUNS_MAX];
    size_t n_rows; /* runs; 0: all rows stay */
    structure_axis cols;
} structure_parts;

/* suffix: behind "blk.<i>."; fused: as an architecture with SHOAL_ARCH_FUSED stores it. */
structure_parts shoal_forge_structure_parts(const shoal_hparams *hp, bool fused,
                                            const char *suffix);
/* Splits "blk.<i>.<suffix>"; false: it is of no layer. */
bool shoal_forge_structure_name(const char *name, size_t *ret_layer, const char **ret_suffix);
size_t shoal_forge_structure_n(const shoal_hparams *hp, structure_unit unit);

#endif
