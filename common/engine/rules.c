/* SPDX-License-Identifier: Apache-2.0 */
#include "common/engine/rules.h"

#include "common/base/file.h"
#include "common/weight/pack.h"

#include <math.h>
#include <string.h>

static shoal_status read_fitted(const shoal_gguf *gguf, const shoal_model *model,
                                shoal_exit_fitted *fitted, shoal_err *err)
{
    for (size_t i = 0; i < model->hp.n_exits; i++) {
        char prefix[SHOAL_EXIT_PREFIX_MAX];
        shoal_exit_prefix(model->hp.exits[i], prefix);
        SHOAL_TRY(shoal_exit_set_read(gguf, prefix, &fitted->sets[i], err));
    }
    shoal_exit_calibration calibration;
    shoal_hash subject;
    shoal_status status =
        shoal_exit_calibration_read(gguf, SHOAL_EXIT_CALIBRATION, &calibration, err);
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    SHOAL_TRY(status);
    SHOAL_TRY(shoal_exit_subject(gguf, &model->hash, &subject, err));
    fitted->calibrated = true;
    fitted->fits = shoal_exit_calibration_fits(&calibration, &subject, NULL) == SHOAL_OK;
    return SHOAL_OK;
}

shoal_status shoal_exit_fitted_load(const char *path, const shoal_model *model,
                                    shoal_exit_fitted *ret_fitted, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_exit_fitted fitted = {.n_exits = model->hp.n_exits};
    if (fitted.n_exits > 0) {
        SHOAL_TRY(shoal_map_open(path, &map, err));
        SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
        SHOAL_TRY(read_fitted(gguf, model, &fitted, err));
    }
    *ret_fitted = fitted;
    return SHOAL_OK;
}

static bool needs_no_fitting(shoal_exit_kind kind)
{
    return kind == SHOAL_EXIT_FIXED || kind == SHOAL_EXIT_MARGIN || kind == SHOAL_EXIT_ENTROPY;
}

/* The fitted policies of a kind, or that kind with a threshold alone. */
static shoal_status choose_kind(const shoal_exit_fitted *fitted, shoal_exit_kind kind,
                                bool has_threshold, shoal_exit_rule *rules, shoal_err *err)
{
    const char *name = shoal_exit_kind_name(kind);
    bool bare = has_threshold && needs_no_fitting(kind);
    if (!bare && fitted->calibrated && !fitted->fits) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "exit policy \"%s\": the model's policies were fitted to other "
                             "weights; run shoal-forge calibrate on it",
                             name);
    }
    for (size_t i = 0; i < fitted->n_exits; i++) {
        rules[i].on = bare || fitted->sets[i].has[kind];
        if (fitted->sets[i].has[kind]) {
            rules[i].policy = fitted->sets[i].policies[kind];
        }
        rules[i].policy.kind = kind;
    }
    if (!shoal_exit_rules_any(rules, fitted->n_exits)) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "exit policy \"%s\": the model has none fitted; run shoal-forge "
                             "calibrate on it, or give \"fixed\", \"margin\" or \"entropy\" a "
                             "threshold",
                             name);
    }
    return SHOAL_OK;
}

shoal_status shoal_exit_rules_choose(const shoal_exit_fitted *fitted, const char *name,
                                     float threshold, shoal_exit_rule *ret_rules, shoal_err *err)
{
    shoal_exit_rule rules[SHOAL_MODEL_EXITS_MAX] = {0};
    shoal_exit_kind kind = SHOAL_EXIT_FIXED;
    bool off = strcmp(name, "off") == 0;
    bool has_threshold = !isnan(threshold);
    if (!off && fitted->n_exits == 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "exit policy \"%.40s\": the model has no exits; use \"off\"", name);
    }
    if (strchr(name, ':')) {
        shoal_exit_policy policy;
        SHOAL_TRY(shoal_exit_policy_parse(name, &policy, err));
        for (size_t i = 0; i < fitted->n_exits; i++) {
            rules[i] = (shoal_exit_rule){.on = true, .policy = policy};
        }
    } else if (!off && shoal_exit_kind_parse(name, &kind) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "exit policy \"%.40s\": known are off, fixed, margin, entropy, "
                             "linear, percentile and risk",
                             name);
    } else if (!off) {
        SHOAL_TRY(choose_kind(fitted, kind, has_threshold, rules, err));
    }
    for (size_t i = 0; has_threshold && i < fitted->n_exits; i++) {
        if (rules[i].on) {
            rules[i].policy.threshold = threshold;
            shoal_status status = shoal_exit_policy_check(&rules[i].policy, err);
            if (status != SHOAL_OK) {
                return SHOAL_E_INVALID;
            }
        }
    }
    memcpy(ret_rules, rules, fitted->n_exits * sizeof *rules);
    return SHOAL_OK;
}

bool shoal_exit_rules_any(const shoal_exit_rule *rules, size_t n_exits)
{
    for (size_t i = 0; i < n_exits; i++) {
        if (rules[i].on) {
            return true;
        }
    }
    return false;
}
