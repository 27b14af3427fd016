/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge convert: what becomes of every tensor (convert_plan.c), and the rows of
 * one tensor in its new form (convert_rows.c).
 */
#ifndef SHOAL_FORGE_CONVERT_H
#define SHOAL_FORGE_CONVERT_H

#include "cloud/forge/forge.h"

#include "common/base/file.h"

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
    bool copy; /* the bytes as they are */
} convert_item;

typedef struct conversion {
    const shoal_gguf *gguf;
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
} conversion;

/* Fills items, and tells the writer of metadata and tensors in the order of the output. */
shoal_status shoal_forge_convert_plan(conversion *c, shoal_err *err) SHOAL_MUST_CHECK;
/* Writes one item's tensors behind what is written. */
shoal_status shoal_forge_convert_item(conversion *c, const convert_item *item,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* Tiles of FP8 along n elements. */
uint64_t shoal_forge_tiles(uint64_t n);

#endif
