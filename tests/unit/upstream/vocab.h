/* SPDX-License-Identifier: Apache-2.0
 *
 * The tests' tokenizers: a byte-level one, the family's, and one of SentencePiece, which puts a
 * space before every text. For shoal_tokenizer_free.
 */
#ifndef SHOAL_TESTS_UNIT_UPSTREAM_VOCAB_H
#define SHOAL_TESTS_UNIT_UPSTREAM_VOCAB_H

#include "common/tokenizer/tokenizer.h"

shoal_tokenizer *vocab_family(void);
shoal_tokenizer *vocab_tiny(void);

#endif
