/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets that can be left at any moment: every wait is a poll on the socket and on the client's
 * eventfd, with the nearer of two deadlines.
 */
#include "edge/client/client_internal.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* strerror_r has two signatures; this is GNU's. */
static const char *reason(int number, char text[96])
{
    return strerror_r(number, text, 96);
}

int64_t shoal_client_now_ms(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t min_ms(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int shoal_client_wait(const shoal_client_call *call, int fd, short events,
                      int64_t phase_deadline_ms, const char *phase, short *ret_events)
{
    for (;;) {
        int64_t now_ms = shoal_client_now_ms();
        int64_t until_ms = min_ms(call->deadline_ms, phase_deadline_ms);
        int64_t left_ms = until_ms == INT64_MAX ? -1 : until_ms - now_ms;
        if (until_ms != INT64_MAX && left_ms <= 0) {
            const char *what = call->deadline_ms <= phase_deadline_ms ? "the whole call" : phase;
            return shoal_client_fail(call->error, SHOAL_CLIENT_E_TIMEOUT,
                                     "%s: timed out after %lld ms (%s)", call->client->url,
                                     (long long)(now_ms - call->started_ms), what);
        }
        struct pollfd fds[2] = {{.fd = call->client->cancel_fd, .events = POLLIN},
                                {.fd = fd, .events = events}};
        int n = poll(fds, 2, (int)min_ms(left_ms, 3600000));
        if (n < 0 && errno != EINTR) {
            char text[96];
            return shoal_client_fail(call->error, SHOAL_CLIENT_E_IO, "poll: %s",
                                     reason(errno, text));
        }
        if (n > 0 && fds[0].revents != 0) {
            return shoal_client_fail(call->error, SHOAL_CLIENT_E_CANCELLED, "cancelled");
        }
        if (n > 0 && fds[1].revents != 0) {
            *ret_events = fds[1].revents;
            return SHOAL_CLIENT_OK;
        }
    }
}

/* OK with a connected socket; CONNECT with *ret_errno when this address does not answer. */
static int connect_one(const shoal_client_call *call, int64_t phase_deadline_ms, int family,
                       const struct sockaddr *address, socklen_t n_address, int *ret_fd,
                       int *ret_errno)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        *ret_errno = errno;
        return SHOAL_CLIENT_E_CONNECT;
    }
    int problem = connect(fd, address, n_address) == 0 ? 0 : errno;
    /* A full backlog of a unix socket says EAGAIN at once; TCP says EINPROGRESS and goes on. */
    if (problem == EINPROGRESS || problem == EINTR) {
        short events = 0;
        int code = shoal_client_wait(call, fd, POLLOUT, phase_deadline_ms, "connecting", &events);
        if (code != SHOAL_CLIENT_OK) {
            (void)close(fd);
            return code;
        }
        socklen_t n = sizeof problem;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &n) != 0) {
            problem = errno;
        }
    }
    if (problem != 0) {
        (void)close(fd);
        *ret_errno = problem;
        return SHOAL_CLIENT_E_CONNECT;
    }
    *ret_fd = fd;
    return SHOAL_CLIENT_OK;
}

static int connect_unix(const shoal_client_call *call, int64_t phase_deadline_ms, int *ret_fd,
                        int *ret_errno)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, call->client->parts.path, sizeof address.sun_path);
    return connect_one(call, phase_deadline_ms, AF_UNIX,
                       (const struct sockaddr *)(const void *)&address, sizeof address, ret_fd,
                       ret_errno);
}

/* Every address of the name in turn; the last one's error counts. */
static int connect_tcp(const shoal_client_call *call, int64_t phase_deadline_ms, int *ret_fd,
                       int *ret_errno)
{
    struct addrinfo *list = NULL;
    SHOAL_CLIENT_TRY(shoal_client_resolve(call, phase_deadline_ms, &list));
    int code = SHOAL_CLIENT_E_CONNECT;
    for (const struct addrinfo *a = list; a && code == SHOAL_CLIENT_E_CONNECT; a = a->ai_next) {
        code = connect_one(call, phase_deadline_ms, a->ai_family, a->ai_addr, a->ai_addrlen, ret_fd,
                           ret_errno);
    }
    freeaddrinfo(list);
    if (code == SHOAL_CLIENT_OK) {
        int one = 1;
        (void)setsockopt(*ret_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return code;
}

int shoal_client_connect(const shoal_client_call *call, int64_t phase_deadline_ms, int *ret_fd)
{
    const shoal_client *client = call->client;
    int number = 0;
    int code = client->parts.is_unix ? connect_unix(call, phase_deadline_ms, ret_fd, &number)
                                     : connect_tcp(call, phase_deadline_ms, ret_fd, &number);
    if (code == SHOAL_CLIENT_E_CONNECT && number != 0) {
        char text[96];
        return shoal_client_fail(call->error, code, "%s: %s; is shoal-edge running there?",
                                 client->url, reason(number, text));
    }
    return code;
}

int64_t shoal_client_idle_deadline_ms(const shoal_client *client)
{
    return client->idle_timeout_ms == 0 ? INT64_MAX
                                        : shoal_client_now_ms() + (int64_t)client->idle_timeout_ms;
}

static bool would_block(int number)
{
    return number == EAGAIN || number == EINTR;
}

int shoal_client_send(const shoal_client_call *call, int fd, const char *data, size_t n)
{
    int64_t deadline_ms = shoal_client_idle_deadline_ms(call->client);
    while (n > 0) {
        short events = 0;
        SHOAL_CLIENT_TRY(shoal_client_wait(call, fd, POLLOUT | POLLIN, deadline_ms,
                                           "sending the request", &events));
        /* An edge that refuses a long body answers before having read it all. */
        if (events & (POLLIN | POLLHUP | POLLERR)) {
            return SHOAL_CLIENT_OK;
        }
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && !would_block(errno)) {
            return SHOAL_CLIENT_OK; /* reading will tell what the edge had to say, or the cause */
        }
        if (sent > 0) {
            data += sent;
            n -= (size_t)sent;
            deadline_ms = shoal_client_idle_deadline_ms(call->client);
        }
    }
    return SHOAL_CLIENT_OK;
}

int shoal_client_recv(const shoal_client_call *call, int fd, int64_t phase_deadline_ms,
                      const char *phase, char *data, size_t capacity, size_t *ret_n)
{
    for (;;) {
        short events = 0;
        SHOAL_CLIENT_TRY(shoal_client_wait(call, fd, POLLIN, phase_deadline_ms, phase, &events));
        ssize_t got = recv(fd, data, capacity, 0);
        if (got >= 0) {
            *ret_n = (size_t)got;
            return SHOAL_CLIENT_OK;
        }
        if (!would_block(errno)) {
            char text[96];
            return shoal_client_fail(call->error, SHOAL_CLIENT_E_IO, "%s: the connection broke: %s",
                                     call->client->url, reason(errno, text));
        }
    }
}
