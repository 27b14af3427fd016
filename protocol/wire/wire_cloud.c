/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages from cloud to edge. The edge checks its cloud as hard as the cloud checks its edges: a
 * Verdict steers a roll-back, and an id indexes an embedding.
 */
#include "common/base/mem.h"
#include "protocol/wire/wire_internal.h"

#include <shoal.pb-c.h>

#include <string.h>

enum {
    STATUS_CODE_MAX = 16 /* gRPC's UNAUTHENTICATED, the last one */
};

/* --- checks ----------------------------------------------------------------------------------- */

/* m is NULL where nothing is told. */
static shoal_status check_cost(const shoal_wire_check *check, const Shoal__V1__Cost *m)
{
    if (!m) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_wire_check_range(check, "Cost.step_us", m->step_us, 1, SHOAL_WIRE_COST_US_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "Cost.row_us", m->row_us, 0, SHOAL_WIRE_COST_US_MAX));
    return shoal_wire_check_range(check, "Cost.price", m->price, 0, SHOAL_WIRE_PRICE_ONE);
}

static shoal_status check_opened(const shoal_wire_check *check, const Shoal__V1__Opened *m)
{
    SHOAL_TRY(check_cost(check, m->cost));
    return shoal_wire_check_text(check, "Opened.node", m->node.data, m->node.len,
                                 SHOAL_WIRE_TEXT_MAX - 1);
}

static shoal_status check_verdict(const shoal_wire_check *check, const Shoal__V1__Verdict *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "Verdict.epoch", m->epoch, 0, SHOAL_WIRE_EPOCH_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "Verdict.ids count", m->n_ids, 0, SHOAL_WIRE_DRAFT_MAX));
    SHOAL_TRY(shoal_wire_check_span(check, "Verdict", m->accepted_to, m->n_ids));
    SHOAL_TRY(check_cost(check, m->cost));
    SHOAL_TRY(
        shoal_wire_check_range(check, "Verdict.n_cached", m->n_cached, 0, SHOAL_WIRE_POSITION_MAX));
    /* None at all, or one per id after one for each of at most DRAFT_MAX accepted drafts. */
    if (m->confidences.len > 0) {
        SHOAL_TRY(shoal_wire_check_range(check, "Verdict.confidences count", m->confidences.len,
                                         m->n_ids, m->n_ids + SHOAL_WIRE_DRAFT_MAX));
    }
    return shoal_wire_check_ids(check, "Verdict.ids", m->ids, m->n_ids);
}

static shoal_status check_tokens(const shoal_wire_check *check, const Shoal__V1__CloudTokens *m)
{
    SHOAL_TRY(
        shoal_wire_check_range(check, "CloudTokens.epoch", m->epoch, 0, SHOAL_WIRE_EPOCH_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "CloudTokens.ids count", m->n_ids, 1, SHOAL_WIRE_PROMPT_MAX));
    SHOAL_TRY(shoal_wire_check_span(check, "CloudTokens", m->position, m->n_ids));
    SHOAL_TRY(check_cost(check, m->cost));
    SHOAL_TRY(shoal_wire_check_range(check, "CloudTokens.n_cached", m->n_cached, 0,
                                     SHOAL_WIRE_POSITION_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "CloudTokens.confidences count", m->confidences.len,
                                     m->n_ids, m->n_ids));
    return shoal_wire_check_ids(check, "CloudTokens.ids", m->ids, m->n_ids);
}

static shoal_status check_error(const shoal_wire_check *check, const Shoal__V1__Error *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "Error.code", (uint32_t)m->code, 1, STATUS_CODE_MAX));
    return shoal_wire_check_text(check, "Error.text", m->text.data, m->text.len,
                                 SHOAL_WIRE_TEXT_MAX - 1);
}

/* --- encoding --------------------------------------------------------------------------------- */

/* NULL where nothing is told. */
static Shoal__V1__Cost *fill_cost(const shoal_msg_cost *cost, Shoal__V1__Cost *m)
{
    shoal__v1__cost__init(m);
    m->step_us = cost->step_us;
    m->row_us = cost->row_us;
    m->price = cost->price;
    return cost->step_us > 0 ? m : NULL;
}

