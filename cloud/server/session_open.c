/* SPDX-License-Identifier: Apache-2.0
 *
 * What an Open asks for, held against what this node serves, and what a session holds for it.
 */
#include "cloud/server/session_internal.h"

#include "common/base/mem.h"

#include <inttypes.h>
#include <string.h>

enum {
    SHORT_HEX = 12
};
_Static_assert((int)SHOAL_WIRE_FORM_MAX == (int)SHOAL_FORM_BYTES_MAX &&
                   (int)SHOAL_WIRE_OPENING_MAX == (int)SHOAL_FORM_OPENING_MAX,
               "the wire's limits are the form's");

static bool same_hash(shoal_session *session, const char *what, const shoal_hash *edge,
                      const shoal_hash *ours)
{
    if (memcmp(edge, ours, sizeof(*edge)) == 0) {
        return true;
    }
    char edge_hex[SHOAL_HASH_HEX];
    char our_hex[SHOAL_HASH_HEX];
    shoal_hash_hex(edge, edge_hex);
    shoal_hash_hex(ours, our_hex);
    shoal_session_failf(
        session, SHOAL_RPC_FAILED_PRECONDITION,
        "%s mismatch: the edge expects %.*s, this node serves %.*s; use the same file on both",
        what, SHORT_HEX, edge_hex, SHORT_HEX, our_hex);
    return false;
}

static bool open_fits(shoal_session *session, const shoal_msg_open *open)
{
    shoal_engine *engine = session->env.engine;
    size_t n_ctx = engine != NULL ? shoal_engine_n_ctx(engine) : session->env.describe->n_ctx;
    if (open->n_tokens_max == 0) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                            "open.n_tokens_max is 0; ask for 1 to %zu tokens, prompt included",
                            n_ctx);
        return false;
    }
    size_t n_fit = engine != NULL ? shoal_kv_pool_tokens_max(shoal_engine_kv(engine)) : n_ctx;
    if (open->n_tokens_max > n_fit) {
        shoal_session_failf(session, SHOAL_RPC_RESOURCE_EXHAUSTED,
                            "open.n_tokens_max is %" PRIu32
                            ", this node holds at most %zu tokens per session "
                            "(context.max %zu, kv.max_mib); ask for less",
                            open->n_tokens_max, n_fit, n_ctx);
        return false;
    }
    return true;
}

/* An edge that read Describe does not come here with drafts that nobody can judge. */
static bool open_verifiable(shoal_session *session, const shoal_msg_open *open)
{
    shoal_verify verify = session->env.describe->verify;
    if (open->mode != SHOAL_MODE_EXACT || verify == SHOAL_VERIFY_ALL) {
        return true;
    }
    if (verify == SHOAL_VERIFY_NONE) {
        shoal_session_failf(
            session, SHOAL_RPC_FAILED_PRECONDITION,
            "this node continues texts and cannot verify drafts (its upstream engine tells no "
            "log-probabilities of a prompt); use mode cloud");
        return false;
    }
    if (!shoal_sampling_is_greedy(&open->sampling)) {
        shoal_session_failf(
            session, SHOAL_RPC_FAILED_PRECONDITION,
            "this node verifies drafts of greedy decoding alone; use temperature 0 without "
            "penalties and biases, or mode cloud");
        return false;
    }
    return true;
}

/* An edge that read Describe does not come here with a form that nobody keeps. */
static bool open_form_kept(shoal_session *session, const shoal_msg_open *open)
{
    if (open->form.n_grammar == 0 || session->env.words != NULL) {
        return true;
    }
    shoal_session_failf(
        session, SHOAL_RPC_FAILED_PRECONDITION,
        "this node cannot hold an answer to a form (its back end is \"%s\"): ask the edge for it "
        "in mode local",
        session->env.describe->backend);
    return false;
}

/* By what it is, not by its name: another file of that name writes another text. */
static bool open_adapter_held(shoal_session *session, const shoal_msg_open *open)
{
    const shoal_adapters *adapters = session->env.adapters;
    if (!open->has_adapter) {
        return true;
    }
    for (size_t i = 0; adapters != NULL && i < adapters->n; i++) {
        shoal_hash hash = shoal_lora_hash(adapters->list[i].lora);
        if (memcmp(&hash, &open->adapter, sizeof(hash)) == 0) {
            session->lora = adapters->list[i].lora;
            return true;
        }
    }
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(&open->adapter, hex);
    shoal_session_failf(session, SHOAL_RPC_FAILED_PRECONDITION,
                        "adapter mismatch: the edge asks for %.*s, this node has %zu others; use "
                        "the same files in model.adapters on all nodes",
                        SHORT_HEX, hex, adapters != NULL ? adapters->n : (size_t)0);
    return false;
}

bool shoal_session_open_agrees(shoal_session *session, const shoal_msg_open *open)
{
    const shoal_describe *describe = session->env.describe;
    uint32_t protocol = open->form.n_grammar > 0 ? SHOAL_WIRE_PROTOCOL_FORM : SHOAL_WIRE_PROTOCOL;
    if (open->protocol != protocol) {
        shoal_session_failf(session, SHOAL_RPC_FAILED_PRECONDITION,
                            "protocol mismatch: the edge speaks version %" PRIu32
                            ", this node version %" PRIu32 "; update the older side",
                            open->protocol, protocol);
        return false;
    }
    return same_hash(session, "model", &open->model, &describe->model) &&
           same_hash(session, "tokenizer", &open->tokenizer, &describe->tokenizer) &&
           same_hash(session, "chat template", &open->chat_template, &describe->chat_template) &&
           open_verifiable(session, open) && open_form_kept(session, open) &&
           open_adapter_held(session, open) && open_fits(session, open);
}

/* SHOAL_E_PROTOCOL: err says what of the form is wrong. */
shoal_status shoal_session_open_form(shoal_session *session, const shoal_msg_form *form,
                                     shoal_err *err)
{
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *grammar = NULL;
    if (form->n_grammar == 0) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_grammar_decode(form->grammar, form->n_grammar, &grammar, err));
    SHOAL_TRY(shoal_form_new(grammar, form->opening, &session->form));
    (void)SHOAL_STEAL(grammar);
    session->held = shoal_calloc(2, sizeof(*session->held));
    session->allowed =
        shoal_calloc(shoal_form_words_n_mask(session->env.words), sizeof(*session->allowed));
    if (session->held == NULL || session->allowed == NULL) {
        return SHOAL_E_NOMEM;
    }
    shoal_form_start(session->form, &session->held[0]);
    session->n_followed = form->position;
    return SHOAL_OK;
}

shoal_status shoal_session_open_allocate(shoal_session *session, const shoal_msg_open *open)
{
    const shoal_sampling *sampling = &open->sampling;
    session->ids = shoal_calloc(open->n_tokens_max, sizeof(*session->ids));
    session->shares = shoal_calloc(open->n_tokens_max, sizeof(*session->shares));
    session->biases = shoal_calloc(sampling->n_biases, sizeof(*session->biases));
    if (session->ids == NULL || session->shares == NULL || session->biases == NULL) {
        return SHOAL_E_NOMEM;
    }
    if (sampling->n_biases > 0) {
        memcpy(session->biases, sampling->biases, sampling->n_biases * sizeof(*session->biases));
    }
    session->sampling = *sampling;
    session->sampling.biases = session->biases;
    session->capacity = open->n_tokens_max;
    shoal_engine *engine = session->env.engine;
    return engine != NULL ? shoal_kv_seq_new(shoal_engine_kv(engine), &session->seq) : SHOAL_OK;
}
