/* SPDX-License-Identifier: Apache-2.0 */
#define SHOAL_OPS_LANES 8
#define SHOAL_OPS_TIER  "avx2"
#define SHOAL_OPS_INIT  shoal_ops_init_avx2
#include "common/train/ops_body.inc"
