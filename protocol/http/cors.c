/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of other origins (the Fetch standard's CORS): which may call, what their browsers ask
 * before, and the lines without which they may not read an answer. No cookies are used here, so
 * nothing is said of credentials.
 */
#include "protocol/http/http_internal.h"

#include <string.h>
#include <strings.h>

enum {
    HEADERS_MAX = 1024,   /* bytes of the list of headers a page wants to send */
    ORIGINS_BYTES = 2048, /* of the whole list */
    ORIGIN_BYTES = 255    /* of one */
};

/* The next entry of a comma-separated list without the blanks around it; NULL: there is none. */
static const char *next_origin(const char **inout_rest, size_t *ret_n)
{
    const char *at = *inout_rest;
    at += strspn(at, ", \t");
    size_t n = strcspn(at, ",");
    *inout_rest = at + n;
    while (n > 0 && (at[n - 1] == ' ' || at[n - 1] == '\t')) {
        n--;
    }
    *ret_n = n;
    return n > 0 ? at : NULL;
}

static bool well_formed(const char *origin, size_t n)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  ".-_:[]+";
    const char *authority = memmem(origin, n, "://", 3);
    size_t n_scheme = authority ? (size_t)(authority - origin) : 0;
    if (n_scheme == 0 || n_scheme + 3 >= n || n > ORIGIN_BYTES) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        bool mark = i >= n_scheme && i < n_scheme + 3;
        if (!mark && !strchr(letters, origin[i])) {
            return false;
        }
    }
    return true;
}

shoal_status shoal_http_origins_check(const char *origins, shoal_err *err)
{
    const char *rest = origins ? origins : "";
    const char *one = NULL;
    size_t n = 0;
    if (strcmp(rest, "*") == 0) {
        return SHOAL_OK;
    }
    if (strlen(rest) > ORIGINS_BYTES) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "api.cors_origins: the list has more than %d bytes", ORIGINS_BYTES);
    }
    while ((one = next_origin(&rest, &n))) {
        if (!well_formed(one, n)) {
            return shoal_err_set(
                err, SHOAL_E_INVALID,
                "api.cors_origins: \"%.*s\" is no origin: write it as browsers do, "
                "https://app.example or http://localhost:3000, without a path",
                (int)(n < 64 ? n : 64), one);
        }
    }
    return SHOAL_OK;
}

bool shoal_http_origin_ok(const shoal_http_server *server, const char *origin)
{
    const char *rest = server->s.origins ? server->s.origins : "";
    const char *one = NULL;
    size_t n = 0;
    if (strcmp(rest, "*") == 0) {
        return true;
    }
    while ((one = next_origin(&rest, &n))) {
        if (strlen(origin) == n && strncasecmp(one, origin, n) == 0) {
            return true;
        }
    }
    return false;
}

shoal_status shoal_http_put_origin(shoal_buf *buf, const shoal_http_exchange *x)
{
    if (!x->origin) {
        return SHOAL_OK;
    }
    return shoal_buf_appendf(buf,
                             "Access-Control-Allow-Origin: %s\r\nVary: Origin\r\n"
                             "Access-Control-Expose-Headers: X-Request-Id, Retry-After\r\n",
                             x->origin);
}

/* Names of headers as a browser lists them. */
static bool names_ok(const char *text)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ";
    size_t n = strlen(text);
    return n >= 1 && n <= HEADERS_MAX && strspn(text, letters) == n;
}

bool shoal_http_preflight(shoal_http_conn *conn)
{
    shoal_http_exchange *x = &conn->x;
    if (strcmp(x->method, "OPTIONS") != 0 ||
        !shoal_http_header(x, "access-control-request-method")) {
        return false;
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf lines = {0};
    const char *wanted = shoal_http_header(x, "access-control-request-headers");
    const char *private_network = shoal_http_header(x, "access-control-request-private-network");
    bool put = shoal_buf_appendf(&lines, "Access-Control-Allow-Methods: GET, POST, PUT, DELETE\r\n"
                                         "Access-Control-Max-Age: 600\r\n") == SHOAL_OK;
    if (wanted && names_ok(wanted)) {
        put = put &&
              shoal_buf_appendf(&lines, "Access-Control-Allow-Headers: %s\r\n", wanted) == SHOAL_OK;
    }
    if (private_network && strcmp(private_network, "true") == 0) {
        put = put && shoal_buf_appendf(&lines, "Access-Control-Allow-Private-Network: true\r\n") ==
                         SHOAL_OK;
    }
    conn->phase = SHOAL_HTTP_HANDLING;
    (void)uv_timer_stop(&conn->phase_timer);
    if (put) {
        shoal_http_respond(x, 200, "text/plain", lines.data, "", 0);
    } else {
        shoal_http_conn_close(conn, false);
    }
    return true;
}
