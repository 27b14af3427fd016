/* SPDX-License-Identifier: Apache-2.0
 *
 * The public calls: check arguments, take the handle, run one or more exchanges, report.
 */
#include "edge/client/tls.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- settings and handles -------------------------------------------------------------------- */

void shoal_client_options_init(shoal_client_options *options, size_t size)
{
    const shoal_client_options defaults = {
        .size = size, .connect_timeout_ms = 5000, .idle_timeout_ms = 120000, .resume_ms = 10000};
    memset(options, 0, size);
    memcpy(options, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

void shoal_client_result_init(shoal_client_result *result, size_t size)
{
    const shoal_client_result empty = {.size = size, .first_token_ms = -1.0, .tokens_per_s = -1.0};
    memset(result, 0, size);
    memcpy(result, &empty, size < sizeof empty ? size : sizeof empty);
}

static void error_reset(shoal_client_error *error)
{
    memset(error, 0, sizeof *error);
    error->retry_after_s = -1;
}

int shoal_client_report(const shoal_client_error *error, int code, shoal_client_error *ret_error)
{
    if (ret_error) {
        *ret_error = *error;
        ret_error->code = code;
        if (code == SHOAL_CLIENT_OK) {
            ret_error->text[0] = '\0';
        }
    }
    return code;
}

static int bad_size(shoal_client_error *error, const char *what)
{
    return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                             "%s has no size; call shoal_client_%s_init first", what, what);
}

static int trust_authorities(shoal_client *client, const char *ca_file, shoal_client_error *error)
{
    if (!ca_file) {
        const char *usual = getenv("SHOAL_CA_FILE");
        ca_file = usual && usual[0] ? usual : NULL;
    }
    return shoal_client_trust_new(ca_file, &client->trust, error);
}

static int configure(shoal_client *client, const shoal_client_options *given,
                     shoal_client_error *error)
{
    shoal_client_options options;
    shoal_client_options_init(&options, sizeof options);
    if (given) {
        if (given->size < sizeof given->size) {
            return bad_size(error, "options");
        }
        memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
    }
    const char *url = options.url;
    if (!url) {
        url = getenv("SHOAL_URL");
        url = url && url[0] ? url : "http://127.0.0.1:8088";
    }
    SHOAL_CLIENT_TRY(shoal_client_url_parse(url, &client->parts, error));
    if (options.ca_file && !client->parts.is_tls) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                 "address \"%.200s\" is not https, so ca_file has no use; write "
                                 "https://host:port",
                                 url);
    }
    memcpy(client->url, url, strlen(url) + 1);
    const char *key = options.api_key ? options.api_key : "";
    size_t n_key = strnlen(key, SHOAL_CLIENT_KEY_MAX);
    if (n_key == SHOAL_CLIENT_KEY_MAX) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                 "the API key is longer than %d bytes", SHOAL_CLIENT_KEY_MAX - 1);
    }
    for (size_t i = 0; i < n_key; i++) {
        if (key[i] <= 0x20 || key[i] >= 0x7F) {
            return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                     "the API key has a character that is not printable ASCII");
        }
    }
    memcpy(client->api_key, key, n_key + 1);
    client->connect_timeout_ms = options.connect_timeout_ms;
    client->idle_timeout_ms = options.idle_timeout_ms;
    client->resume_ms = options.resume_ms;
    return client->parts.is_tls ? trust_authorities(client, options.ca_file, error)
                                : SHOAL_CLIENT_OK;
}

int shoal_client_new(const shoal_client_options *options, shoal_client **ret_client,
                     shoal_client_error *ret_error)
{
    shoal_client_error error;
    error_reset(&error);
    *ret_client = NULL;
    shoal_client *client = calloc(1, sizeof *client);
    if (!client) {
        return shoal_client_report(
            &error, shoal_client_fail(&error, SHOAL_CLIENT_E_NOMEM, "out of memory"), ret_error);
    }
    client->cancel_fd = -1;
    atomic_flag_clear(&client->busy);
    int code = configure(client, options, &error);
    if (code == SHOAL_CLIENT_OK) {
        client->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (client->cancel_fd < 0) {
            code = shoal_client_fail(&error, SHOAL_CLIENT_E_IO, "no file descriptor left");
        }
    }
    if (code != SHOAL_CLIENT_OK) {
        shoal_client_free(client);
        return shoal_client_report(&error, code, ret_error);
    }
    *ret_client = client;
    return shoal_client_report(&error, code, ret_error);
}

void shoal_client_free(shoal_client *client)
{
    if (!client) {
        return;
    }
    if (client->cancel_fd >= 0) {
        (void)close(client->cancel_fd);
    }
    shoal_client_trust_free(client->trust);
    free(client);
}

