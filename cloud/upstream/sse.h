/* SPDX-License-Identifier: Apache-2.0
 *
 * Server-sent events from bytes in any pieces (WHATWG HTML, section 9.2.6): lines end in LF, CR or
 * CRLF, an empty line ends an event, the data lines of one event are joined by LF. Bounded; hostile
 * bytes give an error or are passed over. One thread.
 */
#ifndef SHOAL_UPSTREAM_SSE_H
#define SHOAL_UPSTREAM_SSE_H

#include "common/base/buf.h"

#include <stdbool.h>

enum {
    SHOAL_SSE_EVENT_MAX = 1 << 20 /* bytes of one line, and of the data of one event */
};

typedef struct shoal_sse {
    shoal_buf line;
    shoal_buf data;
    bool has_data; /* the event has a data field, be it empty */
    bool is_error; /* its name is "error" */
    bool after_cr; /* an LF that comes next belongs to the CR before */
} shoal_sse;

void shoal_sse_init(shoal_sse *sse);
void shoal_sse_fini(shoal_sse *sse);

/* Calls on_event for each event that the bytes complete; data is NUL-terminated and borrowed. What
 * on_event returns other than SHOAL_OK ends the push and is returned. SHOAL_E_LIMIT: over
 * SHOAL_SSE_EVENT_MAX; SHOAL_E_NOMEM. After a failure only fini may follow. */
shoal_status shoal_sse_push(shoal_sse *sse, const char *bytes, size_t n,
                            shoal_status (*on_event)(void *ctx, const char *data, size_t n,
                                                     bool is_error),
                            void *ctx) SHOAL_MUST_CHECK;

#endif
