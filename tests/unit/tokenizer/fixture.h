/* SPDX-License-Identifier: Apache-2.0
 *
 * Vocabularies made in memory for the tokenizer's tests. One test at a time; everything asserts.
 */
#ifndef SHOAL_TESTS_UNIT_TOKENIZER_FIXTURE_H
#define SHOAL_TESTS_UNIT_TOKENIZER_FIXTURE_H

#include "common/tokenizer/tokenizer.h"

/* What goes into the file. Arrays grow through the functions below; a field left NULL or -1 is
 * absent from the file. */
typedef struct fixture {
    const char *model;
    const char *pre;
    const char *chat_template;
    shoal_str *tokens;
    float *scores;
    int32_t *types;
    size_t n_tokens;
    size_t capacity;
    shoal_str *merges;
    size_t n_merges;
    size_t merges_capacity;
    size_t n_scores; /* SIZE_MAX: as many as tokens */
    size_t n_types;  /* SIZE_MAX: as many as tokens; 0: absent */
    bool no_merges;  /* leave the key out */
    bool no_scores;  /* leave the key out */
    int64_t bos;
    int64_t eos;
    int64_t eot;
    int64_t unknown;
    int add_space_prefix; /* -1: absent */
    int add_bos;          /* -1: absent */
    int add_eos;          /* -1: absent */
    int squeeze;          /* remove_extra_whitespaces; -1: absent */
} fixture;

/* <unk> <s> </s>, 256 bytes, a space, letters and a few words: SPM. */
void fixture_init_spm(fixture *f);
/* 256 byte characters, a few words, <|endoftext|>: byte-level BPE. */
void fixture_init_bpe(fixture *f);
/* Neither tokens nor keys but the model. */
void fixture_init_empty(fixture *f, const char *model);
void fixture_fini(fixture *f);

/* Copies text; returns the id. */
int32_t fixture_add(fixture *f, const char *text, size_t n, float score, int32_t type);
void fixture_add_merge(fixture *f, const char *rule, size_t n);
/* Forgets all tokens from n on and all merges. */
void fixture_truncate(fixture *f, size_t n);
/* The first token of this text; asserts that there is one. */
int32_t fixture_id(const fixture *f, const char *text);
/* The character that stands for a byte in BPE texts, NUL-terminated. */
void fixture_byte_char(unsigned byte, char ret_text[3]);

/* Writes the file, reads it back and makes a tokenizer of it. */
shoal_status fixture_load(const fixture *f, shoal_tokenizer **ret_tokenizer, shoal_err *err);
shoal_tokenizer *fixture_load_ok(const fixture *f);
/* Loading must fail with this status and name the text (a key) in its error. */
void fixture_refused(const fixture *f, shoal_status status, const char *text);
/* The open file, for sweeps over the tokenizer's own allocations. bytes is for the caller to free
 * with shoal_buf_fini after the file is closed. */
shoal_gguf *fixture_open(const fixture *f, shoal_buf *bytes);

/* Encodes and decodes again; the text must come back. */
void fixture_round_trip(const shoal_tokenizer *tokenizer, const char *text, size_t n);
/* Decodes ids into buf from a fresh state, with finish. */
void fixture_decode(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n, shoal_buf *buf);
/* What bytes look like when every longest ill-formed run becomes U+FFFD. */
void fixture_lossy(const char *text, size_t n, shoal_buf *buf);

/* A small deterministic generator (xorshift64*). */
uint64_t fixture_random(uint64_t *state);

#endif
