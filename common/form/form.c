/* SPDX-License-Identifier: Apache-2.0 */
#include "common/form/form_internal.h"

#include "common/base/mem.h"

#include <string.h>

struct shoal_form {
    shoal_grammar *grammar;
    char opening[SHOAL_FORM_OPENING_MAX + 1];
    size_t n_opening;
};

shoal_status shoal_form_new(shoal_grammar *take_grammar, const char *opening, shoal_form **ret_form)
{
    size_t n = opening ? strlen(opening) : 0;
    shoal_form *form = n <= SHOAL_FORM_OPENING_MAX ? shoal_calloc(1, sizeof *form) : NULL;
    if (!form) {
        return n <= SHOAL_FORM_OPENING_MAX ? SHOAL_E_NOMEM : SHOAL_E_LIMIT;
    }
    form->grammar = take_grammar;
    form->n_opening = n;
    memcpy(form->opening, n > 0 ? opening : "", n);
    *ret_form = form;
    return SHOAL_OK;
}

void shoal_form_free(shoal_form *form)
{
    if (form) {
        shoal_grammar_free(form->grammar);
        shoal_free(form);
    }
}

const char *shoal_form_opening(const shoal_form *form)
{
    return form->opening;
}

void shoal_form_start(const shoal_form *form, shoal_form_state *ret_state)
{
    ret_state->phase = form->n_opening > 0 ? SHOAL_FORM_OPENING : SHOAL_FORM_HELD;
    ret_state->n_opened = 0;
    shoal_grammar_start(form->grammar, &ret_state->followed);
}

/* Text before the grammar holds. Begins it otherwise, the answer is free for good. */
static void open_form(const shoal_form *form, shoal_form_state *state, const char *text, size_t n)
{
    size_t at = 0;
    while (at < n && state->n_opened < form->n_opening &&
           text[at] == form->opening[state->n_opened]) {
        at++;
        state->n_opened++;
    }
    bool open = state->n_opened == form->n_opening;
    if (n == 0 || (!open && at < n) ||
        (open && !shoal_grammar_push(form->grammar, &state->followed, text + at, n - at))) {
        state->phase = SHOAL_FORM_LEFT;
    } else if (open) {
        state->phase = SHOAL_FORM_HELD;
    }
}

bool shoal_form_push(const shoal_form *form, const shoal_form_words *words, shoal_form_state *state,
                     int32_t id)
{
    const char *text = "";
    if (state->phase == SHOAL_FORM_LEFT || shoal_tokenizer_is_end(words->tokenizer, id)) {
        return true;
    }
    size_t n = shoal_grammar_vocab_text(words->vocab, id, &text);
    if (state->phase == SHOAL_FORM_OPENING) {
        open_form(form, state, text, n);
        return true;
    }
    return n > 0 && shoal_grammar_push(form->grammar, &state->followed, text, n);
}

size_t shoal_form_allow(const shoal_form *form, shoal_form_words *words,
                        const shoal_form_state *state, uint32_t *allowed)
{
    if (state->phase != SHOAL_FORM_HELD) {
        return SHOAL_FORM_ALL;
    }
    size_t n = shoal_grammar_allow(words->vocab, form->grammar, &state->followed, allowed);
    if (shoal_grammar_may_end(form->grammar, &state->followed)) {
        for (size_t i = 0; i < words->n_ends; i++) {
            allowed[words->ends[i] / 32] |= UINT32_C(1) << (words->ends[i] % 32);
        }
        n += words->n_ends;
    }
    return n;
}
