/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/redact: the list of names, and what finds words.
 */
#ifndef SHOAL_REDACT_REDACT_INTERNAL_H
#define SHOAL_REDACT_REDACT_INTERNAL_H

#include "common/redact/redact.h"

struct shoal_redact_rules {
    bool kinds[SHOAL_REDACT_KINDS];
    char *names; /* each with a NUL, in lower case; owned */
    size_t n_names;
};

/* Length of a word of that kind which begins at text + at, 0: none does. */
size_t shoal_redact_find(const shoal_redact_rules *rules, const char *text, size_t at, size_t n,
                         shoal_redact_kind *ret_kind);

#endif
