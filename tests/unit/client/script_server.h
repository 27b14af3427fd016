/* SPDX-License-Identifier: Apache-2.0
 *
 * A server that says what a test told it to: one scripted answer per connection, in pieces of any
 * size, over TCP or a unix socket. Runs on its own thread; the script is fixed at start.
 */
#ifndef SHOAL_TESTS_CLIENT_SCRIPT_SERVER_H
#define SHOAL_TESTS_CLIENT_SCRIPT_SERVER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct script_answer {
    const char *bytes; /* sent as they are */
    size_t n_bytes;    /* 0: strlen(bytes) */
    size_t piece;      /* bytes per send, 0: all at once */
    bool hang;         /* afterwards keep the connection open until the client closes it */
    bool deaf;         /* answer without reading the request's body */
    bool early;        /* answer to the first bytes, whatever they are */
    bool reset;        /* end with a TCP reset instead of a close */
} script_answer;

typedef struct script_server script_server;

/* unix_path NULL: TCP on a free port of 127.0.0.1. Asserts on failure. */
script_server *script_server_start(const char *unix_path, const script_answer *answers, size_t n);
/* "http://127.0.0.1:port" or "unix:path". */
const char *script_server_url(const script_server *server);
/* Answers that were not asked for are not waited for: call before join when a test cannot know how
 * many connections there will be. */
void script_server_stop(script_server *server);
/* Waits until every answer was given and its connection closed, then ends the thread. */
void script_server_join(script_server *server);
/* What the i-th connection's client sent, after join. */
const char *script_server_request(const script_server *server, size_t i);
void script_server_free(script_server *server);

#endif
