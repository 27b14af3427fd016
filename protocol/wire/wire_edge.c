/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages from edge to cloud. Each check looks at the protobuf structure, so that what we send
 * passes through the same code as what we receive.
 */
#include "common/base/mem.h"
#include "protocol/wire/wire_internal.h"

#include <shoal.pb-c.h>

#include <string.h>

enum {
    REQUEST_ID_MAX = 64
};

/* --- checks ----------------------------------------------------------------------------------- */

static shoal_status check_tokens(const shoal_wire_check *check, const Shoal__V1__Tokens *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "Tokens.kind", (uint32_t)m->kind,
                                     SHOAL__V1__TOKEN_KIND__KIND_PROMPT,
                                     SHOAL__V1__TOKEN_KIND__KIND_DRAFT));
    SHOAL_TRY(shoal_wire_check_range(check, "Tokens.epoch", m->epoch, 0, SHOAL_WIRE_EPOCH_MAX));
    bool draft = m->kind == SHOAL__V1__TOKEN_KIND__KIND_DRAFT;
    SHOAL_TRY(shoal_wire_check_range(check, "Tokens.ids count", m->n_ids, 1,
                                     draft ? SHOAL_WIRE_DRAFT_MAX : SHOAL_WIRE_PROMPT_MAX));
    SHOAL_TRY(shoal_wire_check_span(check, "Tokens", m->position, m->n_ids));
    return shoal_wire_check_ids(check, "Tokens.ids", m->ids, m->n_ids);
}

static shoal_status check_continue(const shoal_wire_check *check, const Shoal__V1__Continue *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "Continue.epoch", m->epoch, 0, SHOAL_WIRE_EPOCH_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "Continue.n_max", m->n_max, 1, SHOAL_WIRE_POSITION_MAX));
    return shoal_wire_check_span(check, "Continue", m->position, m->n_max);
}

static shoal_status check_open(const shoal_wire_check *check, const Shoal__V1__Open *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "Open.protocol", m->protocol, 1, UINT32_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "Open.mode", (uint32_t)m->mode,
                                     SHOAL__V1__MODE__MODE_ASSIST, SHOAL__V1__MODE__MODE_CLOUD));
    SHOAL_TRY(
        shoal_wire_check_range(check, "Open.priority", m->priority, 0, SHOAL_WIRE_PRIORITY_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "Open.n_tokens_max", m->n_tokens_max, 1,
                                     SHOAL_WIRE_POSITION_MAX));
    return shoal_wire_check_word(check, "Open.request_id", m->request_id.data, m->request_id.len,
                                 REQUEST_ID_MAX);
}

/* What would follow an Open: drafts and a Continue stand behind a prompt. */
static shoal_status check_open_text(const shoal_wire_check *check, const Shoal__V1__Open *m)
{
    bool prompt = m->n_prompt > 0;
    SHOAL_TRY(
        shoal_wire_check_range(check, "Open.prompt count", m->n_prompt, 0, SHOAL_WIRE_PROMPT_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "Open.drafts count", m->n_drafts, 0,
                                     prompt ? SHOAL_WIRE_DRAFT_MAX : 0));
    SHOAL_TRY(shoal_wire_check_range(check, "Open.n_continue", m->n_continue, 0,
                                     prompt ? SHOAL_WIRE_POSITION_MAX - (uint32_t)m->n_prompt : 0));
    if (m->confidences.len > 0) {
        SHOAL_TRY(shoal_wire_check_range(check, "Open.confidences count", m->confidences.len,
                                         (uint32_t)m->n_drafts, (uint32_t)m->n_drafts));
    }
    SHOAL_TRY(shoal_wire_check_ids(check, "Open.prompt", m->prompt, m->n_prompt));
    return shoal_wire_check_ids(check, "Open.drafts", m->drafts, m->n_drafts);
}

/* What the grammar says is for common/grammar to judge. */
static shoal_status check_form(const shoal_wire_check *check, const Shoal__V1__Form *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "Form.grammar bytes", m->grammar.len, 1,
                                     SHOAL_WIRE_FORM_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "Form.position", m->position, 1, SHOAL_WIRE_POSITION_MAX));
    return shoal_wire_check_text(check, "Form.opening", m->opening.data, m->opening.len,
                                 SHOAL_WIRE_OPENING_MAX);
}

