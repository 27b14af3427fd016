/* SPDX-License-Identifier: Apache-2.0
 *
 * The blob of a session, as a writer gives it in pieces.
 */
#ifndef SHOAL_TESTS_SESSION_WRITTEN_H
#define SHOAL_TESTS_SESSION_WRITTEN_H

#include "common/base/buf.h"
#include "edge/session/blob.h"

/* Appends the blob of take_copy to blob, read in pieces of at most 4096 bytes. */
static inline shoal_status written_blob(const shoal_session_identity *id,
                                        shoal_session_copy *take_copy, size_t piece,
                                        shoal_buf *blob)
{
    SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = take_copy;
    shoal_session_writer *writer = NULL;
    SHOAL_TRY(shoal_session_writer_new(id, copy, &writer, NULL));
    copy = NULL;
    uint8_t bytes[4096];
    size_t n = 0;
    shoal_status status = SHOAL_OK;
    do {
        status = shoal_session_writer_read(writer, bytes, piece, &n);
        status = status == SHOAL_OK ? shoal_buf_append(blob, bytes, n) : status;
    } while (status == SHOAL_OK && n == piece);
    shoal_session_writer_free(writer);
    return status;
}

#endif
