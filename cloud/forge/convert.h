/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge convert: what becomes of every tensor (convert_plan.c), and the rows of
 * one tensor in its new form (convert_rows.c).
 */
#ifndef SHOAL_FORGE_CONVERT_H
#define SHOAL_FORGE_CONVERT_H

#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/model/lora.h"

/* A type as people name it: a GGUF type, or FP8, which is I8 with scales beside it. */
typedef struct convert_target {
    const shoal_type_info *info; /* NULL: as in the file */
    bool fp8;
} convert_target;

/* One tensor of the output and where it comes from. */
typedef struct convert_item {
    const shoal_gguf_tensor *from;
    const shoal_gguf_tensor *scales; /* of an FP8 source, else NULL */
    convert_target to;
    const shoal_lora_pair *pair; /* to be added to it; NULL: none */
    bool copy;                   /* the bytes as they are */
} convert_item;

typedef struct conversion {
    const shoal_gguf *gguf;
    const char *name; /* of the output; NULL: as in the input */
    char arch[64];
    convert_target type;
    convert_target output_type; /* of the embedding and the output matrix; else `type` */
    size_t n_layers;            /* 0: all */
    convert_item *items;
    size_t n_items;
    size_t n_converted;
    size_t n_q8_0; /* tensors whose rows are no whole blocks of the type, and fell back */
    size_t n_f16;
    bool any_fp8; /* in the output */
    shoal_gguf_writer *writer;
    shoal_pool *pool;
    shoal_file_out *out;
    uint64_t n_bytes;
    shoal_map adapter_map; /* of an adapter to be merged, else empty */
    shoal_gguf *adapter;
    shoal_lora_file pairs;
    size_t n_exits;              /* that stay in the output */
    float *norms;                /* of all exits of the file, `dim` each; NULL: it has none */
    shoal_gguf_tensor exit_norm; /* the output norm of a model cut at an exit; no data: none */
} conversion;

/* What becomes of exit heads (convert_exits.c): those that a cut leaves stay, one as deep as the
 * cut gives its norm to the output. */
shoal_status shoal_forge_exits_plan(conversion *c, shoal_err *err) SHOAL_MUST_CHECK;
/* Whether a key is not to be carried over: shoal_forge_exits_put writes it, or it was fitted to
 * weights that are other ones now. */
bool shoal_forge_exits_drop(const conversion *c, shoal_str key);
shoal_status shoal_forge_exits_put(conversion *c) SHOAL_MUST_CHECK;
/* Fills items, and tells the writer of metadata and tensors in the order of the output. */
shoal_status shoal_forge_convert_plan(conversion *c, shoal_err *err) SHOAL_MUST_CHECK;
/* Whether a tensor is one that takes a type: no vector and no router. */
bool shoal_forge_is_matrix(const shoal_gguf_tensor *tensor);
/* Whether t holds the scales of an FP8 matrix: it goes where its matrix goes. */
bool shoal_forge_is_scales(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor);
/* The parts that a plan is made of, for commands that choose types by themselves: an item for a
 * tensor (to.info NULL: as it is), its description to the writer, and the file's metadata. */
shoal_status shoal_forge_convert_to(conversion *c, const shoal_gguf_tensor *tensor,
                                    convert_target to, convert_item *ret_item,
                                    shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_forge_convert_declare(conversion *c, const convert_item *item,
                                         shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_forge_convert_metadata(conversion *c) SHOAL_MUST_CHECK;
/* Frees what a conversion owns. */
void shoal_forge_conversion_close(conversion *c);
/* Writes one item's tensors behind what is written. */
shoal_status shoal_forge_convert_item(conversion *c, const convert_item *item,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* The adapter that text names (as shoal_forge_parse_lora), every pair of it for a matrix of the
 * model (cmd_merge_lora.c). The conversion owns what it opens. */
shoal_status shoal_forge_merge_open(conversion *c, const char *text,
                                    shoal_err *err) SHOAL_MUST_CHECK;
/* x [n][k] += scale B A, rows [row, row + n) of the product; a is A as floats, [rank][k]. Sums are
 * in double and rounded once. */
void shoal_forge_merge_rows(const shoal_lora_pair *pair, const float *a, size_t row, size_t n,
                            float *x);
/* Tiles of FP8 along n elements. */
uint64_t shoal_forge_tiles(uint64_t n);

#endif
