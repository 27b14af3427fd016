/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: how the magnitudes of what linear layers are fed are distributed, counted
 * as they come, and the threshold below which a given share of them lies. Bins are a sixty-fourth
 * of a power of two wide, so memory is 128 KiB an input whatever the text. One thread.
 */
#ifndef SHOAL_FORGE_MAGNITUDES_H
#define SHOAL_FORGE_MAGNITUDES_H

#include "common/base/macros.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct forge_magnitudes {
    struct forge_magnitudes_input *inputs;
    size_t n_inputs;
    struct forge_magnitudes_layer *layers;
    size_t n_layers;
} forge_magnitudes;

void shoal_forge_magnitudes_fini(forge_magnitudes *m);

/* Counts n columns of k elements, x[n][x_row], that a layer is fed; again: those of the call
 * before. SHOAL_E_NOMEM; SHOAL_E_INVALID for what is not finite. */
shoal_status shoal_forge_magnitudes_add(forge_magnitudes *m, const char *name, bool again, size_t k,
                                        size_t n, const float *x, size_t x_row) SHOAL_MUST_CHECK;

size_t shoal_forge_magnitudes_n(const forge_magnitudes *m);
const char *shoal_forge_magnitudes_name(const forge_magnitudes *m, size_t layer);
/* The edge of a bin below which the share nearest to `share` lies, in ret_share; 0 where that is
 * nothing. */
float shoal_forge_magnitudes_threshold(const forge_magnitudes *m, size_t layer, double share,
                                       double *ret_share);

#endif
