/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as what an edge sends to libshoal, and as its address. The first byte chooses: a whole
 * answer; its events alone; one event, and the same as every page that the library reads; an
 * address. No crash; an error has a code and words that move no terminal's cursor; what is told is
 * the same whatever the sizes of the pieces, one byte each among them; what JSON says comes back
 * when it is written anew.
 */
#include "common/base/macros.h"
#include "edge/client/client_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FORMS = 4,
    PIECE_MAX = 60
};

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const shoal_client_error *error, int code)
{
    SHOAL_ASSERT(error->code == code && (code == SHOAL_CLIENT_OK) == (error->text[0] == '\0'));
    for (const char *c = error->text; *c; c++) {
        SHOAL_ASSERT((unsigned char)*c >= 0x20 && *c != 0x7F);
    }
}

/* Bytes in memory of exactly their size and a NUL; the caller frees them. */
static char *copy_of(const char *bytes, size_t n)
{
    char *copy = malloc(n + 1);
    SHOAL_ASSERT(copy);
    memcpy(copy, bytes, n);
    copy[n] = '\0';
    return copy;
}

/* --- answers --------------------------------------------------------------------------------- */

/* What a caller of the library sees of one answer. */
typedef struct told {
    int code;
    shoal_client_error error;
    shoal_client_result result;
    uint64_t events; /* a hash over texts and tokens */
} told;

static void add(told *t, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        t->events = (t->events ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3u;
    }
}

static int on_event(void *ctx, const shoal_client_event *event)
{
    told *t = ctx;
    SHOAL_ASSERT(event->n_text > 0 || event->n_tokens > 0);
    SHOAL_ASSERT(shoal_client_utf8_ok(event->text, event->n_text));
    SHOAL_ASSERT(event->text[event->n_text] == '\0');
    add(t, event->text, event->n_text);
    for (size_t i = 0; i < event->n_tokens; i++) {
        const shoal_client_token *token = &event->tokens[i];
        SHOAL_ASSERT(token->id >= -1 && token->text[token->n_text] == '\0');
        add(t, token->text, token->n_text);
        add(t, &token->id, sizeof token->id);
        add(t, &token->tier, sizeof token->tier);
        add(t, &token->confidence, sizeof token->confidence);
        add(t, &token->round, sizeof token->round);
        add(t, &token->ms, sizeof token->ms);
    }
    return 0;
}

/* The edge sends some bytes in pieces, and closes. */
static int receive(shoal_client_http *http, const char *bytes, size_t n, size_t n_piece)
{
    for (size_t at = 0; http->state != SHOAL_CLIENT_HTTP_DONE; at += n_piece) {
        if (at >= n) {
            return shoal_client_http_eof(http);
        }
        SHOAL_CLIENT_TRY(shoal_client_http_push(http, bytes + at, SHOAL_MIN(n_piece, n - at)));
    }
    return SHOAL_CLIENT_OK;
}

static void answer(const char *bytes, size_t n, size_t n_piece, told *ret)
{
    static shoal_client_stream stream;
    memset(ret, 0, sizeof *ret);
    shoal_client_stream_init(&stream, on_event, ret, &ret->error);
    int code = receive(&stream.http, bytes, n, n_piece);
    ret->code = shoal_client_stream_finish(&stream, code);
    ret->result = stream.result;
    check_error(&ret->error, ret->code);
    SHOAL_ASSERT(ret->code != SHOAL_CLIENT_OK || stream.done);
    SHOAL_ASSERT(ret->error.http_status == 0 ||
                 (ret->error.http_status >= 100 && ret->error.http_status <= 599));
    shoal_client_stream_fini(&stream);
}

static void check_told(const told *a, const told *b)
{
    SHOAL_ASSERT(a->code == b->code && a->events == b->events);
    SHOAL_ASSERT(strcmp(a->error.text, b->error.text) == 0);
    SHOAL_ASSERT(a->error.http_status == b->error.http_status &&
                 a->error.retry_after_s == b->error.retry_after_s);
    SHOAL_ASSERT(memcmp(&a->result, &b->result, sizeof a->result) == 0);
}

static void fuzz_answer(const char *bytes, size_t n, size_t n_piece)
{
    static told whole;
    static told cut;
    const size_t sizes[] = {1, n_piece};
    answer(bytes, n, SHOAL_MAX(n, (size_t)1), &whole);
    for (size_t i = 0; i < SHOAL_COUNT(sizes); i++) {
        answer(bytes, n, sizes[i], &cut);
        check_told(&cut, &whole);
    }
}

