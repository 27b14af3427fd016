/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON going out: strings and numbers appended to a buffer in the only form that is always valid.
 * Pure, any thread.
 */
#ifndef SHOAL_HTTP_JSON_OUT_H
#define SHOAL_HTTP_JSON_OUT_H

#include "common/base/buf.h"

/* "text" with quotes; control bytes escaped, bytes that are no UTF-8 as U+FFFD. */
shoal_status shoal_json_put_string(shoal_buf *buf, const char *text, size_t n) SHOAL_MUST_CHECK;
/* The same for a C string; NULL gives null. */
shoal_status shoal_json_put_text(shoal_buf *buf, const char *text) SHOAL_MUST_CHECK;
/* At most `digits` significant digits; a value that is not finite gives null. */
shoal_status shoal_json_put_real(shoal_buf *buf, double value, int digits) SHOAL_MUST_CHECK;

#endif
