/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapters that requests may choose by their names: those of model.adapters, loaded for one
 * model. One base serves all of them, rows of different ones in one batch (common/model/lora.h).
 */
#ifndef SHOAL_EDGE_DAEMON_ADAPTERS_H
#define SHOAL_EDGE_DAEMON_ADAPTERS_H

#include "edge/coop/coop.h"

/* Zeroed memory has none. */
typedef struct shoal_adapters {
    shoal_coop_adapter list[SHOAL_COOP_ADAPTERS_MAX];
    size_t n;
} shoal_adapters;

/* "NAME=FILE" or "NAME=FILE=STRENGTH" separated by commas, spaces around them left out; a NAME is
 * as shoal_session_name_ok has it. The model is borrowed until fini. SHOAL_E_INVALID: the text,
 * which the error tells; SHOAL_E_LIMIT: more than SHOAL_COOP_ADAPTERS_MAX; what shoal_lora_load
 * says of a file. */
shoal_status shoal_adapters_load(const char *text, const shoal_model *model,
                                 shoal_adapters *ret_adapters, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_adapters_fini(shoal_adapters *adapters);

#endif
