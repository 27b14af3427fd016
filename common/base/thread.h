/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads with roles: every thread says once what it is, and entry points assert it.
 *   loop     one per daemon, owns every uv handle      engine   owns sessions and KV
 *   compute  the pool's workers                        rpc      completion-queue pollers
 *   io       file loads                                none     main before start, tests
 */
#ifndef SHOAL_BASE_THREAD_H
#define SHOAL_BASE_THREAD_H

#include "common/base/macros.h"

#include <pthread.h>

typedef enum shoal_role {
    SHOAL_ROLE_NONE,
    SHOAL_ROLE_LOOP,
    SHOAL_ROLE_ENGINE,
    SHOAL_ROLE_COMPUTE,
    SHOAL_ROLE_RPC,
    SHOAL_ROLE_IO
} shoal_role;

typedef struct shoal_thread shoal_thread;

/* Starts fn(ctx) under a role and a name (at most 15 bytes, shown by ps and gdb). Signals are
 * blocked in the new thread: the main thread alone handles them. */
shoal_status shoal_thread_start(shoal_role role, const char *name, void (*fn)(void *), void *ctx,
                                shoal_thread **ret_thread) SHOAL_MUST_CHECK;

/* Waits for the thread's end and frees it. NULL is allowed. */
void shoal_thread_join(shoal_thread *thread);

/* For what this header does not do, such as placing a thread on a CPU. */
pthread_t shoal_thread_native(const shoal_thread *thread);

void shoal_thread_set_role(shoal_role role);
shoal_role shoal_thread_role(void);

/* A thread without a role (a test) passes everywhere. */
#define SHOAL_ASSERT_ROLE(role)                                                                    \
    SHOAL_ASSERT(shoal_thread_role() == SHOAL_ROLE_NONE || shoal_thread_role() == (role))

#endif
