/* SPDX-License-Identifier: Apache-2.0
 *
 * What a node shares with others through cloud/store. Before a session computes the blocks that the
 * prefix cache has not got, they are asked for; what comes in time is taken over, the rest is
 * computed and given to the store as blocks fill. Nothing here waits: requests are the store's io
 * thread's, their results are collected between two engine steps, and a session is left out of the
 * steps for as long as its blocks may come. A store that is slow, gone or wrong costs that time and
 * no token (R2, R3).
 *
 * Names of blocks begin with a root made of the model, the KV's form, and the tenant under the
 * operator's secret (R10), with the adapter where there is one; blocks that are public, the base's
 * alone, have a root without a tenant.
 *
 * Fetching costs time, too. What it took is fitted like the steps of the engine
 * (cloud/sched/cost.h, blocks instead of rows); while that predicts more than computing takes,
 * nothing is fetched and nothing given. What is known is forgotten after 10 s without a fetch, so
 * it is tried again. Engine-only.
 */
#ifndef SHOAL_CLOUD_SERVER_SHARE_H
#define SHOAL_CLOUD_SERVER_SHARE_H

#include "cloud/prefix/prefix.h"
#include "cloud/sched/cost.h"
#include "cloud/server/metrics.h"
#include "cloud/server/session.h"
#include "cloud/store/store.h"
#include "common/base/clock.h"

typedef struct shoal_share_settings {
    shoal_store *store;         /* borrowed; nobody else asks it or polls it */
    const shoal_kv_pool *pool;  /* borrowed: the form of its blocks */
    const shoal_prefix *prefix; /* borrowed: which blocks are public; NULL: none are */
    shoal_hash model;
    shoal_hash secret;    /* of the operator, zero without one: equal on nodes that share */
    size_t n_fetches_max; /* sessions that ask at once, at least 1 */
    uint64_t wait_ms;     /* for how long blocks may come, at least 1 */
    bool always;          /* even where computing is predicted to be faster */
} shoal_share_settings;

typedef struct shoal_share shoal_share;

/* metrics is borrowed for the share's life. */
shoal_status shoal_share_new(const shoal_share_settings *settings,
                             const shoal_cloud_metrics *metrics,
                             shoal_share **ret_share) SHOAL_MUST_CHECK;
void shoal_share_free(shoal_share *share);
SHOAL_DEFINE_CLEANUP(shoal_share, shoal_share_free)

/* What is kept for one session. Zeroed, it takes no part. */
typedef struct shoal_share_part {
    bool joined;
    bool adapted; /* nothing public is for it */
    shoal_hash root;
    size_t n_named;      /* blocks of the text that have their names */
    shoal_block_id own;  /* the last of them, under the tenant's root */
    shoal_block_id open; /* of the last public block, under the root of all */
    size_t n_open;       /* leading blocks that are public */
    size_t n_known;      /* blocks that the store gave, was given, or need not be given */
    size_t n_tried;      /* blocks of the text up to which fetching was tried */
    uint32_t fetch;      /* its own fetch, and which of that place; turn 0: none */
    uint64_t turn;
    uint32_t behind_i; /* the fetch of another session that brings its blocks; behind 0: none */
    uint64_t behind;
    uint64_t until_ns; /* blocks may come until then */
} shoal_share_part;

/* adapter: the hash of the session's; NULL: none. Without memory for its names the session computes
 * all of its text itself. */
void shoal_share_join(shoal_share *share, const char *tenant, const shoal_hash *adapter,
                      shoal_share_part *ret_part);
/* Leases that it did not fulfil are given back. */
void shoal_share_leave(shoal_share *share, shoal_share_part *part);

/* Collects results of the store. */
void shoal_share_poll(shoal_share *share);

/* What a session's blocks go to and what computing them would cost. */
typedef struct shoal_share_site {
    shoal_session *session;
    shoal_prefix *prefix;            /* NULL: none; else it is shown the blocks that came */
    const shoal_prefix_owner *owner; /* with it */
    const shoal_sched_cost *cost;
    size_t prefill_chunk;         /* rows of one step */
    bool (*make_room)(void *ctx); /* frees pages; false: there are no more */
    void *ctx;
} shoal_share_site;

/* Before a step is planned: takes over what has come, asks for what is missing. True: the session
 * should wait, its blocks may still come. */
bool shoal_share_fetch(shoal_share *share, shoal_share_part *part, const shoal_share_site *site,
                       const shoal_clock *clock);
/* The first n_tokens of the session's KV were found on this node: others had given them. */
void shoal_share_found(shoal_share_part *part, size_t n_tokens);
/* After a step: gives the store the blocks that have filled. */
void shoal_share_give(shoal_share *share, shoal_share_part *part, const shoal_share_site *site,
                      const shoal_clock *clock);
/* Its KV was dropped: it may be asked for again. */
void shoal_share_dropped(shoal_share_part *part);
/* Sessions that asked and have not got all their results. */
size_t shoal_share_n_asking(const shoal_share *share);

#endif
