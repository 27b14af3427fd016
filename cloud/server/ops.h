/* SPDX-License-Identifier: Apache-2.0
 *
 * What probes and Prometheus ask for, on an address of its own: /healthz, /readyz, /metrics over
 * HTTP/1.1, GET and HEAD. It answers from what it is given, in constant time, and everything a
 * client can do to it is bounded. Loop-only.
 */
#ifndef SHOAL_CLOUD_SERVER_OPS_H
#define SHOAL_CLOUD_SERVER_OPS_H

#include "common/obs/metrics.h"
#include "protocol/http/loop.h"

#include <stddef.h>

typedef struct shoal_ops_settings {
    const char *address;      /* "127.0.0.1:9443", port 0 picks one */
    const char *hosts;        /* more names for the Host header, comma-separated; "": none */
    size_t n_connections_max; /* default 64 */
} shoal_ops_settings;

/* What is asked of the program. Each is NULL for yes, or a word why not, static. */
typedef struct shoal_ops_view {
    const char *(*unhealthy)(void *ctx); /* it must be restarted */
    const char *(*unready)(void *ctx);   /* it should get no new sessions */
    void (*refresh)(void *ctx);          /* brings gauges up to date before they are read */
    void *ctx;
} shoal_ops_view;

typedef struct shoal_ops shoal_ops;

/* loop and registry are borrowed; nothing may be added to the registry from here on. Listens when
 * it returns. */
shoal_status shoal_ops_new(shoal_loop *loop, const shoal_ops_settings *settings,
                           const shoal_ops_view *view, shoal_metrics *registry, shoal_ops **ret_ops,
                           shoal_err *err) SHOAL_MUST_CHECK;
/* "127.0.0.1:9443" as bound. */
const char *shoal_ops_address(const shoal_ops *ops);
void shoal_ops_free(shoal_ops *ops);

#endif
