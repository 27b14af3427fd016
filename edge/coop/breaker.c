/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/breaker.h"

#include "common/base/macros.h"
#include "common/base/rng.h"

void shoal_breaker_init(shoal_breaker *breaker, uint64_t least_ms, uint64_t most_ms, uint64_t seed)
{
    *breaker = (shoal_breaker){.least_ms = least_ms, .most_ms = most_ms, .rng = seed};
}

void shoal_breaker_failed(shoal_breaker *breaker, uint64_t now_ms)
{
    if (breaker->open && now_ms < breaker->until_ms) {
        return;
    }
    uint64_t pause_ms = breaker->least_ms;
    for (uint32_t i = 0; i < breaker->n_failures && pause_ms < breaker->most_ms; i++) {
        pause_ms *= 2;
    }
    pause_ms = SHOAL_MIN(pause_ms, breaker->most_ms);
    uint64_t half_ms = pause_ms / 2;
    pause_ms = half_ms + shoal_rng_next(&breaker->rng) % (pause_ms - half_ms + 1);
    breaker->n_failures += breaker->n_failures < UINT32_MAX ? 1 : 0;
    breaker->open = true;
    breaker->until_ms = now_ms + pause_ms;
}

void shoal_breaker_hold(shoal_breaker *breaker, uint64_t until_ms)
{
    breaker->open = true;
    breaker->until_ms = SHOAL_MAX(breaker->until_ms, until_ms);
}

void shoal_breaker_probed(shoal_breaker *breaker)
{
    breaker->open = false;
    breaker->until_ms = 0;
}

void shoal_breaker_worked(shoal_breaker *breaker)
{
    shoal_breaker_probed(breaker);
    breaker->n_failures = 0;
}

void shoal_breaker_reset(shoal_breaker *breaker, uint64_t now_ms)
{
    breaker->n_failures = 0;
    breaker->until_ms = breaker->open ? now_ms : 0;
}

bool shoal_breaker_due(const shoal_breaker *breaker, uint64_t now_ms)
{
    return breaker->open && now_ms >= breaker->until_ms;
}

bool shoal_breaker_stale(const shoal_breaker *breaker, uint64_t now_ms)
{
    return shoal_breaker_due(breaker, now_ms) && now_ms - breaker->until_ms >= breaker->most_ms;
}
