/* SPDX-License-Identifier: Apache-2.0
 *
 * A growing byte buffer with a limit. Invariant: data[length] is always NUL once data is not
 * NULL. Zeroed memory is a valid empty buffer with no limit. One thread at a time.
 */
#ifndef SHOAL_BASE_BUF_H
#define SHOAL_BASE_BUF_H

#include "common/base/macros.h"

typedef struct shoal_buf {
    char *data;       /* NULL until the first append */
    size_t length;    /* bytes used, without the NUL */
    size_t capacity;  /* bytes allocated */
    size_t limit;     /* most bytes allowed, 0: none */
} shoal_buf;

void shoal_buf_fini(shoal_buf *buf);
/* Forgets the content, keeps the memory. */
void shoal_buf_reset(shoal_buf *buf);
/* SHOAL_E_NOMEM or SHOAL_E_LIMIT; the content is then as before. */
shoal_status shoal_buf_append(shoal_buf *buf, const void *data, size_t n) SHOAL_MUST_CHECK;
shoal_status shoal_buf_appendf(shoal_buf *buf, const char *format, ...) SHOAL_MUST_CHECK
    __attribute__((format(printf, 2, 3)));
/* Removes the first n bytes (n at most length). */
void shoal_buf_consume(shoal_buf *buf, size_t n);

#endif
