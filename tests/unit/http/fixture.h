/* SPDX-License-Identifier: Apache-2.0
 *
 * A server on its own thread and a client that says exactly the bytes it is told to.
 */
#ifndef SHOAL_TESTS_HTTP_FIXTURE_H
#define SHOAL_TESTS_HTTP_FIXTURE_H

#include "common/base/buf.h"
#include "common/base/thread.h"
#include "protocol/http/server.h"

typedef struct http_fixture {
    shoal_loop *loop;
    shoal_http_server *server;
    shoal_metrics *metrics;
    shoal_wake *stop;
    shoal_thread *thread;
    int port;
} http_fixture;

/* Settings on a free port of loopback, short timers. */
shoal_http_settings http_fixture_settings(void);
void http_fixture_loop(http_fixture *f); /* the loop alone, for handlers that need it */
void http_fixture_start(http_fixture *f, const shoal_http_settings *settings,
                        const shoal_http_handler *handler);
void http_fixture_stop_loop(http_fixture *f); /* the thread is gone, everything else is there */
void http_fixture_resume_loop(http_fixture *f);
void http_fixture_free(http_fixture *f); /* loop and server; stops first if needed */

int http_connect(const http_fixture *f);
void http_send(int fd, const char *text);
void http_send_bytes(int fd, const void *data, size_t n);
/* Appends what comes until the peer closes; fails the test after ms. */
void http_read_all(int fd, shoal_buf *buf, int ms);
/* Until buf holds text `times` times; false when the peer closes before. */
bool http_read_until(int fd, shoal_buf *buf, const char *text, size_t times, int ms);
/* Sends request, reads to the end of the connection, gives the status code. */
int http_ask(const http_fixture *f, const char *request, shoal_buf *answer);
/* The number after "HTTP/1.1 " at the start of text. */
int http_status(const char *text);
size_t http_count(const char *text, const char *part);
uint64_t http_now_ms(void);

#endif
