/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of quantised panels on any 64-bit ARM processor, by widening multiplications.
 */
#include "common/kernels/tiers_internal.h"

#define SHOAL_NEON_QUANT_DOOR shoal_kernels_neon_quant
#define SHOAL_NEON_QUANT_TIER "neon"
#include "common/kernels/neon_quant.h"
