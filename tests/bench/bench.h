/* SPDX-License-Identifier: Apache-2.0
 *
 * Measures one function: warm-up, then batches of runs, each long enough for the clock, and the
 * median over batches with its spread. Time is that of the calling thread on a processor, so that a
 * busy neighbour costs shared cache and memory bandwidth but not his time slices; what runs must do
 * its work on that thread. Speed is reported, never asserted.
 */
#ifndef SHOAL_TESTS_BENCH_BENCH_H
#define SHOAL_TESTS_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    BENCH_REPEATS_MAX = 1000
};

typedef struct bench_settings {
    double warmup_s; /* at least one run */
    double total_s;  /* stop repeating after this long */
    double batch_s;  /* a repeat runs the function until it lasts this long */
    size_t n_repeats_min;
    size_t n_repeats_max; /* at most BENCH_REPEATS_MAX */
} bench_settings;

typedef void bench_fn(void *context);

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

/* Seconds of one run. */
typedef struct bench_result {
    double median_s;
    double p10_s;
    double p90_s;
    size_t n_repeats;
    size_t n_runs; /* per repeat */
} bench_result;

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
