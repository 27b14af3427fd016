/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams whose connection breaks: what follows the last event comes again, once, for a while and
 * within a bound; who leaves for good is cancelled in the end.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "edge/http/api_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 64
};

typedef struct event {
    char id[64];
    char data[600]; /* cut to fit */
} event;

typedef struct stream {
    event events[EVENTS_MAX];
    size_t n;
} stream;

static void pause_1ms(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void wait_for(atomic_size_t *counter, size_t value)
{
    uint64_t until = http_now_ms() + 30000;
    while (atomic_load(counter) < value) {
        assert_true(http_now_ms() < until);
        pause_1ms();
    }
}

/* Whole events of a chunked answer; each has an id. Lines of chunk sizes stand between them. */
static void read_events(const char *text, stream *s)
{
    *s = (stream){0};
    while ((text = strstr(text, "id: "))) {
        event *e = &s->events[s->n];
        const char *end = strstr(text, "\n\n");
        const char *data = strstr(text, "data: ");
        if (!end) {
            return;
        }
        assert_true(data && data < end && s->n < EVENTS_MAX);
        (void)snprintf(e->id, sizeof e->id, "%.*s", (int)strcspn(text + 4, "\n"), text + 4);
        (void)snprintf(e->data, sizeof e->data, "%.*s", (int)(end - data), data);
        s->n++;
        text = end;
    }
}

static int open_chat(api_fixture *a, const char *more)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    assert_int_equal(
        shoal_buf_appendf(&body,
                          "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
                          "\"stream\":true,\"stream_options\":{\"include_usage\":true}%s}",
                          more),
        SHOAL_OK);
    assert_int_equal(shoal_buf_appendf(&q,
                                       "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                                       "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
                                       body.length, body.data),
                     SHOAL_OK);
    int fd = http_connect(&a->f);
    http_send(fd, q.data);
    return fd;
}

static int ask_again(api_fixture *a, const char *method, const char *id, shoal_buf *answer)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    assert_int_equal(shoal_buf_appendf(&q,
                                       "%s /v1/shoal/streams/%.*s HTTP/1.1\r\nHost: localhost\r\n"
                                       "Last-Event-ID: %s\r\nConnection: close\r\n\r\n",
                                       method, (int)strcspn(id, ":"), id, id),
                     SHOAL_OK);
    return http_ask(&a->f, q.data, answer);
}

static shoal_api_settings settings(void)
{
    shoal_api_settings s = api_test_settings();
    s.cancel_on_gone = false;
    s.replay_ms = 600000; /* no test lasts so long */
    return s;
}

static void start(api_fixture *a, const shoal_api_settings *s)
{
    shoal_http_settings h = http_fixture_settings();
    api_start_with(a, s, &h);
}

/* A client that has n events, or a few more, and leaves; s gets them. */
static void open_and_leave(api_fixture *a, const char *more, size_t n, stream *s)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    int fd = open_chat(a, more);
    assert_true(http_read_until(fd, &r, "\n\n", n, 5000));
    (void)close(fd);
    read_events(r.data, s);
}

static void test_streams_go_on_behind_every_event(void **state)
{
    (void)state;
    static stream whole;
    static stream part;
    api_fixture a;
    shoal_api_settings s = settings();
    start(&a, &s);
    fake_next.n_tokens = 6;
    fake_next.unassisted = SHOAL_UNASSISTED_AWAY;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    int fd = open_chat(&a, "");
    http_read_all(fd, &r, 5000);
    (void)close(fd);
    read_events(r.data, &whole);
    assert_int_equal(whole.n, 1 + 6 + 1 + 1 + 1); /* role, tokens, finish, usage, [DONE] */
    assert_non_null(strstr(whole.events[6].data, "\"unassisted\":\"away\""));
    assert_string_equal(whole.events[9].data, "data: [DONE]");
    for (size_t i = 0; i < whole.n; i++) {
        shoal_buf_reset(&r);
        assert_int_equal(ask_again(&a, "GET", whole.events[i].id, &r), 200);
        read_events(r.data, &part);
        assert_int_equal(part.n, whole.n - i - 1);
        for (size_t k = 0; k < part.n; k++) {
            assert_string_equal(part.events[k].id, whole.events[i + 1 + k].id);
            assert_string_equal(part.events[k].data, whole.events[i + 1 + k].data);
        }
    }
    /* The same by the path that streams are made at, as event sources do it. */
    shoal_buf_reset(&r);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    assert_int_equal(shoal_buf_appendf(&q,
                                       "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                                       "Last-Event-ID: %s\r\nConnection: close\r\n"
                                       "Content-Length: 2\r\n\r\n{}",
                                       whole.events[6].id),
                     SHOAL_OK);
    assert_int_equal(http_ask(&a.f, q.data, &r), 200);
    read_events(r.data, &part);
    assert_int_equal(part.n, 3);
    assert_int_equal(atomic_load(&fake_n_submitted), 1);
    /* What never was. */
    assert_int_equal(ask_again(&a, "GET", "000000000000000000000000:1", &r), 404);
    assert_int_equal(ask_again(&a, "GET", "x", &r), 404);
    char late[96];
    (void)snprintf(late, sizeof late, "%.24s:11", whole.events[0].id);
    assert_int_equal(ask_again(&a, "GET", late, &r), 400);
    api_stop(&a);
}