static shoal_status encode_opened(const shoal_wire_check *check, const shoal_cloud_msg *msg,
                                  shoal_buf *buf)
{
    const char *node = msg->body.opened.node;
    Shoal__V1__Opened m = SHOAL__V1__OPENED__INIT;
    m.node = shoal_wire_bytes(node, strnlen(node, sizeof msg->body.opened.node));
    m.whole = msg->body.opened.whole;
    Shoal__V1__Cost cost;
    m.cost = fill_cost(&msg->cost, &cost);
    SHOAL_TRY(check_opened(check, &m));
    Shoal__V1__CloudMessage envelope = SHOAL__V1__CLOUD_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__CLOUD_MESSAGE__BODY_OPENED;
    envelope.opened = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

static shoal_status encode_verdict(const shoal_wire_check *check, const shoal_cloud_msg *msg,
                                   shoal_buf *buf)
{
    const shoal_msg_verdict *verdict = &msg->body.verdict;
    Shoal__V1__Verdict m = SHOAL__V1__VERDICT__INIT;
    m.epoch = verdict->epoch;
    m.accepted_to = verdict->accepted_to;
    m.n_ids = verdict->n_ids;
    m.ids = shoal_wire_words(verdict->ids);
    m.confidences = shoal_wire_bytes(verdict->confidences, verdict->n_confidences);
    m.n_cached = msg->n_cached;
    Shoal__V1__Cost cost;
    m.cost = fill_cost(&msg->cost, &cost);
    SHOAL_TRY(check_verdict(check, &m));
    Shoal__V1__CloudMessage envelope = SHOAL__V1__CLOUD_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__CLOUD_MESSAGE__BODY_VERDICT;
    envelope.verdict = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

static shoal_status encode_tokens(const shoal_wire_check *check, const shoal_cloud_msg *msg,
                                  shoal_buf *buf)
{
    const shoal_msg_tokens *tokens = &msg->body.tokens;
    Shoal__V1__CloudTokens m = SHOAL__V1__CLOUD_TOKENS__INIT;
    m.epoch = tokens->epoch;
    m.position = tokens->position;
    m.n_ids = tokens->n_ids;
    m.ids = shoal_wire_words(tokens->ids);
    m.confidences = shoal_wire_bytes(tokens->confidences, tokens->confidences ? tokens->n_ids : 0);
    m.n_cached = msg->n_cached;
    Shoal__V1__Cost cost;
    m.cost = fill_cost(&msg->cost, &cost);
    SHOAL_TRY(check_tokens(check, &m));
    Shoal__V1__CloudMessage envelope = SHOAL__V1__CLOUD_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__CLOUD_MESSAGE__BODY_TOKENS;
    envelope.tokens = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

static shoal_status encode_finished(const shoal_msg_finished *finished, shoal_buf *buf)
{
    Shoal__V1__Finished m = SHOAL__V1__FINISHED__INIT;
    m.n_prompt = finished->n_prompt;
    m.n_generated = finished->n_generated;
    m.n_verified = finished->n_verified;
    m.compute_us = finished->compute_us;
    Shoal__V1__CloudMessage envelope = SHOAL__V1__CLOUD_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__CLOUD_MESSAGE__BODY_FINISHED;
    envelope.finished = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

/* An error text may quote bytes of a peer or end in half a character: it is cleaned, not refused,
 * because an error that cannot be sent is worse. */
static shoal_status encode_error(const shoal_wire_check *check, int32_t code, const char *text,
                                 shoal_buf *buf)
{
    char clean[SHOAL_WIRE_TEXT_MAX];
    Shoal__V1__Error m = SHOAL__V1__ERROR__INIT;
    m.code = code;
    m.text = shoal_wire_bytes(clean, shoal_wire_clean_text(text, clean, sizeof clean));
    SHOAL_TRY(check_error(check, &m));
    Shoal__V1__CloudMessage envelope = SHOAL__V1__CLOUD_MESSAGE__INIT;
    envelope.body_case = SHOAL__V1__CLOUD_MESSAGE__BODY_ERROR;
    envelope.error = &m;
    return shoal_wire_pack(&envelope.base, buf);
}

shoal_status shoal_cloud_msg_encode(const shoal_cloud_msg *msg, shoal_buf *buf)
{
    const shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    Shoal__V1__CloudMessage envelope = SHOAL__V1__CLOUD_MESSAGE__INIT;
    Shoal__V1__Busy busy = SHOAL__V1__BUSY__INIT;
    switch (msg->kind) {
    case SHOAL_CLOUD_OPENED:
        return encode_opened(&ours, msg, buf);
    case SHOAL_CLOUD_VERDICT:
        return encode_verdict(&ours, msg, buf);
    case SHOAL_CLOUD_TOKENS:
        return encode_tokens(&ours, msg, buf);
    case SHOAL_CLOUD_BUSY:
        busy.retry_after_ms = msg->body.busy_retry_after_ms;
        envelope.body_case = SHOAL__V1__CLOUD_MESSAGE__BODY_BUSY;
        envelope.busy = &busy;
        return shoal_wire_pack(&envelope.base, buf);
    case SHOAL_CLOUD_FINISHED:
        return encode_finished(&msg->body.finished, buf);
    case SHOAL_CLOUD_ERROR:
        return encode_error(&ours, msg->body.error.code, msg->body.error.text, buf);
    }
    return SHOAL_E_INVALID;
}

/* --- decoding --------------------------------------------------------------------------------- */

/* A message with its lists behind it, both copied from protobuf. */
static shoal_cloud_msg *copy_lists(const uint32_t *from_ids, size_t n_ids,
                                   const ProtobufCBinaryData *confidences, const int32_t **ret_ids,
                                   const uint8_t **ret_bytes)
{
    int32_t *ids = NULL;
    uint8_t *bytes = NULL;
    shoal_cloud_msg *msg = shoal_wire_block(sizeof *msg, n_ids, confidences->len, &ids, &bytes);
    if (!msg) {
        return NULL;
    }
    if (ids) {
        memcpy(ids, from_ids, n_ids * sizeof *ids);
    }
    if (bytes) {
        memcpy(bytes, confidences->data, confidences->len);
    }
    *ret_ids = ids;
    *ret_bytes = bytes;
    return msg;
}

static shoal_msg_cost cost_of(const Shoal__V1__Cost *m)
{
    return m ? (shoal_msg_cost){.step_us = m->step_us, .row_us = m->row_us, .price = m->price}
             : (shoal_msg_cost){.step_us = 0};
}

static shoal_status decode_verdict(const shoal_wire_check *check, const Shoal__V1__Verdict *m,
                                   shoal_cloud_msg **ret_msg)
{
    SHOAL_TRY(check_verdict(check, m));
    shoal_msg_verdict verdict = {
        .epoch = m->epoch,
        .accepted_to = m->accepted_to,
        .n_ids = m->n_ids,
        .n_confidences = m->confidences.len,
    };
    shoal_cloud_msg *msg =
        copy_lists(m->ids, m->n_ids, &m->confidences, &verdict.ids, &verdict.confidences);
    if (!msg) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "Verdict: out of memory");
    }
    msg->kind = SHOAL_CLOUD_VERDICT;
    msg->cost = cost_of(m->cost);
    msg->n_cached = m->n_cached;
    msg->body.verdict = verdict;
    *ret_msg = msg;
    return SHOAL_OK;
}

static shoal_status decode_tokens(const shoal_wire_check *check, const Shoal__V1__CloudTokens *m,
                                  shoal_cloud_msg **ret_msg)
{
    SHOAL_TRY(check_tokens(check, m));
    shoal_msg_tokens tokens = {
        .epoch = m->epoch,
        .position = m->position,
        .kind = SHOAL_TOKENS_TRUSTED,
        .n_ids = m->n_ids,
    };
    shoal_cloud_msg *msg =
        copy_lists(m->ids, m->n_ids, &m->confidences, &tokens.ids, &tokens.confidences);
    if (!msg) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "CloudTokens: out of memory");
    }
    msg->kind = SHOAL_CLOUD_TOKENS;
    msg->cost = cost_of(m->cost);
    msg->n_cached = m->n_cached;
    msg->body.tokens = tokens;
    *ret_msg = msg;
    return SHOAL_OK;
}

