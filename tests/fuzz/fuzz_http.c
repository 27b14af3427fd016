/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a request: the strict scan must not care how they were cut, what it lets through
 * must be parsed or refused with words, and an accepted request has a path and at most the body
 * that was allowed.
 */
#include "protocol/http/http_internal.h"

#include "common/base/mem.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static shoal_http_head_result scan(const shoal_http_head_limits *limits, const char *data, size_t n,
                                   size_t step, size_t *ret_used)
{
    shoal_http_head head = {0};
    shoal_http_head_result result = SHOAL_HTTP_HEAD_MORE;
    *ret_used = 0;
    while (result == SHOAL_HTTP_HEAD_MORE && *ret_used < n) {
        size_t used = 0;
        int status = 0;
        const char *text = NULL;
        result = shoal_http_head_push(&head, limits, data + *ret_used,
                                      SHOAL_MIN(step, n - *ret_used), &used, &status, &text);
        *ret_used += used;
        SHOAL_ASSERT(result != SHOAL_HTTP_HEAD_REFUSED || (status >= 400 && text));
    }
    return result;
}

static void check(const shoal_http_conn *conn)
{
    if (conn->refusal.status != 0) {
        SHOAL_ASSERT(conn->refusal.status >= 400 && conn->refusal.text[0] != '\0');
        return;
    }
    SHOAL_ASSERT(conn->x.path && conn->x.path[0] == '/' && conn->x.method);
    SHOAL_ASSERT(conn->x.request_id[0] != '\0');
    SHOAL_ASSERT(conn->body.length <= conn->server->s.body_bytes_max);
    for (size_t i = 0; i < conn->n_fields; i++) {
        SHOAL_ASSERT(shoal_http_header(&conn->x, conn->fields[i].name) != NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static shoal_http_server server;
    server.s = shoal_http_settings_default();
    server.s.body_bytes_max = 256;
    server.head_limits = (shoal_http_head_limits){
        .bytes_max = 1024, .url_max = 128, .headers_max = server.s.n_headers_max};
    memcpy(server.names, "localhost", 10);
    const char *text = (const char *)data;
    size_t used = 0;
    size_t used_bytewise = 0;
    shoal_http_head_result whole = scan(&server.head_limits, text, size, SIZE_MAX, &used);
    shoal_http_head_result bytewise = scan(&server.head_limits, text, size, 1, &used_bytewise);
    SHOAL_ASSERT(whole == bytewise && used == used_bytewise);
    if (whole != SHOAL_HTTP_HEAD_DONE) {
        return 0;
    }
    shoal_http_conn conn = {.server = &server};
    conn.fields = shoal_calloc(server.s.n_headers_max, sizeof *conn.fields);
    SHOAL_ASSERT(conn.fields && shoal_buf_append(&conn.head, text, used) == SHOAL_OK);
    shoal_http_request_head(&conn);
    check(&conn);
    while (conn.refusal.status == 0 && !conn.message_whole && used < size) {
        size_t n = SHOAL_MIN(size - used, (size_t)(1 + used % 7));
        size_t taken = shoal_http_request_body(&conn, text + used, n);
        SHOAL_ASSERT(taken <= n && (taken == n || conn.message_whole || conn.refusal.status != 0));
        used += taken;
    }
    check(&conn);
    shoal_http_conn_release(&conn);
    SHOAL_ASSERT(server.body_bytes == 0);
    return 0;
}
