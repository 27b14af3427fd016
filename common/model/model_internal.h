/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/model.
 */
#ifndef SHOAL_MODEL_MODEL_INTERNAL_H
#define SHOAL_MODEL_MODEL_INTERNAL_H

#include "common/model/model.h"

/* --- metadata (keys.c) ----------------------------------------------------------------------- */

/* What every reader of keys needs: suffixes are looked up as "<arch>.<suffix>". */
typedef struct shoal_keys {
    const shoal_gguf *gguf;
    const shoal_arch *arch;
    shoal_err *err;
} shoal_keys;

/* A count within [min, max]; inout holds what stands when the key is absent. */
shoal_status shoal_keys_count(const shoal_keys *keys, const char *suffix, size_t min, size_t max,
                              size_t *inout_value) SHOAL_MUST_CHECK;
/* The same for a key that must be there. */
shoal_status shoal_keys_need(const shoal_keys *keys, const char *suffix, size_t max,
                             size_t *ret_value) SHOAL_MUST_CHECK;
/* A number within [min, max]; inout holds what stands when the key is absent. */
shoal_status shoal_keys_real(const shoal_keys *keys, const char *suffix, double min, double max,
                             double *inout_value) SHOAL_MUST_CHECK;
shoal_status shoal_keys_bool(const shoal_keys *keys, const char *suffix,
                             bool *inout_value) SHOAL_MUST_CHECK;
/* Empty when absent. */
shoal_status shoal_keys_str(const shoal_keys *keys, const char *suffix,
                            shoal_str *ret_value) SHOAL_MUST_CHECK;
/* Every key of the architecture must be one that is computed with. */
shoal_status shoal_keys_check_all(const shoal_keys *keys) SHOAL_MUST_CHECK;

/* --- numbers --------------------------------------------------------------------------------- */

/* Reads and validates every number but n_vocab and tied, which follow from tokenizer and tensors
 * (hparams.c). */
shoal_status shoal_hparams_read(const shoal_gguf *gguf, bool expanded, shoal_hparams *ret_hp,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* Exit heads (exits.c): their depths, once n_layers is known; their norms. */
shoal_status shoal_exits_read_layers(const shoal_gguf *gguf, shoal_hparams *hp,
                                     shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_exits_read_norms(shoal_model *model, const shoal_gguf *gguf,
                                    shoal_err *err) SHOAL_MUST_CHECK;
/* Rotation tables, which scaling keys and factor tensors shape (rope.c). May change
 * hp.attn_scale. Tensors that were used are marked. */
shoal_status shoal_rope_read(shoal_model *model, const shoal_gguf *gguf, bool *used,
                             shoal_err *err) SHOAL_MUST_CHECK;

/* --- tensors --------------------------------------------------------------------------------- */

/* Every weight of the model; used has one entry for each tensor of the file (tensors.c). */
shoal_status shoal_tensors_load(shoal_model *model, const shoal_gguf *gguf, bool *used,
                                shoal_err *err) SHOAL_MUST_CHECK;
void shoal_layer_fini(shoal_layer *layer, const shoal_hparams *hp);

#endif
