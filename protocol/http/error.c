/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/http/error.h"

#include "protocol/http/json_out.h"

#include <stdarg.h>
#include <stdio.h>

shoal_status shoal_http_error_set(shoal_http_error *error, int status, const char *param,
                                  const char *code, const char *format, ...)
{
    if (error->status != 0) {
        return SHOAL_E_INVALID;
    }
    error->status = status;
    error->code = code;
    error->retry_after_s = status == 429 || status == 503 ? 1 : 0;
    (void)snprintf(error->param, sizeof error->param, "%s", param ? param : "");
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return SHOAL_E_INVALID;
}

void shoal_http_error_from(shoal_http_error *error, const shoal_err *err, const char *param)
{
    static const struct {
        shoal_status code;
        int status;
        const char *name;
    } rows[] = {
        {SHOAL_BUSY, 429, "rate_limit_exceeded"},
        {SHOAL_E_INVALID, 400, "invalid_value"},
        {SHOAL_E_LIMIT, 400, "context_length_exceeded"},
        {SHOAL_E_UNSUPPORTED, 400, "unsupported_value"},
        {SHOAL_E_UNAVAILABLE, 503, "unavailable"},
        {SHOAL_E_NOMEM, 503, "out_of_memory"},
        {SHOAL_E_EXHAUSTED, 503, "unavailable"},
        {SHOAL_E_CANCELLED, 503, "cancelled"},
        {SHOAL_E_DEADLINE, 504, "deadline_exceeded"},
        {SHOAL_E_MISMATCH, 502, "model_mismatch"},
        {SHOAL_E_PROTOCOL, 502, "cloud_protocol"},
        {SHOAL_E_AUTH, 502, "cloud_refused"},
        {SHOAL_E_IO, 502, "cloud_io"},
    };
    int status = 500;
    const char *name = "internal_error";
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].code == err->code) {
            status = rows[i].status;
            name = rows[i].name;
            break;
        }
    }
    const char *text = err->text[0] ? err->text : shoal_status_text(err->code);
    (void)shoal_http_error_set(error, status, status == 400 ? param : NULL, name, "%s", text);
}

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 429:
        return "rate_limit_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

shoal_status shoal_http_error_put(const shoal_http_error *error, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"error\":{\"message\":"));
    SHOAL_TRY(shoal_json_put_text(buf, error->text));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"type\":\"%s\",\"param\":", type_of(error->status)));
    SHOAL_TRY(shoal_json_put_text(buf, error->param[0] ? error->param : NULL));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"code\":"));
    SHOAL_TRY(shoal_json_put_text(buf, error->code));
    return shoal_buf_appendf(buf, "}}");
}

const char *shoal_http_reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } rows[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].status == status) {
            return rows[i].text;
        }
    }
    return "";
}
