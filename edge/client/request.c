/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON body of a request: what is set is sent, everything else stays the edge's choice.
 */
#include "edge/client/client_internal.h"

#include <string.h>

void shoal_client_request_init(shoal_client_request *request, size_t size)
{
    const shoal_client_request defaults = {
        .size = size,
        .max_tokens = -1,
        .temperature = -1.0,
        .top_p = -1.0,
        .min_p = -1.0,
        .top_k = -1,
        .seed = -1,
        .max_cloud_tokens = -1,
        .risk = -1.0,
        .priority = -1,
    };
    memset(request, 0, size);
    memcpy(request, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

/* A named string. The error names what is not UTF-8. */
static int put_field(shoal_client_buf *body, const char *name, const char *value,
                     shoal_client_error *error)
{
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, name));
    int code = shoal_client_json_put_string(body, value, strlen(value));
    if (code == SHOAL_CLIENT_E_INVALID) {
        return shoal_client_fail(error, code, "the text for %s is not valid UTF-8", name);
    }
    return code;
}

static int put_messages(const shoal_client_request *request, shoal_client_buf *body,
                        shoal_client_error *error)
{
    if (request->n_messages == 0 || !request->messages) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID, "a chat needs messages");
    }
    if (request->n_messages > SHOAL_CLIENT_MESSAGES_MAX) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID, "%zu messages; at most %d",
                                 request->n_messages, SHOAL_CLIENT_MESSAGES_MAX);
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, "\"messages\":["));
    for (size_t i = 0; i < request->n_messages; i++) {
        const shoal_client_message *m = &request->messages[i];
        if (!m->role || !m->content) {
            return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                     "message %zu has no role or no content", i);
        }
        SHOAL_CLIENT_TRY(put_field(body, i > 0 ? ",{\"role\":" : "{\"role\":", m->role, error));
        SHOAL_CLIENT_TRY(put_field(body, ",\"content\":", m->content, error));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(body, "}"));
    }
    return shoal_client_buf_text(body, "]");
}

static int put_stops(const shoal_client_request *request, shoal_client_buf *body,
                     shoal_client_error *error)
{
    if (request->n_stop == 0) {
        return SHOAL_CLIENT_OK;
    }
    if (request->n_stop > SHOAL_CLIENT_STOPS_MAX || !request->stop) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID, "%zu stop strings; at most %d",
                                 request->n_stop, SHOAL_CLIENT_STOPS_MAX);
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, ",\"stop\":["));
    for (size_t i = 0; i < request->n_stop; i++) {
        if (!request->stop[i] || !request->stop[i][0]) {
            return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID, "stop string %zu is empty", i);
        }
        SHOAL_CLIENT_TRY(put_field(body, i > 0 ? "," : "", request->stop[i], error));
    }
    return shoal_client_buf_text(body, "]");
}

static int put_double(shoal_client_buf *body, const char *name, double x)
{
    if (x < 0.0) {
        return SHOAL_CLIENT_OK;
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, name));
    return shoal_client_json_put_double(body, x);
}

static int put_int(shoal_client_buf *body, const char *name, int64_t x)
{
    if (x < 0) {
        return SHOAL_CLIENT_OK;
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, name));
    return shoal_client_json_put_int(body, x);
}

/* What OpenAI's API has no fields for. The edge judges what goes with which mode. */
static int put_shoal(const shoal_client_request *request, shoal_client_buf *body,
                     shoal_client_error *error)
{
    if (!request->mode && !request->session && request->max_cloud_tokens < 0 &&
        request->risk < 0.0 && request->priority < 0) {
        return SHOAL_CLIENT_OK;
    }
    bool more = request->mode != NULL;
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, ",\"shoal\":{"));
    if (request->mode) {
        SHOAL_CLIENT_TRY(put_field(body, "\"mode\":", request->mode, error));
    }
    if (request->session) {
        SHOAL_CLIENT_TRY(
            put_field(body, more ? ",\"session\":" : "\"session\":", request->session, error));
        more = true;
    }
    SHOAL_CLIENT_TRY(put_int(body, more ? ",\"max_cloud_tokens\":" : "\"max_cloud_tokens\":",
                             request->max_cloud_tokens));
    more = more || request->max_cloud_tokens >= 0;
    SHOAL_CLIENT_TRY(put_double(body, more ? ",\"risk\":" : "\"risk\":", request->risk));
    more = more || request->risk >= 0.0;
    SHOAL_CLIENT_TRY(put_int(body, more ? ",\"priority\":" : "\"priority\":", request->priority));
    return shoal_client_buf_text(body, "}");
}

static int put_body(const shoal_client_request *request, bool chat, shoal_client_buf *body,
                    shoal_client_error *error)
{
    SHOAL_CLIENT_TRY(shoal_client_buf_text(body, "{"));
    if (chat) {
        SHOAL_CLIENT_TRY(put_messages(request, body, error));
    } else if (request->prompt) {
        SHOAL_CLIENT_TRY(put_field(body, "\"prompt\":", request->prompt, error));
    } else {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID, "a completion needs a prompt");
    }
    if (request->model) {
        SHOAL_CLIENT_TRY(put_field(body, ",\"model\":", request->model, error));
    }
    SHOAL_CLIENT_TRY(put_shoal(request, body, error));
    SHOAL_CLIENT_TRY(put_int(body, ",\"max_tokens\":", request->max_tokens));
    SHOAL_CLIENT_TRY(put_double(body, ",\"temperature\":", request->temperature));
    SHOAL_CLIENT_TRY(put_double(body, ",\"top_p\":", request->top_p));
    SHOAL_CLIENT_TRY(put_double(body, ",\"min_p\":", request->min_p));
    SHOAL_CLIENT_TRY(put_int(body, ",\"top_k\":", request->top_k));
    SHOAL_CLIENT_TRY(put_int(body, ",\"seed\":", request->seed));
    SHOAL_CLIENT_TRY(put_stops(request, body, error));
    return shoal_client_buf_text(body,
                                 ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

int shoal_client_request_body(const shoal_client_request *request, bool chat,
                              shoal_client_buf *body, shoal_client_error *error)
{
    int code = put_body(request, chat, body, error);
    if (code == SHOAL_CLIENT_E_LIMIT) {
        return shoal_client_fail(error, code, "the request is longer than %u bytes",
                                 SHOAL_CLIENT_REQUEST_MAX);
    }
    if (code == SHOAL_CLIENT_E_NOMEM) {
        return shoal_client_fail(error, code, "out of memory");
    }
    return code;
}
