/* SPDX-License-Identifier: Apache-2.0
 *
 * One kind of picture: exact match against the share of tokens from the cloud, as SVG that is
 * readable on light and on dark ground and by people who do not tell colours apart (every curve
 * has its own dashes and is named). Pure, any thread.
 */
#ifndef SHOAL_FORGE_PLOT_H
#define SHOAL_FORGE_PLOT_H

#include "common/base/buf.h"

#include <stdbool.h>

enum {
    FORGE_PLOT_CURVES_MAX = 6
};

typedef struct forge_plot_point {
    double x; /* share of tokens from the cloud */
    double y; /* share of answers that are right; both in [0, 1] */
} forge_plot_point;

typedef struct forge_plot_curve {
    const char *name;
    const forge_plot_point *points; /* joined in this order; the first is the edge alone */
    size_t n;                       /* at least 1 */
    double full;                    /* the full model alone */
    bool has_chosen;
    forge_plot_point chosen; /* at the threshold that was asked for */
} forge_plot_curve;

/* Appends a whole file. SHOAL_E_LIMIT for more curves than there are colours, SHOAL_E_INVALID for
 * none and for numbers outside [0, 1]. */
shoal_status shoal_forge_plot(const char *title, const forge_plot_curve *curves, size_t n,
                              shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
