/* SPDX-License-Identifier: Apache-2.0
 *
 * What of the budgets was used, in a file, so that a restart does not give it again. Loop-only.
 */
#ifndef SHOAL_EDGE_DAEMON_LEDGER_H
#define SHOAL_EDGE_DAEMON_LEDGER_H

#include "edge/coop/coop.h"

enum {
    SHOAL_LEDGER_MS = 60000 /* between two looks: what a crash forgets at most */
};

typedef struct shoal_ledger {
    const char *path; /* borrowed; NULL or "": nothing is kept, as where no budget has a limit */
    shoal_spend kept; /* as the file has it */
} shoal_ledger;

/* Before coop answers anything: takes up what the file says. No file: nothing was used. One that
 * cannot be read is a warning in the log, and budgets begin anew. */
void shoal_ledger_open(shoal_ledger *ledger, const char *path, const shoal_spend_limits *limits,
                       shoal_coop *coop);
/* Writes the file where something was used since; a failure is a warning in the log. */
void shoal_ledger_keep(shoal_ledger *ledger, shoal_coop *coop);

#endif
