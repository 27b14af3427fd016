/* SPDX-License-Identifier: Apache-2.0
 *
 * Listeners, the books, and draining.
 */
#include "protocol/http/http_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/obs/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 511,
    SPARE_FILES = 64, /* descriptors for everything that is no connection */
    WARN_EVERY_MS = 60000,
    RETRY_MS = 50
};

#define TLS_CERT "api.tls_cert"
#define TLS_KEY  "api.tls_key"

shoal_http_settings shoal_http_settings_default(void)
{
    return (shoal_http_settings){
        .address = "127.0.0.1:8088",
        .address_key = "listen.address",
        .hosts_key = "listen.hosts",
        .n_connections_max = 1024,
        .header_bytes_max = 16 << 10,
        .n_headers_max = 100,
        .url_bytes_max = 8 << 10,
        .body_bytes_max = 4 << 20,
        .body_bytes_total_max = 64 << 20,
        .write_bytes_max = 1 << 20,
        .header_ms = 10000,
        .body_ms = 30000,
        .idle_ms = 60000,
        .stall_ms = 30000,
        .linger_ms = 1000,
    };
}

/* --- books ------------------------------------------------------------------------------------ */

static const struct {
    int status;
    const char *label;
} codes[SHOAL_HTTP_CODES] = {
    {200, "code=\"200\""}, {400, "code=\"400\""}, {401, "code=\"401\""}, {403, "code=\"403\""},
    {404, "code=\"404\""}, {405, "code=\"405\""}, {408, "code=\"408\""}, {413, "code=\"413\""},
    {414, "code=\"414\""}, {415, "code=\"415\""}, {417, "code=\"417\""}, {429, "code=\"429\""},
    {431, "code=\"431\""}, {499, "code=\"499\""}, {500, "code=\"500\""}, {501, "code=\"501\""},
    {502, "code=\"502\""}, {503, "code=\"503\""}, {504, "code=\"504\""}, {505, "code=\"505\""},
};