const char *shoal_client_url(const shoal_client *client)
{
    return client->url;
}

void shoal_client_cancel(shoal_client *client)
{
    uint64_t one = 1;
    ssize_t written = write(client->cancel_fd, &one, sizeof one);
    (void)written; /* a full counter means that it is readable already */
}

void shoal_client_text_free(char *text)
{
    free(text);
}

/* --- calls ----------------------------------------------------------------------------------- */

int shoal_client_call_begin(shoal_client *client, uint32_t timeout_ms, shoal_client_error *error,
                            shoal_client_call *ret_call)
{
    error_reset(error);
    if (!client) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID, "no client handle");
    }
    if (atomic_flag_test_and_set_explicit(&client->busy, memory_order_acquire)) {
        return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                                 "another call is in progress on this handle");
    }
    uint64_t count = 0;
    ssize_t got = read(client->cancel_fd, &count, sizeof count);
    (void)got; /* nothing to read is the usual case */
    int64_t now_ms = shoal_client_now_ms();
    *ret_call = (shoal_client_call){.client = client,
                                    .deadline_ms =
                                        timeout_ms == 0 ? INT64_MAX : now_ms + (int64_t)timeout_ms,
                                    .started_ms = now_ms,
                                    .error = error};
    return SHOAL_CLIENT_OK;
}

void shoal_client_call_end(shoal_client *client)
{
    atomic_flag_clear_explicit(&client->busy, memory_order_release);
}

/* Everything of a streamed call between taking the handle and giving it back. */
static int stream_call(const shoal_client_call *call, const shoal_client_request *request,
                       bool chat, shoal_client_stream *stream)
{
    shoal_client_buf body = {.limit = SHOAL_CLIENT_REQUEST_MAX};
    int code = shoal_client_request_body(request, chat, &body, call->error);
    if (code == SHOAL_CLIENT_OK) {
        const shoal_client_exchange exchange = {
            .method = "POST",
            .path = chat ? "/v1/chat/completions" : "/v1/completions",
            .accept = "text/event-stream",
            .body = body.data,
            .n_body = body.length,
        };
        code = shoal_client_stream_run(call, &exchange, stream);
    }
    shoal_client_buf_fini(&body);
    return code;
}

static int generate(shoal_client *client, const shoal_client_request *given, bool chat,
                    shoal_client_event_fn on_event, void *ctx, shoal_client_result *ret_result,
                    shoal_client_error *ret_error)
{
    shoal_client_error error;
    error_reset(&error);
    shoal_client_request request;
    shoal_client_request_init(&request, sizeof request);
    if (!given || given->size < sizeof given->size) {
        return shoal_client_report(&error, bad_size(&error, "request"), ret_error);
    }
    if (ret_result && ret_result->size < sizeof ret_result->size) {
        return shoal_client_report(&error, bad_size(&error, "result"), ret_error);
    }
    memcpy(&request, given, given->size < sizeof request ? given->size : sizeof request);

    shoal_client_call call;
    int code = shoal_client_call_begin(client, request.timeout_ms, &error, &call);
    if (code != SHOAL_CLIENT_OK) {
        return shoal_client_report(&error, code, ret_error);
    }
    /* On the heap: the head's line and the rest would fill half a small thread's stack. */
    shoal_client_stream *stream = malloc(sizeof *stream);
    if (stream) {
        shoal_client_stream_init(stream, on_event, ctx, &error);
        code = stream_call(&call, &request, chat, stream);
        if (ret_result) {
            size_t size = ret_result->size;
            memcpy(ret_result, &stream->result,
                   size < sizeof stream->result ? size : sizeof stream->result);
            ret_result->size = size;
        }
        shoal_client_stream_fini(stream);
        free(stream);
    } else {
        code = shoal_client_fail(&error, SHOAL_CLIENT_E_NOMEM, "out of memory");
    }
    shoal_client_call_end(client);
    return shoal_client_report(&error, code, ret_error);
}

int shoal_client_complete(shoal_client *client, const shoal_client_request *request,
                          shoal_client_event_fn on_event, void *ctx,
                          shoal_client_result *ret_result, shoal_client_error *ret_error)
{
    return generate(client, request, false, on_event, ctx, ret_result, ret_error);
}

int shoal_client_chat(shoal_client *client, const shoal_client_request *request,
                      shoal_client_event_fn on_event, void *ctx, shoal_client_result *ret_result,
                      shoal_client_error *ret_error)
{
    return generate(client, request, true, on_event, ctx, ret_result, ret_error);
}
