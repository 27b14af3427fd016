/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that survive their connection. Every event of a stream has an id, STREAM:NUMBER; the
 * tokens of a stream are kept for a while, within a bound of all streams together, so that a client
 * whose connection broke names the last event it has and gets what follows: events are made again
 * from the tokens, byte for byte. Meanwhile the generation goes on. Loop-only.
 */
#include "edge/http/api_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum {
    ENDED_MAX = 256,          /* streams that have ended and may be read again */
    REPLAY_BYTES = 256 << 10, /* of one connection; its client comes again for the rest */
    REPLAY_PIECE = 32 << 10
};

static uint64_t now_ms(void)
{
    shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

/* --- keeping ---------------------------------------------------------------------------------- */

void shoal_api_forget(shoal_api_call *call)
{
    call->resumable = false;
    while (call->kept) {
        shoal_api_message *next = call->kept->next;
        call->api->kept_bytes -= sizeof *call->kept + call->kept->n_text + 1;
        shoal_free(call->kept);
        call->kept = next;
    }
    call->kept_last = NULL;
}

static shoal_api_call *oldest_ended(const shoal_api *api)
{
    shoal_api_call *oldest = NULL;
    for (shoal_api_call *c = api->calls; c; c = c->next) {
        if (c->ended && (!oldest || c->expires_ms < oldest->expires_ms)) {
            oldest = c;
        }
    }
    return oldest;
}

bool shoal_api_keep(shoal_api_message *m)
{
    shoal_api_call *call = m->call;
    shoal_api *api = call->api;
    size_t n = sizeof *m + m->n_text + 1;
    if (!call->resumable) {
        return false;
    }
    for (shoal_api_call *old = NULL; api->kept_bytes + n > api->settings.replay_bytes_max &&
                                     (old = oldest_ended(api)) != NULL;) {
        shoal_api_call_free(old);
    }
    if (api->kept_bytes + n > api->settings.replay_bytes_max) {
        shoal_api_forget(call);
        if (!call->exchange && call->submitted) {
            shoal_coop_cancel(call->deck->coop,
                              call->generation); /* nobody could read it any more */
        }
        return false;
    }
    api->kept_bytes += n;
    m->next = NULL;
    if (call->kept_last) {
        call->kept_last->next = m;
    } else {
        call->kept = m;
    }
    call->kept_last = m;
    return true;
}

/* --- time ------------------------------------------------------------------------------------- */

static void arm(shoal_api *api)
{
    uint64_t first = UINT64_MAX;
    for (const shoal_api_call *c = api->calls; c; c = c->next) {
        first = c->expires_ms > 0 ? SHOAL_MIN(first, c->expires_ms) : first;
    }
    uint64_t now = now_ms();
    if (first == UINT64_MAX) {
        shoal_timer_stop(api->expiry);
    } else {
        shoal_timer_start(api->expiry, first > now ? first - now : 0);
    }
}

static void give_up(shoal_api_call *call)
{
    call->expires_ms = 0;
    if (call->ended) {
        shoal_api_call_free(call);
        return;
    }
    shoal_api_forget(call);
    if (call->submitted) {
        shoal_coop_cancel(call->deck->coop, call->generation);
    }
}

void shoal_api_expire(void *ctx)
{
    shoal_api *api = ctx;
    uint64_t now = now_ms();
    shoal_api_call *next = NULL;
    for (shoal_api_call *c = api->calls; c; c = next) {
        next = c->next;
        if (c->expires_ms > 0 && c->expires_ms <= now) {
            give_up(c);
        }
    }
    arm(api);
}

static void expire_later(shoal_api_call *call)
{
    call->expires_ms = now_ms() + call->api->settings.replay_ms;
    arm(call->api);
}

/* --- leaving ---------------------------------------------------------------------------------- */

bool shoal_api_detach(shoal_api_call *call)
{
    shoal_api *api = call->api;
    size_t n_detached = 0;
    shoal_api_call *oldest = NULL;
    if (!call->resumable || call->request->cancel_on_gone || call->event_i <= call->event_first) {
        return false; /* who has seen no event has no id to come back with */
    }
    if (api->settings.n_detached_max == 0) {
        return false;
    }
    for (shoal_api_call *c = api->calls; c; c = c->next) {
        if (c->expires_ms > 0 && !c->ended) {
            n_detached++;
            oldest = !oldest || c->expires_ms < oldest->expires_ms ? c : oldest;
        }
    }
    if (n_detached >= api->settings.n_detached_max) {
        give_up(oldest);
    }
    expire_later(call);
    return true;
}

bool shoal_api_keep_ended(shoal_api_call *call)
{
    shoal_api *api = call->api;
    if (!call->resumable || call->finish == SHOAL_FINISH_CANCELLED ||
        call->event_i <= call->event_first) {
        return false;
    }
    if (api->n_ended >= ENDED_MAX) {
        shoal_api_call_free(oldest_ended(api));
    }
    call->ended = true;
    api->n_calls--;
    api->n_ended++;
    expire_later(call);
    return true;
}

/* --- coming back ------------------------------------------------------------------------------ */

static shoal_api_call *find(const shoal_api *api, const char *name, size_t n)
{
    for (shoal_api_call *c = api->calls; c; c = c->next) {
        if (c->resumable && strlen(c->random) == n && memcmp(c->random, name, n) == 0) {
            return c;
        }
    }
    return NULL;
}

/* The client that was there is another connection of the same one. */
static void hand_over(shoal_api_call *call, shoal_http_exchange *exchange)
{
    shoal_http_exchange *old = call->exchange;
    call->exchange = exchange;
    call->expires_ms = 0;
    shoal_http_set_user(exchange, call);
    if (!old) {
        return;
    }
    shoal_http_set_user(old, NULL);
    if (shoal_http_begun(old)) {
        shoal_http_stream_end(old, false);
        return;
    }
    shoal_http_error error = {0};
    (void)shoal_http_error_set(&error, 409, NULL, "resumed_elsewhere",
                               "another connection has taken this stream over");
    shoal_http_fail(old, &error);
}

/* Writes what scratch has once it is large; false: the connection has had enough or is gone. */
static bool write_piece(shoal_api_call *call, size_t least, size_t *inout_n)
{
    shoal_buf *buf = &call->api->scratch;
    if (buf->length < least) {
        return true;
    }
    *inout_n += buf->length;
    shoal_api_write_stream(call);
    shoal_buf_reset(buf);
    if (call->exchange && *inout_n > REPLAY_BYTES) {
        shoal_http_exchange *x = SHOAL_STEAL(call->exchange);
        shoal_http_stream_end(x, false);
    }
    return call->exchange != NULL;
}

static void replay(shoal_api_call *call, size_t n_seen)
{
    shoal_buf *buf = &call->api->scratch;
    size_t n_written = 0;
    shoal_buf_reset(buf);
    shoal_api_rewind(call, n_seen);
    shoal_status status = shoal_buf_appendf(buf, ": resumed\n\n");
    if (status == SHOAL_OK && call->kept) {
        status = shoal_api_put_role(buf, call);
    }
    for (const shoal_api_message *m = call->kept; m && status == SHOAL_OK; m = m->next) {
        status = shoal_api_put_chunk(buf, m);
        if (status == SHOAL_OK && !write_piece(call, REPLAY_PIECE, &n_written)) {
            return;
        }
    }
    if (status != SHOAL_OK) {
        shoal_http_exchange *x = SHOAL_STEAL(call->exchange);
        if (shoal_http_begun(x)) {
            shoal_http_stream_end(x, false);
        } else {
            shoal_http_error error = {0};
            (void)shoal_http_error_set(&error, 503, NULL, "out_of_memory", "no memory to replay");
            shoal_http_fail(x, &error);
        }
        call->event_i = SHOAL_MAX(call->event_i, n_seen);
        return;
    }
    if (write_piece(call, 1, &n_written) && call->ended) {
        shoal_api_end_exchange(call);
    }
}

/* "NAME:NUMBER"; *ret_n_seen: how many events, from 0 on, the client has. */
static bool parse_id(const char *text, size_t *ret_n_name, size_t *ret_n_seen)
{
    const char *colon = strchr(text, ':');
    size_t n_digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (!colon || n_digits < 1 || n_digits > 9 || colon[1 + n_digits] != '\0') {
        return false;
    }
    *ret_n_name = (size_t)(colon - text);
    *ret_n_seen = (size_t)strtoul(colon + 1, NULL, 10) + 1;
    return true;
}

static void refuse_gone(const shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_http_error error = {0};
    (void)shoal_http_error_set(
        &error, 404, "Last-Event-ID", "stream_not_found",
        "this stream is not held any more: streams are held %llu ms (api.replay_ms) after "
        "their end or their client's, and within api.replay_kib. Send the request again",
        (unsigned long long)api->settings.replay_ms);
    shoal_http_fail(exchange, &error);
}

static void resume(shoal_api *api, shoal_http_exchange *exchange, const char *name, size_t n_name,
                   size_t n_seen)
{
    shoal_api_call *call = find(api, name, n_name);
    if (!call) {
        refuse_gone(api, exchange);
        return;
    }
    if (n_seen > call->event_i) {
        shoal_http_error error = {0};
        (void)shoal_http_error_set(&error, 400, "Last-Event-ID", "invalid_value",
                                   "Last-Event-ID: the stream has not come to that event");
        shoal_http_fail(exchange, &error);
        return;
    }
    hand_over(call, exchange);
    replay(call, n_seen);
    if (!call->exchange && call->expires_ms == 0 && call->resumable) {
        expire_later(call);
    }
}

bool shoal_api_resume(shoal_api *api, shoal_http_exchange *exchange)
{
    const char *last = shoal_http_header(exchange, "last-event-id");
    size_t n_name = 0;
    size_t n_seen = 0;
    if (!last || !last[0]) {
        return false;
    }
    if (parse_id(last, &n_name, &n_seen)) {
        resume(api, exchange, last, n_name, n_seen);
    } else {
        refuse_gone(api, exchange);
    }
    return true;
}

void shoal_api_answer_stream(shoal_api *api, shoal_http_exchange *exchange)
{
    const char *path = shoal_http_path(exchange);
    const char *name = strrchr(path, '/') + 1;
    const char *dash = strrchr(name, '-'); /* the id of an answer names its stream too */
    name = dash ? dash + 1 : name;
    if (strcmp(shoal_http_method(exchange), "DELETE") != 0) {
        if (!shoal_api_resume(api, exchange)) {
            resume(api, exchange, name, strlen(name), 0);
        }
        return;
    }
    static const char done[] = "{\"cancelled\":true}";
    shoal_api_call *call = find(api, name, strlen(name));
    if (!call) {
        refuse_gone(api, exchange);
        return;
    }
    shoal_http_respond(exchange, 200, "application/json", NULL, done, sizeof done - 1);
    call->deleted = true;
    give_up(call);
    arm(api);
}
