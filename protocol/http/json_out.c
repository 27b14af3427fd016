/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/http/json_out.h"

#include "common/base/utf8.h"

#include <math.h>
#include <string.h>

/* Bytes from p that may stand in a JSON string as they are. */
static size_t plain_run(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)p[i];
        if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) {
            break;
        }
        size_t step = c < 0x80 ? 1 : shoal_utf8_step(p + i, n - i, NULL);
        if (step == 0) {
            break;
        }
        i += step;
    }
    return i;
}

static shoal_status put_escape(shoal_buf *buf, unsigned char c)
{
    switch (c) {
    case '"':
        return shoal_buf_append(buf, "\\\"", 2);
    case '\\':
        return shoal_buf_append(buf, "\\\\", 2);
    case '\n':
        return shoal_buf_append(buf, "\\n", 2);
    case '\r':
        return shoal_buf_append(buf, "\\r", 2);
    case '\t':
        return shoal_buf_append(buf, "\\t", 2);
    default:
        if (c < 0x80) {
            return shoal_buf_appendf(buf, "\\u%04x", c);
        }
        return shoal_buf_append(buf, "\xEF\xBF\xBD", 3);
    }
}

shoal_status shoal_json_put_string(shoal_buf *buf, const char *text, size_t n)
{
    SHOAL_TRY(shoal_buf_append(buf, "\"", 1));
    for (size_t i = 0; i < n;) {
        size_t run = plain_run(text + i, n - i);
        if (run > 0) {
            SHOAL_TRY(shoal_buf_append(buf, text + i, run));
            i += run;
        } else {
            SHOAL_TRY(put_escape(buf, (unsigned char)text[i]));
            i++;
        }
    }
    return shoal_buf_append(buf, "\"", 1);
}

shoal_status shoal_json_put_text(shoal_buf *buf, const char *text)
{
    return text ? shoal_json_put_string(buf, text, strlen(text)) : shoal_buf_append(buf, "null", 4);
}

shoal_status shoal_json_put_real(shoal_buf *buf, double value, int digits)
{
    if (!isfinite(value)) {
        return shoal_buf_append(buf, "null", 4);
    }
    return shoal_buf_appendf(buf, "%.*g", digits, value);
}
