/* SPDX-License-Identifier: Apache-2.0
 *
 * Which tokens may follow: the sorted texts are walked once, and what two neighbours have in common
 * is followed once.
 */
#include "common/grammar/grammar.h"

#include "common/base/mem.h"

#include <stdlib.h>
#include <string.h>

typedef struct word {
    const char *text; /* in texts */
    int32_t id;
    uint8_t n;
    uint8_t n_common; /* leading bytes it shares with the word before */
} word;

struct shoal_grammar_vocab {
    size_t n_vocab;
    char *texts;       /* one after the other, by id */
    uint32_t *offsets; /* [n_vocab + 1]: where that of each id begins */
    word *words;       /* [n_words], sorted by text */
    size_t n_words;
    shoal_grammar_state
        *states; /* [SHOAL_GRAMMAR_TOKEN_BYTES_MAX + 1], after each byte of a word */
};

static int compare(const void *a, const void *b)
{
    const word *x = a;
    const word *y = b;
    int order = memcmp(x->text, y->text, SHOAL_MIN(x->n, y->n));
    if (order != 0) {
        return order;
    }
    return x->n != y->n ? (x->n < y->n ? -1 : 1) : (x->id < y->id ? -1 : x->id > y->id);
}

static uint8_t common(const word *a, const word *b)
{
    uint8_t n = 0;
    while (n < a->n && n < b->n && a->text[n] == b->text[n]) {
        n++;
    }
    return n;
}

static shoal_status collect(shoal_grammar_vocab *v,
                            size_t (*text)(void *ctx, int32_t id, const char **ret_text), void *ctx)
{
    size_t n_bytes = 0;
    const char *bytes = NULL;
    for (size_t i = 0; i < v->n_vocab; i++) {
        size_t n = text(ctx, (int32_t)i, &bytes);
        if (n >= 1 && n <= SHOAL_GRAMMAR_TOKEN_BYTES_MAX) {
            n_bytes += n;
            v->n_words++;
        }
    }
    v->texts = shoal_calloc(n_bytes + 1, 1);
    v->words = shoal_calloc(v->n_words + 1, sizeof *v->words);
    v->offsets = shoal_calloc(v->n_vocab + 1, sizeof *v->offsets);
    if (!v->texts || !v->words || !v->offsets) {
        return SHOAL_E_NOMEM;
    }
    char *at = v->texts;
    word *w = v->words;
    for (size_t i = 0; i < v->n_vocab; i++) {
        size_t n = text(ctx, (int32_t)i, &bytes);
        if (n >= 1 && n <= SHOAL_GRAMMAR_TOKEN_BYTES_MAX) {
            memcpy(at, bytes, n);
            *w++ = (word){.text = at, .id = (int32_t)i, .n = (uint8_t)n};
            at += n;
        }
        v->offsets[i + 1] = (uint32_t)(at - v->texts);
    }
    qsort(v->words, v->n_words, sizeof *v->words, compare);
    for (size_t i = 1; i < v->n_words; i++) {
        v->words[i].n_common = common(&v->words[i - 1], &v->words[i]);
    }
    return SHOAL_OK;
}

shoal_status shoal_grammar_vocab_new(size_t n_vocab,
                                     size_t (*text)(void *ctx, int32_t id, const char **ret_text),
                                     void *ctx, shoal_grammar_vocab **ret_vocab)
{
    shoal_grammar_vocab *v = shoal_calloc(1, sizeof *v);
    if (!v) {
        return SHOAL_E_NOMEM;
    }
    v->n_vocab = n_vocab;
    v->states = shoal_calloc(SHOAL_GRAMMAR_TOKEN_BYTES_MAX + 1, sizeof *v->states);
    shoal_status status = v->states ? collect(v, text, ctx) : SHOAL_E_NOMEM;
    if (status != SHOAL_OK) {
        shoal_grammar_vocab_free(v);
        return status;
    }
    *ret_vocab = v;
    return SHOAL_OK;
}

void shoal_grammar_vocab_free(shoal_grammar_vocab *vocab)
{
    if (!vocab) {
        return;
    }
    shoal_free(vocab->texts);
    shoal_free(vocab->offsets);
    shoal_free(vocab->words);
    shoal_free(vocab->states);
    shoal_free(vocab);
}

size_t shoal_grammar_vocab_text(const shoal_grammar_vocab *vocab, int32_t id, const char **ret_text)
{
    if (id < 0 || (size_t)id >= vocab->n_vocab) {
        return 0;
    }
    *ret_text = vocab->texts + vocab->offsets[id];
    return vocab->offsets[id + 1] - vocab->offsets[id];
}

/* Frames beyond the depth are not read, so they need not be copied. */
static void copy_state(shoal_grammar_state *to, const shoal_grammar_state *from)
{
    to->depth = from->depth;
    to->n_blanks = from->n_blanks;
    memcpy(to->frames, from->frames, from->depth * sizeof from->frames[0]);
}

size_t shoal_grammar_allow(shoal_grammar_vocab *vocab, const shoal_grammar *grammar,
                           const shoal_grammar_state *state, uint32_t *allowed)
{
    size_t n_allowed = 0;
    size_t n_good = 0; /* bytes of the word before that were taken; states[0..n_good] hold */
    memset(allowed, 0, (vocab->n_vocab + 31) / 32 * sizeof *allowed);
    copy_state(&vocab->states[0], state);
    for (size_t i = 0; i < vocab->n_words; i++) {
        const word *w = &vocab->words[i];
        if (w->n_common > n_good) {
            continue; /* it begins with what was refused */
        }
        n_good = w->n_common;
        while (n_good < w->n) {
            shoal_grammar_state *next = &vocab->states[n_good + 1];
            copy_state(next, &vocab->states[n_good]);
            if (!shoal_grammar_push(grammar, next, w->text + n_good, 1)) {
                break;
            }
            n_good++;
        }
        if (n_good == w->n) {
            allowed[w->id / 32] |= UINT32_C(1) << (w->id % 32);
            n_allowed++;
        }
    }
    return n_allowed;
}
