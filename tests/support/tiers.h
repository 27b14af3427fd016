/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel tiers a test can compare with scalar on this machine.
 */
#ifndef SHOAL_TESTS_SUPPORT_TIERS_H
#define SHOAL_TESTS_SUPPORT_TIERS_H

#include "common/kernels/kernels.h"

#include <stddef.h>

enum {
    TIERS_MAX = 4
};

/* Fills ret with every tier that runs here, best last, and says which; returns how many. Tiers that
 * the processor lacks are there too where their source can be built on portable intrinsics. */
size_t test_tiers(shoal_kernels *ret_scalar, shoal_kernels ret[TIERS_MAX]);

#endif
