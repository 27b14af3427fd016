/* SPDX-License-Identifier: Apache-2.0
 *
 * Learning a byte-level BPE vocabulary from text (Sennrich et al., arXiv 1508.07909): the pair of
 * neighbours that occurs most often becomes a token, again and again; of equals the lower pair of
 * ids. Pieces are cut by the very code that cuts them for encoding, with GPT-2's rule, and nothing
 * merges across them. What comes out is a function of the texts, their weights and the settings:
 * neither of the order of the texts nor of the machine.
 *
 * A text that is encoded with the vocabulary falls into the tokens that learning ended with: a
 * token has one rule that makes it, so a pair whose text is a token already is passed over.
 *
 * One thread at a time. The memory is bounded by the limits below: some 25 bytes for a byte of
 * distinct words, 50 for each of these words and 52 for each pair that may still merge.
 */
#ifndef SHOAL_TOKENIZER_TRAIN_H
#define SHOAL_TOKENIZER_TRAIN_H

#include "common/base/buf.h"
#include "common/tensor/gguf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_BPE_TEXT_MAX = 1 << 30,   /* bytes of all texts together */
    SHOAL_BPE_WORDS_MAX = 32 << 20, /* bytes of all distinct pieces together */
    SHOAL_BPE_WEIGHT_MAX = 1 << 30, /* how often a text counts */
    SHOAL_BPE_LENGTH_MAX = 1024,    /* bytes of a learnt token */
    SHOAL_BPE_CONTROLS = 6,         /* <s> </s> [INST] [/INST] <unk> <pad> */
    SHOAL_BPE_VOCAB_MIN = SHOAL_BPE_CONTROLS + 256
};

typedef struct shoal_bpe_settings {
    size_t n_vocab;     /* tokens wanted, SHOAL_BPE_VOCAB_MIN to SHOAL_VOCAB_MAX */
    size_t length_max;  /* bytes of a token, 1 to SHOAL_BPE_LENGTH_MAX */
    uint64_t count_min; /* what a pair must count to be joined, at least 1 */
} shoal_bpe_settings;

typedef struct shoal_bpe_trainer shoal_bpe_trainer;

shoal_status shoal_bpe_trainer_new(const shoal_bpe_settings *settings,
                                   shoal_bpe_trainer **ret_trainer,
                                   shoal_err *err) SHOAL_MUST_CHECK;
void shoal_bpe_trainer_free(shoal_bpe_trainer *trainer);
SHOAL_DEFINE_CLEANUP(shoal_bpe_trainer, shoal_bpe_trainer_free)

/* Counts the pieces of any bytes, each `weight` times. Not after learning. When it fails, part of
 * the text may have been counted. */
shoal_status shoal_bpe_trainer_add(shoal_bpe_trainer *trainer, shoal_str text, uint64_t weight,
                                   shoal_err *err) SHOAL_MUST_CHECK;
/* Joins pairs until there are as many tokens as wanted or no pair is left; once. */
shoal_status shoal_bpe_trainer_learn(shoal_bpe_trainer *trainer, shoal_err *err) SHOAL_MUST_CHECK;

/* What the texts are. Weighted counts; a byte that is no UTF-8 is a token. */
typedef struct shoal_bpe_stats {
    size_t n_vocab;   /* tokens there are: fewer than wanted when no pair was left */
    size_t n_words;   /* distinct pieces */
    uint64_t n_bytes; /* of the texts */
    uint64_t n_tokens;
    uint64_t last_count; /* of the pair joined last, 0: none was */
} shoal_bpe_stats;
shoal_bpe_stats shoal_bpe_trainer_stats(const shoal_bpe_trainer *trainer);

/* Puts the vocabulary into a file's metadata, tokenizer.ggml.* and the chat template: first the
 * control tokens, then a token for each byte in order, then what was learnt in order. */
shoal_status shoal_bpe_trainer_write(const shoal_bpe_trainer *trainer, shoal_gguf_writer *writer,
                                     shoal_err *err) SHOAL_MUST_CHECK;

#endif
