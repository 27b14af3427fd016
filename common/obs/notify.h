/* SPDX-License-Identifier: Apache-2.0
 *
 * What a service manager is told, by the protocol of sd_notify(3): one datagram to the socket that
 * $NOTIFY_SOCKET names. Without that variable nothing happens. Any thread.
 */
#ifndef SHOAL_OBS_NOTIFY_H
#define SHOAL_OBS_NOTIFY_H

#include <stdint.h>

/* "READY=1", "STOPPING=1", "WATCHDOG=1". */
void shoal_notify(const char *state);
/* RELOADING=1 with the time it asks for; "READY=1" ends it. */
void shoal_notify_reloading(void);
/* How often WATCHDOG=1 is to be sent: half of what the manager waits; 0: it does not. */
uint64_t shoal_notify_watchdog_ms(void);

#endif
