/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids for a text that an engine sends in pieces without its ids, and text for ids where an engine
 * takes no ids. The ids given out always decode to exactly the text that came; they may differ from
 * those the engine sampled. One thread.
 */
#ifndef SHOAL_UPSTREAM_RETOKEN_H
#define SHOAL_UPSTREAM_RETOKEN_H

#include "common/base/err.h"
#include "common/tokenizer/tokenizer.h"

enum {
    SHOAL_RETOKEN_HELD_MAX = 256 /* bytes held back for a word to end */
};

/* How much of a text that goes on may be encoded now: all before the last run of white space, which
 * with what follows it is a token of its own in every vocabulary we read; of a text without one,
 * once it is longer than SHOAL_RETOKEN_HELD_MAX, all of it. n_text for the last piece is the
 * caller's. */
size_t shoal_retoken_ready(const char *text, size_t n_text);

/* Ids of a text that continues another one: without BOS, without the space that some vocabularies
 * put before a text. What spells a control token stays text. The ids decode to the text, which is
 * checked: SHOAL_E_UNSUPPORTED where the vocabulary has no such ids. ret_ids is for shoal_free. */
shoal_status shoal_retoken_encode(const shoal_tokenizer *tokenizer, const char *text, size_t n,
                                  int32_t **ret_ids, size_t *ret_n,
                                  shoal_err *err) SHOAL_MUST_CHECK;

/* Appends the text of a prompt: control tokens by their names, without the BOS that an engine puts
 * there itself. SHOAL_E_UNSUPPORTED: the ids end within a character, which no text can say. */
shoal_status shoal_retoken_prompt(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                  shoal_buf *buf, shoal_err *err) SHOAL_MUST_CHECK;

/* The one id whose text this is; -1: none or several. */
int32_t shoal_retoken_single_id(const shoal_tokenizer *tokenizer, const char *text, size_t n);
/* An id that ends a generation; -1: the vocabulary has none. */
int32_t shoal_retoken_end_id(const shoal_tokenizer *tokenizer);

#endif
