/* SPDX-License-Identifier: Apache-2.0
 *
 * The checks and the memory rules under the mapping, and the names of modes.
 */
#include "protocol/wire/wire.h"

#include "common/base/checked.h"
#include "common/base/mem.h"
#include "common/base/name.h"
#include "common/base/utf8.h"
#include "protocol/wire/wire_internal.h"

#include <string.h>

/* --- checks ----------------------------------------------------------------------------------- */

shoal_status shoal_wire_check_range(const shoal_wire_check *check, const char *field, uint64_t x,
                                    uint64_t low, uint64_t high)
{
    if (x >= low && x <= high) {
        return SHOAL_OK;
    }
    return shoal_err_set(check->err, check->code, "%s is %llu; it must lie in [%llu, %llu]", field,
                         (unsigned long long)x, (unsigned long long)low, (unsigned long long)high);
}

shoal_status shoal_wire_check_span(const shoal_wire_check *check, const char *field,
                                   uint64_t position, uint64_t n)
{
    if (position <= SHOAL_WIRE_POSITION_MAX && n <= SHOAL_WIRE_POSITION_MAX - position) {
        return SHOAL_OK;
    }
    return shoal_err_set(
        check->err, check->code, "%s begins at position %llu and spans %llu; it must end by %d",
        field, (unsigned long long)position, (unsigned long long)n, (int)SHOAL_WIRE_POSITION_MAX);
}

shoal_status shoal_wire_check_ids(const shoal_wire_check *check, const char *field,
                                  const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= check->n_vocab || ids[i] > INT32_MAX) {
            return shoal_err_set(check->err, check->code,
                                 "%s[%zu] is %u; it must be below the vocabulary of %zu", field, i,
                                 ids[i], check->n_vocab);
        }
    }
    return SHOAL_OK;
}

/* Length of the character at text, or 0 when it is no UTF-8 or a control character (C0, DEL, C1).
 */
static size_t printable_length(const uint8_t *text, size_t n)
{
    uint32_t code = 0;
    size_t length = shoal_utf8_step(text, n, &code);
    bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    return length > 0 && !control ? length : 0;
}

static shoal_status check_length(const shoal_wire_check *check, const char *field, size_t n,
                                 size_t n_max)
{
    if (n <= n_max) {
        return SHOAL_OK;
    }
    return shoal_err_set(check->err, check->code, "%s has %zu bytes; at most %zu", field, n, n_max);
}

shoal_status shoal_wire_check_text(const shoal_wire_check *check, const char *field,
                                   const uint8_t *text, size_t n, size_t n_max)
{
    SHOAL_TRY(check_length(check, field, n, n_max));
    for (size_t i = 0; i < n;) {
        size_t length = printable_length(text + i, n - i);
        if (length == 0) {
            return shoal_err_set(check->err, check->code,
                                 "%s has byte 0x%02x at %zu; it must be UTF-8 without control "
                                 "characters",
                                 field, text[i], i);
        }
        i += length;
    }
    return SHOAL_OK;
}

shoal_status shoal_wire_check_word(const shoal_wire_check *check, const char *field,
                                   const uint8_t *text, size_t n, size_t n_max)
{
    SHOAL_TRY(check_length(check, field, n, n_max));
    size_t i = shoal_name_span(text, n);
    if (i < n) {
        return shoal_err_set(check->err, check->code,
                             "%s has byte 0x%02x at %zu; it must be of [A-Za-z0-9._-]", field,
                             text[i], i);
    }
    return SHOAL_OK;
}

shoal_status shoal_wire_take_hash(const shoal_wire_check *check, const char *field,
                                  const ProtobufCBinaryData *bytes, shoal_hash *ret_hash)
{
    if (bytes->len != SHOAL_HASH_BYTES) {
        return shoal_err_set(check->err, check->code, "%s has %zu bytes; it must be exactly %d",
                             field, bytes->len, (int)SHOAL_HASH_BYTES);
    }
    memcpy(ret_hash->bytes, bytes->data, SHOAL_HASH_BYTES);
    return SHOAL_OK;
}

shoal_status shoal_wire_take_hash_or_none(const shoal_wire_check *check, const char *field,
                                          const ProtobufCBinaryData *bytes, bool *ret_has,
                                          shoal_hash *ret_hash)
{
    if (bytes->len > 0) {
        SHOAL_TRY(shoal_wire_take_hash(check, field, bytes, ret_hash));
    }
    *ret_has = bytes->len > 0;
    return SHOAL_OK;
}

void shoal_wire_copy_text(char *out, const ProtobufCBinaryData *bytes)
{
    if (bytes->len > 0) {
        memcpy(out, bytes->data, bytes->len);
    }
    out[bytes->len] = '\0';
}

size_t shoal_wire_clean_text(const char *text, char *out, size_t n)
{
    const uint8_t *bytes = (const uint8_t *)text;
    size_t left = strlen(text);
    size_t used = 0;
    while (left > 0) {
        size_t length = printable_length(bytes, left);
        size_t taken = length > 0 ? length : 1;
        if (used + taken >= n) {
            break;
        }
        if (length > 0) {
            memcpy(out + used, bytes, length);
        } else {
            out[used] = '?';
        }
        used += taken;
        bytes += taken;
        left -= taken;
    }
    out[used] = '\0';
    return used;
}

/* --- memory ----------------------------------------------------------------------------------- */

static void *budget_alloc(void *ctx, size_t n)
{
    shoal_wire_budget *budget = ctx;
    if (n > budget->left) {
        budget->over_budget = true;
        return NULL;
    }
    budget->left -= n;
    void *block = shoal_calloc(1, n);
    budget->out_of_memory = budget->out_of_memory || !block;
    return block;
}

