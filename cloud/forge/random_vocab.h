/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: a made-up byte-level BPE vocabulary of any size, for models of random
 * weights. It holds the 256 bytes, then every string of two, three and four symbols over a to z and
 * the space in front, until it is full, then control tokens. It encodes any text and costs as much
 * to load as a trained vocabulary of its size.
 */
#ifndef SHOAL_FORGE_RANDOM_VOCAB_H
#define SHOAL_FORGE_RANDOM_VOCAB_H

#include "common/tensor/gguf.h"

typedef struct forge_vocab {
    size_t n_tokens;   /* at least 256 + n_special, at most SHOAL_FORGE_VOCAB_MAX */
    size_t n_special;  /* at least 3: begin, end of text, end of turn */
    size_t splits_max; /* merge rules per token at most: trained vocabularies have one to three */
    const char *pre;   /* tokenizer.ggml.pre */
} forge_vocab;

enum {
    SHOAL_FORGE_VOCAB_MAX = 400000
};

/* Writes the metadata of the tokenizer. */
shoal_status shoal_forge_put_vocab(shoal_gguf_writer *writer, const forge_vocab *vocab,
                                   shoal_err *err) SHOAL_MUST_CHECK;

#endif