/* The range of every parameter belongs to common/sample; its text is kept, the status is ours. */
static shoal_status check_sampling(const shoal_wire_check *check, const shoal_sampling *sampling)
{
    shoal_err local = SHOAL_ERR_INIT;
    if (shoal_sampling_check(sampling, check->n_vocab, &local) == SHOAL_OK) {
        return SHOAL_OK;
    }
    return shoal_err_set(check->err, check->code, "Open.sampling: %s", local.text);
}

/* --- encoding --------------------------------------------------------------------------------- */

/* Room for the two lists that protobuf wants where we hold one. */
typedef struct bias_lists {
    uint32_t ids[SHOAL_BIAS_MAX];
    float biases[SHOAL_BIAS_MAX];
} bias_lists;

static void fill_sampling(const shoal_sampling *s, bias_lists *lists, Shoal__V1__Sampling *m)
{
    m->temperature = s->temperature;
    m->top_p = s->top_p;
    m->min_p = s->min_p;
    m->top_k = s->top_k;
    m->repetition_penalty = s->repetition_penalty;
    m->presence_penalty = s->presence_penalty;
    m->frequency_penalty = s->frequency_penalty;
    m->penalty_window = s->penalty_window;
    m->seed = s->seed;
    for (size_t i = 0; i < s->n_biases; i++) {
        lists->ids[i] = (uint32_t)s->biases[i].id;
        lists->biases[i] = s->biases[i].bias;
    }
    m->n_bias_ids = s->n_biases;
    m->bias_ids = lists->ids;
    m->n_biases = s->n_biases;
    m->biases = lists->biases;
}

