/* SPDX-License-Identifier: Apache-2.0
 *
 * Kept sessions over HTTP: listed, saved as a blob, loaded from one, dropped. The engine thread
 * copies blocks out and in; the worker checks what was sent, and makes a blob piece by piece, as
 * its reader takes it: an archived block costs milliseconds, for which the loop would answer
 * nobody. So the memory of a transfer is one copy of a session, and few are open at once.
 */
#include "edge/http/api_internal.h"

#include "common/base/mem.h"
#include "protocol/http/json_out.h"

#include <string.h>

enum {
    PIECE_BYTES = 64 << 10, /* of a blob in one job of the worker */
    PREFIX_BYTES = sizeof "/v1/shoal/sessions/" - 1
};

/* --- life ------------------------------------------------------------------------------------- */

static void transfer_free(shoal_api_transfer *t)
{
    shoal_api_transfer **at = &t->api->transfers;
    while (*at != t) {
        at = &(*at)->next;
    }
    *at = t->next;
    t->api->n_transfers--;
    shoal_buf_fini(&t->body);
    shoal_session_copy_free(t->copy);
    shoal_session_writer_free(t->writer);
    shoal_free(t->piece);
    shoal_free(t->list);
    shoal_api_deck_unref(t->api, t->deck);
    shoal_free(t);
}

void shoal_api_transfers_free(shoal_api *api)
{
    while (api->transfers) {
        transfer_free(api->transfers);
    }
}

bool shoal_api_transfer_gone(shoal_api *api, const shoal_http_exchange *exchange)
{
    for (shoal_api_transfer *t = api->transfers; t; t = t->next) {
        if (t->exchange == exchange) {
            t->exchange = NULL;
            if (!t->under_way) {
                transfer_free(t);
            }
            return true;
        }
    }
    return false;
}

/* What went wrong with a session, in HTTP's words. */
static void explain(const shoal_err *err, shoal_http_error *error)
{
    static const struct {
        shoal_status code;
        int status;
        const char *name;
    } rows[] = {
        {SHOAL_E_NOTFOUND, 404, "session_not_found"},
        {SHOAL_E_MISMATCH, 409, "session_mismatch"},
        {SHOAL_E_LIMIT, 409, "session_too_long"},
        {SHOAL_E_INVALID, 400, "session_invalid"},
        {SHOAL_E_UNSUPPORTED, 400, "session_unsupported"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].code == err->code) {
            (void)shoal_http_error_set(error, rows[i].status, NULL, rows[i].name, "%s", err->text);
            return;
        }
    }
    shoal_http_error_from(error, err, NULL);
}

/* Ends a transfer that has not begun to answer. */
static void fail(shoal_api_transfer *t, const shoal_err *err)
{
    shoal_http_error error = {0};
    explain(err, &error);
    shoal_http_exchange *x = t->exchange;
    transfer_free(t);
    if (x) {
        shoal_http_fail(x, &error);
    }
}

/* --- engine thread and worker ----------------------------------------------------------------- */

static void push(shoal_api_transfer *t)
{
    shoal_status status = shoal_queue_push(t->api->inbox, t);
    SHOAL_ASSERT(status == SHOAL_OK); /* it has room for each transfer's message */
}

static void on_done(void *ctx, shoal_session_done *done)
{
    shoal_api_transfer *t = ctx;
    t->failure = *done->error;
    if (done->n_list > 0) {
        t->list = shoal_calloc(done->n_list, sizeof *t->list);
        if (t->list) {
            memcpy(t->list, done->list, done->n_list * sizeof *t->list);
            t->n_list = done->n_list;
        } else {
            (void)shoal_err_set(&t->failure, SHOAL_E_NOMEM, "no memory for a session's answer");
        }
    }
    t->copy = SHOAL_STEAL(done->copy);
    t->phase = SHOAL_API_DONE;
    push(t);
}

