/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "server.h"

#include "common/base/mem.h"
#include "common/base/thread.h"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The server's binary, which looks at the name it is called by; without the package redis-server
 * this is where it lies. */
static const char binary[] = "/usr/bin/redis-check-rdb";

bool redis_available(void)
{
    return access(binary, X_OK) == 0;
}

void redis_server_init(redis_server *s)
{
    memset(s, 0, sizeof *s);
    (void)snprintf(s->folder, sizeof s->folder, "/tmp/shoal-redis-XXXXXX");
    assert_non_null(mkdtemp(s->folder));
    (void)snprintf(s->socket, sizeof s->socket, "%s/socket", s->folder);
}

static void run_server(const redis_server *s, const char *option, const char *value)
{
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0) {
        _exit(1);
    }
    execl(binary, "redis-server", "--port", "0", "--unixsocket", s->socket, "--save", "",
          "--appendonly", "no", "--dir", s->folder, "--databases", "1", option, value,
          (char *)NULL);
    _exit(1);
}

static bool answers(const redis_server *s)
{
    redisContext *c = redisConnectUnix(s->socket);
    redisReply *reply = c && !c->err ? redisCommand(c, "PING") : NULL;
    bool ok = reply && (reply->type == REDIS_REPLY_STATUS || reply->type == REDIS_REPLY_ERROR);
    if (reply) {
        freeReplyObject(reply);
    }
    if (c) {
        redisFree(c);
    }
    return ok;
}

void redis_server_start(redis_server *s, const char *option, const char *value)
{
    assert_int_equal(s->pid, 0);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        run_server(s, option, value);
    }
    for (int i = 0; !answers(s); i++) {
        const struct timespec pause = {.tv_nsec = 2000000};
        assert_true(i < 10000);
        assert_int_equal(waitpid(s->pid, NULL, WNOHANG), 0);
        nanosleep(&pause, NULL);
    }
}

void redis_server_kill(redis_server *s)
{
    if (s->pid > 0) {
        (void)kill(s->pid, SIGKILL);
        (void)waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
}

void redis_server_fini(redis_server *s)
{
    redis_server_kill(s);
    (void)unlink(s->socket);
    (void)rmdir(s->folder);
}

long long redis_server_eval(const redis_server *s, const char *script, const char *key)
{
    redisContext *c = redisConnectUnix(s->socket);
    assert_true(c && !c->err);
    redisReply *reply = redisCommand(c, "EVAL %s 1 %s", script, key);
    assert_non_null(reply);
    long long number = reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
    if (reply->type == REDIS_REPLY_ERROR) {
        fail_msg("%s", reply->str);
    }
    freeReplyObject(reply);
    redisFree(c);
    return number;
}

void redis_server_set(const redis_server *s, const char *option, const char *value)
{
    redisContext *c = redisConnectUnix(s->socket);
    assert_true(c && !c->err);
    redisReply *reply = redisCommand(c, "CONFIG SET %s %s", option, value);
    assert_true(reply && reply->type == REDIS_REPLY_STATUS);
    freeReplyObject(reply);
    redisFree(c);
}

/* --- a peer that is no Redis ------------------------------------------------------------------ */

struct odd_peer {
    int listener;
    const char *bytes;
    size_t n;
    size_t n_times;
    bool close_at_once;
    atomic_bool stop;
    shoal_thread *thread;
};

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 5) > 0;
}

static void serve_one(odd_peer *peer, int fd)
{
    for (size_t i = 0; i < peer->n_times && !atomic_load(&peer->stop); i++) {
        if (send(fd, peer->bytes, peer->n, MSG_NOSIGNAL) < 0) {
            break;
        }
    }
    char rest[4096];
    while (!peer->close_at_once && !atomic_load(&peer->stop)) {
        if (readable(fd) && read(fd, rest, sizeof rest) <= 0) {
            break;
        }
    }
    (void)close(fd);
}

static void peer_main(void *ctx)
{
    odd_peer *peer = ctx;
    while (!atomic_load(&peer->stop)) {
        int fd = readable(peer->listener) ? accept(peer->listener, NULL, NULL) : -1;
        if (fd >= 0) {
            serve_one(peer, fd);
        }
    }
}

odd_peer *odd_peer_start(const char *socket_path, const char *bytes, size_t n, size_t n_times,
                         bool close_at_once)
{
    odd_peer *peer = shoal_calloc(1, sizeof *peer);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(peer);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    (void)unlink(socket_path);
    peer->bytes = bytes;
    peer->n = n;
    peer->n_times = n_times;
    peer->close_at_once = close_at_once;
    peer->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(peer->listener >= 0);
    assert_int_equal(bind(peer->listener, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(peer->listener, 16), 0);
    assert_int_equal(
        shoal_thread_start(SHOAL_ROLE_NONE, "odd-peer", peer_main, peer, &peer->thread), SHOAL_OK);
    return peer;
}

void odd_peer_stop(odd_peer *peer)
{
    atomic_store(&peer->stop, true);
    (void)shutdown(peer->listener, SHUT_RDWR);
    shoal_thread_join(peer->thread);
    (void)close(peer->listener);
    shoal_free(peer);
}
