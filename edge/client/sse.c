/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/client/client_internal.h"

#include <string.h>

void shoal_client_sse_init(shoal_client_sse *sse)
{
    memset(sse, 0, sizeof *sse);
    sse->line.limit = SHOAL_CLIENT_EVENT_MAX;
    sse->data.limit = SHOAL_CLIENT_EVENT_MAX;
}

void shoal_client_sse_restart(shoal_client_sse *sse)
{
    sse->line.length = 0;
    sse->data.length = 0;
    sse->has_data = false;
    sse->after_cr = false;
    sse->past_first_line = false;
    memcpy(sse->id_next, sse->id, sizeof sse->id_next);
}

void shoal_client_sse_fini(shoal_client_sse *sse)
{
    shoal_client_buf_fini(&sse->line);
    shoal_client_buf_fini(&sse->data);
}

/* A blank line ends an event; one without data is dropped. */
static int end_event(shoal_client_sse *sse)
{
    if (!sse->has_data) {
        return SHOAL_CLIENT_OK;
    }
    sse->has_data = false;
    int code = sse->on_data(sse->ctx, sse->data.data, sse->data.length);
    sse->data.length = 0;
    if (code == SHOAL_CLIENT_OK) {
        memcpy(sse->id, sse->id_next, sizeof sse->id);
    }
    return code;
}

static int end_line(shoal_client_sse *sse)
{
    const char *line = sse->line.data;
    size_t n = sse->line.length;
    sse->line.length = 0;
    if (!sse->past_first_line) {
        sse->past_first_line = true;
        if (n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
            line += 3;
            n -= 3;
        }
    }
    if (n == 0) {
        return end_event(sse);
    }
    const char *colon = memchr(line, ':', n);
    size_t n_name = colon ? (size_t)(colon - line) : n;
    bool is_id = n_name == 2 && memcmp(line, "id", 2) == 0;
    if (!is_id && (n_name != 4 || memcmp(line, "data", 4) != 0)) {
        return SHOAL_CLIENT_OK;
    }
    const char *value = line + n_name + (colon ? 1 : 0);
    size_t n_value = n - (size_t)(value - line);
    if (n_value > 0 && *value == ' ') {
        value++;
        n_value--;
    }
    if (is_id) {
        /* One that is too long, or not text, is as good as none. */
        bool fits = n_value < sizeof sse->id_next && !memchr(value, 0, n_value);
        memcpy(sse->id_next, value, fits ? n_value : 0);
        sse->id_next[fits ? n_value : 0] = '\0';
        return SHOAL_CLIENT_OK;
    }
    if (sse->has_data) {
        SHOAL_CLIENT_TRY(shoal_client_buf_append(&sse->data, "\n", 1));
    }
    sse->has_data = true;
    return shoal_client_buf_append(&sse->data, value, n_value);
}

int shoal_client_sse_push(shoal_client_sse *sse, const char *data, size_t n)
{
    for (size_t i = 0; i < n;) {
        /* An LF right behind a CR belongs to it, even when it comes in the next piece. */
        if (sse->after_cr && data[i] == '\n') {
            sse->after_cr = false;
            i++;
            continue;
        }
        sse->after_cr = false;
        size_t run = 0;
        while (i + run < n && data[i + run] != '\n' && data[i + run] != '\r') {
            run++;
        }
        SHOAL_CLIENT_TRY(shoal_client_buf_append(&sse->line, data + i, run));
        i += run;
        if (i < n) {
            sse->after_cr = data[i] == '\r';
            i++;
            SHOAL_CLIENT_TRY(end_line(sse));
        }
    }
    return SHOAL_CLIENT_OK;
}
