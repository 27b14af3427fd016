/* SPDX-License-Identifier: Apache-2.0
 *
 * An answer that may be a call: the text as it comes, byte by byte, becomes content, or a
 * function's name and its arguments. Where a call must come, the sampler has held the text to one;
 * else a text that begins like a call and is none is content after all.
 */
#include "edge/http/api_internal.h"
#include "protocol/http/json_out.h"

#include <string.h>

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

void shoal_api_tools_start(shoal_api_tool_reader *t, const shoal_api_request *q)
{
    t->phase = q->n_tools == 0 ? SHOAL_API_TEXT : q->must_call ? SHOAL_API_HEAD : SHOAL_API_OPENING;
    t->depth = 0;
    t->in_string = false;
    t->escaped = false;
    shoal_buf_reset(&t->held);
}

void shoal_api_tools_fini(shoal_api_tool_reader *t)
{
    shoal_buf_fini(&t->held);
    shoal_buf_fini(&t->content);
    shoal_buf_fini(&t->arguments);
}

static shoal_status release(shoal_api_tool_reader *t)
{
    t->phase = SHOAL_API_TEXT;
    SHOAL_TRY(shoal_buf_append(&t->content, t->held.data ? t->held.data : "", t->held.length));
    shoal_buf_reset(&t->held);
    return SHOAL_OK;
}

static shoal_status take_opening(shoal_api_tool_reader *t, char byte)
{
    size_t at = t->held.length;
    SHOAL_TRY(shoal_buf_append(&t->held, &byte, 1));
    if (byte != SHOAL_API_CALL[at]) {
        return release(t);
    }
    if (at + 2 == sizeof SHOAL_API_CALL) {
        t->phase = SHOAL_API_HEAD;
    }
    return SHOAL_OK;
}

/* {"name": "one of them", "arguments": */
static shoal_status take_head(shoal_api_tool_reader *t, const shoal_api_request *q, char byte)
{
    SHOAL_TRY(shoal_buf_append(&t->held, &byte, 1));
    size_t at = q->must_call ? 0 : sizeof SHOAL_API_CALL - 1;
    while (at < t->held.length && is_blank(t->held.data[at])) {
        at++;
    }
    size_t n = t->held.length - at;
    for (size_t i = 0; i < q->n_tools; i++) {
        if (strncmp(q->tools[i].head, t->held.data + at, n) != 0) {
            continue;
        }
        if (q->tools[i].head[n] == '\0') {
            t->phase = SHOAL_API_ARGUMENTS;
            t->tool_i = i;
            t->began = true;
            shoal_buf_reset(&t->held);
        }
        return SHOAL_OK;
    }
    return release(t);
}

/* The object ends where its braces do; what closes the call around it is not told. */
static shoal_status take_arguments(shoal_api_tool_reader *t, char byte)
{
    if (t->depth == 0 && is_blank(byte)) {
        return SHOAL_OK;
    }
    if (t->in_string) {
        t->in_string = byte != '"' || t->escaped;
        t->escaped = byte == '\\' && !t->escaped;
    } else if (byte == '"') {
        t->in_string = true;
    } else if (byte == '{' || byte == '[') {
        t->depth++;
    } else if ((byte == '}' || byte == ']') && t->depth > 0 && --t->depth == 0) {
        t->phase = SHOAL_API_CALLED;
    }
    return shoal_buf_append(&t->arguments, &byte, 1);
}

shoal_status shoal_api_tools_push(shoal_api_tool_reader *t, const shoal_api_request *q,
                                  const char *text, size_t n)
{
    shoal_buf_reset(&t->content);
    shoal_buf_reset(&t->arguments);
    t->began = false;
    for (size_t i = 0; i < n; i++) {
        switch (t->phase) {
        case SHOAL_API_TEXT:
            return shoal_buf_append(&t->content, text + i, n - i);
        case SHOAL_API_OPENING:
            SHOAL_TRY(take_opening(t, text[i]));
            break;
        case SHOAL_API_HEAD:
            SHOAL_TRY(take_head(t, q, text[i]));
            break;
        case SHOAL_API_ARGUMENTS:
            SHOAL_TRY(take_arguments(t, text[i]));
            break;
        case SHOAL_API_CALLED:
            return SHOAL_OK;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_api_tools_end(shoal_api_tool_reader *t, const shoal_api_request *q)
{
    bool pending = t->phase == SHOAL_API_OPENING || t->phase == SHOAL_API_HEAD;
    shoal_buf_reset(&t->content);
    shoal_buf_reset(&t->arguments);
    t->began = false;
    return pending && !q->must_call ? release(t) : SHOAL_OK; /* half a call is nothing to show */
}

static shoal_status put_call(shoal_buf *buf, const shoal_api_call *call, const shoal_buf *arguments,
                             bool began)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "%s\"function\":{", began ? "," : ""));
    if (began) {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"name\":\"%s\",",
                                    call->request->tools[call->tools.tool_i].name));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "\"arguments\":"));
    SHOAL_TRY(
        shoal_json_put_string(buf, arguments->data ? arguments->data : "", arguments->length));
    return shoal_buf_appendf(buf, "}}]");
}

