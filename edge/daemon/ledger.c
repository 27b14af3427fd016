/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/daemon/ledger.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/obs/log.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum {
    BYTES_MAX = 4096
};

/* What the thread writes. */
struct shoal_ledger_page {
    const char *path;
    shoal_buf text;
    shoal_spend spend; /* what the text says */
    shoal_thread *thread;
    bool written;
    atomic_bool over; /* last: written is the loop's again */
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

static void warn(const char *path, shoal_status status, const shoal_err *err)
{
    shoal_log(SHOAL_LOG_WARN, "budget.file %s: %s; a restart would give budgets again", path,
              err->text[0] ? err->text : shoal_status_text(status));
}

static void write_page(void *ctx)
{
    shoal_ledger_page *page = ctx;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_file_write(page->path, page->text.data, page->text.length, &err);
    if (status != SHOAL_OK) {
        warn(page->path, status, &err);
    }
    page->written = status == SHOAL_OK;
    atomic_store(&page->over, true);
}

static void free_page(shoal_ledger_page *page)
{
    if (page) {
        shoal_thread_join(page->thread);
        shoal_buf_fini(&page->text);
        shoal_free(page);
    }
}

SHOAL_DEFINE_CLEANUP(shoal_ledger_page, free_page)

static shoal_status begin_page(const char *path, const shoal_spend *spend,
                               shoal_ledger_page **ret_page)
{
    SHOAL_CLEANUP(free_pagep) shoal_ledger_page *page = shoal_calloc(1, sizeof *page);
    if (!page) {
        return SHOAL_E_NOMEM;
    }
    page->path = path;
    page->spend = *spend;
    SHOAL_TRY(shoal_spend_write(spend, now_ms(), wall_ms(), &page->text));
    SHOAL_TRY(shoal_thread_start(SHOAL_ROLE_IO, "shoal-ledger", write_page, page, &page->thread));
    *ret_page = SHOAL_STEAL(page);
    return SHOAL_OK;
}

void shoal_ledger_wait(shoal_ledger *ledger)
{
    shoal_ledger_page *page = SHOAL_STEAL(ledger->page);
    if (!page) {
        return;
    }
    shoal_thread_join(SHOAL_STEAL(page->thread));
    if (page->written) {
        ledger->kept = page->spend;
    }
    free_page(page);
}

void shoal_ledger_keep(shoal_ledger *ledger, shoal_coop *coop)
{
    shoal_coop_state state = {0};
    const shoal_err none = SHOAL_ERR_INIT;
    if (!ledger->path || !ledger->path[0] || (ledger->page && !atomic_load(&ledger->page->over))) {
        return;
    }
    shoal_ledger_wait(ledger);
    shoal_coop_state_get(coop, &state);
    /* What is told before the engine has taken up what was carried to it is nothing to keep. */
    if (!shoal_spend_continues(&state.spend, &ledger->kept) ||
        memcmp(&state.spend.used, &ledger->kept.used, sizeof state.spend.used) == 0) {
        return;
    }
    shoal_status status = begin_page(ledger->path, &state.spend, &ledger->page);
    if (status != SHOAL_OK) {
        warn(ledger->path, status, &none);
    }
}
