/* SPDX-License-Identifier: Apache-2.0
 *
 * A streamed answer over connections that break. Each event has an id, STREAM:NUMBER; the edge
 * goes on without us for a while, and whoever names the last event gets what follows it. Events
 * without such an id, of servers that are not Shoal, are read as they come and never asked for
 * again.
 */
#include "edge/client/client_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    PAUSE_MIN_MS = 50,
    PAUSE_MAX_MS = 1000,
    GOODBYE_MS = 8 /* to tell the edge of a cancel */
};

/* The edge's path of this stream; false: it has no name. */
static bool path_of(const shoal_client_stream *stream, char path[128])
{
    const char *id = stream->sse.id;
    size_t n = strcspn(id, ":");
    bool named = n > 0 && id[n] == ':' && strspn(id, "0123456789abcdef") == n;
    (void)snprintf(path, 128, "/v1/shoal/streams/%.*s", (int)n, id);
    return named;
}

/* Broke on the way: what the edge refuses, or what took too long, is no better when asked again. */
static bool broke(const shoal_client_stream *stream, int code)
{
    return !stream->done && (code == SHOAL_CLIENT_E_IO || code == SHOAL_CLIENT_E_CONNECT);
}

static int pause_ms(const shoal_client_call *call, int64_t ms)
{
    short events = 0;
    int code = shoal_client_wait(call, -1, 0, shoal_client_now_ms() + ms, "pausing", &events);
    bool slept = code == SHOAL_CLIENT_E_TIMEOUT && shoal_client_now_ms() < call->deadline_ms;
    return slept ? SHOAL_CLIENT_OK : code;
}

static int again(const shoal_client_call *call, const char *path, shoal_client_stream *stream)
{
    char last[SHOAL_CLIENT_EVENT_ID_MAX];
    memcpy(last, stream->sse.id, sizeof last);
    const shoal_client_exchange exchange = {
        .method = "GET", .path = path, .accept = "text/event-stream", .last_event_id = last};
    memset(call->error, 0, sizeof *call->error);
    call->error->retry_after_s = -1;
    shoal_client_stream_restart(stream);
    int code = shoal_client_run(call, &exchange, &stream->http);
    code = shoal_client_stream_finish(stream, code);
    if (code == SHOAL_CLIENT_E_REFUSED && stream->http.status == 404) {
        return shoal_client_fail(call->error, SHOAL_CLIENT_E_PROTOCOL,
                                 "the stream broke, and the edge does not hold the rest any more");
    }
    return code;
}

static int come_back(const shoal_client_call *call, shoal_client_stream *stream, int code)
{
    char path[128];
    char seen[SHOAL_CLIENT_EVENT_ID_MAX];
    int64_t wait = PAUSE_MIN_MS;
    int64_t until_ms = shoal_client_now_ms() + call->client->resume_ms;
    memcpy(seen, stream->sse.id, sizeof seen);
    while (broke(stream, code) && path_of(stream, path) && shoal_client_now_ms() < until_ms) {
        int slept = pause_ms(call, wait);
        if (slept != SHOAL_CLIENT_OK) {
            return slept;
        }
        code = again(call, path, stream);
        wait = wait < PAUSE_MAX_MS / 2 ? wait * 2 : PAUSE_MAX_MS;
        if (strcmp(seen, stream->sse.id) != 0) { /* it went on: the time begins again */
            memcpy(seen, stream->sse.id, sizeof seen);
            wait = PAUSE_MIN_MS;
            until_ms = shoal_client_now_ms() + call->client->resume_ms;
        }
    }
    if (code == SHOAL_CLIENT_E_PROTOCOL && stream->http.status == 404) {
        call->error->code = SHOAL_CLIENT_E_IO;
        return SHOAL_CLIENT_E_IO;
    }
    return code;
}

/* A closed connection is not a cancel, so it is said; whether it arrives does not matter much. */
static void say_cancelled(const shoal_client_call *call, const shoal_client_stream *stream)
{
    char path[128];
    uint64_t count = 0;
    if (stream->done || !path_of(stream, path)) {
        return;
    }
    ssize_t got = read(call->client->cancel_fd, &count, sizeof count);
    (void)got; /* a callback that said no has left nothing to read */
    shoal_client_error error = {0};
    shoal_client_http http;
    const shoal_client_call goodbye = {.client = call->client,
                                       .deadline_ms = shoal_client_now_ms() + GOODBYE_MS,
                                       .started_ms = shoal_client_now_ms(),
                                       .error = &error};
    const shoal_client_exchange exchange = {
        .method = "DELETE", .path = path, .accept = "application/json"};
    shoal_client_http_init(&http, &error);
    (void)shoal_client_run(&goodbye, &exchange, &http);
}

int shoal_client_stream_run(const shoal_client_call *call, const shoal_client_exchange *exchange,
                            shoal_client_stream *stream)
{
    int code = shoal_client_run(call, exchange, &stream->http);
    code = shoal_client_stream_finish(stream, code);
    if (call->client->resume_ms > 0) {
        code = come_back(call, stream, code);
    }
    if (code == SHOAL_CLIENT_E_CANCELLED) {
        say_cancelled(call, stream);
    }
    return code;
}
