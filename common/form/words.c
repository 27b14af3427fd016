/* SPDX-License-Identifier: Apache-2.0 */
#include "common/form/form_internal.h"

#include "common/base/mem.h"

#include <string.h>

typedef struct speller {
    const shoal_tokenizer *tokenizer;
    shoal_buf text;
    shoal_status status;
} speller;

/* The bytes of a token inside an answer; none for one without whole characters. */
static size_t spell(void *ctx, int32_t id, const char **ret_text)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    speller *s = ctx;
    shoal_detok state = {.started = true};
    shoal_buf_reset(&s->text);
    if (shoal_tokenizer_is_end(s->tokenizer, id)) {
        return 0;
    }
    shoal_status status = shoal_detok_push(s->tokenizer, &state, id, &s->text);
    s->status = status == SHOAL_E_NOMEM ? status : s->status;
    bool whole = status == SHOAL_OK && state.n_pending == 0 && s->text.length > 0 &&
                 !memmem(s->text.data, s->text.length, replacement, sizeof replacement - 1);
    *ret_text = s->text.data;
    return whole ? s->text.length : 0;
}

static shoal_status find_ends(shoal_form_words *words)
{
    for (size_t id = 0; id < words->n_vocab; id++) {
        words->n_ends += shoal_tokenizer_is_end(words->tokenizer, (int32_t)id);
    }
    words->ends = shoal_calloc(words->n_ends + 1, sizeof *words->ends);
    if (!words->ends) {
        return SHOAL_E_NOMEM;
    }
    size_t n = 0;
    for (size_t id = 0; id < words->n_vocab; id++) {
        if (shoal_tokenizer_is_end(words->tokenizer, (int32_t)id)) {
            words->ends[n++] = (int32_t)id;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_form_words_new(const shoal_tokenizer *tokenizer, size_t n_vocab,
                                  shoal_form_words **ret_words)
{
    shoal_form_words *words = shoal_calloc(1, sizeof *words);
    if (!words) {
        return SHOAL_E_NOMEM;
    }
    words->tokenizer = tokenizer;
    words->n_vocab = n_vocab;
    speller s = {.tokenizer = tokenizer};
    shoal_status status = shoal_grammar_vocab_new(n_vocab, spell, &s, &words->vocab);
    shoal_buf_fini(&s.text);
    if (status == SHOAL_OK) {
        /* A token that memory failed to spell would be missing here and allowed elsewhere. */
        status = s.status == SHOAL_OK ? find_ends(words) : s.status;
    }
    if (status != SHOAL_OK) {
        shoal_form_words_free(words);
        return status;
    }
    *ret_words = words;
    return SHOAL_OK;
}

void shoal_form_words_free(shoal_form_words *words)
{
    if (!words) {
        return;
    }
    shoal_grammar_vocab_free(words->vocab);
    shoal_free(words->ends);
    shoal_free(words);
}

size_t shoal_form_words_n_mask(const shoal_form_words *words)
{
    return (words->n_vocab + 31) / 32;
}
