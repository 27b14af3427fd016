/* SPDX-License-Identifier: Apache-2.0
 *
 * What compare-passes measures and how it tells it: a row for each layer with a cell for each
 * column, as a table, as JSON, a line a row, and as a picture. Rows are read back from such a file,
 * so a run that was interrupted goes on behind its last layer.
 */
#ifndef SHOAL_FORGE_COMPARE_H
#define SHOAL_FORGE_COMPARE_H

#include "common/base/buf.h"
#include "common/base/hash.h"
#include "common/compress/compress.h"
#include "common/compress/moments.h"

#include <stdbool.h>

/* In the order in which they are made and told. */
typedef enum compare_column {
    COMPARE_RTN,
    COMPARE_AWQ,
    COMPARE_CLIP,
    COMPARE_GPTQ,
    COMPARE_REFINED,
    COMPARE_MAGNITUDE,
    COMPARE_MAGNITUDE_ROW,
    COMPARE_WANDA,
    COMPARE_WANDA_LAYER,
    COMPARE_SPARSEGPT,
    COMPARE_TWO_FOUR,
    COMPARE_WRP,
    COMPARE_EQUAL_QUANTISED, /* from here on at the bytes of RTN */
    COMPARE_EQUAL_REFINED,
    COMPARE_EQUAL_SPARSE,
    COMPARE_EQUAL_LOW_RANK,
    COMPARE_EQUAL_JOINT,
    COMPARE_COLUMNS
} compare_column;

const char *shoal_forge_compare_name(compare_column column);

typedef struct compare_cell {
    double error;
    bool none; /* the pass has nothing of so many bytes */
} compare_cell;

typedef struct compare_row {
    char name[SHOAL_GGUF_NAME_MAX];
    size_t row;
    size_t n_rows;
    size_t n_cols;
    compare_cell cells[COMPARE_COLUMNS];
    uint64_t bytes; /* of the joint form, 0 where there is none */
    shoal_form form;
} compare_row;

/* What a file's rows depend on. */
typedef struct compare_id {
    shoal_hash model;
    shoal_hash moments;
    long bits;
    long group;
} compare_id;

/* All append. Names of layers are escaped. */
shoal_status shoal_forge_compare_put_id(const compare_id *id, shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_forge_compare_put_row(const compare_row *row, shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_forge_compare_put_table_head(shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_forge_compare_put_table_row(const compare_row *row,
                                               shoal_buf *buf) SHOAL_MUST_CHECK;
/* Geometric means, and in how many rows each goal is met. */
shoal_status shoal_forge_compare_put_tally(const compare_row *rows, size_t n, bool json,
                                           shoal_buf *buf) SHOAL_MUST_CHECK;
/* An SVG of the columns of equal bytes, layer by layer. n is at least 1. */
shoal_status shoal_forge_compare_plot(const compare_row *rows, size_t n,
                                      shoal_buf *buf) SHOAL_MUST_CHECK;

/* The rows of such a file, at most n_max; what follows them, a tally, is not looked at.
 * SHOAL_E_MISMATCH when the file is of another id, SHOAL_E_INVALID when it is none. */
shoal_status shoal_forge_compare_read(const char *text, size_t n_text, const compare_id *id,
                                      compare_row *ret_rows, size_t n_max, size_t *ret_n,
                                      shoal_err *err) SHOAL_MUST_CHECK;

#endif
