/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: the loss of a run step by step, from the CSV of progress.h, as JSON and
 * as a picture that is readable on light and on dark ground. Pure, any thread.
 */
#ifndef SHOAL_FORGE_LOSS_PLOT_H
#define SHOAL_FORGE_LOSS_PLOT_H

#include "common/base/buf.h"
#include "common/base/macros.h"

#include <stddef.h>
#include <stdint.h>

typedef struct forge_loss {
    uint64_t step;
    double loss;
} forge_loss;

/* Rows of a CSV whose first column is the step and whose fifth the loss; the heading and half a
 * line are passed over. *ret_rows is for shoal_free. SHOAL_E_NOMEM. */
shoal_status shoal_forge_loss_rows(const char *csv, size_t n_bytes, forge_loss **ret_rows,
                                   size_t *ret_n) SHOAL_MUST_CHECK;
/* "[[step, loss], ...]". */
shoal_status shoal_forge_loss_json(const forge_loss *rows, size_t n, shoal_buf *buf);
/* A whole file: every step as a pale line, and the mean of about a fiftieth of the run. Losses that
 * are not above 0 are left out. */
shoal_status shoal_forge_loss_plot(const char *title, const forge_loss *rows, size_t n,
                                   shoal_buf *buf);

#endif
