/* SPDX-License-Identifier: Apache-2.0
 *
 * From body bytes to tokens: events of "data: {...}" until "data: [DONE]", each with `choices`, the
 * edge's `shoal` object, and at the end `usage`. Everything but the framing is optional, so that an
 * OpenAI-compatible server that is not Shoal can be read as well.
 */
#include "edge/client/client_internal.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

typedef const shoal_client_json_node node;

static int tier_of(node *tier)
{
    for (int i = 0; i < SHOAL_CLIENT_TIERS; i++) {
        if (strcmp(shoal_client_json_text(tier), shoal_client_tier_name(i)) == 0) {
            return i;
        }
    }
    return SHOAL_CLIENT_TIER_UNKNOWN;
}

static int32_t unassisted_of(node *why)
{
    const char *name = shoal_client_json_text(why);
    for (int32_t i = 0; i < SHOAL_CLIENT_UNASSISTED_OTHER; i++) {
        if (strcmp(name, shoal_client_unassisted_name(i)) == 0) {
            return i;
        }
    }
    return SHOAL_CLIENT_UNASSISTED_OTHER;
}

static int need_tokens(shoal_client_stream *stream, size_t n)
{
    if (n <= stream->tokens_capacity) {
        return SHOAL_CLIENT_OK;
    }
    size_t capacity = stream->tokens_capacity ? stream->tokens_capacity : 16;
    while (capacity < n) {
        capacity *= 2;
    }
    shoal_client_token *grown = realloc(stream->tokens, capacity * sizeof *grown);
    if (!grown) {
        return shoal_client_fail(stream->error, SHOAL_CLIENT_E_NOMEM, "out of memory");
    }
    stream->tokens = grown;
    stream->tokens_capacity = capacity;
    return SHOAL_CLIENT_OK;
}

static int read_tokens(shoal_client_stream *stream, node *tokens, size_t *ret_n)
{
    const shoal_client_json *json = &stream->json;
    size_t n = 0;
    if (tokens && tokens->kind == SHOAL_CLIENT_JSON_ARRAY) {
        node *end = shoal_client_json_next(json, tokens);
        for (node *t = tokens + 1; t < end; t = shoal_client_json_next(json, t)) {
            SHOAL_CLIENT_TRY(need_tokens(stream, n + 1));
            node *text = shoal_client_json_get(json, t, "text");
            uint64_t id = shoal_client_json_u64(shoal_client_json_get(json, t, "id"), UINT64_MAX);
            uint64_t round = shoal_client_json_u64(shoal_client_json_get(json, t, "round"), 0);
            stream->tokens[n++] = (shoal_client_token){
                .text = shoal_client_json_text(text),
                .n_text = text && text->kind == SHOAL_CLIENT_JSON_STRING ? text->length : 0,
                .id = id <= INT32_MAX ? (int32_t)id : -1,
                .tier = tier_of(shoal_client_json_get(json, t, "tier")),
                .confidence =
                    shoal_client_json_double(shoal_client_json_get(json, t, "confidence"), -1.0),
                .round = round <= UINT32_MAX ? (uint32_t)round : 0,
                .unassisted = unassisted_of(shoal_client_json_get(json, t, "unassisted")),
                .ms = shoal_client_json_double(shoal_client_json_get(json, t, "ms"), -1.0),
            };
        }
    }
    *ret_n = n;
    return SHOAL_CLIENT_OK;
}

static void read_usage(shoal_client_stream *stream, node *usage)
{
    const shoal_client_json *json = &stream->json;
    shoal_client_result *r = &stream->result;
    node *own = shoal_client_json_get(json, usage, "shoal");
    node *tiers = shoal_client_json_get(json, own, "tiers");
    const struct {
        node *object;
        const char *key;
        uint64_t *value;
    } counts[] = {
        {usage, "prompt_tokens", &r->n_prompt},
        {usage, "completion_tokens", &r->n_generated},
        {own, "kept_tokens", &r->n_kept},
        {own, "unassisted", &r->n_unassisted},
        {tiers, "exit", &r->n_by_tier[SHOAL_CLIENT_TIER_EXIT]},
        {tiers, "edge", &r->n_by_tier[SHOAL_CLIENT_TIER_EDGE]},
        {tiers, "cloud", &r->n_by_tier[SHOAL_CLIENT_TIER_CLOUD]},
        {own, "drafted", &r->n_drafted},
        {own, "accepted", &r->n_accepted},
        {own, "rounds", &r->n_rounds},
        {own, "bytes_up", &r->bytes_up},
        {own, "bytes_down", &r->bytes_down},
        {own, "round_up_max", &r->round_up_max},
        {own, "round_down_max", &r->round_down_max},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        *counts[i].value = shoal_client_json_u64(
            shoal_client_json_get(json, counts[i].object, counts[i].key), *counts[i].value);
    }
    r->first_token_ms = shoal_client_json_double(shoal_client_json_get(json, own, "first_token_ms"),
                                                 r->first_token_ms);
    r->tokens_per_s =
        shoal_client_json_double(shoal_client_json_get(json, own, "tokens_per_s"), r->tokens_per_s);
}

