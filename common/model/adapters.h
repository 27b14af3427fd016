/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapters of one model that requests choose by name, as the setting model.adapters of a daemon
 * lists them. One base serves all of them, rows of different ones in one batch (lora.h).
 */
#ifndef SHOAL_MODEL_ADAPTERS_H
#define SHOAL_MODEL_ADAPTERS_H

#include "common/model/lora.h"

enum {
    SHOAL_ADAPTERS_MAX = 64,
    SHOAL_ADAPTER_NAME_MAX = 64
};

typedef struct shoal_adapter {
    char name[SHOAL_ADAPTER_NAME_MAX + 1];
    shoal_lora *lora; /* whose list this is owns it */
} shoal_adapter;

/* Zeroed memory has none. Immutable after load, for any thread. */
typedef struct shoal_adapters {
    shoal_adapter list[SHOAL_ADAPTERS_MAX];
    size_t n;
} shoal_adapters;

/* "NAME=FILE" or "NAME=FILE=STRENGTH" separated by commas, spaces around them left out; a NAME is
 * as common/base/name.h has it. The model is borrowed until fini. SHOAL_E_INVALID: the text, which
 * the error tells; SHOAL_E_LIMIT: more than SHOAL_ADAPTERS_MAX; what shoal_lora_load says of a
 * file. */
shoal_status shoal_adapters_load(const char *text, const shoal_model *model,
                                 shoal_adapters *ret_adapters, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_adapters_fini(shoal_adapters *adapters);
/* The largest rank of list[0..n), what an engine must have room for; 0: there is none. */
size_t shoal_adapters_rank_max(const shoal_adapter *list, size_t n);

#endif