/* The bodies without lists, into a message that is all zero. */
static shoal_status decode_scalars(const shoal_wire_check *check, const Shoal__V1__CloudMessage *m,
                                   shoal_cloud_msg *msg)
{
    if (m->body_case == SHOAL__V1__CLOUD_MESSAGE__BODY_OPENED) {
        SHOAL_TRY(check_opened(check, m->opened));
        msg->kind = SHOAL_CLOUD_OPENED;
        msg->cost = cost_of(m->opened->cost);
        shoal_wire_copy_text(msg->body.opened.node, &m->opened->node);
        msg->body.opened.whole = m->opened->whole;
    } else if (m->body_case == SHOAL__V1__CLOUD_MESSAGE__BODY_BUSY) {
        msg->kind = SHOAL_CLOUD_BUSY;
        msg->body.busy_retry_after_ms = m->busy->retry_after_ms;
    } else if (m->body_case == SHOAL__V1__CLOUD_MESSAGE__BODY_FINISHED) {
        msg->kind = SHOAL_CLOUD_FINISHED;
        msg->body.finished = (shoal_msg_finished){
            .n_prompt = m->finished->n_prompt,
            .n_generated = m->finished->n_generated,
            .n_verified = m->finished->n_verified,
            .compute_us = m->finished->compute_us,
        };
    } else {
        SHOAL_TRY(check_error(check, m->error));
        msg->kind = SHOAL_CLOUD_ERROR;
        msg->body.error.code = m->error->code;
        shoal_wire_copy_text(msg->body.error.text, &m->error->text);
    }
    return SHOAL_OK;
}

