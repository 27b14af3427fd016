/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to edge/coop: the engine thread's body.
 */
#ifndef SHOAL_COOP_LOOP_H
#define SHOAL_COOP_LOOP_H

#include "edge/coop/coop_internal.h"

/* Runs until stopping is set and nothing is under way; ctx is the shoal_coop. */
void shoal_coop_loop(void *ctx);

#endif
