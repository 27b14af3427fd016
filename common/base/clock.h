/* SPDX-License-Identifier: Apache-2.0
 *
 * Time as an argument: everything that waits or expires asks a clock it was given, so that tests
 * own time. Monotonic only; wall time is for logs and certificates. Real clock: any thread.
 * Virtual clock: one thread.
 */
#ifndef SHOAL_BASE_CLOCK_H
#define SHOAL_BASE_CLOCK_H

#include <stdint.h>

typedef struct shoal_clock {
    uint64_t (*now_ns)(void *ctx); /* monotonic nanoseconds */
    void *ctx;
} shoal_clock;

shoal_clock shoal_clock_real(void);

/* A clock that stands still at *now_ns until the test moves it. Borrows now_ns. */
shoal_clock shoal_clock_virtual(uint64_t *now_ns);

static inline uint64_t shoal_clock_now_ns(const shoal_clock *clock)
{
    return clock->now_ns(clock->ctx);
}

static inline uint64_t shoal_clock_now_ms(const shoal_clock *clock)
{
    return clock->now_ns(clock->ctx) / 1000000u;
}

#endif
