/* SPDX-License-Identifier: Apache-2.0
 *
 * Exit heads of a file. They are metadata and not tensors, so that a reader who knows nothing of
 * exits reads the same model: a head is a norm of its own before the output matrix all share.
 */
#include "common/model/model_internal.h"

#include "common/base/mem.h"

#include <math.h>

/* 0 exits when the key is absent. */
static shoal_status read_count(const shoal_gguf *gguf, size_t *ret_n, shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_I32;
    size_t n = 0;
    shoal_status status = shoal_gguf_get_array(gguf, SHOAL_EXIT_LAYERS_KEY, &element, &n, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        *ret_n = 0;
        return SHOAL_OK;
    }
    if (status != SHOAL_OK || element != SHOAL_GGUF_I32) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: an array of i32 is expected",
                             SHOAL_EXIT_LAYERS_KEY);
    }
    if (n < 1 || n > SHOAL_MODEL_EXITS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s: %zu exits are outside 1 to %d; a model without exits has no such "
                             "key",
                             SHOAL_EXIT_LAYERS_KEY, n, (int)SHOAL_MODEL_EXITS_MAX);
    }
    *ret_n = n;
    return SHOAL_OK;
}

shoal_status shoal_exits_read_layers(const shoal_gguf *gguf, shoal_hparams *hp, shoal_err *err)
{
    size_t n = 0;
    SHOAL_TRY(read_count(gguf, &n, err));
    int64_t below = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t layers = shoal_gguf_array_i64(gguf, SHOAL_EXIT_LAYERS_KEY, i);
        if (layers <= below || layers >= (int64_t)hp->n_layers) {
            return shoal_err_set(
                err, SHOAL_E_INVALID,
                "%s: exit %zu after %lld layers; counts ascend, each from 1 to %zu",
                SHOAL_EXIT_LAYERS_KEY, i, (long long)layers, hp->n_layers - 1);
        }
        hp->exits[i] = (size_t)layers;
        below = layers;
    }
    hp->n_exits = n;
    return SHOAL_OK;
}

shoal_status shoal_exits_read_norms(shoal_model *model, const shoal_gguf *gguf, shoal_err *err)
{
    const shoal_hparams *hp = &model->hp;
    shoal_gguf_kind element = SHOAL_GGUF_F32;
    size_t n = 0;
    shoal_status status = shoal_gguf_get_array(gguf, SHOAL_EXIT_NORM_KEY, &element, &n, NULL);
    if (status == SHOAL_E_NOTFOUND && hp->n_exits == 0) {
        return SHOAL_OK;
    }
    if (status != SHOAL_OK || element != SHOAL_GGUF_F32 || n != hp->n_exits * hp->dim) {
        return shoal_err_set(
            err, status == SHOAL_E_NOTFOUND ? status : SHOAL_E_INVALID,
            "%s: %zu numbers, an array of %zu f32 is expected: %zu for each of %zu "
            "exits in %s",
            SHOAL_EXIT_NORM_KEY, n, hp->n_exits * hp->dim, hp->dim, hp->n_exits,
            SHOAL_EXIT_LAYERS_KEY);
    }
    SHOAL_CLEANUP(shoal_free_cleanup) double *wide = shoal_calloc(n, sizeof *wide);
    model->exit_norm = shoal_calloc_aligned(n, sizeof *model->exit_norm);
    if (!wide || !model->exit_norm) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the norms of %zu exits",
                             hp->n_exits);
    }
    shoal_gguf_array_f64s(gguf, SHOAL_EXIT_NORM_KEY, 0, n, wide);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(wide[i])) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s: number %zu is not finite",
                                 SHOAL_EXIT_NORM_KEY, i);
        }
        model->exit_norm[i] = (float)wide[i];
    }
    return SHOAL_OK;
}
