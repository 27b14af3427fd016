/* SPDX-License-Identifier: Apache-2.0
 *
 * Can a tenant tell by the clock what another has asked (R10)? In every trial the first tenant asks
 * a new prompt; then, in random order, the second asks the same one and one that nobody has asked,
 * and the first asks its own again. If the prefix cache keeps tenants apart, the second's two times
 * come from one distribution; the first's own, which the cache makes shorter, shows that the
 * measurement could have seen it. One question at a time.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_TIMING_H
#define SHOAL_TESTS_BENCH_LOAD_TIMING_H

#include "tests/bench/load/link.h"
#include "tests/bench/load/stats.h"
#include "tests/bench/load/truth.h"

typedef struct load_timing {
    load_samples primed;  /* seconds to the first token: second tenant, prompt of the first */
    load_samples fresh;   /* second tenant, prompt of nobody */
    load_samples own;     /* first tenant, its own prompt again */
    load_rank_test apart; /* primed against fresh */
    load_rank_test power; /* own against fresh */
} load_timing;

/* truth has at least 2 n_probes items; their continuations are overwritten. */
shoal_status load_timing_run(load_link *link, load_truth *truth, size_t n_probes, uint64_t seed,
                             load_timing *ret_timing, shoal_err *err) SHOAL_MUST_CHECK;
void load_timing_fini(load_timing *timing);

#endif
