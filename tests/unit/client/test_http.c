/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge/client/client_internal.h"

typedef struct sink {
    char text[256];
    size_t n;
} sink;

static int keep(void *ctx, const char *data, size_t n)
{
    sink *s = ctx;
    for (size_t i = 0; i < n && s->n < sizeof s->text - 1; i++) {
        s->text[s->n++] = data[i];
    }
    s->text[s->n] = '\0';
    return SHOAL_CLIENT_OK;
}

/* Pushes bytes in pieces and closes; the code of whatever ended it. */
static int parse(const char *bytes, size_t n, size_t piece, shoal_client_http *http, sink *s,
                 shoal_client_error *error)
{
    memset(s, 0, sizeof *s);
    memset(error, 0, sizeof *error);
    shoal_client_http_init(http, error);
    http->on_body = keep;
    http->ctx = s;
    for (size_t i = 0; i < n; i += piece) {
        int code = shoal_client_http_push(http, bytes + i, n - i < piece ? n - i : piece);
        if (code != SHOAL_CLIENT_OK) {
            return code;
        }
    }
    return shoal_client_http_eof(http);
}

static void test_http_answers_parse_in_pieces_of_any_size(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        int status;
        const char *body;
        const char *type;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: Text/HTML;x=y\r\n\r\nhello", 200,
         "hello", "text/html"},
        {"HTTP/1.0 404 \r\n\r\nuntil close", 404, "until close", ""},
        {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\nbehind the end", 200, "", ""},
        {"HTTP/1.1 204 No\r\ncontent-length: 9\r\n\r\n", 204, "", ""},
        {"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING:\t Chunked \r\n\r\n5;ext=\"x\"\r\nhello\r\n"
         "00A \r\n, chunked!\r\n0\r\nTrailer: ignored\r\n\r\n",
         200, "hello, chunked!", ""},
        {"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n"
         "Content-Length: 1\r\nContent-Length: 1\r\nContent-Encoding: identity\r\n\r\n!",
         200, "!", ""},
    };
    shoal_client_http *http = malloc(sizeof *http);
    assert_non_null(http);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t piece = 1; piece < 40; piece++) {
            sink s;
            shoal_client_error error;
            size_t n = strlen(cases[i].bytes);
            assert_int_equal(parse(cases[i].bytes, n, piece, http, &s, &error), SHOAL_CLIENT_OK);
            assert_int_equal(http->status, cases[i].status);
            assert_string_equal(s.text, cases[i].body);
            assert_string_equal(http->content_type, cases[i].type);
        }
    }
    free(http);
}

static void test_http_cut_anywhere_is_an_io_error(void **state)
{
    (void)state;
    const char bytes[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    shoal_client_http *http = malloc(sizeof *http);
    assert_non_null(http);
    for (size_t n = 0; n < strlen(bytes); n++) {
        sink s;
        shoal_client_error error;
        assert_int_equal(parse(bytes, n, 7, http, &s, &error), SHOAL_CLIENT_E_IO);
        assert_true(error.text[0] != '\0');
    }
    free(http);
}

static void test_http_malformed_answers_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: empty name\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSpace : x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1234567890123456789\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 x\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    };
    shoal_client_http *http = malloc(sizeof *http);
    assert_non_null(http);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t piece = 1; piece < 100; piece += 49) {
            sink s;
            shoal_client_error error;
            assert_int_equal(parse(cases[i], strlen(cases[i]), piece, http, &s, &error),
                             SHOAL_CLIENT_E_PROTOCOL);
            assert_int_equal(error.code, SHOAL_CLIENT_E_PROTOCOL);
        }
    }
    const char nul[] = "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n";
    sink s;
    shoal_client_error error;
    assert_int_equal(parse(nul, sizeof nul - 1, 5, http, &s, &error), SHOAL_CLIENT_E_PROTOCOL);
    free(http);
}

