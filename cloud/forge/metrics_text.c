/* SPDX-License-Identifier: Apache-2.0
 *
 * F1 and BLEU. Words of both texts become small numbers, equal for equal words, so that an n-gram
 * of up to four is one 64-bit number and bags are compared by sorting: no hash, no collisions.
 */
#include "cloud/forge/metrics.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <stdlib.h>
#include <string.h>

typedef struct word {
    const char *text;
    size_t length;
    size_t i; /* its place: the reference's words first, then the answer's */
} word;

/* Two texts as numbers. */
typedef struct pair {
    word *words;
    uint16_t *ids; /* [n_reference + n_answer], 0 is no word */
    uint64_t *grams;
    size_t n_reference;
    size_t n_answer;
} pair;

static void pair_fini(pair *p)
{
    shoal_free(p->words);
    shoal_free(p->ids);
    shoal_free(p->grams);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_punctuation(char c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

/* Length of the word at text, which is neither white space nor the end. */
static size_t word_length(const char *text)
{
    size_t n = 1;
    if (is_punctuation(*text)) {
        return n;
    }
    while (text[n] && !is_space(text[n]) && !is_punctuation(text[n])) {
        n++;
    }
    return n;
}

/* Appends the words of text to p->words at n; stops past the limit. */
static size_t split(const char *text, word *words, size_t n, size_t n_max)
{
    while (*text) {
        if (is_space(*text)) {
            text++;
            continue;
        }
        if (n == n_max) {
            return n_max + 1;
        }
        size_t length = word_length(text);
        words[n] = (word){.text = text, .length = length, .i = n};
        text += length;
        n++;
    }
    return n;
}

static int by_text(const void *a, const void *b)
{
    const word *x = a;
    const word *y = b;
    int order = memcmp(x->text, y->text, SHOAL_MIN(x->length, y->length));
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static shoal_status pair_init(pair *p, const char *reference, const char *answer)
{
    size_t n_max = SHOAL_MIN(strlen(reference) + strlen(answer), (size_t)FORGE_WORDS_MAX);
    p->words = shoal_calloc(n_max, sizeof *p->words);
    p->ids = shoal_calloc(n_max, sizeof *p->ids);
    p->grams = shoal_calloc(n_max, sizeof *p->grams);
    if (!p->words || !p->ids || !p->grams) {
        return SHOAL_E_NOMEM;
    }
    size_t n_reference = split(reference, p->words, 0, n_max);
    size_t n = n_reference > n_max ? n_reference : split(answer, p->words, n_reference, n_max);
    if (n > n_max) {
        return SHOAL_E_LIMIT;
    }
    p->n_reference = n_reference;
    p->n_answer = n - n_reference;
    if (n) {
        qsort(p->words, n, sizeof *p->words, by_text);
    }
    uint16_t id = 0;
    for (size_t i = 0; i < n; i++) {
        id = (uint16_t)(id + (i == 0 || by_text(&p->words[i - 1], &p->words[i]) != 0));
        p->ids[p->words[i].i] = id;
    }
    return SHOAL_OK;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The n-grams of n words to grams, sorted; returns their number. */
static size_t make_grams(const uint16_t *ids, size_t n, size_t order, uint64_t *grams)
{
    size_t n_grams = n < order ? 0 : n - order + 1;
    for (size_t i = 0; i < n_grams; i++) {
        grams[i] = 0;
        for (size_t j = 0; j < order; j++) {
            grams[i] = grams[i] << 16 | ids[i + j];
        }
    }
    if (n_grams) {
        qsort(grams, n_grams, sizeof *grams, by_number);
    }
    return n_grams;
}

/* n-grams that both texts have, each as often as the text that has it less often. */
static size_t overlap(const pair *p, size_t order)
{
    uint64_t *mine = p->grams;
    size_t n_mine = make_grams(p->ids, p->n_reference, order, mine);
    uint64_t *other = mine + n_mine;
    size_t n_other = make_grams(p->ids + p->n_reference, p->n_answer, order, other);
    size_t n = 0;
    for (size_t i = 0, j = 0; i < n_mine && j < n_other;) {
        if (mine[i] == other[j]) {
            n++;
            i++;
            j++;
        } else if (mine[i] < other[j]) {
            i++;
        } else {
            j++;
        }
    }
    return n;
}

static bool is_article(const char *text, size_t n)
{
    return (n == 1 && memcmp(text, "a", 1) == 0) || (n == 2 && memcmp(text, "an", 2) == 0) ||
           (n == 3 && memcmp(text, "the", 3) == 0);
}

/* The text as SQuAD compares it, for shoal_free; NULL when out of memory. */
static char *normalise(const char *text)
{
    char *out = shoal_calloc(strlen(text) + 2, 1);
    size_t n = 0;
    size_t begin = 0; /* of the word under way */
    for (; out; text++) {
        if (*text && !is_space(*text)) {
            if (!is_punctuation(*text)) {
                out[n++] = (char)(*text >= 'A' && *text <= 'Z' ? *text + ('a' - 'A') : *text);
            }
            continue;
        }
        n = is_article(out + begin, n - begin) ? begin : n;
        if (!*text) {
            break;
        }
        if (n > begin) {
            out[n++] = ' ';
        }
        begin = n;
    }
    if (out) {
        out[n] = 0;
    }
    return out;
}

shoal_status shoal_forge_token_f1(const char *reference, const char *answer, double *ret_f1)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *a = normalise(reference);
    SHOAL_CLEANUP(shoal_free_cleanup) char *b = normalise(answer);
    SHOAL_CLEANUP(pair_fini) pair p = {0};
    if (!a || !b) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(pair_init(&p, a, b));
    size_t n = p.n_reference + p.n_answer;
    /* 2 P R / (P + R) with P = overlap / answer and R = overlap / reference. */
    *ret_f1 = n ? 2 * (double)overlap(&p, 1) / (double)n : 1;
    return SHOAL_OK;
}

shoal_status shoal_forge_bleu_add(forge_bleu *bleu, const char *reference, const char *answer)
{
    SHOAL_CLEANUP(pair_fini) pair p = {0};
    SHOAL_TRY(pair_init(&p, reference, answer));
    for (size_t order = 1; order <= FORGE_BLEU_ORDERS; order++) {
        bleu->n_matches[order - 1] += overlap(&p, order);
        bleu->n_grams[order - 1] += p.n_answer < order ? 0 : p.n_answer - order + 1;
    }
    bleu->n_answer += p.n_answer;
    bleu->n_reference += p.n_reference;
    return SHOAL_OK;
}

double shoal_forge_bleu_score(const forge_bleu *bleu)
{
    double sum = 0;
    size_t n_orders = 0;
    for (size_t i = 0; i < FORGE_BLEU_ORDERS && bleu->n_grams[i]; i++) {
        if (bleu->n_matches[i] == 0) {
            return 0;
        }
        sum += shoal_logd((double)bleu->n_matches[i] / (double)bleu->n_grams[i]);
        n_orders++;
    }
    if (n_orders == 0) {
        return 0;
    }
    double shortness = 1 - (double)bleu->n_reference / (double)bleu->n_answer;
    return shoal_expd(sum / (double)n_orders + SHOAL_MIN(shortness, 0.0));
}
