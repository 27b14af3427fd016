/* SPDX-License-Identifier: Apache-2.0
 *
 * The specification of what stands beside a product, in plain C (sides.h).
 */
#include "common/kernels/kernels.h"

#include "common/kernels/tiers_internal.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS
};

static size_t rows_of(size_t n_rows, size_t panel)
{
    size_t left = n_rows - panel * ROWS;
    return left < ROWS ? left : ROWS;
}

static float half_at(const uint8_t *p)
{
    uint16_t half = 0;
    memcpy(&half, p, sizeof half);
    return shoal_f16_to_f32(half);
}

static void add_low(const shoal_low *low, size_t p0, size_t p1)
{
    for (size_t p = p0; p < p1; p++) {
        const uint8_t *d = low->panels + p * shoal_low_bytes(low->rank);
        const int8_t *q = (const int8_t *)d + 2 * low->rank;
        for (size_t c = 0; c < low->n_cols; c++) {
            const float *t = low->t + c * low->t_stride;
            float *y = low->y + c * low->y_stride + p * ROWS;
            for (size_t r = 0; r < low->rank; r++) {
                float u = half_at(d + 2 * r) * t[r];
                for (size_t i = 0; i < rows_of(low->n_rows, p); i++) {
                    y[i] = fmaf((float)q[r * ROWS + i], u, y[i]);
                }
            }
        }
    }
}

static void add_singles(const shoal_singles *s, size_t p0, size_t p1)
{
    for (size_t p = p0; p < p1; p++) {
        for (size_t c = 0; c < s->n_cols; c++) {
            const float *x = s->x + c * s->x_stride;
            float *y = s->y + c * s->y_stride + p * ROWS;
            for (size_t i = 0; i < rows_of(s->n_rows, p); i++) {
                for (size_t j = 0; j < s->counts[p * ROWS + i]; j++) {
                    size_t at = (s->begin[p] + j) * ROWS + i;
                    y[i] = fmaf(shoal_f16_to_f32(s->values[at]), x[s->cols[at]], y[i]);
                }
            }
        }
    }
}

void shoal_kernels_scalar_sides(shoal_kernels *kernels)
{
    kernels->add_low = add_low;
    kernels->add_singles = add_singles;
}
