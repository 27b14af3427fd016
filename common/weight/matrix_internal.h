/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: a tensor seen as rows in panels. A stack of matrices is one run of
 * rows. Rows are worked on in leaves, about a mebibyte of a file each and whole panels, the unit of
 * parallel work and of hashing: how a tensor falls into leaves depends on its type and shape alone.
 */
#ifndef SHOAL_WEIGHT_MATRIX_INTERNAL_H
#define SHOAL_WEIGHT_MATRIX_INTERNAL_H

#include "common/weight/format.h"
#include "common/weight/sides_internal.h"

struct shoal_weight {
    const shoal_format *format;
    size_t n_rows;
    size_t k;
    size_t n_panels;
    size_t panel_bytes;
    const uint8_t *panels; /* NULL where there are tiles */
    uint8_t *owned;        /* panels or tiles; NULL when panels lie in a packed file */
    size_t tile_rows;      /* of tiles (kernels/firing.h); 0: there are panels */
    shoal_sides *sides;    /* NULL: none */
    const shoal_weight *next[SHOAL_PRODUCTS_MAX]; /* of the job to come */
    size_t n_next;
};

/* NULL when the type has no product. */
const shoal_format *shoal_format_find(shoal_type type);

/* Names in errors come from the file: cut, and bytes beyond ASCII are the log's affair. */
#define SHOAL_TENSOR_NAME(t) (int)SHOAL_MIN((t)->name.length, (size_t)64), (t)->name.data

typedef struct shoal_matrix {
    const shoal_gguf_tensor *tensor;
    const shoal_gguf_tensor *scales; /* NULL where the type has none apart */
    const shoal_format *format;
    size_t k;
    size_t n_rows;    /* of the whole stack */
    size_t row_bytes; /* of blocks */
    size_t panel_bytes;
    size_t leaf_rows; /* a multiple of 16 */
    size_t n_leaves;
} shoal_matrix;

/* Checks that the tensor has a product, and whole blocks. scales is found in gguf where the type
 * wants them; gguf may be NULL. Says why not. */
shoal_status shoal_matrix_of(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                             shoal_matrix *ret_matrix, shoal_err *err) SHOAL_MUST_CHECK;
/* Blocks of one row: where they lie in a plain file, or restored into space (row_bytes) from a
 * packed one. */
const uint8_t *shoal_matrix_blocks(const shoal_matrix *m, size_t row, uint8_t *space);
/* Rows [row, row + n) into zeroed panels that begin with the first of them. SHOAL_E_INVALID when a
 * number is not finite, with its row; SHOAL_E_NOMEM. */
shoal_status shoal_matrix_pack(const shoal_matrix *m, size_t row, size_t n, uint8_t *panels,
                               size_t *ret_bad_row) SHOAL_MUST_CHECK;
/* One part of the work on a matrix, on any thread. SHOAL_E_INVALID when a number is not finite,
 * with its row; SHOAL_E_NOMEM. */
typedef shoal_status shoal_matrix_part(void *ctx, size_t part, size_t *ret_bad_row);
/* Parts 0 to n_parts - 1, on the pool where there is one. The error names the lowest of the rows
 * that are not finite, however many threads there are. */
shoal_status shoal_matrix_run(const shoal_matrix *m, shoal_matrix_part *part, void *ctx,
                              size_t n_parts, shoal_pool *pool, shoal_err *err) SHOAL_MUST_CHECK;
/* A weight of n_rows rows with nothing in it but room of its own for so many panels or tiles of
 * unit_bytes, zeroed; 0: none. */
shoal_status shoal_matrix_room(const shoal_matrix *m, size_t n_rows, size_t n_units,
                               size_t unit_bytes, shoal_weight **ret_weight,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* Rows [row, row + n_rows) as a weight, without sides (shoal_weight_load). */
shoal_status shoal_matrix_weight(const shoal_matrix *m, size_t row, size_t n_rows, shoal_pool *pool,
                                 shoal_weight **ret_weight, shoal_err *err) SHOAL_MUST_CHECK;
/* The same stored input by input (tiles.c), of a matrix of Q4_0. */
shoal_status shoal_tiles_weight(const shoal_matrix *m, size_t row, size_t n_rows, shoal_pool *pool,
                                shoal_weight **ret_weight, shoal_err *err) SHOAL_MUST_CHECK;
/* Row r of such a weight as floats. */
void shoal_tiles_row(const shoal_weight *weight, size_t r, float *ret_row);
/* Lets the pages of plain rows [row, row + n) go where the file is mapped. */
void shoal_matrix_forget(const shoal_matrix *m, size_t row, size_t n);
shoal_status shoal_matrix_not_finite(const shoal_matrix *m, size_t row, shoal_err *err);

#endif
