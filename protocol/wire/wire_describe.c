/* SPDX-License-Identifier: Apache-2.0
 *
 * DescribeReply: what a node serves.
 */
#include "common/base/mem.h"
#include "protocol/wire/wire_internal.h"

#include <shoal.pb-c.h>

#include <string.h>

static shoal_status check_reply(const shoal_wire_check *check, const Shoal__V1__DescribeReply *m)
{
    SHOAL_TRY(shoal_wire_check_text(check, "DescribeReply.name", m->name.data, m->name.len,
                                    SHOAL_WIRE_TEXT_MAX - 1));
    SHOAL_TRY(shoal_wire_check_word(check, "DescribeReply.kv_form", m->kv_form.data, m->kv_form.len,
                                    sizeof(((shoal_describe *)0)->kv_form) - 1));
    SHOAL_TRY(shoal_wire_check_range(check, "DescribeReply.n_vocab", m->n_vocab, 1, INT32_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "DescribeReply.n_ctx", m->n_ctx, 1, SHOAL_WIRE_POSITION_MAX));
    SHOAL_TRY(shoal_wire_check_word(check, "DescribeReply.backend", m->backend.data, m->backend.len,
                                    sizeof(((shoal_describe *)0)->backend) - 1));
    /* An enum of the wire may hold any number. */
    SHOAL_TRY(shoal_wire_check_range(check, "DescribeReply.verify", (uint32_t)m->verify, 0,
                                     SHOAL_VERIFY_NONE));
    return shoal_wire_check_range(check, "DescribeReply.protocol", m->protocol, 1, UINT32_MAX);
}

/* A node that ships says so whole. */
static shoal_status check_edge_kv(const shoal_wire_check *check, const Shoal__V1__EdgeKv *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "EdgeKv.n_tokens", m->n_tokens, SHOAL_WIRE_KV_BLOCK,
                                     SHOAL_WIRE_POSITION_MAX));
    SHOAL_TRY(
        shoal_wire_check_range(check, "EdgeKv.token_us", m->token_us, 0, SHOAL_WIRE_COST_US_MAX));
    return shoal_wire_check_range(check, "EdgeKv.archive_us", m->archive_us, 0,
                                  m->basis_hash.len > 0 ? SHOAL_WIRE_COST_US_MAX : 0);
}

const shoal_wire_adapter *shoal_describe_adapter(const shoal_describe *describe, const char *name)
{
    for (size_t i = 0; i < describe->n_adapters; i++) {
        if (strcmp(describe->adapters[i].name, name) == 0) {
            return &describe->adapters[i];
        }
    }
    return NULL;
}

static shoal_status check_adapters(const shoal_wire_check *check, Shoal__V1__Adapter *const *list,
                                   size_t n)
{
    SHOAL_TRY(shoal_wire_check_range(check, "DescribeReply.adapters count", n, 0,
                                     SHOAL_WIRE_ADAPTERS_MAX));
    for (size_t i = 0; i < n; i++) {
        const ProtobufCBinaryData *name = &list[i]->name;
        SHOAL_TRY(shoal_wire_check_range(check, "Adapter.name length", name->len, 1,
                                         SHOAL_WIRE_NAME_MAX));
        SHOAL_TRY(shoal_wire_check_word(check, "Adapter.name", name->data, name->len,
                                        SHOAL_WIRE_NAME_MAX));
        for (size_t j = 0; j < i; j++) {
            if (list[j]->name.len == name->len &&
                memcmp(list[j]->name.data, name->data, name->len) == 0) {
                return shoal_err_set(check->err, check->code,
                                     "DescribeReply.adapters has the name \"%.*s\" twice",
                                     (int)name->len, (const char *)name->data);
            }
        }
    }
    return SHOAL_OK;
}

static shoal_status take_adapters(const shoal_wire_check *check, const Shoal__V1__DescribeReply *m,
                                  shoal_describe *ret_describe)
{
    SHOAL_TRY(check_adapters(check, m->adapters, m->n_adapters));
    for (size_t i = 0; i < m->n_adapters; i++) {
        shoal_wire_adapter *adapter = &ret_describe->adapters[i];
        shoal_wire_copy_text(adapter->name, &m->adapters[i]->name);
        SHOAL_TRY(
            shoal_wire_take_hash(check, "Adapter.hash", &m->adapters[i]->hash, &adapter->hash));
    }
    ret_describe->n_adapters = m->n_adapters;
    return SHOAL_OK;
}

