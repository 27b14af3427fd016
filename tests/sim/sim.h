/* SPDX-License-Identifier: Apache-2.0
 *
 * A cloud on a virtual clock: real sessions, real batch, real engine on a tiny model, in one thread
 * and without I/O. Edges, network and faults are drawn from a seed, so a run is the same whenever
 * it is run, and a failure is a number. Time is counted, never waited for.
 */
#ifndef SHOAL_TESTS_SIM_SIM_H
#define SHOAL_TESTS_SIM_SIM_H

#include "common/model/model.h"
#include "tests/bench/load/truth.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SIM_TRUTHS = 2,
    SIM_WHY_MAX = 256
};

/* What all seeds share: a model, and prompts with the answers it gives to each alone. */
typedef struct sim_base {
    shoal_model *model;
    load_truth *truths[SIM_TRUTHS];
} sim_base;

typedef struct sim_report {
    size_t n_sessions;
    size_t n_tokens; /* confirmed by edges */
    size_t n_steps;
    size_t n_cuts; /* streams lost to faults */
    size_t n_restarts;
    size_t n_preempted;    /* times a session lost its KV */
    char why[SIM_WHY_MAX]; /* what was broken; "" when nothing was */
} sim_report;

shoal_status sim_base_init(sim_base *base, shoal_err *err) SHOAL_MUST_CHECK;
void sim_base_fini(sim_base *base);

/* One world of nodes and edges. Adds to the report; false: an invariant is broken, see why. */
bool sim_world_run(const sim_base *base, uint64_t seed, sim_report *report);
/* The scheduler alone. The same; base is not used. */
bool sim_sched_run(const sim_base *base, uint64_t seed, sim_report *report);

#endif
