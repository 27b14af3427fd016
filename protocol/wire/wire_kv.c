/* SPDX-License-Identifier: Apache-2.0
 *
 * FetchKv: a text whose KV is asked for, and the pieces of the blob that answers.
 */
#include "common/base/mem.h"
#include "protocol/wire/wire_internal.h"

#include <shoal.pb-c.h>

#include <string.h>

enum {
    REQUEST_ID_MAX = 64
};

static shoal_status check_request(const shoal_wire_check *check, const Shoal__V1__KvRequest *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "KvRequest.ids count", m->n_ids, SHOAL_WIRE_KV_BLOCK,
                                     SHOAL_WIRE_PROMPT_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "KvRequest.ids count modulo 32",
                                     m->n_ids % SHOAL_WIRE_KV_BLOCK, 0, 0));
    SHOAL_TRY(shoal_wire_check_ids(check, "KvRequest.ids", m->ids, m->n_ids));
    SHOAL_TRY(
        shoal_wire_check_range(check, "KvRequest.record", m->record, 0, SHOAL_WIRE_KV_RECORD_MAX));
    return shoal_wire_check_word(check, "KvRequest.request_id", m->request_id.data,
                                 m->request_id.len, REQUEST_ID_MAX);
}

static shoal_status check_part(const shoal_wire_check *check, const Shoal__V1__KvPart *m)
{
    SHOAL_TRY(
        shoal_wire_check_range(check, "KvPart.data bytes", m->data.len, 0, SHOAL_WIRE_KV_PART_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "KvPart.n_cached", m->n_cached, 0, SHOAL_WIRE_POSITION_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "KvPart.record", m->record, 0, SHOAL_WIRE_KV_RECORD_MAX));
    return shoal_wire_check_range(check, "KvPart.token_us", m->token_us, 0, SHOAL_WIRE_COST_US_MAX);
}

shoal_status shoal_msg_kv_request_encode(const shoal_msg_kv_request *request, shoal_buf *buf)
{
    Shoal__V1__KvRequest m = SHOAL__V1__KV_REQUEST__INIT;
    m.model_hash = shoal_wire_bytes(request->model.bytes, SHOAL_HASH_BYTES);
    m.tokenizer_hash = shoal_wire_bytes(request->tokenizer.bytes, SHOAL_HASH_BYTES);
    m.form_hash = shoal_wire_bytes(request->form.bytes, SHOAL_HASH_BYTES);
    m.n_ids = request->n_ids;
    m.ids = shoal_wire_words(request->ids);
    m.request_id = shoal_wire_bytes(request->request_id,
                                    strnlen(request->request_id, sizeof request->request_id));
    m.record = request->record;
    if (request->archived) {
        m.basis_hash = shoal_wire_bytes(request->basis.bytes, SHOAL_HASH_BYTES);
    }
    shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    SHOAL_TRY(check_request(&ours, &m));
    return shoal_wire_pack(&m.base, buf);
}

shoal_status shoal_msg_kv_part_encode(const shoal_msg_kv_part *part, shoal_buf *buf)
{
    Shoal__V1__KvPart m = SHOAL__V1__KV_PART__INIT;
    m.data = shoal_wire_bytes(part->bytes, part->n_bytes);
    m.n_cached = part->n_cached;
    m.token_us = part->token_us;
    m.record = part->record;
    shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    SHOAL_TRY(check_part(&ours, &m));
    return shoal_wire_pack(&m.base, buf);
}

static shoal_status take_request(const shoal_wire_check *check, const Shoal__V1__KvRequest *m,
                                 shoal_msg_kv_request **ret_request)
{
    SHOAL_TRY(check_request(check, m));
    shoal_msg_kv_request head = {.n_ids = m->n_ids, .record = m->record};
    SHOAL_TRY(shoal_wire_take_hash(check, "KvRequest.model_hash", &m->model_hash, &head.model));
    SHOAL_TRY(shoal_wire_take_hash(check, "KvRequest.tokenizer_hash", &m->tokenizer_hash,
                                   &head.tokenizer));
    SHOAL_TRY(shoal_wire_take_hash(check, "KvRequest.form_hash", &m->form_hash, &head.form));
    SHOAL_TRY(shoal_wire_take_hash_or_none(check, "KvRequest.basis_hash", &m->basis_hash,
                                           &head.archived, &head.basis));
    shoal_wire_copy_text(head.request_id, &m->request_id);
    int32_t *ids = NULL;
    uint8_t *bytes = NULL;
    shoal_msg_kv_request *request = shoal_wire_block(sizeof *request, m->n_ids, 0, &ids, &bytes);
    if (!request) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "KvRequest: out of memory");
    }
    memcpy(ids, m->ids, m->n_ids * sizeof *ids);
    head.ids = ids;
    *request = head;
    *ret_request = request;
    return SHOAL_OK;
}

static shoal_status take_part(const shoal_wire_check *check, const Shoal__V1__KvPart *m,
                              shoal_msg_kv_part **ret_part)
{
    SHOAL_TRY(check_part(check, m));
    int32_t *ids = NULL;
    uint8_t *bytes = NULL;
    shoal_msg_kv_part *part = shoal_wire_block(sizeof *part, 0, m->data.len, &ids, &bytes);
    if (!part) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "KvPart: out of memory");
    }
    if (bytes) {
        memcpy(bytes, m->data.data, m->data.len);
    }
    *part = (shoal_msg_kv_part){.bytes = bytes,
                                .n_bytes = m->data.len,
                                .n_cached = m->n_cached,
                                .token_us = m->token_us,
                                .record = m->record};
    *ret_part = part;
    return SHOAL_OK;
}

shoal_status shoal_msg_kv_request_decode(const uint8_t *data, size_t n, size_t n_vocab,
                                         shoal_msg_kv_request **ret_request, shoal_err *err)
{
    const shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = n_vocab, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__kv_request__descriptor, data, n, &status, err);
    if (message) {
        status = take_request(&check, (const Shoal__V1__KvRequest *)message, ret_request);
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}

shoal_status shoal_msg_kv_part_decode(const uint8_t *data, size_t n, shoal_msg_kv_part **ret_part,
                                      shoal_err *err)
{
    const shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = 0, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__kv_part__descriptor, data, n, &status, err);
    if (message) {
        status = take_part(&check, (const Shoal__V1__KvPart *)message, ret_part);
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}

void shoal_msg_kv_request_free(shoal_msg_kv_request *request)
{
    shoal_free(request);
}

void shoal_msg_kv_part_free(shoal_msg_kv_part *part)
{
    shoal_free(part);
}