static void test_stream_goes_on_while_its_client_is_away(void **state)
{
    (void)state;
    static stream before;
    static stream after;
    api_fixture a;
    shoal_api_settings s = settings();
    start(&a, &s);
    fake_next.n_tokens = 30;
    fake_next.pause_us = 2000;
    for (size_t n_read = 1; n_read <= 12; n_read++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf rest = {0};
        open_and_leave(&a, "", n_read, &before);
        assert_true(before.n >= n_read);
        assert_int_equal(ask_again(&a, "GET", before.events[before.n - 1].id, &rest), 200);
        read_events(rest.data, &after);
        assert_int_equal(before.n + after.n, 1 + 30 + 3);
        char next[96];
        (void)snprintf(next, sizeof next, "%.24s:%zu", before.events[0].id, before.n);
        assert_string_equal(after.events[0].id, next);
    }
    assert_int_equal(atomic_load(&fake_n_cancelled), 0);
    api_stop(&a);
}

static void test_streams_that_nobody_wants_end(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = settings();
    s.replay_ms = 50;
    start(&a, &s);
    fake_next.n_tokens = 900;
    fake_next.pause_us = 2000;
    static const char longer[] = ",\"max_tokens\":900";
    static const char cancelled[] = ",\"max_tokens\":900,\"shoal\":{\"on_disconnect\":\"cancel\"}";
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    static stream seen;
    /* Nobody comes back. */
    open_and_leave(&a, longer, 2, &seen);
    wait_for(&fake_n_cancelled, 1);
    assert_int_equal(ask_again(&a, "GET", seen.events[0].id, &r), 404);
    assert_non_null(strstr(r.data, "api.replay_ms"));
    api_stop(&a);
    /* Asked to end at once: no waiting. */
    s = settings();
    start(&a, &s);
    fake_next.n_tokens = 900;
    fake_next.pause_us = 20000;
    size_t n_cancelled = atomic_load(&fake_n_cancelled);
    open_and_leave(&a, cancelled, 2, &seen);
    wait_for(&fake_n_cancelled, n_cancelled + 1);
    /* Told to. */
    shoal_buf_reset(&r);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf said = {0};
    int fd = open_chat(&a, longer);
    assert_true(http_read_until(fd, &r, "\n\n", 2, 5000));
    read_events(r.data, &seen);
    assert_int_equal(ask_again(&a, "DELETE", seen.events[0].id, &said), 200);
    http_read_all(fd, &r, 5000);
    assert_non_null(strstr(r.data, "\"cancelled\""));
    assert_null(strstr(r.data, "[DONE]"));
    (void)close(fd);
    wait_for(&fake_n_cancelled, n_cancelled + 2);
    assert_int_equal(ask_again(&a, "DELETE", seen.events[0].id, &said), 404);
    api_stop(&a);
}

static void test_absent_clients_are_few_and_bounded(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = settings();
    s.replay_bytes_max = 4096;
    start(&a, &s);
    fake_next.n_tokens = 900;
    fake_next.pause_us = 2000;
    static stream seen;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    /* Its tokens outgrow the bound while its client is away. */
    open_and_leave(&a, ",\"max_tokens\":900", 2, &seen);
    wait_for(&fake_n_cancelled, 1);
    assert_int_equal(ask_again(&a, "GET", seen.events[1].id, &r), 404);
    api_stop(&a);
    s.replay_bytes_max = 8 << 20;
    static const size_t most[] = {0, 1, 4, 5, 6, 7};
    for (size_t k = 0; k < SHOAL_COUNT(most); k++) { /* of six without a client so many go on */
        s.n_detached_max = most[k];
        start(&a, &s);
        fake_next.n_tokens = 900;
        fake_next.pause_us = 20000;
        for (size_t i = 0; i < 6; i++) {
            open_and_leave(&a, ",\"max_tokens\":900", 2, &seen);
            wait_for(&fake_n_cancelled, i + 1 - SHOAL_MIN(i + 1, most[k]));
        }
        assert_int_equal(atomic_load(&fake_n_cancelled), 6 - SHOAL_MIN((size_t)6, most[k]));
        api_stop(&a);
    }
    s.n_detached_max = 4;
    start(&a, &s);
    /* A second connection takes a stream over from the first. */
    shoal_buf_reset(&r);
    fake_next.n_tokens = 40;
    fake_next.pause_us = 5000;
    int fd = open_chat(&a, ",\"max_tokens\":900");
    assert_true(http_read_until(fd, &r, "\n\n", 2, 5000));
    read_events(r.data, &seen);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf taken = {0};
    assert_int_equal(ask_again(&a, "GET", seen.events[1].id, &taken), 200);
    assert_non_null(strstr(taken.data, "[DONE]"));
    http_read_all(fd, &r, 5000);
    assert_null(strstr(r.data, "[DONE]"));
    (void)close(fd);
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_go_on_behind_every_event),
        cmocka_unit_test(test_stream_goes_on_while_its_client_is_away),
        cmocka_unit_test(test_streams_that_nobody_wants_end),
        cmocka_unit_test(test_absent_clients_are_few_and_bounded),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
