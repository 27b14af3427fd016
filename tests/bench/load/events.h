/* SPDX-License-Identifier: Apache-2.0
 *
 * What will happen when: a heap of events by time, those of one time in the order they were added.
 * One thread.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_EVENTS_H
#define SHOAL_TESTS_BENCH_LOAD_EVENTS_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct load_event {
    uint64_t at_ns;
    uint64_t order; /* set by load_events_add */
    int kind;       /* whatever its user counts */
    uint32_t attempt;
    void *subject;
    void *data; /* owned, n bytes where that matters */
    size_t n;
    void (*release)(void *data); /* NULL: data is not owned */
} load_event;

typedef struct load_events {
    load_event *heap;
    size_t n;
    size_t capacity;
    uint64_t order;
} load_events;

/* Gives the event a copy of n bytes. */
shoal_status load_event_copy(load_event *event, const void *data, size_t n) SHOAL_MUST_CHECK;
void load_event_fini(load_event *event);

/* Takes what the event owns, in any case. */
shoal_status load_events_add(load_events *events, load_event *take_event) SHOAL_MUST_CHECK;
/* The first event that is due at now_ns; false when none is. */
bool load_events_take(load_events *events, uint64_t now_ns, load_event *ret_event);
/* When the first is due; UINT64_MAX: there is none. */
uint64_t load_events_next(const load_events *events);
void load_events_fini(load_events *events);

#endif