static void read_body(shoal_api_transfer *t)
{
    const uint8_t *bytes = (const uint8_t *)(t->body.data ? t->body.data : "");
    shoal_status status = shoal_session_read(shoal_coop_session_identity(t->deck->coop), bytes,
                                             t->body.length, &t->copy, &t->failure);
    SHOAL_ASSERT((status == SHOAL_OK) == (t->failure.code == SHOAL_OK));
    shoal_buf_fini(&t->body);
    t->phase = SHOAL_API_READ;
}

void shoal_api_transfer_work(shoal_api_transfer *t)
{
    if (t->phase == SHOAL_API_WRITES) {
        t->made = shoal_session_writer_read(t->writer, t->piece, PIECE_BYTES, &t->n_piece);
    } else {
        read_body(t);
    }
}

/* --- loop ------------------------------------------------------------------------------------- */

static shoal_status put_info(shoal_buf *buf, const shoal_session_info *info)
{
    return shoal_buf_appendf(buf, "{\"name\":\"%s\",\"tokens\":%zu,\"kv_bytes\":%zu}", info->name,
                             info->n_tokens, info->n_bytes);
}

static shoal_status put_answer(shoal_buf *buf, const shoal_api_transfer *t)
{
    if (t->act != SHOAL_SESSION_LIST) {
        return put_info(buf, &t->list[0]);
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"sessions\":["));
    for (size_t i = 0; i < t->n_list; i++) {
        SHOAL_TRY(shoal_buf_append(buf, ",", i > 0 ? 1 : 0));
        SHOAL_TRY(put_info(buf, &t->list[i]));
    }
    return shoal_buf_appendf(buf, "]}");
}

static void answer(shoal_api_transfer *t)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    if (put_answer(&body, t) != SHOAL_OK) {
        shoal_err err = SHOAL_ERR_INIT;
        (void)shoal_err_set(&err, SHOAL_E_NOMEM, "no memory for the answer");
        fail(t, &err);
        return;
    }
    shoal_http_exchange *x = t->exchange;
    transfer_free(t);
    shoal_http_respond(x, 200, "application/json", "Cache-Control: no-store\r\n", body.data,
                       body.length);
}

/* Has the worker make the next piece. When it has too much to do, what it does ends with a message,
 * and then it is asked again. */
static void order_piece(shoal_api_transfer *t)
{
    t->under_way = shoal_queue_push(t->api->jobs, t) == SHOAL_OK;
}

/* The piece that was made, with the head before the first one. */
static void write_piece(shoal_api_transfer *t)
{
    shoal_http_exchange *x = t->exchange;
    if (!shoal_http_begun(x)) {
        if (t->made != SHOAL_OK) {
            (void)shoal_err_set(&t->failure, t->made, "the session's blob cannot be made: %s",
                                shoal_status_text(t->made));
            fail(t, &t->failure);
            return;
        }
        if (shoal_http_stream_begin(x, 200, "application/octet-stream",
                                    "Cache-Control: no-store\r\n") != SHOAL_OK) {
            transfer_free(t);
            return;
        }
    }
    bool made = t->made == SHOAL_OK;
    if (made && t->n_piece > 0 && shoal_http_stream_write(x, t->piece, t->n_piece) != SHOAL_OK) {
        transfer_free(t); /* the exchange has ended with it */
        return;
    }
    if (made && t->n_piece == PIECE_BYTES) {
        if (shoal_http_stream_unsent(x) == 0) {
            order_piece(t);
        }
        return;
    }
    transfer_free(t);
    shoal_http_stream_end(x, made);
}

void shoal_api_transfers_turn(shoal_api *api)
{
    for (shoal_api_transfer *t = api->transfers; t; t = t->next) {
        if (!t->under_way && t->phase == SHOAL_API_WRITES && t->exchange &&
            (!shoal_http_begun(t->exchange) || shoal_http_stream_unsent(t->exchange) == 0)) {
            order_piece(t);
        }
    }
}

