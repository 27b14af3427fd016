/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: sides as products read them. Immutable after build.
 */
#ifndef SHOAL_WEIGHT_SIDES_INTERNAL_H
#define SHOAL_WEIGHT_SIDES_INTERNAL_H

#include "common/weight/sides.h"
#include "common/weight/weight.h"

/* What is absent is NULL or 0. Panels are those of kernels/sides.h, of the weight's own rows. */
struct shoal_sides {
    size_t n_rows;
    size_t k;
    size_t rank;
    shoal_weight *right; /* (rank, k) */
    uint8_t *left;       /* panels of L */
    float *inverse;      /* (k) 1 / s */
    float threshold;     /* 0: none */
    bool has_levels;
    int8_t levels[16];
    size_t n_singles; /* elements that are there, without padding */
    size_t n_steps;
    uint32_t *begin;  /* (n_panels + 1) */
    uint32_t *counts; /* (n_panels, 16) */
    uint16_t *cols;   /* (n_steps, 16) */
    uint16_t *values; /* (n_steps, 16) */
};
typedef struct shoal_sides shoal_sides;

/* The sides of rows [row, row + n_rows) of a matrix; NULL where it has none. */
shoal_status shoal_sides_load(const shoal_gguf *gguf, const shoal_gguf_tensor *weight, size_t row,
                              size_t n_rows, shoal_pool *pool, shoal_sides **ret_sides,
                              shoal_err *err) SHOAL_MUST_CHECK;
void shoal_sides_free(shoal_sides *sides);
/* Bytes that a product reads, padding included, and operations for one column. */
size_t shoal_sides_bytes(const shoal_sides *sides);
uint64_t shoal_sides_flops(const shoal_sides *sides);
/* What row r of the base becomes with its sides: row[i] * inverse[i], then L R by ascending rank,
 * then X. */
void shoal_sides_expand_row(const shoal_sides *sides, size_t r, float *row);

#endif
