/* SPDX-License-Identifier: Apache-2.0
 *
 * Server-sent events however the bytes are cut, and bytes that are none.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/upstream/sse.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct heard {
    char text[4096]; /* each event as "[data]" or "![data]" */
    size_t n_events;
    size_t stop_at; /* the event that is refused, 0: none */
} heard;

static shoal_status on_event(void *ctx, const char *data, size_t n, bool is_error)
{
    heard *h = ctx;
    size_t at = strlen(h->text);
    assert_int_equal(data[n], '\0');
    (void)snprintf(h->text + at, sizeof(h->text) - at, "%s[%.*s]", is_error ? "!" : "", (int)n,
                   data);
    h->n_events++;
    return h->n_events == h->stop_at ? SHOAL_E_PROTOCOL : SHOAL_OK;
}

/* Whole, byte by byte, and in every cut into two pieces. */
static void expect(const char *bytes, const char *wanted)
{
    size_t n = strlen(bytes);
    for (size_t cut = 0; cut <= n + 1; cut++) {
        shoal_sse sse;
        heard h = {.text = ""};
        shoal_sse_init(&sse);
        if (cut == n + 1) {
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(shoal_sse_push(&sse, bytes + i, 1, on_event, &h), SHOAL_OK);
            }
        } else {
            assert_int_equal(shoal_sse_push(&sse, bytes, cut, on_event, &h), SHOAL_OK);
            assert_int_equal(shoal_sse_push(&sse, bytes + cut, n - cut, on_event, &h), SHOAL_OK);
        }
        assert_string_equal(h.text, wanted);
        shoal_sse_fini(&sse);
    }
}

static void test_events_in_any_pieces_are_the_same(void **state)
{
    (void)state;
    expect("data: one\n\ndata:two\n\n", "[one][two]");
    expect("data: a\r\n\r\ndata: b\r\rdata: c\n\n", "[a][b][c]");
    expect("data: first\ndata: second\n\n", "[first\nsecond]");
    expect("data\n\n", "[]");
    expect("data:\n\n", "[]");
    expect("data:  two spaces\n\n", "[ two spaces]");
}

static void test_other_fields_and_comments_are_passed_over(void **state)
{
    (void)state;
    expect(": keep-alive\n\n\n\nid: 7\nretry: 10\n\ndata: x\n\n", "[x]");
    expect("event: error\ndata: bad\n\ndata: good\n\n", "![bad][good]");
    expect("event: errors\ndata: x\n\n", "[x]");
    expect("event: error\n\ndata: x\n\n", "[x]");
    expect("dat: x\ndatax: y\ndata : z\n\n", "");
    expect("\x01\x02\xff\xfe\n\ndata: x\n\n", "[x]");
}

static void test_event_without_its_end_is_not_told(void **state)
{
    (void)state;
    expect("data: one\n\ndata: half", "[one]");
    expect("data: one\n\ndata: half\n", "[one]");
}

static void test_refused_event_ends_the_push(void **state)
{
    (void)state;
    shoal_sse sse;
    heard h = {.text = "", .stop_at = 2};
    const char bytes[] = "data: 1\n\ndata: 2\n\ndata: 3\n\n";
    shoal_sse_init(&sse);
    assert_int_equal(shoal_sse_push(&sse, bytes, strlen(bytes), on_event, &h), SHOAL_E_PROTOCOL);
    assert_int_equal(h.n_events, 2);
    shoal_sse_fini(&sse);
}

/* n bytes of data in lines of n_line. */
static shoal_status push_long(size_t n, size_t n_line)
{
    static char piece[1 << 16];
    shoal_sse sse;
    heard h = {.text = ""};
    shoal_sse_init(&sse);
    memset(piece, 'x', sizeof(piece));
    shoal_status status = SHOAL_OK;
    while (n > 0 && status == SHOAL_OK) {
        size_t left = SHOAL_MIN(n, n_line);
        n -= left;
        status = shoal_sse_push(&sse, "data:", 5, on_event, &h);
        while (left > 0 && status == SHOAL_OK) {
            size_t k = SHOAL_MIN(left, sizeof(piece));
            status = shoal_sse_push(&sse, piece, k, on_event, &h);
            left -= k;
        }
        if (status == SHOAL_OK) {
            status = shoal_sse_push(&sse, "\n", 1, on_event, &h);
        }
    }
    shoal_sse_fini(&sse);
    return status;
}

static void test_lines_and_events_have_a_limit(void **state)
{
    (void)state;
    assert_int_equal(push_long(SHOAL_SSE_EVENT_MAX - 5, SIZE_MAX), SHOAL_OK);
    assert_int_equal(push_long(SHOAL_SSE_EVENT_MAX - 4, SIZE_MAX), SHOAL_E_LIMIT);
    /* Sixteen lines are joined by fifteen LF. */
    size_t line = SHOAL_SSE_EVENT_MAX / 16;
    assert_int_equal(push_long(16 * line - 15, line), SHOAL_OK);
    assert_int_equal(push_long(16 * line - 14, line), SHOAL_E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_in_any_pieces_are_the_same),
        cmocka_unit_test(test_other_fields_and_comments_are_passed_over),
        cmocka_unit_test(test_event_without_its_end_is_not_told),
        cmocka_unit_test(test_refused_event_ends_the_push),
        cmocka_unit_test(test_lines_and_events_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