static shoal_status make_metrics(shoal_http_server *server, shoal_metrics *registry)
{
    shoal_http_metrics *m = &server->metrics;
    const struct {
        shoal_metric **slot;
        shoal_metric_def def;
    } rows[] = {
        {&m->connections,
         {"shoal_http_connections", "Open connections.", "", SHOAL_METRIC_GAUGE, NULL, 0}},
        {&m->accepted,
         {"shoal_http_connections_total", "Connections accepted.", "", SHOAL_METRIC_COUNTER, NULL,
          0}},
        {&m->refused,
         {"shoal_http_connections_refused_total",
          "Connections refused because all places were taken.", "", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&m->body_bytes,
         {"shoal_http_request_body_bytes_total", "Bytes of request bodies.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&m->gone,
         {"shoal_http_clients_gone_total", "Clients that left before the end of their answer.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&m->stalled,
         {"shoal_http_readers_stalled_total", "Connections cut because the client did not read.",
          "", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&m->tls_broken,
         {"shoal_http_tls_broken_total",
          "Connections ended because what came was no TLS, or TLS that was not accepted.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
    };
    if (!registry) {
        return SHOAL_OK;
    }
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_TRY(shoal_metrics_add(registry, &rows[i].def, rows[i].slot));
    }
    for (size_t i = 0; i < SHOAL_COUNT(codes); i++) {
        shoal_metric_def def = {"shoal_requests_total",
                                "HTTP requests by status; 499: the client left before the answer.",
                                codes[i].label,
                                SHOAL_METRIC_COUNTER,
                                NULL,
                                0};
        SHOAL_TRY(shoal_metrics_add(registry, &def, &m->requests[i]));
    }
    return SHOAL_OK;
}

/* One line per request, without its text; probes are for debugging only. */
void shoal_http_server_count(shoal_http_server *server, const shoal_http_exchange *exchange)
{
    for (size_t i = 0; i < SHOAL_COUNT(codes); i++) {
        if (codes[i].status == exchange->status) {
            shoal_metric_add(server->metrics.requests[i], 1);
        }
    }
    bool probe = strncmp(exchange->path, "/v1/", 4) != 0 && exchange->status < 400;
    char path[128];
    shoal_clock clock = shoal_clock_real();
    uint64_t ms = exchange->started_ns > 0
                      ? (shoal_clock_now_ns(&clock) - exchange->started_ns) / 1000000u
                      : 0;
    shoal_log(probe ? SHOAL_LOG_DEBUG : SHOAL_LOG_INFO,
              "request method=%s path=%s status=%d bytes=%zu ms=%llu request=%s", exchange->method,
              shoal_log_escape(exchange->path, path, sizeof path), exchange->status,
              exchange->n_sent, (unsigned long long)ms, exchange->request_id);
}

/* --- draining --------------------------------------------------------------------------------- */

void shoal_http_server_check_drained(shoal_http_server *server)
{
    if (!server->draining || !server->handler.on_drained) {
        return;
    }
    for (const shoal_http_conn *c = server->first; c; c = c->next) {
        if (c->phase == SHOAL_HTTP_HANDLING || c->phase == SHOAL_HTTP_BODY ||
            shoal_http_conn_unsent(c) > 0) {
            return;
        }
    }
    server->handler.on_drained(server->handler.ctx);
}

void shoal_http_server_drain(shoal_http_server *server)
{
    server->draining = true;
    shoal_http_conn *next = NULL;
    for (shoal_http_conn *c = server->first; c; c = next) {
        next = c->next;
        if (c->phase == SHOAL_HTTP_IDLE && shoal_http_conn_unsent(c) == 0) {
            shoal_http_conn_close(c, false);
        }
    }
    shoal_http_server_check_drained(server);
}

/* --- listening -------------------------------------------------------------------------------- */

static void warn(shoal_http_server *server, const char *why)
{
    uint64_t now = uv_now(&server->loop->uv);
    shoal_metric_add(server->metrics.refused, 1);
    if (server->warned_ms == 0 || now - server->warned_ms >= WARN_EVERY_MS) {
        server->warned_ms = now;
        shoal_log(SHOAL_LOG_WARN, "cannot accept connections: %s", why);
    }
}

static void on_retry(uv_timer_t *timer)
{
    shoal_http_server *server = timer->data;
    bool tcp = server->retry_tcp;
    bool local = server->retry_pipe;
    server->retry_tcp = false;
    server->retry_pipe = false;
    if (tcp) {
        shoal_http_conn_open(server, (uv_stream_t *)&server->tcp, false);
    }
    if (local) {
        shoal_http_conn_open(server, (uv_stream_t *)&server->pipe, true);
    }
}

void shoal_http_server_retry(shoal_http_server *server, bool local)
{
    server->retry_pipe = server->retry_pipe || local;
    server->retry_tcp = server->retry_tcp || !local;
    warn(server, "out of memory");
    int rc = uv_timer_start(&server->retry, on_retry, RETRY_MS, 0);
    SHOAL_ASSERT(rc == 0);
}

static void on_connection(uv_stream_t *listener, int status)
{
    shoal_http_server *server = listener->data;
    if (status == 0) {
        shoal_http_conn_open(server, listener, (void *)listener == (void *)&server->pipe);
        return;
    }
    /* Out of descriptors: uv has answered by closing what waited, so this does not spin. */
    warn(server, uv_strerror(status));
}

/* Splits "host:port" and "[host]:port"; false when it is neither. */
static bool split_address(const char *text, char host[64], int *ret_port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon[1] == '\0' || strlen(colon + 1) > 5 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1)) {
        return false;
    }
    const char *begin = text;
    const char *end = colon;
    if (text[0] == '[') {
        if (end == text || end[-1] != ']') {
            return false;
        }
        begin++;
        end--;
    }
    size_t n = (size_t)(end - begin);
    long port = strtol(colon + 1, NULL, 10);
    if (n == 0 || n >= 64 || port > 65535) {
        return false;
    }
    memcpy(host, begin, n);
    host[n] = '\0';
    *ret_port = (int)port;
    return true;
}

static shoal_status add_name(shoal_http_server *server, const char *name, shoal_err *err)
{
    size_t n = strlen(server->names);
    int m = snprintf(server->names + n, sizeof server->names - n, "%s%s", n > 0 ? "," : "", name);
    if (m < 0 || (size_t)m >= sizeof server->names - n) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: the names take more than %d bytes",
                             server->s.hosts_key, SHOAL_HTTP_NAMES_MAX);
    }
    return SHOAL_OK;
}

static shoal_status read_port(shoal_http_server *server, const char *host, bool six, shoal_err *err)
{
    struct sockaddr_storage bound;
    memset(&bound, 0, sizeof bound);
    int length = sizeof bound;
    int rc = uv_tcp_getsockname(&server->tcp, (struct sockaddr *)&bound, &length);
    if (rc != 0) {
        return shoal_err_set(err, SHOAL_E_IO, "cannot read the port: %s", uv_strerror(rc));
    }
    uint16_t port = 0;
    /* The port lies at the same place in both families (POSIX sockaddr_in, RFC 3493). */
    memcpy(&port, (const char *)&bound + 2, sizeof port);
    server->port = (int)ntohs(port);
    (void)snprintf(server->address, sizeof server->address, six ? "[%s]:%d" : "%s:%d", host,
                   server->port);
    return SHOAL_OK;
}

static shoal_status listen_tcp(shoal_http_server *server, shoal_err *err)
{
    const char *text = server->s.address;
    const char *key = server->s.address_key;
    char host[64];
    int port = 0;
    if (!text || text[0] == '\0') {
        return SHOAL_OK;
    }
    if (!split_address(text, host, &port)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: \"%s\" is not of the form 127.0.0.1:8088 or [::1]:8088", key,
                             text);
    }
    if (strcmp(host, "localhost") == 0) {
        (void)snprintf(host, sizeof host, "127.0.0.1");
    }
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    bool six = strchr(host, ':') != NULL;
    if ((six ? uv_ip6_addr(host, port, &v6) : uv_ip4_addr(host, port, &v4)) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: \"%s\" is no address of a network interface; a name is not "
                             "resolved here",
                             key, host);
    }
    server->any_address = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
    SHOAL_TRY(add_name(server, host, err));
    int rc = uv_tcp_init(&server->loop->uv, &server->tcp);
    SHOAL_ASSERT(rc == 0);
    server->tcp.data = server;
    server->tcp_open = true;
    server->n_handles++;
    rc = six ? uv_tcp_bind(&server->tcp, (const struct sockaddr *)&v6, 0)
             : uv_tcp_bind(&server->tcp, (const struct sockaddr *)&v4, 0);
    if (rc == 0) {
        rc = uv_listen((uv_stream_t *)&server->tcp, BACKLOG, on_connection);
    }
    if (rc != 0) {
        return shoal_err_set(
            err, SHOAL_E_IO, "%s: cannot listen on %s: %s%s", key, text, uv_strerror(rc),
            rc == UV_EADDRINUSE ? ". Another program has it; port 0 picks a free one" : "");
    }
    return read_port(server, host, six, err);
}

