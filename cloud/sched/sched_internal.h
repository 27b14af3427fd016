/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler inside: tenants with their counters, and the scratch of a plan. For cloud/sched
 * alone.
 */
#ifndef SHOAL_CLOUD_SCHED_INTERNAL_H
#define SHOAL_CLOUD_SCHED_INTERNAL_H

#include "cloud/sched/sched.h"

/* Both kinds of work have a queue. */
typedef enum sched_class {
    SCHED_SAMPLE,
    SCHED_PREFILL,
    SCHED_N_CLASSES
} sched_class;

typedef struct sched_tenant {
    char name[SHOAL_SCHED_TENANT_BYTES];
    size_t n_sessions;
    uint64_t served;
    double n_judged; /* drafts of sessions that have left, fading */
    double n_right;
    bool active; /* had work in the last step */
    bool works;  /* has work in this one */
    /* Its part of the order, for each class: [head, end) is left. */
    size_t head[SCHED_N_CLASSES];
    size_t end[SCHED_N_CLASSES];
} sched_tenant;

typedef enum sched_mark {
    SCHED_FREE,
    SCHED_PICKED,
    SCHED_PREEMPTED
} sched_mark;

struct shoal_sched {
    shoal_sched_settings settings;
    size_t n_tenants;      /* used slots of tenants, at most 2 * n_items_max */
    sched_tenant *tenants; /* [2 * n_items_max] */
    size_t *working;       /* [2 * n_items_max] tenants with work in this step */
    size_t n_working;
    uint64_t floor;          /* served by the least served tenant that had work; only grows */
    size_t *order;           /* [n_items_max] items with work, by class, tenant, rank */
    size_t *arrivals;        /* [n_items_max] all items, by tenant and arrival */
    size_t *seats;           /* [n_items_max] the item whose arrival is its seniority */
    sched_mark *marks;       /* [n_items_max] */
    shoal_sched_pick *picks; /* [n_items_max] */
    size_t *preempted;       /* [n_items_max] */
};

#endif
