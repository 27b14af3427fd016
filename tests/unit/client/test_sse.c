/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "edge/client/client_internal.h"

/* Every event's data, each followed by a bar. */
typedef struct sink {
    char text[256];
    size_t n_last;
    int answer;
} sink;

static int keep(void *ctx, char *data, size_t n)
{
    sink *s = ctx;
    assert_int_equal(data[n], '\0');
    s->n_last = n;
    strncat(s->text, data, sizeof s->text - strlen(s->text) - 1);
    strncat(s->text, "|", sizeof s->text - strlen(s->text) - 1);
    return s->answer;
}

static int parse(const char *bytes, size_t n, size_t piece, sink *s)
{
    shoal_client_sse sse;
    shoal_client_sse_init(&sse);
    sse.on_data = keep;
    sse.ctx = s;
    int code = SHOAL_CLIENT_OK;
    for (size_t i = 0; i < n && code == SHOAL_CLIENT_OK; i += piece) {
        code = shoal_client_sse_push(&sse, bytes + i, n - i < piece ? n - i : piece);
    }
    shoal_client_sse_fini(&sse);
    return code;
}

static void test_sse_events_in_pieces_of_any_size(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        const char *wanted;
    } cases[] = {
        {"data: one\n\ndata: two\r\n\r\ndata: three\r\r", "one|two|three|"},
        {"\xEF\xBB\xBF"
         "data:a\ndata: b\ndata:  c\n\n",
         "a\nb\n c|"},
        {": comment\nevent: x\nid: 3\nretry: 5\n\ndata\n\n", "|"},
        {"data: x\ndatax: y\nxdata: z\nDATA: w\n\n", "x|"},
        {"\n\n\r\n\r\rdata: late\n\n\n\n", "late|"},
        {"data: never ended", ""},
        {"data: ended only once\n", ""},
        {"data: {\"a\": \"b: c\"}\n\n", "{\"a\": \"b: c\"}|"},
        {"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", "a\nb|c|"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t piece = 1; piece < 30; piece++) {
            sink s = {.answer = SHOAL_CLIENT_OK};
            assert_int_equal(parse(cases[i].bytes, strlen(cases[i].bytes), piece, &s),
                             SHOAL_CLIENT_OK);
            assert_string_equal(s.text, cases[i].wanted);
        }
    }
}

static void test_sse_handler_stops_the_stream(void **state)
{
    (void)state;
    sink s = {.answer = SHOAL_CLIENT_E_CANCELLED};
    const char bytes[] = "data: one\n\ndata: two\n\n";
    assert_int_equal(parse(bytes, strlen(bytes), 100, &s), SHOAL_CLIENT_E_CANCELLED);
    assert_string_equal(s.text, "one|");
}

static void test_sse_event_size_at_its_limit(void **state)
{
    (void)state;
    /* "data:" counts towards the line; over several lines only the data counts. */
    for (size_t extra = 0; extra < 3; extra++) {
        size_t n_line = SHOAL_CLIENT_EVENT_MAX - 1 + extra;
        char *bytes = malloc(n_line + 2);
        assert_non_null(bytes);
        memset(bytes, 'x', n_line);
        memcpy(bytes, "data:", 5);
        memcpy(bytes + n_line, "\n\n", 2);
        sink s = {.answer = SHOAL_CLIENT_OK};
        int code = parse(bytes, n_line + 2, 65536, &s);
        assert_int_equal(code, extra < 2 ? SHOAL_CLIENT_OK : SHOAL_CLIENT_E_LIMIT);
        free(bytes);
    }
    for (size_t extra = 0; extra < 3; extra++) {
        /* Two lines of data and the LF between them. */
        size_t half = SHOAL_CLIENT_EVENT_MAX / 2;
        size_t second = half - 2 + extra;
        size_t n = 5 + half + 1 + 5 + second + 2;
        char *bytes = malloc(n);
        assert_non_null(bytes);
        memset(bytes, 'x', n);
        memcpy(bytes, "data:", 5);
        memcpy(bytes + 5 + half, "\ndata:", 6);
        memcpy(bytes + n - 2, "\n\n", 2);
        sink s = {.answer = SHOAL_CLIENT_OK};
        int code = parse(bytes, n, 65536, &s);
        assert_int_equal(code, extra < 2 ? SHOAL_CLIENT_OK : SHOAL_CLIENT_E_LIMIT);
        if (extra < 2) {
            assert_int_equal(s.n_last, SHOAL_CLIENT_EVENT_MAX - 1 + extra);
        }
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sse_events_in_pieces_of_any_size),
        cmocka_unit_test(test_sse_handler_stops_the_stream),
        cmocka_unit_test(test_sse_event_size_at_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
