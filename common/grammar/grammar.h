/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON that a model cannot break: a grammar of JSON values, a state that follows a text byte by
 * byte, and the set of tokens that may come next. Deterministic: a byte decides the path, so a
 * state is one stack and a step costs a few comparisons. No JSON Schema here; who reads one builds
 * nodes. Pure; a grammar is immutable once it has a root and then serves any number of threads.
 *
 * What is accepted: JSON (RFC 8259) with members in the order given, optional ones left out, at
 * most SHOAL_GRAMMAR_BLANKS_MAX blanks where JSON allows them, numbers of at most
 * SHOAL_GRAMMAR_DIGITS_MAX bytes. Strings are taken to be of whole UTF-8 characters. A map may
 * repeat a name.
 */
#ifndef SHOAL_GRAMMAR_GRAMMAR_H
#define SHOAL_GRAMMAR_GRAMMAR_H

#include "common/base/buf.h"
#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_GRAMMAR_NODES_MAX = 1024,
    SHOAL_GRAMMAR_CHOICES_MAX = 64, /* members of one object, texts of one list, parts of a union */
    SHOAL_GRAMMAR_TEXT_MAX = 1024,  /* bytes of a name or text as written in JSON */
    SHOAL_GRAMMAR_DEPTH_MAX = 32,   /* values inside values */
    SHOAL_GRAMMAR_BLANKS_MAX = 16,
    SHOAL_GRAMMAR_DIGITS_MAX = 15 /* bytes of a number: whole ones are exact in a double */
};

typedef struct shoal_grammar shoal_grammar;

/* --- building; one thread --------------------------------------------------------------------- */

/* A node that every grammar has: any value. */
enum {
    SHOAL_GRAMMAR_ANY = 0
};

shoal_status shoal_grammar_new(shoal_grammar **ret_grammar) SHOAL_MUST_CHECK;
void shoal_grammar_free(shoal_grammar *grammar);
SHOAL_DEFINE_CLEANUP(shoal_grammar, shoal_grammar_free)

/* Each gives the number of a new node. SHOAL_E_LIMIT: more than the limits above; SHOAL_E_INVALID:
 * a node that is not there, or an empty list. */
shoal_status shoal_grammar_add_string(shoal_grammar *grammar, uint32_t n_min, uint32_t n_max,
                                      uint32_t *ret_node) SHOAL_MUST_CHECK; /* n: characters */
shoal_status shoal_grammar_add_number(shoal_grammar *grammar, bool integer,
                                      uint32_t *ret_node) SHOAL_MUST_CHECK;
/* texts: as they stand in JSON ("true", "\"red\"", "12"), copied. */
shoal_status shoal_grammar_add_texts(shoal_grammar *grammar, const char *const *texts, size_t n,
                                     uint32_t *ret_node) SHOAL_MUST_CHECK;
shoal_status shoal_grammar_add_array(shoal_grammar *grammar, uint32_t item, uint32_t n_min,
                                     uint32_t n_max, uint32_t *ret_node) SHOAL_MUST_CHECK;

typedef struct shoal_grammar_member {
    const char *name; /* with its quotes and escapes, as JSON writes it; copied */
    uint32_t value;
    bool required;
} shoal_grammar_member;
shoal_status shoal_grammar_add_object(shoal_grammar *grammar, const shoal_grammar_member *members,
                                      size_t n, uint32_t *ret_node) SHOAL_MUST_CHECK;
/* An object of any members whose values are all alike. */
shoal_status shoal_grammar_add_map(shoal_grammar *grammar, uint32_t value,
                                   uint32_t *ret_node) SHOAL_MUST_CHECK;
/* SHOAL_E_UNSUPPORTED when two parts can begin with the same byte. */
shoal_status shoal_grammar_add_union(shoal_grammar *grammar, const uint32_t *parts, size_t n,
                                     uint32_t *ret_node) SHOAL_MUST_CHECK;
typedef struct shoal_grammar_case {
    const char *text; /* as it stands, byte for byte; copied */
    uint32_t value;
} shoal_grammar_case;
/* One of several values, each behind a text of its own and all before the same tail: the text
 * chooses the value. Blanks between them are those that texts and tail have. SHOAL_E_UNSUPPORTED
 * when one text begins another; SHOAL_E_INVALID for an empty text or tail. */
