/* SPDX-License-Identifier: Apache-2.0
 *
 * Low-rank adapters (LoRA; Hu et al., 2106.09685): a linear layer W of the base gives
 * W x + scale B (A x), scale = strength * alpha / rank. The base stays as it is: many adapters
 * share one, and every row of a batch is computed with its own (forward.h).
 *
 * The file is a GGUF with general.type "adapter", adapter.type "lora", adapter.lora.alpha, the
 * base's general.architecture, and for a base tensor X the matrices X.lora_a [rank][k] and X.lora_b
 * [n_rows][rank]. An alpha of zero means that scale is the strength alone, as its makers have it.
 *
 * An adapter is immutable after load and shared by any number of engines and threads; who loaded it
 * frees it, after the last step that names it and before the model.
 */
#ifndef SHOAL_MODEL_LORA_H
#define SHOAL_MODEL_LORA_H

#include "common/model/model.h"

enum {
    SHOAL_LORA_RANK_MAX = 1024
};

typedef struct shoal_lora shoal_lora;

/* Adapts linear layers of model, which is borrowed. What the file asks for and we do not compute is
 * refused by name: stacks of experts, the embedding, projections that latent attention absorbs,
 * whole tensors in place of pairs. The bytes of gguf are not needed afterwards. */
shoal_status shoal_lora_new(const shoal_model *model, const shoal_gguf *gguf, float strength,
                            shoal_lora **ret_lora, shoal_err *err) SHOAL_MUST_CHECK;
/* Errors name the file. */
shoal_status shoal_lora_load(const shoal_model *model, const char *path, float strength,
                             shoal_lora **ret_lora, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_lora_free(shoal_lora *lora);
SHOAL_DEFINE_CLEANUP(shoal_lora, shoal_lora_free)

const shoal_model *shoal_lora_model(const shoal_lora *lora);
/* The largest of its pairs. */
size_t shoal_lora_rank(const shoal_lora *lora);
size_t shoal_lora_n_pairs(const shoal_lora *lora);
/* Over scales and every tensor (R9): what a sequence computes follows from the model's hash, this
 * one, and its tokens. */
shoal_hash shoal_lora_hash(const shoal_lora *lora);

/* --- what products need ---------------------------------------------------------------------- */

/* What one weight of the model is given on top. */
typedef struct shoal_lora_part {
    const shoal_weight *base;
    shoal_weight *a; /* (rank, k) */
    shoal_weight *b; /* (n_rows, rank) */
    float scale;
    bool borrows_a; /* the part before owns it: one tensor of the file is several weights */
} shoal_lora_part;

/* NULL when the adapter leaves base as it is. */
const shoal_lora_part *shoal_lora_find(const shoal_lora *lora, const shoal_weight *base);

/* --- the file alone, for those who merge ------------------------------------------------------ */

typedef struct shoal_lora_pair {
    const shoal_gguf_tensor *a;
    const shoal_gguf_tensor *b;
    char base[SHOAL_GGUF_NAME_MAX + 1]; /* name of the tensor that is adapted */
    float scale;
} shoal_lora_pair;

/* Borrows from the reader. Zeroed memory is an empty one. */
typedef struct shoal_lora_file {
    shoal_lora_pair *pairs;
    size_t n_pairs;
} shoal_lora_file;

/* Everything that can be checked without the base: metadata, names, shapes and ranks. */
shoal_status shoal_lora_file_read(const shoal_gguf *gguf, const char *arch, float strength,
                                  shoal_lora_file *ret_file, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_lora_file_fini(shoal_lora_file *file);
/* NULL when the file leaves that tensor as it is. */
const shoal_lora_pair *shoal_lora_file_find(const shoal_lora_file *file, shoal_str base);

#endif
