/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration of shoal-cloud: one table, and how it becomes the settings of node and
 * service. Immutable, any thread.
 */
#ifndef SHOAL_CLOUD_SERVER_CONFIG_KEYS_H
#define SHOAL_CLOUD_SERVER_CONFIG_KEYS_H

#include "cloud/server/node.h"
#include "cloud/server/ops.h"
#include "cloud/server/service.h"
#include "common/config/config.h"

extern const shoal_config_key shoal_cloud_config_keys[];
extern const size_t shoal_cloud_n_config_keys;

typedef struct shoal_cloud_settings {
    shoal_node_settings node;
    shoal_service_settings service;
    shoal_rpc_limits rpc;
    shoal_ops_settings ops; /* address "": none */
    const char *model_path;
    const char *adapters;        /* as shoal_adapters_load takes them */
    const char *edge_model_path; /* whose KV is shipped; "": none */
    shoal_ship_settings ship;
    shoal_fleet_settings fleet; /* folder "": no bundles are served */
    bool huge_pages;
    bool is_upstream; /* backend: upstream */
    shoal_upstream_settings upstream;
    const char *tokenizer_path; /* of the upstream's vocabulary; "": model_path */
    bool is_shared;             /* store.kind is not none */
    shoal_store_settings store;
    const char *store_password_file; /* these two NULL: none */
    const char *store_secret_file;
    uint64_t drain_grace_ms;
} shoal_cloud_settings;

/* What each tenant may use, by the keys tenants.*. SHOAL_E_INVALID names what is wrong. */
shoal_status shoal_cloud_quotas_from(const shoal_config *config, shoal_admit_quotas **ret_quotas,
                                     shoal_err *err) SHOAL_MUST_CHECK;

/* Strings in the result point into config. SHOAL_E_INVALID names the keys that contradict each
 * other. model.path may still be empty: --check-config and --dump-config need no model. */
shoal_status shoal_cloud_settings_from(const shoal_config *config,
                                       shoal_cloud_settings *ret_settings,
                                       shoal_err *err) SHOAL_MUST_CHECK;

#endif
