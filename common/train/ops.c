/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/ops.h"

#include "common/kernels/kernels.h"
#include "common/train/ops_tiers.h"

void shoal_ops_init(shoal_ops *ops, uint32_t mask)
{
    uint32_t tiers = mask & shoal_cpu_detect();
    shoal_ops_init_base(ops);
#if defined(__x86_64__)
    if (tiers & SHOAL_CPU_AVX2) {
        shoal_ops_init_avx2(ops);
    }
    if (tiers & SHOAL_CPU_AVX512) {
        shoal_ops_init_avx512(ops);
    }
#else
    (void)tiers;
#endif
}
