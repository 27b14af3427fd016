/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge compress: what is to become of which matrix, as a YAML file says it.
 *
 *   embedding: Q8_0            # a type, or keep (the default): token_embd.weight
 *   output: keep               # output.weight
 *   rest: keep                 # matrices that no rule takes
 *   structure:                 # groups that leave every layer, before any rule (structured
 * pruning) neurons: 0.2             # share of a feed-forward's, each gate and up row and down
 * column groups: 0.3              # share of the KV heads, each with the query heads that read it;
 * or queries: 0.5             # share of the query heads of every KV head by: output # what goes:
 * output (the least loss of it) or gradient (|w dL/dw|) refit: true              # what is left is
 * fitted to the output of before multiple: 32             # of which the number of neurons that
 * stay is one rules:                     # the first whose pattern fits a matrix takes it
 *     attention:               # a name, for people
 *       layers: blk.*.attn_*.weight   # patterns with * and ?, any number of them
 *       pass: gptq, joint      # of common/compress; codebook makes levels of a matrix's own
 *       type: Q4_K             # and, or instead, types of the file format by their own rounding
 *       bits: 3, 4             # of a value, 2 to 8 or 16 (f16)
 *       group: 32              # columns that share a scale
 *       mask: all              # all, bitmap, 2:4, 16:32, 8:32
 *       density: 0.5           # share that a bitmap keeps
 *       rank: 8, 16            # of low-rank factors, or fill: what within_... leaves room for
 *       recover: 0.05          # share that comes back past a 2:4 mask
 *       within_bits: 3.5       # of a weight, everything counted; or within_bytes: of a layer
 *       sensitivity: 1         # weight of these layers' errors where bytes are shared out
 *
 * A field with several values stands for every one of them, and all combinations that a pass takes
 * are its forms. One form is made as it is; of several the best within a rule's own bound is taken,
 * or with --target-bytes those that together are best.
 *
 * Immutable after parsing.
 */
#ifndef SHOAL_FORGE_RECIPE_H
#define SHOAL_FORGE_RECIPE_H

#include "common/base/hash.h"
#include "common/compress/compress.h"
#include "common/tensor/gguf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    FORGE_RECIPE_RULES_MAX = 64,
    FORGE_RECIPE_NAME_MAX = 64,      /* bytes of a rule's name */
    FORGE_RECIPE_PATTERNS_MAX = 512, /* bytes of all patterns of a rule */
    FORGE_RECIPE_VALUES_MAX = 16,    /* of a field */
    FORGE_RECIPE_FORMS_MAX = 256     /* of a rule */
};

/* One thing that can be made of a matrix. */
typedef struct forge_recipe_form {
    bool keep;  /* the tensor as it is */
    bool typed; /* a type of the file format, by its reference rounding */
    shoal_type type;
    shoal_pass pass; /* neither keep nor typed */
    shoal_form form;
    bool fill; /* the rank is what the rule's bound leaves room for */
} forge_recipe_form;

typedef struct forge_recipe_rule {
    char name[FORGE_RECIPE_NAME_MAX];
    char patterns[FORGE_RECIPE_PATTERNS_MAX]; /* separated by single spaces */
    forge_recipe_form *forms;
    size_t n_forms;
    double within_bits;    /* 0: not said */
    uint64_t within_bytes; /* 0: not said */
    double sensitivity;
    size_t line; /* of its first key */
} forge_recipe_rule;

/* Shares are 0 where nothing goes. */
typedef struct forge_recipe_structure {
    double neurons;
    double groups; /* not with queries */
    double queries;
    bool gradient;
    bool refit;
    size_t multiple;
} forge_recipe_structure;

typedef struct forge_recipe {
    forge_recipe_structure structure;
    forge_recipe_form embedding; /* keep or typed, as the next two */
    forge_recipe_form output;
    forge_recipe_form rest;
    forge_recipe_rule *rules;
    size_t n_rules;
    shoal_hash hash; /* of the text */
} forge_recipe;

/* source is the text's name in errors, which read "source:line: key: what is wrong". */
shoal_status shoal_forge_recipe_parse(const char *source, const char *text, size_t n,
                                      forge_recipe **ret_recipe, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_forge_recipe_load(const char *path, forge_recipe **ret_recipe,
                                     shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_recipe_free(forge_recipe *recipe);
SHOAL_DEFINE_CLEANUP(forge_recipe, shoal_forge_recipe_free)

/* The first rule whose pattern fits, or NULL. */
const forge_recipe_rule *shoal_forge_recipe_find(const forge_recipe *recipe, shoal_str name);
static inline bool shoal_forge_recipe_prunes(const forge_recipe *recipe)
{
    const forge_recipe_structure *s = &recipe->structure;
    return s->neurons > 0 || s->groups > 0 || s->queries > 0;
}
/* "gptq 4 bits/32", "joint 2 bits/64 bitmap 0.5 rank 16", "Q4_K", "keep". */
void shoal_forge_recipe_describe(const forge_recipe_form *form, char *ret_text, size_t n_text);

#endif
