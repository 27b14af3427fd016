/* SPDX-License-Identifier: Apache-2.0
 *
 * What a product with a weight costs: of one type and one width, fixed_us for each product and the
 * bytes of its blocks, as a file has them, at gb_s. Both come from two sizes of matrix, each
 * multiplied in turn out of a set of many, so that a set larger than the caches is read from
 * memory, as decoding reads a model, and a set as large as a model is read from where that model
 * will lie. It is the engine's own product, split over the pool, with the quantisation of its
 * input.
 *
 * The model of time is that of a roofline (Williams et al. 2009) whose roof is each kernel's own,
 * with a latency: at one width a product does a fixed number of operations for a byte, so its time
 * is linear in bytes whether memory or arithmetic bounds it.
 *
 * The smaller size is one in which every thread has a part: a product so small that one thread does
 * it alone takes less than this says. Of the turns over a set the tenth of the fastest counts: what
 * interrupts one says nothing about the machine. Called by the thread that owns the pool.
 */
#ifndef SHOAL_MACHINE_RATE_H
#define SHOAL_MACHINE_RATE_H

#include "common/weight/weight.h"

enum {
    SHOAL_RATE_K = 1024, /* columns of the matrices, whole blocks of every type */
    SHOAL_RATE_COLS_MAX = 32,
    SHOAL_RATE_SET_MIN = 1 << 16 /* bytes */
};

typedef struct shoal_rate {
    double fixed_us; /* of a product, at least 0 */
    double gb_s;     /* above 0 */
} shoal_rate;

typedef struct shoal_rate_settings {
    const shoal_kernels *kernels;
    shoal_pool *pool;
    size_t set_bytes; /* at least SHOAL_RATE_SET_MIN */
    double seconds;   /* of measuring a size at a width, at least one turn over the set */
} shoal_rate_settings;

/* Rates of a type at n widths, each 1 to SHOAL_RATE_COLS_MAX. Takes twice set_bytes, and the time
 * of encoding and packing them. SHOAL_TYPE_I8 is FP8. An error for a type that is no weight's. */
shoal_status shoal_rate_measure(const shoal_rate_settings *settings, shoal_type type,
                                const size_t *widths, size_t n_widths, shoal_rate *ret_rates,
                                shoal_err *err) SHOAL_MUST_CHECK;

/* The line through two sizes: seconds of a product of so many bytes. A larger product that took no
 * longer than a smaller one has no fixed cost, and the larger one's rate. */
shoal_rate shoal_rate_fit(const double bytes[2], const double seconds[2]);
/* Seconds of a product of so many bytes. */
double shoal_rate_seconds(const shoal_rate *rate, double bytes);

#endif
