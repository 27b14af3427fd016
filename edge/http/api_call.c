/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a call: parse (here or on the worker), submit, tokens, end. A call dies when nobody
 * can name it any more: its client answered or gone, its job done, its last event taken.
 */
#include "edge/http/api_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    MESSAGES_PER_TURN = 2048 /* then the loop looks at its sockets again */
};

static uint64_t now_ns(void)
{
    shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ns(&clock);
}

void shoal_api_call_free(shoal_api_call *call)
{
    shoal_api *api = call->api;
    if (call->prev) {
        call->prev->next = call->next;
    } else {
        api->calls = call->next;
    }
    if (call->next) {
        call->next->prev = call->prev;
    }
    if (call->ended) {
        api->n_ended--;
    } else {
        api->n_calls--;
    }
    shoal_api_forget(call);
    shoal_api_request_free(call->request);
    shoal_buf_fini(&call->body);
    shoal_buf_fini(&call->envelope);
    shoal_buf_fini(&call->text);
    shoal_buf_fini(&call->tokens);
    shoal_free(call->scores);
    shoal_free(call->tops);
    shoal_api_tools_fini(&call->tools);
    shoal_buf_fini(&call->restored);
    shoal_api_deck_unref(api, call->deck);
    shoal_free(call);
}

/* --- engine thread and worker ----------------------------------------------------------------- */

/* The inbox has room for every fixed message that can exist, so this cannot fail. */
static void push_fixed(shoal_api *api, void *message)
{
    shoal_status status = shoal_queue_push(api->inbox, message);
    SHOAL_ASSERT(status == SHOAL_OK);
}

static bool push_token(shoal_api_call *call, const shoal_coop_event *event)
{
    shoal_api *api = call->api;
    if (atomic_fetch_add(&api->n_tokens_queued, 1) < SHOAL_API_TOKENS_QUEUED_MAX) {
        shoal_api_message *m = shoal_calloc(1, sizeof *m + event->n_text + 1);
        if (m) {
            m->kind = SHOAL_API_TOKEN;
            m->call = call;
            m->id = event->id;
            m->tier = event->tier;
            m->unassisted = event->unassisted;
            m->confidence = event->confidence;
            m->round = event->round;
            m->ms = (double)(now_ns() - call->started_ns) / 1e6;
            m->n_text = event->n_text;
            memcpy(m->text, event->text, event->n_text);
            shoal_status status = shoal_queue_push(api->inbox, m);
            SHOAL_ASSERT(status == SHOAL_OK);
            return true;
        }
    }
    atomic_fetch_sub(&api->n_tokens_queued, 1);
    return false;
}

static void on_event(void *ctx, const shoal_coop_event *event)
{
    shoal_api_call *call = ctx;
    if (event->kind == SHOAL_COOP_TOKEN) {
        /* A gap in the text would be silent damage: the call ends with an error instead. */
        if (!atomic_load(&call->lost) && !push_token(call, event)) {
            atomic_store(&call->lost, true);
            shoal_coop_cancel(call->deck->coop, event->request);
        }
        return;
    }
    if (event->usage) {
        call->usage = *event->usage;
    }
    call->failed = event->kind == SHOAL_COOP_ERROR;
    if (call->failed && event->error) {
        call->failure = *event->error;
    } else {
        call->finish = event->finish;
    }
    push_fixed(call->api, &call->end);
}

static void parse(shoal_api_call *call)
{
    const char *body = call->body.data ? call->body.data : "";
    shoal_status status = shoal_api_parse(&call->deck->context, call->kind, body, call->body.length,
                                          &call->request, &call->error);
    SHOAL_ASSERT(status == SHOAL_OK || call->error.status != 0);
    shoal_buf_fini(&call->body);
}

void shoal_api_work(void *ctx)
{
    shoal_api *api = ctx;
    for (;;) {
        void *item = shoal_queue_pop_wait(api->jobs, UINT64_MAX);
        if (!item) {
            return; /* closed */
        }
        shoal_api_fixed_message *any = item; /* all kinds begin alike */
        if (any->kind == SHOAL_API_TRANSFER) {
            shoal_api_transfer_work(item);
        } else {
            parse(any->call);
        }
        push_fixed(api, item);
    }
}

/* --- loop ------------------------------------------------------------------------------------- */

