/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/windows.h"

#include "common/base/mem.h"
#include "common/train/loss.h"

shoal_status shoal_forge_windows_init(forge_windows *w, const shoal_model *model, size_t n_max,
                                      shoal_err *err)
{
    SHOAL_TRY(shoal_params_new(&model->hp, NULL, 0, &w->params, err));
    SHOAL_TRY(shoal_params_from_model(w->params, model, err));
    w->n_max = n_max;
    w->targets = shoal_calloc(n_max, sizeof *w->targets);
    w->positions = shoal_calloc(n_max, sizeof *w->positions);
    if (!w->targets || !w->positions ||
        shoal_net_new(w->params, n_max, n_max, &w->net) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM,
                             "no memory for windows of %zu tokens: a smaller --window needs less",
                             n_max);
    }
    for (size_t i = 0; i < n_max; i++) {
        w->targets[i] = i;
        w->positions[i] = (int32_t)i;
    }
    return SHOAL_OK;
}

void shoal_forge_windows_fini(forge_windows *w)
{
    shoal_net_free(w->net);
    shoal_params_free(w->params);
    shoal_free(w->targets);
    shoal_free(w->positions);
}

void shoal_forge_windows_run(forge_windows *w, const int32_t *ids, size_t n)
{
    SHOAL_ASSERT(n >= 1 && n <= w->n_max);
    w->segments[0] = 0;
    w->segments[1] = n;
    w->batch = (shoal_batch){.n_tokens = n,
                             .ids = ids,
                             .positions = w->positions,
                             .n_segments = 1,
                             .segments = w->segments,
                             .n_targets = n,
                             .targets = w->targets};
    shoal_net_forward(w->net, w->params, &w->batch);
}

void shoal_forge_windows_learn(forge_windows *w, const int32_t *ids, size_t n, const int32_t *next,
                               const float *weights, float *grads)
{
    shoal_forge_windows_run(w, ids, n);
    float *logits = shoal_net_logits(w->net, 0); /* there are no exits, so that is the output */
    (void)shoal_loss_cross_entropy(n, w->params->hp.n_vocab, next, weights, logits);
    shoal_net_backward(w->net, w->params, &w->batch, grads);
}
