/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers of a given form: after each token the grammar says what may come next, and the sampler
 * sees nothing else. A form may wait for an opening: until the text has it, or has begun otherwise,
 * every token is allowed. Engine thread.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <string.h>

typedef struct speller {
    const shoal_tokenizer *tokenizer;
    shoal_buf text;
} speller;

/* The bytes of a token inside an answer; none for one without whole characters. */
static size_t spell(void *ctx, int32_t id, const char **ret_text)
{
    speller *s = ctx;
    shoal_detok state = {.started = true};
    shoal_buf_reset(&s->text);
    bool whole = !shoal_tokenizer_is_end(s->tokenizer, id) &&
                 shoal_detok_push(s->tokenizer, &state, id, &s->text) == SHOAL_OK &&
                 state.n_pending == 0 && s->text.length > 0 &&
                 !memmem(s->text.data, s->text.length, "\xEF\xBF\xBD", 3);
    *ret_text = s->text.data;
    return whole ? s->text.length : 0;
}

static shoal_status make_vocab(shoal_coop *coop)
{
    speller s = {.tokenizer = coop->model->tokenizer};
    shoal_status status = shoal_grammar_vocab_new(coop->model->hp.n_vocab, spell, &s, &coop->vocab);
    shoal_buf_fini(&s.text);
    return status;
}

shoal_status shoal_gen_constrain(shoal_coop *coop, gen *g)
{
    if (!g->sampling.allowed) {
        return SHOAL_OK;
    }
    if (!coop->vocab && make_vocab(coop) != SHOAL_OK) {
        shoal_gen_fail(coop, g, SHOAL_E_NOMEM, "no memory for the form of an answer");
        return SHOAL_E_NOMEM;
    }
    size_t n = shoal_grammar_allow(coop->vocab, g->grammar, &g->followed, g->allowed);
    if (shoal_grammar_may_end(g->grammar, &g->followed)) {
        for (size_t id = 0; id < coop->model->hp.n_vocab; id++) {
            if (shoal_tokenizer_is_end(coop->model->tokenizer, (int32_t)id)) {
                g->allowed[id / 32] |= UINT32_C(1) << (id % 32);
                n++;
            }
        }
    }
    if (n == 0) {
        shoal_gen_fail(coop, g, SHOAL_E_UNSUPPORTED,
                       "the model has no token that goes on in the form asked for: ask for another "
                       "one");
        return SHOAL_E_UNSUPPORTED;
    }
    return SHOAL_OK;
}

/* Text before the grammar holds. Begins it otherwise, the answer is free for good. */
static void open_form(gen *g, const char *text, size_t n)
{
    size_t n_opening = strlen(g->opening);
    size_t at = 0;
    while (at < n && g->n_opened < n_opening && text[at] == g->opening[g->n_opened]) {
        at++;
        g->n_opened++;
    }
    bool open = g->n_opened == n_opening;
    if (n == 0 || (!open && at < n) ||
        (open && !shoal_grammar_push(g->grammar, &g->followed, text + at, n - at))) {
        shoal_grammar_free(g->grammar);
        g->grammar = NULL;
    } else if (open) {
        g->sampling.allowed = g->allowed;
    }
}

void shoal_gen_follow(shoal_coop *coop, gen *g, int32_t id)
{
    if (!g->grammar || shoal_tokenizer_is_end(coop->model->tokenizer, id)) {
        return;
    }
    speller s = {.tokenizer = coop->model->tokenizer};
    const char *text = NULL;
    size_t n = spell(&s, id, &text);
    if (!g->sampling.allowed) {
        open_form(g, text, n);
        shoal_buf_fini(&s.text);
        return;
    }
    bool taken = n > 0 && shoal_grammar_push(g->grammar, &g->followed, text, n);
    shoal_buf_fini(&s.text);
    if (!taken) { /* no memory to spell it: what follows could not be held to the form */
        shoal_gen_fail(coop, g, SHOAL_E_NOMEM, "no memory for the form of an answer");
    }
}
