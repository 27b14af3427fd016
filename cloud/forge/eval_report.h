/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge eval: the figures of one run, and their two forms.
 */
#ifndef SHOAL_FORGE_EVAL_REPORT_H
#define SHOAL_FORGE_EVAL_REPORT_H

#include "cloud/forge/eval.h"

enum {
    EVAL_SPLITS_MAX = 6,
    EVAL_EXITS_MAX = 8,
    EVAL_CURVE_MAX = 24,
    EVAL_GROUPS = EVAL_KINDS_MAX + 1 /* kinds, and all of them at [n_kinds] */
};

/* The figures of one split. */
typedef struct eval_figures {
    eval_quiz quiz; /* owned */
    eval_summary full[EVAL_GROUPS];
    eval_summary edge[EVAL_GROUPS];
    eval_mix chosen[EVAL_GROUPS];
    eval_mix curve[EVAL_CURVE_MAX]; /* of all kinds together, thresholds ascending */
    size_t n_curve;
    eval_accepted accepted[EVAL_GROUPS];
} eval_figures;

typedef struct eval_exit {
    size_t n_layers; /* below it */
    eval_summary of[EVAL_GROUPS];
} eval_exit;

typedef struct eval_report {
    const shoal_model *full;
    const shoal_model *edge; /* NULL: the full model alone */
    eval_figures *splits;    /* [n_splits], owned */
    size_t n_splits;
    bool has_threshold;
    bool picked; /* on the dev split, of n_dev questions */
    size_t n_dev;
    float threshold;
    double temperature; /* of coupled sampling */
    unsigned long long seed;
    eval_exit *exits; /* [n_exits], of the edge, or of the full model when it is alone */
    size_t n_exits;
    size_t exits_split; /* they were asked questions of this split */
    const char *exit;   /* a policy; NULL: exits were not tried at work */
    size_t n_wait;
    eval_leaving leaving; /* the same model and split, with that policy */
    eval_leaving deep;    /* and without exits */
    double seconds;
} eval_report;

void shoal_forge_report_fini(eval_report *report);
/* For people; colour marks the models when it is wanted. */
shoal_status shoal_forge_report_table(const eval_report *report, bool color,
                                      shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_forge_report_json(const eval_report *report, shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_forge_report_plot(const eval_report *report, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
