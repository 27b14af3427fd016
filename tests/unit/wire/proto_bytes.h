/* SPDX-License-Identifier: Apache-2.0
 *
 * Protobuf bytes by hand, so that tests can say what no encoder of ours would, and so that the
 * mapping is held against the wire format itself.
 */
#ifndef SHOAL_TESTS_PROTO_BYTES_H
#define SHOAL_TESTS_PROTO_BYTES_H

#include "common/base/buf.h"

#include <string.h>

static inline void pb_raw(shoal_buf *b, const void *data, size_t n)
{
    assert_int_equal(shoal_buf_append(b, data, n), SHOAL_OK);
}

static inline void pb_varint(shoal_buf *b, uint64_t x)
{
    do {
        uint8_t byte = (uint8_t)((x & 0x7f) | (x > 0x7f ? 0x80 : 0));
        pb_raw(b, &byte, 1);
        x >>= 7;
    } while (x > 0);
}

static inline void pb_uint(shoal_buf *b, unsigned field, uint64_t x)
{
    pb_varint(b, field << 3);
    pb_varint(b, x);
}

static inline void pb_bytes(shoal_buf *b, unsigned field, const void *data, size_t n)
{
    pb_varint(b, field << 3 | 2);
    pb_varint(b, n);
    pb_raw(b, data, n);
}

static inline void pb_float(shoal_buf *b, unsigned field, float x)
{
    pb_varint(b, field << 3 | 5);
    pb_raw(b, &x, 4);
}

static inline void pb_buf(shoal_buf *b, unsigned field, const shoal_buf *inner)
{
    pb_bytes(b, field, inner->data ? inner->data : "", inner->length);
}

/* A packed list of n times id. */
static inline void pb_ids(shoal_buf *b, unsigned field, size_t n, uint64_t id)
{
    shoal_buf list = {0};
    for (size_t i = 0; i < n; i++) {
        pb_varint(&list, id);
    }
    pb_buf(b, field, &list);
    shoal_buf_fini(&list);
}

#endif
