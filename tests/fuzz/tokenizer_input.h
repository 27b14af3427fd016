/* SPDX-License-Identifier: Apache-2.0
 *
 * Turns fuzz bytes into a vocabulary and a text, runs the text through, and checks what must hold
 * for any bytes: what comes out is UTF-8 at any moment, the text comes back where the vocabulary
 * has its bytes, a second tokenizer of the same file agrees, the contents of a message add nothing
 * to the markup of a conversation, and a refusal names a key. The input:
 *
 *   flags, rule, template, n_tokens, n_tokens x (type, score, length, text), n_merges,
 *   n_merges x (left, right), the text.
 */
#ifndef SHOAL_TESTS_FUZZ_TOKENIZER_INPUT_H
#define SHOAL_TESTS_FUZZ_TOKENIZER_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* -1 for an input too long to be worth keeping, else 0. */
int fuzz_tokenizer(bool spm, const uint8_t *data, size_t size);

#endif