/* Between a head and an end of ours. */
static void fuzz_body(const char *begin, const char *bytes, size_t n, const char *end,
                      size_t n_piece)
{
    size_t n_begin = strlen(begin);
    char *text = malloc(sizeof head + n_begin + n + strlen(end));
    SHOAL_ASSERT(text);
    memcpy(text, head, sizeof head - 1);
    char *at = text + sizeof head - 1;
    memcpy(at, begin, n_begin);
    memcpy(at + n_begin, bytes, n);
    memcpy(at + n_begin + n, end, strlen(end));
    fuzz_answer(text, sizeof head - 1 + n_begin + n + strlen(end), n_piece);
    free(text);
}

/* --- JSON ------------------------------------------------------------------------------------- */

typedef const shoal_client_json_node node;

static int put_number(shoal_client_buf *buf, node *at)
{
    bool whole = fabs(at->number) < 1e15 && at->number == floor(at->number);
    return whole ? shoal_client_json_put_int(buf, (int64_t)at->number)
                 : shoal_client_json_put_double(buf, at->number);
}

/* The node and all below it, which must lie before end; returns the one behind it. */
static node *write_node(const shoal_client_json *json, node *at, node *end, shoal_client_buf *buf)
{
    static const char *const words[] = {"null", "false", "true"};
    node *next = shoal_client_json_next(json, at);
    SHOAL_ASSERT(next > at && next <= end);
    if (at->kind <= SHOAL_CLIENT_JSON_TRUE) {
        SHOAL_ASSERT(shoal_client_buf_text(buf, words[at->kind]) == SHOAL_CLIENT_OK);
    } else if (at->kind == SHOAL_CLIENT_JSON_NUMBER) {
        SHOAL_ASSERT(put_number(buf, at) == SHOAL_CLIENT_OK);
    } else if (at->kind == SHOAL_CLIENT_JSON_STRING) {
        SHOAL_ASSERT(at->text[at->length] == '\0');
        SHOAL_ASSERT(shoal_client_json_put_string(buf, at->text, at->length) == SHOAL_CLIENT_OK);
    } else {
        bool object = at->kind == SHOAL_CLIENT_JSON_OBJECT;
        size_t n = 0;
        (void)shoal_client_buf_text(buf, object ? "{" : "[");
        for (node *child = at + 1; child < next; n++) {
            const char *comma = object && n % 2 == 1 ? ":" : ",";
            SHOAL_ASSERT(!object || n % 2 == 1 || child->kind == SHOAL_CLIENT_JSON_STRING);
            (void)shoal_client_buf_text(buf, n > 0 ? comma : "");
            child = write_node(json, child, next, buf);
        }
        SHOAL_ASSERT(!object || n % 2 == 0);
        (void)shoal_client_buf_text(buf, object ? "}" : "]");
    }
    return next;
}

/* Numbers are written with nine digits, and what is no number of JSON as null. */
static void check_same(node *a, node *b)
{
    if (a->kind == SHOAL_CLIENT_JSON_NUMBER && isinf(a->number)) {
        SHOAL_ASSERT(b->kind == SHOAL_CLIENT_JSON_NULL);
        return;
    }
    SHOAL_ASSERT(a->kind == b->kind && a->next == b->next && a->length == b->length);
    SHOAL_ASSERT(memcmp(a->text, b->text, a->length) == 0);
    SHOAL_ASSERT(fabs(a->number - b->number) <= 1e-8 * fabs(a->number) + 1e-300);
}

static void fuzz_json(const char *bytes, size_t n)
{
    char *text = copy_of(bytes, n);
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, n);
    SHOAL_ASSERT(code == SHOAL_CLIENT_OK || code == SHOAL_CLIENT_E_PROTOCOL ||
                 code == SHOAL_CLIENT_E_LIMIT);
    if (code == SHOAL_CLIENT_OK) {
        shoal_client_json again = {.nodes = NULL};
        shoal_client_buf buf = {.limit = 8 * n + 64};
        node *end = json.nodes + json.n_nodes;
        SHOAL_ASSERT(write_node(&json, json.nodes, end, &buf) == end);
        SHOAL_ASSERT(shoal_client_json_parse(&again, buf.data, buf.length) == SHOAL_CLIENT_OK);
        SHOAL_ASSERT(again.n_nodes == json.n_nodes);
        for (size_t i = 0; i < json.n_nodes; i++) {
            check_same(&json.nodes[i], &again.nodes[i]);
        }
        shoal_client_json_fini(&again);
        shoal_client_buf_fini(&buf);
    }
    shoal_client_json_fini(&json);
    free(text);
}

