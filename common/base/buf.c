/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/buf.h"

#include "common/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    FIRST_CAPACITY = 64
};

/* Makes room for n more bytes and the NUL. Capacity doubles, so that appending byte after byte
 * stays linear in the total, but never exceeds what the limit can use. */
static shoal_status reserve(shoal_buf *buf, size_t n)
{
    size_t most = buf->limit ? buf->limit : SIZE_MAX - 1;
    if (buf->length > most || n > most - buf->length) {
        return SHOAL_E_LIMIT;
    }
    size_t need = buf->length + n + 1;
    if (need <= buf->capacity) {
        return SHOAL_OK;
    }
    size_t capacity = buf->capacity > SIZE_MAX / 2 ? SIZE_MAX : buf->capacity * 2;
    capacity = SHOAL_MAX(capacity, (size_t)FIRST_CAPACITY);
    capacity = SHOAL_MAX(capacity, need);
    if (most < SIZE_MAX - 1) {
        capacity = SHOAL_MIN(capacity, most + 1);
    }
    char *data = shoal_realloc(buf->data, capacity, 1);
    if (!data) {
        return SHOAL_E_NOMEM;
    }
    buf->data = data;
    buf->capacity = capacity;
    buf->data[buf->length] = '\0';
    return SHOAL_OK;
}

void shoal_buf_fini(shoal_buf *buf)
{
    shoal_free(buf->data);
    buf->data = NULL;
    buf->length = 0;
    buf->capacity = 0;
}

void shoal_buf_reset(shoal_buf *buf)
{
    buf->length = 0;
    if (buf->data) {
        buf->data[0] = '\0';
    }
}

shoal_status shoal_buf_append(shoal_buf *buf, const void *data, size_t n)
{
    SHOAL_TRY(reserve(buf, n));
    if (n > 0) {
        memcpy(buf->data + buf->length, data, n);
    }
    buf->length += n;
    buf->data[buf->length] = '\0';
    return SHOAL_OK;
}

shoal_status shoal_buf_appendf(shoal_buf *buf, const char *format, ...)
{
    size_t room = buf->data ? buf->capacity - buf->length : 0;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(room ? buf->data + buf->length : NULL, room, format, args);
    va_end(args);
    if (n < 0) {
        if (buf->data) {
            buf->data[buf->length] = '\0';
        }
        return SHOAL_E_INVALID;
    }
    size_t length = (size_t)n;
    if (buf->data) {
        /* What was printed counts only once it is known to be whole and within the limit. */
        buf->data[buf->length] = '\0';
    }
    SHOAL_TRY(reserve(buf, length));
    va_start(args, format);
    (void)vsnprintf(buf->data + buf->length, length + 1, format, args);
    va_end(args);
    buf->length += length;
    return SHOAL_OK;
}

void shoal_buf_consume(shoal_buf *buf, size_t n)
{
    SHOAL_ASSERT(n <= buf->length);
    if (n == 0) {
        return;
    }
    memmove(buf->data, buf->data + n, buf->length - n);
    buf->length -= n;
    buf->data[buf->length] = '\0';
}
