/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge plan: what reports of `compress --report` or `--json` say. A report is a
 * file from anywhere and is checked. Not thread-safe; immutable after reading.
 */
#ifndef SHOAL_FORGE_PLAN_H
#define SHOAL_FORGE_PLAN_H

#include "cloud/forge/scaling.h"

#include "common/base/hash.h"
#include "common/base/macros.h"

#include <stdint.h>

enum {
    PLAN_REPORT_BYTES_MAX = 64 << 20,
    PLAN_REPORTS_MAX = FORGE_SCALING_POINTS_MAX,
    PLAN_RECIPE_MAX = 1024,
    PLAN_KV_MAX = 32
};

typedef struct plan_report {
    const char *path; /* borrowed */
    char model[SHOAL_HASH_HEX];
    char recipe[PLAN_RECIPE_MAX]; /* as the run was given it */
    char kv[PLAN_KV_MAX];
    uint64_t n_bytes; /* of the file */
    bool sized;       /* made with --target-bytes or --target-ms: other sizes can be had */
    double loss;      /* divergence of the next token from the full model, nats; at least 0 */
    size_t n_runs;    /* of the profile; 0: no times */
    size_t threads[FORGE_SCALING_THREADS_MAX]; /* ascending */
    double ms[FORGE_SCALING_THREADS_MAX];      /* by the profile */
    size_t measured_threads;
    double measured_ms;
} plan_report;

/* ret_report borrows path. Errors name it. */
shoal_status shoal_forge_plan_read(const char *path, plan_report *ret_report,
                                   shoal_err *err) SHOAL_MUST_CHECK;
/* The same from memory. */
shoal_status shoal_forge_plan_parse(const char *path, const char *text, size_t n,
                                    plan_report *ret_report, shoal_err *err) SHOAL_MUST_CHECK;

#endif