SHOAL_DEFINE_CLEANUP(shoal_cloud_msg, shoal_cloud_msg_free)

static shoal_status decode_plain(const shoal_wire_check *check, const Shoal__V1__CloudMessage *m,
                                 shoal_cloud_msg **ret_msg)
{
    SHOAL_CLEANUP(shoal_cloud_msg_freep) shoal_cloud_msg *msg = shoal_calloc(1, sizeof *msg);
    if (!msg) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "CloudMessage: out of memory");
    }
    SHOAL_TRY(decode_scalars(check, m, msg));
    *ret_msg = SHOAL_STEAL(msg);
    return SHOAL_OK;
}

static shoal_status decode_body(const shoal_wire_check *check, const Shoal__V1__CloudMessage *m,
                                shoal_cloud_msg **ret_msg)
{
    switch (m->body_case) {
    case SHOAL__V1__CLOUD_MESSAGE__BODY_VERDICT:
        return decode_verdict(check, m->verdict, ret_msg);
    case SHOAL__V1__CLOUD_MESSAGE__BODY_TOKENS:
        return decode_tokens(check, m->tokens, ret_msg);
    case SHOAL__V1__CLOUD_MESSAGE__BODY_OPENED:
    case SHOAL__V1__CLOUD_MESSAGE__BODY_BUSY:
    case SHOAL__V1__CLOUD_MESSAGE__BODY_FINISHED:
    case SHOAL__V1__CLOUD_MESSAGE__BODY_ERROR:
        return decode_plain(check, m, ret_msg);
    case SHOAL__V1__CLOUD_MESSAGE__BODY__NOT_SET:
    case _SHOAL__V1__CLOUD_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return shoal_err_set(check->err, check->code,
                         "CloudMessage.body is missing; it must be one of opened, verdict, tokens, "
                         "busy, finished, error");
}

shoal_status shoal_cloud_msg_decode(const uint8_t *data, size_t n, size_t n_vocab,
                                    shoal_cloud_msg **ret_msg, shoal_err *err)
{
    const shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = n_vocab, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__cloud_message__descriptor, data, n, &status, err);
    if (message) {
        status = decode_body(&check, (const Shoal__V1__CloudMessage *)message, ret_msg);
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}

void shoal_cloud_msg_free(shoal_cloud_msg *msg)
{
    shoal_free(msg);
}
