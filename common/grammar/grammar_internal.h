/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/grammar: nodes as they are stored.
 */
#ifndef SHOAL_GRAMMAR_GRAMMAR_INTERNAL_H
#define SHOAL_GRAMMAR_GRAMMAR_INTERNAL_H

#include "common/grammar/grammar.h"

typedef enum shoal_grammar_kind {
    SHOAL_GRAMMAR_STRING,
    SHOAL_GRAMMAR_NUMBER,
    SHOAL_GRAMMAR_INTEGER,
    SHOAL_GRAMMAR_TEXTS,
    SHOAL_GRAMMAR_ARRAY,
    SHOAL_GRAMMAR_OBJECT,
    SHOAL_GRAMMAR_MAP,
    SHOAL_GRAMMAR_UNION,
    SHOAL_GRAMMAR_CASES
} shoal_grammar_kind;

typedef struct shoal_grammar_choice {
    char *text; /* of a list or a name; NULL in a union */
    uint32_t n_text;
    uint32_t node;
    bool required;
} shoal_grammar_choice;

typedef struct shoal_grammar_node {
    shoal_grammar_kind kind;
    uint32_t item; /* of an array or map */
    uint32_t n_min;
    uint32_t n_max;
    shoal_grammar_choice *choices; /* [n_choices], owned */
    size_t n_choices;
    char *tail; /* of cases; owned */
    uint32_t n_tail;
} shoal_grammar_node;

enum {
    SHOAL_GRAMMAR_OWN_NODES = 6 /* that every grammar begins with: any value, and its parts */
};

struct shoal_grammar {
    shoal_grammar_node *nodes; /* [capacity] */
    size_t n_nodes;
    size_t capacity; /* at most SHOAL_GRAMMAR_NODES_MAX */
    uint32_t root;
    uint32_t key; /* a string of any length: the names of a map */
};

/* The node that a value beginning with byte is of, through unions; NULL: none begins so. */
const shoal_grammar_node *shoal_grammar_resolve(const shoal_grammar *grammar, uint32_t node,
                                                char byte);

#endif
