/* SPDX-License-Identifier: Apache-2.0
 *
 * What the edge model's file says of when to ask the cloud: the policy that shoal-forge calibrate
 * fitted to its full depth.
 */
#ifndef SHOAL_EDGE_ESCALATION_H
#define SHOAL_EDGE_ESCALATION_H

#include "common/exit/exit.h"
#include "common/model/model.h"

/* ret_risks: thresholds of more risks, as the file has them. *ret_has is false where the file has
 * no RISK policy, or one that was fitted to other weights than the model's: its risk would say
 * nothing here. Errors are those of a broken file. */
shoal_status shoal_edge_escalation(const char *path, const shoal_model *model, bool *ret_has,
                                   shoal_exit_policy *ret_policy, shoal_exit_risks *ret_risks,
                                   shoal_err *err) SHOAL_MUST_CHECK;

#endif