static int on_session(void *ctx, const shoal_client_session *session)
{
    (void)ctx;
    SHOAL_ASSERT(shoal_client_utf8_ok(session->name, strlen(session->name)));
    return 0;
}

/* Everything that is a page: what can be read is within its arrays, and names are UTF-8. */
static void fuzz_pages(const char *bytes, size_t n)
{
    for (size_t page = 0; page < 4; page++) {
        shoal_client_error error = {.retry_after_s = -1};
        shoal_client_stats stats;
        shoal_client_info info;
        char *text = copy_of(bytes, n);
        int code = SHOAL_CLIENT_OK;
        shoal_client_stats_init(&stats, sizeof stats);
        shoal_client_info_init(&info, sizeof info);
        if (page == 0) {
            code = shoal_client_stats_read(text, n, &stats, &error);
        } else if (page == 1) {
            code = shoal_client_sessions_read(text, n, on_session, NULL, &error);
        } else if (page == 2) {
            code = shoal_client_models_read(text, n, &info, &error);
        } else {
            code = shoal_client_why_read(text, n, &info, &error);
        }
        check_error(&error, code);
        SHOAL_ASSERT(page < 2 || code == SHOAL_CLIENT_OK);
        SHOAL_ASSERT(stats.n_budgets <= SHOAL_CLIENT_BUDGETS_MAX);
        SHOAL_ASSERT(info.n_models <= SHOAL_CLIENT_MODELS_MAX);
        SHOAL_ASSERT(shoal_client_utf8_ok(info.why, strlen(info.why)));
        SHOAL_ASSERT(shoal_client_utf8_ok(stats.model, strlen(stats.model)));
        for (size_t i = 0; i < info.n_models; i++) {
            SHOAL_ASSERT(shoal_client_utf8_ok(info.models[i], strlen(info.models[i])));
        }
        free(text);
    }
}

/* --- addresses -------------------------------------------------------------------------------- */

/* What is taken goes into a request's head, and its parts make an address of the same parts. */
static void check_parts(const shoal_client_url_parts *parts)
{
    shoal_client_url_parts again;
    char url[SHOAL_CLIENT_URL_MAX];
    const char *scheme = parts->is_tls ? "https://" : "http://";
    for (const char *c = parts->authority; *c; c++) {
        SHOAL_ASSERT(*c > 0x20 && *c < 0x7F);
    }
    for (const char *c = parts->prefix; *c; c++) {
        SHOAL_ASSERT(*c > 0x20 && *c < 0x7F);
    }
    if (parts->is_unix) {
        (void)snprintf(url, sizeof url, "unix:%s", parts->path);
    } else {
        SHOAL_ASSERT(parts->host[0] != '\0' && parts->port[0] != '\0');
        (void)snprintf(url, sizeof url, "%s%s%s", scheme, parts->authority, parts->prefix);
    }
    SHOAL_ASSERT(shoal_client_url_parse(url, &again, NULL) == SHOAL_CLIENT_OK);
    SHOAL_ASSERT(memcmp(&again, parts, sizeof again) == 0);
}

static void fuzz_url(const char *bytes, size_t n)
{
    char *text = copy_of(bytes, n);
    shoal_client_error error = {.retry_after_s = -1};
    shoal_client_url_parts parts;
    int code = shoal_client_url_parse(text, &parts, &error);
    SHOAL_ASSERT(code == SHOAL_CLIENT_OK || code == SHOAL_CLIENT_E_INVALID);
    check_error(&error, code);
    if (code == SHOAL_CLIENT_OK) {
        check_parts(&parts);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    const char *bytes = (const char *)data + 1;
    size_t n = size - 1;
    size_t n_piece = 2 + data[0] / FORMS % PIECE_MAX;
    switch (data[0] % FORMS) {
    case 0:
        fuzz_answer(bytes, n, n_piece);
        break;
    case 1:
        fuzz_body("", bytes, n, "", n_piece);
        break;
    case 2:
        fuzz_body("data: ", bytes, n, "\n\ndata: [DONE]\n\n", n_piece);
        fuzz_json(bytes, n);
        fuzz_pages(bytes, n);
        break;
    default:
        fuzz_url(bytes, n);
    }
    return 0;
}
