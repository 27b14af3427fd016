/* SPDX-License-Identifier: Apache-2.0
 *
 * An HTTP/1.1 response parser that is pushed bytes (RFC 9112). Strict where leniency lets two
 * readers see two messages: lines end in CRLF, no folding, one framing, plain decimal lengths.
 */
#include "edge/client/client_internal.h"

#include <string.h>
#include <strings.h>

void shoal_client_http_init(shoal_client_http *http, shoal_client_error *error)
{
    memset(http, 0, sizeof *http);
    http->state = SHOAL_CLIENT_HTTP_STATUS;
    http->error = error;
    http->retry_after_s = -1;
}

static int bad(shoal_client_http *http, const char *what)
{
    return shoal_client_fail(http->error, SHOAL_CLIENT_E_PROTOCOL,
                             "the answer is not proper HTTP/1.1: %s", what);
}

/* Only digits, at most 18 of them. */
static bool parse_decimal(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 18) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *ret_value = value;
    return true;
}

static int take_status_line(shoal_client_http *http)
{
    const char *line = http->line;
    /* "HTTP/1.1 200 OK"; the reason, with its space, may be missing. */
    if (http->n_line < 12 || memcmp(line, "HTTP/1.", 7) != 0 ||
        (line[7] != '0' && line[7] != '1') || line[8] != ' ' ||
        (http->n_line > 12 && line[12] != ' ')) {
        return bad(http, "its first line is not a status line; is this the edge's address?");
    }
    int status = 0;
    for (size_t i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9') {
            return bad(http, "its status is not a number");
        }
        status = status * 10 + (line[i] - '0');
    }
    if (status < 100 || status > 599 || status == 101) {
        return bad(http, "its status is out of range");
    }
    http->status = status;
    http->state = SHOAL_CLIENT_HTTP_HEADER;
    return SHOAL_CLIENT_OK;
}

static int take_length(shoal_client_http *http, const char *value)
{
    uint64_t length = 0;
    if (!parse_decimal(value, &length)) {
        return bad(http, "Content-Length is not a number");
    }
    if (http->has_length && http->left != length) {
        return bad(http, "two different Content-Length");
    }
    http->has_length = true;
    http->left = length;
    return SHOAL_CLIENT_OK;
}

