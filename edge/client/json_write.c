/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/client/client_internal.h"

#include <stdio.h>

/* Length of the UTF-8 sequence at s (n bytes left), 0 when it is not one (RFC 3629, section 4). */
static size_t sequence_length(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80) {
        return 1;
    }
    size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || length > n) {
        return 0;
    }
    /* The second byte's range excludes overlong forms, surrogates and what is past U+10FFFF. */
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length;
}

bool shoal_client_utf8_ok(const char *s, size_t n)
{
    const unsigned char *bytes = (const unsigned char *)s;
    for (size_t i = 0; i < n;) {
        size_t length = sequence_length(bytes + i, n - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

static int put_escaped(shoal_client_buf *buf, char c)
{
    char text[8];
    int n = 0;
    switch (c) {
    case '"':
    case '\\':
        n = snprintf(text, sizeof text, "\\%c", c);
        break;
    case '\n':
        n = snprintf(text, sizeof text, "\\n");
        break;
    case '\r':
        n = snprintf(text, sizeof text, "\\r");
        break;
    case '\t':
        n = snprintf(text, sizeof text, "\\t");
        break;
    default:
        n = snprintf(text, sizeof text, "\\u%04x", (unsigned)(unsigned char)c);
        break;
    }
    return shoal_client_buf_append(buf, text, (size_t)n);
}

int shoal_client_json_put_string(shoal_client_buf *buf, const char *text, size_t n)
{
    if (!shoal_client_utf8_ok(text, n)) {
        return SHOAL_CLIENT_E_INVALID;
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_append(buf, "\"", 1));
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\' || c == 0x7F) {
            SHOAL_CLIENT_TRY(shoal_client_buf_append(buf, text + from, i - from));
            SHOAL_CLIENT_TRY(put_escaped(buf, text[i]));
            from = i + 1;
        }
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_append(buf, text + from, n - from));
    return shoal_client_buf_append(buf, "\"", 1);
}

int shoal_client_json_put_double(shoal_client_buf *buf, double x)
{
    /* NaN and infinities have no JSON form. */
    if (!(x - x == 0.0)) {
        return shoal_client_buf_append(buf, "null", 4);
    }
    char text[40];
    int n = snprintf(text, sizeof text, "%.9g", x);
    /* The application's locale may write a comma, or any other character, for the point. */
    for (int i = 0; i < n; i++) {
        char c = text[i];
        bool plain = (c >= '0' && c <= '9') || c == '-' || c == '+' || c == 'e';
        text[i] = plain ? c : '.';
    }
    return shoal_client_buf_append(buf, text, (size_t)n);
}

int shoal_client_json_put_int(shoal_client_buf *buf, int64_t x)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)x);
    return shoal_client_buf_append(buf, text, (size_t)n);
}
