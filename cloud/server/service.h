/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal.v1.Cloud over protocol/rpc: bytes to messages, calls to the node, answers back to bytes.
 * Callbacks run on the poller thread and only enqueue. Admission is decided there too, when Open
 * comes, so that a refusal never waits for a step of the engine. Locked by itself.
 */
#ifndef SHOAL_CLOUD_SERVER_SERVICE_H
#define SHOAL_CLOUD_SERVER_SERVICE_H

#include "cloud/admit/admit.h"
#include "cloud/fleet/fleet.h"
#include "cloud/server/node.h"
#include "cloud/ship/ship.h"
#include "protocol/rpc/rpc.h"

typedef struct shoal_service_settings {
    const char *address;             /* "127.0.0.1:7443", port 0 picks one */
    shoal_rpc_tls tls;               /* all NULL: plaintext on loopback */
    uint64_t wait_max_ms;            /* as in shoal_admit_settings */
    shoal_admit_quotas *take_quotas; /* in any case; NULL: no limits */
    shoal_ship *ship;                /* borrowed for the service's life; NULL: no FetchKv */
    shoal_fleet *fleet;              /* likewise; NULL: no FetchBundle */
    shoal_clock clock;               /* zeroed: the real one */
} shoal_service_settings;

typedef struct shoal_service shoal_service;

/* rpc and node are borrowed for the service's life. Listens when it returns, not yet serving as
 * far as health checks are told. */
shoal_status shoal_service_new(shoal_rpc *rpc, shoal_node *node,
                               const shoal_service_settings *settings, shoal_service **ret_service,
                               int *ret_port, shoal_err *err) SHOAL_MUST_CHECK;
/* What health checks hear; sessions begin while it is true. False at first. */
void shoal_service_set_serving(shoal_service *service, bool serving);
/* What may change while sessions run; certificates come first, and with an error nothing changes.
 * take_quotas is taken on success alone. tls all NULL: it was and stays plaintext. */
shoal_status shoal_service_configure(shoal_service *service, const shoal_rpc_tls *tls,
                                     uint64_t wait_max_ms, shoal_admit_quotas *take_quotas,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* Ends calls that have not opened a session for too long. To be called every second or so. */
void shoal_service_sweep(shoal_service *service);
/* Refuses new calls, gives open ones grace_ms, cancels the rest; returns when all are gone. */
void shoal_service_drain(shoal_service *service, uint64_t grace_ms);
/* Drains with no grace if not drained. Waits until the node has let every call go: it is freed
 * later. */
void shoal_service_free(shoal_service *service);
SHOAL_DEFINE_CLEANUP(shoal_service, shoal_service_free)

#endif
