/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine can do at most, measured now: reading memory, and multiply-adds in registers.
 * The neighbours of a virtual machine move all three, so they are taken again and again between the
 * figures that are compared with them.
 */
#ifndef SHOAL_TESTS_SHOAL_PEAK_H
#define SHOAL_TESTS_SHOAL_PEAK_H

#include "common/base/macros.h"
#include "common/base/pool.h"

typedef struct shoal_peak shoal_peak;

/* Takes 256 MiB to read from. NULL without memory. pool is borrowed. */
shoal_peak *shoal_peak_new(shoal_pool *pool);
void shoal_peak_free(shoal_peak *peak);
SHOAL_DEFINE_CLEANUP(shoal_peak, shoal_peak_free)

/* GB/s of all threads together, a stream each: the mean of some 30 ms. */
double shoal_peak_read(shoal_peak *peak);
/* Gop/s of all threads together, a multiplication and an addition being two: 8-bit integers with
 * 16-bit sums, and floats. 0 where the processor's vectors are not known here. The best of a few
 * bursts of 2 ms. */
double shoal_peak_int8(shoal_peak *peak);
double shoal_peak_float(shoal_peak *peak);

#endif
