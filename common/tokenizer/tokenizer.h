/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to token ids and back, from a GGUF's vocabulary: SPM (sentencepiece-like score merging with
 * byte fall-back) and byte-level BPE (GPT-2 merges, PCRE2 pre-split). Ids and texts are hostile.
 * Immutable after build, so one tokenizer serves any number of threads.
 */
#ifndef SHOAL_TOKENIZER_TOKENIZER_H
#define SHOAL_TOKENIZER_TOKENIZER_H

#include "common/base/buf.h"
#include "common/base/hash.h"
#include "common/tensor/gguf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_VOCAB_MAX = 1 << 20,    /* tokens in a vocabulary */
    SHOAL_TOKEN_TEXT_MAX = 65536, /* bytes of one token's text */
    SHOAL_TEXT_MAX = 16 << 20     /* bytes of one text to encode */
};

typedef struct shoal_tokenizer shoal_tokenizer;

/* Everything is copied out of the file. Errors name the metadata key. SHOAL_E_UNSUPPORTED lists the
 * tokenizer models or pre-tokenizers that are known. */
shoal_status shoal_tokenizer_new(const shoal_gguf *gguf, shoal_tokenizer **ret_tokenizer,
                                 shoal_err *err) SHOAL_MUST_CHECK;
void shoal_tokenizer_free(shoal_tokenizer *tokenizer);
SHOAL_DEFINE_CLEANUP(shoal_tokenizer, shoal_tokenizer_free)

size_t shoal_tokenizer_n_vocab(const shoal_tokenizer *tokenizer);
int32_t shoal_tokenizer_bos(const shoal_tokenizer *tokenizer); /* -1: none */
int32_t shoal_tokenizer_eos(const shoal_tokenizer *tokenizer); /* -1: none */
bool shoal_tokenizer_adds_bos(const shoal_tokenizer *tokenizer);
bool shoal_tokenizer_adds_eos(const shoal_tokenizer *tokenizer);
/* End-of-generation: eos, eot and the known end-of-turn texts. False for ids out of range. */
bool shoal_tokenizer_is_end(const shoal_tokenizer *tokenizer, int32_t id);
/* SHA-256 over model, texts, scores, types, merges and special ids (R9). */
const shoal_hash *shoal_tokenizer_hash(const shoal_tokenizer *tokenizer);
/* SHA-256 of the chat template text (of nothing when there is none). */
const shoal_hash *shoal_tokenizer_template_hash(const shoal_tokenizer *tokenizer);
/* The token's text as stored; empty for ids out of range. */
shoal_str shoal_tokenizer_text(const shoal_tokenizer *tokenizer, int32_t id);

typedef struct shoal_encode_flags {
    bool add_bos;       /* put BOS first when the vocabulary wants it */
    bool add_eos;       /* put EOS last when the vocabulary wants it; not for what goes on */
    bool parse_special; /* texts of control tokens become those tokens; else they are plain text */
} shoal_encode_flags;

/* ids is allocated by the function (shoal_free). Invalid UTF-8 is encoded byte by byte.
 * SHOAL_E_LIMIT past SHOAL_TEXT_MAX. */
shoal_status shoal_tokenizer_encode(const shoal_tokenizer *tokenizer, const char *text, size_t n,
                                    shoal_encode_flags flags, int32_t **ret_ids, size_t *ret_n,
                                    shoal_err *err) SHOAL_MUST_CHECK;

/* Streaming decode: only whole UTF-8 characters come out; a byte that cannot begin or continue a
 * character becomes U+FFFD. Zeroed memory is the start of a text. One thread. */
typedef struct shoal_detok {
    uint8_t pending[4]; /* bytes of a character not yet whole */
    uint8_t n_pending;
    bool started; /* the leading space of SPM has been dropped */
} shoal_detok;

enum {
    SHOAL_DETOK_OUT_MAX = SHOAL_TOKEN_TEXT_MAX * 3 + 16
};

/* Appends the text that id completes (maybe nothing). Control tokens give nothing. With
 * `raw_start` in the first call semantics: set state->started = true beforehand to keep a leading
 * space (continuation of a prompt). */
shoal_status shoal_detok_push(const shoal_tokenizer *tokenizer, shoal_detok *state, int32_t id,
                              shoal_buf *buf) SHOAL_MUST_CHECK;
/* At the end: pending bytes become one U+FFFD. */
shoal_status shoal_detok_finish(shoal_detok *state, shoal_buf *buf) SHOAL_MUST_CHECK;

/* --- chat ----------------------------------------------------------------------------------- */

typedef struct shoal_chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
} shoal_chat_message;

/* Writes messages and the opening of the assistant's turn by the model's template, recognised from
 * a closed set, and encodes them, BOS included; SHOAL_E_UNSUPPORTED lists the set. A model without
 * a template gets the contents joined by newlines. The template's own markup becomes control
 * tokens; what stands in a message never does, whatever it says. ids is for shoal_free. */
shoal_status shoal_chat_encode(const shoal_tokenizer *tokenizer, const shoal_chat_message *messages,
                               size_t n, int32_t **ret_ids, size_t *ret_n,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* The text that shoal_chat_encode encodes, appended, without a first BOS: to be shown to people.
 * Encoding it with parse_special would make control tokens of what messages contain. */
shoal_status shoal_chat_render(const shoal_tokenizer *tokenizer, const shoal_chat_message *messages,
                               size_t n, shoal_buf *buf, shoal_err *err) SHOAL_MUST_CHECK;
/* Name of the recognised template: "none", "chatml", "llama3", ..., or "unsupported". */
const char *shoal_chat_template_name(const shoal_tokenizer *tokenizer);

#endif
