/* SPDX-License-Identifier: Apache-2.0
 *
 * Continuous batching: cloud/sched says who takes part in the next engine step, this runs it and
 * gives each session its rows. Nothing here changes what a session's tokens are (R2). Engine-only.
 *
 * The most senior session with work is in every step that finds pages for it (sched.h), so a
 * session that fits the pool alone always gets on; and a short silence (a round trip to the edge)
 * costs an older session nothing.
 */
#ifndef SHOAL_CLOUD_SERVER_BATCH_H
#define SHOAL_CLOUD_SERVER_BATCH_H

#include "cloud/admit/admit.h"
#include "cloud/sched/cost.h"
#include "cloud/server/metrics.h"
#include "cloud/server/session.h"
#include "cloud/server/share.h"
#include "common/base/clock.h"

typedef struct shoal_batch_settings {
    size_t n_sessions_max;   /* at least 1 */
    size_t prefill_chunk;    /* prompt rows of one step, at least 1; at most half the step's rows */
    uint64_t idle_hold_ms;   /* silence after which a KV may be dropped; default 1000 */
    unsigned prefix_percent; /* of the KV pool that prefixes may keep, 0..100; 0: no cache */
    uint64_t step_time_us;   /* what a step should take at most; 0: no limit */
    const shoal_clock *timing; /* of steps that are timed at once, to know what a row costs; for the
                                * making alone; NULL: none are */
    shoal_store *store;        /* borrowed for the batch's life; NULL: nothing is shared */
    shoal_hash store_secret;   /* these three as in shoal_share_settings */
    uint64_t store_wait_ms;
    bool store_always;
} shoal_batch_settings;

typedef struct shoal_batch shoal_batch;

/* engine and metrics are borrowed for the batch's life. */
shoal_status shoal_batch_new(shoal_engine *engine, const shoal_batch_settings *settings,
                             const shoal_cloud_metrics *metrics,
                             shoal_batch **ret_batch) SHOAL_MUST_CHECK;
void shoal_batch_free(shoal_batch *batch);
SHOAL_DEFINE_CLEANUP(shoal_batch, shoal_batch_free)

/* The full blocks of this text are everybody's: shoal_prefix_add_public. SHOAL_BUSY: the cache does
 * not hold them, or there is none. */
shoal_status shoal_batch_add_public(shoal_batch *batch, const int32_t *ids,
                                    size_t n_ids) SHOAL_MUST_CHECK;

/* Sessions are borrowed until removed; age counts from here. Sessions of one tenant share what it
 * gets of the engine. SHOAL_BUSY at n_sessions_max. */
shoal_status shoal_batch_add(shoal_batch *batch, shoal_session *session,
                             uint64_t now_ms) SHOAL_MUST_CHECK;
void shoal_batch_remove(shoal_batch *batch, shoal_session *session);
/* The session has heard from its edge. */
void shoal_batch_touch(shoal_batch *batch, const shoal_session *session, uint64_t now_ms);
/* A held session gets no work: its edge does not read fast enough. */
void shoal_batch_hold(shoal_batch *batch, const shoal_session *session, bool hold);

/* Begins texts with what the prefix cache and the store have of them. The next step does not do it
 * again. */
void shoal_batch_look(shoal_batch *batch, const shoal_clock *clock);
/* Share of the tokens of prompts, of some of them lately, that was found so, 0..1. */
double shoal_batch_found(const shoal_batch *batch);
/* One engine step, then every session's result. SHOAL_OK: a step was run. SHOAL_EOF: no session
 * has work. SHOAL_BUSY: there is work, but the pages are held by older sessions that are silent
 * for less than idle_hold_ms, or its blocks may come from the store; try again a little later, or
 * when the store wakes. A step that fails otherwise ends its
 * sessions and is SHOAL_OK. */
shoal_status shoal_batch_step(shoal_batch *batch, const shoal_clock *clock) SHOAL_MUST_CHECK;
/* Learnt from the steps so far; valid until the next one. Sessions tell their edges what it comes
 * to, from add to remove. */
const shoal_sched_cost *shoal_batch_cost(const shoal_batch *batch);
/* What admission must know, as of the last step: io_load has the rows that sessions wait for and
 * how many sessions decode; this adds how many of them a step runs, what it costs, and which pages
 * are shared. */
void shoal_batch_load(const shoal_batch *batch, shoal_admit_load *io_load);

#endif
