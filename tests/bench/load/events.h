/* SPDX-License-Identifier: Apache-2.0
 *
 * What will happen when: a heap of events by time, those of one time in the order they were added.
 * One thread.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_EVENTS_H
#define SHOAL_TESTS_BENCH_LOAD_EVENTS_H

#include "common/base/macros.h"
#include "tests/bench/load/link.h"

#include <stdbool.h>

typedef enum load_event_kind {
    LOAD_EVENT_ARRIVE,  /* session number `attempt` begins */
    LOAD_EVENT_SEND,    /* bytes have crossed the simulated way up */
    LOAD_EVENT_TAKE,    /* a mail has crossed the way down */
    LOAD_EVENT_DRAFTED, /* the edge has its next span */
    LOAD_EVENT_REOPEN
} load_event_kind;

typedef struct load_event {
    uint64_t at_ns;
    uint64_t order; /* set by load_events_add */
    load_event_kind kind;
    uint32_t attempt;
    void *subject;   /* the session */
    load_mail *mail; /* owned */
    void *data;      /* owned, n bytes */
    size_t n;
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