/* Ends the exchange with an error in the form its stage allows. */
static void fail_call(shoal_api_call *call, const shoal_http_error *error)
{
    shoal_http_exchange *x = call->exchange;
    call->exchange = NULL;
    if (!x) {
        return;
    }
    if (!shoal_http_begun(x)) {
        shoal_http_fail(x, error);
        return;
    }
    shoal_buf *buf = &call->api->scratch;
    shoal_buf_reset(buf);
    bool put = shoal_api_begin_event(buf, call) == SHOAL_OK &&
               shoal_buf_appendf(buf, "event: error\ndata: ") == SHOAL_OK &&
               shoal_http_error_put(error, buf) == SHOAL_OK &&
               shoal_api_end_event(buf, call) == SHOAL_OK;
    if (put && shoal_http_stream_write(x, buf->data, buf->length) != SHOAL_OK) {
        return; /* has ended with it */
    }
    shoal_http_stream_end(x, put);
}

static bool make_scores(shoal_api_call *call)
{
    const shoal_api_request *q = call->request;
    size_t n = q->n_ids + q->n_tokens_max;
    if (!q->tell_logprobs) {
        return true;
    }
    call->scores = shoal_calloc(n, sizeof *call->scores);
    call->tops = q->n_tops > 0 ? shoal_calloc(n * q->n_tops, sizeof *call->tops) : NULL;
    return call->scores && (call->tops || q->n_tops == 0);
}

/* On failure *ret_field is the field at fault. */
static shoal_status hand_in(shoal_api_call *call, const shoal_coop_request *request,
                            const char **ret_field, shoal_err *err)
{
    shoal_coop *coop = call->deck->coop;
    if (request->exit_policy) {
        *ret_field = "shoal.exit";
        SHOAL_TRY(shoal_coop_check_exit(coop, request->exit_policy, request->exit_threshold, err));
    }
    if (request->session) {
        *ret_field = "shoal.session";
        SHOAL_TRY(shoal_coop_check_session(coop, request->session, request->mode, err));
    }
    shoal_status status = shoal_coop_submit(coop, request, &call->generation, err);
    *ret_field = status == SHOAL_E_UNSUPPORTED           ? "shoal.mode"
                 : call->request->kind == SHOAL_API_CHAT ? "messages"
                                                         : "prompt";
    return status;
}

/* A request may have less time than the operator gives, not more. */
static uint64_t deadline_ms(const shoal_api *api, const shoal_api_request *q)
{
    uint64_t most = api->settings.deadline_ms;
    return q->deadline_ms > 0 && (most == 0 || q->deadline_ms < most) ? q->deadline_ms : most;
}

static void submit(shoal_api_call *call)
{
    shoal_api *api = call->api;
    const shoal_api_request *q = call->request;
    shoal_http_error error = {0};
    call->resumable = q->stream && api->settings.replay_ms > 0;
    shoal_api_rewind(call, 0);
    if (!make_scores(call)) {
        (void)shoal_http_error_set(&error, 503, NULL, "out_of_memory", "no memory for scores");
        fail_call(call, &error);
        shoal_api_call_free(call);
        return;
    }
    shoal_coop_request request = {
        .mode = q->mode,
        .ids = q->ids,
        .n_ids = q->n_ids,
        .n_tokens_max = q->n_tokens_max,
        .scores = call->scores,
        .score_prompt = q->echo,
        .tops = call->tops,
        .n_tops = q->n_tops,
        .sampling = q->sampling,
        .stops = (const char *const *)q->stops,
        .n_stops = q->n_stops,
        .take_grammar = q->grammar,
        .grammar_opening = q->n_tools > 0 && !q->must_call ? SHOAL_API_CALL : NULL,
        .deadline_ms = deadline_ms(api, q),
        .reconnect_ms = q->reconnect_ms,
        .priority = q->priority,
        .exit_policy = q->exit_policy[0] ? q->exit_policy : NULL,
        .exit_threshold = q->exit_threshold,
        .degrade = q->degrade,
        .adapter = q->adapter,
        .session = q->session[0] ? q->session : NULL,
        .n_cloud_max = q->n_cloud_max,
        .risk = q->risk,
        .request_id = call->request_id,
        .on_event = on_event,
        .ctx = call,
    };
    shoal_err err = SHOAL_ERR_INIT;
    const char *field = NULL;
    shoal_status status = hand_in(call, &request, &field, &err);
    if (status == SHOAL_OK) {
        call->submitted = true;
        call->request->grammar = NULL; /* taken */
        api->n_requests++;
        return;
    }
    err.code = err.code != SHOAL_OK ? err.code : status;
    shoal_http_error_from(&error, &err, field);
    fail_call(call, &error);
    shoal_api_call_free(call);
}

