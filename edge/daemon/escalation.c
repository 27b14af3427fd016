/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/daemon/escalation.h"

#include "common/base/file.h"
#include "common/exit/store.h"
#include "common/weight/pack.h"

shoal_status shoal_edge_escalation(const char *path, const shoal_model *model, bool *ret_has,
                                   shoal_exit_policy *ret_policy, shoal_exit_risks *ret_risks,
                                   shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_exit_set set = {0};
    shoal_exit_calibration calibration = {0};
    shoal_hash subject;
    SHOAL_TRY(shoal_map_open(path, &map, err));
    SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
    SHOAL_TRY(shoal_exit_set_read(gguf, SHOAL_ESCALATE_POLICY, &set, err));
    SHOAL_TRY(shoal_exit_risks_read(gguf, SHOAL_ESCALATE_POLICY, ret_risks, err));
    SHOAL_TRY(shoal_exit_subject(gguf, &model->hash, &subject, err));
    shoal_status status =
        shoal_exit_calibration_read(gguf, SHOAL_ESCALATE_CALIBRATION, &calibration, err);
    if (status != SHOAL_OK && status != SHOAL_E_NOTFOUND) {
        return status;
    }
    *ret_has = status == SHOAL_OK && set.has[SHOAL_EXIT_RISK] &&
               shoal_exit_calibration_fits(&calibration, &subject, NULL) == SHOAL_OK;
    *ret_policy = set.policies[SHOAL_EXIT_RISK];
    return SHOAL_OK;
}
