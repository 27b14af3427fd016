/* SPDX-License-Identifier: Apache-2.0
 *
 * Names to addresses without being stuck in it. A number needs no look-up. For a name, a detached
 * thread runs getaddrinfo on a heap object that both sides hold; whoever lets go last frees it, so
 * the caller can leave at a cancel or a timeout while the thread finishes on its own.
 */
#include "edge/client/client_internal.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct lookup {
    atomic_int refs;
    int done_fd; /* eventfd, written after list and problem */
    int problem; /* getaddrinfo's */
    struct addrinfo *list;
    char host[256];
    char port[6];
} lookup;

static void lookup_unref(lookup *l)
{
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) == 1) {
        if (l->list) {
            freeaddrinfo(l->list);
        }
        (void)close(l->done_fd);
        free(l);
    }
}

static struct addrinfo hints(int flags)
{
    return (struct addrinfo){
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
}

static void *run_lookup(void *ctx)
{
    lookup *l = ctx;
    struct addrinfo wanted = hints(AI_ADDRCONFIG);
    l->problem = getaddrinfo(l->host, l->port, &wanted, &l->list);
    uint64_t one = 1;
    ssize_t written = write(l->done_fd, &one, sizeof one);
    (void)written; /* the counter is 0 before, so this cannot fail */
    lookup_unref(l);
    return NULL;
}

/* The thread takes no signals: they are the application's. */
static int start_thread(lookup *l)
{
    sigset_t all;
    sigset_t before;
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0) {
        return -1;
    }
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int problem = pthread_create(&thread, &attributes, run_lookup, l);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return problem;
}

/* A lookup under way, held by the thread and by the caller; NULL when it could not be started, the
 * error is then set. */
static lookup *lookup_start(const shoal_client_call *call)
{
    lookup *l = calloc(1, sizeof *l);
    if (!l) {
        (void)shoal_client_fail(call->error, SHOAL_CLIENT_E_NOMEM, "out of memory");
        return NULL;
    }
    memcpy(l->host, call->client->parts.host, sizeof l->host);
    memcpy(l->port, call->client->parts.port, sizeof l->port);
    atomic_init(&l->refs, 2);
    l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->done_fd >= 0 && start_thread(l) == 0) {
        return l;
    }
    (void)shoal_client_fail(call->error, SHOAL_CLIENT_E_IO,
                            "no descriptor or no thread left to look up \"%s\"", l->host);
    if (l->done_fd >= 0) {
        (void)close(l->done_fd);
    }
    free(l);
    return NULL;
}

int shoal_client_resolve(const shoal_client_call *call, int64_t phase_deadline_ms,
                         struct addrinfo **ret_list)
{
    const shoal_client_url_parts *parts = &call->client->parts;
    struct addrinfo wanted = hints(AI_NUMERICHOST);
    if (getaddrinfo(parts->host, parts->port, &wanted, ret_list) == 0) {
        return SHOAL_CLIENT_OK;
    }
    lookup *l = lookup_start(call);
    if (!l) {
        return call->error->code;
    }
    short events = 0;
    int code = shoal_client_wait(call, l->done_fd, POLLIN, phase_deadline_ms, "looking up the name",
                                 &events);
    uint64_t count = 0;
    if (code == SHOAL_CLIENT_OK && read(l->done_fd, &count, sizeof count) < 0) {
        code = shoal_client_fail(call->error, SHOAL_CLIENT_E_IO, "eventfd broke");
    }
    if (code == SHOAL_CLIENT_OK) {
        if (l->problem == 0) {
            *ret_list = l->list;
            l->list = NULL;
        } else {
            code = shoal_client_fail(call->error, SHOAL_CLIENT_E_CONNECT,
                                     "%s: cannot look up \"%s\": %s", call->client->url,
                                     parts->host, gai_strerror(l->problem));
        }
    }
    lookup_unref(l);
    return code;
}
