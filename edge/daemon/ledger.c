/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/daemon/ledger.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/obs/log.h"

#include <string.h>
#include <time.h>

enum {
    BYTES_MAX = 4096
};

static uint64_t now_ms(void)
{
    shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

static uint64_t wall_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void shoal_ledger_open(shoal_ledger *ledger, const char *path, const shoal_spend_limits *limits,
                       shoal_coop *coop)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    const shoal_spend_limits none = {0};
    shoal_err err = SHOAL_ERR_INIT;
    bool asked = memcmp(limits, &none, sizeof none) != 0;
    *ledger = (shoal_ledger){.path = asked ? path : ""};
    shoal_spend_init(&ledger->kept, limits, now_ms());
    if (!ledger->path || !ledger->path[0]) {
        return;
    }
    shoal_status status = shoal_file_read(path, BYTES_MAX, &text, &err);
    if (status == SHOAL_OK) {
        status = shoal_spend_read(&ledger->kept, text.data, text.length, now_ms(), wall_ms(), &err);
    }
    if (status != SHOAL_OK && status != SHOAL_E_NOTFOUND) {
        shoal_log(SHOAL_LOG_WARN, "budget.file %s: %s; budgets begin anew", path,
                  err.text[0] ? err.text : shoal_status_text(status));
    }
    if (shoal_coop_carry(coop, &(shoal_coop_totals){0}, &ledger->kept) != SHOAL_OK) {
        shoal_log(SHOAL_LOG_WARN, "budget.file: no memory for what was used; budgets begin anew");
        ledger->path = "";
    }
}

void shoal_ledger_keep(shoal_ledger *ledger, shoal_coop *coop)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_coop_state state = {0};
    shoal_err err = SHOAL_ERR_INIT;
    if (!ledger->path || !ledger->path[0]) {
        return;
    }
    shoal_coop_state_get(coop, &state);
    /* What is told before the engine has taken up what was carried to it is nothing to keep. */
    if (!shoal_spend_continues(&state.spend, &ledger->kept) ||
        memcmp(&state.spend.used, &ledger->kept.used, sizeof state.spend.used) == 0) {
        return;
    }
    shoal_status status = shoal_spend_write(&state.spend, now_ms(), wall_ms(), &text);
    if (status == SHOAL_OK) {
        status = shoal_file_write(ledger->path, text.data, text.length, &err);
    }
    if (status != SHOAL_OK) {
        shoal_log(SHOAL_LOG_WARN, "budget.file %s: %s; a restart would give budgets again",
                  ledger->path, err.text[0] ? err.text : shoal_status_text(status));
        return;
    }
    ledger->kept = state.spend;
}