/* --- TLS -------------------------------------------------------------------------------------- */

static shoal_status read_keys(const char *cert, const char *key, shoal_http_tls_keys **ret_keys,
                              shoal_err *err)
{
    bool has_cert = cert && cert[0];
    bool has_key = key && key[0];
    *ret_keys = NULL;
    if (!has_cert && !has_key) {
        return SHOAL_OK;
    }
    if (!has_cert || !has_key) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s is set and %s is not: TLS needs the certificate and its key",
                             has_cert ? TLS_CERT : TLS_KEY, has_cert ? TLS_KEY : TLS_CERT);
    }
    return shoal_http_tls_keys_new(cert, key, TLS_CERT, TLS_KEY, ret_keys, err);
}

shoal_status shoal_http_tls_check(const char *cert, const char *key, shoal_err *err)
{
    shoal_http_tls_keys *keys = NULL;
    SHOAL_TRY(read_keys(cert, key, &keys, err));
    shoal_http_tls_keys_free(keys);
    return SHOAL_OK;
}

shoal_status shoal_http_server_set_tls(shoal_http_server *server, const char *cert, const char *key,
                                       shoal_err *err)
{
    shoal_http_tls_keys *keys = NULL;
    SHOAL_TRY(read_keys(cert, key, &keys, err));
    if ((keys != NULL) != (server->tls_keys != NULL)) {
        shoal_http_tls_keys_free(keys);
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: TLS is turned on or off by a restart, not by a reload", TLS_CERT);
    }
    shoal_http_tls_keys_free(server->tls_keys);
    server->tls_keys = keys;
    return SHOAL_OK;
}

