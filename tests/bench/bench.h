/* SPDX-License-Identifier: Apache-2.0
 *
 * One subject after another, timed on the calling thread (common/machine/timing.h), as a table or
 * as JSON. Speed is reported, never asserted.
 */
#ifndef SHOAL_TESTS_BENCH_BENCH_H
#define SHOAL_TESTS_BENCH_BENCH_H

#include "common/machine/timing.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef shoal_timing_settings bench_settings;
typedef shoal_timing bench_result;
typedef shoal_timing_fn bench_fn;

/* What is measured. The strings are borrowed until the report is written. */
typedef struct bench_subject {
    const char *name;
    const char *shape;
    const char *variant;
    uint64_t bytes; /* that one run must move at least */
    uint64_t flops; /* additions and multiplications of one run */
    bench_fn *run;
    void *context;
} bench_subject;

/* Where results go: a table for people, or one JSON object. */
typedef struct bench_report {
    FILE *out;
    bool json;
    size_t n_rows;
} bench_report;

/* Half a second a subject, at least five repeats. */
bench_settings bench_settings_default(void);
/* One run a subject: proves that the benchmark works. */
bench_settings bench_settings_smoke(void);

bench_result bench_measure(const bench_settings *settings, const bench_subject *subject);

/* "variants" names what this machine can run; the machine and the compiler are found out. */
void bench_report_begin(bench_report *report, FILE *out, bool json, const char *variants);
void bench_report_row(bench_report *report, const bench_subject *subject,
                      const bench_result *result);
/* 0, or -1 when something could not be written. */
int bench_report_end(bench_report *report);

#endif
