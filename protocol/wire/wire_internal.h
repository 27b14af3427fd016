/* SPDX-License-Identifier: Apache-2.0
 *
 * What the mapping files share: a byte budget for unpacking, a packer into shoal_buf, and checks
 * that serve both directions. A check is given the status to fail with: SHOAL_E_PROTOCOL for a
 * peer's bytes, SHOAL_E_INVALID for a message of ours. Pure, any thread.
 */
#ifndef SHOAL_WIRE_WIRE_INTERNAL_H
#define SHOAL_WIRE_WIRE_INTERNAL_H

#include "protocol/wire/wire.h"

#include <protobuf-c/protobuf-c.h>

/* How to fail, and the vocabulary ids are held against. */
typedef struct shoal_wire_check {
    shoal_status code;
    size_t n_vocab;
    shoal_err *err;
} shoal_wire_check;

/* A message of ours has no vocabulary at hand: any id that is not negative. */
#define SHOAL_WIRE_CHECK_OURS                                                                      \
    {                                                                                              \
        .code = SHOAL_E_INVALID, .n_vocab = INT32_MAX, .err = NULL                                 \
    }

/* x must lie in [low, high]. */
shoal_status shoal_wire_check_range(const shoal_wire_check *check, const char *field, uint64_t x,
                                    uint64_t low, uint64_t high) SHOAL_MUST_CHECK;
/* position + n must stay within SHOAL_WIRE_POSITION_MAX. */
shoal_status shoal_wire_check_span(const shoal_wire_check *check, const char *field,
                                   uint64_t position, uint64_t n) SHOAL_MUST_CHECK;
/* Ids as they stand in protobuf: unsigned, so that a negative one of ours is over every limit. */
shoal_status shoal_wire_check_ids(const shoal_wire_check *check, const char *field,
                                  const uint32_t *ids, size_t n) SHOAL_MUST_CHECK;
/* At most n_max bytes of UTF-8 without control characters. */
shoal_status shoal_wire_check_text(const shoal_wire_check *check, const char *field,
                                   const uint8_t *text, size_t n, size_t n_max) SHOAL_MUST_CHECK;
/* At most n_max bytes of [A-Za-z0-9._-]. */
shoal_status shoal_wire_check_word(const shoal_wire_check *check, const char *field,
                                   const uint8_t *text, size_t n, size_t n_max) SHOAL_MUST_CHECK;
/* Exactly 32 bytes, copied. */
shoal_status shoal_wire_take_hash(const shoal_wire_check *check, const char *field,
                                  const ProtobufCBinaryData *bytes,
                                  shoal_hash *ret_hash) SHOAL_MUST_CHECK;
/* The same of a field that may be absent: *ret_has says whether it is there. */
shoal_status shoal_wire_take_hash_or_none(const shoal_wire_check *check, const char *field,
                                          const ProtobufCBinaryData *bytes, bool *ret_has,
                                          shoal_hash *ret_hash) SHOAL_MUST_CHECK;

/* n bytes and a NUL into out, which the check before has made large enough. */
void shoal_wire_copy_text(char *out, const ProtobufCBinaryData *bytes);
/* What text may be shown to a person: bytes that are no valid UTF-8 and control characters become
 * '?'. out holds strlen(text) + 1 bytes or is cut at n - 1. Returns the length. */
size_t shoal_wire_clean_text(const char *text, char *out, size_t n);

/* Protobuf structures take pointers to non-const data; packing only reads through them. */
static inline uint32_t *shoal_wire_words(const int32_t *ids)
{
    return (uint32_t *)(uintptr_t)ids;
}

static inline ProtobufCBinaryData shoal_wire_bytes(const void *data, size_t n)
{
    return (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)data};
}

/* Memory for one unpacked message: every byte counts, freed or not, so that a small message cannot
 * cost a multiple of its limit (empty repeated fields and unknown fields grow some 40 times). */
typedef struct shoal_wire_budget {
    ProtobufCAllocator allocator;
    size_t left;
    bool over_budget;
    bool out_of_memory;
} shoal_wire_budget;

void shoal_wire_budget_init(shoal_wire_budget *budget);
/* NULL sets *ret_status and err: too long, malformed, over the budget, or out of memory. */
ProtobufCMessage *shoal_wire_unpack(shoal_wire_budget *budget,
                                    const ProtobufCMessageDescriptor *descriptor,
                                    const uint8_t *data, size_t n, shoal_status *ret_status,
                                    shoal_err *err);
void shoal_wire_unpacked_free(shoal_wire_budget *budget, ProtobufCMessage *message);

/* Appends the encoded message; on failure buf is as before. */
shoal_status shoal_wire_pack(const ProtobufCMessage *message, shoal_buf *buf) SHOAL_MUST_CHECK;

/* head_bytes for the message struct, then n_ids words, then n_bytes: one zeroed block, or NULL. The
 * lists begin at *ret_ids and *ret_bytes (NULL when empty). head_bytes is a multiple of 4. */
void *shoal_wire_block(size_t head_bytes, size_t n_ids, size_t n_bytes, int32_t **ret_ids,
                       uint8_t **ret_bytes);

#endif