int64_t shoal_http_server_tls_end_s(const shoal_http_server *server)
{
    return server->tls_keys ? shoal_http_tls_keys_end_s(server->tls_keys) : 0;
}

/* --- the Unix socket -------------------------------------------------------------------------- */

/* A socket file that nobody listens on is what a killed process left behind. */
static shoal_status clear_socket(const char *path, shoal_err *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return SHOAL_OK;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "listen.unix: %s exists and is no socket", path);
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return shoal_err_set(err, SHOAL_E_IO, "listen.unix: no socket: %s", strerror(errno));
    }
    bool alive = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    (void)close(fd);
    if (alive) {
        return shoal_err_set(err, SHOAL_E_IO, "listen.unix: another process listens on %s", path);
    }
    return unlink(path) == 0 ? SHOAL_OK
                             : shoal_err_set(err, SHOAL_E_IO, "listen.unix: cannot remove %s: %s",
                                             path, strerror(errno));
}

static shoal_status listen_unix(shoal_http_server *server, shoal_err *err)
{
    const char *path = server->s.unix_path;
    if (!path || path[0] == '\0') {
        return SHOAL_OK;
    }
    size_t max = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (strlen(path) > max) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "listen.unix: the path has %zu bytes, at most %zu",
                             strlen(path), max);
    }
    SHOAL_TRY(clear_socket(path, err));
    int rc = uv_pipe_init(&server->loop->uv, &server->pipe, 0);
    SHOAL_ASSERT(rc == 0);
    server->pipe.data = server;
    server->pipe_open = true;
    server->n_handles++;
    mode_t before = umask(0117); /* owner and group, from the first moment on */
    rc = uv_pipe_bind(&server->pipe, path);
    (void)umask(before);
    if (rc == 0) {
        rc = uv_listen((uv_stream_t *)&server->pipe, BACKLOG, on_connection);
    }
    if (rc != 0) {
        return shoal_err_set(err, SHOAL_E_IO, "listen.unix: cannot listen on %s: %s", path,
                             uv_strerror(rc));
    }
    return SHOAL_OK;
}

/* Connections must never eat the last descriptor: models, logs and the cloud need some too. */
static void fit_files(shoal_http_server *server)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    rlim_t wanted = (rlim_t)server->s.n_connections_max + 2 * (rlim_t)SPARE_FILES;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = SHOAL_MIN(wanted, limit.rlim_max);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < wanted) {
        rlim_t left = limit.rlim_cur > 2 * SPARE_FILES ? limit.rlim_cur - 2 * SPARE_FILES : 1;
        shoal_log(
            SHOAL_LOG_WARN,
            "only %llu file descriptors allowed: http.connections_max lowered from %zu to %llu",
            (unsigned long long)limit.rlim_cur, server->s.n_connections_max,
            (unsigned long long)left);
        server->s.n_connections_max = (size_t)left;
    }
}