static shoal_status put_parts(shoal_buf *buf, const shoal_api_call *call)
{
    const shoal_api_tool_reader *t = &call->tools;
    bool called = t->began || t->arguments.length > 0;
    if (t->content.length > 0 || !called) {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"content\":"));
        SHOAL_TRY(
            shoal_json_put_string(buf, t->content.data ? t->content.data : "", t->content.length));
    }
    if (!called) {
        return SHOAL_OK;
    }
    SHOAL_TRY(
        shoal_buf_appendf(buf, "%s\"tool_calls\":[{\"index\":0", t->content.length > 0 ? "," : ""));
    if (t->began) {
        SHOAL_TRY(
            shoal_buf_appendf(buf, ",\"id\":\"call_%s\",\"type\":\"function\"", call->random));
        return put_call(buf, call, &t->arguments, true);
    }
    SHOAL_TRY(shoal_buf_append(buf, ",", 1));
    return put_call(buf, call, &t->arguments, false);
}

shoal_status shoal_api_put_delta(shoal_buf *buf, shoal_api_call *call, const char *text, size_t n)
{
    SHOAL_TRY(shoal_api_tools_push(&call->tools, call->request, text, n));
    return put_parts(buf, call);
}

shoal_status shoal_api_put_last_delta(shoal_buf *buf, shoal_api_call *call)
{
    SHOAL_TRY(shoal_api_tools_end(&call->tools, call->request));
    return call->tools.content.length > 0 ? put_parts(buf, call) : SHOAL_OK;
}

/* What push and end tell of one text, together. */
static shoal_status split(shoal_api_call *call, const shoal_buf *text, shoal_buf *content,
                          shoal_buf *arguments)
{
    shoal_api_tool_reader *t = &call->tools;
    SHOAL_TRY(shoal_api_tools_push(t, call->request, text->data, text->length));
    SHOAL_TRY(shoal_buf_append(content, t->content.data ? t->content.data : "", t->content.length));
    SHOAL_TRY(shoal_buf_append(arguments, t->arguments.data ? t->arguments.data : "",
                               t->arguments.length));
    SHOAL_TRY(shoal_api_tools_end(t, call->request));
    return shoal_buf_append(content, t->content.data ? t->content.data : "", t->content.length);
}

shoal_status shoal_api_put_message(shoal_buf *buf, shoal_api_call *call, const shoal_buf *text)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf content = {.limit = SHOAL_API_ANSWER_MAX};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf arguments = {.limit = SHOAL_API_ANSWER_MAX};
    SHOAL_TRY(shoal_buf_append(&content, "", 0));
    SHOAL_TRY(split(call, text, &content, &arguments));
    bool called = call->tools.phase == SHOAL_API_ARGUMENTS || call->tools.phase == SHOAL_API_CALLED;
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"role\":\"assistant\",\"refusal\":null,\"content\":"));
    if (content.length == 0 && call->request->n_tools > 0) {
        SHOAL_TRY(shoal_buf_appendf(buf, "null"));
    } else {
        SHOAL_TRY(shoal_json_put_string(buf, content.data, content.length));
    }
    if (called) {
        SHOAL_TRY(shoal_buf_appendf(
            buf, ",\"tool_calls\":[{\"id\":\"call_%s\",\"type\":\"function\"", call->random));
        SHOAL_TRY(put_call(buf, call, &arguments, true));
    }
    return shoal_buf_append(buf, "}", 1);
}
