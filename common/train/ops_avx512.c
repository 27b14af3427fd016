/* SPDX-License-Identifier: Apache-2.0 */
#define SHOAL_OPS_LANES 16
#define SHOAL_OPS_TIER  "avx512"
#define SHOAL_OPS_INIT  shoal_ops_init_avx512
#include "common/train/ops_body.inc"
