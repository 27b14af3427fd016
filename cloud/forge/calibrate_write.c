/* SPDX-License-Identifier: Apache-2.0
 *
 * The same file with other policies. Tensors go through as bytes: memory never holds a model.
 */
#include "cloud/forge/calibrate.h"

#include "common/base/file.h"
#include "common/weight/pack.h"

#include <stdio.h>
#include <string.h>

bool shoal_forge_calib_is_fitted(shoal_str key)
{
    static const char *const prefixes[] = {"shoal.exit.policy.", "shoal.exit.calibration.",
                                           "shoal.escalate."};
    for (size_t i = 0; i < SHOAL_COUNT(prefixes); i++) {
        size_t n = strlen(prefixes[i]);
        if (key.length >= n && memcmp(key.data, prefixes[i], n) == 0) {
            return true;
        }
    }
    return false;
}

static shoal_status put_result(shoal_gguf_writer *w, const shoal_hparams *hp,
                               const calib_result *result)
{
    for (size_t i = 0; i < hp->n_exits; i++) {
        char prefix[SHOAL_EXIT_PREFIX_MAX];
        shoal_exit_prefix(hp->exits[i], prefix);
        SHOAL_TRY(shoal_exit_set_put(w, prefix, &result->sets[i]));
    }
    if (hp->n_exits > 0) {
        SHOAL_TRY(shoal_exit_calibration_put(w, SHOAL_EXIT_CALIBRATION, &result->calibration));
    }
    SHOAL_TRY(shoal_exit_set_put(w, SHOAL_ESCALATE_POLICY, &result->sets[hp->n_exits]));
    SHOAL_TRY(shoal_exit_risks_put(w, SHOAL_ESCALATE_POLICY, &result->risks));
    return shoal_exit_calibration_put(w, SHOAL_ESCALATE_CALIBRATION, &result->calibration);
}

static shoal_status describe(const shoal_gguf *gguf, const shoal_hparams *hp,
                             const calib_result *result, shoal_gguf_writer *w)
{
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        shoal_str key = shoal_gguf_key_at(gguf, i);
        if (!shoal_forge_calib_is_fitted(key)) {
            SHOAL_TRY(shoal_gguf_put_raw(w, key, shoal_gguf_raw_at(gguf, i)));
        }
    }
    SHOAL_TRY(put_result(w, hp, result));
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        SHOAL_TRY(shoal_gguf_put_tensor(w, name, t->type, t->dims, t->n_dims, NULL));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_calib_write(const shoal_gguf *gguf, const shoal_hparams *hp,
                                     const calib_result *result, const char *path, shoal_err *err)
{
    static const char zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    shoal_status status = shoal_gguf_writer_new(&w);
    status = status == SHOAL_OK ? describe(gguf, hp, result, w) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the output cannot be described: %s",
                             shoal_status_text(status));
    }
    SHOAL_TRY(shoal_gguf_writer_head(w, &head, err));
    SHOAL_TRY(shoal_file_out_open(path, &out, err));
    SHOAL_TRY(shoal_file_out_write(out, head.data, head.length, err));
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        SHOAL_TRY(shoal_file_out_write(out, t->data, (size_t)t->size_bytes, err));
        SHOAL_TRY(
            shoal_file_out_write(out, zeros, shoal_gguf_writer_padding(w, t->size_bytes), err));
    }
    return shoal_file_out_commit(out, err);
}
