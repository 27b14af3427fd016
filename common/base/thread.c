/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/thread.h"

#include "common/base/mem.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 15
};

struct shoal_thread {
    pthread_t handle;
    shoal_role role;
    char name[NAME_MAX_BYTES + 1];
    void (*fn)(void *ctx);
    void *ctx;
};

static _Thread_local shoal_role current_role = SHOAL_ROLE_NONE;

static void *thread_main(void *arg)
{
    const shoal_thread *thread = arg;
    current_role = thread->role;
    /* The name is for ps and gdb; a kernel that refuses it changes nothing else. */
    (void)pthread_setname_np(pthread_self(), thread->name);
    thread->fn(thread->ctx);
    return NULL;
}

shoal_status shoal_thread_start(shoal_role role, const char *name, void (*fn)(void *), void *ctx,
                                shoal_thread **ret_thread)
{
    size_t n = strlen(name);
    SHOAL_ASSERT(n <= NAME_MAX_BYTES);
    shoal_thread *thread = shoal_calloc(1, sizeof *thread);
    if (!thread) {
        return SHOAL_E_NOMEM;
    }
    thread->role = role;
    thread->fn = fn;
    thread->ctx = ctx;
    memcpy(thread->name, name, n + 1);
    /* A thread inherits the mask of its maker, so the mask is set around the call: the new thread
     * never runs an instruction with signals open. */
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &before);
    SHOAL_ASSERT(rc == 0);
    int made = pthread_create(&thread->handle, NULL, thread_main, thread);
    rc = pthread_sigmask(SIG_SETMASK, &before, NULL);
    SHOAL_ASSERT(rc == 0);
    if (made != 0) {
        shoal_free(thread);
        return SHOAL_E_NOMEM;
    }
    *ret_thread = thread;
    return SHOAL_OK;
}

void shoal_thread_join(shoal_thread *thread)
{
    if (!thread) {
        return;
    }
    int rc = pthread_join(thread->handle, NULL);
    SHOAL_ASSERT(rc == 0);
    shoal_free(thread);
}

pthread_t shoal_thread_native(const shoal_thread *thread)
{
    return thread->handle;
}

void shoal_thread_set_role(shoal_role role)
{
    current_role = role;
}

shoal_role shoal_thread_role(void)
{
    return current_role;
}
