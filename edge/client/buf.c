/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/client/client_internal.h"

#include <stdlib.h>
#include <string.h>

int shoal_client_buf_append(shoal_client_buf *buf, const void *data, size_t n)
{
    if (n > buf->limit || buf->length > buf->limit - n) {
        return SHOAL_CLIENT_E_LIMIT;
    }
    size_t needed = buf->length + n + 1;
    if (needed > buf->capacity) {
        size_t capacity = buf->capacity < 256 ? 256 : buf->capacity;
        while (capacity < needed) {
            capacity *= 2;
        }
        char *grown = realloc(buf->data, capacity);
        if (!grown) {
            return SHOAL_CLIENT_E_NOMEM;
        }
        buf->data = grown;
        buf->capacity = capacity;
    }
    if (n > 0) {
        memcpy(buf->data + buf->length, data, n);
    }
    buf->length += n;
    buf->data[buf->length] = '\0';
    return SHOAL_CLIENT_OK;
}

int shoal_client_buf_text(shoal_client_buf *buf, const char *text)
{
    return shoal_client_buf_append(buf, text, strlen(text));
}

void shoal_client_buf_fini(shoal_client_buf *buf)
{
    free(buf->data);
    *buf = (shoal_client_buf){.limit = buf->limit};
}
