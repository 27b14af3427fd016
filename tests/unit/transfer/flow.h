/* SPDX-License-Identifier: Apache-2.0
 *
 * A second account of what a way takes, by moving things instead of formulas: packets on a link
 * with a delay, steps of a peer, blocks that are decoded when their last packet is there, tokens
 * that follow each other. It shares no code with common/transfer but its structs.
 */
#ifndef SHOAL_TESTS_TRANSFER_FLOW_H
#define SHOAL_TESTS_TRANSFER_FLOW_H

#include "common/transfer/transfer.h"

/* Microseconds until the last token of the answer is here. */
double flow_ids(const shoal_transfer_figures *figures, const shoal_transfer_request *request);
double flow_local(const shoal_transfer_figures *figures, const shoal_transfer_request *request);
double flow_kv(const shoal_transfer_figures *figures, const shoal_transfer_request *request,
               const shoal_transfer_level *level);

#endif
