/* SPDX-License-Identifier: Apache-2.0
 *
 * Who takes part in the next engine step, with how many rows, and who gives way when KV pages run
 * out: a pure function of the queue, the limits, the cost model and the time, all passed in. It
 * knows no clock, no engine and no session; equal input gives an equal plan. What it keeps between
 * steps are the tenants' counters. One thread.
 *
 * Rows. Samples first: each session whose sample is due gets the rows of it, then prompts get the
 * rest in chunks, of which a part is theirs before the samples are counted. So neither stops the
 * other, and a step stays within the time limit by the cost model. Drafts behind a sample take part
 * only while each adds more expected tokens than its time is worth: with few sessions a step costs
 * the same with them, in a full batch they are left for the next step.
 *
 * Order. Among tenants the one that was served least comes first (virtual token counter, Sheng et
 * al., "Fairness in Serving Large Language Models", OSDI 2024): a prompt row counts 1, a row with a
 * sample 2, and who comes back after having had no work starts level with the least served. Within
 * a tenant the higher priority goes first, where age_ms of waiting count as one level; then the
 * earlier deadline; then, of samples, who was served longest ago, of prompts who arrived first:
 * finishing one is better than halving two. Between tenants that were served alike, the same
 * without priority: what a tenant says of its own importance takes nothing from the others.
 *
 * Pages. Seniority is a time of arrival: the items of a tenant, in the order of their own arrivals,
 * age_ms earlier for each level of priority, have the arrivals that there are among them, earliest
 * first. So priority gives an item the place of an older one of its tenant, and to no other tenant
 * does it make a difference. The most senior item with work is in every step. Who lacks pages takes
 * them from the cache, then from items silent for hold_ms, then from juniors that are not in the
 * step, the most junior first; else it waits. Seniority changes only when items of the tenant come
 * and go, so two items cannot take pages from each other in turn.
 */
#ifndef SHOAL_CLOUD_SCHED_SCHED_H
#define SHOAL_CLOUD_SCHED_SCHED_H

#include "cloud/sched/cost.h"
#include "common/base/macros.h"

#include <stdbool.h>

enum {
    SHOAL_SCHED_ITEMS_MAX = 65536,
    SHOAL_SCHED_TENANT_BYTES = 128, /* of a tenant's name, its end included */
    SHOAL_SCHED_PRIORITY_MAX = 7,
    SHOAL_SCHED_BLOCK = 32 /* tokens of a page */
};

typedef struct shoal_sched_settings {
    size_t n_items_max;   /* 1..SHOAL_SCHED_ITEMS_MAX, default 256 */
    size_t catch_up_rows; /* a sample this close ahead runs in one go with them; default 32 */
    uint64_t age_ms;      /* of waiting that count as one level of priority, default 1000 */
} shoal_sched_settings;
shoal_sched_settings shoal_sched_settings_default(void);

/* One session. Without a sample due and without prompt rows it is silent: it has no work. */
typedef struct shoal_sched_item {
    uint64_t id;          /* different for each item of a step; the lower one arrived first */
    size_t tenant;        /* from join */
    unsigned priority;    /* 0..SHOAL_SCHED_PRIORITY_MAX, 7 highest */
    uint64_t arrived_ms;  /* seniority, its own or of one of its tenant's, counts from here */
    uint64_t deadline_ms; /* UINT64_MAX: none */
    uint64_t since_ms;    /* since when its sample, or its whole prompt, waits; or it is silent */
    uint64_t turn;        /* number of the last step it took part in */
    size_t n_prefill;     /* rows missing before the row that is sampled from */
    bool sample;          /* a decode step or a verification is due */
    size_t n_drafts;      /* drafts that wait for their verification, with sample only */
    double acceptance;    /* share of drafts accepted so far, 0..1 */
    const uint8_t *odds;  /* [n_drafts] that each stands when those before it do, 255ths, borrowed:
                           * counted up to acceptance; NULL: that goes for all */
    size_t n_rows_held;   /* rows that fit into the pages it has */
    size_t n_pages_block; /* pages of each further SHOAL_SCHED_BLOCK rows */
    size_t n_pages_copy;  /* pages its first row takes beyond that: shared ones it writes to */
    size_t n_pages_given; /* pages that come free, or back to the cache, when its KV is dropped */
    size_t n_pages_held;  /* all its pages: those shared with other items come free with the last */
} shoal_sched_item;

