/* SPDX-License-Identifier: Apache-2.0
 *
 * Measures one function: warm-up, then batches of runs, each long enough for the clock, and the
 * median over batches with its spread. Any thread.
 */
#ifndef SHOAL_MACHINE_TIMING_H
#define SHOAL_MACHINE_TIMING_H

#include <stdbool.h>
#include <stddef.h>

enum {
    SHOAL_TIMING_REPEATS_MAX = 1000
};

typedef struct shoal_timing_settings {
    double warmup_s; /* at least one run */
    double total_s;  /* stop repeating after this long */
    double batch_s;  /* a repeat runs the function until it lasts this long */
    size_t n_repeats_min;
    size_t n_repeats_max; /* 1 to SHOAL_TIMING_REPEATS_MAX */
    /* Time of the wall, for what runs on several threads; else that of the calling thread on a
     * processor, so that a busy neighbour costs shared cache and memory bandwidth but not his time
     * slices: what runs must then do its work on that thread. */
    bool wall;
} shoal_timing_settings;

/* Seconds of one run. */
typedef struct shoal_timing {
    double median_s;
    double p10_s;
    double p90_s;
    size_t n_repeats;
    size_t n_runs; /* per repeat */
} shoal_timing;

typedef void shoal_timing_fn(void *context);

shoal_timing shoal_timing_measure(const shoal_timing_settings *settings, shoal_timing_fn *fn,
                                  void *context);

#endif