/* "HTTP/1.1 200 OK", then n headers of `width` bytes with their CRLF and one of `last` bytes
 * (0: none), then the empty line. */
static char *head_of(size_t n, size_t width, size_t last)
{
    char *text = calloc(1, 32 + n * width + last + 4);
    assert_non_null(text);
    size_t at = (size_t)snprintf(text, 32, "HTTP/1.1 200 OK\r\n");
    for (size_t i = 0; i < n + (last > 0); i++) {
        size_t bytes = i < n ? width : last;
        memset(text + at, 'x', bytes);
        text[at + 1] = ':';
        memcpy(text + at + bytes - 2, "\r\n", 2);
        at += bytes;
    }
    memcpy(text + at, "\r\n", 3);
    return text;
}

static int parse_head(size_t n, size_t width, size_t last)
{
    char *text = head_of(n, width, last);
    shoal_client_http *http = malloc(sizeof *http);
    assert_non_null(http);
    sink s;
    shoal_client_error error;
    int code = parse(text, strlen(text), 1000, http, &s, &error);
    free(http);
    free(text);
    return code;
}

static void test_http_limits_of_the_head(void **state)
{
    (void)state;
    assert_int_equal(parse_head(SHOAL_CLIENT_HEADERS_MAX - 1, 10, 0), SHOAL_CLIENT_OK);
    assert_int_equal(parse_head(SHOAL_CLIENT_HEADERS_MAX, 10, 0), SHOAL_CLIENT_OK);
    assert_int_equal(parse_head(SHOAL_CLIENT_HEADERS_MAX + 1, 10, 0), SHOAL_CLIENT_E_LIMIT);
    /* A line's buffer holds the line, its CR and a NUL: the LF never comes in. */
    assert_int_equal(parse_head(1, SHOAL_CLIENT_LINE_MAX - 1, 0), SHOAL_CLIENT_OK);
    assert_int_equal(parse_head(1, SHOAL_CLIENT_LINE_MAX, 0), SHOAL_CLIENT_OK);
    assert_int_equal(parse_head(1, SHOAL_CLIENT_LINE_MAX + 1, 0), SHOAL_CLIENT_E_LIMIT);
    /* The whole head: 17 bytes of status line, 2 of the empty line, 4 headers and a last one. */
    size_t last = SHOAL_CLIENT_HEAD_MAX - 19 - 4 * 7000;
    assert_int_equal(parse_head(4, 7000, last - 1), SHOAL_CLIENT_OK);
    assert_int_equal(parse_head(4, 7000, last), SHOAL_CLIENT_OK);
    assert_int_equal(parse_head(4, 7000, last + 1), SHOAL_CLIENT_E_LIMIT);
}

static void test_http_random_bytes_never_break_it(void **state)
{
    (void)state;
    const char *seed = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n"
                       "5\r\nhello\r\n0\r\n\r\n";
    uint64_t rng = 88172645463325252u;
    shoal_client_http *http = malloc(sizeof *http);
    assert_non_null(http);
    for (int round = 0; round < 20000; round++) {
        char bytes[128];
        size_t n = strlen(seed);
        memcpy(bytes, seed, n);
        for (int i = 0; i < 3; i++) {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            bytes[rng % n] = (char)(rng >> 32);
        }
        sink s;
        shoal_client_error error;
        int code = parse(bytes, n, 1 + (size_t)(rng >> 40) % 50, http, &s, &error);
        assert_true(code <= SHOAL_CLIENT_OK && code >= SHOAL_CLIENT_E_BUSY);
        assert_true((code == SHOAL_CLIENT_OK) == (error.code == SHOAL_CLIENT_OK));
    }
    free(http);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_answers_parse_in_pieces_of_any_size),
        cmocka_unit_test(test_http_cut_anywhere_is_an_io_error),
        cmocka_unit_test(test_http_malformed_answers_are_refused),
        cmocka_unit_test(test_http_limits_of_the_head),
        cmocka_unit_test(test_http_random_bytes_never_break_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
