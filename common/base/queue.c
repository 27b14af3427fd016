/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/queue.h"

#include "common/base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

enum {
    CAPACITY_MAX = 1 << 20
};

struct shoal_queue {
    pthread_mutex_t lock;
    pthread_cond_t filled; /* an item came in, or the queue was closed */
    void (*wake)(void *ctx);
    void *wake_ctx;
    void **items; /* ring; the oldest at head */
    size_t capacity;
    size_t head;
    size_t length;
    bool closed;
};

static void lock_queue(shoal_queue *queue)
{
    int rc = pthread_mutex_lock(&queue->lock);
    SHOAL_ASSERT(rc == 0);
}

static void unlock_queue(shoal_queue *queue)
{
    int rc = pthread_mutex_unlock(&queue->lock);
    SHOAL_ASSERT(rc == 0);
}

/* Waits are against the monotonic clock: a step of wall time neither shortens nor extends them. */
static bool init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0) {
        return false;
    }
    bool ok = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
              pthread_cond_init(cond, &attr) == 0;
    (void)pthread_condattr_destroy(&attr);
    return ok;
}

shoal_status shoal_queue_new(size_t capacity, shoal_queue **ret_queue)
{
    if (capacity < 1 || capacity > CAPACITY_MAX) {
        return SHOAL_E_INVALID;
    }
    shoal_queue *queue = shoal_calloc(1, sizeof *queue);
    void **items = shoal_calloc(capacity, sizeof *items);
    if (!queue || !items) {
        goto fail;
    }
    if (pthread_mutex_init(&queue->lock, NULL) != 0) {
        goto fail;
    }
    if (!init_cond(&queue->filled)) {
        (void)pthread_mutex_destroy(&queue->lock);
        goto fail;
    }
    queue->items = items;
    queue->capacity = capacity;
    *ret_queue = queue;
    return SHOAL_OK;
fail:
    shoal_free(items);
    shoal_free(queue);
    return SHOAL_E_NOMEM;
}

void shoal_queue_free(shoal_queue *queue)
{
    if (!queue) {
        return;
    }
    (void)pthread_cond_destroy(&queue->filled);
    (void)pthread_mutex_destroy(&queue->lock);
    shoal_free(queue->items);
    shoal_free(queue);
}

void shoal_queue_set_wake(shoal_queue *queue, void (*wake)(void *), void *ctx)
{
    queue->wake = wake;
    queue->wake_ctx = ctx;
}

shoal_status shoal_queue_push(shoal_queue *queue, void *take_item)
{
    SHOAL_ASSERT(take_item != NULL);
    lock_queue(queue);
    if (queue->closed || queue->length == queue->capacity) {
        unlock_queue(queue);
        return SHOAL_BUSY;
    }
    queue->items[(queue->head + queue->length) % queue->capacity] = take_item;
    queue->length++;
    /* Read under the lock: once the item is visible, a consumer may free the queue's owner, but
     * the wake-up is promised to outlive its producers. */
    void (*wake)(void *) = queue->wake;
    void *wake_ctx = queue->wake_ctx;
    (void)pthread_cond_signal(&queue->filled);
    unlock_queue(queue);
    if (wake) {
        wake(wake_ctx);
    }
    return SHOAL_OK;
}

/* With the lock held. */
static void *take_oldest(shoal_queue *queue)
{
    if (queue->length == 0) {
        return NULL;
    }
    void *item = queue->items[queue->head];
    queue->items[queue->head] = NULL;
    queue->head = (queue->head + 1) % queue->capacity;
    queue->length--;
    return item;
}

void *shoal_queue_pop(shoal_queue *queue)
{
    lock_queue(queue);
    void *item = take_oldest(queue);
    unlock_queue(queue);
    return item;
}

/* Now plus timeout_ms; false when that lies beyond what a timespec can hold (wait for ever). */
static bool deadline_after(uint64_t timeout_ms, struct timespec *ret_deadline)
{
    enum {
        NS_PER_MS = 1000000,
        NS_PER_S = 1000000000,
        SECONDS_MAX = 1000000000
    };
    if (timeout_ms / 1000 > SECONDS_MAX) {
        return false;
    }
    int rc = clock_gettime(CLOCK_MONOTONIC, ret_deadline);
    SHOAL_ASSERT(rc == 0);
    ret_deadline->tv_sec += (time_t)(timeout_ms / 1000);
    ret_deadline->tv_nsec += (long)(timeout_ms % 1000) * NS_PER_MS;
    if (ret_deadline->tv_nsec >= NS_PER_S) {
        ret_deadline->tv_nsec -= NS_PER_S;
        ret_deadline->tv_sec++;
    }
    return true;
}

void *shoal_queue_pop_wait(shoal_queue *queue, uint64_t timeout_ms)
{
    struct timespec deadline = {0};
    bool timed = deadline_after(timeout_ms, &deadline);
    lock_queue(queue);
    while (queue->length == 0 && !queue->closed) {
        int rc = timed ? pthread_cond_timedwait(&queue->filled, &queue->lock, &deadline)
                       : pthread_cond_wait(&queue->filled, &queue->lock);
        if (rc == ETIMEDOUT) {
            break;
        }
        SHOAL_ASSERT(rc == 0);
    }
    void *item = take_oldest(queue);
    unlock_queue(queue);
    return item;
}

void shoal_queue_close(shoal_queue *queue)
{
    lock_queue(queue);
    queue->closed = true;
    (void)pthread_cond_broadcast(&queue->filled);
    unlock_queue(queue);
}

size_t shoal_queue_length(shoal_queue *queue)
{
    lock_queue(queue);
    size_t length = queue->length;
    unlock_queue(queue);
    return length;
}
