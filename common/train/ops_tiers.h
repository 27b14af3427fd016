/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the tiers of ops.h: each is ops_body.inc compiled with its own width and flags, and
 * exports one init.
 */
#ifndef SHOAL_TRAIN_OPS_TIERS_H
#define SHOAL_TRAIN_OPS_TIERS_H

#include "common/train/ops.h"

void shoal_ops_init_base(shoal_ops *ops);
#if defined(__x86_64__)
void shoal_ops_init_avx2(shoal_ops *ops);
void shoal_ops_init_avx512(shoal_ops *ops);
#endif

#endif
