/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/events.h"

#include "common/base/mem.h"

#include <string.h>

shoal_status load_event_copy(load_event *event, const void *data, size_t n)
{
    event->data = shoal_calloc(1, n);
    if (!event->data) {
        return SHOAL_E_NOMEM;
    }
    memcpy(event->data, data, n);
    event->n = n;
    event->release = shoal_free;
    return SHOAL_OK;
}

void load_event_fini(load_event *event)
{
    if (event->release) {
        event->release(event->data);
    }
    event->data = NULL;
    event->release = NULL;
}

static bool before(const load_event *a, const load_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

shoal_status load_events_add(load_events *events, load_event *take_event)
{
    if (events->n == events->capacity) {
        size_t capacity = SHOAL_MAX(2 * events->capacity, (size_t)256);
        load_event *grown = shoal_realloc(events->heap, capacity, sizeof *grown);
        if (!grown) {
            load_event_fini(take_event);
            return SHOAL_E_NOMEM;
        }
        events->heap = grown;
        events->capacity = capacity;
    }
    take_event->order = events->order++;
    size_t i = events->n++;
    for (; i > 0 && before(take_event, &events->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        events->heap[i] = events->heap[(i - 1) / 2];
    }
    events->heap[i] = *take_event;
    return SHOAL_OK;
}

bool load_events_take(load_events *events, uint64_t now_ns, load_event *ret_event)
{
    if (load_events_next(events) > now_ns || events->n == 0) {
        return false;
    }
    *ret_event = events->heap[0];
    load_event last = events->heap[--events->n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= events->n) {
            break;
        }
        child += child + 1 < events->n && before(&events->heap[child + 1], &events->heap[child]);
        if (!before(&events->heap[child], &last)) {
            break;
        }
        events->heap[i] = events->heap[child];
        i = child;
    }
    events->heap[i] = last;
    return true;
}

uint64_t load_events_next(const load_events *events)
{
    return events->n == 0 ? UINT64_MAX : events->heap[0].at_ns;
}

void load_events_fini(load_events *events)
{
    for (size_t i = 0; i < events->n; i++) {
        load_event_fini(&events->heap[i]);
    }
    shoal_free(events->heap);
    *events = (load_events){0};
}
