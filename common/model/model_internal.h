/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/model.
 */
#ifndef SHOAL_MODEL_MODEL_INTERNAL_H
#define SHOAL_MODEL_MODEL_INTERNAL_H

#include "common/model/model.h"

/* Reads and validates every number but n_vocab and tied, which follow from tokenizer and tensors.
 */
shoal_status shoal_hparams_read(const shoal_gguf *gguf, shoal_hparams *ret_hp,
                                shoal_err *err) SHOAL_MUST_CHECK;

#endif
