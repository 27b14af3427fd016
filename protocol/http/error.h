/* SPDX-License-Identifier: Apache-2.0
 *
 * An error as the caller of the API sees it: an HTTP status and OpenAI's
 * {"error":{message,type,param,code}}. Plain values, any thread.
 */
#ifndef SHOAL_HTTP_ERROR_H
#define SHOAL_HTTP_ERROR_H

#include "common/base/buf.h"

#include <stdint.h>

typedef struct shoal_http_error {
    int status;             /* 0: none */
    const char *code;       /* static; NULL: null */
    uint32_t retry_after_s; /* 0: no Retry-After */
    const char *allow;      /* static; methods for 405, else NULL */
    char param[64];         /* the field at fault, "": null */
    char text[512];
} shoal_http_error;

/* Fills error (the first one wins); returns SHOAL_E_INVALID so that a check reads as one thought.
 * param may be NULL. */
shoal_status shoal_http_error_set(shoal_http_error *error, int status, const char *param,
                                  const char *code, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* An engine's or link's failure in HTTP's words. param may be NULL. */
void shoal_http_error_from(shoal_http_error *error, const shoal_err *err, const char *param);

/* Appends the JSON object. */
shoal_status shoal_http_error_put(const shoal_http_error *error, shoal_buf *buf) SHOAL_MUST_CHECK;

/* The reason phrase, "" for a status that is not ours. */
const char *shoal_http_reason(int status);

#endif