static void begin_writing(shoal_api_transfer *t)
{
    shoal_err err = SHOAL_ERR_INIT;
    t->piece = shoal_calloc(PIECE_BYTES, 1);
    if (!t->piece) {
        (void)shoal_err_set(&err, SHOAL_E_NOMEM, "no memory for a session's blob");
        fail(t, &err);
        return;
    }
    if (shoal_session_writer_new(shoal_coop_session_identity(t->deck->coop), t->copy, &t->writer,
                                 &err) != SHOAL_OK) {
        fail(t, &err);
        return;
    }
    t->copy = NULL; /* the writer's */
    t->phase = SHOAL_API_WRITES;
    order_piece(t);
}

/* Gives the transfer to coop. */
static void order(shoal_api_transfer *t)
{
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_session_order o = {
        .act = t->act, .name = t->name, .take_copy = t->copy, .on_done = on_done, .ctx = t};
    shoal_session_copy *copy = SHOAL_STEAL(t->copy); /* whose it is follows from the answer */
    t->under_way = true;
    if (shoal_coop_session(t->deck->coop, &o, &err) != SHOAL_OK) {
        t->under_way = false;
        t->copy = copy;
        fail(t, &err);
    }
}

void shoal_api_transfer_on_message(shoal_api_transfer *t)
{
    t->under_way = false;
    if (!t->exchange) {
        transfer_free(t);
    } else if (t->failure.code != SHOAL_OK) {
        fail(t, &t->failure);
    } else if (t->phase == SHOAL_API_READ) {
        order(t);
    } else if (t->phase == SHOAL_API_WRITES) {
        write_piece(t);
    } else if (t->act == SHOAL_SESSION_SAVE) {
        begin_writing(t);
    } else {
        answer(t);
    }
}

static shoal_api_transfer *begin(shoal_api *api, shoal_http_exchange *exchange,
                                 shoal_session_act act)
{
    shoal_http_error error = {0};
    shoal_api_transfer *t = NULL;
    if (api->draining) {
        (void)shoal_http_error_set(&error, 503, NULL, "shutting_down",
                                   "this edge is shutting down: ask another one");
    } else if (api->n_transfers >= SHOAL_API_TRANSFERS_MAX) {
        (void)shoal_http_error_set(&error, 429, NULL, "rate_limit_exceeded",
                                   "%d requests about sessions are open already: try again later",
                                   (int)SHOAL_API_TRANSFERS_MAX);
    } else if (!(t = shoal_calloc(1, sizeof *t))) {
        (void)shoal_http_error_set(&error, 503, NULL, "out_of_memory", "no memory for a request");
    }
    if (!t) {
        shoal_http_fail(exchange, &error);
        return NULL;
    }
    t->kind = SHOAL_API_TRANSFER;
    t->api = api;
    t->deck = shoal_api_deck_ref(api->deck);
    t->exchange = exchange;
    t->act = act;
    t->next = api->transfers;
    api->transfers = t;
    api->n_transfers++;
    return t;
}

void shoal_api_answer_sessions(shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_api_transfer *t = begin(api, exchange, SHOAL_SESSION_LIST);
    if (t) {
        order(t);
    }
}

void shoal_api_answer_session(shoal_api *api, shoal_http_exchange *exchange)
{
    const char *method = shoal_http_method(exchange);
    const char *name = shoal_http_path(exchange) + PREFIX_BYTES;
    bool put = strcmp(method, "PUT") == 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_api_transfer *t = begin(api, exchange,
                                  put                             ? SHOAL_SESSION_LOAD
                                  : strcmp(method, "DELETE") == 0 ? SHOAL_SESSION_DROP
                                                                  : SHOAL_SESSION_SAVE);
    if (!t) {
        return;
    }
    /* Before a large body is looked at. */
    if (shoal_coop_check_session(t->deck->coop, name, SHOAL_MODE_LOCAL, &err) != SHOAL_OK) {
        fail(t, &err);
        return;
    }
    memcpy(t->name, name, strlen(name));
    if (!put) {
        order(t);
        return;
    }
    t->body = shoal_http_take_body(exchange);
    t->under_way = true;
    if (shoal_queue_push(api->jobs, t) != SHOAL_OK) {
        t->under_way = false;
        (void)shoal_err_set(&err, SHOAL_BUSY,
                            "too many large requests wait already: try again later");
        fail(t, &err);
    }
}
