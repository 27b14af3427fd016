/* SPDX-License-Identifier: Apache-2.0
 *
 * Metrics in Prometheus' text format (names as docs/OPERATIONS.md: shoal_ prefix, base units,
 * _total for counters). A registry is filled at start and rendered on /metrics; values are updated
 * by atomics from any thread. Labels are fixed when the metric is made: no label from a request.
 */
#ifndef SHOAL_OBS_METRICS_H
#define SHOAL_OBS_METRICS_H

#include "common/base/buf.h"

#include <stdint.h>

typedef struct shoal_metrics shoal_metrics;
typedef struct shoal_metric shoal_metric;

typedef enum shoal_metric_kind {
    SHOAL_METRIC_COUNTER,
    SHOAL_METRIC_GAUGE,
    SHOAL_METRIC_HISTOGRAM
} shoal_metric_kind;

shoal_status shoal_metrics_new(shoal_metrics **ret_metrics) SHOAL_MUST_CHECK;
void shoal_metrics_free(shoal_metrics *metrics);

/* name, help: static strings. labels: static, as `tier="edge"` or "" for none; two metrics of one
 * name differ in labels and share kind and help. Counters, and they alone, end in _total. bounds:
 * ascending upper bounds for a histogram (borrowed, static), else NULL. The metric lives as long as
 * the registry. */
typedef struct shoal_metric_def {
    const char *name;
    const char *help;
    const char *labels;
    shoal_metric_kind kind;
    const double *bounds;
    size_t n_bounds; /* at most 32 */
} shoal_metric_def;
shoal_status shoal_metrics_add(shoal_metrics *metrics, const shoal_metric_def *def,
                               shoal_metric **ret_metric) SHOAL_MUST_CHECK;
/* The one of this name and these labels; NULL: there is none. Any thread, once all are added. */
shoal_metric *shoal_metrics_find(const shoal_metrics *metrics, const char *name,
                                 const char *labels);

/* NULL metrics are ignored, so that code without a registry runs unchanged. */
void shoal_metric_add(shoal_metric *metric, double delta);     /* counter, gauge */
void shoal_metric_set(shoal_metric *metric, double value);     /* gauge */
void shoal_metric_observe(shoal_metric *metric, double value); /* histogram */
/* Value of a counter or gauge, number of observations of a histogram, 0 for NULL. */
double shoal_metric_value(const shoal_metric *metric);

/* Appends the text exposition (# HELP, # TYPE, samples, grouped by name). */
shoal_status shoal_metrics_render(const shoal_metrics *metrics, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
