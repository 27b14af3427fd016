/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a load: sessions begin when the plan says, whatever the node does, and every latency counts
 * from that moment, so a node that stalls cannot hide it by delaying its next question
 * (coordinated omission). Only a recording is closed: it asks the next when one has ended. One
 * thread.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_RUN_H
#define SHOAL_TESTS_BENCH_LOAD_RUN_H

#include "tests/bench/load/edge.h"
#include "tests/bench/load/link.h"
#include "tests/bench/load/stats.h"
#include "tests/bench/load/truth.h"

enum {
    LOAD_SESSIONS_MAX = 1 << 18,
    LOAD_STATUS_MAX = 17 /* gRPC's status codes */
};

typedef struct load_plan {
    load_edge_settings edge;
    double cloud_share; /* of the sessions, run in mode CLOUD whatever edge.mode says */
    double vanish;      /* share of sessions whose edge goes away somewhere on its way */
    double rate;        /* arrivals a second, Poisson; 0: all n_sessions at once */
    size_t n_sessions;  /* 1..LOAD_SESSIONS_MAX */
    size_t width;       /* above 0: closed, so many at a time */
    uint64_t warm_ns;   /* sessions that arrive before are not counted into latencies, nor */
    uint64_t end_ns;    /* those after; goodput counts tokens that come in between */
    uint64_t drain_ns;  /* after the last arrival sessions get this long */
    uint64_t rtt_ns;    /* added between edge and node, half each way */
    uint64_t draft_ns;  /* what the edge takes to draft a token */
    uint64_t resume_ns; /* a lost stream is opened again for so long; 0: it is a failure */
    double shares[LOAD_TENANTS_MAX]; /* of the sessions, by tenant; sums to 1 */
    size_t n_tenants;
    uint64_t seed;
    shoal_pace *pace; /* with edge.span 0: what all edges have learnt and learn; borrowed */
} load_plan;

typedef struct load_tenant_result {
    size_t n_arrived;
    size_t n_ok;
    size_t n_tokens; /* in the window, of sessions that ended well */
} load_tenant_result;

typedef struct load_result {
    size_t n_arrived;
    size_t n_ok;                      /* whole, and every token as recorded */
    size_t n_refused;                 /* RESOURCE_EXHAUSTED before the first token */
    size_t n_shed;                    /* the same after it */
    size_t n_vanished;                /* as planned */
    size_t n_failed[LOAD_STATUS_MAX]; /* other ends, by status */
    size_t n_unfinished;              /* cut off at the end of the drain */
    size_t n_wrong;                   /* sessions with a token that is not the recorded one */
    size_t n_broken; /* sessions whose answers broke the protocol, or ended OK and not whole */
    size_t n_cut;    /* streams lost and opened again */
    size_t n_lost_mails;
    size_t n_open_max;  /* sessions at once */
    size_t n_tokens;    /* goodput: tokens in the window of sessions that ended well */
    size_t n_tokens_ok; /* the same, whenever they came */
    size_t n_tokens_all;
    load_tenant_result tenants[LOAD_TENANTS_MAX];
    size_t n_drafted;
    size_t n_accepted;
    size_t n_rounds;
    uint64_t node_verified; /* as the node says in Finished */
    uint64_t node_generated;
    uint64_t node_compute_us;
    uint64_t node_cached; /* tokens it had the KV of, as it says with its tokens */
    double window_s;
    double wall_s;          /* first arrival to last end */
    double own_cpu_s;       /* of this process, all threads */
    load_samples first;     /* seconds from scheduled arrival to the first token */
    load_samples gap;       /* seconds between deliveries of tokens, of one session */
    load_samples token;     /* seconds a token, one sample a session */
    load_samples refusal;   /* seconds from scheduled arrival to the refusal */
    load_samples late;      /* seconds from scheduled arrival to our own beginning */
    char why[LOAD_WHY_MAX]; /* of the first session that was wrong, broken or failed, or refused in
                             a recording */
} load_result;

/* How many sessions arrive within seconds at plan->rate with plan->seed: Poisson, so near
 * rate * seconds; at most LOAD_SESSIONS_MAX. */
size_t load_plan_n_arrivals(const load_plan *plan, double seconds);

/* items are taken in an order drawn from the seed. With plan->edge.record every item is asked once
 * and its continuation is written into truth. SHOAL_E_INTERNAL: a recording that is not whole;
 * other outcomes are for the caller to judge. ret_result must be given to load_result_fini. */
shoal_status load_run(load_link *link, load_truth *truth, const load_plan *plan,
                      load_result *ret_result, shoal_err *err) SHOAL_MUST_CHECK;
void load_result_fini(load_result *result);
/* Sessions that ended neither as they should nor by refusal. */
size_t load_result_n_bad(const load_result *result);

#endif