static shoal_status encode_open(const shoal_wire_check *check, const shoal_msg_open *open,
                                shoal_buf *buf)
{
    SHOAL_TRY(check_sampling(check, &open->sampling));
    bias_lists lists;
    Shoal__V1__Sampling sampling = SHOAL__V1__SAMPLING__INIT;
    fill_sampling(&open->sampling, &lists, &sampling);
    Shoal__V1__Open m = SHOAL__V1__OPEN__INIT;
    m.protocol = open->protocol;
    m.model_hash = shoal_wire_bytes(open->model.bytes, SHOAL_HASH_BYTES);
    m.tokenizer_hash = shoal_wire_bytes(open->tokenizer.bytes, SHOAL_HASH_BYTES);
    m.template_hash = shoal_wire_bytes(open->chat_template.bytes, SHOAL_HASH_BYTES);
    m.sampling = &sampling;
    /* The values of shoal_mode are those of the proto; LOCAL is its "unspecified" and refused. */
    m.mode = (Shoal__V1__Mode)open->mode;
    m.deadline_ms = open->deadline_ms;
    m.priority = open->priority;
    m.n_tokens_max = open->n_tokens_max;
    m.request_id =
        shoal_wire_bytes(open->request_id, strnlen(open->request_id, sizeof open->request_id));
    m.prompt = shoal_wire_words(open->prompt);
    m.n_prompt = open->n_prompt;
    m.drafts = shoal_wire_words(open->drafts);
    m.n_drafts = open->n_drafts;
    m.confidences = shoal_wire_bytes(open->confidences, open->confidences ? open->n_drafts : 0);
    m.n_continue = open->n_continue;
    m.ends = open->ends;
    m.adapter = shoal_wire_bytes(open->adapter.bytes, open->has_adapter ? SHOAL_HASH_BYTES : 0);
    SHOAL_TRY(check_open(check, &m));
    SHOAL_TRY(check_open_text(check, &m));
    Shoal__V1__Form form = SHOAL__V1__FORM__INIT;
    if (open->form.n_grammar > 0) {
        form.grammar = shoal_wire_bytes(open->form.grammar, open->form.n_grammar);
        form.opening = shoal_wire_bytes(open->form.opening,
                                        strnlen(open->form.opening, sizeof open->form.opening));
        form.position = open->form.position;
        SHOAL_TRY(check_form(check, &form));
        m.form = &form;
    }
    Shoal__V1__EdgeMessage envelope = SHOAL__V1__EDGE_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__EDGE_MESSAGE__BODY_OPEN;
    envelope.open = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

static shoal_status encode_tokens(const shoal_wire_check *check, const shoal_msg_tokens *tokens,
                                  shoal_buf *buf)
{
    Shoal__V1__Tokens m = SHOAL__V1__TOKENS__INIT;
    m.epoch = tokens->epoch;
    m.position = tokens->position;
    m.kind = (Shoal__V1__TokenKind)tokens->kind;
    m.n_ids = tokens->n_ids;
    m.ids = shoal_wire_words(tokens->ids);
    SHOAL_TRY(check_tokens(check, &m));
    Shoal__V1__EdgeMessage envelope = SHOAL__V1__EDGE_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__EDGE_MESSAGE__BODY_TOKENS;
    envelope.tokens = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

static shoal_status encode_continue(const shoal_wire_check *check, const shoal_msg_continue *cont,
                                    shoal_buf *buf)
{
    Shoal__V1__Continue m = SHOAL__V1__CONTINUE__INIT;
    m.epoch = cont->epoch;
    m.position = cont->position;
    m.n_max = cont->n_max;
    SHOAL_TRY(check_continue(check, &m));
    Shoal__V1__EdgeMessage envelope = SHOAL__V1__EDGE_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__EDGE_MESSAGE__BODY_CONTINUE_;
    envelope.continue_ = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

shoal_status shoal_edge_msg_encode(const shoal_edge_msg *msg, shoal_buf *buf)
{
    const shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    Shoal__V1__EdgeMessage envelope = SHOAL__V1__EDGE_MESSAGE__INIT;
    Shoal__V1__Cancel cancel = SHOAL__V1__CANCEL__INIT;
    Shoal__V1__Close close = SHOAL__V1__CLOSE__INIT;
    switch (msg->kind) {
    case SHOAL_EDGE_OPEN:
        return encode_open(&ours, &msg->body.open, buf);
    case SHOAL_EDGE_TOKENS:
        return encode_tokens(&ours, &msg->body.tokens, buf);
    case SHOAL_EDGE_CONTINUE:
        return encode_continue(&ours, &msg->body.cont, buf);
    case SHOAL_EDGE_CANCEL:
        envelope.body_case = SHOAL__V1__EDGE_MESSAGE__BODY_CANCEL;
        envelope.cancel = &cancel;
        return shoal_wire_pack(&envelope.base, buf);
    case SHOAL_EDGE_CLOSE:
        envelope.body_case = SHOAL__V1__EDGE_MESSAGE__BODY_CLOSE;
        envelope.close = &close;
        return shoal_wire_pack(&envelope.base, buf);
    }
    return SHOAL_E_INVALID;
}

/* --- decoding --------------------------------------------------------------------------------- */

SHOAL_DEFINE_CLEANUP(shoal_edge_msg, shoal_edge_msg_free)

static shoal_status decode_sampling(const shoal_wire_check *check, const Shoal__V1__Sampling *m,
                                    shoal_logit_bias *biases, shoal_sampling *ret_sampling)
{
    for (size_t i = 0; i < m->n_biases; i++) {
        biases[i] = (shoal_logit_bias){.id = (int32_t)m->bias_ids[i], .bias = m->biases[i]};
    }
    *ret_sampling = (shoal_sampling){
        .temperature = m->temperature,
        .top_p = m->top_p,
        .min_p = m->min_p,
        .top_k = m->top_k,
        .repetition_penalty = m->repetition_penalty,
        .presence_penalty = m->presence_penalty,
        .frequency_penalty = m->frequency_penalty,
        .penalty_window = m->penalty_window,
        .seed = m->seed,
        .biases = m->n_biases > 0 ? biases : NULL,
        .n_biases = m->n_biases,
    };
    return check_sampling(check, ret_sampling);
}

/* The lists must fit before memory is taken for them. */
static shoal_status check_bias_lists(const shoal_wire_check *check, const Shoal__V1__Sampling *m)
{
    if (!m) {
        return shoal_err_set(check->err, check->code, "Open.sampling is missing");
    }
    SHOAL_TRY(
        shoal_wire_check_range(check, "Sampling.biases count", m->n_biases, 0, SHOAL_BIAS_MAX));
    if (m->n_bias_ids != m->n_biases) {
        return shoal_err_set(check->err, check->code,
                             "Sampling.bias_ids has %zu entries and biases %zu; they must agree",
                             m->n_bias_ids, m->n_biases);
    }
    return shoal_wire_check_ids(check, "Sampling.bias_ids", m->bias_ids, m->n_bias_ids);
}

/* ids: room for all of both lists; bytes: for the confidences. */
static void take_open_text(const Shoal__V1__Open *m, int32_t *ids, uint8_t *bytes,
                           shoal_msg_open *ret_open)
{
    if (m->n_prompt > 0) {
        memcpy(ids, m->prompt, m->n_prompt * sizeof *ids);
        ret_open->prompt = ids;
        ret_open->n_prompt = m->n_prompt;
    }
    if (m->n_drafts > 0) {
        memcpy(ids + m->n_prompt, m->drafts, m->n_drafts * sizeof *ids);
        ret_open->drafts = ids + m->n_prompt;
        ret_open->n_drafts = m->n_drafts;
    }
    if (m->confidences.len > 0) {
        memcpy(bytes, m->confidences.data, m->confidences.len);
        ret_open->confidences = bytes;
    }
    ret_open->n_continue = m->n_continue;
    ret_open->ends = m->ends;
}

static shoal_status decode_open(const shoal_wire_check *check, const Shoal__V1__Open *m,
                                shoal_edge_msg **ret_msg)
{
    SHOAL_TRY(check_open(check, m));
    SHOAL_TRY(check_bias_lists(check, m->sampling));
    SHOAL_TRY(check_open_text(check, m));
    if (m->form) {
        SHOAL_TRY(check_form(check, m->form));
    }
    size_t n_biases = m->sampling->n_biases;
    size_t n_ids = m->n_prompt + m->n_drafts;
    size_t n_grammar = m->form ? m->form->grammar.len : 0;
    SHOAL_CLEANUP(shoal_edge_msg_freep)
    shoal_edge_msg *msg =
        shoal_calloc(1, sizeof(shoal_edge_msg) + n_biases * sizeof(shoal_logit_bias) +
                            n_ids * sizeof(int32_t) + n_grammar + m->confidences.len);
    if (!msg) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "Open: out of memory");
    }
    msg->kind = SHOAL_EDGE_OPEN;
    shoal_msg_open *open = &msg->body.open;
    open->protocol = m->protocol;
    SHOAL_TRY(shoal_wire_take_hash(check, "Open.model_hash", &m->model_hash, &open->model));
    SHOAL_TRY(
        shoal_wire_take_hash(check, "Open.tokenizer_hash", &m->tokenizer_hash, &open->tokenizer));
    SHOAL_TRY(
        shoal_wire_take_hash(check, "Open.template_hash", &m->template_hash, &open->chat_template));
    SHOAL_TRY(shoal_wire_take_hash_or_none(check, "Open.adapter", &m->adapter, &open->has_adapter,
                                           &open->adapter));
    shoal_logit_bias *biases = (shoal_logit_bias *)(void *)(msg + 1);
    SHOAL_TRY(decode_sampling(check, m->sampling, biases, &open->sampling));
    open->mode = (shoal_mode)m->mode;
    open->deadline_ms = m->deadline_ms;
    open->priority = m->priority;
    open->n_tokens_max = m->n_tokens_max;
    shoal_wire_copy_text(open->request_id, &m->request_id);
    int32_t *ids = (int32_t *)(void *)(biases + n_biases);
    uint8_t *grammar = (uint8_t *)(ids + n_ids);
    take_open_text(m, ids, grammar + n_grammar, open);
    if (m->form) {
        memcpy(grammar, m->form->grammar.data, n_grammar);
        open->form.grammar = grammar;
        open->form.n_grammar = n_grammar;
        open->form.position = m->form->position;
        shoal_wire_copy_text(open->form.opening, &m->form->opening);
    }
    *ret_msg = SHOAL_STEAL(msg);
    return SHOAL_OK;
}

static shoal_status decode_tokens(const shoal_wire_check *check, const Shoal__V1__Tokens *m,
                                  shoal_edge_msg **ret_msg)
{
    SHOAL_TRY(check_tokens(check, m));
    int32_t *ids = NULL;
    uint8_t *none = NULL;
    shoal_edge_msg *msg = shoal_wire_block(sizeof *msg, m->n_ids, 0, &ids, &none);
    if (!msg) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "Tokens: out of memory");
    }
    memcpy(ids, m->ids, m->n_ids * sizeof *ids);
    msg->kind = SHOAL_EDGE_TOKENS;
    msg->body.tokens = (shoal_msg_tokens){
        .epoch = m->epoch,
        .position = m->position,
        .kind = (shoal_token_kind)m->kind,
        .ids = ids,
        .n_ids = m->n_ids,
        .confidences = NULL,
    };
    *ret_msg = msg;
    return SHOAL_OK;
}

