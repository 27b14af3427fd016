/* SPDX-License-Identifier: Apache-2.0
 *
 * Every setting of shoal-edge in one table, and its translation into what the parts take.
 */
#ifndef SHOAL_EDGE_DAEMON_CONFIG_KEYS_H
#define SHOAL_EDGE_DAEMON_CONFIG_KEYS_H

#include "common/config/config.h"
#include "edge/coop/coop.h"
#include "edge/fleet/updater.h"
#include "edge/http/api.h"

extern const shoal_config_key shoal_edge_config_keys[];
extern const size_t shoal_edge_n_config_keys;

/* Strings are borrowed from config. Errors name the key. */
shoal_status shoal_edge_coop_settings(const shoal_config *config, shoal_coop_settings *ret_settings,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* Of the link to the cloud; every member NULL: plaintext. Strings are borrowed from config. */
shoal_rpc_tls shoal_edge_cloud_tls(const shoal_config *config);
shoal_spend_limits shoal_edge_spend_limits(const shoal_config *config);
/* Beyond loopback the API needs a key, or the word that it shall have none. */
shoal_status shoal_edge_check_exposure(const shoal_config *config, shoal_err *err) SHOAL_MUST_CHECK;
shoal_http_settings shoal_edge_http_settings(const shoal_config *config);
/* calibrated: the model's file says when to ask the cloud, so that mode auto is assist. name is
 * where a model's name is put when it is neither configured nor in the file. */
shoal_api_settings shoal_edge_api_settings(const shoal_config *config, const shoal_model *model,
                                           bool calibrated, char name[128]);

/* Of requests that name none, where auto. */
shoal_mode shoal_edge_mode(const shoal_config *config, bool calibrated);

/* folder "": no bundles are taken. Strings are borrowed from config; errors name the key. */
shoal_status shoal_edge_updater_settings(const shoal_config *config,
                                         shoal_updater_settings *ret_settings,
                                         shoal_err *err) SHOAL_MUST_CHECK;

/* What must not leave the device; *ret_rules is NULL where redact.enabled is false. */
shoal_status shoal_edge_redact_rules(const shoal_config *config, shoal_redact_rules **ret_rules,
                                     shoal_err *err) SHOAL_MUST_CHECK;

#endif
