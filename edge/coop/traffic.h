/* SPDX-License-Identifier: Apache-2.0
 *
 * What the link to the cloud costs where bytes are paid for: those of the IP packets of its
 * connections, as the kernel counts them (TCP_INFO): messages, TLS, headers, acknowledgements,
 * pings, and what was sent again. gRPC keeps its sockets to itself, so they are looked for among
 * this process's own: by the ports that are connected to. What a connection carries between the
 * last look and its end is not seen, nor are names asked for, and what carries the packets.
 *
 * Any thread; a look takes a microsecond a connection, once a second some more for new ones.
 */
#ifndef SHOAL_COOP_TRAFFIC_H
#define SHOAL_COOP_TRAFFIC_H

#include "common/base/err.h"
#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_TRAFFIC_CONNECTIONS_MAX = 256, /* followed at once; more are not counted */
    SHOAL_TRAFFIC_RESCAN_MS = 1000       /* between two searches for new ones */
};

typedef struct shoal_traffic shoal_traffic;

/* target as shoal_rpc_channel_new takes it. SHOAL_E_UNSUPPORTED: this kernel does not tell;
 * SHOAL_E_INVALID: no target; SHOAL_E_NOMEM. */
shoal_status shoal_traffic_new(const char *target, shoal_traffic **ret_traffic,
                               shoal_err *err) SHOAL_MUST_CHECK;
void shoal_traffic_free(shoal_traffic *traffic);
SHOAL_DEFINE_CLEANUP(shoal_traffic, shoal_traffic_free)
/* What was carried since anybody took it last; now_ms on one clock for all. */
void shoal_traffic_take(shoal_traffic *traffic, uint64_t now_ms, uint64_t *ret_up,
                        uint64_t *ret_down);

#endif
