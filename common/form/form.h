/* SPDX-License-Identifier: Apache-2.0
 *
 * The form of an answer, over tokens: a grammar, from the first token on or from behind an opening
 * that the text may begin with. A state follows the tokens of an answer and says which may be next;
 * who samples takes away all others. All of it is a function of (form, words, tokens), so an edge
 * and a cloud that share a tokenizer allow the same tokens at the same place, and a session that is
 * opened again comes to the same state by its tokens (R1, R3). No sampling here, and no prompt: the
 * first token that is pushed is the answer's first.
 *
 * A form is immutable and serves any number of threads; words and states are one thread's.
 */
#ifndef SHOAL_FORM_FORM_H
#define SHOAL_FORM_FORM_H

#include "common/base/buf.h"
#include "common/grammar/grammar.h"
#include "common/tokenizer/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_FORM_OPENING_MAX = 32, /* bytes of an opening */
    SHOAL_FORM_BYTES_MAX = 65536 /* of a grammar on its way to a peer */
};

/* --- words ------------------------------------------------------------------------------------ */

/* What each token of a tokenizer adds to an answer, sorted for shoal_grammar_allow, and which end
 * one. Tokens without whole characters of their own are never allowed by a grammar. */
typedef struct shoal_form_words shoal_form_words;

/* tokenizer is borrowed for the words' life. n_vocab: of the model, at least the tokenizer's. */
shoal_status shoal_form_words_new(const shoal_tokenizer *tokenizer, size_t n_vocab,
                                  shoal_form_words **ret_words) SHOAL_MUST_CHECK;
void shoal_form_words_free(shoal_form_words *words);
/* 32-bit words of a set of allowed tokens: [n_vocab / 32 up]. */
size_t shoal_form_words_n_mask(const shoal_form_words *words);

/* --- the form --------------------------------------------------------------------------------- */

typedef struct shoal_form shoal_form;

/* take_grammar has a root; it is taken with SHOAL_OK. opening: NULL or "": the whole text is of the
 * grammar. Else the text is free, but for one that begins with these bytes: what follows them is of
 * the grammar, as far as the token that ended them left it possible. SHOAL_E_LIMIT: the opening is
 * too long; SHOAL_E_NOMEM. */
shoal_status shoal_form_new(shoal_grammar *take_grammar, const char *opening,
                            shoal_form **ret_form) SHOAL_MUST_CHECK;
void shoal_form_free(shoal_form *form);
SHOAL_DEFINE_CLEANUP(shoal_form, shoal_form_free)
const char *shoal_form_opening(const shoal_form *form); /* "": none */

/* --- following an answer ---------------------------------------------------------------------- */

typedef enum shoal_form_phase {
    SHOAL_FORM_OPENING, /* the opening may still come: every token is allowed */
    SHOAL_FORM_HELD,    /* the grammar holds */
    SHOAL_FORM_LEFT     /* the text began otherwise: free for good */
} shoal_form_phase;

typedef struct shoal_form_state {
    shoal_form_phase phase;
    uint32_t n_opened; /* bytes of the opening that the text has */
    shoal_grammar_state followed;
} shoal_form_state;

void shoal_form_start(const shoal_form *form, shoal_form_state *ret_state);
/* The answer goes on with id; end tokens change nothing. False: no text of the form goes on so, and
 * the state is then of no use. */
bool shoal_form_push(const shoal_form *form, const shoal_form_words *words, shoal_form_state *state,
                     int32_t id);

#define SHOAL_FORM_ALL SIZE_MAX

/* Which tokens may be next: bit id % 32 of allowed[id / 32], end tokens where the text may end.
 * Returns how many; 0: the tokenizer has none that goes on. SHOAL_FORM_ALL: every token may, and
 * allowed is as it was. */
size_t shoal_form_allow(const shoal_form *form, shoal_form_words *words,
                        const shoal_form_state *state, uint32_t *allowed);

#endif
