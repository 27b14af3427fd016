/* SPDX-License-Identifier: Apache-2.0 */
#include "script_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 16,
    REQUEST_MAX = 1 << 16
};

struct script_server {
    int listener;
    const script_answer *answers;
    size_t n_answers;
    pthread_t thread;
    char url[160];
    char *requests[CONNECTIONS_MAX];
};

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

/* Reads the head and as much of the body as it announces. */
static void read_request(int fd, char *request, bool deaf, bool early)
{
    size_t n = 0;
    for (;;) {
        const char *end = strstr(request, "\r\n\r\n");
        const char *length = strstr(request, "Content-Length: ");
        size_t body = length && !deaf ? strtoul(length + 16, NULL, 10) : 0;
        if (end && n >= (size_t)(end + 4 - request) + body) {
            return;
        }
        ssize_t got = recv(fd, request + n, (size_t)REQUEST_MAX - 1 - n, 0);
        if (got <= 0) {
            return;
        }
        n += (size_t)got;
        request[n] = '\0';
        if (early) {
            return;
        }
    }
}

static void serve(int fd, const script_answer *answer)
{
    size_t n = answer->n_bytes ? answer->n_bytes : strlen(answer->bytes);
    size_t piece = answer->piece ? answer->piece : n;
    for (size_t at = 0; at < n;) {
        size_t want = n - at < piece ? n - at : piece;
        ssize_t sent = send(fd, answer->bytes + at, want, MSG_NOSIGNAL);
        if (sent < 0) {
            break; /* the client has what it wanted */
        }
        at += (size_t)sent;
    }
    char rest[8192];
    while (answer->hang && recv(fd, rest, sizeof rest, 0) > 0) {
    }
    if (answer->reset) {
        const struct linger hard = {.l_onoff = 1, .l_linger = 0};
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    (void)close(fd);
}

static void *run(void *ctx)
{
    script_server *server = ctx;
    for (size_t i = 0; i < server->n_answers; i++) {
        int fd = accept(server->listener, NULL, NULL);
        if (fd < 0) {
            break; /* shut down by script_server_stop */
        }
        int one = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        read_request(fd, server->requests[i], server->answers[i].deaf, server->answers[i].early);
        serve(fd, &server->answers[i]);
    }
    return NULL;
}

script_server *script_server_start(const char *unix_path, const script_answer *answers, size_t n)
{
    script_server *server = calloc(1, sizeof *server);
    must(server && n <= CONNECTIONS_MAX, "calloc");
    server->answers = answers;
    server->n_answers = n;
    for (size_t i = 0; i < n; i++) {
        server->requests[i] = calloc(1, REQUEST_MAX);
        must(server->requests[i] != NULL, "calloc");
    }
    if (unix_path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", unix_path);
        server->listener = socket(AF_UNIX, SOCK_STREAM, 0);
        must(bind(server->listener, (const struct sockaddr *)(const void *)&address,
                  sizeof address) == 0,
             "bind");
        (void)snprintf(server->url, sizeof server->url, "unix:%s", unix_path);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof address;
        server->listener = socket(AF_INET, SOCK_STREAM, 0);
        must(bind(server->listener, (const struct sockaddr *)(const void *)&address, size) == 0,
             "bind");
        must(getsockname(server->listener, (struct sockaddr *)(void *)&address, &size) == 0,
             "getsockname");
        (void)snprintf(server->url, sizeof server->url, "http://127.0.0.1:%u",
                       (unsigned)ntohs(address.sin_port));
    }
    must(listen(server->listener, CONNECTIONS_MAX) == 0, "listen");
    must(pthread_create(&server->thread, NULL, run, server) == 0, "pthread_create");
    return server;
}

const char *script_server_url(const script_server *server)
{
    return server->url;
}

void script_server_stop(script_server *server)
{
    (void)shutdown(server->listener, SHUT_RDWR);
}

void script_server_join(script_server *server)
{
    must(pthread_join(server->thread, NULL) == 0, "pthread_join");
    (void)close(server->listener);
}

const char *script_server_request(const script_server *server, size_t i)
{
    return server->requests[i];
}

void script_server_free(script_server *server)
{
    for (size_t i = 0; i < server->n_answers; i++) {
        free(server->requests[i]);
    }
    free(server);
}