int shoal_client_refused(const shoal_client_json *json, const shoal_client_json_node *object,
                         int http_status, shoal_client_error *error)
{
    node *told = shoal_client_json_get(json, object, "error");
    node *message = shoal_client_json_get(json, told, "message");
    const char *text = shoal_client_json_text(message ? message : told);
    int code =
        http_status == 429 || http_status == 503 ? SHOAL_CLIENT_E_BUSY : SHOAL_CLIENT_E_REFUSED;
    if (text[0]) {
        return shoal_client_fail(error, code, "%s", text);
    }
    return shoal_client_fail(error, code, "the edge answered with HTTP status %d", http_status);
}

static int tell(shoal_client_stream *stream, node *text, size_t n_tokens)
{
    size_t n_text = text && text->kind == SHOAL_CLIENT_JSON_STRING ? text->length : 0;
    if (!stream->on_event || (n_text == 0 && n_tokens == 0)) {
        return SHOAL_CLIENT_OK;
    }
    const shoal_client_event event = {.text = shoal_client_json_text(text),
                                      .n_text = n_text,
                                      .tokens = stream->tokens,
                                      .n_tokens = n_tokens};
    if (stream->on_event(stream->ctx, &event) != 0) {
        return shoal_client_fail(stream->error, SHOAL_CLIENT_E_CANCELLED, "cancelled");
    }
    return SHOAL_CLIENT_OK;
}

static int take_object(shoal_client_stream *stream, node *object)
{
    const shoal_client_json *json = &stream->json;
    shoal_client_result *r = &stream->result;
    node *error = shoal_client_json_get(json, object, "error");
    if (error && error->kind != SHOAL_CLIENT_JSON_NULL) {
        return shoal_client_refused(json, object, stream->http.status, stream->error);
    }
    if (!r->id[0]) {
        shoal_client_copy_name(r->id,
                               shoal_client_json_text(shoal_client_json_get(json, object, "id")));
    }
    if (!r->model[0]) {
        shoal_client_copy_name(
            r->model, shoal_client_json_text(shoal_client_json_get(json, object, "model")));
    }
    node *usage = shoal_client_json_get(json, object, "usage");
    if (usage) {
        read_usage(stream, usage);
    }
    node *choice = shoal_client_json_at(json, shoal_client_json_get(json, object, "choices"), 0);
    node *delta = shoal_client_json_get(json, choice, "delta");
    node *text = delta ? shoal_client_json_get(json, delta, "content")
                       : shoal_client_json_get(json, choice, "text");
    const char *finish =
        shoal_client_json_text(shoal_client_json_get(json, choice, "finish_reason"));
    if (finish[0]) {
        r->finish = strcmp(finish, "stop") == 0     ? SHOAL_CLIENT_FINISH_STOP
                    : strcmp(finish, "length") == 0 ? SHOAL_CLIENT_FINISH_LENGTH
                                                    : SHOAL_CLIENT_FINISH_UNKNOWN;
    }
    node *own = shoal_client_json_get(json, object, "shoal");
    size_t n_tokens = 0;
    SHOAL_CLIENT_TRY(read_tokens(stream, shoal_client_json_get(json, own, "tokens"), &n_tokens));
    return tell(stream, text, n_tokens);
}

static int json_error(shoal_client_stream *stream, int code)
{
    if (code == SHOAL_CLIENT_E_PROTOCOL) {
        return shoal_client_fail(stream->error, code, "the edge sent an event that is not JSON");
    }
    if (code == SHOAL_CLIENT_E_LIMIT) {
        return shoal_client_fail(
            stream->error, code, "the edge sent JSON with more than %d values or %d levels",
            (int)SHOAL_CLIENT_JSON_NODES_MAX, (int)SHOAL_CLIENT_JSON_DEPTH_MAX);
    }
    return shoal_client_fail(stream->error, code, "out of memory");
}

