/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal.v1.Cloud over protocol/rpc: bytes to messages, calls to the node, answers back to bytes.
 * Callbacks run on the poller thread and only enqueue. Locked by itself.
 */
#ifndef SHOAL_CLOUD_SERVER_SERVICE_H
#define SHOAL_CLOUD_SERVER_SERVICE_H

#include "cloud/server/node.h"
#include "protocol/rpc/rpc.h"

typedef struct shoal_service_settings {
    const char *address; /* "127.0.0.1:7443", port 0 picks one */
    shoal_rpc_tls tls;   /* all NULL: plaintext on loopback */
} shoal_service_settings;

typedef struct shoal_service shoal_service;

/* rpc and node are borrowed for the service's life. Listens when it returns, not yet serving as
 * far as health checks are told. */
shoal_status shoal_service_new(shoal_rpc *rpc, shoal_node *node,
                               const shoal_service_settings *settings, shoal_service **ret_service,
                               int *ret_port, shoal_err *err) SHOAL_MUST_CHECK;
/* What health checks hear. */
void shoal_service_set_serving(shoal_service *service, bool serving);
/* Refuses new calls, gives open ones grace_ms, cancels the rest; returns when all are gone. */
void shoal_service_drain(shoal_service *service, uint64_t grace_ms);
/* Drains with no grace if not drained. */
void shoal_service_free(shoal_service *service);
SHOAL_DEFINE_CLEANUP(shoal_service, shoal_service_free)

#endif
