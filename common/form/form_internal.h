/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/form: words as both files see them.
 */
#ifndef SHOAL_FORM_FORM_INTERNAL_H
#define SHOAL_FORM_FORM_INTERNAL_H

#include "common/form/form.h"

struct shoal_form_words {
    const shoal_tokenizer *tokenizer;
    size_t n_vocab;
    shoal_grammar_vocab *vocab;
    int32_t *ends; /* [n_ends] */
    size_t n_ends;
};

#endif
