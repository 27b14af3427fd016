/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/upstream/sse.h"

#include <string.h>

void shoal_sse_init(shoal_sse *sse)
{
    *sse =
        (shoal_sse){.line = {.limit = SHOAL_SSE_EVENT_MAX}, .data = {.limit = SHOAL_SSE_EVENT_MAX}};
}

void shoal_sse_fini(shoal_sse *sse)
{
    shoal_buf_fini(&sse->line);
    shoal_buf_fini(&sse->data);
}

/* The value behind "name:" and one optional space, or NULL when the line is another field. */
static const char *value_of(const shoal_buf *line, const char *name, size_t *ret_n)
{
    size_t n = strlen(name);
    if (line->length < n || memcmp(line->data, name, n) != 0) {
        return NULL;
    }
    if (line->length == n) {
        *ret_n = 0;
        return line->data + n;
    }
    if (line->data[n] != ':') {
        return NULL;
    }
    n++;
    if (n < line->length && line->data[n] == ' ') {
        n++;
    }
    *ret_n = line->length - n;
    return line->data + n;
}

static shoal_status take_line(shoal_sse *sse)
{
    size_t n = 0;
    const char *value = value_of(&sse->line, "data", &n);
    if (value != NULL) {
        if (sse->has_data) {
            SHOAL_TRY(shoal_buf_append(&sse->data, "\n", 1));
        }
        sse->has_data = true;
        return shoal_buf_append(&sse->data, value, n);
    }
    value = value_of(&sse->line, "event", &n);
    if (value != NULL) {
        sse->is_error = n == 5 && memcmp(value, "error", 5) == 0;
    }
    return SHOAL_OK; /* comments, ids, retry times, and what nobody knows */
}

static shoal_status
end_line(shoal_sse *sse,
         shoal_status (*on_event)(void *ctx, const char *data, size_t n, bool is_error), void *ctx)
{
    if (sse->line.length > 0) {
        SHOAL_TRY(take_line(sse));
        shoal_buf_reset(&sse->line);
        return SHOAL_OK;
    }
    bool has_data = sse->has_data;
    bool is_error = sse->is_error;
    sse->has_data = false;
    sse->is_error = false;
    if (!has_data) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_buf_append(&sse->data, "", 0)); /* so that there is a NUL */
    shoal_status status = on_event(ctx, sse->data.data, sse->data.length, is_error);
    shoal_buf_reset(&sse->data);
    return status;
}

shoal_status shoal_sse_push(shoal_sse *sse, const char *bytes, size_t n,
                            shoal_status (*on_event)(void *ctx, const char *data, size_t n,
                                                     bool is_error),
                            void *ctx)
{
    size_t i = 0;
    while (i < n) {
        if (sse->after_cr && bytes[i] == '\n') {
            sse->after_cr = false;
            i++;
            continue;
        }
        sse->after_cr = false;
        size_t length = 0;
        while (i + length < n && bytes[i + length] != '\n' && bytes[i + length] != '\r') {
            length++;
        }
        SHOAL_TRY(shoal_buf_append(&sse->line, bytes + i, length));
        i += length;
        if (i < n) {
            sse->after_cr = bytes[i] == '\r';
            i++;
            shoal_status status = end_line(sse, on_event, ctx);
            if (status != SHOAL_OK) {
                return status;
            }
        }
    }
    return SHOAL_OK;
}
