/* SPDX-License-Identifier: Apache-2.0
 *
 * The method FetchKv of shoal.v1.Cloud: calls to the ship and its pieces back (cloud/ship).
 * Callbacks run on the poller thread and only enqueue. Locked by itself.
 */
#ifndef SHOAL_CLOUD_SERVER_FETCH_H
#define SHOAL_CLOUD_SERVER_FETCH_H

#include "cloud/ship/ship.h"
#include "protocol/rpc/rpc.h"

typedef struct shoal_fetch shoal_fetch;

/* ship is borrowed for the fetch's life. */
shoal_status shoal_fetch_new(shoal_ship *ship, const shoal_clock *clock,
                             shoal_fetch **ret_fetch) SHOAL_MUST_CHECK;
/* Waits until the ship has let every call go; the server that has the method is gone by then. */
void shoal_fetch_free(shoal_fetch *fetch);
SHOAL_DEFINE_CLEANUP(shoal_fetch, shoal_fetch_free)

/* Points into fetch. */
shoal_rpc_method shoal_fetch_method(shoal_fetch *fetch);
/* Calls begin while it is true. False at first. Any thread. */
void shoal_fetch_set_serving(shoal_fetch *fetch, bool serving);
/* Ends calls that have not said what they want for too long. Any thread. */
void shoal_fetch_sweep(shoal_fetch *fetch);

#endif
