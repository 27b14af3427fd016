/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/spend.h"

#include "common/base/crc32c.h"
#include "common/base/macros.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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
        spend->begin_ms[p] = (int64_t)now_ms;
    }
}

static uint64_t passed(const shoal_spend *spend, size_t period, uint64_t now_ms)
{
    int64_t ms = (int64_t)now_ms - spend->begin_ms[period];
    return ms > 0 ? (uint64_t)ms : 0;
}

void shoal_spend_turn(shoal_spend *spend, uint64_t now_ms)
{
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        uint64_t passed_ms = passed(spend, p, now_ms);
        if (passed_ms >= period_ms[p]) {
            spend->begin_ms[p] += (int64_t)(passed_ms / period_ms[p] * period_ms[p]);
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
    double share = (double)passed(spend, period, now_ms) / (double)period_ms[period];
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
    uint64_t passed_ms = passed(spend, period, now_ms);
    return period_ms[period] - SHOAL_MIN(passed_ms, period_ms[period]);
}

bool shoal_spend_continues(const shoal_spend *spend, const shoal_spend *other)
{
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        int64_t ms = spend->begin_ms[p] - other->begin_ms[p];
        if (ms < 0 || ms % (int64_t)period_ms[p] != 0) {
            return false;
        }
    }
    return true;
}

/* --- over restarts ---------------------------------------------------------------------------- */

static const char title[] = "shoal budgets 1\n";

shoal_status shoal_spend_write(const shoal_spend *spend, uint64_t now_ms, uint64_t wall_ms,
                               shoal_buf *buf)
{
    size_t at = buf->length;
    SHOAL_TRY(shoal_buf_append(buf, title, sizeof title - 1));
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        uint64_t passed_ms = passed(spend, p, now_ms);
        SHOAL_TRY(shoal_buf_appendf(
            buf, "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
            shoal_spend_period_name((shoal_spend_period)p), wall_ms - SHOAL_MIN(passed_ms, wall_ms),
            spend->used[SHOAL_SPEND_TOKENS][p], spend->used[SHOAL_SPEND_BYTES][p],
            spend->used[SHOAL_SPEND_ENERGY][p]));
    }
    uint32_t crc = shoal_crc32c(0, buf->data + at, buf->length - at);
    return shoal_buf_appendf(buf, "sum %08" PRIx32 "\n", crc);
}

static shoal_status no_budgets(const char *why, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "%s: what was used of budgets is not known", why);
}

/* One line of a period; false: it is none. */
static bool read_period(shoal_spend *s, size_t p, const char *line, uint64_t now_ms,
                        uint64_t wall_ms)
{
    char name[8];
    uint64_t begin_ms = 0;
    uint64_t used[SHOAL_SPEND_KINDS];
    if (sscanf(line, "%7s %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, name, &begin_ms, &used[0],
               &used[1], &used[2]) != 5 ||
        strcmp(name, shoal_spend_period_name((shoal_spend_period)p)) != 0) {
        return false;
    }
    uint64_t passed_ms = wall_ms - SHOAL_MIN(begin_ms, wall_ms);
    s->begin_ms[p] = (int64_t)now_ms - (int64_t)SHOAL_MIN(passed_ms, (uint64_t)INT64_MAX / 2);
    for (size_t k = 0; k < SHOAL_SPEND_KINDS; k++) {
        s->used[k][p] = used[k];
    }
    return true;
}

shoal_status shoal_spend_read(shoal_spend *spend, const char *text, size_t n, uint64_t now_ms,
                              uint64_t wall_ms, shoal_err *err)
{
    enum {
        SUM = 13, /* bytes of the last line */
        MOST = 512
    };
    char copy[MOST];
    char sum[SUM + 1];
    shoal_spend read = *spend;
    if (n < sizeof title + SUM || n >= MOST || memcmp(text, title, sizeof title - 1) != 0) {
        return no_budgets("not a file of budgets", err);
    }
    memcpy(copy, text, n);
    copy[n] = '\0';
    (void)snprintf(sum, sizeof sum, "sum %08" PRIx32 "\n", shoal_crc32c(0, copy, n - SUM));
    if (strcmp(copy + n - SUM, sum) != 0) {
        return no_budgets("the checksum is wrong", err);
    }
    const char *line = copy + sizeof title - 1;
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        if (!read_period(&read, p, line, now_ms, wall_ms)) {
            return no_budgets("a line is missing", err);
        }
        line = strchr(line, '\n') + 1; /* the sum's is behind all of them */
    }
    shoal_spend_turn(&read, now_ms);
    *spend = read;
    return SHOAL_OK;
}
