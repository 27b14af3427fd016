/* SPDX-License-Identifier: Apache-2.0
 *
 * A bounded queue of owned pointers between threads: the only way roles talk (DESIGN rule: rings
 * of owned messages plus one wake-up). Locked by itself; any number of producers and consumers.
 */
#ifndef SHOAL_BASE_QUEUE_H
#define SHOAL_BASE_QUEUE_H

#include "common/base/macros.h"

#include <stdint.h>

typedef struct shoal_queue shoal_queue;

/* capacity in [1, 1<<20] items, allocated here and never again. */
shoal_status shoal_queue_new(size_t capacity, shoal_queue **ret_queue) SHOAL_MUST_CHECK;
/* The queue must be empty or its items are lost: drain first. */
void shoal_queue_free(shoal_queue *queue);

/* Called after an item was pushed (outside the lock), from the producer's thread; typically
 * uv_async_send. Set before the queue is shared. NULL is the default: consumers wait. */
void shoal_queue_set_wake(shoal_queue *queue, void (*wake)(void *), void *ctx);

/* Takes the item: SHOAL_OK; SHOAL_BUSY when full or closed (the caller keeps the item). */
shoal_status shoal_queue_push(shoal_queue *queue, void *take_item) SHOAL_MUST_CHECK;

/* The oldest item, or NULL when empty. */
void *shoal_queue_pop(shoal_queue *queue);

/* Waits up to timeout_ms (UINT64_MAX: for ever) for an item, or for a close. NULL on either. */
void *shoal_queue_pop_wait(shoal_queue *queue, uint64_t timeout_ms);

/* No more pushes; waiters wake. Items already in can still be popped. */
void shoal_queue_close(shoal_queue *queue);

size_t shoal_queue_length(shoal_queue *queue);

#endif
