/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run showed: a row of a table for people and plots, and a line of JSON with everything.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_REPORT_H
#define SHOAL_TESTS_BENCH_LOAD_REPORT_H

#include "tests/bench/load/run.h"

#include <stdio.h>

/* What the columns are; each begins with '#' but the row of names. */
void load_report_header(FILE *out);
/* offered: arrivals a second, or sessions at once when plan->rate is 0. */
void load_report_row(FILE *out, const char *label, const load_plan *plan, load_result *result);
void load_report_json(FILE *out, const char *label, const load_plan *plan, load_result *result);
/* One sentence when something went wrong, else nothing. */
void load_report_bad(FILE *out, const load_result *result);

#endif
