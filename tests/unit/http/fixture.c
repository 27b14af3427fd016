/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/clock.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

uint64_t http_now_ms(void)
{
    shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

shoal_http_settings http_fixture_settings(void)
{
    shoal_http_settings s = shoal_http_settings_default();
    s.address = "127.0.0.1:0";
    s.header_ms = 2000;
    s.body_ms = 2000;
    s.idle_ms = 2000;
    s.stall_ms = 1000;
    s.linger_ms = 300;
    return s;
}

static void stop_loop(void *ctx)
{
    shoal_loop_stop(ctx);
}

static void run_loop(void *ctx)
{
    shoal_loop_run(ctx);
}

void http_fixture_loop(http_fixture *f)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_loop_new(&f->loop, &err), SHOAL_OK);
    assert_int_equal(shoal_wake_new(f->loop, stop_loop, f->loop, &f->stop), SHOAL_OK);
}

void http_fixture_start(http_fixture *f, const shoal_http_settings *settings,
                        const shoal_http_handler *handler)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (!f->loop) {
        http_fixture_loop(f);
    }
    if (!f->metrics) {
        assert_int_equal(shoal_metrics_new(&f->metrics), SHOAL_OK);
    }
    shoal_status status =
        shoal_http_server_new(f->loop, settings, handler, f->metrics, &f->server, &err);
    if (status != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    f->port = shoal_http_server_port(f->server);
    http_fixture_resume_loop(f);
}

void http_fixture_resume_loop(http_fixture *f)
{
    assert_int_equal(
        shoal_thread_start(SHOAL_ROLE_LOOP, "test-loop", run_loop, f->loop, &f->thread), SHOAL_OK);
}

void http_fixture_stop_loop(http_fixture *f)
{
    if (f->thread) {
        shoal_wake_send(f->stop);
        shoal_thread_join(f->thread);
        f->thread = NULL;
    }
}

void http_fixture_free(http_fixture *f)
{
    http_fixture_stop_loop(f);
    shoal_http_server_free(f->server);
    shoal_wake_free(f->stop);
    shoal_loop_free(f->loop);
    shoal_metrics_free(f->metrics);
    *f = (http_fixture){0};
}

int http_connect(const http_fixture *f)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)f->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

void http_send_bytes(int fd, const void *data, size_t n)
{
    const char *p = data;
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent <= 0) {
            return; /* the server may have refused and closed already */
        }
        p += sent;
        n -= (size_t)sent;
    }
}

void http_send(int fd, const char *text)
{
    http_send_bytes(fd, text, strlen(text));
}

/* 1: bytes came, 0: closed. */
static int read_some(int fd, shoal_buf *buf, uint64_t until_ms)
{
    uint64_t now = http_now_ms();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int rc = poll(&p, 1, now < until_ms ? (int)(until_ms - now) : 0);
    if (rc <= 0) {
        fail_msg("nothing came in time after %zu bytes: %.200s", buf->length,
                 buf->data ? buf->data : "");
    }
    char chunk[8192];
    ssize_t n = recv(fd, chunk, sizeof chunk, 0);
    if (n <= 0) {
        return 0;
    }
    assert_int_equal(shoal_buf_append(buf, chunk, (size_t)n), SHOAL_OK);
    return 1;
}

void http_read_all(int fd, shoal_buf *buf, int ms)
{
    uint64_t until = http_now_ms() + (uint64_t)ms;
    while (read_some(fd, buf, until)) {
    }
    if (!buf->data) {
        assert_int_equal(shoal_buf_append(buf, "", 0), SHOAL_OK);
    }
}

size_t http_count(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *p = text; p && (p = strstr(p, part)) != NULL; p += strlen(part)) {
        n++;
    }
    return n;
}

bool http_read_until(int fd, shoal_buf *buf, const char *text, size_t times, int ms)
{
    uint64_t until = http_now_ms() + (uint64_t)ms;
    while (http_count(buf->data, text) < times) {
        if (!read_some(fd, buf, until)) {
            return false;
        }
    }
    return true;
}

int http_status(const char *text)
{
    if (!text || strncmp(text, "HTTP/1.1 ", 9) != 0) {
        return 0;
    }
    return (int)strtol(text + 9, NULL, 10);
}

int http_ask(const http_fixture *f, const char *request, shoal_buf *answer)
{
    int fd = http_connect(f);
    shoal_buf_reset(answer);
    http_send(fd, request);
    http_read_all(fd, answer, 10000);
    (void)close(fd);
    return http_status(answer->data);
}
