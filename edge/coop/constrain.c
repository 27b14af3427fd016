/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers of a given form: before each sample the form says what may come next, and the sampler
 * sees nothing else. The cloud is sent the form and holds its own tokens to it in the same way
 * (protocol/SPEC.md, section 13), so a draft that keeps it can stand, and one that does not falls.
 * Engine thread.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

_Static_assert((int)SHOAL_COOP_OPENING_MAX == (int)SHOAL_FORM_OPENING_MAX, "it is a form's");

shoal_status shoal_gen_form_bytes(const shoal_coop_request *request, shoal_buf *bytes,
                                  shoal_err *err)
{
    if (!request->take_grammar || request->mode == SHOAL_MODE_LOCAL) {
        return SHOAL_OK;
    }
    bytes->limit = SHOAL_FORM_BYTES_MAX;
    shoal_status status = shoal_grammar_encode(request->take_grammar, bytes);
    return status == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, status,
                               "the form asked for takes more than %d bytes on its way to the "
                               "cloud: ask for a smaller one, or use mode \"local\"",
                               (int)SHOAL_FORM_BYTES_MAX);
}

shoal_status shoal_gen_form_begin(shoal_coop *coop, gen *g)
{
    if (!g->form) {
        return SHOAL_OK;
    }
    if (!coop->words) {
        SHOAL_TRY(
            shoal_form_words_new(coop->model->tokenizer, coop->model->hp.n_vocab, &coop->words));
    }
    g->allowed = shoal_calloc(shoal_form_words_n_mask(coop->words), sizeof *g->allowed);
    if (!g->allowed) {
        return SHOAL_E_NOMEM;
    }
    shoal_form_start(g->form, &g->held);
    return SHOAL_OK;
}

/* The state after the drafts too, as far as they keep the form; returns how many do. */
static size_t follow_drafts(const shoal_coop *coop, const gen *g, shoal_form_state *ret_state)
{
    size_t n = 0;
    *ret_state = g->held;
    while (g->n_confirmed + n < g->n_tokens &&
           shoal_form_push(g->form, coop->words, ret_state, g->tokens[g->n_confirmed + n])) {
        n++;
    }
    return n;
}

shoal_status shoal_gen_constrain(shoal_coop *coop, gen *g)
{
    shoal_form_state state;
    size_t n_drafts = g->n_tokens - g->n_confirmed;
    g->sampling.allowed = NULL;
    g->n_allowed = SHOAL_FORM_ALL;
    if (!g->form || follow_drafts(coop, g, &state) < n_drafts) {
        return SHOAL_OK; /* or a draft that will fall, and what follows it with it */
    }
    size_t n = shoal_form_allow(g->form, coop->words, &state, g->allowed);
    if (n == SHOAL_FORM_ALL || (n == 0 && n_drafts > 0)) {
        return SHOAL_OK;
    }
    if (n == 0) {
        shoal_gen_fail(coop, g, SHOAL_E_UNSUPPORTED,
                       "the model has no token that goes on in the form asked for: ask for another "
                       "one");
        return SHOAL_E_UNSUPPORTED;
    }
    g->sampling.allowed = g->allowed;
    g->n_allowed = n;
    return SHOAL_OK;
}

bool shoal_gen_keeps_form(const shoal_coop *coop, const gen *g, int32_t id)
{
    shoal_form_state state;
    if (!g->form) {
        return true;
    }
    state = g->held;
    return shoal_form_push(g->form, coop->words, &state, id);
}

void shoal_gen_drop_formless(const shoal_coop *coop, gen *g)
{
    shoal_form_state state;
    size_t n = g->form ? follow_drafts(coop, g, &state) : g->n_tokens - g->n_confirmed;
    if (g->n_confirmed + n < g->n_tokens) {
        g->n_tokens = g->n_confirmed + n;
        if (g->seq) {
            (void)shoal_kv_seq_truncate(g->seq, g->n_tokens - 1);
        }
    }
}
