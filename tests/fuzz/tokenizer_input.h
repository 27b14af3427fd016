/* SPDX-License-Identifier: Apache-2.0
 *
 * Turns fuzz bytes into a vocabulary and a text, runs the text through, and checks what must hold
 * for any bytes. The vocabulary has all bytes (unless a flag takes them away) and tokens and
 * merges of the input's own:
 *
 *   flags, n_tokens, n_tokens x (type, score, length, text), n_merges, n_merges x (left, right),
 *   the text.
 */
#ifndef SHOAL_TESTS_FUZZ_TOKENIZER_INPUT_H
#define SHOAL_TESTS_FUZZ_TOKENIZER_INPUT_H

#include <stddef.h>
#include <stdint.h>

/* model is "llama" or "gpt2". */
void fuzz_tokenizer(const char *model, const uint8_t *data, size_t size);

#endif
