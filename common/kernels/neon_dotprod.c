/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of quantised panels with sdot.
 */
#include "common/kernels/tiers_internal.h"

#define SHOAL_NEON_QUANT_DOOR shoal_kernels_neon_dotprod
#define SHOAL_NEON_QUANT_TIER "neon-dotprod"
#include "common/kernels/neon_quant.h"