static shoal_status start(shoal_http_server *server, shoal_metrics *metrics, shoal_err *err)
{
    const shoal_http_settings *s = &server->s;
    if (s->n_headers_max < 1 || s->n_headers_max > SHOAL_HTTP_HEADERS_MAX ||
        s->n_connections_max < 1 || s->header_bytes_max < 64) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "HTTP limits: headers must be 1 to %d, "
                             "connections at least 1, header bytes at least 64",
                             SHOAL_HTTP_HEADERS_MAX);
    }
    server->head_limits = (shoal_http_head_limits){.bytes_max = s->header_bytes_max,
                                                   .url_max = s->url_bytes_max,
                                                   .headers_max = s->n_headers_max};
    server->read_buffer = shoal_calloc(1, SHOAL_HTTP_READ_BYTES);
    if (!server->read_buffer || make_metrics(server, metrics) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the HTTP server");
    }
    if (getrandom(&server->request_salt, sizeof server->request_salt, 0) !=
        (ssize_t)sizeof server->request_salt) {
        server->request_salt = uv_hrtime(); /* ids need to differ, not to be secret */
    }
    SHOAL_TRY(add_name(server, "localhost,127.0.0.1,::1", err));
    if (s->hosts && s->hosts[0]) {
        SHOAL_TRY(add_name(server, s->hosts, err));
    }
    fit_files(server);
    SHOAL_TRY(read_keys(s->tls_cert, s->tls_key, &server->tls_keys, err));
    SHOAL_TRY(listen_tcp(server, err));
    SHOAL_TRY(listen_unix(server, err));
    if (!server->tcp_open && !server->pipe_open) {
        return shoal_err_set(err, SHOAL_E_INVALID, "nothing to listen on: set %s or listen.unix",
                             s->address_key);
    }
    return SHOAL_OK;
}

shoal_status shoal_http_server_new(shoal_loop *loop, const shoal_http_settings *settings,
                                   const shoal_http_handler *handler, shoal_metrics *metrics,
                                   shoal_http_server **ret_server, shoal_err *err)
{
    shoal_http_server *server = shoal_calloc(1, sizeof *server);
    if (!server) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the HTTP server");
    }
    server->loop = loop;
    server->s = *settings;
    server->handler = *handler;
    int rc = uv_timer_init(&loop->uv, &server->retry);
    SHOAL_ASSERT(rc == 0);
    server->retry.data = server;
    server->n_handles = 1;
    shoal_status status = start(server, metrics, err);
    if (status != SHOAL_OK) {
        shoal_http_server_free(server);
        return status;
    }
    *ret_server = server;
    return SHOAL_OK;
}

int shoal_http_server_port(const shoal_http_server *server)
{
    return server->port;
}

const char *shoal_http_server_address(const shoal_http_server *server)
{
    return server->address;
}

static void on_listener_closed(uv_handle_t *handle)
{
    shoal_http_server *server = handle->data;
    server->n_handles--;
}

void shoal_http_server_free(shoal_http_server *server)
{
    if (!server) {
        return;
    }
    server->draining = false;
    uv_close((uv_handle_t *)&server->retry, on_listener_closed);
    if (server->tcp_open) {
        uv_close((uv_handle_t *)&server->tcp, on_listener_closed);
    }
    if (server->pipe_open) {
        uv_close((uv_handle_t *)&server->pipe, on_listener_closed);
    }
    while (server->first) {
        shoal_http_conn_close(server->first, true);
    }
    while (server->n_handles > 0) {
        (void)uv_run(&server->loop->uv, UV_RUN_ONCE);
    }
    shoal_http_tls_keys_free(server->tls_keys);
    shoal_free(server->read_buffer);
    shoal_free(server);
}