static void on_parsed(shoal_api_call *call)
{
    shoal_http_error none = {0};
    if (call->exchange && call->error.status == 0 && call->api->draining) {
        (void)shoal_http_error_set(&none, 503, NULL, "shutting_down",
                                   "this edge is shutting down: ask another one");
        call->error = none;
    }
    if (call->exchange && call->error.status == 0 && shoal_api_put_envelope(call) != SHOAL_OK) {
        (void)shoal_http_error_set(&call->error, 503, NULL, "out_of_memory", "no memory");
    }
    if (!call->exchange || call->error.status != 0) {
        fail_call(call, &call->error);
        shoal_api_call_free(call);
        return;
    }
    submit(call);
}

void shoal_api_call_begin(shoal_api *api, shoal_http_exchange *exchange, shoal_api_kind kind)
{
    shoal_http_error error = {0};
    shoal_api_call *call = NULL;
    if (api->draining) {
        (void)shoal_http_error_set(&error, 503, NULL, "shutting_down",
                                   "this edge is shutting down: ask another one");
    } else if (api->n_calls >= api->settings.n_calls_max) {
        (void)shoal_http_error_set(&error, 429, NULL, "rate_limit_exceeded",
                                   "%zu requests are open already: try again later", api->n_calls);
    } else if (!(call = shoal_calloc(1, sizeof *call))) {
        (void)shoal_http_error_set(&error, 503, NULL, "out_of_memory", "no memory for a request");
    }
    if (!call) {
        shoal_http_fail(exchange, &error);
        return;
    }
    call->api = api;
    call->deck = shoal_api_deck_ref(api->deck);
    call->exchange = exchange;
    call->kind = kind;
    call->started_ns = shoal_http_started_ns(exchange);
    (void)snprintf(call->request_id, sizeof call->request_id, "%s",
                   shoal_http_request_id(exchange));
    call->parsed = (shoal_api_fixed_message){SHOAL_API_PARSED, call};
    call->end = (shoal_api_fixed_message){SHOAL_API_END, call};
    call->text.limit = SHOAL_API_ANSWER_MAX;
    call->tokens.limit = SHOAL_API_ANSWER_MAX;
    call->body = shoal_http_take_body(exchange);
    call->next = api->calls;
    if (call->next) {
        call->next->prev = call;
    }
    api->calls = call;
    api->n_calls++;
    shoal_http_set_user(exchange, call);
    if (call->body.length <= api->settings.inline_bytes_max) {
        parse(call);
        on_parsed(call);
    } else if (shoal_queue_push(api->jobs, &call->parsed) != SHOAL_OK) {
        (void)shoal_http_error_set(&error, 429, NULL, "rate_limit_exceeded",
                                   "too many large requests wait already: try again later");
        fail_call(call, &error);
        shoal_api_call_free(call);
    }
}

/* Its last message, of the worker or the engine, still comes and frees it. */
void shoal_api_call_gone(shoal_api_call *call)
{
    call->exchange = NULL;
    if (call->submitted && !shoal_api_detach(call)) {
        shoal_api_forget(call);
        shoal_coop_cancel(call->deck->coop, call->generation);
    }
}

static void fail_late(shoal_api_call *call, int status, const char *code, const char *text)
{
    shoal_http_error error = {0};
    (void)shoal_http_error_set(&error, status, NULL, code, "%s", text);
    fail_call(call, &error);
    shoal_coop_cancel(call->deck->coop, call->generation);
}

