/* SPDX-License-Identifier: Apache-2.0 */
#define SHOAL_OPS_LANES 4
#define SHOAL_OPS_TIER  "base"
#define SHOAL_OPS_INIT  shoal_ops_init_base
#include "common/train/ops_body.inc"
