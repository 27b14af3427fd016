/* SPDX-License-Identifier: Apache-2.0
 *
 * A loop that is late: while it stands, clients send what they should, and no limit of time that
 * ends meanwhile is held against them. The loop is stopped, so that its timers are due before it
 * reads, as after a turn that took long or a process that was stopped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define HOST "Host: localhost\r\n"

enum {
    LIMIT_MS = 200,
    LONGER_MS = 300,
    WAIT_MS = 10000
};

/* A body by itself, the rest by its path. */
static void on_request(void *ctx, shoal_http_exchange *x)
{
    (void)ctx;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = shoal_http_take_body(x);
    const char *text = body.length > 0 ? body.data : shoal_http_path(x);
    shoal_http_respond(x, 200, "text/plain", NULL, text, strlen(text));
}

static void on_gone(void *ctx, shoal_http_exchange *x)
{
    (void)ctx;
    (void)x;
}

static void start(http_fixture *f)
{
    shoal_http_settings s = http_fixture_settings();
    s.header_ms = s.body_ms = s.idle_ms = LIMIT_MS;
    const shoal_http_handler handler = {.ctx = f, .on_request = on_request, .on_gone = on_gone};
    *f = (http_fixture){0};
    http_fixture_start(f, &s, &handler);
}

static void pause_ms(long ms)
{
    struct timespec pause = {.tv_nsec = ms * 1000000};
    (void)nanosleep(&pause, NULL);
}

/* The loop reads what there is, stands for longer than the limit, and in that time text comes. */
static void send_while_it_stands(http_fixture *f, int fd, const char *text)
{
    pause_ms(LIMIT_MS / 4);
    http_fixture_stop_loop(f);
    http_send(fd, text);
    pause_ms(LONGER_MS);
    http_fixture_resume_loop(f);
}

static void test_late_loop_reads_before_it_ends_a_wait(void **state)
{
    (void)state;
    static const struct {
        const char *before;
        const char *meanwhile;
        const char *answer;
    } cases[] = {
        {"GET /head HTTP/1.1\r\nHo", "st: localhost\r\nConnection: close\r\n\r\n", "/head"},
        {"POST / HTTP/1.1\r\n" HOST "Connection: close\r\nContent-Length: 4\r\n\r\nbo", "dy",
         "body"},
        {"GET /first HTTP/1.1\r\n" HOST "\r\n",
         "GET /second HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "/second"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        http_fixture f;
        start(&f);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf answer = {0};
        int fd = http_connect(&f);
        http_send(fd, cases[i].before);
        send_while_it_stands(&f, fd, cases[i].meanwhile);
        http_read_all(fd, &answer, WAIT_MS);
        assert_int_equal(http_status(answer.data), 200);
        assert_non_null(strstr(answer.data, cases[i].answer));
        assert_null(strstr(answer.data, "timeout"));
        (void)close(fd);
        http_fixture_free(&f);
    }
}

/* Whoever always has a byte under way is not waited for forever: what comes while the loop stands
 * for the second time is heard, for the third time not. */
static void test_late_loop_moves_a_deadline_twice(void **state)
{
    (void)state;
    for (int n_before = 1; n_before <= 2; n_before++) {
        http_fixture f;
        start(&f);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf answer = {0};
        int fd = http_connect(&f);
        http_send(fd, "GET /");
        for (int i = 0; i < n_before; i++) {
            send_while_it_stands(&f, fd, "a");
        }
        send_while_it_stands(&f, fd, " HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
        http_read_all(fd, &answer, WAIT_MS);
        assert_int_equal(http_status(answer.data), n_before == 1 ? 200 : 408);
        (void)close(fd);
        http_fixture_free(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_loop_reads_before_it_ends_a_wait),
        cmocka_unit_test(test_late_loop_moves_a_deadline_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