static void take_content_type(shoal_client_http *http, const char *value)
{
    size_t n = strcspn(value, "; \t");
    n = n < sizeof http->content_type ? n : sizeof http->content_type - 1;
    for (size_t i = 0; i < n; i++) {
        char c = value[i];
        http->content_type[i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    http->content_type[n] = '\0';
}

/* True when line is a name of token characters and a colon; the value, trimmed, is then at
 * *ret_value and the name is cut off at the colon. */
static bool split_header(shoal_client_http *http, char **ret_value)
{
    char *line = http->line;
    char *colon = strchr(line, ':');
    if (!colon || colon == line) {
        return false;
    }
    for (const char *p = line; p < colon; p++) {
        bool letter = ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z') || (*p >= '0' && *p <= '9');
        if (!letter && !strchr("!#$%&'*+-.^_`|~", *p)) {
            return false;
        }
    }
    *colon = '\0';
    char *value = colon + 1;
    value += strspn(value, " \t");
    for (size_t n = strlen(value); n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t'); n--) {
        value[n - 1] = '\0';
    }
    *ret_value = value;
    return true;
}

static int take_header(shoal_client_http *http)
{
    if (++http->n_headers > SHOAL_CLIENT_HEADERS_MAX) {
        return shoal_client_fail(http->error, SHOAL_CLIENT_E_LIMIT,
                                 "the answer has more than %d headers",
                                 (int)SHOAL_CLIENT_HEADERS_MAX);
    }
    char *value = NULL;
    if (!split_header(http, &value)) {
        return bad(http, "a header line without a proper name");
    }
    const char *name = http->line;
    if (http->state == SHOAL_CLIENT_HTTP_TRAILER) {
        return SHOAL_CLIENT_OK;
    }
    if (strcasecmp(name, "content-length") == 0) {
        return take_length(http, value);
    }
    if (strcasecmp(name, "transfer-encoding") == 0) {
        if (strcasecmp(value, "chunked") != 0 || http->chunked) {
            return bad(http, "a transfer encoding other than chunked");
        }
        http->chunked = true;
    } else if (strcasecmp(name, "content-encoding") == 0 && strcasecmp(value, "identity") != 0) {
        return bad(http, "a content encoding nobody asked for");
    } else if (strcasecmp(name, "content-type") == 0) {
        take_content_type(http, value);
    } else if (strcasecmp(name, "retry-after") == 0) {
        uint64_t seconds = 0;
        if (parse_decimal(value, &seconds)) {
            http->retry_after_s = seconds < 86400 ? (int)seconds : 86400;
        }
    }
    return SHOAL_CLIENT_OK;
}

/* The empty line behind the headers: what kind of body follows? (RFC 9112, section 6.3) */
static int end_headers(shoal_client_http *http)
{
    if (http->status < 200) {
        /* An interim answer (100 Continue): the real one follows. The head's budget goes on. */
        http->state = SHOAL_CLIENT_HTTP_STATUS;
        http->chunked = false;
        http->has_length = false;
        http->left = 0;
        return SHOAL_CLIENT_OK;
    }
    if (http->chunked && http->has_length) {
        return bad(http, "both Content-Length and chunked");
    }
    if (http->status == 204 || http->status == 304) {
        http->state = SHOAL_CLIENT_HTTP_DONE;
    } else if (http->chunked) {
        http->state = SHOAL_CLIENT_HTTP_CHUNK_SIZE;
    } else if (http->has_length) {
        http->state = http->left > 0 ? SHOAL_CLIENT_HTTP_LENGTH : SHOAL_CLIENT_HTTP_DONE;
    } else {
        http->state = SHOAL_CLIENT_HTTP_TO_CLOSE;
    }
    return SHOAL_CLIENT_OK;
}

static int take_chunk_size(shoal_client_http *http)
{
    uint64_t size = 0;
    size_t n = 0;
    for (;; n++) {
        char c = http->line[n];
        uint64_t digit = 0;
        if (c >= '0' && c <= '9') {
            digit = (uint64_t)(c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (uint64_t)((c | 0x20) - 'a') + 10;
        } else {
            break;
        }
        if (n == 15) {
            return bad(http, "a chunk of absurd size");
        }
        size = size << 4 | digit;
    }
    /* Extensions may follow; they mean nothing to us. */
    size_t space = n + strspn(http->line + n, " \t");
    if (n == 0 || (http->line[space] != '\0' && http->line[space] != ';')) {
        return bad(http, "a chunk size that is not hexadecimal");
    }
    http->left = size;
    http->state = size > 0 ? SHOAL_CLIENT_HTTP_CHUNK : SHOAL_CLIENT_HTTP_TRAILER;
    return SHOAL_CLIENT_OK;
}

/* A whole line stands in http->line, without its CRLF. */
static int take_line(shoal_client_http *http)
{
    if (memchr(http->line, '\0', http->n_line)) {
        return bad(http, "a NUL byte in a line");
    }
    switch (http->state) {
    case SHOAL_CLIENT_HTTP_STATUS:
        return take_status_line(http);
    case SHOAL_CLIENT_HTTP_HEADER:
        return http->n_line == 0 ? end_headers(http) : take_header(http);
    case SHOAL_CLIENT_HTTP_TRAILER:
        if (http->n_line == 0) {
            http->state = SHOAL_CLIENT_HTTP_DONE;
            return SHOAL_CLIENT_OK;
        }
        return take_header(http);
    case SHOAL_CLIENT_HTTP_CHUNK_SIZE:
        return take_chunk_size(http);
    case SHOAL_CLIENT_HTTP_CHUNK_END:
        if (http->n_line != 0) {
            return bad(http, "a chunk that is longer than its size");
        }
        http->state = SHOAL_CLIENT_HTTP_CHUNK_SIZE;
        return SHOAL_CLIENT_OK;
    case SHOAL_CLIENT_HTTP_LENGTH:
    case SHOAL_CLIENT_HTTP_TO_CLOSE:
    case SHOAL_CLIENT_HTTP_CHUNK:
    case SHOAL_CLIENT_HTTP_DONE:
    default:
        return bad(http, "a line where none belongs");
    }
}

/* One byte of a line. The LF completes it; a CR must stand right before. */
static int push_line_byte(shoal_client_http *http, char c)
{
    bool framing =
        http->state == SHOAL_CLIENT_HTTP_CHUNK_SIZE || http->state == SHOAL_CLIENT_HTTP_CHUNK_END;
    if (!framing && ++http->n_head > SHOAL_CLIENT_HEAD_MAX) {
        return shoal_client_fail(http->error, SHOAL_CLIENT_E_LIMIT,
                                 "the answer's headers are longer than %u bytes",
                                 SHOAL_CLIENT_HEAD_MAX);
    }
    bool after_cr = http->n_line > 0 && http->line[http->n_line - 1] == '\r';
    if (c == '\n') {
        if (!after_cr) {
            return bad(http, "a line that ends without CR");
        }
        http->line[--http->n_line] = '\0';
        int code = take_line(http);
        http->n_line = 0;
        return code;
    }
    if (after_cr) {
        return bad(http, "a CR inside a line");
    }
    if (http->n_line == sizeof http->line - 1) {
        return shoal_client_fail(http->error, SHOAL_CLIENT_E_LIMIT,
                                 "the answer has a header line longer than %d bytes",
                                 (int)SHOAL_CLIENT_LINE_MAX);
    }
    http->line[http->n_line++] = c;
    return SHOAL_CLIENT_OK;
}

/* Hands on body bytes that are here; *ret_used says how many. */
static int push_body(shoal_client_http *http, const char *data, size_t n, size_t *ret_used)
{
    size_t used = n;
    if (http->state != SHOAL_CLIENT_HTTP_TO_CLOSE) {
        used = http->left < n ? (size_t)http->left : n;
        http->left -= used;
        if (http->left == 0) {
            http->state = http->state == SHOAL_CLIENT_HTTP_CHUNK ? SHOAL_CLIENT_HTTP_CHUNK_END
                                                                 : SHOAL_CLIENT_HTTP_DONE;
        }
    }
    *ret_used = used;
    return http->on_body ? http->on_body(http->ctx, data, used) : SHOAL_CLIENT_OK;
}

int shoal_client_http_push(shoal_client_http *http, const char *data, size_t n)
{
    for (size_t i = 0; i < n && http->state != SHOAL_CLIENT_HTTP_DONE;) {
        if (http->state == SHOAL_CLIENT_HTTP_LENGTH || http->state == SHOAL_CLIENT_HTTP_TO_CLOSE ||
            http->state == SHOAL_CLIENT_HTTP_CHUNK) {
            size_t used = 0;
            SHOAL_CLIENT_TRY(push_body(http, data + i, n - i, &used));
            i += used;
        } else {
            SHOAL_CLIENT_TRY(push_line_byte(http, data[i]));
            i++;
        }
    }
    return SHOAL_CLIENT_OK;
}

int shoal_client_http_eof(shoal_client_http *http)
{
    if (http->state == SHOAL_CLIENT_HTTP_TO_CLOSE) {
        http->state = SHOAL_CLIENT_HTTP_DONE;
    }
    if (http->state == SHOAL_CLIENT_HTTP_DONE) {
        return SHOAL_CLIENT_OK;
    }
    bool nothing = http->state == SHOAL_CLIENT_HTTP_STATUS && http->n_head == 0;
    return shoal_client_fail(http->error, SHOAL_CLIENT_E_IO,
                             nothing ? "the edge closed the connection without an answer"
                                     : "the connection broke in the middle of the answer");
}