shoal_status shoal_describe_encode(const shoal_describe *describe, shoal_buf *buf)
{
    Shoal__V1__DescribeReply m = SHOAL__V1__DESCRIBE_REPLY__INIT;
    m.name = shoal_wire_bytes(describe->name, strnlen(describe->name, sizeof describe->name));
    m.model_hash = shoal_wire_bytes(describe->model.bytes, SHOAL_HASH_BYTES);
    m.tokenizer_hash = shoal_wire_bytes(describe->tokenizer.bytes, SHOAL_HASH_BYTES);
    m.template_hash = shoal_wire_bytes(describe->chat_template.bytes, SHOAL_HASH_BYTES);
    m.kv_form =
        shoal_wire_bytes(describe->kv_form, strnlen(describe->kv_form, sizeof describe->kv_form));
    m.n_vocab = describe->n_vocab;
    m.n_ctx = describe->n_ctx;
    m.protocol = describe->protocol;
    m.backend =
        shoal_wire_bytes(describe->backend, strnlen(describe->backend, sizeof describe->backend));
    m.verify = (Shoal__V1__Verify)describe->verify;
    m.forms = describe->forms;
    m.opens_whole = describe->opens_whole;
    shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    SHOAL_TRY(check_reply(&ours, &m));
    const shoal_edge_kv *kv = &describe->edge_kv;
    Shoal__V1__EdgeKv edge_kv = SHOAL__V1__EDGE_KV__INIT;
    edge_kv.model_hash = shoal_wire_bytes(kv->model.bytes, SHOAL_HASH_BYTES);
    edge_kv.form_hash = shoal_wire_bytes(kv->form.bytes, SHOAL_HASH_BYTES);
    edge_kv.n_tokens = kv->n_tokens;
    edge_kv.token_us = kv->token_us;
    if (kv->archives) {
        edge_kv.basis_hash = shoal_wire_bytes(kv->basis.bytes, SHOAL_HASH_BYTES);
        edge_kv.archive_us = kv->archive_us;
    }
    if (kv->n_tokens > 0) {
        SHOAL_TRY(check_edge_kv(&ours, &edge_kv));
        m.edge_kv = &edge_kv;
    }
    Shoal__V1__Adapter adapters[SHOAL_WIRE_ADAPTERS_MAX];
    Shoal__V1__Adapter *list[SHOAL_WIRE_ADAPTERS_MAX];
    SHOAL_TRY(shoal_wire_check_range(&ours, "DescribeReply.adapters count", describe->n_adapters, 0,
                                     SHOAL_WIRE_ADAPTERS_MAX));
    for (size_t i = 0; i < describe->n_adapters; i++) {
        const shoal_wire_adapter *adapter = &describe->adapters[i];
        shoal__v1__adapter__init(&adapters[i]);
        adapters[i].name =
            shoal_wire_bytes(adapter->name, strnlen(adapter->name, sizeof adapter->name));
        adapters[i].hash = shoal_wire_bytes(adapter->hash.bytes, SHOAL_HASH_BYTES);
        list[i] = &adapters[i];
    }
    SHOAL_TRY(check_adapters(&ours, list, describe->n_adapters));
    m.n_adapters = describe->n_adapters;
    m.adapters = list;
    return shoal_wire_pack(&m.base, buf);
}

static shoal_status take_edge_kv(const shoal_wire_check *check, const Shoal__V1__EdgeKv *m,
                                 shoal_edge_kv *ret_kv)
{
    SHOAL_TRY(check_edge_kv(check, m));
    SHOAL_TRY(shoal_wire_take_hash(check, "EdgeKv.model_hash", &m->model_hash, &ret_kv->model));
    SHOAL_TRY(shoal_wire_take_hash(check, "EdgeKv.form_hash", &m->form_hash, &ret_kv->form));
    ret_kv->n_tokens = m->n_tokens;
    SHOAL_TRY(shoal_wire_take_hash_or_none(check, "EdgeKv.basis_hash", &m->basis_hash,
                                           &ret_kv->archives, &ret_kv->basis));
    ret_kv->token_us = m->token_us;
    ret_kv->archive_us = m->archive_us;
    return SHOAL_OK;
}

static shoal_status take_reply(const shoal_wire_check *check, const Shoal__V1__DescribeReply *m,
                               shoal_describe *ret_describe)
{
    SHOAL_TRY(check_reply(check, m));
    shoal_describe d = {.n_vocab = m->n_vocab, .n_ctx = m->n_ctx, .protocol = m->protocol};
    SHOAL_TRY(shoal_wire_take_hash(check, "DescribeReply.model_hash", &m->model_hash, &d.model));
    SHOAL_TRY(shoal_wire_take_hash(check, "DescribeReply.tokenizer_hash", &m->tokenizer_hash,
                                   &d.tokenizer));
    SHOAL_TRY(shoal_wire_take_hash(check, "DescribeReply.template_hash", &m->template_hash,
                                   &d.chat_template));
    shoal_wire_copy_text(d.name, &m->name);
    shoal_wire_copy_text(d.kv_form, &m->kv_form);
    shoal_wire_copy_text(d.backend, &m->backend);
    d.verify = (shoal_verify)m->verify;
    d.forms = m->forms;
    d.opens_whole = m->opens_whole;
    if (m->edge_kv) {
        SHOAL_TRY(take_edge_kv(check, m->edge_kv, &d.edge_kv));
    }
    SHOAL_TRY(take_adapters(check, m, &d));
    *ret_describe = d;
    return SHOAL_OK;
}

shoal_status shoal_describe_decode(const uint8_t *data, size_t n, shoal_describe *ret_describe,
                                   shoal_err *err)
{
    shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = 0, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__describe_reply__descriptor, data, n, &status, err);
    if (message) {
        status = take_reply(&check, (const Shoal__V1__DescribeReply *)message, ret_describe);
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}
