/* SPDX-License-Identifier: Apache-2.0
 *
 * FetchBundle: what an edge asks of a bundle, and the pieces that answer.
 */
#include "common/base/mem.h"
#include "protocol/wire/wire_internal.h"

#include <shoal.pb-c.h>

#include <string.h>

static shoal_status check_request(const shoal_wire_check *check, const Shoal__V1__BundleRequest *m)
{
    SHOAL_TRY(shoal_wire_check_word(check, "BundleRequest.family", m->family.data, m->family.len,
                                    SHOAL_WIRE_NAME_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "BundleRequest.serial", m->serial, 0,
                                     SHOAL_WIRE_BUNDLE_SERIAL_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "BundleRequest.file", m->file, 0,
                                     SHOAL_WIRE_BUNDLE_FILES_MAX - 1));
    return shoal_wire_check_range(check, "BundleRequest.offset", m->offset, 0,
                                  SHOAL_WIRE_BUNDLE_BYTES_MAX);
}

static shoal_status check_part(const shoal_wire_check *check, const Shoal__V1__BundlePart *m)
{
    SHOAL_TRY(shoal_wire_check_range(check, "BundlePart.data bytes", m->data.len, 0,
                                     SHOAL_WIRE_BUNDLE_PART_MAX));
    SHOAL_TRY(shoal_wire_check_range(check, "BundlePart.manifest bytes", m->manifest.len, 0,
                                     SHOAL_WIRE_MANIFEST_MAX));
    return shoal_wire_check_range(check, "BundlePart.signature bytes", m->signature.len, 0,
                                  SHOAL_WIRE_SIGNATURE_MAX);
}

shoal_status shoal_msg_bundle_request_encode(const shoal_msg_bundle_request *request,
                                             shoal_buf *buf)
{
    Shoal__V1__BundleRequest m = SHOAL__V1__BUNDLE_REQUEST__INIT;
    m.family = shoal_wire_bytes(request->family, strnlen(request->family, sizeof request->family));
    m.serial = request->serial;
    m.file = request->file;
    m.offset = request->offset;
    shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    SHOAL_TRY(check_request(&ours, &m));
    return shoal_wire_pack(&m.base, buf);
}

shoal_status shoal_msg_bundle_part_encode(const shoal_msg_bundle_part *part, shoal_buf *buf)
{
    Shoal__V1__BundlePart m = SHOAL__V1__BUNDLE_PART__INIT;
    m.data = shoal_wire_bytes(part->bytes, part->n_bytes);
    m.manifest = shoal_wire_bytes(part->manifest, part->n_manifest);
    m.signature = shoal_wire_bytes(part->signature, part->n_signature);
    shoal_wire_check ours = SHOAL_WIRE_CHECK_OURS;
    SHOAL_TRY(check_part(&ours, &m));
    return shoal_wire_pack(&m.base, buf);
}

shoal_status shoal_msg_bundle_request_decode(const uint8_t *data, size_t n,
                                             shoal_msg_bundle_request *ret_request, shoal_err *err)
{
    const shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = 0, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__bundle_request__descriptor, data, n, &status, err);
    if (message) {
        const Shoal__V1__BundleRequest *m = (const Shoal__V1__BundleRequest *)message;
        status = check_request(&check, m);
        if (status == SHOAL_OK) {
            *ret_request = (shoal_msg_bundle_request){
                .serial = m->serial, .file = m->file, .offset = m->offset};
            shoal_wire_copy_text(ret_request->family, &m->family);
        }
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}

/* Copies a field behind what is there; NULL when it is empty. */
static const uint8_t *put_field(uint8_t **at, const ProtobufCBinaryData *field)
{
    uint8_t *start = *at;
    if (field->len == 0) {
        return NULL;
    }
    memcpy(start, field->data, field->len);
    *at += field->len;
    return start;
}

static shoal_status take_part(const shoal_wire_check *check, const Shoal__V1__BundlePart *m,
                              shoal_msg_bundle_part **ret_part)
{
    SHOAL_TRY(check_part(check, m));
    int32_t *ids = NULL;
    uint8_t *bytes = NULL;
    size_t n = m->data.len + m->manifest.len + m->signature.len;
    shoal_msg_bundle_part *part = shoal_wire_block(sizeof *part, 0, n, &ids, &bytes);
    if (!part) {
        return shoal_err_set(check->err, SHOAL_E_NOMEM, "BundlePart: out of memory");
    }
    *part = (shoal_msg_bundle_part){
        .n_bytes = m->data.len, .n_manifest = m->manifest.len, .n_signature = m->signature.len};
    part->bytes = put_field(&bytes, &m->data);
    part->manifest = put_field(&bytes, &m->manifest);
    part->signature = put_field(&bytes, &m->signature);
    *ret_part = part;
    return SHOAL_OK;
}

shoal_status shoal_msg_bundle_part_decode(const uint8_t *data, size_t n,
                                          shoal_msg_bundle_part **ret_part, shoal_err *err)
{
    const shoal_wire_check check = {.code = SHOAL_E_PROTOCOL, .n_vocab = 0, .err = err};
    shoal_wire_budget budget;
    shoal_wire_budget_init(&budget);
    shoal_status status = SHOAL_OK;
    ProtobufCMessage *message =
        shoal_wire_unpack(&budget, &shoal__v1__bundle_part__descriptor, data, n, &status, err);
    if (message) {
        status = take_part(&check, (const Shoal__V1__BundlePart *)message, ret_part);
    }
    shoal_wire_unpacked_free(&budget, message);
    return status;
}

void shoal_msg_bundle_part_free(shoal_msg_bundle_part *part)
{
    shoal_free(part);
}
