/* SPDX-License-Identifier: Apache-2.0
 *
 * The strict look at a request's head, byte by byte, before the parser sees it: line ends are CRLF
 * and nothing else, no folded lines, no space before a colon, no control bytes, and every limit
 * counted exactly. The parser alone is more lenient than that, and lenience is what request
 * smuggling lives from (RFC 9112, sections 2.2, 5 and 11.2). Pure, one thread.
 */
#ifndef SHOAL_HTTP_HEAD_H
#define SHOAL_HTTP_HEAD_H

#include "common/base/macros.h"

#include <stdbool.h>

typedef struct shoal_http_head_limits {
    size_t bytes_max;   /* request line and headers, with line ends */
    size_t url_max;     /* bytes of the request target */
    size_t headers_max; /* header lines */
} shoal_http_head_limits;

/* Zeroed memory is the start of a request. */
typedef struct shoal_http_head {
    int state;
    size_t n_bytes;
    size_t n_url;
    size_t n_headers;
    size_t n_blank; /* empty lines before the request line */
} shoal_http_head;

typedef enum shoal_http_head_result {
    SHOAL_HTTP_HEAD_MORE,
    SHOAL_HTTP_HEAD_DONE,   /* *ret_used bytes belong to the head */
    SHOAL_HTTP_HEAD_REFUSED /* *ret_status and *ret_text say why */
} shoal_http_head_result;

/* Takes n more bytes. MORE has used them all. */
shoal_http_head_result shoal_http_head_push(shoal_http_head *head,
                                            const shoal_http_head_limits *limits, const char *data,
                                            size_t n, size_t *ret_used, int *ret_status,
                                            const char **ret_text);

/* True when the value of a Host (or the authority of an Origin) names this server: host with an
 * optional port, compared without case with each name of the comma-separated list. any_address
 * lets every IP address in: a DNS name rebound to us is still a name. */
bool shoal_http_host_ok(const char *host, const char *names, bool any_address);

#endif