static void budget_free(void *ctx, void *block)
{
    (void)ctx;
    shoal_free(block);
}

void shoal_wire_budget_init(shoal_wire_budget *budget)
{
    *budget = (shoal_wire_budget){
        .allocator = {.alloc = budget_alloc, .free = budget_free, .allocator_data = budget},
        .left = SHOAL_WIRE_UNPACK_MAX,
    };
}

ProtobufCMessage *shoal_wire_unpack(shoal_wire_budget *budget,
                                    const ProtobufCMessageDescriptor *descriptor,
                                    const uint8_t *data, size_t n, shoal_status *ret_status,
                                    shoal_err *err)
{
    if (n > SHOAL_WIRE_MESSAGE_MAX) {
        *ret_status = shoal_err_set(err, SHOAL_E_PROTOCOL, "%s has %zu bytes; at most %d",
                                    descriptor->short_name, n, (int)SHOAL_WIRE_MESSAGE_MAX);
        return NULL;
    }
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &budget->allocator, n, data);
    if (message) {
        *ret_status = SHOAL_OK;
        return message;
    }
    if (budget->out_of_memory) {
        *ret_status = shoal_err_set(err, SHOAL_E_NOMEM, "%s of %zu bytes: out of memory",
                                    descriptor->short_name, n);
    } else if (budget->over_budget) {
        *ret_status =
            shoal_err_set(err, SHOAL_E_PROTOCOL, "%s of %zu bytes would unpack to more than %d",
                          descriptor->short_name, n, (int)SHOAL_WIRE_UNPACK_MAX);
    } else {
        *ret_status = shoal_err_set(err, SHOAL_E_PROTOCOL, "%s of %zu bytes is not valid protobuf",
                                    descriptor->short_name, n);
    }
    return NULL;
}

void shoal_wire_unpacked_free(shoal_wire_budget *budget, ProtobufCMessage *message)
{
    if (message) {
        protobuf_c_message_free_unpacked(message, &budget->allocator);
    }
}

void *shoal_wire_block(size_t head_bytes, size_t n_ids, size_t n_bytes, int32_t **ret_ids,
                       uint8_t **ret_bytes)
{
    size_t words = 0;
    size_t total = 0;
    if (!shoal_mul_size(n_ids, sizeof(int32_t), &words) ||
        !shoal_add_size(head_bytes, words, &total) || !shoal_add_size(total, n_bytes, &total)) {
        return NULL;
    }
    uint8_t *block = shoal_calloc(1, total);
    if (!block) {
        return NULL;
    }
    *ret_ids = n_ids > 0 ? (int32_t *)(void *)(block + head_bytes) : NULL;
    *ret_bytes = n_bytes > 0 ? block + head_bytes + words : NULL;
    return block;
}

uint8_t shoal_wire_share(float probability)
{
    /* Written so that NaN becomes 0. */
    if (!(probability > 0.0f)) {
        return 0;
    }
    /* NOLINTNEXTLINE(bugprone-incorrect-roundings): lround gives other bytes now and then */
    return probability >= 1.0f ? 255 : (uint8_t)(probability * 255.0f + 0.5f);
}

/* --- packing ---------------------------------------------------------------------------------- */

typedef struct buf_sink {
    ProtobufCBuffer base; /* first: protobuf-c hands this back to append */
    shoal_buf *buf;
    shoal_status status; /* the first failure stays */
} buf_sink;

static void sink_append(ProtobufCBuffer *base, size_t n, const uint8_t *data)
{
    buf_sink *sink = (buf_sink *)base;
    if (sink->status == SHOAL_OK) {
        sink->status = shoal_buf_append(sink->buf, data, n);
    }
}

shoal_status shoal_wire_pack(const ProtobufCMessage *message, shoal_buf *buf)
{
    if (protobuf_c_message_get_packed_size(message) > SHOAL_WIRE_MESSAGE_MAX) {
        return SHOAL_E_INVALID;
    }
    size_t before = buf->length;
    buf_sink sink = {.base = {.append = sink_append}, .buf = buf, .status = SHOAL_OK};
    (void)protobuf_c_message_pack_to_buffer(message, &sink.base);
    if (sink.status != SHOAL_OK && buf->data) {
        buf->length = before;
        buf->data[before] = '\0';
    }
    return sink.status;
}

/* --- modes ------------------------------------------------------------------------------------ */

static const char *const mode_names[] = {
    [SHOAL_MODE_LOCAL] = "local",
    [SHOAL_MODE_ASSIST] = "assist",
    [SHOAL_MODE_EXACT] = "exact",
    [SHOAL_MODE_CLOUD] = "cloud",
};

const char *shoal_verify_name(shoal_verify verify)
{
    static const char *const names[] = {"all", "greedy", "none"};
    size_t i = (size_t)verify;
    return i < SHOAL_COUNT(names) ? names[i] : "unknown";
}

const char *shoal_mode_name(shoal_mode mode)
{
    size_t i = (size_t)mode;
    return i < SHOAL_COUNT(mode_names) ? mode_names[i] : "unknown";
}

shoal_status shoal_mode_parse(const char *name, shoal_mode *ret_mode)
{
    for (size_t i = 0; i < SHOAL_COUNT(mode_names); i++) {
        if (strcmp(name, mode_names[i]) == 0) {
            *ret_mode = (shoal_mode)i;
            return SHOAL_OK;
        }
    }
    return SHOAL_E_INVALID;
}
