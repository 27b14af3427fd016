/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line of shoal-bench-load: one table drives parsing and --help.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_OPTIONS_H
#define SHOAL_TESTS_BENCH_LOAD_OPTIONS_H

#include "tests/bench/load/run.h"

enum {
    LOAD_POINTS_MAX = 64
};

typedef struct load_options {
    bool help;
    bool timing; /* --timing N: the tenant test instead of a load */
    load_link_settings link;
    load_truth_settings truth;
    load_plan plan;                 /* but for rate and n_sessions, which are of a point */
    double points[LOAD_POINTS_MAX]; /* rates, or sessions at once */
    size_t n_points;
    bool at_once;
    double seconds; /* of arrivals, at a rate */
    double warmup;
    size_t times; /* sessions that follow each other in each place of --at-once */
    size_t record_width;
    size_t n_probes; /* of --timing */
    const char *recording;
    const char *json;
    const char *label;
    bool rows;
} load_options;

/* SHOAL_E_INVALID names the option, the value and the range. Points into argv. */
shoal_status load_options_parse(int argc, char **argv, load_options *ret_options,
                                shoal_err *err) SHOAL_MUST_CHECK;
void load_options_help(void);

#endif