void shoal_api_write_stream(shoal_api_call *call)
{
    shoal_http_exchange *x = call->exchange;
    const shoal_buf *buf = &call->api->scratch;
    shoal_status status = SHOAL_OK;
    if (!shoal_http_begun(x)) {
        status = shoal_http_stream_begin(x, 200, "text/event-stream",
                                         "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    }
    if (status == SHOAL_OK) {
        status = shoal_http_stream_write(x, buf->data, buf->length);
    }
    if (status != SHOAL_OK) {
        shoal_api_call_gone(call);
    }
}

static shoal_status collect(shoal_api_call *call, const shoal_api_message *m)
{
    shoal_str text;
    SHOAL_TRY(shoal_api_restore(m, &text));
    SHOAL_TRY(shoal_buf_append(&call->text, text.data, text.length));
    if (!call->request->tell_tokens) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_buf_append(&call->tokens, ",", call->tokens.length > 0 ? 1 : 0));
    return shoal_api_put_token(&call->tokens, m, text);
}

/* True: the message is kept. */
static bool on_token(shoal_api_message *m)
{
    shoal_api_call *call = m->call;
    bool kept = shoal_api_keep(m);
    if (!call->exchange) {
        return kept;
    }
    shoal_status status = SHOAL_OK;
    if (!call->request->stream) {
        status = collect(call, m);
    } else {
        shoal_buf *buf = &call->api->scratch;
        shoal_buf_reset(buf);
        if (!shoal_http_begun(call->exchange)) {
            status = shoal_api_put_role(buf, call);
        }
        if (status == SHOAL_OK) {
            status = shoal_api_put_chunk(buf, m);
        }
        if (status == SHOAL_OK) {
            shoal_api_write_stream(call);
        }
    }
    if (status != SHOAL_OK) {
        fail_late(call, 503, "out_of_memory", "no memory for the answer");
    }
    return kept;
}

static void keep_books(shoal_api_call *call)
{
    shoal_api *api = call->api;
    const shoal_usage *u = &call->usage;
    shoal_metric_add(api->prompt_tokens, (double)u->n_prompt);
    shoal_metric_observe(api->duration, (double)(now_ns() - call->started_ns) / 1e9);
    if (u->n_generated > 1 && u->total_ms > u->first_token_ms) {
        shoal_metric_observe(api->per_token, (u->total_ms - u->first_token_ms) / 1e3 /
                                                 (double)(u->n_generated - 1));
    }
}

static void finish_answer(shoal_api_call *call)
{
    shoal_buf *buf = &call->api->scratch;
    shoal_buf_reset(buf);
    shoal_status status = SHOAL_OK;
    if (!call->request->stream) {
        status = shoal_api_put_answer(buf, call);
        if (status == SHOAL_OK) {
            shoal_http_exchange *x = call->exchange;
            call->exchange = NULL;
            shoal_http_respond(x, 200, "application/json", NULL, buf->data, buf->length);
        }
    } else {
        if (!shoal_http_begun(call->exchange)) {
            status = shoal_api_put_role(buf, call);
        }
        if (status == SHOAL_OK) {
            status = shoal_api_put_finish(buf, call);
        }
        if (status == SHOAL_OK) {
            shoal_api_write_stream(call);
        }
        if (status == SHOAL_OK && call->exchange) {
            shoal_http_stream_end(call->exchange, true);
            call->exchange = NULL;
        }
    }
    if (status != SHOAL_OK) {
        fail_late(call, 503, "out_of_memory", "no memory for the answer");
    }
    if (buf->capacity > SHOAL_API_ANSWER_MAX / 64) {
        shoal_buf_fini(buf); /* one long answer must not hold its memory for ever */
    }
}

void shoal_api_end_exchange(shoal_api_call *call)
{
    if (call->exchange && call->end_error.status != 0) {
        fail_call(call, &call->end_error);
    } else if (call->exchange) {
        finish_answer(call);
    }
}

static void on_end(shoal_api_call *call)
{
    shoal_http_error *error = &call->end_error;
    keep_books(call);
    call->submitted = false;
    if (call->api->watch.on_answer) {
        call->api->watch.on_answer(call->api->watch.ctx, call->deck->coop,
                                   call->failed ? call->failure.code : SHOAL_OK);
    }
    if (atomic_load(&call->lost)) {
        (void)shoal_http_error_set(error, 503, NULL, "overloaded",
                                   "the edge could not keep up with its own answer, or had no "
                                   "memory for it: try again");
    } else if (call->failed) {
        shoal_http_error_from(error, &call->failure, NULL);
    } else if (call->deleted && call->finish == SHOAL_FINISH_CANCELLED) {
        (void)shoal_http_error_set(error, 409, NULL, "cancelled", "the answer was cancelled");
    } else if (call->finish == SHOAL_FINISH_CANCELLED) {
        (void)shoal_http_error_set(error, 503, NULL, "shutting_down",
                                   "this edge is shutting down: the answer is not complete");
    }
    shoal_api_end_exchange(call);
    if (!shoal_api_keep_ended(call)) {
        shoal_api_call_free(call);
    }
}

void shoal_api_drain_inbox(void *ctx)
{
    shoal_api *api = ctx;
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        void *item = shoal_queue_pop(api->inbox);
        if (!item) {
            shoal_api_transfers_turn(api);
            return;
        }
        const shoal_api_fixed_message *any = item; /* all kinds begin alike */
        switch (any->kind) {
        case SHOAL_API_PARSED:
            on_parsed(any->call);
            break;
        case SHOAL_API_TOKEN:
            atomic_fetch_sub(&api->n_tokens_queued, 1);
            if (!on_token(item)) {
                shoal_free(item);
            }
            break;
        case SHOAL_API_END:
            on_end(any->call);
            break;
        case SHOAL_API_TRANSFER:
            shoal_api_transfer_on_message(item);
            break;
        }
    }
    shoal_wake_send(api->wake);
}
