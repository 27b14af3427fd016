/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a trainer of BPE vocabularies: distinct texts, the sites of their symbols, the
 * pairs that may merge. Private to this folder and its tests.
 */
#ifndef SHOAL_TOKENIZER_TRAIN_INTERNAL_H
#define SHOAL_TOKENIZER_TRAIN_INTERNAL_H

#include "common/tokenizer/train.h"
#include "common/tokenizer/vocab.h"

/* --- distinct texts (train_words.c) ---------------------------------------------------------- */

/* Texts by number, in the order of their first appearance, each once. Keyed at random, so that no
 * text is made of words that collide. Zeroed memory is a valid empty one. */
typedef struct shoal_texts {
    shoal_buf bytes;
    uint32_t *begins; /* into bytes; begins[n] is their end, once there is a text */
    size_t n;
    size_t capacity;
    uint32_t *slots; /* number + 1; 0: free; at most half of them are taken */
    size_t mask;     /* slots - 1 */
    uint64_t keys[SHOAL_VOCAB_KEYS];
} shoal_texts;

void shoal_texts_fini(shoal_texts *texts);
shoal_str shoal_texts_at(const shoal_texts *texts, size_t i);
/* The number of a text, which is put in if it is new. SHOAL_BUSY: it would be over the limit of the
 * bytes. */
shoal_status shoal_texts_put(shoal_texts *texts, shoal_str text, size_t *ret_i, bool *ret_new);

/* --- learning (train_merges.c) --------------------------------------------------------------- */

/* Ids in here are those of the file less the control tokens: a byte is itself, the first merge
 * makes 256. */

typedef struct shoal_merge_rule {
    int32_t left;
    int32_t right;
} shoal_merge_rule;

/* A byte of a distinct word, or what stands before, between and after the words (id -1). A symbol
 * is at the site of its first byte; the sites of its other bytes are dead. Sites whose symbol forms
 * the same pair with its right neighbour are a list, in order. */
typedef struct shoal_site {
    int32_t id;
    uint32_t before; /* site of the symbol before, valid unless dead */
    uint32_t pair;   /* which pair it begins, or SHOAL_NO_PAIR */
    uint32_t older;
    uint32_t newer;
    uint32_t word;
} shoal_site;

/* A pair that may merge. */
typedef struct shoal_bpe_pair_list {
    uint64_t count;
    int32_t left;
    int32_t right;
    uint32_t oldest; /* first site, or SHOAL_NO_SITE */
    uint32_t newest;
} shoal_bpe_pair_list;

/* An entry of the heap. The count may be out of date, but is never too low. */
typedef struct shoal_candidate {
    uint64_t count;
    uint64_t key; /* left id << 32 | right id */
    uint32_t pair;
} shoal_candidate;

/* tokenizer.ggml.pre of what is learnt. train_words.c relies on what this rule never joins. */
#define SHOAL_BPE_RULE "gpt-2"

#define SHOAL_NO_PAIR UINT32_MAX
#define SHOAL_NO_SITE UINT32_MAX

struct shoal_bpe_trainer {
    shoal_bpe_settings settings;

    /* What was counted. */
    shoal_bpe_split *split;
    shoal_bpe_match *match;
    shoal_texts words;
    uint64_t *counts; /* of a word */
    size_t counts_capacity;
    size_t text_bytes; /* without weights */
    uint64_t weight;   /* of the text that is being added */
    bool learnt;
    shoal_bpe_stats stats;

    /* What was learnt. */
    shoal_texts tokens;      /* the bytes of every token */
    shoal_merge_rule *rules; /* what made token 256 + i */
    size_t n_rules;

    /* Gone when learning ends, but for the sites. */
    shoal_site *sites;
    size_t n_sites;
    /* Each live pair is in the heap once, or fresh: three arrays of one capacity. */
    shoal_bpe_pair_list *pairs;
    shoal_candidate *heap;
    uint32_t *fresh;
    size_t n_pairs; /* numbers given out so far */
    size_t n_heap;
    size_t n_fresh;
    size_t pairs_capacity;
    uint32_t unused; /* pairs to be used again, linked by their oldest */
    /* Pairs first seen since the last merge: all of them hold what it made, so a table for either
     * side finds them. At the start, one of two bytes does. */
    uint32_t *by_left;  /* pair of (id, made), or of (byte, byte) */
    uint32_t *by_right; /* pair of (made, id) */
    int32_t made;       /* -1: none yet */
};

/* The loop of learning; everything of the words is there. */
shoal_status shoal_bpe_learn(shoal_bpe_trainer *trainer, shoal_err *err);

#endif