/* Of one step. */
typedef struct shoal_sched_limits {
    size_t n_rows_max;    /* at least 1 */
    size_t n_logits_max;  /* at least 1 */
    size_t n_prefill_max; /* prompt rows, at least 1 */
    size_t n_drafts_max;  /* drafts of one item */
    uint64_t time_us;     /* what the step should take at most; 0: no limit */
    size_t n_pages_free;
    size_t n_pages_cached; /* pages that the cache can give back */
    uint64_t hold_ms;      /* silence after which an item's pages are anyone's */
} shoal_sched_limits;

typedef struct shoal_sched_pick {
    size_t item_i;   /* in items */
    size_t n_rows;   /* at least 1; the sample's row and its drafts are the last */
    size_t n_logits; /* 0: prompt rows alone; else 1 + drafts */
} shoal_sched_pick;

typedef struct shoal_sched_plan {
    const shoal_sched_pick *picks; /* valid until the next step */
    size_t n_picks;
    const size_t *preempted; /* items whose KV must be dropped first, indices */
    size_t n_preempted;
    size_t n_pages; /* that the picks take: after the preemptions the cache gives what lacks */
    size_t n_rows;
    size_t n_logits;
    size_t n_samples; /* picks with logits */
    size_t n_waiting; /* items with work that are not in the step */
    double price;     /* what a further draft costs now, in tokens: shoal_sched_cost_price */
} shoal_sched_plan;

typedef struct shoal_sched shoal_sched;

shoal_status shoal_sched_new(const shoal_sched_settings *settings,
                             shoal_sched **ret_sched) SHOAL_MUST_CHECK;
void shoal_sched_free(shoal_sched *sched);
SHOAL_DEFINE_CLEANUP(shoal_sched, shoal_sched_free)

/* A session of the tenant of this name (cut to SHOAL_SCHED_TENANT_BYTES - 1) has come; it must
 * leave. Its counter outlives its sessions for as long as it says anything. SHOAL_BUSY: over
 * n_items_max sessions. */
shoal_status shoal_sched_join(shoal_sched *sched, const char *name,
                              size_t *ret_tenant) SHOAL_MUST_CHECK;
void shoal_sched_leave(shoal_sched *sched, size_t tenant);
/* It was served n more tokens, as counted above, that no step has planned. */
void shoal_sched_charge(shoal_sched *sched, size_t tenant, uint64_t n);
/* Tokens it was served, as counted above. */
uint64_t shoal_sched_served(const shoal_sched *sched, size_t tenant);
/* Of a session of the tenant n_judged drafts were judged in all, and n_right of them stood. */
void shoal_sched_judged(shoal_sched *sched, size_t tenant, size_t n_judged, size_t n_right);
/* Share of drafts that stands, 0..1, where of n_judged n_right did: these and what the tenant's
 * sessions before were like, worth a few of them; 0.8 where nothing is known. Whoever were taken
 * for a stranger each time would have a span judged in pieces, each a step. */
double shoal_sched_acceptance(const shoal_sched *sched, size_t tenant, size_t n_judged,
                              size_t n_right);

/* Plans the next step and charges it to the tenants. n_items at most n_items_max. SHOAL_OK: picks
 * is not empty. SHOAL_EOF: no item has work. SHOAL_BUSY: work waits, but its pages are held by
 * senior items that have been silent for less than hold_ms. When pages are shared, one item may be
 * preempted all the same: drop its KV and plan again. */
shoal_status shoal_sched_step(shoal_sched *sched, const shoal_sched_item *items, size_t n_items,
                              const shoal_sched_limits *limits, const shoal_sched_cost *cost,
                              uint64_t now_ms, shoal_sched_plan *ret_plan) SHOAL_MUST_CHECK;

/* Whose turn it is where no step is planned: n_max places at most come free, each for one item
 * whose sample is due, without prompt rows, drafts or pages. The order is that of a step, but that
 * nobody is in all of them; each pick counts as a row with a sample. Returns how many there are;
 * they are valid until the next plan. */
size_t shoal_sched_turns(shoal_sched *sched, const shoal_sched_item *items, size_t n_items,
                         size_t n_max, uint64_t now_ms, const shoal_sched_pick **ret_picks);

#endif
