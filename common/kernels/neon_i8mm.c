/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of quantised panels with smmla for pairs of columns and sdot for a lone one.
 */
#include "common/kernels/tiers_internal.h"

#define SHOAL_NEON_QUANT_DOOR shoal_kernels_neon_i8mm
#define SHOAL_NEON_QUANT_TIER "neon-i8mm"
#include "common/kernels/neon_quant.h"
