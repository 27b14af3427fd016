/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/http/head.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum {
    BLANK_LINES_MAX = 2, /* RFC 9112 2.2 asks for tolerance of at least one */
    METHOD_BYTES_MAX = 32,
    HOST_BYTES_MAX = 255
};

typedef enum head_state {
    AT_START,
    AT_BLANK_LF, /* after the CR of an empty line before the request */
    IN_METHOD,
    IN_TARGET,
    IN_VERSION,
    AT_LINE_LF, /* after the CR of the request line or of a header */
    AT_HEADER,
    IN_NAME,
    IN_VALUE,
    AT_END_LF
} head_state;

typedef struct verdict {
    int status;
    const char *text;
} verdict;

static const verdict fine = {0, NULL};

static verdict refuse(int status, const char *text)
{
    return (verdict){status, text};
}

/* RFC 9110 5.6.2: the characters of a header's name. */
static bool is_token(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static verdict step_line(shoal_http_head *head, const shoal_http_head_limits *limits,
                         unsigned char c)
{
    switch (head->state) {
    case AT_START:
        if (c == '\r' && head->n_blank < BLANK_LINES_MAX) {
            head->state = AT_BLANK_LF;
            return fine;
        }
        head->state = IN_METHOD;
        return is_token(c) ? fine : refuse(400, "the request does not begin with a method");
    case AT_BLANK_LF:
        head->state = AT_START;
        head->n_blank++;
        return c == '\n' ? fine : refuse(400, "a CR stands without its LF before the request line");
    case IN_METHOD:
        if (c == ' ') {
            head->state = IN_TARGET;
            return fine;
        }
        if (head->n_bytes > METHOD_BYTES_MAX + 2 * BLANK_LINES_MAX) {
            return refuse(501, "the method is longer than any known one");
        }
        return is_token(c) ? fine : refuse(400, "the method has a character that is not allowed");
    case IN_TARGET:
        if (c == ' ') {
            head->state = IN_VERSION;
            return head->n_url > 0 ? fine : refuse(400, "the request line has no target");
        }
        if (++head->n_url > limits->url_max) {
            return refuse(414, "the request target is too long");
        }
        return c > 0x20 && c < 0x7f ? fine
                                    : refuse(400, "the target has a character that must be escaped "
                                                  "as %XX, or the version is missing");
    default: /* IN_VERSION */
        if (c == '\r') {
            head->state = AT_LINE_LF;
            return fine;
        }
        return c > 0x20 && c < 0x7f ? fine : refuse(400, "the request line does not end in CRLF");
    }
}

static verdict step_header(shoal_http_head *head, const shoal_http_head_limits *limits,
                           unsigned char c)
{
    switch (head->state) {
    case AT_LINE_LF:
        head->state = AT_HEADER;
        return c == '\n' ? fine : refuse(400, "a header line has a CR without its LF");
    case AT_HEADER:
        if (c == '\r') {
            head->state = AT_END_LF;
            return fine;
        }
        if (c == ' ' || c == '\t') {
            return refuse(400, "a header is folded over two lines, which is obsolete and refused");
        }
        if (++head->n_headers > limits->headers_max) {
            return refuse(431, "the request has too many headers");
        }
        head->state = IN_NAME;
        return is_token(c) ? fine : refuse(400, "a header line does not begin with a name");
    case IN_NAME:
        if (c == ':') {
            head->state = IN_VALUE;
            return fine;
        }
        if (c == ' ' || c == '\t') {
            return refuse(400, "a header has a space before its colon");
        }
        return is_token(c) ? fine
                           : refuse(400, "a header's name has a character that is not allowed");
    case IN_VALUE:
        if (c == '\r') {
            head->state = AT_LINE_LF;
            return fine;
        }
        if (c == '\n') {
            return refuse(400, "a header line ends in LF without CR");
        }
        return c == '\t' || (c >= 0x20 && c != 0x7f)
                   ? fine
                   : refuse(400, "a header's value has a control character");
    default: /* AT_END_LF */
        return c == '\n' ? fine : refuse(400, "the head ends in a CR without its LF");
    }
}

shoal_http_head_result shoal_http_head_push(shoal_http_head *head,
                                            const shoal_http_head_limits *limits, const char *data,
                                            size_t n, size_t *ret_used, int *ret_status,
                                            const char **ret_text)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        bool end = head->state == AT_END_LF;
        verdict v = fine;
        if (++head->n_bytes > limits->bytes_max) {
            v = refuse(431, "the request line and headers are too large");
        } else {
            v = head->state < AT_LINE_LF ? step_line(head, limits, c)
                                         : step_header(head, limits, c);
        }
        if (v.status != 0) {
            *ret_used = i;
            *ret_status = v.status;
            *ret_text = v.text;
            return SHOAL_HTTP_HEAD_REFUSED;
        }
        if (end) {
            *ret_used = i + 1;
            return SHOAL_HTTP_HEAD_DONE;
        }
    }
    *ret_used = n;
    return SHOAL_HTTP_HEAD_MORE;
}

static bool is_port(const char *p)
{
    size_t n = strspn(p, "0123456789");
    return n >= 1 && n <= 5 && p[n] == '\0';
}

/* Splits host[:port] and [address][:port]; false when it has neither form. */
static bool split_host(const char *text, char out[HOST_BYTES_MAX + 1])
{
    const char *end = NULL;
    const char *begin = text;
    if (text[0] == '[') {
        begin = text + 1;
        end = strchr(begin, ']');
        if (!end || (end[1] != '\0' && (end[1] != ':' || !is_port(end + 2)))) {
            return false;
        }
    } else {
        end = strchr(text, ':');
        if (!end) {
            end = text + strlen(text);
        } else if (!is_port(end + 1)) {
            return false;
        }
    }
    size_t n = (size_t)(end - begin);
    if (n == 0 || n > HOST_BYTES_MAX) {
        return false;
    }
    memcpy(out, begin, n);
    out[n] = '\0';
    return true;
}

static bool is_address(const char *host)
{
    unsigned char scratch[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, scratch) == 1 || inet_pton(AF_INET6, host, scratch) == 1;
}

bool shoal_http_host_ok(const char *host, const char *names, bool any_address)
{
    char name[HOST_BYTES_MAX + 1];
    if (!split_host(host, name)) {
        return false;
    }
    if (any_address && is_address(name)) {
        return true;
    }
    size_t n = strlen(name);
    for (const char *p = names; *p != '\0';) {
        size_t length = strcspn(p, ",");
        if (length == n && strncasecmp(p, name, n) == 0) {
            return true;
        }
        p += length;
        p += *p == ',';
    }
    return false;
}
