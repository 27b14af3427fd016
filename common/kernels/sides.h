/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside a panel's product: y += L t and y += X x, for 16 rows at a time. Both add to
 * the product that lies in y, low-rank first.
 *
 * Low rank, t = R x of `rank` numbers. A panel of L is
 *   { uint16_t d[rank]; int8_t q[rank][16] }, so L[row][r] = d[r] * q[r][row % 16]
 * and the law, for every row alone:
 *   acc = y, acc = fma((float)q[r], f32(d[r]) * t[r], acc) for r ascending, y = acc
 *
 * Single elements. A panel is a run of steps; step j holds the j-th element of each of 16 rows, and
 * rows that have fewer are passed over (their column there is 0, their value anything). The law:
 *   acc = y, acc = fma(f32(value), x[col], acc) for the row's elements in order, y = acc
 */
#ifndef SHOAL_KERNELS_SIDES_H
#define SHOAL_KERNELS_SIDES_H

#include <stddef.h>
#include <stdint.h>

/* y[c * y_stride + row] for the rows of panels [p0, p1) and columns c in [0, n_cols). */
typedef struct shoal_low {
    const uint8_t *panels; /* shoal_low_bytes(rank) each */
    size_t n_rows;         /* true rows: outputs past it are neither read nor written */
    size_t rank;           /* at least 1 */
    size_t n_cols;
    const float *t; /* [n_cols][t_stride] */
    size_t t_stride;
    float *y; /* [n_cols][y_stride] */
    size_t y_stride;
} shoal_low;

typedef struct shoal_singles {
    const uint32_t *begin;  /* [n_panels + 1] first step of a panel */
    const uint32_t *counts; /* [n_panels][16] elements of a row, at most the panel's steps */
    const uint16_t *cols;   /* [steps][16] */
    const uint16_t *values; /* [steps][16] f16 */
    size_t n_rows;          /* as above */
    size_t n_cols;
    const float *x; /* [n_cols][x_stride] */
    size_t x_stride;
    float *y; /* [n_cols][y_stride] */
    size_t y_stride;
} shoal_singles;

typedef void shoal_low_fn(const shoal_low *low, size_t p0, size_t p1);
typedef void shoal_singles_fn(const shoal_singles *singles, size_t p0, size_t p1);

/* Bytes of a panel of L. */
static inline size_t shoal_low_bytes(size_t rank)
{
    return rank * 18;
}

#endif