shoal_status shoal_grammar_add_cases(shoal_grammar *grammar, const shoal_grammar_case *cases,
                                     size_t n, const char *tail,
                                     uint32_t *ret_node) SHOAL_MUST_CHECK;
/* The last step of building. */
void shoal_grammar_set_root(shoal_grammar *grammar, uint32_t node);

/* --- as bytes --------------------------------------------------------------------------------- */

/* Appends the grammar, which has a root, to bytes (bytes.c says how). A peer that decodes them has
 * a grammar that takes and refuses the same texts. */
shoal_status shoal_grammar_encode(const shoal_grammar *grammar, shoal_buf *bytes) SHOAL_MUST_CHECK;
/* From anybody's bytes: each node goes through the functions above, so that nothing is taken that
 * could not have been built. SHOAL_E_PROTOCOL says in err what is wrong and where; SHOAL_E_NOMEM.
 * It takes some 32 bytes of memory for each of the n, and 50 KiB, at most. */
shoal_status shoal_grammar_decode(const uint8_t *data, size_t n, shoal_grammar **ret_grammar,
                                  shoal_err *err) SHOAL_MUST_CHECK;

/* Appends each name and text of the grammar, a line each: for who looks at what is said in it. */
shoal_status shoal_grammar_put_texts(const shoal_grammar *grammar,
                                     shoal_buf *text) SHOAL_MUST_CHECK;

/* --- following a text ------------------------------------------------------------------------- */

typedef struct shoal_grammar_frame {
    uint64_t mask; /* candidates not yet ruled out */
    uint32_t node;
    uint32_t at;    /* bytes of a candidate, digits of a number or of an escape */
    uint32_t count; /* characters, items, or the next member */
    uint8_t phase;
} shoal_grammar_frame;

typedef struct shoal_grammar_state {
    uint32_t depth; /* frames in use; 0: the value is whole */
    uint32_t n_blanks;
    shoal_grammar_frame frames[SHOAL_GRAMMAR_DEPTH_MAX];
} shoal_grammar_state;

void shoal_grammar_start(const shoal_grammar *grammar, shoal_grammar_state *ret_state);
/* False: no text of the grammar goes on so; the state is then of no use. */
bool shoal_grammar_push(const shoal_grammar *grammar, shoal_grammar_state *state, const char *data,
                        size_t n);
/* Whether the text may end here. */
bool shoal_grammar_may_end(const shoal_grammar *grammar, const shoal_grammar_state *state);

/* --- tokens ----------------------------------------------------------------------------------- */

/* The texts of a vocabulary, sorted, so that tokens that begin alike are followed once. Immutable;
 * its scratch makes it one thread's. */
typedef struct shoal_grammar_vocab shoal_grammar_vocab;

enum {
    SHOAL_GRAMMAR_TOKEN_BYTES_MAX = 64
}; /* longer ones are never allowed */

/* text gives the bytes of id (valid for the call), or 0 bytes for a token that has none of its own
 * or not whole characters: it is then never allowed. */
shoal_status shoal_grammar_vocab_new(size_t n_vocab,
                                     size_t (*text)(void *ctx, int32_t id, const char **ret_text),
                                     void *ctx, shoal_grammar_vocab **ret_vocab) SHOAL_MUST_CHECK;
void shoal_grammar_vocab_free(shoal_grammar_vocab *vocab);
/* The bytes of id as text gave them; 0: none of its own, or more than the limit. */
size_t shoal_grammar_vocab_text(const shoal_grammar_vocab *vocab, int32_t id,
                                const char **ret_text);
/* Sets bit id % 32 of allowed[id / 32] for every token that may follow, clears the others; returns
 * how many may. Ends of texts are the caller's. allowed: [(n_vocab + 31) / 32]. */
size_t shoal_grammar_allow(shoal_grammar_vocab *vocab, const shoal_grammar *grammar,
                           const shoal_grammar_state *state, uint32_t *allowed);

#endif
