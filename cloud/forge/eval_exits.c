/* SPDX-License-Identifier: Apache-2.0
 *
 * A model that is left at an exit for every token is a shallower model: its first layers with the
 * exit's norm before the output matrix. So it is asked like any other, by a copy of the model's
 * numbers on the same weights.
 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

shoal_status shoal_forge_answer_exit(const forge_args *args, const shoal_model *model,
                                     size_t exit_i, size_t n_text_max, const eval_quiz *quiz,
                                     eval_answers *ret_answers, shoal_err *err)
{
    SHOAL_ASSERT(exit_i < model->hp.n_exits);
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_model *left = shoal_calloc(1, sizeof *left);
    SHOAL_CLEANUP(shoal_forge_voice_close) eval_voice voice = {0};
    if (!left) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for an exit");
    }
    *left = *model;
    left->hp.n_layers = model->hp.exits[exit_i];
    left->hp.n_exits = 0;
    left->out_norm = model->exit_norm + exit_i * model->hp.dim;
    SHOAL_TRY(shoal_forge_voice_open(args, left, n_text_max, &voice, err));
    return shoal_forge_answer(&voice, quiz, ret_answers, err);
}
