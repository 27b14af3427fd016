/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: what a person sees of a long run. On a terminal one line that is drawn
 * anew, elsewhere a line every ten seconds; and for plots a file with a row per step.
 */
#ifndef SHOAL_FORGE_PROGRESS_H
#define SHOAL_FORGE_PROGRESS_H

#include "common/train/trainer.h"

#include <stdio.h>

/* Zeroed memory is one that shows nothing. */
typedef struct shoal_forge_progress {
    FILE *to; /* NULL: quiet */
    FILE *csv;
    bool terminal;
    size_t n_exits;
    uint64_t n_steps;
    uint64_t begin_step;
    uint64_t begin_ns;
    double seconds_before; /* of the rows that the file had already */
    uint64_t shown_ns;
    /* Since the begin, and since the last line. */
    uint64_t n_tokens;
    uint64_t flops;
    double loss_sum;
    double exit_sum[SHOAL_TRAIN_EXITS_MAX];
    uint64_t n_losses;
} shoal_forge_progress;

/* csv_path: a row per step, NULL: none. A run that goes on keeps the rows up to its begin and
 * counts their seconds; rows behind it are of steps that are done again. */
shoal_status shoal_forge_progress_open(FILE *to, const char *csv_path, size_t n_exits,
                                       uint64_t begin_step, uint64_t n_steps,
                                       shoal_forge_progress *ret_progress, shoal_err *err);
void shoal_forge_progress_step(shoal_forge_progress *progress, const shoal_train_stats *stats);
/* Ends the line. */
void shoal_forge_progress_close(shoal_forge_progress *progress);
/* Seconds since open. */
double shoal_forge_progress_seconds(const shoal_forge_progress *progress);

#endif
