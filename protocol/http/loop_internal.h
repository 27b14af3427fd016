/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to protocol/http: what stands behind loop.h. The one header here that shows uv.h, with
 * http_internal.h.
 */
#ifndef SHOAL_HTTP_LOOP_INTERNAL_H
#define SHOAL_HTTP_LOOP_INTERNAL_H

#include "protocol/http/loop.h"

#include <uv.h>

typedef struct shoal_loop_signal {
    uv_signal_t handle;
    void (*fn)(void *ctx, int number);
    void *ctx;
    struct shoal_loop_signal *next;
} shoal_loop_signal;

struct shoal_loop {
    uv_loop_t uv;
    shoal_loop_signal *signals;
};

#endif