static int take_data(void *ctx, char *data, size_t n)
{
    shoal_client_stream *stream = ctx;
    if (stream->done) {
        return SHOAL_CLIENT_OK;
    }
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        stream->done = true;
        return SHOAL_CLIENT_OK;
    }
    int code = shoal_client_json_parse(&stream->json, data, n);
    if (code != SHOAL_CLIENT_OK) {
        return json_error(stream, code);
    }
    if (stream->json.nodes[0].kind != SHOAL_CLIENT_JSON_OBJECT) {
        return shoal_client_fail(stream->error, SHOAL_CLIENT_E_PROTOCOL,
                                 "the edge sent an event that is not an object");
    }
    return take_object(stream, &stream->json.nodes[0]);
}

/* Body bytes: events when the answer is a stream, else kept for the error they describe. */
static int take_body(void *ctx, const char *data, size_t n)
{
    shoal_client_stream *stream = ctx;
    int code = SHOAL_CLIENT_OK;
    if (stream->http.status != 200) {
        code = shoal_client_buf_append(&stream->body, data, n);
        if (code == SHOAL_CLIENT_E_LIMIT) {
            return SHOAL_CLIENT_OK; /* an endless error page is still an error */
        }
    } else if (strcmp(stream->http.content_type, "text/event-stream") != 0) {
        return shoal_client_fail(stream->error, SHOAL_CLIENT_E_PROTOCOL,
                                 "the answer is \"%s\", not an event stream; is this the edge's "
                                 "address?",
                                 stream->http.content_type);
    } else {
        code = shoal_client_sse_push(&stream->sse, data, n);
        if (code == SHOAL_CLIENT_E_LIMIT && stream->error->code == SHOAL_CLIENT_OK) {
            return shoal_client_fail(stream->error, code, "the edge sent an event over %u bytes",
                                     SHOAL_CLIENT_EVENT_MAX);
        }
        /* Nothing of interest follows: the rest of the connection need not be waited for. */
        if (code == SHOAL_CLIENT_OK && stream->done) {
            stream->http.state = SHOAL_CLIENT_HTTP_DONE;
        }
    }
    if (code == SHOAL_CLIENT_E_NOMEM && stream->error->code == SHOAL_CLIENT_OK) {
        return shoal_client_fail(stream->error, code, "out of memory");
    }
    return code;
}

void shoal_client_stream_init(shoal_client_stream *stream, shoal_client_event_fn on_event,
                              void *ctx, shoal_client_error *error)
{
    memset(stream, 0, sizeof *stream);
    shoal_client_http_init(&stream->http, error);
    stream->http.on_body = take_body;
    stream->http.ctx = stream;
    shoal_client_sse_init(&stream->sse);
    stream->sse.on_data = take_data;
    stream->sse.ctx = stream;
    stream->body.limit = 65536;
    stream->error = error;
    stream->on_event = on_event;
    stream->ctx = ctx;
    shoal_client_result_init(&stream->result, sizeof stream->result);
}

void shoal_client_stream_restart(shoal_client_stream *stream)
{
    shoal_client_http_init(&stream->http, stream->error);
    stream->http.on_body = take_body;
    stream->http.ctx = stream;
    shoal_client_sse_restart(&stream->sse);
    stream->body.length = 0;
}

void shoal_client_stream_fini(shoal_client_stream *stream)
{
    shoal_client_sse_fini(&stream->sse);
    shoal_client_json_fini(&stream->json);
    shoal_client_buf_fini(&stream->body);
    free(stream->tokens);
}

int shoal_client_stream_finish(shoal_client_stream *stream, int run_code)
{
    shoal_client_http *http = &stream->http;
    stream->error->http_status = http->status;
    stream->error->retry_after_s = http->retry_after_s;
    if (run_code != SHOAL_CLIENT_OK) {
        return run_code;
    }
    if (http->status == 200) {
        return stream->done ? SHOAL_CLIENT_OK
                            : shoal_client_fail(stream->error, SHOAL_CLIENT_E_IO,
                                                "the stream ended before the answer was complete");
    }
    node *object = NULL;
    if (stream->body.data && shoal_client_json_parse(&stream->json, stream->body.data,
                                                     stream->body.length) == SHOAL_CLIENT_OK) {
        object = &stream->json.nodes[0];
    }
    return shoal_client_refused(&stream->json, object, http->status, stream->error);
}
