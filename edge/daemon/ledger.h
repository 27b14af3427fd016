/* SPDX-License-Identifier: Apache-2.0
 *
 * What of the budgets was used, in a file, so that a restart does not give it again. Loop-only; a
 * disk may take seconds, so a thread of its own writes, one at a time.
 */
#ifndef SHOAL_EDGE_DAEMON_LEDGER_H
#define SHOAL_EDGE_DAEMON_LEDGER_H

#include "edge/coop/coop.h"

enum {
    SHOAL_LEDGER_MS = 60000 /* between two looks: what a crash forgets at most */
};

typedef struct shoal_ledger_page shoal_ledger_page;

typedef struct shoal_ledger {
    const char *path; /* borrowed; NULL or "": nothing is kept, as where no budget has a limit */
    shoal_spend kept; /* as the file has it */
    shoal_ledger_page *page; /* on its way to the file; NULL: none */
} shoal_ledger;

/* Before coop answers anything: takes up what the file says. No file: nothing was used. One that
 * cannot be read is a warning in the log, and budgets begin anew. */
void shoal_ledger_open(shoal_ledger *ledger, const char *path, const shoal_spend_limits *limits,
                       shoal_coop *coop);
/* Begins to write the file where something was used since, and the last time is over; a failure is
 * a warning in the log. Does not wait for the disk. */
void shoal_ledger_keep(shoal_ledger *ledger, shoal_coop *coop);
/* Waits for what is on its way. */
void shoal_ledger_wait(shoal_ledger *ledger);

#endif
