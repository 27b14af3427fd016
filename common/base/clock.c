/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"

#include "common/base/macros.h"

#include <time.h>

static uint64_t real_now_ns(void *ctx)
{
    (void)ctx;
    struct timespec now;
    int rc = clock_gettime(CLOCK_MONOTONIC, &now);
    SHOAL_ASSERT(rc == 0);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static uint64_t virtual_now_ns(void *ctx)
{
    const uint64_t *now_ns = ctx;
    return *now_ns;
}

shoal_clock shoal_clock_real(void)
{
    return (shoal_clock){.now_ns = real_now_ns, .ctx = NULL};
}

shoal_clock shoal_clock_virtual(uint64_t *now_ns)
{
    return (shoal_clock){.now_ns = virtual_now_ns, .ctx = now_ns};
}
