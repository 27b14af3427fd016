/* SPDX-License-Identifier: Apache-2.0
 *
 * One request, one answer, one connection. Connections are not kept: an answer takes far longer
 * than a local connect.
 */
#include "edge/client/client_internal.h"

static int put_head(const shoal_client *client, const shoal_client_exchange *exchange,
                    shoal_client_buf *head)
{
    const char *parts[] = {exchange->method,
                           " ",
                           client->parts.prefix,
                           exchange->path,
                           " HTTP/1.1\r\nHost: ",
                           client->parts.authority,
                           "\r\nConnection: close\r\nUser-Agent: libshoal\r\nAccept: ",
                           exchange->accept,
                           "\r\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, parts[i]));
    }
    if (client->api_key[0]) {
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "Authorization: Bearer "));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, client->api_key));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "\r\n"));
    }
    if (exchange->last_event_id) {
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "Last-Event-ID: "));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, exchange->last_event_id));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "\r\n"));
    }
    if (exchange->body) {
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "Content-Type: "));
        SHOAL_CLIENT_TRY(
            shoal_client_buf_text(head, exchange->type ? exchange->type : "application/json"));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "\r\nContent-Length: "));
        SHOAL_CLIENT_TRY(shoal_client_json_put_int(head, (int64_t)exchange->n_body));
        SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "\r\n"));
    }
    SHOAL_CLIENT_TRY(shoal_client_buf_text(head, "\r\n"));
    return exchange->body && !exchange->body_apart
               ? shoal_client_buf_append(head, exchange->body, exchange->n_body)
               : SHOAL_CLIENT_OK;
}

static int read_answer(const shoal_client_call *call, shoal_client_conn *conn,
                       shoal_client_http *http)
{
    char piece[16384 - 1024];
    while (http->state != SHOAL_CLIENT_HTTP_DONE) {
        size_t n = 0;
        SHOAL_CLIENT_TRY(shoal_client_conn_recv(call, conn, piece, sizeof piece, &n));
        if (n == 0) {
            return shoal_client_http_eof(http);
        }
        SHOAL_CLIENT_TRY(shoal_client_http_push(http, piece, n));
    }
    return SHOAL_CLIENT_OK;
}

int shoal_client_run(const shoal_client_call *call, const shoal_client_exchange *exchange,
                     shoal_client_http *http)
{
    shoal_client_buf message = {.limit = SHOAL_CLIENT_REQUEST_MAX + SHOAL_CLIENT_HEAD_MAX};
    int code = put_head(call->client, exchange, &message);
    if (code != SHOAL_CLIENT_OK) {
        shoal_client_buf_fini(&message);
        return shoal_client_fail(call->error, code, "no memory for the request");
    }
    shoal_client_conn conn = {.fd = -1};
    code = shoal_client_conn_open(call, &conn);
    if (code == SHOAL_CLIENT_OK) {
        code = shoal_client_conn_send(call, &conn, message.data, message.length);
    }
    shoal_client_buf_fini(&message);
    if (code == SHOAL_CLIENT_OK && exchange->body_apart) {
        code = shoal_client_conn_send(call, &conn, exchange->body, exchange->n_body);
    }
    if (code == SHOAL_CLIENT_OK) {
        code = read_answer(call, &conn, http);
    }
    shoal_client_conn_close(&conn);
    return code;
}