static shoal_status decode_plain(const shoal_wire_check *check, shoal_edge_msg_kind kind,
                                 const Shoal__V1__Continue *cont, shoal_edge_msg **ret_msg)
{
    if (cont) {
        SHOAL_TRY(check_continue(check, cont));
    }
    shoal_edge_msg *msg = shoal_calloc(1, sizeof *msg);
    if (!msg) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "EdgeMessage: out of memory");
    }
    msg->kind = kind;
    if (cont) {
        msg->body.cont = (shoal_msg_continue){
            .epoch = cont->epoch,
            .position = cont->position,
            .n_max = cont->n_max,
        };
    }
    *ret_msg = msg;
    return SHOAL_OK;
}

static shoal_status decode_body(const shoal_wire_check *check, const Shoal__V1__EdgeMessage *m,
                                shoal_edge_msg **ret_msg)
{
    switch (m->body_case) {
    case SHOAL__V1__EDGE_MESSAGE__BODY_OPEN:
        return decode_open(check, m->open, ret_msg);
    case SHOAL__V1__EDGE_MESSAGE__BODY_TOKENS:
        return decode_tokens(check, m->tokens, ret_msg);
    case SHOAL__V1__EDGE_MESSAGE__BODY_CONTINUE_:
        return decode_plain(check, SHOAL_EDGE_CONTINUE, m->continue_, ret_msg);
    case SHOAL__V1__EDGE_MESSAGE__BODY_CANCEL:
        return decode_plain(check, SHOAL_EDGE_CANCEL, NULL, ret_msg);
    case SHOAL__V1__EDGE_MESSAGE__BODY_CLOSE:
        return decode_plain(check, SHOAL_EDGE_CLOSE, NULL, ret_msg);
    case SHOAL__V1__EDGE_MESSAGE__BODY__NOT_SET:
    case _SHOAL__V1__EDGE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return shoal_err_set(check->err, check->code,
                         "EdgeMessage.body is missing; it must be one of open, tokens, continue, "
                         "cancel, close");
}

shoal_status shoal_edge_msg_decode(const uint8_t *data, size_t n, size_t n_vocab,
                                   shoal_edge_msg **ret_msg, shoal_err *err)
{
    const shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = n_vocab, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__edge_message__descriptor, data, n, &status, err);
    if (message) {
        status = decode_body(&check, (const Shoal__V1__EdgeMessage *)message, ret_msg);
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}

size_t shoal_edge_msg_n_ids(const shoal_edge_msg *msg)
{
    switch (msg->kind) {
    case SHOAL_EDGE_OPEN:
        return msg->body.open.n_prompt + msg->body.open.n_drafts;
    case SHOAL_EDGE_TOKENS:
        return msg->body.tokens.n_ids;
    case SHOAL_EDGE_CONTINUE:
    case SHOAL_EDGE_CANCEL:
    case SHOAL_EDGE_CLOSE:
        break;
    }
    return 0;
}

void shoal_edge_msg_free(shoal_edge_msg *msg)
{
    shoal_free(msg);
}
