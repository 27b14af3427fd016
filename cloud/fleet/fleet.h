/* SPDX-License-Identifier: Apache-2.0
 *
 * The method FetchBundle of shoal.v1.Cloud (SPEC.md, section 12): tells an edge which bundle it is
 * to run and sends its files, from any byte on. Callbacks run on the poller and only enqueue; one
 * thread reads files, a piece of each call in turn, and never more than the link takes. Bounded: so
 * many calls, half of them of one identity; a call that says nothing or takes nothing is ended.
 */
#ifndef SHOAL_CLOUD_FLEET_FLEET_H
#define SHOAL_CLOUD_FLEET_FLEET_H

#include "cloud/fleet/catalogue.h"
#include "common/base/clock.h"
#include "common/obs/metrics.h"
#include "protocol/rpc/rpc.h"

enum {
    SHOAL_FLEET_CALLS_MAX = 4096
};

typedef struct shoal_fleet_settings {
    const char *folder; /* read when it is made */
    size_t n_calls_max; /* 1..SHOAL_FLEET_CALLS_MAX */
} shoal_fleet_settings;

typedef struct shoal_fleet shoal_fleet;

/* Reads the folder, starts the thread. registry may be NULL. */
shoal_status shoal_fleet_new(const shoal_fleet_settings *settings, shoal_metrics *registry,
                             shoal_fleet **ret_fleet, shoal_err *err) SHOAL_MUST_CHECK;
/* The server that has the method is gone by then. */
void shoal_fleet_free(shoal_fleet *fleet);
SHOAL_DEFINE_CLEANUP(shoal_fleet, shoal_fleet_free)

/* Points into fleet. */
shoal_rpc_method shoal_fleet_method(shoal_fleet *fleet);
/* The folder as it was read again: for calls that begin from now on. Any thread. */
void shoal_fleet_use(shoal_fleet *fleet, shoal_catalogue *take_catalogue);
/* Calls begin while it is true. False at first. Any thread. */
void shoal_fleet_set_serving(shoal_fleet *fleet, bool serving);
/* Bundles that the rollout names. Any thread. */
size_t shoal_fleet_n_bundles(shoal_fleet *fleet);

#endif
