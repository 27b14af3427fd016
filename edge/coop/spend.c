/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/spend.h"

#include "common/base/macros.h"

static const uint64_t period_ms[SHOAL_SPEND_PERIODS] = {3600000u, 24 * 3600000u, 720 * 3600000ull};

const char *shoal_spend_kind_name(shoal_spend_kind kind)
{
    static const char *const names[SHOAL_SPEND_KINDS] = {"cloud_tokens", "uplink_bytes",
                                                         "energy_uj"};
    SHOAL_ASSERT(kind < SHOAL_SPEND_KINDS);
    return names[kind];
}

const char *shoal_spend_period_name(shoal_spend_period period)
{
    static const char *const names[SHOAL_SPEND_PERIODS] = {"hour", "day", "month"};
    SHOAL_ASSERT(period < SHOAL_SPEND_PERIODS);
    return names[period];
}

void shoal_spend_init(shoal_spend *spend, const shoal_spend_limits *limits, uint64_t now_ms)
{
    *spend = (shoal_spend){.limits = *limits};
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        spend->begin_ms[p] = now_ms;
    }
}

void shoal_spend_turn(shoal_spend *spend, uint64_t now_ms)
{
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        uint64_t passed_ms = now_ms - SHOAL_MIN(spend->begin_ms[p], now_ms);
        if (passed_ms >= period_ms[p]) {
            spend->begin_ms[p] += passed_ms / period_ms[p] * period_ms[p];
            for (size_t k = 0; k < SHOAL_SPEND_KINDS; k++) {
                spend->used[k][p] = 0;
            }
        }
    }
}

void shoal_spend_add(shoal_spend *spend, shoal_spend_kind kind, uint64_t n)
{
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        spend->used[kind][p] += n;
    }
}

/* What of a limit has been released, less what is used; below 0 where a mode that does not ask the
 * level has spent it. */
static double left(const shoal_spend *spend, size_t kind, size_t period, uint64_t n_reserved,
                   uint64_t now_ms)
{
    double limit = (double)spend->limits.most[kind][period];
    uint64_t passed_ms = now_ms - SHOAL_MIN(spend->begin_ms[period], now_ms);
    double share = (double)passed_ms / (double)period_ms[period];
    double released = limit * SHOAL_MIN(1.0, SHOAL_SPEND_AHEAD + share);
    return released - (double)spend->used[kind][period] - (double)n_reserved;
}

double shoal_spend_level_of(const shoal_spend *spend, shoal_spend_kind kind, uint64_t n_reserved,
                            uint64_t now_ms)
{
    double level = 1;
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        if (spend->limits.most[kind][p] > 0) {
            double band = (double)spend->limits.most[kind][p] * SHOAL_SPEND_AHEAD / 2;
            level = SHOAL_MIN(level, left(spend, kind, p, n_reserved, now_ms) / band);
        }
    }
    return SHOAL_MAX(level, 0.0);
}

double shoal_spend_level(const shoal_spend *spend, uint64_t n_reserved, uint64_t now_ms)
{
    return SHOAL_MIN(shoal_spend_level_of(spend, SHOAL_SPEND_TOKENS, n_reserved, now_ms),
                     shoal_spend_level_of(spend, SHOAL_SPEND_BYTES, 0, now_ms));
}

uint64_t shoal_spend_wait_ms(const shoal_spend *spend, shoal_spend_kind kind, uint64_t n_reserved,
                             uint64_t now_ms, shoal_spend_period *ret_period)
{
    uint64_t longest_ms = 0;
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        uint64_t limit = spend->limits.most[kind][p];
        double lack = -left(spend, kind, p, n_reserved, now_ms);
        if (limit == 0 || lack < 0) {
            continue;
        }
        uint64_t end_ms = shoal_spend_left_ms(spend, (shoal_spend_period)p, now_ms);
        bool comes = spend->used[kind][p] + n_reserved < limit;
        double ms = lack / (double)limit * (double)period_ms[p] + 1;
        uint64_t wait_ms = comes ? SHOAL_MIN((uint64_t)ms, end_ms) : end_ms;
        if (wait_ms > longest_ms) {
            longest_ms = wait_ms;
            *ret_period = (shoal_spend_period)p;
        }
    }
    return longest_ms;
}

size_t shoal_spend_tokens_left(const shoal_spend *spend, uint64_t n_reserved, uint64_t now_ms)
{
    size_t n = SIZE_MAX;
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        if (spend->limits.most[SHOAL_SPEND_TOKENS][p] > 0) {
            double most = left(spend, SHOAL_SPEND_TOKENS, p, n_reserved, now_ms);
            n = most < 1 ? 0 : SHOAL_MIN(n, (size_t)most);
        }
    }
    return n;
}

bool shoal_spend_is_over(const shoal_spend *spend, shoal_spend_kind *ret_kind,
                         shoal_spend_period *ret_period)
{
    for (size_t k = 0; k <= SHOAL_SPEND_BYTES; k++) {
        for (size_t p = SHOAL_SPEND_PERIODS; p-- > 0;) {
            uint64_t most = spend->limits.most[k][p];
            if (most > 0 && spend->used[k][p] >= most) {
                *ret_kind = (shoal_spend_kind)k;
                *ret_period = (shoal_spend_period)p;
                return true;
            }
        }
    }
    return false;
}

uint64_t shoal_spend_left_ms(const shoal_spend *spend, shoal_spend_period period, uint64_t now_ms)
{
    uint64_t end_ms = spend->begin_ms[period] + period_ms[period];
    return end_ms - SHOAL_MIN(end_ms, now_ms);
}
